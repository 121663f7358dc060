//! Puts known bugs back, one at a time, and says which check caught each, and how fast.
//!
//! ```sh
//! cargo run -p tests --bin seeded_bugs [NAME ...]
//! ```
//!
//! Works on a checkout of `HEAD` in a temporary folder, never on the tree that it is started in. What
//! it builds stays in `~/.cache/tributary-seeded-bugs`, or in `TRIBUTARY_SEEDED_TARGET`, for the next.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tests::binaries::workspace;
use tests::seeded::{Check, SeededBug};

/// Within this a bug has to be caught.
const DETECTION_LIMIT: Duration = Duration::from_secs(15 * 60);
/// A build from nothing, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// Seeds that must pass without any bug.
const SEEDS_SOUND: u64 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// A checkout with a place to build in.
struct Tree {
    folder: PathBuf,
    target: PathBuf,
    log: PathBuf,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    OutOfTime,
}

/// What became of a bug.
struct Row {
    name: String,
    caught_by: String,
    build: Duration,
    detection: Duration,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Caught,
    NotCaught,
    DoesNotApply(String),
    DoesNotCompile,
    /// The check fails without the bug too.
    CheckFails,
}

fn run(names: &[String]) -> Result<bool, String> {
    let mut bugs = SeededBug::all(&workspace().join("tests/seeded_bugs"))?;
    bugs.retain(|bug| {
        names.is_empty() || names.iter().any(|name| bug.name.contains(name.as_str()))
    });
    if bugs.is_empty() {
        return Err(format!("no bug is named like {names:?}"));
    }
    let holder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let tree = Tree::check_out(holder.path())?;
    let rows = tree.prove(&bugs);
    let removed = git(&[
        "worktree",
        "remove",
        "--force",
        &tree.folder.to_string_lossy(),
    ]);
    let rows = rows?;
    removed?;
    say(&table(&rows));
    let caught = rows.iter().filter(|row| row.verdict == Verdict::Caught);
    let caught = caught.count();
    say(&format!("{caught} of {} seeded bugs caught", rows.len()));
    Ok(caught == rows.len())
}

impl Tree {
    fn check_out(holder: &Path) -> Result<Tree, String> {
        let folder = holder.join("tree");
        git(&[
            "worktree",
            "add",
            "--detach",
            &folder.to_string_lossy(),
            "HEAD",
        ])?;
        let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
        let target = env::var_os("TRIBUTARY_SEEDED_TARGET").map(PathBuf::from);
        let target = target.unwrap_or_else(|| home.join(".cache/tributary-seeded-bugs"));
        fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
        let log = target.join("last.log");
        Ok(Tree {
            folder,
            target,
            log,
        })
    }

    fn prove(&self, bugs: &[SeededBug]) -> Result<Vec<Row>, String> {
        // Whether the check itself holds, by its words.
        let mut sound: BTreeMap<String, bool> = BTreeMap::new();
        let mut rows = Vec::new();
        for bug in bugs {
            let check = words(&bug.check);
            let holds = match sound.get(&check) {
                Some(holds) => *holds,
                None => {
                    let holds =
                        self.build(&bug.check)?.0 == End::Passed && self.holds(&bug.check)?;
                    say(&format!("without a bug: {check} {}", passes(holds)));
                    sound.insert(check, holds);
                    holds
                }
            };
            let row = self.put_back(bug, holds)?;
            say(&table(std::slice::from_ref(&row)));
            rows.push(row);
        }
        Ok(rows)
    }

    /// Applies a patch, runs its check, and undoes it.
    fn put_back(&self, bug: &SeededBug, holds: bool) -> Result<Row, String> {
        let mut row = Row {
            name: bug.name.clone(),
            caught_by: words(&bug.check),
            build: Duration::ZERO,
            detection: Duration::ZERO,
            verdict: Verdict::CheckFails,
        };
        if let Err(why) = bug.check_applies(&self.folder) {
            row.verdict = Verdict::DoesNotApply(why);
            return Ok(row);
        }
        if !holds {
            return Ok(row);
        }
        bug.apply(&self.folder, &[])?;
        let (built, took) = self.build(&bug.check)?;
        row.build = took;
        row.verdict = Verdict::DoesNotCompile;
        if built == End::Passed {
            let (caught, took, by) = self.detect(&bug.check)?;
            row.detection = took;
            row.caught_by = by;
            row.verdict = if caught {
                Verdict::Caught
            } else {
                Verdict::NotCaught
            };
        }
        bug.apply(&self.folder, &["--reverse"])?;
        Ok(row)
    }

    fn build(&self, check: &Check) -> Result<(End, Duration), String> {
        let mut cargo = self.cargo(check);
        cargo.arg("--no-run");
        self.run(cargo, BUILD_LIMIT)
    }

    /// A check that runs no test says nothing.
    fn holds(&self, check: &Check) -> Result<bool, String> {
        for seed in 1..=SEEDS_SOUND {
            let (end, _) = self.run(self.test(check, seed), DETECTION_LIMIT)?;
            let told = fs::read_to_string(&self.log).unwrap_or_default();
            let ran = told
                .lines()
                .any(|line| line.starts_with("test ") && line.ends_with("... ok"));
            if end != End::Passed || !ran {
                return Ok(false);
            }
            if *check != Check::Seeds {
                break;
            }
        }
        Ok(true)
    }

    /// Whether the check fails, after how long, and what it was that failed.
    fn detect(&self, check: &Check) -> Result<(bool, Duration, String), String> {
        let mut spent = Duration::ZERO;
        for seed in 1.. {
            let left = DETECTION_LIMIT.saturating_sub(spent);
            let (end, took) = self.run(self.test(check, seed), left)?;
            spent += took;
            if end == End::Failed {
                return Ok((true, spent, self.failure(check, seed)));
            }
            if *check != Check::Seeds || end == End::OutOfTime || spent >= DETECTION_LIMIT {
                break;
            }
        }
        Ok((false, spent, words(check)))
    }

    /// The first test that the log says failed.
    fn failure(&self, check: &Check, seed: u64) -> String {
        if *check == Check::Seeds {
            return format!("sim, seed {seed}");
        }
        let told = fs::read_to_string(&self.log).unwrap_or_default();
        let failed = told.lines().find_map(|line| {
            let rest = line.strip_prefix("test ")?;
            rest.strip_suffix(" ... FAILED").map(str::to_owned)
        });
        failed.unwrap_or_else(|| words(check))
    }

    fn test(&self, check: &Check, seed: u64) -> Command {
        let mut cargo = self.cargo(check);
        match check {
            Check::Tests { filter, .. } => {
                cargo.arg("--").args(filter);
            }
            Check::Seeds => {
                cargo.args(["--", "one_run", "--exact"]);
                cargo.env("TRIBUTARY_SIM_SEED", seed.to_string());
            }
        }
        cargo
    }

    fn cargo(&self, check: &Check) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.folder)
            .arg("test")
            .arg("--locked");
        match check {
            Check::Tests { build, .. } => command.args(build),
            Check::Seeds => command.args(["--workspace", "--test", "sim"]),
        };
        command.env("CARGO_TARGET_DIR", &self.target);
        // What cargo tells this program is not for the cargo that it runs.
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command with all that it starts, and ends all of it when the time is over.
    #[expect(
        clippy::disallowed_methods,
        reason = "it measures how long a detection takes"
    )]
    fn run(&self, mut command: Command, limit: Duration) -> Result<(End, Duration), String> {
        let log = File::create(&self.log).map_err(|e| format!("{}: {e}", self.log.display()))?;
        let too = log.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(log).stderr(too);
        let began = Instant::now();
        let child = command.process_group(0).spawn();
        let mut child = child.map_err(|e| format!("{command:?}: {e}"))?;
        loop {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                let end = if status.success() {
                    End::Passed
                } else {
                    End::Failed
                };
                return Ok((end, began.elapsed()));
            }
            if began.elapsed() >= limit {
                let group = format!("-{}", child.id());
                // It may have ended just now.
                let _ = Command::new("kill").args(["-9", "--", &group]).status();
                child.wait().map_err(|e| e.to_string())?;
                return Ok((End::OutOfTime, began.elapsed()));
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }
}

fn git(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("git")
        .current_dir(workspace())
        .args(arguments)
        .output();
    let output = output.map_err(|e| format!("git: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("git {arguments:?}: {told}"))
}

fn words(check: &Check) -> String {
    match check {
        Check::Seeds => "sim, seeds from 1 on".to_owned(),
        Check::Tests { build, filter } => format!("{} {}", build.join(" "), filter.join(" ")),
    }
}

fn passes(holds: bool) -> &'static str {
    if holds { "passes" } else { "FAILS" }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| bug | caught by | build s | detection s | verdict |\n|---|---|---|---|---|\n",
    );
    for row in rows {
        let verdict = match &row.verdict {
            Verdict::Caught => "caught".to_owned(),
            Verdict::NotCaught => "NOT CAUGHT".to_owned(),
            Verdict::DoesNotApply(why) => format!("DOES NOT APPLY: {}", why.replace('\n', "; ")),
            Verdict::DoesNotCompile => "DOES NOT COMPILE".to_owned(),
            Verdict::CheckFails => "THE CHECK FAILS WITHOUT IT".to_owned(),
        };
        let (build, detection) = (row.build.as_secs_f64(), row.detection.as_secs_f64());
        let line = format!(
            "| {} | {} | {build:.0} | {detection:.1} | {verdict} |\n",
            row.name, row.caught_by
        );
        out.push_str(&line);
    }
    out
}

fn say(text: &str) {
    // Whoever closed the pipe wants no more of it; the exit code still says how it went.
    let _ = writeln!(io::stdout().lock(), "{text}");
}
