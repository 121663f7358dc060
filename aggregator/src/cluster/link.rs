//! How one node asks another: a seam, because a simulation must be able to cut, delay and reorder
//! what in production crosses TLS.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::types::Member;
use super::wire::Kind;

/// What a connection is for, so that nothing large stands before something urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Entries and proposals.
    Log,
    /// Votes, heartbeats, read indexes.
    Pulse,
    Snapshot,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request has not left this node.
    #[error("{address} cannot be reached: {why}")]
    Unreachable { address: String, why: String },
    /// It may have arrived.
    #[error("{address} did not answer: {why}")]
    Lost { address: String, why: String },
    /// The other node did nothing with it, and says why.
    #[error("{address} refused: {why}")]
    Refused { address: String, why: String },
}

/// Asks nodes.
pub trait Link: Send + Sync + 'static {
    /// Requests of one purpose to one node arrive in the order of the calls, those that arrive.
    fn call(
        &self,
        to: &Member,
        purpose: Purpose,
        kind: Kind,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// Answers what other nodes ask; `Err` is the text of a refusal.
pub trait Answerer: Send + Sync + 'static {
    /// Called in the order of arrival: what it does before it returns the future is done in that
    /// order; the futures run beside each other.
    fn answer(
        &self,
        from: &str,
        kind: Kind,
        incarnation: u64,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}
