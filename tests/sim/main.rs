//! The cluster in virtual time, on disks that lose power and links that can be cut: one seed, one
//! run, however often. Everything but the sockets, the threads and the clock is what production runs.

mod agent;
mod arena;
mod exhaustive;
mod far;
mod full;
mod gateway;
mod inject;
mod net;
mod plan;
mod report;
mod run;
mod session;
mod swarm;
mod world;

use std::process::Command;

use tests::skip::skip;

/// Which run this process is to do: a run owns its process, because the seed does.
const SEED: &str = "TRIBUTARY_SIM_SEED";

/// One run of the seed in the environment. Prints its trace in short.
#[test]
fn one_run() {
    let seed = std::env::var(SEED).map_or(1, |seed| seed.parse().expect("a seed is a number"));
    let outcome = run::run(seed);
    println!(
        "trace {:016x} of {} events, {} readings acknowledged",
        outcome.digest, outcome.events, outcome.acknowledged
    );
    let faults = outcome.faults.iter();
    let faults: Vec<_> = faults
        .map(|(kind, count)| format!("{kind}={count}"))
        .collect();
    println!(
        "run simulated_ms={} acknowledged={} {}",
        outcome.simulated.as_millis(),
        outcome.acknowledged,
        faults.join(" ")
    );
    if let Some(report) = outcome.report {
        panic!("seed {seed}\n{report}");
    }
}

#[test]
fn a_seed_gives_the_same_trace_in_every_process() {
    if Command::new("strace").arg("--version").output().is_err() {
        return skip("strace is not installed: in which order tokio wakes is then drawn anew");
    }
    let traces: Vec<String> = (0..2).map(|_| trace(2)).collect();
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], trace(3), "another seed is another run");
}

/// The trace of a seed, in a fresh process. Its system gives no randomness: from that tokio draws in which
/// order it wakes those that wait for one `watch`, and only its unstable builder takes a seed instead.
fn trace(seed: u64) -> String {
    let own = std::env::current_exe().expect("a test knows its program");
    let output = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-o", "/dev/null"])
        .args(["-e", "inject=getrandom:retval=16"])
        .arg(own)
        .args(["one_run", "--exact", "--nocapture", "--test-threads=1"])
        .env(SEED, seed.to_string())
        .output()
        .expect("a test can start itself");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}:\n{text}\n{errors}");
    let trace = text.lines().find(|line| line.contains("trace "));
    trace
        .unwrap_or_else(|| panic!("no trace in {text}"))
        .to_owned()
}
