//! Influx line protocol over TCP, a Unix socket or standard input.
//!
//! `dialogue` is the decision: which lines are readings, and what each is answered; `connection`
//! drives one over a stream of bytes; here are the listeners. With `ack` every line is answered,
//! blank ones and comments too, in the order of the lines and counted from 1 on each connection:
//! `ok <line>` once what it says is kept, or `error <line> <why>`. A device that got no answer
//! does not know. A last line without a line feed counts if the device closed the connection, and is
//! refused if the connection broke.

mod connection;
mod dialogue;

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shared::id::AgentId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Complaints, Entry, stopped};
use crate::config::{Line, Listen};
use connection::LineComplaints;

/// After a failed accept: the usual reason, too many open files, does not go at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FULL_ANSWER: &[u8] =
    b"error 0 too many connections: close others, or raise intake.line.connections_max\n";

/// A line intake that has its address, and serves nobody yet.
#[derive(Debug)]
pub struct LineIntake {
    listener: Listener,
    options: Arc<Line>,
    agent: AgentId,
}

/// Why an intake has no address. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} ([[intake.line]]): {source}; {advice}")]
pub struct BindError {
    listen: Listen,
    source: io::Error,
    advice: &'static str,
}

#[derive(Debug)]
enum Listener {
    Stdin,
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removed when its listener goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl LineIntake {
    /// Takes the address.
    ///
    /// # Errors
    /// Another process has it, or it is none of this machine.
    pub async fn bind(options: Line, agent: AgentId) -> Result<LineIntake, BindError> {
        let bound = match &options.listen {
            Listen::Stdin => Ok(Listener::Stdin),
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Listen::Unix(path) => bind_unix(path)
                .await
                .map(|listener| Listener::Unix(listener, SocketFile(path.clone()))),
        };
        let listener = bound.map_err(|source| BindError {
            listen: options.listen.clone(),
            advice: advice(&source),
            source,
        })?;
        Ok(LineIntake {
            listener,
            options: Arc::new(options),
            agent,
        })
    }

    /// The port it got, if it listens on TCP.
    pub fn local_address(&self) -> Option<std::net::SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Stdin | Listener::Unix(..) => None,
        }
    }

    /// Serves until told to stop, then until every line that was taken is answered.
    pub async fn run(self, entry: Entry, mut stop: watch::Receiver<bool>) {
        let mut server = Server {
            free: Arc::new(Semaphore::new(self.options.connections_max)),
            options: self.options,
            agent: self.agent,
            entry,
            stop: stop.clone(),
            connections: JoinSet::new(),
            turned_away: Complaints::new(Instant::now()),
            complaints: Arc::new(LineComplaints::new(Instant::now())),
        };
        match &self.listener {
            Listener::Stdin => server.stdin(),
            Listener::Tcp(listener) => loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopped(&mut stop) => break,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        // Answers are small and awaited; without it is slower, not wrong.
                        let _ = stream.set_nodelay(true);
                        let (read, write) = stream.into_split();
                        server.serve(read, write, &peer.to_string());
                    }
                    Err(error) => server.accept_failed(&error).await,
                }
            },
            Listener::Unix(listener, _file) => loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopped(&mut stop) => break,
                };
                match accepted {
                    Ok((stream, _peer)) => {
                        let (read, write) = stream.into_split();
                        server.serve(read, write, "a local process");
                    }
                    Err(error) => server.accept_failed(&error).await,
                }
            },
        }
        while server.connections.join_next().await.is_some() {}
    }
}

/// The open connections of one intake.
struct Server {
    free: Arc<Semaphore>,
    options: Arc<Line>,
    agent: AgentId,
    entry: Entry,
    stop: watch::Receiver<bool>,
    connections: JoinSet<()>,
    turned_away: Complaints,
    complaints: Arc<LineComplaints>,
}

impl Server {
    fn stdin(&mut self) {
        self.serve(tokio::io::stdin(), tokio::io::stdout(), "standard input");
    }

    fn serve<R, W>(&mut self, read: R, mut write: W, peer: &str)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        // Those that have ended must not pile up.
        while self.connections.try_join_next().is_some() {}
        let Ok(free) = Arc::clone(&self.free).try_acquire_owned() else {
            self.too_many(peer);
            // Into the empty send buffer of a new connection: it does not wait for the peer.
            self.connections.spawn(async move {
                let _ = tokio::time::timeout(ACCEPT_PAUSE, write.write_all(FULL_ANSWER)).await;
            });
            return;
        };
        let connection = connection::Connection {
            options: Arc::clone(&self.options),
            agent: self.agent.clone(),
            entry: self.entry.clone(),
            peer: peer.to_owned(),
            complaints: Arc::clone(&self.complaints),
        };
        let stop = self.stop.clone();
        self.connections.spawn(async move {
            let open = &connection.entry.account.counters.connections;
            open.fetch_add(1, Ordering::Relaxed);
            connection.serve(read, write, stop).await;
            open.fetch_sub(1, Ordering::Relaxed);
            drop(free);
        });
    }

    fn too_many(&self, peer: &str) {
        if let Some(unsaid) = self.turned_away.allow(Instant::now()) {
            tracing::warn!(
                "{}: {peer} is turned away: {} connections are open, as many as \
                 intake.line.connections_max allows ({unsaid} more unsaid)",
                self.entry.name(),
                self.options.connections_max
            );
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        if let Some(unsaid) = self.turned_away.allow(Instant::now()) {
            tracing::warn!(
                "{}: no new connections for now: {error} ({unsaid} more unsaid)",
                self.entry.name()
            );
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// A socket that nobody answers on was left by a killed agent and is replaced; any other file is
/// somebody's.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let first = UnixListener::bind(path);
    let in_use = matches!(&first, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !in_use || !is_socket {
        return first;
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        Ok(_) | Err(_) => first,
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this address: stop it, or configure another one"
        }
        io::ErrorKind::AddrNotAvailable => "configure an address of this machine",
        io::ErrorKind::PermissionDenied => "take a port above 1023, or a folder that you may write",
        io::ErrorKind::NotFound => "the folder of the socket must exist",
        _ => "check intake.line.listen",
    }
}

#[cfg(test)]
mod tests;
