//! The intakes that run, and how they come to be those that are configured: what is new starts, what
//! is gone hands over what it holds and ends, what changed does both, the rest is not touched.

use std::path::PathBuf;
use std::time::Duration;

use shared::id::AgentId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Stamper;
use crate::config::{Config, Line, Listen};
use crate::difference::Wanted;
use crate::handed::Intakes;
use crate::intake::line::{BindError, LineIntake};
use crate::intake::{Account, Entry, health, host, replay};
use crate::ledger::Ledger;
use crate::status::{Setup, Status};

/// How long intakes may take to hand over what they hold, and again to answer for it.
pub(crate) const INTAKES_LIMIT: Duration = Duration::from_secs(5);

/// What the intakes share. The ledger ends once this and all intakes are gone.
pub(crate) struct Shared {
    pub(crate) agent: AgentId,
    pub(crate) data_dir: PathBuf,
    pub(crate) ways_in: Intakes,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) clock: Stamper,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) setup: watch::Receiver<Setup>,
}

/// Line intakes that have their address and serve nobody yet.
#[derive(Default)]
pub(crate) struct Bound(Vec<(Listen, LineIntake)>);

pub(crate) struct Sources {
    shared: Shared,
    running: Vec<Running>,
    accounts: watch::Sender<Vec<Account>>,
}

/// The intakes of an agent that stops.
pub(crate) struct Stopping(Vec<Running>);

/// One intake; one that has come to its end by itself, too.
struct Running {
    wanted: Wanted,
    account: Account,
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Bound {
    /// Takes the addresses of all lines that no intake of `running` has.
    ///
    /// # Errors
    /// One of them cannot be had; those that were taken are given back.
    pub(crate) async fn take(
        lines: &[Line],
        agent: &AgentId,
        running: Option<&Sources>,
    ) -> Result<Bound, BindError> {
        let mut bound = Bound::default();
        for line in lines {
            if running.is_some_and(|sources| sources.has(&line.listen.to_string())) {
                continue;
            }
            let intake = LineIntake::bind(line.clone(), agent.clone()).await?;
            bound.0.push((line.listen.clone(), intake));
        }
        Ok(bound)
    }

    async fn get(&mut self, line: &Line, agent: &AgentId) -> Result<LineIntake, BindError> {
        match self.0.iter().position(|(listen, _)| *listen == line.listen) {
            Some(at) => Ok(self.0.swap_remove(at).1),
            None => LineIntake::bind(line.clone(), agent.clone()).await,
        }
    }
}

impl Sources {
    pub(crate) fn new(shared: Shared) -> Sources {
        Sources {
            shared,
            running: Vec::new(),
            accounts: watch::Sender::new(Vec::new()),
        }
    }

    /// The accounts of those that run.
    pub(crate) fn accounts(&self) -> watch::Receiver<Vec<Account>> {
        self.accounts.subscribe()
    }

    fn has(&self, name: &str) -> bool {
        self.running.iter().any(|one| *one.account.name == *name)
    }

    fn runs(&self, wanted: &Wanted) -> bool {
        self.running.iter().any(|one| one.wanted == *wanted)
    }

    /// Makes those run that are configured, and no others.
    ///
    /// # Errors
    /// An address that a former intake had, or that was missing before, cannot be had. All others
    /// run; calling this again tries again.
    pub(crate) async fn follow(
        &mut self,
        config: &Config,
        mut bound: Bound,
    ) -> Result<(), BindError> {
        let wanted = Wanted::all(config);
        let all = std::mem::take(&mut self.running).into_iter();
        let (kept, gone): (Vec<_>, Vec<_>) = all.partition(|one| wanted.contains(&one.wanted));
        self.running = kept;
        // Its counters go on if it comes back with other settings.
        let former: Vec<Account> = gone.iter().map(|one| one.account.clone()).collect();
        if !gone.is_empty() {
            end(gone).await;
        }
        let mut missing = None;
        for one in wanted {
            if self.runs(&one) {
                continue;
            }
            let name = one.name();
            let account = former.iter().find(|account| *account.name == *name);
            let account = account.cloned().unwrap_or_else(|| Account::new(&name));
            if let Err(error) = self.start(one, account, &mut bound).await {
                missing.get_or_insert(error);
            }
        }
        let accounts = self.running.iter().map(|one| one.account.clone());
        self.accounts.send_replace(accounts.collect());
        missing.map_or(Ok(()), Err)
    }

    async fn start(
        &mut self,
        wanted: Wanted,
        account: Account,
        bound: &mut Bound,
    ) -> Result<(), BindError> {
        let shared = &self.shared;
        let (agent, ways_in) = (shared.agent.clone(), shared.ways_in.clone());
        let entry = Entry::new(account.clone(), ways_in, shared.ledger.clone())
            .with_class(wanted.class())
            .with_clock(shared.clock.clone());
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        match &wanted {
            Wanted::AgentHealth(options) => {
                let (status, setup) = (shared.status.clone(), shared.setup.clone());
                let options = options.clone();
                task.spawn(health::run(options, agent, status, setup, entry, stopped));
            }
            Wanted::Host(options) => {
                task.spawn(host::run(options.clone(), agent, entry, stopped));
            }
            Wanted::Line(options) => {
                let intake = bound.get(options, &agent).await?;
                tracing::info!("line protocol is taken on {}", options.listen);
                task.spawn(intake.run(entry, stopped));
            }
            Wanted::Replay(options) => {
                let data_dir = shared.data_dir.clone();
                let options = options.clone();
                task.spawn(replay::run(options, agent, data_dir, entry, stopped));
            }
        }
        self.running.push(Running {
            wanted,
            account,
            stop,
            task,
        });
        Ok(())
    }

    /// Tells all of them to stop. No way in is left but theirs.
    pub(crate) fn stop(self) -> Stopping {
        for one in &self.running {
            one.stop.send_replace(true);
        }
        Stopping(self.running)
    }
}

impl Stopping {
    /// Waits until the last one has ended; may be called again after it was given up.
    pub(crate) async fn finish(&mut self) {
        for one in &mut self.0 {
            finish(&mut one.task).await;
        }
    }
}

/// Stops some of them while the agent runs on.
async fn end(gone: Vec<Running>) {
    for one in &gone {
        one.stop.send_replace(true);
    }
    let mut gone = Stopping(gone);
    if tokio::time::timeout(INTAKES_LIMIT, gone.finish())
        .await
        .is_err()
    {
        tracing::warn!(
            "an intake that is configured no more waits for a device that does not read its \
             answers; it ends without it"
        );
    }
    for one in &mut gone.0 {
        // Gone before another takes its address.
        one.task.shutdown().await;
        tracing::info!("{} has ended", one.account.name);
    }
}

/// Waits until all tasks have ended.
pub(crate) async fn finish(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!("a part of the agent ended unexpectedly: {error}");
        }
    }
}
