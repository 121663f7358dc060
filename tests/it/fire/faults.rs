//! What can break, each kind with how it hurts, how it heals, and whether this machine can do it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tests::dice::Dice;
use tests::process;
use tests::trace::{self, Trace};
use tests::{clock, disk, net, wait};

use super::stage::{NODES, Stage};

const MINUTE_SECONDS: i64 = 60;
/// Longer than a lease and a heartbeat, shorter than a round is to take.
const SYNC_DELAY_MICROSECONDS: u32 = 1_000_000;
/// How long a node may take until it stops by itself once it cannot sync.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// One of so many next syncs is the last.
const SYNCS_MAX: u64 = 20;
/// What a flapping link is up or down at a time, at most.
const FLAP: Duration = Duration::from_secs(1);
const FLAPS: u64 = 4;
const LOSS: f64 = 0.2;
const NARROW_KBITS: u32 = 256;
const NARROW_WAIT_MS: u32 = 400;
/// A file on a disk that takes all room there is.
const FILLER: &str = "filler";

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill,
    /// What was not synced is gone.
    PowerCut,
    /// SIGSTOP, and later it goes on.
    Pause,
    /// One node and the others do not hear each other; half of the time nobody hears it at all.
    Isolation,
    /// Two do not hear each other, both hear the third.
    CutBetween,
    /// One does not hear another, who hears it.
    OneWayCut,
    /// Alone, together, alone, together.
    Flapping,
    /// A fifth of all packets.
    Loss,
    /// A modem.
    NarrowLink,
    /// Each sync fails, and what it was for is gone.
    SyncFails,
    /// Each sync takes a second longer.
    SlowSync,
    /// SIGKILL in one of the next syncs.
    KillAtSync,
    DiskFull,
    /// The wall clock steps to and fro.
    ClockJump,
    AgentKill,
    AgentPowerCut,
    AgentPause,
    /// As of a node: what it was for is gone.
    AgentSyncFails,
}

/// A fault under way.
pub(crate) struct Wound {
    fault: Fault,
    nodes: Vec<usize>,
    traces: Vec<Trace>,
}

impl Fault {
    pub(crate) const ALL: [Fault; 18] = [
        Fault::Kill,
        Fault::PowerCut,
        Fault::Pause,
        Fault::Isolation,
        Fault::CutBetween,
        Fault::OneWayCut,
        Fault::Flapping,
        Fault::Loss,
        Fault::NarrowLink,
        Fault::SyncFails,
        Fault::SlowSync,
        Fault::KillAtSync,
        Fault::DiskFull,
        Fault::ClockJump,
        Fault::AgentKill,
        Fault::AgentPowerCut,
        Fault::AgentPause,
        Fault::AgentSyncFails,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::PowerCut => "power_cut",
            Fault::Pause => "pause",
            Fault::Isolation => "isolation",
            Fault::CutBetween => "cut_between",
            Fault::OneWayCut => "one_way_cut",
            Fault::Flapping => "flapping",
            Fault::Loss => "loss",
            Fault::NarrowLink => "narrow_link",
            Fault::SyncFails => "sync_fails",
            Fault::SlowSync => "slow_sync",
            Fault::KillAtSync => "kill_at_sync",
            Fault::DiskFull => "disk_full",
            Fault::ClockJump => "clock_jump",
            Fault::AgentKill => "agent_kill",
            Fault::AgentPowerCut => "agent_power_cut",
            Fault::AgentPause => "agent_pause",
            Fault::AgentSyncFails => "agent_sync_fails",
        }
    }

    /// Why this machine cannot do it, if so.
    pub(crate) fn cannot(self) -> Option<String> {
        match self {
            Fault::Isolation
            | Fault::CutBetween
            | Fault::OneWayCut
            | Fault::Flapping
            | Fault::Loss
            | Fault::NarrowLink => net::cannot(),
            Fault::SlowSync | Fault::KillAtSync => trace::cannot(),
            Fault::SyncFails | Fault::AgentSyncFails => trace::cannot().or_else(disk::cannot),
            Fault::ClockJump => clock::library().err(),
            Fault::PowerCut | Fault::DiskFull | Fault::AgentPowerCut => disk::cannot(),
            Fault::Kill | Fault::Pause | Fault::AgentKill | Fault::AgentPause => None,
        }
    }

    /// Breaks it. Whatever lasts goes on until the wound is healed.
    pub(crate) fn hurt(self, stage: &mut Stage, dice: &mut Dice) -> Wound {
        let (one, two) = two_of(stage, dice);
        let hit = match dice.roll(4) {
            0 => (0..NODES).collect(),
            1 => vec![one, two],
            _ => vec![one],
        };
        let mut wound = Wound {
            fault: self,
            nodes: Vec::new(),
            traces: Vec::new(),
        };
        match self {
            // These count themselves, each time.
            Fault::Kill => stage.kill(&hit),
            Fault::PowerCut => stage.cut_power(&hit),
            Fault::AgentKill => stage.kill_agent(dice.below(2)),
            Fault::AgentPowerCut => stage.cut_agent_power(dice.below(2)),
            lasting => {
                stage.tally.note(lasting.name(), 1);
                wound.traces = lasting.begin(stage, dice, (one, two), &hit);
            }
        }
        wound.nodes = hit;
        wound
    }

    fn begin(
        self,
        stage: &mut Stage,
        dice: &mut Dice,
        (one, two): (usize, usize),
        hit: &[usize],
    ) -> Vec<Trace> {
        match self {
            Fault::Pause => stage.cluster.freeze_many(hit).unwrap(),
            Fault::Isolation => isolate(stage, one, dice.roll(2) == 0),
            Fault::CutBetween => cut_between(stage, one, two),
            Fault::OneWayCut => stage.net().cut(one, two).unwrap(),
            Fault::Flapping => flap(stage, dice, one),
            Fault::Loss => (0..NODES).for_each(|node| stage.net().lose(node, LOSS).unwrap()),
            Fault::NarrowLink => {
                let narrow = stage.net().narrow(one, NARROW_KBITS, NARROW_WAIT_MS);
                narrow.unwrap();
            }
            Fault::SyncFails => return inject(stage, hit, "error=EIO"),
            Fault::SlowSync => {
                let how = format!("delay_enter={SYNC_DELAY_MICROSECONDS}");
                return inject(stage, hit, &how);
            }
            Fault::KillAtSync => {
                let nth = 1 + dice.roll(SYNCS_MAX);
                return inject(stage, hit, &format!("signal=SIGKILL:when={nth}"));
            }
            Fault::AgentSyncFails => return vec![inject_agent(stage, one % 2)],
            Fault::DiskFull => hit.iter().for_each(|node| fill(stage, *node)),
            Fault::ClockJump => {
                let ahead = [
                    -MINUTE_SECONDS * 60,
                    MINUTE_SECONDS,
                    30 * 24 * 60 * MINUTE_SECONDS,
                ];
                for node in hit {
                    stage.clocks[*node].step(ahead[dice.below(ahead.len())]);
                }
            }
            Fault::AgentPause => stage.agents[one % 2].freeze().unwrap(),
            Fault::Kill | Fault::PowerCut | Fault::AgentKill | Fault::AgentPowerCut => {}
        }
        Vec::new()
    }
}

impl Wound {
    /// Whether a node may end of it while it lasts: a sync that failed, also for want of room, is
    /// final.
    pub(crate) fn excuses(&self, node: usize) -> bool {
        let stops = [Fault::SyncFails, Fault::DiskFull, Fault::KillAtSync];
        stops.contains(&self.fault) && self.nodes.contains(&node)
    }

    /// Waits until each node has stopped that has to: one that cannot sync says so and goes. The last
    /// one of all may have nothing to sync any more.
    pub(crate) fn await_stop(&self, stage: &mut Stage) {
        if self.fault != Fault::SyncFails {
            return;
        }
        let may_stay = usize::from(self.nodes.len() == NODES);
        let gone = || {
            for node in &self.nodes {
                let has_ended = stage.cluster.ended(*node).is_some();
                stage.tally.note("node_ended", usize::from(has_ended));
            }
            (stage.running(&self.nodes).len() <= may_stay).then_some(())
        };
        if let Err(late) = wait::until("who cannot sync stops", STOP_LIMIT, gone) {
            panic!("{late}: {:?}\n{}", self.nodes, stage.cluster.tails());
        }
    }

    /// Mends it, and starts what it has ended.
    pub(crate) fn heal(self, stage: &mut Stage) {
        match self.fault {
            Fault::Pause => stage.go_on(&self.nodes),
            Fault::Isolation
            | Fault::CutBetween
            | Fault::OneWayCut
            | Fault::Flapping
            | Fault::Loss
            | Fault::NarrowLink => stage.net().heal().unwrap(),
            // What was not synced is gone indeed.
            Fault::SyncFails => stage.cut_power(&self.nodes),
            Fault::DiskFull => self.nodes.iter().for_each(|node| make_room(stage, *node)),
            Fault::ClockJump => self
                .nodes
                .iter()
                .for_each(|node| stage.clocks[*node].step(0)),
            Fault::AgentPause => stage.agents.iter().for_each(|agent| agent.go_on().unwrap()),
            Fault::AgentSyncFails => (0..2).for_each(|agent| stage.cut_agent_power(agent)),
            Fault::Kill
            | Fault::PowerCut
            | Fault::SlowSync
            | Fault::KillAtSync
            | Fault::AgentKill
            | Fault::AgentPowerCut => {}
        }
        for trace in self.traces {
            trace.release().unwrap();
        }
        stage.run(&self.nodes);
    }
}

/// Two nodes; the first is the leader half of the time.
fn two_of(stage: &Stage, dice: &mut Dice) -> (usize, usize) {
    let chosen = dice.below(NODES);
    let one = match dice.roll(2) {
        0 => stage.cluster.leader().unwrap_or(chosen),
        _ => chosen,
    };
    (one, (one + 1 + dice.below(NODES - 1)) % NODES)
}

fn cut_between(stage: &Stage, one: usize, two: usize) {
    stage.net().cut(one, two).unwrap();
    stage.net().cut(two, one).unwrap();
}

fn isolate(stage: &Stage, one: usize, is_whole: bool) {
    if is_whole {
        stage.net().silence(one).unwrap();
        return;
    }
    let others = (0..NODES).filter(|node| *node != one);
    others.for_each(|other| cut_between(stage, one, other));
}

fn flap(stage: &Stage, dice: &mut Dice, one: usize) {
    for _ in 0..FLAPS {
        isolate(stage, one, true);
        wait::pass(dice.time(FLAP));
        stage.net().heal().unwrap();
        wait::pass(dice.time(FLAP));
    }
    isolate(stage, one, true);
}

/// All about at once.
fn inject(stage: &Stage, nodes: &[usize], how: &str) -> Vec<Trace> {
    let traced = nodes.iter().filter_map(|node| {
        let log = stage.cluster.folder().join(format!("strace-{node}.log"));
        Some((stage.cluster.process_id(*node)?, log))
    });
    thread::scope(|scope| {
        let begin = |(id, log): (u32, PathBuf)| {
            // Two may not trace one process: the first stays.
            scope.spawn(move || Trace::inject(id, trace::SYNCS, how, &log).ok())
        };
        let begun: Vec<_> = traced.map(begin).collect();
        let traces = begun.into_iter().map(|thread| thread.join().unwrap());
        traces.flatten().collect()
    })
}

fn inject_agent(stage: &Stage, agent: usize) -> Trace {
    let log = stage
        .cluster
        .folder()
        .join(format!("strace-agent-{agent}.log"));
    let id = stage.agents[agent].process_id().unwrap();
    Trace::inject(id, trace::SYNCS, "error=EIO", &log).unwrap()
}

fn fill(stage: &Stage, node: usize) {
    let place = stage.node_disks[node].place();
    let bytes = stage.node_disks[node].free_bytes().unwrap();
    let mut command = Command::new("fallocate");
    command
        .args(["--length", &bytes.to_string()])
        .arg(place.join(FILLER));
    // The node takes room meanwhile: then less than all is asked for, or all is gone already.
    let _ = process::run(&mut command);
}

fn make_room(stage: &Stage, node: usize) {
    let place = stage.node_disks[node].place();
    // A power cut may have taken it already.
    let _ = fs::remove_file(place.join(FILLER));
    // And may not bring it back.
    File::open(place)
        .and_then(|folder| folder.sync_all())
        .unwrap();
}
