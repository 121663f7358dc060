//! The last value of every field of every series, kept at apply: what a dashboard asks most.

use std::sync::Arc;

use shared::batch::Values;
use shared::id::TimeNs;
use shared::reading::Value;

use super::catalog::SeriesId;
use super::cow::CowList;

/// The value of one field with the greatest time; of equal times, the later in log order.
#[derive(Debug, Clone, PartialEq)]
pub struct LastValue {
    /// The slot in its table.
    pub field: u16,
    pub time: TimeNs,
    /// An int here may belong to a field that was widened to float since.
    pub value: Value,
}

/// By series id; sorted by field.
#[derive(Debug, Clone)]
pub(super) struct LastValues {
    pub(super) by_series: CowList<Arc<Vec<LastValue>>>,
}

impl LastValues {
    pub(super) fn new() -> Self {
        Self {
            by_series: CowList::new(),
        }
    }

    pub(super) fn of(&self, series: SeriesId) -> &[LastValue] {
        let at = usize::try_from(series.0).expect("series ids are list indices");
        self.by_series
            .get(at)
            .map_or(&[], |values| values.as_slice())
    }

    /// Makes room for all series that there are.
    pub(super) fn grow(&mut self, series_count: usize) {
        while self.by_series.len() < series_count {
            self.by_series.push(Arc::default());
        }
    }

    /// Offers one series' newest values of one group of rows.
    pub(super) fn offer(&mut self, series: SeriesId, offered: Vec<LastValue>) {
        let at = usize::try_from(series.0).expect("series ids are list indices");
        self.grow(at + 1);
        let values = Arc::make_mut(self.by_series.get_mut(at).expect("just grown"));
        for new in offered {
            match values.binary_search_by_key(&new.field, |value| value.field) {
                Ok(at) if values[at].time <= new.time => values[at] = new,
                Ok(_) => {}
                Err(at) => values.insert(at, new),
            }
        }
    }
}

pub(super) fn value_at(values: &Values, at: usize) -> Value {
    match values {
        Values::Float(v) => Value::Float(v[at]),
        Values::Int(v) => Value::Int(v[at]),
        Values::Bool(v) => Value::Bool(v[at]),
        Values::Text(v) => Value::Text(v[at].clone()),
    }
}
