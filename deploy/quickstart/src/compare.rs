//! Sent against stored: every row of the ledger and every row that SQL gives, one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use harness::sql::Table;

use crate::ledger::{self, Row};
use crate::system::System;

/// Differences that are printed in full.
const SHOWN_MAX: usize = 10;

/// What the comparison found.
#[derive(Debug)]
pub(crate) struct Verdict {
    sent: usize,
    stored: usize,
    /// Rows with how often they are stored too often; too rarely is negative.
    differences: Vec<(Row, i64)>,
    read_at: String,
    leader: String,
}

/// Reads the ledger, and every table it names from a node that does not lead.
pub(crate) fn compare(system: &mut System) -> Result<Verdict, String> {
    let sent = ledger::read(system.ledger())?;
    let leader = system.cluster.wait_leader()?;
    let reader = (leader + 1) % system.cluster.nodes().len();
    system.cluster.wait_node_ready(reader)?;
    let client = system.cluster.client(reader);
    let tables: BTreeSet<&str> = sent.iter().map(|row| row.table.as_str()).collect();
    let mut stored = Vec::new();
    for table in tables {
        let statement = format!(
            "SELECT *, CAST(time AS BIGINT) AS time_ns FROM \"{}\"",
            table.replace('"', "\"\"")
        );
        let answer = client
            .sql(&statement)
            .map_err(|refused| format!("{table}: {refused}"))?;
        stored.extend(rows(table, &answer)?);
    }
    let name = |at: usize| system.cluster.nodes()[at].name.clone();
    Ok(Verdict {
        sent: sent.len(),
        stored: stored.len(),
        differences: differences(sent, stored),
        read_at: name(reader),
        leader: name(leader),
    })
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.differences.is_empty() && self.sent > 0
    }

    /// Readings that are sent and not stored.
    pub(crate) fn missing(&self) -> i64 {
        self.differences
            .iter()
            .filter(|(_, more)| *more < 0)
            .map(|(_, more)| -more)
            .sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict {
            sent,
            stored,
            differences,
            read_at,
            leader,
        } = self;
        if self.is_clean() {
            return write!(
                f,
                "sent = stored: {sent} readings, each stored exactly once (read row by row at \
                 node {read_at}; node {leader} leads)"
            );
        }
        writeln!(
            f,
            "sent {sent}, stored {stored} (read at node {read_at}): {} rows differ",
            differences.len()
        )?;
        for (row, more) in differences.iter().take(SHOWN_MAX) {
            let what = if *more < 0 { "missing" } else { "too often" };
            writeln!(f, "  {} {what}: {row:?}", more.abs())?;
        }
        Ok(())
    }
}

fn rows(table: &str, answer: &Table) -> Result<Vec<Row>, String> {
    let records = answer.records();
    records
        .iter()
        .map(|record| {
            let time_ns = record.get("time_ns").and_then(|text| text.parse().ok());
            let columns: BTreeMap<_, _> = record
                .iter()
                .filter(|(name, _)| !matches!(**name, "time" | "time_ns"))
                .map(|(name, text)| ((*name).to_owned(), ledger::canonical(text)))
                .collect();
            let time_ns =
                time_ns.ok_or_else(|| format!("{table}: a row without time: {record:?}"))?;
            Ok(Row {
                table: table.to_owned(),
                time_ns,
                columns,
            })
        })
        .collect()
}

/// Rows that do not stand equally often on both sides, in order.
fn differences(sent: Vec<Row>, stored: Vec<Row>) -> Vec<(Row, i64)> {
    let mut counts: HashMap<Row, i64> = HashMap::new();
    for row in stored {
        *counts.entry(row).or_default() += 1;
    }
    for mut row in sent {
        // Texts that look like numbers get the same treatment on both sides.
        row.columns
            .values_mut()
            .for_each(|text| *text = ledger::canonical(text));
        *counts.entry(row).or_default() -= 1;
    }
    let mut different: Vec<_> = counts
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .collect();
    different.sort();
    different
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(time_ns: i64, value: &str) -> Row {
        let columns = BTreeMap::from([("v".to_owned(), value.to_owned())]);
        Row {
            table: "t".to_owned(),
            time_ns,
            columns,
        }
    }

    #[test]
    fn lost_doubled_and_altered_rows_differ() {
        let sent = || vec![row(1, "a"), row(2, "1.0"), row(2, "1.0")];
        assert_eq!(
            differences(sent(), vec![row(2, "1"), row(1, "a"), row(2, "1")]),
            []
        );
        assert_eq!(
            differences(sent(), vec![row(1, "a"), row(2, "1")]),
            [(row(2, "1"), -1)]
        );
        let doubled = vec![row(1, "a"), row(1, "a"), row(2, "1"), row(2, "1")];
        assert_eq!(differences(sent(), doubled), [(row(1, "a"), 1)]);
        let altered = vec![row(1, "b"), row(2, "1"), row(2, "1")];
        assert_eq!(
            differences(sent(), altered),
            [(row(1, "a"), -1), (row(1, "b"), 1)]
        );
    }

    #[test]
    fn rows_of_sql_are_told_like_those_of_the_ledger() {
        let answer = Table::parse("time,device,f,g,time_ns\nx,d,1.0,,7\n").unwrap();
        let columns = [("device", "d"), ("f", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let row = Row {
            table: "t".to_owned(),
            time_ns: 7,
            columns: BTreeMap::from(columns),
        };
        assert_eq!(rows("t", &answer).unwrap(), [row]);
    }
}
