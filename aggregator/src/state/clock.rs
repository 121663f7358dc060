//! Replicated time: the median of the voters' clocks, told through the log, never back.
//! A jump above an hour stops retention until two further rounds agree.

use std::collections::BTreeMap;

use shared::id::TimeNs;

const JUMP_NS: i64 = 3_600 * 1_000_000_000;
const ROUNDS_TO_CONFIRM: u8 = 2;
/// A voter that was silent for this many rounds does not count any more.
const SILENT_ROUNDS_MAX: u64 = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Node id -> (its latest clock, the round that told it).
    pub(super) voters: BTreeMap<u64, (TimeNs, u64)>,
    pub(super) round: u64,
    /// `TimeNs(0)`: not known yet.
    pub(super) now: TimeNs,
    /// A jump that is not yet confirmed: rounds that still have to agree.
    pub(super) unconfirmed: u8,
}

impl Clock {
    pub(super) fn told(&mut self, node: u64, at: TimeNs) {
        self.round += 1;
        let latest = self
            .voters
            .get(&node)
            .map_or(at, |(before, _)| at.max(*before));
        self.voters.insert(node, (latest, self.round));
        let round = self.round;
        self.voters
            .retain(|_, (_, told)| round - *told < SILENT_ROUNDS_MAX);
        let median = self.median();
        let ahead = median.0.saturating_sub(self.now.0);
        if self.now == TimeNs(0) {
            self.now = self.now.max(median);
        } else if ahead > JUMP_NS {
            self.now = median;
            self.unconfirmed = ROUNDS_TO_CONFIRM;
        } else if ahead >= 0 {
            self.now = median;
            self.unconfirmed = self.unconfirmed.saturating_sub(1);
        } else if ahead < -JUMP_NS {
            self.unconfirmed = ROUNDS_TO_CONFIRM;
        }
    }

    /// Whether retention may follow `now`.
    pub(super) fn confirmed(&self) -> bool {
        self.now > TimeNs(0) && self.unconfirmed == 0
    }

    fn median(&self) -> TimeNs {
        let mut clocks: Vec<TimeNs> = self.voters.values().map(|(at, _)| *at).collect();
        clocks.sort_unstable();
        clocks[(clocks.len() - 1) / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = JUMP_NS;

    #[test]
    fn the_median_counts_and_never_goes_back() {
        let mut clock = Clock::default();
        clock.told(1, TimeNs(100 * HOUR));
        clock.told(2, TimeNs(900 * HOUR));
        assert_eq!(clock.now, TimeNs(100 * HOUR));
        clock.told(3, TimeNs(100 * HOUR + 5));
        assert_eq!(
            (clock.now, clock.confirmed()),
            (TimeNs(100 * HOUR + 5), true)
        );
        clock.told(3, TimeNs(HOUR));
        assert_eq!(clock.now, TimeNs(100 * HOUR + 5));
    }

    #[test]
    fn a_jump_stops_retention_until_two_rounds_agree() {
        let mut clock = Clock::default();
        clock.told(1, TimeNs(100 * HOUR));
        clock.told(1, TimeNs(200 * HOUR));
        assert!(!clock.confirmed());
        clock.told(1, TimeNs(200 * HOUR + 1));
        assert!(!clock.confirmed());
        clock.told(1, TimeNs(200 * HOUR + 2));
        assert!(clock.confirmed());
    }

    #[test]
    fn a_voter_that_went_away_is_left_out() {
        let mut clock = Clock::default();
        clock.told(1, TimeNs(1));
        for round in 0..100 {
            clock.told(2, TimeNs(1000 + round));
        }
        assert_eq!(clock.voters.len(), 1);
        assert_eq!(clock.now, TimeNs(1099));
    }
}
