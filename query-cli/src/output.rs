//! Rows to standard output in one of three formats.

use std::io::Write;

use comfy_table::{Table, presets};

use crate::args::Format;
use crate::failure::Failure;
use crate::rows::{Cell, Row};

/// Rows that one table holds back to find its column widths; further rows start the next table.
const TABLE_ROWS_MAX: usize = 10_000;

pub(crate) struct Output<W: Write> {
    format: Format,
    to: W,
    header: Vec<String>,
    /// Held back for the table format.
    held: Vec<Vec<String>>,
    rows: u64,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(format: Format, to: W) -> Self {
        Self {
            format,
            to,
            header: Vec::new(),
            held: Vec::new(),
            rows: 0,
        }
    }

    pub(crate) fn row(&mut self, row: &Row) -> Result<(), Failure> {
        if self.format == Format::Jsonl {
            writeln!(self.to, "{}", row.line)?;
            self.rows += 1;
            return Ok(());
        }
        if self.rows == 0 {
            self.header = row.columns.iter().map(|(name, _)| name.clone()).collect();
            if self.format == Format::Csv {
                write_csv(&mut self.to, self.header.iter().map(|name| quoted(name)))?;
            }
        }
        self.rows += 1;
        let cells = cells(&self.header, row)?;
        if self.format == Format::Csv {
            write_csv(&mut self.to, cells.iter().map(|cell| csv_cell(cell)))?;
            return Ok(());
        }
        self.held
            .push(cells.iter().map(|cell| shown(cell)).collect());
        if self.held.len() == TABLE_ROWS_MAX {
            self.flush_table()?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        if self.format == Format::Table {
            self.flush_table()?;
            let plural = if self.rows == 1 { "" } else { "s" };
            writeln!(self.to, "({} row{plural})", self.rows)?;
        }
        self.to.flush()?;
        Ok(())
    }

    fn flush_table(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        let table = table(&self.header, std::mem::take(&mut self.held));
        writeln!(self.to, "{table}")?;
        Ok(())
    }
}

/// A table in the CLI's one style.
pub(crate) fn table(header: &[String], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header)
        .add_rows(rows);
    table
}

/// The row's cells in the header's order: the server names the columns of every row alike.
fn cells<'a>(header: &[String], row: &'a Row) -> Result<Vec<&'a Cell>, Failure> {
    let same = row.columns.len() == header.len()
        && row
            .columns
            .iter()
            .zip(header)
            .all(|((name, _), head)| name == head);
    if !same {
        return Err(Failure::Query(
            "the server changed the columns within one answer. Try --format jsonl".to_owned(),
        ));
    }
    Ok(row.columns.iter().map(|(_, cell)| cell).collect())
}

fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        // Control characters in stored text must not reach the terminal.
        Cell::Text(text) => text.chars().flat_map(printable).collect(),
        Cell::Other(text) => text.clone(),
    }
}

fn printable(character: char) -> Vec<char> {
    if character.is_control() {
        character.escape_default().collect()
    } else {
        vec![character]
    }
}

fn csv_cell(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Text(text) if text.is_empty() => "\"\"".to_owned(),
        Cell::Text(text) | Cell::Other(text) => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn write_csv(to: &mut impl Write, fields: impl Iterator<Item = String>) -> Result<(), Failure> {
    let line = fields.collect::<Vec<_>>().join(",");
    // RFC 4180 ends lines with CR LF; every reader of today takes LF, and so do pipes.
    writeln!(to, "{line}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Rows;

    fn print(format: Format, lines: &str) -> Result<String, Failure> {
        let mut rows = Rows::new();
        rows.push(lines.as_bytes())?;
        let mut text = Vec::new();
        let mut output = Output::new(format, &mut text);
        while let Some(row) = rows.next()? {
            output.row(&row)?;
        }
        output.finish()?;
        Ok(String::from_utf8(text).unwrap())
    }

    const ROWS: &str = "{\"time\":\"2026-01-01T00:00:00Z\",\"v\":0.1,\"note\":\"a,\\\"b\\\"\"}\n\
                        {\"time\":\"2026-01-01T00:00:01Z\",\"v\":null,\"note\":\"\"}\n";

    #[test]
    fn csv_tells_null_from_empty_text() {
        assert_eq!(
            print(Format::Csv, ROWS).unwrap(),
            "time,v,note\n2026-01-01T00:00:00Z,0.1,\"a,\"\"b\"\"\"\n2026-01-01T00:00:01Z,,\"\"\n"
        );
    }

    #[test]
    fn jsonl_is_what_the_server_sent() {
        assert_eq!(print(Format::Jsonl, ROWS).unwrap(), ROWS);
    }

    #[test]
    fn a_table_shows_columns_in_order_and_no_control_characters() {
        let text = print(Format::Table, "{\"b\":1,\"a\":\"x\\u001b[2J\"}\n").unwrap();
        assert!(text.find('b').unwrap() < text.find('a').unwrap());
        assert!(
            text.contains("\\u{1b}[2J") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(text.ends_with("(1 row)\n"));
        assert_eq!(print(Format::Table, "").unwrap(), "(0 rows)\n");
    }

    #[test]
    fn changed_columns_are_an_error_not_shifted_cells() {
        assert!(print(Format::Csv, "{\"a\":1}\n{\"b\":1}\n").is_err());
    }
}
