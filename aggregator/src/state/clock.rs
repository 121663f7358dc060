//! Replicated time: the median of the voters' clocks, told through the log, never back.
//! A jump above an hour stops retention until most voters have agreed with it for minutes.

use std::collections::BTreeMap;

use shared::id::TimeNs;

use super::machine::HOUR_NS;

const JUMP_NS: i64 = HOUR_NS;
/// With a clock told every five seconds: seven minutes of three voters, twenty of one.
const ROUNDS_TO_CONFIRM: u8 = 240;
/// A voter that was silent for this many rounds does not count any more.
const SILENT_ROUNDS_MAX: u64 = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Node id -> (what its clock showed last, the round that told it).
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
        let round = self.round;
        // A clock that was set right counts as it is now: only `now` never goes back.
        self.voters.insert(node, (at, round));
        self.voters
            .retain(|_, (_, told)| round - *told < SILENT_ROUNDS_MAX);
        let median = self.median();
        let known = self.now > TimeNs(0);
        let jumps = known && median.0.saturating_sub(self.now.0) > JUMP_NS;
        self.now = self.now.max(median);
        if jumps || !self.is_agreed() {
            self.unconfirmed = ROUNDS_TO_CONFIRM;
        } else {
            self.unconfirmed = self.unconfirmed.saturating_sub(1);
        }
    }

    /// Whether retention may follow `now`.
    pub(super) fn confirmed(&self) -> bool {
        self.now > TimeNs(0) && self.unconfirmed == 0
    }

    /// Whether most voters' clocks are near `now` at this moment.
    fn is_agreed(&self) -> bool {
        let near = |at: &TimeNs| at.0.abs_diff(self.now.0) <= JUMP_NS.unsigned_abs();
        let agreeing = self.voters.values().filter(|(at, _)| near(at)).count();
        agreeing * 2 > self.voters.len()
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

    fn rounds(clock: &mut Clock, voters: &[(u64, i64)], count: u8) {
        for _ in 0..count {
            for (node, at) in voters {
                clock.told(*node, TimeNs(*at));
            }
        }
    }

    #[test]
    fn the_median_counts_and_never_goes_back() {
        let mut clock = Clock::default();
        clock.told(1, TimeNs(100 * HOUR));
        clock.told(2, TimeNs(900 * HOUR));
        assert_eq!(clock.now, TimeNs(100 * HOUR));
        clock.told(3, TimeNs(100 * HOUR + 5));
        assert_eq!(clock.now, TimeNs(100 * HOUR + 5));
        clock.told(3, TimeNs(HOUR));
        assert_eq!(clock.now, TimeNs(100 * HOUR + 5));
    }

    #[test]
    fn a_jump_stops_retention_until_most_voters_agreed_for_minutes() {
        let mut clock = Clock::default();
        clock.told(1, TimeNs(100 * HOUR));
        assert!(clock.confirmed());
        clock.told(1, TimeNs(200 * HOUR));
        rounds(&mut clock, &[(1, 200 * HOUR + 1)], ROUNDS_TO_CONFIRM - 1);
        assert!(!clock.confirmed());
        clock.told(1, TimeNs(200 * HOUR + 2));
        assert!(clock.confirmed());
    }

    /// Each voter's latest clock once counted for ever: two that were wrong one after the other
    /// moved the median, and the others' telling confirmed it.
    #[test]
    fn clocks_that_were_wrong_one_after_the_other_move_nothing() {
        let mut clock = Clock::default();
        let right = 100 * HOUR;
        rounds(&mut clock, &[(1, right), (2, right), (3, right)], 3);
        for wrong in 1..4 {
            clock.told(wrong, TimeNs(9_600 * HOUR));
            clock.told(wrong, TimeNs(right));
        }
        assert_eq!((clock.now, clock.confirmed()), (TimeNs(right), true));
    }

    #[test]
    fn retention_waits_while_time_is_ahead_of_most_clocks() {
        let mut clock = Clock::default();
        let (right, wrong) = (100 * HOUR, 9_600 * HOUR);
        rounds(&mut clock, &[(1, right), (2, right), (3, right)], 3);
        rounds(&mut clock, &[(1, wrong), (2, wrong), (3, right)], 3);
        assert_eq!(clock.now, TimeNs(wrong));
        rounds(&mut clock, &[(1, right), (2, right), (3, right)], 250);
        assert!(!clock.confirmed());
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
