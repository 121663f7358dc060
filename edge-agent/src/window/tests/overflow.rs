//! Overflow while nobody knows what the cluster has: what is stored and what gap records count are
//! together what was taken, and no more.

use super::*;

const BYTES_MAX: u64 = 20_000;

/// Two live batches took effect, and their answers never came.
fn unanswered(disk: &SimStorage, cluster: &mut Cluster) -> Agent {
    let mut agent = Agent::start_with(disk, 1, BYTES_MAX);
    agent.connect(cluster);
    for value in 0..4 {
        agent.seal(value..value + 1, true);
    }
    while agent.send() {}
    while !agent.wire.is_empty() {
        agent.arrive(cluster);
    }
    agent.window.disconnected();
    assert_eq!(cluster.rows, [0, 1]);
    agent
}

fn overflow(agent: &mut Agent, values: std::ops::Range<i64>) {
    for value in values {
        agent.now += Duration::from_secs(1);
        agent.seal(value..value + 1, false);
    }
    assert!(agent.lost > 100, "{}", agent.lost);
}

/// What a gap record was merged with was once counted, whether or not the cluster had it.
#[test]
fn a_gap_record_counts_nothing_that_was_sent_and_is_there() {
    let disk = SimStorage::new(51);
    let mut cluster = Cluster::default();
    let mut agent = unanswered(&disk, &mut cluster);
    overflow(&mut agent, 4..300);
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows.len() as u64 + cluster.told_lost, 300);
    let (reason, from, _) = cluster.gaps[0];
    assert_eq!((reason, from), (GapReason::Overflow, 3), "live");
    assert_eq!(cluster.gaps.len(), 2, "{:?}", cluster.gaps);
    assert_eq!(agent.alarms, []);
}

#[test]
fn nor_what_was_sent_before_a_restart() {
    let disk = SimStorage::new(52);
    let mut cluster = Cluster::default();
    let mut agent = unanswered(&disk, &mut cluster);
    agent.sync();
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with(&disk, 2, BYTES_MAX);
    overflow(&mut agent, 4..300);
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows.len() as u64 + cluster.told_lost, 300);
    assert_eq!(agent.alarms, []);
}

/// A node that is behind says where it stands, and then takes what the process before sent last.
#[test]
fn nor_what_comes_behind_the_first_position_after_a_restart() {
    let disk = SimStorage::new(54);
    let mut cluster = Cluster::default();
    let mut agent = unanswered(&disk, &mut cluster);
    agent.sync();
    agent.connect(&cluster);
    for value in 4..6 {
        agent.seal(value..value + 1, true);
    }
    agent.sync();
    while agent.send() {}
    let late = std::mem::take(&mut agent.wire);
    assert_eq!(late.len(), 4, "live 3 to 6");
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with(&disk, 2, BYTES_MAX);
    agent.connect(&cluster);
    agent.window.disconnected();
    overflow(&mut agent, 6..300);
    for (_, bytes) in late.into_iter().take(3) {
        assert_eq!(cluster.take(&bytes), Verdict::Ok);
    }
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows.len() as u64 + cluster.told_lost, 300);
    assert_eq!(agent.alarms, []);
}

/// Of a backlog that was held at the start few gap records stand alone.
#[test]
fn after_a_start_overflow_leaves_few_gap_records() {
    let disk = SimStorage::new(53);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start_with(&disk, 1, BYTES_MAX);
    for value in 0..80 {
        agent.seal(value..value + 1, true);
    }
    agent.sync();
    assert_eq!(agent.lost, 0);
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with(&disk, 2, BYTES_MAX);
    overflow(&mut agent, 80..300);
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows.len() as u64 + cluster.told_lost, 300);
    // Four of each data lane, and the rest of each.
    let records = cluster.gaps.len();
    assert!(records <= 2 * (WINDOW.batches_max + 1) + 2, "{records}");
}

/// Offline and online by turns, with answers that never come and batches that arrive late.
#[test]
fn each_reading_is_stored_or_counted_once_whatever_was_sent() {
    for case in 0..120 {
        let mut dice = Dice(case);
        let disk = SimStorage::new(case);
        let mut cluster = Cluster::default();
        let mut agent = Agent::start_with(&disk, 1, BYTES_MAX);
        let mut late: VecDeque<Bytes> = VecDeque::new();
        let (mut value, mut epoch, mut lost) = (0_i64, 1, 0);
        for _ in 0..8 {
            let online = dice.roll(2) == 0;
            if online {
                agent.connect(&cluster);
            }
            for _ in 0..200 {
                agent.now += Duration::from_millis(dice.roll(500));
                match dice.roll(20) {
                    0..=7 => {
                        let count = i64::try_from(dice.roll(3)).unwrap() + 1;
                        agent.seal(value..value + count, dice.roll(4) == 0);
                        value += count;
                    }
                    8 => agent.sync(),
                    9 => {
                        let _ = late.pop_front().map(|bytes| cluster.take(&bytes));
                    }
                    _ if !online => {}
                    10..=13 => {
                        agent.send();
                    }
                    14..=17 => agent.arrive(&mut cluster),
                    _ => agent.hear(),
                }
            }
            agent.window.disconnected();
            agent.answers.clear();
            late.extend(agent.wire.drain(..).map(|(_, bytes)| bytes));
            lost += std::mem::take(&mut agent.lost);
            if case % 3 == 0 && dice.roll(3) == 0 {
                agent.begin_sync(true);
                agent.end_sync();
                drop(agent);
                disk.power_cut();
                epoch += 1;
                agent = Agent::start_with(&disk, epoch, BYTES_MAX);
            }
        }
        agent.connect(&cluster);
        agent.talk(&mut cluster);
        assert_eq!(agent.alarms, [], "case {case}");
        check(&cluster, &HashSet::new(), case);
        let told = cluster.rows.len() as u64 + cluster.told_lost;
        let taken = value.unsigned_abs();
        assert!(lost > 0 && told >= taken, "case {case}: {told} of {taken}");
        assert!(
            case % 3 == 0 || told == taken,
            "case {case}: {told} of {taken}"
        );
    }
}
