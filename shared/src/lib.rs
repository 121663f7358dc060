//! What a reading is: the vocabulary of Tributary and its encodings.
//!
//! Pure functions over bytes. This crate knows no async, I/O, clock, log, configuration, Raft or
//! SQL; the agent, the aggregator and the tests all stand on it.

pub mod id;
pub mod reading;
pub mod limits;
pub mod wire;
pub mod topic;
pub mod verdict;
pub mod batch;
pub mod column;
pub mod payload;
