//! One node: builds the stages in the order that a reading passes them, runs them, and stops them
//! from the doors inward. All that a node needs of its operator is in `Config`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::Listener as ClusterListener;
use crate::cluster::{self, Calls, Cluster, ClusterError, ListenError as ClusterListenError};
use crate::config::Config;
use crate::ingest::{IngestMetrics, ListenError, Listener, ListenerOptions};
use crate::metrics;
use crate::query::{Engine, QueryError, QueryOptions};
use crate::serve::http::{self, Http, HttpOptions};
use crate::serve::pg::{self, Postgres, PostgresOptions};
use crate::serve::{self, Admission, ServeMetrics, Service, ServiceOptions, StateMetrics};
use crate::store::{ScrubOptions, Scrubber, StoreMetrics};
use crate::tls::{Material, RevocationMetrics, Revocations, RevokedError, TlsError};
use crate::users::{Roster, UsersError};

/// How long a stop waits for the doors before it cuts them off.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// And then for consensus: it writes what it has begun to write.
const CLUSTER_STOP_LIMIT: Duration = Duration::from_secs(5);
const LOCK_FILE: &str = "lock";
const SPILL_FOLDER: &str = "spill";
/// How long a statement waits for a view that is new enough.
const READ_WAIT_MAX: Duration = Duration::from_secs(10);
const QUERY_TIME_MAX: Duration = Duration::from_secs(300);
/// Connections of each protocol that reads.
const READERS_MAX: usize = 256;

/// Why a node does not start, or ended. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(
        "{folder} is in use by another process; two nodes on one folder would destroy it. Stop \
         the other one, or name another data_dir"
    )]
    Locked { folder: String },
    #[error("cannot use {folder}: {source}")]
    Folder { folder: String, source: io::Error },
    #[error(transparent)]
    Tls(Box<TlsError>),
    #[error("the TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    #[error("cannot listen on {address}: {source}; is another process using the port?")]
    Port { address: String, source: io::Error },
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error("the query engine: {0}")]
    Query(#[from] QueryError),
    #[error(transparent)]
    Readers(#[from] serve::ListenError),
    #[error(transparent)]
    Mqtt(#[from] ListenError),
    #[error(transparent)]
    Nodes(#[from] ClusterListenError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("consensus stopped: {0}. Nothing acknowledged is lost; restart the node")]
    Consensus(String),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
}

impl From<TlsError> for NodeError {
    fn from(error: TlsError) -> Self {
        Self::Tls(Box::new(error))
    }
}

/// Makes the first node of a new cluster on an empty disk.
pub async fn init(config: &Config) -> Result<(), NodeError> {
    lock(&config.data_dir)?;
    // Certificates that do not work are better found now than at the first start.
    Material::load(config)?;
    Ok(cluster::init(config).await.map_err(ClusterError::from)?)
}

/// Runs a node until a signal asks it to stop.
pub async fn run(config: Config) -> Result<(), NodeError> {
    let mut signals = Signals::new().map_err(NodeError::Signals)?;
    let running = tokio::select! {
        started = Running::start(&config) => started?,
        // Nothing has been taken from anybody.
        () = signals.received() => return Ok(()),
    };
    let result = tokio::select! {
        why = running.cluster.failed() => Err(NodeError::Consensus(why)),
        () = signals.received() => Ok(()),
    };
    tracing::info!("stopping");
    running.stop().await;
    tracing::info!("stopped");
    result
}

/// A node that serves.
struct Running {
    cluster: Cluster,
    scrubber: Scrubber,
    /// The doors, and what goes with them.
    tasks: JoinSet<()>,
    stop_doors: watch::Sender<bool>,
    stop_cluster: watch::Sender<bool>,
}

impl Running {
    /// Builds everything.
    async fn start(config: &Config) -> Result<Running, NodeError> {
        lock(&config.data_dir)?;
        let material = Material::load(config)?;
        let (revocations, reloader) = Revocations::load(&config.tls.revoked)?;
        let mut registry = metrics::registry();
        let revocation_metrics = RevocationMetrics::register(&mut registry);
        let ingest_metrics = IngestMetrics::register(&mut registry);
        let store_metrics = StoreMetrics::register(&mut registry);
        let serve_metrics = ServeMetrics::register(&mut registry);
        let (stop_doors, stop) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(reloader.run(config.tls.revoked_poll, revocation_metrics, stop.clone()));
        let nodes = listen(config, &material, &revocations).await?;
        let calls = Calls {
            tls: material.cluster_client()?,
            revocations: revocations.clone(),
        };
        let (stop_cluster, cluster_stopped) = watch::channel(false);
        let cluster = Cluster::start(config, calls, nodes, cluster_stopped).await?;
        tracing::info!(
            node = config.name,
            id = cluster.seat().id,
            incarnation = format!("{:016x}", cluster.seat().incarnation),
            "running"
        );
        let settings = config.store.settings.clone();
        StateMetrics::register(&mut registry, Arc::new(cluster.clone()), settings);
        let doors = Doors {
            config,
            material: &material,
            revocations,
            cluster: &cluster,
            ingest_metrics,
            serve_metrics,
            registry: Arc::new(registry),
        };
        doors.open(&mut tasks, &stop).await?;
        let options = ScrubOptions {
            period: config.store.scrub_period,
            node: config.name.clone(),
        };
        let views = cluster.views().clone();
        let scrubber = Scrubber::start(views, options, store_metrics).map_err(NodeError::Thread)?;
        tracing::info!("serving");
        Ok(Running {
            cluster,
            scrubber,
            tasks,
            stop_doors,
            stop_cluster,
        })
    }

    /// The doors first: what came through them is answered, or refused, while there is a cluster.
    async fn stop(mut self) {
        self.stop_doors.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_LIMIT, ended).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut off");
            self.tasks.abort_all();
        }
        drop(self.scrubber);
        self.stop_cluster.send_replace(true);
        if timeout(CLUSTER_STOP_LIMIT, self.cluster.stop())
            .await
            .is_err()
        {
            tracing::warn!("consensus did not end in time; the disk has what was acknowledged");
        }
    }
}

/// Every port, before anything is changed: one that is taken is told first.
async fn listen(
    config: &Config,
    material: &Material,
    revocations: &Revocations,
) -> Result<ClusterListener, NodeError> {
    let nodes = ClusterListener::bind(
        &config.listen.cluster,
        &config.cluster,
        material.cluster_server()?,
        revocations.clone(),
    )
    .await?;
    for address in [
        &config.listen.mqtt,
        &config.listen.http,
        &config.listen.postgres,
    ] {
        probe(address).await?;
    }
    Ok(nodes)
}

/// The doors of a node, opened once there is something behind them.
struct Doors<'a> {
    config: &'a Config,
    material: &'a Material,
    revocations: Revocations,
    cluster: &'a Cluster,
    ingest_metrics: Arc<IngestMetrics>,
    serve_metrics: Arc<ServeMetrics>,
    registry: Arc<Registry>,
}

impl Doors<'_> {
    async fn open(
        self,
        tasks: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), NodeError> {
        let config = self.config;
        let options = ListenerOptions {
            cluster: config.cluster.clone(),
            limits: config.limits,
            tls: self.material.mqtt_server()?,
            revocations: self.revocations.clone(),
            metrics: self.ingest_metrics,
        };
        let mqtt = Listener::bind(&config.listen.mqtt, options, self.cluster.clone()).await?;
        let service = Service::new(ServiceOptions {
            engine: Engine::new(query_options(&config.data_dir))?,
            upstream: Arc::new(self.cluster.clone()),
            metrics: Arc::clone(&self.serve_metrics),
            read_wait_max: READ_WAIT_MAX,
        });
        let users = Roster::open(&config.users_file)?;
        let admission = Arc::new(Admission::new(&config.cluster, users, self.revocations));
        let options = HttpOptions {
            tls: self.material.public_server(http::ALPN)?,
            service: service.clone(),
            admission: Arc::clone(&admission),
            registry: self.registry,
            metrics: Arc::clone(&self.serve_metrics),
            connections_max: READERS_MAX,
        };
        let http = Http::bind(&config.listen.http, options).await?;
        let options = PostgresOptions {
            tls: self.material.public_server(pg::ALPN)?,
            service,
            admission,
            metrics: self.serve_metrics,
            connections_max: READERS_MAX,
        };
        let postgres = Postgres::bind(&config.listen.postgres, options).await?;
        tasks.spawn(mqtt.run(stop.clone()));
        tasks.spawn(http.run(stop.clone()));
        tasks.spawn(postgres.run(stop.clone()));
        Ok(())
    }
}

/// What queries may use, beside ingest, on a small machine.
fn query_options(data_dir: &Path) -> QueryOptions {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    QueryOptions {
        memory_bytes: 1 << 30,
        query_memory_bytes: 256 << 20,
        spill_dir: data_dir.join(SPILL_FOLDER),
        spill_bytes_max: 4 << 30,
        time_max: QUERY_TIME_MAX,
        queries_max: 64,
        cores,
    }
}

/// Whether an address can be listened on. It is let go of again: its door opens later.
async fn probe(address: &str) -> Result<(), NodeError> {
    let bound = tokio::net::TcpListener::bind(address).await;
    let failed = |source| NodeError::Port {
        address: address.to_owned(),
        source,
    };
    bound.map(drop).map_err(failed)
}

/// Keeps every other process off a folder until this one ends: the log's thread may outlive the
/// stages, and a second writer beside it would destroy the log.
fn lock(folder: &Path) -> Result<(), NodeError> {
    let failed = |source| NodeError::Folder {
        folder: folder.display().to_string(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = File::create(folder.join(LOCK_FILE)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            // The kernel lets go of it with the process, and nothing before does.
            std::mem::forget(file);
            Ok(())
        }
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::Locked {
            folder: folder.display().to_string(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::pki::Pki;
    use crate::tls::Role;

    fn config(folder: &Path) -> Config {
        let pki = Pki::init(&folder.join("pki"), "demo").unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        pki.issue(Role::Node, "a", &hosts, 1).unwrap();
        let text = "name = \"a\"\ncluster = \"demo\"\ndata_dir = \"../data\"\n[listen]\n\
                    mqtt = \"127.0.0.1:0\"\ncluster = \"127.0.0.1:0\"\n\
                    postgres = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[tls]\n\
                    cert = \"node-a.pem\"\nkey = \"node-a.key\"\nnodes_ca = \"nodes-ca.pem\"\n\
                    agents_ca = \"agents-ca.pem\"\nusers_ca = \"users-ca.pem\"\n\
                    revoked = \"revoked.toml\"\n";
        Config::parse(text, &pki.folder().join("node.toml")).unwrap()
    }

    /// A signal once dropped the cluster in the middle of what it did, before the doors were shut.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_ends_everything() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        cluster::init(&config).await.unwrap();
        let running = Running::start(&config).await.unwrap();
        let cluster = running.cluster.clone();
        assert!(Handle::current().metrics().num_alive_tasks() > 0);
        running.stop().await;
        cluster.failed().await;
        drop(cluster);
        let ended = async {
            while Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), ended)
            .await
            .expect("all tasks end");
    }
}
