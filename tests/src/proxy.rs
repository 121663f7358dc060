//! A TCP proxy that passes bytes (TLS too: it reads none of them) until it is told to hurt: cut,
//! delay, or swallow what one side says.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A proxy that lives until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    /// Both ends of every live connection, to cut them.
    live: Mutex<Vec<TcpStream>>,
    open: AtomicBool,
    refuse: AtomicBool,
    swallow_answers: AtomicBool,
    delay_ms: AtomicU64,
    connections: AtomicU64,
    swallowed_bytes: AtomicU64,
    request_bytes: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// Listens on a free port of `address` and passes everything to `upstream`.
    pub fn start(address: IpAddr, upstream: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            live: Mutex::new(Vec::new()),
            open: AtomicBool::new(true),
            refuse: AtomicBool::new(false),
            swallow_answers: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            swallowed_bytes: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || {
                for client in listener.incoming() {
                    if !accepting.open.load(Ordering::Relaxed) {
                        return;
                    }
                    // A client or upstream that is gone is what a proxy is for.
                    let _ = client.and_then(|client| pass(&accepting, client));
                }
            })?;
        Ok(Proxy { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        for stream in lock(&self.shared.live).drain(..) {
            // Already closed is cut as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes new connections at once, as a dead host does.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::Relaxed);
    }

    /// Drops what the upstream says. A TLS connection is broken from then on: cut it to go back.
    pub fn swallow_answers(&self, swallow: bool) {
        self.shared
            .swallow_answers
            .store(swallow, Ordering::Relaxed);
    }

    /// Holds every piece back for so long, each way.
    pub fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay_ms.store(ms, Ordering::Relaxed);
    }

    /// Connections passed so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub fn swallowed_bytes(&self) -> u64 {
        self.shared.swallowed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes from clients passed on so far.
    pub fn request_bytes(&self) -> u64 {
        self.shared.request_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.open.store(false, Ordering::Relaxed);
        self.cut();
        // Wakes the accepting thread, so that it sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    if shared.refuse.load(Ordering::Relaxed) {
        return client.shutdown(Shutdown::Both);
    }
    let upstream = *lock(&shared.upstream);
    let server = TcpStream::connect_timeout(&upstream, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.connections.fetch_add(1, Ordering::Relaxed);
    lock(&shared.live).extend([client.try_clone()?, server.try_clone()?]);
    let ways = [
        (Direction::Request, client.try_clone()?, server.try_clone()?),
        (Direction::Answer, server, client),
    ];
    for (direction, from, to) in ways {
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("proxy way".to_owned())
            .spawn(move || {
                // Its end, however it comes, is passed on by closing both sides.
                let _ = copy(&shared, direction, &from, &to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            })?;
    }
    Ok(())
}

fn copy(
    shared: &Shared,
    direction: Direction,
    mut from: &TcpStream,
    mut to: &TcpStream,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(
            shared.delay_ms.load(Ordering::Relaxed),
        ));
        let swallow = shared.swallow_answers.load(Ordering::Relaxed);
        if direction == Direction::Answer && swallow {
            shared
                .swallowed_bytes
                .fetch_add(count as u64, Ordering::Relaxed);
            continue;
        }
        if direction == Direction::Request {
            shared
                .request_bytes
                .fetch_add(count as u64, Ordering::Relaxed);
        }
        to.write_all(&buffer[..count])?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn passes_swallows_and_cuts() {
        let proxy = Proxy::start(LOCALHOST, echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut stream, b"one").unwrap(), b"one");

        proxy.swallow_answers(true);
        assert!(ask(&mut stream, b"two").is_err());
        assert_eq!((proxy.swallowed_bytes(), proxy.request_bytes()), (3, 6));

        proxy.cut();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "cut");

        proxy.swallow_answers(false);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut stream, b"three").unwrap(), b"three");
        assert_eq!(proxy.connections(), 2);

        proxy.refuse(true);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert!(ask(&mut stream, b"four").is_err());
    }
}
