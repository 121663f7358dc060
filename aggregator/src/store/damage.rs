//! What of the stored bytes cannot be read: told once in the log, and kept with its segment until
//! the segment goes, or is found to be whole again. Node-local: other nodes have files of their own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::id::TimeNs;

use super::error::StoreError;
use super::reader::View;
use super::segment::{SegmentFile, SegmentHandle, is_rollup};
use crate::state::{Catalog, State};

/// Lines of one file in the log; a file of which little is left would fill it.
const LINES_MAX: usize = 16;

/// Which part of a segment: its file as a whole, or a block by its place in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    File,
    Block(usize),
}

#[derive(Debug, Clone)]
struct Fault {
    offset: u64,
    what: String,
    found_at: TimeNs,
}

/// What is known to be damaged of one segment: at most an entry for each block and one for the file.
#[derive(Debug, Default)]
pub(super) struct Faults {
    // A std mutex: held for a few instructions.
    by_place: Mutex<BTreeMap<Place, Fault>>,
}

/// One row of the table `node_damage`: something that this node cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageRow {
    pub file: String,
    /// First UTC hour since 1970 and length in hours, as in the file's name; or `wild`.
    pub partition: String,
    /// In bytes.
    pub offset: u64,
    /// Of a block; `None`: it is not known what is affected, so all of the file's partition is.
    pub block: Option<DamagedBlock>,
    /// Of the rows that cannot be read; of a file as a whole those of its partition.
    pub time_min: Option<TimeNs>,
    pub time_max: Option<TimeNs>,
    pub what: String,
    /// Replicated time then.
    pub found_at: TimeNs,
}

/// Whose rows a damaged block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedBlock {
    pub series: u32,
    pub table: String,
    pub device: String,
    pub rows: u32,
}

/// How much this node cannot read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DamageCount {
    /// Files of which anything cannot be read.
    pub files: usize,
    pub blocks: usize,
}

impl Faults {
    fn by_place(&self) -> MutexGuard<'_, BTreeMap<Place, Fault>> {
        self.by_place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_place().is_empty()
    }

    /// Whether this block, or the file as a whole, is not to be read.
    pub(super) fn concern(&self, block: usize) -> bool {
        let by_place = self.by_place();
        let all = [Place::File, Place::Block(block)];
        all.iter().any(|place| by_place.contains_key(place))
    }

    /// It was read and is sound. Whether there was a fault.
    pub(super) fn clear(&self, place: Place) -> bool {
        self.by_place().remove(&place).is_some()
    }

    /// All of it was read and is sound.
    pub(super) fn clear_all(&self) {
        self.by_place().clear();
    }

    fn blocks(&self) -> usize {
        let by_place = self.by_place();
        by_place.keys().filter(|at| **at != Place::File).count()
    }

    /// How many there are now, if this one is to be told: a block once, a file when something else is
    /// the matter with it.
    fn add(&self, place: Place, fault: Fault) -> Option<usize> {
        let mut by_place = self.by_place();
        let known = by_place.get(&place);
        let is_same = |known: &Fault| known.offset == fault.offset && known.what == fault.what;
        if known.is_some_and(is_same) {
            return None;
        }
        let is_told = known.is_none() || place == Place::File;
        by_place.insert(place, fault);
        is_told.then_some(by_place.len())
    }
}

/// Keeps and tells what was found when reading a segment; other errors than damage are the caller's.
/// `state`: of the view that was read.
pub(super) fn report(segment: &SegmentHandle, place: Place, error: &StoreError, state: &State) {
    let StoreError::Damaged { offset, what, .. } = error else {
        return;
    };
    let fault = Fault {
        offset: *offset,
        what: what.clone(),
        found_at: state.now(),
    };
    let row = row(segment, place, &fault, state.catalog());
    match segment.faults.add(place, fault) {
        Some(nth) if nth <= LINES_MAX => tell(&row),
        Some(nth) if nth == LINES_MAX + 1 => tracing::error!(
            file = row.file,
            "more of this file cannot be read than is told here: see the table node_damage"
        ),
        _ => {}
    }
}

fn tell(row: &DamageRow) {
    if is_rollup(&row.file) {
        tracing::error!(
            file = row.file,
            offset = row.offset,
            what = row.what,
            "stored bytes of a rollup are damaged: queries read the rows instead, which takes longer, or \
             fail on this node where the rows are gone; look at its disk, and at the table node_damage"
        );
        return;
    }
    let ns = |time: Option<TimeNs>| time.map(|time| time.0);
    let block = row.block.as_ref();
    tracing::error!(
        file = row.file,
        offset = row.offset,
        what = row.what,
        table = block.map(|block| block.table.as_str()),
        device = block.map(|block| block.device.as_str()),
        rows = block.map(|block| block.rows),
        time_min_ns = ns(row.time_min),
        time_max_ns = ns(row.time_max),
        "stored bytes are damaged: queries of these rows fail on this node and are answered by the \
         others; look at its disk, and at the table node_damage"
    );
}

fn row(segment: &SegmentHandle, place: Place, fault: &Fault, catalog: &Catalog) -> DamageRow {
    let meta = match place {
        Place::Block(at) => segment.blocks.get(at),
        Place::File => None,
    };
    let block = meta.and_then(|meta| {
        let series = catalog.series(meta.series)?;
        let table = catalog.table_by_id(series.table_id)?;
        Some(DamagedBlock {
            series: meta.series.0,
            table: table.name.clone(),
            device: series.device.clone(),
            rows: meta.rows,
        })
    });
    let partition = segment.head.partition;
    let (time_min, time_max) = match (meta, partition.times()) {
        (Some(meta), _) => (Some(meta.time_min), Some(meta.time_max)),
        (None, Some(times)) => (Some(*times.start()), Some(*times.end())),
        (None, None) => (None, None),
    };
    DamageRow {
        file: segment.file.name.clone(),
        partition: partition.to_string(),
        offset: fault.offset,
        block,
        time_min: time_min.map(TimeNs),
        time_max: time_max.map(TimeNs),
        what: fault.what.clone(),
        found_at: fault.found_at,
    }
}

impl View {
    /// What of its segments is known to be damaged on this node, by file and offset. Not what nobody
    /// has tried to read yet.
    pub fn damage(&self) -> Vec<DamageRow> {
        let mut rows = Vec::new();
        for segment in self.files() {
            let faults = segment.faults.by_place().clone();
            let of = |(place, fault)| row(segment, place, &fault, self.catalog());
            rows.extend(faults.into_iter().map(of));
        }
        rows.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
        rows
    }

    /// The segments that hold it: what to ask a peer for. Without a rollup it goes as well.
    pub fn damaged_files(&self) -> Vec<SegmentFile> {
        let spoilt = self.segments.iter().filter(|segment| segment.is_spoilt());
        spoilt.map(|segment| segment.file.clone()).collect()
    }

    /// The same in numbers.
    pub fn damage_count(&self) -> DamageCount {
        let mut count = DamageCount::default();
        for segment in self.files() {
            count.files += usize::from(segment.is_spoilt());
            count.blocks += segment.faults.blocks();
        }
        count
    }
}
