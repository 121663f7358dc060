//! The same readings as others write them: line protocol, JSON, and protobuf in the manner of
//! Sparkplug B, each also through gzip; and zstd, which could stand around ours.

use std::fmt::Write as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use shared::batch::{Data, SeriesColumns, Values};
use shared::wire::put_varint;

pub(crate) fn gzip(bytes: &[u8]) -> usize {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it").len()
}

/// Bytes that are left of it at a level of zstd, or all where that does not pay.
pub(crate) fn zstd(bytes: &[u8], level: i32) -> usize {
    let compressed = zstd::bulk::compress(bytes, level).expect("memory takes it");
    compressed.len().min(bytes.len())
}

fn each_row(data: &Data, mut row: impl FnMut(i64, usize, &SeriesColumns)) {
    for group in &data.groups {
        for (at, time) in group.times.iter().enumerate() {
            group
                .series
                .iter()
                .for_each(|series| row(*time, at, series));
        }
    }
}

fn text(values: &Values, at: usize) -> String {
    match values {
        Values::Float(values) => values[at].to_string(),
        Values::Int(values) => format!("{}i", values[at]),
        Values::Bool(values) => values[at].to_string(),
        Values::Text(values) => format!("\"{}\"", values[at]),
    }
}

/// `truck,device=t-17 latitude=1.5,.. 1795694400000000000`: a line a series and time.
pub(crate) fn line_protocol(data: &Data) -> Vec<u8> {
    let mut out = String::new();
    each_row(data, |time, at, series| {
        let _ = write!(out, "table,device=device-{} ", series.id.0);
        for column in &series.columns {
            let comma = if column.field == 0 { "" } else { "," };
            let _ = write!(
                out,
                "{comma}field_{}={}",
                column.field,
                text(&column.values, at)
            );
        }
        let _ = writeln!(out, " {time}");
    });
    out.into_bytes()
}

/// An object a value.
pub(crate) fn json(data: &Data) -> Vec<u8> {
    let mut out = String::from("[");
    each_row(data, |time, at, series| {
        for column in &series.columns {
            let comma = if out.len() == 1 { "" } else { "," };
            let value = text(&column.values, at);
            let _ = write!(
                out,
                "{comma}{{\"name\":\"device-{}/field_{}\",\"timestamp\":{},\"value\":{}}}",
                series.id.0,
                column.field,
                time / 1_000_000,
                value.trim_end_matches('i'),
            );
        }
    });
    out.push(']');
    out.into_bytes()
}

/// A metric a value: alias, timestamp in milliseconds, type, value (Sparkplug B 3.0, section 6.4).
pub(crate) fn sparkplug(data: &Data) -> Vec<u8> {
    let mut out = Vec::new();
    each_row(data, |time, at, series| {
        for column in &series.columns {
            let mut metric = vec![0x10];
            put_varint(
                &mut metric,
                u64::from(series.id.0) * 16 + u64::from(column.field),
            );
            metric.push(0x18);
            put_varint(&mut metric, (time / 1_000_000).unsigned_abs());
            metric.push(0x20);
            match &column.values {
                Values::Float(values) => {
                    metric.extend_from_slice(&[10, 0x69]);
                    metric.extend_from_slice(&values[at].to_le_bytes());
                }
                Values::Int(values) => {
                    metric.extend_from_slice(&[4, 0x58]);
                    put_varint(&mut metric, values[at].cast_unsigned());
                }
                Values::Bool(values) => metric.extend_from_slice(&[11, 0x70, u8::from(values[at])]),
                Values::Text(values) => {
                    metric.extend_from_slice(&[12, 0x7a]);
                    put_varint(&mut metric, values[at].len() as u64);
                    metric.extend_from_slice(values[at].as_bytes());
                }
            }
            out.push(0x12);
            put_varint(&mut out, metric.len() as u64);
            out.append(&mut metric);
        }
    });
    out
}
