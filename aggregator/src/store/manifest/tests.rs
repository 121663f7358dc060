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
const ROLLUP: &str = "0000000000000035-489984+24.83b7a9185690f9c0.60.7f3c2579cebae5ed.roll";

/// Version 2 came with files that are named as rollups.
fn name(version: u16) -> &'static str {
    if version == 1 { SEGMENT } else { ROLLUP }
}

fn sample(version: u16) -> (Durable, SegmentFile) {
    let file = SegmentFile {
        name: name(version).to_owned(),
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

const ROWS: [&str; 3] = ["head.bin", "state.bin", "segment.bin"];

fn golden(version: u16, name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/manifest");
    PathBuf::from(folder).join(format!("v{version}")).join(name)
}

fn golden_rows(version: u16) -> [Vec<u8>; 3] {
    ROWS.map(|name| fs::read(golden(version, name)).unwrap())
}

fn rows(db: &Database) -> [Vec<u8>; 3] {
    let txn = db.begin_read().unwrap();
    let head = read_head(&txn.open_table(HEAD).unwrap()).unwrap();
    let state = read_state(&txn.open_table(STATE).unwrap()).unwrap();
    let files = read_files(&txn.open_table(SEGMENTS).unwrap()).unwrap();
    assert_eq!((state.len(), files.len()), (1, 1));
    [head.unwrap(), state[0].clone(), files[0].1.clone()]
}

fn written(version: u16) -> [Vec<u8>; 3] {
    let (manifest, _) = Manifest::open(&*SimStorage::new(1).as_storage(), &[]).unwrap();
    let (durable, file) = sample(version);
    manifest.advance(0, &durable, &[file], &[]).unwrap();
    rows(manifest.db().as_ref().unwrap())
}

#[test]
fn golden_rows_are_what_is_written() {
    for version in 1..=VERSION {
        assert_eq!(written(version), golden_rows(version), "version {version}");
        let head = golden_rows(version)[0].clone();
        assert_eq!(head[..2], version.to_le_bytes());
    }
}

/// A node that knows no rollups would take one for a damaged segment.
#[test]
fn the_version_says_whether_rollups_are_named() {
    let (manifest, _) = Manifest::open(&*SimStorage::new(1).as_storage(), &[]).unwrap();
    let version = || {
        let [head, ..] = rows(manifest.db().as_ref().unwrap());
        head[0]
    };
    let (durable, rollup) = sample(2);
    manifest
        .advance(0, &durable, std::slice::from_ref(&rollup), &[])
        .unwrap();
    assert_eq!(version(), 2);
    let (_, segment) = sample(1);
    let exchanged = manifest.exchange(&rollup.name, &[], &segment);
    exchanged.unwrap();
    assert_eq!(version(), 1);
}

#[test]
fn golden_rows_are_read_as_what_was_written() {
    for version in 1..=VERSION {
        let db = open_database(InMemoryBackend::new()).unwrap();
        put(&db, name(version), golden_rows(version));
        let (durable, file) = sample(version);
        let files = vec![file];
        assert_eq!(read(&db).unwrap(), Durable { files, ..durable });
    }
}

fn put(db: &Database, name: &str, [head, state, segment]: [Vec<u8>; 3]) {
    let txn = db.begin_write().unwrap();
    let mut table = txn.open_table(HEAD).unwrap();
    table.insert(HEAD_KEY, head.as_slice()).unwrap();
    drop(table);
    let mut table = txn.open_table(STATE).unwrap();
    table.insert(0, state.as_slice()).unwrap();
    drop(table);
    let mut table = txn.open_table(SEGMENTS).unwrap();
    table.insert(name, segment.as_slice()).unwrap();
    drop(table);
    txn.commit().unwrap();
}

#[test]
#[ignore = "writes the golden files of a new version"]
fn write_golden_files() {
    fs::create_dir_all(golden(VERSION, "")).unwrap();
    for (name, row) in ROWS.iter().zip(written(VERSION)) {
        let path = golden(VERSION, name);
        if !path.exists() {
            fs::write(path, row).unwrap();
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
