//! What can go wrong, sorted by who must act; each kind has its documented exit code.

use std::io;

/// Exit code of wrong usage; clap's own errors use the same.
pub(crate) const USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The server understood and refused, or broke off, the statement.
    #[error("{0}")]
    Query(String),
    /// A flag, variable or file of ours is wrong.
    #[error("{0}")]
    Usage(String),
    /// No TLS connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// The server does not know us, or forbids it.
    #[error("{0}")]
    Auth(String),
    #[error("{0}")]
    Timeout(String),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Query(_) | Self::Output(_) => 1,
            Self::Usage(_) => USAGE,
            Self::Connection(_) => 3,
            Self::Auth(_) => 4,
            Self::Timeout(_) => 5,
        }
    }

    /// The reader went away (`| head`): no failure of ours.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}
