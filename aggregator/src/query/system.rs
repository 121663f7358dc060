//! Tables that are views of the state: who sends, what is lost, who serves.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;
use shared::id::{Epoch, TimeNs};

use super::{NodeRow, Sources, session};
use crate::state::{AgentRow, GapRow};

pub(super) const NAMES: [&str; 3] = ["agents", "gaps", "nodes"];

/// A system table as of the view; `None` if it is not one.
pub(super) fn table(
    sources: &Sources,
    name: &str,
) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
    let rows = match name {
        "agents" => agents(&sources.view.agents()),
        "gaps" => gaps(&sources.view.gaps()),
        "nodes" => nodes(&sources.nodes),
        _ => return Ok(None),
    };
    memory_table(rows).map(Some)
}

/// The columns of each system table.
pub(super) fn schemas() -> [(&'static str, SchemaRef); 3] {
    let schema = |rows: Vec<(&str, ArrayRef)>| {
        let batch = RecordBatch::try_from_iter(rows).expect("columns of one length");
        batch.schema()
    };
    [
        ("agents", schema(agents(&[]))),
        ("gaps", schema(gaps(&[]))),
        ("nodes", schema(nodes(&[]))),
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
