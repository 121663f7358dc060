//! Rollups that are kept longer than the rows they are made of.

use std::fmt::Write as _;

use journal::OpenMode;
use shared::id::AgentId;

use super::Node;
use super::features::{DAY, HOUR, copy, submission};
use super::kept::{Bench, NOW};
use super::rollup::bits;
use crate::state::{Command, Payload, Rollup, Rollups, Sealing, TableWish, Wish};
use crate::store::{Group, Measures, RollupScan};

const MINUTE: i64 = HOUR / 60;

/// Rows are kept for a day, states by the hour for nine, those by the quarter as long as the rows.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let rollup = |seconds, days| Rollup::new(seconds, days).unwrap();
    let rollups = Rollups::new(vec![rollup(3_600, Some(9)), rollup(900, None)]).unwrap();
    let wish = TableWish {
        same_time: None,
        retention_days: Some(1),
        rollups: Some(rollups),
    };
    let tables = [("t".to_owned(), wish)].into_iter().collect();
    let wish = Wish::default().with_tables(tables);
    bench.apply(&Command::Settings { node: 1, wish });
    bench
}

/// Ten rows of two devices each, six minutes apart, from an hour on.
fn send(bench: &mut Bench, hour: i64, value: &str) {
    let mut lines = String::new();
    for row in 0..10 {
        let time = NOW + hour * HOUR + row * 6 * MINUTE;
        for device in ["a", "b"] {
            let text = if row % 3 == 0 { ",s=\"x\"" } else { "" };
            writeln!(lines, "t,device={device} v={value}{row}{text} {time}").unwrap();
        }
    }
    let agent = AgentId::parse("gw").unwrap();
    bench.apply(&submission(&agent, Payload::Lines(lines.into())));
    bench.merge();
}

fn hours(node: &Node) -> Result<Vec<Group>, String> {
    let measures = Measures {
        sum: true,
        extremes: true,
        ends: true,
    };
    let scan = RollupScan {
        table: "t".to_owned(),
        width_seconds: 3_600,
        fields: vec![
            ("v".to_owned(), measures),
            ("s".to_owned(), Measures::default()),
        ],
        starts: i64::MIN..=i64::MAX,
        devices: None,
    };
    let found = node.store.view().rollup(scan);
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.into_values().collect())
}

fn shown(bench: &Bench) -> Vec<String> {
    bits(&hours(&bench.node).unwrap())
}

fn seal_all(bench: &mut Bench) -> Vec<Sealing> {
    let all = bench.unsealed();
    all.iter().for_each(|sealing| bench.seal(*sealing));
    all
}

fn rows(bench: &Bench) -> u64 {
    bench.node.store.view().row_count("t").unwrap()
}

#[test]
fn states_stay_when_the_rows_go_and_go_at_their_own_time() {
    let mut bench = bench();
    for hour in 0..3 {
        send(&mut bench, hour, "1.");
    }
    bench.advance(30);
    assert_eq!(seal_all(&mut bench).len(), 1);
    let before = shown(&bench);
    assert_eq!(before.len(), 6);
    bench.advance(20);
    bench.kept();
    assert_eq!((rows(&bench), bench.files().len()), (0, 0));
    assert_eq!(shown(&bench), before);
    let quarters = bench.node.store.rollups.iter();
    assert!(
        quarters.map(|one| one.head.is_whole).eq([true]),
        "others went with the rows"
    );
    // What comes meanwhile is merged with it, and a start finds it again.
    bench.merge();
    bench.node = Node::open(&bench.node.sim);
    assert_eq!(shown(&bench), before);
    send(&mut bench, 50, "7.");
    assert_eq!(shown(&bench).len(), 8);
    bench.advance(9 * 24);
    bench.kept();
    assert!(shown(&bench).is_empty(), "what was never sealed has waited");
    assert!(bench.node.store.rollups.is_empty());
}

/// What nobody would seal for its bytes.
#[test]
fn one_part_is_sealed_for_the_sake_of_its_states() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    bench.send(&["other"], 1, 0);
    bench.advance(30);
    assert_eq!(seal_all(&mut bench).len(), 1);
    assert_eq!(bench.unsealed(), []);
    let before = shown(&bench);
    bench.advance(20);
    bench.kept();
    assert_eq!((rows(&bench), shown(&bench)), (0, before));
}

#[test]
fn rows_stay_until_their_states_are_written() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    send(&mut bench, 1, "2.");
    let before = shown(&bench);
    bench.advance(60);
    bench.kept();
    assert_eq!((rows(&bench), shown(&bench)), (40, before.clone()));
    assert_eq!(seal_all(&mut bench).len(), 1);
    bench.kept();
    assert_eq!((rows(&bench), shown(&bench)), (0, before.clone()));
    bench.advance(9 * 24);
    bench.kept();
    assert!(shown(&bench).is_empty());
}

/// A disk that is full for good would never have room again.
#[test]
fn rows_that_nobody_can_seal_wait_two_days() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    bench.advance(95);
    bench.kept();
    assert_eq!(rows(&bench), 20);
    bench.advance(1);
    bench.kept();
    assert_eq!((rows(&bench), shown(&bench)), (0, vec![]));
}

/// A rollup of before the setting has states only where they save time.
#[test]
fn what_was_sealed_before_the_setting_is_sealed_again() {
    let mut bench = Bench::new();
    bench.keep(&[("t", 1)]);
    send(&mut bench, 0, "1.");
    send(&mut bench, 1, "2.");
    bench.advance(30);
    seal_all(&mut bench);
    let before = shown(&bench);
    let rollups = Rollups::new(vec![Rollup::new(3_600, Some(9)).unwrap()]).unwrap();
    let wish = TableWish {
        rollups: Some(rollups),
        retention_days: Some(1),
        same_time: None,
    };
    let wish = Wish::default().with_tables([("t".to_owned(), wish)].into_iter().collect());
    bench.apply(&Command::Settings { node: 1, wish });
    bench.advance(20);
    bench.kept();
    assert_eq!(rows(&bench), 40, "they wait");
    assert_eq!(bench.unsealed(), [], "it was just sealed");
    bench.advance(6);
    assert_eq!(seal_all(&mut bench).len(), 1);
    bench.kept();
    assert_eq!((rows(&bench), shown(&bench)), (0, before));
}

#[test]
fn late_rows_count_until_they_are_too_late() {
    let mut bench = bench();
    send(&mut bench, 12, "1.");
    bench.advance(28);
    seal_all(&mut bench);
    send(&mut bench, 12, "5.");
    let before = shown(&bench);
    bench.advance(22);
    bench.kept();
    assert_eq!(rows(&bench), 20, "what came late has no states yet");
    assert_eq!(shown(&bench), before);
    assert_eq!(seal_all(&mut bench).len(), 1);
    bench.kept();
    assert_eq!((rows(&bench), shown(&bench)), (0, before));
}

#[test]
fn a_snapshot_brings_states_without_rows() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    bench.advance(30);
    seal_all(&mut bench);
    bench.advance(20);
    bench.kept();
    let before = shown(&bench);
    let snapshot = bench.node.store.snapshot().unwrap();
    let other = journal::SimStorage::new(9);
    let mut fresh = Node::open(&other);
    for file in &snapshot.files {
        copy(
            &*bench.node.store.segments(),
            &*fresh.store.segments(),
            &file.name,
        );
    }
    fresh.state = fresh.store.install(snapshot).unwrap();
    assert_eq!(bits(&hours(&fresh).unwrap()), before);
}

#[test]
fn a_damaged_one_without_rows_is_an_error_and_stays() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    bench.advance(30);
    seal_all(&mut bench);
    bench.advance(20);
    bench.kept();
    let name = bench.node.store.rollups[0].file.name.clone();
    let file = bench
        .node
        .store
        .segments()
        .open(&name, OpenMode::Existing)
        .unwrap();
    let mut byte = [0];
    let at = bench.node.store.rollups[0].blocks[0].offset + 9;
    file.read_at(at, &mut byte).unwrap();
    file.write_at(at, &[byte[0] ^ 1]).unwrap();
    file.sync().unwrap();
    let told = hours(&bench.node).unwrap_err();
    assert!(told.contains(&name), "{told}");
    bench.merge();
    assert_eq!(
        bench.node.store.rollups.len(),
        1,
        "nothing else has what it says"
    );
    assert!(hours(&bench.node).is_err());
    let named = bench.node.store.snapshot().unwrap().files;
    assert!(
        named.iter().any(|file| file.name == name),
        "no node may take what is left for all"
    );
}

/// It was taken for one that nobody needs.
#[test]
fn one_that_cannot_be_opened_stays_as_long_as_any() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    bench.advance(30);
    seal_all(&mut bench);
    bench.advance(20);
    bench.kept();
    bench.merge();
    let file = bench.node.store.rollups[0].file.clone();
    let segments = bench.node.store.segments();
    let content = segments.open(&file.name, OpenMode::Existing).unwrap();
    let (at, mut byte) = (file.len - 38, [0]);
    content.read_at(at, &mut byte).unwrap();
    content.write_at(at, &[byte[0] ^ 1]).unwrap();
    content.sync().unwrap();
    bench.node = Node::open(&bench.node.sim);
    assert!(bench.node.store.rollups[0].is_opaque());
    bench.advance(20);
    bench.kept();
    assert_eq!(bench.node.store.rollups.len(), 1);
    let told = hours(&bench.node).unwrap_err();
    assert!(told.contains(&file.name), "{told}");
    bench.advance(9 * 24);
    bench.kept();
    assert_eq!(hours(&bench.node), Ok(Vec::new()));
}

/// Ints that become floats once nothing but their states is left.
#[test]
fn states_of_ints_are_shown_as_the_floats_that_the_field_has_by_now() {
    let mut bench = bench();
    send(&mut bench, 0, "1");
    let agent = AgentId::parse("gw").unwrap();
    let line = |value: &str, hour: i64| {
        let time = NOW + hour * HOUR;
        Payload::Lines(format!("t,device=c n={value} {time}\n").into())
    };
    bench.apply(&submission(&agent, line("7i", 0)));
    bench.merge();
    bench.advance(30);
    seal_all(&mut bench);
    bench.advance(20);
    bench.kept();
    bench.apply(&submission(&agent, line("0.5", 50)));
    bench.merge();
    let scan = RollupScan {
        table: "t".to_owned(),
        width_seconds: 3_600,
        fields: vec![(
            "n".to_owned(),
            Measures {
                sum: true,
                extremes: true,
                ends: true,
            },
        )],
        starts: NOW..=NOW + 3 * DAY,
        devices: Some(vec!["c".to_owned()]),
    };
    let found = bench.node.store.view().rollup(scan).unwrap();
    let sums = found
        .values()
        .map(|group| group.fields[0].sum.unwrap().as_float());
    assert_eq!(sums.collect::<Vec<_>>(), [7.0, 0.5]);
}
