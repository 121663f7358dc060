//! A single flipped bit, wherever it is: found, or what is read is what was written. Of segments
//! every bit, of the manifest one bit of each of many bytes: redb takes its time. The log's are in
//! `journal/tests/flips.rs`.

use std::sync::Arc;

use journal::{OpenMode, SimStorage, Storage};
use shared::batch::{Column, Values};

use super::Random;
use super::features::{Bench, DAY};
use crate::state::rows::SeriesRows;
use crate::state::{Catalog, SeriesId};
use crate::store::claims::Claims;
use crate::store::manifest::Manifest;
use crate::store::partition::Partition;
use crate::store::segment::{SegmentFile, SegmentHandle, SegmentHead};
use crate::store::writer::SegmentWriter;
use crate::store::{StoreError, View};

/// Every type of column, with gaps and without; more rows than blocks without statistics have.
fn rows(series: u32, count: i32) -> SeriesRows {
    let floats = (0..count).map(|row| f64::from(row).sqrt()).collect();
    let ints = (0..count).map(|row| i64::from(row % 7)).collect();
    let texts = (0..count).map(|row| format!("t{}", row % 3)).collect();
    let bools: Vec<bool> = (0..count).map(|row| row % 5 == 0).collect();
    let some = bools.iter().filter(|present| **present).count();
    let column = |field, values| Column {
        field,
        present: None,
        values,
    };
    let sparse = Column {
        present: Some(bools.clone()),
        ..column(4, Values::Float(vec![0.5; some]))
    };
    SeriesRows {
        series: SeriesId(series),
        times: (0..count)
            .map(|row| 1000 * DAY + i64::from(row * row))
            .collect(),
        columns: vec![
            column(0, Values::Float(floats)),
            column(1, Values::Int(ints)),
            column(2, Values::Text(texts)),
            column(3, Values::Bool(bools)),
            sparse,
        ],
    }
}

/// A segment on a disk of its own, and the catalog that knows its series.
fn segment(sealed: bool) -> (Arc<dyn Storage>, SimStorage, SegmentFile, Catalog) {
    let mut bench = Bench::new();
    bench.data(&[1000 * DAY], Values::Float(vec![1.0]));
    let catalog = bench.node.store.view().catalog().clone();
    let sim = SimStorage::new(1);
    let files = sim.as_storage();
    let partition = Partition::Window {
        start_hour: 24_000,
        hours: 24,
    };
    let head = SegmentHead {
        command: 6,
        partition,
        merged_at: 1000 * DAY,
        resolution: None,
        is_whole: false,
    };
    let mut writer = SegmentWriter::create(&*files, head, 0, sealed).unwrap();
    writer.add(&rows(0, 130)).unwrap();
    writer.add(&rows(0, 3)).unwrap();
    writer.complete().unwrap();
    let file = writer.name(&*files).unwrap();
    (files, sim, file, catalog)
}

fn read(segment: &SegmentHandle) -> Result<Vec<SeriesRows>, StoreError> {
    let blocks = segment.blocks.iter();
    let content = segment.content()?;
    let read = |block| segment.read(&*content, block, &|_| true);
    blocks.map(read).collect()
}

#[test]
fn every_bit_of_a_segment() {
    for sealed in [false, true] {
        let (files, sim, file, catalog) = segment(sealed);
        let claims = Claims::new(files);
        let open = || SegmentHandle::open(&claims, file.clone(), &catalog);
        let sound = open().unwrap();
        let expected = read(&sound).unwrap();
        assert_eq!(expected.len(), 2);
        for bit in 0..file.len * 8 {
            assert!(sim.flip_bit(&file.name, bit));
            let is_harm = |error: &StoreError| {
                matches!(
                    error,
                    StoreError::Damaged { .. } | StoreError::Version { .. }
                )
            };
            match open() {
                Ok(opened) => {
                    match read(&opened) {
                        Ok(rows) => assert_eq!(rows, expected, "bit {bit}"),
                        Err(error) => assert!(is_harm(&error), "bit {bit}: {error}"),
                    }
                    let error = opened.verify().unwrap_err();
                    assert!(is_harm(&error), "bit {bit}: {error}");
                }
                Err(error) => assert!(is_harm(&error), "bit {bit}: {error}"),
            }
            assert!(sim.flip_bit(&file.name, bit));
        }
        assert_eq!(read(&sound).unwrap(), expected, "all was flipped back");
    }
}

/// Three merges and a seal: pages that were written over, a state, two rows.
fn manifest() -> (Bench, Vec<u8>) {
    let mut bench = Bench::new();
    for row in 0..3 {
        bench.data(&[1000 * DAY + row], Values::Float(vec![1.0]));
        bench.merge();
    }
    bench.data(&[1001 * DAY], Values::Float(vec![1.0]));
    bench.seal_day();
    assert!(bench.node.finish_merges());
    let file = bench.node.sim.as_storage();
    let file = file.open("manifest.redb", OpenMode::Existing).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    (bench, bytes)
}

/// Where a text stands in it, also in pages that do not count any more.
fn places_of(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(text.len()).enumerate();
    let found = windows.filter(|(_, window)| *window == text);
    found.map(|(at, _)| at).collect()
}

#[test]
fn bits_of_the_manifest() {
    let (bench, bytes) = manifest();
    let names = bench.files();
    let view: Arc<View> = bench.node.store.view();
    let raft = bench.node.store.snapshot().unwrap().raft;
    let state = view.state().encode();
    let mut random = Random(5);
    let step = state.len() / 100 + 1;
    let mut places = Vec::new();
    for at in places_of(&bytes, &state) {
        places.extend((at..at + state.len()).step_by(step));
    }
    for name in &names {
        let at = places_of(&bytes, name.as_bytes()).into_iter();
        places.extend(at.map(|at| at + random.below(name.len())));
    }
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    places.extend(used.iter().step_by(used.len() / 100 + 1));
    places.extend((0..50).map(|_| random.below(bytes.len())));
    let (mut found, mut harmless) = (0, 0);
    for at in places {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << random.below(8);
        let disk = SimStorage::new(2).as_storage();
        let file = disk.open("manifest.redb", OpenMode::CreateNew).unwrap();
        file.write_at(0, &flipped).unwrap();
        match Manifest::open(&*disk, &names) {
            Ok((_, durable)) => {
                assert_eq!(
                    (durable.index, &durable.raft),
                    (view.index(), &raft),
                    "byte {at}"
                );
                assert!(durable.state[..] == view.state().encode()[..], "byte {at}");
                let found: Vec<&String> = durable.files.iter().map(|file| &file.name).collect();
                assert_eq!(found, names.iter().collect::<Vec<_>>(), "byte {at}");
                harmless += 1;
            }
            Err(
                StoreError::Damaged { .. } | StoreError::Io { .. } | StoreError::Version { .. },
            ) => {
                found += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    let all_of_the_state = state.len().div_ceil(step);
    assert!(
        found >= all_of_the_state,
        "{found} found, {harmless} harmless"
    );
}
