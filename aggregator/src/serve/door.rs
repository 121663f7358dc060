//! Takes a port, accepts connections up to a bound, and owns the task of each.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::metrics::ServeMetrics;
use super::service::Protocol;

/// After a failed accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a stop waits for answers that are on their way.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The address cannot be used. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for {name} on {address}: {source}; is another process using the port? \
     Change {key}"
)]
pub struct ListenError {
    pub address: String,
    pub source: std::io::Error,
    name: &'static str,
    key: &'static str,
}

pub(super) struct Door {
    socket: TcpListener,
    protocol: Protocol,
    connections: Arc<Semaphore>,
    metrics: Arc<ServeMetrics>,
}

impl Door {
    pub(super) async fn bind(
        address: &str,
        protocol: Protocol,
        connections_max: usize,
        metrics: Arc<ServeMetrics>,
    ) -> Result<Door, ListenError> {
        let (name, key) = match protocol {
            Protocol::Http => ("HTTP", "listen.http"),
            Protocol::Postgres => ("PostgreSQL", "listen.postgres"),
        };
        let socket = TcpListener::bind(address).await;
        let socket = socket.map_err(|source| ListenError {
            address: address.to_owned(),
            source,
            name,
            key,
        })?;
        Ok(Door {
            socket,
            protocol,
            connections: Arc::new(Semaphore::new(connections_max)),
            metrics,
        })
    }

    pub(super) fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` is true or its sender is gone; returns when all connections ended.
    pub(super) async fn run<F>(
        self,
        mut stop: watch::Receiver<bool>,
        serve: impl Fn(TcpStream, SocketAddr, watch::Receiver<bool>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                // Ended tasks are taken off, so the set holds the living only.
                Some(ended) = tasks.join_next() => {
                    if ended.is_err() {
                        let meaning = "a connection's task failed: report this";
                        self.metrics.refuse("", "panic", "", meaning);
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    self.metrics.accepted(self.protocol);
                    let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                        let meaning =
                            "all connections are taken; close idle ones or ask another node";
                        self.metrics
                            .refuse(&peer.to_string(), "connections_max", "", meaning);
                        continue;
                    };
                    // Answers may be small and wait for nothing; an error only makes them slower.
                    let _ = socket.set_nodelay(true);
                    let open = self.metrics.open(self.protocol);
                    let served = serve(socket, peer, stop.clone());
                    tasks.spawn(async move {
                        served.await;
                        drop((place, open));
                    });
                }
                Err(error) => {
                    let meaning = "no connection can be accepted; is the limit on open files low?";
                    self.metrics
                        .refuse("", "accept", &error.to_string(), meaning);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        let ended = async { while tasks.join_next().await.is_some() {} };
        // What is left is cut off when `tasks` is dropped.
        let _ = timeout(STOP_LIMIT, ended).await;
    }
}

/// Resolves when `stop` is true or its sender is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
