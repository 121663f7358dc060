//! One running node of the cluster: what ingest hands to, what serving reads from.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use journal::DiskStorage;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::ReadPolicy;
use openraft::{Config as RaftConfig, SnapshotPolicy};
use shared::id::{AgentId, Epoch, Lane, TimeNs};
use shared::verdict::Position;
use tokio::sync::watch;
use tokio::time::Instant;

use super::apply::{Applier, Progress, repeated};
use super::gate::{self, Gate, Incoming};
use super::join::{Admission, JoinError};
use super::link::{Answerer, CallError, Link, Purpose};
use super::listener::Listener;
use super::log::{LogError, LogReader, LogStore};
use super::network::Network;
use super::outbox::{Leadership, Sent};
use super::overview::{NodeRow, NotReadable, Overview};
use super::peer::{Peer, give, run_proposals, sent};
use super::propose::{Propose, Proposer, Ticket};
use super::rounds::Rounds;
use super::steward::{self, Wishes};
use super::tasks::Tasks;
use super::transport::Transport;
use super::types::{Member, Raft};
use super::wire::{self, Kind, Proposed};
use super::{LOG_FOLDER, STORE_FOLDER, join, log_options};
use crate::config::{Config, Timing};
use crate::ingest;
use crate::state::Command;
use crate::state::command::Payload;
use crate::store::{Store, StoreError, View, Views};
use crate::tls::Revocations;

/// A proposal that the leader does not take by then is given again.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);
const READ_INDEX_LIMIT: Duration = Duration::from_secs(2);
/// An agent waits for CONNACK no longer than 5 s, the handshake included.
const POSITIONS_LIMIT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// A commit is known within this, or the command is due again.
const DUTY_LIMIT: Duration = Duration::from_secs(5);

/// Why a node does not run. Sorted by what the operator must do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("cannot open the Raft log: {0}")]
    Log(#[from] LogError),
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    #[error("cannot use {folder}: {source}")]
    Folder { folder: String, source: io::Error },
    #[error("consensus stopped: {0}; restart the node, it recovers from its disk")]
    Fatal(String),
    #[error("the timing of the configuration: {0}")]
    Timing(String),
    #[error("no randomness: {0}")]
    Random(String),
}

/// Where a node stands in its cluster: everything that must be known before it runs.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    pub id: u64,
    pub incarnation: u64,
}

/// The inside of a running node, shared by its tasks.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) raft: Raft,
    pub(super) link: Arc<dyn Link>,
    pub(super) log: LogReader,
    pub(super) gate: Arc<Gate>,
    /// Entries up to and with this one are sent to no follower any more.
    pub(super) cut: Arc<AtomicU64>,
    pub(super) views: Views,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) wall_clock: fn() -> TimeNs,
    reads: Arc<Rounds<Result<u64, String>>>,
}

/// A running node. Clones are handles on the same.
#[derive(Clone)]
pub struct Cluster {
    seat: Seat,
    cluster: Arc<str>,
    name: Arc<str>,
    node: Node,
    proposer: Arc<Proposer>,
    recovered: watch::Receiver<bool>,
    tasks: Tasks,
}

/// How the node asks others, until it stops.
pub struct Calls {
    pub tls: Arc<rustls::ClientConfig>,
    pub revocations: Revocations,
}

impl Cluster {
    /// Takes the node's place in the cluster, asking to be admitted if its disk is empty, and runs.
    pub async fn start(
        config: &Config,
        calls: Calls,
        listener: Listener,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Cluster, ClusterError> {
        let tasks = Tasks::default();
        let Calls { tls, revocations } = calls;
        let transport = |incarnation| {
            let (tls, revocations) = (Arc::clone(&tls), revocations.clone());
            Transport::new(
                &config.cluster,
                incarnation,
                tls,
                revocations,
                tasks.clone(),
            )
        };
        let folder = |source| ClusterError::Folder {
            folder: config.data_dir.display().to_string(),
            source,
        };
        let disk = DiskStorage::open(&config.data_dir).map_err(folder)?;
        let (id, incarnation) = join::settle(config, &*disk, &transport(0), &mut stop).await?;
        let seat = Seat { id, incarnation };
        let link: Arc<dyn Link> = Arc::new(transport(incarnation));
        let log = LogStore::open(
            disk.directory(LOG_FOLDER).map_err(folder)?,
            log_options(config),
        )?;
        let store = disk.directory(STORE_FOLDER).map_err(folder)?;
        let wishes = Wishes {
            merge_bytes: config.store.merge_bytes,
            merge_age: config.store.merge_age,
            seal_rest: config.store.seal_rest,
            settings: config.store.settings.clone(),
            log_keep_bytes: config.store.log_keep_bytes,
        };
        let boot = getrandom::u64().map_err(|e| ClusterError::Random(e.to_string()))?;
        let parts = Parts {
            cluster: config.cluster.clone(),
            name: config.name.as_str().into(),
            seat,
            timing: config.timing.clone(),
            link,
            log_reserve_bytes: gate::reserve_bytes(log.room().file_bytes()),
            log,
            store,
            wishes,
            boot,
            inline: false,
            wall_clock,
        };
        let (cluster, answerer) = parts.run(stop.clone()).await?;
        cluster.tasks.keep(tasks);
        cluster.tasks.spawn(listener.run(answerer, stop));
        Ok(cluster)
    }

    pub fn seat(&self) -> Seat {
        self.seat
    }

    pub fn views(&self) -> &Views {
        &self.node.views
    }

    /// Waits until consensus stopped for good: the process must end then. Says why.
    pub async fn failed(&self) -> String {
        let mut metrics = self.node.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "it ended".to_owned();
            }
        }
    }

    /// Ends consensus and everything around it. Nothing acknowledged depends on it: the disk has it.
    pub async fn stop(&self) {
        if self.node.raft.shutdown().await.is_err() {
            tracing::warn!("consensus did not end cleanly; the disk has what was acknowledged");
        }
        self.tasks.end();
    }

    /// Recovered what it had before its start, and a leader is known; else what is missing.
    pub fn readiness(&self) -> Result<(), &'static str> {
        if !*self.recovered.borrow() {
            return Err("recovering: waiting for a quorum to confirm this node's log");
        }
        match self.node.raft.metrics().borrow_watched().current_leader {
            Some(_) => Ok(()),
            None => Err("no leader is known: too few nodes can be reached"),
        }
    }

    /// A view that holds everything a quorum had committed when this was called. `Err`: none can
    /// be had before the deadline, and why.
    pub async fn linearizable(&self, deadline: Instant) -> Result<Arc<View>, NotReadable> {
        let mut why = NotReadable::NotServing;
        let read = async {
            let mut recovered = self.recovered.clone();
            // The sender lives as long as the node.
            let _ = recovered.wait_for(|recovered| *recovered).await;
            loop {
                match self.node.reads.next(|| self.node.read_index()).await {
                    Ok(index) => {
                        let mut progress = self.node.progress.clone();
                        let applied = progress.wait_for(|progress| progress.applied >= index);
                        // The sender lives as long as consensus: without it there is no answer.
                        if applied.await.is_ok() {
                            return self.node.views.latest();
                        }
                        why = NotReadable::NotServing;
                    }
                    Err(error) => {
                        tracing::debug!(error, "no read index yet");
                        why = NotReadable::NoLeader;
                    }
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        let read = tokio::time::timeout_at(deadline, read).await;
        read.map_err(|_| why)
    }

    /// What this node has applied, however far behind.
    pub fn latest(&self) -> Arc<View> {
        self.node.views.latest()
    }

    /// What this node knows of its cluster now.
    pub fn overview(&self) -> Overview {
        // Once, and first: whoever borrows a watch twice waits for ever behind a sender that came
        // in between, and holds a worker of the runtime while it does.
        let own_applied = self.node.progress.borrow().applied;
        let metrics = self.node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or_default();
        let leader = metrics.current_leader;
        let nodes = membership.nodes().map(|(id, member)| {
            let applied = if *id == self.seat.id {
                Some(own_applied)
            } else {
                let known = metrics.replication.as_ref().and_then(|all| all.get(id));
                known.copied().flatten().map(|matched| matched.index)
            };
            NodeRow {
                id: *id,
                name: member.name.clone(),
                address: member.address.clone(),
                role: match (leader == Some(*id), voters.contains(id)) {
                    (true, _) => "leader",
                    (false, true) => "follower",
                    (false, false) => "learner",
                },
                applied,
                lag: applied.map(|applied| last.saturating_sub(applied)),
            }
        });
        Overview {
            cluster: self.cluster.to_string(),
            node: self.name.to_string(),
            id: self.seat.id,
            leader,
            term: metrics.current_term,
            applied: own_applied,
            committed: metrics.local_committed.map_or(0, |id| id.index),
            incarnation: self.seat.incarnation,
            nodes: Arc::new(nodes.collect()),
        }
    }
}

/// What a node is built of, wherever it runs.
pub struct Parts {
    pub cluster: String,
    pub name: Arc<str>,
    pub seat: Seat,
    pub timing: Timing,
    pub link: Arc<dyn Link>,
    pub log: LogStore,
    /// Bytes of the log that submissions leave free: for what is on its way, and what frees files.
    pub log_reserve_bytes: u64,
    pub store: Arc<dyn journal::Storage>,
    pub wishes: Wishes,
    /// Random: names this run of the node.
    pub boot: u64,
    /// Merges, and what a snapshot brings to the disk, run where they begin.
    pub inline: bool,
    pub wall_clock: fn() -> TimeNs,
}

impl Parts {
    /// Starts consensus and the tasks around it; gives what answers other nodes.
    pub async fn run(
        self,
        stop: watch::Receiver<bool>,
    ) -> Result<(Cluster, Arc<dyn Answerer>), ClusterError> {
        let raft_config = raft_config(&self.cluster, &self.timing)?;
        let tasks = Tasks::default();
        let (store, recovered) = Store::open(&*self.store)?;
        join::check_log(&self.log, store.durable_index(), &self.name, self.seat.id).await?;
        let (views, segments) = (store.views(), store.segments());
        let claims = store.claims();
        let proposer = Proposer::new(self.boot);
        let failed = |error: io::Error| ClusterError::Fatal(error.to_string());
        let applier = Applier::new(store, recovered, Arc::clone(&proposer), self.inline);
        let applier = applier.map_err(failed)?;
        let progress = applier.progress();
        let (log, room) = (self.log.reader(), self.log.room());
        let gate = Gate::new(
            room.clone(),
            progress.clone(),
            self.log_reserve_bytes,
            self.wishes.merge_bytes,
        );
        let cut = Arc::new(AtomicU64::new(0));
        let network = Network::new(
            Arc::clone(&self.link),
            Arc::clone(&segments),
            Arc::clone(&cut),
        );
        let raft = agree(self.seat.id, raft_config, network, self.log, applier).await?;
        let node = Node {
            id: self.seat.id,
            raft: raft.clone(),
            link: self.link,
            log,
            gate: Arc::clone(&gate),
            cut,
            views: views.clone(),
            progress,
            wall_clock: self.wall_clock,
            reads: Arc::default(),
        };
        let incarnation = self.seat.incarnation;
        let admission = Admission::new(incarnation, raft.clone(), views);
        let incoming = Incoming::new(room);
        let (peer, proposals) = Peer::new(
            incarnation,
            raft.clone(),
            (segments, claims),
            admission,
            gate,
            incoming,
            self.inline,
        );
        tasks.spawn(run_proposals(raft.clone(), proposals, stop.clone()));
        tasks.spawn(peer.release_snapshots(stop.clone()));
        let (led, leadership) = watch::channel(None);
        tasks.spawn(watch_leadership(raft.clone(), led));
        let to: Arc<dyn Propose> = Arc::new(node.clone());
        tasks.spawn(Arc::clone(&proposer).run(to, leadership, stop.clone()));
        let (done, recovered) = watch::channel(false);
        tasks.spawn(recover(raft, done));
        tasks.spawn(steward::run(node.clone(), self.wishes, stop));
        let cluster = Cluster {
            seat: self.seat,
            cluster: self.cluster.into(),
            name: self.name,
            node,
            proposer,
            recovered,
            tasks,
        };
        Ok((cluster, Arc::new(peer)))
    }
}

/// Begins to take part.
async fn agree(
    id: u64,
    config: RaftConfig,
    network: Network,
    log: LogStore,
    applier: Applier,
) -> Result<Raft, ClusterError> {
    let raft = Raft::new(id, Arc::new(config), network, log, applier);
    raft.await.map_err(|e| ClusterError::Fatal(e.to_string()))
}

/// openraft, as our guarantees need it.
fn raft_config(cluster: &str, timing: &Timing) -> Result<RaftConfig, ClusterError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = RaftConfig {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        // A merge is the snapshot, and bytes decide what is purged: both are ours to say.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A lagging node is sent the log as long as there is one.
        replication_lag_threshold: u64::MAX,
        // A leader that restarts in its old term with a shorter log would give ids anew that
        // followers hold already.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        enable_pre_vote: Some(true),
        ..RaftConfig::default()
    };
    config
        .validate()
        .map_err(|e| ClusterError::Timing(e.to_string()))
}

async fn watch_leadership(raft: Raft, led: watch::Sender<Option<Leadership>>) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            let term = metrics.vote.leader_id.term;
            metrics
                .current_leader
                .map(|leader| Leadership { term, leader })
        };
        led.send_if_modified(|known| std::mem::replace(known, now) != now);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// A node that restarts must not show less than it showed before.
async fn recover(raft: Raft, done: watch::Sender<bool>) {
    while raft
        .wait_for_recovery(Some(Duration::from_secs(3_600)))
        .await
        .is_err()
    {
        if raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
    }
    tracing::info!("recovered: the log is confirmed by a quorum and applied");
    done.send_replace(true);
    // Kept: whoever waits for it must not take its end for an answer.
    std::future::pending::<()>().await;
}

impl Node {
    fn member(&self, id: u64) -> Option<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .get_node(&id)
            .cloned()
    }

    /// The index that a read must have seen to be linearizable: by a round of a quorum, no lease.
    async fn read_index(&self) -> Result<u64, String> {
        let leader = self.raft.metrics().borrow_watched().current_leader;
        let leader = leader.ok_or("no leader is known")?;
        if leader == self.id {
            let read = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
            let read = tokio::time::timeout(READ_INDEX_LIMIT, read).await;
            let read = read.map_err(|_| "no quorum answers".to_owned())?;
            return Ok(read.map_err(|e| e.to_string())?.0.index());
        }
        let to = self
            .member(leader)
            .ok_or("the leader's address is not known")?;
        let (kind, nothing) = (Kind::ReadIndex, Bytes::new());
        let asked = self
            .link
            .call(&to, Purpose::Pulse, kind, nothing, READ_INDEX_LIMIT);
        let index = asked.await.map_err(|e| e.to_string())?;
        wire::decode_index(&index).map_err(|e| e.to_string())
    }

    /// Gives a command that nobody waits for to the leader; it may come to nothing.
    pub(super) async fn propose(&self, command: Command) {
        let leader = self.raft.metrics().borrow_watched().current_leader;
        let Some(leader) = leader else { return };
        let proposed = Propose::propose(self, leader, command.encode());
        let _ = tokio::time::timeout(DUTY_LIMIT, proposed).await;
    }
}

impl Propose for Node {
    fn propose(&self, to: u64, command: Bytes) -> BoxFuture<'static, Sent> {
        if to == self.id {
            if !self.gate.admits(&command) {
                return Box::pin(async { Sent::Full });
            }
            let raft = self.raft.clone();
            return Box::pin(async move {
                match give(&raft, command).await {
                    Ok(outcome) => sent(&raft, outcome).await,
                    Err(_) => Sent::Refused,
                }
            });
        }
        let Some(member) = self.member(to) else {
            return Box::pin(async { Sent::Refused });
        };
        let call = self
            .link
            .call(&member, Purpose::Log, Kind::Propose, command, PROPOSE_LIMIT);
        Box::pin(async move {
            match call.await {
                Ok(answer) => match Proposed::decode(&answer) {
                    Ok(Proposed::Taken) => Sent::Taken,
                    Ok(Proposed::Full) => Sent::Full,
                    Err(_) => Sent::Lost,
                },
                Err(CallError::Unreachable { .. } | CallError::Refused { .. }) => Sent::Refused,
                Err(CallError::Lost { .. }) => Sent::Lost,
            }
        })
    }
}

impl ingest::Upstream for Cluster {
    type Ticket = Ticket;

    async fn submit(
        &self,
        agent: AgentId,
        received: TimeNs,
        payload: Payload,
        decoded_bytes: usize,
    ) -> Ticket {
        // Who sends a batch again that took effect costs the log no entry.
        if let Payload::Batch(batch) = &payload
            && let Some(answer) = repeated(&self.node.views.latest(), &agent, batch)
        {
            return Ticket::answered(answer);
        }
        let submitted = self
            .proposer
            .submit(agent, received, payload, decoded_bytes);
        submitted.await
    }

    async fn positions(
        &self,
        agent: &AgentId,
        streams: &[(Epoch, Lane)],
    ) -> Option<Vec<(Epoch, Lane, Position)>> {
        // By what this node alone has applied, an agent could give a number away again.
        let deadline = tokio::time::Instant::now() + POSITIONS_LIMIT;
        let view = self.linearizable(deadline).await.ok()?;
        let at = |epoch, lane| view.state().position(agent, epoch, lane);
        let streams = streams.iter();
        let placed = streams.map(|(epoch, lane)| (*epoch, *lane, at(*epoch, *lane)));
        Some(placed.collect())
    }

    fn incarnation(&self) -> u64 {
        self.seat.incarnation
    }

    fn ready(&self) -> bool {
        self.readiness().is_ok()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a driver: this node's clock, which the log tells to all"
)]
fn wall_clock() -> TimeNs {
    // A clock before 1970 counts as 1970; after 2262 as the last instant that fits.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default().as_nanos();
    TimeNs(i64::try_from(since).unwrap_or(i64::MAX))
}
