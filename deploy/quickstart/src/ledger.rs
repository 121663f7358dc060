//! Reads the agent's ledger: line protocol, one line for each reading it keeps.
//!
//! With a parser of its own: a proof must not lean on the code that it is to prove.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A row as both sides can tell it: its table, its time, and each column's text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Row {
    pub(crate) table: String,
    pub(crate) time_ns: i64,
    /// Tags and fields, without those that are absent.
    pub(crate) columns: BTreeMap<String, String>,
}

/// All rows of the file, in its order.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty());
    lines
        .map(|(at, line)| {
            parse(line).ok_or_else(|| format!("{}:{}: no reading: {line}", path.display(), at + 1))
        })
        .collect()
}

/// Moves the time of the last row by a nanosecond.
pub(crate) fn tamper(path: &Path) -> Result<(), String> {
    let words = |e| format!("{}: {e}", path.display());
    let text = fs::read_to_string(path).map_err(words)?;
    let (rest, time) = text.trim_end().rsplit_once(' ').ok_or("an empty ledger")?;
    let time: i64 = time.parse().map_err(|_| "the last row has no time")?;
    fs::write(path, format!("{rest} {}\n", time + 1)).map_err(words)
}

/// One text for one number, however it is written: `1`, `1.0` and `1e0` are the same value.
pub(crate) fn canonical(text: &str) -> String {
    if text.parse::<i64>().is_ok() {
        return text.to_owned();
    }
    match text.parse::<f64>() {
        // A stored integer comes back as a float if its field was widened.
        Ok(number) if number.fract() == 0.0 && number.abs() < 9e15 && !is_negative_zero(number) => {
            format!("{number:.0}")
        }
        Ok(number) => format!("{number:?}"),
        Err(_) => text.to_owned(),
    }
}

fn is_negative_zero(number: f64) -> bool {
    number == 0.0 && number.is_sign_negative()
}

fn parse(line: &str) -> Option<Row> {
    let (series, rest) = split_at_unescaped(line, ' ')?;
    let (fields, time) = rest.rsplit_once(' ')?;
    let mut labels = pieces(series, ',', false).into_iter();
    let table = unescape(&labels.next()?);
    let mut columns = BTreeMap::new();
    for label in labels {
        let (key, value) = split_at_unescaped(&label, '=')?;
        columns.insert(unescape(key), unescape(value));
    }
    for field in pieces(fields, ',', true) {
        let (key, value) = split_at_unescaped(&field, '=')?;
        columns.insert(unescape(key), field_text(value)?);
    }
    Some(Row {
        table,
        time_ns: time.parse().ok()?,
        columns,
    })
}

fn field_text(value: &str) -> Option<String> {
    if let Some(text) = value.strip_prefix('"') {
        return Some(unescape(text.strip_suffix('"')?));
    }
    match value {
        "t" | "T" | "true" | "True" | "TRUE" => Some("true".to_owned()),
        "f" | "F" | "false" | "False" | "FALSE" => Some("false".to_owned()),
        _ => match value.strip_suffix('i') {
            Some(integer) => integer.parse::<i64>().ok().map(|number| number.to_string()),
            None => value
                .parse::<f64>()
                .ok()
                .map(|number| canonical(&format!("{number:?}"))),
        },
    }
}

/// Splits at each `separator` that is neither escaped nor, if asked, within double quotes.
fn pieces(text: &str, separator: char, quotes: bool) -> Vec<String> {
    let mut found = vec![String::new()];
    let (mut escaped, mut quoted) = (false, false);
    for character in text.chars() {
        if character == separator && !escaped && !quoted {
            found.push(String::new());
            continue;
        }
        quoted ^= quotes && character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        found.last_mut().expect("never empty").push(character);
    }
    found
}

fn split_at_unescaped(text: &str, separator: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        if character == separator && !escaped {
            return Some((&text[..at], &text[at + separator.len_utf8()..]));
        }
        escaped = character == '\\' && !escaped;
    }
    None
}

/// A backslash before a character that needs one goes; before any other it stays.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let next = characters.peek().copied();
        if character == '\\'
            && next.is_some_and(|next| matches!(next, ',' | '=' | ' ' | '"' | '\\'))
        {
            plain.extend(characters.next());
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str) -> (String, i64, Vec<(String, String)>) {
        let Row {
            table,
            time_ns,
            columns,
        } = parse(line).unwrap();
        (table, time_ns, columns.into_iter().collect())
    }

    #[test]
    fn line_protocol_with_all_its_escapes_is_read() {
        let (table, time, columns) = row(
            r#"my\ table,device=a\,b,key\=1=c\ d f=1.50,i=-7i,b=t,s="x, \"y\" = \\ z" 1767225600000000001"#,
        );
        assert_eq!(
            (table.as_str(), time),
            ("my table", 1_767_225_600_000_000_001)
        );
        let expected = [
            ("b", "true"),
            ("device", "a,b"),
            ("f", "1.5"),
            ("i", "-7"),
            ("key=1", "c d"),
            ("s", r#"x, "y" = \ z"#),
        ];
        assert_eq!(
            columns,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        for broken in ["", "t", "t f=1", "t f=x 1", "t f=1 x", "t,d f=1 1"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_number_has_one_text() {
        for (text, one) in [
            ("1", "1"),
            ("1.0", "1"),
            ("1e0", "1"),
            ("0.1", "0.1"),
            ("1e-7", "1e-7"),
            ("9007199254740993", "9007199254740993"),
            ("-0.0", "-0.0"),
            ("0.0", "0"),
            ("cpu0", "cpu0"),
        ] {
            assert_eq!(canonical(text), one);
        }
    }

    #[test]
    fn tampering_changes_one_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        fs::write(&path, "t f=1 5\nt f=2 6\n").unwrap();
        let before = read(&path).unwrap();
        tamper(&path).unwrap();
        let after = read(&path).unwrap();
        assert_eq!(
            (before[0].clone(), before[1].time_ns + 1),
            (after[0].clone(), after[1].time_ns)
        );
    }
}
