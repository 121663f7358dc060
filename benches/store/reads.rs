//! How fast what is stored is read, inside the process.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aggregator::store::Scan;

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
    Ok(())
}
