//! Numbers that will not come: dropped by overflow, thinned, refused for ever, or lost by a restored
//! cluster. Each becomes, or joins, a gap record in the place where it stood. Whose turn it is
//! says `class.rs`.

use std::time::Duration;

use bytes::Bytes;
use shared::batch::{Body, Gap, GapReason, Header, encode};
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};
use shared::verdict::Position;

use super::class::Next;
use super::lane::{Entry, Form, OnDisk};
use super::{Buffer, Place, Settled, forget};
use crate::handed::Class;

/// Of the bound, what batches may take; the rest is for the ends of files, for gap records and
/// for what is written again.
const SHARE_PERCENT: u64 = 70;
/// Readings may be refused from here on, in percent of what batches may take.
const REFUSE_PERCENT: u64 = 90;

impl Buffer {
    /// Bytes that may be held.
    pub fn bytes_max(&self) -> u64 {
        if self.disk.failed {
            self.options.ram_bytes_max as u64
        } else {
            self.disk_bytes_max() / 100 * SHARE_PERCENT
        }
    }

    /// Bytes that count against the bound. What a failed disk holds already is safe and readable,
    /// and frees nothing if it goes: then only memory counts.
    pub(super) fn bounded_bytes(&self) -> u64 {
        if self.disk.failed {
            self.held.bytes_unsafe
        } else {
            self.held.bytes
        }
    }

    /// Whether sources that can wait are refused, unless readings that count less can go for theirs.
    pub fn is_full(&self) -> bool {
        self.has_no_room() || self.is_crowded()
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.bounded_bytes() > self.bytes_max() / 100 * REFUSE_PERCENT
    }

    /// Lets data go until the bound is kept, the oldest of the least class first; to be called
    /// again once what is [wanted](Buffer::wanted) is loaded. Of what a failed disk holds only the
    /// copy in memory goes, and that first.
    pub fn make_room(&mut self, wall: TimeNs) -> Settled {
        let mut settled = Settled::default();
        if self.disk.failed && self.held.ram_bytes > self.options.ram_bytes_max {
            self.leave_to_disk();
        }
        loop {
            match self.next_to_go() {
                Some(Next::Thinning) => settled.add(self.cancel_thinning(wall)),
                Some(Next::Batch(oldest)) if !self.wants(oldest) => {
                    settled.add(self.drop_batch(oldest, GapReason::Overflow, wall));
                }
                Some(Next::Batch(_)) | None => return settled,
            }
        }
    }

    /// The batch will never come, being refused for ever or damaged: a gap record takes its place.
    /// A gap record that is damaged is made anew. `None`: it is held no more, or is a gap record
    /// that was refused, and nothing can stand in for it.
    pub fn give_up(&mut self, place: Place, reason: GapReason, wall: TimeNs) -> Option<Settled> {
        let held = self.lane(place.epoch, place.lane)?;
        let at = held.index_of(place.to);
        let entry = held.entries.get(at).filter(|entry| entry.to == place.to)?;
        match (entry.gap, reason) {
            (None, _) => Some(self.drop_batch(place, reason, wall)),
            (Some(_), GapReason::Damaged) => {
                self.renew_gap(place, at, wall);
                Some(Settled::default())
            }
            (Some(_), _) => None,
        }
    }

    fn renew_gap(&mut self, place: Place, at: usize, wall: TimeNs) {
        let mut held = self.held;
        let shelf = self
            .lane_mut(place.epoch, place.lane)
            .expect("the caller has it");
        let mut gap = shelf.entries.remove(at).expect("the caller has it");
        let counted = gap.to > shelf.acked.last;
        shelf.left(&gap);
        forget(&mut held, &gap);
        self.held = held;
        if counted {
            self.uncount(gap.sealed_at);
        }
        gap.urgent = gap.disk != OnDisk::No;
        gap.disk = OnDisk::No;
        self.put_gap(place.epoch, place.lane, at, gap, wall);
    }

    /// The cluster stands at `position`, before numbers that it acked and that are held no more.
    pub fn restored(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        position: Position,
        now: Duration,
        wall: TimeNs,
    ) -> Settled {
        let Some(shelf) = self.lane_mut(epoch, lane) else {
            return Settled::default();
        };
        let from = position.last.next();
        let at = shelf.index_of(from);
        let (to, digest) = match shelf.entries.get(at) {
            Some(first) if first.from <= from => return Settled::default(),
            Some(first) => (BatchNumber(first.from.0 - 1), first.previous),
            None => (shelf.sealed.last, shelf.sealed.digest),
        };
        if to < from {
            return Settled::default();
        }
        let disk_above = shelf.entries.iter().any(Entry::is_safe);
        let gap = Entry {
            from,
            to,
            previous: position.digest,
            digest,
            names_needed: BatchNumber::NONE,
            readings: 0,
            gap: Some(GapReason::Restored),
            run: None,
            class: Class::default(),
            form: Form::Thin,
            boot_relative: false,
            sealed_at: wall,
            born: now,
            size: 0,
            ram: None,
            disk: OnDisk::No,
            urgent: disk_above,
            waiters: Vec::new(),
        };
        shelf.acked = position;
        self.put_gap(epoch, lane, at, gap, wall);
        Settled {
            gap_records: 1,
            ..Settled::default()
        }
    }

    /// What is on disk can be read from there.
    fn leave_to_disk(&mut self) {
        let lanes = self.epochs.iter_mut().flat_map(|shelf| &mut shelf.lanes);
        for entry in lanes.flat_map(|lane| &mut lane.entries) {
            if entry.is_safe() && entry.ram.take().is_some() {
                self.held.ram_bytes -= entry.size;
            }
        }
    }

    pub(super) fn drop_batch(&mut self, place: Place, reason: GapReason, wall: TimeNs) -> Settled {
        let mut settled = Settled::default();
        let mut held = self.held;
        let Some(shelf) = self.lane_mut(place.epoch, place.lane) else {
            return settled;
        };
        let at = shelf.index_of(place.to);
        let found = shelf.entries.get(at);
        if found.is_none_or(|entry| entry.gap.is_some() || entry.to != place.to) {
            return settled;
        }
        let mut lost = shelf.entries.remove(at).expect("just seen");
        forget(&mut held, &lost);
        shelf.left(&lost);
        held.readings_pending -= lost.readings;
        if !lost.is_safe() {
            held.readings_unsafe -= lost.readings;
        }
        if lost.form == Form::Coming {
            // What it tells of is still there.
            lost.readings = 0;
        }
        let class = usize::from(lost.class.0);
        match reason {
            GapReason::Thinned => settled.readings_thinned = lost.readings,
            _ => settled.readings_lost = lost.readings,
        }
        settled.lost.append(&mut lost.waiters);
        // Names that were acked are counted no more.
        let unacked = lost.to > shelf.acked.last;
        let mut gone: Vec<TimeNs> = unacked.then_some(lost.sealed_at).into_iter().collect();
        let before = at.checked_sub(1).and_then(|at| shelf.entries.get(at));
        // One that may be at the cluster stays as it is, and so does its neighbour.
        let joins =
            before.is_some_and(|gap| gap.gap == Some(reason) && gap.from > shelf.maybe_sent());
        let mut gap = Entry {
            names_needed: BatchNumber::NONE,
            gap: Some(reason),
            form: Form::Whole,
            boot_relative: false,
            size: 0,
            ram: None,
            disk: OnDisk::No,
            urgent: lost.disk != OnDisk::No,
            ..lost
        };
        let position = at - usize::from(joins);
        if joins {
            let before = shelf.entries.remove(position).expect("just seen");
            forget(&mut held, &before);
            shelf.left(&before);
            gone.push(before.sealed_at);
            gap.join(&before);
        } else {
            settled.gap_records = 1;
        }
        self.held = held;
        match reason {
            GapReason::Thinned => self.counts[class].thinned += settled.readings_thinned,
            GapReason::Overflow => self.counts[class].dropped += settled.readings_lost,
            _ => {}
        }
        for sealed_at in gone {
            self.uncount(sealed_at);
        }
        self.put_gap(place.epoch, place.lane, position, gap, wall);
        self.clock_lost(place);
        settled
    }

    fn put_gap(&mut self, epoch: Epoch, lane: Lane, at: usize, mut gap: Entry, wall: TimeNs) {
        // The loss is not told until this is acked; recovery finds here since when it is missing.
        let complete_below = self.complete_below(wall).min(gap.sealed_at);
        let header = Header {
            epoch,
            lane,
            number: gap.to,
            previous: gap.previous,
            names_needed: BatchNumber::NONE,
            sealed_at: wall,
            complete_below,
            boot_relative: false,
        };
        let body = Body::Gap(Gap {
            from: gap.from,
            readings: gap.readings,
            reason: gap.gap.expect("it is a gap record"),
            digest_to: gap.digest,
        });
        let bytes = encode(&header, &body).expect("a gap record is within every limit");
        gap.size = bytes.len();
        gap.ram = Some(Bytes::from(bytes));
        self.held.bytes += gap.held_bytes();
        self.held.bytes_unsafe += gap.held_bytes();
        self.held.ram_bytes += gap.size;
        let (to, since) = (gap.to, gap.sealed_at);
        let shelf = self.lane_mut(epoch, lane).expect("the caller has it");
        shelf.entries.insert(at, gap);
        shelf.unwritten += 1;
        if to > shelf.acked.last {
            *self.unacked_since.entry(since).or_default() += 1;
        }
    }
}

impl Entry {
    /// A gap record that stands for what the one before it stood for, too.
    fn join(&mut self, before: &Entry) {
        self.from = before.from;
        self.previous = before.previous;
        self.born = self.born.min(before.born);
        self.sealed_at = self.sealed_at.min(before.sealed_at);
        self.readings += before.readings;
        self.urgent |= before.urgent || before.disk != OnDisk::No;
    }
}

impl Settled {
    /// Adds what another event did.
    pub fn add(&mut self, mut other: Settled) {
        self.kept.append(&mut other.kept);
        self.lost.append(&mut other.lost);
        self.batches_acked += other.batches_acked;
        self.readings_acked += other.readings_acked;
        self.readings_lost += other.readings_lost;
        self.readings_thinned += other.readings_thinned;
        self.gap_records += other.gap_records;
    }
}
