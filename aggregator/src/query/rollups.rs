//! The schemas `rollup_1m`, `rollup_1h` and so on: what tables come to by buckets of a width that they are
//! rolled up by, of the rows that are there and of those of which only that was kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use shared::reading::FieldType;

use super::error::StoreFailure;
use super::prune::{self, Pruned};
use super::states::State;
use super::table::{data_type, time_type};
use crate::state::{Rollup, SameTime, TableInfo};
use crate::store::{Measures, RollupScan, View};

const PREFIX: &str = "rollup_";
const ROWS: &str = "rows";

/// One width.
#[derive(Debug)]
pub(super) struct RollupSchema {
    view: Arc<View>,
    rollup: Rollup,
}

/// A table by buckets of one width.
#[derive(Debug)]
struct RollupTable {
    view: Arc<View>,
    name: String,
    width_seconds: u32,
    columns: Arc<Columns>,
}

/// What there is to be asked for, and how it is answered.
#[derive(Debug)]
struct Columns {
    schema: SchemaRef,
    states: Vec<State>,
    fields: Vec<(String, FieldType)>,
}

/// The devices of a query, some at a time, in the order of time.
#[derive(Debug)]
struct Devices {
    view: Arc<View>,
    pieces: Vec<RollupScan>,
    devices: Vec<Vec<String>>,
    columns: Arc<Columns>,
}

/// The names of all of them: one a width that some table is rolled up by.
pub(super) fn schema_names(view: &View) -> Vec<String> {
    let tables = view.catalog().tables();
    let widths: BTreeSet<Rollup> = tables.flat_map(|table| rollups_of(view, table)).collect();
    let name = |rollup: Rollup| format!("{PREFIX}{rollup}");
    widths.into_iter().map(name).collect()
}

/// `None`: no table is rolled up so.
pub(super) fn schema(view: &Arc<View>, name: &str) -> Option<RollupSchema> {
    let width = name.strip_prefix(PREFIX)?;
    let tables = view.catalog().tables();
    let mut all = tables.flat_map(|table| rollups_of(view, table));
    let rollup = all.find(|rollup| rollup.to_string() == width)?;
    Some(RollupSchema {
        view: Arc::clone(view),
        rollup,
    })
}

/// Without their retention.
fn rollups_of(view: &View, table: &TableInfo) -> Vec<Rollup> {
    if table.same_time == SameTime::Merge {
        return Vec::new();
    }
    let rollups = view.state().table_settings().rollups_of(&table.name);
    rollups.all().iter().map(|one| one.width_alone()).collect()
}

impl RollupSchema {
    fn has(&self, table: &TableInfo) -> bool {
        rollups_of(&self.view, table).contains(&self.rollup)
    }
}

#[async_trait]
impl SchemaProvider for RollupSchema {
    fn table_names(&self) -> Vec<String> {
        let tables = self.view.catalog().tables();
        let ours = tables.filter(|table| self.has(table));
        ours.map(|table| table.name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let table = self.view.catalog().table(name);
        let Some(table) = table.filter(|table| self.has(table)) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(RollupTable {
            view: Arc::clone(&self.view),
            name: name.to_owned(),
            width_seconds: self.rollup.width_seconds(),
            columns: Arc::new(Columns::of(table)),
        })))
    }

    fn table_exist(&self, name: &str) -> bool {
        let table = self.view.catalog().table(name);
        table.is_some_and(|table| self.has(table))
    }
}

impl Columns {
    /// `time`, `device`, tags, `rows`; and of each field its count, and what its type has of sum, minimum,
    /// maximum, first and last. A tag that is named as one of these hides it.
    fn of(table: &TableInfo) -> Self {
        let mut columns: Vec<(Field, State)> = vec![
            (Field::new(prune::TIME, time_type(), false), State::Bucket),
            (
                Field::new(prune::DEVICE, DataType::Utf8, false),
                State::Device,
            ),
        ];
        let tag = |key: &String| {
            (
                Field::new(key, DataType::Utf8, true),
                State::Tag(key.clone()),
            )
        };
        columns.extend(table.tag_keys.iter().map(tag));
        let tags: BTreeSet<&str> = table.tag_keys.iter().map(String::as_str).collect();
        let mut put = |name: String, kind: DataType, nullable: bool, state: State| {
            if !tags.contains(name.as_str()) {
                columns.push((Field::new(name, kind, nullable), state));
            }
        };
        put(ROWS.to_owned(), DataType::Int64, false, State::Rows);
        for (at, (name, kind)) in table.fields.iter().enumerate() {
            put(
                format!("{name}_count"),
                DataType::Int64,
                false,
                State::Count(at),
            );
            let own = || data_type(*kind);
            if matches!(kind, FieldType::Float | FieldType::Int) {
                put(format!("{name}_sum"), own(), true, State::Sum(at));
            }
            if *kind == FieldType::Text {
                continue;
            }
            put(format!("{name}_min"), own(), true, State::Min(at));
            put(format!("{name}_max"), own(), true, State::Max(at));
            let [first, ..] = State::ends(at, true, true);
            let [last, ..] = State::ends(at, false, true);
            put(format!("{name}_first"), own(), true, first);
            put(format!("{name}_last"), own(), true, last);
        }
        let (schema, states): (Vec<Field>, Vec<State>) = columns.into_iter().unzip();
        Self {
            schema: Arc::new(Schema::new(schema)),
            states,
            fields: table.fields.clone(),
        }
    }

    /// What the columns of a query need; `None`: all of them.
    fn measured(&self, projection: Option<&Vec<usize>>) -> Vec<(String, Measures)> {
        let is_shown = |at: usize| projection.is_none_or(|shown| shown.contains(&at));
        let states = self.states.iter().enumerate();
        let shown: Vec<&State> = states
            .filter(|(at, _)| is_shown(*at))
            .map(|(_, state)| state)
            .collect();
        let needs = |wanted: &dyn Fn(&State) -> bool| shown.iter().any(|state| wanted(state));
        let measures = |field: usize| Measures {
            sum: needs(&|state| matches!(state, State::Sum(at) if *at == field)),
            extremes: needs(
                &|state| matches!(state, State::Min(at) | State::Max(at) if *at == field),
            ),
            ends: needs(&|state| matches!(state, State::End(at, _) if *at == field)),
        };
        let fields = self.fields.iter().enumerate();
        fields
            .map(|(at, (name, _))| (name.clone(), measures(at)))
            .collect()
    }
}

#[async_trait]
impl TableProvider for RollupTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(prune::support(filters))
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let Pruned { time, devices } = Pruned::by(filters);
        let devices = devices.unwrap_or_else(|| self.devices());
        let scan = RollupScan {
            table: self.name.clone(),
            width_seconds: self.width_seconds,
            fields: self.columns.measured(projection),
            starts: time,
            devices: None,
        };
        let (pieces, at_once) = self.view.rollup_pieces(&scan);
        let devices: Vec<String> = devices.into_iter().collect();
        let part = Devices {
            view: Arc::clone(&self.view),
            pieces,
            devices: devices.chunks(at_once).map(<[String]>::to_vec).collect(),
            columns: Arc::clone(&self.columns),
        };
        let schema = Arc::clone(&self.columns.schema);
        let table = StreamingTable::try_new(schema, vec![Arc::new(part)])?;
        table.scan(session, projection, &[], limit).await
    }
}

impl RollupTable {
    fn devices(&self) -> BTreeSet<String> {
        let catalog = self.view.catalog();
        let table = catalog.table(&self.name);
        let series = table.into_iter().flat_map(TableInfo::series);
        let info = series.filter_map(|id| catalog.series(id));
        info.map(|info| info.device.clone()).collect()
    }
}

impl PartitionStream for Devices {
    fn schema(&self) -> &SchemaRef {
        &self.columns.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (view, pieces) = (Arc::clone(&self.view), self.pieces.clone());
        let of_devices = move |devices: Vec<String>| {
            let of_them = |mut piece: RollupScan| {
                piece.devices = Some(devices.clone());
                piece
            };
            pieces.iter().cloned().map(of_them).collect::<Vec<_>>()
        };
        let scans = self.devices.clone().into_iter().flat_map(of_devices);
        let columns = Arc::clone(&self.columns);
        let batches = scans.map(move |scan| batch(&view, scan, &columns));
        let schema = Arc::clone(&self.columns.schema);
        let stream = futures_util::stream::iter(batches);
        Box::pin(RecordBatchStreamAdapter::new(schema, stream))
    }
}

/// All buckets of some devices in a piece of time.
fn batch(
    view: &Arc<View>,
    scan: RollupScan,
    columns: &Columns,
) -> Result<RecordBatch, DataFusionError> {
    let found = view.rollup(scan);
    let found = found.map_err(|error| StoreFailure(Arc::new(error)))?;
    let catalog = view.catalog();
    let of_series = |((series, bucket), mut group): ((_, i64), crate::store::Group)| {
        group.bucket = Some(bucket);
        Some((Arc::clone(catalog.series(series)?), group))
    };
    let groups: Vec<_> = found.into_iter().filter_map(of_series).collect();
    let types = |at: usize| data_type(columns.fields[at].1);
    let arrays = columns.states.iter();
    let arrays = arrays.map(|state| state.array(&types, &groups));
    let schema = Arc::clone(&columns.schema);
    Ok(RecordBatch::try_new(schema, arrays.collect())?)
}
