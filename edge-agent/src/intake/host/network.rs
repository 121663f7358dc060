//! `/proc/net/dev` to `host_network`: counts since the start of the machine.

use shared::reading::Reading;

use super::{Row, count};

pub(super) fn readings(row: &Row, text: &str) -> Vec<Reading> {
    let readings = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        // Received bytes, packets, errors, drops and four more; then the same sent.
        let [
            in_bytes,
            in_packets,
            in_errors,
            in_drops,
            _,
            _,
            _,
            _,
            out_bytes,
            out_packets,
            out_errors,
            out_drops,
            ..,
        ] = numbers[..]
        else {
            return None;
        };
        // An interface that nobody uses.
        if in_bytes + out_bytes == 0 {
            return None;
        }
        let fields = vec![
            ("received_bytes", count(in_bytes)),
            ("sent_bytes", count(out_bytes)),
            ("received_packets", count(in_packets)),
            ("sent_packets", count(out_packets)),
            ("received_errors", count(in_errors)),
            ("sent_errors", count(out_errors)),
            ("received_drops", count(in_drops)),
            ("sent_drops", count(out_drops)),
        ];
        row.reading("host_network", Some(("interface", name.trim())), fields)
    });
    readings.collect()
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn interfaces_in_use_are_told() {
        let text = "Inter-|   Receive                            |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes\n  \
                    ifb0:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n  \
                    eth0:88818084    6019    1    2    0     0          0         0   409718    4625    3    4    0     0       0          0\n";
        assert_eq!(
            lines(&readings(&test_row(), text)),
            [
                "host_network,device=gw1,interface=eth0 received_bytes=88818084i,\
                 sent_bytes=409718i,received_packets=6019i,sent_packets=4625i,received_errors=1i,\
                 sent_errors=3i,received_drops=2i,sent_drops=4i 9"
            ]
        );
    }
}
