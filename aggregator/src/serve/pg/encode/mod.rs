//! Columns of Arrow as values of PostgreSQL. A batch is first brought to the few types that have a
//! counterpart (`plain`), column by column; cells are then written one after another.

mod text;
mod binary;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field as Column, IntervalUnit, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::{BufMut, BytesMut};

use super::error::PgError;
use super::message::Field;
pub(super) use binary::{DAYS_TO_2000, MICROS_TO_2000};

/// What cannot be shown is an error, not a text about one.
const SHOWN: FormatOptions<'static> = FormatOptions::new().with_display_error(false);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

impl Format {
    /// The code of a column, out of none, one for all, or one for each.
    pub(super) fn of(codes: &[i16], at: usize) -> Format {
        let code = if codes.len() == 1 {
            codes.first()
        } else {
            codes.get(at)
        };
        if code == Some(&1) {
            Format::Binary
        } else {
            Format::Text
        }
    }
}

/// The columns as a client is told of them.
pub(super) fn fields(schema: &Schema) -> Vec<Field> {
    let field = |column: &Arc<Column>| {
        let (oid, size) = of_type(&plain_type(column.data_type()));
        Field {
            name: column.name().clone(),
            oid,
            size,
        }
    };
    schema.fields().iter().map(field).collect()
}

/// The type of a parameter as a client is told of it; text where any will do.
pub(super) fn parameter_oid(data_type: Option<&DataType>) -> u32 {
    of_type(&plain_type(data_type.unwrap_or(&DataType::Utf8))).0
}

/// The types that cells are written of.
fn plain_type(data_type: &DataType) -> DataType {
    let list = |item: &Arc<Column>| {
        let plain = plain_type(item.data_type());
        // A list of lists has the type of its innermost items in PostgreSQL; as text it is one.
        let plain = if matches!(plain, DataType::List(_)) {
            DataType::Utf8
        } else {
            plain
        };
        DataType::List(Arc::new(Column::new(item.name(), plain, true)))
    };
    match data_type {
        DataType::Boolean => DataType::Boolean,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => DataType::Int16,
        DataType::UInt16 | DataType::Int32 => DataType::Int32,
        // What does not fit is an error when it comes.
        DataType::UInt32 | DataType::Int64 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float32,
        DataType::Float64 => DataType::Float64,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(_) | DataType::Duration(_) => {
            DataType::Interval(IntervalUnit::MonthDayNano)
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Decimal256(precision, scale) => DataType::Decimal256(*precision, *scale),
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            list(item)
        }
        _ => DataType::Utf8,
    }
}

/// Oid and size of a plain type.
fn of_type(plain: &DataType) -> (u32, i16) {
    match plain {
        DataType::Boolean => (16, 1),
        DataType::Binary => (17, -1),
        DataType::Int64 => (20, 8),
        DataType::Int16 => (21, 2),
        DataType::Int32 => (23, 4),
        DataType::Float32 => (700, 4),
        DataType::Float64 => (701, 8),
        DataType::Date32 => (1082, 4),
        DataType::Time64(_) => (1083, 8),
        DataType::Timestamp(_, None) => (1114, 8),
        DataType::Timestamp(_, Some(_)) => (1184, 8),
        DataType::Interval(_) => (1186, 16),
        DataType::Decimal128(..) | DataType::Decimal256(..) => (1700, -1),
        DataType::List(item) => (list_oid(of_type(item.data_type()).0), -1),
        _ => (25, -1),
    }
}

fn list_oid(item: u32) -> u32 {
    match item {
        16 => 1000,
        17 => 1001,
        20 => 1016,
        21 => 1005,
        23 => 1007,
        700 => 1021,
        701 => 1022,
        1082 => 1182,
        1083 => 1183,
        1114 => 1115,
        1184 => 1185,
        1186 => 1187,
        1700 => 1231,
        _ => 1009,
    }
}

/// A batch whose columns all have plain types.
pub(super) fn plain(batch: &RecordBatch) -> Result<Vec<ArrayRef>, PgError> {
    batch.columns().iter().map(plain_column).collect()
}

fn plain_column(column: &ArrayRef) -> Result<ArrayRef, PgError> {
    let to = plain_type(column.data_type());
    if *column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions {
        // What does not fit must not become NULL.
        safe: false,
        format_options: SHOWN,
    };
    let out_of_range = |error: arrow::error::ArrowError| {
        PgError::error("22003", error.to_string()).hint("cast the column to text or numeric")
    };
    match column.data_type() {
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => {
            let shown = ArrayFormatter::try_new(column, &SHOWN).map_err(out_of_range)?;
            let texts = (0..column.len()).map(|row| {
                let there = !column.is_null(row);
                there.then(|| shown.value(row).try_to_string()).transpose()
            });
            let texts: Result<StringArray, _> = texts.collect();
            Ok(Arc::new(texts.map_err(out_of_range)?))
        }
        _ => cast_with_options(column, &to, &options).map_err(out_of_range),
    }
}

/// Appends the cells of one row, each with its length; -1 is NULL.
pub(super) fn row(
    out: &mut BytesMut,
    columns: &[ArrayRef],
    row: usize,
    formats: &[i16],
) -> Result<(), PgError> {
    for (at, column) in columns.iter().enumerate() {
        cell(out, column, row, Format::of(formats, at))?;
    }
    Ok(())
}

fn cell(out: &mut BytesMut, array: &dyn Array, row: usize, format: Format) -> Result<(), PgError> {
    if array.is_null(row) {
        out.put_i32(-1);
        return Ok(());
    }
    let begin = out.len();
    out.put_u32(0);
    match format {
        Format::Text => text::value(out, array, row)?,
        Format::Binary => binary::value(out, array, row)?,
    }
    let length = out.len() - begin - 4;
    let length = i32::try_from(length).map_err(|_| {
        PgError::error("54000", "a value has more than 2 GiB").hint("ask for a part of it")
    })?;
    out[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
