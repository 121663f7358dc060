//! What the cluster answers to a batch, and how MQTT 5 carries it.

use crate::id::{BatchNumber, Digest};

/// Where a stream stands in the replicated state: the last number that took effect and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    pub last: BatchNumber,
    pub digest: Digest,
}

/// The answer to one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Took effect: on disk at a quorum, stored, visible to the next query.
    Ok,
    /// Took effect earlier.
    Have(Position),
    /// Nothing is known of its fate; send it again after this many milliseconds.
    Busy { retry_ms: u32 },
    /// Over a quota of this agent; send it again after this many milliseconds.
    Quota { retry_ms: u32 },
    /// A number before it is missing: go back to `last + 1`.
    Gap(Position),
    /// The digest chain does not fit: another agent wrote this stream, or a copied disk did.
    Fork(Position),
    /// `names` batches that it needs are missing: `last` of the names lane.
    Names(Position),
    /// The topic belongs to another agent.
    ForeignTopic,
    /// No such topic.
    BadTopic,
    /// Damaged or against the format: it will be refused for ever.
    Invalid,
}
