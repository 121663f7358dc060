//! Retention: whole partitions go, by replicated time, never by one node's clock.
//!
//! Where rows of one time are one, a value may overwrite another in a partition of another width. So
//! of tables that merge, a partition stays as long as one that shares times with it. What is wild has
//! none of this: what a clock ahead told goes before those times do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::id::TimeNs;

use super::partition::Partition;
use super::segment::{SegmentHandle, SegmentHead};
use crate::state::{Catalog, SameTime, TableId};

/// A retention command that waits for merges of earlier commands, so that every replica drops the
/// same segments, however long its merges take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drop {
    pub(super) index: u64,
    pub(super) before: TimeNs,
}

/// Partitions with rows of tables that merge, and which tables.
type Merging = BTreeMap<Partition, BTreeSet<TableId>>;

impl Drop {
    /// Whether this one takes all that the other does.
    pub(super) fn covers(&self, other: &Drop) -> bool {
        self.index >= other.index && self.before >= other.before
    }

    /// The segments that go. `waits`: a merge of an earlier command runs, and what it brings may hold
    /// back what merges.
    pub(super) fn due(
        &self,
        segments: &[Arc<SegmentHandle>],
        catalog: &Catalog,
        waits: bool,
    ) -> Vec<Arc<SegmentHandle>> {
        let earlier = segments.iter().filter(|one| one.head.command < self.index);
        let (mut due, stays): (Vec<_>, Vec<_>) = earlier
            .map(Arc::clone)
            .partition(|one| self.has_ended(&one.head));
        let mut ended = merging(&due, catalog);
        if waits {
            due.retain(|one| !ended.contains_key(&one.head.partition));
            return due;
        }
        let mut held = merging(&stays, catalog);
        // What is held back holds back others.
        while let Some(partition) = next_held(&ended, &held) {
            let tables = ended.remove(&partition).unwrap_or_default();
            held.insert(partition, tables);
            due.retain(|one| one.head.partition != partition);
        }
        due
    }

    /// Whether a segment has nothing younger. A wild partition goes when the merge that made it is that
    /// long ago.
    fn has_ended(&self, head: &SegmentHead) -> bool {
        match head.partition.end() {
            Some(end) => end <= self.before.0,
            None => head.merged_at > 0 && head.merged_at < self.before.0,
        }
    }
}

fn merging(segments: &[Arc<SegmentHandle>], catalog: &Catalog) -> Merging {
    let merges = |table: &&TableId| {
        let info = catalog.table_by_id(**table);
        info.is_some_and(|info| info.same_time == SameTime::Merge)
    };
    let mut all = Merging::new();
    for segment in segments {
        let partition = segment.head.partition;
        let tables: Vec<TableId> = segment.rows.keys().filter(merges).copied().collect();
        if partition.window().is_some() && !tables.is_empty() {
            all.entry(partition).or_default().extend(tables);
        }
    }
    all
}

fn next_held(ended: &Merging, held: &Merging) -> Option<Partition> {
    let is_held = |(one, tables): &(&Partition, &BTreeSet<TableId>)| {
        held.iter()
            .any(|(other, others)| one.may_share_times_with(*other) && !tables.is_disjoint(others))
    };
    ended.iter().find(is_held).map(|(partition, _)| *partition)
}
