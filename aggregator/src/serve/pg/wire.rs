//! Moves messages over a connection. Reading and writing may be given up at any await: nothing of
//! a message is lost or sent twice.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::error::PgError;
use super::message::{self, Frontend};

/// A client that takes nothing for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_mins(1);
/// Read ahead, at least: several messages often come at once.
const READ_BYTES: usize = 4 << 10;
/// Of what comes before the login.
const FIRST_BYTES_MAX: usize = 10_000;

pub(super) struct Wire<S> {
    stream: S,
    read: BytesMut,
    /// Whole messages that are not sent yet.
    pub(super) out: BytesMut,
}

/// Why there is no further message.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Gone(#[from] io::Error),
    #[error(transparent)]
    Broken(#[from] PgError),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Wire<S> {
        Wire {
            stream,
            read: BytesMut::new(),
            out: BytesMut::new(),
        }
    }

    /// The stream alone; refused if bytes came that belong to nothing yet.
    pub(super) fn into_stream(self) -> Result<S, PgError> {
        if self.read.is_empty() {
            return Ok(self.stream);
        }
        let message = "data came before TLS was there: somebody may have put it in between";
        Err(PgError::protocol(message.to_owned()))
    }

    /// A message without a tag: the first of a connection.
    pub(super) async fn first(&mut self) -> Result<Bytes, WireError> {
        self.fill(4).await?;
        let length = self.length(0, FIRST_BYTES_MAX)?;
        self.fill(length).await?;
        let mut body = self.read.split_to(length);
        body.advance(4);
        Ok(body.freeze())
    }

    /// The next message; `None` if the client closed the connection between two.
    pub(super) async fn next(&mut self) -> Result<Option<Frontend>, WireError> {
        if self.read.is_empty() {
            self.read.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
        self.fill(5).await?;
        let tag = self.read[0];
        let length = self.length(1, message::body_bytes_max(tag) + 4)?;
        self.fill(1 + length).await?;
        let mut body = self.read.split_to(1 + length);
        body.advance(5);
        Ok(Some(message::frontend(tag, body.freeze())?))
    }

    /// Sends what is in `out`.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let sent = async {
            self.stream.write_all_buf(&mut self.out).await?;
            self.stream.flush().await
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing");
        timeout(WRITE_LIMIT, sent)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// Says good-bye to TLS, so that the client knows that nothing was cut off.
    pub(super) async fn close(mut self) {
        let _ = self.flush().await;
        let _ = timeout(WRITE_LIMIT, self.stream.shutdown()).await;
    }

    /// The length that stands at `at`, which counts itself.
    fn length(&self, at: usize, max: usize) -> Result<usize, PgError> {
        let bytes: [u8; 4] = self.read[at..at + 4].try_into().expect("four bytes");
        let length = usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
        if (4..=max).contains(&length) {
            return Ok(length);
        }
        let message = format!("a message says that it has {length} bytes; {max} may be");
        Err(PgError::protocol(message))
    }

    async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.read.len() < count {
            self.read.reserve(READ_BYTES.max(count - self.read.len()));
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}
