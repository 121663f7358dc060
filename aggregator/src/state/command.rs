//! The commands of the replicated state machine: what one Raft entry means.
//!
//! Bytes in `docs/formats.md`. A node that meets a kind in a version that it does not know stops.

use bytes::Bytes;
use shared::id::{AgentId, TimeNs};

use super::bytes::{ReadFault, Reader, Writer};
use super::machine::HOUR_NS;
use super::settings::{Form, Wish};

/// Of all kinds but settings and some seals.
const VERSION: u8 = 1;
/// Of seals of tables that are kept for a time of their own.
const SEAL_VERSION: u8 = 2;
/// Of settings, with the form of the wish: what version 1 has under this number sets the retention alone.
/// The least that is needed is written: older nodes know what is left out of it.
const SETTINGS_VERSIONS: [(u8, Form); 3] = [
    (2, Form::DaysAndHours),
    (3, Form::SameTime),
    (4, Form::Tables),
];
/// Submissions of one command.
pub const SUBMISSIONS_MAX: usize = 65_536;

const SUBMISSIONS: u8 = 0;
const CLOCK: u8 = 1;
const MERGE: u8 = 2;
const RETENTION: u8 = 3;
const ADMIT: u8 = 4;
const SETTINGS: u8 = 5;
const SEAL: u8 = 6;

const BATCH: u8 = 0;
const LINES: u8 = 1;
/// Bytes of a submission without its agent and payload.
const SUBMISSION_BYTES_MIN: usize = 8 + 8 + 8 + 1 + 4 + 4;

/// Where a submission came from, so that the node that took it can answer it once it applied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Random, minted at every start of a node.
    pub boot: u64,
    /// Counts up within the boot.
    pub ticket: u64,
}

/// What a publisher handed in; validated before it is proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// One encoded batch, exactly as it came from the agent.
    Batch(Bytes),
    /// Line protocol from the plain topic: at least once, no numbers. Lines without a time take `received`.
    Lines(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    pub origin: Origin,
    pub agent: AgentId,
    /// The receiving node's clock.
    pub received: TimeNs,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Many batches of many agents: the unit of group commit.
    Submissions(Vec<Submission>),
    /// One voter's clock. Replicated time is the median of the latest of each voter, never back.
    Clock { node: u64, now: TimeNs },
    /// Everything applied before this command becomes segments named after its index.
    Merge,
    /// As a merge; of a partition everything that segments hold of some tables goes into new ones, too.
    Seal(Sealing),
    /// Drop what ended more than the retention of its table before replicated time.
    Retention,
    /// Admits a node; the index of this command becomes its id.
    Admit {
        name: String,
        address: String,
        /// The number under which the node asked: tells a repeated request from another disk.
        joining: u64,
    },
    /// Of older versions, which are read for ever: the retention, at once.
    RetentionDays(u32),
    /// What the configuration of one node says that all replicas must agree on.
    Settings { node: u64, wish: Wish },
}

/// A window of time by which rows are kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// UTC hours since 1970.
    pub start_hour: i64,
    /// Above 0.
    pub hours: u32,
}

/// What is to be sealed: the tables of a partition that are kept equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealing {
    pub window: Window,
    /// By a retention of their own; 0: as long as the cluster's.
    pub kept_days: u32,
}

/// Why bytes are no command. Whoever meets this in a log entry stops: it must not skip it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("version {0} of the commands is newer than this node")]
    Version(u8),
    #[error("no command: {0}")]
    Malformed(&'static str),
}

impl Command {
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.u8(match self {
            Self::Settings { wish, .. } => version_of(wish.form()),
            Self::Seal(sealing) if sealing.kept_days > 0 => SEAL_VERSION,
            _ => VERSION,
        });
        match self {
            Self::Submissions(submissions) => {
                out.out
                    .reserve(submissions.iter().map(Submission::bytes).sum());
                out.u8(SUBMISSIONS);
                out.count(submissions.len());
                submissions
                    .iter()
                    .for_each(|submission| submission.encode(&mut out));
            }
            Self::Clock { node, now } => {
                out.u8(CLOCK);
                out.u64(*node);
                out.i64(now.0);
            }
            Self::Merge => out.u8(MERGE),
            Self::Seal(sealing) => {
                out.u8(SEAL);
                sealing.encode(&mut out);
            }
            Self::Retention => out.u8(RETENTION),
            Self::Admit {
                name,
                address,
                joining,
            } => {
                out.u8(ADMIT);
                out.text(name);
                out.text(address);
                out.u64(*joining);
            }
            Self::RetentionDays(days) => {
                out.u8(SETTINGS);
                out.u32(*days);
            }
            Self::Settings { node, wish } => {
                out.u8(SETTINGS);
                out.u64(*node);
                wish.encode(wish.form(), &mut out);
            }
        }
        out.out.into()
    }

    /// Whether these are the bytes of submissions: the only commands that are large, and that come
    /// as often as publishers like.
    pub fn is_submissions(bytes: &[u8]) -> bool {
        bytes.get(1) == Some(&SUBMISSIONS)
    }

    /// Payloads are slices of `bytes`: nothing is copied.
    pub fn decode(bytes: &Bytes) -> Result<Self, CommandError> {
        let mut reader = Reader::new(bytes);
        let (version, kind) = (reader.u8()?, reader.u8()?);
        let versions = SETTINGS_VERSIONS.iter();
        let mut forms = versions.filter(|(of, _)| kind == SETTINGS && *of == version);
        if let Some((_, form)) = forms.next() {
            let (node, wish) = (reader.u64()?, Wish::decode(*form, &mut reader)?);
            reader.end()?;
            return Ok(Self::Settings { node, wish });
        }
        let command = match kind {
            SEAL if version == SEAL_VERSION => {
                let sealing = Sealing::decode(&mut reader)?;
                let kept_days = reader.u32()?;
                if kept_days == 0 {
                    return Err(CommandError::Malformed("a seal of no days"));
                }
                Self::Seal(Sealing {
                    kept_days,
                    ..sealing
                })
            }
            _ if version != VERSION => return Err(CommandError::Version(version)),
            SUBMISSIONS => {
                let count = reader.count(SUBMISSION_BYTES_MIN)?;
                if count > SUBMISSIONS_MAX {
                    return Err(CommandError::Malformed("too many submissions"));
                }
                let each = (0..count).map(|_| Submission::decode(&mut reader, bytes));
                Self::Submissions(each.collect::<Result<_, _>>()?)
            }
            CLOCK => Self::Clock {
                node: reader.u64()?,
                now: TimeNs(reader.i64()?),
            },
            MERGE => Self::Merge,
            SEAL => Self::Seal(Sealing::decode(&mut reader)?),
            RETENTION => Self::Retention,
            ADMIT => {
                let (name, address) = (reader.text()?.to_owned(), reader.text()?.to_owned());
                Self::Admit {
                    name,
                    address,
                    joining: reader.u64()?,
                }
            }
            SETTINGS => Self::RetentionDays(reader.u32()?),
            _ => return Err(CommandError::Malformed("unknown kind of command")),
        };
        reader.end()?;
        Ok(command)
    }
}

fn version_of(form: Form) -> u8 {
    let mut versions = SETTINGS_VERSIONS.into_iter();
    let version = versions.find(|(_, of)| *of == form);
    version.expect("every form has a version").0
}

impl Window {
    /// The first time behind it.
    pub fn end(self) -> TimeNs {
        let hour = self.start_hour.saturating_add(i64::from(self.hours));
        TimeNs(hour.saturating_mul(HOUR_NS))
    }
}

impl From<Window> for Sealing {
    fn from(window: Window) -> Self {
        Self {
            window,
            kept_days: 0,
        }
    }
}

impl Sealing {
    fn encode(self, out: &mut Writer) {
        let Self { window, kept_days } = self;
        out.i64(window.start_hour);
        out.u32(window.hours);
        if kept_days > 0 {
            out.u32(kept_days);
        }
    }

    /// As version 1 has it.
    fn decode(from: &mut Reader<'_>) -> Result<Self, CommandError> {
        let (start_hour, hours) = (from.i64()?, from.u32()?);
        if hours == 0 {
            return Err(CommandError::Malformed("a window without hours"));
        }
        Ok(Window { start_hour, hours }.into())
    }
}

impl Submission {
    /// Bytes that it takes in an encoded command.
    pub fn bytes(&self) -> usize {
        let (Payload::Batch(payload) | Payload::Lines(payload)) = &self.payload;
        SUBMISSION_BYTES_MIN + self.agent.as_str().len() + payload.len()
    }

    fn encode(&self, out: &mut Writer) {
        let Self {
            origin,
            agent,
            received,
            payload,
        } = self;
        out.u64(origin.boot);
        out.u64(origin.ticket);
        out.i64(received.0);
        let (kind, payload) = match payload {
            Payload::Batch(payload) => (BATCH, payload),
            Payload::Lines(payload) => (LINES, payload),
        };
        out.u8(kind);
        out.text(agent.as_str());
        out.bytes(payload);
    }

    fn decode(reader: &mut Reader<'_>, entry: &Bytes) -> Result<Self, CommandError> {
        let origin = Origin {
            boot: reader.u64()?,
            ticket: reader.u64()?,
        };
        let received = TimeNs(reader.i64()?);
        let kind = reader.u8()?;
        let agent = AgentId::parse(reader.text()?);
        let agent = agent.map_err(|_| CommandError::Malformed("a name that is no agent id"))?;
        let payload = entry.slice_ref(reader.bytes()?);
        let payload = match kind {
            BATCH => Payload::Batch(payload),
            LINES => Payload::Lines(payload),
            _ => return Err(CommandError::Malformed("unknown kind of payload")),
        };
        Ok(Self {
            origin,
            agent,
            received,
            payload,
        })
    }
}

impl From<ReadFault> for CommandError {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Short => Self::Malformed("it ends early"),
            ReadFault::Invalid(what) => Self::Malformed(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Rollups, SameTime, TableWish};

    fn samples() -> Vec<Command> {
        let submission = |ticket, payload| Submission {
            origin: Origin { boot: 7, ticket },
            agent: AgentId::parse("gw-1").unwrap(),
            received: TimeNs(-5),
            payload,
        };
        let window = Window {
            start_hour: -24,
            hours: 24,
        };
        let table = TableWish {
            same_time: None,
            retention_days: Some(30),
            rollups: Some(Rollups::default()),
        };
        vec![
            Command::Submissions(vec![]),
            Command::Submissions(vec![
                submission(1, Payload::Batch(Bytes::from_static(b"batch"))),
                submission(2, Payload::Lines(Bytes::new())),
            ]),
            Command::Clock {
                node: 3,
                now: TimeNs(1 << 60),
            },
            Command::Merge,
            Command::Seal(window.into()),
            Command::Seal(Sealing {
                window,
                kept_days: 30,
            }),
            Command::Retention,
            Command::Admit {
                name: "a".into(),
                address: "h:1".into(),
                joining: 9,
            },
            Command::RetentionDays(30),
            Command::Settings {
                node: 3,
                wish: Wish::new(Some(30), None),
            },
            Command::Settings {
                node: 3,
                wish: Wish::default()
                    .with_tables([("weather".to_owned(), SameTime::Merge.into())].into()),
            },
            Command::Settings {
                node: 3,
                wish: Wish::default().with_tables([("weather".to_owned(), table)].into()),
            },
        ]
    }

    #[test]
    fn every_command_comes_back_and_payloads_are_slices() {
        for command in samples() {
            let bytes = command.encode();
            assert_eq!(Command::decode(&bytes), Ok(command.clone()));
            let submissions = matches!(command, Command::Submissions(_));
            assert_eq!(Command::is_submissions(&bytes), submissions);
            if let Ok(Command::Submissions(all)) = Command::decode(&bytes) {
                for submission in all {
                    let (Payload::Batch(p) | Payload::Lines(p)) = submission.payload;
                    let range = bytes.as_ptr_range();
                    assert!(p.is_empty() || range.contains(&p.as_ptr()), "copied");
                }
            }
        }
    }

    #[test]
    fn cut_lengthened_or_strange_bytes_are_refused() {
        for command in samples() {
            let bytes = command.encode();
            for len in 0..bytes.len() {
                assert!(Command::decode(&bytes.slice(..len)).is_err());
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Command::decode(&longer.into()).is_err());
        }
        assert_eq!(
            Command::decode(&Bytes::from_static(&[2, 0])),
            Err(CommandError::Version(2))
        );
        assert_eq!(
            Command::decode(&Bytes::from_static(&[5, SETTINGS])),
            Err(CommandError::Version(5))
        );
        assert!(Command::decode(&Bytes::from_static(&[1, 99])).is_err());
        let huge = [&[VERSION, SUBMISSIONS][..], &u32::MAX.to_le_bytes()].concat();
        assert!(Command::decode(&huge.into()).is_err());
    }
}
