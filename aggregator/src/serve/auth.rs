//! Who may ask: the owner of a user certificate, or who knows a password. Both protocols ask here.

use std::hash::{BuildHasher, RandomState};

use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;

use crate::tls::{Identity, IdentityError, Revocations, Role};
use crate::users::{Roster, Verifier};

/// Passwords that are checked at once: each costs milliseconds of CPU.
const CHECKS_MAX: usize = 2;

/// Decides who is let in.
pub struct Admission {
    cluster: String,
    users: Roster,
    revocations: Revocations,
    checks: Semaphore,
    /// Makes up the salt of users that there are not: the same for each name, as a real one is.
    salts: [RandomState; 2],
}

/// Why somebody is not let in. Who must act: the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the user or the password is wrong")]
    Password,
    #[error("log in with a password, or with a certificate of users-ca")]
    Missing,
    #[error("the certificate cannot be used: {0}")]
    Certificate(IdentityError),
    #[error("the certificate of {0} was revoked")]
    Revoked(String),
}

impl Admission {
    /// `cluster` is the cluster's name: certificates of another are refused.
    pub fn new(cluster: &str, users: Roster, revocations: Revocations) -> Admission {
        Admission {
            cluster: cluster.to_owned(),
            users,
            revocations,
            checks: Semaphore::new(CHECKS_MAX),
            salts: [RandomState::new(), RandomState::new()],
        }
    }

    pub(super) fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Who presented a certificate; `None` if nobody did. That it is genuine, TLS has said.
    pub(super) fn certificate(
        &self,
        presented: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<Identity>, Refusal> {
        if presented.is_none_or(<[_]>::is_empty) {
            return Ok(None);
        }
        let identity = Identity::of_peer(presented, &self.cluster, Role::User)
            .map_err(Refusal::Certificate)?;
        self.not_revoked(&identity)?;
        Ok(Some(identity))
    }

    /// Looked at again whenever an open connection asks.
    pub(super) fn not_revoked(&self, identity: &Identity) -> Result<(), Refusal> {
        match self.revocations.reason(&identity.serial) {
            Some(_) => Err(Refusal::Revoked(identity.to_string())),
            None => Ok(()),
        }
    }

    /// Checks a password that came in the clear inside TLS, off the event loop.
    pub(super) async fn password(&self, user: &str, password: &str) -> Result<(), Refusal> {
        let _turn = self.checks.acquire().await.map_err(|_| Refusal::Password)?;
        let users = self.users.current();
        let (user, password) = (user.to_owned(), password.to_owned());
        let check = tokio::task::spawn_blocking(move || users.verify(&user, &password));
        match check.await {
            Ok(true) => Ok(()),
            _ => Err(Refusal::Password),
        }
    }

    /// What the SCRAM handshake needs of a user. For one that there is not, something that no
    /// password fits and that looks the same from outside.
    pub(super) fn verifier(&self, user: &str) -> Result<Verifier, getrandom::Error> {
        if let Some(known) = self.users.current().get(user) {
            return Ok(known.clone());
        }
        let salt = self
            .salts
            .iter()
            .map(|salt| salt.hash_one(user).to_be_bytes());
        let mut salted_password = vec![0; 32];
        getrandom::fill(&mut salted_password)?;
        Ok(Verifier {
            salt: salt.flatten().collect(),
            salted_password,
        })
    }
}

/// RFC 4648, with padding or without; the one place that needs it, so no crate for it.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut word = 0_u32;
        for place in 0..4 {
            let digit = group.get(place).map_or(Some(0), |byte| digit(*byte))?;
            word = (word << 6) | digit;
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::admission;

    #[tokio::test]
    async fn only_the_right_password_is_let_in() {
        let (admission, _folder) = admission();
        assert_eq!(admission.password("ada", "correct horse").await, Ok(()));
        for (user, password) in [("ada", "wrong horse"), ("eve", "correct horse"), ("", "")] {
            let refused = admission.password(user, password).await;
            assert_eq!(refused, Err(Refusal::Password), "{user}");
        }
    }

    #[test]
    fn who_does_not_exist_looks_like_who_does() {
        let (admission, _folder) = admission();
        let known = admission.verifier("ada").unwrap();
        let (first, again) = (
            admission.verifier("eve").unwrap(),
            admission.verifier("eve").unwrap(),
        );
        assert_eq!(first.salt, again.salt);
        assert_ne!(first.salt, admission.verifier("bob").unwrap().salt);
        assert_ne!(first.salted_password, again.salted_password);
        assert_eq!(first.salt.len(), known.salt.len());
        assert_eq!(first.salted_password.len(), known.salted_password.len());
    }

    #[test]
    fn base64_as_in_the_rfc() {
        for (coded, plain) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(
                unbase64(coded).as_deref(),
                Some(plain.as_bytes()),
                "{coded}"
            );
        }
        for bad in ["Z", "Zm9v!", "Zm 9", "Zm9vY"] {
            assert_eq!(unbase64(bad), None, "{bad}");
        }
    }
}
