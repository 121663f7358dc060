//! Readings of a time at which the agent did not know the time of day.

use shared::batch::{Clock, ClockQuality};

use super::*;
use crate::handed::Stamp;

const SINCE_BOOT: Kind = Kind {
    class: crate::handed::Class(0),
    stamp: Stamp::Boot,
};
const CLOCK: Clock = Clock {
    offset_ns: 1_000_000,
    quality: ClockQuality::Cluster,
};
const BOOTS: [BootId; 2] = [BootId([1; 16]), BootId([2; 16])];

impl Agent {
    fn give_clock(&mut self) -> Vec<(Epoch, Clock)> {
        let (now, wall) = (self.now, self.wall());
        self.buffer.give_clock(CLOCK, now, wall)
    }
}

/// A batch that would be refused is not sent, and one that was not on disk cannot be sent twice.
#[test]
fn what_counts_from_boot_waits_for_its_clock_and_that_for_the_disk() {
    let disk = SimStorage::new(31);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start_with_boot(&disk, 1, BOOTS[0]);
    agent.seal_by(5..8, true, SINCE_BOOT);
    agent.connect(&cluster);
    while agent.send() {}
    assert_eq!(agent.wire.len(), 2, "hello and names");
    assert_eq!(agent.give_clock(), [(Epoch(1), CLOCK)]);
    assert_eq!(agent.give_clock(), [], "an epoch needs one");
    while agent.send() {}
    assert_eq!(agent.wire.len(), 2, "the clock is not on disk");
    agent.sync();
    agent.seal(8..9, true);
    agent.seal_by(9..10, true, SINCE_BOOT);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [5, 6, 7, 8, 9]);
    assert_eq!(cluster.clocks[&Epoch(1)], CLOCK);
}

#[test]
fn an_older_epoch_gets_its_clock_once_its_place_is_known() {
    for (boot, offset_ns, quality) in [
        (BOOTS[0], CLOCK.offset_ns, CLOCK.quality),
        // Of another boot the newest reading came just before this one began.
        (BOOTS[1], CLOCK.offset_ns - 7, ClockQuality::Estimated),
    ] {
        let disk = SimStorage::new(32);
        let mut cluster = Cluster::default();
        let mut agent = Agent::start_with_boot(&disk, 1, BOOTS[0]);
        agent.connect(&cluster);
        agent.seal(1..2, false);
        agent.talk(&mut cluster);
        agent.seal_by(5..8, true, SINCE_BOOT);
        agent.sync();
        drop(agent);
        disk.power_cut();
        let mut agent = Agent::start_with_boot(&disk, 2, boot);
        assert_eq!(agent.give_clock(), []);
        agent.connect_told_nothing();
        assert_eq!(agent.give_clock(), []);
        agent.connect(&cluster);
        let own = Clock { offset_ns, quality };
        assert_eq!(agent.give_clock(), [(Epoch(1), own)]);
        agent.sync();
        agent.talk(&mut cluster);
        assert_eq!(cluster.rows, [1, 5, 6, 7]);
        assert_eq!(cluster.clocks[&Epoch(1)], own);
        assert_eq!(agent.alarms, []);
    }
}

#[test]
fn a_clock_on_disk_is_found_again_and_stays() {
    let disk = SimStorage::new(33);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start_with_boot(&disk, 1, BOOTS[0]);
    agent.seal_by(5..8, true, SINCE_BOOT);
    agent.give_clock();
    agent.sync();
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with_boot(&disk, 2, BOOTS[1]);
    agent.connect(&cluster);
    assert_eq!(agent.give_clock(), []);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [5, 6, 7]);
    assert_eq!(cluster.clocks[&Epoch(1)], CLOCK);
}

#[test]
fn nothing_kept_is_lost_or_doubled_whenever_the_time_gets_known() {
    for case in 0..200 {
        let mut dice = Dice(case);
        let disk = SimStorage::new(case);
        let mut cluster = Cluster::default();
        let mut agent = Agent::start_with_boot(&disk, 1, BOOTS[0]);
        let (mut kept, mut known) = (HashSet::new(), false);
        let (mut value, mut epoch) = (0, 1);
        for _ in 0..100 {
            agent.now += Duration::from_millis(dice.roll(3_000));
            match dice.roll(12) {
                0..=3 => {
                    let kind = if dice.roll(2) == 0 || !known {
                        SINCE_BOOT
                    } else {
                        Kind::default()
                    };
                    agent.seal_by(value..value + 2, dice.roll(2) == 0, kind);
                    value += 2;
                }
                4..=6 => agent.sync(),
                7 => {
                    agent.connect(&cluster);
                    known = true;
                }
                8..=10 => agent.talk_a_little(&mut cluster, &mut dice),
                _ => {
                    kept.extend(agent.kept.drain(..));
                    drop(agent);
                    disk.power_cut();
                    epoch += 1;
                    known = false;
                    let boot = BOOTS[usize::from(dice.roll(2) == 0)];
                    agent = Agent::start_with_boot(&disk, epoch, boot);
                }
            }
            if known {
                agent.give_clock();
            }
        }
        agent.connect(&cluster);
        agent.give_clock();
        for _ in 0..3 {
            agent.sync();
        }
        agent.talk(&mut cluster);
        kept.extend(agent.kept.drain(..));
        assert_eq!(agent.alarms, [], "case {case}");
        check(&cluster, &kept, case);
    }
}
