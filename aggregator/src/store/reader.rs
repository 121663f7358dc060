//! Reading: a view is an immutable picture of everything at one log index; a scan goes through it
//! lazily, pruned by table, device and time.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use shared::batch::Column;
use shared::id::TimeNs;
use shared::reading::FieldType;

use super::damage::{self, Place};
use super::error::StoreError;
use super::gather::widened;
use super::memory::RowList;
use super::partition::Partition;
use super::segment::SegmentHandle;
use crate::state::rows::SeriesRows;
use crate::state::{
    AgentRow, Catalog, GapRow, LastValue, SeriesId, SeriesInfo, State, TableId, Window,
};

/// Rows of level 0 that a scan gathers before it hands them out.
const GATHERED_ROWS_MAX: usize = 65_536;
/// Memory of these rows above which it hands them out, but for those of the last batch.
const GATHERED_BYTES_MAX: usize = 64 << 20;

/// So long after its end a partition still waits for what comes late.
const SEAL_AFTER_NS: i64 = 2 * HOUR_NS;
/// Merges wait while one is sealed: parts that are so large together stay, and gain little by it.
const SEAL_BYTES_MAX: u64 = 256 << 20;
/// What comes late for a sealed partition has it sealed again at once if it is more than this part of its
/// bytes; else a day after it was sealed, once it lies in so many parts or none came for so long.
const LATE_SHARE: u64 = 8;
const LATE_PARTS_MAX: usize = 16;
const LATE_REST_NS: i64 = 6 * HOUR_NS;
const SEAL_AGAIN_NS: i64 = 24 * HOUR_NS;
const HOUR_NS: i64 = 3_600 * 1_000_000_000;

/// Everything at one log index. Queries hold it as long as they like.
#[derive(Debug)]
pub struct View {
    pub(super) index: u64,
    pub(super) state: State,
    pub(super) segments: Arc<Vec<Arc<SegmentHandle>>>,
    pub(super) level0: Vec<RowList>,
}

/// Where to find the newest view. Clones show the same.
#[derive(Debug, Clone)]
pub struct Views {
    latest: Arc<RwLock<Arc<View>>>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Scan {
    pub table: String,
    /// Fields that the table does not have are all null.
    pub fields: Vec<String>,
    /// Nanoseconds since 1970-01-01 UTC.
    pub time: RangeInclusive<i64>,
    /// `None`: all.
    pub devices: Option<Vec<String>>,
}

/// Rows of one series, sorted by time. Chunks of one series may overlap in time, and come in no
/// promised order.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    pub series: Arc<SeriesInfo>,
    pub times: Vec<i64>,
    /// Parallel to the fields of the scan, which `Column::field` counts too; `None`: all null.
    /// Values have the type that the view's catalog gives the field.
    pub columns: Vec<Option<Column>>,
}

/// The rows of a scan, read as they are asked for.
pub struct ScanIter {
    view: Arc<View>,
    plan: Plan,
    /// Told before any row.
    unreadable: Option<StoreError>,
    segment: usize,
    /// Blocks of the current segment that are still to be read.
    blocks: VecDeque<usize>,
    list: usize,
    row: usize,
    ready: VecDeque<Chunk>,
}

struct Plan {
    table: TableId,
    /// Sorted.
    series: Vec<SeriesId>,
    fields: Vec<Option<(u16, FieldType)>>,
    time: RangeInclusive<i64>,
}

impl Views {
    pub(super) fn new(view: View) -> Self {
        Self {
            latest: Arc::new(RwLock::new(Arc::new(view))),
        }
    }

    pub fn latest(&self) -> Arc<View> {
        Arc::clone(&self.latest.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish(&self, view: View) {
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *latest, Arc::new(view));
        drop(latest);
        // Unlinking files may be part of this: not under the lock.
        drop(before);
    }
}

impl View {
    /// The index of the last log entry that is in here.
    pub fn index(&self) -> u64 {
        self.index
    }

    pub fn catalog(&self) -> &Catalog {
        self.state.catalog()
    }

    /// The replicated state at this index.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn agents(&self) -> Vec<AgentRow> {
        self.state.agents()
    }

    pub fn gaps(&self) -> Vec<GapRow> {
        self.state.gaps()
    }

    /// The newest value of every field of a series, by field.
    pub fn last_values(&self, series: SeriesId) -> &[LastValue] {
        self.state.last_values(series)
    }

    /// Rows of a table, exactly; `None` if there is no such table, or a segment is damaged so that
    /// nobody knows what is in it.
    pub fn row_count(&self, table: &str) -> Option<u64> {
        let is_known = !self.segments.iter().any(|segment| segment.is_opaque());
        is_known.then(|| self.known_rows(table)).flatten()
    }

    /// As [`View::row_count`], without what is in segments of which nobody knows it.
    pub fn known_rows(&self, table: &str) -> Option<u64> {
        let table = self.catalog().table(table)?.id;
        let merged = self
            .segments
            .iter()
            .map(|segment| segment.rows.get(&table).unwrap_or(&0));
        let recent = self.level0.iter().map(|list| list.row_count(table));
        Some(merged.sum::<u64>() + recent.sum::<u64>())
    }

    /// Partitions that ended a while before `now` and lie in parts that are worth sealing, newest
    /// first.
    pub fn unsealed(&self, now: TimeNs) -> Vec<Window> {
        let mut partitions: BTreeMap<Partition, Vec<Part>> = BTreeMap::new();
        for segment in self.segments.iter() {
            let of = partitions.entry(segment.head.partition).or_default();
            of.push(Part::of(segment));
        }
        let windows = partitions.iter().rev().filter_map(|(partition, parts)| {
            let window = partition.window()?;
            let has_ended = window.end().0 <= now.0.saturating_sub(SEAL_AFTER_NS);
            (has_ended && is_worth_sealing(parts, now)).then_some(window)
        });
        windows.collect()
    }

    /// A table that is not there has no rows.
    pub fn scan(self: &Arc<Self>, scan: Scan) -> ScanIter {
        let plan = self.plan(scan);
        ScanIter {
            unreadable: self.unreadable(&plan),
            view: Arc::clone(self),
            plan,
            segment: 0,
            blocks: VecDeque::new(),
            list: 0,
            row: 0,
            ready: VecDeque::new(),
        }
        .at_first_segment()
    }

    /// What of the rows that are asked for may be in a segment that could not be opened.
    fn unreadable(&self, plan: &Plan) -> Option<StoreError> {
        let may_hold = |segment: &&Arc<SegmentHandle>| {
            let times = segment.head.partition.times();
            segment.is_opaque()
                && !plan.series.is_empty()
                && times.is_none_or(|times| plan.overlaps(*times.start(), *times.end()))
        };
        let segment = self.segments.iter().find(may_hold)?;
        let what = "its index cannot be read: what is in it is not known";
        Some(StoreError::damaged(&segment.file.name, 0, what))
    }

    fn plan(&self, scan: Scan) -> Plan {
        let Scan {
            table,
            fields,
            time,
            devices,
        } = scan;
        let catalog = self.catalog();
        let Some(table) = catalog.table(&table) else {
            return Plan {
                table: TableId(u32::MAX),
                series: vec![],
                fields: vec![],
                time,
            };
        };
        let devices = devices.map(|mut devices| {
            devices.sort_unstable();
            devices
        });
        let wanted = |id: &SeriesId| match (&devices, catalog.series(*id)) {
            (None, _) => true,
            (Some(devices), Some(info)) => devices.binary_search(&info.device).is_ok(),
            (Some(_), None) => false,
        };
        let field = |name: &String| {
            table
                .slot(name)
                .map(|at| (at, table.fields[usize::from(at)].1))
        };
        Plan {
            table: table.id,
            series: table.series().filter(wanted).collect(),
            fields: fields.iter().map(field).collect(),
            time,
        }
    }
}

/// What sealing is decided by, of one segment.
#[derive(Debug, Clone, Copy)]
struct Part {
    sealed: bool,
    spoilt: bool,
    bytes: u64,
    merged_at: i64,
}

impl Part {
    fn of(segment: &SegmentHandle) -> Part {
        Part {
            sealed: segment.is_sealed(),
            spoilt: segment.is_spoilt(),
            bytes: segment.file.len,
            merged_at: segment.head.merged_at,
        }
    }
}

fn is_worth_sealing(all: &[Part], now: TimeNs) -> bool {
    let bytes = |of: &[Part]| of.iter().map(|one| one.bytes).sum::<u64>();
    if bytes(all) > SEAL_BYTES_MAX || all.iter().any(|part| part.spoilt) {
        return false;
    }
    let (sealed, parts): (Vec<Part>, Vec<Part>) = all.iter().partition(|part| part.sealed);
    if sealed.is_empty() {
        return parts.len() > 1;
    }
    let before = |age_ns| now.0.saturating_sub(age_ns);
    let all_before = |of: &[Part], time| of.iter().all(|part| part.merged_at <= time);
    let rests = !parts.is_empty() && all_before(&parts, before(LATE_REST_NS));
    let is_many = rests || parts.len() >= LATE_PARTS_MAX;
    let is_much = bytes(&parts) * LATE_SHARE > bytes(&sealed);
    is_much || (is_many && all_before(&sealed, before(SEAL_AGAIN_NS)))
}

impl Plan {
    fn wants(&self, series: SeriesId) -> bool {
        self.series.binary_search(&series).is_ok()
    }

    fn overlaps(&self, time_min: i64, time_max: i64) -> bool {
        time_min <= *self.time.end() && time_max >= *self.time.start()
    }

    fn wants_field(&self, slot: u16) -> bool {
        self.fields
            .iter()
            .flatten()
            .any(|(wanted, _)| *wanted == slot)
    }

    /// The blocks of a segment that may hold wanted rows.
    fn blocks(&self, segment: &SegmentHandle) -> VecDeque<usize> {
        if !segment.rows.contains_key(&self.table) {
            return VecDeque::new();
        }
        let blocks = &segment.blocks;
        let in_time = |at: &usize| self.overlaps(blocks[*at].time_min, blocks[*at].time_max);
        if self.series.len() * 16 < blocks.len() {
            let of = |id: &SeriesId| segment.block_range(*id);
            return self.series.iter().flat_map(of).filter(in_time).collect();
        }
        let wanted = |at: &usize| self.wants(blocks[*at].series);
        (0..blocks.len()).filter(in_time).filter(wanted).collect()
    }

    /// The chunk of sorted rows; `None` if none of them is in time.
    fn chunk(&self, catalog: &Catalog, rows: &SeriesRows) -> Option<Chunk> {
        let mut rows = rows.in_time(&self.time);
        if rows.times.is_empty() {
            return None;
        }
        let columns = (0_u16..).zip(&self.fields).map(|(field, wanted)| {
            let (slot, field_type) = (*wanted)?;
            let column = rows.columns.iter().find(|column| column.field == slot)?;
            if column.values.is_empty() {
                return None;
            }
            let present = column
                .present
                .clone()
                .filter(|flags| flags.contains(&false));
            let values = widened(column.values.clone(), field_type);
            Some(Column {
                field,
                present,
                values,
            })
        });
        let columns = columns.collect();
        let times = std::mem::take(&mut rows.times);
        let series = Arc::clone(catalog.series(rows.series)?);
        Some(Chunk {
            series,
            times,
            columns,
        })
    }
}

impl ScanIter {
    fn at_first_segment(mut self) -> Self {
        if let Some(first) = self.view.segments.first() {
            self.blocks = self.plan.blocks(first);
        }
        self
    }

    /// The next block of the segments, if there is one.
    fn next_block(&mut self) -> Option<Result<SeriesRows, StoreError>> {
        loop {
            let segment = self.view.segments.get(self.segment)?;
            if let Some(at) = self.blocks.pop_front() {
                let wanted = |slot| self.plan.wants_field(slot);
                let read = segment.read(&segment.blocks[at], &wanted);
                return Some(read.inspect_err(|error| {
                    damage::report(segment, Place::Block(at), error, &self.view.state);
                }));
            }
            self.segment += 1;
            let next = self.view.segments.get(self.segment)?;
            self.blocks = self.plan.blocks(next);
        }
    }

    /// Gathers rows of level 0 by series. False once there are no more.
    fn gather(&mut self) -> Result<bool, StoreError> {
        let Plan { table, .. } = self.plan;
        let mut gathered: BTreeMap<SeriesId, SeriesRows> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        while count < GATHERED_ROWS_MAX && bytes < GATHERED_BYTES_MAX {
            let Some(list) = self.view.level0.get(self.list) else {
                break;
            };
            let Some(rows) = list.rows.get(self.row) else {
                self.list += 1;
                self.row = 0;
                continue;
            };
            self.row += 1;
            let hit = rows.extents.iter().any(|extent| {
                extent.table == table && self.plan.overlaps(extent.time_min, extent.time_max)
            });
            if !hit {
                continue;
            }
            let decoded = rows.expand(&|series| self.plan.wants(series), &mut |mut rows| {
                rows.columns
                    .retain(|column| self.plan.wants_field(column.field));
                count += rows.times.len();
                bytes += rows.bytes_held();
                match gathered.entry(rows.series) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(rows);
                    }
                    std::collections::btree_map::Entry::Occupied(mut entry) => {
                        entry.get_mut().append(rows);
                    }
                }
            });
            decoded.map_err(|_| {
                tracing::error!("a batch in memory does not decode any more: please report this");
                StoreError::damaged("level 0", 0, "a batch does not decode any more")
            })?;
        }
        if gathered.is_empty() {
            return Ok(false);
        }
        for mut rows in gathered.into_values() {
            rows.sort_by_time();
            self.ready
                .extend(self.plan.chunk(self.view.catalog(), &rows));
        }
        Ok(true)
    }
}

impl Iterator for ScanIter {
    type Item = Result<Chunk, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.unreadable.take() {
            return Some(Err(error));
        }
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            match self.next_block() {
                Some(Ok(rows)) => {
                    self.ready
                        .extend(self.plan.chunk(self.view.catalog(), &rows));
                    continue;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => {}
            }
            match self.gather() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimeNs = TimeNs(1_000 * HOUR_NS);

    fn part(sealed: bool, bytes: u64, hours_ago: i64) -> Part {
        Part {
            sealed,
            spoilt: false,
            bytes,
            merged_at: NOW.0 - hours_ago * HOUR_NS,
        }
    }

    #[test]
    fn parts_are_sealed_unless_they_are_large_or_spoilt() {
        let parts = [part(false, 100, 1), part(false, 100, 0)];
        assert!(is_worth_sealing(&parts, NOW));
        assert!(!is_worth_sealing(&parts[..1], NOW), "it is one already");
        let large = [parts[0], part(false, SEAL_BYTES_MAX, 0)];
        assert!(!is_worth_sealing(&large, NOW));
        let spoilt = Part {
            spoilt: true,
            ..parts[0]
        };
        assert!(!is_worth_sealing(&[parts[0], spoilt], NOW));
    }

    /// A device that writes into all partitions had all of them written again every hour.
    #[test]
    fn what_comes_late_is_sealed_when_it_is_worth_writing_all_again() {
        let sealed = part(true, 8_000, 25);
        let with = |more: &[Part]| is_worth_sealing(&[&[sealed], more].concat(), NOW);
        assert!(!with(&[]));
        assert!(!with(&[part(false, 1_000, 1)]));
        assert!(with(&[part(false, 1_001, 1)]), "more than an eighth");
        assert!(with(&[part(false, 1, 6)]), "nothing more comes");
        assert!(!with(&[part(false, 1, 6), part(false, 1, 5)]));
        assert!(with(&[part(false, 1, 0); LATE_PARTS_MAX]));
        let lately = part(true, 8_000, 23);
        let many = [&[lately][..], &[part(false, 1, 6); LATE_PARTS_MAX]].concat();
        assert!(!is_worth_sealing(&many, NOW), "it was just sealed");
    }
}
