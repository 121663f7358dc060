//! The index of a segment: an entry for each block, with the statistics of its columns. They answer
//! for whole blocks, and their bytes count towards what a value costs: numbers are varints beside the
//! entry before or the least value, and what follows from the rest is left out. Bytes in
//! `docs/formats.md`; versions 1 and 2 stand in `block`.

use shared::column::decimal::{Decimal, Exponent, Form, all_wholes};
use shared::reading::{FieldType, Value};
use shared::wire::{Reader, WireError, put_signed, put_text, put_varint};

use super::block::{BlockMeta, ColumnStats, STATS_TEXT_BYTES_MAX};
use super::sum::Sum;
use crate::state::SeriesId;
use crate::state::bytes::{ReadFault, Reader as Checked, Writer};
use crate::state::catalog::TABLE_FIELDS_MAX;

/// Bytes of the shortest entry.
const ENTRY_BYTES_MIN: usize = 7;
const EXPONENT_MAX: u8 = 15;

/// Bits of a column's head, above two of its type.
const TYPE: u8 = 3;
const HOLES: u8 = 4;
const MIN: u8 = 8;
/// And the three bits above: greatest, first, last.
const ALL: u8 = 15 * MIN;
const DECIMAL: u8 = 128;

const MALFORMED: WireError = WireError::Malformed("statistics of a column");

/// What an entry is told beside.
#[derive(Default)]
struct Before {
    series: u32,
    end: u64,
    time_max: i64,
}

/// Of what file entries are: those of a rollup say also of which block of its segment they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    Segment,
    Rollup,
}

/// Entries sorted by series, closed by a checksum.
pub(super) fn encode(blocks: &[BlockMeta], of: Entries) -> Vec<u8> {
    let mut out = Writer::default();
    out.count(blocks.len());
    let mut before = Before::default();
    for block in blocks {
        put_block(block, &mut before, &mut out.out);
        if of == Entries::Rollup {
            put_varint(&mut out.out, block.source);
        }
    }
    out.checked()
}

pub(super) fn decode(bytes: &[u8], of: Entries) -> Result<Vec<BlockMeta>, ReadFault> {
    let mut checked = Checked::checked(bytes)?;
    let count = checked.count(ENTRY_BYTES_MIN)?;
    let mut from = Reader::new(checked.take(checked.left())?);
    let mut before = Before::default();
    let blocks = (0..count).map(|_| {
        let mut block = take_block(&mut from, &mut before)?;
        if of == Entries::Rollup {
            block.source = from.varint()?;
        }
        Ok(block)
    });
    let blocks = blocks.collect::<Result<_, WireError>>();
    let blocks = blocks.map_err(|_| ReadFault::Invalid("entries of the index"))?;
    if from.is_empty() {
        Ok(blocks)
    } else {
        Err(ReadFault::Invalid("bytes after the entries of the index"))
    }
}

fn put_block(block: &BlockMeta, before: &mut Before, out: &mut Vec<u8>) {
    let BlockMeta {
        series,
        offset,
        bytes,
        rows,
        time_min,
        time_max,
        columns,
        source: _,
    } = block;
    put_varint(out, (series.0 - before.series).into());
    put_signed(out, offset.wrapping_sub(before.end).cast_signed());
    put_varint(out, (*bytes).into());
    put_varint(out, (*rows).into());
    put_signed(out, time_min.wrapping_sub(before.time_max));
    put_varint(out, time_max.wrapping_sub(*time_min).cast_unsigned());
    put_varint(out, columns.len() as u64);
    let mut next = 0;
    for column in columns {
        put_varint(out, (column.field - next).into());
        next = column.field + 1;
        put_column(column, block, out);
    }
    before.follow(block);
}

fn take_block(from: &mut Reader<'_>, before: &mut Before) -> Result<BlockMeta, WireError> {
    let series = before.series.checked_add(number(from)?).ok_or(MALFORMED)?;
    let offset = before.end.wrapping_add_signed(from.signed()?);
    let (bytes, rows) = (number(from)?, number(from)?);
    let time_min = before.time_max.wrapping_add(from.signed()?);
    let time_max = time_min.checked_add_unsigned(from.varint()?);
    let count = from.count(TABLE_FIELDS_MAX, "columns of a block")?;
    let mut block = BlockMeta {
        series: SeriesId(series),
        offset,
        bytes,
        rows,
        time_min,
        time_max: time_max.ok_or(MALFORMED)?,
        columns: Vec::new(),
        source: 0,
    };
    let mut next = 0_u16;
    for _ in 0..count {
        let field = next.checked_add(number(from)?).ok_or(MALFORMED)?;
        next = field.checked_add(1).ok_or(MALFORMED)?;
        let column = take_column(field, &block, from)?;
        block.columns.push(column);
    }
    before.follow(&block);
    Ok(block)
}

impl Before {
    fn follow(&mut self, block: &BlockMeta) {
        *self = Self {
            series: block.series.0,
            end: block.offset.wrapping_add(block.bytes.into()),
            time_max: block.time_max,
        };
    }
}

fn put_column(column: &ColumnStats, block: &BlockMeta, out: &mut Vec<u8>) {
    let ColumnStats {
        count,
        min,
        max,
        first,
        last,
        sum,
        ends,
        ..
    } = column;
    let (first_at, last_at) = ends.expect("known when a block is written");
    let four = [min, max, first, last];
    let mut head = 0;
    for (nth, value) in four.iter().enumerate() {
        head |= if value.is_some() { MIN << nth } else { 0 };
    }
    let head_at = out.len();
    out.push(head);
    if *count < block.rows {
        out[head_at] |= HOLES;
        put_varint(out, (*count).into());
        put_varint(out, first_at.wrapping_sub(block.time_min).cast_unsigned());
        put_varint(out, block.time_max.wrapping_sub(last_at).cast_unsigned());
    }
    let values: Vec<&Value> = four.into_iter().flatten().collect();
    out[head_at] |= match sum {
        Some(Sum::Float(sum)) => put_floats(&values, *sum, out),
        Some(Sum::Int(sum)) => put_ints(&values, *sum, *count, out),
        None if matches!(min, Some(Value::Bool(_))) => put_bools(&values, out),
        None => put_texts(&values, out),
    };
}

fn take_column(
    field: u16,
    block: &BlockMeta,
    from: &mut Reader<'_>,
) -> Result<ColumnStats, WireError> {
    let head = from.byte()?;
    let (mut count, mut ends) = (block.rows, (block.time_min, block.time_max));
    if head & HOLES != 0 {
        count = number(from)?;
        let first_at = ends.0.checked_add_unsigned(from.varint()?);
        let last_at = ends.1.checked_sub_unsigned(from.varint()?);
        ends = (first_at.ok_or(MALFORMED)?, last_at.ok_or(MALFORMED)?);
        if count == 0 || count >= block.rows || ends.0 > ends.1 {
            return Err(MALFORMED);
        }
    }
    let kind = FieldType::from_byte(head & TYPE).ok_or(MALFORMED)?;
    let (is_decimal, has_all) = (head & DECIMAL != 0, head & ALL == ALL);
    let ([min, max, first, last], sum) = match kind {
        FieldType::Float if is_decimal && has_all => take_decimals(from)?,
        _ if is_decimal => return Err(MALFORMED),
        FieldType::Float => {
            let values = take_present(head, from, |from| Ok(Value::Float(take_float(from)?)))?;
            (values, Some(Sum::Float(take_float(from)?)))
        }
        FieldType::Int if has_all => take_ints(count, from)?,
        FieldType::Bool if has_all => (take_bools(from)?, None),
        FieldType::Int | FieldType::Bool => return Err(MALFORMED),
        FieldType::Text => {
            let values = take_present(head, from, |from| {
                let text = from.text(STATS_TEXT_BYTES_MAX, "a text of statistics")?;
                Ok(Value::Text(text.to_owned()))
            })?;
            (values, None)
        }
    };
    Ok(ColumnStats {
        field,
        count,
        min,
        max,
        first,
        last,
        sum,
        ends: Some(ends),
    })
}

/// Those whose bits are set.
fn take_present(
    head: u8,
    from: &mut Reader<'_>,
    take: impl Fn(&mut Reader<'_>) -> Result<Value, WireError>,
) -> Result<[Option<Value>; 4], WireError> {
    let mut values = [const { None }; 4];
    for (nth, value) in values.iter_mut().enumerate() {
        if head & (MIN << nth) != 0 {
            *value = Some(take(from)?);
        }
    }
    Ok(values)
}

/// As decimals if all four are. Returns bits of the head, as the others do.
fn put_floats(values: &[&Value], sum: f64, out: &mut Vec<u8>) -> u8 {
    let float = |value: &&Value| match value {
        Value::Float(float) => Some(*float),
        _ => None,
    };
    let floats: Vec<f64> = values.iter().filter_map(float).collect();
    let mut wholes = Vec::new();
    let mut takes = |exponent: &u8| {
        all_wholes::<Decimal>(Exponent::new((*exponent).into()), &floats, &mut wholes)
    };
    let exponent = (0..=EXPONENT_MAX).find(|exponent| takes(exponent));
    let decimal = exponent.filter(|_| floats.len() == 4);
    match decimal {
        Some(exponent) => {
            out.push(exponent);
            put_wholes(&wholes, out);
        }
        None => floats.iter().for_each(|float| put_float(*float, out)),
    }
    put_float(sum, out);
    FieldType::Float as u8 | if decimal.is_some() { DECIMAL } else { 0 }
}

fn take_decimals(from: &mut Reader<'_>) -> Result<([Option<Value>; 4], Option<Sum>), WireError> {
    let exponent = from.byte()?;
    if exponent > EXPONENT_MAX {
        return Err(MALFORMED);
    }
    let exponent = Exponent::new(exponent.into());
    let float = |whole: i64| Some(Value::Float(Decimal::float(exponent, whole as f64)));
    let values = take_wholes(from)?.map(float);
    Ok((values, Some(Sum::Float(take_float(from)?))))
}

/// The sum as what the mean is above the least value, and what is left.
fn put_ints(values: &[&Value], sum: i128, count: u32, out: &mut Vec<u8>) -> u8 {
    let int = |value: &&Value| match value {
        Value::Int(int) => Some(*int),
        _ => None,
    };
    let ints: Vec<i64> = values.iter().filter_map(int).collect();
    put_wholes(&ints, out);
    let count = i128::from(count);
    let above = sum - i128::from(ints[0]) * count;
    let part = |number: i128| u64::try_from(number).expect("no value is below the least");
    put_varint(out, part(above / count));
    put_varint(out, part(above % count));
    FieldType::Int as u8
}

fn take_ints(
    count: u32,
    from: &mut Reader<'_>,
) -> Result<([Option<Value>; 4], Option<Sum>), WireError> {
    let ints = take_wholes(from)?;
    let (mean, rest) = (from.varint()?, from.varint()?);
    let sum = (i128::from(ints[0]) + i128::from(mean)) * i128::from(count) + i128::from(rest);
    let values = ints.map(|int| Some(Value::Int(int)));
    Ok((values, Some(Sum::Int(sum))))
}

fn put_bools(values: &[&Value], out: &mut Vec<u8>) -> u8 {
    let bit = |(nth, value): (usize, &&Value)| u8::from(**value == Value::Bool(true)) << nth;
    out.push(values.iter().enumerate().map(bit).sum());
    FieldType::Bool as u8
}

fn take_bools(from: &mut Reader<'_>) -> Result<[Option<Value>; 4], WireError> {
    let bits = from.byte()?;
    if bits > 15 {
        return Err(MALFORMED);
    }
    Ok([1, 2, 4, 8].map(|bit| Some(Value::Bool(bits & bit != 0))))
}

fn put_texts(values: &[&Value], out: &mut Vec<u8>) -> u8 {
    for value in values {
        if let Value::Text(text) = value {
            put_text(out, text);
        }
    }
    FieldType::Text as u8
}

/// Four numbers of which the first is the least.
fn put_wholes(wholes: &[i64], out: &mut Vec<u8>) {
    put_signed(out, wholes[0]);
    for whole in &wholes[1..] {
        put_varint(out, whole.wrapping_sub(wholes[0]).cast_unsigned());
    }
}

fn take_wholes(from: &mut Reader<'_>) -> Result<[i64; 4], WireError> {
    let least = from.signed()?;
    let mut above = || Ok(least.wrapping_add_unsigned(from.varint()?));
    Ok([least, above()?, above()?, above()?])
}

fn put_float(float: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&float.to_bits().to_le_bytes());
}

fn take_float(from: &mut Reader<'_>) -> Result<f64, WireError> {
    Ok(f64::from_bits(u64::from_le_bytes(from.array()?)))
}

fn number<T: TryFrom<u64>>(from: &mut Reader<'_>) -> Result<T, WireError> {
    T::try_from(from.varint()?).map_err(|_| WireError::Malformed("a number of the index"))
}

#[cfg(test)]
mod tests {
    use shared::batch::{Column, Values};

    use super::*;
    use crate::state::rows::SeriesRows;
    use crate::store::block;

    fn column(field: u16, present: Option<Vec<bool>>, values: Values) -> Column {
        Column {
            field,
            present,
            values,
        }
    }

    fn entry(series: u32, times: Vec<i64>, columns: Vec<Column>) -> BlockMeta {
        let rows = SeriesRows {
            series: SeriesId(series),
            times,
            columns,
        };
        block::encode(&rows, false).unwrap().1
    }

    fn times(from: i64) -> Vec<i64> {
        (0..200).map(|row| from + row * 1_000_000_000).collect()
    }

    fn holes(first: usize, last: usize) -> Vec<bool> {
        (0..200).map(|row| (first..=last).contains(&row)).collect()
    }

    /// Entries with all that may be odd in one.
    fn entries() -> Vec<BlockMeta> {
        let floats = |from: usize| (from..200).map(|row| row as f64 / 100.0 - 0.5).collect();
        let mut odd = vec![f64::NAN; 200];
        odd[100] = -0.0;
        let ints = [i64::MIN, i64::MAX, 3, i64::MAX];
        let long = |row: usize| {
            if row == 7 {
                "x".repeat(65)
            } else {
                format!("{row:03}")
            }
        };
        let first = vec![
            column(0, None, Values::Float(floats(0))),
            column(1, Some(holes(50, 199)), Values::Float(floats(50))),
            column(2, None, Values::Float(odd)),
            column(3, None, Values::Float(vec![f64::NAN; 200])),
            column(4, None, Values::Float(vec![1.0 / 3.0; 200])),
            column(700, Some(holes(0, 3)), Values::Int(ints.to_vec())),
            column(4_095, Some(holes(199, 199)), Values::Bool(vec![true])),
        ];
        let second = vec![
            column(1, None, Values::Int(vec![-9; 200])),
            column(2, None, Values::Text((0..200).map(long).collect())),
            column(3, Some(holes(2, 2)), Values::Text(vec!["x".repeat(65)])),
        ];
        let few = vec![column(0, None, Values::Int(vec![1, 2]))];
        let mut all = vec![
            entry(0, times(1_764_000_000_000_000_000), first),
            entry(0, times(-5), second),
            entry(7, vec![i64::MIN, i64::MAX], few.clone()),
            entry(u32::MAX, vec![i64::MIN, i64::MIN], few),
        ];
        for (block, offset) in all.iter_mut().zip([43, 9_000, 5_000, u64::MAX]) {
            block.offset = offset;
        }
        all
    }

    fn read(bytes: &[u8]) -> Result<Vec<BlockMeta>, ReadFault> {
        decode(bytes, Entries::Segment)
    }

    fn back(blocks: &[BlockMeta]) -> Result<Vec<BlockMeta>, ReadFault> {
        read(&encode(blocks, Entries::Segment))
    }

    /// NaN is not equal to itself, but is shown the same.
    fn shown(blocks: &[BlockMeta]) -> String {
        format!("{blocks:?}")
    }

    #[test]
    fn entries_come_back() {
        let blocks = entries();
        let found = back(&blocks).unwrap();
        assert_eq!(shown(&found), shown(&blocks));
        let [Some(Value::Float(max)), ..] = [&found[0].columns[2].max] else {
            panic!("a float");
        };
        assert_eq!(max.to_bits(), (-0.0_f64).to_bits());
        assert_eq!(found[0].columns[3].min, None);
        assert_eq!(
            found[0].columns[5].sum,
            Some(Sum::Int(i128::from(i64::MAX) + 2))
        );
        assert_eq!(shown(&back(&[]).unwrap()), "[]");
    }

    #[test]
    fn entries_of_a_rollup_say_of_which_block_they_are() {
        let mut blocks = entries();
        for (block, source) in blocks.iter_mut().zip([43, u64::MAX, 0, 9]) {
            block.source = source;
        }
        let bytes = encode(&blocks, Entries::Rollup);
        let found = decode(&bytes, Entries::Rollup).unwrap();
        assert_eq!(shown(&found), shown(&blocks));
        assert!(read(&bytes).is_err());
    }

    #[test]
    fn entries_cut_short_are_refused_and_bytes_behind_them_too() {
        let bytes = encode(&entries(), Entries::Segment);
        let body = &bytes[..bytes.len() - 4];
        let closed = |body: &[u8]| {
            let mut out = Writer::default();
            out.out.extend_from_slice(body);
            out.checked()
        };
        assert!(read(&closed(body)).is_ok());
        for len in 0..body.len() {
            assert!(read(&closed(&body[..len])).is_err(), "{len} bytes");
        }
        assert!(read(&closed(&[body, &[0]].concat())).is_err());
        assert!(read(&closed(&[0xff; 4])).is_err());
    }

    #[test]
    fn no_byte_makes_the_decoder_panic() {
        let bytes = encode(&entries(), Entries::Segment);
        let body = &bytes[..bytes.len() - 4];
        for at in 4..body.len() {
            for byte in [0, 0x7f, 0x80, 0xff] {
                let mut out = Writer::default();
                out.out.extend_from_slice(body);
                out.out[at] = byte;
                let _ = read(&out.checked());
            }
        }
    }

    /// What version 2 had 360 bytes for.
    #[test]
    fn an_entry_of_seven_decimal_columns_is_short() {
        let speeds = |field| {
            let floats = (0..200).map(|row| f64::from(row % 97) / 10.0 + 40.0);
            column(field, None, Values::Float(floats.collect()))
        };
        let columns = (0..7).map(speeds).collect();
        let block = entry(3, times(1_764_000_000_000_000_000), columns);
        let bytes = encode(&[block], Entries::Segment).len();
        assert!(bytes < 160, "{bytes}");
    }
}
