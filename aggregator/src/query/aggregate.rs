//! Aggregates straight over a table, without conditions that its rows would have to be asked for: the
//! first stage and the scan below it become a source of states, which the store answers from the
//! statistics of its blocks where it can. The second stage stays DataFusion's.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalDayTimeType, IntervalMonthDayNanoType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::scan::{Rows, ScanSource};
use super::states::{State, StatesSource};
use super::table::Source;
use crate::state::SameTime;
use crate::state::machine::DAY_NS;
use crate::store::{Buckets, Measures};

const MILLISECOND_NS: i64 = 1_000_000;
/// Before it a count of all rows is known without any source; after it stages are only arranged.
const BEHIND: &str = "aggregate_statistics";

/// DataFusion's rules, and the one of this file.
pub(super) fn rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let behind = rules.iter().position(|rule| rule.name() == BEHIND);
    rules.insert(behind.map_or(0, |at| at + 1), Arc::new(AggregateByStates));
    rules
}

#[derive(Debug)]
struct AggregateByStates;

impl PhysicalOptimizerRule for AggregateByStates {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let replaced = plan.transform_up(|plan| {
            Ok(match source(&*plan) {
                Some(source) => {
                    let exec: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(source);
                    Transformed::yes(exec)
                }
                None => Transformed::no(plan),
            })
        });
        replaced.data()
    }

    fn name(&self) -> &'static str {
        "aggregate_by_states"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What takes the place of a first stage; `None` where it stays.
fn source(plan: &dyn ExecutionPlan) -> Option<StatesSource> {
    let aggregate = plan.downcast_ref::<AggregateExec>()?;
    let scan = aggregate.input().downcast_ref::<DataSourceExec>()?;
    let scan = scan.data_source().downcast_ref::<ScanSource>()?;
    let is_plain = *aggregate.mode() == AggregateMode::Partial
        && aggregate.limit_options().is_none()
        && !aggregate.group_expr().has_grouping_set()
        && aggregate.filter_expr().iter().all(Option::is_none)
        && !aggregate.aggr_expr().is_empty();
    if !is_plain {
        return None;
    }
    let rows = scan.rows()?;
    // Blocks do not say what the rows of such a table come to.
    if rows.view.catalog().same_time(&rows.table) == SameTime::Merge {
        return None;
    }
    let mut wanted = Wanted::of(rows);
    for (group, _) in aggregate.group_expr().expr() {
        wanted.group(group)?;
    }
    for function in aggregate.aggr_expr() {
        wanted.function(function)?;
    }
    let Wanted {
        rows,
        measures,
        buckets,
        states,
    } = wanted;
    StatesSource::new(
        Arc::clone(rows),
        aggregate.schema(),
        states,
        measures,
        buckets,
    )
}

/// What was recognised so far.
struct Wanted<'a> {
    rows: &'a Arc<Rows>,
    /// Parallel to the fields of the scan.
    measures: Vec<Measures>,
    buckets: Option<Buckets>,
    /// The columns of the first stage.
    states: Vec<State>,
}

impl<'a> Wanted<'a> {
    fn of(rows: &'a Arc<Rows>) -> Self {
        Self {
            rows,
            measures: vec![Measures::default(); rows.fields.len()],
            buckets: None,
            states: Vec::new(),
        }
    }

    fn group(&mut self, expr: &Arc<dyn PhysicalExpr>) -> Option<()> {
        let state = match self.column(expr) {
            Some(Source::Device) => State::Device,
            Some(Source::Tag(key)) => State::Tag(key.clone()),
            Some(Source::Time | Source::Field(_)) => return None,
            None => {
                let buckets = self.buckets_of(expr)?;
                if self.buckets.is_some_and(|known| known != buckets) {
                    return None;
                }
                self.buckets = Some(buckets);
                State::Bucket
            }
        };
        self.states.push(state);
        Some(())
    }

    /// `date_bin` of the time by a width that is always the same.
    fn buckets_of(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<Buckets> {
        let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
        if call.fun().name() != "date_bin" {
            return None;
        }
        let (width, time, origin) = match call.args() {
            [width, time] => (width, time, 0),
            [width, time, origin] => match literal(origin)? {
                ScalarValue::TimestampNanosecond(Some(origin), _) => (width, time, *origin),
                _ => return None,
            },
            _ => return None,
        };
        if self.column(time) != Some(&Source::Time) {
            return None;
        }
        let (days, rest_ns) = match literal(width)? {
            ScalarValue::IntervalMonthDayNano(Some(width)) => {
                let (months, days, ns) = IntervalMonthDayNanoType::to_parts(*width);
                (months == 0).then_some((days, ns))?
            }
            ScalarValue::IntervalDayTime(Some(width)) => {
                let (days, ms) = IntervalDayTimeType::to_parts(*width);
                (days, i64::from(ms) * MILLISECOND_NS)
            }
            _ => return None,
        };
        let days_ns = i64::from(days).checked_mul(DAY_NS)?;
        Buckets::new(days_ns.checked_add(rest_ns)?, origin)
    }

    fn function(&mut self, function: &Arc<AggregateFunctionExpr>) -> Option<()> {
        let arguments = function.expressions();
        let [argument] = arguments.as_slice() else {
            return None;
        };
        if function.is_distinct() {
            return None;
        }
        match function.fun().name() {
            "count" => self.count(argument),
            "sum" => {
                let at = self.numeric(argument)?;
                self.measures[at].sum = true;
                self.states.push(State::Sum(at));
                Some(())
            }
            "avg" => {
                let at = self.averaged(argument)?;
                self.measures[at].sum = true;
                self.states
                    .extend([State::CountOfMean(at), State::SumOfMean(at)]);
                Some(())
            }
            "min" => self.extreme(argument, State::TimeMin, State::Min),
            "max" => self.extreme(argument, State::TimeMax, State::Max),
            "first_value" => self.end(function, argument, true),
            "last_value" => self.end(function, argument, false),
            _ => None,
        }
    }

    fn count(&mut self, argument: &Arc<dyn PhysicalExpr>) -> Option<()> {
        let state = match (self.column(argument), literal(argument)) {
            (Some(Source::Time | Source::Device), _) => State::Rows,
            (Some(Source::Tag(key)), _) => State::RowsWithTag(key.clone()),
            (Some(Source::Field(at)), _) => State::Count(*at),
            (None, Some(value)) if !value.is_null() => State::Rows,
            (None, _) => return None,
        };
        self.states.push(state);
        Some(())
    }

    fn extreme(
        &mut self,
        argument: &Arc<dyn PhysicalExpr>,
        of_times: State,
        of_field: fn(usize) -> State,
    ) -> Option<()> {
        let state = match self.column(argument)? {
            Source::Time => of_times,
            Source::Field(at) => of_field(*at),
            Source::Device | Source::Tag(_) => return None,
        };
        if let State::Min(at) | State::Max(at) = state {
            self.measures[at].extremes = true;
        }
        self.states.push(state);
        Some(())
    }

    /// The value at the least or the greatest time.
    fn end(
        &mut self,
        function: &AggregateFunctionExpr,
        argument: &Arc<dyn PhysicalExpr>,
        is_first: bool,
    ) -> Option<()> {
        let [by] = function.order_bys() else {
            return None;
        };
        if self.column(&by.expr) != Some(&Source::Time) {
            return None;
        }
        let at = self.field(argument)?;
        // The first of a falling order is the last of a rising one.
        let at_least_time = is_first != by.options.descending;
        let skips_nulls = function.ignore_nulls();
        self.measures[at].ends = true;
        self.states
            .extend(State::ends(at, at_least_time, skips_nulls));
        Some(())
    }

    /// An average is of floats. Of ints a state has the exact sum, rounded once, where rows are cast and
    /// added as floats, rounded each time: beyond 2^53 the last digits differ, and these are the better.
    fn averaged(&self, argument: &Arc<dyn PhysicalExpr>) -> Option<usize> {
        match argument.downcast_ref::<CastExpr>() {
            Some(cast) if *cast.cast_type() == DataType::Float64 => self.numeric(cast.expr()),
            Some(_) => None,
            None => self.numeric(argument),
        }
    }

    fn numeric(&self, argument: &Arc<dyn PhysicalExpr>) -> Option<usize> {
        let column = argument.downcast_ref::<Column>()?;
        let kind = self.rows.schema.field(column.index()).data_type();
        matches!(kind, DataType::Int64 | DataType::Float64).then_some(())?;
        self.field(argument)
    }

    fn field(&self, argument: &Arc<dyn PhysicalExpr>) -> Option<usize> {
        match self.column(argument)? {
            Source::Field(at) => Some(*at),
            _ => None,
        }
    }

    fn column(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<&'a Source> {
        let column = expr.downcast_ref::<Column>()?;
        self.rows.columns.get(column.index())
    }
}

fn literal(expr: &Arc<dyn PhysicalExpr>) -> Option<&ScalarValue> {
    Some(expr.downcast_ref::<Literal>()?.value())
}
