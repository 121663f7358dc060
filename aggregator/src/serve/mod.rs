//! Answers: who asks, since when, and for how long; over HTTP and the PostgreSQL protocol.
//!
//! Behind it stands `query` (SQL over one view); which view, the cluster says through `Upstream`.

pub mod upstream;
