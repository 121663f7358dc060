//! What a node does beside serving: tells its clock and settings, and while it leads, admits members to the
//! quorum and asks for merges and retention. `Duties` decides; the driver below
//! it looks at the clock and proposes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use shared::id::TimeNs;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Node;
use super::apply::Progress;
use super::quotas_told::QuotasTold;
use super::types::Member;
use crate::state::{Command, Quota, Quotas, Sealing, Settings, State, TableStanding, Wish};

/// How often the driver looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a node tells its clock, and its settings until they are known.
const CLOCK_EVERY: Duration = Duration::from_secs(5);
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);
/// How often it is looked whether a partition is to be sealed.
const SEAL_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether partitions are held back from it.
const HELD_BACK_EVERY: Duration = Duration::from_secs(600);
/// One that could not be is not tried again for so long.
const SEAL_AGAIN: Duration = Duration::from_secs(3_600);
/// So long a follower may stand in the way of a purge, and so long while the log is short.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);
const PURGE_PATIENCE_SHORT: Duration = Duration::from_secs(1);
/// A learner this near to the end of the log may vote.
const LAG_MAX: u64 = 64;

/// What the operator wants of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    pub merge_bytes: u64,
    pub merge_age: Duration,
    /// For which nothing came for so long, a partition is sealed.
    pub seal_rest: Duration,
    /// What the cluster is to agree on.
    pub settings: Wish,
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
    settings_told: Option<Duration>,
    seal_looked: Option<Duration>,
    /// Partitions that were to be sealed lately, or, at a follower, were first seen to lack something.
    sealing: Vec<(Sealing, Duration)>,
}

/// What a duty is decided by.
pub(super) struct Situation<'a> {
    /// Since the driver began.
    pub(super) now: Duration,
    pub(super) node: u64,
    pub(super) leads: bool,
    pub(super) progress: Progress,
    /// What the log holds behind the last merge: also entries that brought no rows.
    pub(super) log_bytes: u64,
    pub(super) state: &'a State,
    /// Partitions that are to be sealed at this time, the most urgent first.
    pub(super) unsealed: &'a dyn Fn(TimeNs) -> Vec<Sealing>,
    /// Those of which this node lacks what is to outlive the rows.
    pub(super) lacking: &'a dyn Fn(TimeNs) -> Vec<Sealing>,
}

/// What to propose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    Clock,
    Merge,
    Seal(Sealing),
    Retention,
    Settings,
}

impl Duties {
    pub(super) fn new(wishes: Wishes) -> Duties {
        Duties {
            wishes,
            clock_told: None,
            retention_asked: None,
            unmerged_since: None,
            settings_told: None,
            seal_looked: None,
            sealing: Vec::new(),
        }
    }

    pub(super) fn due(&mut self, situation: &Situation<'_>) -> Vec<Duty> {
        let Situation {
            now,
            node,
            leads,
            progress,
            log_bytes,
            state,
            unsealed,
            lacking,
        } = *situation;
        let mut due = Vec::new();
        if elapsed(self.clock_told, now) >= CLOCK_EVERY {
            self.clock_told = Some(now);
            due.push(Duty::Clock);
        }
        let known = state.settings_of(node) == Some(&self.wishes.settings);
        if !known && state.is_member(node) && elapsed(self.settings_told, now) >= CLOCK_EVERY {
            self.settings_told = Some(now);
            due.push(Duty::Settings);
        }
        if progress.level0_bytes == 0 {
            self.unmerged_since = None;
        } else {
            self.unmerged_since.get_or_insert(now);
        }
        // Without a time every row would be taken for one with a wild clock.
        let timed = state.now().0 > 0;
        if !leads {
            if timed && progress.merges_running == 0 {
                due.extend(self.seal_own(now, state.now(), lacking));
            }
            return due;
        }
        // Only a merge lets go of the log, so what brings no rows asks for merges, too.
        let large = log_bytes.max(progress.level0_bytes as u64) >= self.wishes.merge_bytes;
        let old = self
            .unmerged_since
            .is_some_and(|since| now.saturating_sub(since) >= self.wishes.merge_age);
        if timed && progress.merges_running == 0 {
            if large || old {
                self.unmerged_since = None;
                due.push(Duty::Merge);
            } else if let Some(seal) = self.seal(now, state.now(), unsealed) {
                // It is a merge, too.
                self.unmerged_since = None;
                due.push(seal);
            }
        }
        if timed && elapsed(self.retention_asked, now) >= RETENTION_EVERY {
            self.retention_asked = Some(now);
            due.push(Duty::Retention);
        }
        due
    }

    /// A seal that had no room here, or a file that was damaged: the leader knows nothing of it, and asks
    /// for no seal of what it has. What it has not either it asks for itself, meanwhile.
    fn seal_own(
        &mut self,
        now: Duration,
        wall: TimeNs,
        lacking: &dyn Fn(TimeNs) -> Vec<Sealing>,
    ) -> Option<Duty> {
        if elapsed(self.seal_looked, now) < SEAL_EVERY {
            return None;
        }
        self.seal_looked = Some(now);
        let all = lacking(wall);
        self.sealing.retain(|(one, _)| all.contains(one));
        let mut due = None;
        for sealing in all {
            match self.sealing.iter_mut().find(|(one, _)| *one == sealing) {
                None => self.sealing.push((sealing, now)),
                Some((_, at)) if due.is_none() && now.saturating_sub(*at) >= SEAL_AGAIN => {
                    *at = now;
                    due = Some(Duty::Seal(sealing));
                }
                Some(_) => {}
            }
        }
        due
    }

    fn seal(
        &mut self,
        now: Duration,
        wall: TimeNs,
        unsealed: &dyn Fn(TimeNs) -> Vec<Sealing>,
    ) -> Option<Duty> {
        if elapsed(self.seal_looked, now) < SEAL_EVERY {
            return None;
        }
        self.seal_looked = Some(now);
        self.sealing
            .retain(|(_, at)| now.saturating_sub(*at) < SEAL_AGAIN);
        let lately = |sealing: &Sealing| self.sealing.iter().any(|(one, _)| one == sealing);
        let mut all = unsealed(wall).into_iter();
        let sealing = all.find(|sealing| !lately(sealing))?;
        self.sealing.push((sealing, now));
        Some(Duty::Seal(sealing))
    }
}

/// A purge that was asked for. openraft puts it off while a follower is being sent what it would
/// take: one that is slow, but answers, always is.
#[derive(Debug, Default)]
struct Purge {
    asked: Option<(u64, Duration)>,
}

impl Purge {
    /// All up to `upto` may go, all up to `purged` is gone. Returns the index to ask for, and the
    /// one up to which followers are to be sent no more entries, because one stood in the way for
    /// too long. Meanwhile nothing more is asked for: a follower that moves on makes way for it.
    fn due(
        &mut self,
        (upto, purged): (u64, u64),
        now: Duration,
        patience: Duration,
    ) -> (Option<u64>, Option<u64>) {
        let before = self.asked.filter(|(asked, _)| *asked > purged);
        if before.is_some_and(|(_, since)| now.saturating_sub(since) < patience) {
            return (None, None);
        }
        self.asked = (upto > purged).then_some((upto, now));
        let index = |(index, _)| index;
        (self.asked.map(index), before.map(index))
    }
}

fn elapsed(since: Option<Duration>, now: Duration) -> Duration {
    since.map_or(Duration::MAX, |since| now.saturating_sub(since))
}

/// Says which settings the cluster goes by when that changes, once what this node's configuration
/// says is known to all.
fn tell_settings(state: &State, node: u64, configured: &Wish, told: &mut Option<Settings>) {
    let in_force = state.settings();
    if state.settings_of(node) != Some(configured) || *told == Some(in_force) {
        return;
    }
    *told = Some(in_force);
    let (retention_days, partition_hours) = (in_force.retention_days(), in_force.partition_hours());
    let of = |quotas: Quotas| Quota::ALL.map(|quota| quotas.of(quota).unwrap_or(0));
    let quotas = of(in_force.quotas());
    if configured.is_met_by(in_force) {
        tracing::info!(
            retention_days,
            partition_hours,
            ?quotas,
            "settings of the cluster"
        );
    } else {
        tracing::warn!(
            retention_days,
            partition_hours,
            ?quotas,
            configured_retention_days = configured.retention_days(),
            configured_partition_hours = configured.partition_hours(),
            configured_quotas = ?of(configured.quotas()),
            "this node's store.retention_days, store.partition_hours and quotas are not what the \
             cluster goes by: more than half of its nodes must say the same. Make all \
             configurations equal"
        );
    }
}

/// What was said of the tables of this node's configuration.
#[derive(Debug, Default)]
struct TablesTold {
    /// How each of their settings stood.
    said: BTreeMap<(String, &'static str), TableStanding>,
}

impl TablesTold {
    /// Says how each setting of a table stands when that changes, once what this node's configuration
    /// says is known to all.
    fn look(&mut self, state: &State, node: u64, configured: &Wish) {
        if state.settings_of(node) != Some(configured) {
            return;
        }
        for (table, wanted) in configured.tables() {
            for (setting, value, standing) in state.table_standings(table, wanted) {
                let key = (table.clone(), setting);
                if self.said.insert(key, standing) != Some(standing) {
                    tell_standing(table, setting, &value, standing);
                }
            }
        }
    }
}

fn tell_standing(table: &str, setting: &str, value: &str, standing: TableStanding) {
    match standing {
        TableStanding::InForce => {
            tracing::info!(table, setting, value, "setting of a table of the cluster");
        }
        TableStanding::NotAgreed => tracing::warn!(
            table,
            setting,
            value,
            "this node's setting of a table is not what the cluster goes by: more than half of its \
             nodes must say the same. Make all configurations equal, and same_time before the first \
             row"
        ),
        TableStanding::TooLate => tracing::error!(
            table,
            setting,
            value,
            "same_time of a table is refused: the table has rows that came under the other one, and \
             that stays. Take the lines out of the configurations, and publish to a new table that \
             they name before its first row"
        ),
    }
}

/// What was said of partitions that are not sealed.
#[derive(Debug, Default)]
struct HeldBackTold {
    looked: Option<Duration>,
    said: Vec<Sealing>,
}

impl HeldBackTold {
    /// Says which partitions stay in parts when there are others than before.
    fn look(&mut self, now: Duration, held_back: &dyn Fn() -> Vec<Sealing>) {
        if elapsed(self.looked, now) < HELD_BACK_EVERY {
            return;
        }
        self.looked = Some(now);
        let all = held_back();
        let is_new = |sealing: &&Sealing| !self.said.contains(sealing);
        if let Some(first) = all.iter().find(is_new) {
            tracing::warn!(
                partitions = all.len(),
                start_hour = first.window.start_hour,
                hours = first.window.hours,
                "partitions stay in parts: later segments of others hold rows of the same series and \
                 times, of a table that merges them"
            );
        }
        self.said = all;
    }
}

/// Drives until `stop`.
pub(super) async fn run(node: Node, wishes: Wishes, mut stop: watch::Receiver<bool>) {
    let began = Instant::now();
    let seal_rest = wishes.seal_rest;
    let (mut duties, mut asked) = (Duties::new(wishes.clone()), Purge::default());
    let (mut settings_told, mut tables_told) = (None, TablesTold::default());
    let (mut quotas_told, mut held_back_told) = (QuotasTold::default(), HeldBackTold::default());
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
            node: node.id,
            leads: node.raft.is_leader(),
            progress,
            log_bytes: node.log.bytes_after(progress.merged),
            state: view.state(),
            unsealed: &|now| view.unsealed(now, seal_rest),
            lacking: &|now| view.lacking(now, seal_rest),
        });
        for duty in due {
            let command = match duty {
                Duty::Clock => Command::Clock {
                    node: node.id,
                    now: (node.wall_clock)(),
                },
                Duty::Merge => Command::Merge,
                Duty::Seal(sealing) => Command::Seal(sealing),
                Duty::Retention => Command::Retention,
                Duty::Settings => Command::Settings {
                    node: node.id,
                    wish: wishes.settings.clone(),
                },
            };
            // What was not taken is due again, or soon.
            node.propose(command).await;
        }
        tell_settings(view.state(), node.id, &wishes.settings, &mut settings_told);
        quotas_told.look(view.catalog(), began.elapsed());
        tables_told.look(view.state(), node.id, &wishes.settings);
        held_back_told.look(began.elapsed(), &|| {
            view.held_back(view.state().now(), seal_rest)
        });
        let keep_bytes = wishes.log_keep_bytes;
        purge(&node, progress, keep_bytes, &mut asked, began.elapsed()).await;
        // Also while nobody publishes: whoever reads the log's lines learns that there is room.
        node.gate.look();
        if node.raft.is_leader() {
            enlist(&node, view.state()).await;
        }
    }
}

/// Lets go of the log that the last merge covers, but for what slow followers may still need. One
/// that is too slow for it, or for a log that is short, is sent the merge itself.
async fn purge(node: &Node, progress: Progress, keep_bytes: u64, asked: &mut Purge, now: Duration) {
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
    let (keep_bytes, patience) = if node.gate.log_is_short() {
        (0, PURGE_PATIENCE_SHORT)
    } else {
        (keep_bytes, PURGE_PATIENCE)
    };
    let upto = node.log.index_below(keep_bytes).min(snapshot);
    let (due, cut) = asked.due((upto, purged), now, patience);
    if let Some(cut) = cut
        && node.cut.fetch_max(cut, Ordering::Relaxed) < cut
    {
        tracing::info!(
            cut,
            "a purge of the log waits for too long: slow followers are sent the last merge"
        );
    }
    if let Some(upto) = due {
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
    use crate::state::Window;
    use crate::state::machine::HOUR_NS;

    const NODE: u64 = 2;

    fn duties() -> Duties {
        Duties::new(Wishes {
            merge_bytes: 1_000,
            merge_age: Duration::from_secs(60),
            seal_rest: Duration::from_secs(60),
            settings: Wish::new(Some(30), Some(12)),
            log_keep_bytes: 0,
        })
    }

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
            node: NODE,
            leads,
            progress,
            log_bytes,
            state,
            unsealed: &|now| {
                let window = |start_hour| Window {
                    start_hour,
                    hours: 24,
                };
                let month = 720 * HOUR_NS;
                let ended = |window: &Window| (0..month).contains(&(now.0 - window.end().0));
                let ended = [window(0), window(24)].into_iter().filter(ended);
                ended.map(Sealing::from).collect()
            },
            lacking: &|now| {
                let (start_hour, hours) = (48, 24);
                let window = Window { start_hour, hours };
                let is_over = now.0 > window.end().0;
                is_over.then(|| Sealing::from(window)).into_iter().collect()
            },
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
        let mut duties = duties();
        let state = timed();
        assert_eq!(due(&mut duties, 0, false, 5_000, &state), [Duty::Clock]);
        assert_eq!(due(&mut duties, 1, false, 5_000, &state), []);
        let all = due(&mut duties, 5, true, 5_000, &state);
        assert_eq!(all, [Duty::Clock, Duty::Merge, Duty::Retention]);
        assert_eq!(due(&mut duties, 6, true, 0, &state), []);
    }

    /// Once only a leader spoke, so the file of whoever led decided for all.
    #[test]
    fn every_member_tells_its_settings_until_they_are_known() {
        let (mut duties, mut state) = (duties(), timed());
        let mut asks = |at_s, state: &State| {
            let due = due(&mut duties, at_s, false, 0, state);
            due.contains(&Duty::Settings)
        };
        assert!(!asks(0, &state), "it is not admitted yet");
        let admit = Command::Admit {
            name: "b".to_owned(),
            address: "h:1".to_owned(),
            joining: 0,
        };
        state.apply(NODE, &admit);
        assert!(asks(1, &state) && !asks(2, &state) && asks(6, &state));
        let told = |retention_days| Command::Settings {
            node: NODE,
            wish: Wish::new(Some(retention_days), Some(12)),
        };
        state.apply(NODE + 1, &told(31));
        assert!(asks(11, &state), "of an earlier start");
        state.apply(NODE + 2, &told(30));
        assert!(!asks(16, &state));
    }

    #[test]
    fn partitions_are_sealed_one_after_another_a_while_after_their_end() {
        let mut duties = duties();
        let at = |hours: i64| {
            let mut state = State::new();
            let now = TimeNs(hours * HOUR_NS);
            state.apply(1, &Command::Clock { node: 1, now });
            state
        };
        let sealed = |due: Vec<Duty>| {
            let window = |duty| match duty {
                Duty::Seal(sealing) => Some(sealing.window.start_hour),
                _ => None,
            };
            due.into_iter().find_map(window)
        };
        let mut asks = |at_s, leads, state: &State| sealed(due(&mut duties, at_s, leads, 0, state));
        assert_eq!(asks(0, true, &at(23)), None, "it goes on");
        assert_eq!(asks(100, false, &at(50)), None, "it does not lead");
        assert_eq!(asks(130, false, &at(80)), None, "the leader may see to it");
        assert_eq!(asks(160, false, &at(50)), None, "it did");
        assert_eq!(asks(200, true, &at(50)), Some(0));
        assert_eq!(asks(201, true, &at(50)), None, "it was just looked");
        assert_eq!(asks(300, true, &at(50)), Some(24));
        assert_eq!(asks(400, true, &at(50)), None, "both may be under way");
        assert_eq!(
            asks(200 + 3_600, true, &at(50)),
            Some(0),
            "it is still there"
        );
    }

    /// Its rows went for good, with nobody but this node to know what it lacked.
    #[test]
    fn a_follower_asks_for_what_only_it_lacks() {
        let mut duties = duties();
        let state = timed();
        let mut asks = |at_s| {
            let due = due(&mut duties, at_s, false, 0, &state);
            due.iter().any(|duty| matches!(duty, Duty::Seal(_)))
        };
        assert!(!asks(0), "the leader may see to it");
        assert!(!asks(3_590));
        assert!(asks(3_630));
        assert!(!asks(3_660), "it may be under way");
        assert!(asks(2 * 3_630), "it is still there");
    }

    #[test]
    fn a_little_is_merged_when_it_is_old() {
        let mut duties = duties();
        let state = timed();
        due(&mut duties, 0, true, 1, &state);
        assert!(!due(&mut duties, 59, true, 1, &state).contains(&Duty::Merge));
        assert!(due(&mut duties, 60, true, 1, &state).contains(&Duty::Merge));
        assert!(!due(&mut duties, 61, true, 1, &state).contains(&Duty::Merge));
    }

    #[test]
    fn a_log_of_entries_without_rows_is_merged_when_it_is_large() {
        let mut duties = duties();
        let state = timed();
        let small = due_with(&mut duties, (100, true), (0, 999), &state);
        assert!(!small.contains(&Duty::Merge));
        let large = due_with(&mut duties, (200, true), (0, 1_000), &state);
        assert!(large.contains(&Duty::Merge));
    }

    #[test]
    fn who_stands_in_the_way_of_a_purge_is_cut_off_after_a_while() {
        let mut purge = Purge::default();
        let mut due = |upto, purged, at_s| {
            purge.due((upto, purged), Duration::from_secs(at_s), PURGE_PATIENCE)
        };
        assert_eq!(due(10, 10, 0), (None, None));
        assert_eq!(due(20, 10, 1), (Some(20), None));
        assert_eq!(due(30, 10, 5), (None, None), "it is put off");
        assert_eq!(due(30, 20, 5), (Some(30), None), "it was done");
        assert_eq!(due(40, 29, 9), (None, None));
        assert_eq!(due(50, 29, 10), (Some(50), Some(30)));
        assert_eq!(due(60, 50, 11), (Some(60), None));
    }

    #[test]
    fn nothing_is_merged_before_there_is_a_time() {
        let mut duties = duties();
        let all = due(&mut duties, 100, true, 5_000, &State::new());
        assert!(!all.contains(&Duty::Merge) && !all.contains(&Duty::Retention));
    }
}
