//! A snapshot on its way: the last merge's transaction and the segment files that the other node
//! lacks. The files stand for themselves; what is received is checked when it is installed.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use journal::{OpenMode, Storage, StorageFile};
use openraft::raft::SnapshotResponse;

use super::link::{CallError, Link, Purpose};
use super::log::Vote;
use super::types::{Member, TypeConfig};
use super::wire::{self, Chunk, Kind, Offer, WireError};
use crate::store::{SegmentFile, SnapshotFiles};

/// Bytes of one part.
const CHUNK_BYTES: usize = 1 << 20;
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Installing verifies every new file.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
/// Bytes of a state that a node takes: a map of a million series is a tenth of it.
const STATE_BYTES_MAX: u64 = 1 << 30;
/// Ending of a file that is not whole yet; removed when the store is opened.
const PART: &str = ".part";

/// Why a snapshot was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("its answer: {0}")]
    Wire(#[from] WireError),
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: io::Error },
}

/// Offers a snapshot to a node and sends what it lacks.
pub(super) async fn send(
    link: &dyn Link,
    to: &Member,
    segments: &dyn Storage,
    vote: Vote,
    snapshot: SnapshotFiles,
) -> Result<SnapshotResponse<TypeConfig>, SendError> {
    let ask = |kind, payload, limit| link.call(to, Purpose::Snapshot, kind, payload, limit);
    let offer = Offer {
        index: snapshot.index,
        raft: snapshot.raft.clone(),
        state_bytes: snapshot.state.len() as u64,
        files: snapshot.files.clone(),
    };
    let wanted = ask(Kind::SnapshotOffer, offer.encode(), CALL_LIMIT).await?;
    let wanted = wire::decode_wanted(&wanted)?;
    let mut offset = 0;
    while offset < snapshot.state.len() {
        let end = snapshot.state.len().min(offset + CHUNK_BYTES);
        let chunk = Chunk {
            file: None,
            offset: offset as u64,
            bytes: snapshot.state.slice(offset..end),
        };
        ask(Kind::SnapshotChunk, chunk.encode(), CALL_LIMIT).await?;
        offset = end;
    }
    for number in wanted {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let file = snapshot.files.get(at);
        let file = file.ok_or(WireError::Malformed("a file that was not offered"))?;
        let failed = |source| SendError::Read {
            file: file.name.clone(),
            source,
        };
        let opened = segments
            .open(&file.name, OpenMode::Existing)
            .map_err(failed)?;
        let mut offset = 0;
        while offset < file.len {
            let bytes = read_part(&*opened, offset, file.len).map_err(failed)?;
            let chunk = Chunk {
                file: Some(number),
                offset,
                bytes,
            };
            offset += chunk.bytes.len() as u64;
            ask(Kind::SnapshotChunk, chunk.encode(), CALL_LIMIT).await?;
        }
    }
    let installed = ask(
        Kind::SnapshotInstall,
        wire::encode_install(&vote),
        INSTALL_LIMIT,
    )
    .await?;
    Ok(wire::decode_installed(&installed)?)
}

fn read_part(file: &dyn StorageFile, offset: u64, len: u64) -> io::Result<Bytes> {
    let left = usize::try_from(len - offset).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::zeroed(left.min(CHUNK_BYTES));
    file.read_at(offset, &mut bytes)?;
    Ok(bytes.freeze())
}

/// Snapshots that are being received: one for each sender, the latest.
pub(super) struct Receiver {
    segments: Arc<dyn Storage>,
    // A std mutex: one sender's requests follow each other, so nobody waits for it.
    receiving: Mutex<HashMap<String, Receiving>>,
}

struct Receiving {
    offer: Offer,
    state: BytesMut,
    /// Files wanted, with what came of them.
    files: HashMap<u32, Part>,
}

struct Part {
    file: Arc<dyn StorageFile>,
    bytes: u64,
}

impl Receiver {
    pub(super) fn new(segments: Arc<dyn Storage>) -> Receiver {
        Receiver {
            segments,
            receiving: Mutex::default(),
        }
    }

    /// Takes an offer; the numbers of the files that this node lacks.
    pub(super) fn offer(&self, from: &str, payload: &Bytes) -> Result<Bytes, String> {
        let offer = Offer::decode(payload).map_err(|e| e.to_string())?;
        if offer.state_bytes > STATE_BYTES_MAX {
            return Err(format!("a state of {} bytes", offer.state_bytes));
        }
        let here = self.segments.list().map_err(|e| e.to_string())?;
        let mut files = HashMap::new();
        for (number, file) in (0_u32..).zip(&offer.files) {
            if !here.contains(&file.name) {
                let part = self
                    .begin(file)
                    .map_err(|e| format!("{}: {e}", file.name))?;
                files.insert(number, part);
            }
        }
        let mut wanted: Vec<u32> = files.keys().copied().collect();
        wanted.sort_unstable();
        let receiving = Receiving {
            offer,
            state: BytesMut::new(),
            files,
        };
        self.receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(from.to_owned(), receiving);
        Ok(wire::encode_wanted(&wanted))
    }

    fn begin(&self, file: &SegmentFile) -> io::Result<Part> {
        let name = format!("{}{PART}", file.name);
        let opened = self.segments.open(&name, OpenMode::Create)?;
        opened.set_len(0)?;
        Ok(Part {
            file: opened,
            bytes: 0,
        })
    }

    /// Takes the next part of what was offered.
    pub(super) fn chunk(&self, from: &str, payload: &Bytes) -> Result<Bytes, String> {
        let Chunk {
            file,
            offset,
            bytes,
        } = Chunk::decode(payload).map_err(|e| e.to_string())?;
        let mut receiving = self
            .receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let receiving = receiving.get_mut(from).ok_or("no snapshot was offered")?;
        let end = offset + bytes.len() as u64;
        let Some(number) = file else {
            if offset != receiving.state.len() as u64 || end > receiving.offer.state_bytes {
                return Err("a part of the state out of turn".to_owned());
            }
            receiving.state.extend_from_slice(&bytes);
            return Ok(Bytes::new());
        };
        let part = receiving
            .files
            .get_mut(&number)
            .ok_or("a file not asked for")?;
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let known = receiving.offer.files.get(at).ok_or("a file not offered")?;
        if offset != part.bytes || end > known.len {
            return Err(format!("a part of {} out of turn", known.name));
        }
        let written = part.file.write_at(offset, &bytes);
        written.map_err(|e| format!("{}: {e}", known.name))?;
        part.bytes = end;
        Ok(Bytes::new())
    }

    /// Makes what was received durable under its names: ready for the store to install.
    pub(super) fn finish(&self, from: &str) -> Result<SnapshotFiles, String> {
        let receiving = self
            .receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(from)
            .ok_or("no snapshot was offered")?;
        let Receiving {
            offer,
            state,
            files,
        } = receiving;
        if state.len() as u64 != offer.state_bytes {
            return Err("a part of the state is missing".to_owned());
        }
        for (number, part) in files {
            let at = usize::try_from(number).unwrap_or(usize::MAX);
            let known = offer.files.get(at).ok_or("a file not offered")?;
            if part.bytes != known.len {
                return Err(format!("a part of {} is missing", known.name));
            }
            let failed = |e: io::Error| format!("{}: {e}", known.name);
            part.file.sync().map_err(failed)?;
            let part_name = format!("{}{PART}", known.name);
            self.segments
                .rename(&part_name, &known.name)
                .map_err(failed)?;
        }
        self.segments.sync_directory().map_err(|e| e.to_string())?;
        Ok(SnapshotFiles::new(
            offer.index,
            offer.raft,
            state.freeze(),
            offer.files,
        ))
    }
}
