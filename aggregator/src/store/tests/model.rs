//! The naive model: what the state and the store must come to, without any cleverness.

use std::collections::{BTreeMap, BTreeSet};

use shared::batch::{Body, Column, Values};
use shared::id::{AgentId, BatchNumber, Epoch, Lane};
use shared::reading::{FieldType, Value};
use shared::verdict::Position;

use super::agent::Link;
use super::{PlainRow, plain_value, value_at};
use crate::state::{Catalog, Outcome, Retention, SeriesId, State};
use crate::store::Group;
use crate::store::partition::Partition;

#[derive(Debug, Clone)]
struct ModelRow {
    row: PlainRow,
    values: BTreeMap<String, Value>,
    merged: Option<Merged>,
    /// Its partition has ended for its table: it goes, once the tables with which it shares a file have
    /// ended, too.
    has_ended: bool,
}

/// Into what a merge put a row.
#[derive(Debug, Clone, Copy)]
struct Merged {
    partition: Partition,
    /// The index of the command, and replicated time then.
    command: u64,
    at: i64,
}

/// Of which there is one row, if the table merges rows of one time.
type Key = (String, String, Vec<(String, String)>, i64);

/// Names and values, as views show them.
type Shown = Vec<(String, String)>;

#[derive(Debug, Clone, Copy)]
struct ModelField {
    field_type: FieldType,
    inexact: bool,
}

/// What a local id means: `Err` goes to quarantine.
#[derive(Debug, Clone, PartialEq)]
struct Meaning {
    table: String,
    device: String,
    tags: Vec<(String, String)>,
    fields: Vec<String>,
    refused: Option<&'static str>,
}

#[derive(Default)]
pub(super) struct Model {
    streams: BTreeMap<(AgentId, Epoch, Lane), Position>,
    meanings: BTreeMap<(AgentId, Epoch, u32), Meaning>,
    tags: BTreeMap<String, Vec<String>>,
    fields: BTreeMap<(String, String), ModelField>,
    series: Vec<(String, String, Vec<(String, String)>)>,
    /// In log order, also what becomes one row.
    rows: Vec<ModelRow>,
    /// Tables of which rows of the same time are one.
    pub(super) merging: BTreeSet<String>,
    pub(super) gaps: usize,
}

impl Model {
    pub(super) fn position(&self, agent: &AgentId, epoch: Epoch, lane: Lane) -> Position {
        self.streams
            .get(&(agent.clone(), epoch, lane))
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = (&(AgentId, Epoch, Lane), &Position)> {
        self.streams.iter()
    }

    /// The rule as DESIGN tells it.
    pub(super) fn submit(&mut self, agent: &AgentId, link: &Link) -> Outcome {
        let Link {
            from,
            to,
            header,
            body,
            bytes,
            ..
        } = link;
        let at = self.position(agent, header.epoch, header.lane);
        let names = self.position(agent, header.epoch, Lane::Names);
        if *to <= at.last.0 {
            return Outcome::Have(at);
        }
        if *from > at.last.0 + 1 {
            return Outcome::Gap(at);
        }
        if header.names_needed > names.last {
            return Outcome::Names(names);
        }
        if *from == at.last.0 + 1 && header.previous != at.digest {
            return Outcome::Fork(at);
        }
        let digest = match body {
            Body::Gap(gap) => gap.digest_to,
            _ => shared::batch::digest(header.previous, bytes),
        };
        let to = Position {
            last: BatchNumber(*to),
            digest,
        };
        self.streams
            .insert((agent.clone(), header.epoch, header.lane), to);
        match body {
            Body::Gap(_) => self.gaps += 1,
            Body::Hello(hello) => {
                self.gaps += usize::from(hello.last.is_some_and(|last| !last.ended_cleanly));
            }
            Body::Names(definitions) => {
                for definition in definitions {
                    self.define(agent, header.epoch, definition);
                }
            }
            // The random agents know the time of day.
            Body::Clock(_) => {}
            Body::Data(data) => {
                for group in &data.groups {
                    for series in &group.series {
                        let key = (agent.clone(), header.epoch, series.id.0);
                        let meaning = self.meanings.get(&key).cloned().unwrap_or(Meaning {
                            table: String::new(),
                            device: String::new(),
                            tags: vec![],
                            fields: vec![],
                            refused: Some("no definition of this series id"),
                        });
                        self.store(agent, &meaning, &group.times, &series.columns);
                    }
                }
            }
        }
        Outcome::Stored
    }

    fn define(&mut self, agent: &AgentId, epoch: Epoch, from: &shared::batch::SeriesDefinition) {
        let mut meaning = Meaning {
            table: from.table.clone(),
            device: from.device.clone(),
            tags: from.tags.clone(),
            fields: from.fields.iter().map(|(name, _)| name.clone()).collect(),
            refused: None,
        };
        let key = (agent.clone(), epoch, from.id.0);
        if let Some(known) = self.meanings.get_mut(&key) {
            meaning.refused = known.refused;
            if *known != meaning {
                known.refused = Some("the series id was defined twice, differently");
            }
            return;
        }
        let series = (from.table.clone(), from.device.clone(), from.tags.clone());
        if ["agents", "gaps", "quarantine"].contains(&from.table.as_str()) {
            meaning.refused = Some("the table name is reserved");
        } else if !self.series.contains(&series) {
            let taken = |(key, _): &(String, String)| {
                self.fields.contains_key(&(from.table.clone(), key.clone()))
            };
            if from.tags.iter().any(taken) {
                meaning.refused = Some("a tag has the name of another column");
            } else {
                let tags = self.tags.entry(from.table.clone()).or_default();
                tags.extend(from.tags.iter().map(|(key, _)| key.clone()));
                self.series.push(series);
            }
        }
        self.meanings.insert(key, meaning);
    }

    fn store(&mut self, agent: &AgentId, meaning: &Meaning, times: &[i64], columns: &[Column]) {
        let mut kept: Vec<BTreeMap<String, Value>> = vec![BTreeMap::new(); times.len()];
        for column in columns {
            let field = meaning.fields.get(usize::from(column.field));
            let placed = match (meaning.refused, field) {
                (Some(reason), _) => Err(reason),
                (None, None) => Err("no such field in the definition of the series"),
                (None, Some(field)) => self.place(&meaning.table, field, &column.values),
            };
            let mut value = 0;
            for (row, time) in times.iter().enumerate() {
                if column.present.as_ref().is_some_and(|flags| !flags[row]) {
                    continue;
                }
                let one = value_at(&column.values, value);
                value += 1;
                let name = field
                    .cloned()
                    .unwrap_or_else(|| format!("#{}", column.field));
                match (placed, one) {
                    (Err(reason), one) => {
                        self.quarantine(agent, meaning, *time, &name, &one, reason);
                    }
                    (Ok(FieldType::Float), Value::Int(int)) => {
                        if int.unsigned_abs() <= 1 << 53 {
                            kept[row].insert(name, Value::Float(int as f64));
                        } else {
                            let reason = "the field is a float and this int is not exact as one";
                            self.quarantine(agent, meaning, *time, &name, &Value::Int(int), reason);
                        }
                    }
                    (Ok(_), one) => {
                        kept[row].insert(name, one);
                    }
                }
            }
        }
        for (values, time) in kept.into_iter().zip(times) {
            if !values.is_empty() {
                self.add(
                    &meaning.table,
                    &meaning.device,
                    &meaning.tags,
                    *time,
                    values,
                );
            }
        }
    }

    fn place(
        &mut self,
        table: &str,
        field: &str,
        values: &Values,
    ) -> Result<FieldType, &'static str> {
        let found = values.field_type();
        let inexact =
            matches!(values, Values::Int(v) if v.iter().any(|i| i.unsigned_abs() > 1 << 53));
        let key = (table.to_owned(), field.to_owned());
        let Some(known) = self.fields.get_mut(&key) else {
            if self
                .tags
                .get(table)
                .is_some_and(|tags| tags.iter().any(|tag| tag == field))
            {
                return Err("the field has the name of another column");
            }
            self.fields.insert(
                key,
                ModelField {
                    field_type: found,
                    inexact,
                },
            );
            return Ok(found);
        };
        match (known.field_type, found) {
            (have, found) if have == found => {
                known.inexact |= inexact;
                Ok(have)
            }
            (FieldType::Float, FieldType::Int) => Ok(FieldType::Float),
            (FieldType::Int, FieldType::Float) if !known.inexact => {
                known.field_type = FieldType::Float;
                Ok(FieldType::Float)
            }
            _ => Err("the field has another type"),
        }
    }

    fn quarantine(
        &mut self,
        agent: &AgentId,
        meaning: &Meaning,
        time: i64,
        field: &str,
        value: &Value,
        reason: &str,
    ) {
        let value = match value {
            Value::Float(value) => format!("{value:?}"),
            Value::Int(value) => value.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Text(value) => value.clone(),
        };
        let tags: Vec<String> = meaning
            .tags
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let texts = [
            ("agent", agent.to_string()),
            ("table", meaning.table.clone()),
            ("tags", tags.join(",")),
            ("field", field.to_owned()),
            ("value", value),
            ("reason", reason.to_owned()),
        ];
        let device = if meaning.device.is_empty() {
            agent.as_str()
        } else {
            &meaning.device
        };
        let values = texts
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Value::Text(text)));
        self.add("quarantine", device, &[], time, values.collect());
    }

    fn add(
        &mut self,
        table: &str,
        device: &str,
        tags: &[(String, String)],
        time: i64,
        values: BTreeMap<String, Value>,
    ) {
        let row = PlainRow {
            table: table.to_owned(),
            device: device.to_owned(),
            tags: tags.to_vec(),
            time,
            values: vec![],
        };
        self.rows.push(ModelRow {
            row,
            values,
            merged: None,
            has_ended: false,
        });
    }

    pub(super) fn merge(&mut self, state: &State) {
        for row in self.rows.iter_mut().filter(|row| row.merged.is_none()) {
            let kept_days = state.table_settings().kept_days(&row.row.table);
            let plausible = state.plausible_times(kept_days);
            let hours = state.settings().partition_hours();
            row.merged = Some(Merged {
                partition: Partition::of(row.row.time, hours, plausible.as_ref()),
                command: state.index(),
                at: state.now().0,
            });
        }
    }

    pub(super) fn retain(&mut self, index: u64, retention: &Retention) {
        for row in &mut self.rows {
            let before = retention.before(&row.row.table).0;
            let Some(merged) = row.merged.filter(|merged| merged.command < index) else {
                continue;
            };
            row.has_ended |= match merged.partition.end() {
                Some(end) => end <= before,
                None => merged.at > 0 && merged.at < before,
            };
        }
    }

    /// Whether these are the rows of `truck` by the hour, also of those that have ended: but of times that
    /// were not plausible some may be missing.
    pub(super) fn check_hours(&self, found: BTreeMap<(SeriesId, i64), Group>, catalog: &Catalog) {
        const HOUR_NS: i128 = 3_600_000_000_000;
        let mut sent: BTreeMap<(String, Vec<(String, String)>, i64), (u64, u64)> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.row.table == "truck") {
            let start = i128::from(row.row.time).div_euclid(HOUR_NS) * HOUR_NS;
            let Ok(start) = i64::try_from(start) else {
                continue;
            };
            let key = (row.row.device.clone(), row.row.tags.clone(), start);
            let (surely, at_most) = sent.entry(key).or_default();
            let is_wild = row
                .merged
                .is_some_and(|merged| merged.partition.end().is_none());
            *surely += u64::from(!is_wild);
            *at_most += 1;
        }
        let mut seen: BTreeMap<(String, Vec<(String, String)>, i64), u64> = BTreeMap::new();
        for ((series, start), group) in found {
            let info = catalog.series(series).expect("a series that is known");
            *seen
                .entry((info.device.clone(), info.tags.clone(), start))
                .or_default() += group.rows;
        }
        for (key, rows) in &seen {
            let at_most = sent.get(key).map_or(0, |(_, at_most)| *at_most);
            assert!(*rows <= at_most, "{key:?}: {rows} of {at_most}");
        }
        for (key, (surely, _)) in sent {
            let rows = seen.get(&key).copied().unwrap_or(0);
            assert!(rows >= surely, "{key:?}: {rows} of {surely}");
        }
    }

    /// Whether these may be the rows that there are: all that have not ended, and of the others some.
    pub(super) fn check(&self, found: Vec<PlainRow>) {
        let mut of_keys: BTreeMap<Key, (Vec<&ModelRow>, Vec<Shown>)> = BTreeMap::new();
        for row in &self.rows {
            of_keys.entry(key(&row.row)).or_default().0.push(row);
        }
        for row in found {
            let known = of_keys.get_mut(&key(&row));
            known.expect("somebody sent it").1.push(row.values);
        }
        for (key, (rows, found)) in of_keys {
            let may = if self.merging.contains(&key.0) {
                self.may_be_one(&rows, &found)
            } else {
                self.may_be_all(&rows, found.clone())
            };
            assert!(may, "{key:?}: {found:?} of {rows:?}");
        }
    }

    fn may_be_all(&self, rows: &[&ModelRow], mut found: Vec<Shown>) -> bool {
        let mut take = |row: &ModelRow| {
            let shown = self.shown(&row.row.table, &row.values);
            let at = found.iter().position(|one| *one == shown);
            at.map(|at| found.swap_remove(at)).is_some()
        };
        let all_stay = rows
            .iter()
            .filter(|row| !row.has_ended)
            .all(|row| take(row));
        let ended = rows.iter().filter(|row| row.has_ended);
        ended.for_each(|row| {
            take(row);
        });
        all_stay && found.is_empty()
    }

    /// An overwritten value never outlives the one that took its place: in partitions, the later stay.
    /// What is wild goes when it likes.
    fn may_be_one(&self, rows: &[&ModelRow], found: &[Shown]) -> bool {
        let is_wild = |row: &ModelRow| row.merged.is_some_and(|m| m.partition.window().is_none());
        let (wild, windows): (Vec<usize>, Vec<usize>) =
            (0..rows.len()).partition(|at| rows[*at].has_ended && is_wild(rows[*at]));
        let gone_most = windows.iter().filter(|at| !is_wild(rows[**at]));
        let gone_most = gone_most.take_while(|at| rows[**at].has_ended).count();
        let in_windows: Vec<usize> = windows
            .iter()
            .copied()
            .filter(|at| !is_wild(rows[*at]))
            .collect();
        (0..=gone_most).any(|gone| {
            (0_u32..1 << wild.len()).any(|wild_gone| {
                let is_gone = |at: usize| {
                    let nth = wild.iter().position(|one| *one == at);
                    nth.is_some_and(|nth| wild_gone >> nth & 1 == 1)
                        || in_windows[..gone].contains(&at)
                };
                let mut one: Option<BTreeMap<String, Value>> = None;
                for at in (0..rows.len()).filter(|at| !is_gone(*at)) {
                    let values = rows[at].values.clone();
                    one.get_or_insert_default().extend(values);
                }
                let shown = one.map(|values| self.shown(&rows[0].row.table, &values));
                shown.as_slice() == found
            })
        })
    }

    /// Ints of a widened field as floats.
    fn shown(&self, table: &str, values: &BTreeMap<String, Value>) -> Shown {
        let shown = values.iter().map(|(name, value)| {
            let field = self.fields.get(&(table.to_owned(), name.clone()));
            let value = match (value, field.map(|field| field.field_type)) {
                (Value::Int(int), Some(FieldType::Float)) => Value::Float(*int as f64),
                (value, _) => value.clone(),
            };
            (name.clone(), plain_value(&value))
        });
        shown.collect()
    }
}

fn key(row: &PlainRow) -> Key {
    let PlainRow {
        table,
        device,
        tags,
        time,
        ..
    } = row;
    (table.clone(), device.clone(), tags.clone(), *time)
}
