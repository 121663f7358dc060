//! What can go wrong with a statement, sorted by who must act.

use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};

use super::session;
use crate::store::StoreError;

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// Not SQL as we read it: the statement has to change.
    #[error("{message}")]
    Syntax { message: String },
    /// A table, column or function that is not there.
    #[error("{message}")]
    Unknown { what: Unknown, message: String },
    /// Types or values do not fit what is done with them.
    #[error("{message}")]
    Invalid { message: String },
    /// SQL that this engine does not have.
    #[error("{message}")]
    Unsupported { message: String },
    /// A statement that does more than read.
    #[error("{statement} is not allowed: this cluster answers SQL, it takes readings over MQTT")]
    NotAllowed { statement: String },
    /// Statement or result outgrew a limit.
    #[error("the query is too large: {message}")]
    TooLarge { message: String },
    /// All places were taken for as long as a query may run.
    #[error("{running} queries are running already, and none ended in {waited:?}")]
    Busy { running: usize, waited: Duration },
    #[error("the query did not end within {after:?}")]
    Timeout { after: Duration },
    /// Stored bytes are damaged or cannot be read: never answered over.
    #[error("stored data cannot be read: {0}")]
    Data(Arc<StoreError>),
    /// A fault of ours.
    #[error("internal error: {message}")]
    Internal { message: String },
}

/// What was named that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Table,
    Column,
    Function,
}

impl QueryError {
    /// The code that PostgreSQL gives such an error.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "42601",
            Self::Unknown {
                what: Unknown::Table,
                ..
            } => "42P01",
            Self::Unknown {
                what: Unknown::Column,
                ..
            } => "42703",
            Self::Unknown {
                what: Unknown::Function,
                ..
            } => "42883",
            Self::Invalid { .. } => "22023",
            Self::Unsupported { .. } => "0A000",
            Self::NotAllowed { .. } => "25006",
            Self::TooLarge { .. } => "53200",
            Self::Busy { .. } => "53300",
            Self::Timeout { .. } => "57014",
            Self::Data(_) => "XX001",
            Self::Internal { .. } => "XX000",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "names with capitals or odd characters need \"double quotes\"",
            Self::Unknown {
                what: Unknown::Table,
                ..
            } => "SHOW TABLES lists the tables; one appears with its first reading",
            Self::Unknown {
                what: Unknown::Column,
                ..
            } => "SHOW COLUMNS FROM table lists its columns",
            Self::Unknown {
                what: Unknown::Function,
                ..
            } => "docs/sql.md names what there is",
            Self::Invalid { .. } => "cast one side: CAST(x AS type)",
            Self::Unsupported { .. } => "docs/sql.md says what works",
            Self::NotAllowed { .. } => "use SELECT, EXPLAIN, SHOW TABLES or SHOW COLUMNS",
            Self::TooLarge { .. } => "ask for less: a shorter time, fewer groups, or a LIMIT",
            Self::Busy { .. } => "try again later, or ask another node",
            Self::Timeout { .. } => "bound the time: WHERE time > now() - interval '1 hour'",
            Self::Data(_) => {
                "SELECT * FROM node_damage says what this node cannot read; the others still answer"
            }
            Self::Internal { .. } => "report it with the statement",
        }
    }
}

/// Carries a fault of the store through DataFusion.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct StoreFailure(pub(super) Arc<StoreError>);

impl From<StoreFailure> for DataFusionError {
    fn from(failure: StoreFailure) -> Self {
        Self::External(Box::new(failure))
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        classify(&error)
    }
}

fn classify(error: &DataFusionError) -> QueryError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            classify(inner)
        }
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) if !all.is_empty() => classify(&all[0]),
        DataFusionError::SQL(parser, _) => QueryError::Syntax {
            message: parser.to_string(),
        },
        DataFusionError::NotImplemented(message) => QueryError::Unsupported {
            message: message.clone(),
        },
        DataFusionError::Plan(message) => planning(message),
        DataFusionError::SchemaError(inner, _) => match &**inner {
            SchemaError::FieldNotFound { field, .. } => QueryError::Unknown {
                what: Unknown::Column,
                message: format!("column \"{}\" does not exist", field.flat_name()),
            },
            other => QueryError::Invalid {
                message: other.to_string(),
            },
        },
        DataFusionError::ArrowError(inner, _) => match &**inner {
            ArrowError::ExternalError(inner) => external(inner.as_ref()),
            other => QueryError::Invalid {
                message: other.to_string(),
            },
        },
        DataFusionError::Execution(message) | DataFusionError::Configuration(message) => {
            QueryError::Invalid {
                message: message.clone(),
            }
        }
        DataFusionError::ResourcesExhausted(message) => QueryError::TooLarge {
            message: message.lines().next().unwrap_or_default().to_owned(),
        },
        DataFusionError::External(inner) => external(inner.as_ref()),
        other => QueryError::Internal {
            message: other.strip_backtrace(),
        },
    }
}

fn external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> QueryError {
    if let Some(failure) = error.downcast_ref::<StoreFailure>() {
        // What is damaged was told when it was found.
        if !matches!(*failure.0, StoreError::Damaged { .. }) {
            tracing::error!(error = %failure.0, "a query met stored data that cannot be read");
        }
        return QueryError::Data(Arc::clone(&failure.0));
    }
    match error.downcast_ref::<DataFusionError>() {
        Some(inner) => classify(inner),
        None => QueryError::Internal {
            message: error.to_string(),
        },
    }
}

/// DataFusion tells these apart by their texts only.
fn planning(message: &str) -> QueryError {
    let quoted = message.split('\'').nth(1).unwrap_or_default();
    if message.starts_with("table '") && message.contains("not found") {
        let home = format!("{}.{}.", session::DATABASE, session::PUBLIC);
        let name = quoted.strip_prefix(&home).unwrap_or(quoted);
        let message = format!("table \"{name}\" does not exist");
        return QueryError::Unknown {
            what: Unknown::Table,
            message,
        };
    }
    if message.starts_with("Invalid function") {
        let message = format!("function \"{quoted}\" does not exist");
        return QueryError::Unknown {
            what: Unknown::Function,
            message,
        };
    }
    QueryError::Invalid {
        message: message.to_owned(),
    }
}
