//! What serving counts, and the log line of each refusal.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::service::Protocol;
use crate::metrics::LogGate;

type Label = [(&'static str, &'static str); 1];

/// `tributary_serve_*`.
#[derive(Debug)]
pub struct ServeMetrics {
    connections: Family<Label, Gauge>,
    accepted: Family<Label, Counter>,
    /// By a fixed word for the reason.
    refused: Family<Label, Counter>,
    queries: Family<Label, Counter>,
    /// By SQLSTATE, of which we use a dozen.
    failures: Family<Label, Counter>,
    cancelled: Counter,
    /// From the statement to its last row.
    pub(super) query_seconds: Histogram,
    log: LogGate,
}

impl ServeMetrics {
    /// Puts the metrics of this stage into the registry.
    pub fn register(registry: &mut Registry) -> Arc<ServeMetrics> {
        let metrics = ServeMetrics {
            connections: Family::default(),
            accepted: Family::default(),
            refused: Family::default(),
            queries: Family::default(),
            failures: Family::default(),
            cancelled: Counter::default(),
            query_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            log: LogGate::new(20, Duration::from_secs(1)),
        };
        let stage = registry.sub_registry_with_prefix("serve");
        let all = [
            ("accepted", "Connections accepted", &metrics.accepted),
            (
                "refused",
                "Refused connections, logins and messages",
                &metrics.refused,
            ),
            (
                "queries",
                "Statements that were to be run",
                &metrics.queries,
            ),
            (
                "failures",
                "Statements that failed, by SQLSTATE",
                &metrics.failures,
            ),
        ];
        for (name, help, family) in all {
            stage.register(name, help, family.clone());
        }
        stage.register(
            "connections",
            "Open connections",
            metrics.connections.clone(),
        );
        let help = "Statements that their client cancelled";
        stage.register("cancelled", help, metrics.cancelled.clone());
        let help = "Seconds from a statement to its last row";
        stage.register("query_seconds", help, metrics.query_seconds.clone());
        Arc::new(metrics)
    }

    pub(super) fn accepted(&self, protocol: Protocol) {
        self.accepted
            .get_or_create(&[("protocol", protocol.as_str())])
            .inc();
    }

    /// Counts an open connection for as long as the guard lives.
    pub(super) fn open(self: &Arc<Self>, protocol: Protocol) -> Open {
        self.connections(protocol).inc();
        Open {
            metrics: Arc::clone(self),
            protocol,
        }
    }

    pub(super) fn asked(&self, protocol: Protocol) {
        self.queries
            .get_or_create(&[("protocol", protocol.as_str())])
            .inc();
    }

    pub(super) fn failed(&self, sqlstate: &'static str) {
        self.failures.get_or_create(&[("sqlstate", sqlstate)]).inc();
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.inc();
    }

    /// Counts a refusal and writes its line, unless too many are written already.
    pub(super) fn refuse(&self, who: &str, label: &'static str, detail: &str, meaning: &str) {
        self.refused.get_or_create(&[("reason", label)]).inc();
        if let Some(suppressed) = self.log.admit(tokio::time::Instant::now().into_std()) {
            tracing::warn!(
                who,
                reason = label,
                detail,
                suppressed,
                "refused: {meaning}"
            );
        }
    }

    fn connections(&self, protocol: Protocol) -> Gauge {
        self.connections
            .get_or_create(&[("protocol", protocol.as_str())])
            .clone()
    }
}

/// One open connection.
pub(super) struct Open {
    metrics: Arc<ServeMetrics>,
    protocol: Protocol,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections(self.protocol).dec();
    }
}
