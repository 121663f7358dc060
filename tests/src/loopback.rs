//! Addresses of a run's own: every run has its own host in 127.0.0.0/8, so that ports found free
//! stay free, and two runs on one machine never meet.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// A loopback address that no other run on this machine uses.
pub fn own_address() -> IpAddr {
    static USED: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let nth = USED.fetch_add(1, Ordering::Relaxed);
    // 15 bits of the process id, 8 of the counter: runs 32,768 ids apart could meet.
    let spread = (pid & 0x7fff) << 8 | u32::from(nth.max(1));
    let [_, second, third, fourth] = spread.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 + second, third, fourth))
}

/// A free port of that address, each only once: the system gives a port that nobody has bound yet
/// to the next one who asks as well. Nobody else binds there, so it stays free until it is used.
pub fn free_port(address: IpAddr) -> io::Result<SocketAddr> {
    static GIVEN: Mutex<Option<HashSet<SocketAddr>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let free = TcpListener::bind((address, 0))?.local_addr()?;
        if given.insert(free) {
            return Ok(free);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_and_can_be_bound() {
        let (one, two) = (own_address(), own_address());
        assert_ne!(one, two);
        assert!(one.is_loopback() && two.is_loopback());
        assert_ne!(free_port(one).unwrap().port(), 0);
    }

    #[test]
    fn no_port_is_given_twice() {
        let address = own_address();
        let ports: HashSet<SocketAddr> = (0..2_000).map(|_| free_port(address).unwrap()).collect();
        assert_eq!(ports.len(), 2_000);
    }
}
