//! Rollups that are kept longer than the rows they are made of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use journal::OpenMode;
use shared::id::AgentId;

use super::Node;
use super::features::{DAY, HOUR, copy, submission};
use super::kept::{Bench, NOW};
use super::rollup::bits;
use crate::state::{Command, Payload, Rollup, Rollups, Sealing, TableWish, Wish};
use crate::store::reader::{SEAL_BYTES_MAX, View};
use crate::store::segment::{SegmentFile, SegmentHandle};
use crate::store::{Group, Measures, RollupScan, StoreError};

const MINUTE: i64 = HOUR / 60;

/// Rows are kept for a day, states by the hour for nine at least, those by the quarter as long as the rows.
fn bench() -> Bench {
    let mut bench = Bench::new();
    keep_rows(&mut bench, 1);
    bench
}

fn keep_rows(bench: &mut Bench, days: u32) {
    let rollup = |seconds, days| Rollup::new(seconds, days).unwrap();
    let rollups = Rollups::new(vec![rollup(3_600, Some(9)), rollup(900, None)]).unwrap();
    let wish = TableWish {
        same_time: None,
        retention_days: Some(days),
        rollups: Some(rollups),
    };
    let tables = [("t".to_owned(), wish)].into_iter().collect();
    let wish = Wish::default().with_tables(tables);
    bench.apply(&Command::Settings { node: 1, wish });
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
    let view = node.store.view();
    let tell = |error: StoreError| error.to_string();
    let found = view.rollup(scan.clone()).map_err(tell)?;
    let mut by_pieces = BTreeMap::new();
    for piece in view.rollup_pieces(&scan).0 {
        let found = view.rollup(piece).map_err(tell)?;
        for (at, group) in found {
            assert!(by_pieces.insert(at, group).is_none(), "twice: {at:?}");
        }
    }
    let of = |all: &BTreeMap<_, Group>| bits(&all.values().cloned().collect::<Vec<_>>());
    assert_eq!(of(&by_pieces), of(&found));
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

/// Seals, waits until the rows are over, and drops them.
fn drop_rows(bench: &mut Bench) {
    seal_all(bench);
    bench.advance(20);
    bench.kept();
}

/// One bit of a file is another.
fn flip(bench: &Bench, name: &str, at: u64) {
    let segments = bench.node.store.segments();
    let file = segments.open(name, OpenMode::Existing).unwrap();
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    file.write_at(at, &[byte[0] ^ 1]).unwrap();
    file.sync().unwrap();
}

/// In the index, behind which so many bytes end the file.
fn flip_index(bench: &Bench, file: &SegmentFile) {
    flip(bench, &file.name, file.len - 38);
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
    drop_rows(&mut bench);
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
    drop_rows(&mut bench);
    let name = bench.node.store.rollups[0].file.name.clone();
    let at = bench.node.store.rollups[0].blocks[0].offset + 9;
    flip(&bench, &name, at);
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
    drop_rows(&mut bench);
    bench.merge();
    let file = bench.node.store.rollups[0].file.clone();
    flip_index(&bench, &file);
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

/// It went with its rows, and no query said that anything is missing.
#[test]
fn one_that_cannot_be_opened_while_its_rows_are_there_stays_when_they_go() {
    let mut bench = bench();
    send(&mut bench, 0, "1.");
    bench.advance(30);
    seal_all(&mut bench);
    let before = shown(&bench);
    let is_whole = |one: &&Arc<SegmentHandle>| one.head.is_whole;
    let whole = bench.node.store.rollups.iter().find(is_whole).unwrap();
    let file = whole.file.clone();
    flip_index(&bench, &file);
    bench.node = Node::open(&bench.node.sim);
    assert_eq!(shown(&bench), before, "the rows answer");
    bench.advance(96);
    bench.kept();
    assert_eq!(rows(&bench), 0);
    let left = bench.node.store.rollups.iter().map(|one| &one.file.name);
    assert!(left.eq([&file.name]));
    assert!(hours(&bench.node).unwrap_err().contains(&file.name));
    flip_index(&bench, &file);
    bench.node = Node::open(&bench.node.sim);
    assert_eq!(shown(&bench), before);
}

/// A few late rows on a disk that was nearly full threw away what had been kept of all others.
#[test]
fn what_is_kept_is_not_given_up_for_want_of_room() {
    let (mut in_parts, mut sealed) = (0, 0);
    for step in 0..120 {
        let mut bench = bench();
        send(&mut bench, 12, "1.");
        bench.advance(28);
        seal_all(&mut bench);
        send(&mut bench, 12, "5.");
        bench.advance(22);
        let before = shown(&bench);
        let sealing = bench.unsealed()[0];
        bench.apply(&Command::Seal(sealing));
        bench.node.sim.give_room_back();
        bench.node.sim.copy_on_write();
        bench.node.sim.fill_up((1 << 18) + step * 512);
        let mut ran = bench.node.jobs[0].run();
        bench.node.sim.fill_up(u64::MAX);
        if let Err(StoreError::Full { .. }) = ran {
            ran = bench.node.jobs[0].run();
        }
        bench.node.store.finish_merge(ran.unwrap()).unwrap();
        bench.node.jobs.clear();
        let rollups = bench.node.store.rollups.iter();
        assert_eq!(rollups.filter(|one| one.head.is_whole).count(), 1, "{step}");
        assert_eq!(shown(&bench), before);
        match bench.files().len() {
            1 => sealed += 1,
            2 => in_parts += 1,
            other => panic!("{other} files"),
        }
    }
    assert!(in_parts > 0 && sealed > 0, "{in_parts} {sealed}");
}

/// Before the rows of another go for good, the newest can wait.
#[test]
fn what_is_soon_to_be_lost_is_sealed_first() {
    let mut bench = bench();
    for day in [0, 1, 2] {
        send(&mut bench, day * 24, "1.");
        bench.advance(24);
    }
    bench.advance(3);
    let start_hour = |sealing: &Sealing| sealing.window.start_hour - NOW / HOUR;
    let order: Vec<_> = bench.unsealed().iter().map(start_hour).collect();
    assert_eq!(order, [0, 24, 48], "rows are kept for a day");
    keep_rows(&mut bench, 30);
    bench.advance(0);
    let order: Vec<_> = bench.unsealed().iter().map(start_hour).collect();
    assert_eq!(
        order,
        [48, 24, 0],
        "there is time, and the newest are asked for most"
    );
}

/// What goes now is in nobody's way, however large it is.
#[test]
fn late_rows_wait_for_a_seal_of_their_own() {
    let mut bench = bench();
    send(&mut bench, 12, "1.");
    bench.advance(28);
    seal_all(&mut bench);
    send(&mut bench, 12, "5.");
    let before = shown(&bench);
    let store = &mut bench.node.store;
    store.views.publish(View {
        index: store.index,
        state: store.state.clone(),
        segments: Arc::default(),
        rollups: Arc::default(),
        level0: Vec::new(),
    });
    let segments = Arc::get_mut(&mut store.segments).expect("no view holds them");
    let sealed = Arc::get_mut(&mut segments[0]).expect("no query reads it");
    sealed.file.len = SEAL_BYTES_MAX;
    store.publish();
    bench.advance(22);
    bench.kept();
    assert_eq!(rows(&bench), 20, "what has its states is gone");
    assert_eq!(shown(&bench), before);
    drop_rows(&mut bench);
    assert_eq!((rows(&bench), shown(&bench)), (0, before));
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
    drop_rows(&mut bench);
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
