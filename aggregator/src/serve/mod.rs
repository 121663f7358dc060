//! Answers: who asks, since when, and for how long; over HTTP and the PostgreSQL protocol.
//!
//! Behind it stands `query` (SQL over one view); which view, the cluster says through `Upstream`.
//! Both protocols enter by one `Service`, admit callers by one `Admission`, and take connections
//! through a `Door` each.

pub mod upstream;
pub mod service;
pub mod auth;
pub mod metrics;
pub mod state_metrics;
pub mod door;
pub mod http;
pub mod pg;
#[cfg(test)]
mod fixture;

pub use auth::Admission;
pub use door::ListenError;
pub use metrics::ServeMetrics;
pub use service::{Service, ServiceOptions};
pub use state_metrics::StateMetrics;
pub use upstream::Upstream;
