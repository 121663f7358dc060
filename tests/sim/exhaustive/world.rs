//! The little world: what can happen in it, and what must never be seen.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use shared::batch::read_header;
use shared::id::{Epoch, Lane};
use shared::verdict::Verdict;

use super::cluster::{Cluster, Stream};
use super::core::{Core, Kept, Record};
use super::{Breach, Flaw, Limits, Mixer, Promise};

/// One thing that happens. The number is that of the process, or of the batch on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A reading, which is sealed and given to the disk at once.
    HandOver(usize),
    Synced(usize),
    /// From here on it sends all that its window lets it.
    Connect(usize),
    /// The next of a session commits, and is answered.
    Commit(usize),
    /// As that, from two proposals: the other may commit later.
    CommitTwice(usize),
    /// One of a session commits before one that was sent earlier.
    Overtake(usize),
    /// One of a session that is over commits.
    CommitLate(usize),
    /// The leader changed: it never commits.
    Lose(usize),
    Hear(usize),
    Cut(usize),
    /// The process ends; what was not known to be synced is on its disk, or is not.
    Crash {
        of: usize,
        written: bool,
    },
    CopyDisk,
    /// It starts again, from the copy of its disk.
    Restore,
    /// The machine is copied while it runs.
    CloneMachine,
    /// Its buffer is full: the oldest batch of a lane goes.
    Drop(usize, Lane),
}

/// A batch on its way to a node that was not left since.
#[derive(Clone, Hash)]
pub(super) struct Message {
    bytes: Bytes,
    /// The process and the ticket.
    asks: (usize, u64),
}

#[derive(Clone)]
pub(crate) struct World {
    pub(super) limits: Limits,
    pub(super) flaw: Flaw,
    pub(super) cores: Vec<Core>,
    pub(super) cluster: Cluster,
    /// What a leader that lost its log would go back to.
    before: Option<Box<Cluster>>,
    /// In the order of the hand-overs.
    pub(super) pool: Vec<Message>,
    /// Of sessions that are over, sorted.
    pub(super) late: Vec<Bytes>,
    handed: u8,
    pub(super) kept: BTreeSet<u8>,
    pub(super) dropped: BTreeSet<(Stream, u64)>,
    copy: Option<Vec<Record>>,
    epoch_next: u64,
    pub(super) is_cloned: bool,
}

impl World {
    pub(crate) fn new(limits: Limits, flaw: Flaw) -> World {
        let mut world = World {
            limits,
            flaw,
            cores: vec![Core::start(Vec::new(), Epoch(1))],
            cluster: Cluster::new(),
            before: None,
            pool: Vec::new(),
            late: Vec::new(),
            handed: 0,
            kept: BTreeSet::new(),
            dropped: BTreeSet::new(),
            copy: None,
            epoch_next: 2,
            is_cloned: false,
        };
        for reading in 0..limits.sealed_first {
            world.cores[0].hand_over(reading, limits.live_max);
        }
        world.handed = limits.sealed_first;
        world
    }

    /// The same once all that is sealed was stored and acknowledged without a fault.
    pub(crate) fn begun(mut self) -> World {
        while self.cores[0].buffer.readings_pending() > 0 {
            self.moves_on(0).expect("nothing is wrong yet");
        }
        self.cut(0);
        self
    }

    /// Tells this state from all others.
    pub(crate) fn key(&self) -> u64 {
        let mut hasher = Mixer::default();
        self.lasting().hash(&mut hasher);
        (&self.pool, &self.late, self.handed).hash(&mut hasher);
        self.limits.left().hash(&mut hasher);
        self.copy.as_ref().map(Vec::len).hash(&mut hasher);
        self.before.hash(&mut hasher);
        hasher.finish()
    }

    /// What is left when all that is on its way is gone.
    pub(super) fn lasting(&self) -> impl Hash + '_ {
        let Self {
            cores,
            cluster,
            kept,
            dropped,
            is_cloned,
            ..
        } = self;
        (cores, cluster, kept, dropped, is_cloned)
    }

    /// What is answered and not yet heard, by name.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &'static str> {
        let sessions = self.cores.iter().filter_map(|core| core.session.as_ref());
        let tickets = sessions.flat_map(|session| &session.tickets);
        tickets.filter_map(|(_, verdict)| verdict.map(name))
    }

    /// What may happen here; some of it comes to nothing.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let left = self.limits.left();
        let mut all = Vec::new();
        for (of, core) in self.cores.iter().enumerate() {
            if self.handed < self.limits.readings {
                all.push(Action::HandOver(of));
            }
            all.extend((!core.writing.is_empty()).then_some(Action::Synced(of)));
            if core.session.is_none() {
                all.push(Action::Connect(of));
            } else {
                all.extend(core.hears().then_some(Action::Hear(of)));
                all.extend(left.may(left.cuts).then_some(Action::Cut(of)));
            }
            if left.may(left.crashes) {
                let fates = if core.writing.is_empty() { 1 } else { 2 };
                let crash = |written| Action::Crash { of, written };
                all.extend([crash(false), crash(true)].into_iter().take(fates));
            }
            if left.may(left.drops) {
                all.extend([Lane::Live, Lane::Backlog].map(|lane| Action::Drop(of, lane)));
            }
        }
        for at in 0..self.pool.len() {
            let of = self.pool[at].asks.0;
            let is_first = self.pool[..at].iter().all(|one| one.asks.0 != of);
            if is_first {
                all.push(Action::Commit(at));
                all.extend(left.may(left.twice).then_some(Action::CommitTwice(at)));
            } else {
                all.extend(left.may(left.overtakes).then_some(Action::Overtake(at)));
            }
            all.extend(left.may(left.losses).then_some(Action::Lose(at)));
        }
        all.extend((0..self.late.len()).map(Action::CommitLate));
        if left.may(left.restores) {
            let restore = if self.copy.is_some() {
                Action::Restore
            } else {
                Action::CopyDisk
            };
            all.push(restore);
        }
        all.extend(left.may(left.clones).then_some(Action::CloneMachine));
        all
    }

    /// What an action makes of this state; `None` if nothing.
    pub(crate) fn after(&self, action: Action) -> Result<Option<World>, Breach> {
        let mut world = self.clone();
        if !world.does(action)? {
            return Ok(None);
        }
        world.limits.spend(action);
        world.settle();
        world.judge()?;
        Ok(Some(world))
    }

    pub(super) fn does(&mut self, action: Action) -> Result<bool, Breach> {
        let (flaw, next) = (self.flaw, Epoch(self.epoch_next));
        match action {
            Action::HandOver(of) => {
                self.cores[of].hand_over(self.handed, self.limits.live_max);
                self.handed += 1;
            }
            Action::Synced(of) => {
                let kept = self.cores[of].synced(flaw);
                self.kept.extend(kept);
            }
            Action::Connect(of) => {
                let cluster = &self.cluster;
                let kept = self.cores[of].connect(|stream| cluster.position(stream), next);
                return self.acknowledged(kept).map(|()| true);
            }
            Action::Commit(at) | Action::Overtake(at) => {
                let message = self.pool.remove(at);
                self.commit(&message)?;
            }
            Action::CommitTwice(at) => {
                let message = self.pool.remove(at);
                self.late.push(message.bytes.clone());
                self.commit(&message)?;
            }
            Action::CommitLate(at) => {
                let before = self.key();
                let bytes = self.late.remove(at);
                self.apply(&bytes)?;
                self.late.sort();
                return Ok(self.key() != before);
            }
            Action::Lose(at) => {
                self.pool.remove(at);
                if let Some(before) = self.before.take() {
                    self.cluster = *before;
                }
            }
            Action::Hear(of) => {
                let Some((ticket, verdict, kept)) = self.cores[of].hear(next) else {
                    return Ok(false);
                };
                let stream = (ticket.place.epoch, ticket.place.lane);
                let number = ticket.place.to;
                let is_success = match verdict {
                    Verdict::Ok => true,
                    Verdict::Have(position) => position.last >= number,
                    _ => false,
                };
                if is_success && self.cluster.fate(stream, number.0).is_none() {
                    let what = format!("{number:?} of {stream:?} is answered {verdict:?}");
                    return Err(Breach::of(Promise::Acknowledged, what));
                }
                self.acknowledged(kept)?;
            }
            Action::Cut(of) => self.cut(of),
            Action::Crash { of, written } => self.crash(of, written),
            Action::CopyDisk => self.copy = Some(self.cores[0].disk.clone()),
            Action::Restore => self.restore(),
            Action::CloneMachine => {
                let mut clone = self.cores[0].clone();
                clone.session = None;
                self.cores.push(clone);
                self.is_cloned = true;
            }
            Action::Drop(of, lane) => return Ok(self.drop_oldest(of, lane)),
        }
        Ok(true)
    }

    fn sends(&mut self, of: usize) -> bool {
        let Some((ticket, bytes)) = self.cores[of].send(self.flaw) else {
            return false;
        };
        let asks = (of, ticket.id);
        self.pool.push(Message { bytes, asks });
        if self.flaw == Flaw::AcksTooEarly {
            self.answer(asks, Verdict::Ok);
        }
        true
    }

    fn commit(&mut self, message: &Message) -> Result<(), Breach> {
        let verdict = self.apply(&message.bytes)?;
        self.answer(message.asks, verdict);
        Ok(())
    }

    fn apply(&mut self, bytes: &Bytes) -> Result<Verdict, Breach> {
        if self.flaw == Flaw::LosesCommitted {
            self.before = Some(Box::new(self.cluster.clone()));
        }
        let dropped = &self.dropped;
        let dropped = |stream, number| dropped.contains(&(stream, number));
        self.cluster.commit(bytes, &dropped, self.flaw)
    }

    fn answer(&mut self, (of, id): (usize, u64), verdict: Verdict) {
        if let Some(session) = &mut self.cores[of].session {
            let mut tickets = session.tickets.iter_mut();
            if let Some((_, answer)) = tickets.find(|(ticket, _)| ticket.id == id) {
                answer.get_or_insert(verdict);
            }
        }
    }

    pub(super) fn cut(&mut self, of: usize) {
        self.cores[of].session = None;
        let pool = std::mem::take(&mut self.pool);
        let (over, pool): (Vec<_>, Vec<_>) = pool.into_iter().partition(|one| one.asks.0 == of);
        self.pool = pool;
        self.late.extend(over.into_iter().map(|one| one.bytes));
        self.late.sort();
    }

    pub(super) fn crash(&mut self, of: usize, written: bool) {
        self.cut(of);
        let core = &mut self.cores[of];
        let mut disk = std::mem::take(&mut core.disk);
        if written {
            disk.append(&mut core.writing);
        }
        self.start(of, disk);
    }

    fn start(&mut self, of: usize, disk: Vec<Record>) {
        let core = &mut self.cores[of];
        let own = std::mem::take(&mut core.own);
        *core = Core::start(disk, Epoch(self.epoch_next));
        core.own = own;
        if self.flaw == Flaw::HandsOverAgain {
            for reading in Core::readings_on(&core.disk) {
                core.hand_over(reading, self.limits.live_max);
            }
        }
    }

    /// What was only on the disk that is gone is gone with it.
    fn restore(&mut self) {
        let copy = self.copy.take().expect("only offered with a copy");
        let there = Core::readings_on(&copy);
        let cluster = &self.cluster;
        self.kept
            .retain(|reading| there.contains(reading) || cluster.has(*reading));
        self.cut(0);
        self.start(0, copy);
    }

    fn drop_oldest(&mut self, of: usize, lane: Lane) -> bool {
        let core = &mut self.cores[of];
        let own: Vec<_> = core.own.keys().copied().collect();
        let own = own.into_iter().filter(|((_, of), _)| *of == lane);
        for (stream, number) in own {
            if core.drop_batch(stream, number) {
                self.dropped.insert((stream, number));
                return true;
            }
        }
        false
    }

    /// Sources were told that these are kept, because the cluster said so.
    fn acknowledged(&mut self, kept: Kept) -> Result<(), Breach> {
        self.judge()?;
        if let Some(reading) = kept.iter().find(|reading| !self.cluster.has(**reading)) {
            let what = format!("reading {reading} is acknowledged and not stored");
            return Err(Breach::of(Promise::Acknowledged, what));
        }
        self.kept.extend(kept);
        Ok(())
    }

    /// Writes and sends what may go, and forgets what can never matter again.
    pub(super) fn settle(&mut self) {
        for of in 0..self.cores.len() {
            if self.limits.writes && self.cores[of].writing.is_empty() && self.cores[of].write() {
                self.keeps_too_early(of);
            }
            while self.sends(of) {}
        }
        let newest = self.cores.iter().map(|core| core.buffer.epoch().0).max();
        self.epoch_next = self.epoch_next.max(newest.unwrap_or(0) + 1);
        if self.flaw == Flaw::None {
            let cluster = &self.cluster;
            self.late.retain(|bytes| {
                let (header, _) = read_header(bytes).expect("an agent sealed it");
                let stream = (header.epoch, header.lane);
                header.number > cluster.position(stream).last
            });
        }
    }

    fn keeps_too_early(&mut self, of: usize) {
        if self.flaw == Flaw::KeepsTooEarly {
            self.kept.extend(Core::readings_on(&self.cores[of].writing));
        }
    }
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Have(_) => "have",
        Verdict::Gap(_) => "gap",
        Verdict::Names(_) => "names",
        Verdict::Fork(_) => "fork",
        other => panic!("the model makes no {other:?}"),
    }
}
