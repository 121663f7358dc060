//! One open batch: the readings of one kind that wait to be sealed.

use std::collections::HashMap;
use std::time::Duration;

use shared::batch::{Column, Data, Group, SeriesColumns, Values, check};
use shared::column::{BOOL_PRICE, FLOAT_PRICE, INT_PRICE, TEXT_PRICE, TIME_PRICE};
use shared::id::LocalSeriesId;
use shared::limits::{BATCH_BYTES_MAX, BATCH_DECODED_BYTES_FREE, BATCH_ROWS_MAX, BATCH_VALUES_MAX};
use shared::reading::{Reading, Value};

use super::dictionary::Meaning;
use super::{BatchOptions, Collected, WaiterId};
use crate::handed::Kind;

/// What a value may take in an encoded batch, besides a text's bytes.
const VALUE_BYTES: usize = 12;
/// What a new column, a row or a series may take, besides its values.
const PART_BYTES: usize = 48;
/// For header, counts and checksum.
const HEAD_BYTES: usize = 1_024;

/// Readings of one kind.
#[derive(Debug, Default)]
pub(super) struct Open {
    series: Vec<OpenSeries>,
    /// Where an id stands in `series`.
    at: HashMap<LocalSeriesId, usize>,
    pub(super) cost: Cost,
    /// When the oldest reading came; `None`: there is none.
    pub(super) since: Option<Duration>,
    waiters: Vec<WaiterId>,
}

#[derive(Debug)]
struct OpenSeries {
    id: LocalSeriesId,
    times: Vec<i64>,
    columns: Vec<OpenColumn>,
}

#[derive(Debug)]
struct OpenColumn {
    /// One flag a row; empty as long as every row has a value.
    present: Vec<bool>,
    values: Values,
}

/// Upper bounds of what readings take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    rows: usize,
    values: usize,
    /// Before encoding.
    raw_bytes: usize,
    encoded_bytes: usize,
    decoded_bytes: usize,
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.cost.rows == 0
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(super) fn readings(&self) -> u64 {
        self.cost.rows as u64
    }

    pub(super) fn is_full(&self, options: &BatchOptions) -> bool {
        self.cost.rows >= options.rows_max || self.cost.raw_bytes >= options.bytes_max
    }

    /// At most what it takes once it is sealed, in bytes.
    pub(super) fn sealed_bytes_most(&self) -> usize {
        self.cost.encoded_bytes + HEAD_BYTES
    }

    /// A reading comes, for which somebody may wait.
    pub(super) fn begin(&mut self, now: Duration, waiter: Option<WaiterId>) {
        self.since.get_or_insert(now);
        if let Some(waiter) = waiter
            && self.waiters.last() != Some(&waiter)
        {
            self.waiters.push(waiter);
        }
    }

    /// Adds a reading, which costs this and means that.
    pub(super) fn add(&mut self, meaning: &Meaning, cost: &Cost, reading: Reading) {
        self.cost.add(cost);
        let at = *self.at.entry(meaning.id).or_insert_with(|| {
            self.series.push(OpenSeries::new(meaning.id));
            self.series.len() - 1
        });
        self.series[at].add(reading.time.0, meaning, reading.values);
    }

    /// Its content, without names; it is empty then.
    pub(super) fn collect(&mut self, kind: Kind) -> Option<Collected> {
        let since = self.since.take()?;
        let readings = self.readings();
        self.cost = Cost::default();
        self.at.clear();
        Some(Collected {
            kind,
            names: Vec::new(),
            data: grouped(std::mem::take(&mut self.series)),
            readings,
            since,
            waiters: std::mem::take(&mut self.waiters),
        })
    }
}

impl OpenSeries {
    fn new(id: LocalSeriesId) -> Self {
        OpenSeries {
            id,
            times: Vec::new(),
            columns: Vec::new(),
        }
    }

    fn add(&mut self, time: i64, meaning: &Meaning, values: Vec<Value>) {
        let row = self.times.len();
        self.times.push(time);
        if self.columns.len() < meaning.width {
            self.columns.resize_with(meaning.width, OpenColumn::new);
        }
        for (at, value) in meaning.places.iter().zip(values) {
            self.columns[*at].put(row, value);
        }
    }

    fn close(self) -> (Vec<i64>, SeriesColumns) {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (field, mut column) in self.columns.into_iter().enumerate() {
            if !column.values.is_empty() {
                columns.push(Column {
                    field: u16::try_from(field).expect("below FIELDS_MAX"),
                    present: column.present(self.times.len()),
                    values: column.values,
                });
            }
        }
        let id = self.id;
        (self.times, SeriesColumns { id, columns })
    }
}

impl OpenColumn {
    fn new() -> Self {
        OpenColumn {
            present: Vec::new(),
            values: Values::Bool(Vec::new()),
        }
    }

    /// The value of a row; rows that were passed over have none.
    fn put(&mut self, row: usize, value: Value) {
        if self.values.is_empty() {
            self.values = Values::empty(value.field_type());
        }
        if row > self.values.len() {
            self.flag(row);
            self.present.push(true);
        }
        match (&mut self.values, value) {
            (Values::Float(all), Value::Float(one)) => all.push(one),
            (Values::Int(all), Value::Int(one)) => all.push(one),
            (Values::Bool(all), Value::Bool(one)) => all.push(one),
            (Values::Text(all), Value::Text(one)) => all.push(one),
            _ => unreachable!("a definition gives each field one type"),
        }
    }

    /// Flags for so many rows; those that came without flags all had a value.
    fn flag(&mut self, rows: usize) {
        if self.present.is_empty() {
            self.present.resize(self.values.len(), true);
        }
        self.present.resize(rows, false);
    }

    /// One flag a row, if some have no value.
    fn present(&mut self, rows: usize) -> Option<Vec<bool>> {
        if self.values.len() == rows {
            return None;
        }
        self.flag(rows);
        Some(std::mem::take(&mut self.present))
    }
}

impl Cost {
    /// As if every reading had a group, a series and columns of its own.
    pub(super) fn of(reading: &Reading) -> Cost {
        let mut cost = Cost {
            rows: 1,
            values: reading.values.len(),
            raw_bytes: 8,
            encoded_bytes: PART_BYTES,
            decoded_bytes: check::GROUP_PRICE + check::SERIES_PRICE + TIME_PRICE,
        };
        for value in &reading.values {
            let (raw, price) = match value {
                Value::Float(_) => (8, FLOAT_PRICE),
                Value::Int(_) => (8, INT_PRICE),
                Value::Bool(_) => (1, BOOL_PRICE),
                Value::Text(text) => (text.len(), TEXT_PRICE + text.len()),
            };
            cost.raw_bytes += raw;
            cost.encoded_bytes += VALUE_BYTES + raw;
            cost.decoded_bytes += check::COLUMN_PRICE + BOOL_PRICE + price;
        }
        cost
    }

    fn add(&mut self, other: &Cost) {
        self.rows += other.rows;
        self.values += other.values;
        self.raw_bytes += other.raw_bytes;
        self.encoded_bytes += other.encoded_bytes;
        self.decoded_bytes += other.decoded_bytes;
    }

    /// Whether this fits on top of `open` within the limits of the format.
    pub(super) fn fits(&self, open: &Cost) -> bool {
        open.rows + self.rows <= BATCH_ROWS_MAX
            && open.values + self.values <= BATCH_VALUES_MAX
            && open.encoded_bytes + self.encoded_bytes <= BATCH_BYTES_MAX - HEAD_BYTES
            && open.decoded_bytes + self.decoded_bytes <= BATCH_DECODED_BYTES_FREE
    }
}

/// Series with the same times share a group; groups stand in the order of their first reading.
fn grouped(open: Vec<OpenSeries>) -> Data {
    let mut groups: Vec<Group> = Vec::new();
    let mut by_times: HashMap<Vec<i64>, usize> = HashMap::new();
    for series in open {
        let (times, columns) = series.close();
        if let Some(at) = by_times.get(&times) {
            groups[*at].series.push(columns);
        } else {
            by_times.insert(times.clone(), groups.len());
            groups.push(Group {
                times,
                series: vec![columns],
            });
        }
    }
    Data { groups }
}
