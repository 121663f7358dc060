//! What a start makes of records that the disk has damaged.

use shared::batch::{Clock, ClockQuality};

use super::*;

const RULES: [Overflow; 1] = [Overflow::DropOldest];

impl Agent {
    /// Takes and syncs so many batches: the first four go into the live lane.
    fn take_and_sync(&mut self, batches: u64, dice: &mut Dice) {
        for _ in 0..batches {
            self.now += Duration::from_secs(60);
            self.take(0, 5, dice);
            self.now += Duration::from_secs(20);
            self.sync();
        }
    }

    /// Where the disk holds a batch of epoch 1.
    fn position(&self, lane: Lane, number: u64) -> DiskPosition {
        let held = self.buffer.lane(Epoch(1), lane).unwrap();
        let entry = held.at_or_after(BatchNumber(number)).unwrap();
        assert_eq!(entry.to, BatchNumber(number));
        let OnDisk::At(position) = entry.disk else {
            panic!("it is not on disk");
        };
        position
    }

    /// The gap records that are held.
    fn gaps(&self) -> Vec<(Epoch, Lane, u64, u64)> {
        let mut gaps = Vec::new();
        for shelf in &self.buffer.epochs {
            for (lane, held) in Lane::ALL.into_iter().zip(&shelf.lanes) {
                let found = held.entries.iter().filter(|entry| entry.gap.is_some());
                gaps.extend(found.map(|gap| (shelf.epoch, lane, gap.from.0, gap.to.0)));
            }
        }
        gaps
    }
}

fn damage(disk: &SimStorage, position: DiskPosition) {
    let name = format!("{:016x}.journal", position.file());
    assert!(disk.flip_bit(&name, (u64::from(position.offset()) + 50) * 8));
}

/// A start that finds damage.
fn start_damaged(disk: &SimStorage, epoch: u64) -> Agent {
    let mut recovery = Recovery::default();
    let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
    let opened = Journal::open_skipping(disk.as_storage(), FILES, sums_up, &mut visit);
    let (journal, mut skipped) = opened.unwrap();
    skipped.append(&mut recovery.settle(&journal.reader()));
    assert!(!skipped.is_empty());
    recovery.damaged();
    Agent::with(journal, FILES, recovery, epoch, &RULES)
}

#[test]
fn damage_at_the_end_of_a_lane_is_told() {
    let disk = SimStorage::new(20);
    let mut agent = Agent::start(&disk, 1, &RULES);
    agent.take_and_sync(20, &mut Dice(20));
    let live = agent.buffer.sealed(Epoch(1), Lane::Live);
    assert_eq!(live.last, BatchNumber(4));
    for number in [3, 4] {
        damage(&disk, agent.position(Lane::Live, number));
    }
    drop(agent);
    for epoch in 2..4 {
        let mut agent = start_damaged(&disk, epoch);
        assert_eq!(agent.gaps(), [(Epoch(1), Lane::Live, 3, 4)]);
        assert_eq!(agent.buffer.sealed(Epoch(1), Lane::Live), live);
        let arrived = agent.arrived();
        assert_eq!((arrived.rows, arrived.records), (18 * 5, 1));
        agent.sync();
    }
}

#[test]
fn after_a_clean_end_damage_to_the_last_batches_is_told() {
    let disk = SimStorage::new(21);
    let mut agent = Agent::start(&disk, 1, &RULES);
    agent.take_and_sync(9, &mut Dice(21));
    let work = agent.buffer.end_cleanly();
    agent.submit(work);
    damage(&disk, agent.position(Lane::Live, 4));
    damage(&disk, agent.position(Lane::Backlog, 5));
    drop(agent);
    let mut agent = start_damaged(&disk, 2);
    let gaps = [
        (Epoch(1), Lane::Live, 4, 4),
        (Epoch(1), Lane::Backlog, 5, 5),
    ];
    assert_eq!(agent.gaps(), gaps);
    assert_eq!(agent.arrived().rows, 7 * 5);
}

/// A clock that took the number of damaged names would be a fork.
#[test]
fn damaged_names_keep_their_numbers() {
    let disk = SimStorage::new(22);
    let mut agent = Agent::start(&disk, 1, &RULES);
    agent.seal_since_boot();
    agent.take_and_sync(6, &mut Dice(22));
    let names = agent.buffer.sealed(Epoch(1), Lane::Names);
    assert!(names.last > BatchNumber(1));
    damage(&disk, agent.position(Lane::Names, names.last.0));
    drop(agent);
    let mut agent = start_damaged(&disk, 2);
    let number = names.last.0;
    assert_eq!(agent.gaps(), [(Epoch(1), Lane::Names, number, number)]);
    let clock = Clock {
        offset_ns: 1,
        quality: ClockQuality::Cluster,
    };
    let (now, wall) = (agent.now, agent.wall());
    assert_eq!(agent.buffer.give_clock(clock, now, wall), []);
    agent.buffer.stands_at(Epoch(1), Lane::Names, names.last);
    assert_eq!(agent.buffer.give_clock(clock, now, wall).len(), 1);
    let sealed = agent.buffer.sealed(Epoch(1), Lane::Names);
    assert_eq!(sealed.last, names.last.next());
}

/// What a power cut tore away was never there, whatever else is damaged.
#[test]
fn a_torn_tail_is_no_damage() {
    let mut torn = 0;
    for case in 0..200 {
        let disk = SimStorage::new(case);
        let mut dice = Dice(case);
        let mut agent = Agent::start(&disk, 1, &RULES);
        agent.take_and_sync(3, &mut dice);
        let bad = agent.position(Lane::Live, 2);
        disk.cut_at(1 + dice.roll(60));
        while !agent.buffer.disk_failed() {
            // Now and then there is room in the live lane again.
            let live = agent.buffer.current().lane(Lane::Live).written();
            if dice.roll(3) == 0 {
                agent.buffer.advance(Epoch(1), Lane::Live, live);
            }
            let batches = dice.roll(3);
            for _ in 0..batches {
                agent.now += Duration::from_secs(1);
                agent.take(0, 5, &mut dice);
            }
            agent.now += Duration::from_secs(20);
            agent.sync();
        }
        let written = Lane::ALL.map(|lane| agent.buffer.sealed(Epoch(1), lane).last);
        drop(agent);
        disk.power_cut();
        damage(&disk, bad);
        let agent = start_damaged(&disk, 2);
        let acked = agent.buffer.acked(Epoch(1), Lane::Live).last;
        let gaps = [(Epoch(1), Lane::Live, 2, 2)];
        let told = usize::from(acked < BatchNumber(2));
        assert_eq!(agent.gaps(), gaps[..told], "case {case}");
        let found = Lane::ALL.map(|lane| agent.buffer.sealed(Epoch(1), lane).last);
        torn += u64::from(found != written);
    }
    assert!(torn > 50, "{torn} of them were torn");
}
