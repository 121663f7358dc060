//! Tests of state and store together, on a storage that loses power.

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the numbers of a test are small"
)]
mod agent;
mod model;
mod features;
mod quarantine;
mod quota;
mod same_time;
mod kept;
mod outliving;
mod crash;
mod full;
mod damage;
mod opening;
mod scrub;
mod flips;
mod golden;
mod segments;
mod aggregate;
mod rollup;
mod rollup_files;
mod rollup_faults;

use std::sync::Arc;

use bytes::Bytes;
use journal::SimStorage;
use shared::batch::Values;
use shared::reading::Value;

use super::rollup::Worth;
use super::{Scan, Store, View};
use crate::state::{Command, Job, SameTime, State};

pub(super) const ALWAYS_WORTH: Worth = Worth {
    rows_min: 1,
    cells_min: 1,
    cell_rows_min: 0,
    texts: false,
};

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One row as anyone would write it down.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub(super) struct PlainRow {
    pub(super) table: String,
    pub(super) device: String,
    pub(super) tags: Vec<(String, String)>,
    pub(super) time: i64,
    /// Sorted by name; values as text, so that NaN equals itself.
    pub(super) values: Vec<(String, String)>,
}

pub(super) fn plain_value(value: &Value) -> String {
    format!("{value:?}")
}

fn value_at(values: &Values, at: usize) -> Value {
    match values {
        Values::Float(v) => Value::Float(v[at]),
        Values::Int(v) => Value::Int(v[at]),
        Values::Bool(v) => Value::Bool(v[at]),
        Values::Text(v) => Value::Text(v[at].clone()),
    }
}

/// Every row of every table, sorted; checks on the way what views promise.
pub(super) fn all_rows(view: &Arc<View>) -> Vec<PlainRow> {
    let tables: Vec<String> = view
        .catalog()
        .tables()
        .map(|table| table.name.clone())
        .collect();
    let mut rows = Vec::new();
    for table in tables {
        let count = rows.len();
        rows.extend(table_rows(view, &table, i64::MIN..=i64::MAX, None));
        let found = (rows.len() - count) as u64;
        let info = view
            .catalog()
            .table(&table)
            .expect("a table of the catalog");
        let merges = info.same_time == SameTime::Merge;
        let known = (!merges).then_some(found);
        assert_eq!(view.row_count(&table), known, "row_count of {table}");
        assert!(
            view.known_rows(&table) >= Some(found),
            "known_rows of {table}"
        );
    }
    rows.sort_by(|a, b| a.partial_cmp(b).expect("texts and ints"));
    rows
}

pub(super) fn table_rows(
    view: &Arc<View>,
    table: &str,
    time: std::ops::RangeInclusive<i64>,
    devices: Option<Vec<String>>,
) -> Vec<PlainRow> {
    let info = view
        .catalog()
        .table(table)
        .expect("a table of the catalog")
        .clone();
    let fields: Vec<String> = info.fields.iter().map(|(name, _)| name.clone()).collect();
    let mut rows = Vec::new();
    for chunk in view.scan(Scan {
        table: table.to_owned(),
        fields,
        time,
        devices,
    }) {
        let chunk = chunk.expect("an undamaged store");
        assert!(chunk.times.is_sorted() && !chunk.times.is_empty());
        let mut next = vec![0; chunk.columns.len()];
        for (row, time) in chunk.times.iter().enumerate() {
            let mut values = Vec::new();
            for (at, column) in chunk.columns.iter().enumerate() {
                let Some(column) = column else { continue };
                assert_eq!(
                    column.values.field_type(),
                    info.fields[at].1,
                    "type of {table}"
                );
                assert_eq!(usize::from(column.field), at);
                if column.present.as_ref().is_none_or(|flags| flags[row]) {
                    let value = value_at(&column.values, next[at]);
                    values.push((info.fields[at].0.clone(), plain_value(&value)));
                    next[at] += 1;
                }
            }
            values.sort();
            let (device, tags) = (chunk.series.device.clone(), chunk.series.tags.clone());
            rows.push(PlainRow {
                table: table.to_owned(),
                device,
                tags,
                time: *time,
                values,
            });
        }
    }
    rows
}

/// A node without Raft: the log is a list that survives.
pub(super) struct Node {
    pub(super) sim: SimStorage,
    pub(super) store: Store,
    pub(super) state: State,
    pub(super) jobs: Vec<super::MergeJob>,
}

impl Node {
    pub(super) fn open(sim: &SimStorage) -> Self {
        let (store, recovered) = Store::open(&*sim.as_storage()).expect("it opens");
        assert_eq!(recovered.state.index(), recovered.index);
        Self {
            sim: sim.clone(),
            store,
            state: recovered.state,
            jobs: Vec::new(),
        }
    }

    /// Whose rollups have states of all there is, worth it or not.
    pub(super) fn open_rolling(sim: &SimStorage) -> Self {
        let mut node = Self::open(sim);
        node.store.worth = ALWAYS_WORTH;
        node
    }

    /// Replays what is not durable.
    pub(super) fn replayed(mut self, log: &[Command]) -> Self {
        let from = usize::try_from(self.state.index()).unwrap();
        for (at, command) in log.iter().enumerate().skip(from) {
            self.apply(at as u64 + 1, command);
        }
        self
    }

    /// Through bytes, as the log would bring it.
    pub(super) fn apply(&mut self, index: u64, command: &Command) -> crate::state::Effects {
        let command = Command::decode(&command.encode()).unwrap();
        let mut effects = self.state.apply(index, &command);
        let rows = std::mem::take(&mut effects.rows);
        self.store.apply(index, &self.state, rows);
        match effects.job.clone() {
            Some(Job::Merge) => {
                let raft = Bytes::from(format!("raft at {index}"));
                self.jobs
                    .push(self.store.begin_merge(index, &self.state, raft));
            }
            Some(Job::Seal(sealing)) => {
                assert!(self.finish_merges(), "no faults while applying");
                let raft = Bytes::from(format!("raft at {index}"));
                self.jobs
                    .push(self.store.begin_seal(index, &self.state, raft, sealing));
            }
            Some(Job::Retention(retention)) => {
                self.store
                    .drop_ended(index, retention)
                    .expect("no faults while applying");
            }
            None => {}
        }
        effects
    }

    /// Runs the merges that wait. False: a fault came in between.
    pub(super) fn finish_merges(&mut self) -> bool {
        for job in self.jobs.drain(..) {
            match job.run() {
                Ok(merged) => {
                    if self.store.finish_merge(merged).is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        // Files that nobody needs any more go without a word, also when the power does.
        !self.sim.is_off()
    }
}
