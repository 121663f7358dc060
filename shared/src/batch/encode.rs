//! A batch as bytes. Deterministic: the same batch always gives the same bytes. `decode` is the
//! inverse.

use super::check::{check_body, check_header, decoded_bytes};
use super::{
    Body, Clock, Column, Data, EncodeError, Gap, Group, Header, Hello, Kind, MAGIC, SeriesColumns,
    SeriesDefinition, VERSION, Values,
};
use crate::column::{CODEC_BITS, Scratch, encode_bools, encode_ints, encode_times, put_values};
use crate::limits::{BATCH_BYTES_MAX, decoded_bytes_max};
use crate::wire::{put_signed, put_text, put_varint};

/// What stands in a column's head beside its codec: the type, and whether presence flags follow.
pub(super) const TYPE_SHIFT: u32 = 5;
pub(super) const HAS_PRESENCE: u8 = 0x80;
/// In place of a head: how many fields are left out here comes first, then the head.
pub(super) const SKIP: u8 = CODEC_BITS;
/// In the flags byte: the low bits of the kind, the lane, the place of the unit of the header's
/// times, and the high bit of the kind.
pub(super) const LANE_SHIFT: u32 = 2;
pub(super) const UNIT_SHIFT: u32 = 4;
pub(super) const KIND_HIGH: u8 = 0x40;
/// Moves that bit to where it counts four.
pub(super) const KIND_HIGH_SHIFT: u32 = 4;
/// In place of the kind of data: data whose times count from boot.
pub(super) const BOOT_RELATIVE: u8 = 6;
pub(super) const UNITS: [i64; 4] = [1, 1_000, 1_000_000, 1_000_000_000];
/// Bytes of a batch, besides one a value.
const BYTES_EXPECTED: usize = 256;

/// Encodes a batch, checksum included. Its digest is [`super::digest`] of exactly these bytes.
pub fn encode(header: &Header, body: &Body) -> Result<Vec<u8>, EncodeError> {
    check_header(header, body.kind())?;
    check_body(header, body)?;
    let mut out = written(header, body);
    if out.len() > BATCH_BYTES_MAX {
        return Err(EncodeError::Limit("bytes of a batch"));
    }
    if decoded_bytes(body) > decoded_bytes_max(out.len()) {
        return Err(EncodeError::Limit("bytes after decoding"));
    }
    // Many are held for long, so none keeps room that it does not use.
    out.shrink_to_fit();
    Ok(out)
}

/// The bytes, of any size.
pub(super) fn written(header: &Header, body: &Body) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes_expected(body));
    put_header(header, body.kind(), &mut out);
    match body {
        Body::Hello(hello) => put_hello(hello, &mut out),
        Body::Names(definitions) => put_names(definitions, &mut out),
        Body::Data(data) => put_data(header, data, &mut out),
        Body::Gap(gap) => put_gap(header, gap, &mut out),
        Body::Clock(clock) => put_clock(*clock, &mut out),
    }
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out
}

/// About what a batch takes, so that its bytes seldom have to move.
fn bytes_expected(body: &Body) -> usize {
    let values = if let Body::Data(data) = body {
        data.values()
    } else {
        0
    };
    BYTES_EXPECTED + values
}

fn put_header(header: &Header, kind: Kind, out: &mut Vec<u8>) {
    let (sealed_at, complete_below) = (header.sealed_at.0, header.complete_below.0);
    let fits = |unit: &i64| sealed_at % unit == 0 && complete_below % unit == 0;
    let unit = UNITS.iter().rposition(fits).unwrap_or(0);
    let unit_bits = u8::try_from(unit).expect("one of four") << UNIT_SHIFT;
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    let kind = if header.boot_relative {
        BOOT_RELATIVE
    } else {
        kind as u8
    };
    let kind_bits = kind & 3 | kind << KIND_HIGH_SHIFT & KIND_HIGH;
    out.push(kind_bits | (header.lane as u8) << LANE_SHIFT | unit_bits);
    out.extend_from_slice(&header.epoch.0.to_be_bytes());
    put_varint(out, header.number.0);
    out.extend_from_slice(&header.previous.0);
    put_varint(out, header.names_needed.0);
    let (sealed_at, complete_below) = (sealed_at / UNITS[unit], complete_below / UNITS[unit]);
    put_signed(out, sealed_at);
    put_signed(out, sealed_at.wrapping_sub(complete_below));
}

fn put_hello(hello: &Hello, out: &mut Vec<u8>) {
    put_varint(out, hello.older_epochs.len() as u64);
    for epoch in &hello.older_epochs {
        out.extend_from_slice(&epoch.0.to_be_bytes());
    }
    match hello.last {
        None => out.push(0),
        Some(last) => {
            out.push(if last.ended_cleanly { 2 } else { 1 });
            out.extend_from_slice(&last.epoch.0.to_be_bytes());
        }
    }
    put_varint(out, hello.max_unsafe_ms);
}

fn put_names(definitions: &[SeriesDefinition], out: &mut Vec<u8>) {
    put_varint(out, definitions.len() as u64);
    let mut before = 0;
    for definition in definitions {
        let id = i64::from(definition.id.0);
        put_signed(out, id - before);
        before = id;
        put_text(out, &definition.table);
        put_text(out, &definition.device);
        put_varint(out, definition.tags.len() as u64);
        for (key, value) in &definition.tags {
            put_text(out, key);
            put_text(out, value);
        }
        put_varint(out, definition.fields.len() as u64);
        for (name, field_type) in &definition.fields {
            put_text(out, name);
            out.push(*field_type as u8);
        }
    }
}

fn put_gap(header: &Header, gap: &Gap, out: &mut Vec<u8>) {
    put_varint(out, header.number.0 - gap.from.0);
    put_varint(out, gap.readings);
    out.push(gap.reason as u8);
    out.extend_from_slice(&gap.digest_to.0);
}

fn put_clock(clock: Clock, out: &mut Vec<u8>) {
    put_signed(out, clock.offset_ns);
    out.push(clock.quality as u8);
}

fn put_data(header: &Header, data: &Data, out: &mut Vec<u8>) {
    let scratch = &mut Scratch::default();
    put_varint(out, data.groups.len() as u64);
    for group in &data.groups {
        put_group(header, group, scratch, out);
    }
}

fn put_group(header: &Header, group: &Group, scratch: &mut Scratch, out: &mut Vec<u8>) {
    let rows = group.times.len();
    put_varint(out, rows as u64);
    put_varint(out, group.series.len() as u64);
    encode_times(&group.times, header.time_base(), scratch, out);
    let mut before = 0;
    for alike in group.series.chunk_by(have_one_shape) {
        let ids = alike.iter().map(|series| i64::from(series.id.0) - before);
        put_varint(out, alike.len() as u64);
        scratch.wholes.clear();
        scratch.wholes.extend(ids);
        encode_ints(&scratch.wholes, &mut scratch.ints, out);
        before = alike.last().map_or(before, |series| i64::from(series.id.0));
        put_columns(alike, scratch, out);
    }
}

/// Whether the columns of two series can stand in one: the same fields of the same types.
fn have_one_shape(one: &SeriesColumns, other: &SeriesColumns) -> bool {
    let shape = |column: &Column| {
        let field_type = column.values.field_type();
        (column.field, field_type, column.present.is_some())
    };
    let (one, other) = (one.columns.iter(), other.columns.iter());
    one.map(shape).eq(other.map(shape))
}

/// Each field of all these series as one column, series after series: they pay once for what
/// they have in common.
fn put_columns(alike: &[SeriesColumns], scratch: &mut Scratch, out: &mut Vec<u8>) {
    put_varint(out, alike[0].columns.len() as u64);
    let mut next_field = 0;
    for (at, first) in alike[0].columns.iter().enumerate() {
        if first.field != next_field {
            out.push(SKIP);
            put_varint(out, u64::from(first.field - next_field));
        }
        next_field = first.field + 1;
        let head = out.len();
        out.push((first.values.field_type() as u8) << TYPE_SHIFT);
        let columns = || alike.iter().map(|series| &series.columns[at]);
        if first.present.is_some() {
            out[head] |= HAS_PRESENCE;
            let flags = columns().flat_map(|column| column.present.iter().flatten());
            encode_bools(&flags.copied().collect::<Vec<bool>>(), out);
        }
        let codec = match alike {
            [_] => put_values(&first.values, scratch, out),
            _ => {
                let joined = joined(columns().map(|column| &column.values));
                put_values(&joined, scratch, out)
            }
        };
        out[head] |= codec;
    }
}

/// Columns of one type as one.
fn joined<'a>(mut columns: impl Iterator<Item = &'a Values>) -> Values {
    let first = columns.next().cloned();
    let mut all = first.expect("a run of series is not empty");
    for column in columns {
        match (&mut all, column) {
            (Values::Float(all), Values::Float(more)) => all.extend_from_slice(more),
            (Values::Int(all), Values::Int(more)) => all.extend_from_slice(more),
            (Values::Bool(all), Values::Bool(more)) => all.extend_from_slice(more),
            (Values::Text(all), Values::Text(more)) => all.extend_from_slice(more),
            _ => unreachable!("they have one shape"),
        }
    }
    all
}
