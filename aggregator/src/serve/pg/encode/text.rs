//! Values as PostgreSQL writes them for people.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use bytes::{BufMut, BytesMut};

use crate::serve::pg::error::PgError;

const MICROS: i64 = 1_000_000;

pub(super) fn value(out: &mut BytesMut, array: &dyn Array, row: usize) -> Result<(), PgError> {
    match array.data_type() {
        DataType::Boolean => out.put_u8(if array.as_boolean().value(row) {
            b't'
        } else {
            b'f'
        }),
        DataType::Int16 => shown(out, &array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => shown(out, &array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => shown(out, &array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(out, f64::from(value), &value, &format!("{value:e}"));
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            float(out, value, &value, &format!("{value:e}"));
        }
        DataType::Decimal128(..) => {
            let value = array.as_primitive::<Decimal128Type>().value_as_string(row);
            out.put_slice(value.as_bytes());
        }
        DataType::Decimal256(..) => {
            let value = array.as_primitive::<Decimal256Type>().value_as_string(row);
            out.put_slice(value.as_bytes());
        }
        DataType::Utf8 => out.put_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => {
            out.put_slice(b"\\x");
            for byte in array.as_binary::<i32>().value(row) {
                shown(out, &format_args!("{byte:02x}"));
            }
        }
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            let date = date32_to_datetime(days).ok_or_else(out_of_range)?;
            shown(out, &date.format("%Y-%m-%d"));
        }
        DataType::Time64(_) => {
            clock(
                out,
                array.as_primitive::<Time64MicrosecondType>().value(row),
            );
        }
        DataType::Timestamp(_, zone) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            let second = micros.div_euclid(MICROS) * MICROS;
            let time = timestamp_us_to_datetime(second).ok_or_else(out_of_range)?;
            shown(out, &time.format("%Y-%m-%d %H:%M:%S"));
            fraction(out, micros.rem_euclid(MICROS));
            if zone.is_some() {
                out.put_slice(b"+00");
            }
        }
        DataType::Interval(_) => {
            interval(
                out,
                array.as_primitive::<IntervalMonthDayNanoType>().value(row),
            );
        }
        DataType::List(_) => list(out, &*array.as_list::<i32>().value(row))?,
        other => return Err(not_plain(other)),
    }
    Ok(())
}

pub(super) fn not_plain(data_type: &DataType) -> PgError {
    PgError::error("0A000", format!("values of {data_type} cannot be sent")).hint("cast to text")
}

fn out_of_range() -> PgError {
    PgError::error("22008", "a time is out of range").hint("cast it to bigint")
}

fn shown(out: &mut BytesMut, value: &dyn std::fmt::Display) {
    write!(out, "{value}").expect("a buffer grows as it must");
}

/// The shortest digits that read back as the same number; with an exponent where PostgreSQL has
/// one. `scientific` is the number as `1.5e10`.
fn float(out: &mut BytesMut, value: f64, plain: &dyn std::fmt::Display, scientific: &str) {
    if value.is_nan() {
        return out.put_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.put_slice(if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        });
    }
    let (digits, exponent) = scientific.split_once('e').expect("{:e} writes one");
    let exponent: i32 = exponent.parse().expect("{:e} writes a number");
    if (-4..15).contains(&exponent) {
        return shown(out, plain);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    shown(out, &format_args!("{digits}e{sign}{:02}", exponent.abs()));
}

/// Hours may be more than a day has.
fn clock(out: &mut BytesMut, micros: i64) {
    let (seconds, rest) = (micros / MICROS, micros % MICROS);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    shown(out, &format_args!("{hours:02}:{minutes:02}:{seconds:02}"));
    fraction(out, rest);
}

/// `.5`, `.000001`, or nothing.
fn fraction(out: &mut BytesMut, micros: i64) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        shown(out, &format_args!(".{}", digits.trim_end_matches('0')));
    }
}

/// `1 year 2 mons -3 days +04:05:06.7`: each part has its own sign.
fn interval(out: &mut BytesMut, value: IntervalMonthDayNano) {
    let parts = [
        (value.months / 12, "year"),
        (value.months % 12, "mon"),
        (value.days, "day"),
    ];
    let (mut first, mut negative) = (true, false);
    for (count, unit) in parts {
        if count == 0 {
            continue;
        }
        let space = if first { "" } else { " " };
        let sign = if negative && count > 0 { "+" } else { "" };
        let plural = if count == 1 { "" } else { "s" };
        shown(out, &format_args!("{space}{sign}{count} {unit}{plural}"));
        (first, negative) = (false, count < 0);
    }
    let micros = value.nanoseconds / 1_000;
    if micros != 0 || first {
        let space = if first { "" } else { " " };
        let sign = match micros {
            ..0 => "-",
            _ if negative => "+",
            _ => "",
        };
        shown(out, &format_args!("{space}{sign}"));
        clock(out, micros.abs());
    }
}

/// `{1,NULL,"a b"}`.
fn list(out: &mut BytesMut, items: &dyn Array) -> Result<(), PgError> {
    out.put_u8(b'{');
    let mut item = BytesMut::new();
    for row in 0..items.len() {
        if row > 0 {
            out.put_u8(b',');
        }
        if items.is_null(row) {
            out.put_slice(b"NULL");
            continue;
        }
        item.clear();
        value(&mut item, items, row)?;
        let odd = |byte: &u8| b"{},\"\\ \t\n\r\x0b\x0c".contains(byte);
        let quoted = item.is_empty() || item.iter().any(odd) || item.eq_ignore_ascii_case(b"null");
        if !quoted {
            out.put_slice(&item);
            continue;
        }
        out.put_u8(b'"');
        for byte in &item {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
    Ok(())
}
