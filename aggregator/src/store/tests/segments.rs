//! Golden segments: files that were once written and must be read for ever, of every version.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use journal::{OpenMode, SimStorage, StorageFile};
use shared::batch::{Column, Values};
use shared::id::AgentId;

use super::aggregate;
use super::features::submission;
use crate::state::rows::SeriesRows;
use crate::state::{Outcome, Payload, SeriesId, State};
use crate::store::block::{self, BlockMeta, ColumnStats};
use crate::store::inspect;
use crate::store::partition::Partition;
use crate::store::segment::{SegmentFile, SegmentHandle, SegmentHead};
use crate::store::writer::SegmentWriter;
use crate::store::{Claims, View};

pub(super) const HEAD: SegmentHead = SegmentHead {
    command: 53,
    partition: Partition::Window {
        start_hour: 489_984,
        hours: 24,
    },
    merged_at: 1_764_000_005_000_000_000,
    resolution: None,
    is_whole: false,
};
const SECOND: i64 = 1_000_000_000;

/// A plain segment and a sealed one.
const NAMES: [(&str, bool); 2] = [("plain.bin", false), ("sealed.bin", true)];

fn folder(version: u16) -> PathBuf {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/segment");
    PathBuf::from(fixtures).join(format!("v{version}"))
}

/// Columns of every type, with holes at both ends and without, and what is odd among numbers.
pub(super) fn long_rows() -> SeriesRows {
    let rows = 300_u32;
    let at = |row: u32| (usize::try_from(row).unwrap(), f64::from(row));
    let noise = |row: u32| row.wrapping_mul(0x9e37_79b9).rotate_left(7) % 97 * (row % 3);
    let flags = |present: &dyn Fn(u32) -> bool| (0..rows).map(present).collect::<Vec<bool>>();
    let holes = flags(&|row| row % 3 != 0 && row < 298);
    let some = || (0..rows).filter(|row| holes[at(*row).0]);
    let column = |field, present: Option<&Vec<bool>>, values| Column {
        field,
        present: present.cloned(),
        values,
    };
    let odd = |row: u32| match row {
        7 => f64::NAN,
        8 => -0.0,
        9 => f64::NEG_INFINITY,
        row => f64::from(row) / 3.0,
    };
    let large = |row: u32| match row % 4 {
        0 => i64::MAX,
        1 => i64::MIN + i64::from(row),
        _ => i64::from(row),
    };
    SeriesRows {
        series: SeriesId(3),
        times: (0..rows)
            .map(|row| 1_764_000_000 * SECOND + i64::from(row / 2) * 20 * SECOND)
            .collect(),
        columns: vec![
            column(
                0,
                None,
                Values::Float((0..rows).map(|row| at(row).1 / 10.0).collect()),
            ),
            column(
                1,
                Some(&holes),
                Values::Float(some().map(|row| f64::from(noise(row)) / 10.0).collect()),
            ),
            column(2, None, Values::Float((0..rows).map(odd).collect())),
            column(
                3,
                None,
                Values::Int((0..rows).map(|row| i64::from(noise(row))).collect()),
            ),
            column(5, Some(&holes), Values::Int(some().map(large).collect())),
            column(
                6,
                None,
                Values::Bool((0..rows).map(|row| row % 5 == 0).collect()),
            ),
            column(
                300,
                Some(&holes),
                Values::Text(some().map(|row| format!("t{}", row % 7)).collect()),
            ),
        ],
    }
}

fn short_rows() -> SeriesRows {
    SeriesRows {
        series: SeriesId(9),
        times: vec![-5, 0, 7],
        columns: vec![Column {
            field: 0,
            present: None,
            values: Values::Int(vec![1, 2, 3]),
        }],
    }
}

/// Two blocks of one series among others, not in the order of series.
fn all_rows() -> Vec<SeriesRows> {
    let mut later = long_rows().slice(100..250);
    later
        .times
        .iter_mut()
        .for_each(|time| *time += 7_000 * SECOND);
    vec![short_rows(), long_rows(), later]
}

fn written(sealed: bool) -> Vec<u8> {
    let disk = SimStorage::new(1).as_storage();
    let mut writer = SegmentWriter::create(&*disk, HEAD, 0, sealed).unwrap();
    for rows in all_rows() {
        writer.add(&rows).unwrap();
    }
    writer.complete().unwrap();
    let file = writer.name(&*disk).unwrap();
    let content = disk.open(&file.name, OpenMode::Existing).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len).unwrap()];
    content.read_at(0, &mut bytes).unwrap();
    bytes
}

fn opened(bytes: &[u8]) -> (Arc<dyn StorageFile>, SegmentFile) {
    let disk = SimStorage::new(1).as_storage();
    let content = disk.open("golden", OpenMode::Create).unwrap();
    content.write_at(0, bytes).unwrap();
    let file = SegmentFile::of("golden", &*content).unwrap();
    (content, file)
}

/// The blocks in the order of their writing, each with what the index says of it.
fn read(bytes: &[u8]) -> Vec<(BlockMeta, SeriesRows)> {
    let (content, file) = opened(bytes);
    let (head, mut blocks) = file.read_parts(&*content).unwrap();
    assert_eq!(head, HEAD);
    file.check_digest(&*content).unwrap();
    assert!(blocks.is_sorted_by_key(|block| block.series));
    blocks.sort_by_key(|block| block.offset);
    let decoded = blocks.into_iter().map(|meta| {
        let mut block = vec![0; usize::try_from(meta.bytes).unwrap()];
        content.read_at(meta.offset, &mut block).unwrap();
        let rows = block::decode(&block, &meta, &|_| true).unwrap();
        (meta, rows)
    });
    decoded.collect()
}

#[test]
fn golden_segments_are_read() {
    for (version, name) in [
        (1_u16, "plain.bin"),
        (2, "sealed.bin"),
        (3, "plain.bin"),
        (3, "sealed.bin"),
    ] {
        let bytes = fs::read(folder(version).join(name)).unwrap();
        assert_eq!(bytes[8..10], version.to_le_bytes(), "{name}");
        for ((meta, found), rows) in read(&bytes).iter().zip(all_rows()) {
            // NaN is not equal to itself, but is shown the same.
            assert_eq!(
                format!("{found:?}"),
                format!("{rows:?}"),
                "{name} {version}"
            );
            let (_, now) = block::encode(&rows, false).unwrap();
            let expected = now.columns.into_iter().map(|stats| match version {
                3 => stats,
                _ => without_sum(stats, meta),
            });
            let expected: Vec<ColumnStats> = expected.collect();
            assert_eq!(
                format!("{:?}", meta.columns),
                format!("{expected:?}"),
                "{name}"
            );
        }
        assert_eq!(read(&bytes).len(), all_rows().len());
    }
}

#[test]
fn sums_are_shown_where_the_index_has_them() {
    for (version, name, has_sums) in [(1, "plain.bin", false), (3, "plain.bin", true)] {
        let disk = SimStorage::new(1).as_storage();
        let content = disk.open("golden", OpenMode::Create).unwrap();
        let bytes = fs::read(folder(version).join(name)).unwrap();
        content.write_at(0, &bytes).unwrap();
        let mut text = String::new();
        let show = &mut |part: &str| text.push_str(part);
        let damaged = inspect::segment(&*disk, "golden", false, show).unwrap();
        assert!(!damaged, "{text}");
        let tenths = (0..300).fold(0.0, |sum, row| sum + f64::from(row) / 10.0);
        assert_eq!(
            text.contains(&format!("; sum {tenths:?}\n")),
            has_sums,
            "{text}"
        );
        assert_eq!(text.contains("; sum NaN\n"), has_sums, "{text}");
    }
}

/// What entries of older versions do not tell is read.
#[test]
fn aggregates_over_all_versions_are_what_a_fold_over_the_rows_gives() {
    let fields = (0..=300).map(|field| match field {
        0..3 => format!("f{field}=0.5"),
        3..6 => format!("f{field}=1i"),
        6 => format!("f{field}=t"),
        _ => format!("f{field}=\"a\""),
    });
    let fields: Vec<String> = fields.collect();
    let mut state = State::new();
    let lines = (0..12).map(|series| {
        let fields = match series {
            3 => fields.join(","),
            _ => "v=1i".to_owned(),
        };
        format!("t{series},device=d {fields} {}\n", 1_764_000_000 * SECOND)
    });
    let lines: String = lines.collect();
    let agent = AgentId::parse("gw").unwrap();
    let effects = state.apply(1, &submission(&agent, Payload::Lines(lines.into())));
    assert_eq!(effects.outcomes[0].1, Outcome::Stored);
    assert_eq!(state.catalog().series(SeriesId(3)).unwrap().table, "t3");

    for (version, name) in [(1, "plain.bin"), (2, "sealed.bin"), (3, "plain.bin")] {
        let disk = SimStorage::new(1).as_storage();
        let content = disk.open("golden", OpenMode::Create).unwrap();
        let bytes = fs::read(folder(version).join(name)).unwrap();
        content.write_at(0, &bytes).unwrap();
        let file = SegmentFile::of("golden", &*content).unwrap();
        let claims = Claims::new(Arc::clone(&disk));
        let segment = SegmentHandle::open(&claims, file, state.catalog()).unwrap();
        let view = Arc::new(View {
            index: 1,
            state: state.clone(),
            segments: Arc::new(vec![segment]),
            rollups: Arc::default(),
            level0: vec![],
        });
        assert_eq!(view.row_count("t3"), Some(450));
        aggregate::check(&view);
    }
}

/// As versions 1 and 2 have it.
fn without_sum(stats: ColumnStats, block: &BlockMeta) -> ColumnStats {
    ColumnStats {
        sum: None,
        ends: stats.ends.filter(|_| stats.count == block.rows),
        ..stats
    }
}

#[test]
fn what_is_written_now_is_read_and_has_the_latest_version() {
    for (_, sealed) in NAMES {
        let bytes = written(sealed);
        assert_eq!(bytes[8..10], 3_u16.to_le_bytes());
        let rows: Vec<SeriesRows> = read(&bytes).into_iter().map(|(_, rows)| rows).collect();
        assert_eq!(format!("{rows:?}"), format!("{:?}", all_rows()));
    }
}

/// Run with `--ignored` after a change of version. It leaves files that are there alone.
#[test]
#[ignore = "writes the golden files of the version that is written now"]
fn write_golden_segments() {
    for (name, sealed) in NAMES {
        let bytes = written(sealed);
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        let path = folder(version).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
    }
}
