//! What a text asks for: a question for the engine, or what drivers say around questions. Pure.

use super::error::PgError;

/// One statement of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// For the engine, which refuses what does more than read.
    Query,
    Begin,
    Commit,
    Rollback,
    Set {
        name: String,
        value: String,
        /// Up to the end of the transaction.
        local: bool,
    },
    /// To what it was at the login; `None`: all of them.
    Reset(Option<String>),
    Show(String),
    /// Something that has nothing to do here; its tag.
    Nothing(&'static str),
    /// Forgets prepared statements; `None`: all.
    Deallocate(Option<String>),
    /// Forgets everything of the session.
    DiscardAll,
}

/// Divides a text at its semicolons; comments and quotes may hold some. Empty ones are left out.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while at < text.len() {
        at = match text.as_bytes()[at] {
            b';' => {
                statements.push(&text[begin..at]);
                begin = at + 1;
                begin
            }
            _ => skip(text, at),
        };
    }
    statements.push(&text[begin..]);
    statements.retain(|statement| !is_blank(statement));
    statements
}

/// Where the token that starts at `at` ends; a byte that is no token of its own is one.
fn skip(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    let after = |end: Option<usize>, length: usize| end.map_or(text.len(), |end| at + end + length);
    match rest.as_bytes() {
        [b'\'', ..] => {
            let before = &text.as_bytes()[..at];
            let escapes = matches!(before, [.., b'e' | b'E'])
                && !before[..before.len() - 1]
                    .last()
                    .is_some_and(|b| is_word(*b));
            at + quoted(rest.as_bytes(), b'\'', escapes)
        }
        [b'"', ..] => at + quoted(rest.as_bytes(), b'"', false),
        [b'-', b'-', ..] => after(rest.find('\n'), 1),
        [b'/', b'*', ..] => at + comment(rest.as_bytes()),
        [b'$', ..] if !text.as_bytes()[..at].last().is_some_and(|b| is_word(*b)) => {
            match dollar_tag(rest) {
                Some(tag) => after(rest[tag.len()..].find(tag), 2 * tag.len()),
                None => at + 1,
            }
        }
        _ => at + rest.chars().next().map_or(1, char::len_utf8),
    }
}

/// The length of a quoted text with its quotes; doubled quotes stand for one.
fn quoted(rest: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' if escapes => at += 2,
            byte if byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a comment; they nest.
fn comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// `$$` or `$tag$` at the start.
fn dollar_tag(rest: &str) -> Option<&str> {
    let end = rest[1..].find('$')? + 1;
    let name = &rest.as_bytes()[1..end];
    let starts = name.first().is_none_or(|byte| !byte.is_ascii_digit());
    (starts && name.iter().all(|byte| is_word(*byte))).then(|| &rest[..=end])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn is_blank(statement: &str) -> bool {
    without_comments(statement).trim().is_empty()
}

/// The statement from its first word on.
fn without_comments(statement: &str) -> &str {
    let mut rest = statement.trim_start();
    while rest.starts_with("--") || rest.starts_with("/*") {
        rest = rest[skip(rest, 0)..].trim_start();
    }
    rest
}

/// The first word in capitals: also the tag of an answer.
pub(super) fn verb(statement: &str) -> String {
    let rest = without_comments(statement);
    let end = rest
        .bytes()
        .position(|byte| !is_word(byte))
        .unwrap_or(rest.len());
    rest[..end].to_ascii_uppercase()
}

/// What one statement of `split` asks for.
pub(super) fn classify(statement: &str) -> Result<Command, PgError> {
    let words = words(without_comments(statement));
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    Ok(match upper[..] {
        ["BEGIN", ..] | ["START", "TRANSACTION", ..] => Command::Begin,
        ["COMMIT" | "END", ..] => Command::Commit,
        // Not to a savepoint: there are none.
        ["ROLLBACK"] | ["ROLLBACK", "WORK" | "TRANSACTION" | "AND", ..] | ["ABORT", ..] => {
            Command::Rollback
        }
        // Always so, or without meaning where nothing is written.
        ["SET", "TRANSACTION" | "CONSTRAINTS", ..] | ["SET", "SESSION", "CHARACTERISTICS", ..] => {
            Command::Nothing("SET")
        }
        ["SET", scope @ ("SESSION" | "LOCAL"), ..] => set(&words[2..], scope == "LOCAL")?,
        ["SET", ..] => set(&words[1..], false)?,
        ["RESET", "ALL"] => Command::Reset(None),
        ["RESET", name] => Command::Reset(Some(name.to_lowercase())),
        ["SHOW", "TRANSACTION", "ISOLATION", "LEVEL"] => {
            Command::Show("transaction_isolation".to_owned())
        }
        ["SHOW", "TIME", "ZONE"] => Command::Show("timezone".to_owned()),
        ["SHOW", name] if !matches!(name, "TABLES" | "COLUMNS") => {
            Command::Show(name.to_lowercase())
        }
        ["DEALLOCATE", "ALL"] | ["DEALLOCATE", "PREPARE", "ALL"] => Command::Deallocate(None),
        ["DEALLOCATE", .., _] => Command::Deallocate(words.last().map(|name| unquoted(name))),
        ["DISCARD", "ALL"] => Command::DiscardAll,
        ["DISCARD", ..] => Command::Nothing("DISCARD"),
        ["UNLISTEN", ..] => Command::Nothing("UNLISTEN"),
        ["CLOSE", "ALL"] => Command::Nothing("CLOSE CURSOR ALL"),
        _ => Command::Query,
    })
}

/// `name = value` or `name TO value`, after the SET.
fn set(words: &[&str], local: bool) -> Result<Command, PgError> {
    let (name, value) = match words {
        [time, zone, value @ ..]
            if time.eq_ignore_ascii_case("time") && zone.eq_ignore_ascii_case("zone") =>
        {
            ("timezone".to_owned(), value)
        }
        [names, value @ ..] if names.eq_ignore_ascii_case("names") => {
            ("client_encoding".to_owned(), value)
        }
        [name, between, value @ ..] if *between == "=" || between.eq_ignore_ascii_case("to") => {
            (unquoted(name).to_lowercase(), value)
        }
        _ => {
            return Err(PgError::error(
                "42601",
                "SET name = value, or SET name TO value",
            ));
        }
    };
    if value.is_empty() {
        return Err(PgError::error("42601", format!("SET {name} lacks a value")));
    }
    let value: Vec<String> = value.iter().map(|word| unquoted(word)).collect();
    let value = value.join(" ").replace(" , ", ", ");
    Ok(Command::Set { name, value, local })
}

/// Words, quoted texts and signs, without comments and a final semicolon. Enough for the short
/// statements that are told apart here; of long ones only the beginning is taken.
fn words(statement: &str) -> Vec<&str> {
    const WORDS_MAX: usize = 32;
    let bytes = statement.as_bytes();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() && words.len() < WORDS_MAX {
        let begin = at;
        if is_word(bytes[at]) {
            // A dot as in `tributary.consistency`, a minus as in `ISO-8859-1` or a time zone.
            let inside = |byte: &u8| is_word(*byte) || matches!(byte, b'.' | b'/');
            at += bytes[at..].iter().take_while(|byte| inside(byte)).count();
        } else {
            at = skip(statement, at);
        }
        let word = &statement[begin..at];
        let is_comment = word.starts_with("--") || word.starts_with("/*");
        if !is_comment && !word.trim().is_empty() && word != ";" {
            words.push(word);
        }
    }
    words
}

fn unquoted(word: &str) -> String {
    for quote in ['\'', '"'] {
        let inside = word
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        if let Some(inside) = inside {
            let doubled: String = [quote, quote].iter().collect();
            return inside.replace(&doubled, &quote.to_string());
        }
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_divided_at_semicolons_outside_of_quotes() {
        for (text, expected) in [
            ("SELECT 1", vec!["SELECT 1"]),
            ("SELECT 1; SELECT 2;", vec!["SELECT 1", " SELECT 2"]),
            (" ; ;; -- nothing\n;/* ; */", vec![]),
            (
                "SELECT ';', \";\" -- ;\n; x",
                vec!["SELECT ';', \";\" -- ;\n", " x"],
            ),
            ("SELECT 'it''s;' ; b", vec!["SELECT 'it''s;' ", " b"]),
            ("SELECT E'\\';' ; b", vec!["SELECT E'\\';' ", " b"]),
            ("SELECT 'a\\' ; b", vec!["SELECT 'a\\' ", " b"]),
            (
                "SELECT $$;$$, $t$;$$;$t$ ; $1",
                vec!["SELECT $$;$$, $t$;$$;$t$ ", " $1"],
            ),
            (
                "/* a /* ; */ ; */ SELECT 1",
                vec!["/* a /* ; */ ; */ SELECT 1"],
            ),
            ("SELECT 'open; ", vec!["SELECT 'open; "]),
            ("SELECT 'ü;' ; é", vec!["SELECT 'ü;' ", " é"]),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn what_drivers_say_is_understood() {
        let scoped = |name: &str, value: &str, local| Command::Set {
            name: name.into(),
            value: value.into(),
            local,
        };
        let set = |name, value| scoped(name, value, false);
        for (text, expected) in [
            ("SELECT 1", Command::Query),
            ("/* x */ begin", Command::Begin),
            (
                "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                Command::Begin,
            ),
            ("BEGIN READ ONLY", Command::Begin),
            ("commit work", Command::Commit),
            ("ROLLBACK", Command::Rollback),
            ("ROLLBACK TO SAVEPOINT a", Command::Query),
            ("SET extra_float_digits = 3", set("extra_float_digits", "3")),
            ("SET application_name='a b'", set("application_name", "a b")),
            ("SET SESSION \"TimeZone\" TO 'UTC'", set("timezone", "UTC")),
            (
                "SET TIME ZONE 'Europe/Berlin'",
                set("timezone", "Europe/Berlin"),
            ),
            (
                "SET search_path TO a, public",
                set("search_path", "a, public"),
            ),
            (
                "SET tributary.consistency = stale",
                set("tributary.consistency", "stale"),
            ),
            (
                "SET LOCAL statement_timeout = 10",
                scoped("statement_timeout", "10", true),
            ),
            ("SET NAMES 'UTF8'", set("client_encoding", "UTF8")),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                Command::Nothing("SET"),
            ),
            ("SHOW TABLES", Command::Query),
            (
                "show Transaction isolation level",
                Command::Show("transaction_isolation".into()),
            ),
            (
                "SHOW server_version",
                Command::Show("server_version".into()),
            ),
            ("RESET ALL", Command::Reset(None)),
            ("DEALLOCATE \"s1\"", Command::Deallocate(Some("s1".into()))),
            ("DISCARD ALL", Command::DiscardAll),
            ("UNLISTEN *", Command::Nothing("UNLISTEN")),
            ("DROP TABLE x", Command::Query),
        ] {
            assert_eq!(classify(text).unwrap(), expected, "{text}");
        }
        for bad in ["SET", "SET x", "SET x ="] {
            assert_eq!(classify(bad).unwrap_err().code, "42601", "{bad}");
        }
        assert_eq!(verb(" -- x\n select 1"), "SELECT");
    }
}
