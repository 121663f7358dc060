//! One running agent: who owns what, and in which order it starts and stops.
//!
//! Start: addresses are taken before the folder is touched, so a second agent fails at once; then
//! the keeper, then its sources. Stop, the other way round: the intakes take no more and hand
//! over what they hold, the keeper sends and saves it, then everybody is answered.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::batcher::BatchOptions;
use crate::buffer::BufferOptions;
use crate::clock::{self, Stamper, Teller};
use crate::config::Config;
use crate::handed::{self, Class, Intakes};
use crate::health::{Health, HealthError, Told};
use crate::intake::line::{BindError, LineIntake};
use crate::intake::{Account, Entry, host, replay};
use crate::keeper::{Keeper, KeeperError, KeeperOptions};
use crate::ledger::{self, Ledger};
use crate::tls::{self, TlsError};
use crate::window::WindowOptions;

/// How long intakes may take to hand over what they hold, and again to answer for it.
const INTAKES_LIMIT: Duration = Duration::from_secs(5);

/// Why an agent does not run. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Health(#[from] HealthError),
    #[error(transparent)]
    Line(#[from] BindError),
    #[error("cannot open the ledger {}: {source}", path.display())]
    Ledger { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error("signals cannot be waited for: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM, SIGINT, or until nothing can be kept any more.
///
/// # Errors
/// It could not start, or ended because its disk failed.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let teller = Teller::new(clock::last_good(&config.data_dir));
    let tls = tls::client(&config.agent, &config.uplink, &teller.stamper())?;
    run_until(config, tls, teller, stop).await
}

/// Runs until `stop` is over, or until nothing can be kept any more.
async fn run_until(
    config: Config,
    tls: Arc<ClientConfig>,
    teller: Teller,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let mut lines = Vec::new();
    for line in &config.lines {
        lines.push(LineIntake::bind(line.clone(), config.agent.clone()).await?);
    }
    let health = match &config.health {
        Some(listen) => Some(Health::bind(listen).await?),
        None => None,
    };
    let (ways_in, handovers) = handed::channel();
    let clock = teller.stamper();
    let keeper = Keeper::open(keeper_options(&config, tls), handovers, teller)?;
    let status = keeper.status();

    let (stop_keeper, keeper_stop) = watch::channel(false);
    let (stop_intakes, intakes_stop) = watch::channel(false);
    let mut background = JoinSet::new();
    let ledger = match &config.ledger {
        Some(path) => Some(open_ledger(path, clock.clone(), &mut background)?),
        None => None,
    };
    let mut intakes = Sources {
        tasks: JoinSet::new(),
        accounts: Vec::new(),
        ways_in,
        ledger,
        clock,
        stop: intakes_stop,
    };
    intakes.start(&config, lines);
    let mut watchers = JoinSet::new();
    if let Some(health) = health {
        watchers.spawn(health.run(Told {
            agent: config.agent.to_string(),
            status,
            intakes: intakes.accounts.clone(),
        }));
    }
    let mut sources = intakes.started();
    tracing::info!("agent {} runs", config.agent);

    let keeper = keeper.run(keeper_stop);
    tokio::pin!(keeper);
    tokio::select! {
        ended = &mut keeper => {
            // It ends by itself only if it can keep nothing any more.
            ended?;
            return Ok(());
        }
        () = stop => tracing::info!("agent {} stops", config.agent),
    }
    // Nobody is left to hear it is as good as heard.
    let _ = stop_intakes.send(true);
    tokio::select! {
        ended = &mut keeper => ended?,
        // Whoever is late is told by the keeper that it stops.
        _ = tokio::time::timeout(INTAKES_LIMIT, finish(&mut sources)) => {
            let _ = stop_keeper.send(true);
            keeper.await?;
        }
    }
    let ends = async {
        finish(&mut sources).await;
        finish(&mut background).await;
    };
    if tokio::time::timeout(INTAKES_LIMIT, ends).await.is_err() {
        tracing::warn!("a device does not read its answers; the agent stops without it");
    }
    tracing::info!("agent {} has stopped", config.agent);
    Ok(())
}

/// The intakes, and what they share.
struct Sources {
    tasks: JoinSet<()>,
    accounts: Vec<Account>,
    ways_in: Intakes,
    ledger: Option<Ledger>,
    clock: Stamper,
    stop: watch::Receiver<bool>,
}

impl Sources {
    fn start(&mut self, config: &Config, lines: Vec<LineIntake>) {
        let agent = &config.agent;
        if let Some(options) = &config.host {
            let entry = self.entry("host", options.class);
            let (options, stop) = (options.clone(), self.stop.clone());
            self.tasks
                .spawn(host::run(options, agent.clone(), entry, stop));
        }
        for (intake, options) in lines.into_iter().zip(&config.lines) {
            let entry = self.entry(&options.listen.to_string(), options.class);
            tracing::info!("line protocol is taken on {}", options.listen);
            self.tasks.spawn(intake.run(entry, self.stop.clone()));
        }
        for options in &config.replays {
            let name = format!("replay {}", options.file.display());
            let entry = self.entry(&name, options.class);
            let (options, data_dir) = (options.clone(), config.data_dir.clone());
            let stop = self.stop.clone();
            self.tasks
                .spawn(replay::run(options, agent.clone(), data_dir, entry, stop));
        }
    }

    /// Their tasks. All other ways in are gone: the ledger ends with the last intake.
    fn started(self) -> JoinSet<()> {
        self.tasks
    }

    fn entry(&mut self, name: &str, class: Class) -> Entry {
        let account = Account::new(name);
        self.accounts.push(account.clone());
        Entry::new(account, self.ways_in.clone(), self.ledger.clone())
            .with_class(class)
            .with_clock(self.clock.clone())
    }
}

fn open_ledger(
    path: &Path,
    clock: Stamper,
    background: &mut JoinSet<()>,
) -> Result<Ledger, AgentError> {
    let (ledger, writer) = ledger::open(path, clock).map_err(|source| AgentError::Ledger {
        path: path.to_owned(),
        source,
    })?;
    background.spawn(writer.run());
    Ok(ledger)
}

async fn finish(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!("a part of the agent ended unexpectedly: {error}");
        }
    }
}

fn keeper_options(config: &Config, tls: Arc<ClientConfig>) -> KeeperOptions {
    KeeperOptions {
        agent: config.agent.clone(),
        batch: BatchOptions {
            rows_max: config.batch.rows_max,
            bytes_max: config.batch.bytes_max,
            linger: config.batch.linger,
        },
        buffer: BufferOptions {
            dir: config.data_dir.clone(),
            bytes_max: config.buffer.bytes_max,
            ram_bytes_max: config.buffer.ram_bytes_max,
            max_unsafe: config.buffer.max_unsafe,
            classes: config.classes.clone(),
        },
        window: WindowOptions {
            batches_max: config.window.batches_max,
            bytes_max: config.window.bytes_max,
            backlog_share_percent: config.window.backlog_share_percent,
            bytes_per_second_max: config.uplink.bytes_per_second_max,
            backlog_hours: config.uplink.backlog_hours,
        },
        servers: config.uplink.servers.clone(),
        keep_alive: config.uplink.keep_alive,
        tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    const CONFIG: &str = r#"
[agent]
id = "gw1"
data_dir = "data"
[uplink]
servers = ["127.0.0.1:1"]
ca = "unused"
cert = "unused"
key = "unused"
[batch]
linger_ms = 5
[ledger]
file = "ledger.lp"
[intake.host]
interval_ms = 20
[[intake.line]]
listen = "unix://lines.sock"
ack = true
"#;

    /// TLS that no test gets to use: nothing listens.
    fn tls() -> Arc<ClientConfig> {
        let provider = rustls::crypto::ring::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Arc::new(config)
    }

    #[tokio::test]
    async fn a_stop_is_quick_and_the_ledger_has_what_was_answered() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(CONFIG, &folder.path().join("agent.toml")).unwrap();
        let socket = folder.path().join("lines.sock");
        let (stop, stopped) = oneshot::channel::<()>();
        let device = async {
            let mut stream = loop {
                // The agent on the same thread has to get its turn.
                tokio::task::yield_now().await;
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    break stream;
                }
            };
            stream.write_all(b"t f=1 1\nt f=2 2\n").await.unwrap();
            let mut answers = [0; 10];
            stream.read_exact(&mut answers).await.unwrap();
            stop.send(()).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            answers
        };
        // The ledger waits for the time of day.
        let mut teller = Teller::new(None);
        teller.hear(clock::BUILT);
        let agent = run_until(config, tls(), teller, async {
            stopped.await.unwrap();
        });
        let both = async { tokio::join!(agent, device) };
        // Sooner than anybody is given up.
        let both = tokio::time::timeout(INTAKES_LIMIT * 4 / 5, Box::pin(both)).await;
        let (ended, answers) = both.expect("nobody is waited for");
        ended.unwrap();
        assert_eq!(&answers, b"ok 1\nok 2\n");
        let ledger = std::fs::read_to_string(folder.path().join("ledger.lp")).unwrap();
        assert!(
            ledger.contains("t,device=gw1 f=1.0 1\nt,device=gw1 f=2.0 2\n"),
            "{ledger}"
        );
        assert!(ledger.contains("host_load,device=gw1"), "{ledger}");
        assert!(!socket.exists());
    }
}
