//! Node to node, as bytes: frames with a header of 32 bytes, and the messages that they carry.
//! Pure. Described in docs/formats.md; `transport` moves the frames, `network` and `peer` mean them.
//!
//! Numbers are little-endian. TLS keeps a frame whole, so it has no checksum of its own; what it
//! carries to a disk has one there.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use crate::cluster::log::{self, Entry, LogId, Vote};
use crate::cluster::types::TypeConfig;
use crate::state::bytes::{ReadFault, Reader, Writer};
use crate::store::SegmentFile;

pub(in crate::cluster) const MAGIC: [u8; 4] = *b"TRBN";
pub(in crate::cluster) const VERSION: u8 = 1;
pub(in crate::cluster) const HEADER_BYTES: usize = 32;
/// Bytes behind a header: what the log hands out for one message, and one entry more.
pub(in crate::cluster) const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// There is one Raft group; every frame names it all the same.
pub(in crate::cluster) const GROUP: u32 = 0;
/// Files of one snapshot.
const FILES_MAX: usize = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    /// A command for the log, from a node that does not lead.
    Propose = 5,
    ReadIndex = 6,
    /// From a node without an id; the only request whose incarnation does not count.
    Join = 7,
    SnapshotOffer = 8,
    SnapshotChunk = 9,
    SnapshotInstall = 10,
    Answer = 0x80,
    Refusal = 0x81,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    /// Which life of the cluster the sender belongs to; 0 if it has none yet.
    pub incarnation: u64,
    /// Pairs an answer with its request within a connection.
    pub request: u64,
    pub payload: Bytes,
}

/// The header of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) struct Head {
    pub(in crate::cluster) kind: Kind,
    pub(in crate::cluster) payload_bytes: usize,
    pub(in crate::cluster) incarnation: u64,
    pub(in crate::cluster) request: u64,
}

/// Bytes from another node that are no frame, or no message of the kind that the frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("version {0} of the node protocol; this node speaks version 1: finish the upgrade")]
    Version(u8),
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

impl From<ReadFault> for WireError {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Short => Self::Malformed("it ends early"),
            ReadFault::Invalid(what) => Self::Malformed(what),
        }
    }
}

impl From<log::Malformed> for WireError {
    fn from(_: log::Malformed) -> Self {
        Self::Malformed("a record of the log")
    }
}

impl Kind {
    pub(in crate::cluster) const ALL: [Kind; 12] = [
        Kind::Append,
        Kind::Vote,
        Kind::PreVote,
        Kind::TransferLeader,
        Kind::Propose,
        Kind::ReadIndex,
        Kind::Join,
        Kind::SnapshotOffer,
        Kind::SnapshotChunk,
        Kind::SnapshotInstall,
        Kind::Answer,
        Kind::Refusal,
    ];

    fn from_byte(byte: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

impl Frame {
    pub(in crate::cluster) fn header(&self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.payload.len()).expect("below PAYLOAD_BYTES_MAX");
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4] = VERSION;
        header[5] = self.kind as u8;
        header[8..12].copy_from_slice(&GROUP.to_le_bytes());
        header[12..16].copy_from_slice(&length.to_le_bytes());
        header[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        header[24..].copy_from_slice(&self.request.to_le_bytes());
        header
    }
}

impl Head {
    /// Checks a header before anything is allocated for what follows it.
    pub(in crate::cluster) fn parse(header: &[u8; HEADER_BYTES]) -> Result<Head, WireError> {
        let mut reader = Reader::new(header);
        if reader.take(4)? != MAGIC {
            return Err(WireError::Malformed("it does not start like a frame"));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let kind = Kind::from_byte(reader.u8()?).ok_or(WireError::Malformed("unknown kind"))?;
        if reader.u16()? != 0 {
            return Err(WireError::Malformed("reserved bytes are not zero"));
        }
        if reader.u32()? != GROUP {
            return Err(WireError::Malformed("unknown group"));
        }
        let payload_bytes = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(WireError::Malformed("it is too long"));
        }
        Ok(Head {
            kind,
            payload_bytes,
            incarnation: reader.u64()?,
            request: reader.u64()?,
        })
    }
}

fn put_maybe(out: &mut Writer, id: Option<&LogId>) {
    out.u8(u8::from(id.is_some()));
    if let Some(id) = id {
        log::put_log_id(out, id);
    }
}

fn take_maybe(from: &mut Reader<'_>) -> Result<Option<LogId>, ReadFault> {
    from.flag()?.then(|| log::take_log_id(from)).transpose()
}

fn put_vote(out: &mut Writer, vote: &Vote) {
    out.bytes(&log::encode_vote(vote));
}

fn take_vote(from: &mut Reader<'_>) -> Result<Vote, WireError> {
    Ok(log::decode_vote(from.bytes()?)?)
}

/// Vote, previous log id, commit hint; then the entries: index, kind, and the log's own payload.
pub(in crate::cluster) fn encode_append(
    rpc: &AppendEntriesRequest<TypeConfig>,
) -> Result<Bytes, WireError> {
    let mut out = Writer::default();
    put_vote(&mut out, &rpc.vote);
    put_maybe(&mut out, rpc.prev_log_id.as_ref());
    put_maybe(&mut out, rpc.leader_commit.as_ref());
    out.count(rpc.entries.len());
    for entry in &rpc.entries {
        let (kind, payload) = log::encode_entry(entry)?;
        out.u64(entry.log_id.index);
        out.u8(kind);
        out.bytes(&payload);
    }
    Ok(out.out.into())
}

/// The inverse; commands are slices of `bytes`.
pub(in crate::cluster) fn decode_append(
    bytes: &Bytes,
) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let mut from = Reader::new(bytes);
    let vote = take_vote(&mut from)?;
    let prev_log_id = take_maybe(&mut from)?;
    let leader_commit = take_maybe(&mut from)?;
    let count = from.count(8 + 1 + 4)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let (index, kind) = (from.u64()?, from.u8()?);
        let payload = bytes.slice_ref(from.bytes()?);
        entries.push(log::decode_entry(kind, index, &payload)?);
    }
    from.end()?;
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

pub(in crate::cluster) fn encode_appended(answer: &AppendEntriesResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::default();
    match answer {
        AppendEntriesResponse::Success => out.u8(0),
        AppendEntriesResponse::PartialSuccess(upto) => {
            out.u8(1);
            put_maybe(&mut out, upto.as_ref());
        }
        AppendEntriesResponse::Conflict => out.u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.u8(3);
            put_vote(&mut out, vote);
        }
    }
    out.out.into()
}

pub(in crate::cluster) fn decode_appended(
    bytes: &Bytes,
) -> Result<AppendEntriesResponse<TypeConfig>, WireError> {
    let mut from = Reader::new(bytes);
    let answer = match from.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(take_maybe(&mut from)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(take_vote(&mut from)?),
        _ => return Err(WireError::Malformed("an unknown answer to an append")),
    };
    from.end()?;
    Ok(answer)
}

pub(in crate::cluster) fn encode_vote_request(rpc: &VoteRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::default();
    put_vote(&mut out, &rpc.vote);
    put_maybe(&mut out, rpc.last_log_id.as_ref());
    out.u8(u8::from(rpc.leadership_transfer));
    out.out.into()
}

pub(in crate::cluster) fn decode_vote_request(
    bytes: &Bytes,
) -> Result<VoteRequest<TypeConfig>, WireError> {
    let mut from = Reader::new(bytes);
    let request = VoteRequest {
        vote: take_vote(&mut from)?,
        last_log_id: take_maybe(&mut from)?,
        leadership_transfer: from.flag()?,
    };
    from.end()?;
    Ok(request)
}

pub(in crate::cluster) fn encode_voted(answer: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = Writer::default();
    put_vote(&mut out, &answer.vote);
    out.u8(u8::from(answer.vote_granted));
    put_maybe(&mut out, answer.last_log_id.as_ref());
    out.out.into()
}

pub(in crate::cluster) fn decode_voted(
    bytes: &Bytes,
) -> Result<VoteResponse<TypeConfig>, WireError> {
    let mut from = Reader::new(bytes);
    let vote = take_vote(&mut from)?;
    let vote_granted = from.flag()?;
    let last_log_id = take_maybe(&mut from)?;
    from.end()?;
    Ok(VoteResponse {
        vote,
        vote_granted,
        last_log_id,
    })
}

pub(in crate::cluster) fn encode_transfer(rpc: &TransferLeaderRequest<TypeConfig>) -> Bytes {
    let mut out = Writer::default();
    put_vote(&mut out, rpc.from_leader());
    out.u64(*rpc.to_node_id());
    put_maybe(&mut out, rpc.last_log_id());
    out.out.into()
}

pub(in crate::cluster) fn decode_transfer(
    bytes: &Bytes,
) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    let mut from = Reader::new(bytes);
    let vote = take_vote(&mut from)?;
    let to = from.u64()?;
    let last = take_maybe(&mut from)?;
    from.end()?;
    Ok(TransferLeaderRequest::new(vote, to, last))
}

/// A node that asks to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    pub name: String,
    /// `host:port` of its cluster listener.
    pub address: String,
    /// Random, on its disk before it asks: a repeated request is known by it.
    pub joining: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cluster) enum Joined {
    Admitted {
        id: u64,
        incarnation: u64,
    },
    /// The cluster knows a node of this name with another disk.
    Known {
        id: u64,
    },
    /// Ask the leader, if it is known.
    NotLeader {
        address: Option<String>,
    },
    /// The address is that of the member of this name.
    AddressTaken {
        name: String,
    },
}

impl JoinRequest {
    pub(in crate::cluster) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.text(&self.name);
        out.text(&self.address);
        out.u64(self.joining);
        out.out.into()
    }

    pub(in crate::cluster) fn decode(bytes: &Bytes) -> Result<JoinRequest, WireError> {
        let mut from = Reader::new(bytes);
        let request = JoinRequest {
            name: from.text()?.to_owned(),
            address: from.text()?.to_owned(),
            joining: from.u64()?,
        };
        from.end()?;
        Ok(request)
    }
}

impl Joined {
    pub(in crate::cluster) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self {
            Self::Admitted { id, incarnation } => {
                out.u8(0);
                out.u64(*id);
                out.u64(*incarnation);
            }
            Self::Known { id } => {
                out.u8(1);
                out.u64(*id);
            }
            Self::NotLeader { address } => {
                out.u8(2);
                out.text(address.as_deref().unwrap_or_default());
            }
            Self::AddressTaken { name } => {
                out.u8(3);
                out.text(name);
            }
        }
        out.out.into()
    }

    pub(in crate::cluster) fn decode(bytes: &Bytes) -> Result<Joined, WireError> {
        let mut from = Reader::new(bytes);
        let joined = match from.u8()? {
            0 => Self::Admitted {
                id: from.u64()?,
                incarnation: from.u64()?,
            },
            1 => Self::Known { id: from.u64()? },
            2 => {
                let address = Some(from.text()?.to_owned());
                let address = address.filter(|address| !address.is_empty());
                Self::NotLeader { address }
            }
            3 => Self::AddressTaken {
                name: from.text()?.to_owned(),
            },
            _ => return Err(WireError::Malformed("an unknown answer to a join")),
        };
        from.end()?;
        Ok(joined)
    }
}

/// What a leader offers to a follower that is too far behind for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cluster) struct Offer {
    pub(in crate::cluster) index: u64,
    /// Last log id and membership, as the store keeps them.
    pub(in crate::cluster) raft: Bytes,
    pub(in crate::cluster) state_bytes: u64,
    pub(in crate::cluster) files: Vec<SegmentFile>,
}

/// Part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cluster) struct Chunk {
    /// Index into the offer's files; `None`: the state.
    pub(in crate::cluster) file: Option<u32>,
    pub(in crate::cluster) offset: u64,
    pub(in crate::cluster) bytes: Bytes,
}

/// Stands for the state where a file's number is expected.
const STATE_FILE: u32 = u32::MAX;

impl Offer {
    pub(in crate::cluster) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.u64(self.index);
        out.bytes(&self.raft);
        out.u64(self.state_bytes);
        out.count(self.files.len());
        for SegmentFile { name, len, digest } in &self.files {
            out.text(name);
            out.u64(*len);
            out.out.extend_from_slice(&digest.0);
        }
        out.out.into()
    }

    pub(in crate::cluster) fn decode(bytes: &Bytes) -> Result<Offer, WireError> {
        let mut from = Reader::new(bytes);
        let index = from.u64()?;
        let raft = bytes.slice_ref(from.bytes()?);
        let state_bytes = from.u64()?;
        let count = from.count(4 + 8 + 8)?;
        if count > FILES_MAX {
            return Err(WireError::Malformed("too many files"));
        }
        let files = (0..count)
            .map(|_| {
                Ok(SegmentFile {
                    name: from.text()?.to_owned(),
                    len: from.u64()?,
                    digest: shared::id::Digest(from.digest()?),
                })
            })
            .collect::<Result<_, ReadFault>>()?;
        from.end()?;
        Ok(Offer {
            index,
            raft,
            state_bytes,
            files,
        })
    }
}

impl Chunk {
    pub(in crate::cluster) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.u32(self.file.unwrap_or(STATE_FILE));
        out.u64(self.offset);
        out.bytes(&self.bytes);
        out.out.into()
    }

    pub(in crate::cluster) fn decode(bytes: &Bytes) -> Result<Chunk, WireError> {
        let mut from = Reader::new(bytes);
        let file = Some(from.u32()?).filter(|file| *file != STATE_FILE);
        let offset = from.u64()?;
        let part = bytes.slice_ref(from.bytes()?);
        from.end()?;
        Ok(Chunk {
            file,
            offset,
            bytes: part,
        })
    }
}

/// Which files of an offer are wanted: their numbers.
pub(in crate::cluster) fn encode_wanted(wanted: &[u32]) -> Bytes {
    let mut out = Writer::default();
    out.count(wanted.len());
    wanted.iter().for_each(|file| out.u32(*file));
    out.out.into()
}

pub(in crate::cluster) fn decode_wanted(bytes: &Bytes) -> Result<Vec<u32>, WireError> {
    let mut from = Reader::new(bytes);
    let count = from.count(4)?;
    let wanted = (0..count).map(|_| from.u32()).collect::<Result<_, _>>()?;
    from.end()?;
    Ok(wanted)
}

/// The vote under which a received snapshot is to be installed.
pub(in crate::cluster) fn encode_install(vote: &Vote) -> Bytes {
    log::encode_vote(vote).into()
}

pub(in crate::cluster) fn decode_install(bytes: &Bytes) -> Result<Vote, WireError> {
    Ok(log::decode_vote(bytes)?)
}

pub(in crate::cluster) fn encode_installed(answer: &SnapshotResponse<TypeConfig>) -> Bytes {
    log::encode_vote(&answer.vote).into()
}

pub(in crate::cluster) fn decode_installed(
    bytes: &Bytes,
) -> Result<SnapshotResponse<TypeConfig>, WireError> {
    Ok(SnapshotResponse::new(log::decode_vote(bytes)?))
}

/// What came of a proposal that a leader read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) enum Proposed {
    Taken = 0,
    /// Its log has no room for submissions now.
    Full = 1,
}

impl Proposed {
    pub(in crate::cluster) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[self as u8])
    }

    pub(in crate::cluster) fn decode(bytes: &Bytes) -> Result<Proposed, WireError> {
        match bytes[..] {
            [0] => Ok(Proposed::Taken),
            [1] => Ok(Proposed::Full),
            _ => Err(WireError::Malformed("an answer to a proposal")),
        }
    }
}

pub(in crate::cluster) fn encode_index(index: u64) -> Bytes {
    Bytes::copy_from_slice(&index.to_le_bytes())
}

pub(in crate::cluster) fn decode_index(bytes: &Bytes) -> Result<u64, WireError> {
    let mut from = Reader::new(bytes);
    let index = from.u64()?;
    from.end()?;
    Ok(index)
}

#[cfg(test)]
mod tests;
