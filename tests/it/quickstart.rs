//! The README's first command: it ends well if every reading is stored once, and only then.

use std::process::Command;
use std::time::Duration;

use tests::binaries;
use tests::process::Process;

const LIMIT: Duration = Duration::from_secs(600);

fn quickstart(arguments: &[&str]) -> (bool, String) {
    // It would build itself under cargo's lock with this test: built here, run there.
    let program = binaries::build_package("quickstart", "quickstart").unwrap();
    let _turn = tests::cluster::turn();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("quickstart.log");
    let mut command = Command::new(program);
    command
        .arg("--dir")
        .arg(folder.path().join("run"))
        .args(arguments);
    let mut process = Process::spawn("quickstart", &mut command, &log).unwrap();
    let status = process.wait(LIMIT).unwrap();
    (status.success(), process.log_text())
}

#[test]
fn every_reading_is_stored_once() {
    let (success, text) = quickstart(&["--seconds", "8"]);
    assert!(success, "{text}");
    for part in ["psql \"", "tributary sql", "sent", "stored"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}

#[test]
fn one_altered_row_is_noticed() {
    let (success, text) = quickstart(&["--seconds", "8", "--tamper"]);
    assert!(!success, "a row was altered and nothing noticed:\n{text}");
    assert!(text.contains("differ"), "{text}");
}

#[test]
fn a_killed_leader_costs_no_reading() {
    let (success, text) = quickstart(&["--seconds", "20", "--kill-leader"]);
    assert!(success, "{text}");
    assert!(text.contains("killed"), "{text}");
}
