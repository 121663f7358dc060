//! Collects readings until they are worth a batch. Pure: no I/O, no clock; time is an argument,
//! counted from the keeper's start.
//!
//! It gives every series of the epoch a local id and says which definitions are new, so that the
//! buffer can put them into the names lane before the data that needs them. Series that were read
//! at the same times share one time column. What it gives always fits the limits of the format.

use std::collections::HashMap;
use std::time::Duration;

use shared::batch::{Column, Data, Group, SeriesColumns, SeriesDefinition, Values, check};
use shared::column::{BOOL_PRICE, FLOAT_PRICE, INT_PRICE, TEXT_PRICE, TIME_PRICE};
use shared::id::LocalSeriesId;
use shared::limits::{
    BATCH_BYTES_MAX, BATCH_DECODED_BYTES_FREE, BATCH_ROWS_MAX, BATCH_VALUES_MAX, DEFINITIONS_MAX,
    FIELDS_MAX,
};
use shared::reading::{FieldType, Reading, Value};

/// Series ids of one epoch; when they are used up the agent goes on in a new epoch.
pub const SERIES_MAX: usize = 65_536;
/// What a value may take in an encoded batch, besides a text's bytes.
const VALUE_BYTES: usize = 12;
/// What a new column, a row or a series may take, besides its values.
const PART_BYTES: usize = 48;
/// Left for header, counts and checksum.
const BATCH_BYTES_ROOM: usize = BATCH_BYTES_MAX - 1_024;

/// When a batch is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    pub rows_max: usize,
    /// Bytes of values before they are encoded.
    pub bytes_max: usize,
    /// How long a reading waits for others.
    pub linger: Duration,
}

/// Who waits for readings to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// Whether a reading can join the open batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Yes,
    /// The open batch has to be sealed first.
    AfterSeal,
    /// A new epoch has to begin first: the ids of this one are used up.
    AfterEpoch,
    /// No batch can carry it.
    Never,
}

/// What goes into one batch of data, and the definitions that have to go before it.
#[derive(Debug, Default, PartialEq)]
pub struct Collected {
    /// New definitions, in batches that each fit the limits.
    pub names: Vec<Vec<SeriesDefinition>>,
    pub data: Data,
    pub readings: u64,
    /// Who waits for some of the readings, each once.
    pub waiters: Vec<WaiterId>,
}

#[derive(Debug)]
pub struct Batcher {
    options: BatchOptions,
    /// By table, device and tags; names hold no control characters, so `\0` separates them.
    series: HashMap<String, Vec<Known>>,
    series_count: usize,
    new: Vec<SeriesDefinition>,
    open: Vec<OpenSeries>,
    /// Where an id stands in `open`.
    open_at: HashMap<LocalSeriesId, usize>,
    cost: Cost,
    since: Option<Duration>,
    waiters: Vec<WaiterId>,
    key: String,
}

/// One meaning of a series: fields only ever come with these types.
#[derive(Debug)]
struct Known {
    id: LocalSeriesId,
    fields: Vec<(String, FieldType)>,
}

#[derive(Debug)]
struct OpenSeries {
    id: LocalSeriesId,
    times: Vec<i64>,
    columns: Vec<OpenColumn>,
}

#[derive(Debug)]
struct OpenColumn {
    present: Vec<bool>,
    values: Values,
}

/// Upper bounds of what the open batch takes.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    rows: usize,
    values: usize,
    /// Before encoding.
    raw_bytes: usize,
    encoded_bytes: usize,
    decoded_bytes: usize,
}

impl Batcher {
    pub fn new(options: BatchOptions) -> Self {
        Batcher {
            options,
            series: HashMap::new(),
            series_count: 0,
            new: Vec::new(),
            open: Vec::new(),
            open_at: HashMap::new(),
            cost: Cost::default(),
            since: None,
            waiters: Vec::new(),
            key: String::new(),
        }
    }

    /// From here on, the open batch included.
    pub fn use_options(&mut self, options: BatchOptions) {
        self.options = options;
    }

    /// Readings in the open batch.
    pub fn readings(&self) -> u64 {
        self.cost.rows as u64
    }

    /// When the oldest reading of the open batch came.
    pub fn since(&self) -> Option<Duration> {
        self.since
    }

    /// When the open batch has waited long enough.
    pub fn due(&self) -> Option<Duration> {
        self.since.map(|since| since + self.options.linger)
    }

    /// Whether this reading can be pushed now, and else what has to happen first.
    pub fn fit(&self, reading: &Reading) -> Fit {
        let one = Cost::of(reading);
        if !one.fits(&Cost::default()) {
            return Fit::Never;
        }
        if self.series_count >= SERIES_MAX {
            return Fit::AfterEpoch;
        }
        let full = self.cost.rows >= self.options.rows_max
            || self.cost.raw_bytes >= self.options.bytes_max;
        if self.cost.rows > 0 && (full || !one.fits(&self.cost)) {
            return Fit::AfterSeal;
        }
        Fit::Yes
    }

    /// Adds a reading that [`Batcher::fit`] said `Yes` to.
    pub fn push(&mut self, now: Duration, reading: Reading, waiter: Option<WaiterId>) {
        self.cost.add(&Cost::of(&reading));
        self.since.get_or_insert(now);
        if let Some(waiter) = waiter
            && self.waiters.last() != Some(&waiter)
        {
            self.waiters.push(waiter);
        }
        let Reading {
            table,
            device,
            tags,
            time,
            fields,
        } = reading;
        put_key(&mut self.key, &table, &device, &tags);
        let known = self.series.get(self.key.as_str());
        let found = known.and_then(|all| all.iter().rev().find(|one| one.has(&fields)));
        let (id, places, width) = if let Some(known) = found {
            (known.id, known.places(&fields), known.fields.len())
        } else {
            let before = known.and_then(|all| all.last());
            let id = LocalSeriesId(u32::try_from(self.series_count).expect("below SERIES_MAX"));
            let made = Known {
                id,
                fields: widened(before, &fields),
            };
            let (places, width) = (made.places(&fields), made.fields.len());
            self.new.push(SeriesDefinition {
                id,
                table,
                device,
                tags,
                fields: made.fields.clone(),
            });
            self.series_count += 1;
            self.series.entry(self.key.clone()).or_default().push(made);
            (id, places, width)
        };
        let at = *self.open_at.entry(id).or_insert_with(|| {
            self.open.push(OpenSeries::new(id));
            self.open.len() - 1
        });
        self.open[at].add(time.0, width, places.into_iter().zip(fields));
    }

    /// Whether the open batch should be sealed now.
    pub fn is_due(&self, now: Duration) -> bool {
        self.cost.rows >= self.options.rows_max
            || self.cost.raw_bytes >= self.options.bytes_max
            || self.due().is_some_and(|due| due <= now)
    }

    /// Takes what was collected; `None` if that is nothing.
    pub fn take(&mut self) -> Option<Collected> {
        if self.cost.rows == 0 {
            return None;
        }
        let readings = self.readings();
        self.cost = Cost::default();
        self.since = None;
        self.open_at.clear();
        Some(Collected {
            names: split_names(std::mem::take(&mut self.new)),
            data: grouped(std::mem::take(&mut self.open)),
            readings,
            waiters: std::mem::take(&mut self.waiters),
        })
    }

    /// Begins the dictionary of a new epoch. Whatever was open was taken before.
    pub fn new_epoch(&mut self) {
        assert_eq!(
            self.cost.rows, 0,
            "the open batch speaks the old dictionary"
        );
        self.series.clear();
        self.series_count = 0;
        self.new.clear();
    }
}

impl Known {
    fn has(&self, fields: &[(String, Value)]) -> bool {
        fields.iter().enumerate().all(|(nth, (name, value))| {
            self.place(nth, name)
                .is_some_and(|at| self.fields[at].1 == value.field_type())
        })
    }

    /// Where a field stands; most devices send theirs in the same order always.
    fn place(&self, nth: usize, name: &str) -> Option<usize> {
        if self.fields.get(nth).is_some_and(|(known, _)| known == name) {
            return Some(nth);
        }
        self.fields.iter().position(|(known, _)| known == name)
    }

    fn places(&self, fields: &[(String, Value)]) -> Vec<usize> {
        let place = |(nth, (name, _)): (usize, &(String, Value))| {
            self.place(nth, name).expect("its definition has the field")
        };
        fields.iter().enumerate().map(place).collect()
    }
}

/// The fields that a series had, with those of a reading added or changed in type.
fn widened(before: Option<&Known>, fields: &[(String, Value)]) -> Vec<(String, FieldType)> {
    let own = || {
        fields
            .iter()
            .map(|(name, value)| (name.clone(), value.field_type()))
    };
    let mut all: Vec<(String, FieldType)> =
        before.map_or_else(Vec::new, |known| known.fields.clone());
    for (name, field_type) in own() {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = field_type,
            None => all.push((name, field_type)),
        }
    }
    if all.len() > FIELDS_MAX {
        own().collect()
    } else {
        all
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

    fn add(
        &mut self,
        time: i64,
        width: usize,
        fields: impl Iterator<Item = (usize, (String, Value))>,
    ) {
        let rows = self.times.len();
        self.times.push(time);
        if self.columns.len() < width {
            self.columns.resize_with(width, || OpenColumn {
                present: vec![false; rows],
                values: Values::Bool(Vec::new()),
            });
        }
        for (at, (_, value)) in fields {
            self.columns[at].put(rows, value);
        }
        for column in &mut self.columns {
            column.present.resize(rows + 1, false);
        }
    }

    fn close(self) -> (Vec<i64>, SeriesColumns) {
        let mut columns = Vec::with_capacity(self.columns.len());
        for (field, column) in self.columns.into_iter().enumerate() {
            let all = column.values.len() == column.present.len();
            if !column.values.is_empty() {
                columns.push(Column {
                    field: u16::try_from(field).expect("below FIELDS_MAX"),
                    present: if all { None } else { Some(column.present) },
                    values: column.values,
                });
            }
        }
        let id = self.id;
        (self.times, SeriesColumns { id, columns })
    }
}

impl OpenColumn {
    fn put(&mut self, rows: usize, value: Value) {
        self.present.resize(rows, false);
        self.present.push(true);
        if self.values.is_empty() {
            self.values = Values::empty(value.field_type());
        }
        match (&mut self.values, value) {
            (Values::Float(all), Value::Float(one)) => all.push(one),
            (Values::Int(all), Value::Int(one)) => all.push(one),
            (Values::Bool(all), Value::Bool(one)) => all.push(one),
            (Values::Text(all), Value::Text(one)) => all.push(one),
            _ => unreachable!("a definition gives each field one type"),
        }
    }
}

impl Cost {
    /// As if every reading had a group, a series and columns of its own.
    fn of(reading: &Reading) -> Cost {
        let mut cost = Cost {
            rows: 1,
            values: reading.fields.len(),
            raw_bytes: 8,
            encoded_bytes: PART_BYTES,
            decoded_bytes: check::GROUP_PRICE + check::SERIES_PRICE + TIME_PRICE,
        };
        for (_, value) in &reading.fields {
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
    fn fits(&self, open: &Cost) -> bool {
        open.rows + self.rows <= BATCH_ROWS_MAX
            && open.values + self.values <= BATCH_VALUES_MAX
            && open.encoded_bytes + self.encoded_bytes <= BATCH_BYTES_ROOM
            && open.decoded_bytes + self.decoded_bytes <= BATCH_DECODED_BYTES_FREE
    }
}

fn put_key(key: &mut String, table: &str, device: &str, tags: &[(String, String)]) {
    key.clear();
    key.push_str(table);
    key.push('\0');
    key.push_str(device);
    for part in tags.iter().flat_map(|(name, value)| [name, value]) {
        key.push('\0');
        key.push_str(part);
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

fn split_names(definitions: Vec<SeriesDefinition>) -> Vec<Vec<SeriesDefinition>> {
    let mut batches: Vec<Vec<SeriesDefinition>> = Vec::new();
    let mut bytes = 0;
    for definition in definitions {
        let own = check::definition_bytes(&definition);
        let room = batches.last().is_some_and(|last| {
            last.len() < DEFINITIONS_MAX && bytes + own <= BATCH_DECODED_BYTES_FREE
        });
        if !room {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        batches.last_mut().expect("one was pushed").push(definition);
    }
    batches
}

#[cfg(test)]
mod tests;
