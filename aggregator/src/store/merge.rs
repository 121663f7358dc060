//! Merge: the frozen rows of level 0 become segments, one a partition and time that tables are kept,
//! named by the command and holding exactly its rows. Then one transaction makes them, the state and the log position
//! durable together; until then nothing of it is believed, and it can be done again.
//!
//! A partition collects one segment a merge, until one of them seals it: that takes along what the
//! segments before hold, and takes their place in the same transaction.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use journal::Storage;

use super::block;
use super::claims::Claims;
use super::damage::{self, Place};
use super::error::StoreError;
use super::manifest::{Durable, Manifest};
use super::memory::RowList;
use super::open_what_is_left;
use super::partition::Partition;
use super::rollup::{self, Rolling, Worth};
use super::room;
use super::sealing::SealGroup;
use super::segment::{SegmentFile, SegmentHandle, SegmentHead, is_rollup};
use super::writer::{RollupWriter, SegmentWriter};
use crate::state::rows::SeriesRows;
use crate::state::{Catalog, SeriesId, State};

/// Values of 8 bytes that one pass over the rows gathers in memory, times included.
const PASS_VALUES_MAX: u64 = 8 << 20;
/// Memory of gathered rows above which they are written before their pass ends: long texts.
const GATHERED_BYTES_MAX: usize = 256 << 20;
/// What tries the room; removed at once, or when the store is opened.
const ROOM_FILE: &str = "room-merge.tmp";

/// The I/O of one merge, to be run on any thread, in the order in which merges began.
pub struct MergeJob {
    pub(super) index: u64,
    /// Where the manifest must stand: at the merge before.
    pub(super) expected: u64,
    pub(super) installs: u64,
    pub(super) rows: RowList,
    pub(super) state: State,
    pub(super) raft: Bytes,
    pub(super) manifest: Arc<Manifest>,
    pub(super) segments: Arc<dyn Storage>,
    pub(super) claims: Arc<Claims>,
    pub(super) seal: Option<SealGroup>,
    /// Of the segments that are sealed.
    pub(super) rollups: Vec<Arc<SegmentHandle>>,
    /// Damaged rollups, which go whatever is written: else each would be told for ever.
    pub(super) spoilt: Vec<Arc<SegmentHandle>>,
    pub(super) worth: Worth,
    /// What is synced and named, once it is: only the transaction is tried again. One that was told of
    /// a full disk may have been committed.
    pub(super) written: OnceLock<Written>,
    /// The node stops: what takes long may give up.
    pub(super) stops: Arc<AtomicBool>,
}

/// What a job wrote.
#[derive(Debug, Clone)]
pub(super) struct Written {
    files: Vec<SegmentFile>,
    seals: bool,
}

/// A merge that is durable.
pub struct Merged {
    pub(super) durable: Durable,
    pub(super) files: Vec<Arc<SegmentHandle>>,
    /// What it took the place of.
    pub(super) replaced: Vec<Arc<SegmentHandle>>,
}

impl Merged {
    /// Bytes of the segments that it made.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|one| one.file.len).sum()
    }
}

impl MergeJob {
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Once this is true, sealing gives up: nothing changed then that a restart would believe.
    pub fn stop_by(&mut self, stops: Arc<AtomicBool>) {
        self.stops = stops;
    }

    /// Writes and syncs the segments, then the transaction. After an I/O error nothing changed
    /// that a restart would believe.
    ///
    /// # Errors
    /// `Full`: it can be run again. After any other error of the disk the node must restart first.
    pub fn run(&self) -> Result<Merged, StoreError> {
        let state: Bytes = self.state.encode().into();
        let written = match self.written.get() {
            Some(written) => written,
            None => {
                let written = self.write_what_fits(state.len())?;
                self.written.get_or_init(|| written)
            }
        };
        let files = &written.files;
        let mut replaced = self.spoilt.clone();
        if let Some(seal) = self.seal.as_ref().filter(|_| written.seals) {
            let both = seal.segments.iter().chain(&self.rollups);
            replaced.extend(both.map(Arc::clone));
        }
        let durable = Durable {
            index: self.index,
            installs: self.installs,
            raft: self.raft.clone(),
            state,
            files: Vec::new(),
        };
        let gone: Vec<&str> = replaced.iter().map(|one| one.file.name.as_str()).collect();
        self.manifest
            .advance(self.expected, &durable, files, &gone)?;
        for rollup in &self.spoilt {
            let file = rollup.file.name.as_str();
            tracing::warn!(file, "a damaged rollup is removed: the rows answer");
        }
        let open = |file: &SegmentFile| {
            if is_rollup(&file.name) {
                open_what_is_left(&self.claims, file, &self.state)
            } else {
                SegmentHandle::open(&self.claims, file.clone(), self.state.catalog())
            }
        };
        let handles = files.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Merged {
            durable,
            files: handles,
            replaced,
        })
    }

    /// Whether some of what is replaced is to outlive the rows: what was written once is not given up for
    /// want of room.
    fn owes_rollups(&self) -> bool {
        self.rollups.iter().any(|one| one.head.is_whole)
    }

    /// New segments, and whether they seal. That needs room for a partition twice: where it is not
    /// there, the rows of level 0 must not wait for it.
    fn write_what_fits(&self, state_bytes: usize) -> Result<Written, StoreError> {
        if let Some(seal) = &self.seal {
            let mut written = self.write_segments(state_bytes, Some(seal), true);
            if let Err(Fault::Crowded(error)) = &written
                && !self.owes_rollups()
            {
                tracing::warn!(%error, "no room to seal a partition with its rollups: it is tried without");
                written = self.write_segments(state_bytes, Some(seal), false);
            }
            match written {
                Ok(files) => return Ok(Written { files, seals: true }),
                Err(Fault::Unreadable(error)) => {
                    tracing::error!(%error, "a partition is not sealed: it stays in parts");
                }
                Err(Fault::Crowded(error) | Fault::Store(error @ StoreError::Full { .. })) => {
                    tracing::warn!(%error, "no room to seal a partition: it stays in parts");
                }
                Err(Fault::Store(error)) => return Err(error),
            }
        }
        let files = self.write_segments(state_bytes, None, false);
        let files = files.map_err(|fault| match fault {
            Fault::Store(error) | Fault::Crowded(error) | Fault::Unreadable(error) => error,
        })?;
        Ok(Written {
            files,
            seals: false,
        })
    }

    /// Segments that are durable, and room for a transaction with so large a state beside them. What
    /// had no room is gone again.
    fn write_segments(
        &self,
        state_bytes: usize,
        seal: Option<&SealGroup>,
        rolls_up: bool,
    ) -> Result<Vec<SegmentFile>, Fault> {
        let merged_at = self.state.now().0;
        let mut output = Output {
            seal,
            state: &self.state,
            gathered: BTreeMap::new(),
            gathered_bytes: 0,
            writers: BTreeMap::new(),
            rollups: BTreeMap::new(),
            rolls_up,
            owes_rollups: self.owes_rollups(),
            worth: self.worth,
            head: |partition| SegmentHead {
                command: self.index,
                partition,
                merged_at,
                resolution: None,
                is_whole: false,
            },
            storage: &*self.segments,
        };
        let mut files = Vec::new();
        let written = self
            .write_rows(seal, &mut output)
            .and_then(|()| Ok(output.complete()?))
            .and_then(|()| Ok(output.seek_room(state_bytes)?))
            .and_then(|()| Ok(output.name(&mut files)?))
            .and_then(|()| Ok(self.sync_names(&files)?));
        let Err(fault) = written else {
            return Ok(files);
        };
        let is_crowded = !output.rollups.is_empty();
        output.abandon();
        self.take_back(&files);
        Err(match fault {
            Fault::Store(error @ StoreError::Full { .. }) if is_crowded => Fault::Crowded(error),
            other => other,
        })
    }

    fn sync_names(&self, files: &[SegmentFile]) -> Result<(), StoreError> {
        if files.is_empty() {
            return Ok(());
        }
        let synced = self.segments.sync_directory();
        synced.map_err(|source| StoreError::io("segments", source))
    }

    /// Removes what has its name already, unless a snapshot has brought the same meanwhile.
    fn take_back(&self, files: &[SegmentFile]) {
        let names = files.iter().map(|file| file.name.clone());
        let _promise = self.claims.promise(names.collect());
        files.iter().for_each(|file| self.claims.disown(&file.name));
    }

    fn write_rows<F>(
        &self,
        seal: Option<&SealGroup>,
        output: &mut Output<'_, F>,
    ) -> Result<(), Fault>
    where
        F: Fn(Partition) -> SegmentHead,
    {
        for series in passes(&self.rows, seal, self.state.catalog()) {
            if let Some(seal) = seal {
                let take = &mut |rows| output.gather(seal.partition, rows);
                seal.read(&series, &self.state, &self.stops, take)?;
            }
            for rows in self.rows.rows.iter() {
                let mut failed = Ok(());
                let decoded = rows.expand(&|id| series.contains(&id), &mut |rows| {
                    if failed.is_ok() {
                        failed = output.take(rows);
                    }
                });
                failed?;
                decoded.map_err(|_| {
                    StoreError::damaged("level 0", 0, "a batch does not decode any more")
                })?;
            }
            output.flush()?;
        }
        Ok(())
    }
}

/// Why segments were not written.
enum Fault {
    /// Part of what was to be sealed. It is an error to whoever asks for it, and holds up nobody else.
    Unreadable(StoreError),
    /// No room beside the rollups, which took some.
    Crowded(StoreError),
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error.or_full())
    }
}

impl SealGroup {
    /// The rows of some series, as they came.
    fn read(
        &self,
        series: &RangeInclusive<SeriesId>,
        state: &State,
        stops: &AtomicBool,
        take: &mut dyn FnMut(SeriesRows) -> Result<(), StoreError>,
    ) -> Result<(), Fault> {
        for segment in &self.segments {
            let unreadable = |place, error| {
                damage::report(segment, place, &error, state);
                Fault::Unreadable(error)
            };
            let blocks = &segment.blocks;
            let from = blocks.partition_point(|block| block.series < *series.start());
            let ours = blocks.iter().enumerate().skip(from);
            let content = segment.content();
            let content = content.map_err(|error| unreadable(Place::File, error))?;
            for (at, block) in ours.take_while(|(_, block)| block.series <= *series.end()) {
                if stops.load(Ordering::Relaxed) {
                    return Err(StoreError::Superseded.into());
                }
                let rows = segment.read(&*content, block, &|_| true);
                take(rows.map_err(|error| unreadable(Place::Block(at), error))?)?;
            }
        }
        Ok(())
    }

    fn weights(&self, catalog: &Catalog, mut add: impl FnMut(SeriesId, u64)) {
        // Short blocks do not say how many columns they have.
        let width_most = |series| {
            let info = catalog.series(series)?;
            Some(catalog.table_by_id(info.table_id)?.fields.len())
        };
        // Every row of a series gets a place in every column that any of them has.
        let mut all: BTreeMap<SeriesId, (u64, usize)> = BTreeMap::new();
        for block in self.segments.iter().flat_map(|segment| &segment.blocks) {
            let (rows, widest) = all.entry(block.series).or_default();
            let width = match block.columns.len() {
                0 => width_most(block.series).unwrap_or(0),
                columns => columns,
            };
            *rows += u64::from(block.rows);
            *widest = (*widest).max(width);
        }
        for (series, (rows, width)) in all {
            add(series, rows * (width as u64 + 1));
        }
    }
}

/// Ranges of series that are gathered together, in ascending order.
fn passes(
    rows: &RowList,
    seal: Option<&SealGroup>,
    catalog: &Catalog,
) -> Vec<RangeInclusive<SeriesId>> {
    let mut weights: BTreeMap<SeriesId, u64> = BTreeMap::new();
    if let Some(seal) = seal {
        seal.weights(catalog, |series, values| {
            *weights.entry(series).or_insert(0) += values;
        });
    }
    for rows in rows.rows.iter() {
        rows.weights(|series, values| *weights.entry(series).or_insert(0) += values);
    }
    ranges(weights, PASS_VALUES_MAX)
}

/// Neighbours whose weights come to at most so much, or one that has more.
pub(super) fn ranges(
    weights: BTreeMap<SeriesId, u64>,
    values_max: u64,
) -> Vec<RangeInclusive<SeriesId>> {
    let mut passes: Vec<RangeInclusive<SeriesId>> = Vec::new();
    let mut sum = 0;
    for (series, values) in weights {
        match passes.last_mut() {
            Some(pass) if sum + values <= values_max => *pass = *pass.start()..=series,
            _ => {
                sum = 0;
                passes.push(series..=series);
            }
        }
        sum += values;
    }
    passes
}

/// Sorts rows into partitions, gathers them by series and writes them as blocks.
struct Output<'a, F: Fn(Partition) -> SegmentHead> {
    seal: Option<&'a SealGroup>,
    state: &'a State,
    gathered: BTreeMap<(SeriesId, Partition), SeriesRows>,
    gathered_bytes: usize,
    /// Also by how long tables are kept.
    writers: BTreeMap<(Partition, u32), SegmentWriter>,
    /// Of segments that are sealed.
    rollups: BTreeMap<(Partition, u32, Rolling), RollupWriter>,
    /// There was room for rollups until now.
    rolls_up: bool,
    /// Nothing is sealed without them.
    owes_rollups: bool,
    worth: Worth,
    head: F,
    storage: &'a dyn Storage,
}

impl<F: Fn(Partition) -> SegmentHead> Output<'_, F> {
    fn take(&mut self, rows: SeriesRows) -> Result<(), StoreError> {
        let plausible = self.state.plausible_times(self.kept_days(rows.series));
        let hours = self.state.settings().partition_hours();
        let of = |time: &i64| Partition::of(*time, hours, plausible.as_ref());
        let Some(first) = rows.times.first().map(of) else {
            return Ok(());
        };
        if rows.times.iter().all(|time| of(time) == first) {
            return self.gather(first, rows);
        }
        let mut split: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
        for (row, time) in rows.times.iter().enumerate() {
            split.entry(of(time)).or_default().push(row);
        }
        for (partition, some) in split {
            self.gather(partition, rows.select(&some))?;
        }
        Ok(())
    }

    /// For how long a series is kept by its table's own retention, or 0.
    fn kept_days(&self, series: SeriesId) -> u32 {
        let info = self.state.catalog().series(series);
        info.map_or(0, |info| self.state.table_settings().kept_days(&info.table))
    }

    fn gather(&mut self, partition: Partition, rows: SeriesRows) -> Result<(), StoreError> {
        self.gathered_bytes += rows.bytes_held();
        match self.gathered.entry((rows.series, partition)) {
            Entry::Vacant(entry) => {
                entry.insert(rows);
            }
            Entry::Occupied(mut entry) => entry.get_mut().append(rows),
        }
        if self.gathered_bytes > GATHERED_BYTES_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes what was gathered.
    fn flush(&mut self) -> Result<(), StoreError> {
        self.gathered_bytes = 0;
        for ((_, partition), rows) in std::mem::take(&mut self.gathered) {
            self.write(partition, rows)?;
        }
        Ok(())
    }

    fn write(&mut self, partition: Partition, mut rows: SeriesRows) -> Result<(), StoreError> {
        let kept_days = self.kept_days(rows.series);
        rows.sort_by_time();
        let mut early = 0;
        if self.state.catalog().merges_same_time(rows.series) {
            rows.combine_same_time();
            // A block of wild times on both sides would overlap all that is plausible between them.
            let plausible = self.state.plausible_times(kept_days);
            if let (Partition::Wild, Some(plausible)) = (partition, plausible) {
                early = rows.times.partition_point(|time| time < plausible.start());
            }
        }
        let mut written = Ok(());
        let sides = if early > 0 {
            vec![rows.slice(0..early), rows.slice(early..rows.times.len())]
        } else {
            vec![rows]
        };
        for side in sides {
            block::cut(side, &mut |piece| {
                if written.is_ok() {
                    written = self.write_block((partition, kept_days), &piece);
                }
            });
        }
        written
    }

    fn write_block(&mut self, to: (Partition, u32), rows: &SeriesRows) -> Result<(), StoreError> {
        let (partition, kept_days) = to;
        let seals =
            |seal: &SealGroup| seal.partition == partition && seal.kept_days.contains(&kept_days);
        let is_sealed = self.seal.is_some_and(seals);
        let writer = match self.writers.entry(to) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let head = (self.head)(partition);
                let created = SegmentWriter::create(self.storage, head, kept_days, is_sealed);
                entry.insert(created?)
            }
        };
        let offset = writer.add(rows)?;
        if is_sealed && self.rolls_up {
            let rolled = self.roll_up(to, rows, offset);
            self.do_without_room(rolled)?;
        }
        Ok(())
    }

    /// Without room for rollups their segment goes on alone, where nobody needs them.
    fn do_without_room(&mut self, done: Result<(), StoreError>) -> Result<(), StoreError> {
        match done.map_err(StoreError::or_full) {
            Err(error @ StoreError::Full { .. }) if !self.owes_rollups => {
                self.abandon_rollups(&error);
                Ok(())
            }
            other => other,
        }
    }

    fn abandon_rollups(&mut self, error: &StoreError) {
        tracing::warn!(%error, "no room for the rollups of a partition: it is sealed without");
        self.rolls_up = false;
        for rollup in std::mem::take(&mut self.rollups).into_values() {
            rollup.abandon(self.storage);
        }
    }

    /// What rollups say of a block.
    fn roll_up(
        &mut self,
        (partition, kept_days): (Partition, u32),
        rows: &SeriesRows,
        offset: u64,
    ) -> Result<(), StoreError> {
        for rolling in rollup::rollings(self.state, rows.series) {
            let is_whole = rolling.kept_days.is_some();
            let worth = if is_whole { Worth::ALWAYS } else { self.worth };
            let Some(cells) = rollup::cells(rows, rolling.resolution, worth) else {
                continue;
            };
            let writer = match self.rollups.entry((partition, kept_days, rolling)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let head = SegmentHead {
                        resolution: Some(rolling.resolution),
                        is_whole,
                        ..(self.head)(partition)
                    };
                    let kept_days = (kept_days, rolling.kept_days);
                    entry.insert(RollupWriter::create(self.storage, head, kept_days)?)
                }
            };
            writer.add(&cells, offset)?;
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), StoreError> {
        let mut writers = self.writers.values_mut();
        writers.try_for_each(SegmentWriter::complete)?;
        let mut rollups = self.rollups.values_mut();
        let completed = rollups.try_for_each(RollupWriter::complete);
        self.do_without_room(completed)
    }

    /// For a transaction with so large a state.
    fn seek_room(&mut self, state_bytes: usize) -> Result<(), StoreError> {
        let found = room::seek(self.storage, ROOM_FILE, state_bytes);
        match found.map_err(StoreError::or_full) {
            Err(error @ StoreError::Full { .. })
                if !self.rollups.is_empty() && !self.owes_rollups =>
            {
                self.abandon_rollups(&error);
                room::seek(self.storage, ROOM_FILE, state_bytes)
            }
            other => other,
        }
    }

    /// Gives what is complete its name, and tells it in `files`: also what came before one that failed.
    fn name(&mut self, files: &mut Vec<SegmentFile>) -> Result<(), StoreError> {
        let mut segments = BTreeMap::new();
        while let Some(entry) = self.writers.first_entry() {
            let file = entry.get().name(self.storage)?;
            segments.insert(*entry.key(), file.name.clone());
            entry.remove();
            files.push(file);
        }
        while let Some(entry) = self.rollups.first_entry() {
            let (partition, kept_days, _) = *entry.key();
            let segment = &segments[&(partition, kept_days)];
            files.push(entry.get().name(self.storage, segment)?);
            entry.remove();
        }
        Ok(())
    }

    fn abandon(self) {
        let writers = self.writers.into_values();
        writers.for_each(|writer| writer.abandon(self.storage));
        let rollups = self.rollups.into_values();
        rollups.for_each(|rollup| rollup.abandon(self.storage));
    }
}
