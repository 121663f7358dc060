//! Applies what a quorum has on disk: command -> state -> store -> answers, in this order, so that
//! whoever is answered can read what was acknowledged. The only place that mints `Applied`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as jobs};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use shared::id::AgentId;
use tokio::sync::{mpsc, watch};

use super::answer::{Answer, Applied};
use super::log::{self, LogId};
use super::propose::Proposer;
use super::types::{CommandBytes, TypeConfig};
use crate::state::bytes::{ReadFault, Reader, Writer};
use crate::state::{Command, Job, Outcome, Sealing, State};
use crate::store::{MergeJob, Merged, Recovered, SnapshotFiles, Store, StoreError, View};

type Membership = StoredMembershipOf<TypeConfig>;

/// Merges that were begun and are not finished, each with its rows in memory. A leader proposes the
/// next one when its own has finished: a follower that is slower, or a replay, brings more, and then
/// applying goes as fast as they do. Two, so that their thread never waits for the next.
const MERGES_MAX: usize = 2;
const MERGER_ENDED: &str =
    "the thread that merges ended; restart the node, it recovers from its disk";
/// How often it is looked whether a merge that is waited for waits itself.
const ROOM_LOOK: Duration = Duration::from_secs(1);
/// After so long a merge or a snapshot that found the disk full is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(5);

/// The state machine, as openraft drives it.
pub struct Applier {
    state: State,
    store: Store,
    last: Option<LogId>,
    membership: Membership,
    proposer: Arc<Proposer>,
    merges: Merges,
    progress: watch::Sender<Progress>,
}

/// How far this node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry whose effects every later read sees.
    pub applied: u64,
    /// Everything up to here is in segments: the log is not needed for it.
    pub merged: u64,
    pub level0_bytes: usize,
    /// Of rows that a merge has taken and not finished.
    pub frozen_bytes: usize,
    pub merges_running: usize,
}

/// Where merges run.
enum Merges {
    Thread {
        jobs: Option<jobs::SyncSender<MergeJob>>,
        /// Nothing is sent: a merge that waits for room hears that it is gone.
        lives: Option<jobs::SyncSender<()>>,
        merged: mpsc::Receiver<Result<Merged, StoreError>>,
        /// Given to the thread and not taken back.
        running: usize,
        signs: Signs,
        thread: Option<JoinHandle<()>>,
    },
    /// At once: for a simulation that has one thread.
    Inline,
}

/// Between the thread that merges and whoever owns it.
#[derive(Debug, Clone, Default)]
struct Signs {
    /// A merge found the disk full.
    full: Arc<AtomicBool>,
    /// The node stops.
    stops: Arc<AtomicBool>,
}

impl Merges {
    fn spawn() -> io::Result<Merges> {
        let (jobs, waiting) = jobs::sync_channel::<MergeJob>(MERGES_MAX);
        let (lives, ended) = jobs::sync_channel::<()>(0);
        let (done, merged) = mpsc::channel(MERGES_MAX);
        let signs = Signs::default();
        let full = Arc::clone(&signs.full);
        let mut pause = move || {
            full.store(true, Ordering::Relaxed);
            let waited = ended.recv_timeout(FULL_PAUSE);
            waited == Err(jobs::RecvTimeoutError::Timeout)
        };
        let (full, stops) = (Arc::clone(&signs.full), Arc::clone(&signs.stops));
        let run = move || {
            for mut job in waiting {
                job.stop_by(Arc::clone(&stops));
                let Some(merged) = run_when_room(&job, &mut pause) else {
                    return;
                };
                full.store(false, Ordering::Relaxed);
                if done.blocking_send(merged).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("merge".to_owned())
            .spawn(run)?;
        Ok(Merges::Thread {
            jobs: Some(jobs),
            lives: Some(lives),
            merged,
            running: 0,
            signs,
            thread: Some(thread),
        })
    }

    fn wait_for_room(&self) -> bool {
        match self {
            Merges::Thread { signs, .. } => signs.full.load(Ordering::Relaxed),
            Merges::Inline => false,
        }
    }

    fn running(&self) -> usize {
        match self {
            Merges::Thread { running, .. } => *running,
            Merges::Inline => 0,
        }
    }
}

/// Runs a merge, again after each `pause` while the disk is full: until then its rows stay in
/// memory and in the log, reading goes on, and the gate keeps publishers waiting. `None`: `pause`
/// says that the node stops.
fn run_when_room(
    job: &MergeJob,
    pause: &mut dyn FnMut() -> bool,
) -> Option<Result<Merged, StoreError>> {
    let mut waits = false;
    loop {
        match job.run() {
            Err(error @ StoreError::Full { .. }) => {
                if !waits {
                    tracing::error!(%error, "a merge waits for room on the disk");
                }
                waits = true;
                if !pause() {
                    return None;
                }
            }
            other => {
                if waits && other.is_ok() {
                    tracing::warn!("the disk has room again: the merge is done");
                }
                return Some(other);
            }
        }
    }
}

impl Drop for Merges {
    fn drop(&mut self) {
        let Merges::Thread {
            jobs,
            lives,
            merged,
            signs,
            thread,
            ..
        } = self
        else {
            return;
        };
        signs.stops.store(true, Ordering::Relaxed);
        *jobs = None;
        *lives = None;
        // A merge under way ends first: its files are whole then. Those that wait do not begin, or
        // give up if they wait for room or seal.
        merged.close();
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that merges panicked: please report this");
        }
    }
}

impl Applier {
    /// `inline`: merges run where they are begun, not on a thread.
    pub(super) fn new(
        store: Store,
        recovered: Recovered,
        proposer: Arc<Proposer>,
        inline: bool,
    ) -> io::Result<Applier> {
        let Recovered {
            state, index, raft, ..
        } = recovered;
        let (last, membership) = match index {
            0 => (None, Membership::default()),
            _ => decode_raft(&raft).map_err(damaged)?,
        };
        let merges = if inline {
            Merges::Inline
        } else {
            Merges::spawn()?
        };
        let (progress, _) = watch::channel(Progress {
            applied: index,
            merged: index,
            ..Progress::default()
        });
        Ok(Applier {
            state,
            store,
            last,
            membership,
            proposer,
            merges,
            progress,
        })
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    async fn apply_command(&mut self, id: LogId, bytes: &Bytes) -> io::Result<()> {
        // Skipping what this node does not understand would make it differ from the others.
        let command = Command::decode(bytes).map_err(|error| {
            let what = format!("log entry {}: {error}; upgrade this node", id.index);
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        let mut effects = self.state.apply(id.index, &command);
        let rows = std::mem::take(&mut effects.rows);
        self.store.apply(id.index, &self.state, rows);
        match effects.job {
            // Often enough, and in virtual time too: each node tells its clock every few seconds.
            None if matches!(command, Command::Clock { .. }) => {
                self.store.drop_again().map_err(stored)?;
            }
            None => {}
            Some(Job::Merge) => self.begin_merge(id).await?,
            Some(Job::Seal(sealing)) => self.begin_seal(id, sealing).await?,
            Some(Job::Retention(retention)) => {
                let dropped = self.store.drop_ended(id.index, retention);
                dropped.map_err(stored)?;
            }
        }
        let boot = self.proposer.boot();
        for (origin, outcome) in effects.outcomes {
            if origin.boot == boot {
                self.proposer
                    .applied(origin.ticket, answer(id.index, outcome));
            }
        }
        Ok(())
    }

    async fn begin_merge(&mut self, id: LogId) -> io::Result<()> {
        self.finish_merges()?;
        while self.merges.running() >= MERGES_MAX {
            self.finish_next_merge().await?;
        }
        let raft = encode_raft(&id, &self.membership)?;
        let job = self.store.begin_merge(id.index, &self.state, raft);
        self.run_merge(job)
    }

    /// What is sealed has to be the same on every replica: all that was merged before.
    async fn begin_seal(&mut self, id: LogId, sealing: Sealing) -> io::Result<()> {
        self.finish_merges()?;
        while self.merges.running() > 0 {
            if self.merges.wait_for_room() {
                // Whoever waits for room must not hold up what may make some.
                return self.begin_merge(id).await;
            }
            let next = tokio::time::timeout(ROOM_LOOK, self.finish_next_merge());
            next.await.unwrap_or(Ok(()))?;
        }
        let raft = encode_raft(&id, &self.membership)?;
        let job = self.store.begin_seal(id.index, &self.state, raft, sealing);
        self.run_merge(job)
    }

    fn run_merge(&mut self, job: MergeJob) -> io::Result<()> {
        match &mut self.merges {
            Merges::Thread {
                jobs: Some(jobs),
                running,
                ..
            } => {
                // There is room for all that may run: this never waits.
                jobs.try_send(job).map_err(io::Error::other)?;
                *running += 1;
                Ok(())
            }
            Merges::Thread { jobs: None, .. } => Err(io::Error::other("the node stops")),
            Merges::Inline => {
                let merged = job.run();
                self.finish_merge(merged)
            }
        }
    }

    /// Waits for the next merge to end, without holding up its thread of the runtime, and takes it
    /// over.
    async fn finish_next_merge(&mut self) -> io::Result<()> {
        let Merges::Thread {
            merged, running, ..
        } = &mut self.merges
        else {
            return Ok(());
        };
        let ended = merged.recv().await;
        let merged = ended.ok_or_else(|| io::Error::other(MERGER_ENDED))?;
        *running -= 1;
        self.finish_merge(merged)
    }

    fn finish_merge(&mut self, merged: Result<Merged, StoreError>) -> io::Result<()> {
        match merged {
            Ok(merged) => self.store.finish_merge(merged).map_err(stored),
            // A snapshot came in between and holds what it was about.
            Err(StoreError::Superseded) => Ok(()),
            Err(error) => Err(stored(error)),
        }
    }

    /// Takes over the merges that have ended.
    pub(super) fn finish_merges(&mut self) -> io::Result<()> {
        loop {
            let Merges::Thread {
                merged, running, ..
            } = &mut self.merges
            else {
                return Ok(());
            };
            match merged.try_recv() {
                Ok(merged) => {
                    *running -= 1;
                    self.finish_merge(merged)?;
                }
                Err(mpsc::error::TryRecvError::Empty) => return Ok(()),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    return Err(io::Error::other(MERGER_ENDED));
                }
            }
        }
    }

    /// Installs a snapshot, again after each pause while the disk is full: until then this node shows
    /// what it showed before.
    async fn install_when_room(&mut self, snapshot: SnapshotFiles) -> io::Result<State> {
        let mut waits = false;
        loop {
            match self.store.install(snapshot.clone()) {
                Err(error @ StoreError::Full { .. }) => {
                    if !waits {
                        tracing::error!(%error, "a snapshot waits for room on the disk");
                    }
                    waits = true;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                other => return other.map_err(stored),
            }
        }
    }

    fn publish(&self) {
        self.progress.send_replace(Progress {
            applied: self.last.map_or(0, |id| id.index),
            merged: self.store.durable_index(),
            level0_bytes: self.store.level0_bytes(),
            frozen_bytes: self.store.frozen_bytes(),
            merges_running: self.store.merges_running(),
        });
    }
}

/// The answer to a batch that took effect before this view: applying it again would say the same.
pub(super) fn repeated(view: &View, agent: &AgentId, batch: &[u8]) -> Option<Answer> {
    let (header, _) = shared::batch::read_header(batch).ok()?;
    let position = view.state().position(agent, header.epoch, header.lane);
    let have = header.number <= position.last;
    have.then(|| Answer::Applied(Applied::new(view.index(), Some(position))))
}

fn answer(index: u64, outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Stored => Answer::Applied(Applied::new(index, None)),
        Outcome::Have(position) => Answer::Applied(Applied::new(index, Some(position))),
        Outcome::Gap(position) => Answer::Gap(position),
        Outcome::Names(position) => Answer::Names(position),
        Outcome::Fork(position) => Answer::Fork(position),
    }
}

fn stored(error: StoreError) -> io::Error {
    io::Error::other(error)
}

fn damaged(fault: ReadFault) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the manifest's log position {fault}"),
    )
}

/// What the store keeps for this stage: the last log id, and the membership with its own.
pub(super) fn encode_raft(last: &LogId, membership: &Membership) -> io::Result<Bytes> {
    let mut out = Writer::default();
    log::put_log_id(&mut out, last);
    out.u8(u8::from(membership.log_id().is_some()));
    if let Some(id) = membership.log_id() {
        log::put_log_id(&mut out, id);
    }
    log::put_membership(&mut out.out, membership.membership()).map_err(io::Error::other)?;
    Ok(out.out.into())
}

pub(super) fn decode_raft(bytes: &[u8]) -> Result<(Option<LogId>, Membership), ReadFault> {
    let mut from = Reader::new(bytes);
    let last = log::take_log_id(&mut from)?;
    let at = from
        .flag()?
        .then(|| log::take_log_id(&mut from))
        .transpose()?;
    let rest = from.take(from.left())?;
    let membership =
        log::decode_membership(rest).map_err(|_| ReadFault::Invalid("holds no membership"))?;
    Ok((Some(last), Membership::new(at, membership)))
}

pub(super) fn snapshot_of(
    files: SnapshotFiles,
) -> io::Result<SnapshotOf<TypeConfig, SnapshotFiles>> {
    let (last_log_id, last_membership) = decode_raft(&files.raft).map_err(damaged)?;
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id,
        last_membership,
    };
    Ok(SnapshotOf::<TypeConfig, SnapshotFiles> {
        meta,
        snapshot: files,
    })
}

/// Builds nothing: the last merge is the snapshot.
pub struct LastMerge(Option<SnapshotFiles>);

impl RaftSnapshotBuilder<TypeConfig> for LastMerge {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFiles>> {
        let files = self.0.clone();
        snapshot_of(files.ok_or_else(|| io::Error::other("no merge has finished yet"))?)
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = LastMerge;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.finish_merges()?;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(CommandBytes(bytes)) => {
                    self.apply_command(entry.log_id, &bytes).await?;
                }
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                }
            }
            self.last = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> LastMerge {
        LastMerge(self.store.snapshot())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotFiles,
    ) -> io::Result<()> {
        // At a start it is the state that is there already.
        if self.store.durable_index() >= snapshot.index {
            return Ok(());
        }
        let (index, files) = (snapshot.index, snapshot.files.len());
        self.state = self.install_when_room(snapshot).await?;
        tracing::info!(index, files, "snapshot installed");
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFiles>>> {
        self.store.snapshot().map(snapshot_of).transpose()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use futures_util::stream;
    use journal::SimStorage;
    use shared::id::TimeNs;

    use super::*;
    use crate::cluster::log::{Entry, LeaderId};
    use crate::state::{Origin, Payload, Submission, Window};

    /// There were once 64 that waited, each with its rows, and then the runtime's thread waited too.
    #[tokio::test]
    async fn one_call_may_bring_more_merges_than_may_run() {
        let sim = SimStorage::new(1);
        let (store, recovered) = Store::open(&*sim.as_storage()).unwrap();
        let mut applier = Applier::new(store, recovered, Proposer::new(1), false).unwrap();
        let merge = |index| -> io::Result<EntryResponder<TypeConfig>> {
            let leader_id = LeaderId {
                term: 1,
                node_id: 1,
            };
            let window = Window {
                start_hour: 0,
                hours: 24,
            };
            let command = match index % 3 {
                0 => Command::Seal(window.into()),
                _ => Command::Merge,
            };
            let entry = Entry {
                log_id: LogId { leader_id, index },
                payload: EntryPayload::Normal(CommandBytes(command.encode())),
            };
            Ok((entry, None))
        };
        let count = 100;
        let entries = stream::iter((1..=count).map(merge));
        applier.apply(entries).await.unwrap();
        let progress = *applier.progress().borrow();
        assert_eq!(progress.applied, count);
        assert!(progress.merges_running <= MERGES_MAX, "{progress:?}");
        assert!(progress.merged >= count - MERGES_MAX as u64, "{progress:?}");
    }

    /// A merge that was begun and not run, of one line.
    pub(in crate::cluster) fn begun(sim: &SimStorage) -> (Store, MergeJob) {
        let (mut store, _) = Store::open(&*sim.as_storage()).unwrap();
        let line = Submission {
            origin: Origin { boot: 1, ticket: 1 },
            agent: AgentId::parse("gw1").unwrap(),
            received: TimeNs(1),
            payload: Payload::Lines(Bytes::from_static(b"weather,device=d t=1i 1\n")),
        };
        let mut state = State::new();
        for (index, command) in (1..).zip([Command::Submissions(vec![line]), Command::Merge]) {
            let effects = state.apply(index, &command);
            store.apply(index, &state, effects.rows);
        }
        let job = store.begin_merge(2, &state, Bytes::from_static(b"raft"));
        (store, job)
    }

    #[test]
    fn a_merge_waits_while_the_disk_is_full() {
        // Nothing for a segment; and a segment, but nothing for the transaction.
        for room in [0, 1 << 12] {
            let sim = SimStorage::new(1);
            let (mut store, job) = begun(&sim);
            sim.fill_up(room);
            let mut pauses = 0;
            let files = store.segments();
            let merged = run_when_room(&job, &mut || {
                pauses += 1;
                assert!(files.list().unwrap().is_empty(), "it takes no room");
                if pauses == 3 {
                    sim.fill_up(u64::MAX);
                }
                true
            });
            assert_eq!(pauses, 3);
            assert!(store.frozen_bytes() > 0, "what keeps the gate shut");
            store.finish_merge(merged.unwrap().unwrap()).unwrap();
            assert_eq!((store.durable_index(), store.frozen_bytes()), (2, 0));
            assert_eq!(store.snapshot().unwrap().files.len(), 1);
        }
    }

    #[test]
    fn a_merge_that_waits_for_room_ends_with_the_node() {
        let sim = SimStorage::new(1);
        let (_store, job) = begun(&sim);
        sim.fill_up(0);
        assert!(run_when_room(&job, &mut || false).is_none());
    }
}
