//! Counts the syncs of running processes with `strace`, in a run of its own: tracing costs time.

use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Syncs of all `processes` per message of `run`; `None` where `strace` cannot be used.
pub(crate) fn count(
    processes: &[u32],
    run: impl FnOnce() -> Result<usize, Box<dyn Error>>,
) -> Result<Option<f64>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&trace);
    for process in processes {
        strace.args(["-p", &process.to_string()]);
    }
    let Ok(mut child) = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return Ok(None);
    };
    // Attaching is not announced in a way that can be waited for; a late start only undercounts
    // the first messages of two seconds.
    std::thread::sleep(Duration::from_millis(300));
    if child.try_wait()?.is_some() {
        return Ok(None);
    }
    let messages = run();
    detach(&mut child)?;
    let text = std::fs::read_to_string(&trace)?;
    let calls = text.lines().filter(|line| line.contains("sync(")).count();
    Ok(Some(calls as f64 / messages? as f64))
}

/// SIGINT makes strace detach; SIGKILL could leave the traced processes stopped.
fn detach(child: &mut Child) -> Result<(), Box<dyn Error>> {
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()?;
    child.wait()?;
    Ok(())
}
