//! `/proc/stat` to `host_cpu`: where the time went since the last look, per core and in total.

use std::collections::BTreeMap;

use shared::reading::Reading;

use super::{Row, percent};

/// Ticks since the start of the machine, by what they were spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ticks {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

/// Ticks of each core by its name; all cores together are `total`.
pub(super) type Cores = BTreeMap<String, Ticks>;

/// Reads the lines that begin with `cpu`: user, nice, system, idle, iowait, irq, softirq, steal.
pub(super) fn parse(text: &str) -> Cores {
    let cores = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| name.starts_with("cpu"))?;
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        if ticks.len() < 4 {
            return None;
        }
        let name = if name == "cpu" { "total" } else { name };
        let ticks = Ticks {
            user: at(0) + at(1),
            system: at(2) + at(5) + at(6),
            idle: at(3),
            iowait: at(4),
            steal: at(7),
        };
        Some((name.to_owned(), ticks))
    });
    cores.collect()
}

/// What was spent between two looks. A core that came or went meanwhile has no reading.
pub(super) fn readings(row: &Row, before: &Cores, now: &Cores) -> Vec<Reading> {
    let readings = now.iter().filter_map(|(name, now)| {
        let spent = now.since(before.get(name)?);
        let all = spent.user + spent.system + spent.idle + spent.iowait + spent.steal;
        if all == 0 {
            return None;
        }
        let share = |part: u64| percent(part, all);
        let fields = vec![
            (
                "busy_percent",
                share(spent.user + spent.system + spent.steal),
            ),
            ("user_percent", share(spent.user)),
            ("system_percent", share(spent.system)),
            ("iowait_percent", share(spent.iowait)),
            ("steal_percent", share(spent.steal)),
        ];
        row.reading("host_cpu", Some(("cpu", name)), fields)
    });
    readings.collect()
}

impl Ticks {
    /// The kernel's iowait may go back; no time was spent then.
    fn since(self, before: &Ticks) -> Ticks {
        Ticks {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            idle: self.idle.saturating_sub(before.idle),
            iowait: self.iowait.saturating_sub(before.iowait),
            steal: self.steal.saturating_sub(before.steal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let before = parse("cpu  100 0 50 800 10 0 0 0 0 0\ncpu0 1 1 1 1\nintr 5 6\n");
        let now = parse("cpu  110 10 60 840 5 5 5 10 0 0\ncpu1 1 1 1 1\n");
        assert_eq!(before.len(), 2);
        let readings = readings(&test_row(), &before, &now);
        assert_eq!(
            lines(&readings),
            [
                "host_cpu,device=gw1,cpu=total busy_percent=55.56,user_percent=22.22,\
                 system_percent=22.22,iowait_percent=0.0,steal_percent=11.11 9"
            ]
        );
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        let cores = parse("cpu  1 2 3 4 5\n");
        assert!(readings(&test_row(), &cores, &cores).is_empty());
        assert!(parse("cpu x\ncpu0 1 2\nbtime 5\n").is_empty());
    }
}
