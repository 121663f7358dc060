//! `/proc/meminfo` to `host_memory`, in bytes.

use shared::reading::Reading;

use super::{Row, count};

/// The kernel's names and ours.
const FIELDS: [(&str, &str); 7] = [
    ("MemTotal", "total_bytes"),
    ("MemAvailable", "available_bytes"),
    ("MemFree", "free_bytes"),
    ("Buffers", "buffers_bytes"),
    ("Cached", "cached_bytes"),
    ("SwapTotal", "swap_total_bytes"),
    ("SwapFree", "swap_free_bytes"),
];

pub(super) fn readings(row: &Row, text: &str) -> Vec<Reading> {
    let fields = FIELDS.iter().filter_map(|(theirs, ours)| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(theirs)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some((*ours, count(kibibytes.saturating_mul(1_024))))
    });
    let reading = row.reading("host_memory", None, fields.collect());
    reading.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn kibibytes_become_bytes_and_what_is_absent_is_left_out() {
        let text = "MemTotal:       24684092 kB\nMemFree: 1 kB\nSwapCached: 7 kB\nCached: x kB\n";
        assert_eq!(
            lines(&readings(&test_row(), text)),
            ["host_memory,device=gw1 total_bytes=25276510208i,free_bytes=1024i 9"]
        );
        assert!(readings(&test_row(), "").is_empty());
    }
}
