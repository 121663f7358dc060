//! What a submission came to. Success is a value that only applying an entry can mint.

use shared::verdict::Position;

/// Proof that this node applied an entry that a quorum has on disk and that holds, or earlier
/// held, the submission. Its field is private to `cluster`: acking early does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    index: u64,
    repeated: Option<Position>,
}

/// The answer to one submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Applied(Applied),
    /// Applied without effect: the stream does not continue here. Says nothing of what is stored.
    Gap(Position),
    Names(Position),
    Fork(Position),
    /// The log has no room for it now: to be sent again after this long. Says nothing of an earlier
    /// attempt.
    Busy {
        retry_ms: u32,
    },
    /// Not known: the deadline passed, the queue was closed, or the leader changed.
    Unknown,
}

impl Applied {
    pub(super) fn new(index: u64, repeated: Option<Position>) -> Self {
        Self { index, repeated }
    }

    /// The log index at which a read sees it.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// `Some` if it had taken effect before: the stream's position now.
    pub fn repeated(&self) -> Option<Position> {
        self.repeated
    }

    /// For the tests of stages that only pass it on.
    #[cfg(test)]
    pub(crate) fn sample(index: u64, repeated: Option<Position>) -> Self {
        Self::new(index, repeated)
    }
}
