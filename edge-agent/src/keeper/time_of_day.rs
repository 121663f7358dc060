//! The keeper's clock: looks at the machine's now and then, hears the cluster's at every
//! connection, seals the clock entries that this makes possible, and remembers how late it is.

use std::path::PathBuf;
use std::time::Duration;

use shared::batch::ClockQuality;
use shared::id::TimeNs;

use super::Keeper;
use crate::clock::{Change, Teller, remember};
use crate::status::Status;

/// How often the time of day is remembered: after a power cut it is known so well.
const REMEMBER: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct TimeOfDay {
    teller: Teller,
    folder: PathBuf,
    /// When it is to be remembered next, since the keeper's start.
    next_remember: Duration,
}

impl TimeOfDay {
    pub(super) fn new(mut teller: Teller, folder: PathBuf) -> TimeOfDay {
        say(teller.look());
        TimeOfDay {
            teller,
            folder,
            next_remember: Duration::ZERO,
        }
    }

    pub(super) fn now(&self) -> TimeNs {
        self.teller.now()
    }

    fn is_known(&self) -> bool {
        self.teller.clock().known().is_some()
    }

    /// Writes down how late it is, if that is known.
    pub(super) fn remember(&self) {
        if self.is_known()
            && let Err(error) = remember(&self.folder, self.now())
        {
            tracing::warn!(
                %error,
                folder = %self.folder.display(),
                "the time of day is not remembered: after a start with a wrong clock this agent \
                 takes an earlier time for possible; look at the disk"
            );
        }
    }

    pub(super) fn account(&self, status: &mut Status) {
        let clock = self.teller.clock();
        status.clock_steps_total = clock.steps();
        status.clock_quality = clock.known().map_or(0, |known| match known.quality {
            ClockQuality::Synced => 1,
            ClockQuality::Cluster | ClockQuality::Estimated => 2,
        });
    }
}

impl Keeper {
    /// The time of day for headers.
    pub(super) fn wall(&self) -> TimeNs {
        self.time_of_day.now()
    }

    /// At every tick.
    pub(super) fn look_at_clock(&mut self, now: Duration) {
        say(self.time_of_day.teller.look());
        self.give_clock();
        if self.time_of_day.is_known() && now >= self.time_of_day.next_remember {
            self.time_of_day.next_remember = now + REMEMBER;
            self.time_of_day.remember();
        }
    }

    /// A session began; the positions that CONNACK told were taken over.
    pub(super) fn cluster_told(&mut self, time: Option<TimeNs>) {
        if let Some(time) = time {
            say(self.time_of_day.teller.hear(time));
        }
        self.give_clock();
    }

    /// Seals the clock entries that are missing, once the time of day is known.
    pub(super) fn give_clock(&mut self) {
        let Some(known) = self.time_of_day.teller.clock().known() else {
            return;
        };
        let (now, wall) = (self.clock.now(), self.wall());
        let given = self.buffer.give_clock(known.first, now, wall);
        for (epoch, clock) in given {
            tracing::info!(
                %epoch,
                offset_ns = clock.offset_ns,
                quality = clock.quality.as_str(),
                "readings that were stamped before the time of day was known get their times"
            );
        }
    }
}

fn say(change: Option<Change>) {
    let seconds = |by_ns: i64| by_ns / 1_000_000_000;
    match change {
        None => {}
        Some(Change::Known(quality)) => {
            tracing::info!(quality = quality.as_str(), "the time of day is known");
        }
        Some(Change::Moved { by_ns }) => tracing::warn!(
            by_seconds = seconds(by_ns),
            "the cluster has another time than this agent: from here on readings get the cluster's"
        ),
        Some(Change::Stepped { by_ns }) => tracing::warn!(
            by_seconds = seconds(by_ns),
            "the machine's clock made a step that is not followed until the cluster confirms it; \
             look at what sets the clock"
        ),
    }
}
