//! Operations on decoded rows of one series: append, sort, cut. Used by merges and scans.

use std::ops::{Range, RangeInclusive};

use shared::batch::{Column, Values};
use shared::reading::FieldType;

use crate::state::rows::SeriesRows;

impl SeriesRows {
    /// Adds later rows of the same series. A field that was widened in between becomes float.
    pub(crate) fn append(&mut self, other: SeriesRows) {
        debug_assert_eq!(self.series, other.series);
        let (have, more) = (self.times.len(), other.times.len());
        self.times.extend_from_slice(&other.times);
        let mut others = other.columns;
        for column in &mut self.columns {
            let same = others.iter().position(|other| other.field == column.field);
            match same.map(|at| others.swap_remove(at)) {
                Some(other) => append_column(column, have, other, more),
                None => flags_of(column, have).resize(have + more, false),
            }
        }
        // `swap_remove` shuffled what is left: the order of columns must not depend on it.
        others.sort_unstable_by_key(|column| column.field);
        for mut column in others {
            let later = std::mem::take(flags_of(&mut column, more));
            let mut flags = vec![false; have];
            flags.extend(later);
            column.present = Some(flags);
            self.columns.push(column);
        }
    }

    /// By time; rows of equal times stay in the order of their arrival.
    pub(crate) fn sort_by_time(&mut self) {
        if self.times.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.times.len()).collect();
        order.sort_by_key(|row| self.times[*row]);
        *self = self.select(&order);
    }

    /// These rows, in this order.
    pub(crate) fn select(&self, rows: &[usize]) -> SeriesRows {
        let columns = self
            .columns
            .iter()
            .map(|column| select_column(column, rows));
        SeriesRows {
            series: self.series,
            times: rows.iter().map(|row| self.times[*row]).collect(),
            columns: columns.collect(),
        }
    }

    pub(crate) fn slice(&self, rows: Range<usize>) -> SeriesRows {
        if rows == (0..self.times.len()) {
            return self.clone();
        }
        let columns = self.columns.iter().map(|column| {
            let Some(flags) = &column.present else {
                return Column {
                    values: slice_values(&column.values, &rows),
                    ..column_head(column)
                };
            };
            let before = flags[..rows.start].iter().filter(|flag| **flag).count();
            let flags = flags[rows.clone()].to_vec();
            let inside = flags.iter().filter(|flag| **flag).count();
            let values = slice_values(&column.values, &(before..before + inside));
            Column {
                present: Some(flags),
                values,
                ..column_head(column)
            }
        });
        let columns = columns.collect();
        SeriesRows {
            series: self.series,
            times: self.times[rows.clone()].to_vec(),
            columns,
        }
    }

    /// The rows of a time range; `self` is sorted.
    pub(crate) fn in_time(self, time: &RangeInclusive<i64>) -> SeriesRows {
        let from = self.times.partition_point(|at| at < time.start());
        let to = self.times.partition_point(|at| at <= time.end());
        if (from, to) == (0, self.times.len()) {
            return self;
        }
        self.slice(from..to.max(from))
    }
}

fn column_head(column: &Column) -> Column {
    Column {
        field: column.field,
        present: None,
        values: Values::Bool(Vec::new()),
    }
}

fn flags_of(column: &mut Column, rows: usize) -> &mut Vec<bool> {
    column.present.get_or_insert_with(|| vec![true; rows])
}

fn append_column(column: &mut Column, have: usize, other: Column, more: usize) {
    if column.present.is_some() || other.present.is_some() {
        let flags = flags_of(column, have);
        match other.present {
            Some(later) => flags.extend(later),
            None => flags.resize(have + more, true),
        }
    }
    match (&mut column.values, other.values) {
        (Values::Float(all), Values::Float(more)) => all.extend(more),
        (Values::Int(all), Values::Int(more)) => all.extend(more),
        (Values::Bool(all), Values::Bool(more)) => all.extend(more),
        (Values::Text(all), Values::Text(more)) => all.extend(more),
        (Values::Float(all), Values::Int(more)) => all.extend(more.iter().map(|i| *i as f64)),
        (Values::Int(all), Values::Float(more)) => {
            let widened = all.iter().map(|int| *int as f64).chain(more).collect();
            column.values = Values::Float(widened);
        }
        _ => unreachable!("a field changes its type from int to float only"),
    }
}

/// Ints as the floats they are exact as, if that is what the field is now.
pub(crate) fn widened(values: Values, to: FieldType) -> Values {
    match (values, to) {
        (Values::Int(ints), FieldType::Float) => {
            Values::Float(ints.iter().map(|int| *int as f64).collect())
        }
        (values, _) => values,
    }
}

fn select_column(column: &Column, rows: &[usize]) -> Column {
    let Some(flags) = &column.present else {
        return Column {
            values: pick_values(&column.values, rows),
            ..column_head(column)
        };
    };
    let mut at = 0;
    let value_of: Vec<Option<usize>> = flags
        .iter()
        .map(|flag| {
            let value = flag.then_some(at);
            at += usize::from(*flag);
            value
        })
        .collect();
    let picked: Vec<usize> = rows.iter().filter_map(|row| value_of[*row]).collect();
    Column {
        present: Some(rows.iter().map(|row| flags[*row]).collect()),
        values: pick_values(&column.values, &picked),
        ..column_head(column)
    }
}

pub(super) fn pick_values(values: &Values, at: &[usize]) -> Values {
    match values {
        Values::Float(v) => Values::Float(at.iter().map(|at| v[*at]).collect()),
        Values::Int(v) => Values::Int(at.iter().map(|at| v[*at]).collect()),
        Values::Bool(v) => Values::Bool(at.iter().map(|at| v[*at]).collect()),
        Values::Text(v) => Values::Text(at.iter().map(|at| v[*at].clone()).collect()),
    }
}

fn slice_values(values: &Values, range: &Range<usize>) -> Values {
    match values {
        Values::Float(v) => Values::Float(v[range.clone()].to_vec()),
        Values::Int(v) => Values::Int(v[range.clone()].to_vec()),
        Values::Bool(v) => Values::Bool(v[range.clone()].to_vec()),
        Values::Text(v) => Values::Text(v[range.clone()].to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SeriesId;

    fn rows(times: &[i64], columns: Vec<Column>) -> SeriesRows {
        SeriesRows {
            series: SeriesId(1),
            times: times.to_vec(),
            columns,
        }
    }

    fn ints(field: u16, present: Option<Vec<bool>>, values: &[i64]) -> Column {
        Column {
            field,
            present,
            values: Values::Int(values.to_vec()),
        }
    }

    #[test]
    fn appended_rows_keep_their_values_and_sort_stably() {
        let mut all = rows(&[5, 1], vec![ints(0, None, &[50, 10])]);
        all.append(rows(&[5, 2], vec![ints(3, None, &[7, 8])]));
        let widening = Column {
            field: 0,
            present: None,
            values: Values::Float(vec![0.5]),
        };
        all.append(rows(&[1], vec![widening]));
        all.sort_by_time();
        assert_eq!(all.times, [1, 1, 2, 5, 5]);
        assert_eq!(
            all.columns[0].present,
            Some(vec![true, true, false, true, false])
        );
        assert_eq!(all.columns[0].values, Values::Float(vec![10.0, 0.5, 50.0]));
        assert_eq!(
            all.columns[1].present,
            Some(vec![false, false, true, false, true])
        );
        assert_eq!(all.columns[1].values, Values::Int(vec![8, 7]));
        assert_eq!(all.clone().in_time(&(1..=5)), all);
        assert!(all.clone().in_time(&(6..=9)).times.is_empty());
        let some = all.in_time(&(2..=5));
        assert_eq!(some.times, [2, 5, 5]);
        assert_eq!(some.columns[0].values, Values::Float(vec![50.0]));
        assert_eq!(some.columns[1].present, Some(vec![true, false, true]));
    }
}
