//! Resident memory of this process, in bytes.

use std::error::Error;
use std::fs;

pub(crate) fn now() -> Result<u64, Box<dyn Error>> {
    status("VmRSS:")
}

/// The most since [`forget_most`].
pub(crate) fn most() -> Result<u64, Box<dyn Error>> {
    status("VmHWM:")
}

/// proc(5): 5 resets the peak.
pub(crate) fn forget_most() -> Result<(), Box<dyn Error>> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

fn status(key: &str) -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no such line")?.parse::<u64>()? << 10)
}
