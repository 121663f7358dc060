//! Accepts connections, lets TLS say who they are, and owns the task of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::agents::{AgentLimits, Agents};
use super::budget::Budget;
use super::connection::{Connection, Surroundings};
use super::metrics::IngestMetrics;
use super::upstream::Upstream;
use crate::config::Limits;
use crate::tls::{Identity, Revocations, Role};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// After a failed accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a stop waits for connections to say good-bye.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What the listener is made of.
pub struct ListenerOptions {
    /// The cluster's name; certificates of another are refused.
    pub cluster: String,
    pub limits: Limits,
    /// Of `tls::Material::mqtt_server`.
    pub tls: Arc<rustls::ServerConfig>,
    pub revocations: Revocations,
    pub metrics: Arc<IngestMetrics>,
}

/// The MQTT listener of a node.
pub struct Listener<U> {
    socket: TcpListener,
    shared: Arc<Shared<U>>,
}

struct Shared<U> {
    options: ListenerOptions,
    upstream: U,
    acceptor: TlsAcceptor,
    budget: Budget,
    agents: Agents,
    connections: Arc<Semaphore>,
}

/// The address cannot be used. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for MQTT on {address}: {source}; is another process using the port? \
     Change listen.mqtt"
)]
pub struct ListenError {
    pub address: String,
    pub source: std::io::Error,
}

impl<U: Upstream> Listener<U> {
    /// Takes the port; serves nobody before `run`.
    pub async fn bind(
        address: &str,
        options: ListenerOptions,
        upstream: U,
    ) -> Result<Listener<U>, ListenError> {
        let failed = |source| ListenError {
            address: address.to_owned(),
            source,
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let shared = Shared {
            acceptor: TlsAcceptor::from(Arc::clone(&options.tls)),
            budget: Budget::new(options.limits.in_flight_bytes_max),
            agents: Agents::new(AgentLimits {
                connections_max: options.limits.agent_connections_max,
                bytes_per_second_max: options.limits.agent_bytes_per_second_max,
            }),
            connections: Arc::new(Semaphore::new(options.limits.connections_max)),
            options,
            upstream,
        };
        Ok(Listener {
            socket,
            shared: Arc::new(shared),
        })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` is true or its sender is gone; returns when all connections ended.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                // Ended tasks are taken off, so the set holds the living only.
                Some(ended) = tasks.join_next() => {
                    if ended.is_err() {
                        self.refuse("", "panic", "", "a connection's task failed: report this");
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    self.shared.options.metrics.accepted.inc();
                    match Arc::clone(&self.shared.connections).try_acquire_owned() {
                        Ok(place) => {
                            let shared = Arc::clone(&self.shared);
                            tasks.spawn(serve(shared, socket, peer, place, stop.clone()));
                        }
                        Err(_) => self.refuse(
                            &peer.to_string(),
                            "connections_max",
                            "",
                            "all connections are taken; raise limits.connections_max or add a node",
                        ),
                    }
                }
                Err(error) => {
                    let meaning = "no connection can be accepted; is the limit on open files low?";
                    self.refuse("", "accept", &error.to_string(), meaning);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        let ended = async { while tasks.join_next().await.is_some() {} };
        // What is left is cut off when `tasks` is dropped; nothing of it was acknowledged.
        let _ = timeout(STOP_LIMIT, ended).await;
    }

    fn refuse(&self, who: &str, label: &'static str, detail: &str, meaning: &str) {
        self.shared
            .options
            .metrics
            .refuse(who, label, detail, meaning);
    }
}

async fn serve<U: Upstream>(
    shared: Arc<Shared<U>>,
    socket: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    let options = &shared.options;
    let refuse = |label, detail: &str, meaning| {
        options
            .metrics
            .refuse(&peer.to_string(), label, detail, meaning);
    };
    // Acknowledgements are small and wait for nothing; an error here only makes them slower.
    let _ = socket.set_nodelay(true);
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_LIMIT, shared.acceptor.accept(socket)) => handshake,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let meaning = "the TLS handshake failed; the client needs a certificate of agents-ca \
                           and must trust nodes-ca";
            return refuse("handshake", &error.to_string(), meaning);
        }
        Err(_) => {
            let meaning = "no TLS handshake within 5 seconds; is the client speaking TLS?";
            return refuse("handshake_timeout", "", meaning);
        }
    };
    let presented = stream.get_ref().1.peer_certificates();
    let identity = match Identity::of_peer(presented, &options.cluster, Role::Agent) {
        Ok(identity) => identity,
        Err(error) => {
            let meaning = "the certificate names no agent of this cluster; issue one with `pki \
                           agent`";
            return refuse("identity", &error.to_string(), meaning);
        }
    };
    if let Some(why) = options.revocations.reason(&identity.serial) {
        let meaning = "its certificate was revoked; issue a new one if that was a mistake";
        return refuse("revoked", &format!("{identity}: {why}"), meaning);
    }
    options.metrics.connections.inc();
    let around = Surroundings {
        upstream: shared.upstream.clone(),
        metrics: Arc::clone(&options.metrics),
        revocations: options.revocations.clone(),
        stop,
        account: shared.budget.account(options.limits.connection_bytes_max),
        presence: shared.agents.enter(&identity.id, Instant::now()),
    };
    Connection::new(stream, identity, around).run().await;
    options.metrics.connections.dec();
    drop(place);
}

#[cfg(test)]
mod tests;
