//! Retention: whole partitions go, by replicated time, never by one node's clock.

use shared::id::TimeNs;

use super::segment::SegmentHead;

/// A retention command that waits for merges of earlier commands, so that every replica drops the
/// same segments, however long its merges take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drop {
    pub(super) index: u64,
    pub(super) before: TimeNs,
}

impl Drop {
    /// Whether this one takes all that the other does.
    pub(super) fn covers(&self, other: &Drop) -> bool {
        self.index >= other.index && self.before >= other.before
    }

    /// Whether a segment made by an earlier command has nothing younger. A wild partition goes when
    /// the merge that made it is that long ago.
    pub(super) fn takes(&self, head: &SegmentHead) -> bool {
        let ended = match head.partition.end() {
            Some(end) => end <= self.before.0,
            None => head.merged_at > 0 && head.merged_at < self.before.0,
        };
        head.command < self.index && ended
    }
}
