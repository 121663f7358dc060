//! Tables that are views of the state: who sends, what is lost, who serves, and what this node cannot
//! read.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;
use shared::id::{Epoch, TimeNs};

use super::{Sources, session};
use crate::cluster::NodeRow;
use crate::state::{AgentRow, GapRow};
use crate::store::{DamageRow, DamagedBlock};

/// A table of readings with one of these names goes first; no publisher may fill the first three.
pub(super) const NAMES: [&str; 4] = ["agents", "gaps", "nodes", "node_damage"];

/// A system table as of the view; `None` if it is not one.
pub(super) fn table(
    sources: &Sources,
    name: &str,
) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let rows = match name {
        "agents" => agents(&sources.view.agents()),
        "gaps" => gaps(&sources.view.gaps()),
        "nodes" => nodes(&sources.nodes),
        "node_damage" => damage(&sources.view.damage()),
        _ => return Ok(None),
    };
    memory_table(rows).map(Some)
}

/// The columns of each system table.
pub(super) fn schemas() -> [(&'static str, SchemaRef); 4] {
    let schema = |rows: Vec<(&str, ArrayRef)>| {
        let batch = RecordBatch::try_from_iter(rows).expect("columns of one length");
        batch.schema()
    };
    [
        ("agents", schema(agents(&[]))),
        ("gaps", schema(gaps(&[]))),
        ("nodes", schema(nodes(&[]))),
        ("node_damage", schema(damage(&[]))),
    ]
}

/// A table of columns that are there already.
pub(super) fn memory_table(
    columns: Vec<(&str, ArrayRef)>,
) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(nullable)?;
    Ok(Arc::new(MemTable::try_new(
        batch.schema(),
        vec![vec![batch]],
    )?))
}

fn agents(rows: &[AgentRow]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("agent", texts(rows.iter().map(|row| row.agent.to_string()))),
        (
            "epoch",
            texts(rows.iter().map(|row| Epoch(row.epoch).to_string())),
        ),
        ("lane", texts(rows.iter().map(|row| row.lane))),
        ("last", numbers(rows.iter().map(|row| Some(row.last)))),
        (
            "complete_below",
            times(rows.iter().map(|row| row.complete_below)),
        ),
        ("last_seen", times(rows.iter().map(|row| row.last_seen))),
    ]
}

fn gaps(rows: &[GapRow]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("agent", texts(rows.iter().map(|row| row.agent.to_string()))),
        (
            "epoch",
            texts(rows.iter().map(|row| Epoch(row.epoch).to_string())),
        ),
        ("lane", texts(rows.iter().map(|row| row.lane))),
        (
            "from_number",
            numbers(rows.iter().map(|row| Some(row.from))),
        ),
        ("to_number", numbers(rows.iter().map(|row| Some(row.to)))),
        (
            "readings",
            numbers(rows.iter().map(|row| Some(row.readings))),
        ),
        ("reason", texts(rows.iter().map(|row| row.reason.as_str()))),
        ("at", times(rows.iter().map(|row| row.at))),
    ]
}

fn nodes(rows: &[NodeRow]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("id", numbers(rows.iter().map(|row| Some(row.id)))),
        ("name", texts(rows.iter().map(|row| row.name.as_str()))),
        (
            "address",
            texts(rows.iter().map(|row| row.address.as_str())),
        ),
        ("role", texts(rows.iter().map(|row| row.role))),
        ("applied", numbers(rows.iter().map(|row| row.applied))),
        ("lag", numbers(rows.iter().map(|row| row.lag))),
    ]
}

/// Of the node that is asked: each has files of its own.
fn damage(rows: &[DamageRow]) -> Vec<(&'static str, ArrayRef)> {
    let block = |row: &DamageRow| row.block.clone();
    let times = |of: fn(&DamageRow) -> Option<TimeNs>| -> ArrayRef {
        let times = rows.iter().map(|row| of(row).map(|time| time.0));
        let array = times.collect::<TimestampNanosecondArray>();
        Arc::new(array.with_timezone(session::TIME_ZONE))
    };
    let texts_of = |of: fn(DamagedBlock) -> String| -> ArrayRef {
        let texts = rows.iter().map(|row| block(row).map(of));
        Arc::new(texts.collect::<StringArray>())
    };
    let numbers_of = |of: fn(DamagedBlock) -> u32| {
        numbers(rows.iter().map(|row| block(row).map(of).map(u64::from)))
    };
    vec![
        ("file", texts(rows.iter().map(|row| row.file.as_str()))),
        (
            "partition",
            texts(rows.iter().map(|row| row.partition.as_str())),
        ),
        ("offset", numbers(rows.iter().map(|row| Some(row.offset)))),
        ("series", numbers_of(|block| block.series)),
        ("table", texts_of(|block| block.table)),
        ("device", texts_of(|block| block.device)),
        ("rows", numbers_of(|block| block.rows)),
        ("time_min", times(|row| row.time_min)),
        ("time_max", times(|row| row.time_max)),
        ("what", texts(rows.iter().map(|row| row.what.as_str()))),
        ("found_at", times(|row| Some(row.found_at))),
    ]
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// SQL has no unsigned numbers; ours stay far below the limit.
fn numbers(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let signed = values.map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    Arc::new(signed.collect::<Int64Array>())
}

fn times(values: impl Iterator<Item = TimeNs>) -> ArrayRef {
    let array = TimestampNanosecondArray::from_iter_values(values.map(|time| time.0));
    Arc::new(array.with_timezone(session::TIME_ZONE))
}
