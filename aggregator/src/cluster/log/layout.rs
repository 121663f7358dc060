//! The bytes of the Raft log's records: our own layout, so that an upgrade of openraft is a change
//! of code and not of the disk. Described in docs/formats.md.
//!
//! Every payload begins with a log id's leader: term u64, node u64 (little-endian, as all). The
//! record's number is the index.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::alias::{EntryOf, LeaderIdOf, LogIdOf, VoteOf};
use openraft::{EntryPayload, Membership};

use crate::cluster::types::{CommandBytes, Member, TypeConfig};
use crate::state::bytes::{ReadFault, Reader, Writer};

pub(in crate::cluster) type LogId = LogIdOf<TypeConfig>;
pub(in crate::cluster) type Vote = VoteOf<TypeConfig>;
pub(in crate::cluster) type Entry = EntryOf<TypeConfig>;
pub(in crate::cluster) type LeaderId = LeaderIdOf<TypeConfig>;

/// An entry without effect, by which a leader begins its term. Nothing follows the leader.
pub(super) const KIND_BLANK: u8 = 1;
/// An entry; the bytes of a command follow.
pub(super) const KIND_COMMAND: u8 = 2;
/// An entry; a membership follows.
pub(super) const KIND_MEMBERSHIP: u8 = 3;
/// The vote: one byte follows, 1 if it is committed. The number is 0.
pub(super) const KIND_VOTE: u8 = 4;
/// Entries from the number on are gone. The payload is empty.
pub(super) const KIND_TRUNCATED: u8 = 5;
/// Entries up to and with this log id are gone, the state holds them.
pub(super) const KIND_PURGED: u8 = 6;
/// Entries up to and with this log id were known to be committed. A hint.
pub(super) const KIND_COMMITTED: u8 = 7;

/// Bytes of the leader before every body.
pub(super) const LEADER_BYTES: usize = 16;
/// Nodes, and voters in one of the configurations, that a membership may name.
const NODES_MAX: usize = 1024;
const CONFIGS_MAX: usize = 8;
/// Bytes of a node's name or address.
const TEXT_BYTES_MAX: usize = 1024;

/// Bytes that are none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the Raft log is malformed: {0}")]
pub struct Malformed(pub(super) &'static str);

/// Takes fields off the front of a payload.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(field)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(
            self.take(2)?.try_into().expect("just that long"),
        ))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(
            self.take(8)?.try_into().expect("just that long"),
        ))
    }

    /// A count, checked before anything is allocated for it.
    fn count(&mut self, max: usize) -> Result<usize, Malformed> {
        let count = usize::from(self.u16()?);
        if count > max {
            Err(Malformed("a count is too large"))
        } else {
            Ok(count)
        }
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let len = self.count(TEXT_BYTES_MAX)?;
        let text =
            std::str::from_utf8(self.take(len)?).map_err(|_| Malformed("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes are left over"))
        }
    }
}

fn put_leader(out: &mut Vec<u8>, term: u64, node: u64) {
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&node.to_le_bytes());
}

/// The leader of a log id: what follows is the caller's.
pub(in crate::cluster) fn encode_leader(id: &LogId) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEADER_BYTES);
    put_leader(&mut out, id.leader_id.term, id.leader_id.node_id);
    out
}

/// The log id of a record, from its number and payload.
pub(super) fn decode_log_id(number: u64, payload: &[u8]) -> Result<LogId, Malformed> {
    let mut fields = Fields(payload);
    let leader_id = LeaderId {
        term: fields.u64()?,
        node_id: fields.u64()?,
    };
    Ok(LogId {
        leader_id,
        index: number,
    })
}

/// Appends a log id: term, node, index. `take_log_id` is the inverse.
pub(in crate::cluster) fn put_log_id(out: &mut Writer, id: &LogId) {
    out.u64(id.leader_id.term);
    out.u64(id.leader_id.node_id);
    out.u64(id.index);
}

pub(in crate::cluster) fn take_log_id(from: &mut Reader<'_>) -> Result<LogId, ReadFault> {
    let leader_id = LeaderId {
        term: from.u64()?,
        node_id: from.u64()?,
    };
    Ok(LogId {
        leader_id,
        index: from.u64()?,
    })
}

pub(in crate::cluster) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let mut out = Vec::with_capacity(LEADER_BYTES + 1);
    put_leader(&mut out, vote.leader_id.term, vote.leader_id.node_id);
    out.push(u8::from(vote.committed));
    out
}

pub(in crate::cluster) fn decode_vote(payload: &[u8]) -> Result<Vote, Malformed> {
    let mut fields = Fields(payload);
    let leader_id = LeaderId {
        term: fields.u64()?,
        node_id: fields.u64()?,
    };
    let committed = match fields.take(1)? {
        [0] => false,
        [1] => true,
        _ => return Err(Malformed("a vote is committed or not")),
    };
    fields.end()?;
    Ok(Vote {
        leader_id,
        committed,
    })
}

/// The kind and payload of an entry.
pub(in crate::cluster) fn encode_entry(entry: &Entry) -> Result<(u8, Bytes), Malformed> {
    let mut out = encode_leader(&entry.log_id);
    let kind = match &entry.payload {
        EntryPayload::Blank => KIND_BLANK,
        EntryPayload::Normal(CommandBytes(command)) => {
            out.reserve_exact(command.len());
            out.extend_from_slice(command);
            KIND_COMMAND
        }
        EntryPayload::Membership(membership) => {
            put_membership(&mut out, membership)?;
            KIND_MEMBERSHIP
        }
    };
    Ok((kind, Bytes::from(out)))
}

/// The entry of a record. A command is a slice of the payload, not a copy.
pub(in crate::cluster) fn decode_entry(
    kind: u8,
    number: u64,
    payload: &Bytes,
) -> Result<Entry, Malformed> {
    let log_id = decode_log_id(number, payload)?;
    let body = payload.slice(LEADER_BYTES..);
    let payload = match kind {
        KIND_BLANK if body.is_empty() => EntryPayload::Blank,
        KIND_COMMAND => EntryPayload::Normal(CommandBytes(body)),
        KIND_MEMBERSHIP => EntryPayload::Membership(decode_membership(&body)?),
        _ => return Err(Malformed("it is no entry")),
    };
    Ok(Entry { log_id, payload })
}

fn put_count(out: &mut Vec<u8>, count: usize, max: usize) -> Result<(), Malformed> {
    let fits = u16::try_from(count).ok().filter(|_| count <= max);
    out.extend_from_slice(&fits.ok_or(Malformed("a count is too large"))?.to_le_bytes());
    Ok(())
}

/// Appends a membership: configurations, each a list of node ids; nodes, each id, name, address.
///
/// # Errors
/// More nodes or longer names than the limits above.
pub fn put_membership(
    out: &mut Vec<u8>,
    membership: &Membership<u64, Member>,
) -> Result<(), Malformed> {
    let configs = membership.get_joint_config();
    put_count(out, configs.len(), CONFIGS_MAX)?;
    for config in configs {
        put_count(out, config.len(), NODES_MAX)?;
        for node in config {
            out.extend_from_slice(&node.to_le_bytes());
        }
    }
    put_count(out, membership.nodes().count(), NODES_MAX)?;
    for (id, member) in membership.nodes() {
        out.extend_from_slice(&id.to_le_bytes());
        for text in [&member.name, &member.address] {
            put_count(out, text.len(), TEXT_BYTES_MAX)?;
            out.extend_from_slice(text.as_bytes());
        }
    }
    Ok(())
}

/// Reads what [`put_membership`] wrote, all of it.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership<u64, Member>, Malformed> {
    let mut fields = Fields(bytes);
    let mut configs = Vec::new();
    for _ in 0..fields.count(CONFIGS_MAX)? {
        let mut config = BTreeSet::new();
        for _ in 0..fields.count(NODES_MAX)? {
            config.insert(fields.u64()?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..fields.count(NODES_MAX)? {
        let id = fields.u64()?;
        let member = Member {
            name: fields.text()?,
            address: fields.text()?,
        };
        nodes.insert(id, member);
    }
    fields.end()?;
    Membership::new(configs, nodes).map_err(|_| Malformed("a membership that cannot be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            address: format!("{name}:8800"),
        }
    }

    fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId {
            leader_id: LeaderId { term, node_id },
            index,
        }
    }

    #[test]
    fn an_entry_is_these_bytes() {
        let command = Bytes::from_static(b"command");
        let payload = EntryPayload::Normal(CommandBytes(command));
        let entry = Entry {
            log_id: log_id(2, 3, 9),
            payload,
        };
        let (kind, bytes) = encode_entry(&entry).unwrap();
        assert_eq!(kind, KIND_COMMAND);
        assert_eq!(&bytes[..], b"\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0command");
        assert_eq!(decode_entry(kind, 9, &bytes).unwrap(), entry);
        assert!(decode_entry(KIND_VOTE, 9, &bytes).is_err());
        assert!(decode_entry(KIND_BLANK, 9, &bytes).is_err());
    }

    #[test]
    fn a_membership_is_these_bytes() {
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2])];
        let nodes = BTreeMap::from([(1, member("a")), (2, member("b")), (7, member(""))]);
        let membership = Membership::new(configs, nodes).unwrap();
        let mut bytes = Vec::new();
        put_membership(&mut bytes, &membership).unwrap();
        let golden = b"\x02\0\
            \x02\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\
            \x01\0\x02\0\0\0\0\0\0\0\
            \x03\0\
            \x01\0\0\0\0\0\0\0\x01\0a\x06\0a:8800\
            \x02\0\0\0\0\0\0\0\x01\0b\x06\0b:8800\
            \x07\0\0\0\0\0\0\0\0\0\x05\0:8800";
        assert_eq!(bytes, golden);
        assert_eq!(decode_membership(&bytes).unwrap(), membership);
        for cut in 0..bytes.len() {
            assert!(decode_membership(&bytes[..cut]).is_err(), "{cut}");
        }
        bytes.push(0);
        assert!(decode_membership(&bytes).is_err());
        assert!(
            decode_membership(b"\xff\xff").is_err(),
            "a count is checked before it is believed"
        );
    }

    #[test]
    fn a_vote_comes_back() {
        for committed in [false, true] {
            let vote = Vote {
                leader_id: LeaderId {
                    term: 5,
                    node_id: 6,
                },
                committed,
            };
            assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        }
        assert!(decode_vote(&[0; 16]).is_err());
        assert!(decode_vote(&[2; 17]).is_err());
    }
}
