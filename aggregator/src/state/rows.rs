//! What a payload brought to the store: the agent's bytes and, resolved at apply, where each of
//! its columns goes. Decoded again by scans and merges, so that memory holds each value once, packed.

use std::sync::Arc;

use bytes::Bytes;
use shared::batch::{Body, Column, Data, Values};
use shared::id::AgentId;
use shared::reading::FieldType;

use super::catalog::{EXACT_INT_MAX, Refusal, SeriesId, TableId};
use super::quarantine::{Quarantined, refused_rows};

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
    pub(crate) refused: u32,
    /// Where refused values go; `None` if none is refused.
    pub(crate) quarantine: Option<Arc<Quarantined>>,
    pub(crate) columns: Arc<[Target]>,
}

/// Where one column goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// To this field, as this type. An int that is not exact as the float it must become is refused.
    Keep {
        slot: u16,
        field_type: FieldType,
    },
    Refuse {
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
            Source::Batch { bytes, series, .. } => bytes.len() + resolved_bytes(series),
            Source::Decoded(all) => all.iter().map(SeriesRows::bytes_held).sum(),
        };
        content + size_of::<Self>() + self.extents.len() * size_of::<Extent>()
    }

    pub fn row_count(&self) -> u64 {
        self.extents.iter().map(|extent| extent.rows).sum()
    }

    /// Every series with rows in here and how many values of 8 bytes they are, about.
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
                            u64::from(resolved.refused) * (refused.row_bytes() / 8) as u64,
                        );
                    }
                }
            }
            Source::Decoded(all) => {
                for rows in all {
                    add(rows.series, (rows.content_bytes() / 8) as u64);
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

/// Beside what an [`Arc`] points to.
const COUNTERS_BYTES: usize = 2 * size_of::<usize>();

/// Of what neighbours share, one counts. What `quarantine` refers to, the state holds as well.
fn resolved_bytes(series: &[Resolved]) -> usize {
    let mut bytes = size_of_val(series);
    let mut before: Option<&Resolved> = None;
    for resolved in series {
        let columns = &resolved.columns;
        if before.is_none_or(|before| !Arc::ptr_eq(&before.columns, columns)) {
            bytes += COUNTERS_BYTES + size_of_val(&**columns);
        }
        let shared = before.and_then(|before| before.quarantine.as_ref());
        if let Some(quarantine) = &resolved.quarantine
            && shared.is_none_or(|shared| !Arc::ptr_eq(shared, quarantine))
        {
            bytes += COUNTERS_BYTES + size_of::<Quarantined>();
        }
        before = Some(resolved);
    }
    bytes
}

impl Resolved {
    fn touches(&self, wanted: &dyn Fn(SeriesId) -> bool) -> bool {
        let refused = self.quarantine.as_ref().map(|q| q.series);
        self.series.into_iter().chain(refused).any(wanted)
    }
}

impl SeriesRows {
    pub(crate) fn bytes_held(&self) -> usize {
        self.content_bytes() + self.columns.len() * size_of::<Column>() + size_of::<Self>()
    }

    /// Of times and values alone.
    fn content_bytes(&self) -> usize {
        let columns = self.columns.iter().map(|column| {
            column.present.as_ref().map_or(0, Vec::len) + values_bytes(&column.values)
        });
        self.times.len() * 8 + columns.sum::<usize>()
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
            if to.quarantine.as_ref().is_some_and(|q| wanted(q.series)) {
                refused_rows(&group.times, &one.columns, to, agent, sink);
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
