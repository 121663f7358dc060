//! JSON lines to rows. Values stay the text that the server sent: a number that went through
//! `f64` and back could come out as another.

use crate::failure::Failure;

/// Bytes of one row: what one reading can hold at most, with room for its JSON.
const ROW_BYTES_MAX: usize = 32 << 20;

/// One row: its line and its columns in the server's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The whole JSON object.
    pub(crate) line: String,
    pub(crate) columns: Vec<(String, Cell)>,
}

/// One value, printable as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Text(String),
    /// A number, truth value, array or object, as the server wrote it.
    Other(String),
}

/// Splits a stream of bytes into rows.
#[derive(Debug)]
pub(crate) struct Rows {
    pending: Vec<u8>,
    /// Where the next row starts in `pending`.
    start: usize,
    /// No line feed stands in `pending[start..searched]`.
    searched: usize,
}

impl Rows {
    pub(crate) fn new() -> Self {
        Self {
            pending: Vec::new(),
            start: 0,
            searched: 0,
        }
    }

    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.pending.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.pending.len() + data.len() > ROW_BYTES_MAX && !data.contains(&b'\n') {
            return Err(Failure::Query(format!(
                "a row is over {ROW_BYTES_MAX} bytes"
            )));
        }
        self.pending.extend_from_slice(data);
        Ok(())
    }

    /// The next whole row, if one is there.
    pub(crate) fn next(&mut self) -> Result<Option<Row>, Failure> {
        loop {
            let found = self.pending[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            let Some(offset) = found else {
                self.searched = self.pending.len();
                return Ok(None);
            };
            let end = self.searched + offset;
            let line = self.pending[self.start..end].to_vec();
            self.start = end + 1;
            self.searched = self.start;
            if !line.trim_ascii().is_empty() {
                return row(line).map(Some);
            }
        }
    }

    /// The row without a line feed at the end of the stream, if there is one.
    pub(crate) fn finish(&mut self) -> Result<Option<Row>, Failure> {
        let rest = self.pending.split_off(self.start);
        *self = Self::new();
        if rest.trim_ascii().is_empty() {
            Ok(None)
        } else {
            row(rest).map(Some)
        }
    }
}

/// The words in an error's body: `{"error": "..."}`, `{"error": {"message", "hint"}}` or text.
pub(crate) fn error_text(body: &[u8]) -> String {
    use serde_json::Value;
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) else {
        return String::from_utf8_lossy(body).trim().to_owned();
    };
    let error = match object.get("error") {
        Some(Value::String(text)) => Some((text.as_str(), &object)),
        Some(Value::Object(inner)) => inner
            .get("message")
            .and_then(Value::as_str)
            .map(|text| (text, inner)),
        _ => object
            .get("message")
            .and_then(Value::as_str)
            .map(|text| (text, &object)),
    };
    let Some((message, holder)) = error else {
        return String::from_utf8_lossy(body).trim().to_owned();
    };
    let extra = |key: &str| holder.get(key).and_then(Value::as_str);
    let mut text = message.to_owned();
    if let Some(code) = extra("code").or_else(|| extra("sqlstate")) {
        text = format!("{text} ({code})");
    }
    match extra("hint") {
        Some(hint) => format!("{text}. Hint: {hint}"),
        None => text,
    }
}

fn row(line: Vec<u8>) -> Result<Row, Failure> {
    let broken = |why: &str| Failure::Query(format!("the server sent a row that is {why}"));
    let line = String::from_utf8(line).map_err(|_| broken("no UTF-8"))?;
    let line = line.trim();
    let columns = split(line).ok_or_else(|| broken("no JSON object: is it another service?"))?;
    // An error after the first rows can only come as a last line of its own.
    if let [(name, Cell::Other(_))] = columns.as_slice()
        && name == "error"
    {
        return Err(Failure::Query(error_text(line.as_bytes())));
    }
    Ok(Row {
        line: line.to_owned(),
        columns,
    })
}

/// The members of a JSON object in their order, each value as it stands; `None` if it is none.
fn split(line: &str) -> Option<Vec<(String, Cell)>> {
    // Checks the syntax once, so that the scan below may trust it.
    serde_json::from_str::<serde::de::IgnoredAny>(line).ok()?;
    let mut rest = line.strip_prefix('{')?.trim_start();
    let mut columns = Vec::new();
    while !rest.starts_with('}') {
        let name_end = value_end(rest)?;
        let name = serde_json::from_str(&rest[..name_end]).ok()?;
        rest = rest[name_end..]
            .trim_start()
            .strip_prefix(':')?
            .trim_start();
        let end = value_end(rest)?;
        let text = rest[..end].trim_end();
        columns.push((name, cell(text)?));
        rest = rest[end..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(columns)
}

fn cell(text: &str) -> Option<Cell> {
    Some(match text.as_bytes().first()? {
        b'n' => Cell::Null,
        b'"' => Cell::Text(serde_json::from_str(text).ok()?),
        _ => Cell::Other(text.to_owned()),
    })
}

/// Where the JSON value at the start of `text` ends; `text` is known to be sound.
fn value_end(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    in_string = false;
                    if depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' | b'}' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(text: &str) -> Cell {
        Cell::Other(text.to_owned())
    }

    #[test]
    fn rows_come_whole_however_the_bytes_are_cut() {
        let stream = "{\"b\":1,\"a\":\"x\\\"},\\n\"}\n\n{\"b\" : 0.1000 , \"a\":null}\n{}";
        for cut in 1..stream.len() {
            let mut rows = Rows::new();
            let mut found = Vec::new();
            for piece in stream.as_bytes().chunks(cut) {
                rows.push(piece).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    found.push(row.columns);
                }
            }
            found.extend(rows.finish().unwrap().map(|row| row.columns));
            assert_eq!(
                found,
                [
                    vec![
                        ("b".into(), other("1")),
                        ("a".into(), Cell::Text("x\"},\n".into()))
                    ],
                    vec![("b".into(), other("0.1000")), ("a".into(), Cell::Null)],
                    vec![],
                ]
            );
        }
    }

    #[test]
    fn numbers_and_nested_values_keep_their_text() {
        let line = r#"{"n":9007199254740993,"f":1e-7,"l":[1,{"a":"]"}],"o":{"k":[]},"t":true}"#;
        let cells: Vec<_> = split(line)
            .unwrap()
            .into_iter()
            .map(|(_, cell)| cell)
            .collect();
        assert_eq!(
            cells,
            [
                "9007199254740993",
                "1e-7",
                r#"[1,{"a":"]"}]"#,
                r#"{"k":[]}"#,
                "true"
            ]
            .map(other)
        );
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        for line in ["<html>", "[1]", "{\"a\":}", "{\"a\":1", "7"] {
            assert!(row(line.into()).is_err(), "{line}");
        }
        let late = row(br#"{"error":{"message":"out of memory","code":"53200"}}"#.to_vec());
        assert_eq!(late.unwrap_err().to_string(), "out of memory (53200)");
    }

    #[test]
    fn error_bodies_of_each_shape_are_read() {
        for (body, text) in [
            (r#"{"error":"no such table"}"#, "no such table"),
            (
                r#"{"error":{"message":"no table x","code":"42P01","hint":"try \\d"}}"#,
                "no table x (42P01). Hint: try \\d",
            ),
            (r#"{"message":"m","hint":"h"}"#, "m. Hint: h"),
            ("plain\n", "plain"),
        ] {
            assert_eq!(error_text(body.as_bytes()), text);
        }
    }
}
