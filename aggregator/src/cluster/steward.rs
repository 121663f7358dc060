//! What a node does beside serving: tells its clock, and while it leads, admits members to the
//! quorum, asks for merges, retention and the agreed settings. `Duties` decides; the driver below
//! it looks at the clock and proposes.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Node;
use super::apply::Progress;
use super::types::Member;
use crate::state::{Command, State};

/// How often the driver looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a node tells its clock.
const CLOCK_EVERY: Duration = Duration::from_secs(5);
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);
/// A learner this near to the end of the log may vote.
const LAG_MAX: u64 = 64;
const DAY: Duration = Duration::from_secs(86_400);

/// What the operator wants of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    pub merge_bytes: u64,
    pub merge_age: Duration,
    pub retention: Duration,
    pub log_keep_bytes: u64,
}

/// What is due. Time is counted from any start.
#[derive(Debug)]
pub(super) struct Duties {
    wishes: Wishes,
    clock_told: Option<Duration>,
    retention_asked: Option<Duration>,
    /// Since when there has been something to merge.
    unmerged_since: Option<Duration>,
    settings_asked: bool,
}

/// What a duty is decided by.
pub(super) struct Situation<'a> {
    /// Since the driver began.
    pub(super) now: Duration,
    pub(super) leads: bool,
    pub(super) progress: Progress,
    /// What the log holds behind the last merge: also entries that brought no rows.
    pub(super) log_bytes: u64,
    pub(super) state: &'a State,
}

/// What to propose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    Clock,
    Merge,
    Retention,
    Settings { retention_days: u32 },
}

impl Duties {
    pub(super) fn new(wishes: Wishes) -> Duties {
        Duties {
            wishes,
            clock_told: None,
            retention_asked: None,
            unmerged_since: None,
            settings_asked: false,
        }
    }

    pub(super) fn due(&mut self, situation: &Situation<'_>) -> Vec<Duty> {
        let Situation {
            now,
            leads,
            progress,
            log_bytes,
            state,
        } = *situation;
        let mut due = Vec::new();
        if elapsed(self.clock_told, now) >= CLOCK_EVERY {
            self.clock_told = Some(now);
            due.push(Duty::Clock);
        }
        if progress.level0_bytes == 0 {
            self.unmerged_since = None;
        } else {
            self.unmerged_since.get_or_insert(now);
        }
        if !leads {
            self.settings_asked = false;
            return due;
        }
        // Without a time every row would be taken for one with a wild clock.
        let timed = state.now().0 > 0;
        // Only a merge lets go of the log, so what brings no rows asks for merges, too.
        let large = log_bytes.max(progress.level0_bytes as u64) >= self.wishes.merge_bytes;
        let old = self
            .unmerged_since
            .is_some_and(|since| now.saturating_sub(since) >= self.wishes.merge_age);
        if timed && progress.merges_running == 0 && (large || old) {
            self.unmerged_since = None;
            due.push(Duty::Merge);
        }
        if timed && elapsed(self.retention_asked, now) >= RETENTION_EVERY {
            self.retention_asked = Some(now);
            due.push(Duty::Retention);
        }
        let days = self.wishes.retention.as_secs() / DAY.as_secs();
        let retention_days = u32::try_from(days).unwrap_or(u32::MAX);
        if !self.settings_asked && state.retention_days() != retention_days {
            self.settings_asked = true;
            due.push(Duty::Settings { retention_days });
        }
        due
    }
}

fn elapsed(since: Option<Duration>, now: Duration) -> Duration {
    since.map_or(Duration::MAX, |since| now.saturating_sub(since))
}

/// Drives until `stop`.
pub(super) async fn run(node: Node, wishes: Wishes, mut stop: watch::Receiver<bool>) {
    let began = Instant::now();
    let mut duties = Duties::new(wishes);
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let progress = *node.progress.borrow();
        let view = node.views.latest();
        let due = duties.due(&Situation {
            now: began.elapsed(),
            leads: node.raft.is_leader(),
            progress,
            log_bytes: node.log.bytes_after(progress.merged),
            state: view.state(),
        });
        for duty in due {
            let command = match duty {
                Duty::Clock => Command::Clock {
                    node: node.id,
                    now: (node.wall_clock)(),
                },
                Duty::Merge => Command::Merge,
                Duty::Retention => Command::Retention,
                Duty::Settings { retention_days } => Command::Settings { retention_days },
            };
            // What was not taken is due again, or soon.
            node.propose(command).await;
        }
        purge(&node, progress, wishes.log_keep_bytes).await;
        if node.raft.is_leader() {
            enlist(&node, view.state()).await;
        }
    }
}

/// Lets go of the log that the last merge covers, but for what slow followers may still need.
async fn purge(node: &Node, progress: Progress, keep_bytes: u64) {
    let (snapshot, purged) = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        (
            metrics.snapshot.map_or(0, |id| id.index),
            metrics.purged.map_or(0, |id| id.index),
        )
    };
    if progress.merged > snapshot {
        // openraft purges only what it knows to be in a snapshot. An error means that it stopped.
        let _ = node.raft.trigger().snapshot().await;
        return;
    }
    let upto = node.log.index_below(keep_bytes).min(snapshot);
    if upto > purged {
        let _ = node.raft.trigger().purge_log(upto).await;
    }
}

/// Makes admitted nodes learners, and learners that have caught up voters.
async fn enlist(node: &Node, state: &State) {
    let (nodes, voters, last, replication) = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let nodes: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        (
            nodes,
            voters,
            metrics.last_log_index.unwrap_or_default(),
            metrics.replication.clone().unwrap_or_default(),
        )
    };
    for (name, admitted) in state.members() {
        if !nodes.contains(&admitted.id) {
            let member = Member {
                name: name.clone(),
                address: admitted.address.clone(),
            };
            tracing::info!(name, id = admitted.id, "a node joins as a learner");
            let added = node.raft.add_learner(admitted.id, member, false).await;
            if let Err(error) = added {
                tracing::debug!(%error, name, "not added yet");
            }
            return;
        }
        let matched = replication.get(&admitted.id).copied().flatten();
        let near = matched.is_some_and(|id| id.index + LAG_MAX >= last);
        if near && !voters.contains(&admitted.id) {
            tracing::info!(
                name,
                id = admitted.id,
                "a learner has caught up and may vote"
            );
            let change = ChangeMembers::AddVoterIds(BTreeSet::from([admitted.id]));
            if let Err(error) = node.raft.change_membership(change, true).await {
                tracing::debug!(%error, name, "no voter yet");
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::id::TimeNs;

    use super::*;

    const WISHES: Wishes = Wishes {
        merge_bytes: 1_000,
        merge_age: Duration::from_secs(60),
        retention: Duration::from_secs(30 * 86_400),
        log_keep_bytes: 0,
    };

    fn due(duties: &mut Duties, at_s: u64, leads: bool, bytes: usize, state: &State) -> Vec<Duty> {
        due_with(duties, (at_s, leads), (bytes, bytes as u64), state)
    }

    fn due_with(
        duties: &mut Duties,
        (at_s, leads): (u64, bool),
        (bytes, log_bytes): (usize, u64),
        state: &State,
    ) -> Vec<Duty> {
        let progress = Progress {
            level0_bytes: bytes,
            ..Progress::default()
        };
        duties.due(&Situation {
            now: Duration::from_secs(at_s),
            leads,
            progress,
            log_bytes,
            state,
        })
    }

    fn timed() -> State {
        let mut state = State::new();
        let clock = Command::Clock {
            node: 1,
            now: TimeNs(1 << 60),
        };
        state.apply(1, &clock);
        state
    }

    #[test]
    fn every_node_tells_its_clock_and_only_a_leader_asks_for_more() {
        let mut duties = Duties::new(WISHES);
        let state = timed();
        assert_eq!(due(&mut duties, 0, false, 5_000, &state), [Duty::Clock]);
        assert_eq!(due(&mut duties, 1, false, 5_000, &state), []);
        let all = due(&mut duties, 5, true, 5_000, &state);
        let settings = Duty::Settings { retention_days: 30 };
        assert_eq!(all, [Duty::Clock, Duty::Merge, Duty::Retention, settings]);
        assert_eq!(due(&mut duties, 6, true, 0, &state), []);
    }

    #[test]
    fn a_little_is_merged_when_it_is_old() {
        let mut duties = Duties::new(WISHES);
        let state = timed();
        due(&mut duties, 0, true, 1, &state);
        assert!(!due(&mut duties, 59, true, 1, &state).contains(&Duty::Merge));
        assert!(due(&mut duties, 60, true, 1, &state).contains(&Duty::Merge));
        assert!(!due(&mut duties, 61, true, 1, &state).contains(&Duty::Merge));
    }

    #[test]
    fn a_log_of_entries_without_rows_is_merged_when_it_is_large() {
        let mut duties = Duties::new(WISHES);
        let state = timed();
        let small = due_with(&mut duties, (100, true), (0, 999), &state);
        assert!(!small.contains(&Duty::Merge));
        let large = due_with(&mut duties, (200, true), (0, 1_000), &state);
        assert!(large.contains(&Duty::Merge));
    }

    #[test]
    fn nothing_is_merged_before_there_is_a_time() {
        let mut duties = Duties::new(WISHES);
        let all = due(&mut duties, 100, true, 5_000, &State::new());
        assert!(!all.contains(&Duty::Merge) && !all.contains(&Duty::Retention));
    }
}
