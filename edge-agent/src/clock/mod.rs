//! What time it is. `machine` decides whether the time of day is known; here are the machine's
//! clocks that it is shown, and the way in which all of the agent hears of what it decided.
//!
//! `memory` remembers the time of day over restarts, `certificates` lets TLS do with what is known.

mod machine;
pub(crate) mod memory;
pub mod certificates;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use shared::id::TimeNs;
use tokio::sync::watch;

use crate::handed::Stamp;
pub(crate) use machine::{Change, Clock, Sight};
pub(crate) use memory::{last_good, remember};

/// The program was made after this time, 2025-11-01. To be raised now and then: a gateway that
/// remembers nothing holds every earlier time for wrong.
pub(crate) const BUILT: TimeNs = TimeNs(1_761_955_200 * 1_000_000_000);
/// systemd's own sign, in a folder that a boot empties, that the clock was synchronised.
const SYNCED: &str = "/run/systemd/timesync/synchronized";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which boot of a machine; zero if the machine does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BootId(pub [u8; 16]);

/// What everybody hears of the time of day: offsets to the time since boot, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// `None` while the time of day is not known.
    pub(crate) offset_ns: Option<i64>,
    /// What the times since boot of this run are raised by.
    pub(crate) first_ns: Option<i64>,
    /// What gives a time that is never later than the truth.
    pub(crate) estimate_ns: i64,
}

/// Gives times to whoever stamps. Clones hear of the same.
#[derive(Debug, Clone)]
pub struct Stamper {
    told: watch::Receiver<Told>,
}

/// The keeper's side: who decides what time it is.
#[derive(Debug)]
pub struct Teller {
    clock: Clock,
    told: watch::Sender<Told>,
}

impl BootId {
    /// Of the machine that runs this.
    pub(crate) fn of_this_boot() -> BootId {
        let text = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        BootId::parse(&text).unwrap_or_default()
    }

    /// 32 hex digits, with dashes between some.
    fn parse(text: &str) -> Option<BootId> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok()?;
        (digits.len() == 32).then(|| BootId(number.to_be_bytes()))
    }

    /// Whether two are known to be one.
    pub(crate) fn is_same(self, other: BootId) -> bool {
        self == other && self != BootId::default()
    }
}

impl Teller {
    /// Begins with what was remembered. Nothing is known yet, unless a look tells.
    pub fn new(last_good: Option<TimeNs>) -> Teller {
        let clock = Clock::new(last_good, BUILT, since_boot_ns());
        let told = watch::Sender::new(to_tell(&clock));
        Teller { clock, told }
    }

    pub fn stamper(&self) -> Stamper {
        Stamper {
            told: self.told.subscribe(),
        }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Looks at the machine's clocks.
    pub(crate) fn look(&mut self) -> Option<Change> {
        let change = self.clock.look(sight());
        self.tell();
        change
    }

    /// CONNACK told the cluster's time.
    pub(crate) fn hear(&mut self, cluster: TimeNs) -> Option<Change> {
        let change = self.clock.told(sight(), cluster);
        self.tell();
        change
    }

    /// The time of day for headers: while it is not known, one that is not later.
    pub(crate) fn now(&self) -> TimeNs {
        TimeNs(since_boot_ns().saturating_add(self.clock.assumed_ns()))
    }

    fn tell(&self) {
        let told = to_tell(&self.clock);
        self.told.send_if_modified(|before| {
            let is_new = *before != told;
            *before = told;
            is_new
        });
    }
}

fn to_tell(clock: &Clock) -> Told {
    Told {
        offset_ns: clock.known().map(|known| known.offset_ns),
        first_ns: clock.known().map(|known| known.first.offset_ns),
        estimate_ns: clock.estimate_ns(),
    }
}

impl Stamper {
    /// For what has no keeper: the machine's clock is believed as it is.
    pub fn of_this_machine() -> Stamper {
        let Sight {
            boot_ns, wall_ns, ..
        } = sight();
        let offset_ns = wall_ns.saturating_sub(boot_ns);
        let told = Told {
            offset_ns: Some(offset_ns),
            first_ns: Some(offset_ns),
            estimate_ns: offset_ns,
        };
        Stamper {
            told: watch::Sender::new(told).subscribe(),
        }
    }

    /// Now, and by whose clock.
    pub(crate) fn stamp(&self) -> (TimeNs, Stamp) {
        let boot_ns = since_boot_ns();
        match self.told.borrow().offset_ns {
            Some(offset_ns) => (TimeNs(boot_ns.saturating_add(offset_ns)), Stamp::Wall),
            None => (TimeNs(boot_ns), Stamp::Boot),
        }
    }

    /// Now, by the machine's clock if nothing better is known.
    pub(crate) fn day(&self) -> TimeNs {
        match self.stamp() {
            (time, Stamp::Wall) => time,
            (_, Stamp::Boot) => wall(),
        }
    }

    /// What times since boot are raised by; `None` while that is not known.
    pub(crate) fn first_ns(&self) -> Option<i64> {
        self.told.borrow().first_ns
    }

    fn told(&self) -> Told {
        *self.told.borrow()
    }
}

/// What the machine's clocks show now.
fn sight() -> Sight {
    Sight {
        boot_ns: since_boot_ns(),
        wall_ns: wall().0,
        synced: std::fs::metadata(SYNCED).is_ok(),
    }
}

/// Nanoseconds since the machine's boot, sleep included.
fn since_boot_ns() -> i64 {
    let since = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// This machine's wall clock. One before 1970 reads as 1970, one after 2262 as 2262.
fn wall() -> TimeNs {
    #[expect(
        clippy::disallowed_methods,
        reason = "a driver: the clock is decided about elsewhere"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    TimeNs(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_was_not_made_in_the_future() {
        assert!(wall() > BUILT);
    }

    #[test]
    fn a_boot_is_the_same_only_if_the_machine_tells() {
        let text = "01234567-89ab-cdef-0123-456789abcdef\n";
        let boot = BootId::parse(text).unwrap();
        assert_eq!(boot.0[..4], [0x01, 0x23, 0x45, 0x67]);
        assert!(boot.is_same(boot));
        assert!(!BootId::default().is_same(BootId::default()));
        assert_eq!(BootId::parse("0123"), None);
    }

    #[test]
    fn stamps_count_from_boot_until_the_time_of_day_is_known() {
        let mut teller = Teller::new(None);
        let stamper = teller.stamper();
        let known = teller.look();
        if known.is_none() {
            assert_eq!(stamper.stamp().1, Stamp::Boot);
            assert_eq!(stamper.first_ns(), None);
            assert!(teller.now() >= BUILT);
        }
        teller.hear(wall());
        let (time, stamp) = stamper.stamp();
        assert_eq!(stamp, Stamp::Wall);
        assert!((time.0 - wall().0).abs() < 60 * 1_000_000_000);
        assert!(stamper.first_ns().is_some());
    }
}
