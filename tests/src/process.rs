//! One child process with its log, killed when dropped, also by a panic.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait;

/// Bytes of a log that a failure shows.
const TAIL_BYTES: u64 = 6_000;

/// Signals that the harness sends besides SIGKILL.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    Term,
    Int,
    Stop,
    Continue,
    HangUp,
}

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; stdout and stderr are added to the end of `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> io::Result<Process> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file))
            .spawn()?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::HangUp => "HUP",
        };
        // The shell has `kill` built in: std has no call for it, and a crate is not worth five signals.
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.id())])
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "{} (process {}) is gone",
                self.name,
                self.id()
            )))
        }
    }

    /// `Some` once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to stop and waits; kills it after `limit`, which is an error.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(Signal::Term).map_err(|e| e.to_string())?;
        self.wait(limit)
    }

    /// Waits for the end; kills it after `limit`, which is an error.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let what = format!("{} ends", self.name);
        let ended = wait::until(&what, limit, || self.ended());
        if ended.is_err() {
            self.kill();
        }
        ended.map_err(|late| format!("{late}\n{}", self.tail()))
    }

    /// The end of the log, with a headline.
    pub fn tail(&self) -> String {
        tail(&self.name, &self.log)
    }

    /// The whole log.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of a log file, with a headline.
pub fn tail(name: &str, log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => format!("--- end of {} ({name}) ---\n{text}", log.display()),
        Err(e) => format!("--- {} ({name}): {e} ---", log.display()),
    }
}

/// What each thread of a process is doing, as the kernel sees it: for one that does not answer.
pub fn threads(id: u32) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return format!("process {id} is gone");
    };
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let mut text = format!("threads of process {id}: name, state, waits in, system call\n");
    for task in tasks.flatten() {
        let path = task.path();
        let stat = read(path.join("stat"));
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        let (name, waits_in) = (read(path.join("comm")), read(path.join("wchan")));
        let call = read(path.join("syscall"));
        let (name, call) = (
            name.trim(),
            call.split(' ').next().unwrap_or_default().trim(),
        );
        let _ = writeln!(text, "{name} {} {waits_in} {call}", state.unwrap_or('?'));
    }
    text
}

/// Bytes of memory that a process holds now (`VmRSS`); `None` once it is gone.
pub fn rss_bytes(id: u32) -> Option<u64> {
    status_bytes(id, "VmRSS:")
}

/// The most that it has held so far (`VmHWM`).
pub fn rss_bytes_max(id: u32) -> Option<u64> {
    status_bytes(id, "VmHWM:")
}

fn status_bytes(id: u32, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// User and system time of a process so far, threads that have ended included, in hundredths of a
/// second (`/proc/PID/stat`); `None` once it is gone.
pub fn cpu_seconds(id: u32) -> Option<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut times = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<f64>().ok();
    Some((time()? + time()?) / TICKS_A_SECOND)
}

/// Runs a short command to its end: its stdout, or its words for the failure.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {}: {e}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_logged_stopped_and_never_outlives_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo started; exec sleep 1000"]);
        let mut process = Process::spawn("sleeper", &mut command, &log).unwrap();
        wait::until("the log line", Duration::from_secs(60), || {
            process.log_text().contains("started").then_some(())
        })
        .unwrap();
        assert!(process.ended().is_none());
        assert!(!process.stop(Duration::from_secs(60)).unwrap().success());

        let process = Process::spawn("sleeper", &mut command, &log).unwrap();
        let proc_entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc_entry.exists());
        assert!(rss_bytes(process.id()).is_some_and(|bytes| bytes > 0));
        drop(process);
        assert!(!proc_entry.exists());
    }
}
