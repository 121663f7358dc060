//! How fast what is stored is read, inside the process.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aggregator::store::{Aggregate, Answer, Buckets, Measures, Scan, StoreError, View};

use crate::data::START;
use crate::feed::READINGS;
use crate::replica::Replica;

const HOUR_NS: i64 = 3_600 * 1_000_000_000;
const ROUNDS: usize = 50;

pub(crate) fn report(replica: &Replica, values: u64) -> Result<(), Box<dyn Error>> {
    let view = replica.view();
    println!("\nreads, one thread, files in the page cache:");
    let all = |table: &str, fields: &[&str]| Scan {
        table: table.to_owned(),
        fields: fields.iter().map(|name| (*name).to_owned()).collect(),
        time: i64::MIN..=i64::MAX,
        devices: None,
    };
    for (name, scan, share) in [
        ("all of readings", all("readings", &READINGS), 0.7),
        ("one field of all", all("readings", &["velocity"]), 0.1),
    ] {
        let start = Instant::now();
        let mut rows = 0;
        for chunk in view.scan(scan) {
            rows += black_box(chunk?).times.len();
        }
        let took = start.elapsed();
        let speed = values as f64 * share / took.as_secs_f64() / 1e6;
        println!("  {name}: {rows} rows in {took:.1?}, {speed:.0} M values/s decoded");
    }
    let hour = || Scan {
        time: START + HOUR_NS..=START + 2 * HOUR_NS,
        devices: Some(vec!["truck_3".to_owned()]),
        ..all("readings", &["velocity"])
    };
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for chunk in view.scan(hour()) {
            black_box(chunk?);
        }
        took.push(start.elapsed());
    }
    took.sort();
    println!(
        "  one field of one device, one hour: p50 {:.1?}",
        took[ROUNDS / 2]
    );
    let start = Instant::now();
    let table = view.catalog().table("readings").ok_or("no table")?;
    let mut found = 0;
    for series in table.series() {
        found += black_box(view.last_values(series)).len();
    }
    println!("  last values: {found} fields in {:.1?}", start.elapsed());
    aggregates(&view)
}

/// What dashboards ask, by the statistics of blocks, by rollups and by what has to be decoded beside them.
fn aggregates(view: &Arc<View>) -> Result<(), Box<dyn Error>> {
    println!("\naggregates, by statistics where a block is whole, by rollups where these fit:");
    let of = |fields: &[&str], measures, width_ns| Aggregate {
        table: "readings".to_owned(),
        fields: fields
            .iter()
            .map(|name| ((*name).to_owned(), measures))
            .collect(),
        time: i64::MIN..=i64::MAX,
        devices: None,
        buckets: Buckets::new(width_ns, START),
    };
    let all = Measures {
        sum: true,
        extremes: true,
        ends: true,
    };
    let mean = Measures {
        sum: true,
        ..Measures::default()
    };
    let days = |days: i64| START..=START + days * 24 * HOUR_NS - 1;
    let day = Aggregate {
        time: days(1),
        ..of(&["velocity"], mean, HOUR_NS / 12)
    };
    let hourly = Aggregate {
        time: days(3),
        ..of(&["velocity"], mean, HOUR_NS)
    };
    for (name, wanted) in [
        ("all of seven fields", of(&READINGS, all, 0)),
        ("mean of one field, fleet, 5 min, a day", day),
        ("mean of one field, each truck, hourly, 3 days", hourly),
    ] {
        let fields = wanted.fields.len() as f64;
        let mut took: Vec<Duration> = Vec::new();
        let (mut rows, mut groups) = (0, 0);
        for _ in 0..ROUNDS / 5 {
            let start = Instant::now();
            (rows, groups) = answered(view, wanted.clone())?;
            took.push(start.elapsed());
        }
        took.sort();
        let p50 = took[took.len() / 2];
        let speed = rows as f64 * fields / p50.as_secs_f64() / 1e6;
        println!("  {name}: {rows} rows, {groups} states, p50 {p50:.1?}, {speed:.0} M values/s");
        let [statistics, rollups, rows] = pieces(view, wanted)?;
        println!("    pieces: {statistics} by statistics, {rollups} by rollups, {rows} by rows");
    }
    Ok(())
}

/// How many are made of statistics, of rollups and of rows.
fn pieces(view: &Arc<View>, wanted: Aggregate) -> Result<[usize; 3], StoreError> {
    let mut counts = [0; 3];
    for piece in view.aggregate(wanted) {
        let at = match piece?.by {
            Answer::Statistics => 0,
            Answer::Rollup => 1,
            Answer::Rows => 2,
        };
        counts[at] += 1;
    }
    Ok(counts)
}

/// Rows and states, these by bucket for the whole fleet or by truck.
fn answered(view: &Arc<View>, wanted: Aggregate) -> Result<(u64, usize), StoreError> {
    let merged = black_box(view.aggregate(wanted).merged()?);
    let mut rows_of: BTreeMap<Option<i64>, u64> = BTreeMap::new();
    for ((_, bucket), group) in &merged {
        *rows_of.entry(*bucket).or_insert(0) += group.rows;
    }
    Ok((black_box(rows_of).values().sum(), merged.len()))
}
