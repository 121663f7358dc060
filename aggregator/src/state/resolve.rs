//! Where each column of a payload goes: the type rules, decided once at apply, in log order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use shared::batch::{Column, Data, Values};
use shared::id::{AgentId, TimeNs};
use shared::limits::TEXT_BYTES_MAX;
use shared::reading::{FieldType, Reading, SeriesShape, Value};

use super::catalog::{Catalog, Refusal, SeriesId, TableId};
use super::dedup::{Dictionary, LocalTarget, RefusedSeries};
use super::last::{LastValue, LastValues, value_at};
use super::rows::{
    Extent, Quarantined, Resolved, Rows, SeriesRows, Source, Target, each_present, is_exact,
    kept_rows, refused_rows,
};

/// What resolving changes besides the rows it makes.
pub(super) struct Resolver<'a> {
    pub(super) catalog: &'a mut Arc<Catalog>,
    pub(super) last: &'a mut LastValues,
    pub(super) agent: &'a AgentId,
    /// Times above are no last values: a clock far ahead would stay for ever.
    pub(super) time_max: i64,
}

/// What one series of a payload is.
struct Binding<'a> {
    series: Result<SeriesId, RefusedRef<'a>>,
    fields: &'a [String],
}

#[derive(Clone, Copy)]
struct RefusedRef<'a> {
    reason: Refusal,
    table: &'a str,
    device: &'a str,
    tags: &'a [(String, String)],
}

impl<'a> From<&'a RefusedSeries> for RefusedRef<'a> {
    fn from(refused: &'a RefusedSeries) -> Self {
        let RefusedSeries {
            reason,
            table,
            device,
            tags,
        } = refused;
        Self {
            reason: *reason,
            table,
            device,
            tags,
        }
    }
}

/// Rows and time range by table, gathered while resolving.
#[derive(Default)]
struct Extents {
    by_table: BTreeMap<TableId, Extent>,
}

impl Extents {
    fn add(&mut self, table: TableId, rows: u64, (time_min, time_max): (i64, i64)) {
        let new = Extent {
            table,
            rows: 0,
            time_min,
            time_max,
        };
        let extent = self.by_table.entry(table).or_insert(new);
        extent.rows += rows;
        extent.time_min = extent.time_min.min(time_min);
        extent.time_max = extent.time_max.max(time_max);
    }

    fn into_rows(self, source: Source) -> Rows {
        Rows {
            source,
            extents: self.by_table.into_values().collect(),
        }
    }
}

impl Resolver<'_> {
    /// A batch of an agent: its bytes stay as they are, and their times lie `raise_ns` below those
    /// of `data`.
    pub(super) fn batch(
        &mut self,
        data: &Data,
        bytes: &Bytes,
        raise_ns: i64,
        dictionary: &Dictionary,
    ) -> Rows {
        let mut extents = Extents::default();
        let mut series = Vec::new();
        for group in &data.groups {
            for one in &group.series {
                let unknown = RefusedRef {
                    reason: Refusal::UnknownSeries,
                    table: "",
                    device: "",
                    tags: &[],
                };
                let binding = match dictionary.series.get(&one.id.0) {
                    None => Binding {
                        series: Err(unknown),
                        fields: &[],
                    },
                    Some(local) => Binding {
                        series: match &local.target {
                            LocalTarget::Series(series) => Ok(*series),
                            LocalTarget::Refused(refused) => Err((&**refused).into()),
                        },
                        fields: &dictionary.field_lists[local.fields as usize],
                    },
                };
                let before = series.last();
                let resolved =
                    self.series(&group.times, &one.columns, &binding, before, &mut extents);
                series.push(resolved);
            }
        }
        let agent = self.agent.clone();
        extents.into_rows(Source::Batch {
            agent,
            bytes: bytes.clone(),
            raise_ns,
            series,
        })
    }

    /// Readings of a publisher without numbers: decoded at once.
    pub(super) fn readings(&mut self, readings: Vec<Reading>) -> Rows {
        let mut extents = Extents::default();
        let mut decoded = Vec::new();
        for group in group_readings(readings) {
            let Pending {
                table,
                device,
                tags,
                fields,
                times,
                columns,
            } = group;
            let series = Catalog::intern(self.catalog, &table, &device, &tags).map_err(|reason| {
                RefusedRef {
                    reason,
                    table: &table,
                    device: &device,
                    tags: &tags,
                }
            });
            let binding = Binding {
                series,
                fields: &fields,
            };
            let resolved = self.series(&times, &columns, &binding, None, &mut extents);
            decoded.extend(kept_rows(&times, &columns, &resolved));
            decoded.extend(refused_rows(&times, &columns, &resolved, self.agent));
        }
        extents.into_rows(Source::Decoded(decoded))
    }

    /// A payload that was valid when it was proposed and is not now: kept as one quarantine row.
    pub(super) fn undecodable(&mut self, received: TimeNs, bytes: &[u8]) -> Rows {
        let series = Catalog::intern_quarantine(self.catalog, self.agent.as_str());
        let texts = [
            self.agent.to_string(),
            String::new(),
            String::new(),
            String::new(),
            String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned(),
            Refusal::Undecodable.as_str().to_owned(),
        ];
        let columns = (0_u16..).zip(texts).map(|(field, text)| Column {
            field,
            present: None,
            values: Values::Text(vec![text]),
        });
        let rows = SeriesRows {
            series,
            times: vec![received.0],
            columns: columns.collect(),
        };
        let mut extents = Extents::default();
        extents.add(self.table_of(series), 1, (received.0, received.0));
        extents.into_rows(Source::Decoded(vec![rows]))
    }

    fn series(
        &mut self,
        times: &[i64],
        columns: &[Column],
        binding: &Binding<'_>,
        before: Option<&Resolved>,
        extents: &mut Extents,
    ) -> Resolved {
        let targets = self.targets(columns, binding);
        // Devices of one kind send the same columns: one plan for all of them.
        let targets = match before {
            Some(before) if *before.columns == *targets => Arc::clone(&before.columns),
            _ => targets.into(),
        };
        let mut resolved = Resolved {
            series: binding.series.as_ref().ok().copied(),
            rows: 0,
            quarantine: None,
            columns: targets,
        };
        let Some(range) = time_range(times) else {
            resolved.series = None;
            return resolved;
        };
        let rows = kept_count(times, columns, &resolved);
        resolved.rows = u32::try_from(rows).expect("rows of a batch are limited");
        match resolved.series {
            Some(series) if rows > 0 => {
                extents.add(self.table_of(series), rows as u64, range);
                self.offer_last(series, times, columns, &resolved.columns);
            }
            _ => resolved.series = None,
        }
        let refused = refused_count(columns, &resolved.columns);
        if refused > 0 {
            let quarantined = self.quarantined(binding, refused);
            extents.add(self.table_of(quarantined.series), refused as u64, range);
            resolved.quarantine = Some(Arc::new(quarantined));
        }
        resolved
    }

    fn targets(&mut self, columns: &[Column], binding: &Binding<'_>) -> Vec<Target> {
        let mut slots_used = Vec::with_capacity(columns.len());
        let mut target = |column: &Column| {
            let Some(field) = binding.fields.get(usize::from(column.field)) else {
                let reason = match &binding.series {
                    Err(refused) => refused.reason,
                    Ok(_) => Refusal::UnknownField,
                };
                return Target::Refuse {
                    field: format!("#{}", column.field),
                    reason,
                };
            };
            let refuse = |reason| Target::Refuse {
                field: field.clone(),
                reason,
            };
            let series = match &binding.series {
                Ok(series) => *series,
                Err(refused) => return refuse(refused.reason),
            };
            if column.values.is_empty() {
                // Nothing is stored and nothing is refused: it must not fix a type either.
                return refuse(Refusal::UnknownField);
            }
            let table = self.table_of(series);
            let inexact = match &column.values {
                Values::Int(ints) => ints.iter().any(|int| !is_exact(*int)),
                _ => false,
            };
            let found = column.values.field_type();
            match Catalog::field_slot(self.catalog, table, field, found, inexact) {
                Ok((slot, _)) if slots_used.contains(&slot) => refuse(Refusal::FieldTwice),
                Ok((slot, field_type)) => {
                    slots_used.push(slot);
                    Target::Keep { slot, field_type }
                }
                Err(reason) => refuse(reason),
            }
        };
        columns.iter().map(&mut target).collect()
    }

    fn quarantined(&mut self, binding: &Binding<'_>, rows: usize) -> Quarantined {
        let (table, device, tags) = match &binding.series {
            Ok(series) => {
                let info = self
                    .catalog
                    .series(*series)
                    .expect("a series that was interned");
                (
                    info.table.clone(),
                    info.device.clone(),
                    tags_text(&info.tags),
                )
            }
            Err(refused) => {
                let RefusedRef {
                    table,
                    device,
                    tags,
                    ..
                } = refused;
                let device = if device.is_empty() {
                    self.agent.as_str()
                } else {
                    device
                };
                ((*table).to_owned(), device.to_owned(), tags_text(tags))
            }
        };
        let series = Catalog::intern_quarantine(self.catalog, &device);
        let rows = u32::try_from(rows).expect("values of a batch are limited");
        Quarantined {
            series,
            rows,
            table,
            tags,
        }
    }

    fn offer_last(
        &mut self,
        series: SeriesId,
        times: &[i64],
        columns: &[Column],
        targets: &[Target],
    ) {
        let mut offered = Vec::with_capacity(columns.len());
        for (column, target) in columns.iter().zip(targets) {
            let Target::Keep { slot, field_type } = target else {
                continue;
            };
            let exact_only = *field_type == FieldType::Float;
            let Some((row, at)) = newest(times, column, exact_only, self.time_max) else {
                continue;
            };
            let value = match (value_at(&column.values, at), field_type) {
                (Value::Int(int), FieldType::Float) => Value::Float(int as f64),
                (value, _) => value,
            };
            offered.push(LastValue {
                field: *slot,
                time: TimeNs(times[row]),
                value,
            });
        }
        self.last.offer(series, offered);
    }

    fn table_of(&self, series: SeriesId) -> TableId {
        self.catalog
            .series(series)
            .expect("a series that was interned")
            .table_id
    }
}

/// (row, index of its value) of the newest value up to `time_max`.
fn newest(
    times: &[i64],
    column: &Column,
    exact_only: bool,
    time_max: i64,
) -> Option<(usize, usize)> {
    let mut best: Option<(usize, usize)> = None;
    each_present(times.len(), column, |row, value| {
        let kept = match &column.values {
            Values::Int(ints) => !exact_only || is_exact(ints[value]),
            _ => true,
        };
        let newer = best.is_none_or(|(before, _)| times[before] <= times[row]);
        if kept && newer && times[row] <= time_max {
            best = Some((row, value));
        }
    });
    best
}

fn time_range(times: &[i64]) -> Option<(i64, i64)> {
    Some((*times.iter().min()?, *times.iter().max()?))
}

fn kept_count(times: &[i64], columns: &[Column], resolved: &Resolved) -> usize {
    let whole = columns
        .iter()
        .zip(resolved.columns.iter())
        .any(|(column, target)| {
            let kept = matches!(target, Target::Keep { .. });
            kept && column.present.is_none() && inexact_count(column, target) == 0
        });
    if whole {
        return times.len();
    }
    kept_rows(times, columns, resolved).map_or(0, |rows| rows.times.len())
}

fn refused_count(columns: &[Column], targets: &[Target]) -> usize {
    let each = columns
        .iter()
        .zip(targets)
        .map(|(column, target)| match target {
            Target::Refuse { .. } => column.values.len(),
            Target::Keep { .. } => inexact_count(column, target),
        });
    each.sum()
}

/// Ints of a float field that are not exact as floats.
fn inexact_count(column: &Column, target: &Target) -> usize {
    match (&column.values, target) {
        (
            Values::Int(ints),
            Target::Keep {
                field_type: FieldType::Float,
                ..
            },
        ) => ints.iter().filter(|int| !is_exact(**int)).count(),
        _ => 0,
    }
}

fn tags_text(tags: &[(String, String)]) -> String {
    let pairs: Vec<String> = tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Readings of one series with the same fields of the same types.
struct Pending {
    table: String,
    device: String,
    tags: Vec<(String, String)>,
    fields: Vec<String>,
    times: Vec<i64>,
    columns: Vec<Column>,
}

/// What readings have in common that share columns.
type Shape = (
    String,
    String,
    Vec<(String, String)>,
    Vec<(String, FieldType)>,
);

/// In order of first appearance.
fn group_readings(readings: Vec<Reading>) -> Vec<Pending> {
    let mut groups: Vec<Pending> = Vec::new();
    let mut known: BTreeMap<Shape, usize> = BTreeMap::new();
    for reading in readings {
        let Reading {
            shape,
            time,
            values,
        } = reading;
        let SeriesShape {
            table,
            device,
            tags,
            fields,
        } = Arc::unwrap_or_clone(shape);
        let types = fields.into_iter().zip(values.iter().map(Value::field_type));
        let shape: Shape = (table, device, tags, types.collect());
        let at = *known
            .entry(shape)
            .or_insert_with_key(|(table, device, tags, types)| {
                let column = |(field, (_, field_type)): (u16, &(String, FieldType))| Column {
                    field,
                    present: None,
                    values: Values::empty(*field_type),
                };
                groups.push(Pending {
                    table: table.clone(),
                    device: device.clone(),
                    tags: tags.clone(),
                    fields: types.iter().map(|(name, _)| name.clone()).collect(),
                    times: Vec::new(),
                    columns: (0_u16..).zip(types).map(column).collect(),
                });
                groups.len() - 1
            });
        groups[at].times.push(time.0);
        for (column, value) in groups[at].columns.iter_mut().zip(values) {
            match (&mut column.values, value) {
                (Values::Float(all), Value::Float(value)) => all.push(value),
                (Values::Int(all), Value::Int(value)) => all.push(value),
                (Values::Bool(all), Value::Bool(value)) => all.push(value),
                (Values::Text(all), Value::Text(value)) => all.push(value),
                _ => unreachable!("the types are part of the shape"),
            }
        }
    }
    groups
}
