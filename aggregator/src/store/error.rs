//! What can go wrong with what is on disk.

use std::io;

/// Sorted by who must act.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes are not what was written, or the disk does not give them: repair from a peer. Never
    /// served.
    #[error("{file}: damaged at byte {offset}: {what}")]
    Damaged {
        file: String,
        offset: u64,
        what: String,
    },
    /// The disk or the operating system failed. After a failed write the node stops.
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    /// There is no room for a transaction or its segments. Nothing was changed: it can be done again.
    #[error("{file}: {source}; nothing is lost, it is tried again: give the disk room")]
    Full { file: String, source: io::Error },
    /// Written by a newer version.
    #[error("{file}: version {version} is newer than this node")]
    Version { file: String, version: u16 },
    /// A fault of ours, found before anything is believed: the log still has the rows.
    #[error(
        "{file}: not written, for a text of {bytes} bytes in series {series}, field {field}, could \
         not be read back; nothing is lost, but nothing is merged any more: please report it"
    )]
    Unreadable {
        file: String,
        series: u32,
        field: u16,
        bytes: usize,
    },
    /// A snapshot was installed since this merge began: its result is not needed.
    #[error("the merge was overtaken by a snapshot")]
    Superseded,
}

impl StoreError {
    pub(super) fn io(file: &str, source: io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            source,
        }
    }

    /// For what may be done again once there is room: tells that from other failures of the disk.
    pub(super) fn or_full(self) -> Self {
        match self {
            Self::Io { file, source } if is_full(&source) => Self::Full { file, source },
            other => other,
        }
    }

    pub(super) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset,
            what: what.into(),
        }
    }
}

fn is_full(source: &io::Error) -> bool {
    matches!(
        source.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
