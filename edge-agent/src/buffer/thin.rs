//! Thinning: of the readings of a minute, what is worth keeping when there is no room for all. Pure.
//!
//! Of each series and minute one row stays, stamped with the start of the minute. A number `x`
//! becomes `x_min`, `x_max`, `x_avg` (a float) and `x_count` (how many there were); of a bool or
//! text the last one stays under its own name. A name that the series has already gets `_` behind
//! it. A row holds the rest of at most [`FIELDS_A_ROW`] fields: wider series get several rows.
//! Minutes are those of one thinning: if a minute was thinned in parts it has several rows, and
//! their counts say how to weigh them.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashMap, HashSet};

use shared::batch::{Column, Data, SeriesDefinition, Values};
use shared::id::{LocalSeriesId, TimeNs};
use shared::limits::NAME_BYTES_MAX;
use shared::reading::{FieldType, Reading, Value};

/// Fields that one row sums up: whatever they hold, it fits in a batch.
pub const FIELDS_A_ROW: usize = 32;
/// Sums that are made together: they bound memory.
const SUMS_MAX: usize = 65_536;
const MINUTE_NS: i64 = 60_000_000_000;
/// Of a name, for what is put behind it.
const ENDING_BYTES: usize = 16;

/// The rest of the readings that were added.
#[derive(Debug, Default)]
pub struct Sums {
    /// By series, minute and field.
    sums: BTreeMap<(LocalSeriesId, i64, u16), Sum>,
    /// Values that were added.
    values: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Sum {
    Float {
        min: f64,
        max: f64,
        /// Of those that are numbers.
        sum: f64,
        numbers: u64,
        count: u64,
    },
    Int {
        min: i64,
        max: i64,
        sum: i128,
        count: u64,
    },
    Last {
        time: i64,
        value: Value,
    },
}

/// How the rest of one field is called.
#[derive(Debug)]
struct FieldNames {
    own: String,
    min: String,
    max: String,
    average: String,
    count: String,
}

impl Sums {
    /// Adds what a batch holds.
    pub fn add(&mut self, data: &Data) {
        for group in &data.groups {
            for series in &group.series {
                for column in &series.columns {
                    self.add_column(series.id, &group.times, column);
                }
            }
        }
    }

    /// Whether enough was added for one thinning.
    pub fn is_full(&self) -> bool {
        self.sums.len() >= SUMS_MAX
    }

    /// Whether the rest is so much less that it is worth the loss.
    pub fn pays(&self) -> bool {
        let rest: usize = self.sums.values().map(Sum::values).sum();
        rest * 2 <= self.values
    }

    /// Whether readings of this series were added.
    pub fn needs(&self, id: LocalSeriesId) -> bool {
        let first = (id, i64::MIN, 0);
        let last = (id, i64::MAX, u16::MAX);
        self.sums.range(first..=last).next().is_some()
    }

    /// The rest, as rows by series and minute. `None`: a definition that it needs is missing.
    pub fn into_readings(
        self,
        definitions: &HashMap<LocalSeriesId, SeriesDefinition>,
    ) -> Option<Vec<Reading>> {
        // Series, minute, fields.
        let mut rows: Vec<(LocalSeriesId, i64, Vec<(String, Value)>)> = Vec::new();
        let mut names: Option<(LocalSeriesId, Vec<FieldNames>)> = None;
        let mut left = 0;
        for ((id, minute, field), sum) in self.sums {
            let (_, names) = match names.take() {
                Some(known) if known.0 == id => names.insert(known),
                _ => names.insert((id, field_names(definitions.get(&id)?))),
            };
            let goes_on = rows
                .last()
                .is_some_and(|row| (row.0, row.1) == (id, minute));
            if left == 0 || !goes_on {
                rows.push((id, minute, Vec::new()));
                left = FIELDS_A_ROW;
            }
            left -= 1;
            let (.., fields) = rows.last_mut().expect("the row was begun");
            sum.put(names.get(usize::from(field))?, fields);
        }
        let reading = |(id, minute, fields): (LocalSeriesId, i64, Vec<(String, Value)>)| {
            let definition = definitions.get(&id)?;
            let (table, device) = (definition.table.clone(), definition.device.clone());
            let time = TimeNs(minute * MINUTE_NS);
            Some(Reading::new(
                table,
                device,
                definition.tags.clone(),
                time,
                fields,
            ))
        };
        rows.into_iter().map(reading).collect()
    }

    fn add_column(&mut self, id: LocalSeriesId, times: &[i64], column: &Column) {
        let is_there = |row: &usize| column.present.as_ref().is_none_or(|flags| flags[*row]);
        let times = (0..times.len()).filter(is_there).map(|row| times[row]);
        self.values += column.values.len();
        match &column.values {
            Values::Float(values) => {
                self.fold(
                    id,
                    column.field,
                    times.zip(values.iter().copied().map(Sum::of_float)),
                );
            }
            Values::Int(values) => {
                self.fold(
                    id,
                    column.field,
                    times.zip(values.iter().copied().map(Sum::of_int)),
                );
            }
            Values::Bool(values) => {
                let values = values.iter().map(|value| Value::Bool(*value));
                self.fold(id, column.field, times.zip(values).map(last));
            }
            Values::Text(values) => {
                let values = values.iter().map(|value| Value::Text(value.clone()));
                self.fold(id, column.field, times.zip(values).map(last));
            }
        }
    }

    /// Neighbours are mostly of one minute: the map is asked once for all of them.
    fn fold(&mut self, id: LocalSeriesId, field: u16, values: impl Iterator<Item = (i64, Sum)>) {
        let mut open: Option<(i64, Sum)> = None;
        for (time, one) in values {
            let minute = time.div_euclid(MINUTE_NS);
            match &mut open {
                Some((of, sum)) if *of == minute => sum.add(one),
                _ => {
                    if let Some((of, sum)) = open.replace((minute, one)) {
                        self.put(id, of, field, sum);
                    }
                }
            }
        }
        if let Some((of, sum)) = open {
            self.put(id, of, field, sum);
        }
    }

    fn put(&mut self, id: LocalSeriesId, minute: i64, field: u16, sum: Sum) {
        match self.sums.entry((id, minute, field)) {
            Entry::Vacant(free) => {
                free.insert(sum);
            }
            Entry::Occupied(mut known) => known.get_mut().add(sum),
        }
    }
}

fn last((time, value): (i64, Value)) -> (i64, Sum) {
    (time, Sum::Last { time, value })
}

impl Sum {
    fn of_float(value: f64) -> Sum {
        let is_number = !value.is_nan();
        Sum::Float {
            min: value,
            max: value,
            sum: if is_number { value } else { 0.0 },
            numbers: u64::from(is_number),
            count: 1,
        }
    }

    fn of_int(value: i64) -> Sum {
        Sum::Int {
            min: value,
            max: value,
            sum: i128::from(value),
            count: 1,
        }
    }

    /// Adds the sum of other values of the same field, whose type is one.
    fn add(&mut self, other: Sum) {
        match (self, other) {
            (
                Sum::Float {
                    min,
                    max,
                    sum,
                    numbers,
                    count,
                },
                Sum::Float {
                    min: other_min,
                    max: other_max,
                    sum: other_sum,
                    numbers: other_numbers,
                    count: other_count,
                },
            ) => {
                // Of a number and none, both give the number.
                *min = (*min).min(other_min);
                *max = (*max).max(other_max);
                *sum += other_sum;
                *numbers += other_numbers;
                *count += other_count;
            }
            (
                Sum::Int {
                    min,
                    max,
                    sum,
                    count,
                },
                Sum::Int {
                    min: other_min,
                    max: other_max,
                    sum: other_sum,
                    count: other_count,
                },
            ) => {
                *min = (*min).min(other_min);
                *max = (*max).max(other_max);
                *sum += other_sum;
                *count += other_count;
            }
            (
                Sum::Last { time, value },
                Sum::Last {
                    time: other_time,
                    value: other_value,
                },
            ) => {
                if other_time >= *time {
                    *time = other_time;
                    *value = other_value;
                }
            }
            _ => unreachable!("a definition gives each field one type"),
        }
    }

    /// How many values it becomes.
    fn values(&self) -> usize {
        match self {
            Sum::Float { .. } | Sum::Int { .. } => 4,
            Sum::Last { .. } => 1,
        }
    }

    fn put(self, names: &FieldNames, fields: &mut Vec<(String, Value)>) {
        let (min, max, average, count) = match self {
            Sum::Float {
                min,
                max,
                sum,
                numbers,
                count,
            } => {
                let average = if numbers == 0 {
                    f64::NAN
                } else {
                    sum / numbers as f64
                };
                (Value::Float(min), Value::Float(max), average, count)
            }
            Sum::Int {
                min,
                max,
                sum,
                count,
            } => {
                let average = sum as f64 / count as f64;
                (Value::Int(min), Value::Int(max), average, count)
            }
            Sum::Last { value, .. } => {
                fields.push((names.own.clone(), value));
                return;
            }
        };
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        fields.extend([
            (names.min.clone(), min),
            (names.max.clone(), max),
            (names.average.clone(), Value::Float(average)),
            (names.count.clone(), Value::Int(count)),
        ]);
    }
}

/// By place in the definition.
fn field_names(definition: &SeriesDefinition) -> Vec<FieldNames> {
    let fields = definition.fields.iter().map(|(name, _)| name);
    let tags = definition.tags.iter().map(|(key, _)| key);
    let mut taken: HashSet<String> = fields.chain(tags).cloned().collect();
    let mut names = Vec::with_capacity(definition.fields.len());
    for (own, field_type) in &definition.fields {
        let mut made = |ending: &str| match field_type {
            FieldType::Float | FieldType::Int => free_name(own, ending, &mut taken),
            FieldType::Bool | FieldType::Text => String::new(),
        };
        names.push(FieldNames {
            min: made("min"),
            max: made("max"),
            average: made("avg"),
            count: made("count"),
            own: own.clone(),
        });
    }
    names
}

fn free_name(own: &str, ending: &str, taken: &mut HashSet<String>) -> String {
    let mut end = own.len().min(NAME_BYTES_MAX - ENDING_BYTES);
    while !own.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = format!("{}_{ending}", &own[..end]);
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::batch::{Group, SeriesColumns};

    fn definition(fields: &[(&str, FieldType)]) -> HashMap<LocalSeriesId, SeriesDefinition> {
        let fields = fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), *kind));
        let definition = SeriesDefinition {
            id: LocalSeriesId(7),
            table: "t".to_owned(),
            device: "d".to_owned(),
            tags: vec![("room".to_owned(), "r1".to_owned())],
            fields: fields.collect(),
        };
        HashMap::from([(definition.id, definition)])
    }

    fn data(times_s: &[i64], columns: Vec<Values>) -> Data {
        let column = |(field, values): (u16, Values)| Column {
            field,
            present: None,
            values,
        };
        Data {
            groups: vec![Group {
                times: times_s.iter().map(|time| time * 1_000_000_000).collect(),
                series: vec![SeriesColumns {
                    id: LocalSeriesId(7),
                    columns: (0..).zip(columns).map(column).collect(),
                }],
            }],
        }
    }

    fn rest(times_s: &[i64], fields: &[(&str, FieldType)], columns: Vec<Values>) -> Vec<Reading> {
        let mut sums = Sums::default();
        sums.add(&data(times_s, columns));
        assert!(sums.needs(LocalSeriesId(7)) && !sums.needs(LocalSeriesId(8)));
        let readings = sums.into_readings(&definition(fields)).unwrap();
        for reading in &readings {
            assert_eq!(reading.check(), Ok(()));
        }
        readings
    }

    fn value<'a>(reading: &'a Reading, name: &str) -> &'a Value {
        let found = reading.fields().find(|(own, _)| *own == name);
        found.unwrap_or_else(|| panic!("{name} in {reading:?}")).1
    }

    #[test]
    fn each_minute_keeps_its_extremes() {
        let fields = [
            ("x", FieldType::Int),
            ("y", FieldType::Float),
            ("on", FieldType::Bool),
        ];
        let columns = vec![
            Values::Int(vec![5, i64::MIN, 7, i64::MAX, i64::MAX]),
            Values::Float(vec![f64::NAN, 2.0, -4.0, f64::NAN, f64::NAN]),
            Values::Bool(vec![true, false, true, false, true]),
        ];
        // The second comes before the first in time, the last two are a minute before 1970.
        let readings = rest(&[50, 10, 59, -1, -2], &fields, columns);
        let times: Vec<i64> = readings.iter().map(|one| one.time.0).collect();
        assert_eq!(times, [-60_000_000_000, 0]);
        let (before, first) = (&readings[0], &readings[1]);
        assert_eq!(value(first, "x_min"), &Value::Int(i64::MIN));
        assert_eq!(value(first, "x_max"), &Value::Int(7));
        assert_eq!(value(first, "x_count"), &Value::Int(3));
        assert_eq!(value(first, "y_min"), &Value::Float(-4.0));
        assert_eq!(value(first, "y_max"), &Value::Float(2.0));
        assert_eq!(value(first, "y_avg"), &Value::Float(-1.0));
        assert_eq!(value(first, "y_count"), &Value::Int(3));
        assert_eq!(value(first, "on"), &Value::Bool(true));
        assert_eq!(value(before, "on"), &Value::Bool(false));
        assert_eq!(value(before, "x_avg"), &Value::Float(i64::MAX as f64));
        assert!(matches!(value(before, "y_min"), Value::Float(min) if min.is_nan()));
    }

    #[test]
    fn names_that_are_taken_or_long_stay_apart() {
        let long = "\u{e4}".repeat(128);
        let fields = [
            ("x", FieldType::Int),
            ("x_min", FieldType::Text),
            ("x_min_", FieldType::Int),
            (long.as_str(), FieldType::Float),
        ];
        let text = |text: &str| Values::Text(vec![text.to_owned()]);
        let columns = vec![
            Values::Int(vec![1]),
            text("own"),
            Values::Int(vec![3]),
            Values::Float(vec![0.5]),
        ];
        let readings = rest(&[0], &fields, columns);
        assert_eq!(value(&readings[0], "x_min__"), &Value::Int(1));
        assert_eq!(value(&readings[0], "x_min"), &Value::Text("own".to_owned()));
        assert_eq!(value(&readings[0], "x_min__min"), &Value::Int(3));
    }

    #[test]
    fn wide_series_become_several_rows() {
        let names: Vec<String> = (0..70).map(|nth| format!("f{nth}")).collect();
        let fields: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), FieldType::Float))
            .collect();
        let columns = (0..70).map(|_| Values::Float(vec![1.0, 2.0])).collect();
        let readings = rest(&[1, 61], &fields, columns);
        let widths: Vec<usize> = readings.iter().map(|one| one.values.len()).collect();
        assert_eq!(widths, [128, 128, 24, 128, 128, 24]);
    }

    #[test]
    fn what_is_sparse_is_not_worth_it() {
        let mut sums = Sums::default();
        sums.add(&data(&[0, 60, 120], vec![Values::Int(vec![1, 2, 3])]));
        assert!(!sums.pays());
        let times: Vec<i64> = (0..60).collect();
        sums.add(&data(&times, vec![Values::Int(times.clone())]));
        assert!(sums.pays());
        assert!(sums.into_readings(&HashMap::new()).is_none());
    }
}
