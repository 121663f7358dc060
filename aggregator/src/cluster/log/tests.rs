//! openraft's own conformance suite, and what it does not try: power cuts and reused files.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use journal::{DiskStorage, JournalError, Options, SimStorage};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{
    EntryResponder, IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, OptionalSend, StorageError};

use super::layout::{Entry, LogId, Vote};
use super::store::{LogError, LogOptions, LogStore, Mode};
use crate::cluster::types::{CommandBytes, TypeConfig};
use crate::state::Command;
use crate::store::{SnapshotFiles, Store};

/// The least that the suite needs beside a log.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<MachineState>>);

#[derive(Default)]
struct MachineState {
    applied: Option<LogId>,
    membership: StoredMembershipOf<TypeConfig>,
    snapshot: Option<SnapshotMetaOf<TypeConfig>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, ()>, io::Error> {
        let mut state = self.0.lock().unwrap();
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
        };
        state.snapshot = Some(meta.clone());
        Ok(SnapshotOf::<TypeConfig, ()> { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembershipOf<TypeConfig>), io::Error> {
        let state = self.0.lock().unwrap();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            {
                let mut state = self.0.lock().unwrap();
                state.applied = Some(entry.log_id);
                if let EntryPayload::Membership(membership) = entry.payload {
                    state.membership =
                        StoredMembershipOf::<TypeConfig>::new(Some(entry.log_id), membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: (),
    ) -> Result<(), io::Error> {
        let mut state = self.0.lock().unwrap();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, ()>>, io::Error> {
        let snapshot = self.0.lock().unwrap().snapshot.clone();
        Ok(snapshot.map(|meta| SnapshotOf::<TypeConfig, ()> { meta, snapshot: () }))
    }
}

fn options(file_bytes: u64, files_max: usize, mode: Mode) -> LogOptions {
    LogOptions {
        journal: Options {
            file_bytes,
            files_max,
        },
        cached_bytes_max: 4096,
        mode,
    }
}

/// Builds logs in directories of a temporary one, or in memory.
struct Builder {
    path: Option<std::path::PathBuf>,
    built: AtomicU64,
}

impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let nth = self.built.fetch_add(1, Ordering::Relaxed);
        let store = match &self.path {
            Some(path) => {
                let storage = DiskStorage::open(path.join(nth.to_string())).unwrap();
                LogStore::open(storage, options(1 << 20, 3, Mode::Thread))
            }
            None => LogStore::open(
                SimStorage::new(nth).as_storage(),
                options(8192, 8, Mode::Inline),
            ),
        };
        Ok(((), store.unwrap(), Machine::default()))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_on_disk_with_a_thread() {
    let path = std::env::temp_dir().join(format!("raft-log-test-{}", std::process::id()));
    let builder = Builder {
        path: Some(path.clone()),
        built: AtomicU64::new(0),
    };
    Suite::test_all(builder).await.unwrap();
    std::fs::remove_dir_all(path).unwrap();
}

#[tokio::test]
async fn openrafts_suite_passes_in_memory_inline() {
    let builder = Builder {
        path: None,
        built: AtomicU64::new(0),
    };
    Suite::test_all(builder).await.unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    let leader_id = openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 };
    LogId { leader_id, index }
}

fn entry(term: u64, index: u64) -> Entry {
    let len = usize::try_from((index * 37 + term) % 900).unwrap();
    let mut command = vec![u8::try_from(index % 251).unwrap(); len];
    // As submissions begin.
    if let Some(begin) = command.first_chunk_mut() {
        *begin = [1, 0];
    }
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(CommandBytes(command.into())),
    }
}

fn own_entry(index: u64, command: &Command) -> Entry {
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(CommandBytes(command.encode())),
    }
}

/// Appends, and tells whether it was acknowledged as durable.
async fn append(log: &mut LogStore, entries: Vec<Entry>) -> bool {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.is_ok()
        && matches!(receiver.await, Ok(Ok(())))
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a log may hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    vote: Option<Vote>,
    /// Terms of the entries from index 0 on; those below `purged` are gone.
    terms: Vec<u64>,
    purged: usize,
}

/// The log's history since the last step that it said was durable: one state a record. After a
/// crash it must be in one of them.
struct Model {
    states: Vec<Held>,
    term: u64,
}

impl Model {
    fn now(&self) -> &Held {
        self.states.last().expect("there is always one")
    }

    /// A step that is about to be taken record by record.
    fn next(&mut self, change: impl FnOnce(&mut Held)) {
        let mut held = self.now().clone();
        change(&mut held);
        self.states.push(held);
    }

    /// All that was done so far is durable, or will be found out not to be.
    fn settle(&mut self, done: bool) -> bool {
        if done {
            self.states.drain(..self.states.len() - 1);
        }
        done
    }

    async fn check(&mut self, log: &mut LogStore, context: &str) {
        let mut reader = log.get_log_reader().await;
        let state = log.get_log_state().await.unwrap();
        let purged = state.last_purged_log_id.map_or(0, |id| id.index + 1);
        let read: Vec<_> = reader.entries_stream(..).await.collect().await;
        let mut held = Held {
            vote: reader.read_vote().await.unwrap(),
            terms: vec![0; usize::try_from(purged).unwrap()],
            purged: usize::try_from(purged).unwrap(),
        };
        for (index, one) in (purged..).zip(read) {
            let one = one.unwrap();
            assert_eq!(one, entry(one.log_id.leader_id.term, index), "{context}");
            held.terms.push(one.log_id.leader_id.term);
        }
        let end = held.terms.len() as u64;
        assert_eq!(
            state.last_log_id.map_or(0, |id| id.index + 1),
            end,
            "{context}"
        );
        let committed = log.read_committed().await.unwrap();
        assert!(committed.is_none_or(|id| id.index < end), "{context}");
        let same = |state: &&Held| {
            let (mut left, mut right) = ((*state).clone(), held.clone());
            left.terms[..left.purged].fill(0);
            right.terms[..right.purged].fill(0);
            left == right
        };
        let found = self.states.iter().rev().find(same).cloned();
        let found =
            found.unwrap_or_else(|| panic!("{context}: {held:?} is none of {:?}", self.states));
        self.states = vec![found];
    }

    /// One step. False once the disk failed.
    async fn step(&mut self, log: &mut LogStore, random: &mut Random) -> bool {
        let (end, purged) = (self.now().terms.len(), self.now().purged);
        let term = self.term;
        match random.below(12) {
            0..7 => {
                let count = 1 + usize::try_from(random.below(5)).unwrap();
                let entries = (end..end + count)
                    .map(|index| entry(term, index as u64))
                    .collect();
                for _ in 0..count {
                    self.next(|held| held.terms.push(term));
                }
                let done = append(log, entries).await;
                self.settle(done)
            }
            7..9 => {
                self.term += 1;
                let leader_id = log_id(self.term, 0).leader_id;
                let vote = Vote {
                    leader_id,
                    committed: random.below(2) == 0,
                };
                self.next(|held| held.vote = Some(vote));
                let done = log.save_vote(&vote).await.is_ok();
                self.settle(done)
            }
            9 if end > purged + 1 => {
                self.term += 1;
                let kept =
                    purged + 1 + usize::try_from(random.below((end - purged - 1) as u64)).unwrap();
                let last = log_id(self.now().terms[kept - 1], kept as u64 - 1);
                self.next(|held| held.terms.truncate(kept));
                let done = log.truncate_after(Some(last)).await.is_ok();
                self.settle(done)
            }
            10 if end > 0 => {
                let committed = Some(log_id(self.now().terms[end - 1], end as u64 - 1));
                log.save_committed(committed).await.is_ok()
            }
            _ if end > purged + 3 => {
                let upto =
                    purged + usize::try_from(random.below((end - purged - 2) as u64)).unwrap();
                let id = log_id(self.now().terms[upto], upto as u64);
                self.next(|held| held.purged = upto + 1);
                log.purge(id).await.is_ok()
            }
            _ => true,
        }
    }
}

/// Logs that lose power at any operation, over and over, with files of a few entries.
#[tokio::test]
async fn what_was_acknowledged_survives_power_cuts_and_reused_files() {
    let (mut purges, mut checks) = (0, 0);
    for seed in 0..400 {
        let sim = SimStorage::new(seed);
        let mut random = Random(seed);
        let mut model = Model {
            states: vec![Held::default()],
            term: 1,
        };
        for life in 0..8 {
            let context = format!("seed {seed} life {life}");
            sim.cut_at(1 + random.below(80));
            match LogStore::open(sim.as_storage(), options(8192, 6, Mode::Inline)) {
                Ok(mut log) => {
                    model.check(&mut log, &context).await;
                    checks += 1;
                    for _ in 0..random.below(150) {
                        if !model.step(&mut log, &mut random).await {
                            break;
                        }
                    }
                }
                Err(LogError::Journal(JournalError::Io { .. })) => {}
                Err(other) => panic!("{context}: {other}"),
            }
            purges += usize::from(model.now().purged > 20);
            if random.below(4) > 0 {
                sim.power_cut();
            } else {
                sim.cut_at(u64::MAX >> 1);
            }
        }
    }
    assert!(
        purges > 400 && checks > 2000,
        "{purges} purges, {checks} checks"
    );
}

/// A tail that no quorum has, and then the snapshot of another leader in its place.
#[tokio::test]
async fn no_power_cut_brings_a_tail_back_behind_a_snapshot() {
    const CUT: u64 = 4;
    const SNAPSHOT: u64 = 6;
    let folder = |sim: &SimStorage, name: &str| sim.as_storage().directory(name).unwrap();
    let open_log = |sim: &SimStorage| {
        LogStore::open(folder(sim, "log"), options(8192, 6, Mode::Inline)).unwrap()
    };
    let open_store = |sim: &SimStorage| Store::open(&*folder(sim, "store")).unwrap().0;
    let mut installed = 0;
    for seed in 0..8 {
        for nth in 1.. {
            let sim = SimStorage::new(seed * 1_000 + nth);
            let (mut log, mut store) = (open_log(&sim), open_store(&sim));
            let entries = (0..9).map(|index| entry(1, index)).collect();
            assert!(append(&mut log, entries).await);
            let before = sim.operations();
            sim.cut_at(nth);
            let snapshot = SnapshotFiles::new(SNAPSHOT, Bytes::new(), Bytes::new(), Vec::new());
            let truncated = log.truncate_after(Some(log_id(1, CUT))).await;
            if truncated.is_ok() && store.install(snapshot).is_ok() {
                // It answers before it is durable.
                let _ = log.purge(log_id(2, SNAPSHOT)).await;
            }
            let was_cut = sim.operations() - before == nth;
            drop((log, store));
            sim.power_cut();
            if open_store(&sim).durable_index() == SNAPSHOT {
                installed += 1;
                let mut reader = open_log(&sim).reader();
                let kept = reader.try_get_log_entries(CUT + 1..).await.unwrap();
                assert!(kept.is_empty(), "seed {seed}, cut at {nth}: {kept:?}");
            }
            if !was_cut {
                break;
            }
        }
    }
    assert!(installed > 8, "no cut came behind an installation");
}

#[tokio::test]
async fn a_purge_gives_files_back_and_keeps_vote_and_marks() {
    let sim = SimStorage::new(1);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    let vote = Vote {
        leader_id: log_id(3, 0).leader_id,
        committed: true,
    };
    log.save_vote(&vote).await.unwrap();
    for index in 0..1000 {
        assert!(append(&mut log, vec![entry(3, index)]).await, "{index}");
        log.save_committed(Some(log_id(3, index))).await.unwrap();
        if index % 10 == 9 {
            log.purge(log_id(3, index - 3)).await.unwrap();
        }
        assert!(log.usage().bytes_used <= log.usage().bytes_max);
    }
    drop(log);
    sim.power_cut();
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(3, 999)));
    assert!(log.read_committed().await.unwrap().is_some());
    let purged = state.last_purged_log_id.unwrap().index;
    let kept = reader.try_get_log_entries(..).await.unwrap();
    assert_eq!(kept.len() as u64, 999 - purged);
}

#[tokio::test]
async fn files_that_were_released_stay_released_after_a_restart() {
    let sim = SimStorage::new(1);
    let open = || LogStore::open(sim.as_storage(), options(8192, 12, Mode::Inline)).unwrap();
    let mut log = open();
    let vote = Vote {
        leader_id: log_id(1, 0).leader_id,
        committed: true,
    };
    log.save_vote(&vote).await.unwrap();
    let mut end = 0;
    while log.usage().bytes_used < 6 * 8192 {
        assert!(append(&mut log, vec![entry(1, end)]).await, "{end}");
        end += 1;
    }
    log.purge(log_id(1, end - 2)).await.unwrap();
    let used = log.usage().bytes_used;
    assert!(used < 3 * 8192, "{used}");
    for _again in 0..3 {
        drop(log);
        log = open();
        let now = log.usage().bytes_used;
        assert!(now < used + 8192, "{now} bytes, {used} before");
        let mut reader = log.get_log_reader().await;
        assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(log_id(1, end - 2)));
        assert_eq!(state.last_log_id, Some(log_id(1, end - 1)));
        let kept = reader.try_get_log_entries(..).await.unwrap();
        assert_eq!(kept.len(), 1);
    }
}

#[tokio::test]
async fn a_log_that_is_full_refuses_entries_and_can_still_purge() {
    let sim = SimStorage::new(1);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    let mut index = 0;
    while append(&mut log, vec![entry(1, index)]).await {
        index += 1;
    }
    assert!(index > 20);
    assert!(append(&mut log, vec![own_entry(index, &Command::Merge)]).await);
    let more = own_entry(index + 1, &Command::Merge);
    assert!(!append(&mut log, vec![more, entry(1, index + 2)]).await);
    drop(log);
    // The first that a leader writes after a restart.
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    index += 1;
    let blank = Entry {
        log_id: log_id(2, index),
        payload: EntryPayload::Blank,
    };
    assert!(append(&mut log, vec![blank]).await);
    index += 1;
    log.purge(log_id(1, index - 2)).await.unwrap();
    assert!(append(&mut log, vec![entry(1, index)]).await);
}

#[tokio::test]
async fn a_full_disk_counts_as_a_full_log_and_leaves_no_hole() {
    let sim = SimStorage::new(1);
    sim.fill_up(4 * 8192);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 64, Mode::Inline)).unwrap();
    let mut index = 0;
    while append(&mut log, vec![entry(1, index)]).await {
        index += 1;
    }
    assert!(index > 20);
    assert!(log.usage().bytes_free < 3 * 8192, "{:?}", log.usage());
    drop(log);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 64, Mode::Inline)).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(1, index - 1)));
}

#[tokio::test]
async fn reads_are_bounded_in_bytes_and_lazy() {
    let sim = SimStorage::new(1);
    let mut log = LogStore::open(sim.as_storage(), options(8 << 20, 8, Mode::Inline)).unwrap();
    let large = |index| {
        let command = CommandBytes(Bytes::from(vec![1; 1 << 20]));
        Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Normal(command),
        }
    };
    for index in 0..12 {
        assert!(append(&mut log, vec![large(index)]).await);
    }
    let mut reader = log.get_log_reader().await;
    assert_eq!(
        reader.limited_get_log_entries(0, 12).await.unwrap().len(),
        3
    );
    assert_eq!(
        reader.limited_get_log_entries(11, 12).await.unwrap().len(),
        1
    );
    assert_eq!(reader.entries_stream(0..12).await.count().await, 12);
    assert_eq!(reader.try_get_log_entries(2..=4).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_follower_is_sent_no_entries_without_their_start() {
    let sim = SimStorage::new(1);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    let entries = (0..9).map(|index| entry(1, index)).collect();
    assert!(append(&mut log, entries).await);
    log.purge(log_id(1, 4)).await.unwrap();
    let mut reader = log.get_log_reader().await;
    for start in 0..9 {
        let sent = reader.limited_get_log_entries(start, 9).await.unwrap();
        let indexes = sent.iter().map(|one| one.log_id.index);
        let from = if start < 5 { 9 } else { start };
        assert!(indexes.eq(from..9), "from {start}: {sent:?}");
    }
}

#[tokio::test]
async fn a_hole_is_refused() {
    let sim = SimStorage::new(1);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    assert!(append(&mut log, vec![entry(1, 0)]).await);
    assert!(!append(&mut log, vec![entry(1, 2)]).await);
    assert!(!append(&mut log, vec![entry(1, 0)]).await);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    let sim = SimStorage::new(1);
    let mut log = LogStore::open(sim.as_storage(), options(8192, 4, Mode::Inline)).unwrap();
    sim.fail_sync(1);
    assert!(!append(&mut log, vec![entry(1, 0)]).await);
    assert!(!append(&mut log, vec![entry(1, 1)]).await);
    let vote = Vote {
        leader_id: log_id(3, 0).leader_id,
        committed: true,
    };
    log.save_vote(&vote).await.unwrap_err();
}
