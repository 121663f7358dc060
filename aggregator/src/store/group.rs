//! The state of some rows of a series in one bucket: from the statistics of a block or from values,
//! merged in the order of a scan.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use shared::batch::Values;
use shared::reading::{FieldType, Value};

use super::block::ColumnStats;
use super::sum::{Sum, plain_extremes};
use crate::state::catalog::EXACT_INT_MAX;

/// What is asked of a field besides its count. What is not stays empty, and asks for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    pub sum: bool,
    pub extremes: bool,
    pub ends: bool,
}

/// The state of some rows of a series that lie in one bucket: at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Where its bucket begins; `None` without buckets, or if that is not a time of 64 bits.
    pub bucket: Option<i64>,
    pub rows: u64,
    pub time_min: i64,
    pub time_max: i64,
    /// Parallel to the fields asked for.
    pub fields: Vec<FieldState>,
}

/// The state of one field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldState {
    /// Values that are there.
    pub count: u64,
    /// `None` of bools and texts, and of no values.
    pub sum: Option<Sum>,
    /// Of floats in IEEE 754's total order: -0.0 lies below 0.0, NaN beyond all numbers.
    pub min: Option<Value>,
    pub max: Option<Value>,
    /// At the least time; of several there, the one that a scan has first.
    pub first: Option<(i64, Value)>,
    /// At the greatest time; of several there, the one that a scan has last.
    pub last: Option<(i64, Value)>,
}

impl Measures {
    /// What either asks for.
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            sum: self.sum || other.sum,
            extremes: self.extremes || other.extremes,
            ends: self.ends || other.ends,
        }
    }
}

impl Group {
    /// Memory that this holds, in bytes, about.
    pub fn bytes_held(&self) -> usize {
        let fields = self.fields.iter().map(FieldState::bytes_held);
        size_of::<Self>() + fields.sum::<usize>()
    }

    /// Takes in what comes later of the same series and bucket, with the same fields.
    pub fn merge(&mut self, later: Group) {
        self.rows += later.rows;
        self.time_min = self.time_min.min(later.time_min);
        self.time_max = self.time_max.max(later.time_max);
        for (field, later) in self.fields.iter_mut().zip(later.fields) {
            field.merge(later);
        }
    }

    /// Takes its place among others, or is merged into the one that stands there.
    pub(super) fn add_to<K: Ord>(self, all: &mut BTreeMap<K, Group>, at: K) {
        match all.entry(at) {
            Entry::Vacant(entry) => {
                entry.insert(self);
            }
            Entry::Occupied(mut entry) => entry.get_mut().merge(self),
        }
    }
}

impl FieldState {
    fn bytes_held(&self) -> usize {
        let ends = [&self.first, &self.last].map(|end| end.as_ref().map(|(_, value)| value));
        let all = [self.min.as_ref(), self.max.as_ref(), ends[0], ends[1]];
        let texts = all.into_iter().flatten().map(|value| match value {
            Value::Text(text) => text.len(),
            Value::Float(_) | Value::Int(_) | Value::Bool(_) => 0,
        });
        size_of::<Self>() + texts.sum::<usize>()
    }

    fn merge(&mut self, later: FieldState) {
        self.count += later.count;
        self.sum = match (self.sum, later.sum) {
            (Some(sum), Some(later)) => Some(sum.plus(later)),
            (sum, later) => sum.or(later),
        };
        keep(&mut self.min, later.min, |new, old| {
            compare(new, old).is_lt()
        });
        keep(&mut self.max, later.max, |new, old| {
            compare(new, old).is_gt()
        });
        keep(&mut self.first, later.first, |new, old| new.0 < old.0);
        keep(&mut self.last, later.last, |new, old| new.0 >= old.0);
    }

    /// As the field's type is now; `None` if the statistics do not tell all that is asked, exactly.
    pub(super) fn of_stats(stats: &ColumnStats, to: FieldType, measures: Measures) -> Option<Self> {
        let mut state = Self {
            count: stats.count.into(),
            ..Self::default()
        };
        let widens = to == FieldType::Float && matches!(stats.first, Some(Value::Int(_)));
        let shown = |value: &Option<Value>| match value {
            Some(Value::Int(int)) if widens => Some(Value::Float(*int as f64)),
            other => other.clone(),
        };
        if measures.sum && matches!(to, FieldType::Float | FieldType::Int) {
            let sum = stats.sum?;
            let extremes = [stats.min.as_ref(), stats.max.as_ref()];
            state.sum = Some(if widens {
                widened(sum, stats.count.into(), extremes)?
            } else {
                sum
            });
        }
        if measures.extremes {
            // NaN is in none of the extremes, but in the sum.
            let numbers = match (to, stats.sum) {
                (FieldType::Float, Some(Sum::Float(sum))) => !sum.is_nan(),
                (FieldType::Float, None) => widens,
                _ => true,
            };
            let (min, max) = (shown(&stats.min)?, shown(&stats.max)?);
            (state.min, state.max) = numbers.then_some((Some(min), Some(max)))?;
        }
        if measures.ends {
            let (first_at, last_at) = stats.ends?;
            state.first = Some((first_at, shown(&stats.first)?));
            state.last = Some((last_at, shown(&stats.last)?));
        }
        Some(state)
    }

    /// Of ints that became floats, whether or not adding these one by one would have rounded.
    pub(super) fn into_floats(self) -> Self {
        let shown = |value| match value {
            Value::Int(int) => Value::Float(int as f64),
            other => other,
        };
        let sum = self.sum.map(|sum| match sum {
            Sum::Int(sum) => Sum::Float(sum as f64),
            float @ Sum::Float(_) => float,
        });
        Self {
            count: self.count,
            sum,
            min: self.min.map(shown),
            max: self.max.map(shown),
            first: self.first.map(|(at, value)| (at, shown(value))),
            last: self.last.map(|(at, value)| (at, shown(value))),
        }
    }

    /// As the field's type is now; `None` if ints become floats and adding these might round.
    pub(super) fn shown_as(self, to: FieldType) -> Option<Self> {
        if to != FieldType::Float || !matches!(self.sum, None | Some(Sum::Int(_))) {
            return Some(self);
        }
        let (min, max) = (self.min.as_ref(), self.max.as_ref());
        let sum = match self.sum {
            Some(sum) => Some(widened(sum, self.count, [min, max])?),
            None => None,
        };
        Some(Self {
            sum,
            ..self.into_floats()
        })
    }

    pub(super) fn of_values(
        values: &Values,
        range: Range<usize>,
        ends: (i64, i64),
        measures: Measures,
    ) -> Self {
        match values {
            Values::Float(all) => {
                let floats = &all[range];
                let plain = measures.extremes.then(|| plain_extremes(floats)).flatten();
                let rest = Measures {
                    extremes: measures.extremes && plain.is_none(),
                    ..measures
                };
                let value = |one: &f64| Value::Float(*one);
                let mut state = Self::of(floats, f64::total_cmp, value, ends, rest);
                if let Some((min, max)) = plain {
                    (state.min, state.max) = (Some(value(&min)), Some(value(&max)));
                }
                let sum = measures.sum.then(|| Sum::of_floats(floats));
                Self { sum, ..state }
            }
            Values::Int(all) => {
                let ints = &all[range];
                let state = Self::of(ints, i64::cmp, |one| Value::Int(*one), ends, measures);
                let sum = measures.sum.then(|| Sum::of_ints(ints));
                Self { sum, ..state }
            }
            Values::Bool(all) => {
                let bools = &all[range];
                Self::of(bools, bool::cmp, |one| Value::Bool(*one), ends, measures)
            }
            Values::Text(all) => {
                let value = |one: &String| Value::Text(one.clone());
                Self::of(&all[range], String::cmp, value, ends, measures)
            }
        }
    }

    /// All but the sum.
    fn of<T>(
        some: &[T],
        order: impl Fn(&T, &T) -> Ordering,
        value: impl Fn(&T) -> Value,
        (first_at, last_at): (i64, i64),
        Measures { extremes, ends, .. }: Measures,
    ) -> Self {
        let mut state = Self {
            count: some.len() as u64,
            ..Self::default()
        };
        if extremes {
            state.min = some.iter().min_by(|a, b| order(a, b)).map(&value);
            state.max = some.iter().max_by(|a, b| order(a, b)).map(&value);
        }
        if ends {
            state.first = some.first().map(|one| (first_at, value(one)));
            state.last = some.last().map(|one| (last_at, value(one)));
        }
        state
    }
}

/// A sum of ints as that of the floats they have become, if adding these rounds nowhere.
fn widened(sum: Sum, count: u64, extremes: [Option<&Value>; 2]) -> Option<Sum> {
    let size = |value: Option<&Value>| match value {
        Some(Value::Int(int)) => u128::from(int.unsigned_abs()),
        _ => 0,
    };
    let [min, max] = extremes.map(size);
    let most = u128::from(count) * min.max(max);
    (most <= u128::from(EXACT_INT_MAX)).then_some(Sum::Float(sum.as_float()))
}

/// Two values of one field.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => unreachable!("a view shows the values of a field in one type"),
    }
}

fn keep<T>(kept: &mut Option<T>, new: Option<T>, wins: impl Fn(&T, &T) -> bool) {
    if let Some(new) = new
        && kept.as_ref().is_none_or(|old| wins(&new, old))
    {
        *kept = Some(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Measures = Measures {
        sum: true,
        extremes: true,
        ends: true,
    };

    fn ints(min: i64, max: i64, sum: Option<Sum>, ends: Option<(i64, i64)>) -> ColumnStats {
        ColumnStats {
            field: 0,
            count: 200,
            min: Some(Value::Int(min)),
            max: Some(Value::Int(max)),
            first: Some(Value::Int(min)),
            last: Some(Value::Int(max)),
            sum,
            ends,
        }
    }

    fn of(stats: &ColumnStats, to: FieldType, measures: Measures) -> Option<FieldState> {
        FieldState::of_stats(stats, to, measures)
    }

    #[test]
    fn statistics_without_sums_answer_what_they_tell() {
        let old = ints(-1, 7, None, None);
        let (none, sum) = (
            Measures::default(),
            Measures {
                sum: true,
                ..Measures::default()
            },
        );
        assert_eq!(of(&old, FieldType::Int, none).unwrap().count, 200);
        assert_eq!(of(&old, FieldType::Int, sum), None);
        let extremes = Measures {
            extremes: true,
            ..none
        };
        let state = of(&old, FieldType::Float, extremes).unwrap();
        assert_eq!(
            (state.min, state.max),
            (Some(Value::Float(-1.0)), Some(Value::Float(7.0)))
        );
        let ends = Measures { ends: true, ..none };
        assert_eq!(of(&old, FieldType::Int, ends), None);
        let old = ints(-1, 7, None, Some((3, 4)));
        let state = of(&old, FieldType::Int, ends).unwrap();
        assert_eq!(
            (state.first, state.last),
            (Some((3, Value::Int(-1))), Some((4, Value::Int(7))))
        );
    }

    #[test]
    fn floats_among_which_nan_may_be_are_read_for_their_extremes() {
        let floats = |sum| ColumnStats {
            min: Some(Value::Float(1.0)),
            max: Some(Value::Float(2.0)),
            first: Some(Value::Float(1.0)),
            last: Some(Value::Float(2.0)),
            ..ints(0, 0, sum, Some((0, 9)))
        };
        assert!(of(&floats(Some(Sum::Float(3.0))), FieldType::Float, ALL).is_some());
        assert_eq!(
            of(&floats(Some(Sum::Float(f64::NAN))), FieldType::Float, ALL),
            None
        );
        let extremes = Measures {
            extremes: true,
            ..Measures::default()
        };
        assert_eq!(of(&floats(None), FieldType::Float, extremes), None);
    }

    #[test]
    fn a_sum_of_widened_ints_is_taken_only_if_no_order_rounds() {
        let exact = i64::try_from(EXACT_INT_MAX / 200).unwrap();
        let sum = |max| {
            of(
                &ints(0, max, Some(Sum::Int(1 << 40)), Some((0, 9))),
                FieldType::Float,
                ALL,
            )
        };
        assert_eq!(
            sum(exact).unwrap().sum,
            Some(Sum::Float(1_099_511_627_776.0))
        );
        assert_eq!(sum(exact + 1), None);
    }

    #[test]
    fn states_merge_in_order() {
        let state = |at: i64, value: f64| FieldState {
            count: 1,
            sum: Some(Sum::Float(value)),
            min: Some(Value::Float(value)),
            max: Some(Value::Float(value)),
            first: Some((at, Value::Float(value))),
            last: Some((at, Value::Float(value))),
        };
        let mut all = FieldState::default();
        for (at, value) in [(5, 0.0), (5, -0.0), (7, f64::NAN), (7, 2.0), (1, 1.0)] {
            all.merge(state(at, value));
        }
        all.merge(FieldState::default());
        assert_eq!(all.count, 5);
        assert_eq!(all.first, Some((1, Value::Float(1.0))));
        assert_eq!(all.last, Some((7, Value::Float(2.0))));
        let bits = |value: Option<Value>| match value {
            Some(Value::Float(float)) => float.to_bits(),
            other => panic!("{other:?}"),
        };
        assert_eq!(bits(all.min), (-0.0_f64).to_bits());
        assert_eq!(bits(all.max), f64::NAN.to_bits());
    }
}
