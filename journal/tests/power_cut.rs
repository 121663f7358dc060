//! A random workload loses power, writes and syncs at every operation, and a model tells what must
//! still be there: everything whose sync returned, in order, and nothing invented.

use std::collections::BTreeMap;
use std::sync::Arc;

use journal::{Journal, JournalError, Options, Position, RecordHead, SimStorage};

const OPTIONS: Options = Options {
    file_bytes: 4096,
    files_max: 4,
};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the disk may hold.
#[derive(Default)]
struct Model {
    /// Every record appended in this life, by number from `first` on. The payload follows from it.
    appended: u64,
    synced: u64,
    /// Records before this one may be gone.
    released: u64,
    /// Sets the payloads of this life apart from those that an earlier life lost.
    life: u64,
    /// The life of every number that was seen at open or appended since.
    records: BTreeMap<u64, u64>,
}

fn payload(number: u64, life: u64) -> Vec<u8> {
    let mut random = Random(number * 1000 + life / 2);
    let len = random.below(7).pow(4);
    (0..len)
        .map(|_| u8::try_from(random.below(256)).expect("below 256"))
        .collect()
}

fn open(
    sim: &SimStorage,
    seen: &mut Vec<(Position, u64, Vec<u8>)>,
) -> Result<Journal, JournalError> {
    Journal::open(sim.as_storage(), OPTIONS, &mut |position, head, payload| {
        assert_eq!((head.group, head.kind), (9, 1));
        seen.push((position, head.number, payload.to_vec()));
        Ok(())
    })
}

impl Model {
    /// Checks what an opening showed, and takes it as the truth from here on.
    fn check(&mut self, seen: &[(Position, u64, Vec<u8>)], context: &str) {
        if let Some((_, first, _)) = seen.first() {
            assert!(
                *first <= self.released,
                "{context}: {first} is first, {} kept",
                self.released
            );
        } else {
            assert_eq!(self.released, self.synced, "{context}: all is gone");
        }
        for pair in seen.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{context}: positions ascend");
            assert_eq!(
                pair[0].1 + 1,
                pair[1].1,
                "{context}: no hole, no order but theirs"
            );
        }
        for (_, number, bytes) in seen {
            let known = self.records.get(number);
            let known = *known.unwrap_or_else(|| panic!("{context}: {number} was invented"));
            assert_eq!(
                *bytes,
                payload(*number, known),
                "{context}: payload of {number}"
            );
        }
        let end = seen.last().map_or(self.released, |last| last.1 + 1);
        assert!(
            end >= self.synced,
            "{context}: {end} is the end, {} were synced",
            self.synced
        );
        assert!(end <= self.appended, "{context}: invented");
        self.appended = end;
        self.synced = end;
        self.records.split_off(&end);
        self.life += 1;
    }

    fn append(&mut self, journal: &mut Journal) -> Result<Position, JournalError> {
        let number = self.appended;
        // As Raft does it: after a crash the same number often carries the same bytes again.
        let head = RecordHead {
            group: 9,
            kind: 1,
            number,
        };
        let appended = journal.append(head, &payload(number, self.life));
        let unknown = matches!(appended, Err(JournalError::Io { .. }));
        if appended.is_ok() || unknown {
            self.records.insert(number, self.life);
            self.appended += 1;
        }
        appended
    }
}

/// Runs until something fails. True if nothing did.
fn work(
    random: &mut Random,
    model: &mut Model,
    journal: &mut Journal,
    positions: &mut Vec<(Position, u64)>,
    steps: u64,
) -> bool {
    for _ in 0..steps {
        let result = match random.below(10) {
            0..6 => model
                .append(journal)
                .map(|position| positions.push((position, model.appended - 1))),
            6..9 => journal.sync().map(|()| model.synced = model.appended),
            _ => {
                let synced = positions
                    .iter()
                    .filter(|position| position.1 < model.synced)
                    .count();
                if synced == 0 {
                    continue;
                }
                let at = usize::try_from(random.below(synced as u64)).expect("below a length");
                let (position, number) = positions[at];
                model.released = model.released.max(number);
                journal.release(position)
            }
        };
        match result {
            Ok(()) => {}
            Err(JournalError::Full) => {
                let synced = journal.sync().is_ok();
                let Some((position, number)) = positions.last().copied().filter(|_| synced) else {
                    return synced;
                };
                model.synced = model.appended;
                model.released = number;
                if journal.release(position).is_err() {
                    return false;
                }
            }
            Err(_) => {
                assert!(matches!(journal.sync(), Err(JournalError::Latched)));
                assert!(matches!(model.append(journal), Err(JournalError::Latched)));
                return false;
            }
        }
    }
    true
}

/// Lives of one journal, each ended by what `doom` arranges.
fn lives(seed: u64, lives: u64, doom: &dyn Fn(&SimStorage, &mut Random)) -> u64 {
    let sim = SimStorage::new(seed);
    let mut random = Random(seed);
    let mut model = Model::default();
    let mut rotations = 0;
    for life in 0..lives {
        doom(&sim, &mut random);
        let mut seen = Vec::new();
        if let Ok(mut journal) = open(&sim, &mut seen).inspect_err(|error| {
            assert!(
                matches!(error, JournalError::Io { .. }),
                "seed {seed} life {life}: {error}"
            );
        }) {
            model.check(&seen, &format!("seed {seed} life {life}"));
            let mut positions: Vec<_> = seen.iter().map(|seen| (seen.0, seen.1)).collect();
            let steps = random.below(120);
            work(&mut random, &mut model, &mut journal, &mut positions, steps);
            rotations = positions.last().map_or(0, |last| last.0.file());
            let reader = journal.reader();
            for (position, number) in &positions {
                match reader.read(*position) {
                    Ok(bytes) => {
                        let known = model.records[number];
                        assert_eq!(bytes, payload(*number, known));
                    }
                    Err(JournalError::Released) => assert!(*number < model.released),
                    Err(JournalError::NotWritten) => assert!(*number >= model.synced),
                    // The power is off.
                    Err(JournalError::Io { .. }) => {}
                    Err(other) => panic!("seed {seed} life {life}: {other}"),
                }
            }
        }
        // A restart without a power cut must believe nothing either.
        if random.below(4) > 0 {
            sim.power_cut();
        } else {
            sim.cut_at(u64::MAX >> 1);
        }
    }
    rotations
}

#[test]
fn power_cuts_at_every_operation_lose_nothing_that_was_synced() {
    let mut rotations = 0;
    for seed in 0..1500 {
        rotations += lives(seed, 8, &|sim, random| sim.cut_at(1 + random.below(60)));
    }
    assert!(
        rotations > 3000,
        "the test reaches reused files: {rotations}"
    );
}

#[test]
fn failed_writes_and_syncs_lose_nothing_that_was_synced() {
    for seed in 0..1000 {
        lives(seed, 8, &|sim, random| match random.below(3) {
            0 => sim.fail_sync(1 + random.below(20)),
            1 => sim.fail_write(1 + random.below(40)),
            _ => {}
        });
    }
}

/// Every single operation of one run, from the first file to several reuses.
#[test]
fn a_cut_at_each_operation_of_one_run() {
    for seed in 0..8 {
        let mut cut = 1;
        loop {
            let sim = SimStorage::new(seed * 1000 + cut);
            let (mut random, mut model) = (Random(seed), Model::default());
            sim.cut_at(cut);
            let finished = match open(&sim, &mut Vec::new()) {
                Ok(mut journal) => {
                    model.check(&[], "new");
                    work(&mut random, &mut model, &mut journal, &mut Vec::new(), 150)
                }
                Err(_) => false,
            };
            sim.power_cut();
            for again in 0..2 {
                let mut seen = Vec::new();
                open(&sim, &mut seen).unwrap();
                model.check(&seen, &format!("seed {seed} cut {cut} open {again}"));
            }
            if finished {
                break;
            }
            cut += 1;
        }
        assert!(cut > 50);
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_a_later_sync_follows() {
    for seed in 0..300 {
        let sim = SimStorage::new(seed);
        let mut random = Random(seed);
        let mut journal = open(&sim, &mut Vec::new()).unwrap();
        let mut model = Model::default();
        let mut positions = Vec::new();
        for _ in 0..30 {
            match model.append(&mut journal) {
                Ok(position) => positions.push(position),
                Err(error) => assert!(matches!(error, JournalError::Full)),
            }
            journal.sync().unwrap();
        }
        let files = journal.files();
        drop(journal);
        let file = &files[usize::try_from(random.below(files.len() as u64)).unwrap()];
        let last = positions.last().unwrap();
        // Not in the last record: that would look torn.
        let newest = file.generation == last.file();
        let in_file = positions
            .iter()
            .filter(|position| position.file() == file.generation);
        let tail = if newest {
            32 + last.payload_bytes() as u64 + 8
        } else {
            8
        };
        let bits = (file.used_bytes.saturating_sub(tail)) * 8;
        if in_file.count() < 3 || bits == 0 {
            continue;
        }
        let bit = random.below(bits);
        assert!(sim.flip_bit(&file.name, bit));
        let mut seen = Vec::new();
        match open(&sim, &mut seen) {
            Err(JournalError::Rot { .. }) => {}
            // Only padding may differ unseen.
            Ok(_) => assert_eq!(seen.len() as u64, model.appended, "seed {seed} bit {bit}"),
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
}

#[test]
fn what_an_earlier_opening_lost_never_comes_back() {
    // A, B in one group; A is torn away and B survives; then A is written again, byte for byte.
    for seed in 0..300 {
        let sim = SimStorage::new(seed);
        let head = |number| RecordHead {
            group: 9,
            kind: 1,
            number,
        };
        let mut journal = open(&sim, &mut Vec::new()).unwrap();
        journal.append(head(0), &[7; 1000]).unwrap();
        journal.append(head(1), &[8; 1000]).unwrap();
        journal.flush().unwrap();
        sim.power_cut();
        let mut seen = Vec::new();
        let mut journal = open(&sim, &mut seen).unwrap();
        if !seen.is_empty() {
            continue;
        }
        journal.append(head(0), &[7; 1000]).unwrap();
        journal.sync().unwrap();
        drop(journal);
        let mut seen = Vec::new();
        open(&sim, &mut seen).unwrap();
        assert_eq!(seen.len(), 1, "seed {seed}");
    }
}

#[test]
fn full_is_not_the_end() {
    let sim = SimStorage::new(1);
    let mut journal = open(&sim, &mut Vec::new()).unwrap();
    let mut model = Model::default();
    let mut last = None;
    let full = loop {
        match model.append(&mut journal) {
            Ok(position) => last = Some(position),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full));
    journal.sync().unwrap();
    assert!(journal.bytes_used() <= journal.bytes_max());
    journal.release(last.unwrap()).unwrap();
    model.append(&mut journal).unwrap();
    journal.sync().unwrap();
    let small = SimStorage::new(2);
    small.fill_up(10_000);
    let mut journal = open(&small, &mut Vec::new()).unwrap();
    let mut model = Model::default();
    let full = loop {
        if let Err(error) = model.append(&mut journal) {
            break error;
        }
    };
    assert!(matches!(full, JournalError::Full), "{full}");
    journal.sync().unwrap();
    drop(journal);
    let mut seen = Vec::new();
    open(&small, &mut seen).unwrap();
    assert_eq!(seen.len() as u64, model.appended);
}

#[test]
fn a_record_of_four_mebibytes_on_a_real_disk() {
    let path = std::env::temp_dir().join(format!("journal-test-{}", std::process::id()));
    let storage = journal::DiskStorage::open(&path).unwrap();
    let options = Options {
        file_bytes: 6 << 20,
        files_max: 3,
    };
    let large = vec![0x5a; 4 << 20];
    let head = RecordHead {
        group: 0,
        kind: 1,
        number: 1,
    };
    let mut journal = Journal::open(Arc::clone(&storage), options, &mut |_, _, _| Ok(())).unwrap();
    let first = journal.append(head, &large).unwrap();
    let second = journal.append(head, &large).unwrap();
    journal.sync().unwrap();
    assert!(first.file() < second.file());
    assert_eq!(journal.reader().read(second).unwrap(), large);
    let too_large = journal.append(head, &vec![0; 6 << 20]);
    assert!(matches!(too_large, Err(JournalError::TooLarge { .. })));
    drop(journal);
    let mut count = 0;
    let visit = &mut |_: Position, _: RecordHead, payload: &[u8]| {
        assert_eq!(payload, large);
        count += 1;
        Ok(())
    };
    Journal::open(storage, options, visit).unwrap();
    assert_eq!(count, 2);
    std::fs::remove_dir_all(path).unwrap();
}
