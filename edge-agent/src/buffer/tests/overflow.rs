//! Batches that go, and a disk that has no room: what is told of them, and when it is on disk.

use journal::writer::Usage;

use super::*;

const LIVE_1: Place = Place {
    epoch: Epoch(1),
    lane: Lane::Live,
    from: BatchNumber(1),
    to: BatchNumber(1),
};

/// It was once taken for written with the batch: the next start sent the batch under its number.
#[test]
fn what_takes_the_place_of_a_batch_on_its_way_to_disk_is_written_itself() {
    let disk = SimStorage::new(21);
    let rules = [Overflow::DropOldest];
    let mut agent = Agent::start(&disk, 1, &rules);
    agent.take(0, 20, &mut Dice(21));
    let work = agent.buffer.next_sync(agent.now, true).unwrap();
    let given_up = agent
        .buffer
        .give_up(LIVE_1, GapReason::Refused, agent.wall());
    assert_eq!(given_up.unwrap().readings_lost, 20);
    agent.submit(work);
    agent.sync();
    drop(agent);
    disk.power_cut();
    let arrived = Agent::start(&disk, 2, &rules).arrived();
    assert_eq!((arrived.rows, arrived.records), (0, 1));
    assert_eq!(arrived.gaps[&GapReason::Refused], 20);
}

/// Where nothing could be let go, the journal was once not tried again.
#[test]
fn a_disk_that_has_room_again_is_written_to() {
    let disk = SimStorage::new(22);
    let mut agent = Agent::start(&disk, 1, &[Overflow::Reject]);
    agent.take(0, 20, &mut Dice(22));
    let seen = |disk_full, bytes_free| Usage {
        disk_full,
        bytes_free,
        file_bytes: FILES.file_bytes,
        ..Usage::default()
    };
    assert!(agent.buffer.next_sync(agent.now, true).is_some());
    agent.buffer.synced(Err(JournalError::Full));
    assert!(agent.buffer.see_space(seen(true, 0)));
    assert!(agent.buffer.next_sync(agent.now, true).is_none());
    assert!(!agent.buffer.see_space(seen(false, BYTES_MAX)));
    let work = agent.buffer.next_sync(agent.now, true).unwrap();
    agent.submit(work);
    assert_eq!(agent.buffer.readings_unsafe(), 0);
    // All files of the journal are in use: that is for others to change.
    agent.take(0, 20, &mut Dice(22));
    assert!(agent.buffer.next_sync(agent.now, true).is_some());
    agent.buffer.synced(Err(JournalError::Full));
    agent.buffer.see_space(seen(false, 0));
    assert!(agent.buffer.next_sync(agent.now, true).is_none());
}

/// The joined gap record was once in no hurry, and the file of the first could go before it.
#[test]
fn a_gap_record_over_what_is_on_disk_and_what_is_not_holds_the_file() {
    let disk = SimStorage::new(23);
    let mut agent = Agent::start(&disk, 1, &[Overflow::DropOldest]);
    let mut dice = Dice(23);
    // Beyond the live batches, in a file that is not the newest.
    for _ in 0..60 {
        agent.take(0, 1_000, &mut dice);
        let work = agent.buffer.next_sync(agent.now, true);
        agent.submit(work.unwrap());
    }
    agent.take(0, 20, &mut dice);
    let last = agent.buffer.sealed(Epoch(1), Lane::Backlog).last;
    let of = |number| Place {
        lane: Lane::Backlog,
        from: number,
        to: number,
        ..LIVE_1
    };
    for number in [BatchNumber(last.0 - 1), last] {
        let wall = agent.wall();
        agent.buffer.give_up(of(number), GapReason::Overflow, wall);
    }
    let gap = agent.buffer.sendable(Epoch(1), Lane::Backlog, last);
    assert_eq!(gap.unwrap().place.from, BatchNumber(last.0 - 1), "one");
    let entry = agent.buffer.lane(Epoch(1), Lane::Backlog).unwrap();
    assert!(entry.at_or_after(last).unwrap().urgent);
    assert_eq!(agent.buffer.release(), None);
}

/// All files were in use, and only what is written lets one go: a start once wrote before it looked.
#[test]
fn a_start_knows_what_can_go_before_it_writes() {
    let disk = SimStorage::new(24);
    let rules = [Overflow::DropOldest];
    let mut agent = Agent::start(&disk, 1, &rules);
    let mut dice = Dice(24);
    for _ in 0..60 {
        agent.now += Duration::from_secs(60);
        agent.take(0, 1_000, &mut dice);
        agent.sync();
    }
    drop(agent);
    let mut agent = Agent::start(&disk, 2, &rules);
    for lane in [Lane::Live, Lane::Backlog, Lane::Names] {
        let position = agent.buffer.sealed(Epoch(1), lane);
        agent.buffer.advance(Epoch(1), lane, position);
    }
    let before = agent
        .buffer
        .release()
        .expect("files have nothing left to send");
    assert!(before.file() > 1, "{before:?}");
    assert_eq!(agent.buffer.journal_bytes_written(), 0);
}

/// Runs until a thinning is under way of which nothing is on disk; tells where its sums stand.
fn thinning(disk: &SimStorage, dice: &mut Dice) -> (Agent, Place) {
    let mut agent = Agent::start(disk, 1, &[Overflow::Thin]);
    while agent.buffer.thinning.is_none() {
        agent.now += Duration::from_secs(60);
        agent.take(0, 50, dice);
        agent.sync();
        agent.thin();
    }
    let last = agent.buffer.sealed(Epoch(1), Lane::Backlog).last;
    let sums = Place {
        lane: Lane::Backlog,
        from: last,
        to: last,
        ..LIVE_1
    };
    assert_eq!(agent.settled.readings_thinned, 0);
    (agent, sums)
}

/// They were once the oldest that could go, and what they are of went after them.
#[test]
fn sums_that_do_not_come_to_disk_are_taken_back_for_room() {
    let disk = SimStorage::new(23);
    let mut dice = Dice(23);
    let (mut agent, _) = thinning(&disk, &mut dice);
    for _ in 0..500 {
        agent.now += Duration::from_secs(60);
        agent.take(0, 50, &mut dice);
        agent.thin();
    }
    assert_eq!(agent.settled.readings_thinned, 0);
    assert!(agent.settled.readings_lost > 10_000);
    while agent.settled.readings_thinned == 0 || agent.buffer.thinning.is_some() {
        agent.sync();
        agent.thin();
    }
    agent.check(0);
}

/// What was in flight once came to the cluster as it was and as sums.
#[test]
fn what_was_sent_is_not_thinned_and_what_is_thinned_is_not_sent() {
    let disk = SimStorage::new(27);
    let mut agent = Agent::start(&disk, 1, &[Overflow::Thin]);
    let mut dice = Dice(27);
    while agent.buffer.class_to_thin().is_none() {
        agent.now += Duration::from_secs(60);
        agent.take(0, 50, &mut dice);
        agent.sync();
    }
    for (lane, last) in [(Lane::Live, 4), (Lane::Backlog, 3)] {
        for number in 1..=last {
            let next = BatchNumber(number);
            let sent = agent.sendable(Epoch(1), lane, next).unwrap().place;
            agent.buffer.sends(sent);
        }
    }
    let mut plan = agent.with_runs(Buffer::plan_thinning).unwrap();
    let first = plan.batches.remove(0);
    assert_eq!((first.lane, first.from), (Lane::Backlog, BatchNumber(4)));
    agent.thin();
    assert!(agent.buffer.thinning.is_some());
    let sent = |agent: &mut Agent| agent.sendable(Epoch(1), Lane::Backlog, first.from);
    assert!(sent(&mut agent).is_none());
    agent.sync();
    agent.finish_thinning();
    let gap = sent(&mut agent).unwrap();
    assert_eq!(gap.place.from, first.from);
    assert!(gap.place.to > first.to, "one gap record of all");
    agent.check(0);
}

#[test]
fn sums_are_sent_once_they_are_safe() {
    let disk = SimStorage::new(24);
    let (mut agent, sums) = thinning(&disk, &mut Dice(24));
    let sent = |agent: &mut Agent| agent.sendable(Epoch(1), Lane::Backlog, sums.from);
    assert!(sent(&mut agent).is_none());
    agent.sync();
    assert!(sent(&mut agent).is_none());
    agent.finish_thinning();
    assert!(agent.settled.readings_thinned > 0);
    assert_eq!(sent(&mut agent).unwrap().place, sums);
    agent.check(0);
}

/// A gap record in their place was once taken for them: it was on disk, or could not be found.
#[test]
fn a_thinning_whose_sums_are_gone_takes_nothing() {
    for synced in [false, true] {
        let disk = SimStorage::new(25);
        let (mut agent, sums) = thinning(&disk, &mut Dice(25));
        let (taken, reason) = (agent.sealed - agent.sums, GapReason::Damaged);
        let given_up = agent.buffer.give_up(sums, reason, agent.wall()).unwrap();
        assert_eq!(given_up.readings_lost, 0, "what they tell of is there");
        if synced {
            agent.sync();
        }
        agent.finish_thinning();
        let arrived = agent.check(0);
        assert_eq!((arrived.rows, agent.settled.readings_thinned), (taken, 0));
    }
}

#[test]
fn a_thinning_that_waits_for_a_full_disk_is_taken_back() {
    let disk = SimStorage::new(26);
    let (mut agent, _) = thinning(&disk, &mut Dice(26));
    let taken = agent.sealed - agent.sums;
    assert!(agent.buffer.next_sync(agent.now, false).is_some());
    agent.buffer.synced(Err(JournalError::Full));
    agent.thin();
    assert!(agent.buffer.thinning.is_none());
    assert_eq!(agent.check(0).rows, taken);
}
