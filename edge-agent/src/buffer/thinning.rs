//! What is thinned, and in which order: first the batch that tells the rest of others is sealed and
//! comes to disk, and only then gap records take the place of the others. So a crash between finds
//! both or the others, and no reading is ever without either. Until then that batch is held back: what
//! is not sent and does not go for want of room cannot be refused or lost, and can still be taken
//! back. The others are held back as well, and none of them was sent before: what the cluster has,
//! it must not get once more as a sum.
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
#[derive(Debug, Clone, Hash)]
pub(super) struct Thinning {
    class: Class,
    sealed: Vec<Place>,
    /// Nothing, if not all could be sealed: then it is taken back.
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
        let oldest = self.oldest_unsent(class)?;
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

    /// Seals the rest of batches, which stay until it is safe; till then it is not sent, and does not
    /// go for want of room.
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
        let entries = replaced.iter().filter_map(|place| self.batch(*place));
        let since = entries.map(|entry| entry.born).min().unwrap_or(now);
        let class = collected.first().map(|one| one.kind.class);
        let mut thinning = Thinning {
            class: class.unwrap_or_default(),
            sealed: Vec::new(),
            replaced: Vec::new(),
        };
        let batches = collected.into_iter().try_fold(0, |batches, one| {
            let (place, more) = self.seal_rest(one, now, since, wall)?;
            thinning.sealed.push(place);
            Ok(batches + more)
        });
        if batches.is_ok() {
            for place in &replaced {
                self.change_form(*place, Form::Leaving);
            }
            thinning.replaced = replaced;
        }
        self.thinning = Some(thinning);
        batches
    }

    fn seal_rest(
        &mut self,
        one: Collected,
        now: Duration,
        since: Duration,
        wall: TimeNs,
    ) -> Result<(Place, u64), EncodeError> {
        let epoch = self.epoch();
        let batches = self.seal_into(Lane::Backlog, Form::Coming, one, now, since, wall)?;
        let shelf = self.epochs.last_mut();
        let shelf = shelf.expect("there is always a current epoch");
        let entry = shelf.lanes[Lane::Backlog as usize].entries.back_mut();
        let entry = entry.expect("just sealed");
        entry.urgent = true;
        Ok((place_of(epoch, Lane::Backlog, entry), batches))
    }

    /// Whether what is left of a class is not safe yet.
    pub(super) fn is_thinning(&self, class: Class) -> bool {
        self.thinning.as_ref().is_some_and(|one| one.class == class)
    }

    /// These are not worth thinning, or cannot be: they go as they are when their time comes.
    pub fn keep_whole(&mut self, places: &[Place]) {
        for place in places {
            self.change_form(*place, Form::Thin);
        }
    }

    /// Once the rest is safe, gap records take the place of what it is of. If it will not be, or a
    /// part of it is gone, all is as it was before.
    pub fn finish_thinning(&mut self, wall: TimeNs) -> Settled {
        let Some(thinning) = &self.thinning else {
            return Settled::default();
        };
        let sealed = || thinning.sealed.iter().map(|place| self.batch(*place));
        let part_gone = thinning.replaced.is_empty() || sealed().any(|batch| batch.is_none());
        let waits = sealed().flatten().any(|batch| !batch.is_safe());
        if part_gone || (waits && (self.disk.failed || self.has_no_room())) {
            return self.cancel_thinning(wall);
        }
        let mut settled = Settled::default();
        if !waits && let Some(thinning) = self.thinning.take() {
            for place in thinning.sealed {
                self.change_form(place, Form::Thin);
            }
            for place in thinning.replaced {
                settled.add(self.drop_batch(place, GapReason::Thinned, wall));
            }
        }
        settled
    }

    /// What was to go stays, and what was to be left of it goes, unsent: nothing is lost by it.
    pub(super) fn cancel_thinning(&mut self, wall: TimeNs) -> Settled {
        let mut settled = Settled::default();
        let Some(thinning) = self.thinning.take() else {
            return settled;
        };
        for place in thinning.replaced {
            self.change_form(place, Form::Whole);
        }
        for place in thinning.sealed {
            settled.add(self.drop_batch(place, GapReason::Overflow, wall));
        }
        settled
    }

    /// A batch that is held one by one.
    fn batch(&self, place: Place) -> Option<&Entry> {
        let held = self.lane(place.epoch, place.lane)?;
        let entry = held.at_or_after(place.from)?;
        let is_it = (entry.from, entry.to) == (place.from, place.to);
        (is_it && entry.is_data() && entry.run.is_none()).then_some(entry)
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
