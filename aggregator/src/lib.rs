//! The aggregator: from wire to answer.
//!
//! Folders are the stages that a reading passes, in that order.

pub mod config;
pub mod pki;
pub mod tls;
pub mod users;
pub mod metrics;
pub mod ingest;
pub mod cluster;
pub mod state;
pub mod store;
pub mod query;
pub mod serve;
pub mod node;
pub mod inspect;
