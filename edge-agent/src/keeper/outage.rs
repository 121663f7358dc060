//! When a failed session is worth a line in the log: the first one, and then one a minute. Until a
//! server answers, there is a new attempt every few seconds.

use std::time::Duration;

const QUIET: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(super) struct Outage {
    logged_at: Option<Duration>,
    failures: u64,
}

impl Outage {
    /// A session ended or did not begin. If that is to be logged: how many did since the last line.
    pub(super) fn failed(&mut self, now: Duration) -> Option<u64> {
        self.failures += 1;
        if self.logged_at.is_some_and(|at| now < at + QUIET) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.failures))
    }

    /// A session began.
    pub(super) fn over(&mut self) {
        *self = Outage::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_at_its_start_and_then_once_a_minute() {
        let mut outage = Outage::default();
        let logged: Vec<_> = (0..=120)
            .filter_map(|second| Some((second, outage.failed(Duration::from_secs(second))?)))
            .collect();
        assert_eq!(logged, [(0, 1), (60, 60), (120, 60)]);
        outage.over();
        assert_eq!(outage.failed(Duration::from_secs(121)), Some(1));
    }
}
