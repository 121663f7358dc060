//! The other side of the protocol, as little of it as the tests need.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgwire::api::auth::sasl::scram::gen_salted_password;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::OkmBlock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::serve::auth::unbase64;
use crate::serve::pg::message::Backend;

pub(super) struct Client {
    pub(super) stream: TlsStream<TcpStream>,
    /// Process and secret, to cancel with.
    pub(super) key: Bytes,
}

/// A message of the server; rows by cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// SQLSTATE and message.
    Error(String, String),
    Row(Vec<Option<Bytes>>),
    Complete(String),
    /// Names and oids.
    Columns(Vec<(String, u32)>),
    Parameters(Vec<u32>),
    Ready(char),
    Other(char),
    Closed,
}

impl Client {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Client {
        Client {
            stream,
            key: Bytes::new(),
        }
    }

    pub(super) async fn startup(&mut self, user: &str) {
        let mut body = BytesMut::new();
        body.put_u32(3 << 16);
        for text in [
            "user",
            user,
            "application_name",
            "test",
            "TimeZone",
            "Asia/Tokyo",
            "",
        ] {
            body.text(text);
        }
        self.stream
            .write_u32(u32::try_from(body.len() + 4).unwrap())
            .await
            .unwrap();
        self.stream.write_all(&body).await.unwrap();
    }

    /// Proves a password; the server's words if it refuses.
    pub(super) async fn scram(&mut self, password: &str) -> Result<(), String> {
        let (tag, body) = self.message().await.unwrap();
        assert_eq!(
            (tag, &body[..]),
            (b'R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..])
        );
        let bare = "n=,r=abcdefgh";
        let first = format!("y,,{bare}");
        self.say(b'p', |body| {
            body.text("SCRAM-SHA-256");
            body.put_u32(u32::try_from(first.len()).unwrap());
            body.put_slice(first.as_bytes());
        })
        .await;
        let (_, challenge) = self.message().await.unwrap();
        let challenge = String::from_utf8(challenge[4..].to_vec()).unwrap();
        let last = proof(password, bare, &challenge);
        self.say(b'p', |body| body.put_slice(last.as_bytes())).await;
        match self.message().await {
            Some((b'R', body)) if body.starts_with(b"\0\0\0\x0c") => Ok(()),
            Some((tag, body)) => Err(format!("{:?}", understood(tag, body))),
            None => Err("closed".to_owned()),
        }
    }

    /// Reads up to the first `ReadyForQuery`.
    pub(super) async fn ready(&mut self) -> Result<(), String> {
        loop {
            match self.message().await {
                Some((b'K', body)) => self.key = body,
                Some((b'Z', _)) => return Ok(()),
                Some((b'E', body)) => return Err(format!("{:?}", understood(b'E', body))),
                Some(_) => {}
                None => return Err("closed".to_owned()),
            }
        }
    }

    pub(super) async fn say(&mut self, tag: u8, body: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        out.message(tag, body);
        self.stream.write_all(&out).await.unwrap();
    }

    /// A simple query, and all that is said up to ready.
    pub(super) async fn ask(&mut self, sql: &str) -> Vec<Said> {
        self.say(b'Q', |body| body.text(sql)).await;
        self.until_ready().await
    }

    /// Prepares, binds texts, describes and runs a statement; then Sync.
    pub(super) async fn run(&mut self, sql: &str, values: &[&str], binary: bool) -> Vec<Said> {
        self.parse("", sql).await;
        self.bind("", values, binary).await;
        self.say(b'D', |body| body.put_slice(b"P\0")).await;
        self.execute("", 0).await;
        self.sync().await
    }

    pub(super) async fn parse(&mut self, name: &str, sql: &str) {
        self.say(b'P', |body| {
            body.text(name);
            body.text(sql);
            body.put_u16(0);
        })
        .await;
    }

    /// Into the unnamed portal.
    pub(super) async fn bind(&mut self, statement: &str, values: &[&str], binary: bool) {
        self.say(b'B', |body| {
            body.text("");
            body.text(statement);
            body.put_u16(0);
            body.put_u16(u16::try_from(values.len()).unwrap());
            for value in values {
                body.put_u32(u32::try_from(value.len()).unwrap());
                body.put_slice(value.as_bytes());
            }
            body.put_u16(1);
            body.put_u16(u16::from(binary));
        })
        .await;
    }

    pub(super) async fn execute(&mut self, portal: &str, rows_max: u32) {
        self.say(b'E', |body| {
            body.text(portal);
            body.put_u32(rows_max);
        })
        .await;
    }

    pub(super) async fn sync(&mut self) -> Vec<Said> {
        self.say(b'S', |_| {}).await;
        self.until_ready().await
    }

    pub(super) async fn until_ready(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        loop {
            said.push(self.hear().await);
            if matches!(said.last(), Some(Said::Ready(_) | Said::Closed)) {
                return said;
            }
        }
    }

    pub(super) async fn hear(&mut self) -> Said {
        match self.message().await {
            Some((tag, body)) => understood(tag, body),
            None => Said::Closed,
        }
    }

    async fn message(&mut self) -> Option<(u8, Bytes)> {
        let tag = self.stream.read_u8().await.ok()?;
        let length = self.stream.read_u32().await.ok()?;
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((tag, body.into()))
    }
}

fn understood(tag: u8, mut body: Bytes) -> Said {
    let text = |body: &mut Bytes| {
        let end = body.iter().position(|byte| *byte == 0).unwrap();
        let text = String::from_utf8(body.split_to(end).to_vec()).unwrap();
        body.advance(1);
        text
    };
    match tag {
        b'E' => {
            let (mut code, mut message) = (String::new(), String::new());
            loop {
                match body.get_u8() {
                    0 => return Said::Error(code, message),
                    b'C' => code = text(&mut body),
                    b'M' => message = text(&mut body),
                    _ => drop(text(&mut body)),
                }
            }
        }
        b'D' => {
            let count = body.get_u16();
            let cell = |body: &mut Bytes| {
                let length = usize::try_from(body.get_i32()).ok()?;
                Some(body.split_to(length))
            };
            Said::Row((0..count).map(|_| cell(&mut body)).collect())
        }
        b'C' => Said::Complete(text(&mut body)),
        b'T' => {
            let count = body.get_u16();
            let column = |body: &mut Bytes| {
                let name = text(body);
                body.advance(6);
                let oid = body.get_u32();
                body.advance(8);
                (name, oid)
            };
            Said::Columns((0..count).map(|_| column(&mut body)).collect())
        }
        b't' => {
            let count = body.get_u16();
            Said::Parameters((0..count).map(|_| body.get_u32()).collect())
        }
        b'Z' => Said::Ready(body.get_u8().into()),
        other => Said::Other(other.into()),
    }
}

/// Cells of rows as text, as `psql -At` prints them.
pub(super) fn rows(said: &[Said]) -> Vec<Vec<String>> {
    let cell = |cell: &Option<Bytes>| {
        String::from_utf8_lossy(cell.as_deref().unwrap_or_default()).into_owned()
    };
    let rows = said.iter().filter_map(|said| match said {
        Said::Row(cells) => Some(cells.iter().map(cell).collect()),
        _ => None,
    });
    rows.collect()
}

/// The codes of errors.
pub(super) fn errors(said: &[Said]) -> Vec<&str> {
    let codes = said.iter().filter_map(|said| match said {
        Said::Error(code, _) => Some(code.as_str()),
        _ => None,
    });
    codes.collect()
}

/// The last message of RFC 5802, by what the TLS library has of cryptography.
fn proof(password: &str, bare: &str, challenge: &str) -> String {
    let part = |name: &str| {
        let mut parts = challenge.split(',');
        parts.find_map(|part| part.strip_prefix(name)).unwrap()
    };
    let salt = unbase64(part("s=")).unwrap();
    let salted = gen_salted_password(password, &salt, part("i=").parse().unwrap());
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let hmac = |key: &[u8], message: &[u8]| {
        let tag = suite.hkdf_provider.hmac_sign(&OkmBlock::new(key), message);
        tag.as_ref().to_vec()
    };
    let key = hmac(&salted, b"Client Key");
    let stored = suite.common.hash_provider.hash(&key);
    // `eSws` is base64 of `y,,`.
    let without = format!("c=eSws,r={}", part("r="));
    let signed = hmac(
        stored.as_ref(),
        format!("{bare},{challenge},{without}").as_bytes(),
    );
    let proof: Vec<u8> = key.iter().zip(&signed).map(|(a, b)| a ^ b).collect();
    format!("{without},p={}", base64(&proof))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() {
                digit.into()
            } else {
                '='
            });
        }
    }
    text
}
