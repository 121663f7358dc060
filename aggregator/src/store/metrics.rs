//! What the store counts.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use shared::id::TimeNs;

use super::damage::DamageCount;
use super::scrub::Step;

const NANOS_A_SECOND: i64 = 1_000_000_000;

/// `tributary_store_*`.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    scrubbed_blocks: Counter,
    scrubbed_bytes: Counter,
    damaged_files: Gauge,
    damaged_blocks: Gauge,
    scrubbed_whole: Gauge,
}

impl StoreMetrics {
    /// Puts the metrics of this stage into the registry.
    pub fn register(registry: &mut Registry) -> Arc<StoreMetrics> {
        let metrics = StoreMetrics::default();
        let stage = registry.sub_registry_with_prefix("store");
        let help = "Blocks of segments that were read and verified by scrubbing";
        stage.register("scrubbed_blocks", help, metrics.scrubbed_blocks.clone());
        let help = "Bytes of segments that were read and verified by scrubbing";
        stage.register("scrubbed_bytes", help, metrics.scrubbed_bytes.clone());
        let help = "Segment files of which this node knows that not all of them can be read";
        stage.register("damaged_files", help, metrics.damaged_files.clone());
        let help = "Blocks of segments of which this node knows that they cannot be read";
        stage.register("damaged_blocks", help, metrics.damaged_blocks.clone());
        let help = "Time since 1970 at which every segment had been scrubbed within the last period; \
                    0: not yet since the start, or never";
        let whole = metrics.scrubbed_whole.clone();
        stage.register_with_unit("scrubbed_whole", help, Unit::Seconds, whole);
        Arc::new(metrics)
    }

    pub(super) fn scrubbed(&self, step: Step) {
        self.scrubbed_blocks.inc_by(step.blocks);
        self.scrubbed_bytes.inc_by(step.bytes);
    }

    pub(super) fn damaged(&self, count: DamageCount) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.damaged_files.set(gauge(count.files));
        self.damaged_blocks.set(gauge(count.blocks));
    }

    pub(super) fn whole(&self, at: Option<TimeNs>) {
        let seconds = at.map_or(0, |at| at.0 / NANOS_A_SECOND);
        self.scrubbed_whole.set(seconds);
    }
}
