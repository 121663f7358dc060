//! Certificates for those who have no certificate authority of their own: three CAs in a folder
//! (nodes, agents, users), and leaves whose URI name is the identity.
//!
//! Any other CA serves as well, if its leaves carry `tributary://<cluster>/<role>/<id>`.
//! The quickstart and the test harness use this as a library; `cli.rs` is the command.

mod files;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use shared::id::AgentId;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::tls::{self, Identity, RevokedEntry, RevokedError, Role};

pub(crate) use files::replace_file;

const DAY: Duration = Duration::from_secs(86_400);
/// Ten years.
const CA_DAYS: u32 = 3_650;
/// What a leaf lives unless told otherwise: a gateway in the field is visited rarely.
pub const LEAF_DAYS: u32 = 825;
/// A peer whose clock is this far behind still accepts a new certificate.
const CLOCK_SLACK: Duration = Duration::from_secs(3_600);

/// A folder of certificates with the keys of the three CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    folder: PathBuf,
    cluster: String,
}

/// Where a new certificate lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub identity: Identity,
}

/// Who must act: the one who called `pki`.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{} exists and is not overwritten: remove it or choose another folder", path.display())]
    Exists { path: PathBuf },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} holds no CA made by `pki init`: {message}", path.display())]
    NoCa { path: PathBuf, message: String },
    #[error("{0}")]
    Name(String),
    #[error("no certificate was made: {0}")]
    Generate(#[from] rcgen::Error),
    #[error(transparent)]
    Revoked(#[from] RevokedError),
    #[error(
        "{0:?} is neither a serial number in hex nor a certificate of this folder like agent-gw1"
    )]
    Unknown(String),
}

impl Role {
    fn ca_stem(self) -> &'static str {
        match self {
            Role::Node => "nodes-ca",
            Role::Agent => "agents-ca",
            Role::User => "users-ca",
        }
    }
}

impl Pki {
    /// Makes the folder, the three CAs and an empty revocation list. Overwrites nothing.
    pub fn init(folder: &Path, cluster: &str) -> Result<Pki, PkiError> {
        AgentId::parse(cluster).map_err(|e| PkiError::Name(e.to_string()))?;
        files::make_folder(folder)?;
        let pki = Pki {
            folder: folder.to_owned(),
            cluster: cluster.to_owned(),
        };
        let roles = [Role::Node, Role::Agent, Role::User];
        // All or nothing: look first, so that a second run does not leave half a set behind.
        for role in roles {
            files::must_be_absent(&pki.path(role.ca_stem(), "pem"))?;
            files::must_be_absent(&pki.path(role.ca_stem(), "key"))?;
        }
        for role in roles {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = params(CA_DAYS)?;
            let name = format!("{cluster} {}s", role.as_str());
            params
                .distinguished_name
                .push(DnType::OrganizationName, cluster);
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = params.self_signed(&key)?;
            pki.store(role.ca_stem(), &certificate.pem(), &key)?;
        }
        let revoked = pki.revoked_path();
        if !revoked.exists() {
            tls::write_revoked(&revoked, Vec::new()).map_err(|source| PkiError::File {
                path: revoked,
                source,
            })?;
        }
        Ok(pki)
    }

    /// Opens a folder that `init` made.
    pub fn open(folder: &Path) -> Result<Pki, PkiError> {
        let path = folder.join("nodes-ca.pem");
        let no_ca = |message: String| PkiError::NoCa {
            path: path.clone(),
            message,
        };
        let pem = std::fs::read_to_string(&path).map_err(|e| no_ca(e.to_string()))?;
        let der = files::first_certificate(&pem).ok_or_else(|| no_ca("not PEM".to_owned()))?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|e| no_ca(e.to_string()))?;
        let cluster = certificate
            .subject()
            .iter_organization()
            .next()
            .and_then(|name| name.as_str().ok())
            .ok_or_else(|| no_ca("its subject has no organization".to_owned()))?;
        Ok(Pki {
            folder: folder.to_owned(),
            cluster: cluster.to_owned(),
        })
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The PEM file that verifies certificates of this role.
    pub fn ca_path(&self, role: Role) -> PathBuf {
        self.path(role.ca_stem(), "pem")
    }

    pub fn revoked_path(&self) -> PathBuf {
        self.path("revoked", "toml")
    }

    /// Issues `<role>-<id>.pem` and `.key`. `hosts` are the IP addresses and DNS names under
    /// which a node is reached; agents and users have none.
    pub fn issue(
        &self,
        role: Role,
        id: &str,
        hosts: &[String],
        days: u32,
    ) -> Result<Issued, PkiError> {
        let id = AgentId::parse(id).map_err(|e| PkiError::Name(e.to_string()))?;
        if role == Role::Node && hosts.is_empty() {
            let message = "a node needs at least one --host: the IP address or DNS name under \
                           which agents, users and other nodes reach it";
            return Err(PkiError::Name(message.to_owned()));
        }
        let stem = format!("{}-{id}", role.as_str());
        files::must_be_absent(&self.path(&stem, "pem"))?;
        files::must_be_absent(&self.path(&stem, "key"))?;

        let mut params = params(days)?;
        params
            .distinguished_name
            .push(DnType::OrganizationName, self.cluster.as_str());
        params
            .distinguished_name
            .push(DnType::CommonName, id.as_str());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == Role::Node {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let uri = Ia5String::try_from(tls::uri(&self.cluster, role, &id))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(Ia5String::try_from(host.as_str())?),
            });
        }
        let issuer = self.issuer(role)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &issuer)?;
        let identity = Identity::from_certificate(certificate.der())
            .map_err(|e| PkiError::Name(e.to_string()))?;
        let (cert, key) = self.store(&stem, &certificate.pem(), &key)?;
        Ok(Issued {
            cert,
            key,
            identity,
        })
    }

    /// Puts a certificate on the revocation list; nodes close its sessions once they have the
    /// list. `what` is a serial number in hex or a file stem like `agent-gw1`.
    pub fn revoke(&self, what: &str, reason: &str) -> Result<RevokedEntry, PkiError> {
        let (serial, identity) = self.find(what)?;
        let path = self.revoked_path();
        let mut entries = tls::read_revoked(&path)?;
        if let Some(known) = entries.iter().find(|entry| entry.serial == serial) {
            return Ok(known.clone());
        }
        let entry = RevokedEntry {
            serial,
            identity,
            at: rfc3339(now())?,
            reason: reason.to_owned(),
        };
        entries.push(entry.clone());
        tls::write_revoked(&path, entries).map_err(|source| PkiError::File { path, source })?;
        Ok(entry)
    }

    fn find(&self, what: &str) -> Result<(String, String), PkiError> {
        let path = self.path(what, "pem");
        // A name first: "agent-1" must not be read as hex, and "ca" is no hex serial but a name.
        if AgentId::parse(what).is_ok()
            && let Ok(pem) = std::fs::read_to_string(&path)
        {
            let identity = files::first_certificate(&pem)
                .and_then(|der| Identity::from_certificate(&der).ok())
                .ok_or_else(|| PkiError::Unknown(what.to_owned()))?;
            return Ok((identity.serial.clone(), identity.uri()));
        }
        let serial: String = what
            .chars()
            .filter(|c| *c != ':')
            .collect::<String>()
            .to_lowercase();
        if serial.len() >= 16 && serial.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok((serial.trim_start_matches("00").to_owned(), String::new()));
        }
        Err(PkiError::Unknown(what.to_owned()))
    }

    fn issuer(&self, role: Role) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key_path = self.path(role.ca_stem(), "key");
        let cert_path = self.ca_path(role);
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| PkiError::File {
                path: path.to_owned(),
                source,
            })
        };
        let key = KeyPair::from_pem(&read(&key_path)?)?;
        Ok(Issuer::from_ca_cert_pem(&read(&cert_path)?, key)?)
    }

    fn store(&self, stem: &str, pem: &str, key: &KeyPair) -> Result<(PathBuf, PathBuf), PkiError> {
        let (cert_path, key_path) = (self.path(stem, "pem"), self.path(stem, "key"));
        files::write_new(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        files::write_new(&cert_path, pem.as_bytes(), 0o644)?;
        Ok((cert_path, key_path))
    }

    fn path(&self, stem: &str, extension: &str) -> PathBuf {
        // Not `with_extension`: an id may hold dots.
        self.folder.join(format!("{stem}.{extension}"))
    }
}

fn params(days: u32) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now() - CLOCK_SLACK).into();
    params.not_after = (now() + DAY * days).into();
    let mut serial = [0_u8; 16];
    getrandom::fill(&mut serial)
        .map_err(|e| PkiError::Name(format!("the system has no random numbers: {e}")))?;
    // Positive and of full length, so that hex and DER always agree.
    serial[0] = (serial[0] & 0x3f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command of the operator: validity starts now"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn rfc3339(at: SystemTime) -> Result<String, PkiError> {
    let bad = || PkiError::Name("the clock of this machine stands before 1970".to_owned());
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| bad())?
        .as_secs();
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .ok_or_else(bad)?
        .to_datetime();
    let (hour, minute, second) = time.to_hms();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    Ok(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hosts() -> Vec<String> {
        vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
    }

    #[test]
    fn leaves_carry_their_identity_and_keys_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::init(folder.path(), "demo").unwrap();
        let issued = pki.issue(Role::Agent, "gw.1", &[], LEAF_DAYS).unwrap();
        assert_eq!(issued.cert, folder.path().join("agent-gw.1.pem"));
        assert_eq!(issued.identity.uri(), "tributary://demo/agent/gw.1");
        for entry in std::fs::read_dir(folder.path())
            .unwrap()
            .map(Result::unwrap)
        {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let key = entry.path().extension().is_some_and(|e| e == "key");
            let private = matches!(mode, 0o600 | 0o700 | 0o400);
            assert_eq!(private, key, "{entry:?} has {mode:o}");
        }
        assert_eq!(Pki::open(folder.path()).unwrap(), pki);
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::init(folder.path(), "demo").unwrap();
        pki.issue(Role::Node, "a", &hosts(), 1).unwrap();
        let before = std::fs::read(folder.path().join("node-a.key")).unwrap();
        assert!(matches!(
            pki.issue(Role::Node, "a", &hosts(), 1),
            Err(PkiError::Exists { .. })
        ));
        assert!(matches!(
            Pki::init(folder.path(), "demo"),
            Err(PkiError::Exists { .. })
        ));
        assert_eq!(
            std::fs::read(folder.path().join("node-a.key")).unwrap(),
            before
        );
    }

    #[test]
    fn revoking_twice_is_revoking_once() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::init(folder.path(), "demo").unwrap();
        let issued = pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
        let entry = pki.revoke("agent-gw1", "stolen").unwrap();
        assert_eq!(entry.serial, issued.identity.serial);
        assert!(
            entry.at.starts_with("20") && entry.at.ends_with('Z'),
            "{}",
            entry.at
        );
        assert_eq!(pki.revoke(&entry.serial, "again").unwrap().reason, "stolen");
        assert!(matches!(
            pki.revoke("agent-gw2", "x"),
            Err(PkiError::Unknown(_))
        ));
    }

    #[test]
    fn names_are_checked_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::init(folder.path(), "demo").unwrap();
        assert!(pki.issue(Role::Agent, "../x", &[], 1).is_err());
        assert!(
            pki.issue(Role::Node, "a", &[], 1)
                .unwrap_err()
                .to_string()
                .contains("--host")
        );
        assert!(Pki::init(&folder.path().join("new"), "a/b").is_err());
        assert!(!folder.path().join("new").exists());
    }
}
