//! An append-only file that survives: records with length, checksum and number, synced in groups.
//!
//! `storage` is the seam to the disk (`sim` its cruel double), `record` the bytes of one record,
//! `spare` the files that wait to be needed, `scan` which files are read at the start and `recover`
//! what one of them holds, `span` several records read back at once, `current` the file that is written to, `journal` all
//! files, `writer` the one thread that owns a journal, `inspect` the description of a file for people. The layout is
//! in docs/formats.md.

pub mod storage;
pub mod sim;
mod error;
mod record;
mod files;
mod spare;
mod recover;
mod scan;
mod span;
mod current;
mod journal;
pub mod writer;
pub mod inspect;

pub use error::JournalError;
pub use files::{FileInfo, Position, Reader};
pub use journal::{Journal, Options};
pub use record::{PAYLOAD_BYTES_MAX, RecordHead};
pub use recover::Skipped;
pub use sim::SimStorage;
pub use span::Span;
pub use storage::{DiskStorage, OpenMode, Storage, StorageFile};
pub use writer::{Append, Writer, WriterHandle};
