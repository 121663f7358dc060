//! The commands of the replicated state machine: what one Raft entry means.
//!
//! Bytes in `docs/formats.md`; version 1. A node that meets a newer version stops.

use bytes::Bytes;
use shared::id::{AgentId, TimeNs};

/// Where a submission came from, so that the node that took it can answer it once it applied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Random, minted at every start of a node.
    pub boot: u64,
    /// Counts up within the boot.
    pub ticket: u64,
}

/// What a publisher handed in; validated before it is proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// One encoded batch, exactly as it came from the agent.
    Batch(Bytes),
    /// Line protocol from the plain topic: at least once, no numbers. Lines without a time take `received`.
    Lines(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    pub origin: Origin,
    pub agent: AgentId,
    /// The receiving node's clock.
    pub received: TimeNs,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Many batches of many agents: the unit of group commit.
    Submissions(Vec<Submission>),
    /// One voter's clock. Replicated time is the median of the latest of each voter, never back.
    Clock { node: u64, now: TimeNs },
    /// Everything applied before this command becomes segments named after its index.
    Merge,
    /// Drop the partitions that ended more than the retention before replicated time.
    Retention,
    /// Admits a node; the index of this command becomes its id.
    Admit { name: String, address: String },
}
