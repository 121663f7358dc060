//! One table of readings as a Parquet file in memory.

use std::error::Error;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use shared::batch::{Data, Values};

type Failed = Box<dyn Error>;

/// Its length in bytes. All series have the columns of the first.
pub(crate) fn write(data: &Data, tuned: bool) -> Result<usize, Failed> {
    let group = &data.groups[0];
    let first = &group.series[0];
    let mut fields = vec![
        field("time", Physical::INT64)?,
        field("device", Physical::BYTE_ARRAY)?,
    ];
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(usize::MAX));
    if tuned {
        properties = with(properties, "time", Encoding::DELTA_BINARY_PACKED);
    }
    for column in &first.columns {
        let name = format!("field_{}", column.field);
        let (physical, encoding) = match column.values {
            Values::Float(_) => (Physical::DOUBLE, Some(Encoding::BYTE_STREAM_SPLIT)),
            Values::Int(_) => (Physical::INT64, Some(Encoding::DELTA_BINARY_PACKED)),
            Values::Bool(_) => (Physical::BOOLEAN, None),
            Values::Text(_) => (Physical::BYTE_ARRAY, None),
        };
        fields.push(field(&name, physical)?);
        if let Some(encoding) = encoding.filter(|_| tuned) {
            properties = with(properties, &name, encoding);
        }
    }
    let schema = Type::group_type_builder("readings")
        .with_fields(fields)
        .build()?;
    let mut file = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut file, Arc::new(schema), Arc::new(properties.build()))?;
    let mut rows = writer.next_row_group()?;
    let times: Vec<i64> = group
        .series
        .iter()
        .flat_map(|_| group.times.iter().copied())
        .collect();
    put::<Int64Type>(&mut rows, &times)?;
    let device = |id: u32| ByteArray::from(format!("truck_{id}").into_bytes());
    let devices = group.series.iter();
    let devices = devices.flat_map(|one| vec![device(one.id.0); group.times.len()]);
    put::<ByteArrayType>(&mut rows, &devices.collect::<Vec<_>>())?;
    for at in 0..first.columns.len() {
        let all: Vec<&Values> = group
            .series
            .iter()
            .map(|one| &one.columns[at].values)
            .collect();
        put_values(&mut rows, &all)?;
    }
    rows.close()?;
    writer.close()?;
    Ok(file.len())
}

fn with(
    properties: parquet::file::properties::WriterPropertiesBuilder,
    name: &str,
    encoding: Encoding,
) -> parquet::file::properties::WriterPropertiesBuilder {
    properties
        .set_column_dictionary_enabled(name.into(), false)
        .set_column_encoding(name.into(), encoding)
}

fn field(name: &str, physical: Physical) -> Result<Arc<Type>, Failed> {
    let text = (physical == Physical::BYTE_ARRAY).then_some(LogicalType::String);
    let field = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(text)
        .build()?;
    Ok(Arc::new(field))
}

fn put_values(
    rows: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    all: &[&Values],
) -> Result<(), Failed> {
    let mut floats = Vec::new();
    let mut ints = Vec::new();
    let mut flags = Vec::new();
    let mut texts = Vec::new();
    for values in all {
        match values {
            Values::Float(values) => floats.extend_from_slice(values),
            Values::Int(values) => ints.extend_from_slice(values),
            Values::Bool(values) => flags.extend_from_slice(values),
            Values::Text(values) => {
                let bytes = |text: &String| ByteArray::from(text.clone().into_bytes());
                texts.extend(values.iter().map(bytes));
            }
        }
    }
    match all[0] {
        Values::Float(_) => put::<DoubleType>(rows, &floats),
        Values::Int(_) => put::<Int64Type>(rows, &ints),
        Values::Bool(_) => put::<BoolType>(rows, &flags),
        Values::Text(_) => put::<ByteArrayType>(rows, &texts),
    }
}

fn put<T: parquet::data_type::DataType>(
    rows: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: &[T::T],
) -> Result<(), Failed> {
    let mut column = rows
        .next_column()?
        .ok_or("more columns than the schema has")?;
    column.typed::<T>().write_batch(values, None, None)?;
    Ok(column.close()?)
}
