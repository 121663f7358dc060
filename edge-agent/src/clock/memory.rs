//! The time of day when it was last known, over restarts: a file of one line, replaced in one step.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use shared::id::TimeNs;

const NAME: &str = "clock";
/// Digits of the largest time, and a line feed.
const BYTES_MAX: u64 = 20;

/// What was remembered in this folder. What cannot be read is as if nothing was.
pub(crate) fn last_good(folder: &Path) -> Option<TimeNs> {
    let path = folder.join(NAME);
    if fs::metadata(&path).ok()?.len() > BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let digits = text.strip_suffix('\n')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(TimeNs)
}

/// Remembers that it is this late.
///
/// # Errors
/// The folder cannot be written to; what was remembered before stays.
pub(crate) fn remember(folder: &Path, now: TimeNs) -> io::Result<()> {
    let new = folder.join(format!("{NAME}.new"));
    let mut file = File::create(&new)?;
    writeln!(file, "{}", now.0.max(0))?;
    file.sync_all()?;
    fs::rename(new, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_remembered_and_nonsense_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(last_good(folder), None);
        for time in [
            TimeNs(0),
            TimeNs(1_764_000_000_000_000_000),
            TimeNs(i64::MAX),
        ] {
            remember(folder, time).unwrap();
            assert_eq!(last_good(folder), Some(time));
        }
        for nonsense in ["", "17", "\n", "-1\n", "1.5\n", "99999999999999999999\n"] {
            fs::write(folder.join(NAME), nonsense).unwrap();
            assert_eq!(last_good(folder), None, "{nonsense:?}");
        }
    }
}
