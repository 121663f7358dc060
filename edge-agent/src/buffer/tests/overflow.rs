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
    let seen = |disk_full| Usage {
        disk_full,
        ..Usage::default()
    };
    assert!(agent.buffer.next_sync(agent.now, true).is_some());
    agent.buffer.synced(Err(JournalError::Full));
    assert!(agent.buffer.see_space(seen(true)));
    assert!(agent.buffer.next_sync(agent.now, true).is_none());
    assert!(!agent.buffer.see_space(seen(false)));
    let work = agent.buffer.next_sync(agent.now, true).unwrap();
    agent.submit(work);
    assert_eq!(agent.buffer.readings_unsafe(), 0);
    // All files of the journal are in use: that is for others to change.
    agent.take(0, 20, &mut Dice(22));
    assert!(agent.buffer.next_sync(agent.now, true).is_some());
    agent.buffer.synced(Err(JournalError::Full));
    agent.buffer.see_space(seen(false));
    assert!(agent.buffer.next_sync(agent.now, true).is_none());
}
