//! How fast line protocol is taken, on one core of this machine and by a whole agent.
//!
//! `cargo run --release -p benches --bin ingest [-- SECONDS]` prints million values a second: lines
//! to readings, lines to sealed batches; then what a `tributary-agent run` sustains over a Unix
//! socket without answers while no node can be reached, so that all of it goes to the journal,
//! which is synced once a second.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

mod agent;
mod lines;
mod seal;

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use shared::id::TimeNs;
use shared::payload::line::{self, DEVICE_KEY, LineOptions, LineReader, Precision};
use tests::binaries::Binaries;
use tests::cluster::{Cluster, Options};

use lines::Set;
use seal::Sealer;

type Failed = Box<dyn Error>;

const MEASURE: Duration = Duration::from_secs(1);
const GATEWAY: &str = "gw1";

fn main() -> Result<(), Failed> {
    let seconds = std::env::args()
        .nth(1)
        .map_or(Ok(10), |text| text.parse())?;
    let sets = lines::sets();
    println!("conditions: one core, everything in memory, million values a second");
    println!(
        "{:<12} {:>8} {:>12} {:>14} {:>14} {:>12} {:>14}",
        "lines", "values", "bytes a line", "by the rules", "lines known", "sealed", "bytes a value"
    );
    for set in &sets {
        one_core(set)?;
    }
    let binaries = Binaries::build()?;
    let folder = tempfile::tempdir()?;
    // For its certificates: no node of it runs.
    let options = Options {
        nodes: 1,
        ..Options::default()
    };
    let cluster = Cluster::prepare(&binaries, folder.path(), options)?;
    println!(
        "\nconditions: agent and generator on {} cores, a Unix socket without answers, no node \
         reachable, max_unsafe_ms 1000, journal in {}, {seconds} s a row",
        std::thread::available_parallelism()?,
        folder.path().display()
    );
    println!(
        "{:<12} {:>12} {:>16} {:>12} {:>16} {:>16} {:>8}",
        "lines",
        "M values/s",
        "agent CPU-s/M",
        "gen CPU-s/M",
        "journal B/value",
        "journal behind s",
        "dropped"
    );
    for set in &sets {
        let row = agent::run(&cluster, set, Duration::from_secs(seconds))?;
        println!(
            "{:<12} {:>12.2} {:>16.3} {:>12.3} {:>16.2} {:>16.1} {:>8}",
            set.name,
            row.values / row.seconds / 1e6,
            row.agent_cpu_seconds / row.values * 1e6,
            row.own_cpu_seconds / row.values * 1e6,
            row.journal_bytes / row.values,
            row.behind_seconds,
            row.dropped
        );
    }
    Ok(())
}

fn one_core(set: &Set) -> Result<(), Failed> {
    let lines = set.lines();
    let options = LineOptions::new(TimeNs(0), GATEWAY);
    let rules = rate(|| {
        let mut values = 0;
        for reading in line::parse(set.text.as_bytes(), options) {
            values += black_box(reading?).values.len();
        }
        Ok(values)
    })?;
    let mut reader = LineReader::new(Precision::Ns, DEVICE_KEY, GATEWAY);
    let known = rate(|| {
        let mut values = 0;
        for line in &lines {
            if let Some(reading) = reader.read(line, TimeNs(0)) {
                values += black_box(reading?).values.len();
            }
        }
        Ok(values)
    })?;
    let mut sealer = Sealer::new(GATEWAY);
    let sealed = rate(|| {
        let mut values = 0;
        for line in &lines {
            values += sealer.take(line)?;
        }
        Ok(values)
    })?;
    println!(
        "{:<12} {:>8} {:>12.0} {rules:>14.2} {known:>14.2} {sealed:>12.2} {:>14.2}",
        set.name,
        set.values / lines.len(),
        set.text.len() as f64 / lines.len() as f64,
        sealer.bytes_a_value()
    );
    Ok(())
}

/// Million values a second; a pass gives how many it took. The first one makes everything known.
fn rate(mut pass: impl FnMut() -> Result<usize, Failed>) -> Result<f64, Failed> {
    pass()?;
    let (start, mut values) = (Instant::now(), 0);
    while start.elapsed() < MEASURE {
        values += pass()?;
    }
    Ok(values as f64 / start.elapsed().as_secs_f64() / 1e6)
}
