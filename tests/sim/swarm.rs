//! Many seeds, each in a process of its own, on all cores; a seed that fails is shrunk.

#![expect(
    clippy::disallowed_methods,
    reason = "it measures what virtual time takes of the real one"
)]

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::SEED;
use crate::plan::SKIP;
use crate::report::{command, shrink};

/// How many seeds are to be run: then a block is added to `docs/proof.md`.
const SEEDS: &str = "TRIBUTARY_SIM_SEEDS";
/// The first of them; else it is drawn anew each time.
const BASE: &str = "TRIBUTARY_SIM_BASE";
/// Seeds of a run that everyone waits for.
const USUAL_SEEDS: u64 = 200;
/// A run that takes longer on the machine is given up: time stands still in it.
const SEED_LIMIT_S: &str = "300";
/// Seeds that failed and are shrunk; the others are only named.
const SHRUNK_MAX: usize = 3;

/// Sums over runs.
#[derive(Default)]
struct Sum {
    seeds: u64,
    acknowledged: u64,
    simulated_ms: u64,
    cpu_s: f64,
    faults: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

#[test]
fn fresh_seeds_keep_every_promise() {
    let asked = env::var(SEEDS).ok();
    let number = |text: String| text.parse().expect("a number");
    let seeds: u64 = asked.clone().map_or(USUAL_SEEDS, number);
    let base = env::var(BASE).map_or_else(|_| fresh(), number);
    eprintln!("{seeds} seeds from {base}");
    let began = Instant::now();
    let sum = run_all(base, seeds);
    let block = describe(&sum, base, began.elapsed().as_secs());
    eprintln!("{block}");
    if asked.is_some() {
        append(&block);
    }
    for seed in sum.failed.iter().take(SHRUNK_MAX) {
        let skipped = shrink(|skipped| !run(*seed, skipped).0);
        eprintln!("{}{}", run(*seed, &skipped).1, command(*seed, &skipped));
    }
    assert!(sum.failed.is_empty(), "seeds that failed: {:?}", sum.failed);
}

/// What no run before had.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs()) * 100_000
}

fn run_all(base: u64, seeds: u64) -> Sum {
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= seeds {
                return;
            }
            let began = Instant::now();
            let (passed, text) = run(base + nth, "");
            let mut sum = sum.lock().expect("no worker panics");
            sum.seeds += 1;
            sum.cpu_s += began.elapsed().as_secs_f64();
            sum.add(&text);
            if !passed {
                eprintln!("{text}\nfailed: {}", command(base + nth, ""));
                sum.failed.push(base + nth);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    sum.into_inner().expect("no worker panics")
}

/// Runs a seed in a process of its own: whether it passed, and what it printed.
fn run(seed: u64, skipped: &str) -> (bool, String) {
    let own = env::current_exe().expect("a test knows its program");
    let output = Command::new("timeout")
        .arg(SEED_LIMIT_S)
        .arg(own)
        .args(["one_run", "--exact", "--nocapture", "--test-threads=1"])
        .env(SEED, seed.to_string())
        .env(SKIP, skipped)
        .output()
        .expect("a test can start itself");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

impl Sum {
    fn add(&mut self, text: &str) {
        let Some(line) = text.lines().find_map(|line| line.strip_prefix("run ")) else {
            return;
        };
        for (kind, count) in line.split(' ').filter_map(|pair| pair.split_once('=')) {
            let count: u64 = count.parse().unwrap_or(0);
            match kind {
                "simulated_ms" => self.simulated_ms += count,
                "acknowledged" => self.acknowledged += count,
                _ => *self.faults.entry(kind.to_owned()).or_default() += count,
            }
        }
    }
}

fn describe(sum: &Sum, base: u64, took_s: u64) -> String {
    let hours = sum.simulated_ms as f64 / 3_600_000.0;
    let ratio = sum.simulated_ms as f64 / 1_000.0 / sum.cpu_s.max(0.001);
    let cores = available_parallelism().map_or(1, usize::from);
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let faults: u64 = sum.faults.values().sum();
    let mut text = format!("### {} seeds from {base}\n\n", sum.seeds);
    let commit = output("git", &["rev-parse", "--short", "HEAD"]);
    let date = output("date", &["-u", "+%F"]);
    let _ = writeln!(
        text,
        "{date}, commit {commit}, {build} build, {cores} cores: {took_s} s; {hours:.2} simulated \
         hours, {ratio:.1} times real time on one core; {} readings acknowledged; {faults} faults; \
         {} seeds failed {:?}.\n",
        sum.acknowledged,
        sum.failed.len(),
        sum.failed
    );
    let kinds = sum
        .faults
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"));
    let _ = writeln!(text, "Faults: {}.", kinds.collect::<Vec<_>>().join(", "));
    text
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

fn append(block: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proof.md");
    let file = OpenOptions::new().append(true).open(path);
    let mut file = file.expect("docs/proof.md is there");
    write!(file, "\n{block}").expect("docs/proof.md can be written to");
}
