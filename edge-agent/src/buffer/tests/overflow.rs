//! Batches that go, and a disk that has no room: what is told of them, and when it is on disk.

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
