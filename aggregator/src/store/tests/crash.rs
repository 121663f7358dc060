//! Random histories with power cuts against the naive model.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use journal::SimStorage;
use shared::id::{AgentId, Digest, Lane, TimeNs};

use super::agent::{Agent, Link};
use super::model::Model;
use super::{Node, Random, aggregate, all_rows};
use crate::state::{
    Command, Effects, Job, Origin, Outcome, Payload, Retention, Rollup, Rollups, SameTime, Sealing,
    State, Submission, TableWish, Window, Wish,
};
use crate::store::segment::SegmentHandle;
use crate::store::{RollupScan, kept};

const DAY: i64 = 86_400_000_000_000;
const HOUR: i64 = DAY / 24;

struct History {
    random: Random,
    agents: Vec<Agent>,
    log: Vec<Command>,
    now: i64,
    epochs: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let agents = (0..2)
            .map(|n| Agent::new(&format!("gw-{n}"), 100 + n))
            .collect();
        Self {
            random: Random(seed),
            agents,
            log: Vec::new(),
            now: 1000 * DAY,
            epochs: 1000,
        }
    }

    /// Something to hand in: mostly what comes next, now and then anything else.
    fn link(&mut self, node: &Node) -> (AgentId, Link) {
        let random = &mut self.random;
        let at = random.below(self.agents.len());
        let agent = &mut self.agents[at];
        if random.chance(3) {
            self.epochs += 1;
            let (keep, clean) = (random.chance(50), random.chance(50));
            agent.restart(self.epochs, keep, clean);
        }
        let lane = Lane::ALL[random.below(3)];
        match lane {
            Lane::Names => {
                let definitions = agent.random_definitions(random);
                agent.define(definitions);
            }
            Lane::Live | Lane::Backlog => {
                if let Some(data) = agent.random_data(random, self.now) {
                    agent.seal(lane, shared::batch::Body::Data(data));
                }
            }
        }
        let links = agent.lanes[lane as usize].len();
        if random.chance(8) && links > 1 {
            let (from, more) = (links - random.below(2), random.below(3) as u64);
            agent.seal_gap(lane, from.max(1), more, random);
        }
        let links = &agent.lanes[lane as usize];
        let last = node.state.position(&agent.id, agent.epoch, lane).last.0;
        let next = links.iter().position(|link| link.to > last);
        let pick = match (random.below(10), next) {
            (0..8, Some(next)) => next,
            _ if links.is_empty() => return self.link(node),
            _ => random.below(links.len()),
        };
        let mut link = links[pick].clone();
        if random.chance(3) {
            // Somebody else who continues the stream with another past.
            link.header.previous = Digest(random.next().to_be_bytes());
            link.bytes = shared::batch::encode(&link.header, &link.body)
                .unwrap()
                .into();
        }
        (agent.id.clone(), link)
    }

    fn submissions(&mut self, node: &Node) -> (Command, Vec<(AgentId, Link)>) {
        let count = 1 + self.random.below(5);
        let links: Vec<_> = (0..count).map(|_| self.link(node)).collect();
        let submission = |(at, (agent, link)): (usize, &(AgentId, Link))| Submission {
            origin: Origin {
                boot: 1,
                ticket: at as u64,
            },
            agent: agent.clone(),
            received: TimeNs(self.now),
            payload: Payload::Batch(link.bytes.clone()),
        };
        let all = links.iter().enumerate().map(submission).collect();
        (Command::Submissions(all), links)
    }
}

struct Run {
    history: History,
    model: Model,
    node: Node,
    /// Pieces of aggregates that rollups answered.
    rolled: usize,
    /// The last that was asked for.
    retention: Option<(u64, Retention)>,
    /// What `truck` comes to by the hour is kept for ever.
    outlives: bool,
}

impl Run {
    fn apply(&mut self, command: Command) -> Effects {
        self.history.log.push(command);
        let index = self.history.log.len() as u64;
        self.node
            .apply(index, &self.history.log[self.history.log.len() - 1])
    }

    fn submit(&mut self) {
        let (command, links) = self.history.submissions(&self.node);
        let effects = self.apply(command);
        let expected: Vec<Outcome> = links
            .iter()
            .map(|(agent, link)| self.model.submit(agent, link))
            .collect();
        let found: Vec<Outcome> = effects
            .outcomes
            .iter()
            .map(|(_, outcome)| *outcome)
            .collect();
        assert_eq!(found, expected);
    }

    fn merge(&mut self) {
        self.merge_by(Command::Merge);
    }

    /// A node, so that there are settings. One of two tables merges rows of the same time.
    fn admit(&mut self) {
        self.apply(Command::Admit {
            name: "a".to_owned(),
            address: "h:1".to_owned(),
            joining: 1,
        });
        self.model.merging.insert("pump".to_owned());
        self.tell(24);
    }

    fn tell(&mut self, partition_hours: u32) {
        let random = &mut self.history.random;
        let mut days = || [None, Some(1), Some(2), Some(4)][random.below(4)];
        let mut wish = |same_time, rollups| TableWish {
            same_time,
            retention_days: days(),
            rollups,
        };
        let hours = Rollup::new(3_600, Some(3_650)).expect("it divides a day");
        let rollups = self.outlives.then(|| Rollups::new(vec![hours]));
        let rollups = rollups.map(|all| all.expect("one of a width"));
        let tables = [
            ("pump", wish(Some(SameTime::Merge), None)),
            ("truck", wish(None, rollups)),
            ("quarantine", wish(None, None)),
        ];
        let tables = tables.map(|(name, wish)| (name.to_owned(), wish));
        self.apply(Command::Settings {
            node: 2,
            wish: Wish::new(None, Some(partition_hours)).with_tables(tables.into()),
        });
    }

    /// Rows of one time may lie in partitions of several widths then, and files hold tables that are kept
    /// for different times.
    fn width(&mut self) {
        let hours = [24, 12, 36][self.history.random.below(3)];
        self.tell(hours);
    }

    /// What is in parts; or of a partition that ended, of the one that goes on, of one of another width, or
    /// of one that is not there.
    fn seal(&mut self) {
        self.settle();
        let view = self.node.store.view();
        let in_parts = view.unsealed(TimeNs(i64::MAX), Duration::ZERO);
        drop(view);
        if !in_parts.is_empty() && self.history.random.chance(70) {
            let one = self.history.random.below(in_parts.len());
            return self.merge_by(Command::Seal(in_parts[one]));
        }
        let hour = self.history.now / HOUR;
        let now = self.node.state.settings().partition_hours();
        let hours = [now, now, 24, 12][self.history.random.below(4)];
        let length = i64::from(hours);
        let nth = hour.div_euclid(length) + [1, 0, -1, -2][self.history.random.below(4)];
        let kept_days = [0, 0, 1, 2, 4][self.history.random.below(5)];
        self.merge_by(Command::Seal(Sealing {
            window: Window {
                start_hour: nth * length,
                hours,
            },
            kept_days,
        }));
    }

    /// All merges end, whatever it takes, and nothing breaks any more.
    fn settle(&mut self) {
        if !self.node.jobs.is_empty() && !self.node.finish_merges() {
            self.power_cut();
        }
        self.node.sim.cut_at(u64::MAX / 2);
        assert!(self.node.finish_merges());
    }

    fn merge_by(&mut self, command: Command) {
        self.apply(command);
        self.model.merge(&self.node.state);
        if self.history.random.chance(40) {
            let nth = 1 + self.history.random.below(60) as u64;
            self.node.sim.cut_at(nth);
        }
        if self.history.random.chance(75) && !self.node.finish_merges() {
            self.power_cut();
        }
    }

    fn power_cut(&mut self) {
        let sim = self.node.sim.clone();
        loop {
            sim.power_cut();
            if self.history.random.chance(80) {
                break;
            }
            // The power goes again while the node starts.
            sim.cut_at(1 + self.history.random.below(20) as u64);
            let _ = crate::store::Store::open(&*sim.as_storage());
        }
        self.node = Node::open_rolling(&sim).replayed(&self.history.log);
        self.compare();
    }

    fn retention(&mut self) {
        for _ in 0..3 {
            self.history.now += 50 * HOUR / 60;
            let now = TimeNs(self.history.now);
            self.apply(Command::Clock { node: 1, now });
        }
        // Nothing is durable of this but through the log: no fault may hit it half way.
        let effects = self.apply(Command::Retention);
        if let Some(Job::Retention(retention)) = effects.job {
            let index = self.history.log.len() as u64;
            self.model.retain(index, &retention);
            self.retention = Some((index, retention));
        }
    }

    fn compare(&mut self) {
        for ((agent, epoch, lane), position) in self.model.positions() {
            assert_eq!(self.node.state.position(agent, *epoch, *lane), *position);
        }
        assert_eq!(self.node.state.gaps().len(), self.model.gaps);
        let view = self.node.store.view();
        aggregate::check(&view);
        self.rolled += aggregate::check_windows(&view, &mut self.history.random);
        let all = view.damage_count();
        assert_eq!((all.files, all.blocks), (0, 0));
        if self.node.jobs.is_empty() {
            self.model.check(all_rows(&self.node.store.view()));
            self.check_what_ended_is_gone();
        }
        if self.outlives && self.node.jobs.is_empty() {
            let scan = RollupScan {
                table: "truck".to_owned(),
                width_seconds: 3_600,
                fields: Vec::new(),
                starts: i64::MIN..=i64::MAX,
                devices: None,
            };
            let found = self.node.store.view().rollup(scan).expect("sound files");
            self.model.check_hours(found, self.node.state.catalog());
        }
    }

    /// Tables that merge may hold back segments.
    fn check_what_ended_is_gone(&self) {
        let Some((index, retention)) = &self.retention else {
            return;
        };
        let (store, state) = (&self.node.store, &self.node.state);
        for segment in store.segments.iter() {
            let waits = kept::lacks(segment, &store.rollups, state.catalog(), &|table| {
                let all = retention.outliving(table).into_iter();
                all.map(|(width, _)| width).collect()
            });
            if segment.head.command < *index && !merges(segment, state) && !waits {
                let end = segment.head.partition.end();
                let end = end.unwrap_or(segment.head.merged_at.saturating_add(1));
                let mut tables = tables(segment, state);
                let is_kept = tables.any(|table| end > retention.before(table).0);
                assert!(is_kept, "{segment:?}");
            }
        }
    }
}

fn tables<'a>(segment: &'a SegmentHandle, state: &'a State) -> impl Iterator<Item = &'a str> {
    let info = |table| state.catalog().table_by_id(table).expect("it is known");
    segment
        .rows
        .keys()
        .map(move |table| info(*table).name.as_str())
}

fn merges(segment: &SegmentHandle, state: &State) -> bool {
    tables(segment, state).any(|table| state.catalog().same_time(table) == SameTime::Merge)
}

/// How many pieces of aggregates rollups answered.
fn run(seed: u64) -> usize {
    let sim = SimStorage::new(seed);
    let node = Node::open_rolling(&sim);
    let mut run = Run {
        history: History::new(seed),
        model: Model::default(),
        node,
        rolled: 0,
        retention: None,
        outlives: seed.is_multiple_of(2),
    };
    run.apply(Command::RetentionDays(2));
    run.admit();
    let start = TimeNs(run.history.now);
    run.apply(Command::Clock {
        node: 1,
        now: start,
    });
    for _ in 0..10 + run.history.random.below(20) {
        match run.history.random.below(25) {
            0..14 => run.submit(),
            14..17 => run.merge(),
            17 => run.power_cut(),
            18 => {
                run.settle();
                run.retention();
            }
            19 | 23 | 24 => run.seal(),
            20 => run.width(),
            _ => run.compare(),
        }
    }
    run.settle();
    run.compare();
    replicas_agree(&mut run);
    run.rolled
}

/// Another node applies the same log and merges at other moments; a third starts from a snapshot.
fn replicas_agree(run: &mut Run) {
    let other = SimStorage::new(run.history.random.next());
    let mut node = Node::open_rolling(&other);
    for (at, command) in run.history.log.iter().enumerate() {
        node.apply(at as u64 + 1, command);
        if run.history.random.chance(10) {
            assert!(node.finish_merges());
        }
    }
    assert!(node.finish_merges());
    assert!(
        node.state.encode() == run.node.state.encode(),
        "equal logs make equal states"
    );
    assert_eq!(
        all_rows(&node.store.view()),
        all_rows(&run.node.store.view())
    );
    let digests = |node: &Node| node.store.snapshot().map(|snapshot| snapshot.files);
    assert_eq!(
        digests(&node),
        digests(&run.node),
        "segments are the same bytes"
    );
    let Some(snapshot) = run.node.store.snapshot() else {
        return;
    };
    let third = SimStorage::new(run.history.random.next());
    let mut fresh = Node::open_rolling(&third);
    for file in &snapshot.files {
        super::features::copy(
            &*run.node.store.segments(),
            &*fresh.store.segments(),
            &file.name,
        );
    }
    let index = usize::try_from(snapshot.index).unwrap();
    fresh.state = fresh.store.install(snapshot).unwrap();
    drop(fresh);
    third.power_cut();
    let mut fresh = Node::open_rolling(&third).replayed(&run.history.log);
    assert!(fresh.store.view().index() >= index as u64);
    assert!(fresh.finish_merges());
    assert!(fresh.state.encode() == run.node.state.encode());
    assert_eq!(
        all_rows(&fresh.store.view()),
        all_rows(&run.node.store.view())
    );
}

/// `TRIBUTARY_SEED` runs one, `TRIBUTARY_SEEDS` so many from 0 on, `TRIBUTARY_SEEDS=FROM..TO` others.
/// Where all is tested, the gate, ten thousand: on all cores.
#[test]
fn random_histories_equal_the_model() {
    let said = |name| std::env::var(name).ok();
    if let Some(seed) = said("TRIBUTARY_SEED") {
        run(seed.parse().expect("a seed is a number"));
        return;
    }
    let is_gate = said("CI").is_some_and(|text| text == "true");
    let usual = if is_gate { "10000" } else { "150" };
    let seeds = said("TRIBUTARY_SEEDS").unwrap_or_else(|| usual.to_owned());
    let (from, to) = seeds.split_once("..").unwrap_or(("0", &seeds));
    let number = |text: &str| text.parse::<u64>().expect("seeds are numbers");
    let (next, to) = (AtomicU64::new(number(from)), number(to));
    let work = || {
        let mut rolled = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                return rolled;
            }
            let outcome = std::panic::catch_unwind(|| run(seed));
            rolled += outcome.unwrap_or_else(|_| panic!("run it alone with TRIBUTARY_SEED={seed}"));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rolled: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended
            .map(|rolled| rolled.expect("its seed stands above"))
            .sum()
    });
    assert!(rolled > 0, "no rollup was asked");
}
