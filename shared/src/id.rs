//! Newtypes for every id and unit that crosses a border between stages.

use std::fmt;
use std::sync::Arc;

/// Nanoseconds since 1970-01-01 UTC. Negative before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeNs(pub i64);

/// 64 random bits that an agent mints at every start. Names one run of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Position of a batch in its stream. The first batch is 1; 0 means "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchNumber(pub u64);

/// The running digest of a stream: `d(n) = H(d(n-1), bytes of batch n)`, `d(0)` is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 8]);

/// The id an agent gives to a (table, device, tags, fields) within one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalSeriesId(pub u32);

/// Who an agent is: its name in its certificate. 1 to 64 of `a-z A-Z 0-9 . _ -`, not starting with `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(Arc<str>);

/// Which of an agent's three ordered ways a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Dictionary, hello and clock entries: never dropped, what the other lanes refer to.
    Names = 0,
    /// Batches sealed while the window had room.
    Live = 1,
    /// All other batches.
    Backlog = 2,
}

/// One ordered sequence of numbered batches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    pub agent: AgentId,
    pub epoch: Epoch,
    pub lane: Lane,
}

/// Why a text is no agent id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no agent id: use 1 to 64 of a-z A-Z 0-9 . _ - and no leading dot")]
pub struct BadAgentId {
    pub text: String,
}

impl AgentId {
    /// Parses an id; the only way to make one.
    pub fn parse(text: &str) -> Result<Self, BadAgentId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = (1..=64).contains(&text.len()) && !text.starts_with('.');
        if fits && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(BadAgentId {
                text: text.chars().take(80).collect(),
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Names, Lane::Live, Lane::Backlog];

    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }

    /// The lane of that name; the inverse of [`Lane::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text)
    }

    /// The lane's name as it stands in topics and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Names => "names",
            Lane::Live => "live",
            Lane::Backlog => "backlog",
        }
    }
}

impl BatchNumber {
    pub const NONE: BatchNumber = BatchNumber(0);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// Reads what `Display` writes: 16 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

impl Digest {
    pub const ZERO: Digest = Digest([0; 8]);

    /// Reads what `Display` writes: 16 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(|value| Self(value.to_be_bytes()))
    }
}

fn parse_hex(text: &str) -> Option<u64> {
    let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 16 || !text.bytes().all(plain) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_back_and_has_one_form() {
        for value in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(Epoch::parse(&Epoch(value).to_string()), Some(Epoch(value)));
            let digest = Digest(value.to_be_bytes());
            assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        }
        for bad in [
            "",
            "0",
            "+000000000000001",
            "000000000000000G",
            "000000000000000A",
        ] {
            assert_eq!(Epoch::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Epoch::parse(&"0".repeat(17)), None);
    }

    #[test]
    fn agent_ids_are_names_and_nothing_else() {
        for good in ["a", "gateway-7", "plant1.line_3", &"x".repeat(64)] {
            assert_eq!(AgentId::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a+",
            "#",
            "a b",
            "\u{e4}",
            &"x".repeat(65),
        ] {
            assert!(AgentId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
