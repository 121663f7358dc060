//! The configuration of one node: read once, checked as a whole, then trusted.
//!
//! `file.rs` is the TOML as the operator writes it; this is what the stages get: paths resolved
//! against the folder of the file, durations with their type, relations checked.

mod file;
mod tables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use file::{ConfigFile, Located};

use crate::state::Wish;

/// Everything one node is told by its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's name, as it stands in its certificate.
    pub name: String,
    /// The cluster's name, as it stands in every certificate.
    pub cluster: String,
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub tls: TlsFiles,
    /// The other nodes; empty for a cluster of one.
    pub peers: Vec<Peer>,
    pub timing: Timing,
    pub store: StoreOptions,
    pub limits: Limits,
    /// SCRAM verifiers; a file that does not exist admits nobody by password.
    pub users_file: PathBuf,
}

/// `host:port` of every listener. Port 0 takes a free one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub mqtt: String,
    pub cluster: String,
    pub postgres: String,
    pub http: String,
    /// Where the other nodes reach `cluster`; the same unless that is a wildcard address.
    pub cluster_advertised: String,
}

/// PEM files, absolute or relative to the working directory of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub nodes_ca: PathBuf,
    pub agents_ca: PathBuf,
    pub users_ca: PathBuf,
    pub revoked: PathBuf,
    /// How often `revoked` is looked at.
    pub revoked_poll: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// `host:port` of its cluster listener.
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// What the cluster is to agree on.
    pub settings: Wish,
    /// Log bytes after which level 0 is merged into segments.
    pub merge_bytes: u64,
    /// Age after which it is merged even if small.
    pub merge_age: Duration,
    /// A partition that ended waits until nothing came for it for so long: then its segments become one.
    pub seal_rest: Duration,
    /// Log bytes kept behind the last merge for slow followers.
    pub log_keep_bytes: u64,
    /// In which every segment is read and verified once; `None`: never.
    pub scrub_period: Option<Duration>,
}

/// Bounds of the MQTT listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections_max: usize,
    /// Bytes of publishes between socket and answer, over all connections.
    pub in_flight_bytes_max: usize,
    /// The same for one connection.
    pub connection_bytes_max: usize,
    /// Connections of one agent to this node.
    pub agent_connections_max: usize,
    /// Bytes of payloads that one agent may publish through this node; 0: any number.
    pub agent_bytes_per_second_max: u64,
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
        raw.resolve(path.parent().unwrap_or(Path::new("")))
            .map_err(|bad| {
                let Located {
                    table,
                    key,
                    value,
                    allowed,
                } = bad;
                let full = if table.is_empty() {
                    key.to_owned()
                } else {
                    format!("{table}.{key}")
                };
                let line = file::line_of(text, &table, key);
                ConfigError::Value {
                    path: path.to_owned(),
                    line,
                    key: full,
                    value,
                    allowed,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Quota, SameTime};

    const SMALL: &str = r#"
name = "a"
cluster = "demo"
data_dir = "data"

[listen]
mqtt = "127.0.0.1:0"
cluster = "127.0.0.1:8800"
postgres = "127.0.0.1:0"
http = "[::1]:0"

[tls]
cert = "node-a.pem"
key = "/keys/node-a.key"
nodes_ca = "nodes-ca.pem"
agents_ca = "agents-ca.pem"
users_ca = "users-ca.pem"
revoked = "revoked.toml"
"#;

    fn check(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/tributary/a.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_resolve_against_the_file_and_the_rest_has_defaults() {
        let config = check(SMALL).unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/tributary/data"));
        assert_eq!(config.tls.key, Path::new("/keys/node-a.key"));
        assert_eq!(config.users_file, Path::new("/etc/tributary/users.toml"));
        assert_eq!(config.timing.heartbeat, Duration::from_millis(100));
        let settings = &config.store.settings;
        assert_eq!(
            (settings.retention_days(), settings.partition_hours()),
            (None, None)
        );
        assert_eq!(config.listen.cluster_advertised, "127.0.0.1:8800");
    }

    #[test]
    fn an_unknown_key_names_file_line_key_and_what_exists() {
        let error = check(&SMALL.replace("http =", "htpp =")).unwrap_err();
        for part in ["/etc/tributary/a.toml", "line 10", "htpp", "postgres"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn an_agent_may_have_a_few_connections_and_any_rate_unless_told_otherwise() {
        let limits = check(SMALL).unwrap().limits;
        let agent = (
            limits.agent_connections_max,
            limits.agent_bytes_per_second_max,
        );
        assert_eq!(agent, (4, 0));
        let text = format!("{SMALL}\n[limits]\nagent_connections_max = 0\n");
        let error = check(&text).unwrap_err();
        assert!(error.contains("`limits.agent_connections_max`"), "{error}");
        let text = format!("{SMALL}\n[limits]\nagent_bytes_per_second_max = 5000\n");
        let limits = check(&text).unwrap().limits;
        assert_eq!(limits.agent_bytes_per_second_max, 5_000);
    }

    #[test]
    fn segments_are_scrubbed_in_a_week_unless_told_otherwise() {
        let period = |text: &str| check(text).unwrap().store.scrub_period;
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        assert_eq!(period(SMALL), days(7));
        let with = |days: u64| format!("{SMALL}\n[store]\nscrub_days = {days}\n");
        assert_eq!((period(&with(0)), period(&with(30))), (None, days(30)));
        let error = check(&with(366)).unwrap_err();
        assert!(
            error.contains("`store.scrub_days` = 366: allowed are 0 to 365"),
            "{error}"
        );
    }

    #[test]
    fn tables_say_what_becomes_of_rows_of_the_same_time() {
        let with = |more: &str| check(&format!("{SMALL}\n{more}\n"));
        let config =
            with("[tables.weather]\nsame_time = \"merge\"\n[tables.\"a b\"]\nsame_time = \"keep\"");
        let tables = config.unwrap().store.settings.tables().clone();
        let expected = [("a b", SameTime::Keep), ("weather", SameTime::Merge)];
        assert_eq!(
            tables,
            expected
                .map(|(name, how)| (name.to_owned(), how.into()))
                .into()
        );
        let error = with("[tables.weather]\nsame_time = \"last\"").unwrap_err();
        let place = "a.toml:21: `tables.weather.same_time` = \"last\"";
        assert!(error.contains(place) && error.contains("merge"), "{error}");
        assert!(
            with("[tables.gaps]\nsame_time = \"keep\"")
                .unwrap_err()
                .contains("itself")
        );
        assert!(
            with("[tables.weather]\nmerge = true")
                .unwrap_err()
                .contains("same_time")
        );
    }

    #[test]
    fn quotas_are_said_by_files_that_have_their_table() {
        let quotas = |text: &str| check(text).map(|config| config.store.settings.quotas());
        let of = |text: &str| Quota::ALL.map(|quota| quotas(text).unwrap().of(quota));
        assert_eq!(of(SMALL), [None; 3], "older nodes would stop at them");
        let with = |line: &str| format!("{SMALL}\n[quotas]\n{line}\n");
        assert_eq!(of(&with("")), [Some(100_000), Some(128), Some(1_024)]);
        assert_eq!(of(&with("agent_tables_max = 1"))[1], Some(1));
        let error = quotas(&with("agent_series_max = 0")).unwrap_err();
        assert!(
            error.contains("`quotas.agent_series_max` = 0: allowed are 1 to"),
            "{error}"
        );
    }

    #[test]
    fn relations_are_checked_and_located() {
        let text = format!("{SMALL}\n[timing]\nheartbeat_ms = 500\nelection_ms_min = 400\n");
        let error = check(&text).unwrap_err();
        assert!(
            error.starts_with("/etc/tributary/a.toml:22: `timing.election_ms_min`"),
            "{error}"
        );
        assert!(error.contains("heartbeat"), "{error}");
    }

    #[test]
    fn addresses_names_and_peers_are_checked() {
        for (from, to, part) in [
            (
                "mqtt = \"127.0.0.1:0\"",
                "mqtt = \"127.0.0.1\"",
                "host:port",
            ),
            ("name = \"a\"", "name = \"a/b\"", "a-z"),
            ("cluster = \"demo\"", "cluster = \"\"", "a-z"),
            ("data_dir = \"data\"", "data_dir = \"\"", "folder"),
        ] {
            let error = check(&SMALL.replace(from, to)).unwrap_err();
            assert!(error.contains(part), "{part} in {error}");
        }
        let itself = format!("{SMALL}\n[[peers]]\nname = \"a\"\naddress = \"h:1\"\n");
        assert!(check(&itself).unwrap_err().contains("other"));
        let peered = format!("{SMALL}\n[[peers]]\nname = \"b\"\naddress = \"h:1\"\n");
        assert_eq!(check(&peered).unwrap().peers.len(), 1);
        let wildcard = peered.replace("127.0.0.1:8800", "0.0.0.0:8800");
        let error = check(&wildcard).unwrap_err();
        assert!(error.contains("cluster_advertised"), "{error}");
        let told = wildcard.replace("[tls]", "cluster_advertised = \"10.0.0.1:8800\"\n[tls]");
        assert_eq!(
            check(&told).unwrap().listen.cluster_advertised,
            "10.0.0.1:8800"
        );
    }
}
