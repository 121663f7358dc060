//! The configuration as it stands in the TOML file, and the checks that turn it into `Config`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::id::AgentId;
use shared::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};

use super::classes::{self, ClassTable};
use super::intakes::IntakeTables;
use super::{Batch, Buffer, Config, Uplink, Window};
use crate::batcher::Linger;
use crate::window::Hours;

/// How long readings may be asked to wait for others.
pub(super) const LINGER_MS_MAX: u64 = 600_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    agent: AgentTable,
    uplink: UplinkTable,
    #[serde(default)]
    batch: BatchTable,
    #[serde(default)]
    buffer: BufferTable,
    #[serde(default)]
    class: Vec<ClassTable>,
    #[serde(default)]
    window: WindowTable,
    health: Option<HealthTable>,
    ledger: Option<LedgerTable>,
    #[serde(default)]
    intake: IntakeTables,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentTable {
    id: String,
    data_dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UplinkTable {
    servers: Vec<String>,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    #[serde(default = "keep_alive_seconds")]
    keep_alive_seconds: u64,
    #[serde(default)]
    bytes_per_second_max: u64,
    #[serde(default)]
    backlog_hours: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BatchTable {
    rows_max: u64,
    bytes_max: u64,
    linger_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BufferTable {
    bytes_max: u64,
    ram_bytes_max: u64,
    max_unsafe_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WindowTable {
    batches_max: u64,
    bytes_max: u64,
    backlog_share_percent: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthTable {
    listen: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerTable {
    file: PathBuf,
}

/// A value that may not stand where it stands.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) table: &'static str,
    /// Which of several tables of that name, from 0.
    pub(super) nth: usize,
    pub(super) key: &'static str,
    pub(super) value: String,
    pub(super) allowed: String,
}

fn keep_alive_seconds() -> u64 {
    20
}

impl Default for BatchTable {
    fn default() -> Self {
        Self {
            rows_max: 4_000,
            bytes_max: 16 << 10,
            linger_ms: 1_000,
        }
    }
}

impl Default for BufferTable {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            ram_bytes_max: 8 << 20,
            max_unsafe_ms: 10_000,
        }
    }
}

impl Default for WindowTable {
    fn default() -> Self {
        Self {
            batches_max: 16,
            bytes_max: 2 << 20,
            backlog_share_percent: 20,
        }
    }
}

impl ConfigFile {
    pub(super) fn resolve(self, folder: &Path) -> Result<Config, Located> {
        let agent = AgentId::parse(&self.agent.id).map_err(|_| {
            let allowed = "use 1 to 64 of a-z A-Z 0-9 . _ - and no leading dot; \
                           it is the name in the agent's certificate";
            bad("agent", "id", quoted(&self.agent.id), allowed)
        })?;
        if self.agent.data_dir.as_os_str().is_empty() {
            let allowed = "a folder that this agent alone writes";
            return Err(bad("agent", "data_dir", "\"\"", allowed));
        }
        let health = self.health.map(|table| table.listen);
        if let Some(listen) = &health {
            loopback("health", "listen", listen)?;
        }
        let buffer = self.buffer.resolve()?;
        let batch = self.batch.resolve(&self.class)?;
        if batch.bytes_max > buffer.ram_bytes_max {
            let allowed = format!(
                "at most buffer.ram_bytes_max, which is {}",
                buffer.ram_bytes_max
            );
            return Err(bad("batch", "bytes_max", batch.bytes_max, allowed));
        }
        let classes = classes::resolve(self.class)?;
        let agent_health = self.intake.agent_health(&classes)?;
        let (host, lines, replays) = self.intake.resolve(folder, &classes)?;
        Ok(Config {
            agent,
            data_dir: folder.join(self.agent.data_dir),
            uplink: self.uplink.resolve(folder)?,
            batch,
            buffer,
            classes,
            window: self.window.resolve()?,
            health,
            ledger: self.ledger.map(|table| folder.join(table.file)),
            agent_health,
            host,
            lines,
            replays,
        })
    }
}

impl UplinkTable {
    fn resolve(self, folder: &Path) -> Result<Uplink, Located> {
        if self.servers.is_empty() {
            let allowed = "name at least one node: [\"host:8883\"]";
            return Err(bad("uplink", "servers", "[]", allowed));
        }
        for server in &self.servers {
            host_port("uplink", "servers", server)?;
        }
        let keep_alive = range(
            "uplink",
            "keep_alive_seconds",
            self.keep_alive_seconds,
            1,
            3_600,
        )?;
        let cap = self.bytes_per_second_max;
        if cap != 0 {
            range("uplink", "bytes_per_second_max", cap, 256, 1 << 40)?;
        }
        let backlog_hours = Hours::parse(&self.backlog_hours).map_err(|span| {
            let allowed = "write spans of the day in UTC, like \"22:00-06:00\"; none is always";
            bad("uplink", "backlog_hours", quoted(span), allowed)
        })?;
        Ok(Uplink {
            servers: self.servers,
            ca: folder.join(self.ca),
            cert: folder.join(self.cert),
            key: folder.join(self.key),
            keep_alive: Duration::from_secs(keep_alive),
            bytes_per_second_max: cap,
            backlog_hours,
        })
    }
}

impl BatchTable {
    fn resolve(&self, classes: &[ClassTable]) -> Result<Batch, Located> {
        let rows_max = range("batch", "rows_max", self.rows_max, 1, BATCH_ROWS_MAX as u64)?;
        let bytes_max = range(
            "batch",
            "bytes_max",
            self.bytes_max,
            4 << 10,
            BATCH_BYTES_MAX as u64,
        )?;
        let linger = range("batch", "linger_ms", self.linger_ms, 0, LINGER_MS_MAX)?;
        let linger = Linger::of_all(Duration::from_millis(linger));
        Ok(Batch {
            rows_max: size(rows_max),
            bytes_max: size(bytes_max),
            linger: classes::linger(linger, classes)?,
        })
    }
}

impl BufferTable {
    fn resolve(&self) -> Result<Buffer, Located> {
        let bytes_max = range("buffer", "bytes_max", self.bytes_max, 16 << 20, 1 << 44)?;
        let ram = range(
            "buffer",
            "ram_bytes_max",
            self.ram_bytes_max,
            1 << 20,
            1 << 30,
        )?;
        let max_unsafe = range("buffer", "max_unsafe_ms", self.max_unsafe_ms, 0, 600_000)?;
        Ok(Buffer {
            bytes_max,
            ram_bytes_max: size(ram),
            max_unsafe: Duration::from_millis(max_unsafe),
        })
    }
}

impl WindowTable {
    fn resolve(&self) -> Result<Window, Located> {
        let batches = range("window", "batches_max", self.batches_max, 1, 1_024)?;
        let bytes = range(
            "window",
            "bytes_max",
            self.bytes_max,
            BATCH_BYTES_MAX as u64,
            64 << 20,
        )?;
        let share = range(
            "window",
            "backlog_share_percent",
            self.backlog_share_percent,
            1,
            99,
        )?;
        Ok(Window {
            batches_max: size(batches),
            bytes_max: size(bytes),
            backlog_share_percent: u8::try_from(share).expect("the range check keeps it below 100"),
        })
    }
}

/// A number that a range check has kept below 2^32.
pub(super) fn size(value: u64) -> usize {
    usize::try_from(value).expect("the range check keeps it below 2^32")
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

pub(super) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn host_port(table: &'static str, key: &'static str, text: &str) -> Result<(), Located> {
    if is_host_port(text) {
        return Ok(());
    }
    let allowed = "write host:port, like \"10.0.0.1:8883\" or \"[::1]:8883\"";
    Err(bad(table, key, quoted(text), allowed))
}

fn loopback(table: &'static str, key: &'static str, text: &str) -> Result<(), Located> {
    let host = text.rsplit_once(':').map_or("", |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = bare == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if is_host_port(text) && is_loopback {
        return Ok(());
    }
    let allowed = "it answers anybody, so only an address of this machine is allowed: \
                   \"127.0.0.1:9100\" or \"[::1]:9100\"";
    Err(bad(table, key, quoted(text), allowed))
}

pub(super) fn range(
    table: &'static str,
    key: &'static str,
    value: u64,
    min: u64,
    max: u64,
) -> Result<u64, Located> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        let allowed = format!("allowed are {min} to {max}");
        Err(bad(table, key, value, allowed))
    }
}

pub(super) fn bad(
    table: &'static str,
    key: &'static str,
    value: impl std::fmt::Display,
    allowed: impl Into<String>,
) -> Located {
    Located {
        table,
        nth: 0,
        key,
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

/// The line, from 1, where the key stands in its table; where it took its default, the table's.
pub(super) fn line_of(text: &str, bad: &Located) -> usize {
    let mut tables_before = 0;
    let mut inside = false;
    let mut fallback = 1;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            let name = line.split(']').next().unwrap_or_default();
            let is_ours = name.trim_start_matches('[').trim() == bad.table;
            inside = is_ours && tables_before == bad.nth;
            tables_before += usize::from(is_ours);
            if inside {
                fallback = at + 1;
            }
        } else if inside
            && line
                .strip_prefix(bad.key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        {
            return at + 1;
        }
    }
    fallback
}
