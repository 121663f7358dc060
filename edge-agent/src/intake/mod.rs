//! Where readings come from. Each intake turns what a device gives into readings, hands them over
//! and tells the device what became of them, where its protocol allows.
//!
//! `health` reads the agent itself, `host` this machine, `line` serves Influx line protocol,
//! `replay` reads a file with its own times; `frame` finds the lines of a stream of bytes. All of
//! them hand over through `Entry`, which counts and keeps the ledger.

mod frame;
pub mod health;
pub mod host;
pub mod line;
pub mod replay;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shared::reading::Reading;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::clock::Stamper;
use crate::handed::{Class, Handed, Intakes, Kind, NotKept, Stamp, Stopped};
use crate::ledger::Ledger;

/// One line of the log per intake, kind and so long, at most: a mad device must not fill a disk.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of readings that were handed over.
pub(crate) type Outcome = oneshot::Receiver<Result<(), NotKept>>;

/// What an intake has done since the agent started. Its readers may see a moment ago.
#[derive(Debug, Default)]
pub struct Counters {
    /// Readings handed over.
    pub readings: AtomicU64,
    /// Lines or rows that are no readings.
    pub refused: AtomicU64,
    /// Readings given up because there was no room and the source cannot wait.
    pub dropped: AtomicU64,
    /// Readings handed over of which their source was told that they are not kept.
    pub not_kept: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicU64,
}

/// An intake's name and counters, for `/status` and `/metrics`.
#[derive(Debug, Clone)]
pub struct Account {
    /// Such as `host` or `tcp://127.0.0.1:8094`.
    pub name: Arc<str>,
    pub counters: Arc<Counters>,
}

/// The way in for one intake.
#[derive(Debug, Clone)]
pub struct Entry {
    account: Account,
    intakes: Intakes,
    ledger: Option<Ledger>,
    class: Class,
    clock: Stamper,
}

/// Decides which complaints of one kind are worth a line in the log. Shared by the connections of
/// an intake: a device that reconnects for every line is one device.
#[derive(Debug)]
pub(crate) struct Complaints {
    start: Instant,
    /// Nothing is said before, counted from the start.
    quiet_until_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Account {
    pub fn new(name: &str) -> Account {
        Account {
            name: name.into(),
            counters: Arc::default(),
        }
    }
}

impl Entry {
    pub fn new(account: Account, intakes: Intakes, ledger: Option<Ledger>) -> Entry {
        Entry {
            account,
            intakes,
            ledger,
            class: Class::default(),
            clock: Stamper::of_this_machine(),
        }
    }

    /// The same way in for readings of this class.
    #[must_use]
    pub fn with_class(self, class: Class) -> Entry {
        Entry { class, ..self }
    }

    fn kind(&self, stamp: Stamp) -> Kind {
        Kind {
            class: self.class,
            stamp,
        }
    }

    /// Stamps with this clock; without it the machine's own is believed.
    #[must_use]
    pub fn with_clock(self, clock: Stamper) -> Entry {
        Entry { clock, ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.account.name
    }

    pub(crate) fn clock(&self) -> &Stamper {
        &self.clock
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.account.counters
    }

    /// Waits for room. With `answer`, tells later what became of the readings, all together.
    ///
    /// # Errors
    /// The agent stops.
    pub(crate) async fn hand_over(
        &self,
        readings: Vec<Reading>,
        stamp: Stamp,
        answer: bool,
    ) -> Result<Option<Outcome>, Stopped> {
        let count = readings.len() as u64;
        let (teller, outcome) = answer.then(oneshot::channel).unzip();
        let kept = match &self.ledger {
            Some(ledger) => Some(ledger.expect(&readings, stamp, teller).await?),
            None => teller,
        };
        let kind = self.kind(stamp);
        let handed = Handed {
            readings,
            kind,
            kept,
        };
        self.intakes.hand_over(handed).await?;
        self.counters().readings.fetch_add(count, Ordering::Relaxed);
        Ok(outcome)
    }

    /// Never waits; what there is no room for is dropped and counted. `false` says so.
    pub(crate) fn try_hand_over(&self, readings: Vec<Reading>, stamp: Stamp) -> bool {
        let count = readings.len() as u64;
        let taken = match &self.ledger {
            // Without room in the ledger it could not be proven, so it is not taken.
            Some(ledger) => ledger.try_expect(&readings, stamp).map(Some),
            None => Ok(None),
        }
        .is_ok_and(|kept| {
            let handed = Handed {
                readings,
                kind: self.kind(stamp),
                kept,
            };
            self.intakes.try_hand_over(handed).is_ok()
        });
        let counter = if taken {
            &self.counters().readings
        } else {
            &self.counters().dropped
        };
        counter.fetch_add(count, Ordering::Relaxed);
        taken
    }
}

impl Complaints {
    pub(crate) fn new(start: Instant) -> Complaints {
        Complaints {
            start,
            quiet_until_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// Whether to say it now; if so, how many like it went unsaid before.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now_ms = ms(now.saturating_duration_since(self.start));
        let speak = |quiet_until_ms| {
            (quiet_until_ms <= now_ms).then(|| now_ms.saturating_add(ms(COMPLAINT_PAUSE)))
        };
        // Of two who complain at once, one speaks.
        let order = Ordering::Relaxed;
        if self
            .quiet_until_ms
            .fetch_update(order, order, speak)
            .is_err()
        {
            self.unsaid.fetch_add(1, order);
            return None;
        }
        Some(self.unsaid.swap(0, order))
    }
}

/// Returns once the intakes shall stop, also when nobody is left to say so.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What became of the readings; a keeper that ended without a word has not kept them.
pub(crate) async fn outcome_of(outcome: Outcome) -> Result<(), NotKept> {
    outcome.await.unwrap_or(Err(NotKept::Stopping))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_said_once_a_second_with_the_number_unsaid() {
        let start = Instant::now();
        let complaints = Complaints::new(start);
        assert_eq!(complaints.allow(start), Some(0));
        for _ in 0..3 {
            assert_eq!(complaints.allow(start + COMPLAINT_PAUSE / 2), None);
        }
        assert_eq!(complaints.allow(start + COMPLAINT_PAUSE), Some(3));
        assert_eq!(complaints.allow(start + 2 * COMPLAINT_PAUSE), Some(0));
    }
}
