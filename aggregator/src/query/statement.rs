//! From text to one statement that only reads and that is not deep enough to break a stack.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, Statement, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::QueryError;

/// Of one statement.
const STATEMENT_BYTES_MAX: usize = 256 << 10;
/// Words, numbers and signs; bounds how deep a chain such as `1 + 1 + ..` can become.
const TOKENS_MAX: usize = 16_384;
/// Parentheses, subqueries and the like within each other.
const NESTING_MAX: usize = 50;
/// Operators within each other, and links of a chain of `UNION`. Planning takes the square of it.
const DEPTH_MAX: usize = 400;

/// Parses the one statement in a text; refuses what does more than read.
pub(super) fn parse(sql: &str) -> Result<Statement, QueryError> {
    if sql.len() > STATEMENT_BYTES_MAX {
        let message = format!("{} bytes of SQL; {STATEMENT_BYTES_MAX} may be", sql.len());
        return Err(QueryError::TooLarge { message });
    }
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| QueryError::Syntax {
        message: error.to_string(),
    })?;
    let words = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .count();
    if words > TOKENS_MAX {
        let message = format!("{words} words of SQL; {TOKENS_MAX} may be");
        return Err(QueryError::TooLarge { message });
    }
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(NESTING_MAX)
        .with_tokens_with_locations(tokens);
    let mut statements = parser.parse_statements().map_err(|error| match error {
        ParserError::RecursionLimitExceeded => too_deep(NESTING_MAX),
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => {
            QueryError::Syntax { message }
        }
    })?;
    let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
        let message = "one statement at a time, and not none".to_owned();
        return Err(QueryError::Syntax { message });
    };
    let mut depth = Depth { expressions: 0 };
    if statement.visit(&mut depth).is_break() {
        return Err(too_deep(DEPTH_MAX));
    }
    if reads_only(&statement) {
        return Ok(statement);
    }
    Err(QueryError::NotAllowed {
        statement: verb(sql),
    })
}

/// The first word, for messages.
pub(super) fn verb(sql: &str) -> String {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize()
        .unwrap_or_default();
    let word = tokens.iter().find_map(|token| match token {
        Token::Word(word) => Some(word.value.to_uppercase()),
        _ => None,
    });
    word.unwrap_or_else(|| "the statement".to_owned())
}

fn reads_only(statement: &Statement) -> bool {
    match statement {
        Statement::Query(query) => query.locks.is_empty(),
        Statement::Explain { statement, .. } => matches!(**statement, Statement::Query(_)),
        Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. } => true,
        _ => false,
    }
}

fn too_deep(max: usize) -> QueryError {
    QueryError::TooLarge {
        message: format!("more than {max} levels within each other"),
    }
}

struct Depth {
    expressions: usize,
}

impl Visitor for Depth {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.expressions += 1;
        if self.expressions > DEPTH_MAX {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.expressions -= 1;
        ControlFlow::Continue(())
    }

    /// Chains of UNION lean to the left.
    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let mut body = &*query.body;
        let mut depth = 0;
        while let SetExpr::SetOperation { left, .. } = body {
            depth += 1;
            body = left;
        }
        if depth > DEPTH_MAX {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_is_let_in() {
        for sql in [
            "SELECT 1",
            "select 1;",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "VALUES (1)",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
            "SHOW TABLES",
            "SHOW COLUMNS FROM a",
        ] {
            parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        for (sql, word) in [
            ("DROP TABLE fire", "DROP"),
            ("INSERT INTO fire VALUES (1)", "INSERT"),
            ("COPY fire TO '/tmp/x'", "COPY"),
            ("COPY (SELECT 1) TO '/tmp/x'", "COPY"),
            ("CREATE TABLE a (b int)", "CREATE"),
            ("DELETE FROM fire", "DELETE"),
            ("UPDATE fire SET a = 1", "UPDATE"),
            ("SET a = 1", "SET"),
            ("EXPLAIN ANALYZE INSERT INTO fire VALUES (1)", "EXPLAIN"),
            ("SELECT * FROM fire FOR UPDATE", "SELECT"),
        ] {
            match parse(sql) {
                Err(QueryError::NotAllowed { statement }) => assert_eq!(statement, word, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[test]
    fn statements_are_bounded() {
        let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        let chain = format!("SELECT 1{}", " + 1".repeat(2_000));
        let union = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(2_000));
        let words = format!("SELECT 1{}", " + 1".repeat(20_000));
        let bytes = format!("SELECT '{}'", "x".repeat(STATEMENT_BYTES_MAX));
        for sql in [deep, chain, union, words, bytes] {
            let error = parse(&sql).expect_err("too large");
            assert!(matches!(error, QueryError::TooLarge { .. }), "{error}");
        }
        let list = vec!["'d'"; 8_000].join(",");
        parse(&format!("SELECT * FROM a WHERE device IN ({list})")).expect("flat is fine");
    }

    #[test]
    fn one_statement_at_a_time() {
        for sql in ["", " ; ", "SELECT 1; SELECT 2", "SELEC 1"] {
            assert!(
                matches!(parse(sql), Err(QueryError::Syntax { .. })),
                "{sql}"
            );
        }
    }
}
