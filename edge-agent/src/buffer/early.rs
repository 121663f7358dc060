//! Batches that were sealed before the time of day was known: their times count from boot, and they
//! wait until a clock entry stands in the names lane of their epoch.
//!
//! That is the one thing that an older epoch still gets: it is no data, and takes the number behind
//! the last one of its lane, so the chain goes on. A clock is sent only once it is on disk: else a
//! power cut could leave its number to another one, and the cluster would see a fork.

use std::ops::RangeInclusive;
use std::time::Duration;

use shared::batch::{Body, Clock, ClockQuality};
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};

use super::lane::Entry;
use super::{Buffer, EpochShelf, Place, Spot};
use crate::clock::BootId;

/// What an epoch holds of the time before the time was known.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Early {
    /// The greatest time since boot of a reading; `None` if there is none.
    pub(super) newest_ns: Option<i64>,
    /// The number of its clock entry.
    pub(super) clock: Option<BatchNumber>,
    /// The cluster told this process where its names lane stands: what was acked need not be on disk,
    /// so before that nobody knows which number a clock may take.
    pub(super) is_placed: bool,
}

impl Early {
    /// Boot-relative data.
    pub(super) fn holds(&mut self, body: &Body) {
        if let Body::Data(data) = body
            && let Some((_, newest)) = data.time_range()
        {
            self.newest_ns = self.newest_ns.max(Some(newest.0));
        }
    }

    pub(super) fn has_clock(&mut self, number: BatchNumber) {
        self.clock = self.clock.max(Some(number));
    }

    /// These numbers of the names lane will not come.
    pub(super) fn lost(&mut self, numbers: RangeInclusive<BatchNumber>) {
        self.clock = self.clock.filter(|clock| !numbers.contains(clock));
    }
}

impl EpochShelf {
    /// Whether data here waits for a clock that was not sealed.
    pub(super) fn lacks_clock(&self) -> bool {
        self.early.newest_ns.is_some() && self.early.clock.is_none()
    }

    /// Lets the data that waits go behind the clock, if there is one.
    pub(super) fn find_clock(&mut self) {
        let Some(clock) = self.early.clock else {
            return;
        };
        let entries = self.lanes.iter_mut().flat_map(|lane| &mut lane.entries);
        for entry in entries.filter(|entry| entry.boot_relative) {
            entry.names_needed = entry.names_needed.max(clock);
        }
    }

    /// What the times since boot of this epoch are to be raised by, if those of `boot` are to be
    /// raised by `now`. Another boot ended before this one began: that is all that is known of it.
    fn clock_of(&self, boot: BootId, now: Clock) -> Clock {
        if self.boot.is_same(boot) {
            return now;
        }
        let newest_ns = self.early.newest_ns.unwrap_or(0);
        Clock {
            offset_ns: now.offset_ns.saturating_sub(newest_ns),
            quality: ClockQuality::Estimated,
        }
    }
}

impl Buffer {
    /// What is sealed from here on is of this boot of the machine. Before anything is on disk of
    /// the current epoch.
    pub fn begin_boot(&mut self, boot: BootId) {
        self.boot = boot;
        let current = self.epochs.last_mut();
        current.expect("there is always a current epoch").boot = boot;
    }

    /// The time of day is known: times since this boot are to be raised by `clock`. Seals the clock
    /// entries that are missing: of the current epoch; of older ones only if the cluster has told
    /// where their names stand. Returns the epochs that got one, each with its own.
    pub fn give_clock(&mut self, clock: Clock, now: Duration, wall: TimeNs) -> Vec<(Epoch, Clock)> {
        let mut given = Vec::new();
        let current = self.epochs.len() - 1;
        for at in 0..=current {
            let shelf = &self.epochs[at];
            let has_place = at == current || shelf.early.is_placed;
            if !has_place || !shelf.lacks_clock() || shelf.lane(Lane::Names).forked {
                continue;
            }
            // The current one is of this boot even if the machine does not tell which that is.
            let own = if at == current {
                clock
            } else {
                shelf.clock_of(self.boot, clock)
            };
            let spot = Spot {
                epoch: Some(at),
                ..Spot::names()
            };
            let sealed = self.stamp(spot, &Body::Clock(own), now, wall, 0);
            let entry = sealed.expect("a clock is within every limit");
            entry.urgent = true;
            let number = entry.to;
            let shelf = &mut self.epochs[at];
            shelf.early.has_clock(number);
            shelf.find_clock();
            given.push((shelf.epoch, own));
        }
        given
    }

    /// Whether a clock was sealed that neither the disk nor the cluster is known to have: a start
    /// would miss it.
    pub(super) fn has_unsafe_clock(&self) -> bool {
        self.epochs.iter().any(|shelf| {
            let names = shelf.lane(Lane::Names);
            let clock = shelf.early.clock.filter(|clock| *clock > names.acked.last);
            let entry = clock.and_then(|clock| names.at_or_after(clock));
            entry.is_some_and(|entry| !entry.is_safe())
        })
    }

    /// Whether an entry has to stay here for the sake of a clock.
    pub(super) fn waits_for_clock(&self, epoch: Epoch, lane: Lane, entry: &Entry) -> bool {
        let shelf = self.epochs.iter().rev().find(|shelf| shelf.epoch == epoch);
        let clock = shelf.and_then(|shelf| shelf.early.clock);
        if entry.boot_relative {
            return clock.is_none();
        }
        // A disk that takes nothing must not keep back what would make room.
        let can_sync = !self.disk.failed && !self.has_no_room();
        lane == Lane::Names && clock == Some(entry.to) && can_sync && !entry.is_safe()
    }

    /// If a clock entry was given up, another is to be sealed.
    pub(super) fn clock_lost(&mut self, place: Place) {
        let mut shelves = self.epochs.iter_mut().rev();
        let shelf = shelves.find(|shelf| shelf.epoch == place.epoch);
        if let Some(shelf) = shelf
            && place.lane == Lane::Names
        {
            shelf.early.lost(place.from..=place.to);
        }
    }
}
