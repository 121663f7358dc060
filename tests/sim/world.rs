//! Three nodes on simulated disks.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use aggregator::cluster::link::{Answerer, Link};
use aggregator::cluster::log::{LogError, LogOptions, LogStore, Mode};
use aggregator::cluster::types::Member;
use aggregator::cluster::wire::JoinRequest;
use aggregator::cluster::{Cluster, Parts, Seat, Wishes, ask_all, begin_log};
use aggregator::config::Timing;
use aggregator::state::Wish;
use aggregator::store::{Chunk, Scan, StoreError, View};
use journal::{SimStorage, Storage};
use shared::batch::Values;
use shared::id::TimeNs;
use tests::history::Rows;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::net::{End, Net};

const INCARNATION: u64 = 0xc1;
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
/// The first instant of the virtual clock.
pub(crate) const BEGIN_NS: i64 = 1_767_225_600_000_000_000;

pub(crate) struct World {
    pub(crate) net: Net,
    nodes: Vec<SimNode>,
    boots: u64,
    wishes: Wishes,
    log: LogOptions,
    log_reserve_bytes: u64,
    timing: Timing,
}

/// What a run draws of its nodes.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    pub(crate) wishes: Wishes,
    pub(crate) log: LogOptions,
    pub(crate) log_reserve_bytes: u64,
    pub(crate) timing: Timing,
}

struct SimNode {
    name: &'static str,
    disk: SimStorage,
    seat: Option<Seat>,
    running: Option<Running>,
}

struct Running {
    cluster: Cluster,
    _stop: watch::Sender<bool>,
}

fn log_options(files_max: usize) -> LogOptions {
    LogOptions {
        journal: journal::Options {
            file_bytes: 64 << 10,
            files_max,
        },
        cached_bytes_max: 16 << 10,
        mode: Mode::Inline,
    }
}

/// Bytes of the log that submissions leave free.
const LOG_RESERVE_BYTES: u64 = 512 << 10;

/// Small, so that merges, snapshots and purges happen in every run.
fn wishes(merge_bytes: u64) -> Wishes {
    Wishes {
        merge_bytes,
        merge_age: Duration::from_secs(2),
        seal_rest: Duration::from_secs(2),
        settings: Wish::new(Some(400), Some(24)),
        log_keep_bytes: 8 << 10,
    }
}

fn member(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        address: name.to_owned(),
    }
}

fn folder(disk: &SimStorage, name: &str) -> Arc<dyn Storage> {
    disk.as_storage()
        .directory(name)
        .expect("a simulated disk without faults")
}

impl World {
    /// Three empty disks.
    pub(crate) fn new(seed: u64) -> World {
        let node = |(nth, name)| SimNode {
            name,
            disk: SimStorage::new(seed * 3 + nth),
            seat: None,
            running: None,
        };
        World {
            net: Net::new(seed),
            nodes: (0..).zip(NAMES).map(node).collect(),
            boots: 0,
            wishes: wishes(8 << 10),
            log: log_options(64),
            log_reserve_bytes: LOG_RESERVE_BYTES,
            timing: Timing {
                heartbeat: Duration::from_millis(100),
                election_min: Duration::from_millis(400),
                election_max: Duration::from_millis(800),
            },
        }
    }

    pub(crate) fn with_sizes(self, sizes: Sizes) -> World {
        World {
            wishes: sizes.wishes,
            log: sizes.log,
            log_reserve_bytes: sizes.log_reserve_bytes,
            timing: sizes.timing,
            ..self
        }
    }

    pub(crate) fn with_timing(self, timing: Timing) -> World {
        World { timing, ..self }
    }

    /// The same with a log of so many files.
    pub(crate) fn with_log_files(self, files_max: usize) -> World {
        World {
            log: log_options(files_max),
            ..self
        }
    }

    /// Three empty disks for a small log, and for rows of so many bytes between merges.
    pub(crate) fn with_small_log(seed: u64, merge_bytes: u64) -> World {
        World {
            wishes: wishes(merge_bytes),
            ..World::new(seed).with_log_files(16)
        }
    }

    /// Makes the cluster: the first node founds it, the others join.
    pub(crate) async fn found(&mut self) {
        let log = LogStore::open(folder(&self.nodes[0].disk, "log"), self.log);
        begin_log(log.expect("an empty log"), &member("a"))
            .await
            .expect("a good disk");
        self.nodes[0].seat = Some(Seat {
            id: 1,
            incarnation: INCARNATION,
        });
        self.start(0).await;
        for (at, name) in NAMES.into_iter().enumerate().skip(1) {
            let request = JoinRequest {
                name: name.to_owned(),
                address: name.to_owned(),
                joining: at as u64,
            };
            let end = self.end(at, 0);
            let admitted = ask_all(&["a".to_owned()], &*end, &request).await;
            let (id, incarnation) = admitted.expect("nobody refuses a new name");
            self.nodes[at].seat = Some(Seat { id, incarnation });
            self.start(at).await;
        }
        while !(0..3).all(|at| self.knows_three_voters(at)) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn knows_three_voters(&self, at: usize) -> bool {
        let Some(cluster) = self.cluster(at) else {
            return false;
        };
        let nodes = cluster.overview().nodes;
        nodes.iter().filter(|node| node.role != "learner").count() == 3
    }

    fn end(&self, at: usize, incarnation: u64) -> Arc<dyn Link> {
        Arc::new(End {
            net: self.net.clone(),
            name: self.nodes[at].name.to_owned(),
            incarnation,
        })
    }

    pub(crate) async fn start(&mut self, at: usize) {
        let parts = self.parts(at).expect("its own log");
        let (stop, stopped) = watch::channel(false);
        let begun = parts.run(stopped).await;
        let (cluster, answerer) = begun.expect("a node starts from its disk");
        self.runs(at, cluster, stop, answerer);
    }

    /// What a node starts from.
    ///
    /// # Errors
    /// Its log cannot be opened.
    pub(crate) fn parts(&mut self, at: usize) -> Result<Parts, LogError> {
        self.boots += 1;
        let node = &self.nodes[at];
        let seat = node.seat.expect("only members are started");
        Ok(Parts {
            cluster: "sim".to_owned(),
            name: node.name.into(),
            seat,
            timing: self.timing.clone(),
            link: self.end(at, seat.incarnation),
            log: LogStore::open(folder(&node.disk, "log"), self.log)?,
            log_reserve_bytes: self.log_reserve_bytes,
            store: folder(&node.disk, "store"),
            wishes: self.wishes.clone(),
            boot: self.boots,
            inline: true,
            wall_clock: CLOCKS[at],
        })
    }

    /// It is started, and others can reach it.
    pub(crate) fn runs(
        &mut self,
        at: usize,
        cluster: Cluster,
        stop: watch::Sender<bool>,
        answerer: Arc<dyn Answerer>,
    ) {
        self.net.listen(NAMES[at], answerer);
        self.nodes[at].running = Some(Running {
            cluster,
            _stop: stop,
        });
    }

    pub(crate) fn disk(&self, at: usize) -> &SimStorage {
        &self.nodes[at].disk
    }

    /// It is no longer there for anyone; whoever takes it has to stop it.
    pub(crate) fn take(&mut self, at: usize) -> Option<Cluster> {
        self.net.silence(NAMES[at]);
        self.nodes[at].running.take().map(|running| running.cluster)
    }

    /// The power of one node goes.
    pub(crate) async fn cut_power(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        self.net.silence(node.name);
        node.disk.power_cut();
        if let Some(running) = node.running.take() {
            running.cluster.stop().await;
        }
    }

    pub(crate) fn isolate(&self, at: usize) {
        for other in NAMES.into_iter().filter(|name| *name != NAMES[at]) {
            self.net.cut(NAMES[at], other);
        }
    }

    pub(crate) fn cluster(&self, at: usize) -> Option<&Cluster> {
        self.nodes[at]
            .running
            .as_ref()
            .map(|running| &running.cluster)
    }

    /// Whom the running nodes take for the leader, if they agree with it.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..3).find(|at| {
            let overview = self.cluster(*at).map(Cluster::overview);
            overview.is_some_and(|seen| seen.leader == Some(seen.id))
        })
    }

    /// The numbers of a device in a linearizable view of a node.
    pub(crate) async fn read(&self, at: usize, device: &str) -> Result<Vec<i64>, String> {
        let cluster = self.cluster(at).ok_or("it is not running")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let view = cluster.linearizable(deadline).await;
        view.map_err(|e| e.to_string())?;
        Ok(visible(cluster, device))
    }
}

/// All rows of a view, by device; `None`: the power of its node went while it was read.
pub(crate) fn rows(view: &Arc<View>) -> Option<Vec<Rows>> {
    let scan = Scan {
        table: "sim".to_owned(),
        fields: vec!["seq".to_owned(), "v".to_owned()],
        time: i64::MIN..=i64::MAX,
        devices: None,
    };
    let chunk = |chunk: Result<Chunk, StoreError>| {
        let chunk = match chunk {
            Err(StoreError::Io { .. }) => return None,
            chunk => chunk.expect("a simulated disk without rot"),
        };
        let mut columns = chunk.columns.into_iter().flatten();
        Some(match (columns.next(), columns.next()) {
            (Some(seqs), Some(values)) => match (seqs.values, values.values) {
                (Values::Int(seqs), Values::Int(values)) => Rows {
                    device: chunk.series.device.clone(),
                    seqs,
                    values,
                    times_ns: chunk.times,
                },
                other => panic!("the fields hold {other:?}"),
            },
            other => panic!("the fields hold {other:?}"),
        })
    };
    view.scan(scan).map(chunk).collect()
}

fn visible(cluster: &Cluster, device: &str) -> Vec<i64> {
    let scan = Scan {
        table: "sim".to_owned(),
        fields: vec!["seq".to_owned()],
        time: i64::MIN..=i64::MAX,
        devices: Some(vec![device.to_owned()]),
    };
    let mut seen = Vec::new();
    for chunk in cluster.views().latest().scan(scan) {
        let chunk = chunk.expect("a simulated disk without rot");
        match chunk
            .columns
            .into_iter()
            .next()
            .flatten()
            .map(|column| column.values)
        {
            Some(Values::Int(values)) => seen.extend(values),
            other => panic!("the field seq holds {other:?}"),
        }
    }
    seen
}

thread_local! {
    static CLOCKS_STOPPED: Cell<bool> = const { Cell::new(false) };
    /// By how much the clock of each node is wrong.
    static WRONG_NS: [Cell<i64>; 3] = const { [const { Cell::new(0) }; 3] };
}

/// Each node has a clock of its own.
const CLOCKS: [fn() -> TimeNs; 3] = [clock_of::<0>, clock_of::<1>, clock_of::<2>];

fn clock_of<const AT: usize>() -> TimeNs {
    let TimeNs(right) = virtual_clock();
    TimeNs(right.saturating_add(WRONG_NS.with(|wrong| wrong[AT].get())))
}

/// From now on the clock of a node is wrong by so much.
pub(crate) fn set_clock_wrong(at: usize, wrong_ns: i64) {
    WRONG_NS.with(|wrong| wrong[at].set(wrong_ns));
}

/// Nodes without a time do not merge.
pub(crate) fn stop_clocks(stopped: bool) {
    CLOCKS_STOPPED.set(stopped);
}

fn virtual_clock() -> TimeNs {
    thread_local! {
        static BEGAN: Instant = Instant::now();
    }
    if CLOCKS_STOPPED.get() {
        return TimeNs(0);
    }
    let since = BEGAN.with(Instant::elapsed).as_nanos();
    TimeNs(BEGIN_NS + i64::try_from(since).expect("a run takes no centuries"))
}
