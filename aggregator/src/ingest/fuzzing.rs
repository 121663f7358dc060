//! A door for fuzzers: what a publisher sends behind its handshake.

use std::future::{Ready, ready};
use std::time::Duration;

use prometheus_client::registry::Registry;
use shared::id::{AgentId, Epoch, Lane, TimeNs};
use shared::verdict::Position;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Upstream;
use super::agents::{AgentLimits, Agents};
use super::budget::Budget;
use super::connection::{Connection, Surroundings};
use super::metrics::IngestMetrics;
use crate::cluster::Answer;
use crate::state::command::Payload;
use crate::tls::{Identity, Revocations, Role};

/// Of one publisher, as the listener would give it.
const BUDGET_BYTES: usize = 4 << 20;
/// It ends when its publisher hangs up, whatever came before.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A cluster that is busy: success cannot be made up.
#[derive(Clone)]
struct Busy;

impl Upstream for Busy {
    type Ticket = Ready<Answer>;

    async fn submit(&self, _: AgentId, _: TimeNs, payload: Payload, _: usize) -> Ready<Answer> {
        ready(match payload {
            Payload::Lines(_) => Answer::Unknown,
            Payload::Batch(_) => Answer::Busy { retry_ms: 10 },
        })
    }

    async fn positions(
        &self,
        _: &AgentId,
        streams: &[(Epoch, Lane)],
    ) -> Option<Vec<(Epoch, Lane, Position)>> {
        let first = |(epoch, lane): &(Epoch, Lane)| (*epoch, *lane, Position::default());
        Some(streams.iter().map(first).collect())
    }

    fn incarnation(&self) -> u64 {
        1
    }

    fn ready(&self) -> bool {
        true
    }
}

/// Any bytes as all that a publisher sends before it hangs up.
///
/// # Panics
/// The connection does not end.
pub fn connection(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(async {
        let agents = Agents::new(AgentLimits {
            connections_max: 4,
            bytes_per_second_max: 0,
        });
        let identity = Identity {
            cluster: "fuzz".to_owned(),
            role: Role::Agent,
            id: AgentId::parse("gw1").expect("a name"),
            serial: "1".to_owned(),
        };
        let (_stop, stop) = watch::channel(false);
        let around = Surroundings {
            upstream: Busy,
            metrics: IngestMetrics::register(&mut Registry::default()),
            revocations: Revocations::none(),
            stop,
            account: Budget::new(BUDGET_BYTES).account(BUDGET_BYTES / 2),
            presence: agents.enter(&identity.id, Instant::now()),
        };
        let (near, far) = tokio::io::duplex(64 << 10);
        let (mut answers, mut publishes) = tokio::io::split(near);
        let served = Connection::new(far, identity, around).run();
        let publisher = async {
            // It may have hung up before.
            let _ = publishes.write_all(bytes).await;
            let _ = publishes.shutdown().await;
        };
        let reader = async {
            let mut told = Vec::new();
            let _ = answers.read_to_end(&mut told).await;
        };
        let all = async { tokio::join!(served, publisher, reader) };
        timeout(END_LIMIT, all).await.expect("it does not end");
    });
}
