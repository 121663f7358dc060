//! The data sets: readings as an agent batches them, so many values a batch.

use std::error::Error;
use std::path::Path;

use shared::batch::{Column, Data, Group, SeriesColumns, Values};
use shared::id::LocalSeriesId;

/// 2026-11-26 12:00 UTC, in nanoseconds.
pub(crate) const START: i64 = 1_795_694_400_000_000_000;
const SECOND: i64 = 1_000_000_000;
/// The public sets: name, file, and which of its columns is the time.
pub(crate) const FILES: [(&str, &str, usize); 4] = [
    ("temperature", "nab-ambient-temperature.csv", 0),
    ("cpu", "nab-cpu-utilization.csv", 0),
    ("speed", "nab-traffic-speed.csv", 0),
    ("occupancy", "uci-occupancy.csv", 1),
];

pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// Batches of about this many values, given how many.
    pub(crate) batch: Box<dyn Fn(usize) -> Data>,
}

/// A generator of numbers that look random (Vigna, splitmix64), the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From -1 to 1.
    fn signed(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A clamped random walk, cut to some decimals.
fn walk(
    dice: &mut Dice,
    rows: usize,
    step: f64,
    bounds: (f64, f64),
    from: f64,
    decimals: i32,
) -> Values {
    let mut at = from;
    let scale = 10f64.powi(decimals);
    let mut next = || {
        at = (at + dice.signed() * step).clamp(bounds.0, bounds.1);
        (at * scale).trunc() / scale
    };
    Values::Float((0..rows).map(|_| next()).collect())
}

/// A load that changes at one reading of twenty.
fn load(dice: &mut Dice, rows: usize) -> Values {
    let mut at = 0.0;
    let mut next = || {
        if dice.next().is_multiple_of(20) {
            at = (dice.next() % 5_000) as f64;
        }
        at
    };
    Values::Float((0..rows).map(|_| next()).collect())
}

/// From 0 to 5, by steps that are normally distributed (the sum of twelve dice).
fn status(dice: &mut Dice, rows: usize) -> Values {
    let mut at = 0.0_f64;
    let mut next = || {
        let step: f64 = (0..12).map(|_| dice.signed()).sum::<f64>() / 2.0;
        at = (at + step).clamp(0.0, 5.0);
        [0, 1, 2, 3, 4, 5][(0..5).filter(|whole| f64::from(*whole) + 1.0 <= at).count()]
    };
    Values::Int((0..rows).map(|_| next()).collect())
}

fn columns(values: Vec<Values>) -> Vec<Column> {
    let columns = (0u16..).zip(values).map(|(field, values)| Column {
        field,
        present: None,
        values,
    });
    columns.collect()
}

fn series(id: u32, values: Vec<Values>) -> SeriesColumns {
    SeriesColumns {
        id: LocalSeriesId(id),
        columns: columns(values),
    }
}

/// So many trucks, ten values each every ten seconds: seven of `readings`, three of `diagnostics`,
/// distributed as those of the `iot` set of the Time Series Benchmark Suite.
pub(crate) fn trucks(trucks: u32, values: usize) -> Data {
    let rows = (values / 10 / trucks as usize).max(1);
    let mut all = Vec::new();
    let mut diagnostics = Vec::new();
    for truck in 0..trucks {
        let dice = &mut Dice(u64::from(truck));
        let mut from = |most: f64| dice.signed().abs() * most;
        let (latitude, longitude) = (from(90.0), from(180.0));
        let (elevation, heading) = (from(500.0), from(360.0));
        all.push(series(
            truck,
            vec![
                walk(dice, rows, 0.005, (-90.0, 90.0), latitude, 5),
                walk(dice, rows, 0.005, (-180.0, 180.0), longitude, 5),
                walk(dice, rows, 10.0, (0.0, 5_000.0), elevation, 0),
                walk(dice, rows, 10.0, (0.0, 100.0), 0.0, 0),
                walk(dice, rows, 5.0, (0.0, 360.0), heading, 0),
                walk(dice, rows, 5.0, (0.0, 100.0), 0.0, 0),
                walk(dice, rows, 5.0, (0.0, 50.0), 25.0, 1),
            ],
        ));
        let mut fuel = 1.0;
        let mut burn = || {
            fuel -= dice.signed().abs() * 0.001;
            (fuel * 10.0_f64).trunc() / 10.0
        };
        let fuel = Values::Float((0..rows).map(|_| burn()).collect());
        let values = vec![fuel, load(dice, rows), status(dice, rows)];
        diagnostics.push(series(trucks + truck, values));
    }
    all.append(&mut diagnostics);
    let row = |row: usize| START + i64::try_from(row).expect("few") * 10 * SECOND;
    one_group((0..rows).map(row).collect(), all)
}

/// A controller with twenty devices of ten tags, polled every second: registers of 16 bits times
/// 0.1, a set point, a counter, two flags, a state.
pub(crate) fn plc(values: usize) -> Data {
    let devices = (values / 10).clamp(1, 20);
    let rows = (values / 10 / devices).max(1);
    let dice = &mut Dice(7);
    let mut all = Vec::new();
    for device in 0..u32::try_from(devices).expect("few") {
        let mut values: Vec<Values> = (0..5)
            .map(|_| {
                let Values::Float(registers) = walk(dice, rows, 3.0, (0.0, 4_000.0), 2_000.0, 0)
                else {
                    unreachable!("a walk is of floats")
                };
                Values::Float(
                    registers
                        .into_iter()
                        .map(|register| register * 0.1)
                        .collect(),
                )
            })
            .collect();
        let set_point = (dice.next() % 800) as f64 * 0.1;
        let count = i64::from(device) * 1_000;
        let first = count + (dice.next() % 1_000).cast_signed();
        values.push(Values::Float(vec![set_point; rows]));
        values.push(Values::Int((first..).take(rows).collect()));
        values.push(Values::Bool(vec![device % 3 == 0; rows]));
        values.push(Values::Bool((0..rows).map(|row| row > rows / 2).collect()));
        let state = ["running", "idle"][usize::from(dice.next().is_multiple_of(4))];
        values.push(Values::Text(vec![state.to_owned(); rows]));
        all.push(series(device, values));
    }
    let mut jitter = || (dice.next() % 5).cast_signed() * 1_000_000;
    let row = |row: usize| START + i64::try_from(row).expect("few") * SECOND;
    let times = (0..rows).map(row).map(|time| time + jitter()).collect();
    one_group(times, all)
}

fn one_group(times: Vec<i64>, series: Vec<SeriesColumns>) -> Data {
    Data {
        groups: vec![Group { times, series }],
    }
}

/// A file of comma-separated values: a column of times (its place among the columns), then numbers.
pub(crate) fn csv(
    path: &Path,
    time_at: usize,
) -> Result<(Vec<i64>, Vec<Vec<f64>>), Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let (mut times, mut columns) = (Vec::new(), Vec::new());
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').map(|cell| cell.trim_matches('"')).collect();
        let time = cells.get(time_at).ok_or("a line without a time")?;
        times.push(seconds(time).ok_or("a time that is none")? * SECOND);
        let values = &cells[time_at + 1..];
        columns.resize(values.len(), Vec::new());
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value.parse()?);
        }
    }
    Ok((times, columns))
}

/// `2015-02-04 17:51:00` since 1970 (Hinnant, "days_from_civil").
fn seconds(text: &str) -> Option<i64> {
    let parts: Option<Vec<i64>> = text
        .split([' ', '-', ':'])
        .map(|part| part.parse().ok())
        .collect();
    let [year, month, day, hour, minute, second] = parts?.try_into().ok()?;
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let year = year.rem_euclid(400);
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The first rows of a file, so that they hold about so many values.
pub(crate) fn rows(file: &(Vec<i64>, Vec<Vec<f64>>), values: usize) -> Data {
    let (times, columns) = file;
    let rows = (values / columns.len()).clamp(1, times.len());
    let values = columns
        .iter()
        .map(|column| Values::Float(column[..rows].to_vec()));
    one_group(times[..rows].to_vec(), vec![series(1, values.collect())])
}
