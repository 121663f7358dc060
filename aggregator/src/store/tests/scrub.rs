//! Scrubbing beside queries, on a disk that opens no file, and what it counts.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use prometheus_client::registry::Registry;
use shared::batch::Values;
use shared::reading::Value;

use super::Node;
use super::damage::{bench, count, first_file, flip, offsets, scan, scrub};
use super::features::{Bench, DAY};
use crate::metrics;
use crate::store::scrub::{Pass, Scrub};
use crate::store::{ScrubOptions, Store, StoreError, StoreMetrics};

/// Ten blocks in one segment: a step reads a part of them.
fn long_bench() -> Bench {
    let mut bench = Bench::new();
    for part in 0..9 {
        let rows = part * 9_000..(part + 1) * 9_000;
        let times: Vec<i64> = rows.clone().map(|row| 1000 * DAY + row).collect();
        let values = (0_u32..9_000).map(|row| f64::from(row).sqrt()).collect();
        bench.data(&times, Values::Float(values));
    }
    bench.merge();
    bench
}

/// Scrubbing had read the block before, and took the query's word back at the end of the file.
#[test]
fn what_a_query_meets_while_its_file_is_scrubbed_is_kept() {
    let bench = long_bench();
    let (file, byte) = (first_file(&bench), offsets(&bench)[0] + 9);
    let (view, views) = (bench.node.store.view(), bench.node.store.views());
    let mut pass = Pass::new(&view.segments[0]);
    let step = pass.step(&views).unwrap().unwrap();
    assert!((1..10).contains(&step.blocks), "{step:?}");
    flip(&bench.node.sim, &file.name, byte);
    scan(&view, 1000 * DAY..=1000 * DAY).unwrap_err();
    flip(&bench.node.sim, &file.name, byte);
    while pass.step(&views).unwrap().is_some() {}
    assert_eq!(view.damage_count(), count(1, 1));
    scrub(&bench.node.store);
    assert_eq!(view.damage_count(), count(0, 0), "it was read and is sound");
}

#[test]
fn what_was_found_before_a_file_cannot_be_opened_is_told() {
    let bench = long_bench();
    let file = first_file(&bench);
    flip(&bench.node.sim, &file.name, offsets(&bench)[0] + 9);
    let (view, views) = (bench.node.store.view(), bench.node.store.views());
    let mut pass = Pass::new(&view.segments[0]);
    pass.step(&views).unwrap().unwrap();
    bench.node.sim.limit_open_files(0);
    let error = pass.step(&views).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(view.damage_count(), count(1, 1));
}

/// Of a store: all of its files are due at once.
fn driver(store: &Store, ended: std::sync::mpsc::Receiver<()>) -> (Scrub, Registry) {
    let mut registry = metrics::registry();
    let metrics: Arc<StoreMetrics> = StoreMetrics::register(&mut registry);
    let options = ScrubOptions {
        period: Some(Duration::from_secs(86_400)),
        node: "a".to_owned(),
    };
    (Scrub::new(store.views(), options, metrics, ended), registry)
}

#[track_caller]
fn assert_counts(registry: &Registry, counts: &[(&str, u64)]) {
    let text = metrics::text(registry);
    for (name, value) in counts {
        let line = format!("tributary_store_{name} {value}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

/// NaN is not equal to itself: its file was told as damaged, and its partition never sealed again.
#[test]
fn what_is_no_number_is_not_damaged() {
    let mut bench = Bench::new();
    let times: Vec<i64> = (0..4_000).map(|row| 1000 * DAY + row).collect();
    let value = |row| {
        if row % 1_000 == 0 {
            f64::NAN
        } else {
            f64::from(row)
        }
    };
    bench.data(&times, Values::Float((0..4_000).map(value).collect()));
    bench.merge();
    let view = bench.node.store.view();
    let stats = &view.segments[0].blocks[0].columns[0];
    assert!(matches!(stats.first, Some(Value::Float(first)) if first.is_nan()));
    scrub(&bench.node.store);
    assert_eq!(view.damage(), []);
    let mut other = stats.clone();
    other.first = Some(Value::Float(-f64::NAN));
    assert_ne!(&other, stats, "not of the same bits");
}

/// They were counted as read, and not tried for a period.
#[test]
fn files_that_cannot_be_opened_are_read_at_the_next_look() {
    let bench = bench();
    let sim = &bench.node.sim;
    flip(sim, &first_file(&bench).name, offsets(&bench)[0] + 9);
    let (_lives, ended) = sync_channel(0);
    let (mut scrub, registry) = driver(&bench.node.store, ended);
    sim.limit_open_files(0);
    for _ in 0..2 {
        assert!(scrub.look());
        let nothing = [("scrubbed_blocks_total", 0), ("scrubbed_whole_seconds", 0)];
        assert_counts(&registry, &nothing);
    }
    sim.limit_open_files(usize::MAX);
    assert!(scrub.look());
    let all = [
        ("scrubbed_blocks_total", 3),
        ("scrubbed_whole_seconds", 1000 * 86_400),
        ("damaged_files", 1),
        ("damaged_blocks", 1),
    ];
    assert_counts(&registry, &all);
    assert!(scrub.look(), "no time has passed");
    assert_counts(&registry, &all);
}

/// It took until all that was due had been read: hours, on a large disk.
#[test]
fn what_is_damaged_is_counted_before_anything_is_read() {
    let bench = bench();
    let (sim, file) = (bench.node.sim.clone(), first_file(&bench));
    drop(bench);
    flip(&sim, &file.name, file.len - 38);
    let node = Node::open(&sim);
    let (lives, ended) = sync_channel(0);
    drop(lives);
    let (mut scrub, registry) = driver(&node.store, ended);
    assert!(!scrub.look(), "the node stops");
    assert_counts(&registry, &[("damaged_files", 1), ("damaged_blocks", 0)]);
}
