//! Reads a cluster through the `tributary` binary: what the tests see is what a user sees.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Asks nodes as one user.
#[derive(Debug, Clone)]
pub struct Client {
    pub cli: PathBuf,
    /// `https://host:port`, one or several with commas.
    pub server: String,
    pub ca: PathBuf,
    pub user: String,
    pub password: String,
    pub timeout_seconds: u64,
}

/// An answer: a header and rows of texts, `None` for NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

/// The CLI's refusal: its exit code and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub exit_code: i32,
    pub message: String,
}

impl Client {
    /// One statement, all rows.
    pub fn sql(&self, statement: &str) -> Result<Table, Refused> {
        let text = self.run(&["sql", statement, "--format", "csv"])?;
        Table::parse(&text).ok_or_else(|| Refused {
            exit_code: 0,
            message: format!("the CLI printed no CSV: {text:?}"),
        })
    }

    /// The first cell of the first row.
    pub fn value(&self, statement: &str) -> Result<Option<String>, Refused> {
        let table = self.sql(statement)?;
        Ok(table
            .rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten()))
    }

    /// What `GET /v1/status` says.
    pub fn status(&self) -> Result<serde_json::Value, Refused> {
        let text = self.run(&["status", "--format", "jsonl"])?;
        serde_json::from_str(&text).map_err(|e| Refused {
            exit_code: 0,
            message: format!("no JSON status: {e}: {text}"),
        })
    }

    /// The same client at another node.
    #[must_use]
    pub fn at(&self, server: String) -> Client {
        Client {
            server,
            ..self.clone()
        }
    }

    /// Runs the CLI with this client's identity.
    pub fn run(&self, arguments: &[&str]) -> Result<String, Refused> {
        let output = self
            .command()
            .args(arguments)
            .output()
            .map_err(|e| Refused {
                exit_code: -1,
                message: format!("cannot run {}: {e}", self.cli.display()),
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Refused {
            exit_code: output.status.code().unwrap_or(-1),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// The flags that a person types for this; the password goes by environment.
    pub fn flags(&self) -> String {
        format!(
            "--server {} --ca {} --user {}",
            self.server,
            self.ca.display(),
            self.user
        )
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.cli);
        command
            .stdin(Stdio::null())
            // Nothing of the developer's own settings may leak into a run.
            .env_remove("HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("TRIBUTARY_CONFIG")
            .env_remove("TRIBUTARY_CERT")
            .env_remove("TRIBUTARY_KEY")
            .env_remove("TRIBUTARY_PASSWORD_FILE")
            .env("TRIBUTARY_SERVER", &self.server)
            .env("TRIBUTARY_CA", &self.ca)
            .env("TRIBUTARY_USER", &self.user)
            .env("TRIBUTARY_PASSWORD", &self.password)
            .args(["--timeout-seconds", &self.timeout_seconds.to_string()]);
        command
    }
}

impl Table {
    /// Parses the CLI's CSV: RFC 4180 with LF; an empty unquoted field is NULL. No rows at all
    /// print nothing, not even a header.
    pub fn parse(text: &str) -> Option<Table> {
        let mut records = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (record, after) = record(rest)?;
            records.push(record);
            rest = after;
        }
        let mut records = records.into_iter();
        let columns: Vec<String> = records
            .next()
            .unwrap_or_default()
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let rows: Vec<_> = records.collect();
        rows.iter()
            .all(|row| row.len() == columns.len())
            .then_some(Table { columns, rows })
    }

    /// Each row as a map from column to text, without the NULLs.
    pub fn records(&self) -> Vec<HashMap<&str, &str>> {
        self.rows
            .iter()
            .map(|row| {
                let cells = self.columns.iter().zip(row);
                cells
                    .filter_map(|(name, cell)| Some((name.as_str(), cell.as_deref()?)))
                    .collect()
            })
            .collect()
    }

    /// The texts of one column; panics if there is none of that name.
    pub fn column(&self, name: &str) -> Vec<Option<&str>> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let at = self.columns.iter().position(|column| column == name);
        let at = at.unwrap_or_else(|| panic!("no column {name} in {:?}", self.columns));
        self.rows.iter().map(|row| row[at].as_deref()).collect()
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}: {}", self.exit_code, self.message)
    }
}

impl std::error::Error for Refused {}

/// One CSV record and the text behind it.
fn record(text: &str) -> Option<(Vec<Option<String>>, &str)> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find([',', '\n']).unwrap_or(rest.len());
                let field = (end > 0).then(|| rest[..end].to_owned());
                (field, &rest[end..])
            }
        };
        fields.push(field);
        match after.as_bytes().first() {
            Some(b',') => rest = &after[1..],
            Some(b'\n') => return Some((fields, &after[1..])),
            None => return Some((fields, "")),
            Some(_) => return None,
        }
    }
}

fn quoted_field(text: &str) -> Option<(Option<String>, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((Some(field), rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_of_the_cli_is_read_back() {
        let table = Table::parse("a,\"b,c\"\n1,\"x \"\"y\"\"\nz\"\n,\"\"\n").unwrap();
        assert_eq!(table.columns, ["a", "b,c"]);
        assert_eq!(
            table.rows,
            [
                vec![Some("1".to_owned()), Some("x \"y\"\nz".to_owned())],
                vec![None, Some(String::new())],
            ]
        );
        assert_eq!(table.column("a"), [Some("1"), None]);
        assert_eq!(table.records()[1].get("b,c"), Some(&""));
        assert!(Table::parse("").unwrap().rows.is_empty());
        assert!(Table::parse("a,b\n1\n").is_none(), "a short row");
        assert!(Table::parse("a\n\"1").is_none(), "an open quote");
    }
}
