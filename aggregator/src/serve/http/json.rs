//! Rows as JSON, one object a line, every column in each, in the order of the statement.

use std::io::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// What cannot be shown is an error, not a text about one.
const SHOWN: FormatOptions<'static> = FormatOptions::new().with_display_error(false);

/// Writes batches of one schema.
pub(super) struct Lines {
    /// `{"a":` for the first column, `,"b":` for others.
    keys: Vec<Vec<u8>>,
}

impl Lines {
    pub(super) fn new(schema: &Schema) -> Lines {
        let key = |(at, name): (usize, &String)| {
            let mut key = vec![if at == 0 { b'{' } else { b',' }];
            string(&mut key, name);
            key.push(b':');
            key
        };
        let names = schema.fields().iter().map(|field| field.name());
        Lines {
            keys: names.enumerate().map(key).collect(),
        }
    }

    /// Writes rows from `row` on until about `bytes_max` are written; says which row is next.
    pub(super) fn write(
        &self,
        batch: &RecordBatch,
        mut row: usize,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, ArrowError> {
        let columns: Result<Vec<_>, ArrowError> = batch
            .columns()
            .iter()
            .map(|column| Ok((column, ArrayFormatter::try_new(column, &SHOWN)?)))
            .collect();
        let columns = columns?;
        while row < batch.num_rows() && out.len() < bytes_max {
            let begin = out.len();
            if columns.is_empty() {
                out.push(b'{');
            }
            for ((column, shown), key) in columns.iter().zip(&self.keys) {
                out.extend_from_slice(key);
                if let Err(error) = value(out, column, row, shown) {
                    out.truncate(begin);
                    return Err(error);
                }
            }
            out.extend_from_slice(b"}\n");
            row += 1;
        }
        Ok(row)
    }
}

/// Numbers and truth values as they are, lists and structures as such, all else as text. A float
/// that is no number is text, too: JSON has none.
fn value(
    out: &mut Vec<u8>,
    array: &dyn Array,
    row: usize,
    shown: &ArrayFormatter<'_>,
) -> Result<(), ArrowError> {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let number = |out: &mut Vec<u8>, number: &dyn std::fmt::Display| {
        write!(out, "{number}").expect("writing to a Vec does not fail");
    };
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => number(out, &array.as_boolean().value(row)),
        DataType::Int8 => number(out, &array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => number(out, &array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => number(out, &array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => number(out, &array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => number(out, &array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => number(out, &array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => number(out, &array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => number(out, &array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float16 => {
            let value = array.as_primitive::<Float16Type>().value(row).to_f32();
            float(out, value.is_finite(), &value);
        }
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(out, value.is_finite(), &value);
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            float(out, value.is_finite(), &value);
        }
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => text(out, row, shown, false)?,
        DataType::Utf8 => string(out, array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => string(out, array.as_string::<i64>().value(row)),
        DataType::Utf8View => string(out, array.as_string_view().value(row)),
        DataType::List(_) => list(out, &*array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(out, &*array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => list(out, &*array.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => {
            let structure = array.as_struct();
            out.push(b'{');
            for (at, (field, column)) in fields.iter().zip(structure.columns()).enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                string(out, field.name());
                out.push(b':');
                let shown = ArrayFormatter::try_new(column, &SHOWN)?;
                value(out, column, row, &shown)?;
            }
            out.push(b'}');
        }
        _ => text(out, row, shown, true)?,
    }
    Ok(())
}

fn list(out: &mut Vec<u8>, items: &dyn Array) -> Result<(), ArrowError> {
    let shown = ArrayFormatter::try_new(items, &SHOWN)?;
    out.push(b'[');
    for row in 0..items.len() {
        if row > 0 {
            out.push(b',');
        }
        value(out, items, row, &shown)?;
    }
    out.push(b']');
    Ok(())
}

/// `{:?}` writes the shortest text that reads back as the same number, with its point.
fn float(out: &mut Vec<u8>, finite: bool, value: &dyn std::fmt::Debug) {
    let written = if finite {
        write!(out, "{value:?}")
    } else {
        let text = format!("{value:?}").replace("inf", "Infinity");
        write!(out, "\"{text}\"")
    };
    written.expect("writing to a Vec does not fail");
}

fn text(
    out: &mut Vec<u8>,
    row: usize,
    shown: &ArrayFormatter<'_>,
    quoted: bool,
) -> Result<(), ArrowError> {
    let text = shown.value(row).try_to_string()?;
    if quoted {
        string(out, &text);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is always JSON, and a Vec takes it");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray,
        TimestampNanosecondArray, UInt64Array,
    };

    use super::*;

    fn lines(columns: Vec<(&str, ArrayRef)>) -> String {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        )
        .unwrap();
        let mut out = Vec::new();
        let lines = Lines::new(&batch.schema());
        let mut row = 0;
        // Little by little, as a slow reader has it.
        while row < batch.num_rows() {
            row = lines.write(&batch, row, out.len() + 1, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let text = lines(vec![
            ("i", Arc::new(Int64Array::from(vec![i64::MIN, 7]))),
            ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            ("f", Arc::new(Float64Array::from(vec![0.1, 1e300]))),
            (
                "n",
                Arc::new(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY])),
            ),
            (
                "d",
                Arc::new(
                    Decimal128Array::from(vec![-12_345, 5])
                        .with_precision_and_scale(9, 2)
                        .unwrap(),
                ),
            ),
        ]);
        assert_eq!(
            text,
            "{\"i\":-9223372036854775808,\"u\":18446744073709551615,\"f\":0.1,\"n\":\"NaN\",\"d\":-123.45}\n\
             {\"i\":7,\"u\":0,\"f\":1e300,\"n\":\"-Infinity\",\"d\":0.05}\n"
        );
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn each_row_has_each_column() {
        let text = lines(vec![
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            (
                "a \"x\"",
                Arc::new(StringArray::from(vec![None, Some("ü\n\u{1}")])),
            ),
        ]);
        assert_eq!(
            text,
            "{\"b\":true,\"a \\\"x\\\"\":null}\n{\"b\":null,\"a \\\"x\\\"\":\"ü\\n\\u0001\"}\n"
        );
    }

    #[test]
    fn times_are_utc_with_nanoseconds_and_lists_are_lists() {
        let times = TimestampNanosecondArray::from(vec![1_767_225_601_000_000_001]);
        let lists = ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>(vec![
            Some(vec![Some(1), None]),
        ]);
        let text = lines(vec![
            ("time", Arc::new(times.with_timezone("UTC"))),
            ("l", Arc::new(lists)),
        ]);
        assert_eq!(
            text,
            "{\"time\":\"2026-01-01T00:00:01.000000001Z\",\"l\":[1,null]}\n"
        );
    }
}
