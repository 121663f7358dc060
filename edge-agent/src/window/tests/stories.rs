//! One story each: what happens, and what must come of it.

use super::*;

#[test]
fn after_a_crash_the_same_bytes_come_again_under_the_old_epoch() {
    let disk = SimStorage::new(7);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..2, true);
    agent.sync();
    assert_eq!(agent.kept, [0, 1]);
    while agent.send() {}
    let first: Vec<Bytes> = agent.wire.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(first.len(), 3, "hello, names, data");
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start(&disk, 2);
    agent.connect(&cluster);
    while agent.send() {}
    let second: Vec<Bytes> = agent.wire.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(second[..2], first[..2], "the older epoch's names first");
    assert_eq!(second[3], first[2]);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [0, 1]);
    let hello = cluster.hellos.last().unwrap();
    assert_eq!(hello.older_epochs, [Epoch(1)]);
    assert!(!hello.last.unwrap().ended_cleanly);
}

#[test]
fn a_clean_end_is_told_and_nothing_is_sent_again() {
    let disk = SimStorage::new(8);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..5, true);
    agent.sync();
    agent.talk(&mut cluster);
    let work = agent.buffer.end_cleanly();
    agent.submit(work);
    agent.end_sync();
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start(&disk, 2);
    assert_eq!(agent.buffer.readings_pending(), 0);
    agent.connect(&cluster);
    agent.seal(5..6, false);
    agent.talk(&mut cluster);
    let hello = cluster.hellos.last().unwrap();
    assert_eq!(hello.older_epochs, []);
    assert!(hello.last.unwrap().ended_cleanly);
    assert_eq!(cluster.rows, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn an_older_epoch_that_was_drained_is_not_held_after_the_next_start() {
    let disk = SimStorage::new(15);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.seal(0..5, true);
    agent.sync();
    for epoch in 2..4 {
        drop(agent);
        disk.power_cut();
        agent = Agent::start(&disk, epoch);
        assert_eq!(
            agent.buffer.readings_pending(),
            if epoch == 2 { 5 } else { 0 }
        );
        agent.connect(&cluster);
        agent.talk(&mut cluster);
        agent.sync();
    }
    assert_eq!(cluster.hellos.last().unwrap().older_epochs, []);
    assert_eq!(cluster.rows, [0, 1, 2, 3, 4]);
}

#[test]
fn a_restored_cluster_gets_a_gap_record_and_the_names_again() {
    let disk = SimStorage::new(9);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    for value in 0..3 {
        agent.seal(value..value + 1, false);
        agent.talk(&mut cluster);
    }
    let live = (Epoch(1), Lane::Live);
    assert_eq!(cluster.streams[&live].last, BatchNumber(3));
    cluster = Cluster::default();
    agent.connect(&cluster);
    agent.seal(3..4, false);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [3]);
    assert_eq!(cluster.gaps, [(GapReason::Restored, 1, 3)]);
    assert_eq!(cluster.hellos.len(), 1);
    assert_eq!(agent.alarms, []);
}

#[test]
fn a_fork_stops_the_stream_and_keeps_its_data() {
    let disk = SimStorage::new(10);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..1, false);
    agent.talk(&mut cluster);
    cluster.streams.insert(
        (Epoch(1), Lane::Live),
        Position {
            last: BatchNumber(2),
            digest: Digest([9; 8]),
        },
    );
    agent.seal(1..2, false);
    while agent.send() {}
    agent.arrive(&mut cluster);
    agent.hear();
    let fork = Alarm::Fork {
        epoch: Epoch(1),
        lane: Lane::Live,
    };
    assert_eq!(agent.alarms, [fork]);
    assert_eq!(agent.buffer.readings_pending(), 1, "its data stay");
    assert!(agent.buffer.is_forked());
    assert!(!agent.send());
    agent.batcher.new_epoch();
    agent
        .buffer
        .begin_epoch(Epoch(2), None, agent.now, agent.wall());
    agent.seal(2..3, false);
    while agent.send() {}
    for _ in 0..3 {
        agent.arrive(&mut cluster);
        agent.hear();
    }
    assert_eq!(cluster.rows, [0, 2]);
}

/// The next session once took what the other had written since for its own, and let its data go.
#[test]
fn a_fork_stays_one_when_the_other_writes_on() {
    let disk = SimStorage::new(30);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..1, false);
    agent.talk(&mut cluster);
    agent.window.disconnected();
    agent.seal(1..2, false);
    for other in [3, 4] {
        let position = Position {
            last: BatchNumber(other),
            digest: Digest([9; 8]),
        };
        cluster.streams.insert((Epoch(1), Lane::Live), position);
        agent.connect(&cluster);
        assert_eq!(agent.alarms.len(), 1, "{other}");
        assert_eq!(agent.buffer.readings_pending(), 1, "its data stay");
        if agent.buffer.is_forked() {
            agent.batcher.new_epoch();
            agent
                .buffer
                .begin_epoch(Epoch(2), None, agent.now, agent.wall());
        }
    }
}

#[test]
fn what_is_refused_for_ever_becomes_a_gap_record() {
    let disk = SimStorage::new(11);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    for value in 0..3 {
        agent.seal(value..value + 1, false);
    }
    while agent.send() {}
    let mut seen = 0;
    while let Some((id, bytes)) = agent.wire.pop_front() {
        let batch = decode(&bytes).unwrap();
        let bad = batch.header.lane == Lane::Live && batch.header.number == BatchNumber(2);
        let verdict = if bad {
            seen += 1;
            Verdict::Invalid
        } else {
            cluster.take(&bytes)
        };
        agent.answers.push_back((id, verdict));
    }
    while !agent.answers.is_empty() {
        agent.hear();
    }
    assert_eq!(seen, 1);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows, [0, 2]);
    assert_eq!(cluster.gaps, [(GapReason::Refused, 2, 2)]);
    assert_eq!(agent.lost, 1);
}

#[test]
fn what_is_in_flight_is_bounded_and_the_backlog_has_its_share() {
    let disk = SimStorage::new(13);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    for value in 0..40 {
        agent.seal(value..value + 1, false);
    }
    assert_eq!(
        agent.buffer.sealed(Epoch(1), Lane::Live).last,
        BatchNumber(4)
    );
    agent.connect(&cluster);
    while agent.send() {}
    assert_eq!(agent.window.in_flight(), WINDOW.batches_max);
    let mut sent = [0; 3];
    for value in 40..240 {
        agent.seal(value..value + 1, false);
        while agent.send() {}
        let (_, bytes) = agent.wire.front().unwrap();
        sent[decode(bytes).unwrap().header.lane as usize] += 1;
        agent.arrive(&mut cluster);
        agent.hear();
        assert!(agent.window.in_flight() <= WINDOW.batches_max);
    }
    assert!(sent[Lane::Backlog as usize] >= 40, "{sent:?}");
    assert!(sent[Lane::Live as usize] >= 100, "{sent:?}");
}

#[test]
fn an_answer_of_an_older_round_or_session_moves_nothing() {
    let disk = SimStorage::new(14);
    let cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    agent.seal(0..1, false);
    while agent.send() {}
    let ids: Vec<u64> = agent.wire.iter().map(|(id, _)| *id).collect();
    agent.connect(&cluster);
    for id in ids {
        agent.answers.push_back((id, Verdict::Ok));
        agent.hear();
    }
    assert_eq!(agent.buffer.readings_pending(), 1);
    while agent.send() {}
    assert_eq!(agent.resent, 3);
}
