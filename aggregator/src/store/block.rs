//! A block: up to 8,192 rows of one series, sorted by time, one time column, columns by
//! `shared::column`, closed by a CRC32C that is verified at every read. Bytes in `docs/formats.md`.

use shared::batch::{Column, Values};
use shared::column::decimal::{float_of_ordered, ordered_bits};
use shared::column::{
    Scratch, decode_bools, decode_times, decode_values, encode_bools, encode_times, encode_values,
};
use shared::limits::TEXT_BYTES_MAX;
use shared::reading::{FieldType, Value};
use shared::wire::{Budget, WireError};

use super::strong;
use super::sum::{Sum, plain_extremes};
use crate::state::SeriesId;
use crate::state::bytes::{ReadFault, Reader, Writer};
use crate::state::encode::decode_value;
use crate::state::rows::SeriesRows;

/// Rows of one block.
pub(super) const BLOCK_ROWS_MAX: usize = 8_192;
/// Values of one block, times not counted; a wide series gets shorter blocks.
const BLOCK_VALUES_MAX: usize = 262_144;
/// Memory of the rows of one block above which it is cut in two, down to a single row.
const BLOCK_BYTES_MAX: usize = 8 << 20;
/// Memory that decoding one block may take: a single row may have all fields of a table.
const DECODE_BYTES_MAX: usize = 256 << 20;
/// Fewer rows than this are decoded faster than their statistics are worth in the index.
const STATS_ROWS_MIN: usize = 128;
/// Longer texts do not appear in statistics.
pub(super) const STATS_TEXT_BYTES_MAX: usize = 64;

/// Bits of a column's kind.
const FLAGGED: u8 = 1;
const STRONG: u8 = 2;

/// What the index says of a block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BlockMeta {
    pub(crate) series: SeriesId,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    pub(crate) rows: u32,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    /// None for short blocks, and for those of rollups.
    pub(crate) columns: Vec<ColumnStats>,
    /// Of a rollup: where the block that it is of begins in its segment; else 0.
    pub(crate) source: u64,
}

/// Statistics of one column of a block; first and last are in order of time. Equal by their bits: NaN
/// equals itself.
#[derive(Debug, Clone)]
pub(crate) struct ColumnStats {
    pub(crate) field: u16,
    pub(crate) count: u32,
    /// NaN is neither; `None` if there is nothing to compare or it is too long.
    pub(crate) min: Option<Value>,
    pub(crate) max: Option<Value>,
    pub(crate) first: Option<Value>,
    pub(crate) last: Option<Value>,
    /// `None` of bools and texts, and in segments of versions 1 and 2.
    pub(crate) sum: Option<Sum>,
    /// The times of first and last; `None` where segments of versions 1 and 2 do not tell.
    pub(crate) ends: Option<(i64, i64)>,
}

impl PartialEq for ColumnStats {
    fn eq(&self, other: &Self) -> bool {
        fn parts(one: &ColumnStats) -> (u16, u32, Option<(i64, i64)>) {
            (one.field, one.count, one.ends)
        }
        fn values(one: &ColumnStats) -> [&Option<Value>; 4] {
            [&one.min, &one.max, &one.first, &one.last]
        }
        let are_same = |(one, other): (&Option<Value>, &Option<Value>)| match (one, other) {
            (Some(Value::Float(one)), Some(Value::Float(other))) => {
                one.to_bits() == other.to_bits()
            }
            _ => one == other,
        };
        let sums_are_same = match (self.sum, other.sum) {
            (Some(Sum::Float(one)), Some(Sum::Float(other))) => one.to_bits() == other.to_bits(),
            (one, other) => one == other,
        };
        let mut both = values(self).into_iter().zip(values(other));
        parts(self) == parts(other) && sums_are_same && both.all(are_same)
    }
}

/// A text that no node could read back, so that it must not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LongText {
    pub(super) series: SeriesId,
    pub(super) field: u16,
    pub(super) bytes: usize,
}

/// Cuts sorted rows into pieces that fit blocks.
pub(super) fn cut(rows: SeriesRows, sink: &mut dyn FnMut(SeriesRows)) {
    let width = rows.columns.len().max(1);
    let piece = (BLOCK_VALUES_MAX / width).clamp(1, BLOCK_ROWS_MAX);
    if (1..=piece).contains(&rows.times.len()) {
        return halve(rows, sink);
    }
    let mut from = 0;
    while from < rows.times.len() {
        let to = (from + piece).min(rows.times.len());
        halve(rows.slice(from..to), sink);
        from = to;
    }
}

fn halve(rows: SeriesRows, sink: &mut dyn FnMut(SeriesRows)) {
    let len = rows.times.len();
    if len <= 1 || rows.bytes_held() <= BLOCK_BYTES_MAX {
        return sink(rows);
    }
    halve(rows.slice(0..len / 2), sink);
    halve(rows.slice(len / 2..len), sink);
}

/// The bytes of a block of sorted rows, and what the index will say; its offset is not known yet.
/// `strong`: columns may take longer to write and to read, if that makes them shorter.
pub(super) fn encode(rows: &SeriesRows, strong: bool) -> Result<(Vec<u8>, BlockMeta), LongText> {
    assert!(
        rows.times.is_sorted() && !rows.times.is_empty(),
        "a block holds sorted rows"
    );
    let mut out = Writer::default();
    out.u32(rows.series.0);
    out.count(rows.times.len());
    let mut columns: Vec<&Column> = rows
        .columns
        .iter()
        .filter(|column| !column.values.is_empty())
        .collect();
    columns.sort_by_key(|column| column.field);
    if let Some((field, bytes)) = columns.iter().find_map(|column| long_text(column)) {
        let series = rows.series;
        return Err(LongText {
            series,
            field,
            bytes,
        });
    }
    out.u16(u16::try_from(columns.len()).expect("TABLE_FIELDS_MAX"));
    let scratch = &mut Scratch::default();
    sized(&mut out, |bytes| {
        encode_times(&rows.times, 0, scratch, bytes);
    });
    for column in &columns {
        out.u16(column.field);
        out.u8(column.values.field_type() as u8);
        let present = column
            .present
            .as_ref()
            .filter(|flags| flags.contains(&false));
        let kind_at = out.out.len();
        out.u8(if present.is_some() { FLAGGED } else { 0 });
        if let Some(flags) = present {
            sized(&mut out, |bytes| encode_bools(flags, bytes));
        }
        let at = out.out.len();
        sized(&mut out, |bytes| {
            encode_values(&column.values, scratch, bytes);
        });
        let own = &out.out[at + 4..];
        let stronger = strong
            .then(|| strong::encode(&column.values, own, scratch.wholes()))
            .flatten();
        if let Some(stronger) = stronger {
            out.out.truncate(at);
            sized(&mut out, |bytes| bytes.extend_from_slice(&stronger));
            out.out[kind_at] |= STRONG;
        }
    }
    let with_stats = rows.times.len() >= STATS_ROWS_MIN;
    let stats = columns
        .iter()
        .filter(|_| with_stats)
        .map(|column| stats(column, &rows.times))
        .collect();
    let bytes = out.checked();
    let meta = BlockMeta {
        series: rows.series,
        offset: 0,
        bytes: u32::try_from(bytes.len()).expect("blocks are cut far below 4 GiB"),
        rows: u32::try_from(rows.times.len()).expect("BLOCK_ROWS_MAX"),
        time_min: rows.times[0],
        time_max: rows.times[rows.times.len() - 1],
        columns: stats,
        source: 0,
    };
    Ok((bytes, meta))
}

/// The field and the length of a text that is too long.
fn long_text(column: &Column) -> Option<(u16, usize)> {
    let Values::Text(texts) = &column.values else {
        return None;
    };
    let longest = texts.iter().map(String::len).max()?;
    (longest > TEXT_BYTES_MAX).then_some((column.field, longest))
}

/// The wanted columns of a block that must be what the index says.
pub(super) fn decode(
    bytes: &[u8],
    meta: &BlockMeta,
    wanted: &dyn Fn(u16) -> bool,
) -> Result<SeriesRows, ReadFault> {
    let mut from = Reader::checked(bytes)?;
    let (series, rows) = (SeriesId(from.u32()?), from.u32()?);
    if (series, rows) != (meta.series, meta.rows) {
        return Err(ReadFault::Invalid("another block than the index says"));
    }
    let rows = usize::try_from(rows).map_err(|_| ReadFault::Short)?;
    if rows > BLOCK_ROWS_MAX {
        return Err(ReadFault::Invalid("too many rows in a block"));
    }
    let mut budget = Budget::new(DECODE_BYTES_MAX);
    let columns = from.u16()?;
    let times = part(&mut from, |bytes| decode_times(bytes, rows, 0, &mut budget))?;
    if !times.is_sorted() {
        return Err(ReadFault::Invalid("times of a block are not sorted"));
    }
    let mut decoded = Vec::new();
    for _ in 0..columns {
        let (field, field_type, (flagged, strong)) = (from.u16()?, from.u8()?, kind(&mut from)?);
        let field_type = FieldType::from_byte(field_type);
        let field_type = field_type.ok_or(ReadFault::Invalid("type of a column"))?;
        let take = wanted(field);
        let present = match (flagged, take) {
            (false, _) => None,
            (true, false) => {
                from.bytes()?;
                None
            }
            (true, true) => Some(part(&mut from, |bytes| {
                decode_bools(bytes, rows, &mut budget)
            })?),
        };
        if !take {
            from.bytes()?;
            continue;
        }
        let count = present
            .as_ref()
            .map_or(rows, |flags| flags.iter().filter(|f| **f).count());
        let values = if strong {
            strong::decode(from.bytes()?, field_type, count, &mut budget)?
        } else {
            part(&mut from, |bytes| {
                decode_values(bytes, field_type, count, &mut budget)
            })?
        };
        decoded.push(Column {
            field,
            present,
            values,
        });
    }
    from.end()?;
    Ok(SeriesRows {
        series,
        times,
        columns: decoded,
    })
}

/// How a column is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnLayout {
    pub(super) field: u16,
    pub(super) field_type: FieldType,
    /// By `strong`, so that the first byte of its values is no codec of columns.
    pub(super) strong: bool,
    /// Of the presence flags, if there are some.
    pub(super) flags: Option<PartLayout>,
    pub(super) values: PartLayout,
}

/// The first byte of an encoded part, which holds its codec, and the bytes of all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartLayout {
    pub(super) codec: Option<u8>,
    pub(super) bytes: usize,
}

/// The encoding of a block's times and columns, for people: values are not decoded.
pub(super) fn layout(bytes: &[u8]) -> Result<(PartLayout, Vec<ColumnLayout>), ReadFault> {
    let mut from = Reader::checked(bytes)?;
    let (_series, _rows, count) = (from.u32()?, from.u32()?, from.u16()?);
    let times = part_layout(&mut from)?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let (field, field_type, (flagged, strong)) = (from.u16()?, from.u8()?, kind(&mut from)?);
        let field_type = FieldType::from_byte(field_type);
        let field_type = field_type.ok_or(ReadFault::Invalid("type of a column"))?;
        let flags = flagged.then(|| part_layout(&mut from)).transpose()?;
        columns.push(ColumnLayout {
            field,
            field_type,
            strong,
            flags,
            values: part_layout(&mut from)?,
        });
    }
    Ok((times, columns))
}

/// Whether presence flags follow, and whether the values are by `strong`.
fn kind(from: &mut Reader<'_>) -> Result<(bool, bool), ReadFault> {
    match from.u8()? {
        kind if kind & !(FLAGGED | STRONG) == 0 => Ok((kind & FLAGGED != 0, kind & STRONG != 0)),
        _ => Err(ReadFault::Invalid("kind of a column")),
    }
}

fn part_layout(from: &mut Reader<'_>) -> Result<PartLayout, ReadFault> {
    let bytes = from.bytes()?;
    Ok(PartLayout {
        codec: bytes.first().copied(),
        bytes: bytes.len(),
    })
}

fn sized(out: &mut Writer, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.out.len();
    out.u32(0);
    fill(&mut out.out);
    let len = u32::try_from(out.out.len() - at - 4).expect("blocks are cut far below 4 GiB");
    out.out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn part<T>(
    from: &mut Reader<'_>,
    read: impl FnOnce(&mut shared::wire::Reader<'_>) -> Result<T, WireError>,
) -> Result<T, ReadFault> {
    let mut bytes = shared::wire::Reader::new(from.bytes()?);
    let value = read(&mut bytes).map_err(|_| ReadFault::Invalid("a column does not decode"))?;
    if bytes.is_empty() {
        Ok(value)
    } else {
        Err(ReadFault::Invalid("bytes after a column"))
    }
}

fn stats(column: &Column, times: &[i64]) -> ColumnStats {
    let values = &column.values;
    let len = values.len();
    let (min, max) = match values {
        Values::Float(v) => {
            let (min, max) = extremes(v).unzip();
            (min.map(Value::Float), max.map(Value::Float))
        }
        Values::Int(v) => (
            v.iter().min().copied().map(Value::Int),
            v.iter().max().copied().map(Value::Int),
        ),
        Values::Bool(v) => (
            v.iter().min().copied().map(Value::Bool),
            v.iter().max().copied().map(Value::Bool),
        ),
        Values::Text(v) => (
            v.iter().min().and_then(|text| short(text)),
            v.iter().max().and_then(|text| short(text)),
        ),
    };
    let at = |at: usize| match values {
        Values::Float(v) => Some(Value::Float(v[at])),
        Values::Int(v) => Some(Value::Int(v[at])),
        Values::Bool(v) => Some(Value::Bool(v[at])),
        Values::Text(v) => short(&v[at]),
    };
    let rows = match &column.present {
        None => Some((0, times.len() - 1)),
        Some(flags) => {
            let first = flags.iter().position(|flag| *flag);
            first.zip(flags.iter().rposition(|flag| *flag))
        }
    };
    ColumnStats {
        field: column.field,
        count: u32::try_from(len).expect("BLOCK_ROWS_MAX"),
        min,
        max,
        first: at(0),
        last: at(len - 1),
        sum: Sum::of(values),
        ends: rows.map(|(first, last)| (times[first], times[last])),
    }
}

/// The least and the greatest in total order; NaN is neither.
fn extremes(floats: &[f64]) -> Option<(f64, f64)> {
    if let Some(extremes) = plain_extremes(floats) {
        return Some(extremes);
    }
    // Integers are compared without a branch. Only a NaN stands where they begin.
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    for float in floats {
        if !float.is_nan() {
            let ordered = ordered_bits(*float);
            (min, max) = (min.min(ordered), max.max(ordered));
        }
    }
    (min <= max).then(|| (float_of_ordered(min), float_of_ordered(max)))
}

fn short(text: &str) -> Option<Value> {
    (text.len() <= STATS_TEXT_BYTES_MAX).then(|| Value::Text(text.to_owned()))
}

impl BlockMeta {
    /// What it says of a column; `None` as well if it says nothing.
    pub(super) fn stats(&self, field: u16) -> Option<&ColumnStats> {
        let columns = &self.columns;
        let at = columns.binary_search_by_key(&field, |stats| stats.field);
        Some(&columns[at.ok()?])
    }

    /// Bytes of the shortest entry of an index of version 1 or 2.
    pub(super) const BYTES_MIN: usize = 4 + 8 + 4 + 4 + 8 + 8 + 2;

    /// An entry of an index of version 1 or 2; `index` has those that are written now.
    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let (series, offset) = (SeriesId(from.u32()?), from.u64()?);
        let (bytes, rows) = (from.u32()?, from.u32()?);
        let (time_min, time_max, count) = (from.i64()?, from.i64()?, from.u16()?);
        let mut columns = Vec::new();
        for _ in 0..count {
            let (field, count) = (from.u16()?, from.u32()?);
            let mut value = || from.flag()?.then(|| decode_value(from)).transpose();
            let (min, max, first, last) = (value()?, value()?, value()?, value()?);
            columns.push(ColumnStats {
                field,
                count,
                min,
                max,
                first,
                last,
                sum: None,
                ends: (count == rows).then_some((time_min, time_max)),
            });
        }
        Ok(Self {
            series,
            offset,
            bytes,
            rows,
            time_min,
            time_max,
            columns,
            source: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize) -> SeriesRows {
        let flags: Vec<bool> = (0..rows).map(|row| row % 3 != 0).collect();
        let some = flags.iter().filter(|flag| **flag).count();
        SeriesRows {
            series: SeriesId(9),
            times: (0..i64::try_from(rows).unwrap())
                .map(|row| row / 2 * 1_000_000_000)
                .collect(),
            columns: vec![
                Column {
                    field: 4,
                    present: Some(flags),
                    values: Values::Text((0..some).map(|n| format!("t{}", n % 5)).collect()),
                },
                Column {
                    field: 0,
                    present: None,
                    values: Values::Float((0..rows).map(|n| n as f64 / 10.0).collect()),
                },
            ],
        }
    }

    #[test]
    fn a_block_comes_back_whole_or_in_part() {
        for rows in [1, 2, 127, 128, 8192] {
            let rows = sample(rows);
            let (bytes, meta) = encode(&rows, false).unwrap();
            let mut back = decode(&bytes, &meta, &|_| true).unwrap();
            back.columns.reverse();
            let empty = rows.times.len() == 1;
            assert_eq!(back.columns.len(), if empty { 1 } else { 2 });
            assert_eq!(back.times, rows.times);
            if !empty {
                assert_eq!(back, rows);
            }
            let part = decode(&bytes, &meta, &|field| field == 0).unwrap();
            assert_eq!(part.columns, [rows.columns[1].clone()]);
        }
    }

    #[test]
    fn a_sealed_block_is_shorter_and_the_same() {
        // Half of them 0, a quarter 1, and so on.
        let noise = |row: u64| {
            let mixed = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 29))
                .wrapping_mul(0xbf58_476d_1ce4_e5b9)
                .leading_zeros()
        };
        let mut rows = sample(4_000);
        rows.columns[1].values =
            Values::Float((0..4_000).map(|n| f64::from(noise(n)) / 10.0).collect());
        let (plain, _) = encode(&rows, false).unwrap();
        let (bytes, meta) = encode(&rows, true).unwrap();
        assert!(bytes.len() < plain.len(), "{} {}", bytes.len(), plain.len());
        let mut back = decode(&bytes, &meta, &|_| true).unwrap();
        back.columns.reverse();
        assert_eq!(back, rows);
        let (_, columns) = layout(&bytes).unwrap();
        let strong: Vec<bool> = columns.iter().map(|column| column.strong).collect();
        assert_eq!(strong, [true, false]);
    }

    #[test]
    fn statistics_tell_the_extremes() {
        let (_, meta) = encode(&sample(200), false).unwrap();
        let floats = &meta.columns[0];
        assert_eq!((floats.field, floats.count), (0, 200));
        assert_eq!(
            (&floats.min, &floats.last),
            (&Some(Value::Float(0.0)), &floats.max)
        );
        assert_eq!(meta.columns[1].min, Some(Value::Text("t0".into())));
        let tenths = (0..200).fold(0.0, |sum, n| sum + f64::from(n) / 10.0);
        assert_eq!(floats.sum, Some(Sum::Float(tenths)));
        assert_eq!(floats.ends, Some((0, 99_000_000_000)));
        assert_eq!(meta.columns[1].ends, Some((0, 99_000_000_000)));
        assert_eq!(meta.columns[1].sum, None);
        let (_, short) = encode(&sample(100), false).unwrap();
        assert!(short.columns.is_empty());
    }

    #[test]
    fn extremes_are_those_of_the_total_order() {
        let numbers = [0.0, -0.0, f64::INFINITY, -1.5, f64::MIN_POSITIVE, f64::MIN];
        let nan = [f64::NAN, -f64::NAN];
        for count in 1..=numbers.len() {
            let some = || numbers[..count].iter().copied();
            let mixed: Vec<f64> = nan.into_iter().chain(some()).collect();
            let (min, max) = extremes(&mixed).unwrap();
            let bits = |float: Option<f64>| float.map(f64::to_bits);
            assert_eq!(Some(min.to_bits()), bits(some().min_by(f64::total_cmp)));
            assert_eq!(Some(max.to_bits()), bits(some().max_by(f64::total_cmp)));
        }
        assert_eq!(extremes(&nan), None);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, meta) = encode(&sample(130), false).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, &meta, &|_| true).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_text_that_could_not_be_read_is_not_written() {
        let rows = |bytes| SeriesRows {
            series: SeriesId(9),
            times: vec![1, 2],
            columns: vec![Column {
                field: 4,
                present: None,
                values: Values::Text(vec!["a".to_owned(), "b".repeat(bytes)]),
            }],
        };
        let (bytes, meta) = encode(&rows(TEXT_BYTES_MAX), false).unwrap();
        let back = decode(&bytes, &meta, &|_| true).unwrap();
        assert_eq!(back, rows(TEXT_BYTES_MAX));
        let refused = LongText {
            series: SeriesId(9),
            field: 4,
            bytes: TEXT_BYTES_MAX + 1,
        };
        assert_eq!(encode(&rows(TEXT_BYTES_MAX + 1), false), Err(refused));
    }

    #[test]
    fn wide_and_heavy_rows_make_shorter_blocks() {
        let mut sizes = Vec::new();
        cut(sample(20_000), &mut |piece| sizes.push(piece.times.len()));
        assert_eq!(sizes, [8192, 8192, 3616]);
        cut(sample(0), &mut |_| panic!("a block of nothing"));
        let column = |field| Column {
            field,
            present: None,
            values: Values::Int(vec![1; 1000]),
        };
        let wide = SeriesRows {
            series: SeriesId(1),
            times: vec![0; 1000],
            columns: (0..1024).map(column).collect(),
        };
        sizes.clear();
        cut(wide, &mut |piece| sizes.push(piece.times.len()));
        assert_eq!(sizes, [256, 256, 256, 232]);
        let heavy = SeriesRows {
            series: SeriesId(1),
            times: vec![0; 1000],
            columns: vec![Column {
                field: 0,
                present: None,
                values: Values::Text(vec!["x".repeat(16_000); 1000]),
            }],
        };
        sizes.clear();
        cut(heavy, &mut |piece| sizes.push(piece.times.len()));
        assert_eq!(sizes, [500, 500]);
    }
}
