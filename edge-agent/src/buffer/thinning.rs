//! What is thinned, and in which order: first the batch that tells the rest of others is sealed and
//! comes to disk, and only then gap records take the place of the others. So a crash between finds
//! both or the others, and no reading is ever without either.
//!
//! The keeper reads and sums up in between ([`super::thin`]). One thinning is under way at a time.

use std::collections::HashMap;
use std::time::Duration;

use shared::batch::{Body, EncodeError, GapReason};
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};
use shared::reading::Reading;

use super::lane::{Entry, Form};
use super::thin::Sums;
use super::{Buffer, Place, Settled};
use crate::batcher::Collected;
use crate::handed::Class;

/// Bytes of batches that are thinned together; a larger one alone.
const THINNED_BYTES_MAX: u64 = 256 << 10;
/// Also at most this part of the bound.
const THINNED_PARTS: u64 = 16;
/// And so many of them at most.
const THINNED_BATCHES_MAX: usize = 256;

/// Batches to thin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinPlan {
    pub class: Class,
    /// All of one lane, oldest first.
    pub batches: Vec<Place>,
    /// Where their series are defined.
    pub names: Vec<Place>,
}

/// What is left of the batches of a plan.
#[derive(Debug)]
pub struct Rest {
    /// Rows for the sums of minutes; `None`: it is not worth it, or a definition is missing.
    pub readings: Option<Vec<Reading>>,
    /// Of which it is.
    pub summed: Vec<Place>,
    /// What could not be read.
    pub unreadable: Vec<Place>,
}

/// A thinning whose result is not safe yet.
#[derive(Debug)]
pub(super) struct Thinning {
    sealed: Vec<Place>,
    replaced: Vec<Place>,
}

impl ThinPlan {
    /// Sums up what is read; `read` gives what a batch holds, `None` if it cannot.
    pub fn sum_up(&self, read: impl Fn(Place) -> Option<Body>) -> Rest {
        let mut sums = Sums::default();
        let (mut summed, mut unreadable) = (Vec::new(), Vec::new());
        for place in &self.batches {
            if sums.is_full() {
                break;
            }
            if let Some(Body::Data(data)) = read(*place) {
                sums.add(&data);
                summed.push(*place);
            } else {
                unreadable.push(*place);
            }
        }
        let mut definitions = HashMap::new();
        if sums.pays() && !summed.is_empty() {
            for place in &self.names {
                if let Some(Body::Names(names)) = read(*place) {
                    let needed = names.into_iter().filter(|one| sums.needs(one.id));
                    definitions.extend(needed.map(|one| (one.id, one)));
                }
            }
        }
        let readings = sums.into_readings(&definitions);
        Rest {
            readings: readings.filter(|readings| !readings.is_empty()),
            summed,
            unreadable,
        }
    }
}

impl Buffer {
    /// What to thin now; `None`: nothing, a thinning is under way, or something is
    /// [wanted](Buffer::wanted) first.
    pub fn plan_thinning(&mut self) -> Option<ThinPlan> {
        if self.thinning.is_some() {
            return None;
        }
        let class = self.class_to_thin()?;
        let oldest = self.oldest_of(class, Form::Whole)?;
        if self.wants(oldest) {
            return None;
        }
        let Place {
            epoch, lane, from, ..
        } = oldest;
        let bytes_max = THINNED_BYTES_MAX.min(self.bytes_max() / THINNED_PARTS);
        let mut bytes = 0;
        let held = self.lane(epoch, lane)?;
        let is_ours = |entry: &&Entry| {
            // Who waits for a reading is told of that reading.
            let waited_for = !entry.waiters.is_empty();
            entry.is_data() && entry.class == class && entry.form == Form::Whole && !waited_for
        };
        let known = held.entries.range(held.index_of(from)..);
        let known = known.take_while(|entry| entry.run.is_none());
        let ours = known.filter(is_ours);
        let ours = ours.take(THINNED_BATCHES_MAX).take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.held_bytes();
            is_first || bytes <= bytes_max
        });
        let (places, needed): (Vec<Place>, Vec<BatchNumber>) = ours
            .map(|entry| (place_of(epoch, lane, entry), entry.names_needed))
            .unzip();
        let needed = needed.into_iter().max()?;
        let names = self.lane(epoch, Lane::Names)?;
        let names = names.entries.iter().take_while(|entry| entry.to <= needed);
        let names = names.filter(|entry| entry.gap.is_none());
        Some(ThinPlan {
            class,
            batches: places,
            names: names
                .map(|entry| place_of(epoch, Lane::Names, entry))
                .collect(),
        })
    }

    /// Seals the rest of batches, which stay until it is safe.
    ///
    /// # Errors
    /// A batch over a limit of the format. The others stay as they are then.
    pub fn seal_thinned(
        &mut self,
        collected: Vec<Collected>,
        replaced: Vec<Place>,
        now: Duration,
        wall: TimeNs,
    ) -> Result<u64, EncodeError> {
        assert!(self.thinning.is_none(), "one thinning at a time");
        let entries = replaced.iter().filter_map(|place| self.entry(*place));
        let since = entries.map(|entry| entry.born).min().unwrap_or(now);
        let epoch = self.epoch();
        let mut thinning = Thinning {
            sealed: Vec::new(),
            replaced,
        };
        let mut batches = 0;
        for one in collected {
            batches += self.seal_into(Lane::Backlog, Form::Thin, one, now, since, wall)?;
            let shelf = self.epochs.last_mut();
            let shelf = shelf.expect("there is always a current epoch");
            let entry = shelf.lanes[Lane::Backlog as usize].entries.back_mut();
            let entry = entry.expect("just sealed");
            entry.urgent = true;
            thinning.sealed.push(place_of(epoch, Lane::Backlog, entry));
        }
        for place in &thinning.replaced {
            self.change_form(*place, Form::Leaving);
        }
        self.thinning = Some(thinning);
        Ok(batches)
    }

    /// These are not worth thinning, or cannot be: they go as they are when their time comes.
    pub fn keep_whole(&mut self, places: &[Place]) {
        for place in places {
            self.change_form(*place, Form::Thin);
        }
    }

    /// Once the rest is safe, or the cluster has it, gap records take the place of what it is of.
    pub fn finish_thinning(&mut self, wall: TimeNs) -> Settled {
        let mut settled = Settled::default();
        let Some(thinning) = &self.thinning else {
            return settled;
        };
        let mut sealed = thinning.sealed.iter();
        let waits = sealed.any(|place| self.entry(*place).is_some_and(|entry| !entry.is_safe()));
        if waits && !self.disk.failed {
            return settled;
        }
        let replaced = self.thinning.take().map(|thinning| thinning.replaced);
        for place in replaced.unwrap_or_default() {
            if waits {
                // It will not be safe any more, but some of these may be.
                self.change_form(place, Form::Thin);
            } else {
                settled.add(self.drop_batch(place, GapReason::Thinned, wall));
            }
        }
        settled
    }

    fn entry(&self, place: Place) -> Option<&Entry> {
        let held = self.lane(place.epoch, place.lane)?;
        let entry = held.at_or_after(place.from)?;
        ((entry.from, entry.to) == (place.from, place.to)).then_some(entry)
    }

    fn change_form(&mut self, place: Place, form: Form) {
        let mut shelves = self.epochs.iter_mut().rev();
        let Some(shelf) = shelves.find(|shelf| shelf.epoch == place.epoch) else {
            return;
        };
        let held = &mut shelf.lanes[place.lane as usize];
        let at = held.index_of(place.to);
        let Some(entry) = held.entries.get_mut(at) else {
            return;
        };
        if entry.is_data() && (entry.from, entry.to) == (place.from, place.to) {
            self.held.uncount(entry);
            entry.form = form;
            self.held.count(entry);
            let class = entry.class;
            held.look_again(class);
        }
    }
}

fn place_of(epoch: Epoch, lane: Lane, entry: &Entry) -> Place {
    Place {
        epoch,
        lane,
        from: entry.from,
        to: entry.to,
    }
}
