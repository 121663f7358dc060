//! The live table: redrawn in place on a terminal, one line a second otherwise.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use harness::cluster::leader_name;
use harness::sql::Table;

use crate::system::System;

/// Columns of the terminal that are used.
const WIDTH: usize = 100;
/// Rows of newest readings; a machine with many disks has more tables than lines.
const ROWS_MAX: usize = 14;

const TABLES_SQL: &str = "SELECT table_name FROM information_schema.tables \
                          WHERE table_name LIKE 'host_%' ORDER BY table_name";

pub(crate) struct Screen {
    terminal: bool,
    /// Lines drawn last time, to be drawn over.
    drawn: usize,
    /// Readings acknowledged at the last draw, for the rate.
    acked: Option<f64>,
}

/// What one draw shows.
#[derive(Debug, Default, Clone, PartialEq)]
struct Picture {
    seconds: u64,
    leader: String,
    acked: f64,
    rate: f64,
    ack_ms: (f64, f64),
    held: f64,
    /// Table, who, values, of the newest row of each.
    newest: Vec<[String; 3]>,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        Screen {
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            acked: None,
        }
    }

    /// A line that stays above the table.
    pub(crate) fn note(&mut self, line: &str) {
        Self::print(line);
        self.drawn = 0;
    }

    pub(crate) fn draw(&mut self, elapsed: Duration, system: &System) {
        let picture = self.look(elapsed, system);
        if self.terminal {
            let text = picture.table();
            let erase = match self.drawn {
                0 => String::new(),
                lines => format!("\x1b[{lines}A\x1b[J"),
            };
            self.drawn = text.lines().count();
            Self::print(&format!("{erase}{}", text.trim_end()));
        } else {
            Self::print(&picture.line());
        }
    }

    fn look(&mut self, elapsed: Duration, system: &System) -> Picture {
        let client = system.client();
        // A node or the agent may be away for a moment: then the old figures are not shown.
        let status = system.agent.status().unwrap_or_default();
        let number = |name: &str| status[name].as_f64().unwrap_or_default();
        let acked = number("readings_acked_total");
        let rate = self
            .acked
            .replace(acked)
            .map_or(0.0, |before| (acked - before).max(0.0));
        let leader = client.status().ok().and_then(|status| leader_name(&status));
        let tables = client
            .sql(TABLES_SQL)
            .map(|table| first_column(&table))
            .unwrap_or_default();
        let newest = tables.iter().filter_map(|name| {
            let newest = format!("SELECT * FROM {name} ORDER BY time DESC LIMIT 1");
            newest_row(name, &client.sql(&newest).ok()?)
        });
        Picture {
            seconds: elapsed.as_secs(),
            leader: leader.unwrap_or_else(|| "none".to_owned()),
            acked,
            rate,
            ack_ms: (number("ack_ms_p50"), number("ack_ms_p99")),
            held: number("buffer_bytes"),
            newest: newest.take(ROWS_MAX).collect(),
        }
    }

    fn print(text: &str) {
        let _ = writeln!(io::stdout(), "{text}");
    }
}

impl Picture {
    /// Everything in one line.
    fn line(&self) -> String {
        let (p50, p99) = self.ack_ms;
        let newest = self
            .newest
            .iter()
            .find(|row| row[0] == "host_load")
            .or(self.newest.first());
        let newest = newest.map(|row| row.join(" ")).unwrap_or_default();
        let line = format!(
            "{:>4} s  {} readings acknowledged, {}/s, ack p50 {p50} ms p99 {p99} ms, leader {}  {newest}",
            self.seconds, self.acked, self.rate, self.leader
        );
        cut(&line, 2 * WIDTH)
    }

    fn table(&self) -> String {
        let (p50, p99) = self.ack_ms;
        let mut text = format!(
            "{:>4} s   leader {}   {} readings acknowledged, {}/s   ack p50 {p50} ms p99 {p99} ms   \
             buffer {} KiB\n",
            self.seconds,
            self.leader,
            self.acked,
            self.rate,
            (self.held / 1024.0).ceil()
        );
        for [table, who, values] in &self.newest {
            let row = format!("{table:<18} {who:<24} {values}");
            writeln!(text, "{}", cut(&row, WIDTH)).expect("writing to a string cannot fail");
        }
        text
    }
}

fn first_column(table: &Table) -> Vec<String> {
    let is_name = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    table
        .rows
        .iter()
        .filter_map(|row| row.first()?.clone())
        .filter(is_name)
        .collect()
}

/// Texts name the row, numbers are its values; time is the one thing that all rows share.
fn newest_row(name: &str, table: &Table) -> Option<[String; 3]> {
    let row = table.rows.first()?;
    let mut who = Vec::new();
    let mut values = Vec::new();
    for (column, cell) in table.columns.iter().zip(row) {
        match cell {
            Some(text) if column != "time" && text.parse::<f64>().is_ok() => {
                values.push(format!("{column}={text}"));
            }
            Some(text) if column != "time" => who.push(text.clone()),
            _ => {}
        }
    }
    Some([name.to_owned(), who.join(" "), values.join(" ")])
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_told_by_its_texts_and_its_numbers() {
        let text = "time,device,cpu,user,idle\n2026-01-01T00:00:00Z,here,cpu0,12,\n";
        let row = newest_row("host_cpu", &Table::parse(text).unwrap()).unwrap();
        assert_eq!(row, ["host_cpu", "here cpu0", "user=12"]);
        assert_eq!(newest_row("host_cpu", &Table::parse("").unwrap()), None);
    }

    #[test]
    fn lines_fit_their_width() {
        let long = [String::from("t"), String::from("w"), "v".repeat(500)];
        let picture = Picture {
            newest: vec![long],
            ..Picture::default()
        };
        assert!(
            picture
                .table()
                .lines()
                .skip(1)
                .all(|line| line.chars().count() <= WIDTH)
        );
        assert!(picture.line().chars().count() <= 2 * WIDTH);
    }
}
