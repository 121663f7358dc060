//! Frames over mutual TLS: one connection for each peer and purpose, dialled when it is needed,
//! many requests on it at a time. Knows nothing of what the frames mean.
//!
//! Invariant: only the member that was meant is asked. Its answers count towards a quorum, so one
//! disk that is reached under two names would count twice.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::link::{CallError, Link, Purpose};
use super::silence::Silences;
use super::tasks::Tasks;
use super::types::Member;
use super::wire::{Frame, HEADER_BYTES, Head, Kind, WireError};
use crate::tls::{Identity, Revocations, Role};

/// Requests that wait for one connection.
const CALLS_MAX: usize = 64;
/// Frames that were read and not looked at.
const FRAMES_MAX: usize = 16;
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// After a failed dial, before the next.
const DIAL_PAUSE: Duration = Duration::from_millis(100);
/// A frame that is not taken by then: the link is dead.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Nothing came for so long while somebody waited, and the answer is late too: the link is dead. A
/// machine that lost its power closes no connection, and what is sent to it is lost in silence.
const QUIET_LEAST: Duration = Duration::from_secs(5);

/// Asks other nodes over TLS.
pub(super) struct Transport {
    dialer: Arc<Dialer>,
    peers: Mutex<HashMap<(Member, Purpose), mpsc::Sender<Call>>>,
    silences: Arc<Silences>,
    tasks: Tasks,
}

/// What a connection needs to begin.
struct Dialer {
    cluster: String,
    incarnation: u64,
    tls: TlsConnector,
    revocations: Revocations,
}

struct Call {
    kind: Kind,
    payload: Bytes,
    until: Instant,
    answer: oneshot::Sender<Result<Bytes, CallError>>,
}

impl Transport {
    /// `incarnation` 0: of a node that is to join.
    pub(super) fn new(
        cluster: &str,
        incarnation: u64,
        tls: Arc<rustls::ClientConfig>,
        revocations: Revocations,
        tasks: Tasks,
    ) -> Transport {
        let dialer = Dialer {
            cluster: cluster.to_owned(),
            incarnation,
            tls: TlsConnector::from(tls),
            revocations,
        };
        Transport {
            dialer: Arc::new(dialer),
            peers: Mutex::default(),
            silences: Arc::default(),
            tasks,
        }
    }

    fn peer(&self, to: &Member, purpose: Purpose) -> mpsc::Sender<Call> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peers.entry((to.clone(), purpose)).or_insert_with(|| {
            let (sender, calls) = mpsc::channel(CALLS_MAX);
            let dialer = Arc::clone(&self.dialer);
            self.tasks.spawn(run_peer(dialer, to.clone(), calls));
            sender
        });
        known.clone()
    }
}

impl Link for Transport {
    fn call(
        &self,
        to: &Member,
        purpose: Purpose,
        kind: Kind,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let calls = self.peer(to, purpose);
        let (to, silences) = (to.clone(), Arc::clone(&self.silences));
        let address = to.address.clone();
        let until = Instant::now() + limit;
        let (answer, answered) = oneshot::channel();
        // Queued now, so that the order of calls is the order of requests.
        let queued = calls.try_send(Call {
            kind,
            payload,
            until,
            answer,
        });
        Box::pin(async move {
            let result = if queued.is_err() {
                let why = format!("{CALLS_MAX} requests wait for it already");
                Err(CallError::Unreachable { address, why })
            } else {
                match timeout_at(until, answered).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(lost(&address, "this node stops")),
                    Err(_) => Err(lost(&address, "no answer in time")),
                }
            };
            tell(&silences, &to, &result);
            result
        })
    }
}

/// Says who does not answer, and who does again.
fn tell(silences: &Silences, to: &Member, result: &Result<Bytes, CallError>) {
    let (address, now) = (to.address.as_str(), Instant::now().into_std());
    match result {
        // Whoever refuses is there.
        Ok(_) | Err(CallError::Refused { .. }) => {
            if let Some(lasted) = silences.answered(address, now) {
                let silent_s = lasted.as_secs();
                tracing::info!(
                    name = to.name,
                    address,
                    silent_s,
                    "another node answers again"
                );
            }
        }
        Err(error @ (CallError::Unreachable { .. } | CallError::Lost { .. })) => {
            if let Some(lasted) = silences.failed(address, now) {
                let silent_s = lasted.as_secs();
                tracing::warn!(
                    name = to.name,
                    silent_s,
                    %error,
                    "another node does not answer; is it running, and is its address in the \
                     configuration right?"
                );
            }
        }
    }
}

fn lost(address: &str, why: &str) -> CallError {
    CallError::Lost {
        address: address.to_owned(),
        why: why.to_owned(),
    }
}

/// Owns the connection to one peer for one purpose.
async fn run_peer(dialer: Arc<Dialer>, to: Member, mut calls: mpsc::Receiver<Call>) {
    let address = to.address.as_str();
    while let Some(first) = calls.recv().await {
        match timeout(DIAL_LIMIT, dialer.dial(&to)).await {
            Ok(Ok(stream)) => {
                talk(dialer.incarnation, address, stream, first, &mut calls).await;
            }
            Ok(Err(why)) => refuse_all(address, &why, first, &mut calls).await,
            Err(_) => {
                let why = "no connection within 2 seconds";
                refuse_all(address, why, first, &mut calls).await;
            }
        }
    }
}

/// Answers everything that waits: it has not left this node.
async fn refuse_all(address: &str, why: &str, first: Call, calls: &mut mpsc::Receiver<Call>) {
    let unreachable = || CallError::Unreachable {
        address: address.to_owned(),
        why: why.to_owned(),
    };
    // Whoever gave up waiting needs no answer.
    let _ = first.answer.send(Err(unreachable()));
    while let Ok(call) = calls.try_recv() {
        let _ = call.answer.send(Err(unreachable()));
    }
    sleep(DIAL_PAUSE).await;
}

impl Dialer {
    /// `to` without a name: whichever node answers at the address, to ask who the members are.
    async fn dial(
        &self,
        to: &Member,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let address = to.address.as_str();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is no host name"))?;
        let socket = TcpStream::connect(address)
            .await
            .map_err(|e| e.to_string())?;
        // Small frames wait for nothing; an error here only makes them slower.
        let _ = socket.set_nodelay(true);
        let stream = self
            .tls
            .connect(name, socket)
            .await
            .map_err(|e| format!("TLS: {e}"))?;
        let presented = stream.get_ref().1.peer_certificates();
        let identity =
            Identity::of_peer(presented, &self.cluster, Role::Node).map_err(|e| e.to_string())?;
        if !to.name.is_empty() && identity.id.as_str() != to.name {
            return Err(format!(
                "{identity} answers there, not node {:?}: what the one has on disk must not \
                 count for the other; does the name resolve to another host?",
                to.name
            ));
        }
        match self.revocations.reason(&identity.serial) {
            None => Ok(stream),
            Some(why) => Err(format!("{identity}: its certificate was revoked: {why}")),
        }
    }
}

/// Who waits for the answer to a request.
struct Waiting {
    answer: oneshot::Sender<Result<Bytes, CallError>>,
    until: Instant,
}

type Pending = HashMap<u64, Waiting>;

impl Waiting {
    /// If nothing at all has come by then, the link is dead.
    fn quiet_until(&self) -> Instant {
        self.until.max(Instant::now() + QUIET_LEAST)
    }
}

/// One connection, until it breaks, is silent, or nobody asks any more.
async fn talk(
    incarnation: u64,
    address: &str,
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    first: Call,
    calls: &mut mpsc::Receiver<Call>,
) {
    let (read, write) = tokio::io::split(stream);
    let mut write = BufWriter::new(write);
    // A task of its own: a frame must not be given up half-way because somebody asks.
    let (arrived, mut frames) = mpsc::channel(FRAMES_MAX);
    let mut reader = JoinSet::new();
    reader.spawn(read_frames(read, arrived));
    let mut pending = Pending::new();
    let mut quiet_until: Option<Instant> = None;
    let mut request = 0;
    let mut next = Some(first);
    let ended = loop {
        if let Some(call) = next.take() {
            request += 1;
            let frame = Frame {
                kind: call.kind,
                incarnation,
                request,
                payload: call.payload,
            };
            let waiting = Waiting {
                answer: call.answer,
                until: call.until,
            };
            quiet_until.get_or_insert(waiting.quiet_until());
            pending.insert(request, waiting);
            if let Err(error) = write_frame(&mut write, &frame).await {
                break error.to_string();
            }
        }
        let quiet = quiet_until.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(Ok(frame)) => {
                    settle(&mut pending, address, frame);
                    quiet_until = pending.values().map(Waiting::quiet_until).max();
                }
                Some(Err(error)) => break error.to_string(),
                None => break "the connection ended".to_owned(),
            },
            () = sleep_until(quiet), if quiet_until.is_some() => {
                break "nothing came over this connection for too long".to_owned();
            }
            call = calls.recv() => match call {
                Some(call) if call.until > Instant::now() => next = Some(call),
                Some(late) => drop(late.answer),
                None => return,
            },
        }
        // Those who no longer wait need no place.
        if pending.len() > 2 * CALLS_MAX {
            pending.retain(|_, waiting| !waiting.answer.is_closed());
        }
    };
    tracing::debug!(address, ended, "a connection to a node ended");
    for (_, waiting) in pending {
        let _ = waiting.answer.send(Err(lost(address, &ended)));
    }
}

fn settle(pending: &mut Pending, address: &str, frame: Frame) {
    let Some(waiting) = pending.remove(&frame.request) else {
        return;
    };
    let result = match frame.kind {
        Kind::Answer => Ok(frame.payload),
        Kind::Refusal => Err(CallError::Refused {
            address: address.to_owned(),
            why: String::from_utf8_lossy(&frame.payload).into_owned(),
        }),
        _ => Err(lost(address, "it answered with a request")),
    };
    let _ = waiting.answer.send(result);
}

/// Reads until the connection ends.
async fn read_frames(mut from: impl AsyncRead + Unpin, arrived: mpsc::Sender<io::Result<Frame>>) {
    loop {
        let frame = read_frame(&mut from).await;
        let ended = frame.is_err();
        if arrived.send(frame).await.is_err() || ended {
            return;
        }
    }
}

/// Reads one frame. Not to be cancelled half-way, unless the connection ends with it.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let head = Head::parse(&header).map_err(invalid)?;
    let mut payload = BytesMut::zeroed(head.payload_bytes);
    from.read_exact(&mut payload).await?;
    Ok(Frame {
        kind: head.kind,
        incarnation: head.incarnation,
        request: head.request,
        payload: payload.freeze(),
    })
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub(super) async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
) -> io::Result<()> {
    let write = async {
        to.write_all(&frame.header()).await?;
        to.write_all(&frame.payload).await?;
        to.flush().await
    };
    timeout(WRITE_LIMIT, write)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::super::link::Answerer;
    use super::super::listener::Listener;
    use super::*;
    use crate::config::Config;
    use crate::pki::Pki;
    use crate::tls::Material;

    /// Answers with what it was asked.
    struct Echo;

    impl Answerer for Echo {
        fn answer(
            &self,
            _from: &str,
            _kind: Kind,
            _incarnation: u64,
            payload: Bytes,
        ) -> BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(async move { Ok(payload) })
        }
    }

    fn material(pki: &Pki, name: &str) -> Material {
        pki.issue(Role::Node, name, &["127.0.0.1".to_owned()], 1)
            .unwrap();
        let text = format!(
            "name = \"{name}\"\ncluster = \"demo\"\ndata_dir = \"d\"\n[listen]\nmqtt = \"h:0\"\n\
             cluster = \"h:0\"\npostgres = \"h:0\"\nhttp = \"h:0\"\n[tls]\n\
             cert = \"node-{name}.pem\"\nkey = \"node-{name}.key\"\nnodes_ca = \"nodes-ca.pem\"\n\
             agents_ca = \"agents-ca.pem\"\nusers_ca = \"users-ca.pem\"\n\
             revoked = \"revoked.toml\"\n"
        );
        let config = Config::parse(&text, &pki.folder().join("node.toml")).unwrap();
        Material::load(&config).unwrap()
    }

    #[tokio::test]
    async fn only_the_member_that_was_meant_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::init(folder.path(), "demo").unwrap();
        let (revocations, _reloader) = Revocations::load(&pki.revoked_path()).unwrap();
        let server = material(&pki, "c").cluster_server().unwrap();
        let listener = Listener::bind("127.0.0.1:0", "demo", server, revocations.clone())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::default();
        let (_stop, stopped) = watch::channel(false);
        tasks.spawn(listener.run(Arc::new(Echo), stopped));
        let client = material(&pki, "a").cluster_client().unwrap();
        let transport = Transport::new("demo", 1, client, revocations, tasks.clone());
        let ask = |name: &str| {
            let to = Member {
                name: name.to_owned(),
                address: address.clone(),
            };
            let (question, limit) = (Bytes::from_static(b"?"), Duration::from_secs(30));
            transport.call(&to, Purpose::Pulse, Kind::ReadIndex, question, limit)
        };
        // The connection to c that is open already does not serve b either.
        for name in ["c", "", "b", "c"] {
            match ask(name).await {
                Ok(answer) if name != "b" => assert_eq!(&answer[..], b"?"),
                Err(CallError::Unreachable { why, .. }) if name == "b" => {
                    assert!(why.contains("\"b\"") && why.contains("node/c"), "{why}");
                }
                other => panic!("{name:?}: {other:?}"),
            }
        }
    }

    /// A peer that lost its power takes what is sent, as far as TCP can tell, and answers nothing.
    #[tokio::test(start_paused = true)]
    async fn a_link_on_which_nothing_comes_is_given_up() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (sender, mut calls) = mpsc::channel(CALLS_MAX);
        let call = |limit: Duration| {
            let (answer, answered) = oneshot::channel();
            let call = Call {
                kind: Kind::ReadIndex,
                payload: Bytes::from_static(b"?"),
                until: Instant::now() + limit,
                answer,
            };
            (call, answered)
        };
        let began = Instant::now();
        let (first, answered) = call(Duration::from_secs(1));
        let mut talking = JoinSet::new();
        talking.spawn(async move { talk(1, "far", near, first, &mut calls).await });
        let asked = read_frame(&mut far).await.unwrap();
        let frame = Frame {
            kind: Kind::Answer,
            ..asked
        };
        write_frame(&mut far, &frame).await.unwrap();
        assert_eq!(answered.await.unwrap().unwrap(), frame.payload);
        // Somebody asks all the time, and only the first call is allowed to wait for long.
        let (long, first_answer) = call(Duration::from_secs(7));
        sender.send(long).await.unwrap();
        while talking.try_join_next().is_none() {
            assert!(
                began.elapsed() < Duration::from_secs(9),
                "it is never given up"
            );
            let (short, _) = call(Duration::from_millis(100));
            // It may have ended in between.
            let _ = sender.send(short).await;
            sleep(Duration::from_millis(100)).await;
        }
        assert!(began.elapsed() >= Duration::from_secs(7));
        assert!(matches!(
            first_answer.await.unwrap(),
            Err(CallError::Lost { .. })
        ));
    }
}
