//! Tables whose rows of one series and one time are one row: field by field the later in log order
//! wins, and what only the earlier has stays. Merges put such rows together, so that a segment holds
//! one of each time; scans do it with what lies in several places.
//!
//! Invariant: log order is that of the commands of segments, then that of level 0. A sealed segment
//! stands at the command that sealed it, and holds older rows. So a partition is not sealed while
//! a later segment of another one may hold rows of the same series and time: of another width, or wild.
//!
//! No block of such a table says what its rows are in the end: what is known of blocks (rows, values)
//! must not answer for it unless nothing else overlaps them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use shared::batch::Column;

use super::block::BlockMeta;
use super::damage::{self, Place};
use super::error::StoreError;
use super::gather::pick_values;
use super::merge::ranges;
use super::reader::{GATHERED_BYTES_MAX, GATHERED_ROWS_MAX, Plan, View};
use super::sealing::SealGroup;
use super::segment::SegmentHandle;
use crate::state::rows::{Rows, SeriesRows, each_present};
use crate::state::{Catalog, SameTime, SeriesId, TableId};

/// Values of level 0 that are gathered for many series together. Small in tests, so that they take all
/// ways.
const PASS_VALUES_MAX: u64 = if cfg!(test) {
    24
} else {
    (GATHERED_BYTES_MAX / 8) as u64
};
const CHUNK_ROWS_MAX: usize = if cfg!(test) { 6 } else { GATHERED_ROWS_MAX };
/// Memory of what is gathered, or of a chunk, but for what one batch or block adds last.
const BYTES_MAX: usize = if cfg!(test) {
    1_024
} else {
    GATHERED_BYTES_MAX
};
/// Rows of parts that a window opens, about; it gets narrower if they come to more than a chunk.
const WINDOW_ROWS: u64 = CHUNK_ROWS_MAX as u64 / 2;

impl SeriesRows {
    /// Rows of the same time become one. They are sorted by time, and those of one time in log order.
    pub(crate) fn combine_same_time(&mut self) {
        debug_assert!(self.times.is_sorted());
        if self.times.windows(2).all(|two| two[0] != two[1]) {
            return;
        }
        let mut times: Vec<i64> = Vec::new();
        let mut becomes = Vec::with_capacity(self.times.len());
        for time in &self.times {
            if times.last() != Some(time) {
                times.push(*time);
            }
            becomes.push(times.len() - 1);
        }
        for column in &mut self.columns {
            *column = combined(column, &becomes, times.len());
        }
        self.times = times;
    }
}

/// `becomes`: which of the new rows each old one is part of.
fn combined(column: &Column, becomes: &[usize], rows: usize) -> Column {
    let mut value_of: Vec<Option<usize>> = vec![None; rows];
    each_present(becomes.len(), column, |row, value| {
        value_of[becomes[row]] = Some(value);
    });
    let values: Vec<usize> = value_of.iter().flatten().copied().collect();
    let present = (values.len() < rows).then(|| value_of.iter().map(Option::is_some).collect());
    Column {
        field: column.field,
        present,
        values: pick_values(&column.values, &values),
    }
}

/// Whether a segment of another partition may hold rows of a merging table that have series and time in
/// common with those of an older segment of this group. Sealing moves segments only to later places in
/// the log's order, so it would take these past the other. It takes none past one that is older than
/// all that it shares rows with: a wild clock that once told a time which came later is in nobody's way.
pub(super) fn is_entangled(
    segments: &[Arc<SegmentHandle>],
    group: &SealGroup,
    catalog: &Catalog,
) -> bool {
    let partition = group.partition;
    let tables: BTreeSet<TableId> = catalog
        .tables()
        .filter(|table| table.same_time == SameTime::Merge)
        .map(|table| table.id)
        .collect();
    if tables.is_empty() {
        return false;
    }
    let merges = |table: &TableId| tables.contains(table);
    let merging = |segment: &&Arc<SegmentHandle>| segment.rows.keys().any(merges);
    let ours: Vec<_> = group.segments.iter().filter(merging).collect();
    let mut near = segments.iter().filter(merging).filter(|other| {
        let other = other.head.partition;
        other != partition && partition.may_share_times_with(other)
    });
    let overtaken = |other: &SegmentHandle, block: &BlockMeta| {
        let overlaps =
            |own: &BlockMeta| own.time_min <= block.time_max && own.time_max >= block.time_min;
        let of_series = |segment: &SegmentHandle| segment.block_range(block.series);
        let mut older = ours
            .iter()
            .filter(|own| own.log_order() < other.log_order());
        catalog.merges_same_time(block.series)
            && older.any(|own| own.blocks[of_series(own)].iter().any(overlaps))
    };
    near.any(|other| other.blocks.iter().any(|block| overtaken(other, block)))
}

/// Reads a merging table: one series after another, each in windows of time.
pub(super) struct MergedScan {
    /// By series, and of one series in log order.
    blocks: Vec<(SeriesId, Source)>,
    passes: VecDeque<RangeInclusive<SeriesId>>,
    /// What level 0 has of each series, about, in values.
    weights: BTreeMap<SeriesId, u64>,
    sweeps: VecDeque<Sweep>,
}

/// Where rows are read from.
#[derive(Debug, Clone)]
enum Source {
    Block { segment: usize, block: usize },
    Fresh { list: usize, row: usize },
    Gathered(SeriesRows),
}

/// Rows of one series in one place.
#[derive(Debug, Clone)]
struct Part {
    /// Its place in log order.
    order: usize,
    time_min: i64,
    time_max: i64,
    rows: u64,
    source: Source,
}

/// One series, from its earliest to its latest row.
struct Sweep {
    series: SeriesId,
    /// By their first time.
    waiting: VecDeque<Part>,
    /// Begun, and perhaps not ended before `from`.
    open: Vec<Part>,
    /// Everything before was handed out; `None`: everything.
    from: Option<i64>,
}

impl MergedScan {
    pub(super) fn new(view: &View, plan: &Plan) -> Self {
        let mut segments: Vec<usize> = (0..view.segments.len()).collect();
        segments.sort_by_key(|at| view.segments[*at].log_order());
        let mut blocks = Vec::new();
        for segment in segments {
            let handle = &view.segments[segment];
            let wanted = plan.blocks(handle).into_iter();
            blocks.extend(wanted.map(|block| {
                (
                    handle.blocks[block].series,
                    Source::Block { segment, block },
                )
            }));
        }
        blocks.sort_by_key(|(series, _)| *series);
        let mut weights: BTreeMap<SeriesId, u64> = BTreeMap::new();
        for rows in fresh(view, plan).map(|(_, rows)| rows) {
            rows.weights(|series, values| {
                if plan.wants(series) {
                    *weights.entry(series).or_insert(0) += values;
                }
            });
        }
        let mut all = weights.clone();
        all.extend(
            blocks
                .iter()
                .filter(|(series, _)| !weights.contains_key(series))
                .map(|(series, _)| (*series, 0)),
        );
        Self {
            blocks,
            passes: ranges(all, PASS_VALUES_MAX).into(),
            weights,
            sweeps: VecDeque::new(),
        }
    }

    /// Sorted rows of one series, of which no other rows with these times follow.
    pub(super) fn next(
        &mut self,
        view: &View,
        plan: &Plan,
    ) -> Option<Result<SeriesRows, StoreError>> {
        loop {
            if let Some(sweep) = self.sweeps.front_mut() {
                match sweep.next(view, plan) {
                    Ok(None) => drop(self.sweeps.pop_front()),
                    Ok(Some(rows)) => return Some(Ok(rows)),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            let pass = self.passes.pop_front()?;
            if let Err(error) = self.begin(&pass, view, plan) {
                return Some(Err(error));
            }
        }
    }

    /// Makes the sweeps of some series, or two passes of one that has too much in level 0.
    fn begin(
        &mut self,
        pass: &RangeInclusive<SeriesId>,
        view: &View,
        plan: &Plan,
    ) -> Result<(), StoreError> {
        let fresh: Vec<SeriesId> = self
            .weights
            .range(pass.clone())
            .map(|(one, _)| *one)
            .collect();
        let weight: u64 = fresh.iter().map(|series| self.weights[series]).sum();
        let recent = if weight > PASS_VALUES_MAX {
            None
        } else {
            gathered(view, plan, pass)?
        };
        let recent = match recent {
            Some(recent) => recent,
            None if fresh.len() > 1 => {
                let middle = fresh[fresh.len() / 2];
                self.passes.push_front(middle..=*pass.end());
                self.passes
                    .push_front(*pass.start()..=SeriesId(middle.0 - 1));
                return Ok(());
            }
            // One series that has more than is gathered: each batch of it is a part.
            None => fresh_parts(view, plan, pass),
        };
        let mut parts: BTreeMap<SeriesId, Vec<Part>> = BTreeMap::new();
        let first = self
            .blocks
            .partition_point(|(series, _)| series < pass.start());
        let ours = self.blocks[first..].iter();
        for (series, source) in ours.take_while(|(series, _)| series <= pass.end()) {
            let Source::Block { segment, block } = source else {
                continue;
            };
            let meta = &view.segments[*segment].blocks[*block];
            let of = parts.entry(*series).or_default();
            of.push(Part {
                order: of.len(),
                time_min: meta.time_min,
                time_max: meta.time_max,
                rows: u64::from(meta.rows),
                source: source.clone(),
            });
        }
        for (series, part) in recent {
            let of = parts.entry(series).or_default();
            let order = of.len();
            of.push(Part { order, ..part });
        }
        let sweep = |(series, parts)| Sweep::new(series, parts, *plan.time.start());
        self.sweeps = parts.into_iter().map(sweep).collect();
        Ok(())
    }
}

/// The rows of level 0 that may be wanted, in log order, with their place.
fn fresh<'a>(view: &'a View, plan: &'a Plan) -> impl Iterator<Item = ((usize, usize), &'a Rows)> {
    let lists = view.level0.iter().enumerate();
    let all = lists.flat_map(|(list, rows)| {
        let rows = rows.rows.iter().enumerate();
        rows.map(move |(row, rows)| ((list, row), &**rows))
    });
    all.filter(|(_, rows)| plan.hits(rows))
}

fn fresh_parts(view: &View, plan: &Plan, pass: &RangeInclusive<SeriesId>) -> Vec<(SeriesId, Part)> {
    let mut parts = Vec::new();
    for ((list, row), rows) in fresh(view, plan) {
        let mut series: BTreeSet<SeriesId> = BTreeSet::new();
        rows.weights(|one, _| {
            if pass.contains(&one) && plan.wants(one) {
                series.insert(one);
            }
        });
        let extents = || rows.extents.iter();
        let part = Part {
            order: 0,
            time_min: extents().map(|extent| extent.time_min).min().unwrap_or(0),
            time_max: extents().map(|extent| extent.time_max).max().unwrap_or(0),
            rows: rows.row_count(),
            source: Source::Fresh { list, row },
        };
        parts.extend(series.into_iter().map(|one| (one, part.clone())));
    }
    parts
}

/// What level 0 has of some series; `None` if it is too much.
fn gathered(
    view: &View,
    plan: &Plan,
    pass: &RangeInclusive<SeriesId>,
) -> Result<Option<Vec<(SeriesId, Part)>>, StoreError> {
    let mut bytes = 0;
    let mut all: BTreeMap<SeriesId, SeriesRows> = BTreeMap::new();
    for (_, rows) in fresh(view, plan) {
        let wanted = |series| pass.contains(&series) && plan.wants(series);
        expand(rows, plan, &wanted, &mut |rows| {
            bytes += rows.bytes_held();
            append(&mut all, rows);
        })?;
        if bytes > BYTES_MAX {
            return Ok(None);
        }
    }
    let part = |(series, mut rows): (SeriesId, SeriesRows)| {
        rows.sort_by_time();
        rows.combine_same_time();
        let (time_min, time_max) = (*rows.times.first()?, *rows.times.last()?);
        let part = Part {
            order: 0,
            time_min,
            time_max,
            rows: rows.times.len() as u64,
            source: Source::Gathered(rows),
        };
        Some((series, part))
    };
    Ok(Some(all.into_iter().filter_map(part).collect()))
}

fn append(all: &mut BTreeMap<SeriesId, SeriesRows>, rows: SeriesRows) {
    match all.get_mut(&rows.series) {
        Some(before) => before.append(rows),
        None => {
            all.insert(rows.series, rows);
        }
    }
}

fn expand(
    rows: &Rows,
    plan: &Plan,
    wanted: &dyn Fn(SeriesId) -> bool,
    sink: &mut dyn FnMut(SeriesRows),
) -> Result<(), StoreError> {
    let decoded = rows.expand(wanted, &mut |mut rows| {
        rows.columns.retain(|column| plan.wants_field(column.field));
        sink(rows);
    });
    decoded.map_err(|_| StoreError::damaged("level 0", 0, "a batch does not decode any more"))
}

impl Sweep {
    fn new(series: SeriesId, mut parts: Vec<Part>, from: i64) -> Self {
        parts.sort_by_key(|part| part.time_min);
        Self {
            series,
            waiting: parts.into(),
            open: Vec::new(),
            from: Some(from),
        }
    }

    /// The rows of the next window; `None` once there are no more.
    fn next(&mut self, view: &View, plan: &Plan) -> Result<Option<SeriesRows>, StoreError> {
        while let Some(from) = self.from {
            self.open.retain(|part| part.time_max >= from);
            let Some(first) = self.waiting.front().map(|part| part.time_min) else {
                if self.open.is_empty() {
                    return Ok(None);
                }
                if let Some(rows) = self.window(from..=*plan.time.end(), view, plan)? {
                    return Ok(Some(rows));
                }
                continue;
            };
            let from = if self.open.is_empty() {
                from.max(first)
            } else {
                from
            };
            let to = self.open_window(from).min(*plan.time.end());
            if let Some(rows) = self.window(from..=to, view, plan)? {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    /// Opens parts until they have enough rows. Returns where the first of the others begins.
    fn open_window(&mut self, from: i64) -> i64 {
        let mut rows = 0;
        while let Some(part) = self.waiting.front() {
            if part.time_min > from && rows >= WINDOW_ROWS {
                return part.time_min - 1;
            }
            rows += part.rows;
            self.open.extend(self.waiting.pop_front());
        }
        i64::MAX
    }

    /// Reads what is open, in log order. The window ends earlier where there is more than a chunk.
    fn window(
        &mut self,
        time: RangeInclusive<i64>,
        view: &View,
        plan: &Plan,
    ) -> Result<Option<SeriesRows>, StoreError> {
        let (from, mut to) = time.into_inner();
        self.open.sort_by_key(|part| part.order);
        let mut all: Option<SeriesRows> = None;
        for part in &self.open {
            if part.time_min > to {
                continue;
            }
            let Some(rows) = part.read(self.series, &(from..=to), view, plan)? else {
                continue;
            };
            if rows.times.is_empty() {
                continue;
            }
            match &mut all {
                Some(all) => all.append(rows),
                None => all = Some(rows),
            }
            if let Some(all) = &mut all {
                to = shortened(all, from, to);
            }
        }
        self.from = to.checked_add(1).filter(|_| to < *plan.time.end());
        Ok(all.map(|mut rows| {
            rows.sort_by_time();
            rows.combine_same_time();
            rows
        }))
    }
}

/// Cuts off the later half of rows that are too many for a chunk. Returns the last time that is left.
fn shortened(rows: &mut SeriesRows, from: i64, to: i64) -> i64 {
    let (rows_max, bytes_max) = (CHUNK_ROWS_MAX, BYTES_MAX);
    if rows.times.len() <= rows_max && rows.bytes_held() <= bytes_max {
        return to;
    }
    rows.sort_by_time();
    rows.combine_same_time();
    // Else nearly every part that follows would have everything put in order again.
    let is_half = 2 * rows.times.len() > rows_max || 2 * rows.bytes_held() > bytes_max;
    if !is_half || rows.times.len() < 2 {
        return to;
    }
    let to = rows.times[rows.times.len() / 2] - 1;
    *rows = rows.clone().in_time(&(from..=to));
    to
}

impl Part {
    /// Its rows of a time range, sorted.
    fn read(
        &self,
        series: SeriesId,
        time: &RangeInclusive<i64>,
        view: &View,
        plan: &Plan,
    ) -> Result<Option<SeriesRows>, StoreError> {
        match &self.source {
            Source::Gathered(rows) => Ok(Some(rows.clone().in_time(time))),
            Source::Block { segment, block } => {
                let segment = &view.segments[*segment];
                let tell = |place, error: &StoreError| {
                    damage::report(segment, place, error, &view.state);
                };
                let content = segment.content();
                let content = content.inspect_err(|error| tell(Place::File, error))?;
                let wanted = &|slot| plan.wants_field(slot);
                let rows = segment.read(&*content, &segment.blocks[*block], wanted);
                let rows = rows.inspect_err(|error| tell(Place::Block(*block), error))?;
                Ok(Some(rows.in_time(time)))
            }
            Source::Fresh { list, row } => {
                let rows = view.level0[*list].rows.get(*row);
                let mut all = BTreeMap::new();
                if let Some(rows) = rows {
                    expand(rows, plan, &|one| one == series, &mut |rows| {
                        append(&mut all, rows);
                    })?;
                }
                Ok(all.into_values().next().map(|mut rows| {
                    rows.sort_by_time();
                    rows.in_time(time)
                }))
            }
        }
    }
}
