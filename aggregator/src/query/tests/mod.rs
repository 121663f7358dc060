//! SQL against a store on a simulated disk.

mod model;
mod features;
mod psql;
mod same_time;
mod limits;
mod aggregate;
mod rollups;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use futures_util::TryStreamExt;
use journal::{SimStorage, Storage};
use shared::id::{AgentId, TimeNs};

use super::{Engine, Parameter, Planned, QueryError, QueryOptions};
use super::{SessionSettings, Sources};
use crate::cluster::NodeRow;
use crate::state::{Command, Origin, Outcome, Payload, State, Submission};
use crate::store::Store;

const DAY: i64 = 86_400_000_000_000;
/// All rows of tests lie shortly after it.
const START: i64 = 1_000 * DAY;

/// A store that is filled by lines, and an engine beside it.
struct Bench {
    disk: Arc<dyn Storage>,
    store: Store,
    state: State,
    index: u64,
    engine: Engine,
    _spill: tempfile::TempDir,
}

/// An answer as text: names of columns, and rows; `NULL` for what is not there.
#[derive(Debug, PartialEq)]
struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn options(spill: &tempfile::TempDir) -> QueryOptions {
    QueryOptions {
        memory_bytes: 256 << 20,
        // Each sort sets 10 MiB aside to end with, on each core.
        query_memory_bytes: 64 << 20,
        spill_dir: spill.path().join("spill"),
        spill_bytes_max: 64 << 20,
        time_max: Duration::from_mins(1),
        queries_max: 4,
        cores: 2,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(QueryOptions) -> QueryOptions) -> Self {
        let spill = tempfile::tempdir().unwrap();
        let engine = Engine::new(change(options(&spill))).unwrap();
        let disk = SimStorage::new(7).as_storage();
        let (store, recovered) = Store::open(&*disk).unwrap();
        let mut bench = Self {
            disk,
            store,
            state: recovered.state,
            index: 0,
            engine,
            _spill: spill,
        };
        bench.apply(&Command::Clock {
            node: 1,
            now: TimeNs(START),
        });
        bench
    }

    fn apply(&mut self, command: &Command) -> Vec<Outcome> {
        self.index += 1;
        let mut effects = self.state.apply(self.index, command);
        self.store
            .apply(self.index, &self.state, std::mem::take(&mut effects.rows));
        effects
            .outcomes
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect()
    }

    /// Stores line protocol, sent by `gw`.
    fn lines(&mut self, lines: &str) {
        let submission = Submission {
            origin: Origin { boot: 1, ticket: 1 },
            agent: AgentId::parse("gw").unwrap(),
            received: TimeNs(START),
            payload: Payload::Lines(Bytes::from(lines.to_owned())),
        };
        assert_eq!(
            self.apply(&Command::Submissions(vec![submission])),
            [Outcome::Stored]
        );
    }

    /// Moves all rows so far into segments.
    fn merge(&mut self) {
        self.apply(&Command::Merge);
        let job = self
            .store
            .begin_merge(self.index, &self.state, Bytes::new());
        self.store.finish_merge(job.run().unwrap()).unwrap();
    }

    fn sources(&self) -> Sources {
        let node = NodeRow {
            id: 1,
            name: "n1".into(),
            address: "127.0.0.1:1".into(),
            role: "leader",
            applied: Some(self.index),
            lag: None,
        };
        Sources {
            view: self.store.view(),
            nodes: Arc::new(vec![node]),
        }
    }

    async fn plan(&self, sql: &str) -> Result<Planned, QueryError> {
        let session = SessionSettings {
            user: "ada".into(),
            time_zone: "UTC".into(),
            application_name: "test".into(),
        };
        self.engine.plan(self.sources(), &session, sql).await
    }

    async fn try_ask(&self, sql: &str, with: Vec<Parameter>) -> Result<Answer, QueryError> {
        let planned = self.plan(sql).await?;
        let schema = planned.schema();
        let batches: Vec<RecordBatch> = planned.run(with).await?.try_collect().await?;
        for batch in &batches {
            let types = |fields: &arrow::datatypes::Fields| {
                fields
                    .iter()
                    .map(|field| field.data_type().clone())
                    .collect::<Vec<_>>()
            };
            let found = batch.schema();
            assert_eq!(
                types(found.fields()),
                types(schema.fields()),
                "as described: {sql}"
            );
        }
        let columns = schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        Ok(Answer {
            columns,
            rows: batches.iter().flat_map(texts).collect(),
        })
    }

    async fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        let answer = self.try_ask(sql, Vec::new()).await;
        answer
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
            .rows
    }

    async fn refusal(&self, sql: &str) -> QueryError {
        match self.try_ask(sql, Vec::new()).await {
            Ok(answer) => panic!("{sql}: {answer:?}"),
            Err(error) => error,
        }
    }
}

fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let formatters: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let row = |at| {
        formatters
            .iter()
            .map(|column| column.value(at).to_string())
            .collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

/// How often each row is there, for answers without an order.
fn counted(rows: Vec<Vec<String>>) -> BTreeMap<Vec<String>, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}
