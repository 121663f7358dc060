//! T2: the power goes at random moments: writes that were not synced are lost or torn. What a source
//! was told is kept is there after every cut, and so is what nobody waits for once it is older than
//! `max_unsafe`; nothing is there twice, nothing was invented, and the buffer always opens.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use edge_agent::batcher::{BatchOptions, Batcher, Linger, WaiterId};
use edge_agent::buffer::{
    Buffer, BufferOptions, Classes, Place, Recovery, Sendable, Source, payload_to_batch, sums_up,
};
use edge_agent::handed::Kind;
use journal::{Journal, JournalError, Options, SimStorage};
use shared::batch::{Body, Values, decode};
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::reading::{Reading, Value};

/// Small, so that a life fills several and tells in each what the others hold.
const FILES: Options = Options {
    file_bytes: 8 << 10,
    files_max: 128,
};
const MAX_UNSAFE: Duration = Duration::from_secs(10);
const WALL: TimeNs = TimeNs(1_767_225_600_000_000_000);
/// Live batches without an answer, of which there is none here: the rest goes into the backlog.
const LIVE_MAX: usize = 4;
const SEEDS: u64 = 300;
const LIVES: u64 = 6;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// What must hold whatever was cut.
#[derive(Default)]
struct Oracle {
    /// Every value that was handed over, from 0 on.
    handed: i64,
    /// Somebody was told that they are kept, or they were old enough.
    promised: BTreeSet<i64>,
}

/// What a start makes of a journal, however it reads it.
#[derive(Debug, PartialEq)]
struct Account {
    places: Vec<(Place, Digest)>,
    readings: u64,
    bytes: u64,
    class_bytes: u64,
}

/// An agent between two cuts, without a cluster.
struct Life {
    batcher: Batcher,
    buffer: Buffer,
    journal: Journal,
    now: Duration,
    /// What nobody waits for and may still be lost, with when it came.
    unsafe_since: Vec<(i64, Duration)>,
}

impl Life {
    fn begin(disk: &SimStorage, epoch: u64) -> Result<Life, JournalError> {
        let mut recovery = Recovery::default();
        let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
        let opened = Journal::open_skipping(disk.as_storage(), FILES, sums_up, &mut visit)?;
        let (journal, skipped) = opened;
        assert!(skipped.is_empty());
        assert!(recovery.settle(&journal.reader()).is_empty());
        Ok(Life::with(journal, recovery, epoch))
    }

    /// Reads every record there is and believes no summary.
    fn begin_without_summaries(disk: &SimStorage, epoch: u64) -> Life {
        let mut recovery = Recovery::one_by_one();
        let mut visit = |position, head, payload: &[u8]| {
            if sums_up(head) {
                return Ok(());
            }
            recovery.visit(position, head, payload)
        };
        let journal = Journal::open(disk.as_storage(), FILES, &mut visit);
        Life::with(journal.expect("the power is on"), recovery, epoch)
    }

    fn with(journal: Journal, recovery: Recovery, epoch: u64) -> Life {
        let options = BufferOptions {
            dir: PathBuf::new(),
            bytes_max: FILES.file_bytes * FILES.files_max as u64,
            ram_bytes_max: 8 << 10,
            max_unsafe: MAX_UNSAFE,
            classes: Classes::default(),
            entries_near: LIVE_MAX,
        };
        let now = Duration::ZERO;
        Life {
            batcher: Batcher::new(BatchOptions {
                rows_max: 100,
                bytes_max: 1 << 16,
                linger: Linger::of_all(Duration::ZERO),
            }),
            buffer: Buffer::new(options, recovery, Epoch(epoch), now, WALL),
            journal,
            now,
            unsafe_since: Vec::new(),
        }
    }

    /// All that is held and all that is counted, but for the epoch that just began.
    fn account(&mut self) -> Account {
        let mut places = Vec::new();
        let streams: Vec<_> = self.buffer.streams().collect();
        for (epoch, lane) in streams {
            let mut next = self.buffer.acked(epoch, lane).last.next();
            while let Some(sendable) = self.sendable(epoch, lane, next) {
                next = sendable.place.to.next();
                places.push((sendable.place, sendable.digest));
            }
        }
        let current = self.buffer.epoch();
        places.retain(|(place, _)| place.epoch != current);
        Account {
            places,
            readings: self.buffer.readings_pending(),
            bytes: self.buffer.bytes(),
            class_bytes: self.buffer.classes().map(|class| class.bytes).sum(),
        }
    }

    fn sendable(&mut self, epoch: Epoch, lane: Lane, next: BatchNumber) -> Option<Sendable> {
        while let Some(run) = self.buffer.run_at(epoch, lane, next) {
            let loaded = run.read(&self.journal.reader());
            assert_eq!(loaded.missing(), 0);
            self.buffer.loaded(loaded, WALL);
        }
        self.buffer.sendable(epoch, lane, next)
    }

    /// One batch of the next values.
    fn read(&mut self, oracle: &mut Oracle, count: i64, waits: bool) {
        let kind = Kind::default();
        for value in oracle.handed..oracle.handed + count {
            let reading = Reading::new(
                "t".to_owned(),
                format!("d{}", value % 3),
                Vec::new(),
                TimeNs(value),
                vec![("v".to_owned(), Value::Int(value))],
            );
            let waiter = waits.then(|| WaiterId(value.unsigned_abs()));
            self.batcher.push(self.now, reading, kind, waiter);
            if !waits {
                self.unsafe_since.push((value, self.now));
            }
        }
        oracle.handed += count;
        let collected = self.batcher.take(kind).expect("values were pushed");
        self.buffer
            .seal(collected, LIVE_MAX, self.now, self.now, WALL)
            .expect("small batches are within every limit");
    }

    /// Writes all that is due; `false` once the disk has failed.
    fn sync(&mut self, oracle: &mut Oracle) -> bool {
        while let Some(work) = self.buffer.next_sync(self.now, false) {
            let records = work.into_records(&self.journal.reader());
            let records = records.expect("nothing is read back to be written");
            let journal = &mut self.journal;
            let appended: Result<Vec<_>, _> = records
                .iter()
                .map(|one| journal.append(one.head, &one.payload))
                .collect();
            let synced = appended.and_then(|positions| journal.sync().map(|()| positions));
            let settled = self.buffer.synced(synced);
            let kept = settled.kept.iter().map(|waiter| waiter.0.cast_signed());
            oracle.promised.extend(kept);
            if self.buffer.disk_failed() {
                return false;
            }
        }
        let old = |(_, came): &(i64, Duration)| *came + MAX_UNSAFE <= self.now;
        let safe = self.unsafe_since.iter().copied().filter(old);
        oracle.promised.extend(safe.map(|(value, _)| value));
        true
    }

    /// All values that would be sent to a cluster that has nothing.
    fn held(&mut self) -> Vec<i64> {
        let mut values = Vec::new();
        let streams: Vec<_> = self.buffer.streams().collect();
        let data = streams.into_iter().filter(|(_, lane)| *lane != Lane::Names);
        for (epoch, lane) in data {
            let mut next = self.buffer.acked(epoch, lane).last.next();
            while let Some(sendable) = self.sendable(epoch, lane, next) {
                let source = self.buffer.source(sendable.place);
                let bytes = self.bytes(source.expect("what can be sent has a source"));
                let batch = decode(&bytes).expect("what is held decodes");
                let Body::Data(data) = batch.body else {
                    panic!("a lane of data has a batch without: {:?}", batch.header);
                };
                let series = data.groups.iter().flat_map(|group| &group.series);
                for column in series.flat_map(|series| &series.columns) {
                    let Values::Int(ints) = &column.values else {
                        panic!("only integers were handed over");
                    };
                    values.extend(ints);
                }
                next = sendable.place.to.next();
            }
        }
        values
    }

    fn bytes(&self, source: Source) -> Bytes {
        match source {
            Source::Ram(bytes) => bytes,
            Source::Disk(position) => {
                let payload = self.journal.reader().read(position);
                let payload = payload.expect("what was recovered can be read");
                payload_to_batch(&payload).expect("a record of a batch")
            }
        }
    }
}

impl Oracle {
    fn check(&self, life: &mut Life, context: &str) {
        let held = life.held();
        let distinct: BTreeSet<i64> = held.iter().copied().collect();
        assert_eq!(
            distinct.len(),
            held.len(),
            "{context}: a value is there twice"
        );
        let lost: Vec<_> = self.promised.difference(&distinct).collect();
        assert!(lost.is_empty(), "{context}: promised and gone: {lost:?}");
        let invented: Vec<_> = distinct.range(self.handed..).collect();
        assert!(invented.is_empty(), "{context}: invented: {invented:?}");
    }
}

/// Lives until the power goes.
fn live(life: &mut Life, oracle: &mut Oracle, dice: &mut Dice) {
    for _ in 0..dice.roll(60) {
        life.now += Duration::from_millis(dice.roll(4_000));
        let count = i64::try_from(dice.roll(4)).expect("below 4") + 1;
        life.read(oracle, count, dice.roll(2) == 0);
        if dice.roll(3) > 0 && !life.sync(oracle) {
            return;
        }
    }
}

#[test]
fn power_cuts_at_random_moments_lose_nothing_that_was_promised() {
    let (mut cuts, mut promised, mut epoch, mut spared) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let disk = SimStorage::new(seed);
        let mut oracle = Oracle::default();
        for nth in 0..LIVES {
            let context = format!("seed {seed}, life {nth}");
            // Sometimes it goes again while the buffer is opened.
            if dice.roll(3) == 0 {
                disk.cut_at(1 + dice.roll(6));
                epoch += 1;
                let opened = Life::begin(&disk, epoch).map(|mut life| life.sync(&mut oracle));
                assert!(
                    matches!(opened, Ok(_) | Err(JournalError::Io { .. })),
                    "{context}: {opened:?}"
                );
                disk.power_cut();
                cuts += 1;
            }
            epoch += 1;
            let read = disk.bytes_read();
            let mut all_read = Life::begin_without_summaries(&disk, epoch);
            let begun = disk.bytes_read();
            let (read_all, all_read) = (begun - read, all_read.account());
            let read = disk.bytes_read();
            let mut life = Life::begin(&disk, epoch)
                .unwrap_or_else(|error| panic!("{context}: it does not open: {error}"));
            spared += u64::from(disk.bytes_read() - read < read_all);
            assert_eq!(life.account(), all_read, "{context}");
            oracle.check(&mut life, &context);
            disk.cut_at(1 + dice.roll(80));
            if life.sync(&mut oracle) {
                live(&mut life, &mut oracle, &mut dice);
            }
            drop(life);
            disk.power_cut();
            cuts += 1;
        }
        epoch += 1;
        let mut life = Life::begin(&disk, epoch).expect("the power is back");
        oracle.check(&mut life, &format!("seed {seed}, at the end"));
        promised += oracle.promised.len();
    }
    assert!(cuts > 1_000, "{cuts} cuts");
    assert!(spared > 100, "{spared} starts were spared some reading");
    assert!(promised > 10_000, "only {promised} promises show nothing");
}
