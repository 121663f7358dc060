//! Rollups that outlive their rows. Such a one has states of every block of its tables, so that nothing is
//! lost of them when the segment goes by retention; from then on it stands for itself. A segment of
//! which these are still to be written stays until they are: late, and never early.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use shared::reading::FieldType;

use super::aggregate::Aggregate;
use super::damage::{self, Place};
use super::error::StoreError;
use super::group::{Group, Measures};
use super::reader::View;
use super::rolled;
use super::rollup::{self, AskedField, Resolution};
use super::segment::SegmentHandle;
use crate::state::{Catalog, SameTime, SeriesId, State, TableId};

/// Of one device in one piece of a scan.
const BUCKETS_OF_PIECE: i64 = 4_096;
/// Of all devices in one piece, about: some dozens of megabytes by the ten fields that a table may have.
const BUCKETS_AT_ONCE: i64 = 16_384;

/// Rollups of a table that the configuration names, as a query sees them.
#[derive(Debug, Clone)]
pub struct RollupScan {
    pub table: String,
    /// Of the buckets.
    pub width_seconds: u32,
    /// Of which fields; of texts there are no sums, extremes and ends.
    pub fields: Vec<(String, Measures)>,
    /// When buckets begin, in nanoseconds since 1970-01-01 UTC.
    pub starts: RangeInclusive<i64>,
    /// `None`: all.
    pub devices: Option<Vec<String>>,
}

/// Whether a segment has no states of some block that are to be there when its rows are gone. `wanted`:
/// which, of a table.
pub(super) fn lacks(
    segment: &SegmentHandle,
    rollups: &[Arc<SegmentHandle>],
    catalog: &Catalog,
    wanted: &dyn Fn(&str) -> Vec<u32>,
) -> bool {
    let of = rolled::of_segment(rollups, segment);
    segment.rows.keys().any(|table| {
        let info = catalog.table_by_id(*table);
        let info = info.filter(|info| info.same_time == SameTime::Keep);
        let widths = info.map_or(Vec::new(), |info| wanted(&info.name));
        let mut widths = widths.into_iter().filter_map(Resolution::new);
        widths.any(|resolution| !has_all(segment, of, (*table, resolution)))
    })
}

/// What a seal has to write of a table, by the settings.
pub(super) fn wanted(state: &State) -> impl Fn(&str) -> Vec<u32> + '_ {
    |table| {
        let rollups = state.table_settings().rollups_of(table);
        let own = rollups.all().iter();
        let own = own.filter(|one| one.retention_days().is_some());
        own.map(|one| one.width_seconds()).collect()
    }
}

fn has_all(
    segment: &SegmentHandle,
    rollups: &[Arc<SegmentHandle>],
    (table, resolution): (TableId, Resolution),
) -> bool {
    let blocks = |of: &SegmentHandle| of.blocks_of.get(&table).copied().unwrap_or(0);
    let fits = |one: &&Arc<SegmentHandle>| {
        one.head.is_whole && one.head.resolution == Some(resolution) && !one.is_spoilt()
    };
    let there = rollups.iter().filter(fits).map(|one| blocks(one));
    there.sum::<usize>() >= blocks(segment)
}

/// Rollups whose segment is gone.
pub(super) fn alone<'a>(
    rollups: &'a [Arc<SegmentHandle>],
    segments: &'a [Arc<SegmentHandle>],
) -> impl Iterator<Item = &'a Arc<SegmentHandle>> {
    let has_rows = |rollup: &SegmentHandle| {
        let Some(stem) = rollup::stem_of_rollup(&rollup.file.name) else {
            return false;
        };
        let at = segments.partition_point(|one| one.file.name.as_str() < stem);
        let next = segments.get(at);
        next.is_some_and(|one| one.file.name.starts_with(stem))
    };
    rollups.iter().filter(move |one| !has_rows(one))
}

impl View {
    /// What a table comes to by buckets of a width, of rows that are there and of those of which only that
    /// was kept.
    ///
    /// # Errors
    /// `Damaged`: some of it cannot be read.
    pub fn rollup(
        self: &Arc<Self>,
        scan: RollupScan,
    ) -> Result<BTreeMap<(SeriesId, i64), Group>, StoreError> {
        let Some((resolution, time)) = Resolution::new(scan.width_seconds)
            .and_then(|resolution| Some((resolution, resolution.times(&scan.starts)?)))
        else {
            return Ok(BTreeMap::new());
        };
        let mut all = self.kept(&scan, resolution, &time)?;
        let rows = self.aggregate(Aggregate {
            table: scan.table,
            fields: scan.fields,
            time,
            devices: scan.devices,
            buckets: Some(resolution.buckets()),
        });
        for ((series, bucket), group) in rows.merged()? {
            // Beyond 64 bits no bucket begins.
            let Some(bucket) = bucket else { continue };
            group.add_to(&mut all, (series, bucket));
        }
        Ok(all)
    }

    /// The scan in pieces, in the order of time, each of few buckets of a device: what is in partitions. What
    /// is not merged yet is bounded by itself. And how many devices may be asked for at once.
    pub fn rollup_pieces(&self, scan: &RollupScan) -> (Vec<RollupScan>, usize) {
        let Some(resolution) = Resolution::new(scan.width_seconds) else {
            return (Vec::new(), 1);
        };
        let partitions: BTreeSet<_> = self
            .files()
            .filter_map(|file| file.head.partition.times())
            .map(RangeInclusive::into_inner)
            .collect();
        let width_ns = resolution.width_ns();
        let length_ns = width_ns.saturating_mul(BUCKETS_OF_PIECE);
        let (pieces, covered_ns) = pieces(&scan.starts, &partitions, length_ns);
        let piece = |starts| RollupScan {
            starts,
            ..scan.clone()
        };
        let devices = BUCKETS_AT_ONCE / (covered_ns / width_ns + 1);
        let devices = usize::try_from(devices).unwrap_or(1).max(1);
        (pieces.into_iter().map(piece).collect(), devices)
    }

    fn kept(
        &self,
        scan: &RollupScan,
        resolution: Resolution,
        time: &RangeInclusive<i64>,
    ) -> Result<BTreeMap<(SeriesId, i64), Group>, StoreError> {
        let mut all = BTreeMap::new();
        let Some(table) = self.catalog().table(&scan.table) else {
            return Ok(all);
        };
        let field = |(name, measures): &(String, Measures)| -> AskedField {
            let slot = table.slot(name);
            let known = slot.map(|slot| (slot, table.fields[usize::from(slot)].1));
            let is_text = known.is_some_and(|(_, kind)| kind == FieldType::Text);
            (
                known,
                if is_text {
                    Measures::default()
                } else {
                    *measures
                },
            )
        };
        let fields: Vec<AskedField> = scan.fields.iter().map(field).collect();
        let ours = self.series_of(table, scan.devices.as_deref());
        for rollup in alone(&self.rollups, &self.segments) {
            let times = rollup.head.partition.times();
            let is_in_time = times
                .is_none_or(|times| times.start() <= time.end() && time.start() <= times.end());
            let is_it = rollup.head.resolution == Some(resolution) && rollup.head.is_whole;
            let may_be_it = rollup.head.resolution.is_none_or(|own| own == resolution);
            if rollup.is_opaque() && may_be_it && is_in_time {
                let what = "its index cannot be read: what it says is not known";
                return Err(StoreError::damaged(&rollup.file.name, 0, what));
            }
            if is_it && is_in_time && rollup.rows.contains_key(&table.id) {
                self.read_kept(rollup, &ours, (time, &fields), &mut all)?;
            }
        }
        Ok(all)
    }

    fn read_kept(
        &self,
        rollup: &SegmentHandle,
        ours: &[SeriesId],
        (time, fields): (&RangeInclusive<i64>, &[AskedField]),
        all: &mut BTreeMap<(SeriesId, i64), Group>,
    ) -> Result<(), StoreError> {
        let tell = |place, error: &StoreError| damage::report(rollup, place, error, &self.state);
        let width = rollup.head.resolution.map_or(0, Resolution::width_ns);
        let is_in_time = |at: &usize| {
            let block = &rollup.blocks[*at];
            block.time_min <= *time.end() && block.time_max.saturating_add(width) > *time.start()
        };
        let places = ours.iter().flat_map(|id| rollup.block_range(*id));
        let mut places = places.filter(is_in_time).peekable();
        if places.peek().is_none() {
            return Ok(());
        }
        let content = rollup.content();
        let content = content.inspect_err(|error| tell(Place::File, error))?;
        for at in places {
            let block = &rollup.blocks[at];
            let cells = rollup.read(&*content, block, &|_| true);
            let cells = cells.inspect_err(|error| tell(Place::Block(at), error))?;
            let groups = rollup::groups_shown(&cells, time, fields).map_err(|fault| {
                let name = &rollup.file.name;
                let error = StoreError::damaged(name, block.offset, fault.to_string());
                tell(Place::Block(at), &error);
                error
            })?;
            for group in groups {
                if let Some(bucket) = group.bucket {
                    group.add_to(all, (block.series, bucket));
                }
            }
        }
        Ok(())
    }
}

/// Cuts a span so that no piece holds more of what partitions cover than `length_ns`, which is above 0.
/// `partitions`: their first and last times, in order. Also how much the fullest piece holds.
fn pieces(
    span: &RangeInclusive<i64>,
    partitions: &BTreeSet<(i64, i64)>,
    length_ns: i64,
) -> (Vec<RangeInclusive<i64>>, i64) {
    let (mut from, mut covered_ns, mut most_ns) = (*span.start(), 0, 0);
    let mut pieces = Vec::new();
    for (first, last) in partitions {
        let mut first = (*first).max(*span.start());
        let last = (*last).min(*span.end());
        while first <= last {
            let part_ns = last.saturating_sub(first).min(length_ns);
            if covered_ns > length_ns - part_ns && first > from {
                pieces.push(from..=first - 1);
                (from, covered_ns) = (first, 0);
            }
            covered_ns = length_ns.min(covered_ns.saturating_add(part_ns));
            most_ns = most_ns.max(covered_ns);
            let Some(next) = first.checked_add(length_ns) else {
                break;
            };
            first = next;
        }
    }
    pieces.push(from..=*span.end());
    (pieces, most_ns)
}

impl Resolution {
    /// The times of the buckets that begin in a span; `None`: none does.
    fn times(self, starts: &RangeInclusive<i64>) -> Option<RangeInclusive<i64>> {
        let width = i128::from(self.width_ns());
        let first = i128::from(*starts.start()).div_euclid(width) * width;
        let is_whole = first == i128::from(*starts.start());
        let first = if is_whole { first } else { first + width };
        let last = i128::from(*starts.end()).div_euclid(width) * width + width - 1;
        if first > i128::from(i64::MAX) {
            return None;
        }
        let clamped =
            |time: i128| i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX });
        // The first bucket of all begins before 64 bits do.
        let is_all = *starts.start() == i64::MIN;
        let first = if is_all { i64::MIN } else { clamped(first) };
        (i128::from(first) <= last).then(|| first..=clamped(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_and_hold_little_of_each_partition() {
        let days = |days: &[i64]| days.iter().map(|day| (day * 24, day * 24 + 23)).collect();
        let all = i64::MIN..=i64::MAX;
        let of = |days: BTreeSet<_>, hours| pieces(&all, &days, hours).0;
        assert_eq!(of(days(&[]), 24), std::slice::from_ref(&all));
        assert_eq!(of(days(&[3, 4, 900]), 100), std::slice::from_ref(&all));
        let two = [i64::MIN..=900 * 24 - 1, 900 * 24..=i64::MAX];
        assert_eq!(of(days(&[3, 4, 900]), 50), two);
        let halves = [i64::MIN..=3 * 24 + 11, 3 * 24 + 12..=i64::MAX];
        assert_eq!(of(days(&[3]), 12), halves);
        let asked = pieces(&(80..=85), &days(&[1, 2, 3]), 2);
        assert_eq!(asked, (vec![80..=81, 82..=83, 84..=85], 2));
        let nothing = RangeInclusive::new(i64::MAX, i64::MIN);
        assert!(pieces(&nothing, &days(&[1]), 2).0[0].is_empty());
        let ends: BTreeSet<_> = [(i64::MIN, i64::MIN + 9), (i64::MAX - 9, i64::MAX)].into();
        let (met, _) = pieces(&all, &ends, 5);
        assert_eq!(met.first().map(|piece| *piece.start()), Some(i64::MIN));
        assert_eq!(met.last().map(|piece| *piece.end()), Some(i64::MAX));
        let gap = |pair: &[RangeInclusive<i64>]| *pair[0].end() + 1 != *pair[1].start();
        assert!(met.len() > 2 && !met.windows(2).any(gap));
    }
}
