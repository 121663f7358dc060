//! Properties of every batch, on arbitrary ones, and of every sequence of bytes.

use proptest::prelude::*;

use super::tests::{header, with_checksum};
use super::*;
use crate::column::properties::{any_float, any_int};
use crate::limits::FIELDS_MAX;

/// The batch with every float as its bits, so that NaN equals NaN and -0.0 differs from 0.0.
pub(super) fn bits_of(batch: &Batch) -> Batch {
    let mut batch = batch.clone();
    if let Body::Data(data) = &mut batch.body {
        let series = data.groups.iter_mut().flat_map(|group| &mut group.series);
        for column in series.flat_map(|series| &mut series.columns) {
            if let Values::Float(values) = &column.values {
                let bits = |value: &f64| value.to_bits().cast_signed();
                column.values = Values::Int(values.iter().map(bits).collect());
            }
        }
    }
    batch
}

fn any_values(count: usize) -> BoxedStrategy<Values> {
    prop_oneof![
        prop::collection::vec(any_float(), count).prop_map(Values::Float),
        prop::collection::vec(any_int(), count).prop_map(Values::Int),
        prop::collection::vec(any::<bool>(), count).prop_map(Values::Bool),
        prop::collection::vec("[a-c]{0,2}|.{0,9}", count).prop_map(Values::Text),
    ]
    .boxed()
}

fn any_column(rows: usize) -> impl Strategy<Value = Column> {
    let full = any_values(rows).prop_map(|values| Column {
        field: 0,
        present: None,
        values,
    });
    let sparse = prop::collection::vec(any::<bool>(), rows).prop_flat_map(|mut present| {
        present[0] = true;
        let count = present.iter().filter(|flag| **flag).count();
        any_values(count).prop_map(move |values| Column {
            field: 0,
            present: Some(present.clone()),
            values,
        })
    });
    prop_oneof![full, sparse]
}

/// Columns with one that is always full, so that no row is without a value.
fn any_columns(rows: usize) -> impl Strategy<Value = Vec<Column>> {
    let full = any_values(rows).prop_map(|values| Column {
        field: 0,
        present: None,
        values,
    });
    let columns = prop::collection::vec(any_column(rows), 0..4);
    let fields = prop::collection::btree_set(0..FIELDS_MAX as u16, 4);
    (full, columns, fields).prop_map(|(full, mut columns, fields)| {
        columns.insert(columns.len() / 2, full);
        for (column, field) in columns.iter_mut().zip(fields) {
            column.field = field;
        }
        columns
    })
}

fn any_group() -> impl Strategy<Value = Group> {
    (1..40_usize).prop_flat_map(|rows| {
        let times = prop::collection::vec(any_int(), rows);
        let series = prop::collection::hash_map(any::<u32>(), any_columns(rows), 1..4);
        (times, series).prop_map(|(times, series)| {
            let series = series.into_iter();
            let series = series.map(|(id, columns)| SeriesColumns {
                id: LocalSeriesId(id),
                columns,
            });
            Group {
                times,
                series: series.collect(),
            }
        })
    })
}

fn any_names() -> impl Strategy<Value = Vec<SeriesDefinition>> {
    let name = "[^\\p{Cc}]{1,20}";
    let tags = prop::collection::btree_map("k[a-z]{1,3}", name, 0..3);
    let types = prop_oneof![
        Just(FieldType::Float),
        Just(FieldType::Int),
        Just(FieldType::Text)
    ];
    let fields = prop::collection::hash_map("f[^\\p{Cc}]{1,9}", types, 1..5);
    let series = (any::<u32>(), name, name, tags, fields);
    prop::collection::vec(series, 1..6).prop_map(|series| {
        let mut definitions: Vec<SeriesDefinition> = Vec::new();
        for (id, table, device, tags, fields) in series {
            let id = LocalSeriesId(id);
            if definitions.iter().all(|definition| definition.id != id) {
                let (tags, fields) = (tags.into_iter().collect(), fields.into_iter().collect());
                definitions.push(SeriesDefinition {
                    id,
                    table,
                    device,
                    tags,
                    fields,
                });
            }
        }
        definitions
    })
}

fn any_clock() -> impl Strategy<Value = Clock> {
    let quality = prop_oneof![
        Just(ClockQuality::Synced),
        Just(ClockQuality::Cluster),
        Just(ClockQuality::Estimated)
    ];
    (any::<i64>(), quality).prop_map(|(offset_ns, quality)| Clock { offset_ns, quality })
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let data = prop::collection::vec(any_group(), 1..4).prop_map(|groups| Data { groups });
    let body = prop_oneof![
        3 => data.prop_map(Body::Data),
        1 => any_names().prop_map(Body::Names),
        1 => any_clock().prop_map(Body::Clock),
    ];
    let numbers = (2..1_u64 << 40, any::<u64>(), any::<i64>(), any::<i64>());
    (numbers, body, any::<bool>()).prop_map(|(numbers, body, since_boot)| {
        let (number, epoch, sealed_at, complete_below) = numbers;
        let is_data = matches!(body, Body::Data(_));
        let lane = if is_data { Lane::Backlog } else { Lane::Names };
        let header = Header {
            epoch: Epoch(epoch),
            sealed_at: TimeNs(sealed_at),
            complete_below: TimeNs(complete_below),
            boot_relative: is_data && since_boot,
            ..header(lane, number)
        };
        Batch { header, body }
    })
}

proptest! {
    #[test]
    fn every_batch_is_read_back(batch in any_batch()) {
        let bytes = encode(&batch.header, &batch.body).unwrap();
        let read = decode(&bytes).unwrap();
        prop_assert_eq!(bits_of(&read), bits_of(&batch));
        prop_assert_eq!(encode(&read.header, &read.body).unwrap(), bytes);
    }

    #[test]
    fn every_flipped_bit_of_every_batch_is_found(batch in any_batch(), bit in any::<prop::sample::Index>()) {
        let mut bytes = encode(&batch.header, &batch.body).unwrap();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes).is_err());
        if let Ok(read) = decode(&with_checksum(bytes)) {
            let again = encode(&read.header, &read.body).unwrap();
            prop_assert_eq!(bits_of(&decode(&again).unwrap()), bits_of(&read));
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_batch(
        kind_and_lane in prop_oneof![
            Just(0b0000_u8),
            Just(0b0001),
            Just(0b0110),
            Just(0b0111),
            Just(0b0100_0000),
            Just(0b0100_0110)
        ],
        body in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
    ) {
        let mut bytes = vec![MAGIC[0], MAGIC[1], VERSION, kind_and_lane];
        bytes.extend_from_slice(&[7; 8]);
        crate::wire::put_varint(&mut bytes, if kind_and_lane == 0 { 1 } else { 9 });
        bytes.extend_from_slice(&[7; 8]);
        bytes.extend_from_slice(&[0; 3]);
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&[0; 4]);
        let bytes = with_checksum(bytes);
        prop_assert!(read_header(&bytes).is_ok());
        if let Ok(batch) = decode(&bytes) {
            let again = encode(&batch.header, &batch.body).unwrap();
            prop_assert_eq!(bits_of(&decode(&again).unwrap()), bits_of(&batch));
        }
    }
}
