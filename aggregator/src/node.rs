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

use crate::cluster::Listener as ClusterListener;
use crate::cluster::{self, Calls, Cluster, ClusterError, ListenError as ClusterListenError};
use crate::config::Config;
use crate::ingest::{IngestMetrics, ListenError, Listener, ListenerOptions};
use crate::metrics;
use crate::query::{Engine, QueryError, QueryOptions};
use crate::serve::http::{self, Http, HttpOptions};
use crate::serve::pg::{self, Postgres, PostgresOptions};
use crate::serve::{self, Admission, ServeMetrics, Service, ServiceOptions};
use crate::tls::{Material, RevocationMetrics, Revocations, RevokedError, TlsError};
use crate::users::{Roster, UsersError};

/// How long a stop waits for the stages before it cuts them off.
const STOP_LIMIT: Duration = Duration::from_secs(10);
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
    let (stop, stopped) = watch::channel(false);
    let mut signals = Signals::new().map_err(NodeError::Signals)?;
    let mut tasks = JoinSet::new();
    let run = run_stages(&config, &mut tasks, stopped);
    let result = tokio::select! {
        ended = run => ended,
        () = signals.received() => Ok(()),
    };
    stop.send_replace(true);
    tracing::info!("stopping");
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_LIMIT, ended).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut off");
    }
    result
}

/// Builds everything and returns only if it cannot go on.
async fn run_stages(
    config: &Config,
    tasks: &mut JoinSet<()>,
    stop: watch::Receiver<bool>,
) -> Result<(), NodeError> {
    lock(&config.data_dir)?;
    let material = Material::load(config)?;
    let (revocations, reloader) = Revocations::load(&config.tls.revoked)?;
    let mut registry = metrics::registry();
    let revocation_metrics = RevocationMetrics::register(&mut registry);
    let ingest_metrics = IngestMetrics::register(&mut registry);
    tasks.spawn(reloader.run(config.tls.revoked_poll, revocation_metrics, stop.clone()));

    let serve_metrics = ServeMetrics::register(&mut registry);

    // Every port first: one that is taken is told before anything is changed.
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
    let calls = Calls {
        tls: material.cluster_client()?,
        revocations: revocations.clone(),
    };
    let cluster = Cluster::start(config, calls, nodes, stop.clone()).await?;
    tracing::info!(
        node = config.name,
        id = cluster.seat().id,
        incarnation = format!("{:016x}", cluster.seat().incarnation),
        "running"
    );
    let doors = Doors {
        config,
        material: &material,
        revocations,
        cluster: &cluster,
        ingest_metrics,
        serve_metrics,
        registry: Arc::new(registry),
    };
    doors.open(tasks, &stop).await?;
    tracing::info!("serving");
    let why = cluster.failed().await;
    cluster.stop().await;
    Err(NodeError::Consensus(why))
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
