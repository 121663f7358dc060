//! As much of PostgreSQL's catalog as psql's `\d` and its like ask for, made from the view.
//!
//! Object ids: tables of the store are numbered from [`TABLE_OID_MIN`] on by their table id, so
//! they stay the same on every node and for ever.

mod tables;
mod information;
mod functions;

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use super::session::PUBLIC;
use super::{system, table};
use crate::state::{Rollups, SameTime, TableInfo};
use crate::store::View;

pub(super) use functions::functions;
pub(super) use information::InformationSchema;
pub(super) use tables::{EMPTY, PgCatalog};

/// PostgreSQL's own objects lie below.
const TABLE_OID_MIN: i64 = 16_384;
const SYSTEM_OID_MIN: i64 = 16_000;
const OWNER_OID: i64 = 10;
const NAMESPACES: [(i64, &str); 3] = [
    (11, "pg_catalog"),
    (2_200, PUBLIC),
    (13_000, "information_schema"),
];
const PUBLIC_OID: i64 = 2_200;

/// Every table that `public` has, sorted by name.
#[derive(Debug)]
pub(super) struct Relations {
    view: Arc<View>,
}

/// One table, as catalogs show it.
#[derive(Debug)]
struct Relation {
    oid: i64,
    name: String,
    /// Of the state, not of the store.
    is_view: bool,
    /// Of tables of readings.
    kept: Option<Kept>,
    schema: SchemaRef,
}

/// What the cluster makes of a table's rows.
#[derive(Debug)]
struct Kept {
    same_time: SameTime,
    /// Its own, or the cluster's.
    retention_days: u32,
    rollups: Rollups,
}

/// A type of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PgType {
    oid: i64,
    /// As in `pg_type.typname`.
    name: &'static str,
    /// As in SQL.
    title: &'static str,
    /// Bytes; -1 for any.
    length: i64,
    category: &'static str,
}

const TEXT: PgType = of(25, "text", "text", -1, "S");
const TYPES: [PgType; 18] = [
    of(16, "bool", "boolean", 1, "B"),
    of(17, "bytea", "bytea", -1, "U"),
    of(18, "char", "\"char\"", 1, "Z"),
    of(19, "name", "name", 64, "S"),
    of(20, "int8", "bigint", 8, "N"),
    of(21, "int2", "smallint", 2, "N"),
    of(23, "int4", "integer", 4, "N"),
    TEXT,
    of(26, "oid", "oid", 4, "N"),
    of(700, "float4", "real", 4, "N"),
    of(701, "float8", "double precision", 8, "N"),
    of(1043, "varchar", "character varying", -1, "S"),
    of(1082, "date", "date", 4, "D"),
    of(1083, "time", "time without time zone", 8, "D"),
    of(1114, "timestamp", "timestamp without time zone", 8, "D"),
    of(1184, "timestamptz", "timestamp with time zone", 8, "D"),
    of(1186, "interval", "interval", 16, "T"),
    of(1700, "numeric", "numeric", -1, "N"),
];

const fn of(
    oid: i64,
    name: &'static str,
    title: &'static str,
    length: i64,
    category: &'static str,
) -> PgType {
    PgType {
        oid,
        name,
        title,
        length,
        category,
    }
}

impl PgType {
    fn by_oid(oid: i64) -> Option<Self> {
        TYPES.into_iter().find(|known| known.oid == oid)
    }

    fn by_name(name: &str) -> Option<Self> {
        TYPES
            .into_iter()
            .find(|known| known.name == name || known.title == name)
    }

    /// The type as which a column is served.
    fn of_column(data_type: &DataType) -> Self {
        let name = match data_type {
            DataType::Boolean => "bool",
            DataType::Int64 => "int8",
            DataType::Float64 => "float8",
            DataType::Timestamp(_, Some(_)) => "timestamptz",
            _ => "text",
        };
        Self::by_name(name).unwrap_or(TEXT)
    }
}

impl Relations {
    pub(super) fn of(view: &Arc<View>) -> Self {
        Self {
            view: Arc::clone(view),
        }
    }

    fn all(&self) -> Vec<Relation> {
        let system = (SYSTEM_OID_MIN..)
            .zip(system::schemas())
            .map(|(oid, (name, schema))| Relation {
                oid,
                name: name.to_owned(),
                is_view: true,
                kept: None,
                schema,
            });
        let stored = self.view.catalog().tables().map(|table| Relation {
            oid: TABLE_OID_MIN + i64::from(table.id.0),
            name: table.name.clone(),
            is_view: false,
            kept: Some(self.kept(table)),
            schema: table::schema_of(table),
        });
        let hidden = |relation: &Relation| self.view.catalog().table(&relation.name).is_some();
        let mut all: Vec<_> = stored
            .chain(system.filter(|system| !hidden(system)))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn kept(&self, table: &TableInfo) -> Kept {
        let state = self.view.state();
        let (all, own) = (state.settings(), state.table_settings());
        let days = own.retention_days_of(&table.name);
        Kept {
            same_time: self.view.catalog().same_time(&table.name),
            retention_days: days.unwrap_or(all.retention_days()),
            rollups: own.rollups_of(&table.name),
        }
    }

    fn name_of(&self, oid: i64) -> Option<String> {
        let id = u32::try_from(oid - TABLE_OID_MIN)
            .ok()
            .map(crate::state::TableId);
        if let Some(table) = id.and_then(|id| self.view.catalog().table_by_id(id)) {
            return Some(table.name.clone());
        }
        let at = usize::try_from(oid - SYSTEM_OID_MIN).ok()?;
        system::NAMES.get(at).map(|name| (*name).to_owned())
    }

    /// By a name as SQL writes it: folded unless in double quotes.
    fn oid_of(&self, written: &str) -> Option<i64> {
        let written = written.strip_prefix("public.").unwrap_or(written);
        let quoted = written
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let name = match quoted {
            Some(name) => name.replace("\"\"", "\""),
            None => written.to_lowercase(),
        };
        if let Some(table) = self.view.catalog().table(&name) {
            return Some(TABLE_OID_MIN + i64::from(table.id.0));
        }
        let at = system::NAMES.iter().position(|known| *known == name)?;
        Some(SYSTEM_OID_MIN + i64::try_from(at).ok()?)
    }
}
