//! Rows of an answer as messages, as fast as the client takes them.

use arrow::array::ArrayRef;
use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::encode;
use super::error::PgError;
use super::message::{Backend, Field};
use super::session::Failure;
use super::wire::Wire;
use crate::serve::service::Answer;

/// Bytes that are written before they are sent: what one client holds in memory, and one row.
pub(super) const FLUSH_BYTES: usize = 32 << 10;

/// An answer that is being sent. Dropping it cancels the query.
pub(super) struct Rows {
    answer: Answer,
    fields: Vec<Field>,
    /// Of the current batch.
    columns: Vec<ArrayRef>,
    length: usize,
    at: usize,
}

/// How a `send` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) rows: u64,
    /// The client asked for no more for now; there may be more.
    pub(super) suspended: bool,
}

impl Rows {
    pub(super) fn new(answer: Answer) -> Rows {
        Rows {
            fields: encode::fields(&answer.schema()),
            answer,
            columns: Vec::new(),
            length: 0,
            at: 0,
        }
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Sends rows, at most `rows_max` unless that is 0. The last of them may still be in the
    /// buffer of `wire`.
    pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        formats: &[i16],
        rows_max: u32,
    ) -> Result<Sent, Failure> {
        let mut rows = 0;
        loop {
            if rows_max > 0 && rows == u64::from(rows_max) {
                return Ok(Sent {
                    rows,
                    suspended: true,
                });
            }
            if self.at == self.length && !self.fetch().await? {
                return Ok(Sent {
                    rows,
                    suspended: false,
                });
            }
            let begin = wire.out.len();
            let mut written = Ok(());
            wire.out.message(b'D', |body| {
                body.put_u16(u16::try_from(self.columns.len()).unwrap_or(u16::MAX));
                written = encode::row(body, &self.columns, self.at, formats);
            });
            if let Err(error) = written {
                wire.out.truncate(begin);
                return Err(error.into());
            }
            (self.at, rows) = (self.at + 1, rows + 1);
            if wire.out.len() >= FLUSH_BYTES {
                wire.flush().await?;
            }
        }
    }

    /// The next batch with rows; `false` after the last.
    async fn fetch(&mut self) -> Result<bool, PgError> {
        while self.at == self.length {
            let Some(batch) = self.answer.next().await? else {
                return Ok(false);
            };
            self.columns = encode::plain(&batch)?;
            (self.length, self.at) = (batch.num_rows(), 0);
        }
        Ok(true)
    }
}
