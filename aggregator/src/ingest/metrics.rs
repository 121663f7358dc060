//! What the front door counts, and the log line of each refusal: what happened, what it means,
//! what to do.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::session::{Close, ConnectRefusal, Reason, Report};
use crate::metrics::LogGate;

type ByReason = Family<[(&'static str, &'static str); 1], Counter>;

/// The metrics of this stage, `tributary_ingest_*`.
#[derive(Debug)]
pub struct IngestMetrics {
    pub connections: Gauge,
    pub accepted: Counter,
    pub publishes: Counter,
    pub bytes: Counter,
    pub acknowledged: Counter,
    /// Every refusal, by a fixed word for its reason.
    pub refused: ByReason,
    /// From the last byte of a publish to its PUBACK.
    pub ack_seconds: Histogram,
    log: LogGate,
}

impl IngestMetrics {
    /// Puts the metrics of this stage into the registry.
    pub fn register(registry: &mut Registry) -> Arc<IngestMetrics> {
        let metrics = IngestMetrics {
            connections: Gauge::default(),
            accepted: Counter::default(),
            publishes: Counter::default(),
            bytes: Counter::default(),
            acknowledged: Counter::default(),
            refused: ByReason::default(),
            ack_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            log: LogGate::new(20, Duration::from_secs(1)),
        };
        let stage = registry.sub_registry_with_prefix("ingest");
        stage.register(
            "connections",
            "Open MQTT connections",
            metrics.connections.clone(),
        );
        stage.register(
            "accepted",
            "MQTT connections accepted",
            metrics.accepted.clone(),
        );
        stage.register("publishes", "Publishes read", metrics.publishes.clone());
        stage.register("bytes", "Bytes read behind TLS", metrics.bytes.clone());
        stage.register(
            "acknowledged",
            "Positive PUBACKs sent",
            metrics.acknowledged.clone(),
        );
        stage.register("refused", "Refusals by reason", metrics.refused.clone());
        let help = "Seconds from a whole publish to its PUBACK";
        stage.register("ack_seconds", help, metrics.ack_seconds.clone());
        Arc::new(metrics)
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

    pub(super) fn report(&self, who: &str, report: &Report) {
        let (label, meaning) = explain(report.reason);
        self.refuse(who, label, &report.detail, meaning);
    }
}

/// A fixed word for the counter, and what it means and asks for.
pub(super) fn explain(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::Verdict(verdict) => (verdict, explain_verdict(verdict)),
        Reason::Connect(ConnectRefusal::NotReady) => (
            "not_ready",
            "this node recovers or knows no leader; publishers should try another node",
        ),
        Reason::Connect(ConnectRefusal::Will) => (
            "will",
            "last wills are not supported; configure the client without one",
        ),
        Reason::Connect(ConnectRefusal::Streams) => (
            "streams",
            "the stream properties of CONNECT are not <16 hex digits>/<lane> or too many; the \
             agent's version does not fit",
        ),
        Reason::Connect(ConnectRefusal::ClientId) => (
            "client_id",
            "MQTT 3.1.1 without a client id needs a clean session; set either",
        ),
        Reason::Subscribe => (
            "subscribe",
            "this listener takes readings and delivers none; read over SQL instead",
        ),
        Reason::Closed(close) => explain_close(close),
    }
}

fn explain_verdict(verdict: &'static str) -> &'static str {
    match verdict {
        "foreign_topic" => {
            "an agent may publish under its own id only; set the topic to the id in its \
             certificate"
        }
        "bad_topic" => {
            "there is no such topic; publish to tributary/v1/<agent>/<names|live|backlog|line>"
        }
        "invalid" => "the content will never be accepted; the agent keeps it in its dead letters",
        "gap" => "a batch before it is missing; the agent goes back by itself",
        "names" => "definitions that it needs are missing; the agent sends them by itself",
        "fork" => {
            "two writers used one stream: a copied machine or disk; find the copy and give it a \
             certificate of its own"
        }
        "busy" => {
            "it stands behind a refused one, or the log has no room for it now; the agent sends it \
             again by itself"
        }
        "quota" => {
            "the agent publishes more than limits.agent_bytes_per_second_max; it waits and sends it \
             again by itself"
        }
        _ => "the agent sends it again by itself",
    }
}

fn explain_close(close: Close) -> (&'static str, &'static str) {
    match close {
        Close::Finished => ("finished", "the publisher said good-bye"),
        Close::Protocol(_) => (
            "protocol",
            "the client breaks the MQTT rules; check its version",
        ),
        Close::QosTwo => (
            "qos_2",
            "QoS 2 is not supported; use QoS 1, batches are stored once",
        ),
        Close::Retain => (
            "retain",
            "retained messages are not supported; switch retain off",
        ),
        Close::BatchWithoutAck => (
            "qos_0_batch",
            "numbered batches need acknowledgements; publish them with QoS 1",
        ),
        Close::Unknown => (
            "unknown",
            "the cluster did not answer in time, the batch may be stored or not; the agent \
             connects again and asks",
        ),
        Close::Refused(_) => (
            "v3_refused",
            "MQTT 3.1.1 cannot carry a refusal, so the connection was closed; use MQTT 5",
        ),
    }
}
