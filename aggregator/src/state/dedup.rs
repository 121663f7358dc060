//! Once, in order: where every stream stands, what its local series ids mean, and which numbers
//! will never come. Pure rules; `machine` drives them.
//!
//! Invariant: what took effect of a stream is a prefix of what was sent, less the listed gaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::batch::{GapReason, Header, Hello, SeriesDefinition};
use shared::id::{AgentId, BatchNumber, Epoch, Lane, TimeNs};
use shared::verdict::Position;

use super::catalog::{Catalog, Refusal, SeriesId};

/// A stream is forgotten this long after a hello left its epoch out, in replicated time.
const FORGET_NS: i64 = 400 * 86_400 * 1_000_000_000;
/// Gap rows an agent may have; above, the oldest are folded into one.
const GAPS_PER_AGENT_MAX: usize = 1_024;
/// Field lists that a new definition is compared with, to share an equal one.
const LISTS_COMPARED: usize = 16;

/// All that is known of one agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AgentState {
    /// The epoch of the last hello.
    pub(super) current: Option<Epoch>,
    pub(super) epochs: BTreeMap<Epoch, EpochState>,
    pub(super) gaps: Arc<Vec<GapEntry>>,
    pub(super) folded: Folded,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct EpochState {
    /// By `Lane as usize`.
    pub(super) lanes: [LaneState; 3],
    /// Replicated time at which a hello left this epoch out.
    pub(super) left_out_at: Option<TimeNs>,
    pub(super) dictionary: Arc<Dictionary>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LaneState {
    pub(super) position: Position,
    pub(super) complete_below: TimeNs,
    pub(super) last_seen: TimeNs,
}

/// What the local series ids of one epoch mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Dictionary {
    pub(super) field_lists: Vec<Arc<[String]>>,
    pub(super) series: BTreeMap<u32, LocalSeries>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LocalSeries {
    pub(super) target: LocalTarget,
    /// Index into `field_lists`.
    pub(super) fields: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum LocalTarget {
    Series(SeriesId),
    /// All its values go to quarantine.
    Refused(Arc<RefusedSeries>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RefusedSeries {
    pub(super) reason: Refusal,
    pub(super) table: String,
    pub(super) device: String,
    pub(super) tags: Vec<(String, String)>,
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
    Names,
    Fork,
}

/// The rule. `from` is the number of a batch, or the first number of a gap record.
pub(super) fn decide(
    lane: &LaneState,
    names_applied: BatchNumber,
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

    pub(super) fn dictionary(&self, epoch: Epoch) -> Arc<Dictionary> {
        self.epochs
            .get(&epoch)
            .map(|state| Arc::clone(&state.dictionary))
            .unwrap_or_default()
    }

    /// Moves a stream on. Only after [`decide`] said so.
    pub(super) fn advance(&mut self, header: &Header, to: Position, received: TimeNs) {
        let epoch = self.epochs.entry(header.epoch).or_default();
        let lane = &mut epoch.lanes[header.lane as usize];
        assert!(lane.position.last < to.last, "a stream never goes back");
        lane.position = to;
        lane.complete_below = lane.complete_below.max(header.complete_below);
        lane.last_seen = lane.last_seen.max(received);
    }

    /// Which epochs the agent still holds, and how the last one ended.
    pub(super) fn hello(&mut self, epoch: Epoch, hello: &Hello, now: TimeNs, received: TimeNs) {
        self.current = Some(epoch);
        for (known, state) in &mut self.epochs {
            let held = *known == epoch || hello.older_epochs.contains(known);
            state.left_out_at = if held {
                None
            } else {
                state.left_out_at.or(Some(now))
            };
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

    /// Adds definitions; an id keeps its first meaning, and a second one that differs spoils it.
    pub(super) fn define(
        &mut self,
        epoch: Epoch,
        definitions: &[SeriesDefinition],
        catalog: &mut Arc<Catalog>,
    ) {
        let state = self.epochs.entry(epoch).or_default();
        let dictionary = Arc::make_mut(&mut state.dictionary);
        for definition in definitions {
            dictionary.define(definition, catalog);
        }
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
        self.left_out_at
            .is_some_and(|at| now.0.saturating_sub(at.0) >= FORGET_NS)
    }
}

impl Dictionary {
    fn define(&mut self, definition: &SeriesDefinition, catalog: &mut Arc<Catalog>) {
        let SeriesDefinition {
            id,
            table,
            device,
            tags,
            fields,
        } = definition;
        let refused = |reason| {
            let (table, device, tags) = (table.clone(), device.clone(), tags.clone());
            LocalTarget::Refused(Arc::new(RefusedSeries {
                reason,
                table,
                device,
                tags,
            }))
        };
        let names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
        let target = match Catalog::intern(catalog, table, device, tags) {
            Ok(series) => LocalTarget::Series(series),
            Err(reason) => refused(reason),
        };
        let target = match self.series.get(&id.0) {
            None => target,
            Some(known) => {
                let same_fields = *self.field_lists[known.fields as usize] == *names;
                let same = same_fields && known.target == target;
                if same {
                    return;
                }
                refused(Refusal::SeriesDefinedTwice)
            }
        };
        let fields = self.intern_fields(names);
        self.series.insert(id.0, LocalSeries { target, fields });
    }

    fn intern_fields(&mut self, names: Vec<String>) -> u32 {
        let compared = self
            .field_lists
            .iter()
            .enumerate()
            .rev()
            .take(LISTS_COMPARED);
        let known = compared
            .filter(|(_, list)| ***list == *names)
            .map(|(at, _)| at)
            .next();
        let at = known.unwrap_or_else(|| {
            self.field_lists.push(names.into());
            self.field_lists.len() - 1
        });
        u32::try_from(at).expect("a list per definition, limited by the log")
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
            Self::UncleanEnd { max_unsafe_ms } => {
                write!(f, "unclean end, up to {max_unsafe_ms} ms may be missing")
            }
        }
    }
}
