//! What a journal still holds, as shelves. What a summary says stands for all that came before it.
//! Where there is much of a lane it is held as runs at once; one of which a part was replaced later
//! is read back at the end.
//!
//! Invariants of what was written, which this relies on: a lane is written in number order and
//! after the names it needs; a batch that was not written before its successor was acked before it.
//! Where records are damaged, nobody knows that of a hole: a gap record covers it, up to where an
//! epoch's record tells that its lane was written. If the cluster has the numbers it says so, and
//! nothing is lost by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use journal::{JournalError, Position as DiskPosition, Reader, RecordHead, Skipped};
use shared::batch::{Body, Gap, GapReason, Header, Kind, decode, digest, encode, read_header};
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};
use shared::verdict::Position;

use super::EpochShelf;
use super::early::Early;
use super::lane::{Entry, Form, LaneShelf, OnDisk};
use super::record::{
    EpochRecord, KIND_BATCH, KIND_EPOCH, KIND_SUMMARY, decode_batch, decode_epoch,
};
use super::run::{RUN_BATCHES_MAX, RunToLoad, run_lengths, summed_up};
use super::summary::{EpochSummary, decode_summary};
use crate::clock::BootId;
use crate::handed::Class;

/// Collects records in journal order; [`Recovery::settle`] ends it.
#[derive(Debug, Default)]
pub struct Recovery {
    epochs: Vec<Recovered>,
    /// The record of the newest epoch.
    last: Option<EpochRecord>,
    damaged: bool,
    /// The file of the latest summary.
    summed_up_in: u64,
    one_by_one: bool,
}

#[derive(Debug)]
struct Recovered {
    epoch: Epoch,
    order: u64,
    boot: BootId,
    acked: [Position; 3],
    written: [Position; 3],
    /// Where the latest record stands that tells of it.
    told_at: Option<DiskPosition>,
    lanes: [RecoveredLane; 3],
    early: Early,
}

#[derive(Debug, Default)]
struct RecoveredLane {
    /// By the last number covered.
    entries: BTreeMap<u64, Entry>,
    /// What came since a part of a run was replaced, in order: the run has to be read first.
    later: Vec<Entry>,
    /// How many came since it was last summed up.
    put_since: usize,
}

impl RecoveredLane {
    /// Holds as runs what may be, but for the last that came.
    fn sum_up(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        let mut lengths = run_lengths(entries.values(), RUN_BATCHES_MAX);
        self.put_since = lengths.pop().unwrap_or(0);
        lengths.extend(std::iter::repeat_n(1, self.put_since));
        let summed_up = summed_up(entries.into_values(), lengths);
        self.entries = summed_up.map(|(one, _)| (one.to.0, one)).collect();
    }

    /// In place of what is said of the same numbers.
    fn put(&mut self, entry: Entry) {
        let replaced = self.entries.range(entry.from.0..=entry.to.0);
        let replaced: Vec<u64> = replaced.map(|(to, _)| *to).collect();
        for to in replaced {
            self.entries.remove(&to);
        }
        self.entries.insert(entry.to.0, entry);
        self.put_since += 1;
    }

    /// The runs of which an entry replaces a part, by their last number.
    fn torn_by<'a>(&'a self, entry: &Entry) -> impl Iterator<Item = u64> + use<'a> {
        let (from, to) = (entry.from, entry.to);
        let overlapped = self.entries.range(from.0..).map(|(_, held)| held);
        let overlapped = overlapped.take_while(move |held| held.from <= to);
        let torn = move |held: &&Entry| held.run.is_some() && (held.from < from || held.to > to);
        overlapped.filter(torn).map(|held| held.to.0)
    }

    /// The run that goes on behind a number and does not begin there.
    fn torn_at(&self, number: BatchNumber) -> Option<u64> {
        let (_, held) = self.entries.range(number.next().0..).next()?;
        (held.run.is_some() && held.from <= number).then_some(held.to.0)
    }
}

/// What a record of the buffer tells of a batch.
pub(super) fn read_entry(
    position: DiskPosition,
    payload: &[u8],
) -> Result<(Header, Kind, Entry), String> {
    let (record, at) = decode_batch(payload).map_err(|error| error.to_string())?;
    let bytes = &payload[at..];
    let (header, kind) = read_header(bytes).map_err(|error| error.to_string())?;
    let mut entry = Entry {
        from: header.number,
        to: header.number,
        previous: header.previous,
        digest: digest(header.previous, bytes),
        names_needed: header.names_needed,
        readings: record.readings,
        gap: None,
        run: None,
        class: record.class,
        form: if record.thin { Form::Thin } else { Form::Whole },
        boot_relative: header.boot_relative,
        sealed_at: header.sealed_at,
        born: Duration::ZERO,
        size: bytes.len(),
        ram: None,
        disk: OnDisk::At(position),
        urgent: false,
        waiters: Vec::new(),
    };
    if kind == Kind::Gap {
        let batch = decode(bytes).map_err(|error| error.to_string())?;
        if let Body::Gap(gap) = batch.body {
            entry.from = gap.from;
            entry.digest = gap.digest_to;
            entry.gap = Some(gap.reason);
            entry.sealed_at = header.sealed_at.min(header.complete_below);
        }
    }
    Ok((header, kind, entry))
}

impl Recovery {
    /// Holds no runs where nothing tells of some: for who does not call [`Recovery::settle`].
    pub fn one_by_one() -> Recovery {
        Recovery {
            one_by_one: true,
            ..Recovery::default()
        }
    }

    /// Takes the next record; the visitor of `Journal::open`.
    ///
    /// # Errors
    /// `Refused` if this program cannot read it.
    pub fn visit(
        &mut self,
        position: DiskPosition,
        head: RecordHead,
        payload: &[u8],
    ) -> Result<(), JournalError> {
        let refused = |what: String| JournalError::Refused { what };
        match head.kind {
            KIND_BATCH => self.batch(position, payload).map_err(refused),
            KIND_EPOCH => {
                let record = decode_epoch(payload).map_err(|error| refused(error.to_string()))?;
                self.epoch_record(position, &record);
                Ok(())
            }
            KIND_SUMMARY => {
                let told = decode_summary(payload).map_err(|error| refused(error.to_string()))?;
                self.summary(position, told);
                Ok(())
            }
            other => Err(refused(format!("a record of unknown kind {other}"))),
        }
    }

    fn epoch(&mut self, epoch: Epoch) -> &mut Recovered {
        let at = self.epochs.iter().position(|known| known.epoch == epoch);
        let at = at.unwrap_or_else(|| {
            self.epochs.push(Recovered {
                epoch,
                order: 0,
                boot: BootId::default(),
                acked: [Position::default(); 3],
                written: [Position::default(); 3],
                told_at: None,
                lanes: Default::default(),
                early: Early::default(),
            });
            self.epochs.len() - 1
        });
        &mut self.epochs[at]
    }

    fn epoch_record(&mut self, position: DiskPosition, record: &EpochRecord) {
        let known = self.epoch(record.epoch);
        known.told_at = Some(position);
        let positions = known.acked.iter_mut().chain(&mut known.written);
        for (known, told) in positions.zip(record.acked.iter().chain(&record.written)) {
            if told.last > known.last {
                *known = *told;
            }
        }
        known.order = record.order;
        known.boot = record.boot;
        if self.last.is_none_or(|last| last.order <= record.order) {
            self.last = Some(*record);
        }
    }

    fn batch(&mut self, position: DiskPosition, payload: &[u8]) -> Result<(), String> {
        let (header, kind, entry) = read_entry(position, payload)?;
        let sums_up = header.lane != Lane::Names && !self.one_by_one;
        let epoch = self.epoch(header.epoch);
        match kind {
            Kind::Clock => epoch.early.has_clock(header.number),
            Kind::Data if header.boot_relative => {
                let (_, at) = decode_batch(payload).map_err(|error| error.to_string())?;
                let batch = decode(&payload[at..]).map_err(|error| error.to_string())?;
                epoch.early.holds(&batch.body);
            }
            Kind::Gap if header.lane == Lane::Names => {
                epoch.early.lost(entry.from..=entry.to);
            }
            Kind::Hello | Kind::Names | Kind::Data | Kind::Gap => {}
        }
        let lane = &mut epoch.lanes[header.lane as usize];
        if lane.later.is_empty() && lane.torn_by(&entry).next().is_none() {
            lane.put(entry);
            if sums_up && lane.put_since > 2 * RUN_BATCHES_MAX {
                lane.sum_up();
            }
        } else {
            lane.later.push(entry);
        }
        Ok(())
    }

    /// All that came before, as far as it matters.
    fn summary(&mut self, position: DiskPosition, summaries: Vec<EpochSummary>) {
        self.epochs.clear();
        for EpochSummary {
            record,
            early,
            lanes,
        } in summaries
        {
            self.epoch_record(position, &record);
            let known = self.epoch(record.epoch);
            known.early = early;
            known.lanes = lanes.map(|items| RecoveredLane {
                entries: items.into_iter().map(|item| (item.to.0, item)).collect(),
                ..RecoveredLane::default()
            });
        }
        self.summed_up_in = position.file();
    }

    /// After the last record: reads those runs of a summary of which a part was replaced or
    /// acknowledged since. Returns what was damaged in them.
    pub fn settle(&mut self, reader: &Reader) -> Vec<Skipped> {
        let mut skipped = Vec::new();
        for epoch in &mut self.epochs {
            let acked = epoch.acked;
            for ((lane, held), acked) in Lane::ALL.into_iter().zip(&mut epoch.lanes).zip(acked) {
                // After damage an older summary may tell of files that are gone since.
                held.entries.retain(|_, entry| match entry.disk {
                    OnDisk::At(position) => reader.has(position.file()),
                    OnDisk::No | OnDisk::Queued => true,
                });
                let later = std::mem::take(&mut held.later);
                let mut torn: BTreeSet<u64> =
                    later.iter().flat_map(|entry| held.torn_by(entry)).collect();
                torn.extend(held.torn_at(acked.last));
                let torn = torn.iter().filter_map(|to| held.entries.remove(to));
                let torn: Vec<Entry> = torn.collect();
                let runs = torn
                    .iter()
                    .filter_map(|run| RunToLoad::of(epoch.epoch, lane, run));
                for run in runs {
                    let loaded = run.read(reader);
                    if loaded.missing() > 0 {
                        self.damaged = true;
                        skipped.extend_from_slice(loaded.damaged());
                    }
                    let entries = loaded.entries.into_iter();
                    held.entries
                        .extend(entries.map(|entry| (entry.to.0, entry)));
                }
                for entry in later {
                    held.put(entry);
                }
            }
        }
        skipped
    }

    /// The file of the latest summary; 0 if there is none.
    pub(super) fn summed_up_in(&self) -> u64 {
        self.summed_up_in
    }

    /// The first of the records that tell where the epochs stand: of those that something is held of,
    /// and of the last.
    pub(super) fn told_at(&self) -> Option<DiskPosition> {
        let last = self.last.map(|last| last.epoch);
        let matters = |one: &&Recovered| {
            let mut lanes = one.lanes.iter();
            Some(one.epoch) == last || lanes.any(|lane| !lane.entries.is_empty())
        };
        let all = self.epochs.iter().filter(matters);
        let told: Option<Vec<DiskPosition>> = all.map(|one| one.told_at).collect();
        told?.into_iter().min()
    }

    /// Some of the records are damaged: numbers that are missing may be lost.
    pub fn damaged(&mut self) {
        self.damaged = true;
    }

    /// What is held cannot be used: only which epoch was the last is kept of it, and that it did not
    /// end cleanly. If nothing told of one it is called 0, so that the loss is told all the same.
    #[must_use]
    pub fn without_what_is_held(self) -> Recovery {
        let unknown = EpochRecord {
            epoch: Epoch(0),
            order: 0,
            ended_cleanly: false,
            boot: BootId::default(),
            acked: [Position::default(); 3],
            written: [Position::default(); 3],
        };
        Recovery {
            epochs: Vec::new(),
            last: Some(EpochRecord {
                ended_cleanly: false,
                ..self.last.unwrap_or(unknown)
            }),
            damaged: true,
            summed_up_in: 0,
            one_by_one: self.one_by_one,
        }
    }

    /// Whether no epoch was ever begun here.
    pub fn is_first(&self) -> bool {
        self.last.is_none()
    }

    /// The epoch before, if known, and whether it ended cleanly: not if its last records may be
    /// the damaged ones.
    pub(super) fn last(&self) -> Option<(Epoch, bool)> {
        let clean = |last: EpochRecord| last.ended_cleanly && !self.damaged;
        self.last.map(|last| (last.epoch, clean(last)))
    }

    /// Epochs that began so far.
    pub(super) fn order(&self) -> u64 {
        self.last.map_or(0, |last| last.order)
    }

    /// The epochs with something left to send, oldest first.
    pub(super) fn into_shelves(mut self) -> Vec<EpochShelf> {
        self.epochs.sort_by_key(|one| one.order);
        let damaged = self.damaged;
        let shelves = self.epochs.into_iter().map(|one| {
            let epoch = one.epoch;
            let mut lanes = one.lanes.into_iter().zip(one.acked).zip(Lane::ALL);
            let mut next = || {
                let ((held, acked), lane) = lanes.next().expect("three lanes");
                let entries = held.entries;
                if damaged {
                    let written = one.written[lane as usize];
                    damaged_shelf((epoch, lane), entries, acked, written)
                } else {
                    shelf(entries, acked, lane == Lane::Names)
                }
            };
            let mut shelf = EpochShelf {
                epoch,
                order: one.order,
                boot: one.boot,
                began_here: false,
                lanes: [next(), next(), next()],
                early: one.early,
            };
            for entry in &shelf.lanes[Lane::Names as usize].entries {
                // A clock may be among what is damaged: another is to be sealed.
                if entry.gap.is_some() {
                    shelf.early.lost(entry.from..=entry.to);
                }
            }
            shelf.find_clock();
            shelf
        });
        shelves.filter(|shelf| !shelf.is_drained()).collect()
    }
}

fn shelf(entries: BTreeMap<u64, Entry>, acked: Position, is_names: bool) -> LaneShelf {
    let mut shelf = LaneShelf {
        acked,
        sealed: acked,
        ..LaneShelf::default()
    };
    for (_, entry) in entries.into_iter().rev() {
        if let Some(above) = shelf.entries.front()
            && above.from != entry.to.next()
        {
            // What stood in the hole was never written, so it and all before it was acked.
            break;
        }
        if !is_names && entry.to <= acked.last {
            break;
        }
        shelf.entries.push_front(entry);
    }
    if let Some(last) = shelf.entries.back()
        && last.to > shelf.sealed.last
    {
        shelf.sealed = Position {
            last: last.to,
            digest: last.digest,
        };
    }
    if let Some(first) = shelf.entries.front()
        && !is_names
        && first.from > acked.last.next()
    {
        shelf.acked = Position {
            last: BatchNumber(first.from.0 - 1),
            digest: first.previous,
        };
    }
    shelf
}

/// As [`shelf`], where records are damaged: a gap record covers each hole above `acked` and up to
/// `written`.
fn damaged_shelf(
    stream: (Epoch, Lane),
    entries: BTreeMap<u64, Entry>,
    acked: Position,
    written: Position,
) -> LaneShelf {
    let mut shelf = LaneShelf {
        acked,
        sealed: acked,
        ..LaneShelf::default()
    };
    let mut before = Position::default();
    let mut sealed_at = TimeNs(0);
    let known = |before: Position| {
        if acked.last > before.last {
            acked
        } else {
            before
        }
    };
    for (_, entry) in entries {
        let above = Position {
            last: BatchNumber(entry.from.0.saturating_sub(1)),
            digest: entry.previous,
        };
        if let Some(hole) = hole(stream, known(before), above, entry.sealed_at) {
            put_behind(&mut shelf, hole);
        }
        before = Position {
            last: entry.to,
            digest: entry.digest,
        };
        sealed_at = entry.sealed_at;
        if entry.to > acked.last || stream.1 == Lane::Names {
            put_behind(&mut shelf, entry);
        }
    }
    if let Some(end) = hole(stream, known(before), written, sealed_at) {
        before = written;
        put_behind(&mut shelf, end);
    }
    if before.last > acked.last {
        shelf.sealed = before;
    }
    shelf
}

fn put_behind(shelf: &mut LaneShelf, entry: Entry) {
    let last = shelf.entries.back();
    if last.is_some_and(|last| last.to.next() != entry.from) {
        // A hole below `acked`: what stands before it is not needed.
        shelf.entries.clear();
        shelf.unwritten = 0;
    }
    shelf.unwritten += usize::from(entry.disk == OnDisk::No);
    shelf.entries.push_back(entry);
}

/// What covers the numbers behind a known one, up to another.
fn hole(
    (epoch, lane): (Epoch, Lane),
    known: Position,
    end: Position,
    sealed_at: TimeNs,
) -> Option<Entry> {
    let (from, to) = (known.last.next(), end.last);
    if from > to {
        return None;
    }
    let header = Header {
        epoch,
        lane,
        number: to,
        previous: known.digest,
        names_needed: BatchNumber::NONE,
        sealed_at,
        // Since when something is missing is not known.
        complete_below: TimeNs(0),
        boot_relative: false,
    };
    let body = Body::Gap(Gap {
        from,
        readings: 0,
        reason: GapReason::Damaged,
        digest_to: end.digest,
    });
    let bytes = encode(&header, &body).expect("a gap record is within every limit");
    Some(Entry {
        from,
        to,
        previous: known.digest,
        digest: end.digest,
        names_needed: BatchNumber::NONE,
        readings: 0,
        gap: Some(GapReason::Damaged),
        run: None,
        class: Class::default(),
        form: Form::Thin,
        boot_relative: false,
        sealed_at: TimeNs(0),
        born: Duration::ZERO,
        size: bytes.len(),
        ram: Some(Bytes::from(bytes)),
        disk: OnDisk::No,
        urgent: true,
        waiters: Vec::new(),
    })
}
