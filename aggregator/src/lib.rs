//! The aggregator: from wire to answer.
//!
//! Folders are the stages that a reading passes, in that order. Without the feature `sql` all stages up
//! to the store are built, for fuzzers of what they read: see the folder `fuzz`.

pub mod config;
pub mod pki;
pub mod tls;
#[cfg(feature = "sql")]
pub mod users;
pub mod metrics;
pub mod ingest;
pub mod cluster;
pub mod state;
pub mod store;
#[cfg(feature = "sql")]
pub mod query;
#[cfg(feature = "sql")]
pub mod serve;
#[cfg(feature = "sql")]
pub mod node;
pub mod inspect;
