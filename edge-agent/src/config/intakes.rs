//! The part of the TOML file that names sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::limits::{LINE_PAYLOAD_BYTES_MAX, NAME_BYTES_MAX};
use shared::payload::line::{DEVICE_KEY, Precision};

use super::classes::named;
use super::file::{Located, bad, is_host_port, quoted, range, size};
use super::{AgentHealth, Csv, Host, Line, Listen, Replay, ReplayFormat};
use crate::buffer::Classes;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IntakeTables {
    health: AgentHealthTable,
    host: Option<HostTable>,
    line: Vec<LineTable>,
    replay: Vec<ReplayTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AgentHealthTable {
    enabled: bool,
    interval_ms: u64,
    class: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HostTable {
    enabled: bool,
    interval_ms: u64,
    class: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineTable {
    listen: String,
    #[serde(default)]
    ack: bool,
    #[serde(default = "precision")]
    precision: String,
    #[serde(default = "device_key")]
    device_key: String,
    #[serde(default = "connections_max")]
    connections_max: u64,
    #[serde(default = "line_bytes_max")]
    line_bytes_max: u64,
    class: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayTable {
    file: PathBuf,
    format: Option<String>,
    #[serde(default = "speed")]
    speed: f64,
    #[serde(default = "precision")]
    precision: String,
    #[serde(default = "device_key")]
    device_key: String,
    table: Option<String>,
    #[serde(default = "time_column")]
    time_column: String,
    #[serde(default = "device_key")]
    device_column: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    texts: Vec<String>,
    class: Option<String>,
}

type Intakes = (Option<Host>, Vec<Line>, Vec<Replay>);

fn precision() -> String {
    "ns".to_owned()
}

fn device_key() -> String {
    DEVICE_KEY.to_owned()
}

fn time_column() -> String {
    "time".to_owned()
}

fn connections_max() -> u64 {
    64
}

fn line_bytes_max() -> u64 {
    64 << 10
}

fn speed() -> f64 {
    1.0
}

impl Default for AgentHealthTable {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_ms: 10_000,
            class: None,
        }
    }
}

impl Default for HostTable {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_ms: 1_000,
            class: None,
        }
    }
}

impl IntakeTables {
    /// On unless switched off: who looks after many agents sees them all in one table.
    pub(super) fn agent_health(&self, classes: &Classes) -> Result<Option<AgentHealth>, Located> {
        let interval = range(
            "intake.health",
            "interval_ms",
            self.health.interval_ms,
            100,
            86_400_000,
        )?;
        let class = named(classes, "intake.health", self.health.class.as_deref())?;
        Ok(self.health.enabled.then_some(AgentHealth {
            interval: Duration::from_millis(interval),
            class,
        }))
    }

    pub(super) fn resolve(self, folder: &Path, classes: &Classes) -> Result<Intakes, Located> {
        let host = self.host.unwrap_or(HostTable {
            enabled: false,
            ..HostTable::default()
        });
        let interval = range(
            "intake.host",
            "interval_ms",
            host.interval_ms,
            10,
            86_400_000,
        )?;
        let class = named(classes, "intake.host", host.class.as_deref())?;
        let host = host.enabled.then_some(Host {
            interval: Duration::from_millis(interval),
            class,
        });
        let mut lines: Vec<Line> = Vec::new();
        for (nth, table) in self.line.into_iter().enumerate() {
            let line = table
                .resolve(folder, classes)
                .map_err(|bad| Located { nth, ..bad })?;
            if lines.iter().any(|other| other.listen == line.listen) {
                let allowed = "another [[intake.line]] listens there already";
                let bad = bad(
                    "intake.line",
                    "listen",
                    quoted(&line.listen.to_string()),
                    allowed,
                );
                return Err(Located { nth, ..bad });
            }
            lines.push(line);
        }
        let mut names = BTreeSet::new();
        let mut replays = Vec::new();
        for (nth, table) in self.replay.into_iter().enumerate() {
            let replay = table
                .resolve(folder, classes)
                .map_err(|bad| Located { nth, ..bad })?;
            if !names.insert(replay.file.file_name().map(ToOwned::to_owned)) {
                let allowed = "the position of a replay is kept under the name of its file: \
                               name each file once, and give it a name of its own";
                let shown = quoted(&replay.file.display().to_string());
                let bad = bad("intake.replay", "file", shown, allowed);
                return Err(Located { nth, ..bad });
            }
            replays.push(replay);
        }
        Ok((host, lines, replays))
    }
}

impl LineTable {
    fn resolve(self, folder: &Path, classes: &Classes) -> Result<Line, Located> {
        const TABLE: &str = "intake.line";
        let listen = listen(&self.listen, folder).ok_or_else(|| {
            let allowed = "write \"tcp://host:port\", \"unix://path\" or \"stdin\"";
            bad(TABLE, "listen", quoted(&self.listen), allowed)
        })?;
        name(TABLE, "device_key", &self.device_key)?;
        let connections = range(TABLE, "connections_max", self.connections_max, 1, 10_000)?;
        let bytes = range(
            TABLE,
            "line_bytes_max",
            self.line_bytes_max,
            256,
            LINE_PAYLOAD_BYTES_MAX as u64,
        )?;
        Ok(Line {
            listen,
            ack: self.ack,
            precision: time_unit(TABLE, &self.precision)?,
            device_key: self.device_key,
            connections_max: size(connections),
            line_bytes_max: size(bytes),
            class: named(classes, TABLE, self.class.as_deref())?,
        })
    }
}

impl ReplayTable {
    fn resolve(self, folder: &Path, classes: &Classes) -> Result<Replay, Located> {
        const TABLE: &str = "intake.replay";
        if self.file.file_name().is_none() {
            let shown = quoted(&self.file.display().to_string());
            return Err(bad(TABLE, "file", shown, "name a file"));
        }
        if !(self.speed.is_finite() && self.speed >= 0.0) {
            let allowed = "1 is as it was recorded, 10 ten times as fast, 0 as fast as it is taken";
            return Err(bad(TABLE, "speed", self.speed, allowed));
        }
        let precision = time_unit(TABLE, &self.precision)?;
        let ending = self.file.extension().and_then(|ending| ending.to_str());
        let format = match self.format.as_deref().or(ending) {
            Some("csv") => ReplayFormat::Csv(Csv {
                table: self.table.unwrap_or_else(|| {
                    let stem = self.file.file_stem().unwrap_or_default();
                    stem.to_string_lossy().into_owned()
                }),
                time_column: self.time_column,
                device_column: self.device_column,
                tags: self.tags,
                texts: self.texts,
            }),
            Some("line" | "lp") => ReplayFormat::Line {
                device_key: self.device_key,
            },
            other => {
                let allowed = "allowed are \"csv\" and \"line\"; without it, the file's name must \
                               end in .csv or .lp";
                return Err(bad(TABLE, "format", quoted(other.unwrap_or("")), allowed));
            }
        };
        if let ReplayFormat::Csv(csv) = &format {
            name(TABLE, "table", &csv.table)?;
        }
        Ok(Replay {
            file: folder.join(self.file),
            format,
            speed: self.speed,
            precision,
            class: named(classes, TABLE, self.class.as_deref())?,
        })
    }
}

fn listen(text: &str, folder: &Path) -> Option<Listen> {
    if text == "stdin" {
        return Some(Listen::Stdin);
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        return is_host_port(address).then(|| Listen::Tcp(address.to_owned()));
    }
    let path = text.strip_prefix("unix://").filter(|path| !path.is_empty());
    path.map(|path| Listen::Unix(folder.join(path)))
}

fn time_unit(table: &'static str, text: &str) -> Result<Precision, Located> {
    let allowed = "the unit of its times: \"ns\", \"us\", \"ms\" or \"s\"";
    Precision::parse(text).ok_or_else(|| bad(table, "precision", quoted(text), allowed))
}

fn name(table: &'static str, key: &'static str, text: &str) -> Result<(), Located> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    let allowed = format!("use 1 to {NAME_BYTES_MAX} bytes without control characters");
    if fits {
        Ok(())
    } else {
        Err(bad(table, key, quoted(text), allowed))
    }
}
