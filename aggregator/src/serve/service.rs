//! The one entry for statements: fixes what a query may see, then plans and runs it.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::metrics::ServeMetrics;
use super::upstream::Upstream;
use crate::cluster::NotReadable;
use crate::query::{Batches, Engine, Parameter, Planned, QueryError, SessionSettings, Sources};

/// What all sessions share. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    shared: Arc<ServiceOptions>,
}

/// What the service is made of.
pub struct ServiceOptions {
    pub engine: Engine,
    pub upstream: Arc<dyn Upstream>,
    pub metrics: Arc<ServeMetrics>,
    /// How long a statement waits for the view that it must see.
    pub read_wait_max: Duration,
}

/// Who asks, and how. Owned by one connection: what one client sets, no other sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub settings: SessionSettings,
    pub consistency: Consistency,
    /// Of the protocol that counts its statements.
    pub protocol: Protocol,
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Everything that was acknowledged before the statement came.
    #[default]
    Linearizable,
    /// Whatever this node has; also answers without a quorum.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Postgres,
}

/// Rows on their way. Dropping it cancels the query.
pub struct Answer {
    schema: SchemaRef,
    index: u64,
    batches: Batches,
    metrics: Arc<ServeMetrics>,
    began: Instant,
    finished: bool,
}

/// Why a statement has no answer, or no more of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("no up-to-date answer: {0}")]
    NotReadable(#[from] NotReadable),
}

impl Session {
    pub fn new(protocol: Protocol, user: &str) -> Session {
        Session {
            settings: SessionSettings {
                user: user.to_owned(),
                time_zone: "UTC".to_owned(),
                application_name: String::new(),
            },
            consistency: Consistency::default(),
            protocol,
        }
    }
}

impl Consistency {
    pub fn parse(text: &str) -> Option<Consistency> {
        [Consistency::Linearizable, Consistency::Stale]
            .into_iter()
            .find(|known| known.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Stale => "stale",
        }
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Postgres => "postgres",
        }
    }
}

impl Service {
    pub fn new(options: ServiceOptions) -> Service {
        Service {
            shared: Arc::new(options),
        }
    }

    pub fn upstream(&self) -> &dyn Upstream {
        &*self.shared.upstream
    }

    /// Plans a statement without running it: its columns and parameters.
    pub async fn describe(&self, session: &Session, sql: &str) -> Result<Planned, ServeError> {
        let planned = self.plan(session, sql).await;
        planned.inspect_err(|error| self.shared.metrics.failed(error.sqlstate()))
    }

    /// Plans a statement on what it must see, and begins to run it.
    pub async fn query(
        &self,
        session: &Session,
        sql: &str,
        parameters: Vec<Parameter>,
    ) -> Result<Answer, ServeError> {
        let metrics = &self.shared.metrics;
        metrics.asked(session.protocol);
        let began = Instant::now();
        let answer = async {
            let planned = self.plan(session, sql).await?;
            let (schema, index) = (planned.schema(), planned.index());
            let batches = planned.run(parameters).await?;
            Ok((schema, index, batches))
        };
        let (schema, index, batches) = answer
            .await
            .inspect_err(|error: &ServeError| metrics.failed(error.sqlstate()))?;
        Ok(Answer {
            schema,
            index,
            batches,
            metrics: Arc::clone(metrics),
            began,
            finished: false,
        })
    }

    async fn plan(&self, session: &Session, sql: &str) -> Result<Planned, ServeError> {
        let shared = &self.shared;
        let view = match session.consistency {
            Consistency::Stale => shared.upstream.latest(),
            Consistency::Linearizable => {
                let deadline = Instant::now() + shared.read_wait_max;
                let view = timeout_at(deadline, shared.upstream.linearizable(deadline)).await;
                view.unwrap_or(Err(NotReadable::Deadline))?
            }
        };
        let nodes = shared.upstream.overview().nodes;
        let sources = Sources { view, nodes };
        let planned = shared.engine.plan(sources, &session.settings, sql);
        Ok(planned.await?)
    }
}

impl Answer {
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The log index of the view that was asked.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The next rows, or `None` after the last.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ServeError> {
        if self.finished {
            return Ok(None);
        }
        let next = self.batches.next().await.transpose();
        if !matches!(next, Ok(Some(_))) {
            self.finished = true;
            let seconds = self.began.elapsed().as_secs_f64();
            self.metrics.query_seconds.observe(seconds);
        }
        Ok(next.inspect_err(|error| self.metrics.failed(error.sqlstate()))?)
    }
}

impl ServeError {
    /// The code that PostgreSQL gives such an error.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ServeError::Query(error) => error.sqlstate(),
            ServeError::NotReadable(NotReadable::Deadline) => "57014",
            ServeError::NotReadable(NotReadable::NoLeader | NotReadable::NotServing) => "57P03",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ServeError::Query(error) => error.hint(),
            ServeError::NotReadable(_) => {
                "ask another node, or again soon; see GET /v1/status for the nodes"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::{Fake, Reads, service};

    async fn rows(service: &Service, session: &Session, sql: &str) -> Result<usize, ServeError> {
        let mut answer = service.query(session, sql, Vec::new()).await?;
        let mut rows = 0;
        while let Some(batch) = answer.next().await? {
            rows += batch.num_rows();
        }
        Ok(rows)
    }

    #[tokio::test]
    async fn a_statement_sees_what_the_cluster_says_it_must() {
        let fake = Fake::with_rows();
        let service = service(&fake);
        let session = Session::new(Protocol::Http, "ada");
        assert_eq!(
            rows(&service, &session, "SELECT * FROM fire")
                .await
                .unwrap(),
            2
        );
        let answer = service
            .query(&session, "SELECT 1", Vec::new())
            .await
            .unwrap();
        assert_eq!(answer.index(), fake.index());
    }

    #[tokio::test]
    async fn without_a_quorum_only_who_accepts_old_answers_gets_one() {
        for (reads, state) in [(Reads::Never, "57014"), (Reads::NoLeader, "57P03")] {
            let fake = Fake::with_rows();
            fake.set(reads);
            let service = service(&fake);
            let mut session = Session::new(Protocol::Http, "ada");
            let refused = rows(&service, &session, "SELECT * FROM fire")
                .await
                .unwrap_err();
            assert_eq!(refused.sqlstate(), state);
            session.consistency = Consistency::Stale;
            assert_eq!(
                rows(&service, &session, "SELECT * FROM fire")
                    .await
                    .unwrap(),
                2
            );
        }
    }
}
