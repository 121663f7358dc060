//! What strace does to the system calls of a running process: hold them, or have them fail.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::{self, Process};
use crate::wait;

/// All calls by which our programs ask for durability.
pub const SYNCS: &str = "fdatasync,fsync,sync_file_range";
const LIMIT: Duration = Duration::from_secs(60);

/// A process whose calls are tampered with until this is dropped or it is let go.
#[derive(Debug)]
pub struct Trace {
    id: u32,
    strace: Process,
}

impl Trace {
    /// From when this returns, each of the `calls` of process `id` is treated so: `error=EIO`,
    /// `delay_enter=` microseconds, as strace's `inject` has it.
    pub fn inject(id: u32, calls: &str, how: &str, log: &Path) -> Result<Trace, String> {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-p", &id.to_string(), "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{how}")]);
        let strace = Process::spawn(&format!("strace of {id}"), &mut command, log);
        let mut strace = strace.map_err(|e| format!("strace: {e}"))?;
        let attached = || {
            // A process that ends of it, or a strace that gives up, is waited for no longer.
            let is_over = strace.ended().is_some() || tracers(id).is_empty();
            (is_over || tracers(id).iter().all(|tracer| *tracer != 0)).then_some(())
        };
        wait::until("strace holds every thread", LIMIT, attached)
            .map_err(|late| format!("{late}\n{}", strace.tail()))?;
        Ok(Trace { id, strace })
    }

    /// Lets the process go; a call that is held goes on at once.
    pub fn release(mut self) -> Result<(), String> {
        // SIGTERM makes strace let go of its threads.
        self.strace.stop(LIMIT)?;
        let free = || {
            tracers(self.id)
                .iter()
                .all(|tracer| *tracer == 0)
                .then_some(())
        };
        wait::until("the process runs free", LIMIT, free)
    }
}

/// Who traces each thread of a process; 0 is nobody. None of a process that is gone.
fn tracers(id: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{id}/task"));
    let tasks = tasks.into_iter().flatten();
    tasks
        .filter_map(|task| tracer(&task.ok()?.path().join("status")))
        .collect()
}

fn tracer(status: &Path) -> Option<u32> {
    let text = fs::read_to_string(status).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?
        .trim()
        .parse()
        .ok()
}

/// Why processes cannot be traced on this machine, if so.
pub fn cannot() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let mut probe = Command::new("strace");
        probe.args(["-f", "-e", "trace=none"]).args([
            "-e",
            "inject=fsync:delay_enter=1",
            "-o",
            "/dev/null",
        ]);
        let why = process::run(probe.arg("true")).err()?;
        Some(format!(
            "strace cannot hold a sync here ({why}): apt-get install strace"
        ))
    };
    FOUND.get_or_init(look).clone()
}
