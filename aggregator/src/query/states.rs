//! A source of aggregate states: one row for each series and bucket of a piece of the store, in the
//! columns that DataFusion's first stage would have. The second stage merges them.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, RecordOutput,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use shared::reading::Value;

use super::error::StoreFailure;
use super::scan::Rows;
use super::session;
use crate::state::SeriesInfo;
use crate::store::{
    Aggregate, Aggregates, Answer, Buckets, FieldState, Group, Measures, Piece, Sum,
};

/// A batch ends with the piece that reaches one of these, for what it is made of is in no memory pool.
const STATES: usize = 65_536;
const BYTES: usize = 2 << 20;
/// As many pieces by statistics, or what takes as long.
const EFFORT: usize = 64;

/// One column of a first stage. Numbers are places among the fields of the scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Device,
    Tag(String),
    Bucket,
    Rows,
    RowsWithTag(String),
    TimeMin,
    TimeMax,
    Count(usize),
    Sum(usize),
    CountOfMean(usize),
    SumOfMean(usize),
    Min(usize),
    Max(usize),
    End(usize, End),
    EndTime(usize, End),
    EndIsSet(usize, End),
}

/// What `first` and `last` are after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    at_least_time: bool,
    /// Else it is null where the row at that time has no value.
    skips_nulls: bool,
}

/// The states of one table.
#[derive(Debug, Clone)]
pub(super) struct StatesSource {
    rows: Arc<Rows>,
    schema: SchemaRef,
    states: Arc<[State]>,
    measures: Vec<Measures>,
    buckets: Option<Buckets>,
    metrics: ExecutionPlanMetricsSet,
}

/// The batches of one part.
struct Batches {
    source: StatesSource,
    pieces: Aggregates,
    metrics: BaselineMetrics,
    /// How many pieces were made of what.
    statistics: Count,
    rollups: Count,
    rows: Count,
}

impl State {
    pub(super) fn ends(field: usize, at_least_time: bool, skips_nulls: bool) -> [Self; 3] {
        let end = End {
            at_least_time,
            skips_nulls,
        };
        [
            Self::End(field, end),
            Self::EndTime(field, end),
            Self::EndIsSet(field, end),
        ]
    }

    fn data_type(&self, rows: &Rows) -> DataType {
        let time = || DataType::Timestamp(TimeUnit::Nanosecond, Some(session::TIME_ZONE.into()));
        match self {
            Self::Device | Self::Tag(_) => DataType::Utf8,
            Self::Bucket | Self::TimeMin | Self::TimeMax | Self::EndTime(..) => time(),
            Self::Rows | Self::RowsWithTag(_) | Self::Count(_) => DataType::Int64,
            Self::CountOfMean(_) => DataType::UInt64,
            Self::SumOfMean(_) => DataType::Float64,
            Self::EndIsSet(..) => DataType::Boolean,
            Self::Sum(field) | Self::Min(field) | Self::Max(field) | Self::End(field, _) => {
                rows.field_type(*field)
            }
        }
    }

    /// `types`: of the fields.
    pub(super) fn array(
        &self,
        types: &dyn Fn(usize) -> DataType,
        groups: &[(Arc<SeriesInfo>, Group)],
    ) -> ArrayRef {
        let all = || groups.iter().map(|(_, group)| group);
        let field = |at: usize| all().map(move |group| &group.fields[at]);
        match self {
            Self::Device => texts(
                groups
                    .iter()
                    .map(|(series, _)| Some(series.device.as_str())),
            ),
            Self::Tag(key) => texts(tags(groups, key)),
            Self::Bucket => times(all().map(|group| group.bucket)),
            Self::Rows => counts(all().map(|group| group.rows)),
            Self::RowsWithTag(key) => {
                let rows = all().zip(tags(groups, key));
                counts(rows.map(|(group, tag)| tag.map_or(0, |_| group.rows)))
            }
            Self::TimeMin => times(all().map(|group| Some(group.time_min))),
            Self::TimeMax => times(all().map(|group| Some(group.time_max))),
            Self::Count(at) => counts(field(*at).map(|field| field.count)),
            Self::Sum(at) => sums(&types(*at), field(*at)),
            Self::CountOfMean(at) => {
                // Null as the sum is: a mean of nothing is null.
                let counts = field(*at).map(|field| (field.count > 0).then_some(field.count));
                Arc::new(counts.collect::<UInt64Array>())
            }
            Self::SumOfMean(at) => sums(&DataType::Float64, field(*at)),
            Self::Min(at) => values(&types(*at), field(*at).map(|f| f.min.as_ref())),
            Self::Max(at) => values(&types(*at), field(*at).map(|f| f.max.as_ref())),
            Self::End(at, end) => {
                let found = all().map(|group| end.of(group, *at));
                values(&types(*at), found.map(|end| end?.1))
            }
            Self::EndTime(at, end) => {
                times(all().map(|group| end.of(group, *at).map(|(time, _)| time)))
            }
            Self::EndIsSet(at, end) => {
                let is_set = all().map(|group| Some(end.of(group, *at).is_some()));
                Arc::new(is_set.collect::<BooleanArray>())
            }
        }
    }
}

impl End {
    /// When and what; `None` if there is nothing that counts.
    fn of(self, group: &Group, field: usize) -> Option<(i64, Option<&Value>)> {
        let field = &group.fields[field];
        let (end, time) = if self.at_least_time {
            (field.first.as_ref(), group.time_min)
        } else {
            (field.last.as_ref(), group.time_max)
        };
        if self.skips_nulls {
            return end.map(|(time, value)| (*time, Some(value)));
        }
        Some((
            time,
            end.filter(|(at, _)| *at == time).map(|(_, value)| value),
        ))
    }
}

impl StatesSource {
    /// `None` if the states are not what the first stage's columns are.
    pub(super) fn new(
        rows: Arc<Rows>,
        schema: SchemaRef,
        states: Vec<State>,
        measures: Vec<Measures>,
        buckets: Option<Buckets>,
    ) -> Option<Self> {
        let found = states.iter().map(|state| state.data_type(&rows));
        let wanted = schema
            .fields()
            .iter()
            .map(|field| field.data_type().clone());
        wanted.eq(found).then_some(())?;
        Some(Self {
            rows,
            schema,
            states: states.into(),
            measures,
            buckets,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    fn pieces(&self, part: usize) -> Aggregates {
        let fields = self.rows.fields.iter().cloned();
        self.rows.view.aggregate(Aggregate {
            table: self.rows.table.clone(),
            fields: fields.zip(self.measures.iter().copied()).collect(),
            time: self.rows.time.clone(),
            devices: self.rows.parts[part].clone(),
            buckets: self.buckets,
        })
    }

    fn batch(&self, groups: &[(Arc<SeriesInfo>, Group)]) -> Result<RecordBatch, DataFusionError> {
        let arrays = self
            .states
            .iter()
            .map(|state| state.array(&|at| self.rows.field_type(at), groups));
        let options = RecordBatchOptions::new().with_row_count(Some(groups.len()));
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(
            schema,
            arrays.collect(),
            &options,
        )?)
    }
}

impl DataSource for StatesSource {
    fn open(
        &self,
        partition: usize,
        _: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let counter = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        let batches = Batches {
            pieces: self.pieces(partition),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            statistics: counter("pieces_by_statistics"),
            rollups: counter("pieces_by_rollups"),
            rows: counter("pieces_by_rows"),
            source: self.clone(),
        };
        let stream = futures_util::stream::iter(batches);
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = self
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str());
        let columns: Vec<&str> = columns.collect();
        write!(f, "states by statistics=[{}], ", columns.join(", "))?;
        self.rows.fmt(f)
    }

    fn output_partitioning(&self) -> Partitioning {
        let device = self.states.iter().position(|state| *state == State::Device);
        self.rows.partitioning(device)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        EquivalenceProperties::new(Arc::clone(&self.schema))
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>, DataFusionError> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema)))
    }

    fn with_fetch(&self, _: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
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

impl Batches {
    fn note(&self, by: Answer) {
        let counter = match by {
            Answer::Statistics => &self.statistics,
            Answer::Rollup => &self.rollups,
            Answer::Rows => &self.rows,
        };
        counter.add(1);
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, DataFusionError>;

    /// Between batches a query can be stopped: one ends with the first piece that had rows decoded, or
    /// after a few that had rollups read.
    fn next(&mut self) -> Option<Self::Item> {
        let timer = self.metrics.elapsed_compute().timer();
        let mut all: Vec<(Arc<SeriesInfo>, Group)> = Vec::new();
        let (mut bytes, mut spent) = (0, 0);
        while spent < EFFORT {
            let Piece {
                series,
                groups,
                by,
                effort,
            } = match self.pieces.next() {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Some(Err(StoreFailure(Arc::new(error)).into())),
                None => break,
            };
            self.note(by);
            spent += effort;
            bytes += groups.iter().map(Group::bytes_held).sum::<usize>();
            all.extend(groups.into_iter().map(|group| (Arc::clone(&series), group)));
            let states = all.len() * self.source.states.len();
            if states >= STATES || bytes >= BYTES {
                break;
            }
        }
        if all.is_empty() {
            return None;
        }
        let batch = self.source.batch(&all);
        timer.done();
        Some(batch.map(|batch| batch.record_output(&self.metrics)))
    }
}

fn tags<'a>(
    groups: &'a [(Arc<SeriesInfo>, Group)],
    key: &'a str,
) -> impl Iterator<Item = Option<&'a str>> {
    groups.iter().map(move |(series, _)| {
        let found = series.tags.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    })
}

fn texts<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(texts.collect::<StringArray>())
}

fn times(times: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let times: TimestampNanosecondArray = times.collect();
    Arc::new(times.with_timezone(session::TIME_ZONE))
}

fn counts(counts: impl Iterator<Item = u64>) -> ArrayRef {
    let counts = counts.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    Arc::new(Int64Array::from_iter_values(counts))
}

/// Ints wrap around, as DataFusion's sums do.
fn sums<'a>(data_type: &DataType, fields: impl Iterator<Item = &'a FieldState>) -> ArrayRef {
    let sums = fields.map(|field| field.sum);
    if *data_type == DataType::Float64 {
        return Arc::new(
            sums.map(|sum| sum.map(Sum::as_float))
                .collect::<Float64Array>(),
        );
    }
    Arc::new(sums.map(|sum| wrapped(sum?)).collect::<Int64Array>())
}

fn wrapped(sum: Sum) -> Option<i64> {
    match sum {
        Sum::Int(sum) => u64::try_from(sum & i128::from(u64::MAX))
            .ok()
            .map(u64::cast_signed),
        Sum::Float(_) => None,
    }
}

fn values<'a>(data_type: &DataType, values: impl Iterator<Item = Option<&'a Value>>) -> ArrayRef {
    match data_type {
        DataType::Float64 => {
            let floats = values.map(|value| match value? {
                Value::Float(float) => Some(*float),
                _ => None,
            });
            Arc::new(floats.collect::<Float64Array>())
        }
        DataType::Int64 => {
            let ints = values.map(|value| match value? {
                Value::Int(int) => Some(*int),
                _ => None,
            });
            Arc::new(ints.collect::<Int64Array>())
        }
        DataType::Boolean => {
            let bools = values.map(|value| match value? {
                Value::Bool(one) => Some(*one),
                _ => None,
            });
            Arc::new(bools.collect::<BooleanArray>())
        }
        _ => texts(values.map(|value| match value? {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })),
    }
}
