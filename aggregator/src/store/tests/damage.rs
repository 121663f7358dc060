//! Damaged segments: found, told, kept from everybody, and replaced by a peer's copy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use journal::{OpenMode, SimStorage, Storage, StorageFile};
use shared::batch::Values;
use shared::id::TimeNs;

use super::features::{Bench, DAY, HOUR};
use super::{Node, PlainRow, all_rows};
use crate::state::Command;
use crate::store::scrub::{Pass, Step};
use crate::store::{
    Claims, DamageCount, RepairEnd, Repaired, Scan, SegmentFile, Store, StoreError, View, repair,
};

const RECEIVED: &str = "copy.1.part";

/// Reads all of a store, as a period does.
pub(super) fn scrub(store: &Store) -> Step {
    let mut all = Step::default();
    for segment in store.view().files() {
        let mut pass = Pass::new(segment);
        while let Some(step) = pass.step(&store.views()).unwrap() {
            all.bytes += step.bytes;
            all.blocks += step.blocks;
        }
    }
    all
}

pub(super) fn scan(
    view: &Arc<View>,
    time: std::ops::RangeInclusive<i64>,
) -> Result<usize, StoreError> {
    let scan = Scan {
        table: "truck".into(),
        fields: vec!["speed".into()],
        time,
        devices: None,
    };
    view.scan(scan).map(|chunk| Ok(chunk?.times.len())).sum()
}

/// Two blocks in a segment of one day, and a segment of the next day.
pub(super) fn bench() -> Bench {
    let mut bench = Bench::new();
    let times: Vec<i64> = (0..9_000).map(|row| 1000 * DAY + row).collect();
    bench.data(&times, Values::Float((0..9_000).map(f64::from).collect()));
    bench.data(&[1001 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    bench
}

pub(super) fn first_file(bench: &Bench) -> SegmentFile {
    bench.node.store.snapshot().unwrap().files[0].clone()
}

pub(super) fn offsets(bench: &Bench) -> Vec<u64> {
    let view = bench.node.store.view();
    view.segments[0]
        .blocks
        .iter()
        .map(|block| block.offset)
        .collect()
}

pub(super) fn flip(sim: &SimStorage, file: &str, byte: u64) {
    assert!(sim.flip_bit(&format!("segments/{file}"), byte * 8));
}

pub(super) fn count(files: usize, blocks: usize) -> DamageCount {
    DamageCount { files, blocks }
}

#[test]
fn scrubbing_reads_every_byte_and_finds_nothing_where_nothing_is() {
    let mut bench = bench();
    bench.data(&[1000 * DAY + HOUR], Values::Float(vec![1.0]));
    bench.merge();
    seal(&mut bench);
    let files = bench.node.store.snapshot().unwrap().files;
    // Two segments, and two rollups that have a block each.
    assert_eq!(files.len(), 4);
    let footers = 36 * files.len() as u64;
    let bytes = files.iter().map(|file| file.len).sum::<u64>() - footers;
    assert_eq!(scrub(&bench.node.store), Step { bytes, blocks: 5 });
    assert_eq!(bench.node.store.view().damage(), []);
}

fn seal(bench: &mut Bench) {
    bench.seal_day();
    assert!(bench.node.finish_merges());
}

#[test]
fn a_damaged_block_is_told_and_the_others_are_read() {
    let bench = bench();
    let file = first_file(&bench);
    let offset = offsets(&bench)[1];
    flip(&bench.node.sim, &file.name, offset + 9);
    let view = bench.node.store.view();
    assert_eq!(view.damage_count(), count(0, 0), "nobody has looked");
    scrub(&bench.node.store);
    assert_eq!(view.damage_count(), count(1, 1));
    let rows = view.damage();
    let [row] = rows.as_slice() else {
        panic!("{rows:?}");
    };
    let block = row.block.clone().unwrap();
    assert_eq!(
        (block.table.as_str(), block.device.as_str()),
        ("truck", "d1")
    );
    assert_eq!(
        (&row.file, row.offset, block.rows),
        (&file.name, offset, 808)
    );
    assert_eq!(row.partition, "24000+24");
    let times = (row.time_min.unwrap(), row.time_max.unwrap());
    assert_eq!(
        times,
        (TimeNs(1000 * DAY + 8_192), TimeNs(1000 * DAY + 8_999))
    );
    assert_eq!(row.found_at, TimeNs(1000 * DAY));
    assert_eq!(row.what, "checksum does not match");
    assert_eq!(scan(&view, 1000 * DAY..=1000 * DAY + 8_191).unwrap(), 8_192);
    assert_eq!(scan(&view, 1001 * DAY..=i64::MAX).unwrap(), 1);
    let error = scan(&view, i64::MIN..=i64::MAX).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { offset: at, .. } if at == offset));
    assert_eq!(view.damage(), rows, "once is enough");
    flip(&bench.node.sim, &file.name, offset + 9);
    scrub(&bench.node.store);
    assert_eq!(view.damage(), [], "the disk gives the right bytes again");
}

#[test]
fn what_a_query_meets_is_kept_as_well() {
    let bench = bench();
    let file = first_file(&bench);
    flip(&bench.node.sim, &file.name, offsets(&bench)[0] + 9);
    let view = bench.node.store.view();
    scan(&view, i64::MIN..=i64::MAX).unwrap_err();
    assert_eq!(view.damage_count(), count(1, 1));
    assert_eq!(view.damaged_files(), [file]);
}

/// What no block holds: the header, the index, the footer; and a file that is gone or cut off.
#[test]
fn damage_outside_of_blocks_is_found_and_hides_no_row() {
    let of = |harm: &dyn Fn(&SimStorage, &SegmentFile)| {
        let bench = bench();
        let file = first_file(&bench);
        harm(&bench.node.sim, &file);
        scrub(&bench.node.store);
        let view = bench.node.store.view();
        let [row] = view.damage().try_into().unwrap();
        assert_eq!((row.file, row.block), (file.name, None));
        assert_eq!(row.time_max, Some(TimeNs(1001 * DAY - 1)));
        assert_eq!(view.damage_count(), count(1, 0));
        (scan(&view, 1000 * DAY..=1000 * DAY + 1), row.what)
    };
    for byte_from_end in [None, Some(60), Some(20)] {
        let (rows, told) = of(&|sim, file| {
            flip(
                sim,
                &file.name,
                byte_from_end.map_or(20, |at| file.len - at),
            );
        });
        assert_eq!(rows.unwrap(), 2);
        assert!(told.contains("checksum"), "{told}");
    }
    let gone = |sim: &SimStorage, file: &SegmentFile| {
        segments(sim).remove(&file.name).unwrap();
    };
    let (rows, told) = of(&gone);
    assert!(rows.is_err());
    assert_eq!(told, "the file is gone");
    let short = |sim: &SimStorage, file: &SegmentFile| {
        let content = segments(sim).open(&file.name, OpenMode::Existing).unwrap();
        content.set_len(file.len - 1).unwrap();
    };
    assert_eq!(of(&short).1, "the file has another length");
}

pub(super) fn segments(sim: &SimStorage) -> Arc<dyn Storage> {
    sim.as_storage().directory("segments").unwrap()
}

/// Another fault of a file took no place beside the first, so that what to do now was never told.
#[test]
fn what_is_told_of_a_file_is_what_was_found_last() {
    let bench = bench();
    let (file, view) = (first_file(&bench), bench.node.store.view());
    let told = || {
        scrub(&bench.node.store);
        let [row] = view.damage().try_into().unwrap();
        (row.offset, row.what)
    };
    flip(&bench.node.sim, &file.name, 20);
    assert_eq!(told(), (0, "checksum does not match".to_owned()));
    let content = segments(&bench.node.sim);
    let content = content.open(&file.name, OpenMode::Existing).unwrap();
    content.set_len(file.len - 1).unwrap();
    let what = "the file has another length".to_owned();
    assert_eq!(told(), (file.len - 1, what));
}

#[test]
fn what_the_disk_does_not_give_is_damage() {
    let bench = bench();
    let file = first_file(&bench);
    let offset = offsets(&bench)[1];
    let name = format!("segments/{}", file.name);
    assert!(bench.node.sim.fail_reads(&name, offset..offset + 1));
    scrub(&bench.node.store);
    let [row] = bench.node.store.view().damage().try_into().unwrap();
    assert_eq!(row.offset, offset);
    assert!(row.what.contains("cannot be read"), "{}", row.what);
}

/// A dropped segment's file once had to wait for whoever read it whole.
#[test]
fn scrubbing_keeps_no_dropped_file() {
    let mut bench = bench();
    let view = bench.node.store.view();
    let mut pass = Pass::new(&view.segments[0]);
    drop(view);
    bench.apply(&Command::RetentionDays(1));
    for hour in 1..60 {
        let now = TimeNs(1000 * DAY + hour * HOUR);
        bench.apply(&Command::Clock { node: 1, now });
    }
    bench.apply(&Command::Retention);
    assert_eq!(bench.files().len(), 1);
    assert_eq!(pass.step(&bench.node.store.views()).unwrap(), None);
}

/// Two nodes with the same rows; the second one's copy of the first file is the damaged one. `cut`:
/// it has cut the rows into other blocks.
struct Replicas {
    sound: Bench,
    damaged: Bench,
    file: SegmentFile,
    copy: SegmentFile,
    expected: Vec<PlainRow>,
}

impl Replicas {
    fn new(cut: bool) -> Replicas {
        let (sound, mut damaged) = (bench(), bench());
        if cut {
            recut(&mut damaged);
        }
        let (copy, file) = (first_file(&sound), first_file(&damaged));
        assert_eq!(copy == file, !cut);
        let expected = all_rows(&sound.node.store.view());
        assert_eq!(all_rows(&damaged.node.store.view()), expected);
        flip(&damaged.node.sim, &file.name, 50);
        scrub(&damaged.node.store);
        assert_eq!(damaged.node.store.view().damage_count(), count(1, 1));
        Replicas {
            sound,
            damaged,
            file,
            copy,
            expected,
        }
    }

    /// The copy comes, as it is.
    fn receive(&self) {
        let from = self.sound.node.store.segments();
        let from = from.open(&self.copy.name, OpenMode::Existing).unwrap();
        let mut bytes = vec![0; usize::try_from(self.copy.len).unwrap()];
        from.read_at(0, &mut bytes).unwrap();
        let to = segments(&self.damaged.node.sim);
        let to = to.open(RECEIVED, OpenMode::Create).unwrap();
        to.write_at(0, &bytes).unwrap();
    }

    fn repair(&self) -> Result<Option<Repaired>, StoreError> {
        let store = &self.damaged.node.store;
        let (claims, view) = (store.claims(), store.view());
        repair(&claims, &view, &self.file.name, RECEIVED, &self.copy)
    }
}

/// Puts the rows of the first segment into shorter blocks.
pub(super) fn recut(bench: &mut Bench) {
    let view = bench.node.store.view();
    let segment = &view.segments[0];
    let files = bench.node.store.segments();
    let (head, sealed) = (segment.head, segment.is_sealed());
    let writer = crate::store::writer::SegmentWriter::create(&*files, head, 0, sealed);
    let mut writer = writer.unwrap();
    for block in &segment.blocks {
        let content = segment.content().unwrap();
        let rows = segment.read(&*content, block, &|_| true).unwrap();
        let half = rows.times.len() / 2;
        writer.add(&rows.slice(0..half)).unwrap();
        writer.add(&rows.slice(half..rows.times.len())).unwrap();
    }
    writer.complete().unwrap();
    let file = writer.name(&*files).unwrap();
    files.rename(&file.name, RECEIVED).unwrap();
    let (store, old) = (&mut bench.node.store, segment.file.name.clone());
    let claims = store.claims();
    let repaired = repair(&claims, &view, &old, RECEIVED, &file)
        .unwrap()
        .unwrap();
    assert_eq!(store.finish_repair(&repaired).unwrap(), RepairEnd::Done);
}

#[test]
fn a_copy_takes_the_place_of_a_damaged_segment() {
    for cut in [false, true] {
        let mut replicas = Replicas::new(cut);
        let before = replicas.damaged.node.store.view();
        replicas.receive();
        let repaired = replicas.repair().unwrap().unwrap();
        let store = &mut replicas.damaged.node.store;
        assert_eq!(store.finish_repair(&repaired).unwrap(), RepairEnd::Done);
        drop(repaired);
        let view = store.view();
        assert_eq!(
            (view.damage(), all_rows(&view)),
            (vec![], replicas.expected)
        );
        // Who had begun to read the old file has an error or the right rows.
        assert_eq!(scan(&before, 1000 * DAY..=1000 * DAY).is_err(), cut);
        drop(before);
        let names = store.segments().list().unwrap();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.contains(&replicas.copy.name));
        assert_eq!(store.snapshot().unwrap().files.len(), 2);
        drop(view);
        let sim = replicas.damaged.node.sim.clone();
        sim.power_cut();
        let node = Node::open(&sim);
        assert_eq!(node.store.view().row_count("truck"), Some(9_001));
        assert_eq!(scrub(&node.store).blocks, replicas_blocks(&node));
        assert_eq!(node.store.view().damage(), []);
    }
}

fn replicas_blocks(node: &Node) -> u64 {
    let view = node.store.view();
    view.segments
        .iter()
        .map(|segment| segment.blocks.len() as u64)
        .sum()
}

#[test]
fn a_segment_that_cannot_be_opened_is_replaced_as_well() {
    for cut in [false, true] {
        let mut replicas = Replicas::new(cut);
        segments(&replicas.damaged.node.sim)
            .remove(&replicas.file.name)
            .unwrap();
        replicas.damaged.node = Node::open(&replicas.damaged.node.sim.clone());
        assert!(replicas.damaged.node.store.view().segments[0].is_opaque());
        replicas.receive();
        let repaired = replicas.repair().unwrap().unwrap();
        let store = &mut replicas.damaged.node.store;
        assert_eq!(store.finish_repair(&repaired).unwrap(), RepairEnd::Done);
        drop(repaired);
        assert_eq!(store.view().damage(), []);
        assert_eq!(all_rows(&store.view()), replicas.expected);
        assert_eq!(store.segments().list().unwrap().len(), 2);
    }
}

#[test]
fn no_copy_counts_but_a_sound_one_of_the_same_rows() {
    for cut in [false, true] {
        let mut replicas = Replicas::new(cut);
        let names = segments(&replicas.damaged.node.sim).list().unwrap();
        let refused = |replicas: &Replicas, what: &str| {
            let error = replicas.repair().unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{what}: {error}"
            );
            let left = segments(&replicas.damaged.node.sim).list().unwrap();
            assert_eq!(left, names, "{what}");
            assert_eq!(
                replicas.damaged.node.store.view().damage_count(),
                count(1, 1)
            );
        };
        for byte in [20, 60, replicas.copy.len - 60, replicas.copy.len - 20] {
            replicas.receive();
            flip(&replicas.damaged.node.sim, RECEIVED, byte);
            refused(&replicas, &format!("byte {byte}"));
        }
        // Of the same command and partition, with other rows.
        replicas.sound = Bench::new();
        for row in 0..2 {
            replicas
                .sound
                .data(&[1000 * DAY + row], Values::Float(vec![1.0]));
        }
        replicas.sound.merge();
        replicas.copy = first_file(&replicas.sound);
        replicas.receive();
        refused(&replicas, "other rows");
    }
}

/// A directory whose first sync fails.
struct FirstSyncFails {
    files: Arc<dyn Storage>,
    failed: AtomicBool,
}

impl Storage for FirstSyncFails {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.files.open(name, mode)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        if !self.failed.swap(true, Ordering::Relaxed) {
            return Err(io::Error::other("it fails once"));
        }
        self.files.sync_directory()
    }

    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>> {
        self.files.directory(name)
    }
}

/// A copy that had its name already stayed beside the old file; the next sync was believed.
#[test]
fn a_failed_sync_leaves_no_copy_and_takes_no_other() {
    let replicas = Replicas::new(true);
    let store = &replicas.damaged.node.store;
    let names = replicas.damaged.files();
    let claims = Claims::new(Arc::new(FirstSyncFails {
        files: store.segments(),
        failed: AtomicBool::new(false),
    }));
    for _ in 0..2 {
        replicas.receive();
        let view = store.view();
        let repaired = repair(
            &claims,
            &view,
            &replicas.file.name,
            RECEIVED,
            &replicas.copy,
        );
        assert!(
            matches!(repaired, Err(StoreError::Io { .. })),
            "{repaired:?}"
        );
        assert_eq!(replicas.damaged.files(), names);
    }
}

/// The merge that seals takes the damaged segment's place; a copy beside it would be its rows twice.
#[test]
fn a_copy_waits_while_a_merge_runs_and_is_not_needed_after_it() {
    let mut replicas = Replicas::new(true);
    replicas.receive();
    let repaired = replicas.repair().unwrap().unwrap();
    let bench = &mut replicas.damaged;
    bench.apply(&Command::Merge);
    let ended = bench.node.store.finish_repair(&repaired);
    assert_eq!(ended.unwrap(), RepairEnd::Later);
    assert!(bench.node.finish_merges());
    let snapshot = bench.node.store.snapshot().unwrap();
    let others = snapshot.files[1..].to_vec();
    let without = crate::store::SnapshotFiles::new(
        snapshot.index + 1,
        snapshot.raft.clone(),
        snapshot.state.clone(),
        others,
    );
    drop(snapshot);
    bench.node.store.install(without).unwrap();
    let ended = bench.node.store.finish_repair(&repaired);
    assert_eq!(ended.unwrap(), RepairEnd::Obsolete);
    drop(repaired);
    assert_eq!(bench.files().len(), 1, "the copy goes, too");
}

/// The power goes at every operation of a repair.
#[test]
fn a_crash_leaves_the_old_file_or_the_new_one() {
    for cut in [false, true] {
        let (mut old, mut new, mut at) = (0, 0, 1);
        loop {
            let mut replicas = Replicas::new(cut);
            let sim = replicas.damaged.node.sim.clone();
            replicas.receive();
            sim.cut_at(at);
            let mut done = false;
            if let Ok(Some(repaired)) = replicas.repair() {
                let ended = replicas.damaged.node.store.finish_repair(&repaired);
                done = matches!(ended, Ok(RepairEnd::Done)) && !sim.is_off();
            }
            let Replicas {
                damaged, expected, ..
            } = replicas;
            drop(damaged);
            sim.power_cut();
            let node = Node::open(&sim);
            let view = node.store.view();
            assert_eq!(view.row_count("truck"), Some(9_001), "cut {cut} at {at}");
            if scan(&view, i64::MIN..=i64::MAX).is_err() {
                assert!(!done, "cut {cut} at {at}: what was told stays");
                assert_eq!(view.damage_count(), count(1, 1));
                old += 1;
            } else {
                assert_eq!(all_rows(&view), expected, "cut {cut} at {at}");
                new += 1;
            }
            assert_eq!(node.store.segments().list().unwrap().len(), 2);
            if done {
                break;
            }
            at += 1;
        }
        assert!(old > 0 && new > 0, "cut {cut}: {old} old, {new} new");
    }
}

/// A full disk refuses the exchange, and takes it once there is room.
#[test]
fn a_copy_waits_for_room() {
    let mut replicas = Replicas::new(true);
    replicas.receive();
    let repaired = replicas.repair().unwrap().unwrap();
    let sim = replicas.damaged.node.sim.clone();
    sim.copy_on_write();
    sim.fill_up(0);
    let store = &mut replicas.damaged.node.store;
    let refused = store.finish_repair(&repaired);
    assert!(matches!(refused, Err(StoreError::Full { .. })));
    assert_eq!(store.view().damage_count(), count(1, 1));
    sim.fill_up(u64::MAX);
    assert_eq!(store.finish_repair(&repaired).unwrap(), RepairEnd::Done);
    assert_eq!(all_rows(&store.view()), replicas.expected);
}
