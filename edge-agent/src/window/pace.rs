//! A cap on the bytes sent in a second, for links that are paid by volume. No clock: `now` is an
//! argument.

use std::time::Duration;

/// What was not sent may be made up for, within this.
const BURST: Duration = Duration::from_secs(1);

/// A token bucket in the form of the time at which all that was sent is paid for. A batch of any
/// size may go once there is no debt, so that no cap is too small for a batch.
#[derive(Debug, Clone, Hash)]
pub(super) struct Pace {
    /// 0: none.
    bytes_per_second_max: u64,
    paid_at: Duration,
}

impl Pace {
    pub(super) fn new(bytes_per_second_max: u64) -> Pace {
        Pace {
            bytes_per_second_max,
            paid_at: Duration::ZERO,
        }
    }

    /// Until when nothing may be sent, if that is later than `now`.
    pub(super) fn rests_until(&self, now: Duration) -> Option<Duration> {
        (self.paid_at > now).then_some(self.paid_at)
    }

    pub(super) fn sent(&mut self, now: Duration, bytes: usize) {
        if self.bytes_per_second_max == 0 {
            return;
        }
        let cost_us = (bytes as u64).saturating_mul(1_000_000) / self.bytes_per_second_max;
        let from = self.paid_at.max(now.saturating_sub(BURST));
        self.paid_at = from.saturating_add(Duration::from_micros(cost_us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn over_time_it_is_the_cap_and_never_much_more() {
        let mut pace = Pace::new(2_000);
        let mut sent = 0_usize;
        for ms in (60_000..120_000).step_by(10) {
            let now = Duration::from_millis(ms);
            while pace.rests_until(now).is_none() {
                pace.sent(now, 300);
                sent += 300;
            }
        }
        assert!((120_000..=122_700).contains(&sent), "{sent}");
    }

    #[test]
    fn a_batch_above_the_cap_goes_and_is_paid_off() {
        let mut pace = Pace::new(1_000);
        assert_eq!(pace.rests_until(SECOND * 10), None);
        pace.sent(SECOND * 10, 60_000);
        assert_eq!(pace.rests_until(SECOND * 10), Some(SECOND * 69));
        assert_eq!(pace.rests_until(SECOND * 69), None);
    }

    #[test]
    fn no_cap_is_no_rest() {
        let mut pace = Pace::new(0);
        pace.sent(SECOND, 1 << 30);
        assert_eq!(pace.rests_until(SECOND), None);
    }
}
