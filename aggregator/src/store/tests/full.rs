//! A full disk: nothing is lost, all goes on once there is room. A failed sync: nothing is believed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use journal::{OpenMode, SimStorage, Storage, StorageFile};
use shared::batch::Values;
use shared::id::TimeNs;

use super::damage::scrub;
use super::features::{Bench, DAY, HOUR, copy};
use super::{ALWAYS_WORTH, Node, all_rows};
use crate::state::Command;
use crate::store::{Store, StoreError};

/// Enough for a segment and for the trial of room, and little more.
fn rooms() -> impl Iterator<Item = u64> {
    (0..60).map(|step| (1 << 18) + step * 4_096)
}

fn with_a_merge_to_run() -> Bench {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.apply(&Command::Merge);
    bench
}

fn full(sim: &SimStorage, room: u64) {
    sim.copy_on_write();
    sim.fill_up(room);
}

/// redb refuses everything after a write that failed: the node had to be restarted.
#[test]
fn a_transaction_that_found_the_disk_full_is_done_again() {
    let mut in_transaction = 0;
    for room in rooms() {
        let mut bench = with_a_merge_to_run();
        full(&bench.node.sim, room);
        let mut ran = bench.node.jobs[0].run();
        if let Err(StoreError::Full { .. }) = ran {
            in_transaction += usize::from(!bench.files().is_empty());
            bench.node.sim.fill_up(u64::MAX);
            ran = bench.node.jobs[0].run();
        }
        bench.node.store.finish_merge(ran.unwrap()).unwrap();
        bench.node.sim.power_cut();
        let (store, recovered) = Store::open(&*bench.node.sim.as_storage()).unwrap();
        assert_eq!(recovered.index, bench.index);
        assert_eq!(store.view().row_count("truck"), Some(1));
    }
    assert!(in_transaction > 0, "no transaction was hit");
}

/// Two parts and a late row, and the partition is to be sealed.
fn with_a_partition_to_seal() -> Bench {
    let mut bench = Bench::new();
    for at in 0..2 {
        let times: Vec<i64> = (0..4_000).map(|row| 1000 * DAY + 2 * row + at).collect();
        let values = (0..4_000).map(|row| f64::from(row).sqrt()).collect();
        bench.data(&times, Values::Float(values));
        bench.merge();
    }
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.seal_day();
    bench
}

/// Does the merge that waits on a disk with so much room, and if that is too little, once there is more.
fn merge_in(bench: &mut Bench, room: u64) {
    bench.node.sim.give_room_back();
    full(&bench.node.sim, room);
    let mut ran = bench.node.jobs[0].run();
    if let Err(StoreError::Full { .. }) = ran {
        bench.node.sim.fill_up(u64::MAX);
        ran = bench.node.jobs[0].run();
    }
    bench.node.store.finish_merge(ran.unwrap()).unwrap();
    bench.node.jobs.clear();
}

/// Rows must not wait for what only saves room, and come once whatever is tried again.
#[test]
fn without_room_for_sealing_the_rows_are_merged_all_the_same() {
    let (mut in_parts, mut sealed) = (0, 0);
    for room in (0..90).map(|step| (1 << 17) + step * 4_096) {
        let mut bench = with_a_partition_to_seal();
        merge_in(&mut bench, room);
        let expected = all_rows(&bench.node.store.view());
        assert_eq!(expected.len(), 8_001);
        bench.node.sim.fill_up(u64::MAX);
        bench.node.sim.power_cut();
        let (store, _) = Store::open(&*bench.node.sim.as_storage()).unwrap();
        assert_eq!(all_rows(&store.view()), expected);
        match store.segments().list().unwrap().len() {
            1 => sealed += 1,
            3 => in_parts += 1,
            other => panic!("{other} files"),
        }
    }
    assert!(in_parts > 0 && sealed > 0, "{in_parts} {sealed}");
}

/// A partition in two parts whose rollups are larger than its rows.
fn with_rollups_to_seal() -> Bench {
    let mut bench = Bench::new();
    bench.node.store.worth = ALWAYS_WORTH;
    for at in 0..2 {
        let times = (0..1_000).map(|row| 1000 * DAY + (2 * row + at) * HOUR / 120);
        let times: Vec<i64> = times.collect();
        let values = (0..1_000).map(|row| f64::from(row).sqrt()).collect();
        bench.data(&times, Values::Float(values));
        bench.merge();
    }
    bench.seal_day();
    bench
}

/// The segment was thrown away with them, at every try.
#[test]
fn without_room_for_rollups_a_partition_is_sealed_all_the_same() {
    let mut ends = [0; 3];
    for room in (0..60).map(|step| (1 << 18) + step * 4_096) {
        let mut bench = with_rollups_to_seal();
        merge_in(&mut bench, room);
        let view = bench.node.store.view();
        assert_eq!(all_rows(&view).len(), 2_000);
        let (segments, rollups) = (view.segments.len(), view.rollups.len());
        assert_eq!(bench.files().len(), segments + rollups, "room {room}");
        match (segments, rollups) {
            (2, 0) => ends[0] += 1,
            (1, 0) => ends[1] += 1,
            (1, 2) => ends[2] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(ends.iter().all(|end| *end > 0), "{ends:?}");
}

/// As some file systems are: a name needs room, too.
struct FullAtRename {
    files: Arc<dyn Storage>,
    /// Renames that succeed before, and those that fail.
    before: AtomicUsize,
    failing: AtomicUsize,
}

fn take_one(count: &AtomicUsize) -> bool {
    let taken = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    taken.is_ok()
}

impl Storage for FullAtRename {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.files.open(name, mode)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !take_one(&self.before) && take_one(&self.failing) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.files.sync_directory()
    }

    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>> {
        self.files.directory(name)
    }
}

/// What had its name already stayed until a restart, a whole sealed segment.
#[test]
fn what_finds_no_room_for_a_name_leaves_nothing() {
    for before in 0..3 {
        for failing in 1..3 {
            let mut bench = with_rollups_to_seal();
            bench.node.jobs[0].segments = Arc::new(FullAtRename {
                files: bench.node.store.segments(),
                before: before.into(),
                failing: failing.into(),
            });
            assert!(bench.node.finish_merges());
            let files = bench.files();
            let expected = if failing == 1 { 1 } else { 2 };
            assert_eq!(files.len(), expected, "{before} {failing}: {files:?}");
            assert_eq!(all_rows(&bench.node.store.view()).len(), 2_000);
        }
    }
}

/// A transaction that was told of a full disk may have been committed: the one that is tried again
/// must be the same, though there is room for more by then.
#[test]
fn what_was_written_once_is_what_counts() {
    for sealed in [false, true] {
        let mut bench = with_a_partition_to_seal();
        let part = bench.files().into_iter().min().unwrap();
        if !sealed {
            assert!(bench.node.sim.flip_bit(&format!("segments/{part}"), 60 * 8));
        }
        drop(bench.node.jobs[0].run().unwrap());
        if !sealed {
            assert!(bench.node.sim.flip_bit(&format!("segments/{part}"), 60 * 8));
        }
        let again = bench.node.jobs[0].run().unwrap();
        bench.node.store.finish_merge(again).unwrap();
        bench.node.jobs.clear();
        assert_eq!(all_rows(&bench.node.store.view()).len(), 8_001);
        assert_eq!(bench.files().len(), if sealed { 1 } else { 3 });
    }
}

/// Once a merge stopped at anything damaged would stop the node, at every start.
#[test]
fn what_is_damaged_is_not_sealed_and_holds_up_nobody() {
    let mut bench = with_a_partition_to_seal();
    let part = bench.files().into_iter().min().unwrap();
    assert!(bench.node.sim.flip_bit(&format!("segments/{part}"), 60 * 8));
    assert!(bench.node.finish_merges());
    assert_eq!(bench.files().len(), 3);
    assert_eq!(bench.node.store.view().row_count("truck"), Some(8_001));
    assert!(bench.node.store.verify(&part).is_err());
}

#[test]
fn a_partition_that_is_sealed_takes_what_comes_late() {
    let mut bench = with_a_partition_to_seal();
    let view = bench.node.store.view();
    assert!(bench.node.finish_merges());
    assert_eq!(bench.files().len(), 3, "a view still reads the parts");
    let expected = all_rows(&view);
    drop(view);
    let [file] = <[String; 1]>::try_from(bench.files()).unwrap();
    assert!(
        file.contains("-24000+24.") && file.ends_with(".sealed.seg"),
        "{file}"
    );
    assert_eq!(all_rows(&bench.node.store.view()), expected);
    bench.data(&[1000 * DAY + 7], Values::Float(vec![7.0]));
    bench.merge();
    let ended = TimeNs(1001 * DAY + 2 * HOUR);
    let rest = Duration::from_secs(2 * 3_600);
    let unsealed = |bench: &Bench, now| bench.node.store.view().unsealed(now, rest);
    assert_eq!(unsealed(&bench, TimeNs(ended.0 - 1)), [], "it goes on");
    assert_eq!(unsealed(&bench, ended).len(), 1, "nothing more comes");
    bench.seal_day();
    assert!(bench.node.finish_merges());
    assert_eq!(bench.files().len(), 1);
    assert_eq!(bench.node.store.view().row_count("truck"), Some(8_002));
    assert_eq!(unsealed(&bench, ended), []);
}

#[test]
fn a_failed_sync_of_the_manifest_is_final() {
    let mut in_transaction = 0;
    for nth in 1..6 {
        let bench = with_a_merge_to_run();
        bench.node.sim.fail_sync(nth);
        let ran = bench.node.jobs[0].run();
        if bench.files().is_empty() || ran.is_ok() {
            continue;
        }
        in_transaction += 1;
        for _ in 0..2 {
            let again = bench.node.jobs[0].run();
            assert!(matches!(again, Err(StoreError::Io { .. })));
        }
    }
    assert!(in_transaction > 0, "no transaction was hit");
}

/// It ended the node, which could then not free the room that it needed.
#[test]
fn retention_waits_for_room() {
    let mut bench = Bench::new();
    bench.apply(&Command::RetentionDays(1));
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.merge();
    for hour in 1..60 {
        let now = TimeNs(1000 * DAY + hour * HOUR);
        bench.apply(&Command::Clock { node: 1, now });
    }
    full(&bench.node.sim, 0);
    let rows = |bench: &Bench| bench.node.store.view().row_count("truck");
    for _ in 0..2 {
        bench.apply(&Command::Retention);
        bench.node.store.drop_again().unwrap();
        assert_eq!(rows(&bench), Some(1), "what cannot go is still read");
    }
    bench.node.sim.fill_up(u64::MAX);
    bench.node.store.drop_again().unwrap();
    assert_eq!((rows(&bench), bench.files().len()), (Some(0), 0));
    bench.node.sim.power_cut();
    let (store, _) = Store::open(&*bench.node.sim.as_storage()).unwrap();
    assert_eq!(store.view().row_count("truck"), Some(0));
}

#[test]
fn a_snapshot_waits_for_room() {
    let mut bench = with_a_merge_to_run();
    assert!(bench.node.finish_merges());
    let snapshot = bench.node.store.snapshot().unwrap();
    let mut in_transaction = 0;
    for room in rooms() {
        let mut node = Node::open(&SimStorage::new(3));
        let name = &snapshot.files[0].name;
        copy(&*bench.node.store.segments(), &*node.store.segments(), name);
        full(&node.sim, room);
        if let Err(error) = node.store.install(snapshot.clone()) {
            let StoreError::Full { file, .. } = error else {
                panic!("{error}");
            };
            in_transaction += usize::from(file == "manifest.redb");
            assert_eq!(node.store.durable_index(), 0);
            node.sim.fill_up(u64::MAX);
            node.store.install(snapshot.clone()).unwrap();
        }
        assert_eq!(node.store.view().row_count("truck"), Some(1));
    }
    assert!(in_transaction > 0, "no transaction was hit");
}

#[test]
fn on_a_full_disk_all_is_read_and_scrubbed() {
    let mut bench = Bench::new();
    let times: Vec<i64> = (0..4_000).map(|row| 1000 * DAY + row).collect();
    bench.data(&times, Values::Float((0..4_000).map(f64::from).collect()));
    bench.merge();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    bench.apply(&Command::Merge);
    full(&bench.node.sim, 0);
    let ran = bench.node.jobs[0].run();
    assert!(matches!(ran, Err(StoreError::Full { .. })));
    let operations = bench.node.sim.operations();
    assert_eq!(all_rows(&bench.node.store.view()).len(), 4_001);
    assert_eq!(scrub(&bench.node.store).blocks, 1);
    assert_eq!(bench.node.store.view().damage(), []);
    let [file] = <[String; 1]>::try_from(bench.files()).unwrap();
    assert!(bench.node.sim.flip_bit(&format!("segments/{file}"), 60 * 8));
    scrub(&bench.node.store);
    assert_eq!(bench.node.store.view().damage_count().blocks, 1);
    assert_eq!(
        bench.node.sim.operations(),
        operations,
        "nothing is written"
    );
}
