//! The list of certificates that are no longer welcome, and its reload while the node runs.
//!
//! Written by `pki revoke`, copied to every node by the operator, looked at every few seconds.
//! Sessions hold a `Revocations` and end when their serial turns up in it.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Bytes of the list: 100,000 entries of the usual size. A larger file is not read.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// One certificate that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedEntry {
    /// Lower-case hex without separators.
    pub serial: String,
    /// `tributary://..`, for the reader; the serial decides.
    pub identity: String,
    /// RFC 3339, UTC.
    pub at: String,
    pub reason: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedFile {
    #[serde(default)]
    revoked: Vec<RevokedEntry>,
}

type Serials = BTreeMap<String, String>;

/// A handle on the current list. Cheap to clone; every clone sees every reload.
#[derive(Debug, Clone)]
pub struct Revocations {
    current: watch::Receiver<Arc<Serials>>,
}

/// Looks at the file and publishes what changed. Owned by one task.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    seen: Option<Stamp>,
    publish: watch::Sender<Arc<Serials>>,
}

/// `tributary_revocation_*`.
#[derive(Debug, Default)]
pub struct RevocationMetrics {
    pub serials: Gauge,
    pub reloads: Counter,
    pub failures: Counter,
}

/// Why the list is not used. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    #[error(
        "cannot read the revocation list {}: {source}; `tributary-aggregator pki init` makes an \
         empty one",
        path.display()
    )]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the revocation list {} is not valid: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
}

/// What tells one version of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Revocations {
    /// Nobody is revoked, ever.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn none() -> Revocations {
        let (_, current) = watch::channel(Arc::default());
        Revocations { current }
    }

    /// Reads the list. A missing or broken file is an error: an unreadable list must not mean
    /// that nobody is revoked.
    pub fn load(path: &Path) -> Result<(Revocations, Reloader), RevokedError> {
        let stamp = Stamp::of(path).ok();
        let serials = by_serial(read_file(path)?);
        let (publish, current) = watch::channel(Arc::new(serials));
        Ok((
            Revocations { current },
            Reloader {
                path: path.to_owned(),
                seen: stamp,
                publish,
            },
        ))
    }

    /// Why this serial was revoked, if it was.
    pub fn reason(&self, serial: &str) -> Option<String> {
        self.current.borrow().get(serial).cloned()
    }

    /// Waits until `serial` is in the list; for ever if it never is. Says why.
    pub async fn revoked(&mut self, serial: &str) -> String {
        let found = self
            .current
            .wait_for(|serials| serials.contains_key(serial))
            .await;
        match found.ok().and_then(|serials| serials.get(serial).cloned()) {
            Some(reason) => reason,
            // The reloader is gone: the node stops, and ends its sessions itself.
            None => std::future::pending().await,
        }
    }
}

impl Reloader {
    /// Looks once. `Ok(Some(n))`: a new list of `n` serials is in force. After an error the last
    /// good list stays in force, and the file is read again at the next look.
    pub fn look(&mut self) -> Result<Option<usize>, RevokedError> {
        let stamp = Stamp::of(&self.path).map_err(|source| RevokedError::Read {
            path: self.path.clone(),
            source,
        })?;
        if self.seen == Some(stamp) {
            return Ok(None);
        }
        let serials = by_serial(read_file(&self.path)?);
        let count = serials.len();
        self.seen = Some(stamp);
        self.publish.send_replace(Arc::new(serials));
        Ok(Some(count))
    }

    /// Looks every `interval` until `stop` is true or its sender is gone.
    pub async fn run(
        mut self,
        interval: Duration,
        metrics: RevocationMetrics,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut failed = false;
        metrics.set_serials(self.publish.borrow().len());
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(interval) => {}
            }
            // A few kilobytes, and only when the file changed: short enough for this task.
            match self.look() {
                Ok(None) => {}
                Ok(Some(serials)) => {
                    failed = false;
                    metrics.reloads.inc();
                    metrics.set_serials(serials);
                    tracing::info!(serials, "revocation list reloaded");
                }
                Err(_) if failed => {
                    metrics.failures.inc();
                }
                Err(error) => {
                    failed = true;
                    metrics.failures.inc();
                    tracing::error!(
                        %error,
                        "revocation list not reloaded: the last good one stays in force; repair \
                         the file"
                    );
                }
            }
        }
    }
}

impl RevocationMetrics {
    /// Puts the metrics into the registry.
    pub fn register(registry: &mut Registry) -> RevocationMetrics {
        let metrics = RevocationMetrics::default();
        let stage = registry.sub_registry_with_prefix("revocation");
        let help = "Certificates on the revocation list in force";
        stage.register("serials", help, metrics.serials.clone());
        stage.register(
            "reloads",
            "Changed revocation lists taken",
            metrics.reloads.clone(),
        );
        let help = "Looks at the revocation list that failed; the last good list stayed in force";
        stage.register("failures", help, metrics.failures.clone());
        metrics
    }

    fn set_serials(&self, count: usize) {
        self.serials.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> std::io::Result<Stamp> {
        let metadata = std::fs::metadata(path)?;
        Ok(Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<RevokedEntry>, RevokedError> {
    let broken = |source| RevokedError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(broken)?;
    let mut text = String::new();
    let read = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(broken)?;
    let syntax = |message| RevokedError::Syntax {
        path: path.to_owned(),
        message,
    };
    if read as u64 > FILE_BYTES_MAX {
        return Err(syntax(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let list: RevokedFile = toml::from_str(&text).map_err(|e| syntax(e.to_string()))?;
    for entry in &list.revoked {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if entry.serial.is_empty() || !entry.serial.bytes().all(hex) {
            let message = format!("serial {:?}: write lower-case hex digits", entry.serial);
            return Err(syntax(message));
        }
    }
    Ok(list.revoked)
}

/// Replaces the list in one step: a reader sees the old or the new one.
pub(crate) fn write_file(path: &Path, revoked: Vec<RevokedEntry>) -> std::io::Result<()> {
    let text = toml::to_string(&RevokedFile { revoked }).map_err(std::io::Error::other)?;
    crate::pki::replace_file(path, text.as_bytes(), 0o644)
}

fn by_serial(entries: Vec<RevokedEntry>) -> Serials {
    entries
        .into_iter()
        .map(|entry| (entry.serial, entry.reason))
        .collect()
}
