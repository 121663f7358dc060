//! What goes to the journal, and when: RAM first; to disk what somebody waits for, what is not
//! acked within `max_unsafe`, and what does not fit in RAM. One submission is on its way at a
//! time, so whatever comes meanwhile shares the next sync.

use std::time::Duration;

use journal::writer::Usage;
use journal::{Append, JournalError, Position as DiskPosition};

use shared::batch::GapReason;
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};

use super::lane::{Entry, LaneShelf, OnDisk};
use super::record::{
    BatchRecord, EpochRecord, batch_head, encode_batch, encode_epoch, epoch_head, summary_head,
};
use super::recover::Recovery;
use super::summary::encode_summary;
use super::work::{Carried, DiskWork};
use super::{Buffer, Place, Settled};

/// Bytes of one submission.
pub(super) const SUBMISSION_BYTES_MAX: usize = 8 << 20;
/// About what the journal adds to a payload.
const RECORD_HEAD_BYTES: u64 = 32;
/// A file that holds less than this part of the bound is emptied whenever files run short.
const CHEAP_PARTS: u64 = 64;
/// A fuller one only if at least this part of the bound is waste: batches take at most 70 % of it,
/// so six bytes are written again at most for each that gets free.
const WASTE_PARTS: u64 = 8;
/// A summary takes at most this part of the bound, a thirtieth of a file or less, so that what it
/// takes never makes files run short; a buffer with more to tell goes without. A small buffer may
/// take the least.
const SUMMARY_PARTS: u64 = 1_024;
const SUMMARY_BYTES_LEAST: usize = 4 << 10;
const SUMMARY_BYTES_MAX: usize = 512 << 10;
/// More than what the record of an epoch takes.
const EPOCH_BYTES_MOST: u64 = 256;

#[derive(Debug, Clone, Hash, Default)]
pub(super) struct DiskState {
    /// What the submission on its way holds.
    queued: Option<Vec<Queued>>,
    /// Grows when the records of where the epochs stand have to be written anew.
    to_tell: u64,
    /// What `to_tell` was when they were written.
    told: u64,
    /// Epochs with nothing left to send, of which the journal may still show records.
    retired: Vec<Retired>,
    /// Where the latest of those records stands.
    told_at: Option<DiskPosition>,
    /// The journal takes nothing any more until the agent is started anew.
    pub(super) failed: bool,
    /// Nothing was free: tried again once something was let go, or the disk has room again.
    pub(super) full: bool,
    /// Bytes that the journal has free, less what it was given since that was seen.
    pub(super) room: Option<u64>,
    /// Of one of its files.
    pub(super) file_bytes: u64,
    /// What is due may have found no room: it is looked at again once room was.
    pub(super) waits_for_room: bool,
    /// Of the submission on its way, about.
    pub(super) queued_bytes: u64,
    /// While the disk is full: bytes of the journal's files that stand on it.
    pub(super) bytes_there: Option<u64>,
    /// The file of the latest record.
    newest_file: u64,
    /// The first file that is still needed.
    released_before: u64,
    written_bytes: u64,
    /// Epochs that began so far.
    pub(super) order_before: u64,
    /// The file of the latest summary.
    summed_up_in: u64,
}

impl DiskState {
    /// Where the epochs stand has changed in a way that a restart must know.
    pub(super) fn tell(&mut self) {
        self.to_tell = self.told + 1;
    }

    /// An epoch was let go of: until its records are gone, a restart must know that too.
    pub(super) fn retire(&mut self, record: EpochRecord) {
        let file = self.newest_file;
        self.retired.push(Retired { record, file });
        self.tell();
    }

    /// With what a journal told. The first file needs no summary.
    pub(super) fn after(recovery: &Recovery) -> Self {
        DiskState {
            order_before: recovery.order(),
            summed_up_in: recovery.summed_up_in().max(1),
            told_at: recovery.told_at(),
            ..DiskState::default()
        }
    }
}

#[derive(Debug, Clone, Copy, Hash)]
enum Queued {
    Entry(Place),
    /// What `to_tell` was.
    Epoch(u64),
    /// Up to where lanes were written.
    Ends,
    Summary,
}

/// An entry that is on disk.
#[derive(Debug, Clone, Copy)]
struct HeldOnDisk {
    place: Place,
    position: DiskPosition,
    /// About what its records take in the journal.
    bytes: u64,
    is_run: bool,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Retired {
    record: EpochRecord,
    /// No record of it is in a later file.
    file: u64,
}

impl Buffer {
    /// What to sync now; `None` if there is nothing or a submission is on its way. `all`: also what
    /// could wait.
    pub fn next_sync(&mut self, now: Duration, all: bool) -> Option<DiskWork> {
        if self.disk.queued.is_some() || self.disk.failed {
            return None;
        }
        let (mut queued, mut records) = (Vec::new(), Vec::new());
        let mut room = self.room_for_batches();
        if self.is_short_of_room() {
            self.take_gaps(&mut queued, &mut records);
        }
        if !self.disk.full {
            self.take_due(now, all, (&mut queued, &mut records, &mut room));
        }
        if records.is_empty() {
            self.disk.waits_for_room = self.room_for_batches() < SUBMISSION_BYTES_MAX;
            return None;
        }
        if !self.disk.full {
            self.put_ends(&mut queued, &mut records);
        }
        self.queue(queued, &records);
        Some(DiskWork::Append(records))
    }

    /// What is due, batches only as far as there is room for them.
    fn take_due(&mut self, now: Duration, all: bool, (queued, records, room): Out<'_>) {
        let over = all || self.held.ram_bytes > self.options.ram_bytes_max;
        let max_unsafe = self.options.max_unsafe;
        self.put_summary(queued, records);
        if self.disk.told < self.disk.to_tell {
            self.put_epochs(false, queued, records);
        }
        for shelf in &mut self.epochs {
            let epoch = shelf.epoch;
            let [names, data @ ..] = &mut shelf.lanes;
            let is_due = |lane: &LaneShelf| {
                let last = lane.unwritten().find(|(_, entry)| {
                    let due = entry.urgent || over || entry.born + max_unsafe <= now;
                    // What stands for damaged names is written even if they were acked: until
                    // then no file can go.
                    due && (entry.to > lane.acked.last || entry.gap.is_some())
                });
                last.map_or(0, |(at, _)| at + 1)
            };
            let ends = data.each_ref().map(is_due);
            let needed = data.iter().zip(ends).filter_map(|(lane, end)| {
                lane.entries
                    .range(..end)
                    .map(|entry| entry.names_needed)
                    .max()
            });
            let needed = needed.max().unwrap_or(BatchNumber::NONE);
            let names_end = is_due(names).max(names.index_of(needed.next()));
            let mut out = (&mut *queued, &mut *records, &mut *room);
            let all_names = take_lane(epoch, Lane::Names, names, names_end, &mut out);
            for ((lane, held), end) in [Lane::Live, Lane::Backlog].into_iter().zip(data).zip(ends) {
                if all_names {
                    take_lane(epoch, lane, held, end, &mut out);
                }
            }
        }
    }

    /// The gap records that files wait for: a lane is written in order, so those before the first
    /// batch that is not on disk. What comes to disk comes in order too, so no other stands for any
    /// of it.
    fn take_gaps(&mut self, queued: &mut Vec<Queued>, records: &mut Vec<Append>) {
        let room = self.disk.room.unwrap_or(u64::MAX);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut room = room.min(SUBMISSION_BYTES_MAX);
        for shelf in &mut self.epochs {
            for (lane, held) in Lane::ALL.into_iter().zip(&mut shelf.lanes) {
                let is_first = |entry: &Entry| entry.disk == OnDisk::No && entry.gap.is_none();
                let end = held.entries.iter().position(is_first);
                let end = end.unwrap_or(held.entries.len());
                let mut out = (&mut *queued, &mut *records, &mut room);
                take_lane(shelf.epoch, lane, held, end, &mut out);
            }
        }
    }

    fn queue(&mut self, queued: Vec<Queued>, records: &[Append]) {
        let bytes = records
            .iter()
            .map(|one| one.payload.len() as u64 + RECORD_HEAD_BYTES);
        self.disk.queued_bytes = bytes.sum();
        self.disk.room = self
            .disk
            .room
            .map(|room| room.saturating_sub(self.disk.queued_bytes));
        self.disk.queued = Some(queued);
    }

    /// When something held has to be on disk.
    pub fn next_sync_at(&self) -> Option<Duration> {
        if self.disk.failed || self.waits_for_a_file() || self.disk.queued.is_some() {
            return None;
        }
        let lanes = self.epochs.iter().flat_map(|shelf| &shelf.lanes);
        let waiting = lanes.filter_map(|lane| {
            let unacked = lane
                .unwritten()
                .filter(|(_, entry)| entry.to > lane.acked.last);
            unacked.map(|(_, entry)| entry.born).last()
        });
        waiting.min().map(|born| born + self.options.max_unsafe)
    }

    /// Once in each file but the first: all that is on disk, so that a start need not read the files
    /// before. Behind it stands whatever is not on disk yet; what a gap record stands for is then no
    /// more told of, and that there is a clock is told, so these come first.
    fn put_summary(&mut self, queued: &mut Vec<Queued>, records: &mut Vec<Append>) {
        let file = self.disk.newest_file;
        if file <= self.disk.summed_up_in || self.has_unwritten_gaps() || self.has_unsafe_clock() {
            return;
        }
        if !queued.is_empty() {
            // Gap records on their way, which would stand before it and be told by nothing.
            return;
        }
        self.disk.summed_up_in = file;
        let bytes_max = self.options.bytes_max / SUMMARY_PARTS;
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let payload = encode_summary(&self.epochs, self.options.entries_near);
        if payload.len() <= bytes_max.clamp(SUMMARY_BYTES_LEAST, SUMMARY_BYTES_MAX) {
            queued.push(Queued::Summary);
            records.push(Append {
                head: summary_head(),
                payload,
            });
        }
    }

    /// Whether a gap record is neither on disk nor on its way there: what it stands for may be.
    pub(super) fn has_unwritten_gaps(&self) -> bool {
        let lanes = self.epochs.iter().flat_map(|shelf| &shelf.lanes);
        let mut unwritten = lanes.flat_map(LaneShelf::unwritten);
        unwritten.any(|(_, entry)| entry.gap.is_some())
    }

    /// Whether one of them stands for something on disk.
    fn has_urgent_gaps(&self) -> bool {
        let lanes = self.epochs.iter().flat_map(|shelf| &shelf.lanes);
        let mut unwritten = lanes.flat_map(LaneShelf::unwritten);
        unwritten.any(|(_, entry)| entry.gap.is_some() && entry.urgent)
    }

    /// The last record of the current epoch: it ended, and nothing of it is only in RAM.
    pub fn end_cleanly(&mut self) -> DiskWork {
        let (mut queued, mut records) = (Vec::new(), Vec::new());
        self.put_epochs(true, &mut queued, &mut records);
        self.disk.queued = Some(queued);
        DiskWork::Append(records)
    }

    fn put_epochs(&mut self, ended: bool, queued: &mut Vec<Queued>, records: &mut Vec<Append>) {
        let last = self.epochs.len() - 1;
        let retired = self.disk.retired.iter().map(|retired| retired.record);
        let held = self
            .epochs
            .iter()
            .enumerate()
            .map(|(nth, shelf)| EpochRecord {
                ended_cleanly: ended && nth == last,
                ..shelf.record()
            });
        for record in retired.chain(held) {
            queued.push(Queued::Epoch(self.disk.to_tell));
            records.push(Append {
                head: epoch_head(),
                payload: encode_epoch(&record),
            });
        }
        for shelf in &mut self.epochs {
            shelf.told();
        }
    }

    /// Numbers that are missing show by those behind them. Of a lane of which nothing more comes an
    /// epoch's record has to tell: else, if its last records are damaged, a start would miss nothing
    /// and count on from before them. It tells of what stands before it only, so whoever finds it
    /// after a power cut finds that too.
    fn put_ends(&mut self, queued: &mut Vec<Queued>, records: &mut Vec<Append>) {
        for shelf in &mut self.epochs {
            if !shelf.lanes.iter().any(LaneShelf::ends_untold) {
                continue;
            }
            queued.push(Queued::Ends);
            records.push(Append {
                head: epoch_head(),
                payload: encode_epoch(&shelf.record()),
            });
            shelf.told();
        }
    }

    /// What tells of the ends of lanes may not have come to disk.
    fn not_told(&mut self) {
        let lanes = self.epochs.iter_mut().flat_map(|shelf| &mut shelf.lanes);
        for lane in lanes {
            lane.told = BatchNumber::NONE;
        }
    }

    /// How the submission on its way came out.
    pub fn synced(&mut self, result: Result<Vec<DiskPosition>, JournalError>) -> Settled {
        let mut settled = Settled::default();
        let queued = self.disk.queued.take().unwrap_or_default();
        match result {
            Ok(positions) => {
                let mut told_at = None;
                for (one, position) in queued.into_iter().zip(positions) {
                    self.disk.newest_file = position.file();
                    self.disk.written_bytes += position.payload_bytes() as u64 + RECORD_HEAD_BYTES;
                    match one {
                        Queued::Entry(place) => self.entry_synced(place, position, &mut settled),
                        Queued::Epoch(told) => {
                            told_at.get_or_insert(position);
                            self.disk.told = told;
                        }
                        Queued::Ends => {}
                        Queued::Summary => self.disk.summed_up_in = position.file(),
                    }
                }
                self.disk.told_at = told_at.or(self.disk.told_at);
                self.sum_up();
            }
            Err(error) => {
                let full = matches!(error, JournalError::Full | JournalError::Queue { .. });
                self.disk.full |= full;
                // Until it is seen anew.
                self.disk.room = full.then_some(0);
                self.disk.failed |= !full;
                self.not_told();
                for one in queued {
                    if let Queued::Summary = one {
                        // It is due again.
                        self.disk.summed_up_in = 1;
                    }
                    if let Queued::Entry(place) = one
                        && let Some(entry) = self.entry_mut(place)
                        && entry.disk == OnDisk::Queued
                    {
                        entry.disk = OnDisk::No;
                        let lane = self.lane_mut(place.epoch, place.lane);
                        lane.expect("it has the entry").unwritten += 1;
                    }
                }
            }
        }
        settled
    }

    fn entry_synced(&mut self, place: Place, position: DiskPosition, settled: &mut Settled) {
        let over = self.held.ram_bytes > self.options.ram_bytes_max;
        let acked = self.acked(place.epoch, place.lane).last;
        // What took the place of a batch that was on its way there is not on disk by that.
        let on_its_way = |entry: &&mut Entry| entry.disk != OnDisk::No;
        let Some(entry) = self.entry_mut(place).filter(on_its_way) else {
            return;
        };
        let was_safe = entry.is_safe();
        let in_class = entry.is_data() && !entry.form.is_held_back();
        let class = (in_class && !was_safe).then_some(entry.class);
        entry.disk = OnDisk::At(position);
        entry.urgent = false;
        settled.kept.append(&mut entry.waiters);
        let (pending, size, held_bytes) = (entry.pending(), entry.size, entry.held_bytes());
        let from_ram = over && entry.ram.take().is_some();
        if from_ram {
            self.held.ram_bytes -= size;
        }
        if !was_safe {
            self.held.bytes_unsafe -= held_bytes;
        }
        if let Some(class) = class {
            self.held.now_safe(class, held_bytes);
        }
        if !was_safe && place.to > acked {
            self.held.readings_unsafe -= pending;
        }
    }

    fn entry_mut(&mut self, place: Place) -> Option<&mut Entry> {
        let shelf = self.lane_mut(place.epoch, place.lane)?;
        let at = shelf.index_of(place.to);
        shelf
            .entries
            .get_mut(at)
            .filter(|entry| (entry.from, entry.to) == (place.from, place.to))
    }

    /// What may be released: every record before this one is needed no more. Asks at most once for
    /// each file.
    pub fn release(&mut self) -> Option<DiskPosition> {
        if self.disk.failed || self.disk.queued.is_some() {
            return None;
        }
        let told_at = self.disk.told_at?;
        if self.has_urgent_gaps() {
            return None;
        }
        let first = self.on_disk().map(|held| held.position).min();
        let newest = self.disk.newest_file;
        if first.map_or(newest, |first| first.file()) > told_at.file() {
            // What is told anew lets the file go that it was told in.
            self.disk.tell();
        }
        let first = first.map_or(told_at, |first| first.min(told_at));
        if first.file() <= self.disk.released_before {
            return None;
        }
        self.disk.released_before = first.file();
        self.disk
            .retired
            .retain(|retired| retired.file >= first.file());
        self.disk.full = false;
        Some(first)
    }

    /// When free files run short: what the oldest file still holds, a part at a time, to be
    /// written again at the end so that the file can go. Much is written again only if the
    /// records that nobody needs any more are worth it. `None` also if something is
    /// [wanted](Buffer::wanted) first.
    pub fn carry(&mut self, usage: Usage) -> Option<DiskWork> {
        let bytes_max = self.disk_bytes_max();
        let short = self.disk.full || usage.bytes_free < bytes_max / 4;
        // Without these no file goes: the room there is is theirs.
        if !short || self.disk.failed || self.disk.queued.is_some() || self.has_urgent_gaps() {
            return None;
        }
        let mut all: Vec<HeldOnDisk> = self.on_disk().collect();
        all.sort_unstable_by_key(|held| held.position);
        let told = self.disk.told_at.map(|told| told.file());
        let files = || all.iter().map(|held| held.position.file()).chain(told);
        let oldest = files().min()?;
        if files().max() == Some(oldest) {
            return None;
        }
        let needed: u64 = all.iter().map(|held| held.bytes).sum();
        all.retain(|held| held.position.file() == oldest);
        let in_oldest: u64 = all.iter().map(|held| held.bytes).sum();
        let waste = usage.bytes_used.saturating_sub(needed);
        if in_oldest > bytes_max / CHEAP_PARTS && waste < bytes_max / WASTE_PARTS {
            return None;
        }
        // What does not fit at the end of a file leaves that empty.
        let single = all.iter().filter(|held| !held.is_run);
        let largest = single.map(|held| held.bytes).max().unwrap_or(0);
        let epochs = (self.epochs.len() + self.disk.retired.len()) as u64 * EPOCH_BYTES_MOST;
        let room = usage.bytes_free.saturating_sub(largest + epochs);
        let mut room = room.min(SUBMISSION_BYTES_MAX as u64);
        let mut held: Vec<HeldOnDisk> = Vec::new();
        for one in all {
            let left = room.checked_sub(one.bytes);
            // A part of the first may have room where the whole has none.
            if one.is_run && (left.is_some() || held.is_empty()) {
                self.wants(one.place);
                return None;
            }
            let Some(left) = left else { break };
            room = left;
            held.push(one);
        }
        if in_oldest > 0 && held.is_empty() {
            return None;
        }
        let carried_bytes: u64 = held.iter().map(|held| held.bytes).sum();
        let (mut queued, mut records) = (Vec::new(), Vec::new());
        self.put_epochs(false, &mut queued, &mut records);
        let mut carried: Vec<Carried> = records.into_iter().map(Carried::InMemory).collect();
        for HeldOnDisk {
            place, position, ..
        } in held
        {
            queued.push(Queued::Entry(place));
            carried.push(self.carried(place, position));
        }
        self.disk.queued_bytes = carried_bytes + epochs;
        self.disk.queued = Some(queued);
        self.disk.full = false;
        Some(DiskWork::Carry(carried))
    }

    fn carried(&self, place: Place, position: DiskPosition) -> Carried {
        let entry = self
            .lane(place.epoch, place.lane)
            .and_then(|lane| lane.at_or_after(place.from));
        match entry.and_then(|entry| Some((entry, entry.ram.as_ref()?))) {
            Some((entry, bytes)) => Carried::InMemory(Append {
                head: batch_head(place.lane, place.to),
                payload: encode_batch(&record_of(entry), bytes),
            }),
            None => Carried::OnDisk(place, position),
        }
    }

    /// Some of what was to be written again cannot be read: gap records take its place, and the
    /// rest is carried the next time.
    pub fn not_carried(&mut self, unreadable: &[Place], wall: TimeNs) -> Settled {
        self.disk.queued = None;
        self.not_told();
        let mut settled = Settled::default();
        for place in unreadable {
            let given_up = self.give_up(*place, GapReason::Damaged, wall);
            settled.add(given_up.unwrap_or_default());
        }
        settled
    }

    fn on_disk(&self) -> impl Iterator<Item = HeldOnDisk> {
        let lanes = self.epochs.iter().flat_map(|shelf| {
            let lanes = Lane::ALL.into_iter().zip(&shelf.lanes);
            lanes.map(|(lane, held)| (shelf.epoch, lane, held))
        });
        lanes.flat_map(|(epoch, lane, held)| {
            held.entries.iter().filter_map(move |entry| {
                let OnDisk::At(position) = entry.disk else {
                    return None;
                };
                let is_run = entry.run.is_some();
                let bytes = if is_run {
                    entry.held_bytes()
                } else {
                    position.payload_bytes() as u64 + RECORD_HEAD_BYTES
                };
                Some(HeldOnDisk {
                    place: Place {
                        epoch,
                        lane,
                        from: entry.from,
                        to: entry.to,
                    },
                    position,
                    bytes,
                    is_run,
                })
            })
        })
    }

    /// Whether a submission is on its way.
    pub fn is_syncing(&self) -> bool {
        self.disk.queued.is_some()
    }

    /// Whether the journal failed: readings are kept in a bounded RAM only.
    pub fn disk_failed(&self) -> bool {
        self.disk.failed
    }

    pub fn journal_bytes_written(&self) -> u64 {
        self.disk.written_bytes
    }
}

/// What a restart has to know of an entry besides its bytes. A batch whose thinning is not over is
/// whole.
fn record_of(entry: &Entry) -> BatchRecord {
    BatchRecord {
        readings: entry.readings,
        class: entry.class,
        thin: entry.form.is_thin(),
    }
}

type Out<'a> = (&'a mut Vec<Queued>, &'a mut Vec<Append>, &'a mut usize);

/// Queues the entries of a lane before `end` that are not on disk, in order; `false` if the
/// submission is full before that.
fn take_lane(
    epoch: Epoch,
    lane: Lane,
    held: &mut LaneShelf,
    end: usize,
    (queued, records, room): &mut Out<'_>,
) -> bool {
    if held.unwritten == 0 {
        return true;
    }
    for entry in held
        .entries
        .range_mut(..end)
        .filter(|entry| entry.disk == OnDisk::No)
    {
        let takes = usize::try_from(entry.held_bytes()).unwrap_or(usize::MAX);
        if **room < takes {
            **room = 0;
            return false;
        }
        **room -= takes;
        let bytes = entry.ram.as_ref().expect("what is not on disk is in RAM");
        entry.disk = OnDisk::Queued;
        held.unwritten -= 1;
        queued.push(Queued::Entry(Place {
            epoch,
            lane,
            from: entry.from,
            to: entry.to,
        }));
        records.push(Append {
            head: batch_head(lane, entry.to),
            payload: encode_batch(&record_of(entry), bytes),
        });
    }
    true
}
