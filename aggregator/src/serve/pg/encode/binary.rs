//! Values as PostgreSQL sends them to machines.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use bytes::{BufMut, BytesMut};

use super::{Format, cell, of_type, text};
use crate::serve::pg::error::PgError;

/// PostgreSQL counts from 2000-01-01.
pub(in crate::serve::pg) const DAYS_TO_2000: i32 = 10_957;
pub(in crate::serve::pg) const MICROS_TO_2000: i64 = 946_684_800_000_000;

pub(super) fn value(out: &mut BytesMut, array: &dyn Array, row: usize) -> Result<(), PgError> {
    let out_of_range = || PgError::error("22008", "a time is out of range");
    match array.data_type() {
        DataType::Boolean => out.put_u8(u8::from(array.as_boolean().value(row))),
        DataType::Int16 => out.put_i16(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => out.put_i32(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => out.put_i64(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => out.put_f32(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => out.put_f64(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            numeric(
                out,
                &array.as_primitive::<Decimal128Type>().value_as_string(row),
            );
        }
        DataType::Decimal256(..) => {
            numeric(
                out,
                &array.as_primitive::<Decimal256Type>().value_as_string(row),
            );
        }
        DataType::Utf8 => out.put_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => out.put_slice(array.as_binary::<i32>().value(row)),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            out.put_i32(days.checked_sub(DAYS_TO_2000).ok_or_else(out_of_range)?);
        }
        DataType::Time64(_) => {
            out.put_i64(array.as_primitive::<Time64MicrosecondType>().value(row));
        }
        DataType::Timestamp(..) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            out.put_i64(
                micros
                    .checked_sub(MICROS_TO_2000)
                    .ok_or_else(out_of_range)?,
            );
        }
        DataType::Interval(_) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            out.put_i64(value.nanoseconds / 1_000);
            out.put_i32(value.days);
            out.put_i32(value.months);
        }
        DataType::List(_) => list(out, &*array.as_list::<i32>().value(row))?,
        other => return Err(text::not_plain(other)),
    }
    Ok(())
}

/// One dimension that begins at 1; none if it is empty.
fn list(out: &mut BytesMut, items: &dyn Array) -> Result<(), PgError> {
    let too_long = |_| PgError::error("54000", "a list is too long");
    out.put_i32(i32::from(!items.is_empty()));
    out.put_i32(i32::from(items.null_count() > 0));
    out.put_u32(of_type(items.data_type()).0);
    if !items.is_empty() {
        out.put_i32(i32::try_from(items.len()).map_err(too_long)?);
        out.put_i32(1);
    }
    for row in 0..items.len() {
        cell(out, items, row, Format::Binary)?;
    }
    Ok(())
}

/// Groups of four decimal digits around the point. `text` is digits with at most one point.
fn numeric(out: &mut BytesMut, text: &str) {
    const POSITIVE: u16 = 0x0000;
    const NEGATIVE: u16 = 0x4000;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (NEGATIVE, digits),
        None => (POSITIVE, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = format!("{whole:0>width$}", width = whole.len().next_multiple_of(4));
    let padded = format!("{part:0<width$}", width = part.len().next_multiple_of(4));
    let group = |group: &[u8]| {
        group
            .iter()
            .fold(0_u16, |sum, digit| sum * 10 + u16::from(digit - b'0'))
    };
    let all: Vec<u16> = whole
        .as_bytes()
        .chunks(4)
        .chain(padded.as_bytes().chunks(4))
        .map(group)
        .collect();
    let zeros = all.iter().take_while(|group| **group == 0).count();
    let mut groups = &all[zeros..];
    while let [rest @ .., 0] = groups {
        groups = rest;
    }
    // At most 76 digits: all of these are small.
    let small = |count: usize| i16::try_from(count).expect("of at most 76 digits");
    out.put_i16(small(groups.len()));
    out.put_i16(if groups.is_empty() {
        0
    } else {
        small(whole.len() / 4) - 1 - small(zeros)
    });
    out.put_u16(if groups.is_empty() { POSITIVE } else { sign });
    out.put_i16(small(part.len()));
    for group in groups {
        out.put_u16(*group);
    }
}
