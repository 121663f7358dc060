//! Runs: neighbouring batches of a lane and of one journal file of which only the sum is held, so
//! that memory does not grow with the backlog. What is sent next, gap records and what is not on
//! disk stay as they are.
//!
//! A run is read back, and is entries again, before anything happens to a batch in it: before it is
//! sent, dropped, thinned or written again. The buffer says which ([`Buffer::run_at`],
//! [`Buffer::wanted`]), the keeper reads ([`RunToLoad::read`]), and [`Buffer::loaded`] takes it.

use std::collections::BTreeMap;
use std::time::Duration;

use journal::{Position as DiskPosition, Reader, Skipped};
use shared::batch::{GapReason, Kind};
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};

use super::lane::{Entry, Form, LaneShelf, OnDisk, Share};
use super::record::KIND_BATCH;
use super::recover::read_entry;
use super::{Buffer, Place, Settled, forget};
use crate::handed::Class;

/// For [`BufferOptions::entries_near`](super::BufferOptions): as many as may ever be in flight.
pub const ENTRIES_NEAR: usize = 1_024;
/// Batches of one run.
pub(super) const RUN_BATCHES_MAX: usize = 512;
/// From the first byte of a run in its file to the last: read at once.
pub(super) const RUN_BYTES_MAX: u32 = 512 << 10;

/// What is held of a run besides what an entry has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Run {
    /// Where in its file the last batch ends; the first stands where the entry does.
    pub(super) end: u32,
    /// When the oldest reading of the newest batch came.
    pub(super) born_last: Duration,
    pub(super) shares: Vec<Share>,
}

/// A run that has to be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunToLoad {
    place: Place,
    first: DiskPosition,
    end: u32,
}

/// What was read back of a run.
#[derive(Debug)]
pub struct LoadedRun {
    pub(super) place: Place,
    /// In number order; what is missing is damaged.
    pub(super) entries: Vec<Entry>,
    damaged: Vec<Skipped>,
}

impl RunToLoad {
    pub(super) fn of(epoch: Epoch, lane: Lane, entry: &Entry) -> Option<RunToLoad> {
        let OnDisk::At(first) = entry.disk else {
            return None;
        };
        let run = entry.run.as_ref()?;
        Some(RunToLoad {
            place: Place {
                epoch,
                lane,
                from: entry.from,
                to: entry.to,
            },
            first,
            end: run.end,
        })
    }

    pub fn read(&self, reader: &Reader) -> LoadedRun {
        let Place {
            epoch,
            lane,
            from,
            to,
        } = self.place;
        let span = reader.read_span(self.first, self.end).unwrap_or_default();
        let mut entries = BTreeMap::new();
        for (position, head, payload) in span.records {
            let of_lane = head.kind == KIND_BATCH && head.group == lane as u32;
            if !of_lane || !(from.0..=to.0).contains(&head.number) {
                continue;
            }
            let Ok((header, kind, entry)) = read_entry(position, &payload) else {
                continue;
            };
            if (header.epoch, header.lane) == (epoch, lane) && kind != Kind::Gap {
                entries.insert(entry.to, entry);
            }
        }
        LoadedRun {
            place: self.place,
            entries: entries.into_values().collect(),
            damaged: span.damaged,
        }
    }
}

impl LoadedRun {
    /// Batches that could not be read.
    pub fn missing(&self) -> u64 {
        self.place.to.0 + 1 - self.place.from.0 - self.entries.len() as u64
    }

    /// What stood in their place.
    pub fn damaged(&self) -> &[Skipped] {
        &self.damaged
    }
}

/// How entries are to be taken together: the lengths of runs, and 1 for what stays as it is.
pub(super) fn run_lengths<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    batches_max: usize,
) -> Vec<usize> {
    let mut lengths: Vec<usize> = Vec::new();
    let mut open: Option<(DiskPosition, &Entry)> = None;
    for entry in entries {
        let first = open.and_then(|(first, before)| {
            let fits = lengths.last().is_some_and(|length| *length < batches_max);
            let position = following(before, entry).filter(|_| fits)?;
            (position.end() - first.offset() <= RUN_BYTES_MAX).then_some(first)
        });
        match (first, lengths.last_mut()) {
            (Some(_), Some(length)) => *length += 1,
            _ => lengths.push(1),
        }
        open = position_in_run(entry).map(|own| (first.unwrap_or(own), entry));
    }
    lengths
}

/// Where an entry stands, if it may be part of a run.
fn position_in_run(entry: &Entry) -> Option<DiskPosition> {
    let is_batch = entry.gap.is_none() && entry.run.is_none();
    match entry.disk {
        OnDisk::At(position)
            if is_batch && entry.waiters.is_empty() && !entry.form.is_held_back() =>
        {
            Some(position)
        }
        _ => None,
    }
}

/// Where an entry stands, if it may follow another in a run.
fn following(before: &Entry, next: &Entry) -> Option<DiskPosition> {
    let (first, second) = (position_in_run(before)?, position_in_run(next)?);
    let follows = next.from == before.to.next() && next.previous == before.digest;
    let behind = first.file() == second.file() && first.end() <= second.offset();
    (follows && behind).then_some(second)
}

/// The entries, with those of a length in one run, and what each run stands for.
pub(super) fn summed_up(
    mut entries: impl Iterator<Item = Entry>,
    lengths: Vec<usize>,
) -> impl Iterator<Item = (Entry, Vec<Entry>)> {
    lengths.into_iter().filter_map(move |length| {
        if length == 1 {
            return entries.next().map(|one| (one, Vec::new()));
        }
        let members: Vec<Entry> = entries.by_ref().take(length).collect();
        Some((sum(&members.iter().collect::<Vec<_>>()), members))
    })
}

/// The run of neighbours that [`run_lengths`] took together.
pub(super) fn sum(members: &[&Entry]) -> Entry {
    let (first, last) = (members[0], members[members.len() - 1]);
    let end = match last.disk {
        OnDisk::At(position) => position.end(),
        OnDisk::No | OnDisk::Queued => unreachable!("only what is on disk is part of a run"),
    };
    let mut shares: Vec<Share> = Vec::new();
    for one in members.iter().flat_map(|member| member.shares()) {
        let known = shares
            .iter_mut()
            .find(|known| (known.class, known.thin) == (one.class, one.thin));
        match known {
            Some(known) => known.sum.add(one.sum),
            None => shares.push(one),
        }
    }
    let all = || members.iter();
    Entry {
        from: first.from,
        to: last.to,
        previous: first.previous,
        digest: last.digest,
        names_needed: all().map(|one| one.names_needed).max().unwrap_or_default(),
        readings: all().map(|one| one.readings).sum(),
        gap: None,
        run: Some(Box::new(Run {
            end,
            born_last: last.born,
            shares,
        })),
        class: Class::default(),
        form: Form::Whole,
        boot_relative: false,
        sealed_at: all().map(|one| one.sealed_at).min().unwrap_or_default(),
        born: all().map(|one| one.born).min().unwrap_or_default(),
        size: all().map(|one| one.size).sum(),
        ram: None,
        disk: first.disk,
        urgent: false,
        waiters: Vec::new(),
    }
}

impl Buffer {
    /// The run that has to be loaded before the batch with the next number of a stream is known.
    pub fn run_at(&self, epoch: Epoch, lane: Lane, next: BatchNumber) -> Option<RunToLoad> {
        let held = self.lane(epoch, lane).filter(|held| !held.forked)?;
        RunToLoad::of(epoch, lane, held.at_or_after(next)?)
    }

    /// The run in the middle of which a number stands. At its ends a run tells the digest itself.
    pub fn run_around(&self, epoch: Epoch, lane: Lane, number: BatchNumber) -> Option<RunToLoad> {
        let held = self.lane(epoch, lane).filter(|held| !held.forked)?;
        let around = |run: &&Entry| run.from <= number && number < run.to;
        RunToLoad::of(epoch, lane, held.at_or_after(number).filter(around)?)
    }

    /// The run that has to be loaded before what was asked for can be done: make room, thin, or
    /// write again. Then it is to be asked for once more.
    pub fn wanted(&mut self) -> Option<RunToLoad> {
        let place = self.wanted.take()?;
        self.run_at_place(place)
    }

    fn run_at_place(&self, place: Place) -> Option<RunToLoad> {
        let held = self.lane(place.epoch, place.lane)?;
        RunToLoad::of(place.epoch, place.lane, held.at_or_after(place.from)?)
    }

    /// Whether this is a run: it is wanted then.
    pub(super) fn wants(&mut self, place: Place) -> bool {
        let is_run = self.run_at_place(place).is_some();
        if is_run {
            self.wanted = Some(place);
        }
        is_run
    }

    /// Takes a run's batches in its stead; gap records take the place of what could not be read.
    pub fn loaded(&mut self, loaded: LoadedRun, wall: TimeNs) -> Settled {
        let mut settled = Settled::default();
        let LoadedRun { place, entries, .. } = loaded;
        let Some(at) = self.epochs.iter().rposition(|one| one.epoch == place.epoch) else {
            return settled;
        };
        let clock = self.epochs[at].early.clock;
        let lane = &mut self.epochs[at].lanes[place.lane as usize];
        let index = lane.index_of(place.to);
        let is_it =
            |one: &&Entry| one.run.is_some() && (one.from, one.to) == (place.from, place.to);
        if !lane.entries.get(index).as_ref().is_some_and(is_it) {
            return settled;
        }
        let run = lane.entries.remove(index).expect("just seen");
        let (mut whole, lost) = complete(&run, entries);
        forget(&mut self.held, &run);
        self.held.readings_pending -= run.pending();
        for entry in &mut whole {
            self.options.classes.make_known(entry);
            if entry.boot_relative {
                entry.names_needed = entry.names_needed.max(clock.unwrap_or_default());
            }
            self.held.bytes += entry.held_bytes();
            self.held.readings_pending += entry.pending();
            self.held.count(entry);
            *self.unacked_since.entry(entry.sealed_at).or_default() += 1;
        }
        self.uncount(run.sealed_at);
        let lane = &mut self.epochs[at].lanes[place.lane as usize];
        let behind = lane.entries.split_off(index);
        lane.entries.extend(whole);
        lane.entries.extend(behind);
        // Some may be of another form than the run's sums said.
        lane.looked = Default::default();
        for (from, to) in lost {
            let place = Place { from, to, ..place };
            settled.add(self.drop_batch(place, GapReason::Damaged, wall));
        }
        settled
    }

    /// Holds as runs what is far from being sent, where there is much of it.
    pub(super) fn sum_up(&mut self) {
        let near = self.options.entries_near;
        let batches_max = RUN_BATCHES_MAX.min(near);
        let mut summed = Vec::new();
        for shelf in &mut self.epochs {
            for lane in &mut shelf.lanes[Lane::Live as usize..] {
                sum_up_lane(lane, near, batches_max, &mut summed);
            }
        }
        for (run, members) in summed {
            for entry in members {
                self.uncount(entry.sealed_at);
                if entry.ram.is_some() {
                    self.held.ram_bytes -= entry.size;
                }
            }
            *self.unacked_since.entry(run).or_default() += 1;
        }
    }
}

/// Adds when the oldest of each new run was sealed, and what it stands for.
fn sum_up_lane(
    lane: &mut LaneShelf,
    near: usize,
    batches_max: usize,
    summed: &mut Vec<(TimeNs, Vec<Entry>)>,
) {
    let start = lane.index_of(lane.acked.last.next()) + near;
    let far = lane.entries.iter().skip(start);
    let single = far.filter(|entry| entry.run.is_none()).count();
    // Gap records between batches stay single: looking at them again would find them again.
    lane.single_left = lane.single_left.min(single);
    if single <= lane.single_left + 2 * batches_max {
        return;
    }
    let mut rest = lane.entries.split_off(start);
    let mut lengths = run_lengths(rest.iter(), batches_max);
    // More may still come to the last one.
    lengths.pop();
    let far: usize = lengths.iter().sum();
    lane.single_left = 0;
    for (entry, members) in summed_up(rest.drain(..far), lengths) {
        lane.single_left += usize::from(entry.run.is_none());
        if !members.is_empty() {
            summed.push((entry.sealed_at, members));
        }
        lane.entries.push_back(entry);
    }
    lane.entries.append(&mut rest);
    lane.entries.shrink_to(2 * lane.entries.len());
}

/// The batches of a run, and one entry for each part that is missing, with its numbers. What is
/// missing in the run's sums is said of the first such part.
fn complete(run: &Entry, found: Vec<Entry>) -> (Vec<Entry>, Vec<(BatchNumber, BatchNumber)>) {
    let mut readings = found
        .iter()
        .fold(run.readings, |left, one| left.saturating_sub(one.readings));
    let mut size = found
        .iter()
        .fold(run.size, |left, one| left.saturating_sub(one.size));
    let thin_only = |class| {
        let mut shares = run.shares().filter(|share| share.class == class);
        shares.all(|share| share.thin)
    };
    let born_last = run.run.as_ref().map_or(run.born, |run| run.born_last);
    let (mut whole, mut lost) = (Vec::with_capacity(found.len()), Vec::new());
    let (mut next, mut before) = (run.from, run.previous);
    let mut lose = |from: BatchNumber, to, previous, digest| {
        lost.push((from, to));
        Entry {
            from,
            to,
            previous,
            digest,
            readings: std::mem::take(&mut readings),
            size: std::mem::take(&mut size),
            run: None,
            disk: run.disk,
            ram: None,
            waiters: Vec::new(),
            ..*run
        }
    };
    for mut entry in found {
        if entry.from > next {
            let to = BatchNumber(entry.from.0 - 1);
            whole.push(lose(next, to, before, entry.previous));
        }
        (next, before) = (entry.to.next(), entry.digest);
        // Of how it was thinned the disk may know less.
        if entry.is_data() && thin_only(entry.class) {
            entry.form = Form::Thin;
        }
        let later_ns = entry.sealed_at.0.saturating_sub(run.sealed_at.0);
        let later = Duration::from_nanos(u64::try_from(later_ns).unwrap_or(0));
        entry.born = (run.born + later).min(born_last);
        whole.push(entry);
    }
    if next <= run.to {
        whole.push(lose(next, run.to, before, run.digest));
    }
    (whole, lost)
}
