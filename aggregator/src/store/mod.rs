//! What is on disk: level 0 in memory (its log is elsewhere), immutable segments, and the manifest
//! that says which of them count. `state` decides what rows mean, `query` reads views.
//!
//! Invariant: manifest, state and log position move in one transaction; what it does not name is
//! removed at open, what it names is there and checked.

mod error;
mod memory;
mod gather;
mod same_time;
mod packing;
mod strong;
mod sum;
mod block;
mod index;
mod claims;
mod damage;
mod segment;
mod rollup;
mod writer;
mod partition;
mod sealing;
mod manifest;
mod room;
mod merge;
mod reader;
mod group;
mod rolled;
mod kept;
mod aggregate;
mod retention;
mod snapshot;
mod scrub;
mod repair;
mod metrics;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod inspect;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use journal::Storage;

pub use aggregate::{Aggregate, Aggregates, Answer, Buckets, Piece};
pub use claims::{Claims, Promise};
pub use damage::{DamageCount, DamageRow, DamagedBlock};
pub use error::StoreError;
pub use group::{FieldState, Group, Measures};
pub use kept::RollupScan;
pub use merge::{MergeJob, Merged};
pub use metrics::StoreMetrics;
pub use reader::{Chunk, Scan, ScanIter, View, Views};
pub use repair::{RepairEnd, Repaired, repair};
pub use scrub::{ScrubOptions, Scrubber};
pub use segment::SegmentFile;
pub use snapshot::{Outgoing, SnapshotFiles};
pub use sum::Sum;

use crate::state::{Retention, Rows, Sealing, State, StateError};
use manifest::{Durable, Manifest};
use memory::Level0;
use rollup::Worth;
use sealing::SealGroup;
use segment::SegmentHandle;

/// What tries the room for a snapshot: not the file of a merge that may be running.
const INSTALL_ROOM_FILE: &str = "room-install.tmp";

/// The store of one node. One owner; readers hold views.
pub struct Store {
    files: Arc<dyn Storage>,
    claims: Arc<Claims>,
    manifest: Arc<Manifest>,
    level0: Level0,
    segments: Arc<Vec<Arc<SegmentHandle>>>,
    /// Of these segments, sorted by name.
    rollups: Arc<Vec<Arc<SegmentHandle>>>,
    /// From when on rollups are written.
    worth: Worth,
    /// Dropped ones that a view may still read: a snapshot may name their files again.
    doomed: Vec<Weak<SegmentHandle>>,
    /// Index, raft and state of the last transaction; its files are `segments` and `rollups`.
    durable: Durable,
    /// The last merge that began.
    begun: u64,
    drops: Vec<retention::Drop>,
    /// The disk was full when they were last tried.
    drops_wait: bool,
    /// As of the last apply.
    index: u64,
    state: State,
    views: Views,
}

/// What a store had when it was opened: replay the log from `index` + 1.
#[derive(Debug)]
pub struct Recovered {
    pub state: State,
    pub index: u64,
    /// As given to the merge or snapshot; empty for an empty store.
    pub raft: Bytes,
    /// Files that nobody named any more: of merges and snapshots that did not end, and of segments
    /// that were dropped while a view still read them.
    pub removed: usize,
}

impl Store {
    /// Opens a store, or makes an empty one. Removes files that the manifest does not name.
    pub fn open(storage: &dyn Storage) -> Result<(Self, Recovered), StoreError> {
        let io = |source| StoreError::io("segments", source);
        let files = storage.directory("segments").map_err(io)?;
        let segments_left = files.list().map_err(io)?;
        let (manifest, durable) = Manifest::open(storage, &segments_left)?;
        let state = decode_state(&durable.state, State::decode)?;
        check_some_are_there(&segments_left, &durable.files)?;
        let claims = Claims::new(Arc::clone(&files));
        let handles = open_what_can_be(&claims, &durable.files, &state)?;
        let (rollups, segments) = apart(handles);
        // Only now: whatever is wrong with what counts, all that there is must be left to be looked at.
        let removed = remove_unnamed(&*files, segments_left, &durable.files)?;
        let index = durable.index;
        let view = View {
            index,
            state: state.clone(),
            segments: Arc::clone(&segments),
            rollups: Arc::clone(&rollups),
            level0: Vec::new(),
        };
        let recovered = Recovered {
            state: state.clone(),
            index,
            raft: durable.raft.clone(),
            removed,
        };
        let store = Self {
            files,
            claims,
            manifest: Arc::new(manifest),
            level0: Level0::new(),
            segments,
            rollups,
            worth: Worth::default(),
            doomed: Vec::new(),
            durable,
            begun: index,
            drops: Vec::new(),
            drops_wait: false,
            index,
            state,
            views: Views::new(view),
        };
        Ok((store, recovered))
    }

    /// Takes what applying an entry brought and shows it.
    pub fn apply(&mut self, index: u64, state: &State, rows: Vec<Rows>) {
        assert!(
            index > self.index,
            "entry {index} came after {}",
            self.index
        );
        self.index = index;
        self.state = state.clone();
        self.level0.push(rows);
        self.publish();
    }

    pub fn view(&self) -> Arc<View> {
        self.views.latest()
    }

    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// Memory of the rows that no merge has taken yet, about.
    pub fn level0_bytes(&self) -> usize {
        self.level0.open.bytes
    }

    /// Memory of the rows of merges that did not finish, about.
    pub fn frozen_bytes(&self) -> usize {
        let frozen = self.level0.frozen.iter();
        frozen.map(|(_, rows)| rows.bytes).sum()
    }

    /// Merges that began and did not finish.
    pub fn merges_running(&self) -> usize {
        self.level0.frozen.len()
    }

    /// The merge command at `index` was applied: freezes level 0 for it. `raft` is stored with it.
    pub fn begin_merge(&mut self, index: u64, state: &State, raft: Bytes) -> MergeJob {
        self.begin(index, state, raft, None)
    }

    /// As a merge; what segments of a partition hold of some tables becomes one. No merge may be running:
    /// what they hold is what every replica's hold then.
    pub fn begin_seal(
        &mut self,
        index: u64,
        state: &State,
        raft: Bytes,
        sealing: Sealing,
    ) -> MergeJob {
        assert_eq!(self.merges_running(), 0, "sealing begins after all merges");
        let group = sealing::group(&self.segments, sealing, state);
        // One that is sealed already, where another replica's is not, is not written again. What only
        // waits for room to be dropped must be found as the retention command left it.
        let may = |group: &SealGroup| {
            let entangled = same_time::is_entangled(&self.segments, group, state.catalog());
            let is_worth_it = group.is_in_parts() || group.lacks_rollups(&self.rollups, state);
            is_worth_it && group.is_whole() && !entangled && !self.drops_wait
        };
        let group = group.filter(may);
        self.begin(index, state, raft, group)
    }

    fn begin(
        &mut self,
        index: u64,
        state: &State,
        raft: Bytes,
        seal: Option<SealGroup>,
    ) -> MergeJob {
        assert!(
            index > self.begun,
            "merge {index} begins after {}",
            self.begun
        );
        assert_eq!(
            state.index(),
            index,
            "the state is that of the merge command"
        );
        let expected = std::mem::replace(&mut self.begun, index);
        let rows = self.level0.freeze(index);
        self.index = self.index.max(index);
        self.state = state.clone();
        self.publish();
        let sealed = seal.iter().flat_map(|seal| &seal.segments);
        let rollups = sealed.flat_map(|one| rolled::of_segment(&self.rollups, one));
        let rollups = rollups.map(Arc::clone).collect();
        let mut spoilt = rolled::without_need(&self.rollups, &self.segments);
        // Its segment may go while the merge runs; sealing again takes its place.
        spoilt.retain(|rollup| !rollup.head.is_whole);
        MergeJob {
            index,
            expected,
            installs: self.durable.installs,
            rows,
            state: state.clone(),
            raft,
            manifest: Arc::clone(&self.manifest),
            segments: Arc::clone(&self.files),
            claims: Arc::clone(&self.claims),
            seal,
            rollups,
            spoilt,
            worth: self.worth,
            written: OnceLock::new(),
            stops: Arc::default(),
        }
    }

    /// Shows the segments instead of the rows they were made of; then does the retention commands
    /// that waited for it. One that was overtaken by a snapshot is ignored.
    pub fn finish_merge(&mut self, merged: Merged) -> Result<(), StoreError> {
        let Merged {
            durable,
            files,
            replaced,
        } = merged;
        if durable.installs != self.durable.installs {
            return Ok(());
        }
        let oldest = self.level0.frozen.front().map(|(index, _)| *index);
        assert_eq!(
            oldest,
            Some(durable.index),
            "merges finish in the order in which they began"
        );
        self.level0.frozen.pop_front();
        let (rollups, segments) = apart(files);
        for (known, new) in [(&mut self.segments, segments), (&mut self.rollups, rollups)] {
            let known = Arc::make_mut(known);
            known.retain(|known| !replaced.iter().any(|one| Arc::ptr_eq(one, known)));
            known.extend(new.iter().map(Arc::clone));
            known.sort_by(|a, b| a.file.name.cmp(&b.file.name));
        }
        self.durable = durable;
        self.doom(&replaced);
        self.drop_due()?;
        self.publish();
        Ok(())
    }

    /// The retention command at `index` was applied: drops the segments that have ended.
    /// Blocks for one transaction; partitions whose merge still runs follow when it has finished,
    /// all of them once there is room if the disk is full.
    pub fn drop_ended(&mut self, index: u64, retention: Retention) -> Result<(), StoreError> {
        let new = retention::Drop { index, retention };
        self.drops.retain(|drop| !new.covers(drop));
        self.drops.push(new);
        self.drop_due()?;
        self.publish();
        Ok(())
    }

    /// Does what waits for room on the disk, if anything does.
    pub fn drop_again(&mut self) -> Result<(), StoreError> {
        if self.drops_wait {
            self.drop_due()?;
            self.publish();
        }
        Ok(())
    }

    /// The index of the last durable transaction; 0 before the first merge.
    pub fn durable_index(&self) -> u64 {
        self.durable.index
    }

    /// The last durable transaction; `None` before the first merge.
    pub fn snapshot(&self) -> Option<SnapshotFiles> {
        let Durable {
            index, raft, state, ..
        } = &self.durable;
        // Without a damaged rollup of rows that are there a node can do; with it none would take the
        // snapshot.
        let spoilt = rolled::without_need(&self.rollups, &self.segments);
        let is_needed =
            |one: &&Arc<SegmentHandle>| !spoilt.iter().any(|gone| Arc::ptr_eq(gone, one));
        let rollups = self.rollups.iter().filter(is_needed);
        let held = self
            .segments
            .iter()
            .chain(rollups)
            .map(Arc::clone)
            .collect();
        let (raft, state, known) = (raft.clone(), state.clone(), self.state.clone());
        (*index > 0).then(|| SnapshotFiles::of(*index, raft, state, held, known))
    }

    /// Becomes a snapshot whose files are in [`Store::segments`] already. Verifies the new ones,
    /// then one transaction; level 0 and running merges are forgotten.
    ///
    /// # Errors
    /// `Full`: nothing was changed; it can be done again once there is room.
    pub fn install(&mut self, snapshot: SnapshotFiles) -> Result<State, StoreError> {
        let SnapshotFiles {
            index,
            raft,
            state: bytes,
            mut files,
            promise: _promise,
            ..
        } = snapshot;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        if files.windows(2).any(|two| two[0].name == two[1].name) {
            return Err(StoreError::damaged("snapshot", 0, "it names a file twice"));
        }
        let state = decode_state(&bytes, State::decode)?;
        if state.index() > index {
            return Err(StoreError::damaged(
                "snapshot",
                0,
                "its state is of a later index",
            ));
        }
        // First: verifying takes long.
        let room = room::seek(&*self.files, INSTALL_ROOM_FILE, bytes.len());
        room.map_err(StoreError::or_full)?;
        let known: Vec<_> = self.known().map(Arc::clone).collect();
        let mut here = known.clone();
        here.extend(self.doomed.iter().filter_map(Weak::upgrade));
        let handles = open_segments(&self.claims, &files, &state, &here)?;
        for segment in &handles {
            if !known.iter().any(|known| Arc::ptr_eq(known, segment)) {
                segment.verify()?;
            }
        }
        let synced = self.files.sync_directory();
        synced.map_err(|source| StoreError::io("segments", source))?;
        let installs = self.durable.installs + 1;
        let durable = Durable {
            index,
            installs,
            raft,
            state: bytes,
            files,
        };
        self.manifest.replace(&durable)?;
        // By name: a sound file may have come in the place of one that could not be opened, and whoever
        // lets go of that last must not take it along.
        let names: BTreeSet<&str> = handles.iter().map(|one| one.file.name.as_str()).collect();
        let stays = |known: &SegmentHandle| names.contains(known.file.name.as_str());
        let revived = handles.iter().chain(&here).filter(|one| stays(one));
        revived.for_each(|segment| segment.revive());
        let mut gone = known;
        gone.retain(|known| !stays(known));
        self.doom(&gone);
        (self.rollups, self.segments) = apart(handles);
        self.level0 = Level0::new();
        self.drops.clear();
        self.drops_wait = false;
        self.durable = Durable {
            files: Vec::new(),
            ..durable
        };
        (self.begun, self.index) = (index, index);
        self.state = state.clone();
        self.publish();
        Ok(state)
    }

    /// The directory of the segment files: a received snapshot's files go here, synced.
    pub fn segments(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.files)
    }

    /// Who needs which of these files: what a snapshot counts on is promised to it.
    pub fn claims(&self) -> Arc<Claims> {
        Arc::clone(&self.claims)
    }

    /// Reads all of a segment that is in the store and checks it.
    pub fn verify(&self, name: &str) -> Result<(), StoreError> {
        let known = self.known().find(|segment| segment.file.name == name);
        let known = known.ok_or_else(|| StoreError::damaged(name, 0, "not in the manifest"))?;
        known.verify()
    }

    /// Segments and rollups.
    fn known(&self) -> impl Iterator<Item = &Arc<SegmentHandle>> {
        self.segments.iter().chain(self.rollups.iter())
    }

    fn doom(&mut self, segments: &[Arc<SegmentHandle>]) {
        self.doomed.retain(|segment| segment.strong_count() > 0);
        for segment in segments {
            segment.doom();
            self.doomed.push(Arc::downgrade(segment));
        }
    }

    fn drop_due(&mut self) -> Result<(), StoreError> {
        let oldest = self.level0.frozen.front().map(|(index, _)| *index);
        let waits = |drop: &retention::Drop| oldest.is_some_and(|oldest| oldest < drop.index);
        let catalog = self.state.catalog();
        let due = |drop: &retention::Drop| {
            let (segments, rollups) = (&self.segments, &self.rollups);
            let mut due = drop.due(segments, rollups, catalog, waits(drop));
            due.extend(drop.due_rollups(&due, segments, rollups, catalog));
            due
        };
        let mut doomed: Vec<Arc<SegmentHandle>> = self.drops.iter().flat_map(due).collect();
        doomed.sort_by(|a, b| a.file.name.cmp(&b.file.name));
        doomed.dedup_by(|a, b| Arc::ptr_eq(a, b));
        if !doomed.is_empty() {
            let names: Vec<String> = doomed.iter().map(|s| s.file.name.clone()).collect();
            let forgotten = self.manifest.forget(&names);
            if self.is_put_off(forgotten)? {
                return Ok(());
            }
            for known in [&mut self.segments, &mut self.rollups] {
                Arc::make_mut(known).retain(|segment| !names.contains(&segment.file.name));
            }
            self.doom(&doomed);
        }
        self.drops.retain(waits);
        self.drops_wait = false;
        Ok(())
    }

    /// Whether retention has to wait for room. What it would drop stays until then.
    fn is_put_off(&mut self, forgotten: Result<(), StoreError>) -> Result<bool, StoreError> {
        match forgotten {
            Ok(()) => {
                if self.drops_wait {
                    tracing::warn!("the disk has room again: retention goes on");
                }
                Ok(false)
            }
            Err(error @ StoreError::Full { .. }) => {
                if !self.drops_wait {
                    tracing::error!(%error, "retention waits for room on the disk");
                }
                self.drops_wait = true;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn publish(&self) {
        self.views.publish(View {
            index: self.index,
            state: self.state.clone(),
            segments: Arc::clone(&self.segments),
            rollups: Arc::clone(&self.rollups),
            level0: self.level0.lists(),
        });
    }
}

type Handles = Arc<Vec<Arc<SegmentHandle>>>;

/// Rollups, and what holds rows.
fn apart(handles: Vec<Arc<SegmentHandle>>) -> (Handles, Handles) {
    let is_rollup = |handle: &Arc<SegmentHandle>| segment::is_rollup(&handle.file.name);
    let (rollups, segments) = handles.into_iter().partition(is_rollup);
    (Arc::new(rollups), Arc::new(segments))
}

/// A folder without any of them is not a damaged one: merges into it would be hidden once the right
/// one is back.
fn check_some_are_there(found: &[String], named: &[SegmentFile]) -> Result<(), StoreError> {
    if named.is_empty() || named.iter().any(|file| found.contains(&file.name)) {
        return Ok(());
    }
    let count = named.len();
    let what =
        format!("none of the {count} files that the manifest names is there: is the disk mounted?");
    let source = std::io::Error::new(std::io::ErrorKind::NotFound, what);
    Err(StoreError::io("segments", source))
}

fn remove_unnamed(
    files: &dyn Storage,
    found: Vec<String>,
    named: &[SegmentFile],
) -> Result<usize, StoreError> {
    let mut removed = 0;
    for name in found {
        if named.iter().any(|file| file.name == name) {
            continue;
        }
        tracing::debug!(
            file = name,
            "a file that the manifest does not name is removed"
        );
        files
            .remove(&name)
            .map_err(|source| StoreError::io(&name, source))?;
        removed += 1;
    }
    if removed > 0 {
        tracing::info!(
            files = removed,
            "removed files of segments that did not count: of merges or snapshots that did not \
             end, or dropped by retention"
        );
    }
    Ok(removed)
}

fn decode_state(
    bytes: &Bytes,
    decode: fn(&[u8]) -> Result<State, StateError>,
) -> Result<State, StoreError> {
    if bytes.is_empty() {
        return Ok(State::new());
    }
    decode(bytes).map_err(|error| match error {
        StateError::Version(version) => StoreError::Version {
            file: "state".to_owned(),
            version,
        },
        StateError::Damaged(what) => StoreError::damaged("state", 0, what),
    })
}

/// As [`open_segments`], for a node that has nothing else: what is damaged is an error to whoever asks
/// for it, and holds up nobody else.
fn open_what_can_be(
    claims: &Arc<Claims>,
    files: &[SegmentFile],
    state: &State,
) -> Result<Vec<Arc<SegmentHandle>>, StoreError> {
    let open = |file: &SegmentFile| open_what_is_left(claims, file, state);
    files.iter().map(open).collect()
}

/// A file, or what stands for one that is damaged; for a rollup that cannot be opened whatever the reason:
/// nobody needs it.
fn open_what_is_left(
    claims: &Arc<Claims>,
    file: &SegmentFile,
    state: &State,
) -> Result<Arc<SegmentHandle>, StoreError> {
    let error = match SegmentHandle::open(claims, file.clone(), state.catalog()) {
        Err(error @ StoreError::Damaged { .. }) => error,
        Err(error) if segment::is_rollup(&file.name) => {
            StoreError::damaged(&file.name, 0, format!("it cannot be opened: {error}"))
        }
        other => return other,
    };
    let (catalog, now) = (state.catalog(), state.now());
    let left = SegmentHandle::open_what_is_left(claims, file.clone(), catalog, now);
    let Some(segment) = left else {
        return Err(error);
    };
    damage::report(&segment, damage::Place::File, &error, state);
    Ok(segment)
}

/// Reads what the files say of themselves, taking those that are known already.
fn open_segments(
    claims: &Arc<Claims>,
    files: &[SegmentFile],
    state: &State,
    known: &[Arc<SegmentHandle>],
) -> Result<Vec<Arc<SegmentHandle>>, StoreError> {
    let open = |file: &SegmentFile| match known.iter().find(|known| known.file == *file) {
        // What a snapshot has brought may be sound where the file was not.
        Some(known) if !known.is_known() => {
            let opened = SegmentHandle::open(claims, file.clone(), state.catalog());
            let sound = opened.ok().filter(|opened| opened.verify().is_ok());
            Ok(sound.unwrap_or_else(|| Arc::clone(known)))
        }
        Some(known) => Ok(Arc::clone(known)),
        None => SegmentHandle::open(claims, file.clone(), state.catalog()),
    };
    files.iter().map(open).collect()
}
