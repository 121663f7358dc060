//! How long to wait before the next session. No clock and no randomness: both are arguments.

use std::time::Duration;

/// Between two sessions: at most this after the first failure, doubled with each further one.
const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);
/// A session that lived so long was a good one, even if there was nothing to send in it.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// Failures since the last good session: one that acknowledged something, or lived for a while.
/// CONNACK alone is no success, so a server that takes every session and ends it is not hammered.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    failures: u32,
}

impl BackOff {
    /// Anything from nothing to the bound, so that agents that lost the same server spread out.
    /// `random`: any number, all alike likely.
    pub(super) fn delay(&mut self, random: u32) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(10)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// The cluster acknowledged something.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A session ended that had lived so long since CONNACK.
    pub(super) fn ended(&mut self, lived: Duration) {
        if lived >= GOOD_AFTER {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_grows_with_failures_and_is_bounded() {
        let mut back_off = BackOff::default();
        assert_eq!(back_off.delay(0), Duration::ZERO);
        assert_eq!(back_off.delay(u32::MAX), FIRST * 2);
        for _ in 0..100 {
            back_off.delay(u32::MAX);
        }
        assert_eq!(back_off.delay(u32::MAX), MAX);
        back_off.succeeded();
        assert_eq!(back_off.delay(u32::MAX), FIRST);
    }

    #[test]
    fn sessions_that_die_after_connack_count_as_failures_and_long_ones_do_not() {
        let mut back_off = BackOff::default();
        for _ in 0..20 {
            back_off.ended(Duration::from_secs(1));
            back_off.delay(0);
        }
        assert_eq!(back_off.delay(u32::MAX), MAX);
        back_off.ended(GOOD_AFTER);
        assert_eq!(back_off.delay(u32::MAX), FIRST);
    }

    /// A thousand agents lose all nodes at once, and these come back after a minute.
    #[test]
    fn many_agents_are_no_storm() {
        const AGENTS: u64 = 1_000;
        const DOWN: Duration = Duration::from_secs(60);
        let mut attempts_per_second = [0_u32; 60];
        let mut back_per_100_ms = [0_u32; 50];
        let mut dice = 1_u64;
        for _ in 0..AGENTS {
            let mut back_off = BackOff::default();
            let mut now = Duration::ZERO;
            while now < DOWN {
                let second = usize::try_from(now.as_secs()).unwrap();
                attempts_per_second[second] += 1;
                dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                now += back_off.delay(u32::try_from(dice >> 32).unwrap());
            }
            let after = usize::try_from(now.saturating_sub(DOWN).as_millis()).unwrap();
            back_per_100_ms[(after / 100).min(49)] += 1;
        }
        let later = attempts_per_second[10..].iter().max().unwrap();
        assert!(*later <= 550, "{later} attempts in a second");
        assert!(attempts_per_second[0] <= 7_000, "{attempts_per_second:?}");
        let at_once = back_per_100_ms.iter().max().unwrap();
        assert!(*at_once <= 90, "{at_once} sessions in 100 ms");
    }
}
