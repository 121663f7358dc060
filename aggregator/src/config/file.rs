//! The configuration as it stands in the TOML file, and the checks that turn it into `Config`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::id::AgentId;
use shared::limits::PACKET_BYTES_MAX;

use super::tables::{self, TableTable};
use super::{Config, Limits, Listen, Peer, StoreOptions, Timing, TlsFiles};
use crate::state::settings::{PARTITION_HOURS_MAX, RETENTION_DAYS_MAX};
use crate::state::{Quota, Quotas, Wish};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    name: String,
    cluster: String,
    data_dir: PathBuf,
    listen: ListenTable,
    tls: TlsTable,
    #[serde(default)]
    peers: Vec<PeerTable>,
    #[serde(default)]
    timing: TimingTable,
    #[serde(default)]
    store: StoreTable,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    users: UsersTable,
    #[serde(default)]
    quotas: Option<QuotasTable>,
    #[serde(default)]
    tables: BTreeMap<String, TableTable>,
}

/// What one agent may make; what the cluster is to agree on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QuotasTable {
    agent_series_max: u64,
    agent_tables_max: u64,
    agent_fields_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenTable {
    mqtt: String,
    cluster: String,
    postgres: String,
    http: String,
    cluster_advertised: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    cert: PathBuf,
    key: PathBuf,
    nodes_ca: PathBuf,
    agents_ca: PathBuf,
    users_ca: PathBuf,
    revoked: PathBuf,
    #[serde(default = "revoked_poll_ms")]
    revoked_poll_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerTable {
    name: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TimingTable {
    heartbeat_ms: u64,
    election_ms_min: u64,
    election_ms_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StoreTable {
    /// Absent: the cluster's, whatever it is.
    retention_days: Option<u64>,
    merge_bytes: u64,
    merge_seconds: u64,
    seal_rest_seconds: u64,
    partition_hours: Option<u64>,
    log_keep_bytes: u64,
    /// 0: never.
    scrub_days: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsTable {
    connections_max: u64,
    in_flight_bytes_max: u64,
    connection_bytes_max: u64,
    agent_connections_max: u64,
    agent_bytes_per_second_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UsersTable {
    file: PathBuf,
}

/// A value that may not stand where it stands.
pub(super) struct Located {
    pub(super) table: String,
    pub(super) key: &'static str,
    pub(super) value: String,
    pub(super) allowed: String,
}

const DAY_SECONDS: u64 = 86_400;

fn revoked_poll_ms() -> u64 {
    5_000
}

impl Default for TimingTable {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_ms_min: 400,
            election_ms_max: 800,
        }
    }
}

impl Default for StoreTable {
    fn default() -> Self {
        Self {
            retention_days: None,
            merge_bytes: 64 << 20,
            merge_seconds: 600,
            seal_rest_seconds: 7_200,
            partition_hours: None,
            log_keep_bytes: 4 << 30,
            scrub_days: 7,
        }
    }
}

impl Default for QuotasTable {
    fn default() -> Self {
        let of = |quota: Quota| u64::from(quota.default_most());
        Self {
            agent_series_max: of(Quota::Series),
            agent_tables_max: of(Quota::Tables),
            agent_fields_max: of(Quota::Fields),
        }
    }
}

impl QuotasTable {
    fn resolve(self) -> Result<Quotas, Located> {
        let mut quotas = Quotas::default();
        for (quota, most) in [
            (Quota::Series, self.agent_series_max),
            (Quota::Tables, self.agent_tables_max),
            (Quota::Fields, self.agent_fields_max),
        ] {
            let most = range("quotas", quota.key(), most, 1, quota.total().into())?;
            quotas = quotas.with(quota, u32::try_from(most).ok());
        }
        Ok(quotas)
    }
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            in_flight_bytes_max: 256 << 20,
            connection_bytes_max: 4 << 20,
            agent_connections_max: 4,
            agent_bytes_per_second_max: 0,
        }
    }
}

impl Default for UsersTable {
    fn default() -> Self {
        Self {
            file: PathBuf::from("users.toml"),
        }
    }
}

impl ConfigFile {
    pub(super) fn resolve(self, folder: &Path) -> Result<Config, Located> {
        name("", "name", &self.name)?;
        name("", "cluster", &self.cluster)?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(bad(
                "",
                "data_dir",
                &"\"\"",
                "a folder that this node alone writes",
            ));
        }
        let peers = peers(&self.name, self.peers)?;
        let mut store = self.store.resolve()?;
        // Said only where they are asked for: older nodes stop at settings that name them.
        let quotas = self.quotas.map(QuotasTable::resolve).transpose()?;
        let tables = tables::resolve(self.tables, store.settings.partition_hours())?;
        let settings = store.settings.with_tables(tables);
        store.settings = settings.with_quotas(quotas.unwrap_or_default());
        Ok(Config {
            data_dir: folder.join(&self.data_dir),
            listen: self.listen.resolve(!peers.is_empty())?,
            tls: self.tls.resolve(folder)?,
            timing: self.timing.resolve()?,
            store,
            limits: self.limits.resolve()?,
            users_file: folder.join(self.users.file),
            name: self.name,
            cluster: self.cluster,
            peers,
        })
    }
}

impl ListenTable {
    fn resolve(self, has_peers: bool) -> Result<Listen, Located> {
        for (key, value) in [
            ("mqtt", &self.mqtt),
            ("cluster", &self.cluster),
            ("postgres", &self.postgres),
            ("http", &self.http),
        ] {
            host_port("listen", key, value)?;
        }
        let told = self.cluster_advertised;
        if told.is_none() && has_peers && is_wildcard(&self.cluster) {
            let allowed = "no peer can dial a wildcard address: \
                           add listen.cluster_advertised = \"host:port\"";
            return Err(bad("listen", "cluster", &self.cluster, allowed));
        }
        let cluster_advertised = told.unwrap_or_else(|| self.cluster.clone());
        host_port("listen", "cluster_advertised", &cluster_advertised)?;
        Ok(Listen {
            mqtt: self.mqtt,
            cluster: self.cluster,
            postgres: self.postgres,
            http: self.http,
            cluster_advertised,
        })
    }
}

impl TlsTable {
    fn resolve(self, folder: &Path) -> Result<TlsFiles, Located> {
        let poll = range("tls", "revoked_poll_ms", self.revoked_poll_ms, 10, 10_000)?;
        Ok(TlsFiles {
            cert: folder.join(self.cert),
            key: folder.join(self.key),
            nodes_ca: folder.join(self.nodes_ca),
            agents_ca: folder.join(self.agents_ca),
            users_ca: folder.join(self.users_ca),
            revoked: folder.join(self.revoked),
            revoked_poll: Duration::from_millis(poll),
        })
    }
}

impl TimingTable {
    fn resolve(self) -> Result<Timing, Located> {
        let heartbeat = range("timing", "heartbeat_ms", self.heartbeat_ms, 10, 10_000)?;
        let min = range(
            "timing",
            "election_ms_min",
            self.election_ms_min,
            20,
            60_000,
        )?;
        let max = range(
            "timing",
            "election_ms_max",
            self.election_ms_max,
            30,
            120_000,
        )?;
        if min < 2 * heartbeat {
            let allowed = format!("at least twice heartbeat_ms, so {} or more", 2 * heartbeat);
            return Err(bad("timing", "election_ms_min", &min, allowed));
        }
        if max <= min {
            let allowed = format!("more than election_ms_min, which is {min}");
            return Err(bad("timing", "election_ms_max", &max, allowed));
        }
        Ok(Timing {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(min),
            election_max: Duration::from_millis(max),
        })
    }
}

impl StoreTable {
    fn resolve(self) -> Result<StoreOptions, Located> {
        let (days_max, hours_max) = (RETENTION_DAYS_MAX.into(), PARTITION_HOURS_MAX.into());
        let days = self.retention_days;
        let days = days.map(|days| range("store", "retention_days", days, 1, days_max));
        let hours = self.partition_hours;
        let hours = hours.map(|hours| range("store", "partition_hours", hours, 1, hours_max));
        let (days, hours) = (days.transpose()?, hours.transpose()?);
        if let (Some(days), Some(hours)) = (days, hours)
            && hours > days * 24
        {
            let allowed = format!("at most the retention, {} hours", days * 24);
            return Err(bad("store", "partition_hours", &hours, allowed));
        }
        let age = range("store", "merge_seconds", self.merge_seconds, 1, DAY_SECONDS)?;
        let rest = self.seal_rest_seconds;
        let rest = range("store", "seal_rest_seconds", rest, 1, DAY_SECONDS)?;
        let bytes = range("store", "merge_bytes", self.merge_bytes, 1 << 20, 16 << 30)?;
        let scrub = range("store", "scrub_days", self.scrub_days, 0, 365)?;
        let keep = range(
            "store",
            "log_keep_bytes",
            self.log_keep_bytes,
            1 << 20,
            1 << 44,
        )?;
        Ok(StoreOptions {
            settings: Wish::new(
                days.map(|days| u32::try_from(days).unwrap_or(RETENTION_DAYS_MAX)),
                hours.map(|hours| u32::try_from(hours).unwrap_or(PARTITION_HOURS_MAX)),
            ),
            merge_bytes: bytes,
            merge_age: Duration::from_secs(age),
            seal_rest: Duration::from_secs(rest),
            log_keep_bytes: keep,
            scrub_period: (scrub > 0).then(|| Duration::from_secs(scrub * DAY_SECONDS)),
        })
    }
}

impl LimitsTable {
    fn resolve(self) -> Result<Limits, Located> {
        // A limit below two packets would stop a connection that sends the largest allowed one.
        let packets = 2 * PACKET_BYTES_MAX as u64;
        let one = self.connection_bytes_max;
        let all = self.in_flight_bytes_max;
        let connections = range(
            "limits",
            "connections_max",
            self.connections_max,
            1,
            1 << 20,
        )?;
        let one = range("limits", "connection_bytes_max", one, packets, 1 << 30)?;
        let all = range("limits", "in_flight_bytes_max", all, packets, 1 << 31)?;
        if one > all {
            let allowed = format!("at most limits.in_flight_bytes_max, which is {all}");
            return Err(bad("limits", "connection_bytes_max", &one, allowed));
        }
        let agent = self.agent_connections_max;
        let agent = range("limits", "agent_connections_max", agent, 1, 1 << 20)?;
        let quota = self.agent_bytes_per_second_max;
        let quota = range("limits", "agent_bytes_per_second_max", quota, 0, 1 << 40)?;
        let fits = "the range check keeps it below 2^32";
        Ok(Limits {
            connections_max: usize::try_from(connections).expect(fits),
            in_flight_bytes_max: usize::try_from(all).expect(fits),
            connection_bytes_max: usize::try_from(one).expect(fits),
            agent_connections_max: usize::try_from(agent).expect(fits),
            agent_bytes_per_second_max: quota,
        })
    }
}

fn peers(own: &str, tables: Vec<PeerTable>) -> Result<Vec<Peer>, Located> {
    let mut peers: Vec<Peer> = Vec::with_capacity(tables.len());
    for PeerTable {
        name: peer,
        address,
    } in tables
    {
        name("peers", "name", &peer)?;
        host_port("peers", "address", &address)?;
        if peer == own || peers.iter().any(|known| known.name == peer) {
            let allowed = "list each other node once, and not this one";
            return Err(bad("peers", "name", &format!("{peer:?}"), allowed));
        }
        peers.push(Peer {
            name: peer,
            address,
        });
    }
    Ok(peers)
}

fn name(table: &'static str, key: &'static str, text: &str) -> Result<(), Located> {
    match AgentId::parse(text) {
        Ok(_) => Ok(()),
        Err(_) => {
            let allowed = "use 1 to 64 of a-z A-Z 0-9 . _ - and no leading dot";
            Err(bad(table, key, &format!("{text:?}"), allowed))
        }
    }
}

fn host_port(table: &'static str, key: &'static str, text: &str) -> Result<(), Located> {
    let valid = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid {
        return Ok(());
    }
    let allowed = "write host:port, like \"0.0.0.0:8883\" or \"[::1]:0\"";
    Err(bad(table, key, &format!("{text:?}"), allowed))
}

fn is_wildcard(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn range(
    table: &'static str,
    key: &'static str,
    value: u64,
    min: u64,
    max: u64,
) -> Result<u64, Located> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(bad(
            table,
            key,
            &value,
            format!("allowed are {min} to {max}"),
        ))
    }
}

pub(super) fn bad(
    table: &str,
    key: &'static str,
    value: &impl ToString,
    allowed: impl Into<String>,
) -> Located {
    Located {
        table: table.to_owned(),
        key,
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

/// The line, from 1, where `key` stands in `table`; where it took its default, the table's line.
pub(super) fn line_of(text: &str, table: &str, key: &str) -> usize {
    let mut current = String::new();
    let mut fallback = 1;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            line.trim_matches(|c| c == '[' || c == ']')
                .clone_into(&mut current);
            if current == table {
                fallback = at + 1;
            }
        } else if current == table
            && line
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        {
            return at + 1;
        }
    }
    fallback
}
