//! A node that tells a story: it keeps the rule of docs/guarantees.md in memory, and answers what
//! the test wants where it wants. TLS and MQTT 5 are real, by hand as in `mqtt`.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::batch::{Body, Kind, decode, digest};
use shared::id::{BatchNumber, Digest, Epoch, Lane};
use shared::verdict::{Position, STREAM_PROPERTY, Verdict, format_stream_position};

use tests::cluster::ClusterUnderTest;
use tests::wait;

use crate::mqtt::{
    CONNACK, CONNECT, DISCONNECT, PUBACK, PUBLISH, Packet, packet, parse, text, variable,
};

const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const RECEIVE_MAXIMUM: u16 = 64;
/// MQTT 5, section 2.2.2.2.
const PROPERTY_RECEIVE_MAXIMUM: u8 = 0x21;
const PROPERTY_USER: u8 = 0x26;
const PROPERTY_MAXIMUM_PACKET_SIZE: u8 = 0x27;
/// What stands behind a refused one may come again after so long.
const BUSY_RETRY_MS: u32 = 50;

/// A batch as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) epoch: Epoch,
    pub(crate) lane: Lane,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) kind: Kind,
    /// Readings that a gap record counts; else 0.
    pub(crate) readings_lost: u64,
    /// How often this number came before.
    pub(crate) before: usize,
}

/// What it was answered, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) batch: Arrived,
    pub(crate) verdict: Verdict,
    pub(crate) at: Instant,
}

/// How the node differs from one that keeps the rule.
pub(crate) struct Story {
    /// What it answers in the rule's place; `None` is the rule.
    pub(crate) answer: fn(&Arrived) -> Option<Verdict>,
    /// What CONNACK says that a packet may have.
    pub(crate) packet_bytes_max: Option<u32>,
    /// It closes as soon as it has said that all is well.
    pub(crate) closes_after_connack: bool,
}

impl Default for Story {
    fn default() -> Self {
        Story {
            answer: |_| None,
            packet_bytes_max: None,
            closes_after_connack: false,
        }
    }
}

/// A listening node, until it is dropped.
pub(crate) struct FakeNode {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    story: Story,
    tls: Arc<ServerConfig>,
    open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: u64,
    streams: HashMap<(Epoch, Lane), Position>,
    answered: Vec<Answered>,
    sockets: Vec<TcpStream>,
}

impl FakeNode {
    /// With the certificate of the first node of a cluster that does not run.
    pub(crate) fn start(cluster: &ClusterUnderTest, story: Story) -> FakeNode {
        let listener = TcpListener::bind((cluster.address(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            story,
            tls: tls(cluster),
            open: AtomicBool::new(true),
            state: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if !accepting.open.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // However a session ends, the agent's next one is a new one.
                thread::spawn(move || shared.serve(socket));
            }
        });
        FakeNode { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions that got their CONNACK so far.
    pub(crate) fn sessions(&self) -> u64 {
        self.shared.state().sessions
    }

    /// Everything that was answered so far, in order.
    pub(crate) fn answered(&self) -> Vec<Answered> {
        self.shared.state().answered.clone()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.shared.open.store(false, Ordering::Relaxed);
        for socket in self.shared.state().sockets.drain(..) {
            // Closed already is closed as well.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, so that it sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        self.state().sockets.push(socket.try_clone()?);
        let connection = ServerConnection::new(Arc::clone(&self.tls)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        let mut received = Vec::new();
        if next(&mut stream, &mut received)?.kind != CONNECT {
            return Err(io::Error::other("the first packet is no CONNECT"));
        }
        let connack = {
            let mut state = self.state();
            state.sessions += 1;
            self.connack(&state)
        };
        say(&mut stream, &connack)?;
        if self.story.closes_after_connack {
            return hang_up(&mut stream);
        }
        loop {
            let said = next(&mut stream, &mut received)?;
            let answer = match said.kind {
                PUBLISH => {
                    let (id, payload) = publish(&said.body).ok_or(io::ErrorKind::InvalidData)?;
                    puback(id, self.take(payload)?)
                }
                PINGREQ => packet(PINGRESP << 4, &[]),
                DISCONNECT => return Ok(()),
                other => return Err(io::Error::other(format!("a packet of kind {other}"))),
            };
            say(&mut stream, &answer)?;
        }
    }

    fn connack(&self, state: &State) -> Vec<u8> {
        let mut properties = vec![PROPERTY_RECEIVE_MAXIMUM];
        properties.extend(RECEIVE_MAXIMUM.to_be_bytes());
        if let Some(bytes_max) = self.story.packet_bytes_max {
            properties.push(PROPERTY_MAXIMUM_PACKET_SIZE);
            properties.extend(bytes_max.to_be_bytes());
        }
        for ((epoch, lane), position) in &state.streams {
            let stream = format_stream_position(*epoch, *lane, *position);
            properties.extend(user(STREAM_PROPERTY, &stream));
        }
        // No session is kept; success.
        let mut body = vec![0, 0];
        body.extend(variable(properties.len()));
        body.extend(properties);
        packet(CONNACK << 4, &body)
    }

    fn take(&self, bytes: &[u8]) -> io::Result<Verdict> {
        let batch = decode(bytes).map_err(io::Error::other)?;
        let mut state = self.state();
        let (epoch, lane) = (batch.header.epoch, batch.header.lane);
        let to = batch.header.number;
        let same = |known: &&Answered| {
            (known.batch.epoch, known.batch.lane, known.batch.to) == (epoch, lane, to.0)
        };
        let arrived = Arrived {
            epoch,
            lane,
            from: batch.first_number().0,
            to: to.0,
            kind: batch.body.kind(),
            readings_lost: match &batch.body {
                Body::Gap(gap) => gap.readings,
                Body::Hello(_) | Body::Names(_) | Body::Data(_) | Body::Clock(_) => 0,
            },
            before: state.answered.iter().filter(same).count(),
        };
        let verdict = (self.story.answer)(&arrived).unwrap_or_else(|| {
            let next = match &batch.body {
                Body::Gap(gap) => gap.digest_to,
                Body::Hello(_) | Body::Names(_) | Body::Data(_) | Body::Clock(_) => {
                    digest(batch.header.previous, bytes)
                }
            };
            let position = Position {
                last: to,
                digest: next,
            };
            let names_needed = batch.header.names_needed;
            state.apply(&arrived, names_needed, batch.header.previous, position)
        });
        state.answered.push(Answered {
            batch: arrived,
            verdict,
            at: wait::now(),
        });
        Ok(verdict)
    }
}

impl State {
    fn at(&self, epoch: Epoch, lane: Lane) -> Position {
        let known = self.streams.get(&(epoch, lane));
        known.copied().unwrap_or_default()
    }

    /// The rule. Nothing but what stands behind a refused one has a number to wait for here.
    fn apply(
        &mut self,
        arrived: &Arrived,
        names_needed: BatchNumber,
        previous: Digest,
        after: Position,
    ) -> Verdict {
        let at = self.at(arrived.epoch, arrived.lane);
        if arrived.to <= at.last.0 {
            return Verdict::Have(at);
        }
        if arrived.from > at.last.0 + 1 {
            return Verdict::Busy {
                retry_ms: BUSY_RETRY_MS,
            };
        }
        let names = self.at(arrived.epoch, Lane::Names);
        if arrived.lane != Lane::Names && names_needed > names.last {
            return Verdict::Names(names);
        }
        if arrived.from == at.last.0 + 1 && previous != at.digest {
            return Verdict::Fork(at);
        }
        self.streams.insert((arrived.epoch, arrived.lane), after);
        Verdict::Ok
    }
}

/// The next packet; an error once the agent has closed.
fn next(stream: &mut Stream, received: &mut Vec<u8>) -> io::Result<Packet> {
    loop {
        if let Some((packet, length)) = parse(received) {
            received.drain(..length);
            return Ok(packet);
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&piece[..count]);
    }
}

fn say(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

/// Closes so that the other side has read everything before it sees the end.
fn hang_up(stream: &mut Stream) -> io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Write)?;
    io::copy(&mut stream.sock, &mut io::sink()).map(|_bytes| ())
}

/// The packet id and the payload of a QoS 1 PUBLISH.
fn publish(body: &[u8]) -> Option<(u16, &[u8])> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*length))..)?;
    let (id, rest) = rest.split_first_chunk::<2>()?;
    // Few properties: their length is one byte.
    let (properties_bytes, rest) = rest.split_first()?;
    if *properties_bytes > 0x7f {
        return None;
    }
    let payload = rest.get(usize::from(*properties_bytes)..)?;
    Some((u16::from_be_bytes(*id), payload))
}

fn puback(id: u16, verdict: Verdict) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    let properties: Vec<u8> = verdict
        .properties()
        .iter()
        .flat_map(|(key, value)| user(key, value))
        .collect();
    if verdict != Verdict::Ok {
        body.push(verdict.reason_code());
        body.extend(variable(properties.len()));
        body.extend(properties);
    }
    packet(PUBACK << 4, &body)
}

fn user(key: &str, value: &str) -> Vec<u8> {
    let mut property = vec![PROPERTY_USER];
    property.extend(text(key));
    property.extend(text(value));
    property
}

fn tls(cluster: &ClusterUnderTest) -> Arc<ServerConfig> {
    let name = format!("node-{}", cluster.nodes()[0].name);
    let file = |ending: &str| cluster.pki_folder().join(format!("{name}.{ending}"));
    let chain: Vec<_> = CertificateDer::pem_file_iter(file("pem"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[test]
fn a_publish_is_taken_apart_and_an_answer_put_together() {
    let mut body = text("t");
    body.extend([0, 7, 3, 0x23, 0, 1]);
    body.extend(b"payload");
    assert_eq!(publish(&body), Some((7, b"payload".as_slice())));
    assert_eq!(publish(&body[..4]), None);
    let (ok, _) = parse(&puback(7, Verdict::Ok)).unwrap();
    assert_eq!(ok.puback(7), Some(0));
    let (refused, _) = parse(&puback(7, Verdict::Invalid)).unwrap();
    assert_eq!(refused.puback(7), Some(0x99));
}
