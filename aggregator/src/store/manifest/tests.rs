//! The manifest by itself.

use std::path::PathBuf;
use std::{fs, io};

use journal::SimStorage;

use super::*;

/// As some file systems are: they find out at the sync that there was no room.
struct FullAtSync(Arc<dyn StorageFile>);

impl StorageFile for FullAtSync {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

const SEGMENT: &str = "0000000000000035-489984+24.seg";

fn sample() -> (Durable, SegmentFile) {
    let file = SegmentFile {
        name: SEGMENT.to_owned(),
        len: 191,
        digest: Digest([0x7f, 0x3c, 0x25, 0x79, 0xce, 0xba, 0xe5, 0xed]),
    };
    let durable = Durable {
        index: 53,
        installs: 0,
        raft: Bytes::from_static(b"raft"),
        state: Bytes::from_static(b"state"),
        files: Vec::new(),
    };
    (durable, file)
}

fn golden(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/manifest/v1");
    PathBuf::from(folder).join(name)
}

fn golden_rows() -> [Vec<u8>; 3] {
    ["head.bin", "state.bin", "segment.bin"].map(|name| fs::read(golden(name)).unwrap())
}

fn rows(db: &Database) -> [Vec<u8>; 3] {
    let txn = db.begin_read().unwrap();
    let head = read_head(&txn.open_table(HEAD).unwrap()).unwrap();
    let state = read_state(&txn.open_table(STATE).unwrap()).unwrap();
    let files = read_files(&txn.open_table(SEGMENTS).unwrap()).unwrap();
    assert_eq!((state.len(), files.len()), (1, 1));
    assert_eq!(files[0].0, SEGMENT);
    [head.unwrap(), state[0].clone(), files[0].1.clone()]
}

fn written() -> [Vec<u8>; 3] {
    let (manifest, _) = Manifest::open(&*SimStorage::new(1).as_storage(), &[]).unwrap();
    let (durable, file) = sample();
    manifest.advance(0, &durable, &[file], &[]).unwrap();
    rows(manifest.db().as_ref().unwrap())
}

#[test]
fn golden_rows_are_what_is_written() {
    assert_eq!(written(), golden_rows());
}

#[test]
fn golden_rows_are_read_as_what_was_written() {
    let db = open_database(InMemoryBackend::new()).unwrap();
    let [head, state, segment] = golden_rows();
    let txn = db.begin_write().unwrap();
    let mut table = txn.open_table(HEAD).unwrap();
    table.insert(HEAD_KEY, head.as_slice()).unwrap();
    drop(table);
    let mut table = txn.open_table(STATE).unwrap();
    table.insert(0, state.as_slice()).unwrap();
    drop(table);
    let mut table = txn.open_table(SEGMENTS).unwrap();
    table.insert(SEGMENT, segment.as_slice()).unwrap();
    drop(table);
    txn.commit().unwrap();
    let (durable, file) = sample();
    let files = vec![file];
    assert_eq!(read(&db).unwrap(), Durable { files, ..durable });
}

#[test]
#[ignore = "writes the golden files of a new version"]
fn write_golden_files() {
    fs::create_dir_all(golden("")).unwrap();
    for (name, row) in ["head.bin", "state.bin", "segment.bin"]
        .iter()
        .zip(written())
    {
        if !golden(name).exists() {
            fs::write(golden(name), row).unwrap();
        }
    }
}

#[test]
fn a_sync_without_room_is_a_failed_sync() {
    let disk = SimStorage::new(1).as_storage();
    let file = disk.open("f", OpenMode::CreateNew).unwrap();
    let file = Arc::new(LatchedFile {
        file: Arc::new(FullAtSync(file)),
        failed: AtomicBool::new(false),
    });
    let opened = open_file(&file).map_err(StoreError::or_full);
    assert!(matches!(opened, Err(StoreError::Io { .. })));
}
