//! At which time certificates are judged while the time of day is not known, so that a gateway
//! whose clock is wrong reaches the cluster, which tells it the time.
//!
//! The rule and its price stand in `docs/decisions/0005-time-before-the-time-is-known.md`.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use shared::id::TimeNs;

use super::{BUILT, Stamper, Told, since_boot_ns, wall};

/// A clock that is ahead of the last known time by more is not believed.
const AHEAD_NS_MAX: i64 = 366 * 86_400 * 1_000_000_000;

/// The time for TLS: the time of day, or else the best there is.
#[derive(Debug)]
pub struct TlsTime {
    stamper: Stamper,
}

/// Judges certificates, while the time of day is not known, at each time that it could be.
#[derive(Debug)]
pub struct Judge {
    inner: Arc<dyn ServerCertVerifier>,
    stamper: Stamper,
}

impl TlsTime {
    pub fn new(stamper: Stamper) -> TlsTime {
        TlsTime { stamper }
    }
}

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let time = best(self.stamper.told(), since_boot_ns(), wall());
        Some(to_unix(time))
    }
}

impl Judge {
    pub fn new(inner: Arc<dyn ServerCertVerifier>, stamper: Stamper) -> Judge {
        Judge { inner, stamper }
    }
}

/// The time of day if it is known; else the machine's clock if that can be right, else the time
/// that is not later than the truth.
fn best(told: Told, boot_ns: i64, wall: TimeNs) -> TimeNs {
    if let Some(offset_ns) = told.offset_ns {
        return TimeNs(boot_ns.saturating_add(offset_ns));
    }
    let estimate = boot_ns.saturating_add(told.estimate_ns);
    let ahead = wall.0.saturating_sub(estimate);
    if (0..=AHEAD_NS_MAX).contains(&ahead) {
        wall
    } else {
        TimeNs(estimate)
    }
}

/// Other times at which a certificate may be good while the time of day is not known.
fn others(told: Told, boot_ns: i64, wall: TimeNs) -> Vec<UnixTime> {
    if told.offset_ns.is_some() {
        return Vec::new();
    }
    let estimate = TimeNs(boot_ns.saturating_add(told.estimate_ns));
    // What was remembered may be wrong as well.
    let times = [estimate, wall].into_iter().filter(|time| *time >= BUILT);
    times.map(to_unix).collect()
}

fn to_unix(time: TimeNs) -> UnixTime {
    let seconds = u64::try_from(time.0 / 1_000_000_000).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Tries one time after the other. That one is not valid yet at an assumed time proves that it is
/// later: an authority of the cluster signed it, so its first second has come.
fn judge<T>(
    now: UnixTime,
    others: &[UnixTime],
    mut at: impl FnMut(UnixTime) -> Result<T, Error>,
) -> Result<T, Error> {
    let first = at(now);
    if others.is_empty() || !matches!(first, Err(Error::InvalidCertificate(_))) {
        return first;
    }
    for time in [now].iter().chain(others) {
        match at(*time) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before,
                ..
            })) => {
                if let Ok(good) = at(not_before) {
                    return Ok(good);
                }
            }
            Err(_) => {}
            Ok(good) => return Ok(good),
        }
    }
    first
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let others = others(self.stamper.told(), since_boot_ns(), wall());
        judge(now, &others, |time| {
            self.inner.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                time,
            )
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_NS: i64 = AHEAD_NS_MAX;

    fn told(offset_ns: Option<i64>) -> Told {
        Told {
            offset_ns,
            first_ns: offset_ns,
            estimate_ns: BUILT.0,
        }
    }

    fn seconds(time: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(time))
    }

    /// A certificate that is good from `from` to `to`, in seconds.
    fn check(time: UnixTime, (from, to): (u64, u64)) -> Result<(), Error> {
        let error = if time < seconds(from) {
            let not_before = seconds(from);
            CertificateError::NotValidYetContext { time, not_before }
        } else if time > seconds(to) {
            let not_after = seconds(to);
            CertificateError::ExpiredContext { time, not_after }
        } else {
            return Ok(());
        };
        Err(Error::InvalidCertificate(error))
    }

    fn good(now: u64, others: &[u64], valid: (u64, u64)) -> bool {
        let others: Vec<UnixTime> = others.iter().map(|time| seconds(*time)).collect();
        judge(seconds(now), &others, |time| check(time, valid)).is_ok()
    }

    #[test]
    fn the_best_time_is_known_or_can_be_right() {
        let known = told(Some(BUILT.0 + 5));
        assert_eq!(best(known, 7, TimeNs(0)), TimeNs(BUILT.0 + 12));
        // 1970, ten years ahead, and a clock that may well be right.
        let unknown = told(None);
        assert_eq!(best(unknown, 7, TimeNs(9)), TimeNs(BUILT.0 + 7));
        let ahead = TimeNs(BUILT.0 + 10 * YEAR_NS);
        assert_eq!(best(unknown, 7, ahead), TimeNs(BUILT.0 + 7));
        let plausible = TimeNs(BUILT.0 + YEAR_NS / 2);
        assert_eq!(best(unknown, 7, plausible), plausible);
    }

    #[test]
    fn who_knows_the_time_judges_by_it_alone() {
        assert!(others(told(Some(0)), 7, BUILT).is_empty());
        assert!(good(100, &[], (100, 200)));
        assert!(!good(99, &[], (100, 200)));
        assert!(!good(201, &[], (100, 200)));
    }

    #[test]
    fn who_does_not_know_it_takes_any_time_that_it_could_be() {
        assert_eq!(others(told(None), 0, TimeNs(9)).len(), 1);
        assert_eq!(others(told(None), 0, TimeNs(BUILT.0 + 9)).len(), 2);
        // Issued after the last known time.
        assert!(good(50, &[50], (100, 200)));
        // Expired by a clock that is ahead.
        assert!(good(900, &[150], (100, 200)));
        assert!(good(900, &[50], (100, 200)));
        // Expired at every time that it could be.
        assert!(!good(900, &[300, 900], (100, 200)));
    }

    #[test]
    fn other_faults_stay_faults() {
        let fault = || Err::<(), Error>(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(judge(seconds(1), &[seconds(2)], |_| fault()).is_err());
    }
}
