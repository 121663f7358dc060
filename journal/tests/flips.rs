//! A single flipped bit, wherever it is: found, or all that was written is read. Only the last sync's
//! records may look like a write that a power cut tore away.

use journal::{Journal, JournalError, OpenMode, Options, Position, RecordHead, SimStorage};

const OPTIONS: Options = Options {
    file_bytes: 4096,
    files_max: 4,
};

const DISK: &str = "a simulated disk without faults";

type Seen = Vec<(Position, u64, Vec<u8>)>;

fn open(sim: &SimStorage, seen: &mut Seen) -> Result<Journal, JournalError> {
    Journal::open(sim.as_storage(), OPTIONS, &mut |position, head, payload| {
        seen.push((position, head.number, payload.to_vec()));
        Ok(())
    })
}

fn content(sim: &SimStorage) -> Vec<(String, Vec<u8>)> {
    let disk = sim.as_storage();
    let names = disk.list().expect(DISK).into_iter();
    let files = names.map(|name| {
        let file = disk.open(&name, OpenMode::Existing).expect(DISK);
        let mut bytes = vec![0; usize::try_from(file.len().expect(DISK)).expect("a small file")];
        file.read_at(0, &mut bytes).expect(DISK);
        (name, bytes)
    });
    files.collect()
}

/// Recovery writes: each bit is flipped on a disk of its own.
fn disk_with(files: &[(String, Vec<u8>)]) -> SimStorage {
    let sim = SimStorage::new(1);
    for (name, bytes) in files {
        let disk = sim.as_storage();
        let file = disk.open(name, OpenMode::CreateNew).expect(DISK);
        file.write_at(0, bytes).expect(DISK);
    }
    sim
}

#[test]
fn every_bit_of_a_journal() {
    let sim = SimStorage::new(1);
    let mut journal = open(&sim, &mut Vec::new()).unwrap();
    let mut number = 0;
    // One file that is full, and three records in the next one.
    while number < 15 {
        let head = RecordHead {
            group: 9,
            kind: 1,
            number,
        };
        let byte = u8::try_from(number).unwrap();
        journal.append(head, &[byte; 300]).unwrap();
        journal.sync().unwrap();
        number += 1;
    }
    let used = journal.files();
    assert_eq!(used.len(), 2);
    drop(journal);
    let mut files = content(&sim);
    let mut expected = Vec::new();
    open(&disk_with(&files), &mut expected).unwrap();
    assert_eq!(expected.len() as u64, number);
    let (newest, last) = (&used[used.len() - 1], &expected[expected.len() - 1].0);
    let (mut found, mut torn) = (0_u64, 0_u64);
    for at in 0..files.len() {
        let name = files[at].0.clone();
        let is_newest = name == newest.name;
        let known = used.iter().find(|file| file.name == name);
        let used_bits = known.map_or(0, |file| (file.used_bytes + 64) * 8);
        let bits = 0..files[at].1.len() * 8;
        for bit in bits.filter(|bit| (*bit as u64) < used_bits || bit % 61 == 0) {
            files[at].1[bit / 8] ^= 1 << (bit % 8);
            let mut seen = Vec::new();
            let opened = open(&disk_with(&files), &mut seen);
            files[at].1[bit / 8] ^= 1 << (bit % 8);
            match opened {
                Err(JournalError::Rot { .. } | JournalError::Version { .. }) => found += 1,
                Ok(_) if seen == expected => {}
                Ok(_) => {
                    let in_last = is_newest && bit / 8 >= usize::try_from(last.offset()).unwrap();
                    assert!(in_last, "{name} bit {bit}: {} records", seen.len());
                    assert_eq!(seen, expected[..expected.len() - 1], "{name} bit {bit}");
                    torn += 1;
                }
                Err(other) => panic!("{name} bit {bit}: {other}"),
            }
        }
    }
    let bits = |records: u64| records * 300 * 8;
    assert!(found > bits(number - 1), "{found} found");
    assert!((bits(1)..bits(2)).contains(&torn), "{torn} torn");
}
