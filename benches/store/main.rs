//! What rows cost once they are stored: bytes a value on disk, bytes written on the way, CPU, and how
//! fast they are read.
//!
//! `cargo run --release -p store-bench -- [--trucks 100] [--hours 72] [--batch-rows 100]
//! [--merge-minutes 60] [--dir FOLDER]` makes readings of trucks as those of the `iot` set of the Time
//! Series Benchmark Suite, one agent a truck, ten values every ten seconds. One replica applies them
//! as its log would bring them, merges, seals each day two hours after its end, and the last days at
//! the end. All on one thread; the log itself is counted, not written.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

#[expect(dead_code, reason = "of the data sets it takes the trucks")]
#[path = "../codec/data.rs"]
mod data;
mod feed;
mod reads;
mod replica;

use std::error::Error;
use std::path::PathBuf;

use feed::Fleet;
use replica::Replica;

struct Args {
    trucks: u32,
    hours: usize,
    batch_rows: usize,
    merge_minutes: usize,
    dir: Option<PathBuf>,
}

fn args() -> Result<Args, Box<dyn Error>> {
    let mut args = Args {
        trucks: 100,
        hours: 72,
        batch_rows: 100,
        merge_minutes: 60,
        dir: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name}: no value"))?;
        match name.as_str() {
            "--trucks" => args.trucks = value.parse()?,
            "--hours" => args.hours = value.parse()?,
            "--batch-rows" => args.batch_rows = value.parse()?,
            "--merge-minutes" => args.merge_minutes = value.parse()?,
            "--dir" => args.dir = Some(value.into()),
            _ => return Err(format!("{name}: what is that?").into()),
        }
    }
    Ok(args)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = args()?;
    let own = tempfile::tempdir()?;
    let folder = args.dir.clone().unwrap_or_else(|| own.path().to_owned());
    let rows = args.hours * 360;
    let values = u64::from(args.trucks) * rows as u64 * 10;
    println!(
        "conditions: {} trucks, {} h, {} rows ({} values) a batch, a merge every {} min, one thread, {}",
        args.trucks,
        args.hours,
        args.batch_rows,
        args.batch_rows * 10,
        args.merge_minutes,
        folder.display()
    );
    let mut fleet = Fleet::new(args.trucks, rows);
    let mut replica = Replica::open(&folder)?;
    replica.define(&mut fleet)?;
    let mut merged = 0;
    for from in (0..rows).step_by(args.batch_rows) {
        let to = (from + args.batch_rows).min(rows);
        replica.take(&mut fleet, from..to)?;
        if to - merged >= args.merge_minutes * 6 {
            merged = to;
            replica.merge_or_seal()?;
        }
    }
    replica.merge_or_seal()?;
    replica.report(values, "before the last days are sealed")?;
    replica.seal_all()?;
    replica.report(values, "sealed")?;
    reads::report(&replica, values)
}
