//! A full disk: nothing is lost, all goes on once there is room. A failed sync: nothing is believed.

use journal::SimStorage;
use shared::batch::Values;
use shared::id::TimeNs;

use super::Node;
use super::features::{Bench, DAY, HOUR, copy};
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
