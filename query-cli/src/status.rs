//! `tributary status`: nodes, leader, agents with their lag.
//!
//! Draws whatever keys the node sends, known ones first: an older CLI shows a newer cluster.

use std::io::Write;

use serde_json::{Map, Value};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::table;

/// Columns in their order; what else a record holds follows.
const NODE_COLUMNS: [&str; 6] = ["name", "role", "address", "id", "applied", "lag"];
const AGENT_COLUMNS: [&str; 6] = ["agent", "lane", "lag_ms", "last_seen", "last", "epoch"];

pub(crate) fn print(status: &Value, format: Format, to: &mut impl Write) -> Result<(), Failure> {
    let Value::Object(fields) = status else {
        return Err(Failure::Query(
            "the node answered a status that is no object".to_owned(),
        ));
    };
    match format {
        Format::Jsonl => writeln!(to, "{status}")?,
        Format::Csv => {
            return Err(Failure::Usage(
                "a status is no single list: use --format table or jsonl, or SELECT * FROM nodes"
                    .to_owned(),
            ));
        }
        Format::Table => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_array()) {
                writeln!(to, "{name}: {}", shown(value))?;
            }
            list(to, fields, "nodes", &NODE_COLUMNS)?;
            list(to, fields, "agents", &AGENT_COLUMNS)?;
        }
    }
    to.flush()?;
    Ok(())
}

fn list(
    to: &mut impl Write,
    fields: &Map<String, Value>,
    name: &str,
    first: &[&str],
) -> Result<(), Failure> {
    let Some(Value::Array(records)) = fields.get(name) else {
        return Ok(());
    };
    let records: Vec<_> = records.iter().filter_map(Value::as_object).collect();
    if records.is_empty() {
        writeln!(to, "\nno {name} yet")?;
        return Ok(());
    }
    let known = |key: &&String| !first.contains(&key.as_str());
    let mut header: Vec<String> = first
        .iter()
        .filter(|key| records.iter().any(|record| record.contains_key(**key)))
        .map(|key| (*key).to_owned())
        .collect();
    for key in records
        .iter()
        .flat_map(|record| record.keys())
        .filter(known)
    {
        if !header.contains(key) {
            header.push(key.clone());
        }
    }
    let rows = records
        .iter()
        .map(|record| {
            header
                .iter()
                .map(|key| record.get(key).map_or_else(String::new, shown))
        })
        .map(Iterator::collect)
        .collect();
    writeln!(to, "\n{name}\n{}", table(&header, rows))?;
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_agents_are_listed_known_columns_first() {
        let status = serde_json::json!({
            "leader": 2, "term": 7, "applied": 41,
            "nodes": [{"id": 1, "name": "a", "role": "follower", "zone": "x"},
                      {"id": 2, "name": "b", "role": "leader"}],
            "agents": [{"agent": "gw1", "lane": "live", "last": 9, "lag_ms": 12}],
        });
        let mut text = Vec::new();
        print(&status, Format::Table, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("leader: 2\n"), "{text}");
        let header = text.lines().find(|line| line.contains("role")).unwrap();
        assert!(
            header.find("name").unwrap() < header.find("id").unwrap(),
            "{text}"
        );
        assert!(header.trim_end().ends_with("zone"), "{text}");
        assert!(text.contains("gw1"), "{text}");
    }

    #[test]
    fn a_status_has_no_csv() {
        let failure = print(&serde_json::json!({}), Format::Csv, &mut Vec::new()).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
    }
}
