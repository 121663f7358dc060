//! The replicated state: what applying commands in log order comes to. Pure: `apply` reads no
//! clock and does no I/O, and it never fails on content.
//!
//! Invariant: two states that applied the same commands encode to the same bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use shared::batch::{Body, Header, Kind};
use shared::id::{AgentId, Epoch, Lane, TimeNs};
use shared::payload::line::LineOptions;
use shared::verdict::Position;

use super::catalog::{Catalog, SeriesId, TableInfo};
use super::clock::Clock;
use super::command::{Command, Origin, Payload, Sealing, Submission};
use super::cow::CowMap;
use super::dedup::{AgentRow, AgentState, Decision, GapEntry, GapRow, GapWhy, decide};
use super::last::{LastValue, LastValues};
use super::resolve::Resolver;
use super::retention::Retention;
use super::rows::{Rows, raised};
use super::settings::{Agreement, SameTime, Settings, Wish};
use super::table_settings::{TableSettings, TableWish};

pub(crate) const HOUR_NS: i64 = 3_600 * 1_000_000_000;
pub(crate) const DAY_NS: i64 = 24 * HOUR_NS;

/// What replicas agree on. A clone is cheap and does not see later changes.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) index: u64,
    pub(super) settings: Agreement,
    pub(super) clock: Clock,
    pub(super) members: BTreeMap<String, Admitted>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) agents: CowMap<AgentId, Arc<AgentState>>,
    pub(super) last: LastValues,
}

/// A node that the cluster admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The index of the command that admitted it.
    pub id: u64,
    /// `host:port` of its cluster listener.
    pub address: String,
    /// The number under which it asked to be admitted.
    pub joining: u64,
}

/// What applying one command asks for.
#[derive(Debug, Default)]
pub struct Effects {
    /// One for each submission, in order.
    pub outcomes: Vec<(Origin, Outcome)>,
    /// What the store must hold from now on.
    pub rows: Vec<Rows>,
    pub job: Option<Job>,
}

/// What a submission came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Stored,
    /// It, or a gap record that covers it, took effect earlier.
    Have(Position),
    /// A number before it is missing.
    Gap(Position),
    /// `names` batches that it needs are missing, perhaps a clock; where the names lane stands.
    Names(Position),
    /// It does not continue what is stored.
    Fork(Position),
}

/// Work for the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    Merge,
    /// A merge that takes along what segments hold of one partition.
    Seal(Sealing),
    /// Drop what has ended.
    Retention(Retention),
}

/// What became of a wish for one setting of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableStanding {
    /// It is so, or will be with the first row.
    InForce,
    /// Not more than half of the members say so, or too many tables wait for their first row, or have
    /// settings.
    NotAgreed,
    /// The table has rows that came under another `same_time`.
    TooLate,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    pub fn new() -> Self {
        Self {
            index: 0,
            settings: Agreement::default(),
            clock: Clock::default(),
            members: BTreeMap::new(),
            catalog: Arc::new(Catalog::new()),
            agents: CowMap::new(),
            last: LastValues::new(),
        }
    }

    /// The index of the last command that was applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Applies the command of a log entry; indices only grow.
    pub fn apply(&mut self, index: u64, command: &Command) -> Effects {
        assert!(
            index > self.index,
            "entry {index} was applied before {}",
            self.index
        );
        self.index = index;
        let mut effects = Effects::default();
        match command {
            Command::Submissions(submissions) => {
                for submission in submissions {
                    let outcome = self.submit(submission, &mut effects.rows);
                    effects.outcomes.push((submission.origin, outcome));
                }
                self.last.grow(self.catalog.series_count());
            }
            Command::Clock { node, now } => self.clock.told(*node, *now),
            Command::Merge => effects.job = Some(Job::Merge),
            Command::Seal(sealing) => effects.job = Some(Job::Seal(*sealing)),
            Command::Retention => effects.job = self.drop_what_ended(),
            Command::Admit {
                name,
                address,
                joining,
            } => {
                // A name keeps its first disk: what that one acknowledged is not forgotten.
                self.members
                    .entry(name.clone())
                    .or_insert_with(|| Admitted {
                        id: index,
                        address: address.clone(),
                        joining: *joining,
                    });
            }
            Command::RetentionDays(days) => {
                let hours = self.settings().partition_hours();
                let quotas = self.settings().quotas();
                self.settings.in_force = Settings::new(*days, hours).with_quotas(quotas);
            }
            Command::Settings { node, wish } => {
                if self.is_member(*node) {
                    let lives = |node| self.clock.voters.contains_key(&node);
                    let members = self.members.len();
                    for (table, same_time) in self.settings.told(*node, wish, members, lives) {
                        Catalog::declare(&mut self.catalog, &table, same_time);
                    }
                    Catalog::allow(&mut self.catalog, self.settings.in_force.quotas());
                }
            }
        }
        effects
    }

    /// Where a stream stands.
    pub fn position(&self, agent: &AgentId, epoch: Epoch, lane: Lane) -> Position {
        let known = self.agents.get(agent);
        known.map_or_else(Position::default, |known| known.lane(epoch, lane).position)
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Replicated time; `TimeNs(0)` while no voter has told its clock.
    pub fn now(&self) -> TimeNs {
        self.clock.now
    }

    /// What is in force.
    pub fn settings(&self) -> Settings {
        self.settings.in_force
    }

    /// What is in force of single tables.
    pub fn table_settings(&self) -> &TableSettings {
        &self.settings.tables
    }

    /// What a node told of its configuration.
    pub fn settings_of(&self, node: u64) -> Option<&Wish> {
        self.settings.told.get(&node)
    }

    /// How a table stands to each setting that a configuration says of it: its key, what is wanted, and
    /// what became of that.
    pub fn table_standings(
        &self,
        table: &str,
        wanted: &TableWish,
    ) -> Vec<(&'static str, String, TableStanding)> {
        let stands = |is_so| {
            if is_so {
                TableStanding::InForce
            } else {
                TableStanding::NotAgreed
            }
        };
        let settings = self.table_settings();
        let TableWish {
            same_time,
            retention_days,
            rollups,
        } = wanted;
        let same_time = same_time.map(|how| {
            let standing = self.same_time_standing(table, how);
            ("same_time", how.as_str().to_owned(), standing)
        });
        let days = retention_days.map(|days| {
            let is_so = settings.retention_days_of(table) == Some(days);
            ("retention_days", days.to_string(), stands(is_so))
        });
        let rollups = rollups.as_ref().map(|rollups| {
            let is_so = settings.rollups_of(table) == *rollups;
            ("rollups", rollups.to_string(), stands(is_so))
        });
        [same_time, days, rollups].into_iter().flatten().collect()
    }

    /// How a table stands to what a configuration says of its rows of one time.
    pub fn same_time_standing(&self, table: &str, wanted: SameTime) -> TableStanding {
        let has_rows = self.catalog.table(table).is_some_and(TableInfo::has_rows);
        if self.catalog.same_time(table) == wanted {
            TableStanding::InForce
        } else if has_rows {
            TableStanding::TooLate
        } else {
            TableStanding::NotAgreed
        }
    }

    /// Whether the cluster admitted a node with this id.
    pub fn is_member(&self, node: u64) -> bool {
        self.members.values().any(|member| member.id == node)
    }

    /// Every node that was admitted, by name.
    pub fn members(&self) -> &BTreeMap<String, Admitted> {
        &self.members
    }

    pub fn agents(&self) -> Vec<AgentRow> {
        let mut rows = Vec::new();
        for (agent, known) in self.agents.sorted() {
            known.agent_rows(agent, &mut rows);
        }
        rows
    }

    pub fn gaps(&self) -> Vec<GapRow> {
        let mut rows = Vec::new();
        for (agent, known) in self.agents.sorted() {
            known.gap_rows(agent, &mut rows);
        }
        rows
    }

    /// The newest value of every field of a series, by field.
    pub fn last_values(&self, series: SeriesId) -> &[LastValue] {
        self.last.of(series)
    }

    /// The times that get partitions of their own; all others share the quarantine partition.
    /// `kept_days`: of tables that are kept for so long by a retention of their own, or 0.
    pub fn plausible_times(&self, kept_days: u32) -> Option<std::ops::RangeInclusive<i64>> {
        let now = self.clock.now.0;
        let days = match kept_days {
            0 => self.settings().retention_days(),
            own => own,
        };
        let oldest = now.saturating_sub(i64::from(days).saturating_mul(DAY_NS));
        (now > 0).then(|| oldest..=now.saturating_add(DAY_NS))
    }

    /// What is kept of each table now; `None` while no voter has told its clock.
    pub fn retention(&self) -> Option<Retention> {
        let (now, days) = (self.clock.now, self.settings().retention_days());
        let tables = self.table_settings().clone();
        (now.0 > 0).then(|| Retention::new(now, days, tables))
    }

    fn drop_what_ended(&mut self) -> Option<Job> {
        if !self.clock.confirmed() {
            return None;
        }
        let now = self.clock.now;
        let known = self.agents.sorted();
        let due: Vec<AgentId> = known
            .into_iter()
            .filter(|(_, known)| known.has_forgettable(now))
            .map(|(agent, _)| agent.clone())
            .collect();
        for agent in &due {
            Arc::make_mut(self.agents.entry_or(agent, Arc::default)).forget(now);
        }
        self.retention().map(Job::Retention)
    }

    fn submit(&mut self, submission: &Submission, rows: &mut Vec<Rows>) -> Outcome {
        match &submission.payload {
            Payload::Batch(bytes) => self.batch(submission, bytes, rows),
            Payload::Lines(bytes) => {
                self.lines(submission, bytes, rows);
                Outcome::Stored
            }
        }
    }

    /// Lines were all readings when they were proposed; one that is not now goes to quarantine.
    fn lines(&mut self, submission: &Submission, bytes: &Bytes, rows: &mut Vec<Rows>) {
        let Submission {
            agent, received, ..
        } = submission;
        let options = LineOptions::new(*received, agent.as_str());
        let (mut readings, mut whole) = (Vec::new(), true);
        for line in shared::payload::line::parse(bytes, options) {
            match line {
                Ok(reading) => readings.push(reading),
                Err(_) => whole = false,
            }
        }
        let mut resolver = self.resolver(agent);
        if !readings.is_empty() {
            rows.push(resolver.readings(readings));
        }
        if !whole {
            rows.push(resolver.undecodable(*received, bytes));
        }
    }

    fn batch(&mut self, submission: &Submission, bytes: &Bytes, rows: &mut Vec<Rows>) -> Outcome {
        let Submission {
            agent, received, ..
        } = submission;
        // Valid when it was proposed; if it is not now, it does not take effect and says so.
        let unreadable = Outcome::Gap(Position::default());
        let Ok((header, kind)) = shared::batch::read_header(bytes) else {
            return unreadable;
        };
        let mut from = header.number;
        let mut gap = None;
        if kind == Kind::Gap {
            match shared::batch::decode(bytes).map(|batch| batch.body) {
                Ok(Body::Gap(record)) => {
                    from = record.from;
                    gap = Some(record);
                }
                _ => return unreadable,
            }
        }
        let known = self.agents.get(agent);
        let lane_of = |lane| {
            known
                .map(|known| known.lane(header.epoch, lane))
                .unwrap_or_default()
        };
        let (lane, names) = (lane_of(header.lane), lane_of(Lane::Names));
        let clock_ns = known.and_then(|known| known.clock_ns(header.epoch));
        let first_new = match decide(&lane, names.position.last, clock_ns, &header, from) {
            Decision::Take { first_new } => first_new,
            Decision::Have => return Outcome::Have(lane.position),
            Decision::Gap => return Outcome::Gap(lane.position),
            Decision::Names => return Outcome::Names(names.position),
            Decision::Fork => return Outcome::Fork(lane.position),
        };
        if known.is_some_and(|known| !known.has_room_for(header.epoch)) {
            return unreadable;
        }
        let now = self.clock.now;
        let digest = match &gap {
            Some(gap) => gap.digest_to,
            None => shared::batch::digest(header.previous, bytes),
        };
        let to = Position {
            last: header.number,
            digest,
        };
        let known = Arc::make_mut(self.agents.entry_or(agent, Arc::default));
        known.advance(&header, to, *received, now);
        if let Some(gap) = gap {
            known.add_gap(GapEntry {
                epoch: header.epoch,
                lane: Some(header.lane),
                from: first_new.0,
                to: header.number.0,
                readings: gap.readings,
                why: GapWhy::Record(gap.reason),
                at: *received,
            });
            return Outcome::Stored;
        }
        self.take_over(submission, &header, bytes, rows);
        Outcome::Stored
    }

    /// What a batch holds that took effect and is no gap record.
    fn take_over(
        &mut self,
        submission: &Submission,
        header: &Header,
        bytes: &Bytes,
        rows: &mut Vec<Rows>,
    ) {
        let Submission {
            agent, received, ..
        } = submission;
        let (epoch, now) = (header.epoch, self.clock.now);
        let known = Arc::make_mut(self.agents.entry_or(agent, Arc::default));
        match shared::batch::decode(bytes).map(|batch| batch.body) {
            Ok(Body::Hello(hello)) => known.hello(epoch, &hello, now, *received),
            Ok(Body::Names(names)) => {
                known.define(agent, epoch, &names, &mut self.catalog);
            }
            Ok(Body::Clock(clock)) => known.set_clock(epoch, clock),
            Ok(Body::Data(data)) => {
                let dictionary = known.dictionary(epoch);
                let clock_ns = known.clock_ns(epoch).filter(|_| header.boot_relative);
                let raise_ns = clock_ns.unwrap_or(0);
                let data = raised(data, raise_ns);
                let mut resolver = self.resolver(agent);
                rows.push(resolver.batch(&data, bytes, raise_ns, &dictionary));
            }
            Ok(Body::Gap(_)) => unreachable!("its kind was not gap"),
            Err(_) => rows.push(self.resolver(agent).undecodable(*received, bytes)),
        }
    }

    fn resolver<'a>(&'a mut self, agent: &'a AgentId) -> Resolver<'a> {
        let time_max = self
            .plausible_times(0)
            .map_or(i64::MAX, |range| *range.end());
        Resolver {
            catalog: &mut self.catalog,
            last: &mut self.last,
            agent,
            time_max,
            quarantined: BTreeMap::new(),
        }
    }
}
