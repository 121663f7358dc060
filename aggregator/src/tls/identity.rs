//! Who a peer is: the URI in its certificate, and nothing else.

use std::fmt;

use shared::id::AgentId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the owner of a certificate is to the cluster. Each role has a CA of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Node,
    Agent,
    User,
}

/// `tributary://<cluster>/<role>/<id>` of a certificate, and its serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster: String,
    pub role: Role,
    /// Follows the same rule for all roles: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub id: AgentId,
    /// Lower-case hex without separators; what the revocation list holds.
    pub serial: String,
}

/// Why a certificate names nobody. Who must act: the owner of the certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be parsed")]
    Unreadable,
    #[error("no peer certificate")]
    Missing,
    #[error(
        "the certificate has {0} URI names of the form tributary://<cluster>/<role>/<id>; \
         it needs exactly one: issue it with `tributary-aggregator pki`"
    )]
    NoName(usize),
    #[error("{found} is of another cluster; this one is {wanted:?}")]
    OtherCluster { found: Identity, wanted: String },
    #[error("{found} may not be used here; this needs a certificate of role {wanted}")]
    OtherRole { found: Identity, wanted: Role },
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Agent => "agent",
            Role::User => "user",
        }
    }

    fn parse(text: &str) -> Option<Role> {
        [Role::Node, Role::Agent, Role::User]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

impl Identity {
    /// Reads the identity; that the certificate is genuine is for TLS to say, before.
    pub fn from_certificate(der: &[u8]) -> Result<Identity, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Unreadable)?
            .map_or(&[][..], |extension| &extension.value.general_names);
        let mut found = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => parse_uri(uri),
            _ => None,
        });
        let first = found.next();
        let more = found.count();
        // Two names would let the peer choose who it is.
        let Some((cluster, role, id)) = first.filter(|_| more == 0) else {
            return Err(IdentityError::NoName(if more == 0 { 0 } else { more + 1 }));
        };
        Ok(Identity {
            cluster,
            role,
            id,
            serial: serial_hex(certificate.raw_serial()),
        })
    }

    /// The identity of a TLS peer: the first certificate of what it presented.
    pub fn of_peer(
        presented: Option<&[rustls_pki_types::CertificateDer<'_>]>,
        cluster: &str,
        role: Role,
    ) -> Result<Identity, IdentityError> {
        let leaf = presented
            .and_then(<[_]>::first)
            .ok_or(IdentityError::Missing)?;
        Identity::from_certificate(leaf)?.require(cluster, role)
    }

    /// Refuses the identity unless it is of this cluster and role.
    pub fn require(self, cluster: &str, role: Role) -> Result<Identity, IdentityError> {
        if self.cluster != cluster {
            let wanted = cluster.to_owned();
            return Err(IdentityError::OtherCluster {
                found: self,
                wanted,
            });
        }
        if self.role != role {
            return Err(IdentityError::OtherRole {
                found: self,
                wanted: role,
            });
        }
        Ok(self)
    }

    /// The URI that stands in the certificate.
    pub fn uri(&self) -> String {
        uri(&self.cluster, self.role, &self.id)
    }
}

pub(crate) fn uri(cluster: &str, role: Role, id: &AgentId) -> String {
    format!("tributary://{cluster}/{}/{id}", role.as_str())
}

/// Hex of a serial number's bytes, without the sign byte that DER puts before a high bit.
pub(crate) fn serial_hex(bytes: &[u8]) -> String {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(0);
    bytes[start..].iter().map(|b| format!("{b:02x}")).collect()
}

fn parse_uri(text: &str) -> Option<(String, Role, AgentId)> {
    let mut parts = text.strip_prefix("tributary://")?.split('/');
    let cluster = AgentId::parse(parts.next()?).ok()?;
    let role = Role::parse(parts.next()?)?;
    let id = AgentId::parse(parts.next()?).ok()?;
    parts
        .next()
        .is_none()
        .then(|| (cluster.as_str().to_owned(), role, id))
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_name() {
        let (cluster, role, id) = parse_uri("tributary://demo/agent/gw-1").unwrap();
        assert_eq!(
            (cluster.as_str(), role, id.as_str()),
            ("demo", Role::Agent, "gw-1")
        );
        for bad in [
            "tributary://demo/agent/gw-1/",
            "tributary://demo/agent/",
            "tributary://demo/root/x",
            "tributary:///agent/x",
            "tributary://demo/agent/a+b",
            "https://demo/agent/x",
            "tributary://demo/AGENT/x",
        ] {
            assert!(parse_uri(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn serials_have_one_spelling() {
        assert_eq!(serial_hex(&[0, 0x8f, 1]), "8f01");
        assert_eq!(serial_hex(&[0x0f]), "0f");
    }
}
