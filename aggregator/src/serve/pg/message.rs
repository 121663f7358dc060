//! Messages of the protocol from and to bytes. Pure: any bytes decode or are refused, never more
//! is allocated than came in.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::PgError;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// What a connection begins with; has no tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    Ssl,
    Gss,
    Cancel {
        process: i32,
        secret: Bytes,
    },
    Startup {
        minor: u16,
        parameters: Vec<(String, String)>,
    },
    /// Major and minor of a version that is not ours.
    OtherVersion(u16, u16),
}

/// What a client says after that.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frontend {
    /// A step of the login; its form depends on which.
    Login(Bytes),
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target, String),
    Execute {
        portal: String,
        rows_max: u32,
    },
    Close(Target, String),
    Flush,
    Sync,
    Terminate,
    /// Of a COPY that was refused: said without waiting for our answer.
    Copy,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) portal: String,
    pub(super) statement: String,
    /// None: all text. One: for all.
    pub(super) parameter_formats: Vec<i16>,
    pub(super) parameters: Vec<Option<Bytes>>,
    pub(super) result_formats: Vec<i16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// How far a block of statements is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction {
    None,
    Open,
    Failed,
}

/// A column as `RowDescription` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) oid: u32,
    /// Bytes; -1 where they vary.
    pub(super) size: i16,
}

/// The longest body that a message of this tag may have.
pub(super) fn body_bytes_max(tag: u8) -> usize {
    match tag {
        b'Q' | b'P' | b'B' | b'd' => 1 << 20,
        _ => 10_000,
    }
}

pub(super) fn first(body: Bytes) -> Result<First, PgError> {
    let mut body = Body(body);
    let code = body.u32()?;
    Ok(match code {
        SSL_REQUEST => First::Ssl,
        GSS_REQUEST => First::Gss,
        CANCEL_REQUEST => First::Cancel {
            process: body.u32()?.cast_signed(),
            secret: body.0,
        },
        _ => {
            let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
            if major != 3 {
                return Ok(First::OtherVersion(major, minor));
            }
            let mut parameters = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, body.text()?));
            }
            First::Startup { minor, parameters }
        }
    })
}

pub(super) fn frontend(tag: u8, body: Bytes) -> Result<Frontend, PgError> {
    let mut body = Body(body);
    Ok(match tag {
        b'p' => Frontend::Login(body.0),
        b'Q' => Frontend::Query(body.text()?),
        b'P' => {
            let (name, sql) = (body.text()?, body.text()?);
            let count = body.u16()?;
            let types: Result<_, _> = (0..count).map(|_| body.u32()).collect();
            Frontend::Parse {
                name,
                sql,
                types: types?,
            }
        }
        b'B' => Frontend::Bind(body.bind()?),
        b'D' => {
            let target = body.target()?;
            Frontend::Describe(target, body.text()?)
        }
        b'E' => Frontend::Execute {
            portal: body.text()?,
            // Negative as zero: all.
            rows_max: u32::try_from(body.u32()?.cast_signed()).unwrap_or(0),
        },
        b'C' => {
            let target = body.target()?;
            Frontend::Close(target, body.text()?)
        }
        b'H' => Frontend::Flush,
        b'S' => Frontend::Sync,
        b'X' => Frontend::Terminate,
        b'd' | b'c' | b'f' => Frontend::Copy,
        other => {
            return Err(PgError::protocol(format!(
                "there is no message {other:#04x}"
            )));
        }
    })
}

/// The rest of a body.
struct Body(Bytes);

impl Body {
    fn take(&mut self, count: usize) -> Result<Bytes, PgError> {
        if self.0.len() < count {
            return Err(PgError::protocol(
                "a message is shorter than it says".to_owned(),
            ));
        }
        Ok(self.0.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PgError> {
        let bytes = self.take(N)?;
        Ok(bytes.as_ref().try_into().expect("as many as were taken"))
    }

    fn u16(&mut self) -> Result<u16, PgError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, PgError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Up to a zero byte.
    fn text(&mut self) -> Result<String, PgError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| PgError::protocol("a text has no end".to_owned()))?;
        let bytes = self.take(end + 1)?;
        String::from_utf8(bytes[..end].to_vec()).map_err(|_| {
            PgError::error("22021", "the text is not UTF-8").hint("client_encoding is UTF8")
        })
    }

    fn target(&mut self) -> Result<Target, PgError> {
        match self.array::<1>()? {
            [b'S'] => Ok(Target::Statement),
            [b'P'] => Ok(Target::Portal),
            _ => Err(PgError::protocol("neither statement nor portal".to_owned())),
        }
    }

    fn formats(&mut self) -> Result<Vec<i16>, PgError> {
        let count = self.u16()?;
        (0..count).map(|_| Ok(self.u16()?.cast_signed())).collect()
    }

    fn bind(&mut self) -> Result<Bind, PgError> {
        let (portal, statement) = (self.text()?, self.text()?);
        let parameter_formats = self.formats()?;
        let count = self.u16()?;
        let mut parameters = Vec::new();
        for _ in 0..count {
            // Any negative length is NULL.
            parameters.push(match usize::try_from(self.u32()?.cast_signed()) {
                Ok(length) => Some(self.take(length)?),
                Err(_) => None,
            });
        }
        Ok(Bind {
            portal,
            statement,
            parameter_formats,
            parameters,
            result_formats: self.formats()?,
        })
    }
}

/// Messages to a client, one after another in a buffer.
pub(super) trait Backend {
    /// Appends a message; its length is filled in afterwards.
    fn message(&mut self, tag: u8, body: impl FnOnce(&mut BytesMut));
    fn text(&mut self, text: &str);

    fn authentication(&mut self, code: i32, data: &[u8]) {
        self.message(b'R', |body| {
            body.put_i32(code);
            body.put_slice(data);
        });
    }

    fn parameter_status(&mut self, name: &str, value: &str) {
        self.message(b'S', |body| {
            body.text(name);
            body.text(value);
        });
    }

    fn key_data(&mut self, process: i32, secret: [u8; 4]) {
        self.message(b'K', |body| {
            body.put_i32(process);
            body.put_slice(&secret);
        });
    }

    /// We speak 3.0, and know none of these options.
    fn negotiate_version(&mut self, unknown: &[&str]) {
        self.message(b'v', |body| {
            body.put_i32(0);
            body.put_i32(i32::try_from(unknown.len()).expect("of one small message"));
            for name in unknown {
                body.text(name);
            }
        });
    }

    fn ready(&mut self, transaction: Transaction) {
        self.message(b'Z', |body| {
            body.put_u8(match transaction {
                Transaction::None => b'I',
                Transaction::Open => b'T',
                Transaction::Failed => b'E',
            });
        });
    }

    fn complete(&mut self, tag: &str) {
        self.message(b'C', |body| body.text(tag));
    }

    fn error(&mut self, error: &PgError) {
        self.message(b'E', |body| error.write(body));
    }

    fn row_description(&mut self, fields: &[Field], format: impl Fn(usize) -> i16) {
        self.message(b'T', |body| {
            body.put_u16(u16::try_from(fields.len()).unwrap_or(u16::MAX));
            for (at, field) in fields.iter().enumerate() {
                body.text(&field.name);
                // No table and no column of one.
                body.put_u32(0);
                body.put_i16(0);
                body.put_u32(field.oid);
                body.put_i16(field.size);
                body.put_i32(-1);
                body.put_i16(format(at));
            }
        });
    }

    fn parameter_description(&mut self, oids: &[u32]) {
        self.message(b't', |body| {
            body.put_u16(u16::try_from(oids.len()).unwrap_or(u16::MAX));
            for oid in oids {
                body.put_u32(*oid);
            }
        });
    }

    /// Of the messages that say only that something is done.
    fn bare(&mut self, tag: u8) {
        self.message(tag, |_| {});
    }
}

impl Backend for BytesMut {
    fn message(&mut self, tag: u8, body: impl FnOnce(&mut BytesMut)) {
        self.put_u8(tag);
        let begin = self.len();
        self.put_u32(0);
        body(self);
        let length = u32::try_from(self.len() - begin).expect("queries are far below 4 GiB");
        self[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Zero bytes would end it early: they cannot be said.
    fn text(&mut self, text: &str) {
        self.extend(text.bytes().filter(|byte| *byte != 0));
        self.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const MESSAGES: [(u8, &[u8]); 5] = [
        (
            b'B',
            b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff\0\0",
        ),
        (b'P', b"s\0SELECT 1\0\0\x01\0\0\0\x17"),
        (b'D', b"Sx\0"),
        (b'E', b"\0\0\0\0\0"),
        (b'C', b"Sx\0"),
    ];

    #[test]
    fn any_bytes_are_a_message_or_an_error() {
        let bind = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff\0\0";
        let whole = frontend(b'B', Bytes::from_static(bind)).unwrap();
        let Frontend::Bind(found) = whole else {
            panic!("{whole:?}")
        };
        assert_eq!(
            (found.portal.as_str(), found.statement.as_str()),
            ("p", "s")
        );
        assert_eq!(found.parameters, [Some(Bytes::from_static(b"abc")), None]);
        let parse = b"s\0SELECT 1\0\0\x01\0\0\0\x17";
        for (tag, message) in [
            (b'B', &bind[..]),
            (b'P', parse),
            (b'D', b"Sx\0"),
            (b'E', b"\0\0\0\0\0"),
        ] {
            for cut in 0..message.len() {
                assert!(
                    frontend(tag, Bytes::copy_from_slice(&message[..cut])).is_err(),
                    "{cut}"
                );
            }
        }
        // Counts and lengths that are not there.
        for tag in 0..=255 {
            let _ = frontend(
                tag,
                Bytes::from_static(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff]),
            );
            let _ = first(Bytes::from(vec![0, 3, 0, 0, tag, 0, tag]));
        }
    }

    proptest! {
        /// As fuzzers would: tags and bytes of any kind, and messages of which some bytes are others.
        #[test]
        fn no_bytes_break_the_reader(
            tag in any::<u8>(),
            bytes in vec(any::<u8>(), 0..200),
            which in 0..MESSAGES.len(),
            changes in vec((any::<Index>(), any::<u8>()), 0..4),
        ) {
            let _ = first(Bytes::from(bytes.clone()));
            let _ = frontend(tag, Bytes::from(bytes.clone()));
            let (tag, message) = MESSAGES[which];
            let mut message = [message, &bytes[..]].concat();
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let _ = frontend(tag, Bytes::from(message.clone()));
            let _ = first(Bytes::from([&196_608_u32.to_be_bytes(), &message[..]].concat()));
        }
    }

    #[test]
    fn beginnings_are_told_apart() {
        let of = |code: u32, rest: &[u8]| {
            first(Bytes::from([&code.to_be_bytes(), rest].concat())).unwrap()
        };
        assert_eq!(of(SSL_REQUEST, &[]), First::Ssl);
        assert_eq!(of(2 << 16, &[]), First::OtherVersion(2, 0));
        assert_eq!(
            of(3 << 16, b"user\0ada\0\0"),
            First::Startup {
                minor: 0,
                parameters: vec![("user".into(), "ada".into())]
            }
        );
        let cancel = First::Cancel {
            process: 7,
            secret: Bytes::from_static(b"abcd"),
        };
        assert_eq!(of(CANCEL_REQUEST, b"\0\0\0\x07abcd"), cancel);
    }

    #[test]
    fn lengths_count_themselves() {
        let mut out = BytesMut::new();
        out.complete("SELECT 1");
        out.ready(Transaction::Open);
        assert_eq!(&out[..], b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T");
    }
}
