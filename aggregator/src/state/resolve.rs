//! Where each column of a payload goes: the type rules, decided once at apply, in log order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use shared::batch::{Column, Data, Values};
use shared::id::{AgentId, TimeNs};
use shared::limits::TEXT_BYTES_MAX;
use shared::reading::{FieldType, Reading, SeriesShape, Value};

use super::catalog::{Catalog, Refusal, SeriesId, TABLE_FIELDS_MAX, TableId};
use super::dictionary::{Dictionary, LocalTarget, RefusedSeries};
use super::last::{LastValue, LastValues, value_at};
use super::quarantine::{Declared, Quarantined, fit, refused_rows};
use super::rows::{
    Extent, Resolved, Rows, SeriesRows, Source, Target, each_present, is_exact, kept_rows,
};
use super::settings::SameTime;

/// The number of all series of a batch that were not defined.
const UNDEFINED: u64 = u64::MAX;

/// Words with a bit for each field of a table.
const SLOT_WORDS: usize = TABLE_FIELDS_MAX.div_ceil(64);

/// What resolving changes besides the rows it makes.
pub(super) struct Resolver<'a> {
    pub(super) catalog: &'a mut Arc<Catalog>,
    pub(super) last: &'a mut LastValues,
    pub(super) agent: &'a AgentId,
    /// Times above are no last values: a clock far ahead would stay for ever.
    pub(super) time_max: i64,
    /// By the number of a binding: a series that comes in many groups is quarantined once.
    pub(super) quarantined: BTreeMap<u64, Arc<Quarantined>>,
}

/// What one series of a payload is.
struct Binding<'a> {
    /// Tells it from the other series of the payload.
    number: u64,
    /// `Err(None)`: it was not defined.
    series: Result<SeriesId, Option<&'a Arc<RefusedSeries>>>,
    fields: Option<&'a Arc<[String]>>,
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
        let count = data.groups.iter().map(|group| group.series.len()).sum();
        let mut series = Vec::with_capacity(count);
        for group in &data.groups {
            for one in &group.series {
                let binding = match dictionary.series.get(&one.id.0) {
                    None => Binding {
                        number: UNDEFINED,
                        series: Err(None),
                        fields: None,
                    },
                    Some(local) => Binding {
                        number: u64::from(one.id.0),
                        series: match &local.target {
                            LocalTarget::Series(series) => Ok(*series),
                            LocalTarget::Refused(refused) => Err(Some(refused)),
                        },
                        fields: Some(&dictionary.field_lists[local.fields as usize]),
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
        for (number, group) in (0_u64..).zip(group_readings(readings, self.catalog)) {
            let Pending {
                table,
                device,
                tags,
                fields,
                times,
                columns,
                ..
            } = group;
            let fields: Arc<[String]> = fields.into();
            let series = Catalog::intern(self.catalog, self.agent, &table, &device, &tags);
            let series = series.map_err(|reason| {
                Arc::new(RefusedSeries {
                    reason,
                    table,
                    device,
                    tags,
                })
            });
            let binding = Binding {
                number,
                series: series.as_ref().copied().map_err(Some),
                fields: Some(&fields),
            };
            let resolved = self.series(&times, &columns, &binding, None, &mut extents);
            decoded.extend(kept_rows(&times, &columns, &resolved));
            refused_rows(&times, &columns, &resolved, self.agent, &mut |rows| {
                decoded.push(rows);
            });
        }
        extents.into_rows(Source::Decoded(decoded))
    }

    /// A payload that was valid when it was proposed and is not now: kept as one quarantine row.
    pub(super) fn undecodable(&mut self, received: TimeNs, bytes: &[u8]) -> Rows {
        let series = Catalog::intern_quarantine(self.catalog, self.agent.as_str());
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]);
        let texts = [
            self.agent.to_string(),
            String::new(),
            String::new(),
            String::new(),
            fit(shown.into_owned(), TEXT_BYTES_MAX),
            Refusal::Undecodable.text().into_owned(),
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
            refused: 0,
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
                self.offer_last(series, (times, range.1), columns, &resolved.columns);
            }
            _ => resolved.series = None,
        }
        let refused = refused_count(columns, &resolved.columns);
        if refused > 0 {
            let quarantined = self.quarantined(binding);
            extents.add(self.table_of(quarantined.series), refused as u64, range);
            resolved.refused = u32::try_from(refused).expect("values of a batch are limited");
            resolved.quarantine = Some(quarantined);
        }
        resolved
    }

    fn targets(&mut self, columns: &[Column], binding: &Binding<'_>) -> Vec<Target> {
        let series = match binding.series {
            Ok(series) => series,
            Err(refused) => {
                let reason = refused.map_or(Refusal::UnknownSeries, |refused| refused.reason);
                return vec![Target::Refuse { reason }; columns.len()];
            }
        };
        let table = self.table_of(series);
        let fields = binding.fields.map(|fields| &fields[..]);
        let fields = fields.unwrap_or_default();
        let mut used = [0; SLOT_WORDS];
        columns
            .iter()
            .map(|column| self.target(table, fields, column, &mut used))
            .collect()
    }

    fn target(
        &mut self,
        table: TableId,
        fields: &[String],
        column: &Column,
        used: &mut [u64; SLOT_WORDS],
    ) -> Target {
        let refuse = |reason| Target::Refuse { reason };
        let field = fields.get(usize::from(column.field));
        // Without values nothing is stored and nothing is refused: it must not fix a type either.
        let Some(field) = field.filter(|_| !column.values.is_empty()) else {
            return refuse(Refusal::UnknownField);
        };
        let inexact = match &column.values {
            Values::Int(ints) => ints.iter().any(|int| !is_exact(*int)),
            _ => false,
        };
        let found = column.values.field_type();
        match Catalog::field_slot(self.catalog, self.agent, table, field, found, inexact) {
            Ok((slot, field_type)) => {
                let (word, bit) = (usize::from(slot / 64), 1_u64 << (slot % 64));
                if used[word] & bit != 0 {
                    return refuse(Refusal::FieldTwice);
                }
                used[word] |= bit;
                Target::Keep { slot, field_type }
            }
            Err(reason) => refuse(reason),
        }
    }

    fn quarantined(&mut self, binding: &Binding<'_>) -> Arc<Quarantined> {
        if let Some(known) = self.quarantined.get(&binding.number) {
            return Arc::clone(known);
        }
        let declared = match binding.series {
            Ok(series) => {
                let info = self.catalog.series(series);
                Declared::Series(Arc::clone(info.expect("a series that was interned")))
            }
            Err(Some(refused)) => Declared::Refused(Arc::clone(refused)),
            Err(None) => Declared::Undefined,
        };
        let device = declared.device().unwrap_or(self.agent.as_str());
        let series = Catalog::intern_quarantine(self.catalog, device);
        let quarantined = Arc::new(Quarantined {
            series,
            declared,
            fields: binding.fields.cloned().unwrap_or_default(),
        });
        self.quarantined
            .insert(binding.number, Arc::clone(&quarantined));
        quarantined
    }

    /// With the times comes the greatest of them.
    fn offer_last(
        &mut self,
        series: SeriesId,
        (times, greatest): (&[i64], i64),
        columns: &[Column],
        targets: &[Target],
    ) {
        let mut offered = Vec::with_capacity(columns.len());
        for (column, target) in columns.iter().zip(targets) {
            let Target::Keep { slot, field_type } = target else {
                continue;
            };
            let exact_only = *field_type == FieldType::Float;
            let Some((row, at)) = newest((times, greatest), column, exact_only, self.time_max)
            else {
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
    (times, greatest): (&[i64], i64),
    column: &Column,
    exact_only: bool,
    time_max: i64,
) -> Option<(usize, usize)> {
    let is_kept = |value: usize| match &column.values {
        Values::Int(ints) => !exact_only || is_exact(ints[value]),
        _ => true,
    };
    // Mostly the last row is the newest, and has a value.
    if let (Some(row), Some(value)) = (
        times.len().checked_sub(1),
        column.values.len().checked_sub(1),
    ) && column.present.as_ref().is_none_or(|flags| flags[row])
        && times[row] == greatest
        && greatest <= time_max
        && is_kept(value)
    {
        return Some((row, value));
    }
    let mut best: Option<(usize, usize)> = None;
    each_present(times.len(), column, |row, value| {
        let newer = best.is_none_or(|(before, _)| times[before] <= times[row]);
        if is_kept(value) && newer && times[row] <= time_max {
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
            kept && column.present.is_none() && inexact_count(column, *target) == 0
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
            Target::Keep { .. } => inexact_count(column, *target),
        });
    each.sum()
}

/// Ints of a float field that are not exact as floats.
fn inexact_count(column: &Column, target: Target) -> usize {
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

/// Readings of one series with the same fields of the same types.
struct Pending {
    table: String,
    device: String,
    tags: Vec<(String, String)>,
    fields: Vec<String>,
    times: Vec<i64>,
    columns: Vec<Column>,
    /// Its series goes on in a later one, and the order of its readings counts.
    is_closed: bool,
}

type SeriesKey = (String, String, Vec<(String, String)>);

/// What readings have in common that share columns.
type Shape = (SeriesKey, Vec<(String, FieldType)>);

/// In order of first appearance. Where rows of one time become one, a later row must not come into a
/// group before that of an earlier one.
fn group_readings(readings: Vec<Reading>, catalog: &Catalog) -> Vec<Pending> {
    let mut groups: Vec<Pending> = Vec::new();
    let mut known: BTreeMap<Shape, usize> = BTreeMap::new();
    let mut latest: BTreeMap<SeriesKey, usize> = BTreeMap::new();
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
        let shape: Shape = ((table, device, tags), types.collect());
        let at = known.get(&shape).filter(|at| !groups[**at].is_closed);
        let at = at.copied().unwrap_or_else(|| {
            let at = groups.len();
            groups.push(Pending::new(&shape));
            let series = &shape.0;
            if catalog.same_time(&series.0) == SameTime::Merge
                && let Some(before) = latest.insert(series.clone(), at)
            {
                groups[before].is_closed = true;
            }
            known.insert(shape, at);
            at
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

impl Pending {
    fn new(((table, device, tags), types): &Shape) -> Self {
        let column = |(field, (_, field_type)): (u16, &(String, FieldType))| Column {
            field,
            present: None,
            values: Values::empty(*field_type),
        };
        Self {
            table: table.clone(),
            device: device.clone(),
            tags: tags.clone(),
            fields: types.iter().map(|(name, _)| name.clone()).collect(),
            times: Vec::new(),
            columns: (0_u16..).zip(types).map(column).collect(),
            is_closed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_value_is_the_last_of_the_greatest_time(
            rows in prop::collection::vec((0..5_i64, any::<bool>(), prop::bool::weighted(0.8)), 1..9),
            all_present in any::<bool>(),
            exact_only in any::<bool>(),
            time_max in 0..6_i64,
        ) {
            let times: Vec<i64> = rows.iter().map(|row| row.0).collect();
            let flags: Vec<bool> = rows.iter().map(|row| all_present || row.1).collect();
            let ints = rows.iter().zip(&flags).filter(|(_, flag)| **flag);
            let ints: Vec<i64> = ints.map(|(row, _)| if row.2 { 1 } else { i64::MAX }).collect();
            let column = Column {
                field: 0,
                present: (!all_present).then(|| flags.clone()),
                values: Values::Int(ints.clone()),
            };
            let present = (0..rows.len()).filter(|row| flags[*row]).zip(0..);
            let wanted = present.filter(|(row, value)| {
                times[*row] <= time_max && (!exact_only || is_exact(ints[*value]))
            });
            let wanted: Option<(usize, usize)> = wanted.max_by_key(|(row, _)| times[*row]);
            let greatest = *times.iter().max().unwrap();
            prop_assert_eq!(newest((&times, greatest), &column, exact_only, time_max), wanted);
        }
    }
}
