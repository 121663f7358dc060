//! Any bytes as the files of a journal: describing and opening them never panics; a journal that
//! opens takes a record, and shows the same records and this one when it is opened again.
//!
//! Input: a byte of switches, then the file, or two of equal length.

#![no_main]

use journal::inspect::describe;
use journal::{Journal, JournalError, OpenMode, Options, RecordHead, SimStorage};
use libfuzzer_sys::fuzz_target;

/// Checksums and chain are made right before the file is read.
const FORGE: u8 = 1;
/// The bytes are two files.
const TWO: u8 = 2;
/// Power is lost between the openings.
const CUT: u8 = 4;

const OPTIONS: Options = Options {
    file_bytes: 2048,
    files_max: 4,
};
/// The shortest file that a journal has.
const FILE_BYTES_MIN: usize = 1024;
const HEADER_BYTES: usize = 32;
/// Kinds from here on are the journal's own.
const KIND_OWN_MIN: u8 = 0xf0;
const RECORD: RecordHead = RecordHead {
    group: 3,
    kind: 5,
    number: 77,
};

fuzz_target!(|input: &[u8]| {
    let Some((&switches, bytes)) = input.split_first() else {
        return;
    };
    let disk = SimStorage::new(u64::from(switches));
    let middle = if switches & TWO == 0 {
        bytes.len()
    } else {
        bytes.len() / 2
    };
    let (first, second) = bytes.split_at(middle);
    let mut chain = 0;
    for (generation, content) in [(1, first), (2, second)] {
        if generation == 2 && switches & TWO == 0 {
            break;
        }
        let mut content = content.to_vec();
        content.resize(content.len().max(FILE_BYTES_MIN), 0);
        if switches & FORGE != 0 {
            chain = forge(&mut content, generation, chain);
        }
        put(&disk, &format!("{generation:016x}.journal"), &content);
    }
    let Ok((journal, before)) = open(&disk) else {
        return;
    };
    forget_behind(&disk, &journal);
    drop(journal);
    if switches & CUT != 0 {
        disk.power_cut();
    }
    let (mut journal, again) = open(&disk).expect("what was opened can be opened again");
    assert_eq!(again, before);
    // All files may be in use.
    if journal.append(RECORD, b"one more").is_ok() {
        journal.sync().expect("the disk is well");
        drop(journal);
        let (_, after) = open(&disk).expect("what was synced can be opened");
        let (last, rest) = after.split_last().expect("a record was appended");
        assert_eq!(rest, before);
        assert_eq!(*last, (RECORD, b"one more".to_vec()));
    }
});

type Records = Vec<(RecordHead, Vec<u8>)>;

fn open(disk: &SimStorage) -> Result<(Journal, Records), JournalError> {
    let storage = disk.as_storage();
    for name in storage.list().expect("a list of names") {
        let described = describe(storage.as_ref(), &name, &mut |record, _| {
            assert!(!record.to_string().is_empty());
        });
        assert!(!described.expect("the disk is well").to_string().is_empty());
    }
    let mut records = Vec::new();
    let journal = Journal::open(storage, OPTIONS, &mut |_, head, payload| {
        records.push((head, payload.to_vec()));
        Ok(())
    });
    journal.map(|journal| (journal, records))
}

/// Zeros behind the records of the newest file: there the input may hold what continues the record
/// that opening has just written, which no earlier life of a journal can have known.
fn forget_behind(disk: &SimStorage, journal: &Journal) {
    let files = journal.files();
    let newest = files.last().expect("an open journal has a file");
    let storage = disk.as_storage();
    let file = storage
        .open(&newest.name, OpenMode::Existing)
        .expect("it is there");
    let behind = newest.file_bytes - newest.used_bytes;
    let zeros = vec![0; usize::try_from(behind).expect("files are small")];
    file.write_at(newest.used_bytes, &zeros).expect("room");
    file.sync().expect("the disk is well");
}

fn put(disk: &SimStorage, name: &str, content: &[u8]) {
    let storage = disk.as_storage();
    let file = storage.open(name, OpenMode::CreateNew).expect("a new file");
    file.write_at(0, content).expect("room");
    file.sync().expect("the disk is well");
    storage.sync_directory().expect("the disk is well");
}

/// Gives every record from the start on the chain and the checksum that it needs, as long as there
/// is one; returns the last checksum.
fn forge(content: &mut [u8], generation: u64, mut chain: u32) -> u32 {
    let mut at = 0;
    while let Some(header) = content.get(at..at + HEADER_BYTES) {
        let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]) as usize;
        let end = at + HEADER_BYTES + length;
        if header[..2] != *b"TJ" || end > content.len() {
            break;
        }
        // The count of openings: one that can be added to twice.
        if header[3] >= KIND_OWN_MIN {
            for count in content[at + HEADER_BYTES..end].chunks_exact_mut(8) {
                count[7] &= 0x7f;
            }
        }
        content[at + 24..at + 28].copy_from_slice(&chain.to_le_bytes());
        chain = crc32c::crc32c(&generation.to_le_bytes());
        chain = crc32c::crc32c_append(chain, &content[at..at + 28]);
        chain = crc32c::crc32c_append(chain, &content[at + HEADER_BYTES..end]);
        content[at + 28..at + 32].copy_from_slice(&chain.to_le_bytes());
        at = end.next_multiple_of(8);
    }
    chain
}
