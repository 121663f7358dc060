//! Who may log in with a password: SCRAM-SHA-256 verifiers, one file a node.
//!
//! The file holds no password, but the salted one, `Hi(password, salt, iterations)` of RFC 5802,
//! which is what the PostgreSQL handshake needs. Who reads it can pose as the user towards this
//! cluster; so it is mode 0600 like a key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, gen_salted_password};
use serde::{Deserialize, Serialize};
use shared::id::AgentId;

use crate::tls::Stamp;

/// The iteration count of every verifier: one for all, because the handshake announces it before
/// it knows the user.
pub const ITERATIONS: usize = SCRAM_ITERATIONS;

const SALT_BYTES: usize = 16;
const SALTED_BYTES: usize = 32;
/// A password below this is guessed from a stolen file in no time.
const PASSWORD_CHARS_MIN: usize = 8;
const PASSWORD_BYTES_MAX: usize = 1_024;

/// What the server keeps of one password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub salt: Vec<u8>,
    pub salted_password: Vec<u8>,
}

/// All verifiers, by user name. Empty: nobody logs in by password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<String, Verifier>,
}

/// The users of a running node: the file as it is now, read again only when it changed.
pub struct Roster {
    path: PathBuf,
    // A std mutex: held for a look at the file and, rarely, a read of it; never across an await.
    known: Mutex<Known>,
}

struct Known {
    /// Of the file that was tried last; `None`: there was none.
    stamp: Option<Stamp>,
    users: Arc<Users>,
}

/// Who must act: the operator.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the user file {} is not valid: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{0}")]
    Name(String),
    #[error(
        "the password needs at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes"
    )]
    Password,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    users: Vec<UserEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: String,
    iterations: usize,
    salt: String,
    salted_password: String,
}

impl Users {
    /// Reads the file; one that does not exist has no users.
    pub fn load(path: &Path) -> Result<Users, UsersError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Users::default()),
            Err(source) => {
                return Err(UsersError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let syntax = |message: String| UsersError::Syntax {
            path: path.to_owned(),
            message,
        };
        let file: UsersFile = toml::from_str(&text).map_err(|e| syntax(e.to_string()))?;
        let mut users = Users::default();
        for entry in file.users {
            let name = entry.name.clone();
            let verifier = entry
                .parse()
                .map_err(|what| syntax(format!("user {name:?}: {what}")))?;
            if users.by_name.insert(name.clone(), verifier).is_some() {
                return Err(syntax(format!("user {name:?} stands twice")));
            }
        }
        Ok(users)
    }

    /// Adds or replaces a user. `true`: it was there before.
    pub fn set(&mut self, name: &str, password: &str) -> Result<bool, UsersError> {
        let id = AgentId::parse(name).map_err(|e| UsersError::Name(e.to_string()))?;
        let long_enough = password.chars().count() >= PASSWORD_CHARS_MIN;
        if !long_enough || password.len() > PASSWORD_BYTES_MAX {
            return Err(UsersError::Password);
        }
        let mut salt = vec![0_u8; SALT_BYTES];
        getrandom::fill(&mut salt)
            .map_err(|e| UsersError::Name(format!("the system has no random numbers: {e}")))?;
        let salted_password = gen_salted_password(password, &salt, ITERATIONS);
        let verifier = Verifier {
            salt,
            salted_password,
        };
        Ok(self
            .by_name
            .insert(id.as_str().to_owned(), verifier)
            .is_some())
    }

    /// Replaces the file in one step.
    pub fn save(&self, path: &Path) -> Result<(), UsersError> {
        let users = self.by_name.iter().map(|(name, verifier)| UserEntry {
            name: name.clone(),
            iterations: ITERATIONS,
            salt: hex(&verifier.salt),
            salted_password: hex(&verifier.salted_password),
        });
        let file = UsersFile {
            users: users.collect(),
        };
        let failed = |source| UsersError::File {
            path: path.to_owned(),
            source,
        };
        let text = toml::to_string(&file).map_err(|e| failed(std::io::Error::other(e)))?;
        crate::pki::replace_file(path, text.as_bytes(), 0o600).map_err(failed)
    }

    pub fn get(&self, name: &str) -> Option<&Verifier> {
        self.by_name.get(name)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Checks a password that came in the clear (HTTP basic authentication inside TLS).
    /// Costs some milliseconds of CPU, for unknown names too: run it off the event loop.
    pub fn verify(&self, name: &str, password: &str) -> bool {
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        let nobody = Verifier {
            salt: vec![0; SALT_BYTES],
            salted_password: vec![],
        };
        let known = self.get(name);
        let verifier = known.unwrap_or(&nobody);
        let given = gen_salted_password(password, &verifier.salt, ITERATIONS);
        same(&given, &verifier.salted_password) && known.is_some()
    }
}

impl Roster {
    /// Reads the file for the first time; a broken one is an error.
    pub fn open(path: &Path) -> Result<Roster, UsersError> {
        let stamp = Stamp::of(path).ok();
        let users = Arc::new(Users::load(path)?);
        Ok(Roster {
            path: path.to_owned(),
            known: Mutex::new(Known { stamp, users }),
        })
    }

    /// Who may log in now. While the file is broken, the last good one stays in force.
    pub fn current(&self) -> Arc<Users> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the read: a change in between is seen at the next look.
        let stamp = Stamp::of(&self.path).ok();
        if stamp != known.stamp {
            known.stamp = stamp;
            match Users::load(&self.path) {
                Ok(users) => {
                    tracing::info!(users = users.by_name.len(), "user file read again");
                    known.users = Arc::new(users);
                }
                Err(error) => tracing::error!(
                    %error,
                    "user file not read again: the last good one stays in force; repair the file"
                ),
            }
        }
        Arc::clone(&known.users)
    }
}

impl UserEntry {
    fn parse(self) -> Result<Verifier, String> {
        AgentId::parse(&self.name).map_err(|e| e.to_string())?;
        if self.iterations != ITERATIONS {
            return Err(format!(
                "iterations = {}: only {ITERATIONS} works",
                self.iterations
            ));
        }
        let salt = unhex(&self.salt).filter(|salt| salt.len() >= SALT_BYTES);
        let salted = unhex(&self.salted_password).filter(|bytes| bytes.len() == SALTED_BYTES);
        match (salt, salted) {
            (Some(salt), Some(salted_password)) => Ok(Verifier {
                salt,
                salted_password,
            }),
            _ => Err("salt or salted_password is not hex of the right length".to_owned()),
        }
    }
}

/// Takes the same time wherever the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_keeps_verifiers_and_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        assert!(Users::load(&path).unwrap().is_empty());
        let mut users = Users::default();
        assert!(!users.set("ops", "correct horse").unwrap());
        assert!(users.set("ops", "battery staple").unwrap());
        users.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("staple"), "{text}");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let users = Users::load(&path).unwrap();
        assert!(users.verify("ops", "battery staple"));
        for (name, password) in [
            ("ops", "correct horse"),
            ("ops", ""),
            ("root", ""),
            ("", ""),
        ] {
            assert!(!users.verify(name, password), "{name} {password}");
        }
    }

    /// RFC 7677, section 3: user "user", password "pencil".
    #[test]
    fn verifiers_are_those_of_the_standard() {
        let salt = b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81";
        let salted = gen_salted_password("pencil", salt, 4096);
        assert_eq!(
            hex(&salted),
            "c4a49510323ab4f952cac1fa99441939e78ea74d6be81ddf7096e87513dc615d"
        );
    }

    #[test]
    fn a_damaged_entry_is_an_error_and_no_user_without_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        let mut users = Users::default();
        users.set("ops", "correct horse").unwrap();
        users.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("salted_password = \"", "salted_password = \"zz"),
            ("iterations = 4096", "iterations = 1"),
            ("salt = \"", "sal = \""),
            ("name = \"ops\"", "name = \"\""),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(
                matches!(Users::load(&path), Err(UsersError::Syntax { .. })),
                "{from}"
            );
        }
    }

    #[test]
    fn a_running_node_sees_who_is_added_and_who_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        let roster = Roster::open(&path).unwrap();
        assert!(roster.current().is_empty());
        let mut users = Users::default();
        users.set("ops", "correct horse").unwrap();
        users.save(&path).unwrap();
        assert!(roster.current().verify("ops", "correct horse"));
        users.set("ops", "battery staple").unwrap();
        users.save(&path).unwrap();
        assert!(!roster.current().verify("ops", "correct horse"));
        std::fs::write(&path, "users = 7").unwrap();
        for _ in 0..2 {
            assert!(roster.current().verify("ops", "battery staple"));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(roster.current().is_empty());
    }

    #[test]
    fn weak_passwords_are_refused() {
        assert!(matches!(
            Users::default().set("ops", "short"),
            Err(UsersError::Password)
        ));
    }
}
