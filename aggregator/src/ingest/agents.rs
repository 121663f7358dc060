//! What an agent may use of this node, over all its connections: how many there are, and how many
//! bytes it publishes in a second. No clock: `now` is an argument.
//!
//! One connection too many closes the oldest, never the newest: after a link broke without a word,
//! the old ones are those that nobody uses any more, and an agent must not be locked out by them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::id::AgentId;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What an agent did not publish it may make up for, within this.
const BURST: Duration = Duration::from_secs(1);
/// A publisher is never asked to wait longer.
const RETRY_MS_MAX: u128 = 60_000;
/// Agents that are known before those without connections and debts are looked for.
const SWEEP_MIN: usize = 1_024;

#[derive(Debug, Clone, Copy)]
pub(super) struct AgentLimits {
    /// Connections of one agent.
    pub(super) connections_max: usize,
    /// Bytes of payloads that one agent may publish; 0: any number.
    pub(super) bytes_per_second_max: u64,
}

/// All agents of this node.
#[derive(Debug, Clone)]
pub(super) struct Agents {
    limits: AgentLimits,
    // A std mutex: held for a few instructions, never across an await.
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    agents: HashMap<AgentId, Agent>,
    next_id: u64,
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Agent {
    /// The oldest first.
    connections: VecDeque<(u64, oneshot::Sender<()>)>,
    /// When all that it published is within its quota again.
    paid_at: Option<Instant>,
}

/// One connection's place among those of its agent; given back when dropped.
#[derive(Debug)]
pub(super) struct Presence {
    agents: Agents,
    agent: AgentId,
    id: u64,
    crowded_out: oneshot::Receiver<()>,
}

impl Agents {
    pub(super) fn new(limits: AgentLimits) -> Agents {
        let known = Known {
            agents: HashMap::new(),
            next_id: 0,
            sweep_at: SWEEP_MIN,
        };
        Agents {
            limits,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// A connection of `agent` begins. If there are too many now, the oldest is told to end.
    pub(super) fn enter(&self, agent: &AgentId, now: Instant) -> Presence {
        let (told, crowded_out) = oneshot::channel();
        let mut known = self.lock();
        if known.agents.len() >= known.sweep_at {
            known.agents.retain(|_, agent| !agent.is_idle(now));
            known.sweep_at = (known.agents.len() * 2).max(SWEEP_MIN);
        }
        let id = known.next_id;
        known.next_id += 1;
        let connections = &mut known.agents.entry(agent.clone()).or_default().connections;
        while connections.len() >= self.limits.connections_max.max(1) {
            if let Some((_, oldest)) = connections.pop_front() {
                // One that ends anyway needs no telling.
                let _ = oldest.send(());
            }
        }
        connections.push_back((id, told));
        drop(known);
        Presence {
            agents: self.clone(),
            agent: agent.clone(),
            id,
            crowded_out,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Nothing is lost by forgetting it.
    fn is_idle(&self, now: Instant) -> bool {
        self.connections.is_empty() && self.paid_at.is_none_or(|at| at <= now)
    }
}

impl Presence {
    /// Resolves once when a newer connection of the agent took this one's place.
    pub(super) async fn crowded_out(&mut self) {
        if (&mut self.crowded_out).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts a payload against the agent's quota. A payload of any size passes once there is no
    /// debt, so that no quota is too small for a batch.
    ///
    /// # Errors
    /// The quota is used up for so many milliseconds; nothing was counted.
    pub(super) fn spend(&self, bytes: usize, now: Instant) -> Result<(), u32> {
        let bytes_per_second_max = self.agents.limits.bytes_per_second_max;
        if bytes_per_second_max == 0 {
            return Ok(());
        }
        let mut known = self.agents.lock();
        let Some(agent) = known.agents.get_mut(&self.agent) else {
            return Ok(());
        };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let paid_at = agent.paid_at.map_or(earliest, |at| at.max(earliest));
        if paid_at > now {
            let wait_ms = paid_at.duration_since(now).as_millis() + 1;
            let wait_ms = wait_ms.min(RETRY_MS_MAX);
            return Err(u32::try_from(wait_ms).expect("bounded above"));
        }
        let cost_us = (bytes as u64).saturating_mul(1_000_000) / bytes_per_second_max;
        agent.paid_at = Some(paid_at + Duration::from_micros(cost_us));
        Ok(())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut known = self.agents.lock();
        let Some(agent) = known.agents.get_mut(&self.agent) else {
            return;
        };
        agent.connections.retain(|(id, _)| *id != self.id);
        if agent.is_idle(Instant::now()) {
            known.agents.remove(&self.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(connections_max: usize, bytes_per_second_max: u64) -> Agents {
        Agents::new(AgentLimits {
            connections_max,
            bytes_per_second_max,
        })
    }

    fn id(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    fn is_crowded_out(presence: &mut Presence) -> bool {
        presence.crowded_out.try_recv().is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_closes_the_oldest_of_the_same_agent() {
        let agents = agents(2, 0);
        let now = Instant::now();
        let mut other = agents.enter(&id("gw2"), now);
        let mut first = agents.enter(&id("gw1"), now);
        let mut second = agents.enter(&id("gw1"), now);
        assert!(!is_crowded_out(&mut first));
        let mut third = agents.enter(&id("gw1"), now);
        first.crowded_out().await;
        assert!(!is_crowded_out(&mut second) && !is_crowded_out(&mut third));
        // The one that ends is no longer counted, and one that ended by itself neither.
        drop(first);
        drop(third);
        let _fourth = agents.enter(&id("gw1"), now);
        assert!(!is_crowded_out(&mut second) && !is_crowded_out(&mut other));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_is_one_for_all_connections_and_outlives_them() {
        let agents = agents(4, 1_000);
        let start = Instant::now() + Duration::from_secs(100);
        let at = |ms| start + Duration::from_millis(ms);
        let first = agents.enter(&id("gw1"), start);
        let second = agents.enter(&id("gw1"), start);
        let other = agents.enter(&id("gw2"), start);
        // A second was saved up, and a payload above the quota goes into debt.
        assert_eq!(first.spend(500, at(0)), Ok(()));
        assert_eq!(second.spend(5_500, at(0)), Ok(()));
        assert_eq!(first.spend(1, at(0)), Err(5_001));
        assert_eq!(other.spend(1, at(0)), Ok(()));
        drop((first, second));
        let third = agents.enter(&id("gw1"), at(1_000));
        assert_eq!(third.spend(1, at(4_999)), Err(2));
        assert_eq!(third.spend(1_000_000, at(5_000)), Ok(()));
        assert_eq!(third.spend(1, at(5_000)), Err(60_000));
    }

    #[tokio::test(start_paused = true)]
    async fn over_time_the_quota_is_kept() {
        let agents = agents(1, 10_000);
        let start = Instant::now() + Duration::from_secs(100);
        let presence = agents.enter(&id("gw1"), start);
        let mut bytes = 0;
        for ms in 0..60_000 {
            if presence
                .spend(700, start + Duration::from_millis(ms))
                .is_ok()
            {
                bytes += 700;
            }
        }
        assert!((600_000..=611_000).contains(&bytes), "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_and_owes_nothing_is_forgotten() {
        let agents = agents(1, 1_000_000);
        let now = Instant::now();
        for nth in 0..3_000 {
            let presence = agents.enter(&id(&format!("gw{nth}")), now);
            // Some leave in debt.
            if nth % 2 == 0 {
                presence.spend(2_000_000, now).unwrap();
            }
        }
        assert_eq!(agents.lock().agents.len(), 1_500);
        let later = now + Duration::from_secs(10);
        let enter = |nth| agents.enter(&id(&format!("later{nth}")), later);
        let held: Vec<Presence> = (0..600).map(enter).collect();
        assert_eq!(agents.lock().agents.len(), held.len());
    }
}
