//! Retention: segments go by replicated time, never by one node's clock. One goes as a whole, when the
//! partition has ended for each of its tables: tables that are kept equally long share files, but where
//! that was changed. So what a new setting says is so at once or late, and never early.
//!
//! Where rows of one time are one, a value may overwrite another in another segment. So of tables that
//! merge, a segment stays as long as one that shares times with it. What is wild has none of this, but
//! with segments that ought to be gone: what a clock ahead told goes before those times do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::id::TimeNs;

use super::kept;
use super::partition::Partition;
use super::reader::SEAL_BYTES_MAX;
use super::rolled;
use super::segment::SegmentHandle;
use crate::state::machine::HOUR_NS;
use crate::state::{Catalog, Retention, SameTime, TableId};

/// So long after its time what is still to be rolled up waits at most. Late rows are sealed within a day
/// and a quarter.
const WAIT_NS: i64 = 48 * HOUR_NS;

/// A retention command that waits for merges of earlier commands, so that every replica drops the
/// same segments, however long its merges take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drop {
    pub(super) index: u64,
    pub(super) retention: Retention,
}

/// Which tables that merge a segment has rows of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Merging {
    These(BTreeSet<TableId>),
    /// What is in it is not known.
    Any,
}

impl Drop {
    /// Whether this one takes all that the other does.
    pub(super) fn covers(&self, other: &Drop) -> bool {
        self.index >= other.index && self.retention.covers(&other.retention)
    }

    /// The segments that go. `waits`: a merge of an earlier command runs, and what it brings may hold
    /// back what merges.
    pub(super) fn due(
        &self,
        segments: &[Arc<SegmentHandle>],
        rollups: &[Arc<SegmentHandle>],
        catalog: &Catalog,
        waits: bool,
    ) -> Vec<Arc<SegmentHandle>> {
        let earlier = segments.iter().filter(|one| one.head.command < self.index);
        let (ended, mut stays): (Vec<_>, Vec<_>) = earlier
            .map(Arc::clone)
            .partition(|one| self.has_ended(one, catalog));
        let lacks = |one: &Arc<SegmentHandle>| {
            kept::lacks(one, rollups, catalog, &|table| self.outliving(table, one))
        };
        let (lack, mut due): (Vec<_>, Vec<_>) = ended.into_iter().partition(lacks);
        let goes = |other: &Arc<SegmentHandle>| due.iter().any(|one| Arc::ptr_eq(one, other));
        let left = segments.iter().filter(|one| !goes(one));
        let left: Vec<_> = left.map(Arc::clone).collect();
        for one in lack {
            if self.can_be_waited_for(&one, &left, catalog) {
                stays.push(one);
            } else {
                tracing::warn!(
                    file = one.file.name,
                    "rows go by retention, and the rollups that should outlive them were not \
                     written: their partition is too large to be sealed, for which a shorter \
                     store.partition_hours helps those to come, or this node could not seal it \
                     for two days, as earlier lines of the log say"
                );
                due.push(one);
            }
        }
        if waits {
            due.retain(|one| Merging::of(one, catalog).is_none());
            return due;
        }
        let mut held = merging(&stays, catalog);
        let mut holders: Vec<(Partition, Merging)> = held.clone().into_iter().collect();
        // What is held back holds back others.
        while let Some((partition, tables)) = holders.pop() {
            let is_held = |one: &mut Arc<SegmentHandle>| {
                let is_near = partition.window().is_some() && one.head.partition.window().is_some();
                let shares = is_near && partition.may_share_times_with(one.head.partition);
                shares && Merging::of(one, catalog).is_some_and(|own| own.shares(&tables))
            };
            let more: Vec<_> = due.extract_if(.., is_held).collect();
            for (partition, tables) in merging(&more, catalog) {
                let all = held.entry(partition).or_insert_with(|| tables.clone());
                all.join(tables.clone());
                holders.push((partition, tables));
            }
        }
        let late = self.late(&held, catalog);
        due.retain(|one| {
            one.head.partition.window().is_some()
                || !Merging::of(one, catalog).is_some_and(|own| own.shares(&late))
        });
        due
    }

    /// Widths of rollups that are kept beyond a segment of that table.
    fn outliving(&self, table: &str, segment: &SegmentHandle) -> Vec<u32> {
        let Some(end) = segment.head.partition.end() else {
            return Vec::new();
        };
        let all = self.retention.outliving(table).into_iter();
        let all = all.filter(|(_, before)| end > before.0);
        all.map(|(width, _)| width).collect()
    }

    /// Whether sealing may still write what is not written yet: not of what is too large for it, and not
    /// for ever, since what hinders it may be that the disk is full. `left`: what does not go now.
    fn can_be_waited_for(
        &self,
        one: &SegmentHandle,
        left: &[Arc<SegmentHandle>],
        catalog: &Catalog,
    ) -> bool {
        let shares = |other: &&Arc<SegmentHandle>| {
            other.head.partition == one.head.partition
                && other.rows.keys().any(|table| one.rows.contains_key(table))
        };
        let bytes: u64 = left.iter().filter(shares).map(|one| one.file.len).sum();
        let waits_from = self.before_of(one, catalog).0.saturating_sub(WAIT_NS);
        let is_young = one.head.partition.end().is_some_and(|end| end > waits_from);
        is_young && bytes <= SEAL_BYTES_MAX
    }

    /// Rollups that say nothing any more: of segments that go or are gone, if no table of theirs is to be
    /// kept.
    pub(super) fn due_rollups(
        &self,
        gone: &[Arc<SegmentHandle>],
        segments: &[Arc<SegmentHandle>],
        rollups: &[Arc<SegmentHandle>],
        catalog: &Catalog,
    ) -> Vec<Arc<SegmentHandle>> {
        let going = gone.iter().flat_map(|one| rolled::of_segment(rollups, one));
        let alone = kept::alone(rollups, segments);
        let alone = alone.filter(|one| one.head.command < self.index);
        let all = going.chain(alone);
        let all = all.filter(|one| !self.may_keep(one) && !self.keeps(one, catalog));
        all.map(Arc::clone).collect()
    }

    /// Of what cannot be opened nobody knows what it says: as long as any rollup is kept, unless its header
    /// tells that it was never to be.
    fn may_keep(&self, rollup: &SegmentHandle) -> bool {
        let may_be_whole = rollup.head.is_whole || rollup.head.resolution.is_none();
        let end = rollup.head.partition.end();
        let before = self.retention.before_of_any_rollup();
        rollup.is_opaque() && may_be_whole && end.is_some_and(|end| end > before.0)
    }

    fn keeps(&self, rollup: &SegmentHandle, catalog: &Catalog) -> bool {
        let (Some(end), Some(resolution)) = (rollup.head.partition.end(), rollup.head.resolution)
        else {
            return false;
        };
        let lasts = |table: &TableId| {
            let info = catalog.table_by_id(*table);
            let before = |name: &str| self.retention.before_of_rollup(name, resolution.seconds());
            info.is_some_and(|info| end > before(&info.name).0)
        };
        rollup.head.is_whole && rollup.rows.keys().any(lasts)
    }

    /// Whether a segment has nothing younger, of any of its tables. A wild partition goes when the merge
    /// that made it is that long ago.
    fn has_ended(&self, segment: &SegmentHandle, catalog: &Catalog) -> bool {
        let before = self.before_of(segment, catalog);
        match segment.head.partition.end() {
            Some(end) => end <= before.0,
            None => segment.head.merged_at > 0 && segment.head.merged_at < before.0,
        }
    }

    /// What is older goes of all tables of a segment.
    fn before_of(&self, segment: &SegmentHandle, catalog: &Catalog) -> TimeNs {
        let infos = segment.rows.keys().map(|table| catalog.table_by_id(*table));
        let before = infos.map(|info| {
            let of = |info: &_| self.retention.before(info);
            info.map_or(self.retention.before_of_any(), |info| of(&info.name))
        });
        // Where nobody knows which tables it has, none of them may be kept.
        before.min().unwrap_or(self.retention.before_of_any())
    }

    /// Tables that merge of which rows are there that have ended.
    fn late(&self, held: &BTreeMap<Partition, Merging>, catalog: &Catalog) -> Merging {
        let mut late = BTreeSet::new();
        for (partition, tables) in held {
            let Some(end) = partition.end() else { continue };
            let Merging::These(tables) = tables else {
                return Merging::Any;
            };
            let has_ended = |table: &&TableId| {
                let info = catalog.table_by_id(**table);
                info.is_some_and(|info| end <= self.retention.before(&info.name).0)
            };
            late.extend(tables.iter().filter(has_ended));
        }
        Merging::These(late)
    }
}

impl Merging {
    fn of(segment: &SegmentHandle, catalog: &Catalog) -> Option<Self> {
        if segment.is_opaque() {
            let mut tables = catalog.tables();
            let merges = tables.any(|table| table.same_time == SameTime::Merge);
            return merges.then_some(Self::Any);
        }
        let merges = |table: &&TableId| {
            let info = catalog.table_by_id(**table);
            info.is_some_and(|info| info.same_time == SameTime::Merge)
        };
        let tables: BTreeSet<TableId> = segment.rows.keys().filter(merges).copied().collect();
        (!tables.is_empty()).then_some(Self::These(tables))
    }

    fn shares(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::These(one), Self::These(two)) => !one.is_disjoint(two),
            (Self::Any, Self::These(tables)) | (Self::These(tables), Self::Any) => {
                !tables.is_empty()
            }
            (Self::Any, Self::Any) => true,
        }
    }

    fn join(&mut self, other: Self) {
        match (self, other) {
            (Self::These(all), Self::These(more)) => all.extend(more),
            (all, Self::Any) => *all = Self::Any,
            (Self::Any, Self::These(_)) => {}
        }
    }
}

fn merging(segments: &[Arc<SegmentHandle>], catalog: &Catalog) -> BTreeMap<Partition, Merging> {
    let mut all: BTreeMap<Partition, Merging> = BTreeMap::new();
    for segment in segments {
        if let Some(tables) = Merging::of(segment, catalog) {
            let known = all.entry(segment.head.partition);
            known.or_insert_with(|| tables.clone()).join(tables);
        }
    }
    all
}
