//! What is on disk held as runs, and told by summaries: memory stays flat, nothing is lost by it, and a
//! start finds what one finds that reads everything.

use shared::batch::{Clock, ClockQuality};

use super::*;

/// A start that believes the summaries finds what one finds that reads everything.
/// Returns whether there was a summary behind the first file.
pub(super) fn check_starts(disk: &SimStorage, rules: &[Overflow], case: u64) -> bool {
    let of = |mut agent: Agent| {
        let held = agent.buffer.held;
        let since = agent.buffer.unacked_since.keys().next().copied();
        let sums = (held.bytes, held.readings_pending, since);
        let classes: Vec<u64> = agent.buffer.classes().map(|class| class.bytes).collect();
        (sums, classes, agent.arrived(), agent.summed_up_in)
    };
    let (all_sums, all_classes, all_arrived, _) = of(Agent::start_reading_all(disk, 2, rules));
    let (sums, classes, arrived, summed_up_in) = of(Agent::start(disk, 2, rules));
    assert_eq!((sums, classes), (all_sums, all_classes), "case {case}");
    assert!(arrived == all_arrived, "case {case}");
    summed_up_in > 1
}

/// While batches are dropped, thinned and written again the power goes at any write.
#[test]
fn after_a_power_cut_a_summary_tells_what_all_the_records_tell() {
    let policies = [Overflow::DropOldest, Overflow::Thin];
    let mut summed_up = 0;
    for case in 0..100 {
        let disk = SimStorage::new(case);
        let mut dice = Dice(case);
        let rules: Vec<Overflow> = (0..=dice.roll(2))
            .map(|_| policies[usize::try_from(dice.roll(2)).unwrap()])
            .collect();
        let mut agent = Agent::start(&disk, 1, &rules);
        disk.cut_at(1 + dice.roll(3_000));
        while !agent.buffer.disk_failed() {
            agent.now += Duration::from_secs(60);
            let class = u8::try_from(dice.roll(rules.len() as u64)).unwrap();
            let count = 20 + i64::try_from(dice.roll(40)).unwrap();
            agent.take(class, count, &mut dice);
            agent.thin();
            agent.sync();
            // Once more, while no gap record waits.
            agent.sync();
            if case % 2 == 0 && agent.now > Duration::from_secs(60 * (case + 100)) {
                agent.cut_at_summary = Some(disk.clone());
            }
        }
        drop(agent);
        disk.power_cut();
        summed_up += u64::from(check_starts(&disk, &rules, case));
    }
    assert!(summed_up > 50, "{summed_up} of them had a summary");
}

#[test]
fn a_damaged_batch_of_a_run_is_told_and_the_rest_of_it_is_there() {
    let disk = SimStorage::new(6);
    let mut agent = Agent::start(&disk, 1, &[Overflow::DropOldest]);
    let mut dice = Dice(6);
    for _ in 0..400 {
        agent.now += Duration::from_secs(60);
        agent.take(0, 10, &mut dice);
        agent.sync();
    }
    let lane = agent.buffer.current().lane(Lane::Backlog);
    let run = lane
        .entries
        .iter()
        .find(|entry| entry.run.is_some())
        .unwrap();
    let (from, to) = (run.from, run.to);
    assert!(to.0 - from.0 >= 4);
    let run = RunToLoad::of(Epoch(1), Lane::Backlog, run).unwrap();
    let loaded = run.read(agent.handle.reader());
    for nth in [0, 2, 3] {
        let OnDisk::At(position) = loaded.entries[nth].disk else {
            panic!("it was read from there");
        };
        let name = format!("{:016x}.journal", position.file());
        assert!(disk.flip_bit(&name, (u64::from(position.offset()) + 50) * 8));
    }
    let pending = agent.buffer.readings_pending();
    let loaded = run.read(agent.handle.reader());
    assert_eq!((loaded.missing(), loaded.damaged().len()), (3, 2));
    let settled = agent.buffer.loaded(loaded, agent.wall());
    assert_eq!((settled.readings_lost, settled.gap_records), (30, 2));
    assert_eq!(agent.buffer.readings_pending(), pending - 30);
    agent.now += Duration::from_secs(60);
    agent.sync();
    let arrived = agent.arrived();
    assert_eq!(arrived.gaps[&GapReason::Damaged], 30);
    assert_eq!((arrived.rows, arrived.records), (pending - 30, 2));
    drop(agent);
    // What is told stays told, and a start does not come by it again.
    let again = Agent::start(&disk, 2, &[Overflow::DropOldest]).arrived();
    assert!(again.gaps == arrived.gaps && again.rows == arrived.rows);
}

/// A gateway that seals small batches for a day without a cluster, and is started anew.
#[test]
fn memory_and_a_start_are_the_same_at_any_backlog() {
    const BATCHES: u64 = 100_000;
    let files = Options {
        file_bytes: 1 << 20,
        files_max: 96,
    };
    let disk = SimStorage::new(5);
    let rules = [Overflow::DropOldest];
    let mut dice = Dice(5);
    let mut agent = Agent::start_with(&disk, files, 1, &rules);
    for nth in 0..BATCHES {
        agent.now += Duration::from_secs(1);
        agent.take(0, 1, &mut dice);
        if nth % 200 == 0 {
            agent.sync();
        }
    }
    agent.now += Duration::from_secs(60);
    agent.sync();
    let bytes = agent.buffer.bytes();
    let readings = agent.buffer.readings_pending();
    assert_eq!(readings, BATCHES);
    // One for each run, and those that are near, not yet summed up, or not on disk.
    let entries_max = 1_600;
    let held = entries_held(&agent.buffer);
    assert!(held < entries_max, "{held} entries");
    drop(agent);
    let read_before = disk.bytes_read();
    let mut agent = Agent::start_with(&disk, files, 2, &rules);
    let read = disk.bytes_read() - read_before;
    assert!(
        read < 6 * files.file_bytes,
        "{read} bytes are read of {bytes}"
    );
    let held = entries_held(&agent.buffer);
    assert!(held < entries_max, "{held} entries after a start");
    agent.sync();
    let mut acked = 0;
    for lane in [Lane::Live, Lane::Backlog] {
        let (mut next, mut before) = (BatchNumber(1), Digest::ZERO);
        while let Some(held) = agent.sendable(Epoch(1), lane, next) {
            assert_eq!(held.place.from, next);
            assert_eq!(agent.read(held.place).header.previous, before);
            (next, before) = (held.place.to.next(), held.digest);
            let position = Position {
                last: held.place.to,
                digest: held.digest,
            };
            let settled = agent.buffer.advance(Epoch(1), lane, position);
            acked += settled.readings_acked;
            let held = entries_held(&agent.buffer);
            assert!(held < entries_max, "{held} entries while it drains");
        }
    }
    assert_eq!(acked, BATCHES);
    assert_eq!(agent.buffer.readings_pending(), 0);
    assert!(agent.buffer.bytes() < bytes / 100, "names and hellos");
}

/// What a buffer holds in memory, runs counted as one.
fn entries_held(buffer: &Buffer) -> usize {
    let lanes = buffer.epochs.iter().flat_map(|shelf| &shelf.lanes);
    lanes.map(|lane| lane.entries.len()).sum()
}

/// Power goes between a summary and the clock that it tells of: readings would wait for ever for a
/// clock that nobody sends.
#[test]
fn a_summary_tells_of_no_clock_that_is_not_on_disk() {
    let clock = Clock {
        offset_ns: 1,
        quality: ClockQuality::Cluster,
    };
    let mut summed_up = 0;
    for case in 0..200 {
        let disk = SimStorage::new(case);
        let mut dice = Dice(case);
        let mut agent = Agent::start(&disk, 1, &[Overflow::DropOldest]);
        agent.seal_since_boot();
        let files = || disk.as_storage().list().unwrap();
        let before = files();
        // Then a summary is due.
        while files() == before {
            agent.now += Duration::from_secs(60);
            agent.take(0, 40, &mut dice);
            agent.sync();
        }
        let (now, wall) = (agent.now, agent.wall());
        assert_eq!(agent.buffer.give_clock(clock, now, wall).len(), 1);
        agent.cut_at_summary = (case % 2 == 0).then(|| disk.clone());
        // The clock, and then the summary that had to wait for it.
        agent.sync();
        agent.now += Duration::from_secs(60);
        agent.take(0, 1, &mut dice);
        agent.sync();
        drop(agent);
        disk.power_cut();
        let again = Agent::start(&disk, 2, &[Overflow::DropOldest]);
        summed_up += u64::from(again.summed_up_in > 0);
        let shelf = again.buffer.epochs.first().unwrap();
        let names = shelf.lane(Lane::Names);
        if let Some(clock) = shelf.early.clock {
            let entry = names.at_or_after(clock).map(|entry| entry.to);
            assert_eq!(entry, Some(clock), "case {case}");
        }
    }
    assert!(summed_up > 50, "{summed_up} of them had a summary");
}
