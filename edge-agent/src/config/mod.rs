//! The configuration of one agent: read once, checked as a whole, then trusted.
//!
//! `file.rs` is the TOML as the operator writes it, `classes.rs` and `intakes.rs` its parts about
//! priorities and sources; this is what the stages get: paths resolved against the folder of the file, durations with their type,
//! relations checked.

mod file;
mod classes;
mod intakes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::id::AgentId;
use shared::payload::line::Precision;

use crate::batcher::Linger;
use crate::buffer::Classes;
use crate::handed::Class;
use crate::window::Hours;
use file::{ConfigFile, Located};

/// Everything one agent is told by its operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The agent's name, as it stands in its certificate.
    pub agent: AgentId,
    /// A folder that this agent alone writes.
    pub data_dir: PathBuf,
    pub uplink: Uplink,
    pub batch: Batch,
    pub buffer: Buffer,
    /// Whose readings go first when the buffer is full.
    pub classes: Classes,
    pub window: Window,
    /// `host:port` of a loopback address for `/status` and `/metrics`; none if absent.
    pub health: Option<String>,
    /// Where every kept reading is written as line protocol; nowhere if absent.
    pub ledger: Option<PathBuf>,
    /// Readings of the agent itself; none if switched off.
    pub agent_health: Option<AgentHealth>,
    pub host: Option<Host>,
    pub lines: Vec<Line>,
    pub replays: Vec<Replay>,
}

/// Where readings go, and who the agent is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// `host:port` of the MQTT listeners of the nodes; at least one.
    pub servers: Vec<String>,
    /// PEM: who signs the nodes.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// On a link that needs longer for a batch, a session asks for more.
    pub keep_alive: Duration,
    /// Of batches, live ones and repeats included; 0: no cap.
    pub bytes_per_second_max: u64,
    /// When backlog and older epochs are sent.
    pub backlog_hours: Hours,
}

/// When a batch is sealed: whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub rows_max: usize,
    pub bytes_max: usize,
    /// How long a reading waits for others.
    pub linger: Linger,
}

/// What is held until the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// On disk.
    pub bytes_max: u64,
    pub ram_bytes_max: usize,
    /// How long a reading may be neither on disk nor acknowledged.
    pub max_unsafe: Duration,
}

/// What is on its way without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub batches_max: usize,
    pub bytes_max: usize,
    /// How much of the window old readings may take while new ones come.
    pub backlog_share_percent: u8,
}

/// Readings of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub interval: Duration,
    pub class: Class,
}

/// Readings of the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentHealth {
    pub interval: Duration,
    pub class: Class,
}

/// Influx line protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub listen: Listen,
    /// Each line is answered: `ok <line>` once kept, or `error <line> <why>`.
    pub ack: bool,
    /// The unit of the times in lines.
    pub precision: Precision,
    /// The tag that names the device.
    pub device_key: String,
    pub connections_max: usize,
    /// A longer line is refused.
    pub line_bytes_max: usize,
    pub class: Class,
}

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// The standard input of the process; answers go to its standard output.
    Stdin,
    /// `host:port`
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A file with readings that have their own times.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    pub file: PathBuf,
    pub format: ReplayFormat,
    /// How much faster than it was recorded; 0: as fast as it is taken.
    pub speed: f64,
    /// The unit of its times.
    pub precision: Precision,
    pub class: Class,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayFormat {
    /// Line protocol.
    Line {
        device_key: String,
    },
    Csv(Csv),
}

/// Which column of a CSV file is what; the columns named nowhere are fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csv {
    /// The table its readings go to.
    pub table: String,
    pub time_column: String,
    /// A file without this column is of one device: the agent.
    pub device_column: String,
    pub tags: Vec<String>,
    /// Fields that are texts even where they look like numbers.
    pub texts: Vec<String>,
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Why a configuration is not used. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}:{line}: `{key}` = {value}: {allowed}", path.display())]
    Value {
        path: PathBuf,
        line: usize,
        key: String,
        value: String,
        allowed: String,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(&text, path)
    }

    /// Checks a text as if it stood in the file `path`, which need not exist.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let raw: ConfigFile = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            // The parser's own text: line, column, the line itself, and the keys that exist.
            message: error.to_string().trim_end().to_owned(),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        raw.resolve(folder).map_err(|bad| {
            let line = file::line_of(text, &bad);
            let Located {
                table,
                key,
                value,
                allowed,
                ..
            } = bad;
            ConfigError::Value {
                path: path.to_owned(),
                line,
                key: format!("{table}.{key}"),
                value,
                allowed,
            }
        })
    }
}

#[cfg(test)]
mod tests;
