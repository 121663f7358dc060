//! Once, in order: where every stream stands, and which numbers will never come. Pure rules;
//! `machine` drives them, and `dictionary` is what an epoch's local series ids mean.
//!
//! Invariant: what took effect of a stream is a prefix of what was sent, less the listed gaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::batch::{Clock, GapReason, Header, Hello, SeriesDefinition};
use shared::id::{AgentId, BatchNumber, Epoch, Lane, TimeNs};
use shared::limits::OLDER_EPOCHS_MAX;
use shared::verdict::Position;

use super::catalog::Catalog;
use super::dictionary::{DICTIONARY_BYTES_MAX, Dictionary, weight_bytes};

/// A stream is forgotten this long after a hello left its epoch out, in replicated time.
const FORGET_NS: i64 = 400 * 86_400 * 1_000_000_000;
/// Epochs an agent may have; the one that was left out first goes.
const EPOCHS_PER_AGENT_MAX: usize = 4_096;
/// What the dictionaries of an agent may weigh: one full epoch, and as much again for those that it
/// still has batches of. For more, those that were left out first forget theirs.
const DICTIONARIES_BYTES_MAX: usize = 2 * DICTIONARY_BYTES_MAX;
/// Gap rows an agent may have; above, the oldest are folded into one.
const GAPS_PER_AGENT_MAX: usize = 1_024;

/// All that is known of one agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AgentState {
    /// The youngest epoch that said hello.
    pub(super) current: Option<Epoch>,
    pub(super) epochs: BTreeMap<Epoch, EpochState>,
    pub(super) gaps: Arc<Vec<GapEntry>>,
    pub(super) folded: Folded,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct EpochState {
    /// By `Lane as usize`.
    pub(super) lanes: [LaneState; 3],
    pub(super) standing: Standing,
    /// What its boot-relative times are raised by, in nanoseconds: of the first clock entry that
    /// took effect.
    pub(super) clock_ns: Option<i64>,
    pub(super) dictionary: Arc<Dictionary>,
}

/// What the hellos that took effect say of an epoch. They need not come in the order in which the
/// epochs began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// No younger epoch is known.
    #[default]
    Youngest,
    /// A younger one said that the agent still has batches of it.
    Held,
    /// A younger one left it out, or it last moved after that, at this replicated time.
    LeftOut(TimeNs),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LaneState {
    pub(super) position: Position,
    pub(super) complete_below: TimeNs,
    pub(super) last_seen: TimeNs,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct GapEntry {
    pub(super) epoch: Epoch,
    /// `None`: the end of the whole epoch.
    pub(super) lane: Option<Lane>,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) readings: u64,
    pub(super) why: GapWhy,
    pub(super) at: TimeNs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GapWhy {
    Record(GapReason),
    UncleanEnd { max_unsafe_ms: u64 },
}

/// Gap rows that had to make room: only their sum is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) records: u64,
    pub(super) readings: u64,
    pub(super) at: TimeNs,
}

/// One stream as SQL shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    pub agent: AgentId,
    pub epoch: u64,
    pub lane: &'static str,
    /// The last number that took effect.
    pub last: u64,
    /// Everything that the agent sealed before this time had been acked.
    pub complete_below: TimeNs,
    /// When the last batch that took effect was received, by the receiving node's clock.
    pub last_seen: TimeNs,
}

/// One hole as SQL shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    pub agent: AgentId,
    pub epoch: u64,
    /// `all` where the end of a whole epoch is not known.
    pub lane: &'static str,
    pub from: u64,
    pub to: u64,
    /// At most this many, as far as the agent knew.
    pub readings: u64,
    pub reason: String,
    pub at: TimeNs,
}

/// What a batch is to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It takes effect; a gap record for the numbers from here on.
    Take {
        first_new: BatchNumber,
    },
    Have,
    Gap,
    /// Definitions that it needs have not come, or the clock that its times count from.
    Names,
    Fork,
}

/// The rule. `from` is the number of a batch, or the first number of a gap record; `clock_ns` is
/// of its epoch.
pub(super) fn decide(
    lane: &LaneState,
    names_applied: BatchNumber,
    clock_ns: Option<i64>,
    header: &Header,
    from: BatchNumber,
) -> Decision {
    let Position { last, digest } = lane.position;
    let next = BatchNumber(last.0.saturating_add(1));
    if header.number <= last {
        Decision::Have
    } else if from > next {
        Decision::Gap
    } else if header.lane != Lane::Names && header.names_needed > names_applied {
        Decision::Names
    } else if header.boot_relative && clock_ns.is_none() {
        // The agent cannot say the number of a clock entry that it had not sealed yet.
        Decision::Names
    } else if from == next && header.previous != digest {
        Decision::Fork
    } else {
        Decision::Take { first_new: next }
    }
}

impl AgentState {
    pub(super) fn lane(&self, epoch: Epoch, lane: Lane) -> LaneState {
        self.epochs
            .get(&epoch)
            .map_or_else(LaneState::default, |e| e.lanes[lane as usize])
    }

    pub(super) fn clock_ns(&self, epoch: Epoch) -> Option<i64> {
        self.epochs.get(&epoch).and_then(|state| state.clock_ns)
    }

    pub(super) fn dictionary(&self, epoch: Epoch) -> Arc<Dictionary> {
        self.epochs
            .get(&epoch)
            .map(|state| Arc::clone(&state.dictionary))
            .unwrap_or_default()
    }

    /// Whether another epoch may begin, or this one is known: without it nothing of the agent can
    /// go, however many epochs it makes up.
    pub(super) fn has_room_for(&self, epoch: Epoch) -> bool {
        self.epochs.len() < EPOCHS_PER_AGENT_MAX
            || self.epochs.contains_key(&epoch)
            || self.first_left_out().is_some()
    }

    fn first_left_out(&self) -> Option<Epoch> {
        self.left_out().min().map(|(_, epoch)| epoch)
    }

    fn left_out(&self) -> impl Iterator<Item = (TimeNs, Epoch)> {
        self.epochs.iter().filter_map(|(epoch, state)| {
            let Standing::LeftOut(at) = state.standing else {
                return None;
            };
            Some((at, *epoch))
        })
    }

    fn epoch_mut(&mut self, epoch: Epoch) -> &mut EpochState {
        if self.epochs.len() >= EPOCHS_PER_AGENT_MAX
            && !self.epochs.contains_key(&epoch)
            && let Some(oldest) = self.first_left_out()
        {
            self.epochs.remove(&oldest);
        }
        self.epochs.entry(epoch).or_default()
    }

    /// Whether this epoch is known or may begin. Where there are too many, the one that was left
    /// out first goes for it; a hello may name a thousand, so they are looked for once and kept in
    /// `left_out`, the first one last.
    fn make_room(&mut self, epoch: Epoch, left_out: &mut Option<Vec<(TimeNs, Epoch)>>) -> bool {
        if self.epochs.len() < EPOCHS_PER_AGENT_MAX || self.epochs.contains_key(&epoch) {
            return true;
        }
        let left_out = left_out.get_or_insert_with(|| {
            let mut all: Vec<_> = self.left_out().collect();
            all.sort_unstable_by(|one, other| other.cmp(one));
            all
        });
        left_out
            .pop()
            .is_some_and(|(_, first)| self.epochs.remove(&first).is_some())
    }

    /// Moves a stream on, at replicated time `now`. Only after [`decide`] said so.
    pub(super) fn advance(&mut self, header: &Header, to: Position, received: TimeNs, now: TimeNs) {
        let epoch = self.epoch_mut(header.epoch);
        if let Standing::LeftOut(at) = &mut epoch.standing {
            *at = now;
        }
        let lane = &mut epoch.lanes[header.lane as usize];
        assert!(lane.position.last < to.last, "a stream never goes back");
        lane.position = to;
        lane.complete_below = lane.complete_below.max(header.complete_below);
        lane.last_seen = lane.last_seen.max(received);
    }

    /// Which epochs the agent still holds, and how the last one ended.
    pub(super) fn hello(&mut self, epoch: Epoch, hello: &Hello, now: TimeNs, received: TimeNs) {
        let is_new = self
            .epochs
            .get(&epoch)
            .is_none_or(|state| state.standing == Standing::Youngest);
        if is_new && self.may_follow_current(epoch, hello) {
            // First, so that no epoch that is not known takes the place of one that is held.
            self.begin_current(epoch, hello, now);
        } else if is_new {
            self.epoch_mut(epoch).standing = Standing::Held;
        }
        let held = hello
            .older_epochs
            .iter()
            .map(|held| (*held, Standing::Held));
        let last = hello.last.map(|last| (last.epoch, Standing::LeftOut(now)));
        let mut left_out = None;
        for (older, standing) in held.chain(last) {
            // It may not have come yet, and its own hello cannot know of this one.
            if self.make_room(older, &mut left_out) {
                let known = &mut self.epochs.entry(older).or_default().standing;
                if *known == Standing::Youngest {
                    *known = standing;
                }
            }
        }
        if let Some(last) = hello.last
            && !last.ended_cleanly
        {
            self.add_gap(GapEntry {
                epoch: last.epoch,
                lane: None,
                from: 0,
                to: 0,
                readings: 0,
                why: GapWhy::UncleanEnd {
                    max_unsafe_ms: hello.max_unsafe_ms,
                },
                at: received,
            });
        }
    }

    /// Whether an epoch that no hello has named yet may be younger than the current one. An agent
    /// names only the newest that it holds: while it holds so many, an older one may have been left
    /// unnamed, but only a younger one can name the current.
    fn may_follow_current(&self, epoch: Epoch, hello: &Hello) -> bool {
        let Some(current) = self.current.filter(|current| *current != epoch) else {
            return true;
        };
        let is_held = |state: &&EpochState| state.standing == Standing::Held;
        self.epochs.values().filter(is_held).count() < OLDER_EPOCHS_MAX
            || hello.older_epochs.contains(&current)
            || hello.last.is_some_and(|last| last.epoch == current)
    }

    fn begin_current(&mut self, epoch: Epoch, hello: &Hello, now: TimeNs) {
        self.current = Some(epoch);
        // A full list has no place for all that are held: it says nothing of those it leaves out.
        let is_full = hello.older_epochs.len() >= OLDER_EPOCHS_MAX;
        let mut still_held = hello.older_epochs.clone();
        still_held.sort_unstable();
        for (known, state) in &mut self.epochs {
            state.standing = match state.standing {
                Standing::Youngest if *known == epoch => Standing::Youngest,
                _ if still_held.binary_search(known).is_ok() => Standing::Held,
                Standing::Youngest | Standing::Held if !is_full => Standing::LeftOut(now),
                unnamed => unnamed,
            };
        }
    }

    /// Takes over what the boot-relative times of an epoch count from: the first clock stays, for
    /// rows were stored by it.
    pub(super) fn set_clock(&mut self, epoch: Epoch, clock: Clock) {
        let state = self.epoch_mut(epoch);
        state.clock_ns.get_or_insert(clock.offset_ns);
    }

    /// Adds definitions, as far as they fit what an epoch and an agent may have.
    pub(super) fn define(
        &mut self,
        agent: &AgentId,
        epoch: Epoch,
        definitions: &[SeriesDefinition],
        catalog: &mut Arc<Catalog>,
    ) {
        let new: usize = definitions.iter().map(weight_bytes).sum();
        let known = self.epoch_mut(epoch).dictionary.bytes();
        let wanted = (known + new).min(DICTIONARY_BYTES_MAX);
        let left = self.make_room_for_names(epoch, wanted);
        let bytes_max = left.min(DICTIONARY_BYTES_MAX);
        let dictionary = Arc::make_mut(&mut self.epoch_mut(epoch).dictionary);
        for definition in definitions {
            dictionary.define(definition, bytes_max, agent, catalog);
        }
    }

    /// The bytes that the dictionary of `epoch` may weigh. Where they are fewer than `wanted`, those
    /// of epochs that were left out go, the first one first: nothing is to come that needs them.
    fn make_room_for_names(&mut self, epoch: Epoch, wanted: usize) -> usize {
        let others = self.epochs.iter().filter(|(other, _)| **other != epoch);
        let mut others: usize = others.map(|(_, state)| state.dictionary.bytes()).sum();
        if others + wanted > DICTIONARIES_BYTES_MAX {
            let mut left_out: Vec<_> = self.left_out().collect();
            left_out.retain(|(_, other)| *other != epoch);
            left_out.sort_unstable();
            for (_, first) in left_out {
                if others + wanted <= DICTIONARIES_BYTES_MAX {
                    break;
                }
                let forgotten = std::mem::take(&mut self.epoch_mut(first).dictionary);
                others -= forgotten.bytes();
            }
        }
        DICTIONARIES_BYTES_MAX.saturating_sub(others)
    }

    pub(super) fn add_gap(&mut self, gap: GapEntry) {
        let gaps = Arc::make_mut(&mut self.gaps);
        gaps.push(gap);
        if gaps.len() > GAPS_PER_AGENT_MAX {
            let oldest = gaps.remove(0);
            self.folded.records += 1;
            self.folded.readings = self.folded.readings.saturating_add(oldest.readings);
            self.folded.at = self.folded.at.max(oldest.at);
        }
    }

    /// Forgets the epochs that were left out long enough ago.
    pub(super) fn forget(&mut self, now: TimeNs) {
        self.epochs.retain(|_, epoch| !epoch.is_forgotten(now));
    }

    pub(super) fn has_forgettable(&self, now: TimeNs) -> bool {
        self.epochs.values().any(|epoch| epoch.is_forgotten(now))
    }

    pub(super) fn agent_rows(&self, agent: &AgentId, rows: &mut Vec<AgentRow>) {
        for (epoch, state) in &self.epochs {
            for lane in Lane::ALL {
                let LaneState {
                    position,
                    complete_below,
                    last_seen,
                } = state.lanes[lane as usize];
                if position.last != BatchNumber::NONE {
                    rows.push(AgentRow {
                        agent: agent.clone(),
                        epoch: epoch.0,
                        lane: lane.as_str(),
                        last: position.last.0,
                        complete_below,
                        last_seen,
                    });
                }
            }
        }
    }

    pub(super) fn gap_rows(&self, agent: &AgentId, rows: &mut Vec<GapRow>) {
        if self.folded.records > 0 {
            rows.push(GapRow {
                agent: agent.clone(),
                epoch: 0,
                lane: "all",
                from: 0,
                to: 0,
                readings: self.folded.readings,
                reason: format!("{} older records, folded", self.folded.records),
                at: self.folded.at,
            });
        }
        rows.extend(self.gaps.iter().map(|gap| GapRow {
            agent: agent.clone(),
            epoch: gap.epoch.0,
            lane: gap.lane.map_or("all", Lane::as_str),
            from: gap.from,
            to: gap.to,
            readings: gap.readings,
            reason: gap.why.to_string(),
            at: gap.at,
        }));
    }
}

impl EpochState {
    fn is_forgotten(&self, now: TimeNs) -> bool {
        matches!(self.standing, Standing::LeftOut(at) if now.0.saturating_sub(at.0) >= FORGET_NS)
    }
}

impl std::fmt::Display for GapWhy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record(GapReason::Overflow) => f.write_str("overflow"),
            Self::Record(GapReason::Damaged) => f.write_str("damaged"),
            Self::Record(GapReason::Crash) => f.write_str("crash"),
            Self::Record(GapReason::Refused) => f.write_str("refused"),
            Self::Record(GapReason::Restored) => f.write_str("restored"),
            Self::Record(GapReason::Thinned) => f.write_str("thinned"),
            Self::UncleanEnd { max_unsafe_ms } => {
                write!(f, "unclean end, up to {max_unsafe_ms} ms may be missing")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::batch::LastEpoch;
    use shared::id::{Digest, LocalSeriesId};
    use shared::limits::FIELDS_MAX;
    use shared::reading::FieldType;

    const E1: Epoch = Epoch(91);
    const E2: Epoch = Epoch(7);
    const DAY: i64 = FORGET_NS / 400;

    fn hello(agent: &mut AgentState, epoch: Epoch, older: &[Epoch], now: i64) {
        let first = Header {
            epoch,
            lane: Lane::Names,
            number: BatchNumber(1),
            previous: Digest::ZERO,
            names_needed: BatchNumber::NONE,
            sealed_at: TimeNs(1),
            complete_below: TimeNs(1),
            boot_relative: false,
        };
        let to = Position {
            last: BatchNumber(1),
            digest: Digest([1; 8]),
        };
        agent.advance(&first, to, TimeNs(now), TimeNs(now));
        let hello = Hello {
            older_epochs: older.to_vec(),
            last: older.last().map(|epoch| LastEpoch {
                epoch: *epoch,
                ended_cleanly: true,
            }),
            max_unsafe_ms: 0,
        };
        agent.hello(epoch, &hello, TimeNs(now), TimeNs(now));
    }

    /// An older epoch's hello that came after the younger one's once made the younger one
    /// forgettable while its agent was still in it.
    #[test]
    fn hellos_mean_the_same_in_any_order() {
        let (mut one, mut other) = (AgentState::default(), AgentState::default());
        hello(&mut one, E1, &[], 1);
        hello(&mut one, E2, &[E1], 1);
        hello(&mut other, E2, &[E1], 1);
        hello(&mut other, E1, &[], 1);
        assert_eq!(one, other);
        assert_eq!(one.current, Some(E2));
        assert_eq!(one.epochs[&E2].standing, Standing::Youngest);
        assert_eq!(one.epochs[&E1].standing, Standing::Held);
        one.forget(TimeNs(1_000 * DAY));
        assert_eq!(one.epochs.len(), 2);
        hello(&mut one, Epoch(8), &[], DAY);
        assert_eq!(one.epochs[&E2].standing, Standing::LeftOut(TimeNs(DAY)));
        one.forget(TimeNs(400 * DAY));
        assert_eq!(one.epochs.len(), 3);
        one.forget(TimeNs(401 * DAY));
        assert_eq!(one.epochs.len(), 1);
    }

    #[test]
    fn a_stream_that_moves_is_not_forgotten() {
        let mut agent = AgentState::default();
        hello(&mut agent, E1, &[], 0);
        hello(&mut agent, E2, &[], 0);
        let header = Header {
            epoch: E1,
            lane: Lane::Live,
            number: BatchNumber(1),
            previous: Digest::ZERO,
            names_needed: BatchNumber(1),
            sealed_at: TimeNs(1),
            complete_below: TimeNs(1),
            boot_relative: false,
        };
        let to = agent.lane(E1, Lane::Names).position;
        agent.advance(&header, to, TimeNs(0), TimeNs(399 * DAY));
        agent.forget(TimeNs(401 * DAY));
        assert!(agent.epochs.contains_key(&E1));
    }

    #[test]
    fn an_agent_that_makes_up_epochs_is_bounded() {
        let mut agent = AgentState::default();
        for epoch in 0..EPOCHS_PER_AGENT_MAX as u64 + 500 {
            assert!(agent.has_room_for(Epoch(epoch)));
            hello(&mut agent, Epoch(epoch), &[], 1 + epoch.cast_signed());
        }
        assert_eq!(agent.epochs.len(), EPOCHS_PER_AGENT_MAX);
        assert!(!agent.epochs.contains_key(&Epoch(499)));
        for state in agent.epochs.values_mut() {
            state.standing = Standing::Youngest;
        }
        assert!(agent.has_room_for(Epoch(500)) && !agent.has_room_for(Epoch(1 << 40)));
    }

    /// Each of them once had all epochs looked through twice.
    #[test]
    fn a_hello_of_many_unknown_epochs_looks_once_for_those_that_must_go() {
        let mut agent = AgentState::default();
        for epoch in 0..EPOCHS_PER_AGENT_MAX as u64 {
            hello(&mut agent, Epoch(epoch), &[], 1 + epoch.cast_signed());
        }
        let mut left_out = None;
        for epoch in 1..=1_000_u64 {
            assert!(agent.make_room(Epoch(epoch << 40), &mut left_out));
            agent
                .epochs
                .insert(Epoch(epoch << 40), EpochState::default());
            let expected = EPOCHS_PER_AGENT_MAX - 1 - usize::try_from(epoch).unwrap();
            assert_eq!(left_out.as_ref().map(Vec::len), Some(expected));
        }
        let older: Vec<Epoch> = (1..=OLDER_EPOCHS_MAX as u64)
            .map(|epoch| Epoch(epoch << 20))
            .collect();
        hello(&mut agent, Epoch(1 << 60), &older, DAY);
        assert_eq!(agent.epochs.len(), EPOCHS_PER_AGENT_MAX);
        // Those of before, this one's own and its older ones took the places of the first.
        let gone = 1_000 + 1 + OLDER_EPOCHS_MAX as u64;
        assert!(!agent.epochs.contains_key(&Epoch(gone - 1)));
        assert!(agent.epochs.contains_key(&Epoch(gone)));
        for epoch in &older {
            assert_eq!(agent.epochs[epoch].standing, Standing::Held);
        }
    }

    /// About 300 KB each, and no two with the same fields.
    fn wide_definitions(ids: std::ops::Range<u32>) -> Vec<SeriesDefinition> {
        let wide = |id: u32| SeriesDefinition {
            id: LocalSeriesId(id),
            table: "t".to_owned(),
            device: "d".to_owned(),
            tags: Vec::new(),
            fields: (0..FIELDS_MAX)
                .map(|field| (format!("{id}-{field}-{:0>200}", 0), FieldType::Float))
                .collect(),
        };
        ids.map(wide).collect()
    }

    fn define_all(agent: &mut AgentState, epoch: Epoch, catalog: &mut Arc<Catalog>) -> usize {
        for first in (0..280).step_by(20) {
            let id = AgentId::parse("gw").unwrap();
            agent.define(&id, epoch, &wide_definitions(first..first + 20), catalog);
        }
        agent.epochs[&epoch].dictionary.series.len()
    }

    #[test]
    fn what_an_agent_defines_is_bounded_in_bytes() {
        let mut catalog = Arc::new(Catalog::new());
        let mut agent = AgentState::default();
        let (first, second, third) = (Epoch(1), Epoch(2), Epoch(3));
        hello(&mut agent, first, &[], 1);
        let full = define_all(&mut agent, first, &mut catalog);
        assert!((200..280).contains(&full), "{full}");
        hello(&mut agent, second, &[first], 2);
        assert_eq!(define_all(&mut agent, second, &mut catalog), full);
        hello(&mut agent, third, &[second, first], 3);
        let kept = agent.epochs[&first].dictionary.clone();
        assert!(define_all(&mut agent, third, &mut catalog) < 2);
        assert_eq!(agent.epochs[&first].dictionary, kept, "it is still held");
        hello(&mut agent, Epoch(4), &[third, second], 4);
        let last = define_all(&mut agent, Epoch(4), &mut catalog);
        assert!((full - 1..=full).contains(&last), "{last}");
        assert_eq!(agent.dictionary(first).bytes(), 0, "it made room");
        assert_eq!(agent.lane(first, Lane::Names).position.last, BatchNumber(1));
    }

    /// The oldest of them once took the place of the running one.
    #[test]
    fn an_epoch_that_had_no_place_in_a_full_list_is_not_taken_for_a_younger_one() {
        let mut agent = AgentState::default();
        let (running, unnamed) = (Epoch(1 << 40), Epoch(1 << 50));
        let listed: Vec<Epoch> = (1..=OLDER_EPOCHS_MAX as u64).map(Epoch).collect();
        hello(&mut agent, Epoch(0), &[], 1);
        hello(&mut agent, running, &listed, 2);
        assert_eq!(agent.epochs[&Epoch(0)].standing, Standing::Youngest);
        hello(&mut agent, unnamed, &[], 3);
        assert_eq!(agent.current, Some(running));
        assert_eq!(agent.epochs[&running].standing, Standing::Youngest);
        assert_eq!(agent.epochs[&unnamed].standing, Standing::Held);
        let younger = Epoch(1 << 60);
        hello(&mut agent, younger, &[running], 4);
        assert_eq!(agent.current, Some(younger));
        assert_eq!(agent.epochs[&running].standing, Standing::Held);
        let gone = Standing::LeftOut(TimeNs(4));
        assert_eq!(agent.epochs[&unnamed].standing, gone);
        assert_eq!(agent.epochs[&Epoch(0)].standing, gone);
    }

    /// It was once thrown out by an unknown one before it in the list, and its numbers with it.
    #[test]
    fn a_hello_makes_no_room_by_what_it_says_is_held() {
        let mut agent = AgentState::default();
        for epoch in 0..EPOCHS_PER_AGENT_MAX as u64 {
            hello(&mut agent, Epoch(epoch), &[], 1 + epoch.cast_signed());
        }
        // The first place is for the epoch itself.
        let (first, unknown) = (Epoch(1), Epoch(1 << 40));
        hello(&mut agent, Epoch(1 << 60), &[unknown, first], DAY);
        assert_eq!(agent.epochs.len(), EPOCHS_PER_AGENT_MAX);
        assert_eq!(agent.epochs[&first].standing, Standing::Held);
        assert_eq!(agent.lane(first, Lane::Names).position.last, BatchNumber(1));
        assert_eq!(agent.epochs[&unknown].standing, Standing::Held);
        assert!(!agent.epochs.contains_key(&Epoch(2)));
    }
}
