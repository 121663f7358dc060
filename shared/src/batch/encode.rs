//! A batch as bytes. Deterministic: the same batch always gives the same bytes. `decode` is the
//! inverse.

use super::check::{check_body, check_header};
use super::{
    Body, Column, Data, EncodeError, Gap, Group, Header, Hello, MAGIC, SeriesDefinition, VERSION,
};
use crate::column::{encode_bools, encode_times, encode_values};
use crate::limits::BATCH_BYTES_MAX;
use crate::wire::{put_signed, put_text, put_varint};

/// Bit of a column's type byte: presence flags follow.
pub(super) const HAS_PRESENCE: u8 = 0x10;

/// Encodes a batch, checksum included. Its digest is [`super::digest`] of exactly these bytes.
pub fn encode(header: &Header, body: &Body) -> Result<Vec<u8>, EncodeError> {
    check_header(header, body.kind())?;
    check_body(header, body)?;
    let mut content = Vec::new();
    match body {
        Body::Hello(hello) => put_hello(hello, &mut content),
        Body::Names(definitions) => put_names(definitions, &mut content),
        Body::Data(data) => put_data(header, data, &mut content),
        Body::Gap(gap) => put_gap(header, gap, &mut content),
    }
    let mut out = Vec::with_capacity(content.len() + 64);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    // No flag has a meaning in version 1.
    out.push(0);
    out.push((body.kind() as u8) << 4 | header.lane as u8);
    out.extend_from_slice(&header.epoch.0.to_be_bytes());
    put_varint(&mut out, header.number.0);
    out.extend_from_slice(&header.previous.0);
    put_varint(&mut out, header.names_needed.0);
    out.extend_from_slice(&header.sealed_at.0.to_be_bytes());
    put_signed(
        &mut out,
        header.sealed_at.0.wrapping_sub(header.complete_below.0),
    );
    put_varint(&mut out, content.len() as u64);
    out.append(&mut content);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    if out.len() > BATCH_BYTES_MAX {
        return Err(EncodeError::Limit("bytes of a batch"));
    }
    Ok(out)
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

fn put_data(header: &Header, data: &Data, out: &mut Vec<u8>) {
    put_varint(out, data.groups.len() as u64);
    for group in &data.groups {
        put_group(header, group, out);
    }
}

fn put_group(header: &Header, group: &Group, out: &mut Vec<u8>) {
    put_varint(out, group.times.len() as u64);
    put_varint(out, group.series.len() as u64);
    encode_times(&group.times, header.sealed_at.0, out);
    let mut before = 0;
    for series in &group.series {
        let id = i64::from(series.id.0);
        put_signed(out, id - before);
        before = id;
        put_varint(out, series.columns.len() as u64);
        let mut next_field = 0;
        for column in &series.columns {
            put_varint(out, u64::from(column.field) - next_field);
            next_field = u64::from(column.field) + 1;
            put_column(column, out);
        }
    }
}

fn put_column(column: &Column, out: &mut Vec<u8>) {
    let field_type = column.values.field_type() as u8;
    match &column.present {
        None => out.push(field_type),
        Some(present) => {
            out.push(field_type | HAS_PRESENCE);
            encode_bools(present, out);
        }
    }
    encode_values(&column.values, out);
}
