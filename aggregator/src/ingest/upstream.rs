//! What ingest asks of the cluster. A seam of its own, because the tests of a connection must be
//! able to answer late, out of turn, or never.

use std::future::Future;

use shared::id::{AgentId, Epoch, Lane, TimeNs};
use shared::verdict::Position;

use crate::cluster::Answer;
use crate::state::command::Payload;

pub trait Upstream: Clone + Send + Sync + 'static {
    /// Resolves to what a submission came to; `Answer::Unknown` at its deadline.
    type Ticket: Future<Output = Answer> + Send + Unpin;

    /// Hands a valid payload over; waits while the queue to the log is full. `decoded_bytes` is what
    /// decoding it takes, in the prices of the format: what one entry of the log costs is bounded.
    fn submit(
        &self,
        agent: AgentId,
        received: TimeNs,
        payload: Payload,
        decoded_bytes: usize,
    ) -> impl Future<Output = Self::Ticket> + Send;

    /// Where these streams stand, with all that any node acknowledged before; `None` if no quorum says
    /// so in a moment.
    fn positions(
        &self,
        agent: &AgentId,
        streams: &[(Epoch, Lane)],
    ) -> impl Future<Output = Option<Vec<(Epoch, Lane, Position)>>> + Send;

    /// Names this cluster since it was initialised or restored.
    fn incarnation(&self) -> u64;

    /// Recovered, and a leader is known.
    fn ready(&self) -> bool;
}
