//! The tables of the store, as DataFusion sees them: `time`, `device`, tags, fields.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use shared::reading::FieldType;

use super::pg_catalog::PgCatalog;
use super::prune::Pruned;
use super::scan::ScanSource;
use super::{Sources, prune, session, system};
use crate::state::TableInfo;
use crate::store::View;

/// The schema `public`: tables of the catalog, and those that are views of the state. Like in
/// PostgreSQL, what is not here is looked for in `pg_catalog`.
#[derive(Debug)]
pub(super) struct Public {
    pub(super) sources: Sources,
    pub(super) cores: usize,
    pub(super) pg: Arc<PgCatalog>,
}

/// One table of the store.
#[derive(Debug)]
struct StoreTable {
    view: Arc<View>,
    name: String,
    schema: SchemaRef,
    cores: usize,
}

/// Where the values of a column come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Time,
    Device,
    Tag(String),
    /// Index into the fields of a scan.
    Field(usize),
}

/// The columns of a table: `time`, `device`, tags by name, fields in order of first use.
pub(super) fn schema_of(table: &TableInfo) -> SchemaRef {
    let mut columns = vec![
        Field::new(prune::TIME, time_type(), false),
        Field::new(prune::DEVICE, DataType::Utf8, false),
    ];
    columns.extend(
        table
            .tag_keys
            .iter()
            .map(|key| Field::new(key, DataType::Utf8, true)),
    );
    let fields = table.fields.iter();
    columns.extend(fields.map(|(name, kind)| Field::new(name, data_type(*kind), true)));
    Arc::new(Schema::new(columns))
}

pub(super) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(session::TIME_ZONE.into()))
}

pub(super) fn data_type(field: FieldType) -> DataType {
    match field {
        FieldType::Float => DataType::Float64,
        FieldType::Int => DataType::Int64,
        FieldType::Bool => DataType::Boolean,
        FieldType::Text => DataType::Utf8,
    }
}

#[async_trait]
impl SchemaProvider for Public {
    fn table_names(&self) -> Vec<String> {
        let tables = self
            .sources
            .view
            .catalog()
            .tables()
            .map(|table| table.name.clone());
        let stored = |name: &str| self.sources.view.catalog().table(name).is_some();
        let system = system::NAMES.into_iter().filter(|name| !stored(name));
        tables.chain(system.map(str::to_owned)).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let view = &self.sources.view;
        let Some(table) = view.catalog().table(name) else {
            return match system::table(&self.sources, name)? {
                Some(table) => Ok(Some(table)),
                None => self.pg.table(name).await,
            };
        };
        let schema = schema_of(table);
        let (view, name, cores) = (Arc::clone(view), name.to_owned(), self.cores);
        Ok(Some(Arc::new(StoreTable {
            view,
            name,
            schema,
            cores,
        })))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.sources.view.catalog().table(name).is_some()
            || system::NAMES.contains(&name)
            || self.pg.table_exist(name)
    }
}

#[async_trait]
impl TableProvider for StoreTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(prune::support(filters))
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(projection)?);
        let mut fields = Vec::new();
        let columns = projection
            .iter()
            .map(|at| self.source(*at, &mut fields))
            .collect();
        let pruned = Pruned::by(filters);
        let source = ScanSource::new(
            Arc::clone(&self.view),
            self.name.clone(),
            schema,
            columns,
            fields,
            pruned,
            self.cores,
        );
        Ok(DataSourceExec::from_data_source(source.limited(limit)))
    }
}

impl StoreTable {
    fn source(&self, at: usize, fields: &mut Vec<String>) -> Source {
        let name = self.schema.field(at).name();
        let table = self.view.catalog().table(&self.name);
        let tags = table.map_or(0, |table| table.tag_keys.len());
        match at {
            0 => Source::Time,
            1 => Source::Device,
            _ if at < 2 + tags => Source::Tag(name.clone()),
            _ => {
                fields.push(name.clone());
                Source::Field(fields.len() - 1)
            }
        }
    }
}
