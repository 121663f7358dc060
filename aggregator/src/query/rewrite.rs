//! From PostgreSQL's SQL to DataFusion's: names of `pg_catalog`, casts to its types, and functions
//! that are short for others. Changes nothing that DataFusion would understand as it stands.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, JoinOperator,
    ObjectName, OrderByExpr, OrderByOptions, Query, Select, SelectItem, SetExpr, Statement,
    TableFactor, TableWithJoins, TimezoneInfo, TypedString, Value, VisitMut, VisitorMut,
};

use super::pg_catalog::EMPTY;
use super::session::PUBLIC;

const PG_CATALOG: &str = "pg_catalog";
/// A Monday, as TimescaleDB begins its buckets; those of months begin with a month.
const BUCKETS_FROM: &str = "2000-01-03T00:00:00Z";
const MONTH_BUCKETS_FROM: &str = "2000-01-01T00:00:00Z";

/// Makes a statement one that DataFusion plans.
pub(super) fn for_datafusion(statement: &mut Statement) {
    let ControlFlow::Continue(()) = statement.visit(&mut Rewrite);
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Infallible> {
        if empty_parts(&mut query.body) {
            // It may order by what is no longer there.
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Infallible> {
        name_columns(&mut select.projection);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        // Grafana unrolls the search path in ways that only PostgreSQL plans; ours is one schema.
        if let Expr::InSubquery {
            expr: inner,
            subquery,
            negated,
        } = expr
            && subquery
                .to_string()
                .contains("current_setting('search_path')")
        {
            let path = Value::SingleQuotedString(PUBLIC.to_owned());
            let (found, negated) = (Box::new(take(inner)), *negated);
            *expr = Expr::InList {
                expr: found,
                list: vec![Expr::Value(path.into())],
                negated,
            };
        }
        let query = match expr {
            Expr::Subquery(query) => Some(query),
            Expr::Function(Function {
                name,
                args: FunctionArguments::Subquery(query),
                ..
            }) if is_named(name, "array") => Some(query),
            _ => None,
        };
        if query.is_some_and(|query| is_empty(&query.body)) {
            *expr = null_text();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        match expr {
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(path) = op
                    && let [schema, sign] = path.as_slice()
                    && schema == PG_CATALOG
                    && let Some(known) = operator(sign)
                {
                    *op = known;
                }
            }
            Expr::Collate {
                expr: inner,
                collation,
            } if is_named(collation, "default") => {
                *expr = take(inner);
            }
            Expr::Cast {
                expr: inner,
                data_type,
                kind,
                ..
            } if *kind != CastKind::TryCast => {
                if let Some(cast) = cast(inner, data_type) {
                    *expr = cast;
                }
            }
            // Reserved words to PostgreSQL, columns to the parser.
            Expr::Identifier(Ident {
                value,
                quote_style: None,
                ..
            }) if ["current_schema", "current_role"]
                .iter()
                .any(|word| value.eq_ignore_ascii_case(word)) =>
            {
                *expr = function_of(&value.to_lowercase(), Vec::new());
            }
            Expr::Function(function) => {
                if let Some(other) = call(function) {
                    *expr = other;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Names casts by their column and buckets by their function, as PostgreSQL does. DataFusion would
/// mistake a cast for its column in `ORDER BY`.
fn name_columns(projection: &mut [SelectItem]) {
    let mut taken: Vec<String> = projection.iter().filter_map(name_of).collect();
    for item in projection {
        let SelectItem::UnnamedExpr(expr) = &*item else {
            continue;
        };
        let name = match expr {
            Expr::Cast { expr: inner, .. } => column_name(inner),
            Expr::Function(function) if is_named(&function.name, "time_bucket") => {
                Some(Ident::new("time_bucket"))
            }
            _ => None,
        };
        let Some(Ident {
            value, quote_style, ..
        }) = name
        else {
            continue;
        };
        let mut alias = value.clone();
        let mut number = 1;
        while taken.contains(&alias) {
            number += 1;
            alias = format!("{value}_{number}");
        }
        taken.push(alias.clone());
        let alias = match quote_style {
            Some(quote) => Ident::with_quote(quote, alias),
            None => Ident::new(alias),
        };
        *item = SelectItem::ExprWithAlias {
            expr: expr.clone(),
            alias,
        };
    }
}

fn name_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        SelectItem::UnnamedExpr(expr) => column_name(expr).map(|name| name.value),
        _ => None,
    }
}

fn column_name(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(name) => Some(name.clone()),
        Expr::CompoundIdentifier(path) => path.last().cloned(),
        _ => None,
    }
}

fn operator(sign: &str) -> Option<BinaryOperator> {
    Some(match sign {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// Types that only PostgreSQL has. Object ids are numbers; casts that look names up are functions.
fn cast(inner: &mut Box<Expr>, data_type: &mut DataType) -> Option<Expr> {
    let name = match data_type {
        DataType::Regclass => "regclass".to_owned(),
        DataType::Custom(name, arguments) if arguments.is_empty() => last(name)?.to_lowercase(),
        _ => return None,
    };
    let is_literal =
        matches!(&**inner, Expr::Value(value) if value.clone().into_string().is_some());
    let function = match (name.as_str(), is_literal) {
        ("regclass", true) => "to_regclass",
        ("regclass", false) => "regclass_name",
        ("regtype", true) => "to_regtype",
        ("regtype", false) => "format_type",
        ("regnamespace", false) => "regnamespace_name",
        ("regrole", false) => "pg_get_userbyid",
        _ => {
            *data_type = plain_type(&name)?;
            return None;
        }
    };
    Some(function_of(function, vec![take(inner)]))
}

fn plain_type(name: &str) -> Option<DataType> {
    Some(match name {
        "text" | "name" | "bpchar" | "char" | "regproc" => DataType::Text,
        "oid" | "xid" | "int8" => DataType::BigInt(None),
        "int4" => DataType::Int(None),
        "int2" => DataType::SmallInt(None),
        "float8" => DataType::DoublePrecision,
        "float4" => DataType::Real,
        "bool" => DataType::Boolean,
        "timestamptz" => DataType::Timestamp(None, TimezoneInfo::Tz),
        _ => return None,
    })
}

/// Unqualifies a function; the other expression if it is short for one.
fn call(function: &mut Function) -> Option<Expr> {
    let qualified = match function.name.0.as_slice() {
        [schema, _] => schema
            .as_ident()
            .is_some_and(|schema| schema.value == PG_CATALOG),
        _ => false,
    };
    if qualified {
        function.name.0.remove(0);
    }
    let name = last(&function.name)?.to_lowercase();
    let FunctionArguments::List(list) = &mut function.args else {
        return None;
    };
    match name.as_str() {
        // Catalogs hold texts where PostgreSQL has arrays.
        "array_to_string" if qualified => argument(list, 0).cloned(),
        "time_bucket" if matches!(list.args.len(), 2 | 3) => {
            time_bucket(list);
            function.name = ObjectName::from(vec![Ident::new("date_bin")]);
            None
        }
        "first" | "last" if list.args.len() == 2 && list.clauses.is_empty() => {
            let by = argument(list, 1)?.clone();
            list.args.truncate(1);
            let options = OrderByOptions {
                asc: None,
                nulls_first: None,
            };
            let by = OrderByExpr {
                expr: by,
                options,
                with_fill: None,
            };
            list.clauses.push(FunctionArgumentClause::OrderBy(vec![by]));
            let value = if name == "first" {
                "first_value"
            } else {
                "last_value"
            };
            function.name = ObjectName::from(vec![Ident::new(value)]);
            None
        }
        _ => None,
    }
}

/// `date_bin` counts from 1970; what is short for it does not.
fn time_bucket(list: &mut FunctionArgumentList) {
    let mut from = BUCKETS_FROM;
    if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(width))) = list.args.first_mut() {
        let text = width.to_string().to_lowercase();
        if text.contains("mon") || text.contains("year") || text.contains("quarter") {
            from = MONTH_BUCKETS_FROM;
        }
        if let Expr::Value(value) = &*width
            && let Some(text) = value.clone().into_string()
        {
            *width = typed(
                DataType::Interval {
                    fields: None,
                    precision: None,
                },
                spaced(&text),
            );
        }
    }
    if list.args.len() == 2 {
        let zoned = DataType::Timestamp(None, TimezoneInfo::WithTimeZone);
        let origin = typed(zoned, from.to_owned());
        list.args
            .push(FunctionArg::Unnamed(FunctionArgExpr::Expr(origin)));
    }
}

/// `300.000s` to `300.000 s`, as Grafana writes it and intervals need it.
fn spaced(text: &str) -> String {
    let at = text.find(|c: char| c.is_ascii_alphabetic());
    match at.map(|at| text.split_at(at)) {
        Some((number, unit)) if number.ends_with(|c: char| c.is_ascii_digit()) => {
            format!("{number} {unit}")
        }
        _ => text.to_owned(),
    }
}

/// Replaces selects that can have no row, as they read a catalog that is always empty. True if
/// nothing else is left.
fn empty_parts(body: &mut SetExpr) -> bool {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            let (left, right) = (empty_parts(left), empty_parts(right));
            left && right
        }
        SetExpr::Select(select) if selects_nothing(select) => {
            let projection = std::mem::take(&mut select.projection);
            select.projection = projection
                .into_iter()
                .enumerate()
                .map(without_rows)
                .collect();
            select.from.clear();
            let nothing = Value::Boolean(false).into();
            select.selection = Some(Expr::Value(nothing));
            true
        }
        _ => false,
    }
}

fn without_rows((at, item): (usize, SelectItem)) -> SelectItem {
    let alias = match item {
        SelectItem::ExprWithAlias { alias, .. } => alias,
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => name,
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(mut path)) if !path.is_empty() => {
            path.swap_remove(path.len() - 1)
        }
        _ => Ident::new(format!("column{}", at + 1)),
    };
    SelectItem::ExprWithAlias {
        expr: null_text(),
        alias,
    }
}

fn is_empty(body: &SetExpr) -> bool {
    matches!(body, SetExpr::Select(select) if selects_nothing(select))
}

/// An aggregate has a row even then.
fn selects_nothing(select: &Select) -> bool {
    const AGGREGATES: [&str; 6] = ["count", "max", "min", "sum", "string_agg", "array_agg"];
    let is_aggregate = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(Expr::Function(function))
        | SelectItem::ExprWithAlias {
            expr: Expr::Function(function),
            ..
        } => AGGREGATES.iter().any(|name| is_named(&function.name, name)),
        _ => false,
    };
    select.from.iter().any(joins_nothing) && !select.projection.iter().any(is_aggregate)
}

/// Whether a table that is always empty leaves no row of a join.
fn joins_nothing(from: &TableWithJoins) -> bool {
    let keeps_right = from.joins.iter().any(|join| {
        use JoinOperator as Op;
        !matches!(
            join.join_operator,
            Op::Join(_) | Op::Inner(_) | Op::CrossJoin(_) | Op::Left(_) | Op::LeftOuter(_)
        )
    });
    let inner = from.joins.iter().filter(|join| {
        use JoinOperator as Op;
        matches!(
            join.join_operator,
            Op::Join(_) | Op::Inner(_) | Op::CrossJoin(_)
        )
    });
    let mut needed = inner.map(|join| &join.relation).chain([&from.relation]);
    !keeps_right && needed.any(is_empty_table)
}

fn is_empty_table(factor: &TableFactor) -> bool {
    let (TableFactor::Table { name, .. } | TableFactor::Function { name, .. }) = factor else {
        return false;
    };
    let mut path = name.0.iter().rev().filter_map(|part| part.as_ident());
    let Some(table) = path.next() else {
        return false;
    };
    let in_catalog = path.next().map(|schema| schema.value == PG_CATALOG);
    // Arrays are not there to be unnested either.
    let unnested = in_catalog == Some(true) && table.value == "unnest";
    unnested || (in_catalog != Some(false) && EMPTY.iter().any(|(name, _)| *name == table.value))
}

fn is_named(path: &ObjectName, name: &str) -> bool {
    last(path).is_some_and(|last| last.eq_ignore_ascii_case(name))
}

fn last(path: &ObjectName) -> Option<&str> {
    Some(path.0.last()?.as_ident()?.value.as_str())
}

fn take(expr: &mut Box<Expr>) -> Expr {
    std::mem::replace(&mut **expr, Expr::Value(Value::Null.into()))
}

fn argument(list: &FunctionArgumentList, at: usize) -> Option<&Expr> {
    match list.args.get(at)? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn null_text() -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(Value::Null.into())),
        data_type: DataType::Text,
        array: false,
        format: None,
    }
}

fn typed(data_type: DataType, text: String) -> Expr {
    if let DataType::Interval { .. } = data_type {
        return Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(Expr::Value(Value::SingleQuotedString(text).into())),
            data_type,
            array: false,
            format: None,
        };
    }
    let value = Value::SingleQuotedString(text).into();
    Expr::TypedString(TypedString {
        data_type,
        value,
        uses_odbc_syntax: false,
    })
}

fn function_of(name: &str, arguments: Vec<Expr>) -> Expr {
    let unnamed = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let args = arguments.into_iter().map(unnamed).collect();
    let list = FunctionArgumentList {
        duplicate_treatment: None,
        args,
        clauses: Vec::new(),
    };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::statement;
    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = statement::parse(sql).unwrap();
        for_datafusion(&mut statement);
        statement.to_string()
    }

    #[test]
    fn plain_sql_stays_as_it_is() {
        for sql in [
            "SELECT a, count(*) FROM t WHERE b ~ 'x' GROUP BY a ORDER BY 1",
            "SELECT last(a) FROM t",
            "SELECT array_to_string(a, ',') FROM t",
            "SELECT ARRAY(SELECT a FROM t)",
        ] {
            assert_eq!(rewritten(sql), sql);
        }
    }

    #[test]
    fn names_of_the_catalog_become_plain_ones() {
        for (sql, plain) in [
            (
                "SELECT a OPERATOR(pg_catalog.~) 'x' COLLATE pg_catalog.default",
                "SELECT a ~ 'x'",
            ),
            ("SELECT '1'::pg_catalog.oid", "SELECT '1'::BIGINT"),
            (
                "SELECT a::pg_catalog.regtype::pg_catalog.text",
                "SELECT format_type(a)::TEXT",
            ),
            (
                "SELECT 'fire'::regclass::oid",
                "SELECT to_regclass('fire')::BIGINT",
            ),
            (
                "SELECT pg_catalog.pg_get_userbyid(a)",
                "SELECT pg_get_userbyid(a)",
            ),
            (
                "SELECT pg_catalog.array_to_string(acl, E'\\n')",
                "SELECT acl",
            ),
        ] {
            assert_eq!(rewritten(sql), plain);
        }
    }

    #[test]
    fn selects_from_empty_catalogs_are_empty() {
        assert_eq!(
            rewritten("SELECT polname, 'd' = any(x) AS b FROM pg_catalog.pg_policy pol ORDER BY c"),
            "SELECT CAST(NULL AS TEXT) AS polname, CAST(NULL AS TEXT) AS b WHERE false"
        );
        for kept in [
            "SELECT count(*) FROM pg_policy",
            "SELECT 1 FROM pg_class LEFT JOIN pg_policy ON true",
            "SELECT 1 FROM public.pg_policy",
        ] {
            assert_eq!(rewritten(kept), kept);
        }
    }

    #[test]
    fn casts_keep_the_names_of_their_columns() {
        assert_eq!(
            rewritten("SELECT time, CAST(time AS BIGINT), t.\"A b\"::int FROM t"),
            "SELECT time, CAST(time AS BIGINT) AS time_2, t.\"A b\"::INT AS \"A b\" FROM t"
        );
    }

    #[test]
    fn short_functions_are_spelled_out() {
        assert_eq!(
            rewritten("SELECT time_bucket('300.000s', time), last(v, time) FROM t"),
            "SELECT date_bin(CAST('300.000 s' AS INTERVAL), time, \
             TIMESTAMP WITH TIME ZONE '2000-01-03T00:00:00Z') AS time_bucket, \
             last_value(v ORDER BY time) FROM t"
        );
    }
}
