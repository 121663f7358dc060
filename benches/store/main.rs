//! What rows cost once they are stored: bytes a value on disk, bytes written on the way, CPU and memory,
//! and how fast they are read and found again.
//!
//! `cargo run --release -p store-bench -- [RUN] [--OPTION VALUE]..`: one replica applies what agents
//! seal as its log would bring it, and merges and seals it when that is due, all on one thread; the
//! log itself is counted, not written. Runs:
//!
//! - `trucks` (the default; `--trucks 100 --hours 72 --batch-rows 100 --merge-minutes 60`): readings of
//!   trucks as those of the `iot` set of the Time Series Benchmark Suite, one agent a truck, ten
//!   values every ten seconds; then how fast they are read.
//! - `sets` (`--data FOLDER`): a polled controller for six hours, and the public sets.
//! - `late` (`--trucks 100 --hours 72`): every tenth row comes a day late.
//! - `columns` (`--agents 1000`): series of ten fields, a hundred an agent, beside a single agent.
//! - `restart` (`--gigabytes 10`): opening segments of random bits, and a log of 256 MiB.
//!
//! `--dir FOLDER` keeps the files there.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

mod columns;
#[expect(dead_code, reason = "of the data sets it takes some")]
#[path = "../codec/data.rs"]
mod data;
mod feed;
mod late;
mod memory;
mod reads;
mod replica;
mod restart;
mod sets;

use std::error::Error;
use std::path::PathBuf;

use feed::Feed;
use mimalloc::MiMalloc;
use replica::Replica;

/// That of the aggregator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

pub(crate) struct Args {
    run: String,
    pub(crate) trucks: u32,
    pub(crate) hours: usize,
    pub(crate) batch_rows: usize,
    pub(crate) merge_minutes: usize,
    pub(crate) agents: u32,
    pub(crate) gigabytes: u64,
    pub(crate) data: Option<PathBuf>,
    pub(crate) folder: PathBuf,
}

fn args(own: PathBuf) -> Result<Args, Box<dyn Error>> {
    let mut args = Args {
        run: "trucks".to_owned(),
        trucks: 100,
        hours: 72,
        batch_rows: 100,
        merge_minutes: 60,
        agents: 1_000,
        gigabytes: 10,
        data: std::env::var_os("TRIBUTARY_DATA").map(PathBuf::from),
        folder: own,
    };
    let mut given = std::env::args().skip(1).peekable();
    if let Some(run) = given.next_if(|first| !first.starts_with('-')) {
        args.run = run;
    }
    while let Some(name) = given.next() {
        let value = given.next().ok_or_else(|| format!("{name}: no value"))?;
        match name.as_str() {
            "--trucks" => args.trucks = value.parse()?,
            "--hours" => args.hours = value.parse()?,
            "--batch-rows" => args.batch_rows = value.parse()?,
            "--merge-minutes" => args.merge_minutes = value.parse()?,
            "--agents" => args.agents = value.parse()?,
            "--gigabytes" => args.gigabytes = value.parse()?,
            "--data" => args.data = Some(value.into()),
            "--dir" => args.folder = value.into(),
            _ => return Err(format!("{name}: what is that?").into()),
        }
    }
    Ok(args)
}

fn main() -> Result<(), Box<dyn Error>> {
    let own = tempfile::tempdir()?;
    let args = args(own.path().to_owned())?;
    println!("conditions: one thread, {}", args.folder.display());
    match args.run.as_str() {
        "trucks" => trucks(&args),
        "sets" => sets::run(&args),
        "late" => late::run(&args),
        "columns" => columns::run(&args),
        "restart" => restart::run(&args),
        other => Err(format!("{other}: no such run").into()),
    }
}

fn trucks(args: &Args) -> Result<(), Box<dyn Error>> {
    println!(
        "trucks: {}, {} h, {} rows ({} values) a batch, a merge every {} min",
        args.trucks,
        args.hours,
        args.batch_rows,
        args.batch_rows * 10,
        args.merge_minutes
    );
    let mut feed = Feed::trucks(args.trucks, args.hours * 360);
    let values = feed.values();
    let before = memory::now()?;
    memory::forget_most()?;
    let mut replica = Replica::open(&args.folder)?;
    replica.define(&mut feed)?;
    replica.take_all(&mut feed, args.batch_rows, args.merge_minutes * 6)?;
    replica.report(values, "before the last days are sealed")?;
    replica.seal_all()?;
    replica.report(values, "sealed")?;
    println!(
        "  memory: {} MiB of readings that wait to be sent; at most {} MiB more while {} M values were stored",
        before >> 20,
        memory::most()?.saturating_sub(before) >> 20,
        values / 1_000_000
    );
    reads::report(&replica, values)
}
