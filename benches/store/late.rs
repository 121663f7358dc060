//! Rows that come a day late: what they cost, and that they change nothing.

use std::error::Error;

use aggregator::store::Scan;
use shared::id::{Lane, TimeNs};

use crate::Args;
use crate::feed::{Feed, READINGS};
use crate::replica::Replica;

const DAY_ROWS: usize = 24 * 360;
/// One of so many rows is late.
const EVERY: usize = 10;
const MERGE_ROWS: usize = 360;
const STEP_NS: i64 = 10_000_000_000;

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let rows = args.hours * 360;
    println!(
        "late: {} trucks, {} h, one row of {EVERY}",
        args.trucks, args.hours
    );
    let mut results = Vec::new();
    for (name, every) in [("in time", usize::MAX), ("late", EVERY)] {
        let mut feed = Feed::trucks(args.trucks, rows);
        let mut replica = Replica::open(&args.folder.join(name))?;
        replica.define(&mut feed)?;
        take(&mut replica, &mut feed, every, args.batch_rows)?;
        replica.seal_all()?;
        replica.report(feed.values(), name)?;
        results.push((replica.cpu().all(), replica.kept()?.1, sum(&replica)?));
    }
    let (in_time, late) = (&results[0], &results[1]);
    println!(
        "\nlate over in time: CPU {:.2}, bytes {:.3}; the same rows: {}",
        late.0.as_secs_f64() / in_time.0.as_secs_f64(),
        late.1 as f64 / in_time.1 as f64,
        late.2 == in_time.2
    );
    Ok(())
}

/// Side by side: what is in time of a day, and what is late of the day before.
fn take(
    replica: &mut Replica,
    feed: &mut Feed,
    every: usize,
    batch_rows: usize,
) -> Result<(), Box<dyn Error>> {
    let (all, mut unmerged, mut late) = (feed.rows(), 0, Vec::new());
    let is_late = |row: &usize| row % every == every - 1;
    let start = feed.time(0).0;
    for (from, steps) in (0..all + DAY_ROWS).zip(0..).step_by(batch_rows) {
        let to = from + batch_rows;
        replica.clock(TimeNs(start + steps * STEP_NS))?;
        let in_time: Vec<usize> = (from..to.min(all)).filter(|row| !is_late(row)).collect();
        if !in_time.is_empty() {
            replica.submit(feed.batches(Lane::Live, &in_time)?)?;
        }
        let (before, end) = (from.saturating_sub(DAY_ROWS), to.saturating_sub(DAY_ROWS));
        late.extend((before..end.min(all)).filter(is_late));
        if late.len() >= batch_rows || (to >= all + DAY_ROWS && !late.is_empty()) {
            replica.submit(feed.batches(Lane::Backlog, &late)?)?;
            late.clear();
        }
        unmerged += batch_rows;
        if unmerged >= MERGE_ROWS {
            unmerged = 0;
            replica.merge_or_seal()?;
        }
    }
    replica.merge_or_seal()
}

/// Rows, and a sum over the bits of all their values that does not depend on their order.
fn sum(replica: &Replica) -> Result<(usize, u64), Box<dyn Error>> {
    let scan = Scan {
        table: "readings".to_owned(),
        fields: READINGS.iter().map(|name| (*name).to_owned()).collect(),
        time: i64::MIN..=i64::MAX,
        devices: None,
    };
    let (mut rows, mut sum) = (0, 0_u64);
    for chunk in replica.view().scan(scan) {
        let chunk = chunk?;
        rows += chunk.times.len();
        for column in chunk.columns.iter().flatten() {
            let shared::batch::Values::Float(values) = &column.values else {
                return Err("a field that is no float".into());
            };
            for (time, value) in chunk.times.iter().zip(values) {
                sum = sum.wrapping_add(value.to_bits().rotate_left(7) ^ time.cast_unsigned());
            }
        }
    }
    Ok((rows, sum))
}
