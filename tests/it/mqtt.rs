//! An MQTT 5 client by hand, so that a test can say what no well-behaved client says, and see
//! every PUBACK with its own eyes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use tests::wait;

pub(crate) const CONNECT: u8 = 1;
pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const DISCONNECT: u8 = 14;
const QOS_1: u8 = 0b0010;

/// Who a client says it is, by files.
pub(crate) struct Identity<'a> {
    /// The folder whose `nodes-ca.pem` verifies the server.
    pub(crate) trust: &'a Path,
    /// The folder with `<name>.pem` and `<name>.key`.
    pub(crate) folder: &'a Path,
    pub(crate) name: &'a str,
}

pub(crate) struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

/// One packet as it came.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// TLS only; the handshake happens with the first bytes.
    pub(crate) fn open(server: SocketAddr, identity: &Identity<'_>) -> io::Result<Client> {
        let config = config(identity).map_err(io::Error::other)?;
        let name = ServerName::from(server.ip());
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Client {
            stream: StreamOwned::new(connection, socket),
            received: Vec::new(),
        })
    }

    /// TLS, CONNECT, and a CONNACK of success.
    pub(crate) fn connect(server: SocketAddr, identity: &Identity<'_>) -> io::Result<Client> {
        let mut client = Client::open(server, identity)?;
        client.send(&packet(CONNECT << 4, &connect_body(identity.name)))?;
        let answer = client.receive(Duration::from_secs(20))?;
        match answer {
            Some(Packet {
                kind: CONNACK,
                body,
            }) if body.get(1) == Some(&0) => Ok(client),
            other => Err(io::Error::other(format!(
                "no CONNACK of success: {other:?}"
            ))),
        }
    }

    /// A QoS 1 PUBLISH.
    pub(crate) fn publish(&mut self, topic: &str, id: u16, payload: &[u8]) -> io::Result<()> {
        let mut body = text(topic);
        body.extend(id.to_be_bytes());
        body.push(0); // no properties
        body.extend(payload);
        self.send(&packet(PUBLISH << 4 | QOS_1, &body))
    }

    /// Publishes and waits for the answer: its reason code.
    pub(crate) fn ask(&mut self, topic: &str, id: u16, payload: &[u8]) -> io::Result<u8> {
        self.publish(topic, id, payload)?;
        let answer = self.receive(Duration::from_secs(20))?;
        answer
            .as_ref()
            .and_then(|packet| packet.puback(id))
            .ok_or_else(|| io::Error::other(format!("no PUBACK {id}: {answer:?}")))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next packet; `None` if none comes within `limit`, an error once the server has closed.
    pub(crate) fn receive(&mut self, limit: Duration) -> io::Result<Option<Packet>> {
        let start = wait::now();
        loop {
            if let Some((packet, length)) = parse(&self.received) {
                self.received.drain(..length);
                return Ok(Some(packet));
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.sock.set_read_timeout(Some(left))?;
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Packet {
    /// The reason code, if this is the PUBACK of that PUBLISH.
    pub(crate) fn puback(&self, id: u16) -> Option<u8> {
        let answers = self.kind == PUBACK && self.body.get(..2) == Some(&id.to_be_bytes());
        // Without a reason code it is success.
        answers.then(|| self.body.get(2).copied().unwrap_or(0))
    }

    /// The reason code of a DISCONNECT.
    pub(crate) fn disconnect(&self) -> Option<u8> {
        (self.kind == DISCONNECT).then(|| self.body.first().copied().unwrap_or(0))
    }
}

/// A fixed header and a body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(variable(body.len()));
    bytes.extend(body);
    bytes
}

/// The start of a QoS 1 PUBLISH that announces `length` bytes.
pub(crate) fn publish_header(length: usize) -> Vec<u8> {
    let mut bytes = vec![PUBLISH << 4 | QOS_1];
    bytes.extend(variable(length));
    bytes
}

fn connect_body(client_id: &str) -> Vec<u8> {
    let mut body = text("MQTT");
    body.push(5); // version
    body.push(0b0000_0010); // clean start
    body.extend(60_u16.to_be_bytes()); // keep alive
    body.push(0); // no properties
    body.extend(text(client_id));
    body
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

pub(crate) fn variable(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The packet at the start of the bytes and its length, if it is whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Packet, usize)> {
    let kind = bytes.first()? >> 4;
    let mut length = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let body = bytes.get(at + 1..at + 1 + length)?.to_vec();
            return Some((Packet { kind, body }, at + 1 + length));
        }
    }
    None
}

fn config(identity: &Identity<'_>) -> Result<ClientConfig, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(identity.trust.join("nodes-ca.pem"));
    roots
        .add(authority.map_err(|e| words(&e))?)
        .map_err(|e| words(&e))?;
    let file = |ending: &str| identity.folder.join(format!("{}.{ending}", identity.name));
    let chain = CertificateDer::pem_file_iter(file("pem"))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| words(&e))?;
    let key = PrivateKeyDer::from_pem_file(file("key")).map_err(|e| words(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
        })
        .map_err(|e| words(&e))
}

#[test]
fn packets_are_framed_as_the_standard_says() {
    assert_eq!(variable(321), [0xc1, 0x02]);
    let bytes = packet(PUBACK << 4, &[0, 7, 0x87]);
    let (whole, length) = parse(&[bytes.as_slice(), &[0x20]].concat()).unwrap();
    assert_eq!(
        (whole.puback(7), whole.puback(8), length),
        (Some(0x87), None, 5)
    );
    assert!(parse(&bytes[..4]).is_none());
}
