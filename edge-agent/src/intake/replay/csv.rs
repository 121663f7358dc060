//! Rows of a CSV file (RFC 4180, one row a line) as readings.
//!
//! A cell is absent if empty, a boolean if `true` or `false`, an integer with an `i` behind it,
//! as in line protocol, a float if it is any other number, else a text. A column is one type:
//! numbers are floats, so that `1` and `1.5` may stand in one.

use shared::id::TimeNs;
use shared::payload::line::Precision;
use shared::reading::{Reading, Value};

use crate::config::Csv;

/// What the first line says about all others.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    table: String,
    columns: Vec<Column>,
}

#[derive(Debug, PartialEq)]
enum Column {
    Time,
    Device,
    Tag(String),
    Field(String),
    /// A field that is a text whatever it looks like.
    Text(String),
}

impl Header {
    /// # Errors
    /// No CSV, no column of the time, or a configured column that does not exist.
    pub(super) fn parse(line: &[u8], csv: Csv) -> Result<Header, String> {
        let names = cells(line)?;
        let wanted = csv.tags.iter().chain(&csv.texts).chain([&csv.time_column]);
        for name in wanted {
            if !names.contains(name) {
                let there = names.join(", ");
                return Err(format!("there is no column {name:?}, only {there}"));
            }
        }
        let columns = names.into_iter().map(|name| {
            if name == csv.time_column {
                Column::Time
            } else if name == csv.device_column {
                Column::Device
            } else if csv.tags.contains(&name) {
                Column::Tag(name)
            } else if csv.texts.contains(&name) {
                Column::Text(name)
            } else {
                Column::Field(name)
            }
        });
        Ok(Header {
            columns: columns.collect(),
            table: csv.table,
        })
    }

    /// The reading of one row; `None` for a blank line.
    pub(super) fn reading(
        &self,
        line: &[u8],
        precision: Precision,
        default_device: &str,
    ) -> Result<Option<Reading>, String> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let cells = cells(line)?;
        if cells.len() != self.columns.len() {
            let (found, wanted) = (cells.len(), self.columns.len());
            return Err(format!("it has {found} cells, the header {wanted}"));
        }
        let (mut device, mut at) = (default_device.to_owned(), TimeNs(0));
        let (mut tags, mut fields) = (Vec::new(), Vec::new());
        for (column, cell) in self.columns.iter().zip(cells) {
            match column {
                Column::Time => at = time(&cell, precision)?,
                _ if cell.is_empty() => {}
                Column::Device => device = cell,
                Column::Tag(name) => tags.push((name.clone(), cell)),
                Column::Field(name) => fields.push((name.clone(), value(name, cell)?)),
                Column::Text(name) => fields.push((name.clone(), Value::Text(cell))),
            }
        }
        tags.sort_unstable();
        let reading = Reading::new(self.table.clone(), device, tags, at, fields);
        reading.check().map_err(|unfit| unfit.to_string())?;
        Ok(Some(reading))
    }
}

fn time(cell: &str, precision: Precision) -> Result<TimeNs, String> {
    let unit_ns = match precision {
        Precision::Ns => 1,
        Precision::Us => 1_000,
        Precision::Ms => 1_000_000,
        Precision::S => 1_000_000_000,
    };
    let number = cell.trim().parse::<i64>().ok();
    let time = number.and_then(|number| number.checked_mul(unit_ns));
    time.map(TimeNs).ok_or_else(|| {
        format!("{cell:?} is no time: write a whole number, and its unit in `precision`")
    })
}

fn value(name: &str, cell: String) -> Result<Value, String> {
    match cell.as_str() {
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let integer = cell
        .strip_suffix('i')
        .and_then(|digits| digits.parse().ok());
    if let Some(integer) = integer {
        return Ok(Value::Int(integer));
    }
    match cell.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Value::Float(number)),
        Ok(_) => Err(format!(
            "{name} is {cell}: NaN and infinity are no values here, leave the cell empty"
        )),
        Err(_) => Ok(Value::Text(cell)),
    }
}

/// The cells of one row, without their quotes.
fn cells(line: &[u8]) -> Result<Vec<String>, String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let (cell, after) = if let Some(inside) = rest.strip_prefix('"') {
            quoted(inside)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        cells.push(cell);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(cells),
            None => return Err("something stands behind a closing quote".to_owned()),
        }
    }
}

/// A quoted cell and what follows its closing quote; two quotes are one.
fn quoted(inside: &str) -> Result<(String, &str), String> {
    let mut cell = String::new();
    let mut rest = inside;
    loop {
        let end = rest.find('"').ok_or("a quote is not closed on its line")?;
        cell.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                cell.push('"');
                rest = after;
            }
            None => return Ok((cell, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::payload::line;

    fn header(line: &str) -> Result<Header, String> {
        let csv = Csv {
            table: "truck".to_owned(),
            time_column: "ts".to_owned(),
            device_column: "name".to_owned(),
            tags: vec!["fleet".to_owned()],
            texts: vec!["plate".to_owned()],
        };
        Header::parse(line.as_bytes(), csv)
    }

    #[test]
    fn rows_become_readings() {
        let header = header("ts,name,fleet,plate,speed,on,count,note\r").unwrap();
        let row = |line: &str| {
            let reading = header.reading(line.as_bytes(), Precision::S, "gw1")?;
            Ok::<_, String>(reading.map(|reading| line::format(&reading).unwrap()))
        };
        assert_eq!(
            row("5,t1,\"North, \"\"1\"\"\",007,1,true,7i,moving\r")
                .unwrap()
                .unwrap(),
            "truck,device=t1,fleet=North\\,\\ \"1\" plate=\"007\",speed=1.0,on=t,count=7i,\
             note=\"moving\" 5000000000"
        );
        assert_eq!(
            row("6,,,,1.5,,,").unwrap().unwrap(),
            "truck,device=gw1 speed=1.5 6000000000"
        );
        assert_eq!(row("  "), Ok(None));
        for (line, part) in [
            ("5,t1", "2 cells, the header 8"),
            ("x,t1,,,1,,,", "no time"),
            ("5,t1,,,NaN,,,", "speed is NaN"),
            ("5,t1,,,,,,", "without fields"),
            ("5,\"t1,,,,,,", "not closed"),
            ("5,\"t1\"x,,,1,,,", "behind"),
            ("9999999999999,t1,,,1,,,", "no time"),
        ] {
            let error = row(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_header_must_have_what_is_configured() {
        assert!(header("ts,fleet,plate").is_ok());
        for (line, part) in [
            ("", "\"fleet\""),
            ("fleet,plate", "\"ts\""),
            ("\"ts", "quote"),
        ] {
            let error = header(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
