//! `GET /v1/status`: the cluster and its agents, as this node sees them now, leader or not.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::temporal_conversions::timestamp_ns_to_datetime;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::Shared;
use crate::cluster::NodeRow;
use crate::state::AgentRow;

/// Streams in one answer, those that were seen last.
const AGENTS_MAX: usize = 10_000;
const NANOS_A_MILLI: i64 = 1_000_000;

#[expect(
    clippy::disallowed_methods,
    reason = "a driver: how far agents lag is told by the clock of this node"
)]
pub(super) async fn answer(State(shared): State<Arc<Shared>>) -> Response {
    let upstream = shared.options.service.upstream();
    let overview = upstream.overview();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let view = upstream.latest();
    let damage = view.damage_count();
    let mut agents = view.agents();
    let agents_total = agents.len();
    agents.sort_by_key(|agent| std::cmp::Reverse(agent.last_seen.0));
    agents.truncate(AGENTS_MAX);
    agents.sort_by(|a, b| (&a.agent, a.lane, a.epoch).cmp(&(&b.agent, b.lane, b.epoch)));
    let told = json!({
        "cluster": overview.cluster,
        "node": overview.node,
        "id": overview.id,
        "leader": overview.leader,
        "term": overview.term,
        "applied": overview.applied,
        "committed": overview.committed,
        // As text: other readers of JSON lose digits of such numbers.
        "incarnation": format!("{:016x}", overview.incarnation),
        "ready": upstream.ready().is_ok(),
        "damaged_files": damage.files,
        "damaged_blocks": damage.blocks,
        "nodes": overview.nodes.iter().map(node).collect::<Vec<_>>(),
        "agents_total": agents_total,
        "agents": agents.iter().map(|row| agent(row, now_ns)).collect::<Vec<_>>(),
    });
    super::json(StatusCode::OK, &told)
}

fn node(row: &NodeRow) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "address": row.address,
        "role": row.role,
        "applied": row.applied,
        "lag": row.lag,
    })
}

/// `lag_ms`: how long ago all that was sealed had arrived.
fn agent(row: &AgentRow, now_ns: i64) -> Value {
    let lag_ns = now_ns.saturating_sub(row.complete_below.0).max(0);
    json!({
        "agent": row.agent.as_str(),
        "lane": row.lane,
        "epoch": format!("{:016x}", row.epoch),
        "last": row.last,
        "last_seen": time(row.last_seen.0),
        "complete_below": time(row.complete_below.0),
        "lag_ms": lag_ns / NANOS_A_MILLI,
    })
}

fn time(ns: i64) -> Option<String> {
    let time = timestamp_ns_to_datetime(ns)?;
    Some(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use shared::id::{AgentId, TimeNs};

    use super::*;

    #[test]
    fn lag_is_what_may_still_be_under_way() {
        let row = AgentRow {
            agent: AgentId::parse("gw1").unwrap(),
            epoch: 0xab,
            lane: "live",
            last: 7,
            complete_below: TimeNs(1_767_225_600_000_000_000),
            last_seen: TimeNs(1_767_225_600_250_000_000),
        };
        let told = agent(&row, 1_767_225_600_500_000_000);
        assert_eq!(told["lag_ms"], 500);
        assert_eq!(told["epoch"], "00000000000000ab");
        assert_eq!(told["last_seen"], "2026-01-01T00:00:00.250Z");
        assert_eq!(agent(&row, 0)["lag_ms"], 0, "a clock behind is no lag");
    }
}
