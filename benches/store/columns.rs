//! Many columns: what each holds in memory, and how fast their readings are taken.

use std::error::Error;
use std::time::Instant;

use shared::batch::Values;
use shared::id::Lane;
use shared::reading::FieldType;

use crate::Args;
use crate::data::START;
use crate::feed::{Agent, Feed, definition};
use crate::memory;
use crate::replica::Replica;

const SERIES: u32 = 100;
const FIELDS: u32 = 10;
/// Of the many; the few get as many values in all.
const ROWS: usize = 16;
const STEP_NS: i64 = 10_000_000_000;

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut speeds = Vec::new();
    for (name, agents, rows) in [
        ("few", 1, ROWS * args.agents as usize),
        ("many", args.agents, ROWS),
    ] {
        let mut feed = wide(agents, rows);
        let columns = u64::from(agents * SERIES * FIELDS);
        let before = memory::now()?;
        let mut replica = Replica::open(&args.folder.join(name))?;
        replica.define(&mut feed)?;
        let (start, defined) = (Instant::now(), replica.cpu().apply);
        for row in 0..rows {
            replica.clock(feed.time(row))?;
            let batches = feed.batches(Lane::Live, &[row])?;
            replica.submit(batches)?;
        }
        let (took, applied) = (start.elapsed(), replica.cpu().apply.saturating_sub(defined));
        replica.merge_or_seal()?;
        let held = memory::now()?.saturating_sub(before);
        let speed = feed.values() as f64 / applied.as_secs_f64() / 1e6;
        println!(
            "{name}: {columns} columns, {} M values in batches of {}: {speed:.2} M values a CPU-s applied \
             ({took:.1?} with sealing the batches and merges); {} bytes a column in memory after a merge",
            feed.values() / 1_000_000,
            SERIES * FIELDS,
            held / columns
        );
        speeds.push(speed);
    }
    println!("many over few: {:.2}", speeds[1] / speeds[0]);
    Ok(())
}

/// Agents with a hundred series of ten fields.
fn wide(agents: u32, rows: usize) -> Feed {
    let field = |at| (format!("field_{at}"), FieldType::Float);
    let fields: Vec<_> = (0..FIELDS).map(field).collect();
    let wave = |nth: u32| {
        let value = |row: u32| f64::from((row * 7 + nth) % 1_000) / 10.0;
        Values::Float((0..).map(value).take(rows).collect())
    };
    let times = (0..).map(|row| START + row * STEP_NS).take(rows);
    let times: Vec<i64> = times.collect();
    let agent = |nth: u32| {
        let series = (0..SERIES).map(|id| {
            let device = format!("device_{nth}_{id}");
            definition(id, "wide", device, fields.clone())
        });
        let values = (0..SERIES).map(|id| (0..FIELDS).map(|at| wave(nth + id + at)).collect());
        Agent {
            series: series.collect(),
            times: times.clone(),
            values: values.collect(),
            ..Agent::new(&format!("agent-{nth}"))
        }
    };
    Feed {
        agents: (0..agents).map(agent).collect(),
    }
}
