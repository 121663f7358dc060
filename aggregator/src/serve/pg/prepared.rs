//! The extended protocol: statements that are prepared once and run with values, in parts if the
//! client likes.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::command::{self, Command};
use super::encode::{self, Format};
use super::error::PgError;
use super::message::{Backend, Bind, Field, Target};
use super::parameter;
use super::rows::Rows;
use super::session::{Failure, Session, shown_field, tag};
use crate::query::Parameter;

/// Of one session: each more than any driver keeps.
const STATEMENTS_MAX: usize = 1_000;
const PORTALS_MAX: usize = 100;
/// Of texts, and of values, that a session keeps.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// What a session keeps by name; the empty name is one like others, only replaced silently.
#[derive(Default)]
pub(super) struct Prepared {
    statements: HashMap<String, Arc<Statement>>,
    portals: HashMap<String, Portal>,
}

struct Statement {
    sql: String,
    /// `None`: an empty text.
    command: Option<Command>,
    /// None if it answers without rows.
    fields: Vec<Field>,
    parameters: Vec<u32>,
}

struct Portal {
    statement: Arc<Statement>,
    parameters: Vec<Parameter>,
    parameter_bytes: usize,
    formats: Vec<i16>,
    progress: Progress,
}

enum Progress {
    Ready,
    Sending(Box<Rows>),
    Done,
}

impl Prepared {
    pub(super) fn clear(&mut self) {
        self.statements.clear();
        self.portals.clear();
    }

    /// What is being sent is cancelled.
    pub(super) fn close_portals(&mut self) {
        self.portals.clear();
    }

    pub(super) fn close(&mut self, target: Target, name: &str) {
        match target {
            Target::Statement => drop(self.statements.remove(name)),
            Target::Portal => drop(self.portals.remove(name)),
        }
    }

    pub(super) fn deallocate(&mut self, name: &str) -> Result<(), PgError> {
        let known = self.statements.remove(name);
        known.map(drop).ok_or_else(|| no_statement(name))
    }

    fn statement(&self, name: &str) -> Result<&Arc<Statement>, PgError> {
        self.statements.get(name).ok_or_else(|| no_statement(name))
    }

    fn add_statement(&mut self, name: String, statement: Statement) -> Result<(), PgError> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("there is a prepared statement {name:?} already");
            return Err(PgError::error("42P05", message));
        }
        self.statements.remove(&name);
        let kept: usize = self
            .statements
            .values()
            .map(|statement| statement.sql.len())
            .sum();
        if self.statements.len() == STATEMENTS_MAX || kept + statement.sql.len() > KEPT_BYTES_MAX {
            let message = "the session keeps too many prepared statements";
            return Err(PgError::error("53400", message).hint("DEALLOCATE ALL"));
        }
        self.statements.insert(name, Arc::new(statement));
        Ok(())
    }

    fn add_portal(&mut self, name: String, portal: Portal) -> Result<(), PgError> {
        if !name.is_empty() && self.portals.contains_key(&name) {
            return Err(PgError::error(
                "42P03",
                format!("there is a portal {name:?} already"),
            ));
        }
        self.portals.remove(&name);
        let kept: usize = self
            .portals
            .values()
            .map(|portal| portal.parameter_bytes)
            .sum();
        if self.portals.len() == PORTALS_MAX || kept + portal.parameter_bytes > KEPT_BYTES_MAX {
            let message = "the session keeps too many portals";
            return Err(PgError::error("53400", message).hint("close some, or end the transaction"));
        }
        self.portals.insert(name, portal);
        Ok(())
    }
}

fn no_statement(name: &str) -> PgError {
    PgError::error("26000", format!("there is no prepared statement {name:?}"))
}

fn no_portal(name: &str) -> PgError {
    PgError::error("34000", format!("there is no portal {name:?}"))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) async fn parse(
        &mut self,
        name: String,
        sql: &str,
        types: &[u32],
    ) -> Result<(), Failure> {
        let statement = match command::split(sql)[..] {
            [] => Statement {
                sql: String::new(),
                command: None,
                fields: Vec::new(),
                parameters: Vec::new(),
            },
            [one] => self.prepare(one, types).await?,
            _ => {
                let message = "one statement can be prepared at a time";
                return Err(PgError::error("42601", message).into());
            }
        };
        self.prepared.add_statement(name, statement)?;
        self.wire.out.bare(b'1');
        Ok(())
    }

    async fn prepare(&mut self, sql: &str, types: &[u32]) -> Result<Statement, PgError> {
        let command = command::classify(sql)?;
        self.allowed(&command)?;
        let (mut fields, mut parameters) = (Vec::new(), Vec::new());
        match &command {
            Command::Query => {
                let planned = self.service.describe(&self.settings.session, sql).await?;
                fields = encode::fields(&planned.schema());
                let found = planned.parameter_types().iter();
                parameters.extend(found.map(|found| encode::parameter_oid(found.as_ref())));
            }
            Command::Show(name) => fields.push(shown_field(name)),
            _ => {}
        }
        // What the client says its values are comes first; zero says nothing.
        for (own, given) in parameters.iter_mut().zip(types) {
            if *given != 0 {
                *own = *given;
            }
        }
        Ok(Statement {
            sql: sql.to_owned(),
            command: Some(command),
            fields,
            parameters,
        })
    }

    pub(super) fn bind(&mut self, bind: Bind) -> Result<(), PgError> {
        let statement = Arc::clone(self.prepared.statement(&bind.statement)?);
        if let Some(command) = &statement.command {
            self.allowed(command)?;
        }
        let (given, wanted) = (bind.parameters.len(), statement.parameters.len());
        if given != wanted {
            let message = format!("the statement has {wanted} parameters, not {given}");
            return Err(PgError::error("08P01", message));
        }
        let fits = |codes: &[i16], count: usize| {
            (codes.len() <= 1 || codes.len() == count)
                && codes.iter().all(|code| matches!(code, 0 | 1))
        };
        if !fits(&bind.parameter_formats, given)
            || !fits(&bind.result_formats, statement.fields.len())
        {
            let message = "a format for each value or column, or one for all; text or binary";
            return Err(PgError::error("08P01", message));
        }
        let mut parameters = Vec::with_capacity(given);
        let mut parameter_bytes = 0;
        for (at, (value, oid)) in bind
            .parameters
            .iter()
            .zip(&statement.parameters)
            .enumerate()
        {
            parameters.push(match value {
                None => Parameter::Null,
                Some(bytes) => {
                    parameter_bytes += bytes.len();
                    parameter::decode(*oid, Format::of(&bind.parameter_formats, at), bytes)?
                }
            });
        }
        let portal = Portal {
            statement,
            parameters,
            parameter_bytes,
            formats: bind.result_formats,
            progress: Progress::Ready,
        };
        self.prepared.add_portal(bind.portal, portal)?;
        self.wire.out.bare(b'2');
        Ok(())
    }

    pub(super) fn describe(&mut self, target: Target, name: &str) -> Result<(), PgError> {
        let (statement, formats) = match target {
            Target::Statement => {
                let statement = self.prepared.statement(name)?;
                self.wire.out.parameter_description(&statement.parameters);
                (statement, &[][..])
            }
            Target::Portal => {
                let portal = self
                    .prepared
                    .portals
                    .get(name)
                    .ok_or_else(|| no_portal(name))?;
                (&portal.statement, &portal.formats[..])
            }
        };
        if statement.fields.is_empty() && statement.command != Some(Command::Query) {
            self.wire.out.bare(b'n');
        } else {
            let format = |at| i16::from(Format::of(formats, at) == Format::Binary);
            self.wire.out.row_description(&statement.fields, format);
        }
        Ok(())
    }

    pub(super) async fn execute(&mut self, name: &str, rows_max: u32) -> Result<(), Failure> {
        // Taken out, so that it is gone, and its query cancelled, if this is given up.
        let portal = self.prepared.portals.remove(name);
        let mut portal = portal.ok_or_else(|| no_portal(name))?;
        let statement = Arc::clone(&portal.statement);
        let Some(command) = &statement.command else {
            self.wire.out.bare(b'I');
            return Ok(());
        };
        self.allowed(command)?;
        if *command != Command::Query {
            let local = self.local(command)?;
            if let Some((_, value)) = &local.shown {
                self.shown_row(value);
            }
            self.complete(&local);
            return Ok(());
        }
        let mut rows = match portal.progress {
            Progress::Sending(rows) => rows,
            Progress::Ready => {
                let parameters = std::mem::take(&mut portal.parameters);
                Box::new(self.begin(&statement, parameters).await?)
            }
            Progress::Done => {
                self.wire.out.complete(&tag(&statement.sql, 0));
                portal.progress = Progress::Done;
                self.prepared.portals.insert(name.to_owned(), portal);
                return Ok(());
            }
        };
        let sent = rows.send(&mut self.wire, &portal.formats, rows_max).await?;
        if sent.suspended {
            self.wire.out.bare(b's');
            portal.progress = Progress::Sending(rows);
        } else {
            self.wire.out.complete(&tag(&statement.sql, sent.rows));
            portal.progress = Progress::Done;
        }
        self.prepared.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Runs it on what can be seen now, not when it was prepared.
    async fn begin(
        &mut self,
        statement: &Statement,
        parameters: Vec<Parameter>,
    ) -> Result<Rows, PgError> {
        let session = &self.settings.session;
        let answer = self
            .service
            .query(session, &statement.sql, parameters)
            .await?;
        let rows = Rows::new(answer);
        let oids = |fields: &[Field]| fields.iter().map(|field| field.oid).collect::<Vec<_>>();
        if oids(rows.fields()) != oids(&statement.fields) {
            let message = "the columns changed since the statement was prepared";
            return Err(PgError::error("0A000", message).hint("prepare it again"));
        }
        Ok(rows)
    }
}
