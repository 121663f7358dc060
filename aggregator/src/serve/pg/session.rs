//! One session: questions in, answers out, in order. What is asked, `command.rs` says; prepared
//! statements stand in `prepared.rs`. Everything that one client sets stays here.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::cancel::Ticket;
use super::command::{self, Command};
use super::error::PgError;
use super::message::{Backend, Field, Frontend, Transaction};
use super::prepared::Prepared;
use super::rows::{FLUSH_BYTES, Rows};
use super::setting::{self, Settings};
use super::start::Login;
use super::wire::{Wire, WireError};
use crate::serve::door::stopped;
use crate::serve::service::Service;
use crate::tls::Revocations;

/// A client that asks nothing for so long has been forgotten; pools open new connections.
const IDLE_LIMIT: Duration = Duration::from_hours(4);

pub(super) struct Session<S> {
    pub(super) wire: Wire<S>,
    pub(super) service: Service,
    pub(super) settings: Settings,
    /// What they were before a SET LOCAL, and will be after the transaction.
    outside: Option<Settings>,
    pub(super) transaction: Transaction,
    pub(super) prepared: Prepared,
    /// After an error in the extended protocol, up to the next Sync.
    skipping: bool,
    ticket: Ticket,
    shared: Arc<Shared>,
    /// Of the certificate that the client logged in with.
    serial: Option<String>,
}

/// Why a message was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be told to the client; if fatal, the session ends with it.
    Told(PgError),
    /// The connection is gone.
    Gone,
}

/// What a command is answered with that needs no engine.
pub(super) struct Local {
    pub(super) tag: &'static str,
    /// Name and value, for SHOW.
    pub(super) shown: Option<(String, String)>,
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Failure {
        Failure::Told(error)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::Gone
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        match error {
            WireError::Gone(_) => Failure::Gone,
            WireError::Broken(error) => Failure::Told(error),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// A session of somebody who was let in.
    pub(super) fn new(
        shared: &Arc<Shared>,
        wire: Wire<S>,
        login: Login,
        ticket: Ticket,
    ) -> Session<S> {
        let mut settings = Settings::new(&login.user);
        for (name, value) in &login.parameters {
            settings.wish(name, value);
        }
        Session {
            wire,
            service: shared.options.service.clone(),
            settings,
            outside: None,
            transaction: Transaction::None,
            prepared: Prepared::default(),
            skipping: false,
            ticket,
            shared: Arc::clone(shared),
            serial: login.identity.map(|identity| identity.serial),
        }
    }

    /// Serves until the client goes, or `stop` is true.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        match self.serve(&mut stop).await {
            Ok(()) => self.wire.close().await,
            Err(Failure::Told(error)) => {
                self.wire.out.error(&error);
                self.wire.close().await;
            }
            Err(Failure::Gone) => {}
        }
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Failure> {
        self.greet();
        self.wire.flush().await?;
        let mut revocations = self.shared.options.admission.revocations().clone();
        let serial = self.serial.clone();
        let asked = Arc::clone(&self.ticket.asked);
        loop {
            let message = tokio::select! {
                biased;
                () = stopped(stop) => {
                    let message = "the node is stopping";
                    return Err(PgError::fatal("57P01", message).hint("ask another node").into());
                }
                error = revoked(&mut revocations, serial.as_deref()) => return Err(error.into()),
                message = timeout(IDLE_LIMIT, self.wire.next()) => message,
            };
            let Ok(message) = message else {
                return Err(PgError::fatal("57P05", "nothing was asked for 4 hours").into());
            };
            let Some(message) = message?.filter(|message| *message != Frontend::Terminate) else {
                return Ok(());
            };
            if self.skipping && message != Frontend::Sync {
                continue;
            }
            let simple = matches!(message, Frontend::Query(_));
            let whole = simple || message == Frontend::Sync;
            let done = tokio::select! {
                biased;
                // First, so that it waits before the question is looked at.
                () = asked.notified() => {
                    Err(PgError::error("57014", "the client cancelled the query").into())
                }
                error = revoked(&mut revocations, serial.as_deref()) => return Err(error.into()),
                error = late(self.settings.statement_timeout) => Err(error.into()),
                done = self.handle(message) => done,
            };
            match done {
                // Not above: who is told to be ready is told nothing more, whatever comes then.
                Ok(()) if whole => self.wire.flush().await?,
                Ok(()) => {}
                Err(Failure::Told(error)) if !error.fatal => self.failed(&error, simple).await?,
                Err(failure) => return Err(failure),
            }
        }
    }

    fn greet(&mut self) {
        self.wire.out.authentication(0, &[]);
        for (name, value) in self.settings.told() {
            self.wire.out.parameter_status(name, &value);
        }
        self.wire
            .out
            .key_data(self.ticket.process, self.ticket.secret);
        self.wire.out.ready(self.transaction);
    }

    async fn failed(&mut self, error: &PgError, simple: bool) -> Result<(), Failure> {
        self.wire.out.error(error);
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
        if simple {
            self.wire.out.ready(self.transaction);
        } else {
            self.skipping = true;
        }
        Ok(self.wire.flush().await?)
    }

    /// After `ReadyForQuery` the caller flushes, which nothing may interrupt.
    async fn handle(&mut self, message: Frontend) -> Result<(), Failure> {
        match message {
            Frontend::Query(text) => return self.simple(&text).await,
            Frontend::Parse { name, sql, types } => self.parse(name, &sql, &types).await?,
            Frontend::Bind(bind) => self.bind(bind)?,
            Frontend::Describe(target, name) => self.describe(target, &name)?,
            Frontend::Execute { portal, rows_max } => self.execute(&portal, rows_max).await?,
            Frontend::Close(target, name) => {
                self.prepared.close(target, &name);
                self.wire.out.bare(b'3');
            }
            Frontend::Flush => self.wire.flush().await?,
            Frontend::Sync => {
                self.skipping = false;
                if self.transaction == Transaction::None {
                    self.prepared.close_portals();
                }
                self.wire.out.ready(self.transaction);
                return Ok(());
            }
            Frontend::Login(_) => {
                let message = "a step of a login after the login".to_owned();
                return Err(PgError::protocol(message).into());
            }
            Frontend::Copy | Frontend::Terminate => {}
        }
        // Whoever asks much without a Sync is answered in between.
        if self.wire.out.len() >= FLUSH_BYTES {
            self.wire.flush().await?;
        }
        Ok(())
    }

    async fn simple(&mut self, text: &str) -> Result<(), Failure> {
        let statements = command::split(text);
        if statements.is_empty() {
            self.wire.out.bare(b'I');
        }
        for statement in statements {
            let command = command::classify(statement)?;
            self.allowed(&command)?;
            if command == Command::Query {
                self.question(statement).await?;
                continue;
            }
            let local = self.local(&command)?;
            if let Some((name, value)) = &local.shown {
                self.wire.out.row_description(&[shown_field(name)], |_| 0);
                self.shown_row(value);
            }
            self.complete(&local);
        }
        self.wire.out.ready(self.transaction);
        Ok(())
    }

    async fn question(&mut self, statement: &str) -> Result<(), Failure> {
        let session = &self.settings.session;
        let answer = self.service.query(session, statement, Vec::new()).await;
        let mut rows = Rows::new(answer.map_err(PgError::from)?);
        self.wire.out.row_description(rows.fields(), |_| 0);
        let sent = rows.send(&mut self.wire, &[], 0).await?;
        self.wire.out.complete(&tag(statement, sent.rows));
        Ok(())
    }

    /// In a transaction that failed, nothing is done but ending it.
    pub(super) fn allowed(&self, command: &Command) -> Result<(), PgError> {
        let ends = matches!(command, Command::Commit | Command::Rollback);
        if self.transaction == Transaction::Failed && !ends {
            let message = "the transaction failed earlier; nothing is done until it ends";
            return Err(PgError::error("25P02", message).hint("ROLLBACK"));
        }
        Ok(())
    }

    /// Does what needs no engine.
    pub(super) fn local(&mut self, command: &Command) -> Result<Local, PgError> {
        let mut shown = None;
        let tag = match command {
            Command::Begin => {
                self.transaction = Transaction::Open;
                "BEGIN"
            }
            Command::Commit | Command::Rollback => {
                let failed = self.transaction == Transaction::Failed;
                self.transaction = Transaction::None;
                self.prepared.close_portals();
                if let Some(settings) = self.outside.take() {
                    self.settings = settings;
                    self.tell("application_name");
                }
                if failed || *command == Command::Rollback {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                }
            }
            Command::Set { local: true, .. } if self.transaction == Transaction::None => "SET",
            Command::Set { name, value, local } => {
                let before = local.then(|| self.settings.clone());
                self.settings.set(name, value)?;
                self.outside = self.outside.take().or(before);
                self.tell(name);
                "SET"
            }
            Command::Reset(name) => {
                self.settings.reset(name.as_deref())?;
                self.tell("application_name");
                "RESET"
            }
            Command::Show(name) => {
                let value = self
                    .settings
                    .show(name)
                    .ok_or_else(|| setting::unknown(name))?;
                shown = Some((name.clone(), value));
                "SHOW"
            }
            Command::Deallocate(Some(name)) => {
                self.prepared.deallocate(name)?;
                "DEALLOCATE"
            }
            Command::Deallocate(None) => {
                self.prepared.clear();
                "DEALLOCATE ALL"
            }
            Command::DiscardAll => {
                self.settings.reset(None)?;
                self.prepared.clear();
                "DISCARD ALL"
            }
            Command::Nothing(tag) => tag,
            Command::Query => return Err(PgError::error("XX000", "a question is not local")),
        };
        Ok(Local { tag, shown })
    }

    /// Of the settings that drivers follow, only this one changes.
    fn tell(&mut self, name: &str) {
        if name == "application_name" {
            let value = self.settings.session.settings.application_name.clone();
            self.wire.out.parameter_status(name, &value);
        }
    }

    pub(super) fn shown_row(&mut self, value: &str) {
        self.wire.out.message(b'D', |body| {
            body.put_u16(1);
            body.put_u32(u32::try_from(value.len()).expect("settings are short"));
            body.put_slice(value.as_bytes());
        });
    }

    pub(super) fn complete(&mut self, local: &Local) {
        self.wire.out.complete(local.tag);
    }
}

/// The column of SHOW.
pub(super) fn shown_field(name: &str) -> Field {
    Field {
        name: name.to_owned(),
        oid: 25,
        size: -1,
    }
}

/// `SELECT 7`, also for VALUES and WITH; EXPLAIN and SHOW count no rows.
pub(super) fn tag(statement: &str, rows: u64) -> String {
    match command::verb(statement).as_str() {
        verb @ ("EXPLAIN" | "SHOW") => verb.to_owned(),
        _ => format!("SELECT {rows}"),
    }
}

async fn revoked(revocations: &mut Revocations, serial: Option<&str>) -> PgError {
    match serial {
        Some(serial) => {
            revocations.revoked(serial).await;
            PgError::fatal("28000", "the certificate of this session was revoked")
        }
        None => pending().await,
    }
}

async fn late(after: Duration) -> PgError {
    if after.is_zero() {
        return pending().await;
    }
    sleep(after).await;
    PgError::error("57014", format!("the query did not end within {after:?}"))
        .hint("SET statement_timeout to more, or ask for less")
}
