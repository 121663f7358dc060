//! What the disk does to what is held: it fills, rots and fails.

use journal::OpenMode;

use super::*;

#[test]
fn what_was_acked_does_not_fill_the_journal() {
    let disk = SimStorage::new(16);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    agent.connect(&cluster);
    for value in 0..5_000 {
        agent.seal(value..value + 1, true);
        agent.sync();
        agent.talk(&mut cluster);
    }
    assert!(!agent.buffer.is_full());
    assert_eq!(agent.kept.len(), 5_000);
    let written = agent.buffer.journal_bytes_written();
    assert!(
        written > FILES.file_bytes * FILES.files_max as u64,
        "{written}: it went round"
    );
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start(&disk, 2);
    agent.connect(&cluster);
    agent.seal(5_000..5_001, true);
    agent.talk(&mut cluster);
    assert_eq!(cluster.rows.len(), 5_001);
    assert_eq!(cluster.gaps, []);
}

#[test]
fn an_overflow_drops_the_oldest_and_says_so() {
    let disk = SimStorage::new(12);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start_with(&disk, 1, 20_000);
    for value in 0..300 {
        agent.now += Duration::from_secs(1);
        agent.seal(value..value + 1, false);
        agent.sync();
        assert!(agent.buffer.bytes() <= agent.buffer.bytes_max());
    }
    let lost = agent.lost;
    assert!(lost > 100, "{lost}");
    agent.now += Duration::from_secs(10);
    agent.sync();
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with(&disk, 2, 20_000);
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    let stored = cluster.rows.len() as u64;
    assert_eq!(stored + lost, 300);
    let listed: u64 = cluster.gaps.iter().map(|(_, from, to)| to - from + 1).sum();
    assert_eq!(listed, lost);
    assert!(cluster.gaps.iter().all(|gap| gap.0 == GapReason::Overflow));
}

#[test]
fn nothing_says_complete_beyond_a_loss_that_was_not_told() {
    let disk = SimStorage::new(20);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start_with(&disk, 1, 20_000);
    agent.connect(&cluster);
    agent.seal(0..1, false);
    agent.talk(&mut cluster);
    agent.window.disconnected();
    agent.now = Duration::from_secs(1);
    let first_loss = TimeNs(WALL.0 + 1_000_000_000);
    for value in 1..300 {
        agent.seal(value..value + 1, true);
        agent.sync();
        agent.now += Duration::from_secs(1);
    }
    let lost = agent.lost;
    assert!(lost > 0);
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with(&disk, 2, 20_000);
    agent.now = Duration::from_secs(400);
    agent.seal(300..301, false);
    let lost = lost + agent.lost;
    agent.connect(&cluster);
    let mut told = 0;
    for _ in 0..1_000 {
        while agent.send() {}
        let Some((_, bytes)) = agent.wire.front() else {
            break;
        };
        let header = decode(bytes).unwrap().header;
        agent.arrive(&mut cluster);
        agent.hear();
        told = cluster.gaps.iter().map(|(_, from, to)| to - from + 1).sum();
        if told < lost {
            assert!(header.complete_below <= first_loss, "{header:?}");
        }
    }
    assert_eq!(told, lost);
    agent.now += Duration::from_secs(1);
    agent.seal(301..302, false);
    agent.send();
    let (_, bytes) = agent.wire.front().unwrap();
    let header = decode(bytes).unwrap().header;
    assert_eq!(header.complete_below, agent.wall());
}

/// An older epoch of `older` batches that the cluster does not take, and behind it more batches of
/// the current one than the journal has room for, all acked.
fn stall(disk: &SimStorage, cluster: &mut Cluster, older: i64, rotten: &[i64]) -> Agent {
    let mut agent = Agent::start_with(disk, 1, 256 << 10);
    for value in 0..older {
        agent.seal(value..value + 1, true);
        agent.sync();
    }
    let kept = std::mem::take(&mut agent.kept);
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start_with(disk, 2, 256 << 10);
    agent.kept = kept;
    for number in rotten {
        agent.rot(disk, BatchNumber(u64::try_from(*number).unwrap()));
    }
    agent.connect(cluster);
    for value in older..older + 6_000 {
        agent.seal(value..value + 1, true);
        agent.sync();
        while agent.send() {
            let (id, bytes) = agent.wire.pop_front().unwrap();
            let verdict = if decode(&bytes).unwrap().header.epoch == Epoch(1) {
                Verdict::Busy { retry_ms: 1 << 20 }
            } else {
                cluster.take(&bytes)
            };
            agent.answers.push_back((id, verdict));
            agent.hear();
        }
    }
    let written = agent.buffer.journal_bytes_written();
    assert!(
        written > FILES.file_bytes * FILES.files_max as u64,
        "{written}"
    );
    agent
}

impl Agent {
    /// Damages a backlog batch of epoch 1 on disk.
    fn rot(&mut self, disk: &SimStorage, number: BatchNumber) {
        let place = Place {
            epoch: Epoch(1),
            lane: Lane::Backlog,
            from: number,
            to: number,
        };
        if let Some(run) = self.buffer.run_at(place.epoch, place.lane, number) {
            self.load(run);
        }
        let Some(Source::Disk(position)) = self.buffer.source(place) else {
            panic!("it is on disk only");
        };
        let name = format!("{:016x}.journal", position.file());
        let payload = self.handle.reader().read(position).unwrap();
        let file = disk.as_storage().open(&name, OpenMode::Existing).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        let mut windows = bytes.windows(payload.len());
        let at = windows.position(|window| window == payload).unwrap();
        assert!(disk.flip_bit(&name, at as u64 * 8));
        assert!(self.handle.reader().read(position).is_err());
    }
}

#[test]
fn a_damaged_record_costs_its_batch_and_not_the_disk() {
    let disk = SimStorage::new(17);
    let mut cluster = Cluster::default();
    let mut agent = stall(&disk, &mut cluster, 20, &[5, 6, 9]);
    assert!(!agent.buffer.disk_failed() && !agent.buffer.is_full());
    assert_eq!(agent.lost, 3);
    agent.connect(&cluster);
    agent.now += Duration::from_secs(2_000);
    agent.talk(&mut cluster);
    let damaged = |from, to| (GapReason::Damaged, from, to);
    assert_eq!(cluster.gaps, [damaged(5, 6), damaged(9, 9)]);
    // The first four went into the live lane.
    let kept = agent.kept.iter().copied();
    let kept: HashSet<i64> = kept.filter(|value| ![8, 9, 12].contains(value)).collect();
    assert_eq!(kept.len(), 6_017);
    check(&cluster, &kept, 0);
}

#[test]
fn a_stalled_epoch_does_not_pin_the_files_behind_it() {
    let disk = SimStorage::new(18);
    let mut cluster = Cluster::default();
    let mut agent = stall(&disk, &mut cluster, 700, &[]);
    assert!(!agent.buffer.disk_failed() && !agent.buffer.is_full());
    let kept: HashSet<i64> = agent.kept.drain(..).collect();
    assert_eq!(kept.len(), 6_700);
    drop(agent);
    disk.power_cut();
    let mut agent = Agent::start(&disk, 3);
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    check(&cluster, &kept, 0);
    assert_eq!(cluster.gaps, []);
}

#[test]
fn what_is_all_needed_is_not_written_again_and_again() {
    let disk = SimStorage::new(19);
    let mut agent = Agent::start(&disk, 1);
    for value in 0..4_000 {
        agent.seal(value..value + 1, true);
        agent.sync();
    }
    assert!(agent.lost > 0);
    for _ in 0..100 {
        agent.sync();
    }
    let before = agent.buffer.journal_bytes_written();
    for _ in 0..1_000 {
        agent.sync();
    }
    assert_eq!(agent.buffer.journal_bytes_written(), before);
    assert!(!agent.buffer.disk_failed());
}

/// A failed sync once turned what the disk held, and had been told of as kept, into gap records.
#[test]
fn a_failed_disk_keeps_what_it_holds_and_memory_stays_bounded() {
    let disk = SimStorage::new(77);
    let mut cluster = Cluster::default();
    let mut agent = Agent::start(&disk, 1);
    for value in 0..200 {
        agent.seal(value..value + 1, true);
        agent.sync();
    }
    let kept: HashSet<i64> = agent.kept.drain(..).collect();
    assert_eq!(kept.len(), 200);
    disk.fail_sync(1);
    agent.seal(200..201, true);
    agent.sync();
    assert!(agent.buffer.disk_failed());
    let settled = agent.buffer.make_room(agent.wall());
    agent.settle(&settled);
    assert_eq!(agent.lost, 0);
    for value in 201..400 {
        agent.seal(value..value + 1, false);
        agent.sync();
        assert!(agent.buffer.ram_bytes() <= agent.buffer.bytes_max());
    }
    assert!(agent.lost > 100, "{}", agent.lost);
    agent.connect(&cluster);
    agent.talk(&mut cluster);
    check(&cluster, &kept, 0);
    let stored = cluster.rows.len() as u64;
    assert_eq!(stored + agent.lost, 400);
    // Backlog 197 is the first batch that is not on disk: four went into the live lane.
    let (reason, from, to) = cluster.gaps[0];
    assert_eq!((reason, from), (GapReason::Overflow, 197));
    assert_eq!(to - from + 1, agent.lost);
    assert_eq!(cluster.gaps.len(), 1);
}
