//! Rollups that are damaged, gone or of another version: found, told and done without.

use journal::OpenMode;

use super::damage::{count, flip, scrub};
use super::rollup_files::{rollups, send, short};
use super::{Node, all_rows};
use crate::state::bytes::crc32c;
use crate::store::{Store, StoreError};

fn give_away(store: &Store) -> Result<(), StoreError> {
    let (snapshot, segments) = (store.snapshot().unwrap(), store.segments());
    for at in 0..snapshot.files.len() {
        let mut content = snapshot.open(at, &*segments)?;
        while content.next(1 << 20)?.is_some() {}
    }
    Ok(())
}

/// It was offered again and again, and no node got a snapshot until somebody read what is damaged.
#[test]
fn a_rollup_that_is_found_damaged_while_it_is_sent_is_not_offered_again() {
    for byte in [Some(60), Some(u64::MAX), None] {
        let bench = short();
        let store = &bench.node.store;
        give_away(store).unwrap();
        let file = store.view().rollups[0].file.clone();
        match byte {
            Some(byte) => flip(&bench.node.sim, &file.name, byte.min(file.len - 1)),
            None => store.segments().remove(&file.name).unwrap(),
        }
        assert_eq!(store.snapshot().unwrap().files.len(), 3, "nobody knows");
        let error = give_away(store).unwrap_err();
        assert!(error.to_string().contains(&file.name), "{error}");
        assert_eq!(store.view().damage_count(), count(1, 0));
        assert_eq!(store.snapshot().unwrap().files.len(), 2);
        give_away(store).unwrap();
    }
}

/// It was told as long as the partition was there.
#[test]
fn a_damaged_rollup_goes_with_the_next_merge() {
    let mut bench = short();
    let (sim, names) = (bench.node.sim.clone(), rollups(&bench));
    flip(&sim, &names[0], 60);
    scrub(&bench.node.store);
    assert_eq!(bench.node.store.view().damage_count(), count(1, 1));
    let expected = all_rows(&bench.node.store.view());
    bench.merge();
    assert_eq!(rollups(&bench), names[1..]);
    let store = &bench.node.store;
    assert_eq!(store.view().damage_count(), count(0, 0));
    assert_eq!(all_rows(&store.view()), expected);
    drop(bench);
    let node = Node::open(&sim);
    assert_eq!(node.store.view().damage_count(), count(0, 0));
    assert_eq!(node.store.view().rollups.len(), 1);
}

/// It kept the node down.
#[test]
fn a_rollup_of_another_version_is_done_without() {
    let bench = short();
    let (sim, name) = (bench.node.sim.clone(), rollups(&bench).remove(0));
    let file = bench.node.store.segments().open(&name, OpenMode::Existing);
    let file = file.unwrap();
    let mut header = [0; 47];
    file.read_at(0, &mut header).unwrap();
    header[8] = 9;
    let crc = crc32c(&header[..43]);
    header[43..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &header).unwrap();
    drop(bench);
    let view = Node::open(&sim).store.view();
    assert_eq!(view.damage_count(), count(1, 0));
    assert!(view.damage()[0].what.contains("version 9"));
    assert_eq!(all_rows(&view).len(), 300);
}

/// All is durable by then.
#[test]
fn a_rollup_that_is_gone_when_it_is_sealed_is_done_without() {
    let mut bench = short();
    send(&mut bench, 300..400);
    bench.merge();
    let before = rollups(&bench);
    bench.seal_day();
    drop(bench.node.jobs[0].run().unwrap());
    let mut new = rollups(&bench);
    new.retain(|name| !before.contains(name));
    assert_eq!(new.len(), 2);
    bench.node.store.segments().remove(&new[0]).unwrap();
    assert!(bench.node.finish_merges());
    assert_eq!(bench.node.store.view().damage_count(), count(1, 0));
    assert_eq!(all_rows(&bench.node.store.view()).len(), 400);
}
