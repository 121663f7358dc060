//! An error as a client is told it.

use bytes::{BufMut, BytesMut};

use super::message::Backend;
use crate::serve::service::ServeError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub(super) struct PgError {
    /// The connection ends with it.
    pub(super) fatal: bool,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

impl PgError {
    pub(super) fn error(code: &'static str, message: impl Into<String>) -> PgError {
        PgError {
            fatal: false,
            code,
            message: message.into(),
            hint: "",
        }
    }

    pub(super) fn fatal(code: &'static str, message: impl Into<String>) -> PgError {
        PgError {
            fatal: true,
            ..PgError::error(code, message)
        }
    }

    /// After a broken message nobody knows where the next begins.
    pub(super) fn protocol(message: String) -> PgError {
        PgError::fatal("08P01", message).hint("the client breaks the protocol; check its version")
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: &'static str) -> PgError {
        self.hint = hint;
        self
    }

    pub(super) fn write(&self, body: &mut BytesMut) {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let fields = [
            (b'S', severity),
            (b'V', severity),
            (b'C', self.code),
            (b'M', self.message.as_str()),
            (b'H', self.hint),
        ];
        for (kind, text) in fields {
            if !text.is_empty() {
                body.put_u8(kind);
                body.text(text);
            }
        }
        body.put_u8(0);
    }
}

impl From<ServeError> for PgError {
    fn from(error: ServeError) -> PgError {
        PgError::error(error.sqlstate(), error.to_string()).hint(error.hint())
    }
}
