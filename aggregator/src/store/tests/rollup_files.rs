//! Files of rollups: what they answer, and that they live and die with their segment.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use journal::{OpenMode, SimStorage, Storage};
use shared::batch::{Body, Column, Data, Group as Rows, SeriesColumns, Values};
use shared::id::{Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;

use super::aggregate::{ALL, SECOND, answers, same, wanted};
use super::damage::{count, flip, recut, scan, scrub};
use super::features::{Bench, DAY, HOUR, copy};
use super::rollup::{Fields, bits, folded, minutes};
use super::segments::{HEAD, long_rows};
use super::{ALWAYS_WORTH, Node, all_rows};
use crate::state::{Command, Outcome, Rollup, Rollups, TableWish, Wish};
use crate::store::inspect;
use crate::store::rollup;
use crate::store::segment::{SegmentFile, SegmentHandle, SegmentHead, is_rollup};
use crate::store::writer::RollupWriter;
use crate::store::{Aggregate, Claims, Measures, Store, StoreError, View};

const NOTHING: Measures = Measures {
    sum: false,
    extremes: false,
    ends: false,
};
const DAY_1: i64 = 1000 * DAY;
const MINUTE: i64 = 60 * SECOND;

/// A day of which each second has a row, in parts.
fn parts() -> Bench {
    let mut bench = Bench::new();
    for part in 0..4 {
        send(&mut bench, part * 21_600..(part + 1) * 21_600);
        bench.merge();
    }
    bench
}

/// Rows of some seconds of the day; their values add up in any order.
pub(super) fn send(bench: &mut Bench, seconds: std::ops::Range<i64>) {
    let all: Vec<i64> = seconds.collect();
    for some in all.chunks(10_800) {
        let times: Vec<i64> = some.iter().map(|second| DAY_1 + second * SECOND).collect();
        let value = |second: &i64| f64::from(i32::try_from(second * 37 % 801).unwrap()) / 4.0;
        bench.data(&times, Values::Float(some.iter().map(value).collect()));
    }
}

/// The same, with a text in each row.
fn send_with_texts(bench: &mut Bench, seconds: std::ops::Range<i64>) {
    let all: Vec<i64> = seconds.collect();
    for some in all.chunks(5_400) {
        let column = |field, values| Column {
            field,
            present: None,
            values,
        };
        let text = |second: &i64| format!("s{}", second % 3);
        let columns = vec![
            column(0, Values::Float(vec![1.0; some.len()])),
            column(1, Values::Text(some.iter().map(text).collect())),
        ];
        let id = LocalSeriesId(0);
        let groups = vec![Rows {
            times: some.iter().map(|second| DAY_1 + second * SECOND).collect(),
            series: vec![SeriesColumns { id, columns }],
        }];
        let link = bench.agent.seal(Lane::Live, Body::Data(Data { groups }));
        assert_eq!(bench.send(&link), Outcome::Stored);
    }
}

fn seal(bench: &mut Bench) {
    bench.seal_day();
    assert!(bench.node.finish_merges());
}

fn sealed() -> Bench {
    let mut bench = parts();
    seal(&mut bench);
    bench
}

/// Five minutes, sealed, with a rollup of each width.
pub(super) fn short() -> Bench {
    let mut bench = Bench::new();
    bench.node.store.worth = ALWAYS_WORTH;
    send(&mut bench, 0..100);
    bench.merge();
    send(&mut bench, 100..300);
    bench.merge();
    seal(&mut bench);
    bench
}

/// Names of the rollups, hours first.
pub(super) fn rollups(bench: &Bench) -> Vec<String> {
    let files = bench.files();
    let named = files.into_iter().filter(|name| is_rollup(name));
    named.collect()
}

fn all(view: &View) -> Aggregate {
    wanted(view, "truck", ALL)
}

/// Pieces by statistics, by rollups and by rows; the answer is checked.
fn told(view: &Arc<View>, time: std::ops::RangeInclusive<i64>, width_ns: i64) -> [usize; 3] {
    let wanted = Aggregate { time, ..all(view) };
    let buckets = Some((width_ns, 0));
    same(view, &wanted, buckets);
    answers(view, &wanted, buckets)
}

const EVER: std::ops::RangeInclusive<i64> = i64::MIN..=i64::MAX;

#[test]
fn what_fits_is_answered_by_rollups_and_no_row_is_decoded() {
    let bench = sealed();
    let view = bench.node.store.view();
    let files = rollups(&bench);
    assert_eq!(files.len(), 2, "{files:?}");
    let blocks = view.segments[0].blocks.len();
    assert_eq!(blocks, 11);
    for width_ns in [MINUTE, 5 * MINUTE, HOUR] {
        assert_eq!(told(&view, EVER, width_ns), [0, 11, 0], "{width_ns}");
    }
    assert_eq!(told(&view, EVER, DAY), [11, 0, 0], "statistics come first");
    for width_ns in [SECOND, 90 * SECOND, MINUTE + 1] {
        assert_eq!(told(&view, EVER, width_ns)[1..], [0, 11], "{width_ns}");
    }
    // Where the time cuts a bucket the block's rows are read.
    let hours = DAY_1 + 3 * HOUR..=DAY_1 + 20 * HOUR - 1;
    assert_eq!(told(&view, hours, HOUR)[2], 0);
    let cut = DAY_1 + 3 * HOUR + 1..=DAY_1 + 20 * HOUR;
    let by_both = told(&view, cut, HOUR);
    assert_eq!(by_both[2], 2, "{by_both:?}");
    // By hours it is cut, by minutes it is not.
    let minutes = DAY_1 + 3 * HOUR + 7 * MINUTE..=DAY_1 + 20 * HOUR - 1;
    assert_eq!(told(&view, minutes.clone(), HOUR)[2], 0);
    let whole = Aggregate {
        time: minutes,
        ..all(&view)
    };
    same(&view, &whole, None);
    assert_eq!(answers(&view, &whole, None)[2], 0);
    // Buckets that begin elsewhere.
    same(&view, &all(&view), Some((HOUR, 30 * MINUTE)));
    assert_eq!(
        answers(&view, &all(&view), Some((HOUR, 30 * MINUTE))),
        [0, 11, 0]
    );
    assert_eq!(answers(&view, &all(&view), Some((HOUR, 7)))[1], 0);
}

/// What is agreed on of a table holds from the next seal on.
#[test]
fn a_table_has_the_rollups_that_are_agreed_on() {
    let mut bench = Bench::new();
    let node = bench.admit();
    let tell = |bench: &mut Bench, widths: &[u32]| {
        let all = widths
            .iter()
            .map(|width| Rollup::new(*width, None).unwrap());
        let table = TableWish {
            rollups: Some(Rollups::new(all.collect()).unwrap()),
            ..TableWish::default()
        };
        let wish = Wish::default().with_tables([("truck".to_owned(), table)].into());
        bench.apply(&Command::Settings { node, wish });
    };
    tell(&mut bench, &[300, 86_400]);
    send(&mut bench, 0..4_000);
    bench.merge();
    send(&mut bench, 4_000..9_000);
    bench.merge();
    seal(&mut bench);
    let names = rollups(&bench);
    assert_eq!(
        names.len(),
        1,
        "of a day each block is one bucket: {names:?}"
    );
    assert!(names[0].contains(".300."), "{names:?}");
    let view = bench.node.store.view();
    assert_eq!(told(&view, EVER, MINUTE)[1], 0);
    assert!(told(&view, EVER, 10 * MINUTE)[1] > 0);
    drop(view);
    tell(&mut bench, &[]);
    send(&mut bench, 9_000..9_100);
    bench.merge();
    seal(&mut bench);
    assert_eq!(rollups(&bench), Vec::<String>::new());
    assert_eq!(bench.files().len(), 1);
}

/// The rows cannot be read, and are not.
#[test]
fn rows_that_are_rolled_up_are_not_read() {
    let bench = sealed();
    let view = bench.node.store.view();
    let segment = &view.segments[0];
    for block in &segment.blocks {
        flip(&bench.node.sim, &segment.file.name, block.offset + 9);
    }
    assert!(scan(&view, EVER).is_err());
    assert_eq!(answers(&view, &all(&view), Some((HOUR, 0))), [0, 11, 0]);
}

#[test]
fn late_rows_lie_beside_until_all_is_sealed_again() {
    let mut bench = sealed();
    let first = rollups(&bench);
    send(&mut bench, 3_600..3_800);
    assert_eq!(told(&bench.node.store.view(), EVER, HOUR)[..2], [0, 11]);
    bench.merge();
    let by_both = told(&bench.node.store.view(), EVER, HOUR);
    assert_eq!(by_both, [1, 11, 0], "the late part is one bucket");
    send(&mut bench, 7_000..9_000);
    bench.merge();
    assert!(told(&bench.node.store.view(), EVER, MINUTE)[2] > 0);
    seal(&mut bench);
    let again = rollups(&bench);
    assert_eq!(again.len(), 2);
    assert!(first.iter().all(|name| !again.contains(name)), "{again:?}");
    assert_eq!(
        bench.files().len(),
        3,
        "the old segment and its rollups are gone"
    );
    assert_eq!(told(&bench.node.store.view(), EVER, MINUTE), [0, 11, 0]);
}

#[test]
fn rollups_come_back_after_a_restart_and_go_with_their_segment() {
    let mut bench = sealed();
    let (view, files) = (bench.node.store.view(), bench.files());
    let sim = bench.node.sim.clone();
    let reopened = Node::open(&sim);
    assert_eq!(told(&reopened.store.view(), EVER, MINUTE), [0, 11, 0]);
    drop(reopened);
    bench.apply(&Command::RetentionDays(2));
    for hours in 1..=75 {
        let now = TimeNs(DAY_1 + hours * HOUR);
        bench.apply(&Command::Clock { node: 1, now });
    }
    bench.apply(&Command::Retention);
    assert_eq!(bench.files(), files, "a view still needs them");
    assert_eq!(told(&view, EVER, MINUTE), [0, 11, 0]);
    drop(view);
    assert_eq!(bench.files(), Vec::<String>::new());
    assert_eq!(Node::open(&sim).store.view().rollups.len(), 0);
}

#[test]
fn a_snapshot_brings_rollups_but_damaged_ones() {
    let mut bench = sealed();
    let snapshot = bench.node.store.snapshot().unwrap();
    assert_eq!(snapshot.files.len(), 3);
    let fresh = SimStorage::new(2);
    let mut node = Node::open(&fresh);
    for file in &snapshot.files {
        copy(
            &*bench.node.store.segments(),
            &*node.store.segments(),
            &file.name,
        );
    }
    node.state = node.store.install(snapshot).unwrap();
    assert_eq!(told(&node.store.view(), EVER, MINUTE), [0, 11, 0]);
    assert_eq!(node.store.snapshot().unwrap().held(), 3);

    let names = rollups(&bench);
    flip(&bench.node.sim, &names[0], 100);
    scrub(&bench.node.store);
    let snapshot = bench.node.store.snapshot().unwrap();
    assert_eq!(snapshot.files.len(), 2);
    // One that came without it: its own goes.
    node.apply(bench.index + 1, &Command::Merge);
    assert!(node.finish_merges());
    bench.merge();
    let snapshot = bench.node.store.snapshot().unwrap();
    node.store.install(snapshot).unwrap();
    assert_eq!(node.store.segments().list().unwrap().len(), 2);
    assert_eq!(told(&node.store.view(), EVER, HOUR)[2], 0);
}

#[test]
fn a_damaged_rollup_is_never_served_and_the_rows_answer() {
    let bench = sealed();
    let view = bench.node.store.view();
    let minutes = view
        .rollups
        .iter()
        .find(|one| one.file.name.contains(".60."));
    let minutes = Arc::clone(minutes.unwrap());
    let offset = minutes.blocks[4].offset;
    flip(&bench.node.sim, &minutes.file.name, offset + 20);
    assert_eq!(told(&view, EVER, MINUTE), [0, 10, 1]);
    assert_eq!(told(&view, EVER, HOUR), [0, 11, 0]);
    assert_eq!(view.damage_count(), count(1, 1));
    let rows = view.damage();
    assert_eq!(
        (&rows[0].file, rows[0].offset),
        (&minutes.file.name, offset)
    );
    assert_eq!(view.damaged_files(), [], "no segment is");
    flip(&bench.node.sim, &minutes.file.name, offset + 20);
    let by_both = told(&view, EVER, MINUTE);
    assert_eq!(by_both, [0, 10, 1], "what is known is not tried again");
    scrub(&bench.node.store);
    assert_eq!(view.damage_count(), count(0, 0), "it was read and is sound");
    assert_eq!(told(&view, EVER, MINUTE), [0, 11, 0]);
    // What is damaged by bytes outside of blocks, and found by reading all.
    flip(&bench.node.sim, &minutes.file.name, minutes.file.len - 60);
    scrub(&bench.node.store);
    assert_eq!(view.damage_count(), count(1, 0));
    // Then it is not opened any more, and holds up nothing.
    drop(view);
    let node = Node::open(&bench.node.sim);
    assert_eq!(told(&node.store.view(), EVER, MINUTE), [0, 0, 11]);
    assert_eq!(told(&node.store.view(), EVER, HOUR), [0, 11, 0]);
    assert_eq!(node.store.view().damage_count(), count(1, 0));
}

/// So far from the origin the rows of a minute lie in a bucket up to some second, and then in none.
#[test]
fn a_bucket_that_ends_with_the_numbers_is_told_by_its_rows() {
    let bench = sealed();
    let view = bench.node.store.view();
    let rest = i64::MAX % MINUTE;
    // The last one of a block: of others the rows that follow lie in no bucket either.
    for (block, by) in [(0, [0, 0, 11]), (2, [0, 2, 9])] {
        let last = view.segments[0].blocks[block].time_max;
        let minute = last.div_euclid(MINUTE) * MINUTE;
        assert!(minute + rest < last);
        let buckets = Some((MINUTE, minute - (i64::MAX - rest)));
        same(&view, &all(&view), buckets);
        assert_eq!(answers(&view, &all(&view), buckets), by);
    }
}

/// Damage that nobody tells is damage that nobody has met.
#[test]
fn a_rollup_that_cannot_answer_is_not_read() {
    let mut bench = Bench::new();
    send(&mut bench, 0..43_200);
    bench.merge();
    send_with_texts(&mut bench, 64_800..86_400);
    bench.merge();
    seal(&mut bench);
    let view = bench.node.store.view();
    let blocks = view.segments[0].blocks.len();
    let with_texts = |block: usize| view.segments[0].blocks[block].stats(1).is_some();
    let texts = (0..blocks).filter(|block| with_texts(*block)).count();
    assert!(texts > 0 && texts < blocks, "{texts} of {blocks}");
    let text_is_counted = Aggregate {
        fields: vec![("speed".to_owned(), ALL), ("on".to_owned(), NOTHING)],
        ..all(&view)
    };
    let by_minutes = Some((MINUTE, 0));
    assert_eq!(answers(&view, &text_is_counted, by_minutes)[2], 0);
    for rollup in &*view.rollups {
        for cells in &rollup.blocks {
            let source = |block: &usize| view.segments[0].blocks[*block].offset == cells.source;
            if with_texts((0..blocks).find(source).unwrap()) {
                flip(&bench.node.sim, &rollup.file.name, cells.offset + 20);
            }
        }
    }
    let expected = [0, blocks - texts, texts];
    assert_eq!(told(&view, EVER, MINUTE), expected, "texts are read");
    assert_eq!(view.damage_count(), count(0, 0));
    assert_eq!(answers(&view, &text_is_counted, by_minutes), expected);
    assert_eq!(view.damage_count(), count(1, texts));
}

/// Where the time cuts an hour, it may not cut a minute; where it cuts both, one try is enough.
#[test]
fn of_rollups_that_the_time_cuts_the_narrowest_is_read() {
    let bench = sealed();
    let view = bench.node.store.view();
    let hours = |rollup: &&Arc<SegmentHandle>| rollup.file.name.contains(".3600.");
    let hours = Arc::clone(view.rollups.iter().find(hours).unwrap());
    for cells in &hours.blocks {
        flip(&bench.node.sim, &hours.file.name, cells.offset + 20);
    }
    let from = DAY_1 + 7 * MINUTE;
    let first = view.segments[0].blocks[0].time_max;
    assert_eq!(told(&view, from..=first, HOUR), [0, 1, 0]);
    // Rows are a second apart: none is cut off.
    assert_eq!(told(&view, from - SECOND + 1..=first, HOUR), [0, 1, 0]);
    assert_eq!(told(&view, from + 1..=first, HOUR), [0, 0, 1]);
    assert_eq!(view.damage_count(), count(0, 0));
    assert_eq!(told(&view, EVER, HOUR), [0, 11, 0], "minutes answer");
    assert_eq!(view.damage_count(), count(1, 11));
}

#[test]
fn a_rollup_whose_file_is_gone_is_missed_by_nobody() {
    let bench = sealed();
    let view = bench.node.store.view();
    for name in rollups(&bench) {
        bench.node.store.segments().remove(&name).unwrap();
    }
    assert_eq!(told(&view, EVER, HOUR), [0, 0, 11]);
    assert_eq!(view.damage_count(), count(2, 0));
    drop(view);
    let node = Node::open(&bench.node.sim);
    assert_eq!(told(&node.store.view(), EVER, HOUR), [0, 0, 11]);
    assert_eq!(all_rows(&node.store.view()).len(), 86_400);
}

/// States are of blocks, and the copy has others.
#[test]
fn a_copy_that_a_peer_has_cut_otherwise_takes_no_rollup_over() {
    let mut bench = sealed();
    recut(&mut bench);
    assert_eq!(bench.files().len(), 1);
    let by = told(&bench.node.store.view(), EVER, HOUR);
    assert!(by[1] == 0 && by[2] > 0, "{by:?}");
    let sim = bench.node.sim.clone();
    drop(bench);
    let node = Node::open(&sim);
    assert_eq!(node.store.segments().list().unwrap().len(), 1);
    assert_eq!(told(&node.store.view(), EVER, HOUR), by);
}

/// Wherever the power goes, what is left answers, and the next try ends as if nothing had been.
#[test]
fn a_crash_while_sealing_leaves_the_parts_or_all_of_the_sealed() {
    let mut ends = [0; 2];
    for nth in 1.. {
        let mut bench = Bench::new();
        bench.node.store.worth = ALWAYS_WORTH;
        send(&mut bench, 0..300);
        bench.merge();
        send(&mut bench, 300..600);
        bench.merge();
        let sim = bench.node.sim.clone();
        let expected = all_rows(&bench.node.store.view());
        let index = bench.index + 1;
        bench.seal_day();
        sim.cut_at(nth);
        let done = bench.node.finish_merges();
        if done {
            sim.cut_at(u64::MAX / 2);
        }
        drop(bench);
        if !done {
            sim.power_cut();
        }
        let node = Node::open(&sim);
        let view = node.store.view();
        assert_eq!(all_rows(&view), expected, "cut {nth}");
        let is_sealed = node.store.durable_index() == index;
        ends[usize::from(is_sealed)] += 1;
        let files = node.store.segments().list().unwrap().len();
        assert_eq!(files, if is_sealed { 3 } else { 2 }, "cut {nth}");
        let by = told(&view, EVER, MINUTE);
        assert_eq!(by[1] > 0, is_sealed, "cut {nth}: {by:?}");
        if done {
            break;
        }
    }
    assert!(ends[0] > 10 && ends[1] > 0, "{ends:?}");
}

/// Of states that save time, and of those of all blocks.
const VERSIONS: [(u16, bool); 2] = [(1, false), (2, true)];

fn golden(version: u16) -> PathBuf {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/rollup");
    PathBuf::from(fixtures).join(format!("v{version}/minutes.bin"))
}

const SEGMENT: &str = "0000000000000035-489984+24.83b7a9185690f9c0.sealed.seg";

/// States of two blocks with all that is odd, by the minute.
fn written(is_whole: bool) -> (Arc<dyn Storage>, SegmentFile) {
    let disk = SimStorage::new(1).as_storage();
    let head = SegmentHead {
        resolution: Some(minutes()),
        is_whole,
        ..HEAD
    };
    let mut writer = RollupWriter::create(&*disk, head, (0, None)).unwrap();
    for (rows, source) in [(long_rows(), 43), (long_rows().slice(100..250), 9_000)] {
        let cells = rollup::cells(&rows, minutes(), ALWAYS_WORTH).unwrap();
        writer.add(&cells, source).unwrap();
    }
    writer.complete().unwrap();
    let file = writer.name(&*disk, SEGMENT).unwrap();
    (disk, file)
}

fn bytes(disk: &dyn Storage, name: &str) -> Vec<u8> {
    let content = disk.open(name, OpenMode::Existing).unwrap();
    let mut bytes = vec![0; usize::try_from(content.len().unwrap()).unwrap()];
    content.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_golden_rollup_is_read_as_the_states_of_its_rows() {
    VERSIONS.into_iter().for_each(check_golden);
}

fn check_golden((version, is_whole): (u16, bool)) {
    let disk = SimStorage::new(1).as_storage();
    let name = "golden.roll";
    let golden = fs::read(golden(version)).unwrap();
    assert_eq!(golden[8..10], version.to_le_bytes());
    let content = disk.open(name, OpenMode::Create).unwrap();
    content.write_at(0, &golden).unwrap();
    let file = SegmentFile::of(name, &*content).unwrap();
    file.check(&*content).unwrap();
    let (head, blocks) = file.read_parts(&*content).unwrap();
    assert_eq!(
        (head.command, head.resolution, head.is_whole),
        (HEAD.command, Some(minutes()), is_whole)
    );
    let types = [
        (0, FieldType::Float),
        (1, FieldType::Float),
        (2, FieldType::Float),
        (3, FieldType::Int),
        (5, FieldType::Int),
        (6, FieldType::Bool),
    ];
    let fields: Fields = types.map(|of| (Some(of), ALL)).into();
    let sources = blocks.iter().map(|block| block.source);
    assert_eq!(sources.collect::<Vec<u64>>(), [43, 9_000]);
    for (block, rows) in blocks
        .iter()
        .zip([long_rows(), long_rows().slice(100..250)])
    {
        let cells = file.read_block(&*content, block, &|_| true).unwrap();
        let count = rows.times.len() as u64;
        let found = rollup::groups(&cells, Some(count), &EVER, &fields)
            .unwrap()
            .unwrap();
        assert_eq!(bits(&found), bits(&folded(&rows, &fields)));
    }
}

#[test]
fn what_is_written_is_as_its_version_says_and_is_shown() {
    VERSIONS.into_iter().for_each(check_written);
}

fn check_written((version, is_whole): (u16, bool)) {
    let (disk, file) = written(is_whole);
    assert!(
        file.name
            .starts_with("0000000000000035-489984+24.83b7a9185690f9c0.60.")
    );
    let golden = fs::read(golden(version)).unwrap();
    assert_eq!(bytes(&*disk, &file.name), golden);
    let mut text = String::new();
    let show = &mut |part: &str| text.push_str(part);
    let damaged = inspect::segment(&*disk, &file.name, true, show);
    assert!(!damaged.unwrap(), "{text}");
    let of_all = if is_whole { " of all blocks" } else { "" };
    for part in [
        &format!("rollup by 60 s{of_all} 0"),
        &format!("version {version}"),
        "2 blocks, 76 rows",
        "  field 5 sum, bits above 64, int: ",
        "  greatest time, int: ",
        "states of the block at 9000",
        "the digest matches",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Run with `--ignored` after a change of version. It leaves a file that is there alone.
#[test]
#[ignore = "writes the golden file of the version that is written now"]
fn write_golden_rollup() {
    for (version, is_whole) in VERSIONS {
        let path = golden(version);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.exists() {
            let (disk, file) = written(is_whole);
            fs::write(path, bytes(&*disk, &file.name)).unwrap();
        }
    }
}

#[test]
fn every_flipped_bit_of_a_rollup_is_found() {
    let bench = short();
    let (sim, view) = (bench.node.sim.clone(), bench.node.store.view());
    let claims = Claims::new(bench.node.store.segments());
    let file = view.rollups[0].file.clone();
    let path = format!("segments/{}", file.name);
    for bit in 0..file.len * 8 {
        assert!(sim.flip_bit(&path, bit));
        let opened = SegmentHandle::open(&claims, file.clone(), view.catalog());
        let verified = opened.and_then(|opened| opened.verify());
        assert!(
            matches!(
                verified,
                Err(StoreError::Damaged { .. } | StoreError::Version { .. })
            ),
            "bit {bit}: {verified:?}"
        );
        assert!(sim.flip_bit(&path, bit));
    }
}

/// A store of before, in which nothing is rolled up, answers as ever.
#[test]
fn what_was_sealed_without_rollups_is_read() {
    let bench = sealed();
    let sim = bench.node.sim.clone();
    let names = rollups(&bench);
    drop(bench);
    let (store, _) = Store::open(&*sim.as_storage()).unwrap();
    let mut store = store;
    let snapshot = store.snapshot().unwrap();
    let mut files = snapshot.files.clone();
    files.retain(|file| !names.contains(&file.name));
    let (index, raft, state) = (
        snapshot.index,
        snapshot.raft.clone(),
        snapshot.state.clone(),
    );
    drop(snapshot);
    let without = crate::store::SnapshotFiles::new(index, raft, state, files);
    store.install(without).unwrap();
    assert_eq!(told(&store.view(), EVER, HOUR), [0, 0, 11]);
    assert_eq!(store.segments().list().unwrap().len(), 1);
}
