//! Rollups: of each block of a sealed segment the states of its rows by buckets of one width, in a file
//! beside the segment. A state is that of the rows, bit by bit, whatever comes later: rows that come late
//! lie in other segments. What a state holds stands in columns of numbers, one row a bucket, so that
//! `block` writes it and only what is asked for is decoded. Columns in `docs/formats.md`.

use std::ops::RangeInclusive;

use shared::batch::{Column, Values};
use shared::id::Digest;
use shared::reading::{FieldType, Value};

use super::aggregate::{Buckets, state_of};
use super::block::{BlockMeta, ColumnStats};
use super::group::{FieldState, Group, Measures};
use super::partition::{ROLLUP, SEALED};
use super::sum::Sum;
use crate::state::bytes::{ReadFault, Reader};
use crate::state::catalog::TABLE_FIELDS_MAX;
use crate::state::rows::SeriesRows;
use crate::state::{SeriesId, State};

const SECOND_NS: i64 = 1_000_000_000;
/// Numbers of columns that a field has: a column is told by its field times this, and what it holds.
const KINDS: u16 = 16;
const _: () = assert!(
    TABLE_FIELDS_MAX << 4 == 1 << 16 && KINDS == 1 << 4,
    "a u16 tells columns"
);

/// What a column holds of its field.
const COUNT: u16 = 0;
const SUM: u16 = 1;
/// Of sums of ints, where one of them needs more than 64 bits.
const SUM_HIGH: u16 = 2;
const MIN: u16 = 3;
const MAX: u16 = 4;
const FIRST: u16 = 5;
const LAST: u16 = 6;
/// Nanoseconds after the bucket's start; left out where they are those of the rows.
const FIRST_AT: u16 = 7;
const LAST_AT: u16 = 8;
/// And of the rows: these are no field's.
const ROWS: u16 = 13;
const TIME_MIN: u16 = 14;
const TIME_MAX: u16 = 15;

const ALL: Measures = Measures {
    sum: true,
    extremes: true,
    ends: true,
};

/// How long the buckets of a rollup are: whole seconds, above 0. They begin at 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resolution(u32);

/// From when on states of a block are worth their bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worth {
    /// Rows of a block; shorter ones are decoded as fast.
    pub(super) rows_min: usize,
    /// Buckets of a block. What is one is answered by the segment's index.
    pub(super) cells_min: usize,
    /// Rows a bucket. A state has about ten values where a row has one.
    pub(super) cell_rows_min: usize,
    /// Also of rows of nothing but texts.
    pub(super) texts: bool,
}

/// How a series is rolled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rolling {
    pub(super) resolution: Resolution,
    /// For how many days the states are kept for their own sake: of all blocks, then, as they may be all
    /// that is left. `None`: as long as the rows.
    pub(super) kept_days: Option<u32>,
}

impl Default for Worth {
    fn default() -> Self {
        Self {
            rows_min: 128,
            cells_min: 2,
            cell_rows_min: 24,
            texts: false,
        }
    }
}

impl Worth {
    /// Of what is to be there when the rows are gone.
    pub(super) const ALWAYS: Self = Self {
        rows_min: 0,
        cells_min: 0,
        cell_rows_min: 0,
        texts: true,
    };
}

impl Resolution {
    pub(super) fn new(seconds: u32) -> Option<Self> {
        (seconds > 0).then_some(Self(seconds))
    }

    pub(super) fn seconds(self) -> u32 {
        self.0
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        Self::new(from.u32()?).ok_or(ReadFault::Invalid("buckets of no length"))
    }

    pub(super) fn width_ns(self) -> i64 {
        i64::from(self.0) * SECOND_NS
    }

    pub(super) fn buckets(self) -> Buckets {
        Buckets::new(self.width_ns(), 0).expect("above 0")
    }

    /// Whether each of its buckets lies in one of these.
    pub(super) fn fits(self, buckets: Option<Buckets>) -> bool {
        buckets.is_none_or(|buckets| buckets.are_made_of(self.width_ns()))
    }

    /// Whether a time ends within one of its buckets, where rows between a least and a greatest time may
    /// be on the other side.
    pub(super) fn is_cut(self, time: &RangeInclusive<i64>, (least, greatest): (i64, i64)) -> bool {
        let begins_one = |at: i64| at.rem_euclid(self.width_ns()) == 0;
        let begins_within = *time.start() > least && !begins_one(*time.start());
        let ends_within = |end: i64| end < greatest && !begins_one(end + 1);
        begins_within || ends_within(*time.end())
    }
}

/// The buckets of which the table of a series is to have states. None of a table that merges rows of the
/// same time: what a segment says of these is not the last word.
pub(super) fn rollings(state: &State, series: SeriesId) -> Vec<Rolling> {
    let catalog = state.catalog();
    let table = catalog.series(series).map(|info| info.table.as_str());
    let Some(table) = table.filter(|_| !catalog.merges_same_time(series)) else {
        return Vec::new();
    };
    let rollups = state.table_settings().rollups_of(table);
    let rolling = |one: &crate::state::Rollup| {
        Some(Rolling {
            resolution: Resolution::new(one.width_seconds())?,
            kept_days: one.retention_days(),
        })
    };
    rollups.all().iter().filter_map(rolling).collect()
}

/// The name of a rollup begins as that of its segment.
pub(super) fn file_name(segment: &str, resolution: Option<Resolution>, digest: Digest) -> String {
    let seconds = resolution.map_or(0, Resolution::seconds);
    format!("{}{seconds}.{digest}{ROLLUP}", stem(segment))
}

/// What the names of a segment's rollups begin with, and no others do.
pub(super) fn stem(segment: &str) -> &str {
    match segment.strip_suffix(SEALED) {
        // With the point behind the digest.
        Some(rest) => &segment[..=rest.len()],
        None => segment,
    }
}

/// What the name of a rollup begins with, as that of its segment.
pub(super) fn stem_of_rollup(name: &str) -> Option<&str> {
    let (rest, _digest) = name.strip_suffix(ROLLUP)?.rsplit_once('.')?;
    let (rest, _seconds) = rest.rsplit_once('.')?;
    // With the point behind the digest.
    Some(&name[..=rest.len()])
}

/// The states of a block's rows, one row a bucket; `None` if they are not worth it.
pub(super) fn cells(rows: &SeriesRows, resolution: Resolution, worth: Worth) -> Option<SeriesRows> {
    let is_number = |column: &Column| !matches!(column.values, Values::Text(_));
    let has_some = worth.texts || rows.columns.iter().any(is_number);
    if rows.times.len() < worth.rows_min || !has_some {
        return None;
    }
    let buckets = resolution.buckets();
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    let mut row = 0;
    while row < rows.times.len() {
        let (start, count) = buckets.run(&rows.times[row..]);
        starts.push(start?);
        row += count;
        ends.push(row);
        if starts.len() * worth.cell_rows_min > rows.times.len() {
            return None;
        }
    }
    if starts.len() < worth.cells_min {
        return None;
    }
    let some = rows.columns.iter().filter(|one| !one.values.is_empty());
    let of_field = |column| columns_of(column, &rows.times, &starts, &ends);
    let mut columns = columns_of_rows(&rows.times, &starts, &ends);
    columns.extend(some.flat_map(of_field));
    Some(SeriesRows {
        series: rows.series,
        times: starts,
        columns,
    })
}

fn columns_of_rows(times: &[i64], starts: &[i64], ends: &[usize]) -> Vec<Column> {
    let begins = std::iter::once(0).chain(ends.iter().copied());
    let runs: Vec<(usize, usize)> = begins.zip(ends.iter().copied()).collect();
    let ints = |of: &dyn Fn((usize, (usize, usize))) -> i64| {
        let all = runs.iter().copied().enumerate().map(of);
        Values::Int(all.collect())
    };
    let len = |(_, (from, to))| i64::try_from(to - from).expect("BLOCK_ROWS_MAX");
    let column = |field, values| Column {
        field,
        present: None,
        values,
    };
    vec![
        column(ROWS, ints(&len)),
        column(TIME_MIN, ints(&|(at, (from, _))| times[from] - starts[at])),
        column(TIME_MAX, ints(&|(at, (_, to))| times[to - 1] - starts[at])),
    ]
}

/// What is kept of one field. Of a text only how many there are.
fn columns_of(column: &Column, times: &[i64], starts: &[i64], ends: &[usize]) -> Vec<Column> {
    let is_text = matches!(column.values, Values::Text(_));
    let measures = if is_text { Measures::default() } else { ALL };
    let (mut row, mut value) = (0, 0);
    let states = ends.iter().map(|end| {
        let run = std::mem::replace(&mut row, *end)..*end;
        state_of(column, times, &run, &mut value, measures)
    });
    let states: Vec<FieldState> = states.collect();
    let id = |kind: u16| column.field * KINDS + kind;
    let count = |state: &FieldState| Some(Value::Int(state.count.cast_signed()));
    let mut columns = vec![gathered(id(COUNT), states.iter().map(count))];
    if is_text {
        return columns;
    }
    columns.extend([
        gathered(id(MIN), states.iter().map(|state| state.min.clone())),
        gathered(id(MAX), states.iter().map(|state| state.max.clone())),
        gathered(
            id(FIRST),
            states.iter().map(|state| Some(state.first.clone()?.1)),
        ),
        gathered(
            id(LAST),
            states.iter().map(|state| Some(state.last.clone()?.1)),
        ),
    ]);
    if !matches!(column.values, Values::Bool(_)) {
        put_sums(&id, &states, &mut columns);
    }
    let ends_of_rows = |at: usize| {
        let from = at.checked_sub(1).map_or(0, |before| ends[before]);
        (times[from], times[ends[at] - 1])
    };
    let first_at = |state: &FieldState| Some(state.first.as_ref()?.0);
    let last_at = |state: &FieldState| Some(state.last.as_ref()?.0);
    let differs = |of: &dyn Fn(&FieldState) -> Option<i64>, rows: &dyn Fn(usize) -> i64| {
        let mut all = states.iter().enumerate();
        all.any(|(at, state)| of(state).is_some_and(|time| time != rows(at)))
    };
    let after_start = |of: &dyn Fn(&FieldState) -> Option<i64>, kind| {
        let all = states.iter().zip(starts);
        gathered(
            id(kind),
            all.map(|(state, start)| Some(Value::Int(of(state)? - start))),
        )
    };
    if differs(&first_at, &|at| ends_of_rows(at).0) {
        columns.push(after_start(&first_at, FIRST_AT));
    }
    if differs(&last_at, &|at| ends_of_rows(at).1) {
        columns.push(after_start(&last_at, LAST_AT));
    }
    columns
}

fn put_sums(id: &dyn Fn(u16) -> u16, states: &[FieldState], columns: &mut Vec<Column>) {
    let low = |state: &FieldState| match state.sum? {
        Sum::Float(sum) => Some(Value::Float(sum)),
        // Two's complement: the lowest 64 bits.
        Sum::Int(sum) => Some(Value::Int(low_bits(sum))),
    };
    columns.push(gathered(id(SUM), states.iter().map(low)));
    let high = |state: &FieldState| match state.sum? {
        Sum::Float(_) => None,
        Sum::Int(sum) => Some(Value::Int(low_bits(sum >> 64))),
    };
    let is_large = |state: &FieldState| matches!(state.sum, Some(Sum::Int(sum)) if i64::try_from(sum).is_err());
    if states.iter().any(is_large) {
        columns.push(gathered(id(SUM_HIGH), states.iter().map(high)));
    }
}

fn low_bits(sum: i128) -> i64 {
    let low = sum & i128::from(u64::MAX);
    u64::try_from(low).expect("64 bits").cast_signed()
}

/// A column of values of one type, some of which are not there.
fn gathered(field: u16, all: impl Iterator<Item = Option<Value>>) -> Column {
    let all: Vec<Option<Value>> = all.collect();
    let flags: Vec<bool> = all.iter().map(Option::is_some).collect();
    let some = all.into_iter().flatten();
    let mut values = Values::Bool(Vec::new());
    for value in some {
        match (value, &mut values) {
            (Value::Float(one), Values::Float(all)) => all.push(one),
            (Value::Int(one), Values::Int(all)) => all.push(one),
            (Value::Bool(one), Values::Bool(all)) => all.push(one),
            (Value::Float(one), _) => values = Values::Float(vec![one]),
            (Value::Int(one), _) => values = Values::Int(vec![one]),
            (Value::Bool(_) | Value::Text(_), _) => unreachable!("of one type, and no text"),
        }
    }
    Column {
        field,
        present: flags.contains(&false).then_some(flags),
        values,
    }
}

/// What a column holds, for people.
pub(super) fn column_name(column: u16) -> String {
    let (field, kind) = (column / KINDS, column % KINDS);
    let kind = match kind {
        COUNT => "count",
        SUM => "sum",
        SUM_HIGH => "sum, bits above 64",
        MIN => "min",
        MAX => "max",
        FIRST => "first",
        LAST => "last",
        FIRST_AT => "time of first",
        LAST_AT => "time of last",
        ROWS => return "rows".to_owned(),
        TIME_MIN => return "least time".to_owned(),
        TIME_MAX => return "greatest time".to_owned(),
        other => return format!("field {field}, unknown {other}"),
    };
    format!("field {field} {kind}")
}

/// A field's place and type, `None` if the table does not have it, and what is asked of it.
pub(super) type AskedField = (Option<(u16, FieldType)>, Measures);

/// What is asked of fields, found by place as fast in wide tables.
pub(super) struct Asked {
    /// As they were asked for.
    pub(super) fields: Vec<AskedField>,
    /// Those that the table has, sorted, each once.
    by_slot: Vec<(u16, FieldType, Measures)>,
    /// Texts of which more is asked than their number.
    texts: Vec<u16>,
}

impl Asked {
    pub(super) fn new(fields: Vec<AskedField>) -> Self {
        let known = |(slot, measures): &AskedField| {
            let (slot, field_type) = (*slot)?;
            Some((slot, field_type, *measures))
        };
        let mut by_slot: Vec<_> = fields.iter().filter_map(known).collect();
        by_slot.sort_by_key(|(slot, ..)| *slot);
        by_slot.dedup_by(|again, kept| {
            let is_same = again.0 == kept.0;
            if is_same {
                kept.2 = kept.2.with(again.2);
            }
            is_same
        });
        let is_text = |(_, field_type, measures): &&(u16, FieldType, Measures)| {
            *field_type == FieldType::Text && (measures.extremes || measures.ends)
        };
        let texts = by_slot.iter().filter(is_text);
        Self {
            texts: texts.map(|(slot, ..)| *slot).collect(),
            fields,
            by_slot,
        }
    }

    /// Whether a rollup of a block cannot tell all: not of texts that the block may have.
    pub(super) fn needs_rows_of(&self, block: &BlockMeta) -> bool {
        let may_be_there = |slot: &u16| block.columns.is_empty() || block.stats(*slot).is_some();
        self.texts.iter().any(may_be_there)
    }

    /// Whether a column of the rollup of a block answers for some of it.
    pub(super) fn wants(&self, column: u16, block: &BlockMeta) -> bool {
        let (field, kind) = (column / KINDS, column % KINDS);
        if kind >= ROWS {
            return true;
        }
        let Ok(at) = self
            .by_slot
            .binary_search_by_key(&field, |(slot, ..)| *slot)
        else {
            return false;
        };
        let (_, field_type, measures) = self.by_slot[at];
        // Whether ints that have become floats add up without rounding is told by their extremes.
        let may_be_widened = || {
            let stats = block.stats(field);
            let is_float = |stats: &ColumnStats| matches!(stats.first, Some(Value::Float(_)));
            field_type == FieldType::Float && !stats.is_some_and(is_float)
        };
        match kind {
            COUNT => true,
            SUM | SUM_HIGH => measures.sum,
            MIN | MAX => measures.extremes || (measures.sum && may_be_widened()),
            _ => measures.ends,
        }
    }
}

/// The states that a block of a rollup has within a time, in order; `None` if they do not tell all
/// that is asked: where the time cuts a bucket, and of texts. `rows`: how many they are of, if that is
/// known.
pub(super) fn groups(
    cells: &SeriesRows,
    rows: Option<u64>,
    time: &RangeInclusive<i64>,
    fields: &[AskedField],
) -> Result<Option<Vec<Group>>, ReadFault> {
    // They are looked up.
    if !cells.columns.is_sorted_by(|a, b| a.field < b.field) {
        return Err(MALFORMED);
    }
    let of_rows = columns_of_field(&cells.columns, ROWS / KINDS);
    let lane = |kind| Lane::of(of_rows, kind).ok_or(MALFORMED);
    let (counts, least, greatest) = (lane(ROWS)?, lane(TIME_MIN)?, lane(TIME_MAX)?);
    let of_field = |(slot, measures): &AskedField| {
        let (slot, field_type) = (*slot)?;
        let columns = columns_of_field(&cells.columns, slot);
        Some(FieldCells::of(columns, slot, field_type, *measures))
    };
    let fields: Vec<Option<FieldCells<'_>>> = fields.iter().map(of_field).collect();
    let (mut groups, mut told, mut tells_all) = (Vec::new(), 0_u64, true);
    for (at, start) in cells.times.iter().copied().enumerate() {
        let rows = counts.int(at)?.cast_unsigned();
        told = told.checked_add(rows).ok_or(MALFORMED)?;
        let times = (least.time(at, start)?, greatest.time(at, start)?);
        let (time_min, time_max) = times;
        if time_max < *time.start() || time_min > *time.end() {
            continue;
        }
        tells_all &= time.contains(&time_min) && time.contains(&time_max);
        let mut states = Vec::with_capacity(fields.len());
        for field in &fields {
            let state = match field {
                Some(field) => field.state(at, start, times)?,
                None => Some(FieldState::default()),
            };
            tells_all &= state.is_some();
            states.extend(state);
        }
        groups.push(Group {
            bucket: Some(start),
            rows,
            time_min,
            time_max,
            fields: states,
        });
    }
    if rows.is_some_and(|rows| told != rows) {
        return Err(ReadFault::Invalid("a rollup of other rows"));
    }
    Ok(tells_all.then_some(groups))
}

/// The same of rows that are gone, whole buckets: ints that are floats by now are added up as such,
/// rounded once.
pub(super) fn groups_shown(
    cells: &SeriesRows,
    time: &RangeInclusive<i64>,
    fields: &[AskedField],
) -> Result<Vec<Group>, ReadFault> {
    let as_stored = |(slot, measures): &AskedField| {
        let stored = |(slot, kind): (u16, FieldType)| {
            let is_int = |column: &&Column| {
                column.field == slot * KINDS + MIN && matches!(column.values, Values::Int(_))
            };
            let was_int = cells.columns.iter().any(|one| is_int(&one));
            (slot, if was_int { FieldType::Int } else { kind })
        };
        (slot.map(stored), *measures)
    };
    let stored: Vec<AskedField> = fields.iter().map(as_stored).collect();
    let groups = groups(cells, None, time, &stored)?;
    let mut groups = groups.ok_or(ReadFault::Invalid(
        "a bucket on both sides of its partition",
    ))?;
    for group in &mut groups {
        for (state, (slot, _)) in group.fields.iter_mut().zip(fields) {
            if let Some((_, FieldType::Float)) = slot {
                *state = std::mem::take(state).into_floats();
            }
        }
    }
    Ok(groups)
}

const MALFORMED: ReadFault = ReadFault::Invalid("columns of a rollup");

/// Those of one field among sorted ones: at most as many as there are kinds.
fn columns_of_field(columns: &[Column], slot: u16) -> &[Column] {
    let from = columns.partition_point(|column| column.field / KINDS < slot);
    let count = columns[from..].partition_point(|column| column.field / KINDS == slot);
    &columns[from..from + count]
}

/// A column, read by row.
struct Lane<'a> {
    values: &'a Values,
    /// Of each row where its value is among them; `None`: each row has one.
    places: Option<Vec<Option<usize>>>,
}

impl<'a> Lane<'a> {
    fn of(columns: &'a [Column], id: u16) -> Option<Self> {
        let column = columns.iter().find(|column| column.field == id)?;
        let places = column.present.as_ref().map(|flags| {
            let mut next = 0;
            let place = |is_there: &bool| {
                let place = next;
                next += usize::from(*is_there);
                is_there.then_some(place)
            };
            flags.iter().map(place).collect()
        });
        Some(Self {
            values: &column.values,
            places,
        })
    }

    fn value(&self, row: usize) -> Result<Value, ReadFault> {
        let place = match &self.places {
            Some(places) => places[row].ok_or(MALFORMED)?,
            None => row,
        };
        match self.values {
            Values::Float(all) => Ok(Value::Float(all[place])),
            Values::Int(all) => Ok(Value::Int(all[place])),
            Values::Bool(all) => Ok(Value::Bool(all[place])),
            Values::Text(_) => Err(MALFORMED),
        }
    }

    fn int(&self, row: usize) -> Result<i64, ReadFault> {
        match self.value(row)? {
            Value::Int(int) => Ok(int),
            _ => Err(MALFORMED),
        }
    }

    fn time(&self, row: usize, start: i64) -> Result<i64, ReadFault> {
        start.checked_add(self.int(row)?).ok_or(MALFORMED)
    }
}

/// The columns of one field; those that were not asked for may not be there.
struct FieldCells<'a> {
    field_type: FieldType,
    measures: Measures,
    /// `None`: none of the rows has a value.
    count: Option<Lane<'a>>,
    sum: Option<Lane<'a>>,
    sum_high: Option<Lane<'a>>,
    extremes: [Option<Lane<'a>>; 2],
    ends: [Option<Lane<'a>>; 2],
    /// `None`: as those of the rows.
    end_times: [Option<Lane<'a>>; 2],
}

impl<'a> FieldCells<'a> {
    fn of(columns: &'a [Column], slot: u16, field_type: FieldType, measures: Measures) -> Self {
        let lane = |kind: u16| Lane::of(columns, slot * KINDS + kind);
        Self {
            field_type,
            measures,
            count: lane(COUNT),
            sum: lane(SUM),
            sum_high: lane(SUM_HIGH),
            extremes: [MIN, MAX].map(lane),
            ends: [FIRST, LAST].map(lane),
            end_times: [FIRST_AT, LAST_AT].map(lane),
        }
    }

    /// As the field's type is now; `None` if it does not tell all that is asked.
    fn state(
        &self,
        row: usize,
        start: i64,
        times: (i64, i64),
    ) -> Result<Option<FieldState>, ReadFault> {
        let count = self.count.as_ref().map_or(Ok(0), |lane| lane.int(row))?;
        let Measures {
            sum,
            extremes,
            ends,
        } = self.measures;
        let mut state = FieldState {
            count: count.cast_unsigned(),
            ..FieldState::default()
        };
        if count == 0 {
            return Ok(Some(state));
        }
        if self.field_type == FieldType::Text {
            return Ok((!extremes && !ends).then_some(state));
        }
        let value = |lane: &Option<Lane<'_>>| lane.as_ref().ok_or(MALFORMED)?.value(row);
        if sum && self.field_type != FieldType::Bool {
            state.sum = Some(self.sum(row)?);
        }
        let is_widened = matches!(
            (state.sum, self.field_type),
            (Some(Sum::Int(_)), FieldType::Float)
        );
        if extremes || is_widened {
            let [min, max] = &self.extremes;
            (state.min, state.max) = (Some(value(min)?), Some(value(max)?));
        }
        if ends {
            let [first, last] = &self.ends;
            let time = |lane: &Option<Lane<'_>>, of_rows| match lane {
                Some(lane) => lane.time(row, start),
                None => Ok(of_rows),
            };
            let [first_at, last_at] = &self.end_times;
            state.first = Some((time(first_at, times.0)?, value(first)?));
            state.last = Some((time(last_at, times.1)?, value(last)?));
        }
        let asked = |state: FieldState| FieldState {
            min: state.min.filter(|_| extremes),
            max: state.max.filter(|_| extremes),
            ..state
        };
        Ok(state.shown_as(self.field_type).map(asked))
    }

    fn sum(&self, row: usize) -> Result<Sum, ReadFault> {
        match self.sum.as_ref().ok_or(MALFORMED)?.value(row)? {
            Value::Float(sum) => Ok(Sum::Float(sum)),
            Value::Int(low) => Ok(Sum::Int(match &self.sum_high {
                Some(high) => (i128::from(high.int(row)?) << 64) | i128::from(low.cast_unsigned()),
                None => low.into(),
            })),
            Value::Bool(_) | Value::Text(_) => Err(MALFORMED),
        }
    }
}
