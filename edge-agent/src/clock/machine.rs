//! What time of day it is, of what the machine's clocks show and what the cluster says. No I/O and
//! no clock: every look is an argument.
//!
//! Readings are stamped with the time since boot, which no step can disturb, plus an offset.
//! Invariants: once an offset is known there is always one; it follows the machine's clock only in
//! small steps, and a large one only when the cluster confirms it; the first one stays what the
//! boot-relative times of this run are raised by.

use shared::batch::{Clock as ClockEntry, ClockQuality};
use shared::id::TimeNs;

/// From here on the machine's clock and another time are two different times: no drift and no
/// delay of a network comes to that.
const STEP_NS: i64 = 3_600 * 1_000_000_000;

/// What the machine's clocks showed at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Nanoseconds since the machine's boot, sleep included.
    pub(crate) boot_ns: i64,
    /// The time of day as the machine has it, right or wrong.
    pub(crate) wall_ns: i64,
    /// Whether the operating system calls it synchronised.
    pub(crate) synced: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// Cluster times before are nonsense.
    built_ns: i64,
    /// The least that the offset can be: time of day when it was last known, or of the build.
    estimate_ns: i64,
    known: Option<Known>,
    /// The offset that the machine's clock shows and that is not followed.
    stepped_ns: Option<i64>,
    steps: u64,
}

/// An offset to the time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) offset_ns: i64,
    pub(crate) quality: ClockQuality,
    /// The first one, which the clock entries of this run tell.
    pub(crate) first: ClockEntry,
}

/// What people should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The time of day is known from here on.
    Known(ClockQuality),
    /// The cluster's time says that the time of day was wrong by so much.
    Moved { by_ns: i64 },
    /// The machine's clock made a step that is not followed.
    Stepped { by_ns: i64 },
}

impl Clock {
    /// `last_good`: the time of day when it was last known here. `built`: when the program was made.
    pub(crate) fn new(last_good: Option<TimeNs>, built: TimeNs, boot_ns: i64) -> Clock {
        let not_before = last_good.map_or(built, |last| last.max(built));
        Clock {
            built_ns: built.0,
            estimate_ns: not_before.0.saturating_sub(boot_ns),
            known: None,
            stepped_ns: None,
            steps: 0,
        }
    }

    pub(crate) fn known(&self) -> Option<Known> {
        self.known
    }

    /// What to add to the time since boot: while the time of day is not known, what counts on from
    /// the last time that it was. It is never later than the truth.
    pub(crate) fn assumed_ns(&self) -> i64 {
        self.known.map_or(self.estimate_ns, |known| known.offset_ns)
    }

    pub(crate) fn estimate_ns(&self) -> i64 {
        self.estimate_ns
    }

    /// Steps of the machine's clock that were seen.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Now and then.
    pub(crate) fn look(&mut self, sight: Sight) -> Option<Change> {
        let shown_ns = shown(sight);
        let Some(known) = &mut self.known else {
            let trusted = sight.synced && shown_ns >= self.estimate_ns;
            return trusted.then(|| self.learn(shown_ns, ClockQuality::Synced));
        };
        let by_ns = shown_ns.saturating_sub(known.offset_ns);
        if is_small(by_ns) {
            self.stepped_ns = None;
            if sight.synced {
                known.offset_ns = shown_ns;
                known.quality = ClockQuality::Synced;
            }
            return None;
        }
        let before = self.stepped_ns.replace(shown_ns);
        if before.is_some_and(|before| is_small(shown_ns.saturating_sub(before))) {
            return None;
        }
        self.steps += 1;
        Some(Change::Stepped { by_ns })
    }

    /// CONNACK told the cluster's time.
    pub(crate) fn told(&mut self, sight: Sight, cluster: TimeNs) -> Option<Change> {
        if cluster.0 < self.built_ns {
            return None;
        }
        let shown_ns = shown(sight);
        let cluster_ns = cluster.0.saturating_sub(sight.boot_ns);
        let is_wall_right = is_small(shown_ns.saturating_sub(cluster_ns));
        let (offset_ns, quality) = match (is_wall_right, sight.synced) {
            (true, true) => (shown_ns, ClockQuality::Synced),
            (true, false) => (shown_ns, ClockQuality::Cluster),
            (false, _) => (cluster_ns, ClockQuality::Cluster),
        };
        // A machine whose clock was wrong from the start made no step.
        self.stepped_ns = (!is_wall_right).then_some(shown_ns);
        let Some(known) = &mut self.known else {
            return Some(self.learn(offset_ns, quality));
        };
        if !is_wall_right && is_small(known.offset_ns.saturating_sub(cluster_ns)) {
            // Its own count is as good, and does not jump by the delay of every connection.
            return None;
        }
        let by_ns = offset_ns.saturating_sub(known.offset_ns);
        known.offset_ns = offset_ns;
        known.quality = quality;
        (!is_small(by_ns)).then_some(Change::Moved { by_ns })
    }

    fn learn(&mut self, offset_ns: i64, quality: ClockQuality) -> Change {
        let first = ClockEntry { offset_ns, quality };
        self.known = Some(Known {
            offset_ns,
            quality,
            first,
        });
        Change::Known(quality)
    }
}

fn shown(sight: Sight) -> i64 {
    sight.wall_ns.saturating_sub(sight.boot_ns)
}

fn is_small(by_ns: i64) -> bool {
    by_ns.saturating_abs() < STEP_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const HOUR: i64 = 3_600 * S;
    const YEAR: i64 = 8_766 * HOUR;
    const BUILT: TimeNs = TimeNs(1_761_955_200 * S);
    /// The true time of day at boot.
    const BOOT: i64 = BUILT.0 + YEAR;

    /// `wrong_ns`: by how much the machine's clock is ahead of the truth.
    fn sight(boot_ns: i64, wrong_ns: i64, synced: bool) -> Sight {
        Sight {
            boot_ns,
            wall_ns: BOOT + boot_ns + wrong_ns,
            synced,
        }
    }

    fn clock() -> Clock {
        Clock::new(Some(TimeNs(BOOT - HOUR)), BUILT, 0)
    }

    fn offset(clock: &Clock) -> Option<i64> {
        clock.known().map(|known| known.offset_ns)
    }

    #[test]
    fn a_boot_in_1970_waits_for_the_cluster() {
        let mut clock = clock();
        let wrong = -BOOT;
        assert_eq!(clock.look(sight(S, wrong, false)), None);
        // Even if something calls that synchronised.
        assert_eq!(clock.look(sight(2 * S, wrong, true)), None);
        assert_eq!(offset(&clock), None);
        assert_eq!(clock.assumed_ns(), BOOT - HOUR);
        let cluster = TimeNs(BOOT + 60 * S);
        let change = clock.told(sight(60 * S, wrong, false), cluster);
        assert_eq!(change, Some(Change::Known(ClockQuality::Cluster)));
        assert_eq!(offset(&clock), Some(BOOT));
        // It was wrong from the start, and then somebody put it right: both no step.
        assert_eq!(clock.look(sight(61 * S, wrong, false)), None);
        assert_eq!(clock.look(sight(62 * S, S / 10, true)), None);
        assert_eq!((offset(&clock), clock.steps()), (Some(BOOT + S / 10), 0));
        let first = clock.known().unwrap().first;
        assert_eq!(
            (first.offset_ns, first.quality),
            (BOOT, ClockQuality::Cluster)
        );
    }

    #[test]
    fn ten_years_ahead_is_put_right_by_the_cluster() {
        let mut clock = clock();
        assert_eq!(clock.look(sight(S, 10 * YEAR, false)), None);
        let cluster = TimeNs(BOOT + 2 * S);
        let change = clock.told(sight(2 * S, 10 * YEAR, false), cluster);
        assert_eq!(change, Some(Change::Known(ClockQuality::Cluster)));
        assert_eq!(offset(&clock), Some(BOOT));
        // What the operating system believes is no reason to follow it.
        assert_eq!(clock.look(sight(3 * S, 10 * YEAR, true)), None);
        assert_eq!(offset(&clock), Some(BOOT));
    }

    #[test]
    fn a_synchronised_clock_is_believed_at_once_and_followed_in_small_steps() {
        let mut clock = clock();
        let change = clock.look(sight(S, 0, true));
        assert_eq!(change, Some(Change::Known(ClockQuality::Synced)));
        assert_eq!(clock.look(sight(2 * S, S / 5, true)), None);
        assert_eq!(offset(&clock), Some(BOOT + S / 5));
        // Not while nobody vouches for it.
        assert_eq!(clock.look(sight(3 * S, 5 * S, false)), None);
        assert_eq!(offset(&clock), Some(BOOT + S / 5));
        assert_eq!(clock.known().unwrap().first.offset_ns, BOOT);
        assert_eq!(clock.steps(), 0);
    }

    #[test]
    fn a_step_of_an_hour_is_not_followed_until_the_cluster_confirms_it() {
        let mut clock = clock();
        clock.look(sight(S, 0, true));
        let step = Some(Change::Stepped { by_ns: -HOUR });
        assert_eq!(clock.look(sight(2 * S, -HOUR, true)), step);
        assert_eq!(clock.look(sight(3 * S, -HOUR, true)), None);
        assert_eq!((offset(&clock), clock.steps()), (Some(BOOT), 1));
        // The cluster still has the old time.
        let change = clock.told(sight(4 * S, -HOUR, true), TimeNs(BOOT + 4 * S + 7));
        assert_eq!((change, offset(&clock)), (None, Some(BOOT)));
        // And now it has the new one.
        let change = clock.told(sight(5 * S, -HOUR, true), TimeNs(BOOT + 5 * S - HOUR));
        assert_eq!(change, Some(Change::Moved { by_ns: -HOUR }));
        assert_eq!(offset(&clock), Some(BOOT - HOUR));
        assert_eq!(
            clock.look(sight(6 * S, 0, true)),
            Some(Change::Stepped { by_ns: HOUR })
        );
        assert_eq!(clock.steps(), 2);
    }

    #[test]
    fn a_good_clock_that_nobody_vouches_for_is_good_after_a_connection() {
        let mut clock = clock();
        assert_eq!(clock.look(sight(S, 3 * S, false)), None);
        let change = clock.told(sight(2 * S, 3 * S, false), TimeNs(BOOT + 2 * S));
        assert_eq!(change, Some(Change::Known(ClockQuality::Cluster)));
        assert_eq!(offset(&clock), Some(BOOT + 3 * S));
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut clock = clock();
        for cluster in [0, i64::MIN, BUILT.0 - 1] {
            assert_eq!(clock.told(sight(S, 0, false), TimeNs(cluster)), None);
        }
        assert_eq!(offset(&clock), None);
        for (boot_ns, wall_ns) in [(0, i64::MIN), (i64::MAX, i64::MIN), (i64::MIN, i64::MAX)] {
            let synced = true;
            let sight = Sight {
                boot_ns,
                wall_ns,
                synced,
            };
            clock.look(sight);
            clock.told(sight, TimeNs(i64::MAX));
        }
    }

    #[test]
    fn what_is_assumed_counts_on_and_is_no_later_than_the_truth() {
        let built_only = Clock::new(None, BUILT, 5 * S);
        assert_eq!(built_only.assumed_ns() + 7 * S, BUILT.0 + 2 * S);
        let old = Clock::new(Some(TimeNs(3)), BUILT, 0);
        assert_eq!(old.assumed_ns(), BUILT.0);
    }
}
