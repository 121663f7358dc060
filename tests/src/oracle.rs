//! Compares what sources were told with the rows that SQL gives, one by one. Pure.
//!
//! LOST: kept and absent. TWICE: present more than once. PHANTOM: present, but never sent or
//! refused for sure. ALTERED: present with another time or value. GAP: a hole of unanswered
//! readings below a later one of the same connection that no gap record explains. BACK: a stream's
//! `last` that went back between two looks.

use std::collections::HashMap;
use std::fmt;

use crate::ledger::{Entry, Fate, Ledger, Reading};
use crate::sql::Table;

/// The statement whose answer `rows` reads.
pub const ROWS_SQL: &str = "SELECT device, seq, value, CAST(time AS BIGINT) AS time_ns FROM fire";

/// Findings that a failure prints in full; the rest is counted.
const SHOWN_MAX: usize = 20;

/// A breach of a promise.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    Lost(Reading),
    Twice { row: Reading, times: usize },
    Phantom(Reading),
    Altered { sent: Reading, row: Reading },
    Gap { holes: Vec<Reading>, listed: u64 },
    Back { stream: String, from: u64, to: u64 },
}

/// Compares all ledgers with all rows. `listed` is how many readings the `gaps` table counts as
/// lost: unanswered readings may be missing below later ones only as far as it says so.
pub fn check(ledgers: &[Ledger], rows: &[Reading], listed: u64) -> Vec<Finding> {
    let mut stored: HashMap<(&str, i64), Vec<&Reading>> = HashMap::new();
    for row in rows {
        stored.entry((&row.device, row.seq)).or_default().push(row);
    }
    let mut findings = Vec::new();
    let mut holes = Vec::new();
    for ledger in ledgers {
        for entry in &ledger.entries {
            let found = stored.remove(&key(entry)).unwrap_or_default();
            judge(entry, &found, &mut findings);
        }
        // `stored` was emptied above; holes look at the rows again.
        holes.extend(unexplained(ledger, rows));
    }
    findings.extend(
        stored
            .into_values()
            .flatten()
            .cloned()
            .map(Finding::Phantom),
    );
    if holes.len() as u64 > listed {
        findings.push(Finding::Gap { holes, listed });
    }
    findings
}

fn key(entry: &Entry) -> (&str, i64) {
    (&entry.reading.device, entry.reading.seq)
}

fn judge(entry: &Entry, found: &[&Reading], findings: &mut Vec<Finding>) {
    let sent = &entry.reading;
    if entry.fate == Fate::Refused {
        findings.extend(found.iter().map(|row| Finding::Phantom((*row).clone())));
        return;
    }
    if found.is_empty() && entry.fate == Fate::Kept {
        findings.push(Finding::Lost(sent.clone()));
    }
    if found.len() > 1 {
        findings.push(Finding::Twice {
            row: sent.clone(),
            times: found.len(),
        });
    }
    for row in found {
        // Bits, not `==`: -0.0 for 0.0 is an alteration, and NaN equals itself.
        if row.time_ns != sent.time_ns || row.value.to_bits() != sent.value.to_bits() {
            findings.push(Finding::Altered {
                sent: sent.clone(),
                row: (*row).clone(),
            });
        }
    }
}

/// Unanswered readings that are absent though a later one of the same connection is there.
fn unexplained(ledger: &Ledger, rows: &[Reading]) -> Vec<Reading> {
    let present: std::collections::HashSet<(&str, i64)> = rows
        .iter()
        .map(|row| (row.device.as_str(), row.seq))
        .collect();
    let mut later_of: HashMap<u32, bool> = HashMap::new();
    let mut holes = Vec::new();
    for entry in ledger.entries.iter().rev() {
        let later = later_of.entry(entry.connection).or_default();
        if present.contains(&key(entry)) {
            *later = true;
        } else if *later && entry.fate == Fate::Unknown {
            holes.push(entry.reading.clone());
        }
    }
    holes.reverse();
    holes
}

/// Reads the answer to [`ROWS_SQL`]. The error names the row that is none.
pub fn rows(table: &Table) -> Result<Vec<Reading>, String> {
    let records = table.records();
    records
        .iter()
        .map(|record| {
            let text = |name: &str| {
                record
                    .get(name)
                    .copied()
                    .ok_or_else(|| format!("no {name} in {record:?}"))
            };
            let wrong = |name: &str| format!("{name} is no number in {record:?}");
            Ok(Reading {
                device: text("device")?.to_owned(),
                seq: text("seq")?.parse().map_err(|_| wrong("seq"))?,
                value: text("value")?.parse().map_err(|_| wrong("value"))?,
                time_ns: text("time_ns")?.parse().map_err(|_| wrong("time_ns"))?,
            })
        })
        .collect()
}

/// The `last` of each stream, looked at again and again: it may only grow.
#[derive(Debug, Default)]
pub struct Watermarks {
    last: HashMap<String, u64>,
}

impl Watermarks {
    /// Takes one look, stream by stream.
    pub fn look(&mut self, streams: impl IntoIterator<Item = (String, u64)>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (stream, to) in streams {
            let from = self.last.insert(stream.clone(), to).unwrap_or(0);
            if to < from {
                findings.push(Finding::Back { stream, from, to });
            }
        }
        findings
    }
}

/// Panics with the findings, if there are any.
pub fn assert_clean(what: &str, findings: &[Finding]) {
    let shown: Vec<_> = findings
        .iter()
        .take(SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    assert!(
        findings.is_empty(),
        "{what}: {} findings, the first of them:\n{}",
        findings.len(),
        shown.join("\n")
    );
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Lost(sent) => write!(f, "LOST {sent:?}"),
            Finding::Twice { row, times } => write!(f, "TWICE {times} times {row:?}"),
            Finding::Phantom(row) => write!(f, "PHANTOM {row:?}"),
            Finding::Altered { sent, row } => write!(f, "ALTERED {sent:?} is stored as {row:?}"),
            Finding::Gap { holes, listed } => {
                let (count, first) = (holes.len(), holes.first());
                write!(
                    f,
                    "GAP {count} holes, gap records list {listed}; first {first:?}"
                )
            }
            Finding::Back { stream, from, to } => write!(f, "BACK {stream} from {from} to {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(seq: i64) -> Reading {
        Reading::nth("d1", seq, 1_000 + seq)
    }

    fn ledger(fates: &[Fate]) -> Ledger {
        let mut ledger = Ledger::default();
        for (seq, fate) in (1..).zip(fates) {
            ledger.push(reading(seq), *fate, 0);
        }
        ledger
    }

    fn findings(fates: &[Fate], rows: &[Reading]) -> Vec<Finding> {
        check(&[ledger(fates)], rows, 0)
    }

    use Fate::{Kept, Refused, Unknown};

    #[test]
    fn what_was_kept_and_what_may_be_kept_is_clean() {
        assert_eq!(findings(&[Kept, Kept], &[reading(2), reading(1)]), []);
        assert_eq!(findings(&[Kept, Unknown], &[reading(1)]), []);
        assert_eq!(findings(&[Kept, Unknown], &[reading(1), reading(2)]), []);
        assert_eq!(findings(&[Kept, Refused], &[reading(1)]), []);
    }

    #[test]
    fn lost_is_found() {
        assert_eq!(
            findings(&[Kept, Kept], &[reading(1)]),
            [Finding::Lost(reading(2))]
        );
    }

    #[test]
    fn twice_is_found_whatever_the_source_was_told() {
        for fate in [Kept, Unknown] {
            assert_eq!(
                findings(&[fate], &[reading(1), reading(1)]),
                [Finding::Twice {
                    row: reading(1),
                    times: 2
                }]
            );
        }
    }

    #[test]
    fn phantoms_are_found_never_sent_or_refused() {
        assert_eq!(
            findings(&[Kept], &[reading(1), reading(7)]),
            [Finding::Phantom(reading(7))]
        );
        assert_eq!(
            findings(&[Refused], &[reading(1)]),
            [Finding::Phantom(reading(1))]
        );
        let foreign = Reading::nth("d2", 1, 1_001);
        assert_eq!(
            findings(&[Kept], &[reading(1), foreign.clone()]),
            [Finding::Phantom(foreign)]
        );
    }

    #[test]
    fn altered_values_and_times_are_found_to_the_bit() {
        let mut value = reading(1);
        value.value = f64::from_bits(value.value.to_bits() + 1);
        let mut time = reading(1);
        time.time_ns += 1;
        for row in [value, time] {
            assert_eq!(
                findings(&[Kept], std::slice::from_ref(&row)),
                [Finding::Altered {
                    sent: reading(1),
                    row
                }]
            );
        }
        let zero = |value| {
            vec![Reading {
                value,
                ..reading(1)
            }]
        };
        let mut ledger = Ledger::default();
        ledger.push(zero(0.0).remove(0), Kept, 0);
        assert_eq!(check(&[ledger], &zero(-0.0), 0).len(), 1);
    }

    #[test]
    fn a_hole_below_a_later_row_is_found_unless_gap_records_list_it() {
        let fates = [Kept, Unknown, Unknown, Unknown];
        let rows = [reading(1), reading(4)];
        let gap = Finding::Gap {
            holes: vec![reading(2), reading(3)],
            listed: 1,
        };
        assert_eq!(check(&[ledger(&fates)], &rows, 1), [gap]);
        assert_eq!(check(&[ledger(&fates)], &rows, 2), []);
        // On another connection it may have overtaken.
        let mut other = ledger(&fates);
        other.entries[3].connection = 1;
        assert_eq!(check(&[other], &rows, 0), []);
    }

    #[test]
    fn a_stream_that_goes_back_is_found() {
        let mut marks = Watermarks::default();
        let look = |last| vec![("gw1/live".to_owned(), last)];
        assert_eq!(marks.look(look(3)), []);
        assert_eq!(marks.look(look(3)), []);
        let back = Finding::Back {
            stream: "gw1/live".into(),
            from: 3,
            to: 2,
        };
        assert_eq!(marks.look(look(2)), [back]);
    }

    #[test]
    fn rows_are_read_from_sql() {
        let text = "device,seq,value,time_ns\nd1,3,-999.25,1003\n";
        assert_eq!(rows(&Table::parse(text).unwrap()).unwrap(), [reading(3)]);
        let text = "device,seq,value,time_ns\nd1,,1.0,1\n";
        assert!(
            rows(&Table::parse(text).unwrap())
                .unwrap_err()
                .contains("seq")
        );
    }

    #[test]
    #[should_panic(expected = "LOST")]
    fn findings_fail_a_test() {
        assert_clean("here", &[Finding::Lost(reading(1))]);
    }
}
