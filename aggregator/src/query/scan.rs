//! Reading a table: chunks of the store become record batches, in parts that are whole devices.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    StringBuilder, TimestampNanosecondArray, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::common::{ScalarValue, SplitPoint};
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
    RangePartitioning,
};
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use shared::batch::{Column, Values};

use super::error::StoreFailure;
use super::prune::{self, Pruned};
use super::session;
use super::table::Source;
use crate::store::{Chunk, Scan, ScanIter, View};

/// Tables with fewer rows are read in one part: dividing costs more than it brings.
const DIVIDED_ROWS_MIN: u64 = 65_536;

/// One reading of one table.
#[derive(Debug, Clone)]
pub(super) struct ScanSource {
    rows: Arc<Rows>,
    limit: Option<usize>,
    metrics: ExecutionPlanMetricsSet,
}

#[derive(Debug)]
pub(super) struct Rows {
    pub(super) view: Arc<View>,
    pub(super) table: String,
    pub(super) schema: SchemaRef,
    pub(super) columns: Vec<Source>,
    pub(super) fields: Vec<String>,
    pub(super) time: RangeInclusive<i64>,
    /// The devices of each part; `None`: all.
    pub(super) parts: Vec<Option<Vec<String>>>,
    count: Precision<usize>,
}

/// The batches of one part.
struct Batches {
    rows: Arc<Rows>,
    chunks: ScanIter,
    left: usize,
    metrics: BaselineMetrics,
}

impl ScanSource {
    pub(super) fn new(
        view: Arc<View>,
        table: String,
        schema: SchemaRef,
        columns: Vec<Source>,
        fields: Vec<String>,
        pruned: Pruned,
        cores: usize,
    ) -> Self {
        let rows = view.known_rows(&table).unwrap_or(0);
        let is_exact = pruned.is_all() && view.row_count(&table).is_some();
        let count = usize::try_from(rows).unwrap_or(usize::MAX);
        let count = if is_exact {
            Precision::Exact(count)
        } else {
            Precision::Inexact(count)
        };
        let parts = if rows < DIVIDED_ROWS_MIN { 1 } else { cores };
        let Pruned { time, devices } = pruned;
        let devices = devices.map(|devices| devices.into_iter().collect());
        let parts = divided(&view, &table, devices, parts);
        let rows = Rows {
            view,
            table,
            schema,
            columns,
            fields,
            time,
            parts,
            count,
        };
        Self {
            rows: Arc::new(rows),
            limit: None,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What is read, if that is without a limit.
    pub(super) fn rows(&self) -> Option<&Arc<Rows>> {
        self.limit.is_none().then_some(&self.rows)
    }

    /// At most this many rows of each part.
    pub(super) fn limited(self, limit: Option<usize>) -> Self {
        Self { limit, ..self }
    }
}

/// Neighbours stay together: a part is a range of devices.
fn divided(
    view: &View,
    table: &str,
    devices: Option<Vec<String>>,
    parts: usize,
) -> Vec<Option<Vec<String>>> {
    let devices = match devices {
        None if parts < 2 => return vec![None],
        None => {
            let catalog = view.catalog();
            let Some(table) = catalog.table(table) else {
                return vec![None];
            };
            let of = |id| catalog.series(id).map(|series| series.device.clone());
            let mut devices: Vec<String> = table.series().filter_map(of).collect();
            devices.sort_unstable();
            devices.dedup();
            devices
        }
        Some(devices) => devices,
    };
    let each = devices.len().div_ceil(parts).max(1);
    let parts: Vec<_> = devices
        .chunks(each)
        .map(|part| Some(part.to_vec()))
        .collect();
    if parts.is_empty() {
        vec![Some(Vec::new())]
    } else {
        parts
    }
}

impl DataSource for ScanSource {
    fn open(
        &self,
        partition: usize,
        _: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let rows = Arc::clone(&self.rows);
        let scan = Scan {
            table: rows.table.clone(),
            fields: rows.fields.clone(),
            time: rows.time.clone(),
            devices: rows.parts[partition].clone(),
        };
        let batches = Batches {
            chunks: rows.view.scan(scan),
            left: self.limit.unwrap_or(usize::MAX),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            rows: Arc::clone(&rows),
        };
        let stream = futures_util::stream::iter(batches);
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&rows.schema),
            stream,
        )))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.rows.fmt(f)?;
        self.limit
            .map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }

    fn output_partitioning(&self) -> Partitioning {
        let mut columns = self.rows.columns.iter();
        self.rows
            .partitioning(columns.position(|column| *column == Source::Device))
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.rows.schema))
    }

    fn partition_statistics(
        &self,
        partition: Option<usize>,
    ) -> Result<Arc<Statistics>, DataFusionError> {
        let mut statistics = Statistics::new_unknown(&self.rows.schema);
        statistics.num_rows = match (partition, self.limit) {
            (None, None) => self.rows.count,
            (Some(0), None) if self.rows.parts.len() == 1 => self.rows.count,
            _ => Precision::Absent,
        };
        Ok(Arc::new(statistics))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(self.clone().limited(limit)))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(
        &self,
        _: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>, DataFusionError> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion, DataFusionError>,
    ) -> Result<TreeNodeRecursion, DataFusionError> {
        Ok(TreeNodeRecursion::Continue)
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let timer = self.metrics.elapsed_compute().timer();
        let batch = match self.chunks.next()? {
            Ok(chunk) => self.rows.batch(chunk),
            Err(error) => Err(StoreFailure(Arc::new(error)).into()),
        };
        timer.done();
        let batch = batch.map(|batch| batch.slice(0, batch.num_rows().min(self.left)));
        let count = batch.as_ref().map_or(0, RecordBatch::num_rows);
        self.left -= count;
        self.metrics.record_output(count);
        Some(batch)
    }
}

impl Rows {
    /// Of a source whose column of devices, if it has one, is this.
    pub(super) fn partitioning(&self, device: Option<usize>) -> Partitioning {
        let ranges = self.ranges(device).map(Partitioning::Range);
        ranges.unwrap_or(Partitioning::UnknownPartitioning(self.parts.len()))
    }

    pub(super) fn field_type(&self, field: usize) -> DataType {
        let at = self
            .columns
            .iter()
            .position(|column| *column == Source::Field(field));
        let at = at.expect("a field of the scan has a column");
        self.schema.field(at).data_type().clone()
    }

    /// Which rows, for `EXPLAIN`.
    pub(super) fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            table, time, parts, ..
        } = self;
        let devices = parts.iter().flatten().map(Vec::len).sum::<usize>();
        write!(f, "table={table}, parts={}", parts.len())?;
        if parts.iter().any(Option::is_some) {
            write!(f, ", devices={devices}")?;
        }
        if *time != (i64::MIN..=i64::MAX) {
            write!(f, ", time_ns={}..={}", time.start(), time.end())?;
        }
        Ok(())
    }

    /// Parts are ranges of devices: grouping and joining by device needs no exchange.
    fn ranges(&self, device: Option<usize>) -> Option<RangePartitioning> {
        let device = Arc::new(PhysicalColumn::new(prune::DEVICE, device?));
        let ordering = LexOrdering::new([PhysicalSortExpr::new_default(device)])?;
        let first = |part: &Option<Vec<String>>| {
            let device = part.as_ref()?.first()?.as_str();
            Some(SplitPoint::new(vec![ScalarValue::from(device)]))
        };
        let splits = self
            .parts
            .iter()
            .skip(1)
            .map(first)
            .collect::<Option<Vec<_>>>()?;
        RangePartitioning::try_new(ordering, splits).ok()
    }

    fn batch(&self, chunk: Chunk) -> Result<RecordBatch, DataFusionError> {
        let Chunk {
            series,
            times,
            mut columns,
        } = chunk;
        let count = times.len();
        let mut times = Some(times);
        let arrays = self
            .columns
            .iter()
            .zip(self.schema.fields())
            .map(|(source, field)| match source {
                Source::Time => {
                    let times = times.take().expect("a table has one column of times");
                    let array = TimestampNanosecondArray::from(times);
                    Arc::new(array.with_timezone(session::TIME_ZONE)) as ArrayRef
                }
                Source::Device => repeated(&series.device, count),
                Source::Tag(key) => match series.tags.iter().find(|(known, _)| known == key) {
                    Some((_, value)) => repeated(value, count),
                    None => new_null_array(field.data_type(), count),
                },
                Source::Field(at) => match columns[*at].take() {
                    Some(column) => array(column),
                    None => new_null_array(field.data_type(), count),
                },
            });
        let arrays: Vec<ArrayRef> = arrays.collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}

fn repeated(text: &str, count: usize) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(count, count.saturating_mul(text.len()));
    (0..count).for_each(|_| builder.append_value(text));
    Arc::new(builder.finish())
}

fn array(column: Column) -> ArrayRef {
    let Column {
        present, values, ..
    } = column;
    let Some(present) = present else {
        return match values {
            Values::Float(values) => Arc::new(Float64Array::from(values)),
            Values::Int(values) => Arc::new(Int64Array::from(values)),
            Values::Bool(values) => Arc::new(BooleanArray::from(values)),
            Values::Text(values) => Arc::new(StringArray::from(values)),
        };
    };
    match values {
        Values::Float(values) => {
            let values = spread(values, &present);
            Arc::new(Float64Array::new(
                values.into(),
                Some(NullBuffer::from(present)),
            ))
        }
        Values::Int(values) => {
            let values = spread(values, &present);
            Arc::new(Int64Array::new(
                values.into(),
                Some(NullBuffer::from(present)),
            ))
        }
        Values::Bool(values) => {
            let values = spread(values, &present);
            Arc::new(BooleanArray::new(
                values.into(),
                Some(NullBuffer::from(present)),
            ))
        }
        Values::Text(values) => {
            let mut values = values.into_iter();
            let next = present
                .iter()
                .map(|present| present.then(|| values.next()).flatten());
            Arc::new(next.collect::<StringArray>())
        }
    }
}

/// One value a row; rows that are not present get a default.
fn spread<T: Default>(values: Vec<T>, present: &[bool]) -> Vec<T> {
    let mut values = values.into_iter();
    let next = present
        .iter()
        .map(|present| present.then(|| values.next()).flatten());
    next.map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};

    use super::*;

    #[test]
    fn absent_values_are_null_and_the_others_stay_in_their_rows() {
        let present = Some(vec![false, true, false, true]);
        let column = |values| Column {
            field: 0,
            present: present.clone(),
            values,
        };
        let floats = array(column(Values::Float(vec![1.5, -0.0])));
        let bools = array(column(Values::Bool(vec![true, false])));
        let texts = array(column(Values::Text(vec!["a".into(), "b".into()])));
        for array in [&floats, &bools, &texts] {
            assert_eq!((array.len(), array.null_count()), (4, 2));
            assert!(array.is_null(0) && array.is_valid(1) && array.is_null(2));
        }
        let floats: &Float64Array = floats.as_primitive();
        assert_eq!(
            (floats.value(1), floats.value(3).to_bits()),
            (1.5, (-0.0_f64).to_bits())
        );
        assert!(bools.as_boolean().value(1) && !bools.as_boolean().value(3));
        assert_eq!(texts.as_string::<i32>().value(3), "b");
    }
}
