//! What `/metrics` says of the replicated state: read off the newest view when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::upstream::Upstream;
use crate::state::{Quota, State, TableStanding, TableWish, Wish};

/// `tributary_state_*`.
pub struct StateMetrics {
    upstream: Arc<dyn Upstream>,
    /// What this node's configuration says.
    configured: Wish,
}

impl StateMetrics {
    pub fn register(registry: &mut Registry, upstream: Arc<dyn Upstream>, configured: Wish) {
        let metrics = Box::new(Self {
            upstream,
            configured,
        });
        let stage = registry.sub_registry_with_prefix("state");
        stage.register_collector(metrics);
    }

    fn tables(&self, state: &State, standing: TableStanding) -> u64 {
        let is_so = |(table, wish): &(&String, &TableWish)| {
            let settings = state.table_standings(table, wish);
            settings.iter().any(|(_, _, stands)| *stands == standing)
        };
        self.configured.tables().iter().filter(is_so).count() as u64
    }
}

impl fmt::Debug for StateMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMetrics").finish_non_exhaustive()
    }
}

impl Collector for StateMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let view = self.upstream.latest();
        let all = [
            (
                "tables_refused",
                "Tables of the configuration whose same_time is refused: they have rows",
                TableStanding::TooLate,
            ),
            (
                "tables_not_agreed",
                "Tables of the configuration of which more than half of the nodes do not say the same",
                TableStanding::NotAgreed,
            ),
        ];
        for (name, help, standing) in all {
            let gauge = ConstGauge::new(self.tables(view.state(), standing));
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        let state = view.state();
        let held_back = view.held_back(state.now(), Duration::ZERO).len() as u64;
        let gauge = ConstGauge::new(held_back);
        let help =
            "Partitions that stay in parts: others hold later rows of the same series and times";
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor("partitions_held_back", help, None, kind)?)?;
        let refused = |quota| {
            state
                .catalog()
                .made()
                .map(|(_, made)| made.refused(quota))
                .sum()
        };
        let help =
            "Definitions and fields that went to quarantine, because their agent made enough";
        let kind = MetricType::Counter;
        let mut counters = encoder.encode_descriptor("quota_refused", help, None, kind)?;
        for quota in Quota::ALL {
            let counter: ConstCounter<u64> = ConstCounter::new(refused(quota));
            counter.encode(counters.encode_family(&[("quota", quota.as_str())])?)?;
        }
        let at_quota = |quota: Quota| {
            let most = state.settings().quotas().of(quota);
            let made = state.catalog().made();
            let full = made.filter(|(_, made)| most.is_some_and(|most| made.of(quota) >= most));
            full.count() as u64
        };
        let help = "Agents that may make no more";
        let kind = MetricType::Gauge;
        let mut gauges = encoder.encode_descriptor("agents_at_quota", help, None, kind)?;
        for quota in Quota::ALL {
            let gauge = ConstGauge::new(at_quota(quota));
            gauge.encode(gauges.encode_family(&[("quota", quota.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use crate::serve::fixture::Fake;
    use crate::state::SameTime;

    #[test]
    fn a_wish_that_came_too_late_is_counted() {
        let mut registry = metrics::registry();
        let fake = Fake::with_rows();
        let table = fake
            .latest()
            .catalog()
            .tables()
            .next()
            .unwrap()
            .name
            .clone();
        let merge = || TableWish::from(SameTime::Merge);
        let wished = [(table, merge()), ("other".into(), merge())];
        let wish = Wish::default().with_tables(wished.into());
        StateMetrics::register(&mut registry, Arc::new(fake), wish);
        let text = metrics::text(&registry);
        for line in [
            "tributary_state_tables_refused 1\n",
            "tributary_state_tables_not_agreed 1\n",
            "tributary_state_partitions_held_back 0\n",
            "tributary_state_quota_refused_total{quota=\"series\"} 0\n",
            "tributary_state_agents_at_quota{quota=\"fields\"} 0\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
