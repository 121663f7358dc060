//! The tables of the schema `pg_catalog`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, new_null_array};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;

use super::{NAMESPACES, OWNER_OID, PUBLIC_OID, PgType, Relation, Relations, TEXT, TYPES};
use crate::query::session::{DATABASE, PUBLIC};
use crate::query::system::memory_table;

type Columns = Vec<(&'static str, ArrayRef)>;

/// Catalogs of what this cluster does not have, with the columns that outer joins ask for.
/// `rewrite` takes selects from them away, as most ask for more.
pub(in crate::query) const EMPTY: [(&str, &[&str]); 31] = [
    ("pg_attrdef", &["oid", "adrelid", "adnum", "adbin"]),
    (
        "pg_description",
        &["objoid", "classoid", "objsubid", "description"],
    ),
    ("pg_shdescription", &["objoid", "classoid", "description"]),
    ("pg_collation", &["oid", "collname", "collnamespace"]),
    (
        "pg_index",
        &[
            "indexrelid",
            "indrelid",
            "indisprimary",
            "indisunique",
            "indkey",
        ],
    ),
    (
        "pg_constraint",
        &[
            "oid",
            "conname",
            "conrelid",
            "contype",
            "conkey",
            "confrelid",
        ],
    ),
    ("pg_inherits", &["inhrelid", "inhparent", "inhseqno"]),
    ("pg_proc", &["oid", "proname", "pronamespace", "prokind"]),
    ("pg_enum", &["oid", "enumtypid", "enumlabel"]),
    ("pg_range", &["rngtypid", "rngsubtype"]),
    (
        "pg_depend",
        &["classid", "objid", "refclassid", "refobjid", "deptype"],
    ),
    ("pg_tablespace", &["oid", "spcname"]),
    ("pg_auth_members", &["roleid", "member"]),
    ("pg_policy", &["polrelid", "polname"]),
    ("pg_statistic_ext", &["oid", "stxrelid"]),
    ("pg_publication", &["oid", "pubname"]),
    ("pg_publication_rel", &["prpubid", "prrelid"]),
    ("pg_publication_namespace", &["pnpubid", "pnnspid"]),
    ("pg_subscription", &["oid", "subname"]),
    ("pg_trigger", &["oid", "tgrelid", "tgname"]),
    ("pg_event_trigger", &["oid", "evtname"]),
    ("pg_rewrite", &["oid", "ev_class"]),
    ("pg_foreign_table", &["ftrelid", "ftserver"]),
    ("pg_foreign_server", &["oid", "srvname"]),
    ("pg_sequence", &["seqrelid"]),
    ("pg_partitioned_table", &["partrelid"]),
    ("pg_extension", &["oid", "extname", "extversion"]),
    ("pg_language", &["oid", "lanname"]),
    ("pg_cast", &["oid", "castsource", "casttarget"]),
    ("pg_operator", &["oid", "oprname"]),
    ("pg_matviews", &["schemaname", "matviewname"]),
];

const FILLED: [&str; 10] = [
    "pg_class",
    "pg_attribute",
    "pg_namespace",
    "pg_type",
    "pg_database",
    "pg_roles",
    "pg_user",
    "pg_am",
    "pg_tables",
    "pg_views",
];

/// The schema `pg_catalog`.
#[derive(Debug)]
pub(in crate::query) struct PgCatalog {
    relations: Arc<Relations>,
    user: String,
}

impl PgCatalog {
    pub(in crate::query) fn new(relations: Arc<Relations>, user: String) -> Self {
        Self { relations, user }
    }

    fn columns(&self, name: &str) -> Option<Columns> {
        Some(match name {
            "pg_class" => classes(&self.relations.all()),
            "pg_attribute" => attributes(&self.relations.all()),
            "pg_namespace" => namespaces(),
            "pg_type" => types(),
            "pg_database" => database(),
            "pg_roles" => role(&self.user),
            "pg_user" => vec![
                ("usename", text(&self.user)),
                ("usesysid", number(OWNER_OID)),
            ],
            "pg_am" => vec![
                ("oid", number(2)),
                ("amname", text("heap")),
                ("amtype", text("t")),
            ],
            "pg_tables" => listed(&self.relations.all(), false, &self.user),
            "pg_views" => listed(&self.relations.all(), true, &self.user),
            _ => {
                let (_, columns) = EMPTY.iter().find(|(known, _)| *known == name)?;
                columns
                    .iter()
                    .map(|column| (*column, empty(column)))
                    .collect()
            }
        })
    }
}

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        let empty = EMPTY.iter().map(|(name, _)| *name);
        FILLED.into_iter().chain(empty).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.columns(name).map(memory_table).transpose()
    }

    fn table_exist(&self, name: &str) -> bool {
        FILLED.contains(&name) || EMPTY.iter().any(|(known, _)| *known == name)
    }
}

fn classes(all: &[Relation]) -> Columns {
    let n = all.len();
    let kind = |relation: &Relation| if relation.is_view { "v" } else { "r" };
    let width = |relation: &Relation| i64::try_from(relation.schema.fields().len()).unwrap_or(0);
    vec![
        ("oid", numbers(all.iter().map(|relation| relation.oid))),
        (
            "relname",
            texts(all.iter().map(|relation| relation.name.as_str())),
        ),
        ("relnamespace", same(PUBLIC_OID, n)),
        ("reltype", same(0, n)),
        ("reloftype", same(0, n)),
        ("relowner", same(OWNER_OID, n)),
        (
            "relam",
            numbers(
                all.iter()
                    .map(|relation| if relation.is_view { 0 } else { 2 }),
            ),
        ),
        ("relfilenode", same(0, n)),
        ("reltablespace", same(0, n)),
        ("relpages", same(0, n)),
        ("reltuples", Arc::new(Float64Array::from(vec![-1.0; n]))),
        ("relallvisible", same(0, n)),
        ("reltoastrelid", same(0, n)),
        ("relhasindex", all_are(false, n)),
        ("relisshared", all_are(false, n)),
        ("relpersistence", texts(all.iter().map(|_| "p"))),
        ("relkind", texts(all.iter().map(kind))),
        ("relnatts", numbers(all.iter().map(width))),
        ("relchecks", same(0, n)),
        ("relhasrules", all_are(false, n)),
        ("relhastriggers", all_are(false, n)),
        ("relhassubclass", all_are(false, n)),
        ("relrowsecurity", all_are(false, n)),
        ("relforcerowsecurity", all_are(false, n)),
        ("relispopulated", all_are(true, n)),
        ("relreplident", texts(all.iter().map(|_| "d"))),
        ("relispartition", all_are(false, n)),
        ("relacl", nulls(n)),
        ("reloptions", nulls(n)),
        ("relpartbound", nulls(n)),
    ]
}

fn attributes(all: &[Relation]) -> Columns {
    struct Row<'a> {
        table: i64,
        at: i64,
        name: &'a str,
        pg_type: PgType,
        required: bool,
    }
    let rows = all.iter().flat_map(|relation| {
        (1..).zip(relation.schema.fields()).map(|(at, field)| Row {
            table: relation.oid,
            at,
            name: field.name(),
            pg_type: PgType::of_column(field.data_type()),
            required: !field.is_nullable(),
        })
    });
    let rows: Vec<Row> = rows.collect();
    let n = rows.len();
    let storage = |row: &Row| if row.pg_type == TEXT { "x" } else { "p" };
    vec![
        ("attrelid", numbers(rows.iter().map(|row| row.table))),
        ("attname", texts(rows.iter().map(|row| row.name))),
        ("atttypid", numbers(rows.iter().map(|row| row.pg_type.oid))),
        ("attstattarget", same(-1, n)),
        ("attlen", numbers(rows.iter().map(|row| row.pg_type.length))),
        ("attnum", numbers(rows.iter().map(|row| row.at))),
        ("attndims", same(0, n)),
        ("atttypmod", same(-1, n)),
        (
            "attnotnull",
            Arc::new(
                rows.iter()
                    .map(|row| Some(row.required))
                    .collect::<BooleanArray>(),
            ),
        ),
        ("atthasdef", all_are(false, n)),
        ("attidentity", texts(rows.iter().map(|_| ""))),
        ("attgenerated", texts(rows.iter().map(|_| ""))),
        ("attisdropped", all_are(false, n)),
        ("attislocal", all_are(true, n)),
        ("attinhcount", same(0, n)),
        ("attcollation", same(0, n)),
        ("attstorage", texts(rows.iter().map(storage))),
        ("attcompression", texts(rows.iter().map(|_| ""))),
        ("attacl", nulls(n)),
        ("attoptions", nulls(n)),
    ]
}

fn namespaces() -> Columns {
    vec![
        ("oid", numbers(NAMESPACES.iter().map(|(oid, _)| *oid))),
        ("nspname", texts(NAMESPACES.iter().map(|(_, name)| *name))),
        ("nspowner", same(OWNER_OID, NAMESPACES.len())),
        ("nspacl", nulls(NAMESPACES.len())),
    ]
}

fn types() -> Columns {
    let n = TYPES.len();
    let text_collation = |known: &PgType| if known.category == "S" { 100 } else { 0 };
    vec![
        ("oid", numbers(TYPES.iter().map(|known| known.oid))),
        ("typname", texts(TYPES.iter().map(|known| known.name))),
        ("typnamespace", same(11, n)),
        ("typowner", same(OWNER_OID, n)),
        ("typlen", numbers(TYPES.iter().map(|known| known.length))),
        ("typtype", texts(TYPES.iter().map(|_| "b"))),
        (
            "typcategory",
            texts(TYPES.iter().map(|known| known.category)),
        ),
        ("typisdefined", all_are(true, n)),
        ("typdelim", texts(TYPES.iter().map(|_| ","))),
        ("typrelid", same(0, n)),
        ("typelem", same(0, n)),
        ("typarray", same(0, n)),
        ("typnotnull", all_are(false, n)),
        ("typbasetype", same(0, n)),
        ("typtypmod", same(-1, n)),
        ("typndims", same(0, n)),
        ("typcollation", numbers(TYPES.iter().map(text_collation))),
        ("typdefault", nulls(n)),
    ]
}

fn database() -> Columns {
    vec![
        ("oid", number(1)),
        ("datname", text(DATABASE)),
        ("datdba", number(OWNER_OID)),
        ("encoding", number(6)),
        ("datlocprovider", text("c")),
        ("datistemplate", all_are(false, 1)),
        ("datallowconn", all_are(true, 1)),
        ("datconnlimit", number(-1)),
        ("datcollate", text("C")),
        ("datctype", text("C")),
        ("daticulocale", nulls(1)),
        ("daticurules", nulls(1)),
        ("datacl", nulls(1)),
    ]
}

fn role(user: &str) -> Columns {
    vec![
        ("oid", number(OWNER_OID)),
        ("rolname", text(user)),
        ("rolsuper", all_are(false, 1)),
        ("rolinherit", all_are(true, 1)),
        ("rolcreaterole", all_are(false, 1)),
        ("rolcreatedb", all_are(false, 1)),
        ("rolcanlogin", all_are(true, 1)),
        ("rolreplication", all_are(false, 1)),
        ("rolconnlimit", number(-1)),
        ("rolvaliduntil", nulls(1)),
        ("rolbypassrls", all_are(false, 1)),
    ]
}

fn listed(all: &[Relation], views: bool, user: &str) -> Columns {
    let names = || all.iter().filter(|relation| relation.is_view == views);
    let (name, owner) = if views {
        ("viewname", "viewowner")
    } else {
        ("tablename", "tableowner")
    };
    vec![
        ("schemaname", texts(names().map(|_| PUBLIC))),
        (name, texts(names().map(|relation| relation.name.as_str()))),
        (owner, texts(names().map(|_| user))),
    ]
}

/// Names of catalogs tell what is a number: most are, of objects.
fn empty(column: &str) -> ArrayRef {
    let is_text = [
        "name",
        "description",
        "adbin",
        "type",
        "kind",
        "label",
        "key",
        "version",
    ]
    .iter()
    .any(|end| column.ends_with(end));
    let data_type = match column {
        _ if column.starts_with("indis") => DataType::Boolean,
        _ if is_text => DataType::Utf8,
        _ => DataType::Int64,
    };
    new_null_array(&data_type, 0)
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<Int64Array>())
}

fn text(value: &str) -> ArrayRef {
    texts([value].into_iter())
}

fn number(value: i64) -> ArrayRef {
    same(value, 1)
}

fn same(value: i64, count: usize) -> ArrayRef {
    Arc::new(Int64Array::from(vec![value; count]))
}

fn all_are(value: bool, count: usize) -> ArrayRef {
    Arc::new(BooleanArray::from(vec![value; count]))
}

fn nulls(count: usize) -> ArrayRef {
    new_null_array(&DataType::Utf8, count)
}
