//! The swarm: what one seed draws of faults, sizes and limits. Most seeds have only some kinds of
//! faults, so that none hides what another would show.

use std::time::Duration;

use aggregator::cluster::Wishes;
use aggregator::cluster::log::{LogOptions, Mode};
use aggregator::config::Timing;
use aggregator::state::Wish;
use tests::dice::Dice;
use tests::history::Content;

use crate::net::Weather;
use crate::world::{BEGIN_NS, Sizes};

/// Kinds of faults to leave out, by name, with commas between: for shrinking.
pub(crate) const SKIP: &str = "TRIBUTARY_SIM_SKIP";

/// What the run does on purpose. What single messages and disks do is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    PowerCut,
    PowerCutOfQuorum,
    PowerCutOfAll,
    /// In the middle of an operation of the disk.
    PowerCutMidWrite,
    /// A while after the start from the disk, counted in its operations.
    PowerCutInRecovery,
    /// The process ends; the disk keeps what it was given.
    Kill,
    SyncFails,
    WriteFails,
    DiskFull,
    Isolation,
    OneWayCut,
    Flapping,
    Pause,
    SlowEntries,
    ClockJump,
    AgentPowerCut,
    AgentPowerCutMidWrite,
    AgentSyncFails,
    AgentMoves,
    AnswersSwallowed,
    MessageLost,
    MessageLate,
}

pub(crate) const FAULTS: [(Fault, &str); 22] = [
    (Fault::PowerCut, "power_cut"),
    (Fault::PowerCutOfQuorum, "power_cut_of_quorum"),
    (Fault::PowerCutOfAll, "power_cut_of_all"),
    (Fault::PowerCutMidWrite, "power_cut_mid_write"),
    (Fault::PowerCutInRecovery, "power_cut_in_recovery"),
    (Fault::Kill, "kill"),
    (Fault::SyncFails, "sync_fails"),
    (Fault::WriteFails, "write_fails"),
    (Fault::DiskFull, "disk_full"),
    (Fault::Isolation, "isolation"),
    (Fault::OneWayCut, "one_way_cut"),
    (Fault::Flapping, "flapping"),
    (Fault::Pause, "pause"),
    (Fault::SlowEntries, "slow_entries"),
    (Fault::ClockJump, "clock_jump"),
    (Fault::AgentPowerCut, "agent_power_cut"),
    (Fault::AgentPowerCutMidWrite, "agent_power_cut_mid_write"),
    (Fault::AgentSyncFails, "agent_sync_fails"),
    (Fault::AgentMoves, "agent_moves"),
    (Fault::AnswersSwallowed, "answers_swallowed"),
    (Fault::MessageLost, "message_lost"),
    (Fault::MessageLate, "message_late"),
];

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        FAULTS
            .iter()
            .find(|(fault, _)| *fault == self)
            .map_or("", |(_, name)| name)
    }
}

/// What a seed draws.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) sizes: Sizes,
    pub(crate) weather: Weather,
    /// Each as often as it is listed.
    pub(crate) faults: Vec<Fault>,
    pub(crate) skipped: Vec<Fault>,
    /// Between two faults, at most.
    pub(crate) calm: Duration,
    pub(crate) agents: usize,
    pub(crate) devices: usize,
    /// Readings of one batch, at most.
    pub(crate) batch_readings: u64,
    /// Between two batches, at most.
    pub(crate) batch_every: Duration,
    pub(crate) window_batches: usize,
    pub(crate) window_bytes: usize,
    /// Between two reads of a client, at most.
    pub(crate) read_every: Duration,
    /// How long faults and readings come.
    pub(crate) lasts: Duration,
    pub(crate) content: Content,
}

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    let at = dice.roll(from.len() as u64);
    from[usize::try_from(at).expect("a place in a list")]
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let large = dice.roll(3) == 0;
        let skip = std::env::var(SKIP).unwrap_or_default();
        let skips = |name: &&str| skip.split(',').any(|one| one == *name);
        let skipped = FAULTS.iter().filter(|(_, name)| skips(name));
        let skipped: Vec<Fault> = skipped.map(|(fault, _)| *fault).collect();
        let mut weather = Weather {
            lost: pick(&mut dice, &[0, 2, 20, 100]),
            late: pick(&mut dice, &[0, 5, 50, 200]),
            late_by: ms(pick(&mut dice, &[5, 50, 500])),
        };
        if skipped.contains(&Fault::MessageLost) {
            weather.lost = 0;
        }
        if skipped.contains(&Fault::MessageLate) {
            weather.late = 0;
        }
        Plan {
            sizes: sizes(&mut dice, large),
            weather,
            faults: faults(&mut dice),
            skipped,
            calm: ms(pick(&mut dice, &[300, 1_000, 3_000, 8_000])),
            agents: pick(&mut dice, &[1, 2, 3, 4]),
            devices: pick(&mut dice, &[1, 2, 5]),
            batch_readings: if large {
                pick(&mut dice, &[500, 1_000, 2_000])
            } else {
                pick(&mut dice, &[3, 20, 100, 250])
            },
            batch_every: ms(pick(&mut dice, &[60, 200, 500])),
            window_batches: pick(&mut dice, &[1, 4, 16, 64]),
            window_bytes: if large { 256 << 10 } else { 16 << 10 },
            read_every: ms(pick(&mut dice, &[400, 1_000, 3_000])),
            lasts: ms(pick(&mut dice, &[8_000, 15_000, 30_000])),
            content: Content {
                begin_ns: BEGIN_NS,
                step_ns: pick(&mut dice, &[1_000_000, 1_000_000_000, 60_000_000_000]),
            },
        }
    }
}

fn faults(dice: &mut Dice) -> Vec<Fault> {
    let mut drawn = Vec::new();
    for (fault, _) in FAULTS {
        // Half of the kinds, some of them more often.
        let times = pick(dice, &[0, 0, 0, 1, 1, 3]);
        if !matches!(fault, Fault::MessageLost | Fault::MessageLate) {
            drawn.extend(std::iter::repeat_n(fault, times));
        }
    }
    drawn
}

fn sizes(dice: &mut Dice, large: bool) -> Sizes {
    let heartbeat = pick(dice, &[50, 100, 200]);
    let (file_bytes, files_max) = if large {
        (pick(dice, &[2 << 20, 4 << 20]), 16)
    } else {
        (pick(dice, &[128 << 10, 256 << 10]), pick(dice, &[24, 64]))
    };
    Sizes {
        wishes: Wishes {
            merge_bytes: pick(dice, &[4 << 10, 32 << 10, 256 << 10]),
            merge_age: ms(pick(dice, &[500, 2_000, 20_000])),
            seal_rest: ms(pick(dice, &[1_000, 2_000, 30_000])),
            settings: Wish::new(Some(400), Some(pick(dice, &[1, 24]))),
            log_keep_bytes: pick(dice, &[4 << 10, 32 << 10, 512 << 10]),
        },
        log: LogOptions {
            journal: journal::Options {
                file_bytes,
                files_max,
            },
            cached_bytes_max: pick(dice, &[1 << 10, 16 << 10, 1 << 20]),
            mode: Mode::Inline,
        },
        log_reserve_bytes: 4 * file_bytes,
        timing: Timing {
            heartbeat: ms(heartbeat),
            election_min: ms(heartbeat * 4),
            election_max: ms(heartbeat * 8),
        },
    }
}
