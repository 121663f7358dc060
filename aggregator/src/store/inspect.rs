//! A segment and the manifest, in words: `inspect` prints it. Reads only, beside a running node too.

use std::fmt::{self, Write as _};

use journal::{OpenMode, Storage};
use shared::batch::Values;
use shared::column::{codec_name, time_codec_name};
use shared::reading::FieldType;

use super::block::{self, BlockMeta, ColumnLayout, ColumnStats};
use super::error::StoreError;
use super::manifest::{self, Durable};
use super::partition::Partition;
use super::rollup;
use super::segment::{SegmentFile, SegmentHead};
use super::strong;
use super::sum::Sum;
use crate::state::State;
use crate::state::rows::SeriesRows;

/// Where the version stands, behind the magic.
const VERSION_AT: u64 = 8;
const CANNOT_FAIL: &str = "writing to a string cannot fail";

/// Shows a segment: header, blocks, columns, and with `rows` what they hold. Every checksum and the
/// digest are verified. Returns whether it is damaged; the text says where.
pub(crate) fn segment(
    storage: &dyn Storage,
    name: &str,
    rows: bool,
    show: &mut dyn FnMut(&str),
) -> Result<bool, StoreError> {
    let io = |source| StoreError::io(name, source);
    let content = storage.open(name, OpenMode::Existing).map_err(io)?;
    let parts = SegmentFile::of(name, &*content).and_then(|file| {
        let (head, blocks) = file.read_parts(&*content)?;
        Ok((file, head, blocks))
    });
    let (file, head, blocks) = match parts {
        Ok(parts) => parts,
        Err(error @ StoreError::Damaged { .. }) => {
            show(&error.to_string());
            return Ok(true);
        }
        Err(other) => return Err(other),
    };
    let mut version = [0; 2];
    content.read_at(VERSION_AT, &mut version).map_err(io)?;
    show(&head_text(
        &file,
        u16::from_le_bytes(version),
        head,
        &blocks,
    ));
    let mut damaged = false;
    for meta in &blocks {
        let mut bytes = vec![0; usize::try_from(meta.bytes).expect("a u32 fits")];
        content.read_at(meta.offset, &mut bytes).map_err(io)?;
        match block_text(&bytes, meta, rows) {
            Ok(text) => show(&text),
            Err(what) => {
                damaged = true;
                let (offset, series) = (meta.offset, meta.series.0);
                show(&format!(
                    "block at {offset}, series {series}: damaged: {what}"
                ));
            }
        }
    }
    match file.check_digest(&*content) {
        Ok(()) => show("the digest matches"),
        Err(error @ StoreError::Damaged { .. }) => {
            damaged = true;
            show(&error.to_string());
        }
        Err(other) => return Err(other),
    }
    Ok(damaged)
}

fn head_text(file: &SegmentFile, version: u16, head: SegmentHead, blocks: &[BlockMeta]) -> String {
    let SegmentHead {
        command,
        partition,
        merged_at,
        resolution,
        is_whole,
    } = head;
    let what = match resolution {
        None => "segment".to_owned(),
        Some(resolution) if is_whole => {
            format!("rollup by {} s of all blocks", resolution.seconds())
        }
        Some(resolution) => format!("rollup by {} s", resolution.seconds()),
    };
    format!(
        "{what} {}, version {version}, {} bytes, digest {}\n  merge command {command}, at {merged_at} ns of replicated time\n  partition {}\n  {}",
        file.name,
        file.len,
        file.digest,
        partition_text(partition),
        blocks_text(blocks)
    )
}

fn partition_text(partition: Partition) -> String {
    match partition {
        Partition::Window { start_hour, hours } => {
            format!("{hours} hours from hour {start_hour} since 1970")
        }
        Partition::Wild => "of times that are not plausible".to_owned(),
    }
}

fn blocks_text(blocks: &[BlockMeta]) -> String {
    let rows: u64 = blocks.iter().map(|block| u64::from(block.rows)).sum();
    let from = blocks.iter().map(|block| block.time_min).min();
    let to = blocks.iter().map(|block| block.time_max).max();
    let (count, from, to) = (blocks.len(), from.unwrap_or(0), to.unwrap_or(0));
    format!("{count} blocks, {rows} rows, times {from} to {to} ns")
}

fn block_text(bytes: &[u8], meta: &BlockMeta, rows: bool) -> Result<String, String> {
    let decoded = block::decode(bytes, meta, &|_| true).map_err(|fault| fault.to_string())?;
    let (times, columns) = block::layout(bytes).map_err(|fault| fault.to_string())?;
    let BlockMeta {
        series,
        offset,
        bytes,
        rows: count,
        time_min,
        time_max,
        columns: all_stats,
        source,
    } = meta;
    let mut text = format!(
        "block at {offset}, series {}, {count} rows, {bytes} bytes, times {time_min} to {time_max} ns\n",
        series.0
    );
    if *source > 0 {
        writeln!(text, "  states of the block at {source} of the segment").expect(CANNOT_FAIL);
    }
    let codec = times.codec.map(time_codec_name).unwrap_or_default();
    writeln!(text, "  times: {codec}, {} bytes", times.bytes).expect(CANNOT_FAIL);
    for column in &columns {
        let stats = all_stats.iter().find(|one| one.field == column.field);
        let name = if *source > 0 {
            rollup::column_name(column.field)
        } else {
            format!("field {}", column.field)
        };
        put_column(&mut text, &name, column, stats).expect(CANNOT_FAIL);
    }
    if rows {
        put_rows(&mut text, &decoded).expect(CANNOT_FAIL);
    }
    Ok(text)
}

fn put_column(
    text: &mut String,
    what: &str,
    column: &ColumnLayout,
    stats: Option<&ColumnStats>,
) -> fmt::Result {
    let ColumnLayout {
        field_type,
        strong,
        flags,
        values,
        ..
    } = *column;
    let name = |codec| {
        if strong {
            strong::form_name(codec)
        } else {
            codec_name(field_type, codec)
        }
    };
    let codec = values.codec.map(name);
    let (codec, bytes) = (codec.unwrap_or_default(), values.bytes);
    write!(
        text,
        "  {what}, {}: {codec}, {bytes} bytes",
        field_type.as_str()
    )?;
    if let Some(flags) = flags {
        let codec = flags.codec.map(|codec| codec_name(FieldType::Bool, codec));
        let (codec, bytes) = (codec.unwrap_or_default(), flags.bytes);
        write!(text, "; presence: {codec}, {bytes} bytes")?;
    }
    match stats.and_then(|stats| stats.sum) {
        Some(Sum::Int(sum)) => write!(text, "; sum {sum}")?,
        Some(Sum::Float(sum)) => write!(text, "; sum {sum:?}")?,
        None => {}
    }
    writeln!(text)
}

/// A row a line: its time, then the fields that it has.
fn put_rows(text: &mut String, rows: &SeriesRows) -> fmt::Result {
    let mut next = vec![0; rows.columns.len()];
    for (row, time) in rows.times.iter().enumerate() {
        write!(text, "    {time}")?;
        for (column, at) in rows.columns.iter().zip(&mut next) {
            if column.present.as_ref().is_none_or(|flags| flags[row]) {
                let value = value_text(&column.values, *at);
                write!(text, " {}={value}", column.field)?;
                *at += 1;
            }
        }
        writeln!(text)?;
    }
    Ok(())
}

fn value_text(values: &Values, at: usize) -> String {
    match values {
        Values::Float(values) => format!("{:?}", values[at]),
        Values::Int(values) => values[at].to_string(),
        Values::Bool(values) => values[at].to_string(),
        Values::Text(values) => format!("{:?}", values[at]),
    }
}

/// Shows the manifest of a store and the segments that it names: of these header and index are
/// checked, not the rows. Returns whether something is damaged.
pub(crate) fn manifest(
    storage: &dyn Storage,
    show: &mut dyn FnMut(&str),
) -> Result<bool, StoreError> {
    let durable = match manifest::look(storage) {
        Ok(durable) => durable,
        Err(error @ StoreError::Damaged { .. }) => {
            show(&error.to_string());
            return Ok(true);
        }
        Err(other) => return Err(other),
    };
    let mut damaged = false;
    match durable_text(&durable) {
        Ok(text) => show(&text),
        Err(error) => {
            damaged = true;
            show(&error.to_string());
        }
    }
    if durable.files.is_empty() {
        return Ok(damaged);
    }
    let segments = storage.directory("segments");
    let segments = segments.map_err(|source| StoreError::io("segments", source))?;
    for file in &durable.files {
        match segment_line(&*segments, file) {
            Ok(text) => show(&text),
            Err(error) => {
                damaged = true;
                show(&format!("  {error}"));
            }
        }
    }
    Ok(damaged)
}

/// The state as of the last merge, as far as its tables; an empty one before the first.
pub(crate) fn tables(storage: &dyn Storage) -> Result<State, StoreError> {
    if !manifest::is_there(storage)? {
        return Ok(State::new());
    }
    super::decode_state(&manifest::look(storage)?.state, State::decode_tables)
}

fn durable_text(durable: &Durable) -> Result<String, StoreError> {
    let Durable {
        index,
        installs,
        state: bytes,
        files,
        ..
    } = durable;
    let state = super::decode_state(bytes, State::decode)?;
    let (tables, series) = (
        state.catalog().tables().count(),
        state.catalog().series_count(),
    );
    let stored: u64 = files.iter().map(|file| file.len).sum();
    Ok(format!(
        "manifest: all up to index {index} is merged, {installs} snapshots were installed\nstate: {} bytes, {tables} tables, {series} series\nsegments: {}, {stored} bytes",
        bytes.len(),
        files.len()
    ))
}

fn segment_line(segments: &dyn Storage, file: &SegmentFile) -> Result<String, StoreError> {
    let content = segments
        .open(&file.name, OpenMode::Existing)
        .map_err(|source| StoreError::io(&file.name, source))?;
    let (_, blocks) = file.read_parts(&*content)?;
    let (name, len) = (&file.name, file.len);
    Ok(format!("  {name}: {len} bytes, {}", blocks_text(&blocks)))
}

#[cfg(test)]
mod tests {
    use journal::SimStorage;
    use shared::batch::Column;

    use super::super::writer::SegmentWriter;
    use super::*;
    use crate::state::SeriesId;

    const NAME: &str = "0000000000000035-489984+24.83b7a9185690f9c0.seg";
    const MERGED_AT: i64 = 1_795_701_475_834_606_225;

    /// The row of the example in `docs/formats.md`.
    fn disk() -> SimStorage {
        let column = |field, values| Column {
            field,
            present: None,
            values,
        };
        let rows = SeriesRows {
            series: SeriesId(0),
            times: vec![1_764_000_004_000_000_000],
            columns: vec![
                column(0, Values::Float(vec![24.5])),
                column(1, Values::Bool(vec![false])),
                column(2, Values::Int(vec![4])),
                column(3, Values::Text(vec!["a4".to_owned()])),
            ],
        };
        let head = SegmentHead {
            command: 0x35,
            partition: Partition::Window {
                start_hour: 489_984,
                hours: 24,
            },
            merged_at: MERGED_AT,
            resolution: None,
            is_whole: false,
        };
        let disk = SimStorage::new(1);
        let mut writer = SegmentWriter::create(&*disk.as_storage(), head, 0, false).unwrap();
        writer.add(&rows).unwrap();
        writer.complete().unwrap();
        writer.name(&*disk.as_storage()).unwrap();
        disk
    }

    fn shown(disk: &SimStorage, rows: bool) -> (String, bool) {
        let mut text = String::new();
        let show = &mut |part: &str| {
            text.push_str(part);
            text.push('\n');
        };
        let damaged = segment(&*disk.as_storage(), NAME, rows, show).unwrap();
        (text, damaged)
    }

    /// The bytes of the example: each line begins with its offset, which says how many the line
    /// before has; what stands behind them is for people.
    fn documented() -> Vec<u8> {
        let page = include_str!("../../../docs/formats.md");
        let (_, example) = page.split_once("### Example: one row, 168 bytes").unwrap();
        let example = example.split("```").nth(1).unwrap();
        let lines = example.lines().filter_map(|line| line.split_once("  "));
        let offset = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let lines: Vec<(usize, &str)> = lines.map(|(at, rest)| (offset(at), rest)).collect();
        let ends = lines.iter().skip(1).map(|(at, _)| *at).chain([168]);
        let mut bytes = Vec::new();
        for ((at, rest), end) in lines.iter().zip(ends) {
            assert_eq!(*at, bytes.len());
            let hex = rest.split_whitespace().take(end - at);
            bytes.extend(hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        }
        bytes
    }

    #[test]
    fn the_example_of_the_documentation_is_what_is_written() {
        let file = disk().as_storage().open(NAME, OpenMode::Existing).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, documented());
    }

    #[test]
    fn a_segment_is_shown_with_codecs_and_rows() {
        let (text, damaged) = shown(&disk(), true);
        assert!(!damaged, "{text}");
        for part in [
            "segment 0000000000000035-489984+24.83b7a9185690f9c0.seg, version 3, ",
            "merge command 53, at 1795701475834606225 ns",
            "24 hours from hour 489984 since 1970",
            "1 blocks, 1 rows, times 1764000004000000000 to 1764000004000000000 ns",
            "block at 43, series 0, 1 rows, ",
            "  times: s ",
            "field 0, float: decimal 1, ",
            "field 1, bool: all false, 1 bytes",
            "    1764000004000000000 0=24.5 1=false 2=4 3=\"a4\"\n",
            "the digest matches",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!shown(&disk(), false).0.contains("24.5"));
    }

    #[test]
    fn damage_is_told_wherever_it_is() {
        for byte in [0, 20, 50, 115, 140, 160] {
            let disk = disk();
            assert!(disk.flip_bit(NAME, byte * 8));
            let (text, damaged) = shown(&disk, false);
            assert!(damaged, "byte {byte}: {text}");
        }
    }

    #[test]
    fn the_manifest_of_an_empty_store_is_shown_and_left_alone() {
        let disk = SimStorage::new(1);
        drop(crate::store::Store::open(&*disk.as_storage()).unwrap());
        let mut text = String::new();
        let before = disk.operations();
        let damaged = manifest(&*disk.as_storage(), &mut |part| text.push_str(part)).unwrap();
        assert!(!damaged, "{text}");
        assert!(text.contains("up to index 0 is merged"), "{text}");
        assert_eq!(disk.operations(), before, "nothing is written");
    }
}
