//! Merge: the frozen rows of level 0 become segments, one a partition, named by the command and
//! holding exactly its rows. Then one transaction makes them, the state and the log position
//! durable together; until then nothing of it is believed, and it can be done again.
//!
//! A partition collects one segment a merge; merging the small ones again, and sealing, comes later.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use journal::Storage;

use super::block;
use super::error::StoreError;
use super::manifest::{Durable, Manifest};
use super::memory::RowList;
use super::partition::Partition;
use super::room;
use super::segment::{SegmentFile, SegmentHandle, SegmentHead, SegmentWriter};
use crate::state::rows::SeriesRows;
use crate::state::{SeriesId, State};

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
}

/// A merge that is durable.
pub struct Merged {
    pub(super) durable: Durable,
    pub(super) files: Vec<Arc<SegmentHandle>>,
}

impl MergeJob {
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Writes and syncs the segments, then the transaction. After an I/O error nothing changed
    /// that a restart would believe.
    ///
    /// # Errors
    /// `Full`: it can be run again. After any other error of the disk the node must restart first.
    pub fn run(&self) -> Result<Merged, StoreError> {
        let state: Bytes = self.state.encode().into();
        let files = self.write_segments(state.len());
        let files = files.map_err(StoreError::or_full)?;
        let durable = Durable {
            index: self.index,
            installs: self.installs,
            raft: self.raft.clone(),
            state,
            files: Vec::new(),
        };
        self.manifest.advance(self.expected, &durable, &files)?;
        let handles = files
            .into_iter()
            .map(|file| SegmentHandle::open(&self.segments, file, self.state.catalog()))
            .collect::<Result<_, _>>()?;
        Ok(Merged {
            durable,
            files: handles,
        })
    }

    /// Segments that are durable, and room for a transaction with so large a state beside them. What
    /// had no room is gone again.
    fn write_segments(&self, state_bytes: usize) -> Result<Vec<SegmentFile>, StoreError> {
        let merged_at = self.state.now().0;
        let mut output = Output {
            hours: self.state.settings().partition_hours(),
            plausible: self.state.plausible_times(),
            gathered: BTreeMap::new(),
            gathered_bytes: 0,
            writers: BTreeMap::new(),
            head: |partition| SegmentHead {
                command: self.index,
                partition,
                merged_at,
            },
            storage: &*self.segments,
        };
        let written = self
            .write_rows(&mut output)
            .and_then(|()| output.complete())
            .and_then(|()| room::seek(&*self.segments, ROOM_FILE, state_bytes));
        if let Err(error) = written {
            output.abandon();
            return Err(error);
        }
        let files = output.name()?;
        if !files.is_empty() {
            let synced = self.segments.sync_directory();
            synced.map_err(|source| StoreError::io("segments", source))?;
        }
        Ok(files)
    }

    fn write_rows<F>(&self, output: &mut Output<'_, F>) -> Result<(), StoreError>
    where
        F: Fn(Partition) -> SegmentHead,
    {
        for series in passes(&self.rows) {
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

/// Ranges of series that are gathered together, in ascending order.
fn passes(rows: &RowList) -> Vec<RangeInclusive<SeriesId>> {
    let mut weights: BTreeMap<SeriesId, u64> = BTreeMap::new();
    for rows in rows.rows.iter() {
        rows.weights(|series, values| *weights.entry(series).or_insert(0) += values);
    }
    let mut passes: Vec<RangeInclusive<SeriesId>> = Vec::new();
    let mut sum = 0;
    for (series, values) in weights {
        match passes.last_mut() {
            Some(pass) if sum + values <= PASS_VALUES_MAX => *pass = *pass.start()..=series,
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
    hours: u32,
    plausible: Option<RangeInclusive<i64>>,
    gathered: BTreeMap<(SeriesId, Partition), SeriesRows>,
    gathered_bytes: usize,
    writers: BTreeMap<Partition, SegmentWriter>,
    head: F,
    storage: &'a dyn Storage,
}

impl<F: Fn(Partition) -> SegmentHead> Output<'_, F> {
    fn take(&mut self, rows: SeriesRows) -> Result<(), StoreError> {
        let of = |time: &i64| Partition::of(*time, self.hours, self.plausible.as_ref());
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
        if !self.writers.contains_key(&partition) {
            let writer = SegmentWriter::create(self.storage, (self.head)(partition))?;
            self.writers.insert(partition, writer);
        }
        let writer = self.writers.get_mut(&partition).expect("just made");
        rows.sort_by_time();
        let mut written = Ok(());
        block::cut(&rows, &mut |piece| {
            if written.is_ok() {
                written = writer.add(&piece);
            }
        });
        written
    }

    fn complete(&mut self) -> Result<(), StoreError> {
        let mut writers = self.writers.values_mut();
        writers.try_for_each(SegmentWriter::complete)
    }

    fn name(self) -> Result<Vec<SegmentFile>, StoreError> {
        self.writers
            .into_values()
            .map(|writer| writer.name(self.storage))
            .collect()
    }

    fn abandon(self) {
        let writers = self.writers.into_values();
        writers.for_each(|writer| writer.abandon(self.storage));
    }
}
