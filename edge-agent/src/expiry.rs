//! Until when a certificate is good. rustls checks it, but does not tell, and a parser of all that a
//! certificate may hold is twenty crates; this walks to one field of our own file. A help for
//! people, not a check: whether a certificate is accepted, the nodes say.

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The last second of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Seconds since 1970.
    pub at: i64,
    /// Its day in UTC, as `2026-03-01`.
    pub day: String,
}

impl Expiry {
    /// Of a certificate in DER; `None` if it is none that is understood.
    pub fn of(certificate: &[u8]) -> Option<Expiry> {
        let (_, certificate, _) = element(certificate)?;
        let (_, mut fields, _) = element(certificate)?;
        if fields.first() == Some(&VERSION) {
            fields = element(fields)?.2;
        }
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            fields = element(fields)?.2;
        }
        let (_, validity, _) = element(fields)?;
        let (_, _, behind_not_before) = element(validity)?;
        let (tag, text, _) = element(behind_not_before)?;
        Expiry::parse(tag, std::str::from_utf8(text).ok()?)
    }

    /// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`, as RFC 5280 allows them and no others.
    fn parse(tag: u8, text: &str) -> Option<Expiry> {
        let digits = text.strip_suffix('Z')?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year: i64 = digits[..2].parse().ok()?;
                let century = if year < 50 { 2000 } else { 1900 };
                (century + year, &digits[2..])
            }
            (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, &digits[4..]),
            _ => return None,
        };
        let part = |nth: usize| rest[2 * nth..2 * nth + 2].parse::<i64>().ok();
        let (month, day) = (part(0)?, part(1)?);
        let seconds = part(2)? * 3_600 + part(3)? * 60 + part(4)?;
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        Some(Expiry {
            at: days(year, month, day) * 86_400 + seconds,
            day: format!("{year:04}-{month:02}-{day:02}"),
        })
    }

    /// Seconds from then on; below 0 once it is over.
    pub(crate) fn left(&self, now_seconds: i64) -> i64 {
        self.at.saturating_sub(now_seconds)
    }
}

/// The first element: its tag, its content, and what stands behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Three bytes of length are more than a certificate has.
        let count = usize::from(first & 0x7f);
        let (bytes, rest) = rest.split_at_checked(count.min(4))?;
        let length = bytes
            .iter()
            .try_fold(0_usize, |length, byte| {
                let longer = length.checked_mul(256)?;
                longer.checked_add(usize::from(*byte))
            })
            .filter(|_| (1..=3).contains(&count))?;
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, which has 97 leap days in 400 years.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let before_month = (153 * month + 2) / 5;
    year * 365 + leap_days + before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    const EXPIRED: &[u8] = include_bytes!("../../tests/fixtures/certificate/expired.pem");

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let der = CertificateDer::from_pem_slice(EXPIRED).unwrap();
        let expiry = Expiry::of(&der).unwrap();
        assert_eq!(expiry.day, "2021-01-01");
        assert_eq!(expiry.at, 1_609_459_200);
        assert_eq!(expiry.left(1_609_459_201), -1);
        for end in 0..der.len() {
            // Cut anywhere, it is still no reason to fall over.
            let _ = Expiry::of(&der[..end]);
        }
        assert_eq!(Expiry::of(b"no certificate"), None);
    }

    #[test]
    fn days_of_the_calendar() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(1969, 12, 31), -1);
        assert_eq!(days(2000, 2, 29) + 1, days(2000, 3, 1));
        assert_eq!(days(2100, 2, 28) + 1, days(2100, 3, 1));
        assert_eq!(days(2026, 11, 26), 20_783);
    }

    #[test]
    fn both_forms_of_a_time_are_read_and_no_others() {
        let at = |tag, text| Expiry::parse(tag, text).map(|expiry| expiry.at);
        assert_eq!(at(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(at(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(at(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for (tag, text) in [
            (UTC_TIME, "20500101000000Z"),
            (UTC_TIME, "7001010000Z"),
            (UTC_TIME, "701301000001Z"),
            (GENERALIZED_TIME, "20500101000000"),
            (GENERALIZED_TIME, "2050010100000+Z"),
            (0x0c, "700101000001Z"),
        ] {
            assert_eq!(at(tag, text), None, "{text}");
        }
    }
}
