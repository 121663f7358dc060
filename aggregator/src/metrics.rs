//! What a node counts, and how it is read: one registry, one struct of metrics a stage.
//!
//! The pattern: a stage has a struct of counters and gauges whose `register` puts them under the
//! stage's name and returns the struct, which `node.rs` hands to the stage in an `Arc`. Label
//! values are fixed words of ours, never a name from outside: those would grow without bound.
//!
//! ```
//! use prometheus_client::{metrics::counter::Counter, registry::Registry};
//! use aggregator::metrics;
//!
//! #[derive(Default)]
//! struct StoreMetrics { merges: Counter }
//!
//! impl StoreMetrics {
//!     fn register(registry: &mut Registry) -> StoreMetrics {
//!         let metrics = StoreMetrics::default();
//!         let stage = registry.sub_registry_with_prefix("store");
//!         stage.register("merges", "Merges of the log into segments", metrics.merges.clone());
//!         metrics
//!     }
//! }
//!
//! let mut registry = metrics::registry();
//! StoreMetrics::register(&mut registry).merges.inc();
//! assert!(metrics::text(&registry).contains("tributary_store_merges_total 1"));
//! ```

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

/// What `/metrics` declares its body to be.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An empty registry; every name begins with `tributary_`.
pub fn registry() -> Registry {
    Registry::with_prefix("tributary")
}

/// The text of `/metrics`.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)
        .expect("writing to a String does not fail");
    text
}

/// Lets a bounded number of log lines through in a window of time and counts the rest, so that a
/// flood of refusals cannot become a flood of log.
#[derive(Debug)]
pub struct LogGate {
    window: Duration,
    lines_max: u32,
    // A std mutex: held for a few instructions, never across an await.
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogGate {
    pub fn new(lines_max: u32, window: Duration) -> LogGate {
        LogGate {
            window,
            lines_max,
            state: Mutex::default(),
        }
    }

    /// `Some(n)`: write the line and say that `n` before it were left out. `None`: leave it out.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = state
            .began
            .is_none_or(|began| now.duration_since(began) >= self.window);
        if fresh {
            state.began = Some(now);
            state.lines = 0;
        }
        if state.lines < self.lines_max {
            state.lines += 1;
            return Some(std::mem::take(&mut state.suppressed));
        }
        state.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant serves as a start")]
    fn a_gate_lets_a_few_lines_through_and_counts_the_rest() {
        let gate = LogGate::new(2, Duration::from_secs(1));
        let start = Instant::now();
        let at = |ms| gate.admit(start + Duration::from_millis(ms));
        assert_eq!(
            [at(0), at(1), at(2), at(999)],
            [Some(0), Some(0), None, None]
        );
        assert_eq!([at(1_000), at(1_001)], [Some(2), Some(0)]);
    }
}
