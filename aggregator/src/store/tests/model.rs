//! The naive model: what the state and the store must come to, without any cleverness.

use std::collections::{BTreeMap, BTreeSet};

use shared::batch::{Body, Column, Values};
use shared::id::{AgentId, BatchNumber, Epoch, Lane};
use shared::reading::{FieldType, Value};
use shared::verdict::Position;

use super::agent::Link;
use super::{PlainRow, plain_value, value_at};
use crate::state::{Outcome, State};
use crate::store::partition::Partition;

#[derive(Debug, Clone)]
struct ModelRow {
    row: PlainRow,
    values: BTreeMap<String, Value>,
    /// The partition into which a merge put it, and replicated time then.
    merged: Option<(Partition, i64)>,
}

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
        });
    }

    pub(super) fn merge(&mut self, state: &State) {
        let plausible = state.plausible_times();
        for row in self.rows.iter_mut().filter(|row| row.merged.is_none()) {
            let hours = state.settings().partition_hours();
            let partition = Partition::of(row.row.time, hours, plausible.as_ref());
            row.merged = Some((partition, state.now().0));
        }
    }

    /// A partition stays, too, while one of another width stays that shares times with it and has rows
    /// of the same table, if that merges rows of one time.
    pub(super) fn retain(&mut self, before: i64) {
        let mut merging: BTreeMap<Partition, BTreeSet<String>> = BTreeMap::new();
        for row in &self.rows {
            let table = &row.row.table;
            if let Some((partition, _)) = row.merged
                && self.merging.contains(table)
            {
                merging.entry(partition).or_default().insert(table.clone());
            }
        }
        let of_windows = merging.iter().filter(|(one, _)| one.window().is_some());
        let of_windows: Vec<_> = of_windows.collect();
        let ended = |one: &Partition| one.end().is_some_and(|end| end <= before);
        let mut stays: Vec<bool> = of_windows.iter().map(|(one, _)| !ended(one)).collect();
        for _ in 0..of_windows.len() {
            for one in 0..of_windows.len() {
                let keeps = |other: usize| {
                    let ((one, tables), (other, others)) = (of_windows[one], of_windows[other]);
                    let (one, other) = (one.window().unwrap(), other.window().unwrap());
                    let length = |hours: u32| i64::from(hours);
                    one.start_hour < other.start_hour + length(other.hours)
                        && other.start_hour < one.start_hour + length(one.hours)
                        && !tables.is_disjoint(others)
                };
                stays[one] |= (0..stays.len()).any(|other| stays[other] && keeps(other));
            }
        }
        let held: BTreeSet<Partition> = of_windows
            .iter()
            .zip(&stays)
            .filter(|(_, stays)| **stays)
            .map(|((one, _), _)| **one)
            .collect();
        self.rows.retain(|row| match row.merged {
            None => true,
            Some((Partition::Wild, merged_at)) => merged_at == 0 || merged_at >= before,
            Some((partition, _)) => !ended(&partition) || held.contains(&partition),
        });
    }

    /// Each row of a merging table takes over what later ones of its series and time say.
    fn combined(&self) -> Vec<(PlainRow, BTreeMap<String, Value>)> {
        let mut rows: Vec<(PlainRow, BTreeMap<String, Value>)> = Vec::new();
        for ModelRow { row, values, .. } in &self.rows {
            let merges = self.merging.contains(&row.table);
            match rows.iter_mut().find(|(known, _)| merges && known == row) {
                Some((_, known)) => known.extend(values.clone()),
                None => rows.push((row.clone(), values.clone())),
            }
        }
        rows
    }

    /// As views show them: ints of a widened field as floats.
    pub(super) fn plain(&self) -> Vec<PlainRow> {
        let mut rows: Vec<PlainRow> = self
            .combined()
            .iter()
            .map(|(row, values)| {
                let shown = values.iter().map(|(name, value)| {
                    let key = (row.table.clone(), name.clone());
                    let field = self.fields.get(&key).map(|field| field.field_type);
                    let value = match (value, field) {
                        (Value::Int(int), Some(FieldType::Float)) => Value::Float(*int as f64),
                        (value, _) => value.clone(),
                    };
                    (name.clone(), plain_value(&value))
                });
                PlainRow {
                    values: shown.collect(),
                    ..row.clone()
                }
            })
            .collect();
        rows.sort_by(|a, b| a.partial_cmp(b).expect("texts and ints"));
        rows
    }
}
