//! What the kernel says of a process.

use std::error::Error;
use std::fs;

use tests::process::{rss_bytes, rss_bytes_max};

/// Resident memory in bytes, now and at its highest.
pub(crate) fn resident(process: u32) -> Result<(u64, u64), Box<dyn Error>> {
    let both = rss_bytes(process).zip(rss_bytes_max(process));
    Ok(both.ok_or("the agent is gone")?)
}

/// User and system time so far, in seconds: of all its threads, counted by the scheduler in
/// nanoseconds, because the usual hundredths are too coarse for an agent that does little.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64, Box<dyn Error>> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let ran: f64 = stat.split_whitespace().next().unwrap_or("0").parse()?;
        nanoseconds += ran;
    }
    Ok(nanoseconds / 1e9)
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
