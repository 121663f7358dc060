//! The service manager's side of the agent: that it is ready, reloads, stops, and still works.
//!
//! By hand, because it is one datagram of text to an address in the environment: a crate would bring
//! its own C library bindings for less than this file. Without a service manager nothing is sent.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::sync::watch;

use crate::status::Status;

/// Who is told, and how often it wants to hear of us.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// `WatchdogSec=` of the unit.
    watchdog: Option<Duration>,
}

/// What the environment says, as it stands there.
#[derive(Debug, Default)]
struct Environment {
    notify_socket: Option<OsString>,
    watchdog_usec: Option<String>,
    watchdog_pid: Option<String>,
}

impl Manager {
    /// `None` if no service manager wants to know.
    pub(crate) fn from_environment() -> Option<Manager> {
        let environment = Environment {
            notify_socket: std::env::var_os("NOTIFY_SOCKET"),
            watchdog_usec: std::env::var("WATCHDOG_USEC").ok(),
            watchdog_pid: std::env::var("WATCHDOG_PID").ok(),
        };
        match Manager::new(environment, std::process::id()) {
            Ok(manager) => manager,
            Err(error) => {
                tracing::warn!("the service manager cannot be told anything: {error}");
                None
            }
        }
    }

    fn new(environment: Environment, own_pid: u32) -> io::Result<Option<Manager>> {
        let Some(path) = environment.notify_socket else {
            return Ok(None);
        };
        let address = match path.as_bytes() {
            [] => return Ok(None),
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        let is_ours = match environment.watchdog_pid {
            Some(pid) => pid == own_pid.to_string(),
            None => true,
        };
        let micros = environment
            .watchdog_usec
            .filter(|_| is_ours)
            .and_then(|text| text.parse::<u64>().ok())
            .filter(|micros| *micros > 0);
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not stop the agent.
        socket.set_nonblocking(true)?;
        Ok(Some(Manager {
            socket,
            address,
            watchdog: micros.map(Duration::from_micros),
        }))
    }

    /// Says one thing, such as `READY=1`.
    pub(crate) fn tell(&self, state: &str) {
        let told = self.socket.send_to_addr(state.as_bytes(), &self.address);
        if let Err(error) = told {
            tracing::warn!("the service manager was not told {state:?}: {error}");
        }
    }

    /// Says at half of the time allowed that the agent works, as long as the keeper goes on giving
    /// its account. Never returns.
    pub(crate) async fn watch(&self, mut status: watch::Receiver<Status>) {
        let Some(watchdog) = self.watchdog else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(watchdog / 2).await;
            // An account nobody gives any more is no sign of life.
            if matches!(status.has_changed(), Ok(true)) {
                status.mark_unchanged();
                self.tell("WATCHDOG=1");
            }
        }
    }
}

/// Tells a manager if there is one.
pub(crate) fn tell(manager: Option<&Manager>, state: &str) {
    if let Some(manager) = manager {
        manager.tell(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(socket: &str, usec: &str, pid: Option<&str>) -> Environment {
        Environment {
            notify_socket: Some(socket.into()),
            watchdog_usec: Some(usec.to_owned()),
            watchdog_pid: pid.map(str::to_owned),
        }
    }

    #[test]
    fn nobody_is_told_without_a_manager_and_its_watchdog_is_of_one_process() {
        let none = Manager::new(Environment::default(), 1).unwrap();
        assert!(none.is_none());
        let watchdog = |usec: &str, pid| {
            let manager = Manager::new(environment("@tributary-test", usec, pid), 7).unwrap();
            manager.unwrap().watchdog
        };
        assert_eq!(watchdog("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(
            watchdog("30000000", Some("7")),
            Some(Duration::from_secs(30))
        );
        assert_eq!(watchdog("30000000", Some("8")), None);
        assert_eq!(watchdog("0", None), None);
        assert_eq!(watchdog("soon", None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_keeper_that_goes_on_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let received = || {
            let mut bytes = [0; 64];
            let length = socket.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        let environment = environment(path.to_str().unwrap(), "10000000", None);
        let manager = Manager::new(environment, 7).unwrap().unwrap();
        manager.tell("READY=1");
        assert_eq!(received().as_deref(), Some("READY=1"));

        let (keeper, status) = watch::channel(Status::default());
        let lives = async {
            keeper.send_replace(Status::default());
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(received().as_deref(), Some("WATCHDOG=1"));
            // No account within the next halves: it hangs.
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(received(), None);
        };
        tokio::select! {
            () = manager.watch(status) => unreachable!("it never returns"),
            () = lives => {}
        }
    }
}
