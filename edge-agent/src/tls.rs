//! How the agent proves who it is to a node, and what it asks of the node: mutual TLS with ring.
//!
//! Sessions are not resumed: a node must see the certificate at every connection, so that a
//! revoked one is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::id::AgentId;

use crate::clock::Stamper;
use crate::clock::certificates::{Judge, TlsTime};
use crate::config::Uplink;

/// What every name in a certificate of a cluster begins with.
const NAME_PREFIX: &[u8] = b"tributary://";

/// Why the agent cannot use its certificates. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "cannot read {}: {message}; `tributary-aggregator pki agent NAME` makes certificate and \
         key, nodes-ca.pem lies beside them",
        path.display()
    )]
    Pem { path: PathBuf, message: String },
    #[error(
        "{} is the certificate of {found}, but the configuration says agent.id = \"{wanted}\": \
         name another file, or issue one with `tributary-aggregator pki agent {wanted}`",
        path.display()
    )]
    OtherAgent {
        path: PathBuf,
        found: String,
        wanted: AgentId,
    },
    #[error("{} cannot be used: {source}", path.display())]
    Unusable {
        path: PathBuf,
        source: rustls::Error,
    },
}

/// The client side of every connection to a node. `clock` tells at which time certificates are
/// judged.
///
/// # Errors
/// A file that cannot be read, a certificate of somebody else, a key of another certificate.
pub fn client(
    agent: &AgentId,
    files: &Uplink,
    clock: &Stamper,
) -> Result<Arc<ClientConfig>, TlsError> {
    let chain = certificates(&files.cert)?;
    check_name(&files.cert, &chain[0], agent)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| TlsError::Pem {
        path: files.key.clone(),
        message: e.to_string(),
    })?;
    let unusable = |path: &Path, source: rustls::Error| TlsError::Unusable {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots
            .add(certificate)
            .map_err(|source| unusable(&files.ca, source))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| unusable(&files.ca, rustls::Error::General(e.to_string())))?;
    let time = Arc::new(TlsTime::new(clock.clone()));
    let judge = Arc::new(Judge::new(verifier, clock.clone()));
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .map_err(|source| unusable(&files.cert, source))?
        // Not its own checks but only the time that they are made at.
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_client_auth_cert(chain, key)
        .map_err(|source| unusable(&files.key, source))?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = |message: String| TlsError::Pem {
        path: path.to_owned(),
        message,
    };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| broken(e.to_string()))?;
    if found.is_empty() {
        return Err(broken("it holds no certificate".to_owned()));
    }
    Ok(found)
}

/// Finds a mix-up of files here rather than as a refusal by a node. A help, not a check: who the
/// agent is, the node reads from the certificate.
fn check_name(path: &Path, certificate: &[u8], agent: &AgentId) -> Result<(), TlsError> {
    let Some(found) = name_in(certificate) else {
        return Ok(());
    };
    if found.ends_with(&format!("/agent/{agent}")) {
        return Ok(());
    }
    Err(TlsError::OtherAgent {
        path: path.to_owned(),
        found,
        wanted: agent.clone(),
    })
}

/// The first name of ours in a DER certificate: a text whose last length byte stands before it.
fn name_in(certificate: &[u8]) -> Option<String> {
    let at = certificate
        .windows(NAME_PREFIX.len())
        .position(|window| window == NAME_PREFIX)?;
    let length = usize::from(*certificate.get(at.checked_sub(1)?)?);
    let name = certificate.get(at..at + length)?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_and_compared() {
        let name = b"tributary://demo/agent/gw1";
        let mut der = vec![0x30, 0x86, u8::try_from(name.len()).unwrap()];
        der.extend_from_slice(name);
        der.extend_from_slice(b"more");
        assert_eq!(name_in(&der).unwrap().as_bytes(), name);
        let check = |id: &str| check_name(Path::new("x.pem"), &der, &AgentId::parse(id).unwrap());
        check("gw1").unwrap();
        let error = check("w1").unwrap_err().to_string();
        assert!(error.contains("tributary://demo/agent/gw1"), "{error}");
        assert_eq!(name_in(b"nothing of ours"), None);
        assert_eq!(name_in(b"\xfftributary://cut"), None);
    }

    #[test]
    fn a_missing_file_is_named_with_what_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        let (gw1, clock) = (AgentId::parse("gw1").unwrap(), Stamper::of_this_machine());
        let files = Uplink {
            servers: Vec::new(),
            ca: folder.path().join("ca.pem"),
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            keep_alive: std::time::Duration::from_secs(1),
            bytes_per_second_max: 0,
            backlog_hours: crate::window::Hours::ALWAYS,
        };
        let error = client(&gw1, &files, &clock).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("cert.pem") && text.contains("pki agent"),
            "{text}"
        );
        std::fs::write(&files.cert, "no PEM").unwrap();
        let error = client(&gw1, &files, &clock).unwrap_err();
        assert!(error.to_string().contains("no certificate"), "{error}");
    }
}
