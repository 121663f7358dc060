//! What replicas agree on. Pure: the same commands in the same order make the same state on every
//! node; no I/O, no clock, no order of a hash table in any decision or encoding.
//!
//! Before it stands `cluster` (which orders the commands), behind it `store` (which keeps the rows).

pub mod command;
pub mod dedup;
mod dictionary;
pub mod catalog;
pub mod machine;
pub mod rows;
mod quarantine;
mod resolve;
mod clock;
pub mod quota;
pub mod settings;
pub mod table_settings;
mod retention;
mod last;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod encode;
pub(crate) mod bytes;
pub(crate) mod cow;

pub use catalog::{Catalog, SeriesId, SeriesInfo, TableId, TableInfo};
pub use command::{Command, Origin, Payload, Sealing, Submission, Window};
pub use dedup::{AgentRow, GapRow};
pub use encode::StateError;
pub use last::LastValue;
pub use machine::{Effects, Job, Outcome, State, TableStanding};
pub use quota::{Quota, Quotas};
pub use retention::Retention;
pub use rows::Rows;
pub use settings::{SameTime, Settings, Wish};
pub use table_settings::{Rollup, Rollups, TableSettings, TableWish};
