//! Files with secrets: made with their final rights, synced, never overwritten by accident.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::PkiError;

pub(super) fn make_folder(folder: &Path) -> Result<(), PkiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|source| PkiError::File {
            path: folder.to_owned(),
            source,
        })
}

pub(super) fn must_be_absent(path: &Path) -> Result<(), PkiError> {
    if path.symlink_metadata().is_ok() {
        return Err(PkiError::Exists {
            path: path.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let write = || {
        // The rights are there from the first moment, not after a chmod.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists {
            path: path.to_owned(),
        },
        _ => PkiError::File {
            path: path.to_owned(),
            source,
        },
    })
}

/// Writes beside the target, syncs, renames: a reader sees the old file or the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

pub(super) fn first_certificate(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}
