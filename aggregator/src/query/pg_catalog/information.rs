//! The schema `information_schema`, with PostgreSQL's names of types.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, new_null_array};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;

use super::{NAMESPACES, PgType, Relation, Relations};
use crate::query::session::{DATABASE, PUBLIC};
use crate::query::system::memory_table;

const NAMES: [&str; 4] = ["schemata", "tables", "views", "columns"];

#[derive(Debug)]
pub(in crate::query) struct InformationSchema {
    pub(in crate::query) relations: Arc<Relations>,
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        NAMES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let columns = match name {
            "schemata" => schemata(),
            "tables" => tables(&self.relations.all()),
            "views" => views(&self.relations.all()),
            "columns" => columns(&self.relations.all()),
            _ => return Ok(None),
        };
        memory_table(columns).map(Some)
    }

    fn table_exist(&self, name: &str) -> bool {
        NAMES.contains(&name)
    }
}

fn schemata() -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("catalog_name", texts(NAMESPACES.iter().map(|_| DATABASE))),
        (
            "schema_name",
            texts(NAMESPACES.iter().map(|(_, name)| *name)),
        ),
    ]
}

fn tables(all: &[Relation]) -> Vec<(&'static str, ArrayRef)> {
    let kind = |relation: &Relation| {
        if relation.is_view {
            "VIEW"
        } else {
            "BASE TABLE"
        }
    };
    let kept = || all.iter().map(|one| one.kept.as_ref());
    let same_time = kept().map(|kept| Some(kept?.same_time.as_str()));
    let days = kept().map(|kept| Some(i64::from(kept?.retention_days)));
    let rollups = kept().map(|kept| Some(kept?.rollups.to_string()));
    vec![
        ("table_catalog", texts(all.iter().map(|_| DATABASE))),
        ("table_schema", texts(all.iter().map(|_| PUBLIC))),
        (
            "table_name",
            texts(all.iter().map(|relation| relation.name.as_str())),
        ),
        ("table_type", texts(all.iter().map(kind))),
        // Not of the standard: what becomes of rows of one series and time, how long all are kept, and
        // what is made of them.
        ("same_time", Arc::new(same_time.collect::<StringArray>())),
        ("retention_days", Arc::new(days.collect::<Int64Array>())),
        ("rollups", Arc::new(rollups.collect::<StringArray>())),
    ]
}

fn views(all: &[Relation]) -> Vec<(&'static str, ArrayRef)> {
    let views = || all.iter().filter(|relation| relation.is_view);
    vec![
        ("table_catalog", texts(views().map(|_| DATABASE))),
        ("table_schema", texts(views().map(|_| PUBLIC))),
        (
            "table_name",
            texts(views().map(|relation| relation.name.as_str())),
        ),
        (
            "view_definition",
            new_null_array(&DataType::Utf8, views().count()),
        ),
    ]
}

fn columns(all: &[Relation]) -> Vec<(&'static str, ArrayRef)> {
    let rows = || {
        all.iter().flat_map(|relation| {
            (1..)
                .zip(relation.schema.fields())
                .map(move |(at, field)| (relation, at, field))
        })
    };
    let types = || rows().map(|(_, _, field)| PgType::of_column(field.data_type()));
    let numeric = |known: PgType| (known.category == "N").then_some(known.length);
    let precision: Int64Array = types()
        .map(|known| {
            numeric(known).map(|length| {
                if known.name == "float8" {
                    53
                } else {
                    length * 8
                }
            })
        })
        .collect();
    let whole = |known: PgType| (known.name == "int8").then_some(0);
    let seconds = |known: PgType| (known.category == "D").then_some(6);
    let n = precision.len();
    let nullable = |nullable| if nullable { "YES" } else { "NO" };
    vec![
        ("table_catalog", texts(rows().map(|_| DATABASE))),
        ("table_schema", texts(rows().map(|_| PUBLIC))),
        (
            "table_name",
            texts(rows().map(|(relation, ..)| relation.name.as_str())),
        ),
        (
            "column_name",
            texts(rows().map(|(_, _, field)| field.name().as_str())),
        ),
        (
            "ordinal_position",
            Arc::new(rows().map(|(_, at, _)| Some(at)).collect::<Int64Array>()),
        ),
        ("column_default", new_null_array(&DataType::Utf8, n)),
        (
            "is_nullable",
            texts(rows().map(|(_, _, field)| nullable(field.is_nullable()))),
        ),
        ("data_type", texts(types().map(|known| known.title))),
        (
            "character_maximum_length",
            new_null_array(&DataType::Int64, n),
        ),
        ("numeric_precision", Arc::new(precision)),
        (
            "numeric_scale",
            Arc::new(types().map(whole).collect::<Int64Array>()),
        ),
        (
            "datetime_precision",
            Arc::new(types().map(seconds).collect::<Int64Array>()),
        ),
        ("udt_catalog", texts(rows().map(|_| DATABASE))),
        ("udt_schema", texts(rows().map(|_| "pg_catalog"))),
        ("udt_name", texts(types().map(|known| known.name))),
    ]
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<StringArray>())
}
