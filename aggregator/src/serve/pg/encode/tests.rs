//! Values beside what a PostgreSQL server writes for them.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray, StructArray,
    Time64NanosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{Int32Type, IntervalMonthDayNano};

use super::*;

fn written(array: &ArrayRef, format: Format) -> Vec<Vec<u8>> {
    let array = plain_column(array).unwrap();
    (0..array.len())
        .map(|row| {
            let mut out = BytesMut::new();
            cell(&mut out, &array, row, format).unwrap();
            if out[..4] == [0xff; 4] {
                b"NULL".to_vec()
            } else {
                out[4..].to_vec()
            }
        })
        .collect()
}

fn texts(array: impl Array + 'static) -> Vec<String> {
    let bytes = written(&(Arc::new(array) as ArrayRef), Format::Text);
    bytes
        .into_iter()
        .map(|text| String::from_utf8(text).unwrap())
        .collect()
}

fn bytes(array: impl Array + 'static) -> Vec<Vec<u8>> {
    written(&(Arc::new(array) as ArrayRef), Format::Binary)
}

#[test]
fn numbers_as_text() {
    let floats = vec![
        21.5,
        21.0,
        -0.0,
        0.1,
        1e14,
        1e15,
        1e20,
        1.5e-5,
        0.0001,
        f64::MIN_POSITIVE,
    ];
    assert_eq!(
        texts(Float64Array::from(floats)),
        [
            "21.5",
            "21",
            "-0",
            "0.1",
            "100000000000000",
            "1e+15",
            "1e+20",
            "1.5e-05",
            "0.0001",
            "2.2250738585072014e-308"
        ]
    );
    let odd = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    assert_eq!(
        texts(Float64Array::from(odd)),
        ["NaN", "Infinity", "-Infinity"]
    );
    assert_eq!(texts(Float32Array::from(vec![0.1])), ["0.1"]);
    assert_eq!(
        texts(Int64Array::from(vec![Some(i64::MIN), None])),
        [&i64::MIN.to_string(), "NULL"]
    );
    assert_eq!(texts(BooleanArray::from(vec![true, false])), ["t", "f"]);
    let decimals = Decimal128Array::from(vec![-12_345, 5])
        .with_precision_and_scale(9, 2)
        .unwrap();
    assert_eq!(texts(decimals), ["-123.45", "0.05"]);
    let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
    assert_eq!(plain_column(&large).unwrap_err().code, "22003");
}

#[test]
fn times_as_text() {
    let times = vec![
        1_767_225_601_000_000_001,
        1_767_225_601_500_000_000,
        -1_500_000_000,
    ];
    let times = TimestampNanosecondArray::from(times);
    assert_eq!(
        texts(times.clone().with_timezone("UTC")),
        [
            "2026-01-01 00:00:01+00",
            "2026-01-01 00:00:01.5+00",
            "1969-12-31 23:59:58.5+00"
        ]
    );
    assert_eq!(texts(times)[1], "2026-01-01 00:00:01.5");
    assert_eq!(
        texts(Date32Array::from(vec![0, 20_454])),
        ["1970-01-01", "2026-01-01"]
    );
    let noon = Time64NanosecondArray::from(vec![43_200_000_001_000]);
    assert_eq!(texts(noon), ["12:00:00.000001"]);
}

#[test]
fn intervals_as_text() {
    let second = 1_000_000_000;
    let intervals = [
        (0, 0, 0),
        (14, 3, 14_706 * second),
        (1, -2, 1),
        (-1, 1, -second),
        (0, 0, -1_500_000_000),
        (0, 1, 0),
        (0, 0, 360_000 * second),
    ];
    let values =
        intervals.map(|(months, days, nanos)| Some(IntervalMonthDayNano::new(months, days, nanos)));
    assert_eq!(
        texts(IntervalMonthDayNanoArray::from(values.to_vec())),
        [
            "00:00:00",
            "1 year 2 mons 3 days 04:05:06",
            "1 mon -2 days",
            "-1 mons +1 day -00:00:01",
            "-00:00:01.5",
            "1 day",
            "100:00:00"
        ]
    );
    let nothing = IntervalMonthDayNanoArray::from(vec![None::<IntervalMonthDayNano>]);
    assert_eq!(texts(nothing), ["NULL"]);
}

#[test]
fn lists_and_others_as_text() {
    let numbers = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
        Some(vec![Some(1), None]),
        Some(vec![]),
        None,
    ]);
    assert_eq!(texts(numbers), ["{1,NULL}", "{}", "NULL"]);
    let words = StringArray::from(vec!["a", "a b", "say \"\\\"", "", "null"]);
    let mut out = BytesMut::new();
    let list = ListArray::new(
        Arc::new(Column::new("item", DataType::Utf8, true)),
        arrow::buffer::OffsetBuffer::from_lengths([5]),
        Arc::new(words),
        None,
    );
    cell(&mut out, &list, 0, Format::Text).unwrap();
    assert_eq!(&out[4..], br#"{a,"a b","say \"\\\"","","null"}"#);
    assert_eq!(texts(BinaryArray::from_vec(vec![b"\x00\xff"])), ["\\x00ff"]);
    let column = Arc::new(Column::new("a", DataType::Int64, true));
    let structure = StructArray::from(vec![(
        column,
        Arc::new(Int64Array::from(vec![1])) as ArrayRef,
    )]);
    assert_eq!(texts(structure), ["{a: 1}"]);
}

#[test]
fn values_as_bytes() {
    assert_eq!(bytes(Float64Array::from(vec![1.0])), [1_f64.to_be_bytes()]);
    assert_eq!(
        bytes(BooleanArray::from(vec![Some(true), None])),
        [b"\x01".to_vec(), b"NULL".to_vec()]
    );
    let time = TimestampNanosecondArray::from(vec![946_684_800_000_001_000]).with_timezone("UTC");
    assert_eq!(bytes(time), [1_i64.to_be_bytes()]);
    assert_eq!(
        bytes(Date32Array::from(vec![10_958])),
        [1_i32.to_be_bytes()]
    );
    let decimals = Decimal128Array::from(vec![12_345_678, -1, 0, 10_000_000])
        .with_precision_and_scale(9, 3)
        .unwrap();
    assert_eq!(
        bytes(decimals),
        [
            &[0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c][..],
            &[0, 1, 0xff, 0xff, 0x40, 0, 0, 3, 0, 10],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            &[0, 1, 0, 1, 0, 0, 0, 3, 0, 1],
        ]
    );
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(7), None])]);
    let expected = [
        0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7, 0xff,
        0xff, 0xff, 0xff,
    ];
    assert_eq!(bytes(list), [expected]);
}

#[test]
fn columns_are_told_with_types_that_drivers_know() {
    let schema = Schema::new(vec![
        Column::new(
            "time",
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            false,
        ),
        Column::new("n", DataType::UInt64, false),
        Column::new(
            "l",
            DataType::List(Arc::new(Column::new("item", DataType::Utf8View, true))),
            true,
        ),
        Column::new(
            "s",
            DataType::Struct(vec![Column::new("a", DataType::Int8, true)].into()),
            true,
        ),
        Column::new("z", DataType::Null, true),
    ]);
    let oids: Vec<u32> = fields(&schema).iter().map(|field| field.oid).collect();
    assert_eq!(oids, [1184, 20, 1009, 25, 25]);
    assert_eq!(parameter_oid(None), 25);
}
