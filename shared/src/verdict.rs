//! What the cluster answers to a batch, and how MQTT 5 carries it.
//!
//! A PUBACK carries a reason code and, for every verdict but "ok", the user properties `verdict`,
//! `last` and `digest` (where the stream stands) or `retry_ms`. CONNECT and CONNACK carry one
//! user property `stream` for each open stream.

use crate::id::{BatchNumber, Digest, Epoch, Lane};

/// User property of a PUBACK: the verdict's name.
pub const VERDICT_PROPERTY: &str = "verdict";
/// User property of a PUBACK: the last number of the stream that took effect, decimal.
pub const LAST_PROPERTY: &str = "last";
/// User property of a PUBACK: the digest of the stream at `last`, 16 hex digits.
pub const DIGEST_PROPERTY: &str = "digest";
/// User property of a PUBACK: milliseconds to wait before the batch is sent again, decimal.
pub const RETRY_PROPERTY: &str = "retry_ms";
/// User property of CONNECT and CONNACK: see [`format_stream`] and [`format_stream_position`].
pub const STREAM_PROPERTY: &str = "stream";
/// The key of the user property of CONNACK with the node's clock, in decimal nanoseconds.
pub const TIME_PROPERTY: &str = "time_ns";

/// Where a stream stands in the replicated state: the last number that took effect and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Position {
    pub last: BatchNumber,
    pub digest: Digest,
}

/// The answer to one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Took effect: on disk at a quorum, stored, visible to the next query.
    Ok,
    /// Took effect earlier.
    Have(Position),
    /// Nothing is known of its fate; send it again after this many milliseconds.
    Busy { retry_ms: u32 },
    /// Over a quota of this agent; send it again after this many milliseconds.
    Quota { retry_ms: u32 },
    /// A number before it is missing: go back to `last + 1`.
    Gap(Position),
    /// The digest chain does not fit: another agent wrote this stream, or a copied disk did.
    Fork(Position),
    /// `names` batches that it needs are missing: `last` of the names lane.
    Names(Position),
    /// The topic belongs to another agent.
    ForeignTopic,
    /// No such topic.
    BadTopic,
    /// Damaged or against the format: it will be refused for ever.
    Invalid,
}

impl Verdict {
    /// The MQTT 5 reason code of the PUBACK.
    pub fn reason_code(&self) -> u8 {
        match self {
            Self::Ok | Self::Have(_) => 0x00,
            Self::Gap(_) | Self::Fork(_) | Self::Names(_) => 0x83,
            Self::ForeignTopic => 0x87,
            Self::BadTopic => 0x90,
            Self::Busy { .. } | Self::Quota { .. } => 0x97,
            Self::Invalid => 0x99,
        }
    }

    /// The verdict's name, as in the property `verdict` and in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Have(_) => "have",
            Self::Busy { .. } => "busy",
            Self::Quota { .. } => "quota",
            Self::Gap(_) => "gap",
            Self::Fork(_) => "fork",
            Self::Names(_) => "names",
            Self::ForeignTopic => "foreign_topic",
            Self::BadTopic => "bad_topic",
            Self::Invalid => "invalid",
        }
    }

    /// The user properties of the PUBACK. None for "ok": it is by far the most frequent answer.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let name = (VERDICT_PROPERTY, self.as_str().to_owned());
        match self {
            Self::Ok => Vec::new(),
            Self::Have(position)
            | Self::Gap(position)
            | Self::Fork(position)
            | Self::Names(position) => vec![
                name,
                (LAST_PROPERTY, position.last.0.to_string()),
                (DIGEST_PROPERTY, position.digest.to_string()),
            ],
            Self::Busy { retry_ms } | Self::Quota { retry_ms } => {
                vec![name, (RETRY_PROPERTY, retry_ms.to_string())]
            }
            Self::ForeignTopic | Self::BadTopic | Self::Invalid => vec![name],
        }
    }

    /// Reads a PUBACK. `None` if code and properties do not make a verdict: then nothing is known
    /// of the batch's fate. Unknown properties are passed over.
    pub fn parse<K, V>(
        reason_code: u8,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Option<Self>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut name = None;
        let mut last = None;
        let mut digest = None;
        let mut retry_ms = None;
        for (key, value) in properties {
            let value = value.as_ref();
            match key.as_ref() {
                VERDICT_PROPERTY => name = Some(value.to_owned()),
                LAST_PROPERTY => last = Some(BatchNumber(parse_decimal(value)?)),
                DIGEST_PROPERTY => digest = Some(Digest::parse(value)?),
                RETRY_PROPERTY => retry_ms = Some(u32::try_from(parse_decimal(value)?).ok()?),
                _ => {}
            }
        }
        let position = last
            .zip(digest)
            .map(|(last, digest)| Position { last, digest });
        let verdict = match name.as_deref() {
            None | Some("ok") => Self::Ok,
            Some("have") => Self::Have(position?),
            Some("gap") => Self::Gap(position?),
            Some("fork") => Self::Fork(position?),
            Some("names") => Self::Names(position?),
            Some("busy") => Self::Busy {
                retry_ms: retry_ms?,
            },
            Some("quota") => Self::Quota {
                retry_ms: retry_ms?,
            },
            Some("foreign_topic") => Self::ForeignTopic,
            Some("bad_topic") => Self::BadTopic,
            Some("invalid") => Self::Invalid,
            Some(_) => return None,
        };
        (verdict.reason_code() == reason_code).then_some(verdict)
    }
}

/// `<epoch>/<lane>`: a stream that an agent opens, in CONNECT.
pub fn format_stream(epoch: Epoch, lane: Lane) -> String {
    format!("{epoch}/{}", lane.as_str())
}

/// The inverse of [`format_stream`].
pub fn parse_stream(text: &str) -> Option<(Epoch, Lane)> {
    let (epoch, lane) = text.split_once('/')?;
    Some((Epoch::parse(epoch)?, Lane::parse(lane)?))
}

/// `<epoch>/<lane>/<last>/<digest>`: where a stream stands, in CONNACK.
pub fn format_stream_position(epoch: Epoch, lane: Lane, position: Position) -> String {
    format!(
        "{epoch}/{}/{}/{}",
        lane.as_str(),
        position.last.0,
        position.digest
    )
}

/// The inverse of [`format_stream_position`].
pub fn parse_stream_position(text: &str) -> Option<(Epoch, Lane, Position)> {
    let mut parts = text.split('/');
    let epoch = Epoch::parse(parts.next()?)?;
    let lane = Lane::parse(parts.next()?)?;
    let last = BatchNumber(parse_decimal(parts.next()?)?);
    let digest = Digest::parse(parts.next()?)?;
    parts
        .next()
        .is_none()
        .then_some((epoch, lane, Position { last, digest }))
}

/// One form a number: digits only, so no sign.
fn parse_decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: Position = Position {
        last: BatchNumber(41),
        digest: Digest([1, 2, 3, 4, 5, 6, 7, 0xff]),
    };

    #[test]
    fn every_verdict_is_read_back() {
        for (verdict, code) in [
            (Verdict::Ok, 0x00),
            (Verdict::Have(POSITION), 0x00),
            (Verdict::Busy { retry_ms: 250 }, 0x97),
            (Verdict::Quota { retry_ms: u32::MAX }, 0x97),
            (Verdict::Gap(POSITION), 0x83),
            (Verdict::Fork(POSITION), 0x83),
            (Verdict::Names(Position::default()), 0x83),
            (Verdict::ForeignTopic, 0x87),
            (Verdict::BadTopic, 0x90),
            (Verdict::Invalid, 0x99),
        ] {
            assert_eq!(verdict.reason_code(), code);
            assert_eq!(Verdict::parse(code, verdict.properties()), Some(verdict));
        }
    }

    #[test]
    fn what_does_not_fit_together_is_no_verdict() {
        let none: [(&str, &str); 0] = [];
        assert_eq!(Verdict::parse(0x00, none), Some(Verdict::Ok));
        assert_eq!(Verdict::parse(0x00, [("other", "1")]), Some(Verdict::Ok));
        assert_eq!(Verdict::parse(0x99, none), None, "a refusal names itself");
        assert_eq!(Verdict::parse(0x10, none), None);
        assert_eq!(Verdict::parse(0x00, [("verdict", "invalid")]), None);
        assert_eq!(
            Verdict::parse(0x83, [("verdict", "gap"), ("last", "7")]),
            None
        );
        assert_eq!(
            Verdict::parse(0x97, [("verdict", "busy"), ("retry_ms", "+1")]),
            None
        );
        assert_eq!(
            Verdict::parse(0x97, [("verdict", "busy"), ("retry_ms", "4294967296")]),
            None
        );
        assert_eq!(Verdict::parse(0x83, [("verdict", "later")]), None);
    }

    #[test]
    fn stream_properties_are_read_back() {
        let epoch = Epoch(0x0123_4567_89ab_cdef);
        let open = format_stream(epoch, Lane::Backlog);
        assert_eq!(open, "0123456789abcdef/backlog");
        assert_eq!(parse_stream(&open), Some((epoch, Lane::Backlog)));
        let at = format_stream_position(epoch, Lane::Names, POSITION);
        assert_eq!(at, "0123456789abcdef/names/41/01020304050607ff");
        assert_eq!(
            parse_stream_position(&at),
            Some((epoch, Lane::Names, POSITION))
        );
        for bad in [
            "",
            "/",
            "0123456789abcdef",
            "0123456789abcdef/",
            "0123456789abcdef/line",
        ] {
            assert_eq!(parse_stream(bad), None, "{bad:?}");
        }
        assert_eq!(parse_stream_position(&open), None);
        assert_eq!(parse_stream_position(&format!("{at}/")), None);
        assert_eq!(
            parse_stream_position("0123456789abcdef/names//01020304050607ff"),
            None
        );
    }
}
