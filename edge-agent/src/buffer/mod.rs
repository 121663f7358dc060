//! The agent's buffer: every batch from its sealing until the cluster has it, or a gap record says
//! that it will not come. No I/O and no clock: it says what to write to the journal and is told
//! what was synced; the keeper does it.
//!
//! Invariants:
//! - Lane, number and bytes are given once, at sealing.
//! - A lane goes to the journal in number order and after the names it needs; what was acked before
//!   need not go. So a batch on disk can always be sent: the cluster has, or the disk holds, what
//!   stands before it.
//! - The names lane of an epoch is held until its epoch has nothing left to send.
//! - A number leaves by an ack, or by a gap record over it.
//!
//! Neither memory nor a start grows with the backlog: what is on disk and far from being sent is
//! held as runs (`run.rs`), and the journal tells now and then what it holds (`summary.rs`).

mod lane;
mod run;
mod record;
mod summary;
mod recover;
mod class;
mod sent;
mod overflow;
pub mod thin;
mod thinning;
mod disk;
mod room;
mod work;
mod early;
mod inspect;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use journal::Position as DiskPosition;
use shared::batch::{Body, EncodeError, Header, Hello, LastEpoch, digest, encode};
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::limits::OLDER_EPOCHS_MAX;
use shared::verdict::Position;

use crate::batcher::{Collected, WaiterId};
use crate::clock::BootId;
use crate::handed::{CLASSES_MAX, Class, Stamp};
pub use class::{ClassAccount, ClassRule, Classes, Overflow};
use class::{ClassCounts, ClassHeld};
use early::Early;
pub use inspect::{Inventory, meaning};
use lane::{Entry, Form, LaneShelf, OnDisk};
use record::EpochRecord;
pub use record::sums_up;
pub use recover::Recovery;
pub use run::{ENTRIES_NEAR, LoadedRun, RunToLoad};
use thinning::Thinning;
pub use thinning::{Rest, ThinPlan};
pub use work::{DiskWork, Unreadable, payload_to_batch};

/// Where the buffer is, and its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BufferOptions {
    pub dir: PathBuf,
    /// Bytes on disk, all files together.
    pub bytes_max: u64,
    /// Bytes of batches in memory.
    pub ram_bytes_max: usize,
    /// How long a reading that nobody waits for may be neither acked nor on disk.
    pub max_unsafe: Duration,
    pub classes: Classes,
    /// Of each lane so many entries are held one by one, those that are sent next; at least as many
    /// as may be in flight.
    pub entries_near: usize,
}

/// Names an entry: what the window sends and the answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub epoch: Epoch,
    pub lane: Lane,
    pub from: BatchNumber,
    pub to: BatchNumber,
}

/// What the window may send next of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sendable {
    pub place: Place,
    pub names_needed: BatchNumber,
    pub bytes: usize,
    /// `d(to)`.
    pub digest: Digest,
}

/// Where the bytes of an entry are.
#[derive(Debug, Clone)]
pub enum Source {
    Ram(Bytes),
    /// A journal record: see [`payload_to_batch`].
    Disk(DiskPosition),
}

/// What an event did to those who count and wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Their readings in this entry are safe now.
    pub kept: Vec<WaiterId>,
    /// Their readings in this entry are gone.
    pub lost: Vec<WaiterId>,
    pub batches_acked: u64,
    pub readings_acked: u64,
    pub readings_lost: u64,
    /// Only the sums of their minutes stay.
    pub readings_thinned: u64,
    pub gap_records: u64,
}

/// What is held of one epoch.
#[derive(Debug, Clone, Hash)]
struct EpochShelf {
    epoch: Epoch,
    /// How many epochs began before it, as far as the journal knows.
    order: u64,
    /// The boot of the machine in which it began.
    boot: BootId,
    /// It began in this process: all that was ever sealed in it is known.
    began_here: bool,
    /// By `Lane as usize`.
    lanes: [LaneShelf; 3],
    early: Early,
}

/// Where a batch is sealed.
#[derive(Debug, Clone, Copy)]
struct Spot {
    /// Its place in the buffer's list; `None` is the current one.
    epoch: Option<usize>,
    lane: Lane,
    boot_relative: bool,
}

impl Spot {
    /// The names lane of the current epoch.
    fn names() -> Spot {
        Spot {
            epoch: None,
            lane: Lane::Names,
            boot_relative: false,
        }
    }
}

/// Sums over all that is held.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
struct Held {
    bytes: u64,
    /// Of what is not on disk.
    bytes_unsafe: u64,
    ram_bytes: usize,
    readings_pending: u64,
    readings_unsafe: u64,
    classes: [ClassHeld; CLASSES_MAX],
}

#[derive(Debug, Clone, Hash)]
pub struct Buffer {
    options: BufferOptions,
    /// Oldest first; the last one is the current.
    epochs: Vec<EpochShelf>,
    held: Held,
    /// Sealing times of what is not acked, counted.
    unacked_since: BTreeMap<TimeNs, usize>,
    disk: disk::DiskState,
    /// By class.
    counts: [ClassCounts; CLASSES_MAX],
    thinning: Option<Thinning>,
    boot: BootId,
    /// A run that has to be read before anything goes.
    wanted: Option<Place>,
}

impl EpochShelf {
    fn lane(&self, lane: Lane) -> &LaneShelf {
        &self.lanes[lane as usize]
    }

    fn record(&self) -> EpochRecord {
        EpochRecord {
            epoch: self.epoch,
            order: self.order,
            ended_cleanly: false,
            boot: self.boot,
            acked: self.lanes.each_ref().map(|lane| lane.acked),
            written: self.lanes.each_ref().map(LaneShelf::written),
        }
    }

    /// Its record is given to the journal, behind all that is.
    fn told(&mut self) {
        for lane in &mut self.lanes {
            lane.told = lane.written().last;
        }
    }

    fn is_drained(&self) -> bool {
        self.lanes.iter().all(LaneShelf::is_drained)
    }
}

impl Buffer {
    /// A buffer with what was recovered, and a new epoch with its hello.
    pub fn new(
        options: BufferOptions,
        recovery: Recovery,
        epoch: Epoch,
        now: Duration,
        wall: TimeNs,
    ) -> Buffer {
        let last = recovery.last().map(|(epoch, ended_cleanly)| LastEpoch {
            epoch,
            ended_cleanly,
        });
        let mut buffer = Buffer {
            options,
            disk: disk::DiskState::after(&recovery),
            epochs: recovery.into_shelves(),
            held: Held::default(),
            unacked_since: BTreeMap::new(),
            counts: Default::default(),
            thinning: None,
            boot: BootId::default(),
            wanted: None,
        };
        for shelf in &mut buffer.epochs {
            for lane in &mut shelf.lanes {
                for entry in &mut lane.entries {
                    buffer.options.classes.make_known(entry);
                    buffer.held.bytes += entry.held_bytes();
                    buffer.held.count(entry);
                    if !entry.is_safe() {
                        buffer.held.bytes_unsafe += entry.held_bytes();
                        buffer.held.ram_bytes += entry.size;
                    }
                }
                for entry in lane.unacked() {
                    buffer.held.readings_pending += entry.pending();
                    *buffer.unacked_since.entry(entry.sealed_at).or_default() += 1;
                }
            }
        }
        buffer.sum_up();
        buffer.sent_before();
        buffer.begin_epoch(epoch, last, now, wall);
        buffer
    }

    /// Begins a new epoch: what is sealed from here on is its; the hello is its first batch.
    pub fn begin_epoch(
        &mut self,
        epoch: Epoch,
        last: Option<LastEpoch>,
        now: Duration,
        wall: TimeNs,
    ) {
        let older: Vec<Epoch> = self.epochs.iter().map(|shelf| shelf.epoch).collect();
        let skipped = older.len().saturating_sub(OLDER_EPOCHS_MAX);
        self.disk.order_before += 1;
        let order = self.disk.order_before;
        self.epochs.push(EpochShelf {
            epoch,
            order,
            boot: self.boot,
            began_here: true,
            lanes: Default::default(),
            early: Early::default(),
        });
        let max_unsafe_ms = u64::try_from(self.options.max_unsafe.as_millis()).unwrap_or(u64::MAX);
        let hello = Body::Hello(Hello {
            older_epochs: older[skipped..].to_vec(),
            last,
            max_unsafe_ms: max_unsafe_ms.min(shared::limits::COUNT_MAX),
        });
        let sealed = self.stamp(Spot::names(), &hello, now, wall, 0);
        sealed.expect("a hello is within every limit").urgent = true;
        self.disk.tell();
    }

    /// From here on. The hello of an epoch tells `max_unsafe`: when that changes, a new epoch has to
    /// begin.
    pub fn use_bounds(&mut self, ram_bytes_max: usize, max_unsafe: Duration) {
        self.options.ram_bytes_max = ram_bytes_max;
        self.options.max_unsafe = max_unsafe;
    }

    pub fn epoch(&self) -> Epoch {
        self.current().epoch
    }

    fn current(&self) -> &EpochShelf {
        self.epochs.last().expect("there is always a current epoch")
    }

    /// Seals what the batcher collected: names first, then data, into `live` while fewer than
    /// `live_max` live batches are unacked. Returns how many batches that made.
    ///
    /// # Errors
    /// A batch over a limit of the format, which the batcher should not have given; nothing of its
    /// data is held then.
    pub fn seal(
        &mut self,
        collected: Collected,
        live_max: usize,
        now: Duration,
        since: Duration,
        wall: TimeNs,
    ) -> Result<u64, EncodeError> {
        let live = self.current().lane(Lane::Live);
        let room = !live.forked && live.unacked().count() < live_max;
        let lane = if room { Lane::Live } else { Lane::Backlog };
        let form = match collected.kind.stamp {
            Stamp::Wall => Form::Whole,
            // Its minutes are not yet those of the day.
            Stamp::Boot => Form::Thin,
        };
        self.seal_into(lane, form, collected, now, since, wall)
    }

    fn seal_into(
        &mut self,
        lane: Lane,
        form: Form,
        collected: Collected,
        now: Duration,
        since: Duration,
        wall: TimeNs,
    ) -> Result<u64, EncodeError> {
        let mut batches = 1;
        for definitions in collected.names {
            self.stamp(Spot::names(), &Body::Names(definitions), now, wall, 0)?;
            batches += 1;
        }
        let readings = collected.readings;
        let spot = Spot {
            epoch: None,
            lane,
            boot_relative: collected.kind.stamp == Stamp::Boot,
        };
        self.stamp(spot, &Body::Data(collected.data), since, wall, readings)?;
        let shelf = self.epochs.last_mut();
        let shelf = shelf.expect("there is always a current epoch");
        let entry = shelf.lanes[lane as usize].entries.back_mut();
        let entry = entry.expect("just stamped");
        entry.urgent = !collected.waiters.is_empty();
        entry.waiters = collected.waiters;
        entry.class = collected.kind.class;
        entry.form = form;
        self.held.count(entry);
        self.held.readings_pending += readings;
        self.held.readings_unsafe += readings;
        Ok(batches)
    }

    /// Whether a stream of the current epoch can no longer be sealed into: a new epoch is due.
    pub fn is_forked(&self) -> bool {
        self.current().lanes.iter().any(|lane| lane.forked)
    }

    /// Gives a batch its number and its bytes.
    fn stamp(
        &mut self,
        spot: Spot,
        body: &Body,
        born: Duration,
        wall: TimeNs,
        readings: u64,
    ) -> Result<&mut Entry, EncodeError> {
        let complete_below = self.complete_below(wall);
        let Spot {
            lane,
            boot_relative,
            ..
        } = spot;
        let at = spot.epoch.unwrap_or(self.epochs.len() - 1);
        let shelf = &mut self.epochs[at];
        let names_needed = match lane {
            Lane::Names => BatchNumber::NONE,
            Lane::Live | Lane::Backlog => shelf.lane(Lane::Names).sealed.last,
        };
        if boot_relative {
            shelf.early.holds(body);
        }
        let held = &mut shelf.lanes[lane as usize];
        let number = held.sealed.last.next();
        let previous = held.sealed.digest;
        let header = Header {
            epoch: shelf.epoch,
            lane,
            number,
            previous,
            names_needed,
            sealed_at: wall,
            complete_below,
            boot_relative,
        };
        let bytes = Bytes::from(encode(&header, body)?);
        let digest = digest(previous, &bytes);
        held.sealed = Position {
            last: number,
            digest,
        };
        held.entries.push_back(Entry {
            from: number,
            to: number,
            previous,
            digest,
            names_needed,
            readings,
            gap: None,
            run: None,
            class: Class::default(),
            form: Form::Whole,
            boot_relative,
            sealed_at: wall,
            born,
            size: bytes.len(),
            ram: Some(bytes),
            disk: OnDisk::No,
            urgent: false,
            waiters: Vec::new(),
        });
        held.unwritten += 1;
        let entry = held.entries.back_mut().expect("just pushed");
        self.held.bytes += entry.held_bytes();
        self.held.bytes_unsafe += entry.held_bytes();
        self.held.ram_bytes += entry.size;
        *self.unacked_since.entry(wall).or_default() += 1;
        Ok(entry)
    }

    /// Everything sealed before this is acked.
    fn complete_below(&self, wall: TimeNs) -> TimeNs {
        self.unacked_since
            .keys()
            .next()
            .map_or(wall, |oldest| wall.min(*oldest))
    }

    /// All streams with something held, oldest epoch first; what CONNECT asks the positions of.
    pub fn streams(&self) -> impl Iterator<Item = (Epoch, Lane)> {
        let of = |shelf: &EpochShelf| {
            let epoch = shelf.epoch;
            // Before a clock is sealed, it has to be known where its lane stands.
            let asked = shelf.lacks_clock();
            let held = Lane::ALL.map(|lane| {
                let asked = asked && lane == Lane::Names;
                (lane, asked || !shelf.lane(lane).entries.is_empty())
            });
            held.into_iter()
                .filter(|(_, held)| *held)
                .map(move |(lane, _)| (epoch, lane))
        };
        self.epochs.iter().flat_map(of)
    }

    /// Epochs held, oldest first, the current one last.
    pub fn epochs(&self) -> impl DoubleEndedIterator<Item = Epoch> {
        self.epochs.iter().map(|shelf| shelf.epoch)
    }

    /// The entry to send when `next` is the next number of a stream; none as long as that is in a
    /// [run](Buffer::run_at), or waits for a clock or for the end of a thinning.
    pub fn sendable(&self, epoch: Epoch, lane: Lane, next: BatchNumber) -> Option<Sendable> {
        let held = self.lane(epoch, lane).filter(|held| !held.forked)?;
        let entry = held.at_or_after(next);
        let entry = entry.filter(|entry| entry.run.is_none() && !entry.form.is_held_back());
        let entry = entry.filter(|entry| !self.waits_for_clock(epoch, lane, entry));
        entry.map(|entry| Sendable {
            place: Place {
                epoch,
                lane,
                from: entry.from,
                to: entry.to,
            },
            names_needed: entry.names_needed,
            bytes: entry.size,
            digest: entry.digest,
        })
    }

    /// Where to get the bytes of an entry; `None` if it is no longer held like this.
    pub fn source(&self, place: Place) -> Option<Source> {
        let held = self.lane(place.epoch, place.lane)?;
        let entry = held.at_or_after(place.from)?;
        if (entry.from, entry.to) != (place.from, place.to) || entry.run.is_some() {
            return None;
        }
        match (&entry.ram, entry.disk) {
            (Some(bytes), _) => Some(Source::Ram(bytes.clone())),
            (None, OnDisk::At(position)) => Some(Source::Disk(position)),
            (None, OnDisk::No | OnDisk::Queued) => None,
        }
    }

    /// Where the cluster is known to stand.
    pub fn acked(&self, epoch: Epoch, lane: Lane) -> Position {
        self.lane(epoch, lane)
            .map_or_else(Position::default, |held| held.acked)
    }

    /// The last batch sealed in a stream, as far as known.
    pub fn sealed(&self, epoch: Epoch, lane: Lane) -> Position {
        self.lane(epoch, lane)
            .map_or_else(Position::default, |held| held.sealed)
    }

    /// The digest of a stream's own chain, where it is still known.
    pub fn digest_at(&self, epoch: Epoch, lane: Lane, number: BatchNumber) -> Option<Digest> {
        self.lane(epoch, lane)?.digest_at(number)
    }

    fn lane(&self, epoch: Epoch, lane: Lane) -> Option<&LaneShelf> {
        self.epochs
            .iter()
            .rev()
            .find(|shelf| shelf.epoch == epoch)
            .map(|shelf| shelf.lane(lane))
    }

    fn lane_mut(&mut self, epoch: Epoch, lane: Lane) -> Option<&mut LaneShelf> {
        let shelf = self
            .epochs
            .iter_mut()
            .rev()
            .find(|shelf| shelf.epoch == epoch)?;
        Some(&mut shelf.lanes[lane as usize])
    }

    /// The cluster has a stream up to `position`: what it has is forgotten.
    pub fn advance(&mut self, epoch: Epoch, lane: Lane, position: Position) -> Settled {
        let mut settled = Settled::default();
        let mut held = self.held;
        let mut gone = Vec::new();
        let Some(shelf) = self.lane_mut(epoch, lane) else {
            return settled;
        };
        if position.last <= shelf.acked.last {
            return settled;
        }
        let first = shelf.index_of(shelf.acked.last.next());
        let end = shelf
            .entries
            .partition_point(|entry| entry.to <= position.last);
        let partly = shelf.entries.get(end);
        let partly = partly.filter(|entry| entry.run.is_some() && entry.from <= position.last);
        debug_assert!(partly.is_none(), "a run is loaded before a part of it goes");
        for entry in shelf.entries.range_mut(first..end) {
            settled.kept.append(&mut entry.waiters);
            settled.batches_acked += entry.records();
            settled.readings_acked += entry.pending();
            held.readings_pending -= entry.pending();
            if !entry.is_safe() {
                held.readings_unsafe -= entry.pending();
            }
            gone.push(entry.sealed_at);
        }
        shelf.acked = position;
        if position.last > shelf.sealed.last {
            shelf.sealed = position;
        }
        if lane != Lane::Names {
            let left: Vec<Entry> = shelf.entries.drain(..end).collect();
            for entry in &left {
                forget(&mut held, entry);
                shelf.left(entry);
            }
        }
        self.held = held;
        for sealed_at in gone {
            self.uncount(sealed_at);
        }
        self.retire(epoch);
        settled
    }

    /// The cluster lost names that it had: they are to be sent again.
    pub fn names_lost(&mut self, epoch: Epoch, position: Position) {
        let Some(shelf) = self.lane_mut(epoch, Lane::Names) else {
            return;
        };
        if position.last >= shelf.acked.last {
            return;
        }
        let range = shelf.index_of(position.last.next())..shelf.index_of(shelf.acked.last.next());
        let again: Vec<TimeNs> = shelf
            .entries
            .range(range)
            .map(|entry| entry.sealed_at)
            .collect();
        shelf.acked = position;
        for sealed_at in again {
            *self.unacked_since.entry(sealed_at).or_default() += 1;
        }
    }

    /// The cluster's chain is another one: nothing more of this stream is sent, its data stay.
    pub fn fork(&mut self, epoch: Epoch, lane: Lane) {
        if let Some(shelf) = self.lane_mut(epoch, lane) {
            shelf.forked = true;
        }
    }

    /// Whether that was said of a stream.
    pub fn is_stopped(&self, epoch: Epoch, lane: Lane) -> bool {
        self.lane(epoch, lane).is_some_and(|held| held.forked)
    }

    /// Whether nothing can have been sealed in an epoch that is not known here. Of an epoch of an
    /// earlier process the newest batches may have been in RAM only when it ended.
    pub fn knows_all_of(&self, epoch: Epoch) -> bool {
        let mut shelves = self.epochs.iter().rev();
        let shelf = shelves.find(|shelf| shelf.epoch == epoch);
        shelf.is_some_and(|shelf| shelf.began_here)
    }

    /// Lets go of an older epoch with nothing left to send.
    fn retire(&mut self, epoch: Epoch) {
        let at = self.epochs.iter().position(|shelf| shelf.epoch == epoch);
        let Some(at) = at.filter(|at| at + 1 < self.epochs.len()) else {
            return;
        };
        if self.epochs[at].is_drained() {
            let shelf = self.epochs.remove(at);
            self.disk.retire(shelf.record());
            for entry in shelf.lanes.iter().flat_map(|lane| &lane.entries) {
                forget(&mut self.held, entry);
            }
        }
    }

    fn uncount(&mut self, sealed_at: TimeNs) {
        if let Some(count) = self.unacked_since.get_mut(&sealed_at) {
            *count -= 1;
            if *count == 0 {
                self.unacked_since.remove(&sealed_at);
            }
        }
    }

    /// Bytes of all that is held, in memory or on disk.
    pub fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// Bytes of batches in memory.
    pub fn ram_bytes(&self) -> u64 {
        self.held.ram_bytes as u64
    }

    /// Readings that are not acked.
    pub fn readings_pending(&self) -> u64 {
        self.held.readings_pending
    }

    /// Readings that are neither acked nor on disk.
    pub fn readings_unsafe(&self) -> u64 {
        self.held.readings_unsafe
    }

    /// When the oldest data or gap record came that is not acked.
    pub fn oldest(&self) -> Option<Duration> {
        let lanes = self
            .epochs
            .iter()
            .flat_map(|shelf| &shelf.lanes[Lane::Live as usize..]);
        lanes
            .filter_map(|lane| lane.unacked().next())
            .map(|entry| entry.born)
            .min()
    }
}

fn forget(held: &mut Held, entry: &Entry) {
    held.uncount(entry);
    held.bytes -= entry.held_bytes();
    if !entry.is_safe() {
        held.bytes_unsafe -= entry.held_bytes();
    }
    if entry.ram.is_some() {
        held.ram_bytes -= entry.size;
    }
}

#[cfg(test)]
mod tests;
