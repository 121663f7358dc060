//! What is held of one stream: the batches that are not acked yet, in number order without holes.
//! Of the names lane all batches, acked or not, as long as anything of their epoch is left to send:
//! what an epoch may define bounds them. Of the others, what is on disk and far from being sent is
//! held as runs ([`super::run`]).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use journal::Position as DiskPosition;
use shared::batch::GapReason;
use shared::id::{BatchNumber, Digest, TimeNs};
use shared::verdict::Position;

use super::class::Sum;
use super::run::Run;
use super::sent::Sent;
use crate::batcher::WaiterId;
use crate::handed::{CLASSES_MAX, Class};

/// How much of what was collected a batch still tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// All of it, and it may be thinned.
    Whole,
    /// It is thinned already, or cannot be: the next that happens to it is that it goes.
    Thin,
    /// All of it, until the batch that tells the rest of it is safe.
    Leaving,
    /// It tells the rest of others, which are here until it is safe.
    Coming,
}

impl Form {
    /// Whether it can only go.
    pub(super) fn is_thin(self) -> bool {
        matches!(self, Form::Thin | Form::Coming)
    }

    /// Whether it takes part in a thinning that is not over: until then it is not sent.
    pub(super) fn is_held_back(self) -> bool {
        matches!(self, Form::Leaving | Form::Coming)
    }
}

/// Whether a batch is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum OnDisk {
    No,
    /// Submitted to the journal, not known to be synced.
    Queued,
    At(DiskPosition),
}

/// Of what is held: a class, and whether it may still be thinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Share {
    pub(super) class: Class,
    pub(super) thin: bool,
    pub(super) sum: Sum,
}

/// One batch, one gap record over several numbers, or a run of batches.
#[derive(Debug, Clone, Hash)]
pub(super) struct Entry {
    pub(super) from: BatchNumber,
    pub(super) to: BatchNumber,
    /// `d(from - 1)`.
    pub(super) previous: Digest,
    /// `d(to)`.
    pub(super) digest: Digest,
    pub(super) names_needed: BatchNumber,
    /// Of batches: held; of a gap record: lost.
    pub(super) readings: u64,
    pub(super) gap: Option<GapReason>,
    /// It stands for several batches: what is said of one below is of the oldest or the first of
    /// them, sizes are of all; class and form are in the shares.
    pub(super) run: Option<Box<Run>>,
    pub(super) class: Class,
    pub(super) form: Form,
    /// Its times count from boot: it waits for the clock of its epoch.
    pub(super) boot_relative: bool,
    /// Of a gap record: when the oldest that it stands for was sealed, or before.
    pub(super) sealed_at: TimeNs,
    /// When its oldest reading came, since the keeper's start.
    pub(super) born: Duration,
    pub(super) size: usize,
    /// `None` only if it is on disk.
    pub(super) ram: Option<Bytes>,
    pub(super) disk: OnDisk,
    /// It has to go to disk at once.
    pub(super) urgent: bool,
    pub(super) waiters: Vec<WaiterId>,
}

impl Entry {
    /// Readings that wait for an ack.
    pub(super) fn pending(&self) -> u64 {
        if self.gap.is_some() { 0 } else { self.readings }
    }

    /// Whether it holds readings.
    pub(super) fn is_data(&self) -> bool {
        self.pending() > 0
    }

    pub(super) fn is_safe(&self) -> bool {
        matches!(self.disk, OnDisk::At(_))
    }

    /// How many records it stands for.
    pub(super) fn records(&self) -> u64 {
        match self.run {
            Some(_) => self.to.0 - self.from.0 + 1,
            None => 1,
        }
    }

    /// What it counts against the buffer's bound: its bytes and a record's head.
    pub(super) fn held_bytes(&self) -> u64 {
        self.size as u64 + 48 * self.records()
    }

    /// The data in it that may go, by class and form.
    pub(super) fn shares(&self) -> impl Iterator<Item = Share> {
        let is_one = self.run.is_none() && self.is_data() && !self.form.is_held_back();
        let one = is_one.then(|| Share {
            class: self.class,
            thin: self.form == Form::Thin,
            sum: Sum::of_one(self.held_bytes()),
        });
        let run = self.run.iter().flat_map(|run| run.shares.iter().copied());
        one.into_iter().chain(run)
    }

    pub(super) fn holds(&self, class: Class, form: Form) -> bool {
        let thin = form == Form::Thin;
        self.shares()
            .any(|share| share.class == class && share.thin == thin)
    }
}

#[derive(Debug, Clone, Hash, Default)]
pub(super) struct LaneShelf {
    /// Where the cluster is known to stand.
    pub(super) acked: Position,
    /// The last batch that was sealed here, as far as known.
    pub(super) sealed: Position,
    pub(super) sent: Sent,
    pub(super) entries: VecDeque<Entry>,
    /// The cluster has another chain: nothing more is sent or sealed here.
    pub(super) forked: bool,
    /// Entries that are neither on disk nor on their way there.
    pub(super) unwritten: usize,
    /// Up to here an epoch's record tells what was written.
    pub(super) told: BatchNumber,
    /// Entries far from being sent that no run could take when that was last tried.
    pub(super) single_left: usize,
    /// By class, and whole or thin: no such data are below this number.
    pub(super) looked: [[BatchNumber; 2]; CLASSES_MAX],
}

impl LaneShelf {
    /// The digest of the chain at a number, if it is still known.
    pub(super) fn digest_at(&self, number: BatchNumber) -> Option<Digest> {
        if number == BatchNumber::NONE {
            return Some(Digest::ZERO);
        }
        for known in [self.acked, self.sealed] {
            if known.last == number {
                return Some(known.digest);
            }
        }
        let entry = self.entries.get(self.index_of(number))?;
        if entry.to == number {
            Some(entry.digest)
        } else {
            (entry.from == number.next()).then_some(entry.previous)
        }
    }

    /// Where the entry stands that covers a number, or the first one behind it.
    pub(super) fn index_of(&self, number: BatchNumber) -> usize {
        self.entries.partition_point(|entry| entry.to < number)
    }

    /// The first entry that is to be sent when `next` is the next number.
    pub(super) fn at_or_after(&self, next: BatchNumber) -> Option<&Entry> {
        self.entries.get(self.index_of(next))
    }

    /// Entries that the cluster is not known to have.
    pub(super) fn unacked(&self) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.index_of(self.acked.last.next())..)
    }

    /// Entries that are neither on disk nor on their way there, the newest first.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let entries = self.entries.iter().enumerate().rev();
        entries
            .filter(|(_, entry)| entry.disk == OnDisk::No)
            .take(self.unwritten)
    }

    /// The last entry that is on disk or on its way there.
    fn last_written(&self) -> Option<&Entry> {
        let mut entries = self.entries.iter().rev();
        entries.find(|entry| entry.disk != OnDisk::No)
    }

    /// Up to where the journal holds this lane, once what it was given is synced.
    pub(super) fn written(&self) -> Position {
        let last = self.last_written();
        last.map_or_else(Position::default, |last| Position {
            last: last.to,
            digest: last.digest,
        })
    }

    /// Whether nothing on disk tells of the last entry there but its own record, and none comes behind
    /// it with what is on its way.
    pub(super) fn ends_untold(&self) -> bool {
        let last = self.last_written();
        let unacked = last.filter(|last| last.is_safe() && last.to > self.acked.last);
        unacked.is_some_and(|last| last.to > self.told)
    }

    /// The oldest data of a class and form, or the run that holds them. `in_memory`: only what no
    /// disk holds.
    pub(super) fn oldest(&mut self, class: Class, form: Form, in_memory: bool) -> Option<&Entry> {
        let (row, column) = (usize::from(class.0), usize::from(form == Form::Thin));
        let start = self.index_of(self.looked[row][column]);
        let is_such = |entry: &Entry| entry.holds(class, form) && !(in_memory && entry.is_safe());
        let found = self.entries.range(start..).position(is_such);
        if !in_memory {
            let entry = found.and_then(|nth| self.entries.get(start + nth));
            let last = self.entries.back().map(|entry| entry.to);
            let below = entry.map(|entry| entry.from).or(last);
            self.looked[row][column] = below.unwrap_or(self.looked[row][column]);
        }
        self.entries.get(start + found?)
    }

    /// Batches that were whole are thin now.
    pub(super) fn look_again(&mut self, class: Class) {
        self.looked[usize::from(class.0)] = [BatchNumber::NONE; 2];
    }

    /// An entry that just left: what it counted.
    pub(super) fn left(&mut self, entry: &Entry) {
        self.unwritten -= usize::from(entry.disk == OnDisk::No);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.entries
            .back()
            .is_none_or(|last| last.to <= self.acked.last)
    }
}
