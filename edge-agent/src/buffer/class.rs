//! Priority classes: whose readings go first when there is no room, and how.
//!
//! The least class gives first, by its own rule; only when it has nothing more to give comes the
//! next. Where nobody gives anything, what comes new is refused: the bound is never exceeded.

use shared::id::Lane;

use super::lane::{Entry, Form, LaneShelf, Share};
use super::{Buffer, Held, Place};
use crate::handed::{CLASSES_MAX, Class};

/// What a gap record counts at most against the bound, in bytes.
const GAP_BYTES_MOST: u64 = 136;
/// Of what batches may take, in percent: from here on a class is thinned, so that there is still
/// room for what its thinning makes.
const THIN_PERCENT: u64 = 85;
/// A class has at least this part of the bound whole; before it has less, the oldest go.
const WHOLE_PARTS: u64 = 8;

/// What happens to the readings of a class when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The oldest go.
    DropOldest,
    /// Of the oldest, minimum, maximum and average of each minute stay; what was thinned goes,
    /// oldest first, once there is no room for that either.
    Thin,
    /// None go: new ones are refused.
    Reject,
}

/// One class of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClassRule {
    pub name: String,
    pub overflow: Overflow,
}

/// The classes of the configuration, the one most worth keeping first: 1 to [`CLASSES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Classes(Vec<ClassRule>);

/// What a class holds and gave since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassAccount {
    pub name: String,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Readings that went because there was no room.
    pub readings_dropped: u64,
    /// Readings of which only the sums of their minutes stayed.
    pub readings_thinned: u64,
    /// Readings that were not taken because there was no room.
    pub readings_refused: u64,
}

/// What a class gave since the start, in readings.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClassCounts {
    pub(super) dropped: u64,
    pub(super) thinned: u64,
    refused: u64,
}

/// Batches, and what they count against the bound.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sum {
    pub(super) batches: u64,
    pub(super) bytes: u64,
}

/// What is held of a class and may go.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClassHeld {
    all: Sum,
    /// Of what is not on disk.
    in_memory: Sum,
    /// Of what may be thinned.
    whole: Sum,
}

/// What makes room next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A batch, or the run that has to be read first.
    Batch(Place),
    /// The thinning under way is given up: what it would have left of is the oldest.
    Thinning,
}

impl Default for Classes {
    /// What holds where the configuration names none.
    fn default() -> Self {
        Classes(vec![ClassRule {
            name: "default".to_owned(),
            overflow: Overflow::DropOldest,
        }])
    }
}

impl Classes {
    /// `None`: there are none, or more than [`CLASSES_MAX`].
    pub fn new(rules: Vec<ClassRule>) -> Option<Classes> {
        (1..=CLASSES_MAX)
            .contains(&rules.len())
            .then_some(Classes(rules))
    }

    pub fn find(&self, name: &str) -> Option<Class> {
        let found = self.0.iter().position(|rule| rule.name == name)?;
        u8::try_from(found).ok().map(Class)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| rule.name.as_str())
    }

    /// A class that the configuration names no more is its last one.
    pub(super) fn make_known(&self, entry: &mut Entry) {
        entry.class = entry.class.min(self.last());
        for share in entry.run.iter_mut().flat_map(|run| &mut run.shares) {
            share.class = share.class.min(self.last());
        }
    }

    fn last(&self) -> Class {
        Class(u8::try_from(self.0.len() - 1).expect("at most CLASSES_MAX"))
    }

    fn overflow(&self, class: Class) -> Overflow {
        self.0[usize::from(class.0)].overflow
    }

    /// The least first, down to and with `end`.
    fn least_first(&self, end: Class) -> impl Iterator<Item = Class> + use<> {
        (end.0..=self.last().0).rev().map(Class)
    }
}

impl Sum {
    pub(super) fn of_one(bytes: u64) -> Sum {
        Sum { batches: 1, bytes }
    }

    pub(super) fn add(&mut self, other: Sum) {
        self.batches += other.batches;
        self.bytes += other.bytes;
    }

    fn sub(&mut self, other: Sum) {
        self.batches -= other.batches;
        self.bytes -= other.bytes;
    }

    /// What becomes free at least if at most so many gap records take the place of all.
    fn freed(&self, gaps_most: u64) -> u64 {
        let gaps = self.batches.min(gaps_most);
        self.bytes.saturating_sub(gaps * GAP_BYTES_MOST)
    }
}

impl Held {
    /// An entry that came, or whose form or place changed.
    pub(super) fn count(&mut self, entry: &Entry) {
        for Share { class, thin, sum } in entry.shares() {
            let held = &mut self.classes[usize::from(class.0)];
            held.all.add(sum);
            if !entry.is_safe() {
                held.in_memory.add(sum);
            }
            if !thin {
                held.whole.add(sum);
            }
        }
    }

    /// An entry that goes, or whose form or place is about to change.
    pub(super) fn uncount(&mut self, entry: &Entry) {
        for Share { class, thin, sum } in entry.shares() {
            let held = &mut self.classes[usize::from(class.0)];
            held.all.sub(sum);
            if !entry.is_safe() {
                held.in_memory.sub(sum);
            }
            if !thin {
                held.whole.sub(sum);
            }
        }
    }

    /// A counted entry of so many bytes is on disk from here on.
    pub(super) fn now_safe(&mut self, class: Class, bytes: u64) {
        self.classes[usize::from(class.0)]
            .in_memory
            .sub(Sum::of_one(bytes));
    }
}

impl Buffer {
    /// Whether readings of this class are not taken: there is little room, and of no class that
    /// counts less can anything go for them. Sources that can wait are refused before readings
    /// of their own class go.
    pub fn refuses(&self, class: Class, can_wait: bool) -> bool {
        if can_wait {
            let less = Class(class.0 + 1);
            self.disk.full || (self.is_full() && self.could_free(less) == 0)
        } else {
            self.is_crowded() && self.could_free(class) == 0
        }
    }

    /// Whether a batch of this class and of so many bytes can be sealed within the bound.
    pub fn has_room_for(&self, class: Class, bytes: u64) -> bool {
        self.bounded_bytes() + bytes <= self.bytes_max() + self.could_free(class)
    }

    /// So many readings of a class were not taken.
    pub fn count_refused(&mut self, class: Class, readings: u64) {
        self.counts[usize::from(class.0)].refused += readings;
    }

    /// What each class holds and gave, in order.
    pub fn classes(&self) -> impl Iterator<Item = ClassAccount> {
        let all = self.options.classes.names().zip(&self.held.classes);
        all.zip(&self.counts)
            .map(|((name, held), counts)| ClassAccount {
                name: name.to_owned(),
                bytes: held.all.bytes,
                readings_dropped: counts.dropped,
                readings_thinned: counts.thinned,
                readings_refused: counts.refused,
            })
    }

    /// Bytes that this class and those that count less could free.
    fn could_free(&self, class: Class) -> u64 {
        let classes = &self.options.classes;
        let giving = classes
            .least_first(class)
            .filter(|class| classes.overflow(*class) != Overflow::Reject);
        // Gap records of neighbours are one, but for what stands between, readings of another
        // class or what thinning left, and for what may be at the cluster.
        let held = || self.held.classes.iter();
        let gaps_most = if held().filter(|held| held.all.batches > 0).count() > 1 {
            u64::MAX
        } else {
            let thin = held().map(|held| held.all.batches - held.whole.batches);
            let near = self.options.entries_near;
            let lanes = self.epochs.iter().flat_map(|shelf| &shelf.lanes);
            let apart = lanes.map(|lane| lane.gaps_apart_most(near));
            2 * (self.epochs.len() as u64 + thin.sum::<u64>()) + apart.sum::<u64>()
        };
        let freed = giving.map(|class| {
            let held = &self.held.classes[usize::from(class.0)];
            if self.disk.failed {
                held.in_memory.freed(gaps_most)
            } else {
                held.all.freed(gaps_most)
            }
        });
        freed.sum()
    }

    /// From here on room is made, in bytes.
    pub(super) fn room_from(&self) -> u64 {
        let classes = &self.options.classes;
        let thins = classes
            .least_first(Class(0))
            .any(|class| classes.overflow(class) == Overflow::Thin);
        if thins && !self.disk.failed {
            self.bytes_max() / 100 * THIN_PERCENT
        } else {
            self.bytes_max()
        }
    }

    /// The class to thin, if thinning shall make room.
    pub(super) fn class_to_thin(&self) -> Option<Class> {
        // Where nothing comes to disk no thinning ends.
        let stuck = self.disk.failed || self.has_no_room();
        if stuck || self.bounded_bytes() <= self.room_from() {
            return None;
        }
        let mut classes = self.options.classes.least_first(Class(0));
        classes.find(|class| self.is_thinned_next(*class))
    }

    /// Whether a class has enough that is whole for thinning to be worth it.
    fn is_thinned_next(&self, class: Class) -> bool {
        let whole = self.held.classes[usize::from(class.0)].whole;
        self.options.classes.overflow(class) == Overflow::Thin
            && !self.disk.failed
            && whole.bytes > self.bytes_max() / WHOLE_PARTS
    }

    /// What has to go now, to make room.
    pub(super) fn next_to_go(&mut self) -> Option<Next> {
        let bytes = self.bounded_bytes();
        if bytes <= self.room_from() {
            return None;
        }
        let over = bytes > self.bytes_max();
        for class in self.options.classes.least_first(Class(0)) {
            if self.is_thinned_next(class) && !over {
                return None;
            }
            let (gives, gives_whole) = match self.options.classes.overflow(class) {
                Overflow::Reject => (false, false),
                Overflow::DropOldest => (over || self.thins_before(class), true),
                Overflow::Thin => (true, over),
            };
            if !gives {
                continue;
            }
            let mut place = self.oldest_of(class, Form::Thin);
            if place.is_none() && gives_whole {
                if self.is_thinning(class) {
                    return Some(Next::Thinning);
                }
                place = self.oldest_of(class, Form::Whole);
            }
            if place.is_some() {
                return place.map(Next::Batch);
            }
        }
        None
    }

    /// Whether a class that counts more is thinned as soon as this one has nothing left.
    fn thins_before(&self, class: Class) -> bool {
        (0..class.0).any(|before| self.is_thinned_next(Class(before)))
    }

    /// The oldest batch of a class and form whose going makes room, or the run that holds it.
    pub(super) fn oldest_of(&mut self, class: Class, form: Form) -> Option<Place> {
        let in_memory = self.disk.failed;
        self.oldest_by(|held| held.oldest(class, form, in_memory))
    }

    /// The same of what is whole and the cluster cannot have.
    pub(super) fn oldest_unsent(&mut self, class: Class) -> Option<Place> {
        self.oldest_by(|held| held.oldest_unsent(class))
    }

    fn oldest_by(
        &mut self,
        oldest_in: impl for<'a> Fn(&'a mut LaneShelf) -> Option<&'a Entry>,
    ) -> Option<Place> {
        self.epochs.iter_mut().find_map(|shelf| {
            let epoch = shelf.epoch;
            let [_, live, backlog] = &mut shelf.lanes;
            let fronts = [(Lane::Live, live), (Lane::Backlog, backlog)].map(|(lane, held)| {
                let entry = oldest_in(held)?;
                let place = Place {
                    epoch,
                    lane,
                    from: entry.from,
                    to: entry.to,
                };
                Some((entry.sealed_at, place))
            });
            let fronts = fronts.into_iter().flatten();
            let oldest = fronts.min_by_key(|(sealed_at, _)| *sealed_at);
            oldest.map(|(_, place)| place)
        })
    }
}
