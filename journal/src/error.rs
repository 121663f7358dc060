//! What can go wrong with a journal, sorted by who must act.

use std::io;
use std::sync::Arc;

/// Why a journal call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The disk: whoever runs the machine must look. The journal is latched from here on.
    #[error("journal: {doing}: {source}")]
    Io {
        doing: &'static str,
        source: Arc<io::Error>,
    },
    /// A call before this one failed: nothing since the last sync is known to be on disk. Open anew.
    #[error("journal: an earlier write or sync failed, it must be opened anew")]
    Latched,
    /// What was durable is damaged or missing: this journal must not be used any more.
    #[error("journal: {file} is damaged at byte {offset}: {detail}")]
    Rot {
        file: String,
        offset: u64,
        detail: &'static str,
    },
    /// Written by a later version of this program.
    #[error("journal: {file} has version {version} at byte {offset}, this program reads up to 1")]
    Version {
        file: String,
        offset: u64,
        version: u8,
    },
    /// The owner: every file is in use; release some.
    #[error("journal: all files are in use")]
    Full,
    /// The caller: the payload can never fit.
    #[error("journal: a record of {bytes} bytes, at most {bytes_max} fit")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// The caller: the kind is the journal's own, or the options make no journal.
    #[error("journal: {what}")]
    Misuse { what: &'static str },
    /// The reader: the record was released, its file may hold others by now.
    #[error("journal: the record was released")]
    Released,
    /// The reader: the record has not been handed to the disk yet.
    #[error("journal: the record is not written yet")]
    NotWritten,
    /// The visitor at `open` refused a record.
    #[error("journal: a record was refused: {what}")]
    Refused { what: String },
    /// The writer is gone, or its queue is at its bound.
    #[error("journal: the writer takes no more ({what})")]
    Queue { what: &'static str },
}

impl JournalError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| JournalError::Io {
            doing,
            source: Arc::new(source),
        }
    }
}

impl From<JournalError> for io::Error {
    fn from(error: JournalError) -> Self {
        let kind = match &error {
            JournalError::Io { source, .. } => source.kind(),
            JournalError::Full => io::ErrorKind::StorageFull,
            JournalError::Rot { .. } | JournalError::Version { .. } => io::ErrorKind::InvalidData,
            JournalError::TooLarge { .. } | JournalError::Misuse { .. } => {
                io::ErrorKind::InvalidInput
            }
            JournalError::Latched
            | JournalError::Released
            | JournalError::NotWritten
            | JournalError::Refused { .. }
            | JournalError::Queue { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
