//! What a payload brought to the store: the agent's bytes and, resolved at apply, where each of
//! its columns goes. Decoded again by scans and merges, so that memory holds each value once, packed.

use std::sync::Arc;

use bytes::Bytes;
use shared::batch::{Body, Column, Data, Values};
use shared::id::AgentId;
use shared::reading::FieldType;

use super::catalog::{EXACT_INT_MAX, Refusal, SeriesId, TableId};

/// The rows of one submission.
#[derive(Debug)]
pub struct Rows {
    pub(crate) source: Source,
    /// One for each table that has rows in here.
    pub(crate) extents: Vec<Extent>,
}

#[derive(Debug)]
pub(crate) enum Source {
    /// `series` stands for the series columns of all groups, in their order.
    Batch {
        agent: AgentId,
        bytes: Bytes,
        /// To be added to every time in the bytes: what their epoch's clock said at apply.
        raise_ns: i64,
        series: Vec<Resolved>,
    },
    Decoded(Vec<SeriesRows>),
}

/// Rows of one table in one submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) table: TableId,
    pub(crate) rows: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
}

/// Where the columns of one series in one group go.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Where kept values go; `None` if none is kept.
    pub(crate) series: Option<SeriesId>,
    pub(crate) rows: u32,
    /// Where refused values go; `None` if none is refused.
    pub(crate) quarantine: Option<Arc<Quarantined>>,
    pub(crate) columns: Arc<[Target]>,
}

#[derive(Debug)]
pub(crate) struct Quarantined {
    pub(crate) series: SeriesId,
    pub(crate) rows: u32,
    pub(crate) table: String,
    /// `key=value,..`
    pub(crate) tags: String,
}

/// Where one column goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// To this field, as this type. An int that is not exact as the float it must become is refused.
    Keep {
        slot: u16,
        field_type: FieldType,
    },
    Refuse {
        field: String,
        reason: Refusal,
    },
}

/// Decoded rows of one series; a column's `field` is the slot in its table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeriesRows {
    pub(crate) series: SeriesId,
    pub(crate) times: Vec<i64>,
    pub(crate) columns: Vec<Column>,
}

/// Bytes that were decoded at apply could not be decoded now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Undecodable;

impl Rows {
    /// Memory that this holds, in bytes, about.
    pub fn bytes_held(&self) -> usize {
        let content = match &self.source {
            Source::Batch { bytes, series, .. } => {
                bytes.len() + series.len() * size_of::<Resolved>()
            }
            Source::Decoded(all) => all.iter().map(SeriesRows::bytes_held).sum(),
        };
        content + size_of::<Self>() + self.extents.len() * size_of::<Extent>()
    }

    pub fn row_count(&self) -> u64 {
        self.extents.iter().map(|extent| extent.rows).sum()
    }

    /// Every series with rows in here and how many values they are, about.
    pub(crate) fn weights(&self, mut add: impl FnMut(SeriesId, u64)) {
        match &self.source {
            Source::Batch { series, .. } => {
                for resolved in series {
                    if let Some(id) = resolved.series {
                        add(
                            id,
                            u64::from(resolved.rows) * (1 + resolved.columns.len() as u64),
                        );
                    }
                    if let Some(refused) = &resolved.quarantine {
                        add(
                            refused.series,
                            u64::from(refused.rows) * QUARANTINE_ROW_VALUES,
                        );
                    }
                }
            }
            Source::Decoded(all) => {
                for rows in all {
                    add(
                        rows.series,
                        (rows.times.len() * (1 + rows.columns.len())) as u64,
                    );
                }
            }
        }
    }

    /// Decodes the rows of the wanted series, in order of arrival.
    pub(crate) fn expand(
        &self,
        wanted: &dyn Fn(SeriesId) -> bool,
        sink: &mut dyn FnMut(SeriesRows),
    ) -> Result<(), Undecodable> {
        match &self.source {
            Source::Decoded(all) => {
                all.iter()
                    .filter(|rows| wanted(rows.series))
                    .cloned()
                    .for_each(sink);
                Ok(())
            }
            Source::Batch {
                agent,
                bytes,
                raise_ns,
                series,
            } => {
                let any = series.iter().any(|resolved| resolved.touches(wanted));
                if !any {
                    return Ok(());
                }
                let data = raised(decode_data(bytes)?, *raise_ns);
                expand_batch(&data, agent, series, wanted, sink)
            }
        }
    }
}

/// What a row of `quarantine` weighs next to a plain value.
const QUARANTINE_ROW_VALUES: u64 = 32;

impl Resolved {
    fn touches(&self, wanted: &dyn Fn(SeriesId) -> bool) -> bool {
        let refused = self.quarantine.as_ref().map(|q| q.series);
        self.series.into_iter().chain(refused).any(wanted)
    }
}

impl SeriesRows {
    pub(crate) fn bytes_held(&self) -> usize {
        let columns = self.columns.iter().map(|column| {
            column.present.as_ref().map_or(0, Vec::len) + values_bytes(&column.values)
        });
        self.times.len() * 8 + columns.sum::<usize>() + size_of::<Self>()
    }
}

fn values_bytes(values: &Values) -> usize {
    match values {
        Values::Float(v) => v.len() * 8,
        Values::Int(v) => v.len() * 8,
        Values::Bool(v) => v.len(),
        Values::Text(v) => v.iter().map(|text| text.len() + size_of::<String>()).sum(),
    }
}

fn decode_data(bytes: &Bytes) -> Result<Data, Undecodable> {
    match shared::batch::decode(bytes).map_err(|_| Undecodable)?.body {
        Body::Data(data) => Ok(data),
        _ => Err(Undecodable),
    }
}

/// The readings with times of day. One that a wrong clock would move out of 64 bits stays at their
/// end: what was validated is never refused again.
pub(super) fn raised(mut data: Data, raise_ns: i64) -> Data {
    if raise_ns != 0 {
        for time in data.groups.iter_mut().flat_map(|group| &mut group.times) {
            *time = time.saturating_add(raise_ns);
        }
    }
    data
}

fn expand_batch(
    data: &Data,
    agent: &AgentId,
    series: &[Resolved],
    wanted: &dyn Fn(SeriesId) -> bool,
    sink: &mut dyn FnMut(SeriesRows),
) -> Result<(), Undecodable> {
    let mut resolved = series.iter();
    for group in &data.groups {
        for one in &group.series {
            let to = resolved.next().ok_or(Undecodable)?;
            if !to.touches(wanted) {
                continue;
            }
            if let Some(rows) = kept_rows(&group.times, &one.columns, to)
                && wanted(rows.series)
            {
                sink(rows);
            }
            if let Some(rows) = refused_rows(&group.times, &one.columns, to, agent)
                && wanted(rows.series)
            {
                sink(rows);
            }
        }
    }
    Ok(())
}

/// The rows that a series gets from its columns in one group. Rows without any value are no rows.
pub(crate) fn kept_rows(times: &[i64], columns: &[Column], to: &Resolved) -> Option<SeriesRows> {
    let series = to.series?;
    let kept: Vec<Column> = columns
        .iter()
        .zip(to.columns.iter())
        .filter_map(|(column, target)| match target {
            Target::Keep { slot, field_type } => Some(keep(column, *slot, *field_type)),
            Target::Refuse { .. } => None,
        })
        .collect();
    if kept.iter().any(|column| column.present.is_none()) {
        return Some(SeriesRows {
            series,
            times: times.to_vec(),
            columns: kept,
        });
    }
    let mut any = vec![false; times.len()];
    for column in &kept {
        let flags = column.present.iter().flatten();
        any.iter_mut()
            .zip(flags)
            .for_each(|(any, present)| *any |= *present);
    }
    let filter = |flags: &[bool]| -> Vec<bool> {
        flags
            .iter()
            .zip(&any)
            .filter(|(_, any)| **any)
            .map(|(flag, _)| *flag)
            .collect()
    };
    let times: Vec<i64> = times
        .iter()
        .zip(&any)
        .filter(|(_, any)| **any)
        .map(|(time, _)| *time)
        .collect();
    if times.is_empty() {
        return None;
    }
    let columns = kept
        .into_iter()
        .map(|column| {
            let present = column.present.as_deref().map(filter);
            Column {
                present: present.filter(|flags| flags.contains(&false)),
                ..column
            }
        })
        .collect();
    Some(SeriesRows {
        series,
        times,
        columns,
    })
}

fn keep(column: &Column, slot: u16, field_type: FieldType) -> Column {
    let Column {
        present, values, ..
    } = column;
    match (values, field_type) {
        (Values::Int(ints), FieldType::Float) => {
            if ints.iter().all(|int| is_exact(*int)) {
                let values = Values::Float(ints.iter().map(|int| *int as f64).collect());
                return Column {
                    field: slot,
                    present: present.clone(),
                    values,
                };
            }
            let floats = ints
                .iter()
                .filter(|i| is_exact(**i))
                .map(|i| *i as f64)
                .collect();
            let mut ints = ints.iter();
            let flags = match present {
                None => ints.map(|int| is_exact(*int)).collect(),
                Some(flags) => flags
                    .iter()
                    .map(|flag| *flag && ints.next().is_some_and(|int| is_exact(*int)))
                    .collect(),
            };
            Column {
                field: slot,
                present: Some(flags),
                values: Values::Float(floats),
            }
        }
        (values, _) => Column {
            field: slot,
            present: present.clone(),
            values: values.clone(),
        },
    }
}

/// The rows that `quarantine` gets: one for each refused value.
pub(crate) fn refused_rows(
    times: &[i64],
    columns: &[Column],
    to: &Resolved,
    agent: &AgentId,
) -> Option<SeriesRows> {
    let quarantined = to.quarantine.as_ref()?;
    let mut out = RefusedRows::default();
    for (column, target) in columns.iter().zip(to.columns.iter()) {
        each_present(times.len(), column, |row, value| {
            let (field, reason) = match target {
                Target::Refuse { field, reason } => (field.as_str(), *reason),
                Target::Keep {
                    field_type: FieldType::Float,
                    ..
                } => match column.values {
                    Values::Int(ref ints) if !is_exact(ints[value]) => ("", Refusal::IntNotExact),
                    _ => return,
                },
                Target::Keep { .. } => return,
            };
            out.push(times[row], field, value_text(&column.values, value), reason);
        });
    }
    if out.times.is_empty() {
        return None;
    }
    let rows = out.times.len();
    let texts = [
        vec![agent.to_string(); rows],
        vec![quarantined.table.clone(); rows],
        vec![quarantined.tags.clone(); rows],
        out.fields,
        out.values,
        out.reasons,
    ];
    let columns = (0_u16..).zip(texts).map(|(field, texts)| Column {
        field,
        present: None,
        values: Values::Text(texts),
    });
    Some(SeriesRows {
        series: quarantined.series,
        times: out.times,
        columns: columns.collect(),
    })
}

#[derive(Default)]
struct RefusedRows {
    times: Vec<i64>,
    fields: Vec<String>,
    values: Vec<String>,
    reasons: Vec<String>,
}

impl RefusedRows {
    fn push(&mut self, time: i64, field: &str, value: String, reason: Refusal) {
        self.times.push(time);
        self.fields.push(field.to_owned());
        self.values.push(value);
        self.reasons.push(reason.as_str().to_owned());
    }
}

/// Calls with (row, index of its value) for every row that has a value.
pub(crate) fn each_present(rows: usize, column: &Column, mut call: impl FnMut(usize, usize)) {
    match &column.present {
        None => (0..rows).for_each(|row| call(row, row)),
        Some(flags) => {
            let present = flags.iter().enumerate().filter(|(_, flag)| **flag);
            present
                .enumerate()
                .for_each(|(value, (row, _))| call(row, value));
        }
    }
}

pub(crate) fn is_exact(int: i64) -> bool {
    int.unsigned_abs() <= EXACT_INT_MAX
}

fn value_text(values: &Values, at: usize) -> String {
    match values {
        Values::Float(v) => format!("{:?}", v[at]),
        Values::Int(v) => v[at].to_string(),
        Values::Bool(v) => v[at].to_string(),
        Values::Text(v) => v[at].clone(),
    }
}
