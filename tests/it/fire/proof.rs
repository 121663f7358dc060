//! What a storm has shown, in words: for the terminal, and for `docs/proof.md`.

use std::env;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::Command;
use std::thread::available_parallelism;

use tests::binaries::workspace;

use super::stage::Tally;

const PAGE: &str = "docs/proof.md";

/// The counts of a tally on one line.
pub(crate) fn counts(tally: &Tally) -> String {
    let counts = tally.counts.iter();
    let counts: Vec<_> = counts
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    let Tally {
        rounds,
        kept,
        answers,
        ..
    } = tally;
    format!(
        "{rounds} rounds, {kept} readings kept, {answers} answers under faults; {}",
        counts.join(", ")
    )
}

/// A block of the page.
pub(crate) fn block(name: &str, seed: u64, sum: &Tally, failed: &[u64], took_s: u64) -> String {
    let cores = available_parallelism().map_or(1, usize::from);
    let binaries = match (env::var_os("TRIBUTARY_BIN_DIR"), cfg!(debug_assertions)) {
        (Some(_), _) => "ready-made binaries",
        (None, true) => "debug build",
        (None, false) => "release build",
    };
    let commit = output("git", &["rev-parse", "--short", "HEAD"]);
    let date = output("date", &["-u", "+%F"]);
    let breaches = failed.len();
    let mut text = format!("### {name}: {} rounds from seed {seed}\n\n", sum.rounds);
    let _ = writeln!(
        text,
        "{date}, commit {commit}, {binaries}, {cores} cores: {took_s} s; {breaches} seeds failed \
         {failed:?}.\n\n{}.",
        counts(sum)
    );
    text
}

fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(workspace()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

pub(crate) fn append(block: &str) {
    let file = OpenOptions::new().append(true).open(workspace().join(PAGE));
    let mut file = file.expect("the page is there");
    write!(file, "\n{block}").expect("the page can be written to");
}
