//! What a store is opened with whose files are damaged or gone.

use shared::batch::Values;
use shared::id::TimeNs;

use super::damage::{bench, count, first_file, flip, scan, scrub, segments};
use super::features::{Bench, DAY, HOUR};
use super::{Node, all_rows};
use crate::state::Command;
use crate::store::{SnapshotFiles, Store};

/// It ended the node at every start, though all other segments could be read.
#[test]
fn a_segment_that_cannot_be_opened_holds_up_nobody_else() {
    let bench = bench();
    let file = first_file(&bench);
    let sim = bench.node.sim.clone();
    drop(bench);
    let harms: [&dyn Fn(); 3] = [
        &|| flip(&sim, &file.name, file.len - 38),
        &|| flip(&sim, &file.name, 20),
        &|| segments(&sim).remove(&file.name).unwrap(),
    ];
    for harm in harms {
        harm();
        let node = Node::open(&sim);
        let view = node.store.view();
        assert_eq!(view.damage_count(), count(1, 0));
        assert_eq!(scan(&view, 1001 * DAY..=i64::MAX).unwrap(), 1);
        let error = scan(&view, 1000 * DAY..=1000 * DAY).unwrap_err();
        assert!(error.to_string().contains(&file.name), "{error}");
        assert_eq!(view.row_count("truck"), None, "nobody knows");
        assert_eq!(view.known_rows("truck"), Some(1), "queries are divided by");
        scrub(&node.store);
        assert_eq!(view.damage_count(), count(1, 0));
    }
}

/// The index says where the rows are: the header is needed for nothing that a query asks. What is
/// sound again is told, and used from the next start on.
#[test]
fn a_damaged_header_hides_no_row() {
    let bench = bench();
    let (file, sim) = (first_file(&bench), bench.node.sim.clone());
    let expected = all_rows(&bench.node.store.view());
    drop(bench);
    for (byte, opaque) in [(20, false), (file.len - 38, true)] {
        flip(&sim, &file.name, byte);
        let node = Node::open(&sim);
        let view = node.store.view();
        assert_eq!(view.segments[0].is_opaque(), opaque);
        if !opaque {
            assert_eq!(all_rows(&view), expected);
        }
        scrub(&node.store);
        assert_eq!(view.damage_count(), count(1, 0));
        flip(&sim, &file.name, byte);
        scrub(&node.store);
        let [row] = view.damage().try_into().unwrap();
        assert!(row.what.contains("restart the node"), "{}", row.what);
        assert_eq!(view.damage_count(), count(1, 0), "it is not used yet");
        let node = Node::open(&sim);
        assert_eq!(node.store.view().damage(), []);
        assert_eq!(all_rows(&node.store.view()), expected);
    }
}

/// It was said to be of no time, and stayed for ever: an error to every query.
#[test]
fn retention_drops_a_wild_segment_that_cannot_be_opened() {
    for gone in [false, true] {
        let mut bench = Bench::new();
        for time in [DAY, 1000 * DAY] {
            bench.data(&[time], Values::Float(vec![1.0]));
            bench.merge();
        }
        let (file, sim) = (first_file(&bench), bench.node.sim.clone());
        assert!(file.name.contains("wild"), "{}", file.name);
        if gone {
            segments(&sim).remove(&file.name).unwrap();
        } else {
            flip(&sim, &file.name, file.len - 38);
        }
        bench.node = Node::open(&sim);
        let view = bench.node.store.view();
        assert!(view.segments[0].is_opaque());
        scan(&view, 1000 * DAY..=1000 * DAY).unwrap_err();
        drop(view);
        bench.apply(&Command::RetentionDays(1));
        for hour in 1..60 {
            let now = TimeNs(1000 * DAY + hour * HOUR);
            bench.apply(&Command::Clock { node: 1, now });
        }
        bench.apply(&Command::Retention);
        let left = bench.node.store.snapshot().unwrap().files;
        assert!(!left.contains(&file), "{left:?}");
    }
}

/// A merge that seals would take no rows from it, and its place.
#[test]
fn what_is_not_known_is_spoilt_whoever_forgets_it() {
    let bench = bench();
    let (file, sim) = (first_file(&bench), bench.node.sim.clone());
    drop(bench);
    flip(&sim, &file.name, file.len - 38);
    let node = Node::open(&sim);
    let view = node.store.view();
    view.segments[0].faults.clear_all();
    assert!(view.segments[0].is_spoilt());
}

/// It started, served nothing, and merged into a folder that the disk hid once it was mounted.
#[test]
fn a_store_without_any_of_its_files_is_not_opened() {
    let bench = bench();
    let (sim, names) = (bench.node.sim.clone(), bench.files());
    drop(bench);
    for name in &names {
        segments(&sim)
            .rename(name, &format!("{name}.away"))
            .unwrap();
    }
    let error = Store::open(&*sim.as_storage()).err().unwrap().to_string();
    assert!(
        error.contains("none of the 2 files") && error.contains("mounted"),
        "{error}"
    );
    for name in &names {
        segments(&sim)
            .rename(&format!("{name}.away"), name)
            .unwrap();
    }
    assert_eq!(
        Node::open(&sim).store.view().row_count("truck"),
        Some(9_001)
    );
}

/// Whoever read the segment that could not be opened last took the sound file along.
#[test]
fn a_snapshot_brings_a_file_that_stays() {
    let bench = bench();
    let (file, sim) = (first_file(&bench), bench.node.sim.clone());
    let expected = all_rows(&bench.node.store.view());
    drop(bench);
    flip(&sim, &file.name, file.len - 38);
    let mut node = Node::open(&sim);
    let before = node.store.view();
    let kept = node.store.snapshot().unwrap();
    flip(&sim, &file.name, file.len - 38);
    let (raft, state) = (kept.raft.clone(), kept.state.clone());
    let whole = SnapshotFiles::new(kept.index + 1, raft, state, kept.files.clone());
    drop(kept);
    node.store.install(whole).unwrap();
    assert_eq!(all_rows(&node.store.view()), expected);
    assert!(before.segments[0].is_opaque());
    drop(node);
    drop(before);
    let (store, _) = Store::open(&*sim.as_storage()).unwrap();
    assert_eq!(all_rows(&store.view()), expected);
}
