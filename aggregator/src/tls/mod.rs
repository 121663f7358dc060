//! Who may speak to whom: the certificates of this node, and what each listener asks of a peer.
//!
//! One provider (ring). Listeners that tell peers apart by certificate neither resume sessions
//! nor hand out tickets: a resumed session would skip the check of a certificate revoked since.
//! `identity.rs` reads who a peer is; `revoked.rs` keeps the list of those no longer welcome.

mod identity;
mod revoked;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Config;

pub(crate) use identity::uri;
pub use identity::{Identity, IdentityError, Role};
#[cfg(feature = "sql")]
pub(crate) use revoked::Stamp;
pub use revoked::{Reloader, RevocationMetrics, Revocations, RevokedEntry, RevokedError};
pub(crate) use revoked::{read_file as read_revoked, write_file as write_revoked};

/// The certificates of this node, loaded and checked.
pub struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    nodes_ca: Arc<RootCertStore>,
    agents_ca: Arc<RootCertStore>,
    users_ca: Arc<RootCertStore>,
    identity: Identity,
}

/// Why a node cannot use its certificates. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "cannot read {}: {message}; `tributary-aggregator pki init` and `pki node` make it",
        path.display()
    )]
    Pem { path: PathBuf, message: String },
    #[error("{} cannot be used: {source}", path.display())]
    Identity {
        path: PathBuf,
        source: IdentityError,
    },
    #[error(
        "{} belongs to {found}, but the configuration says name = {wanted:?}: \
         name another file or issue a certificate with `pki node {wanted}`",
        path.display()
    )]
    OtherNode {
        path: PathBuf,
        found: Identity,
        wanted: String,
    },
    #[error("{} and its key do not work together: {source}", path.display())]
    Unusable {
        path: PathBuf,
        source: rustls::Error,
    },
}

impl Material {
    /// Loads what `config.tls` names; the certificate must be this node's own.
    pub fn load(config: &Config) -> Result<Material, TlsError> {
        let files = &config.tls;
        let chain = certificates(&files.cert)?;
        let identity = Identity::from_certificate(&chain[0])
            .and_then(|found| found.require(&config.cluster, Role::Node))
            .map_err(|source| TlsError::Identity {
                path: files.cert.clone(),
                source,
            })?;
        if identity.id.as_str() != config.name {
            let wanted = config.name.clone();
            return Err(TlsError::OtherNode {
                path: files.cert.clone(),
                found: identity,
                wanted,
            });
        }
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| TlsError::Pem {
            path: files.key.clone(),
            message: e.to_string(),
        })?;
        let material = Material {
            chain,
            key,
            nodes_ca: roots(&files.nodes_ca)?,
            agents_ca: roots(&files.agents_ca)?,
            users_ca: roots(&files.users_ca)?,
            identity,
        };
        // A key of another certificate is found here, not at the first connection.
        material
            .mqtt_server()
            .map_err(|source| TlsError::Unusable {
                path: files.cert.clone(),
                source,
            })?;
        Ok(material)
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For the MQTT listener: a certificate of the agents' CA, or no handshake.
    pub fn mqtt_server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        self.mutual_server(&self.agents_ca)
    }

    /// For the listener that other nodes dial: a certificate of the nodes' CA, or no handshake.
    pub fn cluster_server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        self.mutual_server(&self.nodes_ca)
    }

    /// For dialling another node; its certificate must be of the nodes' CA and name its host.
    pub fn cluster_client(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&self.nodes_ca),
            Arc::clone(&provider),
        )
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For SQL and HTTP: whoever brings a certificate of the users' CA is that user, others must
    /// give a password. `alpn` names the protocols spoken behind TLS, best first.
    pub fn public_server(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.users_ca), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut config = self.server(verifier)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    fn mutual_server(
        &self,
        roots: &Arc<RootCertStore>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Arc::new(self.server(verifier)?))
    }

    fn server(
        &self,
        verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

/// The one cryptography provider of the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
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

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|source| TlsError::Unusable {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests;
