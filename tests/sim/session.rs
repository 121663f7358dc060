//! What an agent does all day: hands over, writes to its disk, talks to one node after the other,
//! loses power. In place of MQTT stands the seam behind it: hand-overs in order, answers in order.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use aggregator::cluster::{Answer, Cluster, Ticket};
use aggregator::ingest::Upstream;
use aggregator::state::command::Payload;
use journal::SimStorage;
use shared::id::{AgentId, TimeNs};
use shared::verdict::Verdict;
use tests::dice::Dice;
use tests::history::Stream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::arena::Arena;
use crate::gateway::Core;
use crate::plan::Fault;
use crate::world::rows;

/// How often it looks what is due.
const TICK: Duration = Duration::from_millis(25);
/// A node that takes nothing for so long is left.
const SUBMIT_LIMIT: Duration = Duration::from_secs(12);
/// Readings of an agent: then its batches are small, because every read is of all of them.
const READINGS_MAX: u64 = 15_000;
/// After a session that came to nothing.
const PAUSE_MS: u64 = 400;

/// One agent, over all its lives.
pub(crate) struct Agent {
    arena: Rc<Arena>,
    name: String,
    disk: SimStorage,
    dice: Dice,
    epoch: u64,
    core: Core,
    hand_at: Instant,
    handed: u64,
    /// Up to where sessions that began told that streams are stored.
    told: BTreeMap<Stream, u64>,
    /// What the injector asked of it.
    wanted: Rc<std::cell::Cell<Option<Fault>>>,
}

/// A conversation with one node.
struct Session {
    at: usize,
    node: Cluster,
    /// In the order of the hand-overs; the front is answered first.
    tickets: VecDeque<(edge_agent::window::Ticket, Ticket)>,
}

impl Agent {
    pub(crate) fn new(
        arena: &Rc<Arena>,
        nth: usize,
        seed: u64,
        wanted: Rc<std::cell::Cell<Option<Fault>>>,
    ) -> Agent {
        let name = format!("gw{nth}");
        let disk = SimStorage::new(seed ^ (nth as u64 + 1).wrapping_mul(0xa9e7));
        let epoch = 1 + nth as u64 * 1_000;
        Agent {
            arena: Rc::clone(arena),
            core: Core::open(arena, &name, &disk, epoch),
            name,
            disk,
            dice: Dice::new(seed ^ (nth as u64 + 77)),
            epoch,
            hand_at: Instant::now(),
            handed: 0,
            told: BTreeMap::new(),
            wanted,
        }
    }

    /// Lives until all is over.
    pub(crate) async fn run(mut self) {
        while !self.arena.over.get() {
            let at = usize::try_from(self.dice.roll(3)).expect("one of three");
            if let Some(node) = self.arena.cluster(at) {
                self.talk(at, node).await;
            }
            let until = Instant::now() + Duration::from_millis(self.dice.roll(PAUSE_MS));
            while Instant::now() < until && !self.arena.over.get() {
                self.work();
                sleep(TICK).await;
            }
        }
    }

    /// Nothing is left to send, and all was acknowledged.
    fn is_drained(&self) -> bool {
        self.core.buffer.readings_pending() == 0
    }

    /// All that needs no node. True if the session is over by it.
    fn work(&mut self) -> bool {
        let mut over = false;
        match self.wanted.take() {
            Some(Fault::AgentPowerCut) => {
                self.begin_again("loses power");
                over = true;
            }
            Some(Fault::AgentPowerCutMidWrite) => self.disk.cut_at(1 + self.dice.roll(6)),
            Some(Fault::AgentSyncFails) => self.disk.fail_sync(1 + self.dice.roll(3)),
            Some(_) => over = true,
            None => {}
        }
        if self.arena.hands_over.get() && Instant::now() >= self.hand_at {
            let every = self.arena.plan.batch_every;
            self.hand_at = Instant::now() + every / 4 + self.dice.time(every);
            let devices = self.arena.plan.devices as u64;
            let mut parts = Vec::new();
            let most = self.arena.plan.batch_readings;
            let most = if self.handed < READINGS_MAX {
                most
            } else {
                most.min(3)
            };
            let mut left = 1 + self.dice.roll(most);
            self.handed += left;
            let first = self.dice.roll(devices);
            for nth in 0..devices {
                let count = if nth + 1 == devices {
                    left
                } else {
                    self.dice.roll(left + 1)
                };
                left -= count;
                if count > 0 {
                    let device = format!("{}-{}", self.name, (first + nth) % devices);
                    parts.push((device, usize::try_from(count).expect("few")));
                }
            }
            self.core.hand_over(&parts);
        }
        self.core.sync(false);
        if self.core.ends {
            self.begin_again("ends: its disk failed");
            over = true;
        }
        if !self.arena.hands_over.get() {
            self.arena.drained(&self.name, self.is_drained());
        }
        over
    }

    fn begin_again(&mut self, why: &str) {
        self.arena.note(format_args!("{} {why}", self.name));
        self.disk.power_cut();
        self.epoch += 1;
        self.core = Core::open(&self.arena, &self.name, &self.disk, self.epoch);
    }

    async fn talk(&mut self, at: usize, node: Cluster) {
        let id = AgentId::parse(&self.name).expect("a name of this file");
        let streams: Vec<_> = self.core.buffer.streams().collect();
        let Some(positions) = node.positions(&id, &streams).await else {
            return;
        };
        let acknowledged_ns = self.arena.now_ns();
        for (epoch, lane, position) in &positions {
            self.core.load_at(*epoch, *lane, *position);
            let stream = self.core.stream(*epoch, *lane);
            let mut history = self.arena.history.borrow_mut();
            let told = self.told.entry(stream.clone()).or_default();
            for number in *told + 1..=position.last.0 {
                history.acknowledged(&stream, number, acknowledged_ns);
            }
            *told = position.last.0.max(*told);
        }
        let now = self.core.now();
        let outcome = self
            .core
            .window
            .connected(now, &positions, None, &mut self.core.buffer);
        self.core.outcome(&outcome);
        let name = self.name.clone();
        self.arena.note(format_args!("{name} talks to node {at}"));
        let mut session = Session {
            at,
            node,
            tickets: VecDeque::new(),
        };
        let why = self.converse(&mut session, &id).await;
        self.core.window.disconnected();
        self.arena
            .note(format_args!("{name} leaves node {at}: {why}"));
    }

    async fn converse(&mut self, session: &mut Session, id: &AgentId) -> &'static str {
        loop {
            if self.arena.over.get() {
                return "all is over";
            }
            if self.work() {
                return "it is made to";
            }
            while let Some(ticket) = self.core.next() {
                let Some(bytes) = self.core.bytes(ticket.place) else {
                    self.arena
                        .finding(format!("{}: {:?} cannot be read", self.name, ticket.place));
                    return "it cannot read its disk";
                };
                let payload = Payload::Batch(bytes);
                let submit = session.node.submit(id.clone(), TimeNs(0), payload, 0);
                let Ok(waits) = timeout(SUBMIT_LIMIT, submit).await else {
                    return "nothing is taken";
                };
                session.tickets.push_back((ticket, waits));
            }
            let now = self.core.now();
            if self.core.window.answer_due().is_some_and(|due| now >= due) {
                self.core.window.gave_up(now);
                return "nothing is answered";
            }
            let tick = Instant::now() + TICK;
            let Some((_, waits)) = session.tickets.front_mut() else {
                sleep_until(tick).await;
                continue;
            };
            let answer = tokio::select! {
                biased;
                answer = waits => answer,
                () = sleep_until(tick) => continue,
            };
            let (ticket, _) = session.tickets.pop_front().expect("it answered");
            if !self.hear(session, ticket, answer) {
                return "it does not know";
            }
        }
    }

    /// False if the session is over.
    fn hear(
        &mut self,
        session: &Session,
        ticket: edge_agent::window::Ticket,
        answer: Answer,
    ) -> bool {
        let verdict = match answer {
            Answer::Applied(applied) => applied.repeated().map_or(Verdict::Ok, Verdict::Have),
            Answer::Gap(position) => Verdict::Gap(position),
            Answer::Names(position) => Verdict::Names(position),
            Answer::Fork(position) => Verdict::Fork(position),
            Answer::Busy { retry_ms } => Verdict::Busy { retry_ms },
            Answer::Unknown => return false,
        };
        let took_effect = match verdict {
            Verdict::Ok => true,
            Verdict::Have(position) => position.last >= ticket.place.to,
            _ => false,
        };
        if took_effect {
            let stream = self.core.stream(ticket.place.epoch, ticket.place.lane);
            let number = ticket.place.to.0;
            let at_ns = self.arena.now_ns();
            let fresh = {
                let mut history = self.arena.history.borrow_mut();
                history.acknowledged(&stream, number, at_ns)
            };
            if fresh > 0 {
                let (at, name) = (session.at, &self.name);
                self.arena.note(format_args!(
                    "{name}: node {at} acknowledges batch {number} of {:x}/{}",
                    stream.1, stream.2
                ));
                // Visible to the next query on the node that says so, not to some later one.
                if self.dice.roll(16) == 0
                    && let Some(rows) = rows(&session.node.views().latest())
                {
                    self.arena.judge_own(at, &stream, number, &rows);
                }
            }
        } else {
            self.arena.note(format_args!(
                "{}: {verdict:?} to {:?}",
                self.name, ticket.place
            ));
        }
        self.core.answered(ticket.id, verdict);
        true
    }
}
