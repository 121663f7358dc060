//! SQL over the store: plans and runs statements against one view. The only folder that names
//! DataFusion: no fork of it, and no plan nodes of our own beyond sources.
//!
//! Behind it stands `store` (views), before it `serve` (who asks, and since when).

mod statement;
mod rewrite;
mod session;
mod table;
mod prune;
mod scan;
mod aggregate;
mod states;
mod rollups;
mod system;
mod pg_catalog;
mod function;
mod running;
mod error;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;

pub use error::{QueryError, Unknown};
pub use running::Batches;

use crate::cluster::NodeRow;
use crate::store::View;
use running::{Logical, Workers};

/// What queries may use of this node.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// Of all queries together; as many run at once as it has room for.
    pub memory_bytes: usize,
    /// Of one query; beyond it sorts, joins and groups go to the spill folder.
    pub query_memory_bytes: usize,
    /// Of this engine only, which removes old spill files from it when it starts.
    pub spill_dir: PathBuf,
    pub spill_bytes_max: u64,
    /// Of planning, and of running up to the last row.
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

/// What `current_user` and its like answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    pub user: String,
    /// Only shown: times are always UTC.
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

/// Plans and runs statements, on threads of its own. Clones share them.
#[derive(Debug, Clone)]
pub struct Engine {
    workers: Arc<Workers>,
    base: Arc<SessionState>,
}

/// A statement that is ready to run, once.
#[derive(Debug)]
pub struct Planned {
    engine: Engine,
    state: Box<SessionState>,
    plan: Logical,
    schema: SchemaRef,
    parameter_types: Vec<Option<DataType>>,
    index: u64,
}

impl Engine {
    /// Starts the threads; removes what a killed node left in the spill folder.
    pub fn new(options: QueryOptions) -> Result<Self, QueryError> {
        let runtime = session::runtime_env(&options)?;
        let base = session::base(&options, runtime);
        Ok(Self {
            workers: Arc::new(Workers::start(options)?),
            base: Arc::new(base),
        })
    }

    /// Parses and plans one statement against a view.
    pub async fn plan(
        &self,
        sources: Sources,
        session: &SessionSettings,
        sql: &str,
    ) -> Result<Planned, QueryError> {
        let (engine, session, sql) = (self.clone(), session.clone(), sql.to_owned());
        self.workers
            .run(async move { engine.plan_here(sources, &session, &sql).await })
            .await
    }

    async fn plan_here(
        self,
        sources: Sources,
        settings: &SessionSettings,
        sql: &str,
    ) -> Result<Planned, QueryError> {
        let mut parsed = statement::parse(sql)?;
        rewrite::for_datafusion(&mut parsed);
        let index = sources.view.index();
        let options = self.workers.options();
        let state = session::of(&self.base, options, sources, settings)?;
        let statement = Statement::Statement(Box::new(parsed));
        let plan = state.statement_to_plan(statement).await?;
        let reads_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        let allowed = reads_only.verify_plan(&plan);
        allowed.map_err(|_| QueryError::NotAllowed {
            statement: statement::verb(sql),
        })?;
        let parameter_types = parameter_types(&plan)?;
        let has_parameters = !parameter_types.is_empty();
        let (plan, schema) = match state.optimize(&plan) {
            // Types may need the values of the parameters.
            Err(_) if has_parameters => {
                let schema = Arc::clone(plan.schema().inner());
                (Logical::AsWritten(plan), schema)
            }
            Err(error) => return Err(error.into()),
            Ok(optimized) => {
                let schema = Arc::clone(optimized.schema().inner());
                let plan = if has_parameters {
                    Logical::AsWritten(plan)
                } else {
                    Logical::Optimized(optimized)
                };
                (plan, schema)
            }
        };
        Ok(Planned {
            engine: self,
            state: Box::new(state),
            plan,
            schema,
            parameter_types,
            index,
        })
    }
}

impl Planned {
    /// The columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Of `$1`, `$2`, ...; `None` where any type will do.
    pub fn parameter_types(&self) -> &[Option<DataType>] {
        &self.parameter_types
    }

    /// The log index of the view: everything up to it is seen, nothing after it.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Runs it. Waits for a place first; what goes wrong later is the last item of the stream.
    pub async fn run(self, parameters: Vec<Parameter>) -> Result<Batches, QueryError> {
        let Self {
            engine,
            state,
            plan,
            parameter_types,
            ..
        } = self;
        let (given, wanted) = (parameters.len(), parameter_types.len());
        if given != wanted {
            let message = format!("the statement has {wanted} parameters, not {given}");
            return Err(QueryError::Invalid { message });
        }
        let plan = match plan {
            Logical::AsWritten(plan) => {
                let cast = parameters.into_iter().zip(&parameter_types);
                let values: Result<Vec<_>, _> =
                    cast.map(|(value, to)| value.cast(to.as_ref())).collect();
                Logical::AsWritten(plan.with_param_values(values?)?)
            }
            optimized @ Logical::Optimized(_) => optimized,
        };
        engine.workers.answer(*state, plan).await
    }
}

impl Parameter {
    fn cast(self, to: Option<&DataType>) -> Result<ScalarValue, QueryError> {
        let value = match self {
            Self::Null => ScalarValue::Null,
            Self::Bool(value) => ScalarValue::from(value),
            Self::Int(value) => ScalarValue::from(value),
            Self::Float(value) => ScalarValue::from(value),
            Self::Text(value) => ScalarValue::from(value),
            Self::Time(value) => {
                ScalarValue::TimestampNanosecond(Some(value), Some(session::TIME_ZONE.into()))
            }
        };
        let Some(to) = to else { return Ok(value) };
        Ok(value.cast_to(to)?)
    }
}

/// `$1` first. Placeholders of other kinds are refused.
fn parameter_types(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>, QueryError> {
    let found = plan.get_parameter_types()?;
    let mut types = vec![None; found.len()];
    for (name, data_type) in found {
        let at = name
            .strip_prefix('$')
            .and_then(|digits| digits.parse::<usize>().ok());
        let slot = at.and_then(|at| types.get_mut(at.checked_sub(1)?));
        let Some(slot) = slot else {
            let message = format!("parameters are $1, $2, ... without holes; {name} is not");
            return Err(QueryError::Syntax { message });
        };
        *slot = data_type;
    }
    Ok(types)
}
