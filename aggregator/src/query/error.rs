//! What can go wrong with a statement, sorted by who must act.

use std::sync::Arc;
use std::time::Duration;

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
            Self::Unknown { what: Unknown::Table, .. } => "42P01",
            Self::Unknown { what: Unknown::Column, .. } => "42703",
            Self::Unknown { what: Unknown::Function, .. } => "42883",
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
            Self::Unknown { what: Unknown::Table, .. } => {
                "SHOW TABLES lists the tables; one appears with its first reading"
            }
            Self::Unknown { what: Unknown::Column, .. } => {
                "SHOW COLUMNS FROM table lists its columns"
            }
            Self::Unknown { what: Unknown::Function, .. } => "docs/sql.md names what there is",
            Self::Invalid { .. } => "cast one side: CAST(x AS type)",
            Self::Unsupported { .. } => "docs/sql.md says what works",
            Self::NotAllowed { .. } => "use SELECT, EXPLAIN, SHOW TABLES or SHOW COLUMNS",
            Self::TooLarge { .. } => "ask for less: a shorter time, fewer groups, or a LIMIT",
            Self::Busy { .. } => "try again later, or ask another node",
            Self::Timeout { .. } => "bound the time: WHERE time > now() - interval '1 hour'",
            Self::Data(_) => "the log of this node names the file; the other nodes still answer",
            Self::Internal { .. } => "report it with the statement",
        }
    }
}
