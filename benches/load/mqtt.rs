//! The least MQTT 5 client that can load a broker: CONNECT, QoS 1 PUBLISH, PUBACK.
//!
//! Written by hand so that the generator costs little beside what it measures.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Reason code and receive maximum.
    Connected {
        reason: u8,
        receive_max: u16,
    },
    Acked {
        packet_id: u16,
        reason: u8,
    },
    Disconnected {
        reason: u8,
    },
}

/// Appends a remaining-length field (MQTT 5, section 1.5.5).
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let digit = u8::try_from(length % 128).expect("below 128");
        length /= 128;
        out.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            return;
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).expect("short text").to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A CONNECT with clean start and a keep alive of 60 s.
pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    body.extend_from_slice(&[5, 0x02, 0, 60, 0]);
    put_text(&mut body, client_id);
    let mut packet = vec![0x10];
    put_length(&mut packet, body.len());
    packet.extend_from_slice(&body);
    packet
}

/// Appends a QoS 1 PUBLISH.
pub(crate) fn publish(out: &mut Vec<u8>, topic: &str, packet_id: u16, payload: &[u8]) {
    out.push(0x32);
    put_length(out, 2 + topic.len() + 2 + 1 + payload.len());
    put_text(out, topic);
    out.extend_from_slice(&packet_id.to_be_bytes());
    out.push(0);
    out.extend_from_slice(payload);
}

/// Reads whole packets from a stream.
pub(crate) struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(64 << 10),
            start: 0,
        }
    }

    /// The next packet; an error when the server closed.
    pub(crate) async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            if let Some((packet, used)) = parse(&self.buffer[self.start..])? {
                self.start += used;
                return Ok(packet);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed",
                ));
            }
        }
    }
}

/// One packet and its length, or `None` if it is not whole yet.
fn parse(bytes: &[u8]) -> io::Result<Option<(Incoming, usize)>> {
    let Some((length, head)) = remaining_length(bytes) else {
        return Ok(None);
    };
    let Some(body) = bytes.get(head..head + length) else {
        return Ok(None);
    };
    let packet = match (bytes[0] >> 4, body) {
        (2, [_, reason, properties @ ..]) => Incoming::Connected {
            reason: *reason,
            receive_max: receive_max(properties),
        },
        (4, [high, low, rest @ ..]) => Incoming::Acked {
            packet_id: u16::from_be_bytes([*high, *low]),
            reason: rest.first().copied().unwrap_or(0),
        },
        (14, rest) => Incoming::Disconnected {
            reason: rest.first().copied().unwrap_or(0),
        },
        (kind, _) => {
            return Err(io::Error::other(format!(
                "unexpected packet of type {kind}"
            )));
        }
    };
    Ok(Some((packet, head + length)))
}

fn remaining_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (place, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((length, place + 2));
        }
    }
    None
}

/// Receive maximum among the CONNACK properties, if it stands before any user property.
fn receive_max(properties: &[u8]) -> u16 {
    let mut at = 1;
    while let Some(&id) = properties.get(at) {
        let size = match id {
            0x21 => {
                return properties
                    .get(at + 1..at + 3)
                    .map_or(u16::MAX, |b| u16::from_be_bytes([b[0], b[1]]));
            }
            0x11 | 0x27 => 5,
            0x13 | 0x22 => 3,
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 2,
            _ => return 16,
        };
        at += size;
    }
    u16::MAX
}

/// Writes all of `bytes` and flushes.
pub(crate) async fn send<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
