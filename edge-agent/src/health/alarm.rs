//! What somebody should look at now, in words: pure.

use crate::status::{Setup, Status};

const DAY_SECONDS: i64 = 86_400;
/// A certificate that ends sooner is worth a visit.
const EXPIRES_SOON_DAYS: i64 = 30;

/// How a node says that it does not take this agent's certificate: names of TLS alerts.
const REFUSALS: [&str; 7] = [
    "CertificateExpired",
    "CertificateRevoked",
    "CertificateUnknown",
    "CertificateRequired",
    "BadCertificate",
    "UnknownCA",
    "AccessDenied",
];
/// How our own side says that it does not take that of a node.
const NODE_NOT_TRUSTED: &str = "invalid peer certificate";

/// Each alarm is one sentence or two: what it is, and what to do. None is good.
///
/// `now_seconds` since 1970, by this machine's clock.
pub(crate) fn alarms(status: &Status, setup: &Setup, now_seconds: i64) -> Vec<String> {
    let mut alarms = Vec::new();
    alarms.extend(certificate(setup, now_seconds));
    alarms.extend(refused(status));
    let files = [
        ("configuration", &setup.config_refused),
        ("certificate", &setup.certificate_refused),
    ];
    for (what, why) in files {
        if let Some(why) = why {
            alarms.push(format!(
                "the new {what} is not used, the agent runs on with the old one: {why}"
            ));
        }
    }
    alarms.extend(setup.intake_missing.clone());
    if status.dead_letters_total > 0 {
        alarms.push(format!(
            "{} batches were refused by the cluster for ever: see dead-letters in the agent's \
             data_dir",
            status.dead_letters_total
        ));
    }
    alarms
}

fn certificate(setup: &Setup, now_seconds: i64) -> Option<String> {
    let expiry = setup.certificate_expiry.as_ref()?;
    let (left, day) = (expiry.left(now_seconds), &expiry.day);
    if left < 0 {
        return Some(format!(
            "certificate expired on {day}: no node takes it, readings stay in the buffer. Put a new \
             one in its place: it is used without a restart"
        ));
    }
    let days = left / DAY_SECONDS;
    (days < EXPIRES_SOON_DAYS).then(|| {
        format!(
            "certificate expires on {day}, in {days} days: put a new one in its place, it is used \
             without a restart"
        )
    })
}

fn refused(status: &Status) -> Option<String> {
    // What ended an earlier session is no alarm in a good one.
    let why = status.last_error.as_deref().filter(|_| !status.connected)?;
    if REFUSALS.iter().any(|alert| why.contains(alert)) {
        return Some(format!(
            "a node refuses this agent's certificate ({why}): is it of this cluster, expired or \
             revoked? Readings stay in the buffer; a new one is used without a restart"
        ));
    }
    why.contains(NODE_NOT_TRUSTED).then(|| {
        format!(
            "the certificate of {} is not accepted ({why}): does uplink.ca hold the authority of \
             the nodes, and does their certificate name this address?",
            status.server
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::Expiry;

    fn expires(at: i64, now_seconds: i64) -> Vec<String> {
        let expiry = Expiry {
            at,
            day: "2021-01-01".to_owned(),
        };
        let setup = Setup {
            certificate_expiry: Some(expiry),
            ..Setup::default()
        };
        alarms(&Status::default(), &setup, now_seconds)
    }

    #[test]
    fn a_certificate_is_an_alarm_before_and_after_its_end() {
        let end = 1_609_459_200;
        assert!(expires(end, end - 31 * DAY_SECONDS).is_empty());
        let soon = expires(end, end - 3 * DAY_SECONDS);
        assert!(
            soon[0].contains("expires on 2021-01-01, in 3 days"),
            "{soon:?}"
        );
        let late = expires(end, end + 1);
        assert!(late[0].contains("expired on 2021-01-01"), "{late:?}");
    }

    #[test]
    fn a_refusal_is_an_alarm_until_a_node_answers() {
        let mut status = Status {
            server: "10.0.0.1:8883".to_owned(),
            last_error: Some("uplink: I/O: received fatal alert: CertificateRevoked".to_owned()),
            ..Status::default()
        };
        let told = |status: &Status| alarms(status, &Setup::default(), 0);
        assert!(told(&status)[0].contains("refuses this agent's certificate"));
        status.connected = true;
        assert!(told(&status).is_empty());
        status.connected = false;
        status.last_error = Some("uplink: I/O: invalid peer certificate: Expired".to_owned());
        assert!(told(&status)[0].contains("uplink.ca"));
        status.last_error = Some("uplink: I/O: Connection refused (os error 111)".to_owned());
        assert!(told(&status).is_empty());
    }

    #[test]
    fn what_is_not_used_is_told() {
        let setup = Setup {
            config_refused: Some("agent.toml:3: no".to_owned()),
            intake_missing: Some("cannot listen on tcp://x".to_owned()),
            ..Setup::default()
        };
        let told = alarms(&Status::default(), &setup, 0);
        assert!(told[0].contains("configuration is not used") && told[0].ends_with("no"));
        assert_eq!(told[1], "cannot listen on tcp://x");
    }
}
