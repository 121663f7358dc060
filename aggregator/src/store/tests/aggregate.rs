//! Aggregates against a fold over the rows of a scan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::batch::{Body, Column, Data, Group as Rows, SeriesColumns, SeriesDefinition, Values};
use shared::id::{Lane, LocalSeriesId, TimeNs};
use shared::reading::{FieldType, Value};

use super::features::{Bench, DAY, HOUR};
use super::{ALWAYS_WORTH, Random, value_at};
use crate::state::{Command, Outcome, SeriesId};
use crate::store::rollup::Worth;
use crate::store::{Aggregate, Buckets, FieldState, Group, Measures, Scan, StoreError, Sum, View};

const NOW: i64 = 1000 * DAY;
pub(super) const SECOND: i64 = 1_000_000_000;
const TABLE: &str = "engine";
const FIELDS: [&str; 5] = ["heat", "turns", "on", "state", "load"];

pub(super) const ALL: Measures = Measures {
    sum: true,
    extremes: true,
    ends: true,
};

const NEVER_WORTH: Worth = Worth {
    rows_min: usize::MAX,
    ..ALWAYS_WORTH
};

type Groups = BTreeMap<(SeriesId, Option<i64>), Group>;

/// Row by row, as anyone would: sums are added within a chunk first.
fn naive(view: &Arc<View>, wanted: &Aggregate, start: &dyn Fn(i64) -> Option<i64>) -> Groups {
    let mut groups = Groups::new();
    let scan = Scan {
        table: wanted.table.clone(),
        fields: wanted.fields.iter().map(|(name, _)| name.clone()).collect(),
        time: wanted.time.clone(),
        devices: wanted.devices.clone(),
    };
    for chunk in view.scan(scan) {
        let chunk = chunk.unwrap();
        let mut next = vec![0; chunk.columns.len()];
        let mut sums: BTreeMap<(Option<i64>, usize), Sum> = BTreeMap::new();
        for (row, time) in chunk.times.iter().enumerate() {
            let bucket = start(*time);
            let group = groups
                .entry((chunk.series.id, bucket))
                .or_insert_with(|| Group {
                    bucket,
                    rows: 0,
                    time_min: i64::MAX,
                    time_max: i64::MIN,
                    fields: vec![FieldState::default(); chunk.columns.len()],
                });
            group.rows += 1;
            group.time_min = group.time_min.min(*time);
            group.time_max = group.time_max.max(*time);
            for (at, column) in chunk.columns.iter().enumerate() {
                let Some(column) = column else { continue };
                if column.present.as_ref().is_none_or(|flags| flags[row]) {
                    let value = value_at(&column.values, next[at]);
                    next[at] += 1;
                    take(&mut group.fields[at], *time, &value, wanted.fields[at].1);
                    let before = sums.get(&(bucket, at)).copied();
                    if let Some(sum) = added(before, &value) {
                        sums.insert((bucket, at), sum);
                    }
                }
            }
        }
        for ((bucket, at), sum) in sums {
            let field = &mut groups.get_mut(&(chunk.series.id, bucket)).unwrap().fields[at];
            if wanted.fields[at].1.sum {
                field.sum = Some(field.sum.map_or(sum, |before| before.plus(sum)));
            }
        }
    }
    groups
}

fn added(before: Option<Sum>, value: &Value) -> Option<Sum> {
    match (before, value) {
        (None, Value::Float(value)) => Some(Sum::Float(0.0 + value)),
        (Some(Sum::Float(sum)), Value::Float(value)) => Some(Sum::Float(sum + value)),
        (None, Value::Int(value)) => Some(Sum::Int((*value).into())),
        (Some(Sum::Int(sum)), Value::Int(value)) => Some(Sum::Int(sum + i128::from(*value))),
        _ => None,
    }
}

fn take(field: &mut FieldState, time: i64, value: &Value, measures: Measures) {
    let is_below = |a: &Value, b: &Value| match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b).is_lt(),
        (Value::Int(a), Value::Int(b)) => a < b,
        (Value::Bool(a), Value::Bool(b)) => a < b,
        (Value::Text(a), Value::Text(b)) => a < b,
        _ => panic!("one type a field"),
    };
    field.count += 1;
    if measures.extremes {
        if field.min.as_ref().is_none_or(|min| is_below(value, min)) {
            field.min = Some(value.clone());
        }
        if field.max.as_ref().is_none_or(|max| is_below(max, value)) {
            field.max = Some(value.clone());
        }
    }
    if measures.ends {
        if field.first.as_ref().is_none_or(|(at, _)| time < *at) {
            field.first = Some((time, value.clone()));
        }
        if field.last.as_ref().is_none_or(|(at, _)| time >= *at) {
            field.last = Some((time, value.clone()));
        }
    }
}

fn start_of(width_ns: i64, origin: i64, time: i64) -> Option<i64> {
    let distance = i128::from(time) - i128::from(origin);
    let whole = distance.div_euclid(width_ns.into()) * i128::from(width_ns);
    let all = [distance, whole, i128::from(origin) + whole];
    all.map(|number| i64::try_from(number).ok())
        .into_iter()
        .collect::<Option<Vec<i64>>>()?
        .pop()
}

fn int(number: usize) -> i64 {
    i64::try_from(number).unwrap()
}

pub(super) fn wanted(view: &View, table: &str, measures: Measures) -> Aggregate {
    let fields = &view.catalog().table(table).unwrap().fields;
    Aggregate {
        table: table.to_owned(),
        fields: fields
            .iter()
            .map(|(name, _)| (name.clone(), measures))
            .collect(),
        time: i64::MIN..=i64::MAX,
        devices: None,
        buckets: None,
    }
}

pub(super) fn same(view: &Arc<View>, wanted: &Aggregate, buckets: Option<(i64, i64)>) {
    let wanted = Aggregate {
        buckets: buckets.and_then(|(width_ns, origin)| Buckets::new(width_ns, origin)),
        ..wanted.clone()
    };
    let start = |time| buckets.and_then(|(width_ns, origin)| start_of(width_ns, origin, time));
    let expected = naive(view, &wanted, &start);
    let mut found = view.aggregate(wanted.clone()).merged().unwrap();
    for (at, group) in &mut found {
        let expected = expected.get(at).map_or(&[][..], |group| &group.fields);
        for (field, expected) in group.fields.iter_mut().zip(expected) {
            forgive_rounding(field, expected);
        }
    }
    assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{wanted:?}");
}

/// The values of these tests are quarters, which add up exactly in any order; but for what was widened
/// from the largest ints.
fn forgive_rounding(found: &mut FieldState, expected: &FieldState) {
    const EXACT: f64 = (1_i64 << 51) as f64;
    if let (Some(Sum::Float(sum)), Some(Sum::Float(wanted))) = (found.sum, expected.sum)
        && wanted.abs() >= EXACT
        && (sum - wanted).abs() <= wanted.abs() * 1e-12
    {
        found.sum = expected.sum;
    }
}

/// Every aggregate of every table is what a fold over its rows gives.
pub(super) fn check(view: &Arc<View>) {
    let tables: Vec<String> = view
        .catalog()
        .tables()
        .map(|table| table.name.clone())
        .collect();
    for table in tables {
        let all = wanted(view, &table, ALL);
        same(view, &all, None);
        same(view, &all, Some((HOUR, 7)));
        let count = wanted(view, &table, Measures::default());
        same(view, &count, Some((DAY, 0)));
        let extremes = Measures {
            extremes: true,
            ..Measures::default()
        };
        same(view, &wanted(view, &table, extremes), None);
    }
}

/// As [`check`], in windows of time and by buckets of many widths; floats must add up in any order.
/// Returns how many pieces rollups answered.
pub(super) fn check_windows(view: &Arc<View>, random: &mut Random) -> usize {
    let tables: Vec<String> = view
        .catalog()
        .tables()
        .map(|table| table.name.clone())
        .collect();
    let now = view.state().now().0;
    let mut rolled = 0;
    for table in tables {
        let mut some = wanted(view, &table, ALL);
        let from = now - HOUR * int(random.below(60)) - int(random.below(3));
        some.time = match random.below(3) {
            0 => i64::MIN..=i64::MAX,
            1 => from..=from + HOUR * int(random.below(60)),
            _ => from.div_euclid(HOUR) * HOUR..=i64::MAX,
        };
        for measures in some.fields.iter_mut().map(|(_, measures)| measures) {
            if random.chance(30) {
                *measures = Measures {
                    sum: random.chance(50),
                    extremes: random.chance(50),
                    ends: random.chance(50),
                };
            }
        }
        let minute = 60 * SECOND;
        let widths = [
            minute,
            5 * minute,
            HOUR,
            6 * HOUR,
            DAY,
            7 * minute,
            3 * SECOND,
            HOUR + 1,
        ];
        let origin = [0, minute, HOUR, -5 * minute, 7][random.below(5)];
        let buckets = (widths[random.below(8)], origin);
        for buckets in [None, Some(buckets)] {
            same(view, &some, buckets);
            rolled += answers(view, &some, buckets)[1];
        }
    }
    rolled
}

/// How many pieces are made of statistics, of rollups and of rows.
pub(super) fn answers(
    view: &Arc<View>,
    wanted: &Aggregate,
    buckets: Option<(i64, i64)>,
) -> [usize; 3] {
    let buckets = buckets.and_then(|(width_ns, origin)| Buckets::new(width_ns, origin));
    let pieces = view.aggregate(Aggregate {
        buckets,
        ..wanted.clone()
    });
    let mut counts = [0; 3];
    for piece in pieces {
        counts[piece.unwrap().by as usize] += 1;
    }
    counts
}

/// A table of two devices whose column `load` begins as ints.
struct Fleet {
    bench: Bench,
    random: Random,
    widened: bool,
    /// Floats add up in any order, and all that is sealed is rolled up.
    exact: bool,
}

impl Fleet {
    fn new(seed: u64, exact: bool) -> Self {
        let mut bench = Bench::new();
        bench.node.store.worth = if exact { ALWAYS_WORTH } else { NEVER_WORTH };
        let definition = |id: u32| SeriesDefinition {
            id: LocalSeriesId(id),
            table: TABLE.into(),
            device: format!("d{id}"),
            tags: vec![],
            fields: FIELDS
                .map(|name| (name.to_owned(), FieldType::Float))
                .to_vec(),
        };
        let names = bench.agent.define(vec![definition(1), definition(2)]);
        assert_eq!(bench.send(&names), Outcome::Stored);
        Self {
            bench,
            random: Random(seed),
            widened: false,
            exact,
        }
    }

    fn send(&mut self) {
        let rows = 1 + self.random.below(700);
        let from = NOW - DAY / 2 + HOUR * int(self.random.below(30));
        let step = SECOND * [0, 1, 10][self.random.below(3)];
        let times: Vec<i64> = (0..rows).map(|row| from + step * int(row)).collect();
        let mut columns = Vec::new();
        for field in 0..5 {
            // Each row has a value of the second field.
            let present = match self.random.below(4) {
                0 if field != 1 => continue,
                1 if field != 1 => (0..rows).map(|_| self.random.chance(70)).collect(),
                _ => vec![true; rows],
            };
            let count = present.iter().filter(|flag| **flag).count();
            if count > 0 {
                columns.push(Column {
                    field,
                    values: self.values(field, count),
                    present: (count < rows).then_some(present),
                });
            }
        }
        let id = LocalSeriesId(1 + u32::try_from(self.random.below(2)).unwrap());
        let series = vec![SeriesColumns { id, columns }];
        let groups = vec![Rows { times, series }];
        let link = self
            .bench
            .agent
            .seal(Lane::Live, Body::Data(Data { groups }));
        assert_eq!(self.bench.send(&link), Outcome::Stored);
    }

    fn values(&mut self, field: u16, count: usize) -> Values {
        let odd = self.random.chance(20);
        let (tenths, thirds) = if self.exact { (8.0, 4.0) } else { (10.0, 3.0) };
        let number = |_| int(self.random.below(2_000)) - 1_000;
        let mut numbers: Vec<i64> = (0..count).map(number).collect();
        match field {
            0 => {
                let mut floats: Vec<f64> = numbers.iter().map(|n| *n as f64 / tenths).collect();
                if odd {
                    floats[count / 2] = [f64::NAN, -0.0, f64::INFINITY][self.random.below(3)];
                }
                Values::Float(floats)
            }
            1 => {
                if odd {
                    numbers[0] = i64::MAX / 1_000;
                }
                Values::Int(numbers)
            }
            2 => Values::Bool(numbers.iter().map(|n| n % 2 == 0).collect()),
            3 => {
                let long = if odd { "x".repeat(70) } else { String::new() };
                Values::Text(numbers.iter().map(|n| format!("{}{long}", n % 3)).collect())
            }
            _ if self.widened => {
                Values::Float(numbers.iter().map(|n| *n as f64 / thirds).collect())
            }
            _ => Values::Int(numbers),
        }
    }

    fn seal(&mut self) {
        let windows = self
            .bench
            .node
            .store
            .view()
            .unsealed(TimeNs(i64::MAX), Duration::ZERO);
        if let Some(window) = windows.first() {
            self.bench.apply(&Command::Seal(*window));
            assert!(self.bench.node.finish_merges());
        }
    }

    fn view(&self) -> Arc<View> {
        self.bench.node.store.view()
    }

    fn check_windows(&mut self) -> usize {
        if self.exact {
            check_windows(&self.view(), &mut self.random)
        } else {
            0
        }
    }
}

fn check_some(view: &Arc<View>, random: &mut Random) {
    let mut one = |of: usize| random.below(of);
    let mut some = wanted(view, TABLE, Measures::default());
    for (_, measures) in &mut some.fields {
        *measures = Measures {
            sum: one(2) == 0,
            extremes: one(2) == 0,
            ends: one(2) == 0,
        };
    }
    some.fields.push(("none".to_owned(), ALL));
    let from = NOW - DAY / 2 + HOUR * int(one(24));
    some.time = from..=from + HOUR * int(one(24));
    some.devices = (one(2) == 0).then(|| vec!["d2".to_owned(), "d9".to_owned()]);
    same(view, &some, None);
    same(view, &some, Some((DAY, 5)));
    same(view, &some, Some((60 * SECOND, NOW)));
}

#[test]
fn aggregates_are_what_a_fold_over_the_rows_gives() {
    let mut rolled = 0;
    for seed in 0..12 {
        let mut fleet = Fleet::new(seed, seed % 3 > 0);
        fleet.send();
        for step in 0..14 {
            fleet.widened = step > 6;
            match fleet.random.below(10) {
                0..6 => fleet.send(),
                6..9 => fleet.bench.merge(),
                _ => fleet.seal(),
            }
            let view = fleet.view();
            check_some(&view, &mut fleet.random);
            rolled += fleet.check_windows();
        }
        check(&fleet.view());
        fleet.bench.merge();
        fleet.seal();
        check(&fleet.view());
        rolled += fleet.check_windows();
    }
    assert!(rolled > 0, "no rollup was asked");
}

/// Whole blocks are answered by their entries: damage in them goes unseen. Where one has to be read,
/// it is told.
#[test]
fn a_whole_block_is_not_read_and_a_damaged_one_is_an_error() {
    let mut fleet = Fleet::new(1, false);
    let times: Vec<i64> = (0..500).map(|row| NOW + row * SECOND).collect();
    let floats = (0..500).map(f64::from).collect();
    fleet.bench.data(&times, Values::Float(floats));
    fleet.bench.merge();
    let whole = wanted(&fleet.view(), "truck", ALL);
    let before = fleet.view().aggregate(whole.clone()).merged().unwrap();
    let speed = &before.values().next().unwrap().fields[0];
    assert_eq!((speed.count, speed.sum), (500, Some(Sum::Float(124_750.0))));
    assert_eq!(speed.last, Some((NOW + 499 * SECOND, Value::Float(499.0))));

    let name = format!("segments/{}", fleet.bench.files()[0]);
    let in_block = 60;
    assert!(fleet.bench.node.sim.flip_bit(&name, in_block * 8));
    let found = fleet.view().aggregate(whole.clone()).merged().unwrap();
    assert_eq!(found, before);
    let day = Aggregate {
        buckets: Buckets::new(DAY, 0),
        ..whole.clone()
    };
    assert_eq!(fleet.view().aggregate(day).merged().unwrap().len(), 1);
    let part = Aggregate {
        time: NOW + 1..=i64::MAX,
        ..whole.clone()
    };
    let hours = Aggregate {
        buckets: Buckets::new(HOUR / 20, 0),
        ..whole
    };
    for damaged in [part, hours] {
        let found = fleet.view().aggregate(damaged).merged();
        assert!(
            matches!(found, Err(StoreError::Damaged { .. })),
            "{found:?}"
        );
    }
}
