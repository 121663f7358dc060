//! What the agent proves itself with: certificate, key and authorities as they were read together.

use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use shared::id::AgentId;

use crate::clock::Stamper;
use crate::config::Uplink;
use crate::expiry::Expiry;
use crate::tls::{self, TlsError};

/// Certificate, key and authorities as they were read together.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub client: Arc<ClientConfig>,
    /// `None` if the certificate does not say in a way that is understood, which no node would
    /// accept either.
    pub expiry: Option<Expiry>,
    /// Of the bytes of all three files.
    fingerprint: u64,
}

impl Credentials {
    /// Reads the files and checks that they fit each other. An expired certificate is read: whether
    /// it is accepted, the nodes say.
    ///
    /// # Errors
    /// A file that cannot be read, a certificate of somebody else, a key of another certificate.
    pub fn load(agent: &AgentId, files: &Uplink, clock: &Stamper) -> Result<Credentials, TlsError> {
        // Before they are used: what changes meanwhile is then another fingerprint next time.
        let fingerprint = fingerprint([&files.cert, &files.key, &files.ca]);
        let client = tls::client(agent, files, clock)?;
        Ok(Credentials {
            client,
            // It was read just now; if it is gone again, the next look tells.
            expiry: CertificateDer::from_pem_file(&files.cert)
                .ok()
                .and_then(|certificate| Expiry::of(&certificate)),
            fingerprint,
        })
    }

    /// Whether its last second is over; `now_seconds` since 1970.
    pub(crate) fn is_expired(&self, now_seconds: i64) -> bool {
        let expiry = self.expiry.as_ref();
        expiry.is_some_and(|expiry| expiry.left(now_seconds) < 0)
    }

    /// Of no files.
    #[cfg(test)]
    pub(crate) fn of(client: Arc<ClientConfig>) -> Credentials {
        Credentials {
            client,
            expiry: None,
            fingerprint: 0,
        }
    }

    /// Whether they were made of the same bytes.
    pub fn is_same(&self, other: &Credentials) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// Not against forgers: whoever may write these files may do more.
fn fingerprint(files: [&PathBuf; 3]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        // What cannot be read is told by who uses it.
        let bytes = std::fs::read(file).unwrap_or_default();
        hasher.write_usize(bytes.len());
        hasher.write(&bytes);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_byte_is_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in ["a", "b", "c"] {
            std::fs::write(file(name), name).unwrap();
        }
        let (a, b, c) = (file("a"), file("b"), file("c"));
        let before = fingerprint([&a, &b, &c]);
        assert_eq!(before, fingerprint([&a, &b, &c]));
        std::fs::write(&b, "b\n").unwrap();
        assert_ne!(before, fingerprint([&a, &b, &c]));
    }
}
