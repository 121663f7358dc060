//! A node's data folder: who it is, what its manifest names, and where its log stands.
//!
//! Takes no lock, so the node may run: a file of the log that it lets go of while it is read is
//! passed over.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use journal::{DiskStorage, JournalError, Storage};

use super::InspectError;
use crate::cluster::{LOG_FOLDER, NodeIdentity, STORE_FOLDER, Standing, log};
use crate::store;

/// Shows a node's data folder. Returns whether some of it is damaged.
pub(super) fn describe(path: &Path, show: &mut dyn FnMut(&str)) -> Result<bool, InspectError> {
    let storage = DiskStorage::open_read_only(path).map_err(|source| InspectError::Read {
        path: path.to_owned(),
        source,
    })?;
    let (store, log) = (path.join(STORE_FOLDER), path.join(LOG_FOLDER));
    let (known, mut damaged) = identity(storage.as_ref(), show);
    if !known && !store.is_dir() && !log.is_dir() {
        let path = path.to_owned();
        return Err(InspectError::NotADataFolder { path });
    }
    if store.is_dir() {
        damaged |= open(&store)
            .and_then(|storage| store::inspect::manifest(storage.as_ref(), show))
            .map_err(|source| InspectError::Store {
                path: store,
                source,
            })?;
    } else {
        show("store: none yet");
    }
    if log.is_dir() {
        damaged |= log_folder(&log, show)?;
    } else {
        show("log: none yet");
    }
    Ok(damaged)
}

pub(super) fn open(path: &Path) -> Result<std::sync::Arc<dyn Storage>, store::StoreError> {
    DiskStorage::open_read_only(path).map_err(|source| store::StoreError::Io {
        file: path.display().to_string(),
        source,
    })
}

/// Returns whether there is one, and whether it is damaged.
fn identity(storage: &dyn Storage, show: &mut dyn FnMut(&str)) -> (bool, bool) {
    match NodeIdentity::found(storage) {
        Ok(None) => (false, false),
        Ok(Some(found)) => {
            let NodeIdentity {
                cluster,
                name,
                standing,
            } = found;
            let standing = match standing {
                Standing::Joining { joining } => format!("joining as {joining:016x}"),
                Standing::Member { id, incarnation } => {
                    format!("member {id} in incarnation {incarnation:016x}")
                }
            };
            show(&format!("node {name} of cluster {cluster}: {standing}"));
            (true, false)
        }
        Err(error) => {
            show(&error.to_string());
            (true, true)
        }
    }
}

/// Its files, and the latest record of each kind that is no entry.
fn log_folder(path: &Path, show: &mut dyn FnMut(&str)) -> Result<bool, InspectError> {
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let storage = DiskStorage::open_read_only(path).map_err(unreadable)?;
    let files = journal::inspect::files(storage.as_ref()).map_err(unreadable)?;
    show(&format!("log: {} files", files.len()));
    let mut damaged = false;
    let mut latest = BTreeMap::new();
    for (_, name) in &files {
        let file = log_file(storage.as_ref(), name, &mut latest);
        let (text, bad) = file.map_err(|source| InspectError::Log {
            path: path.join(name),
            source,
        })?;
        damaged |= bad;
        show(&format!("  {text}"));
    }
    for meaning in latest.values() {
        show(&format!("latest {meaning}"));
    }
    Ok(damaged)
}

/// A line on one file, and whether it is damaged.
fn log_file(
    storage: &dyn Storage,
    name: &str,
    latest: &mut BTreeMap<u8, String>,
) -> Result<(String, bool), JournalError> {
    let mut entries: Option<(u64, u64)> = None;
    let mut strange = None;
    let described = journal::inspect::describe(storage, name, &mut |record, payload| {
        if record.is_own() {
            return;
        }
        let (kind, number) = (record.head.kind, record.head.number);
        match log::inspect::meaning(record.head, payload) {
            Ok(_) if log::inspect::is_entry(kind) => {
                let (from, to) = entries.unwrap_or((number, number));
                entries = Some((from.min(number), to.max(number)));
            }
            Ok(meaning) => {
                latest.insert(kind, meaning);
            }
            Err(why) => strange = Some(why),
        }
    });
    let described = match described {
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok((format!("{name}: let go of before it was read"), false));
        }
        other => other?,
    };
    // A file that is used again has another name and other records by now.
    if !storage
        .list()
        .is_ok_and(|names| names.iter().any(|known| known == name))
    {
        return Ok((format!("{name}: let go of while it was read"), false));
    }
    let damaged = described.damage.is_some() || strange.is_some();
    let mut text = described.to_string();
    if let Some((from, to)) = entries {
        text = format!("{text}, entries {from} to {to}");
    }
    if let Some(why) = strange {
        text = format!("{text}; a record cannot be read: {why}");
    }
    Ok((text, damaged))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use journal::{Journal, Options, RecordHead};

    use super::*;
    use crate::store::Store;

    fn shown(path: &Path) -> (String, bool) {
        let mut text = String::new();
        let damaged = describe(path, &mut |part| {
            text.push_str(part);
            text.push('\n');
        });
        (text, damaged.unwrap())
    }

    /// A node that has joined, and two blank entries and a vote in its log.
    fn data_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let identity = NodeIdentity {
            cluster: "demo".to_owned(),
            name: "a".to_owned(),
            standing: Standing::Member {
                id: 1,
                incarnation: 8,
            },
        };
        let storage = DiskStorage::open(folder.path()).unwrap();
        identity.write(&*storage).unwrap();
        drop(Store::open(&*storage.directory(STORE_FOLDER).unwrap()).unwrap());
        let options = Options {
            file_bytes: 64 << 10,
            files_max: 4,
        };
        let log = storage.directory(LOG_FOLDER).unwrap();
        let mut journal = Journal::open(log, options, &mut |_, _, _| Ok(())).unwrap();
        for (kind, number, bytes) in [(1, 3, 16), (1, 4, 16), (4, 0, 17)] {
            let head = RecordHead {
                group: 0,
                kind,
                number,
            };
            journal.append(head, &vec![0; bytes]).unwrap();
        }
        journal.sync().unwrap();
        folder
    }

    #[test]
    fn a_data_folder_tells_who_it_is_what_it_stores_and_where_its_log_stands() {
        let folder = data_folder();
        let (text, damaged) = shown(folder.path());
        for part in [
            "node a of cluster demo: member 1 in incarnation 0000000000000008\n",
            "manifest: all up to index 0 is merged",
            "segments: 0, 0 bytes\n",
            "log: 1 files\n  0000000000000001.journal: ",
            ", entries 3 to 4\n",
            "latest vote term 0 node 0\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!damaged, "{text}");
    }

    #[test]
    fn damage_is_told() {
        let folder = data_folder();
        fs::write(folder.path().join("identity"), "TRID").unwrap();
        let (text, damaged) = shown(folder.path());
        assert!(
            damaged && text.contains("identity file is damaged"),
            "{text}"
        );
    }
}
