//! What conditions say about time and device, exactly; all others stay with DataFusion.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};

pub(super) const TIME: &str = "time";
pub(super) const DEVICE: &str = "device";

/// Ends before it starts.
const NOTHING: RangeInclusive<i64> = RangeInclusive::new(i64::MAX, i64::MIN);

/// Rows that a scan has to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pruned {
    /// Nanoseconds since 1970-01-01 UTC; the end lies before the start if nothing can match.
    pub(super) time: RangeInclusive<i64>,
    /// `None`: all.
    pub(super) devices: Option<BTreeSet<String>>,
}

enum Bound {
    Time(RangeInclusive<i64>),
    Devices(BTreeSet<String>),
}

/// Whether [`Pruned`] holds all that the condition says.
pub(super) fn is_exact(filter: &Expr) -> bool {
    bound(filter).is_some()
}

/// What a table that prunes takes off DataFusion's hands.
pub(super) fn support(filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
    let support = |filter: &&Expr| {
        if is_exact(filter) {
            TableProviderFilterPushDown::Exact
        } else {
            TableProviderFilterPushDown::Unsupported
        }
    };
    filters.iter().map(support).collect()
}

impl Pruned {
    /// By conditions that all hold.
    pub(super) fn by(filters: &[Expr]) -> Self {
        let mut pruned = Self {
            time: i64::MIN..=i64::MAX,
            devices: None,
        };
        for found in filters.iter().filter_map(bound) {
            match found {
                Bound::Time(range) => {
                    let start = *pruned.time.start().max(range.start());
                    let end = *pruned.time.end().min(range.end());
                    pruned.time = start..=end;
                }
                Bound::Devices(devices) => {
                    pruned.devices = Some(match pruned.devices {
                        None => devices,
                        Some(known) => known.intersection(&devices).cloned().collect(),
                    });
                }
            }
        }
        pruned
    }

    pub(super) fn is_all(&self) -> bool {
        self.time == (i64::MIN..=i64::MAX) && self.devices.is_none()
    }
}

fn bound(filter: &Expr) -> Option<Bound> {
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => match (bound(left)?, bound(right)?) {
            (Bound::Devices(left), Bound::Devices(right)) => {
                Some(Bound::Devices(left.into_iter().chain(right).collect()))
            }
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            compared(left, *op, right).or_else(|| compared(right, op.swap()?, left))
        }
        Expr::Between(between) if !between.negated && is_column(&between.expr, TIME) => {
            Some(Bound::Time(time(&between.low)?..=time(&between.high)?))
        }
        Expr::InList(list) if !list.negated && is_column(&list.expr, DEVICE) => Some(
            Bound::Devices(list.list.iter().map(text).collect::<Option<_>>()?),
        ),
        _ => None,
    }
}

fn compared(column: &Expr, op: Operator, value: &Expr) -> Option<Bound> {
    if is_column(column, DEVICE) && op == Operator::Eq {
        return Some(Bound::Devices(BTreeSet::from([text(value)?])));
    }
    if !is_column(column, TIME) {
        return None;
    }
    let at = time(value)?;
    let range = match op {
        Operator::Eq => at..=at,
        Operator::GtEq => at..=i64::MAX,
        Operator::LtEq => i64::MIN..=at,
        Operator::Gt => at.checked_add(1).map_or(NOTHING, |start| start..=i64::MAX),
        Operator::Lt => at.checked_sub(1).map_or(NOTHING, |end| i64::MIN..=end),
        _ => return None,
    };
    Some(Bound::Time(range))
}

fn is_column(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Column(column) if column.name == name)
}

/// A time without a zone is not one that we know.
fn time(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(Some(at), Some(_)), _) => Some(*at),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    fn at(time: i64) -> Expr {
        lit(ScalarValue::TimestampNanosecond(
            Some(time),
            Some("UTC".into()),
        ))
    }

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn bounds_of_time_meet() {
        let filters = [
            col("time").gt(at(5)),
            at(9).gt_eq(col("time")),
            col("time").lt(at(9)),
        ];
        assert!(filters.iter().all(is_exact));
        assert_eq!(
            Pruned::by(&filters),
            Pruned {
                time: 6..=8,
                devices: None
            }
        );
        assert!(Pruned::by(&[col("time").gt(at(i64::MAX))]).time.is_empty());
        assert!(Pruned::by(&[col("time").lt(at(i64::MIN))]).time.is_empty());
        assert_eq!(Pruned::by(&[col("time").between(at(1), at(2))]).time, 1..=2);
        assert!(Pruned::by(&[]).is_all());
    }

    #[test]
    fn devices_meet_and_unite() {
        let either = col("device").eq(lit("a")).or(lit("b").eq(col("device")));
        assert_eq!(
            Pruned::by(std::slice::from_ref(&either)).devices,
            Some(names(&["a", "b"]))
        );
        let list = col("device").in_list(vec![lit("b"), lit("c")], false);
        assert_eq!(Pruned::by(&[either, list]).devices, Some(names(&["b"])));
    }

    #[test]
    fn what_is_not_exact_is_left_to_others() {
        let odd = [
            col("time").not_eq(at(1)),
            col("time").eq(lit(1_i64)),
            col("time").gt(lit(ScalarValue::TimestampNanosecond(Some(1), None))),
            col("device").gt(lit("a")),
            col("device").in_list(vec![lit("b")], true),
            col("device").in_list(vec![lit(ScalarValue::Utf8(None))], false),
            col("device").eq(lit("a")).or(col("time").gt(at(1))),
            col("other").eq(lit("a")),
            col("time").between(at(1), col("time")),
        ];
        for filter in odd {
            assert!(!is_exact(&filter), "{filter}");
        }
    }
}
