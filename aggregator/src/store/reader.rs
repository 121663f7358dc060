//! Reading: a view is an immutable picture of everything at one log index; a scan goes through it
//! lazily, pruned by table, device and time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use journal::StorageFile;
use shared::batch::Column;
use shared::id::TimeNs;
use shared::reading::FieldType;

use super::damage::{self, Place};
use super::error::StoreError;
use super::gather::widened;
use super::memory::RowList;
use super::same_time::{self, MergedScan};
use super::sealing::{self, SealGroup};
use super::segment::SegmentHandle;
use crate::state::machine::HOUR_NS;
use crate::state::rows::{Rows, SeriesRows};
use crate::state::{
    AgentRow, Catalog, GapRow, LastValue, SameTime, Sealing, SeriesId, SeriesInfo, State, TableId,
    TableInfo,
};

/// Rows of level 0 that a scan gathers before it hands them out.
pub(super) const GATHERED_ROWS_MAX: usize = 65_536;
/// Memory of these rows above which it hands them out, but for those of the last batch.
pub(super) const GATHERED_BYTES_MAX: usize = 64 << 20;

/// So long after its end a partition still waits for what comes late.
const SEAL_AFTER_NS: i64 = 2 * HOUR_NS;
/// As long as more comes, a partition waits at most so long, after its end and the first part of it:
/// sealing writes all of it.
const SEAL_WAIT_NS: i64 = 36 * HOUR_NS;
/// Merges wait while one is sealed: parts that are so large together stay, and gain little by it.
pub(super) const SEAL_BYTES_MAX: u64 = 256 << 20;
/// What comes late for a sealed partition has it sealed again if it is more than this part of its
/// rows; else a day after it was sealed, once it lies in so many parts or none came for so long.
const LATE_SHARE: u64 = 8;
const LATE_PARTS_MAX: usize = 16;
const LATE_REST_NS: i64 = 6 * HOUR_NS;
const SEAL_AGAIN_NS: i64 = 24 * HOUR_NS;
/// A week before its rows go, what is to outlive them comes before all else: a seal may take minutes.
const URGENT_NS: i64 = 7 * 24 * HOUR_NS;

/// Everything at one log index. Queries hold it as long as they like.
#[derive(Debug)]
pub struct View {
    pub(super) index: u64,
    pub(super) state: State,
    pub(super) segments: Arc<Vec<Arc<SegmentHandle>>>,
    /// Sorted by name.
    pub(super) rollups: Arc<Vec<Arc<SegmentHandle>>>,
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
/// promised order; of a table that merges rows of the same time no time comes twice.
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
    pub(super) view: Arc<View>,
    pub(super) plan: Plan,
    /// Told before any row.
    pub(super) unreadable: Option<StoreError>,
    segment: usize,
    /// Blocks of the current segment that are still to be read, and its file once one was.
    blocks: VecDeque<usize>,
    content: Option<Arc<dyn StorageFile>>,
    list: usize,
    row: usize,
    ready: VecDeque<Chunk>,
    /// Of a table that merges rows of the same time: then nothing comes any other way.
    merged: Option<MergedScan>,
}

pub(super) struct Plan {
    table: TableId,
    /// Sorted.
    series: Vec<SeriesId>,
    /// Slots and types of the wanted fields; `None`: the table does not have it.
    pub(super) fields: Vec<Option<(u16, FieldType)>>,
    pub(super) time: RangeInclusive<i64>,
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

    /// Segments and rollups.
    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<SegmentHandle>> {
        self.segments.iter().chain(self.rollups.iter())
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

    /// Rows of a table, exactly; `None` if there is no such table, if it merges rows of the same time
    /// (those that lie in several places are one only when they are read), or if a segment is damaged
    /// so that nobody knows what is in it.
    pub fn row_count(&self, table: &str) -> Option<u64> {
        let info = self.catalog().table(table)?;
        let is_known = info.same_time == SameTime::Keep
            && !self.segments.iter().any(|segment| segment.is_opaque());
        is_known.then(|| self.known_rows(table)).flatten()
    }

    /// Rows of a table, at most, without what is in segments of which nobody knows it; `None` if there
    /// is no such table.
    pub fn known_rows(&self, table: &str) -> Option<u64> {
        let table = self.catalog().table(table)?.id;
        let merged = self
            .segments
            .iter()
            .map(|segment| segment.rows.get(&table).unwrap_or(&0));
        let recent = self.level0.iter().map(|list| list.row_count(table));
        Some(merged.sum::<u64>() + recent.sum::<u64>())
    }

    /// Tables of partitions that ended a while before `now` and lie in parts that are worth sealing, newest
    /// first; before them, oldest first, those whose rows are soon to go and of which rollups that are to
    /// outlive them are not written. One for which something came in the last `rest` may have to wait.
    pub fn unsealed(&self, now: TimeNs, rest: Duration) -> Vec<Sealing> {
        let mut due = self.due_for_sealing(now, rest);
        due.retain(|group| !self.is_entangled(group));
        let is_urgent = |group: &SealGroup| {
            group.ends_within(URGENT_NS, &self.state)
                && group.lacks_rollups(&self.rollups, &self.state)
        };
        let (urgent, others): (Vec<_>, Vec<_>) = due.into_iter().partition(is_urgent);
        let all = urgent.iter().rev().chain(&others);
        all.filter_map(SealGroup::sealing).collect()
    }

    /// The same, only of partitions of which this node has not all rollups that are to outlive the rows.
    pub fn lacking(&self, now: TimeNs, rest: Duration) -> Vec<Sealing> {
        let mut due = self.due_for_sealing(now, rest);
        due.retain(|group| {
            group.lacks_rollups(&self.rollups, &self.state) && !self.is_entangled(group)
        });
        due.iter().rev().filter_map(SealGroup::sealing).collect()
    }

    /// Tables of partitions that would be sealed, did not later segments of others hold rows of the same series
    /// and times.
    pub fn held_back(&self, now: TimeNs, rest: Duration) -> Vec<Sealing> {
        let mut due = self.due_for_sealing(now, rest);
        due.retain(|group| self.is_entangled(group));
        due.iter().filter_map(SealGroup::sealing).collect()
    }

    fn is_entangled(&self, group: &SealGroup) -> bool {
        same_time::is_entangled(&self.segments, group, self.catalog())
    }

    fn due_for_sealing(&self, now: TimeNs, rest: Duration) -> Vec<SealGroup> {
        let rest = i64::try_from(rest.as_nanos()).unwrap_or(i64::MAX);
        let groups = sealing::groups(&self.segments, &self.state);
        let is_due = |group: &SealGroup| {
            let parts: Vec<Part> = group.segments.iter().map(|one| Part::of(one)).collect();
            let lacks = || group.lacks_rollups(&self.rollups, &self.state);
            let worth = |end| is_worth_sealing(&parts, end, now, rest, &lacks);
            let window = group.partition.window();
            window.is_some_and(|window| worth(window.end()))
                || (can_be_sealed(&parts) && group.is_kept_for_others(&self.state))
        };
        let newest_first = groups.into_values().rev().flatten();
        newest_first.filter(is_due).collect()
    }

    /// A table that is not there has no rows.
    pub fn scan(self: &Arc<Self>, scan: Scan) -> ScanIter {
        let plan = self.plan(scan);
        let table = self.catalog().table_by_id(plan.table);
        let merges = table.is_some_and(|table| table.same_time == SameTime::Merge);
        let merged = merges.then(|| MergedScan::new(self, &plan));
        ScanIter {
            unreadable: self.unreadable(&plan),
            merged,
            view: Arc::clone(self),
            plan,
            segment: 0,
            blocks: VecDeque::new(),
            content: None,
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
        let field = |name: &String| {
            table
                .slot(name)
                .map(|at| (at, table.fields[usize::from(at)].1))
        };
        Plan {
            table: table.id,
            series: self.series_of(table, devices.as_deref()),
            fields: fields.iter().map(field).collect(),
            time,
        }
    }

    /// Those of some devices; `None`: all.
    pub(super) fn series_of(&self, table: &TableInfo, devices: Option<&[String]>) -> Vec<SeriesId> {
        let devices = devices.map(|devices| devices.iter().collect::<BTreeSet<_>>());
        let wanted = |id: &SeriesId| match (&devices, self.catalog().series(*id)) {
            (None, _) => true,
            (Some(devices), Some(info)) => devices.contains(&info.device),
            (Some(_), None) => false,
        };
        table.series().filter(wanted).collect()
    }
}

/// What sealing is decided by, of one segment.
#[derive(Debug, Clone, Copy)]
struct Part {
    sealed: bool,
    spoilt: bool,
    bytes: u64,
    rows: u64,
    merged_at: i64,
}

impl Part {
    fn of(segment: &SegmentHandle) -> Part {
        Part {
            sealed: segment.is_sealed(),
            spoilt: segment.is_spoilt(),
            bytes: segment.file.len,
            rows: segment.rows.values().sum(),
            merged_at: segment.head.merged_at,
        }
    }
}

fn can_be_sealed(all: &[Part]) -> bool {
    let bytes: u64 = all.iter().map(|part| part.bytes).sum();
    bytes <= SEAL_BYTES_MAX && !all.iter().any(|part| part.spoilt)
}

/// `lacks`: states that will outlive the rows are still to be written.
fn is_worth_sealing(
    all: &[Part],
    end: TimeNs,
    now: TimeNs,
    rest_ns: i64,
    lacks: &dyn Fn() -> bool,
) -> bool {
    let before = |age_ns| now.0.saturating_sub(age_ns);
    if end.0 > before(SEAL_AFTER_NS) || !can_be_sealed(all) {
        return false;
    }
    let (sealed, parts): (Vec<Part>, Vec<Part>) = all.iter().partition(|part| part.sealed);
    let all_before = |of: &[Part], time| of.iter().all(|part| part.merged_at <= time);
    let has_waited = |part: &Part| part.merged_at.max(end.0) <= before(SEAL_WAIT_NS);
    let rests = all_before(&parts, before(rest_ns)) || parts.iter().any(has_waited);
    if sealed.is_empty() {
        return rests && (parts.len() > 1 || lacks());
    }
    let rows = |of: &[Part]| of.iter().map(|one| one.rows).sum::<u64>();
    let is_much = rows(&parts).saturating_mul(LATE_SHARE) > rows(&sealed);
    let is_over = !parts.is_empty() && all_before(&parts, before(LATE_REST_NS));
    let is_many = is_over || parts.len() >= LATE_PARTS_MAX;
    let is_old = all_before(&sealed, before(SEAL_AGAIN_NS));
    (is_much && rests) || (is_old && (is_many || (parts.is_empty() && lacks())))
}

impl Plan {
    pub(super) fn wants(&self, series: SeriesId) -> bool {
        self.series.binary_search(&series).is_ok()
    }

    fn overlaps(&self, time_min: i64, time_max: i64) -> bool {
        time_min <= *self.time.end() && time_max >= *self.time.start()
    }

    pub(super) fn wants_field(&self, slot: u16) -> bool {
        self.fields
            .iter()
            .flatten()
            .any(|(wanted, _)| *wanted == slot)
    }

    /// Whether some rows of level 0 may be wanted.
    pub(super) fn hits(&self, rows: &Rows) -> bool {
        rows.extents.iter().any(|extent| {
            extent.table == self.table && self.overlaps(extent.time_min, extent.time_max)
        })
    }

    /// The blocks of a segment that may hold wanted rows.
    pub(super) fn blocks(&self, segment: &SegmentHandle) -> VecDeque<usize> {
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
    fn chunk(&self, catalog: &Catalog, rows: SeriesRows) -> Option<Chunk> {
        let mut rows = rows.in_time(&self.time);
        if rows.times.is_empty() {
            return None;
        }
        let columns = (0_u16..).zip(&self.fields).map(|(field, wanted)| {
            let (slot, field_type) = (*wanted)?;
            let found = rows.columns.iter();
            let mut found = found.enumerate().filter(|(_, column)| column.field == slot);
            let at = found.next()?.0;
            // A field may be asked for twice.
            let is_last = !self.fields[usize::from(field) + 1..].contains(wanted);
            let column = if is_last {
                rows.columns.swap_remove(at)
            } else {
                rows.columns[at].clone()
            };
            if column.values.is_empty() {
                return None;
            }
            Some(Column {
                field,
                present: column.present.filter(|flags| flags.contains(&false)),
                values: widened(column.values, field_type),
            })
        });
        let columns = columns.collect();
        let SeriesRows { series, times, .. } = rows;
        let series = Arc::clone(catalog.series(series)?);
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

    /// The next block of the segments, if there is one: where, and which. Blocks of a table that
    /// merges rows of the same time do not stand for themselves, and none of them comes this way.
    pub(super) fn next_block(&mut self) -> Option<(Arc<SegmentHandle>, usize)> {
        if self.merged.is_some() {
            return None;
        }
        loop {
            let segment = self.view.segments.get(self.segment)?;
            if let Some(at) = self.blocks.pop_front() {
                return Some((Arc::clone(segment), at));
            }
            self.content = None;
            self.segment += 1;
            let next = self.view.segments.get(self.segment)?;
            self.blocks = self.plan.blocks(next);
        }
    }

    /// The wanted rows of the block that came last; `None` if none of them is in time.
    pub(super) fn read(
        &mut self,
        segment: &SegmentHandle,
        block: usize,
    ) -> Result<Option<Chunk>, StoreError> {
        let tell = |place, error: &StoreError| {
            damage::report(segment, place, error, &self.view.state);
        };
        let content = match self.content.take() {
            Some(content) => content,
            None => segment
                .content()
                .inspect_err(|error| tell(Place::File, error))?,
        };
        let wanted = &|slot| self.plan.wants_field(slot);
        let rows = segment.read(&*content, &segment.blocks[block], wanted);
        self.content = Some(content);
        let rows = rows.inspect_err(|error| tell(Place::Block(block), error))?;
        Ok(self.plan.chunk(self.view.catalog(), rows))
    }

    /// Whether the next chunk is one of level 0 that was gathered with another.
    pub(super) fn is_gathered(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gathers rows of level 0 by series. False once there are no more.
    fn gather(&mut self) -> Result<bool, StoreError> {
        let mut gathered: BTreeMap<SeriesId, SeriesRows> = BTreeMap::new();
        let (mut count, mut bytes) = (0, 0);
        while count < GATHERED_ROWS_MAX && bytes < GATHERED_BYTES_MAX {
            let Some(list) = self.view.level0.get(self.list) else {
                break;
            };
            let next = list.next_of(self.row, &self.plan.series);
            let Some((next, rows)) = next.and_then(|at| Some((at, list.rows.get(at)?))) else {
                self.list += 1;
                self.row = 0;
                continue;
            };
            self.row = next + 1;
            if !self.plan.hits(rows) {
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
                .extend(self.plan.chunk(self.view.catalog(), rows));
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
            if let Some(merged) = &mut self.merged {
                match merged.next(&self.view, &self.plan)? {
                    Ok(rows) => self
                        .ready
                        .extend(self.plan.chunk(self.view.catalog(), rows)),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            if let Some((segment, block)) = self.next_block() {
                match self.read(&segment, block).transpose() {
                    Some(chunk) => return Some(chunk),
                    None => continue,
                }
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
    const ENDED: TimeNs = TimeNs(NOW.0 - SEAL_AFTER_NS);
    const LONG_AGO: TimeNs = TimeNs(NOW.0 - SEAL_WAIT_NS);
    const REST_NS: i64 = 2 * HOUR_NS;

    fn part(sealed: bool, rows: u64, hours_ago: i64) -> Part {
        Part {
            sealed,
            spoilt: false,
            bytes: 10,
            rows,
            merged_at: NOW.0 - hours_ago * HOUR_NS,
        }
    }

    fn is_worth_it(parts: &[Part], end: TimeNs) -> bool {
        is_worth_sealing(parts, end, NOW, REST_NS, &|| false)
    }

    #[test]
    fn parts_are_sealed_unless_they_are_large_or_spoilt() {
        let parts = [part(false, 100, 2), part(false, 100, 3)];
        assert!(is_worth_it(&parts, ENDED));
        assert!(!is_worth_it(&parts[..1], ENDED), "it is one already");
        assert!(!is_worth_it(&parts, TimeNs(ENDED.0 + 1)), "it goes on");
        let mut large = parts;
        large[1].bytes = SEAL_BYTES_MAX;
        assert!(!is_worth_it(&large, ENDED));
        let mut spoilt = parts;
        spoilt[1].spoilt = true;
        assert!(!is_worth_it(&spoilt, ENDED));
    }

    /// Devices that are all a day late had every partition written three times, and a year that was
    /// handed over at once each of its days again and again.
    #[test]
    fn as_long_as_more_comes_a_partition_waits_but_not_for_ever() {
        let parts = [part(false, 100, 36), part(false, 10, 1)];
        assert!(!is_worth_it(&parts, ENDED));
        assert!(!is_worth_it(&parts, TimeNs(LONG_AGO.0 + 1)));
        assert!(is_worth_it(&parts, LONG_AGO));
        let young = [part(false, 100, 35), part(false, 10, 1)];
        assert!(!is_worth_it(&young, LONG_AGO));
        let more = [part(true, 100, 3), part(false, 100, 1)];
        assert!(!is_worth_it(&more, LONG_AGO));
    }

    /// A device that writes into all partitions had all of them written again every hour.
    #[test]
    fn what_comes_late_is_sealed_when_it_is_worth_writing_all_again() {
        let sealed = part(true, 8_000, 25);
        let with = |more: &[Part]| is_worth_it(&[&[sealed], more].concat(), ENDED);
        assert!(!with(&[]));
        assert!(!with(&[part(false, 1_000, 2)]));
        assert!(with(&[part(false, 1_001, 2)]), "more than an eighth");
        assert!(with(&[part(false, 1, 6)]), "nothing more comes");
        assert!(!with(&[part(false, 1, 6), part(false, 1, 5)]));
        assert!(with(&[part(false, 1, 0); LATE_PARTS_MAX]));
        let lately = part(true, 8_000, 23);
        let many = [&[lately][..], &[part(false, 1, 6); LATE_PARTS_MAX]].concat();
        assert!(!is_worth_it(&many, ENDED), "it was just sealed");
    }
}
