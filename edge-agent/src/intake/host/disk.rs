//! `/proc/diskstats` to `host_disk`: counts since the start of the machine.

use shared::reading::Reading;

use super::{Row, count};

/// The kernel counts sectors of this size, whatever the disk has.
const SECTOR_BYTES: u64 = 512;

/// `is_disk` tells whole disks from their partitions.
pub(super) fn readings(row: &Row, text: &str, is_disk: impl Fn(&str) -> bool) -> Vec<Reading> {
    let readings = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let name = *words.get(2)?;
        let numbers: Vec<u64> = words[3..]
            .iter()
            .map_while(|word| word.parse().ok())
            .collect();
        let [
            reads,
            _,
            sectors_read,
            _,
            writes,
            _,
            sectors_written,
            _,
            _,
            busy_ms,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        // A loop device or a RAM disk that nobody uses.
        if reads + writes == 0 || !is_disk(name) {
            return None;
        }
        let bytes = |sectors: u64| count(sectors.saturating_mul(SECTOR_BYTES));
        let fields = vec![
            ("read_bytes", bytes(sectors_read)),
            ("written_bytes", bytes(sectors_written)),
            ("reads", count(reads)),
            ("writes", count(writes)),
            ("busy_ms", count(busy_ms)),
        ];
        row.reading("host_disk", Some(("disk", name)), fields)
    });
    readings.collect()
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn disks_in_use_are_told_and_partitions_are_not() {
        let text = "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n \
                    254       0 vda 33700 10616 8717538 28669 14520 53749 18356088 59323 0 13928 90170 1 2 3\n \
                    254       1 vda1 1 1 1 1 1 1 1 1 0 1 1\n \
                    8 0 broken 1 2 3\n";
        assert_eq!(
            lines(&readings(&test_row(), text, |name| name != "vda1")),
            [
                "host_disk,device=gw1,disk=vda read_bytes=4463379456i,written_bytes=9398317056i,\
                 reads=33700i,writes=14520i,busy_ms=13928i 9"
            ]
        );
    }
}
