//! The aggregator: from wire to answer.
//!
//! Folders are the stages that a reading passes, in that order.

pub mod state;
pub mod store;
