//! Which segments of a partition are sealed together.
//!
//! Tables that are kept equally long share files, so that a file goes as a whole. How long that is may
//! change: then there are files that hold tables of several kinds, until those are sealed, each kind to
//! a file of its own. What shares a table with such a file is sealed with it: log order is that of
//! segments, so no rows may go to a later place past others of their table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::kept;
use super::partition::Partition;
use super::segment::SegmentHandle;
use crate::state::{Sealing, State};

/// Segments of one partition that have tables in common with each other, and with no others of it.
#[derive(Debug)]
pub(super) struct SealGroup {
    pub(super) partition: Partition,
    /// Oldest first.
    pub(super) segments: Vec<Arc<SegmentHandle>>,
    /// For how many days tables in here are kept by a retention of their own; 0: as long as the
    /// cluster's.
    pub(super) kept_days: BTreeSet<u32>,
    /// In one of them are tables that are kept for different times.
    pub(super) is_mixed: bool,
}

/// All groups of all partitions.
pub(super) fn groups(
    segments: &[Arc<SegmentHandle>],
    state: &State,
) -> BTreeMap<Partition, Vec<SealGroup>> {
    let mut partitions: BTreeMap<Partition, Vec<Arc<SegmentHandle>>> = BTreeMap::new();
    for segment in segments {
        let of = partitions.entry(segment.head.partition).or_default();
        of.push(Arc::clone(segment));
    }
    let each = partitions.into_iter();
    each.map(|(partition, segments)| (partition, of_partition(partition, &segments, state)))
        .collect()
}

/// What is to be sealed of one partition, if there is anything of it.
pub(super) fn group(
    segments: &[Arc<SegmentHandle>],
    sealing: Sealing,
    state: &State,
) -> Option<SealGroup> {
    let partition = Partition::from(sealing.window);
    let ours = segments.iter();
    let ours: Vec<_> = ours
        .filter(|segment| segment.head.partition == partition)
        .map(Arc::clone)
        .collect();
    let groups = of_partition(partition, &ours, state);
    let is_it = |group: &SealGroup| group.kept_days.contains(&sealing.kept_days);
    groups.into_iter().find(is_it)
}

fn of_partition(
    partition: Partition,
    segments: &[Arc<SegmentHandle>],
    state: &State,
) -> Vec<SealGroup> {
    let kept: Vec<BTreeSet<u32>> = segments.iter().map(|one| kept_days(one, state)).collect();
    // What is in it is not known: perhaps some of every table.
    let is_all = segments.iter().any(|segment| segment.is_opaque());
    let mut groups: Vec<SealGroup> = Vec::new();
    for (segment, kept_days) in segments.iter().zip(kept) {
        let joins = |group: &mut SealGroup| is_all || !group.kept_days.is_disjoint(&kept_days);
        let joined: Vec<SealGroup> = groups.extract_if(.., joins).collect();
        let mut one = SealGroup {
            partition,
            segments: vec![Arc::clone(segment)],
            is_mixed: kept_days.len() > 1,
            kept_days,
        };
        for group in joined {
            one.segments.extend(group.segments);
            one.kept_days.extend(group.kept_days);
            one.is_mixed |= group.is_mixed;
        }
        groups.push(one);
    }
    groups.sort_by_key(|group| group.kept_days.first().copied());
    for group in &mut groups {
        group.segments.sort_by(|a, b| a.file.name.cmp(&b.file.name));
    }
    groups
}

/// The names of the tables that a segment has rows of.
fn tables<'a>(segment: &'a SegmentHandle, state: &'a State) -> impl Iterator<Item = &'a str> {
    let infos = segment.rows.keys();
    let infos = infos.filter_map(|table| state.catalog().table_by_id(*table));
    infos.map(|info| info.name.as_str())
}

fn kept_days(segment: &SegmentHandle, state: &State) -> BTreeSet<u32> {
    let days = |table: &str| state.table_settings().kept_days(table);
    tables(segment, state).map(days).collect()
}

impl SealGroup {
    /// Whether sealing changes anything.
    pub(super) fn is_in_parts(&self) -> bool {
        self.segments.len() > 1 || self.is_mixed
    }

    /// Whether states are to be written that will outlive the rows.
    pub(super) fn lacks_rollups(&self, rollups: &[Arc<SegmentHandle>], state: &State) -> bool {
        let wanted = kept::wanted(state);
        let mut segments = self.segments.iter();
        self.partition.window().is_some()
            && segments.any(|one| kept::lacks(one, rollups, state.catalog(), &wanted))
    }

    /// One that cannot be read is not read again.
    pub(super) fn is_whole(&self) -> bool {
        self.segments.iter().all(|segment| !segment.is_spoilt())
    }

    /// Whether a file stays for the sake of some of its tables, while others in it have ended.
    pub(super) fn is_kept_for_others(&self, state: &State) -> bool {
        let (Some(end), Some(retention)) = (self.partition.end(), state.retention()) else {
            return false;
        };
        let has_ended = |table: &str| end <= retention.before(table).0;
        let has_both = |segment: &Arc<SegmentHandle>| {
            let ended: BTreeSet<bool> = tables(segment, state).map(has_ended).collect();
            ended.len() > 1
        };
        self.is_mixed && self.segments.iter().any(has_both)
    }

    /// Whether rows of it are to go within that time, or are gone already.
    pub(super) fn ends_within(&self, time_ns: i64, state: &State) -> bool {
        let (Some(end), Some(retention)) = (self.partition.end(), state.retention()) else {
            return false;
        };
        let ends = |table: &str| end.saturating_sub(time_ns) <= retention.before(table).0;
        let mut segments = self.segments.iter();
        segments.any(|segment| tables(segment, state).any(ends))
    }

    /// What asks for it.
    pub(super) fn sealing(&self) -> Option<Sealing> {
        Some(Sealing {
            window: self.partition.window()?,
            kept_days: *self.kept_days.first()?,
        })
    }
}
