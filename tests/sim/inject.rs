//! Breaks nodes, wires, disks and clocks, and mends them again.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use tests::dice::Dice;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::arena::Arena;
use crate::net::Weather;
use crate::plan::Fault;
use crate::world::{NAMES, set_clock_wrong};

/// How often it looks whether a node ended by itself.
const TICK: Duration = Duration::from_millis(50);
/// A fault lasts up to so long.
const LASTS_MS: u64 = 8_000;
/// Room that nothing in a run fills.
const PLENTY_BYTES: u64 = 1 << 50;

/// What is to be done later.
enum Later {
    Start(usize),
    MendWires,
    Flap(usize, u32),
    GiveRoom(usize),
    RightClock(usize),
}

pub(crate) struct Injector {
    arena: Rc<Arena>,
    dice: Dice,
    later: Vec<(Instant, Later)>,
    /// Its disk was told to fail since it last started: it may end.
    hurt: [bool; 3],
    /// Its disk has little room, which no restart changes.
    full: [bool; 3],
    agents: Vec<Rc<Cell<Option<Fault>>>>,
}

impl Injector {
    pub(crate) fn new(
        arena: &Rc<Arena>,
        seed: u64,
        agents: Vec<Rc<Cell<Option<Fault>>>>,
    ) -> Injector {
        Injector {
            arena: Rc::clone(arena),
            dice: Dice::new(seed ^ 0x1a1e),
            later: Vec::new(),
            hurt: [false; 3],
            full: [false; 3],
            agents,
        }
    }

    /// Breaks things for as long as the plan says, then mends all of them.
    pub(crate) async fn run(&mut self) {
        let plan = self.arena.plan.clone();
        let end = Instant::now() + plan.lasts;
        let net = self.arena.world.borrow().net.clone();
        net.weather(plan.weather);
        let mut next = Instant::now() + self.dice.time(plan.calm);
        while Instant::now() < end {
            self.look().await;
            if Instant::now() >= next && !plan.faults.is_empty() {
                next = Instant::now() + self.dice.time(plan.calm);
                let at = usize::try_from(self.dice.roll(plan.faults.len() as u64));
                let fault = plan.faults[at.expect("a place in a list")];
                // Rolled even if the fault is left out, so that what follows stays the same.
                let (at, lasts) = (self.node(), self.dice.time(Duration::from_millis(LASTS_MS)));
                let detail = self.dice.roll(1 << 20);
                if self.arena.injects(fault) {
                    self.arena
                        .note(format_args!("{} at node {at}", fault.name()));
                    self.inject(fault, at, Instant::now() + lasts, detail).await;
                }
            }
            sleep(TICK).await;
        }
        self.mend(&net).await;
    }

    /// Every second time the leader.
    fn node(&mut self) -> usize {
        let (leads, any) = (self.dice.roll(2) == 0, self.dice.roll(3));
        let any = usize::try_from(any).expect("one of three");
        let leader = self.arena.world.borrow().leader();
        leader.filter(|_| leads).unwrap_or(any)
    }

    async fn inject(&mut self, fault: Fault, at: usize, until: Instant, detail: u64) {
        let net = self.arena.world.borrow().net.clone();
        let disk = self.arena.world.borrow().disk(at).clone();
        let other = (at + 1 + usize::from(detail.is_multiple_of(2))) % 3;
        match fault {
            Fault::PowerCut => self.cut_power(&[at], until).await,
            Fault::PowerCutOfQuorum => self.cut_power(&[at, other], until).await,
            Fault::PowerCutOfAll => self.cut_power(&[0, 1, 2], until).await,
            Fault::PowerCutMidWrite => {
                self.hurt[at] = true;
                disk.cut_at(1 + detail % 40);
            }
            Fault::PowerCutInRecovery => {
                self.cut_power(&[at], Instant::now()).await;
                self.hurt[at] = true;
                disk.cut_at(1 + detail % 12);
            }
            Fault::Kill => {
                self.stop(at).await;
                self.later.push((until, Later::Start(at)));
            }
            Fault::SyncFails => {
                self.hurt[at] = true;
                disk.fail_sync(1 + detail % 20);
            }
            Fault::WriteFails => {
                self.hurt[at] = true;
                disk.fail_write(1 + detail % 40);
            }
            Fault::DiskFull => {
                self.hurt[at] = true;
                self.full[at] = true;
                disk.fill_up(detail % (64 << 10));
                self.later.push((until, Later::GiveRoom(at)));
            }
            Fault::Isolation => {
                self.arena.world.borrow().isolate(at);
                self.later.push((until, Later::MendWires));
            }
            Fault::OneWayCut => {
                let (from, to) = if detail.is_multiple_of(3) {
                    (other, at)
                } else {
                    (at, other)
                };
                net.cut_one_way(NAMES[from], NAMES[to]);
                self.later.push((until, Later::MendWires));
            }
            Fault::Flapping => self.later.push((Instant::now(), Later::Flap(at, 12))),
            Fault::Pause => net.hold(NAMES[at], until),
            Fault::SlowEntries => {
                net.slow(NAMES[at], Duration::from_millis(detail % 3_000));
                self.later.push((until, Later::MendWires));
            }
            Fault::ClockJump => {
                let hours = [-720, -1, 1, 720][usize::try_from(detail % 4).expect("one of four")];
                set_clock_wrong(at, hours * 3_600_000_000_000);
                self.later.push((until, Later::RightClock(at)));
            }
            Fault::AgentPowerCut
            | Fault::AgentPowerCutMidWrite
            | Fault::AgentSyncFails
            | Fault::AgentMoves
            | Fault::AnswersSwallowed => {
                let agent = usize::try_from(detail).expect("small") % self.agents.len();
                self.agents[agent].set(Some(fault));
            }
            Fault::MessageLost | Fault::MessageLate => {}
        }
    }

    async fn cut_power(&mut self, nodes: &[usize], until: Instant) {
        for at in nodes {
            self.cut(*at).await;
            self.later.push((until, Later::Start(*at)));
        }
    }

    async fn cut(&mut self, at: usize) {
        let disk = self.arena.world.borrow().disk(at).clone();
        let cluster = self.arena.world.borrow_mut().take(at);
        disk.power_cut();
        self.hurt[at] = self.full[at];
        if let Some(cluster) = cluster {
            cluster.stop().await;
        }
    }

    async fn stop(&mut self, at: usize) {
        let cluster = self.arena.world.borrow_mut().take(at);
        if let Some(cluster) = cluster {
            cluster.stop().await;
        }
    }

    /// Does what is due; starts again what ended by itself, which only a hurt node may.
    async fn look(&mut self) {
        for at in 0..3 {
            let is_off = self.arena.world.borrow().disk(at).is_off();
            let cluster = self.arena.cluster(at);
            let failed = cluster.and_then(|cluster| cluster.failed().now_or_never());
            if failed.is_none() && !is_off {
                continue;
            }
            let why = failed.unwrap_or_else(|| "its power went".to_owned());
            self.arena.note(format_args!("node {at} ended: {why}"));
            if !self.hurt[at] {
                self.arena
                    .finding(format!("node {at} ended by itself: {why}"));
            }
            // The process ends; sometimes the machine does with it.
            if is_off || self.dice.roll(2) == 0 {
                self.cut(at).await;
            } else {
                self.stop(at).await;
            }
            let soon = Instant::now() + self.dice.time(Duration::from_secs(2));
            self.later.push((soon, Later::Start(at)));
        }
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(when, _)| *when <= now);
        self.later = later;
        for (_, what) in due {
            self.later(what).await;
        }
    }

    async fn later(&mut self, what: Later) {
        let net = self.arena.world.borrow().net.clone();
        match what {
            Later::Start(at) => self.start(at).await,
            Later::MendWires => {
                self.arena.note("the wires are mended");
                net.heal();
            }
            Later::Flap(_, 0) => net.heal(),
            Later::Flap(at, times) => {
                if times % 2 == 0 {
                    self.arena.world.borrow().isolate(at);
                } else {
                    net.heal();
                }
                let soon = Instant::now() + self.dice.time(Duration::from_millis(900));
                self.later.push((soon, Later::Flap(at, times - 1)));
            }
            Later::GiveRoom(at) => {
                self.arena.note(format_args!("node {at} has room"));
                self.full[at] = false;
                self.arena.world.borrow().disk(at).fill_up(PLENTY_BYTES);
            }
            Later::RightClock(at) => set_clock_wrong(at, 0),
        }
    }

    async fn start(&mut self, at: usize) {
        if self.arena.cluster(at).is_some() {
            return;
        }
        let parts = self.arena.world.borrow_mut().parts(at);
        let (stop, stopped) = watch::channel(false);
        let began = match parts {
            Ok(parts) => parts.run(stopped).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match began {
            Ok((cluster, answerer)) => {
                self.arena.note(format_args!("node {at} starts"));
                let mut world = self.arena.world.borrow_mut();
                world.runs(at, cluster, stop, answerer);
            }
            Err(why) => {
                self.arena
                    .note(format_args!("node {at} does not start: {why}"));
                if !self.hurt[at] {
                    self.arena
                        .finding(format!("node {at} does not start: {why}"));
                }
                self.cut(at).await;
                let soon = Instant::now() + Duration::from_millis(500);
                self.later.push((soon, Later::Start(at)));
            }
        }
    }

    /// Everything works again, for good.
    async fn mend(&mut self, net: &crate::net::Net) {
        net.heal();
        net.weather(Weather::default());
        self.later.clear();
        for at in 0..3 {
            set_clock_wrong(at, 0);
            self.full[at] = false;
            let disk = self.arena.world.borrow().disk(at).clone();
            disk.fill_up(PLENTY_BYTES);
            if self.hurt[at] || disk.is_off() {
                self.cut(at).await;
            }
            self.start(at).await;
        }
        self.arena.note("all is mended");
    }

    /// Once all is mended no node ends.
    pub(crate) async fn watch(&mut self) {
        while !self.arena.over.get() {
            self.look().await;
            sleep(TICK).await;
        }
    }
}
