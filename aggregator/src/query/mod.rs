//! SQL over the store: plans and runs statements against one view. The only folder that names
//! DataFusion: no fork of it, and no plan nodes of our own beyond the scan.
//!
//! Behind it stands `store` (views), before it `serve` (who asks, and since when).

mod error;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;

pub use error::{QueryError, Unknown};

use crate::store::View;

/// What queries may use of this node.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// Of all queries together.
    pub memory_bytes: usize,
    /// Of one query; beyond it sorts, joins and groups go to the spill folder.
    pub query_memory_bytes: usize,
    /// Emptied when the engine starts.
    pub spill_dir: PathBuf,
    pub spill_bytes_max: u64,
    /// From planning to the last row.
    pub time_max: Duration,
    /// That run at once; more wait.
    pub queries_max: usize,
    /// Threads, and parts into which a scan is divided.
    pub cores: usize,
}

/// What a query sees: everything as of one log index.
#[derive(Debug, Clone)]
pub struct Sources {
    pub view: Arc<View>,
    pub nodes: Arc<Vec<NodeRow>>,
}

/// One row of the table `nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    pub id: u64,
    pub name: String,
    pub address: String,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    /// The last log entry it applied, if known.
    pub applied: Option<u64>,
    /// Log entries behind the leader, if known.
    pub lag: Option<u64>,
}

/// What `current_user` and its like answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    pub user: String,
    pub time_zone: String,
    pub application_name: String,
}

/// A value for `$1` and its like; cast to the type that the statement expects.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Nanoseconds since 1970-01-01 UTC.
    Time(i64),
}

/// Record batches as they come; dropping it cancels the query.
pub type Batches =
    Pin<Box<dyn futures_util::Stream<Item = Result<RecordBatch, QueryError>> + Send>>;
