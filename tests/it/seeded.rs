//! The bugs that prove the harness can still be put back. That they are caught, and how fast, says
//! `cargo run -p tests --bin seeded_bugs`.

use std::process::Command;

use tests::binaries::workspace;
use tests::seeded::SeededBug;
use tests::skip::skip;

const BUGS_MIN: usize = 12;

#[test]
fn every_seeded_bug_still_applies() {
    let bugs = SeededBug::all(&workspace().join("tests/seeded_bugs")).unwrap();
    assert!(bugs.len() >= BUGS_MIN, "{} bugs", bugs.len());
    if Command::new("git").arg("--version").output().is_err() {
        return skip("git is not installed: whether the seeded bugs apply is not known");
    }
    let rotten: Vec<_> = bugs
        .iter()
        .filter_map(|bug| Some((&bug.name, bug.check_applies(workspace()).err()?)))
        .collect();
    assert!(
        rotten.is_empty(),
        "make these patches anew, the code has moved: {rotten:#?}"
    );
}
