//! The listener that other nodes dial: TLS says who they are, frames what they want.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::BufWriter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::link::Answerer;
use super::transport::{read_frame, write_frame};
use super::wire::{Frame, Kind};
use crate::tls::{Identity, Revocations, Role};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A few for each of the other nodes.
const CONNECTIONS_MAX: usize = 256;
/// Requests of one connection that are being answered.
const REQUESTS_MAX: usize = 128;
/// After a failed accept, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address cannot be used. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for other nodes on {address}: {source}; is another process using the port? \
     Change listen.cluster"
)]
pub struct ListenError {
    pub address: String,
    pub source: std::io::Error,
}

/// The cluster listener of a node; it serves nobody before `run`.
pub struct Listener {
    socket: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    cluster: String,
    acceptor: TlsAcceptor,
    revocations: Revocations,
}

impl Listener {
    pub async fn bind(
        address: &str,
        cluster: &str,
        tls: Arc<rustls::ServerConfig>,
        revocations: Revocations,
    ) -> Result<Listener, ListenError> {
        let failed = |source| ListenError {
            address: address.to_owned(),
            source,
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let shared = Shared {
            cluster: cluster.to_owned(),
            acceptor: TlsAcceptor::from(tls),
            revocations,
        };
        Ok(Listener {
            socket,
            shared: Arc::new(shared),
        })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` is true or its sender is gone.
    pub(super) async fn run(self, answerer: Arc<dyn Answerer>, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                Some(_) = tasks.join_next() => continue,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        let (shared, answerer) = (Arc::clone(&self.shared), Arc::clone(&answerer));
                        tasks.spawn(async move {
                            let _place = place;
                            if let Err(why) = serve(&shared, socket, answerer).await {
                                tracing::warn!(%peer, why, "a connection of a node ended");
                            }
                        });
                    }
                    Err(_) => tracing::warn!(%peer, "refused: too many connections of nodes"),
                },
                Err(error) => {
                    tracing::warn!(%error, "no node's connection can be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection; `Ok` when the other side hung up between two frames.
async fn serve(
    shared: &Shared,
    socket: TcpStream,
    answerer: Arc<dyn Answerer>,
) -> Result<(), String> {
    // Answers are small and wait for nothing; an error here only makes them slower.
    let _ = socket.set_nodelay(true);
    let stream = timeout(HANDSHAKE_LIMIT, shared.acceptor.accept(socket))
        .await
        .map_err(|_| "no TLS handshake within 5 seconds".to_owned())?
        .map_err(|e| format!("TLS: {e}"))?;
    let presented = stream.get_ref().1.peer_certificates();
    let identity =
        Identity::of_peer(presented, &shared.cluster, Role::Node).map_err(|e| e.to_string())?;
    let mut revocations = shared.revocations.clone();
    let (mut read, write) = tokio::io::split(stream);
    let (answers, outgoing) = mpsc::channel(REQUESTS_MAX);
    let mut writer = JoinSet::new();
    writer.spawn(write_answers(BufWriter::new(write), outgoing));
    let mut tasks = JoinSet::new();
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let serial = identity.serial.clone();
    let requests = async {
        loop {
            let frame = match read_frame(&mut read).await {
                Ok(frame) => frame,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(format!("{identity}: {error}")),
            };
            while tasks.try_join_next().is_some() {}
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.map_err(|_| "closed".to_owned())?;
            let Frame {
                kind,
                incarnation,
                request,
                payload,
            } = frame;
            let answer = answerer.answer(identity.id.as_str(), kind, incarnation, payload);
            let answers = answers.clone();
            tasks.spawn(async move {
                let _place = place;
                let (kind, payload) = match answer.await {
                    Ok(payload) => (Kind::Answer, payload),
                    Err(why) => (Kind::Refusal, why.into_bytes().into()),
                };
                // The connection ended: whoever asked asks again.
                let _ = answers
                    .send(Frame {
                        kind,
                        incarnation,
                        request,
                        payload,
                    })
                    .await;
            });
        }
    };
    tokio::select! {
        ended = requests => ended,
        why = revocations.revoked(&serial) => Err(format!("its certificate was revoked: {why}")),
        // Requests whose answers go nowhere must not be taken: whoever asks would wait for ever.
        _ = writer.join_next() => Err(format!("{identity}: answers cannot be written to it")),
    }
}

async fn write_answers(
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = answers.recv().await {
        if write_frame(&mut to, &frame).await.is_err() {
            return;
        }
    }
}
