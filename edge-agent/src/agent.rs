//! One running agent: who owns what, and in which order it starts, changes and stops.
//!
//! Start: addresses are taken before the folder is touched, so a second agent fails at once; then
//! the keeper, then its sources. Stop, the other way round: the intakes take no more and hand
//! over what they hold, the keeper sends and saves it, then everybody is answered. In between,
//! `reload` follows the files that the agent was started with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::buffer::{BufferOptions, ENTRIES_NEAR};
use crate::clock::{self, Stamper, Teller};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::difference::settings;
use crate::handed::{self, Handovers};
use crate::health::{Health, HealthError};
use crate::intake::line::BindError;
use crate::keeper::{Keeper, KeeperError, KeeperOptions, Settings};
use crate::ledger::{self, Ledger};
use crate::reload::{Reload, Ways};
use crate::sources::{Bound, INTAKES_LIMIT, Shared, Sources, finish};
use crate::status::{Setup, Status};
use crate::systemd::{self, Manager};
use crate::tls::TlsError;
use crate::watch::LOOK_INTERVAL;

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

/// Runs with the configuration of this file until SIGTERM, SIGINT, or until nothing can be kept any
/// more. Follows changes of the file, and SIGHUP.
///
/// # Errors
/// It could not start, or ended because its disk failed.
pub async fn run(file: &Path, config: Config) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(AgentError::Signals)?;
    let (ask, asked) = mpsc::channel(1);
    let stop = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                // One that waits already is answered with what is in the files then.
                _ = hang_up.recv() => {
                    let _ = ask.try_send(());
                }
            }
        }
    };
    let teller = Teller::new(clock::last_good(&config.data_dir));
    let credentials = Credentials::load(&config.agent, &config.uplink, &teller.stamper())?;
    let start = Start {
        file: file.to_owned(),
        config,
        credentials,
        teller,
        manager: Manager::from_environment(),
    };
    start.run_until(asked, stop).await
}

/// Everything an agent begins with.
struct Start {
    file: PathBuf,
    config: Config,
    credentials: Credentials,
    teller: Teller,
    manager: Option<Manager>,
}

/// A keeper that runs in a task of its own.
struct KeeperTask {
    task: JoinSet<Result<(), KeeperError>>,
    stop: watch::Sender<bool>,
    status: watch::Receiver<Status>,
}

impl Start {
    /// Runs until `stop` is over, or until nothing can be kept any more. Each `asked` reads the
    /// files again at once.
    async fn run_until(
        self,
        asked: mpsc::Receiver<()>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let Start {
            file,
            config,
            credentials,
            teller,
            manager,
        } = self;
        let bound = Bound::take(&config.lines, &config.agent, None).await?;
        let health = match &config.health {
            Some(listen) => Some(Health::bind(listen).await?),
            None => None,
        };
        let (ways_in, handovers) = handed::channel();
        let clock = teller.stamper();
        let tls = watch::Sender::new(Arc::clone(&credentials.client));
        let changes = watch::Sender::new(None);
        let options = keeper_options(&config, tls.subscribe(), changes.subscribe());
        let mut keeper = KeeperTask::open(options, handovers, teller)?;
        let mut background = JoinSet::new();
        let ledger = match &config.ledger {
            Some(path) => Some(open_ledger(path, clock.clone(), &mut background)?),
            None => None,
        };
        let setup = watch::Sender::new(Setup {
            certificate_expiry: credentials.expiry.clone(),
            ..Setup::default()
        });
        let mut sources = Sources::new(Shared {
            agent: config.agent.clone(),
            data_dir: config.data_dir.clone(),
            ways_in,
            ledger,
            clock: clock.clone(),
            status: keeper.status.clone(),
            setup: setup.subscribe(),
        });
        sources.follow(&config, bound).await?;
        tracing::info!("agent {} runs", config.agent);
        let ways = Ways {
            tls,
            changes,
            setup,
            status: keeper.status.clone(),
            clock,
        };
        let mut reload = Reload::new(file, config, credentials, sources, ways);
        reload.tell_on(health);
        systemd::tell(manager.as_ref(), "READY=1");

        let status = keeper.status.clone();
        let watched = async {
            match &manager {
                Some(manager) => manager.watch(status).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // It ends by itself only if it can keep nothing any more.
            ended = keeper.ended() => return ended,
            () = follow_files(&mut reload, asked, manager.as_ref()) => {}
            () = watched => {}
            () = stop => {}
        }
        systemd::tell(manager.as_ref(), "STOPPING=1");
        tracing::info!("agent {} stops", reload.agent());
        let (sources, _page) = reload.into_parts();
        stop_gently(sources, keeper, background).await
    }
}

/// Reads the files again whenever asked to, and whenever they have changed. Never returns.
async fn follow_files(
    reload: &mut Reload,
    mut asked: mpsc::Receiver<()>,
    manager: Option<&Manager>,
) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            Some(()) = asked.recv() => {
                systemd::tell(manager, "RELOADING=1");
                reload.now().await;
                systemd::tell(manager, "READY=1");
            }
            _ = looks.tick() => reload.look().await,
        }
    }
}

async fn stop_gently(
    sources: Sources,
    mut keeper: KeeperTask,
    mut background: JoinSet<()>,
) -> Result<(), AgentError> {
    let mut sources = sources.stop();
    tokio::select! {
        ended = keeper.ended() => ended?,
        // Whoever is late is told by the keeper that it stops.
        _ = tokio::time::timeout(INTAKES_LIMIT, sources.finish()) => {
            keeper.stop.send_replace(true);
            keeper.ended().await?;
        }
    }
    let ends = async {
        sources.finish().await;
        finish(&mut background).await;
    };
    if tokio::time::timeout(INTAKES_LIMIT, ends).await.is_err() {
        tracing::warn!("a device does not read its answers; the agent stops without it");
    }
    tracing::info!("the agent has stopped");
    Ok(())
}

impl KeeperTask {
    fn open(
        options: KeeperOptions,
        handovers: Handovers,
        teller: Teller,
    ) -> Result<KeeperTask, KeeperError> {
        let keeper = Keeper::open(options, handovers, teller)?;
        let status = keeper.status();
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(keeper.run(stopped));
        Ok(KeeperTask { task, stop, status })
    }

    /// Waits for its end. A keeper that panicked ends the agent.
    async fn ended(&mut self) -> Result<(), AgentError> {
        match self.task.join_next().await {
            Some(Ok(ended)) => ended.map_err(AgentError::from),
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // It was told of before.
            Some(Err(_)) | None => Ok(()),
        }
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

fn keeper_options(
    config: &Config,
    tls: watch::Receiver<Arc<ClientConfig>>,
    changes: watch::Receiver<Option<Settings>>,
) -> KeeperOptions {
    let settings = settings(config);
    KeeperOptions {
        agent: config.agent.clone(),
        batch: settings.batch,
        buffer: BufferOptions {
            dir: config.data_dir.clone(),
            bytes_max: config.buffer.bytes_max,
            ram_bytes_max: settings.ram_bytes_max,
            max_unsafe: settings.max_unsafe,
            classes: config.classes.clone(),
            entries_near: ENTRIES_NEAR,
        },
        window: settings.window,
        servers: settings.servers,
        keep_alive: settings.keep_alive,
        tls,
        changes,
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

    /// The time of day is known, which the ledger waits for.
    fn start(folder: &Path, config: Config) -> Start {
        let mut teller = Teller::new(None);
        teller.hear(clock::BUILT);
        Start {
            file: folder.join("agent.toml"),
            config,
            credentials: Credentials::of(tls()),
            teller,
            manager: None,
        }
    }

    async fn connected(socket: &Path) -> UnixStream {
        loop {
            // The agent on the same thread has to get its turn.
            tokio::task::yield_now().await;
            if let Ok(stream) = UnixStream::connect(socket).await {
                return stream;
            }
        }
    }

    /// Sends a line and reads its answer.
    async fn send_line(stream: &mut UnixStream) -> std::io::Result<[u8; 5]> {
        stream.write_all(b"t f=1 1\n").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    /// A connection on which a first line was kept. One that an intake about to end had in its
    /// queue is none.
    async fn served(socket: &Path) -> UnixStream {
        loop {
            let mut stream = connected(socket).await;
            if let Ok(answer) = send_line(&mut stream).await {
                assert_eq!(&answer, b"ok 1\n");
                return stream;
            }
        }
    }

    #[tokio::test]
    async fn a_reload_touches_only_what_changed_and_a_bad_file_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let config = Config::parse(CONFIG, &file).unwrap();
        let socket = |name: &str| folder.path().join(name);
        let line = |name: &str, more: &str| {
            format!("[[intake.line]]\nlisten = \"unix://{name}\"\nack = true\n{more}")
        };
        let (ask, asked) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let operator = async {
            let mut first = served(&socket("lines.sock")).await;

            std::fs::write(&file, CONFIG.replace("gw1", "gw2")).unwrap();
            ask.send(()).await.unwrap();
            // Taken once the one before is done with.
            ask.send(()).await.unwrap();
            std::fs::write(&file, format!("{CONFIG}{}", line("two.sock", ""))).unwrap();
            ask.send(()).await.unwrap();
            let mut second = served(&socket("two.sock")).await;

            let changed = line("two.sock", "device_key = \"unit\"\n");
            std::fs::write(&file, format!("{CONFIG}{changed}")).unwrap();
            ask.send(()).await.unwrap();
            // It restarts, so what was open on it ends.
            assert_eq!(second.read(&mut [0; 8]).await.unwrap(), 0);
            let mut third = served(&socket("two.sock")).await;

            std::fs::write(&file, CONFIG).unwrap();
            ask.send(()).await.unwrap();
            assert_eq!(third.read(&mut [0; 8]).await.unwrap(), 0);
            assert_eq!(&send_line(&mut first).await.unwrap(), b"ok 2\n");
            stop.send(()).unwrap();
        };
        let agent = start(folder.path(), config).run_until(asked, async {
            stopped.await.unwrap();
        });
        let both = async { tokio::join!(agent, operator) };
        let both = tokio::time::timeout(INTAKES_LIMIT * 4, Box::pin(both)).await;
        let (ended, ()) = both.expect("nobody is waited for");
        ended.unwrap();
        assert!(!socket("two.sock").exists());
        let ledger = std::fs::read_to_string(socket("ledger.lp")).unwrap();
        assert!(!ledger.contains("gw2"), "{ledger}");
    }

    /// Sooner than anybody is given up; a machine that does much else may need another try.
    #[tokio::test]
    async fn a_stop_is_quick_and_the_ledger_has_what_was_answered() {
        for _ in 0..5 {
            if Box::pin(stops_at_once(INTAKES_LIMIT * 4 / 5)).await {
                return;
            }
        }
        panic!("somebody is waited for");
    }

    async fn stops_at_once(limit: std::time::Duration) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse(CONFIG, &folder.path().join("agent.toml")).unwrap();
        let socket = folder.path().join("lines.sock");
        let (stop, stopped) = oneshot::channel::<()>();
        let device = async {
            let mut stream = connected(&socket).await;
            stream.write_all(b"t f=1 1\nt f=2 2\n").await.unwrap();
            let mut answers = [0; 10];
            stream.read_exact(&mut answers).await.unwrap();
            stop.send(()).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            answers
        };
        let (_ask, asked) = mpsc::channel(1);
        let agent = start(folder.path(), config).run_until(asked, async {
            stopped.await.unwrap();
        });
        let both = async { tokio::join!(agent, device) };
        let Ok((ended, answers)) = tokio::time::timeout(limit, Box::pin(both)).await else {
            return false;
        };
        ended.unwrap();
        assert_eq!(&answers, b"ok 1\nok 2\n");
        let ledger = std::fs::read_to_string(folder.path().join("ledger.lp")).unwrap();
        assert!(
            ledger.contains("t,device=gw1 f=1.0 1\nt,device=gw1 f=2.0 2\n"),
            "{ledger}"
        );
        assert!(ledger.contains("host_load,device=gw1"), "{ledger}");
        assert!(!socket.exists());
        true
    }
}
