//! A snapshot on its way: the last merge's transaction and the segment files that the other node
//! lacks. The files stand for themselves; what is received is checked before it gets its name,
//! and all of it again when it is installed.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Counts offers: what came of two of them, of one sender or of two, never meets in one file.
    offers: AtomicU64,
    // A std mutex: one sender's requests follow each other, so nobody waits for it.
    receiving: Mutex<BTreeMap<String, Receiving>>,
}

struct Receiving {
    offer: Offer,
    /// Tells its files from those of other offers.
    nth: u64,
    state: BytesMut,
    /// Files wanted, with what came of them. They come one after the other, so one is open at most.
    files: BTreeMap<u32, Option<Part>>,
}

/// A file on its way; removed unless it becomes what was offered.
struct Part {
    segments: Arc<dyn Storage>,
    name: String,
    /// `None`: all of it came and is synced.
    open: Option<Arc<dyn StorageFile>>,
    bytes: u64,
    kept: bool,
}

impl Part {
    fn begin(segments: &Arc<dyn Storage>, file: &SegmentFile, offer: u64) -> io::Result<Part> {
        let name = format!("{}.{offer}{PART}", file.name);
        let opened = segments.open(&name, OpenMode::Create)?;
        opened.set_len(0)?;
        Ok(Part {
            segments: Arc::clone(segments),
            name,
            open: Some(opened),
            bytes: 0,
            kept: false,
        })
    }

    /// Adds what comes next; the file is synced and closed when it has all its `len` bytes.
    fn write(&mut self, bytes: &[u8], len: u64) -> io::Result<()> {
        let file = self.open.as_ref();
        let file = file.ok_or_else(|| io::Error::other("it has all its bytes"))?;
        file.write_at(self.bytes, bytes)?;
        self.bytes += bytes.len() as u64;
        if self.bytes == len {
            file.sync()?;
            self.open = None;
        }
        Ok(())
    }

    /// Gives it its name, if it is what was offered. The directory is not synced yet.
    fn keep(mut self, offered: &SegmentFile) -> Result<(), String> {
        let failed = |e: io::Error| format!("{}: {e}", offered.name);
        let content = self.segments.open(&self.name, OpenMode::Existing);
        offered
            .check(&*content.map_err(failed)?)
            .map_err(|e| format!("what came is not what was offered: {e}"))?;
        self.segments
            .rename(&self.name, &offered.name)
            .map_err(failed)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.segments.remove(&self.name)
        {
            // The manifest does not name it: the next open removes it.
            tracing::debug!(file = self.name, %error, "part of a snapshot stays for now");
        }
    }
}

impl Receiver {
    pub(super) fn new(segments: Arc<dyn Storage>) -> Receiver {
        Receiver {
            segments,
            offers: AtomicU64::new(0),
            receiving: Mutex::default(),
        }
    }

    fn receiving(&self) -> MutexGuard<'_, BTreeMap<String, Receiving>> {
        self.receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an offer; the numbers of the files that this node lacks.
    pub(super) fn offer(&self, from: &str, payload: &Bytes) -> Result<Bytes, String> {
        let offer = Offer::decode(payload).map_err(|e| e.to_string())?;
        if offer.state_bytes > STATE_BYTES_MAX {
            return Err(format!("a state of {} bytes", offer.state_bytes));
        }
        let here = self.segments.list().map_err(|e| e.to_string())?;
        let nth = self.offers.fetch_add(1, Ordering::Relaxed);
        let mut files = BTreeMap::new();
        for (number, file) in (0_u32..).zip(&offer.files) {
            if !here.contains(&file.name) {
                files.insert(number, None);
            }
        }
        let wanted: Vec<u32> = files.keys().copied().collect();
        let receiving = Receiving {
            offer,
            nth,
            state: BytesMut::new(),
            files,
        };
        let replaced = self.receiving().insert(from.to_owned(), receiving);
        // Not under the lock: it removes files.
        drop(replaced);
        Ok(wire::encode_wanted(&wanted))
    }

    /// Takes the next part of what was offered.
    pub(super) fn chunk(&self, from: &str, payload: &Bytes) -> Result<Bytes, String> {
        let Chunk {
            file,
            offset,
            bytes,
        } = Chunk::decode(payload).map_err(|e| e.to_string())?;
        let mut receiving = self.receiving();
        let receiving = receiving.get_mut(from).ok_or("no snapshot was offered")?;
        let end = offset + bytes.len() as u64;
        let Some(number) = file else {
            if offset != receiving.state.len() as u64 || end > receiving.offer.state_bytes {
                return Err("a part of the state out of turn".to_owned());
            }
            receiving.state.extend_from_slice(&bytes);
            return Ok(Bytes::new());
        };
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let known = receiving.offer.files.get(at).ok_or("a file not offered")?;
        let failed = |e: io::Error| format!("{}: {e}", known.name);
        let begun = receiving.files.iter();
        let mut begun = begun.filter_map(|(number, part)| Some((*number, part.as_ref()?)));
        let other_first = begun.any(|(other, part)| other != number && part.open.is_some());
        let part = receiving
            .files
            .get_mut(&number)
            .ok_or("a file not asked for")?;
        let came = part.as_ref().map_or(0, |part| part.bytes);
        if other_first || offset != came || end > known.len {
            return Err(format!("a part of {} out of turn", known.name));
        }
        let part = match part {
            Some(part) => part,
            None => {
                let begun = Part::begin(&self.segments, known, receiving.nth);
                part.insert(begun.map_err(failed)?)
            }
        };
        part.write(&bytes, known.len).map_err(failed)?;
        Ok(Bytes::new())
    }

    /// Makes what was received durable under its names: ready for the store to install.
    pub(super) fn finish(&self, from: &str) -> Result<SnapshotFiles, String> {
        let removed = self.receiving().remove(from);
        let Receiving {
            offer,
            state,
            files,
            ..
        } = removed.ok_or("no snapshot was offered")?;
        if state.len() as u64 != offer.state_bytes {
            return Err("a part of the state is missing".to_owned());
        }
        for (number, part) in files {
            let at = usize::try_from(number).unwrap_or(usize::MAX);
            let known = offer.files.get(at).ok_or("a file not offered")?;
            let whole = part.filter(|part| part.open.is_none());
            let whole = whole.ok_or_else(|| format!("a part of {} is missing", known.name))?;
            whole.keep(known)?;
        }
        self.segments.sync_directory().map_err(|e| e.to_string())?;
        // A leader that was replaced comes no more for what it began.
        self.receiving()
            .retain(|_, other| other.offer.index > offer.index);
        Ok(SnapshotFiles::new(
            offer.index,
            offer.raft,
            state.freeze(),
            offer.files,
        ))
    }
}

#[cfg(test)]
mod tests {
    use journal::SimStorage;

    use super::*;
    use crate::cluster::apply::tests::begun;

    /// What a leader has to send after the merge of one line, and the bytes of its one file.
    fn merged() -> (Offer, Bytes, Bytes) {
        let (mut store, job) = begun(&SimStorage::new(1));
        store.finish_merge(job.run().unwrap()).unwrap();
        let snapshot = store.snapshot().unwrap();
        assert_eq!(snapshot.files.len(), 1);
        let SegmentFile { name, len, .. } = &snapshot.files[0];
        let file = store.segments().open(name, OpenMode::Existing).unwrap();
        let content = read_part(&*file, 0, *len).unwrap();
        let offer = Offer {
            index: snapshot.index,
            raft: snapshot.raft.clone(),
            state_bytes: snapshot.state.len() as u64,
            files: snapshot.files.clone(),
        };
        (offer, snapshot.state, content)
    }

    fn offer(to: &Receiver, from: &str, offer: &Offer) -> Vec<u32> {
        let wanted = to.offer(from, &offer.encode()).unwrap();
        wire::decode_wanted(&wanted).unwrap()
    }

    fn send(
        to: &Receiver,
        from: &str,
        file: Option<u32>,
        content: &Bytes,
        range: std::ops::Range<usize>,
    ) -> Result<Bytes, String> {
        let chunk = Chunk {
            file,
            offset: range.start as u64,
            bytes: content.slice(range),
        };
        to.chunk(from, &chunk.encode())
    }

    #[test]
    fn two_senders_do_not_write_into_one_file() {
        let (snapshot, state, content) = merged();
        let storage = SimStorage::new(2).as_storage();
        let receiver = Receiver::new(Arc::clone(&storage));
        let (half, end) = (content.len() / 2, content.len());
        for leader in ["old", "new"] {
            assert_eq!(offer(&receiver, leader, &snapshot), [0_u32]);
            send(&receiver, leader, None, &state, 0..state.len()).unwrap();
            send(&receiver, leader, Some(0), &content, 0..half).unwrap();
        }
        send(&receiver, "old", Some(0), &content, half..end).unwrap();
        let received = receiver.finish("old").unwrap();
        assert_eq!(received.state, state);
        // The other one begins again, and its file is here.
        send(&receiver, "new", Some(0), &content, half..end).unwrap_err();
        assert!(offer(&receiver, "new", &snapshot).is_empty());
        send(&receiver, "new", None, &state, 0..state.len()).unwrap();
        receiver.finish("new").unwrap();
        let name = snapshot.files[0].name.clone();
        let left = storage.list().unwrap();
        assert_eq!(left, std::slice::from_ref(&name), "no part is left");
        let file = storage.open(&name, OpenMode::Existing).unwrap();
        assert_eq!(read_part(&*file, 0, end as u64).unwrap(), content);
    }

    #[test]
    fn an_offer_of_many_files_opens_one_at_a_time() {
        let sim = SimStorage::new(2);
        sim.limit_open_files(1);
        let receiver = Receiver::new(sim.as_storage());
        let (mut many, _, content) = merged();
        let known = many.files[0].clone();
        for nth in 1..20 {
            let name = format!("{nth}-{}", known.name);
            let (len, digest) = (known.len, known.digest);
            many.files.push(SegmentFile { name, len, digest });
        }
        let wanted = offer(&receiver, "a", &many);
        assert_eq!(wanted.len(), 20);
        let (half, end) = (content.len() / 2, content.len());
        send(&receiver, "a", Some(0), &content, 0..half).unwrap();
        // Not before the one that has begun is whole.
        send(&receiver, "a", Some(1), &content, 0..end).unwrap_err();
        send(&receiver, "a", Some(0), &content, half..end).unwrap();
        for number in &wanted[1..] {
            send(&receiver, "a", Some(*number), &content, 0..end).unwrap();
        }
    }

    #[test]
    fn what_is_not_what_was_offered_gets_no_name() {
        let (snapshot, state, content) = merged();
        let storage = SimStorage::new(2).as_storage();
        let receiver = Receiver::new(Arc::clone(&storage));
        for at in [0, content.len() / 2, content.len() - 20] {
            let mut bad = content.to_vec();
            bad[at] ^= 1;
            assert_eq!(offer(&receiver, "a", &snapshot), [0_u32], "byte {at}");
            send(&receiver, "a", None, &state, 0..state.len()).unwrap();
            send(&receiver, "a", Some(0), &bad.into(), 0..content.len()).unwrap();
            receiver.finish("a").unwrap_err();
            assert!(storage.list().unwrap().is_empty(), "byte {at}");
        }
    }
}
