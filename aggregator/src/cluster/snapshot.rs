//! A snapshot on its way: the last merge's transaction and the segment files that the other node
//! lacks. The files stand for themselves; each that is received is checked and gets its name at once,
//! so that a transfer that breaks goes on with the others. All is checked again when it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use journal::{OpenMode, Storage, StorageFile};
use openraft::raft::SnapshotResponse;

use super::link::{CallError, Link, Purpose};
use super::log::Vote;
use super::types::{Member, TypeConfig};
use super::wire::{self, Chunk, Kind, Offer, WireError};
use crate::store::{Claims, Promise, SegmentFile, SnapshotFiles, StoreError};

/// Bytes of one part.
const CHUNK_BYTES: usize = 1 << 20;
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// For what reads whole files: the end of one is checked, and installing verifies every new one.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
/// A sender that comes with nothing for so long has gone: it waits for no answer longer than half of it.
const RELEASE_AFTER: Duration = Duration::from_secs(2 * INSTALL_LIMIT.as_secs());
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
    #[error(transparent)]
    Read(#[from] StoreError),
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
        let mut content = snapshot.open(at, segments)?;
        let mut offset = 0;
        while let Some(bytes) = content.next(CHUNK_BYTES)? {
            let chunk = Chunk {
                file: Some(number),
                offset,
                bytes,
            };
            offset += chunk.bytes.len() as u64;
            let whole = offset == file.len;
            let limit = if whole { INSTALL_LIMIT } else { CALL_LIMIT };
            ask(Kind::SnapshotChunk, chunk.encode(), limit).await?;
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

/// Snapshots that are being received: one for each sender, the latest. One whose sender comes no more
/// would keep what is dropped meanwhile on the disk: it is let go of.
pub(super) struct Receiver {
    segments: Arc<dyn Storage>,
    claims: Arc<Claims>,
    /// Counts offers: what came of two of them, of one sender or of two, never meets in one file.
    offers: AtomicU64,
    /// Names did not become durable: a later sync that succeeds would not say that they have.
    failed: AtomicBool,
    // A std mutex: one sender's requests follow each other, and there are rarely two. Held over disk
    // work, on a thread that may wait.
    receiving: Mutex<BTreeMap<String, Receiving>>,
}

pub(super) struct Receiving {
    offer: Offer,
    /// When its sender last came with something.
    touched: Instant,
    /// Tells its files from those of other offers.
    nth: u64,
    state: BytesMut,
    /// Files that are still to come, one after the other.
    missing: BTreeSet<u32>,
    /// The sender was told that this node has the others.
    promise: Promise,
    /// The one that has begun.
    part: Option<(u32, Part)>,
}

/// A file on its way; removed unless it becomes what was offered.
struct Part {
    segments: Arc<dyn Storage>,
    name: String,
    file: Arc<dyn StorageFile>,
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
            file: opened,
            bytes: 0,
            kept: false,
        })
    }

    /// Adds what comes next.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.bytes, bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Syncs all of it and gives it its name, if it is what was offered: what has a name is whole,
    /// also after a crash. The directory is not synced yet.
    fn keep(mut self, offered: &SegmentFile) -> Result<(), String> {
        let failed = |e: io::Error| format!("{}: {e}", offered.name);
        self.file.sync().map_err(failed)?;
        offered
            .check(&*self.file)
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
    pub(super) fn new(segments: Arc<dyn Storage>, claims: Arc<Claims>) -> Receiver {
        Receiver {
            segments,
            claims,
            offers: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            receiving: Mutex::default(),
        }
    }

    fn receiving(&self) -> MutexGuard<'_, BTreeMap<String, Receiving>> {
        self.receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an offer; the numbers of the files that this node lacks. What an earlier offer brought is
    /// here: of the same leader, or of another.
    pub(super) fn offer(&self, from: &str, payload: &Bytes, now: Instant) -> Result<Bytes, String> {
        let offer = Offer::decode(payload).map_err(|e| e.to_string())?;
        if offer.state_bytes > STATE_BYTES_MAX {
            return Err(format!("a state of {} bytes", offer.state_bytes));
        }
        let names = offer.files.iter().map(|file| file.name.clone());
        // First: what is here then stays, whatever view of it ends meanwhile.
        let promise = self.claims.promise(names.collect());
        let here = self.segments.list().map_err(|e| e.to_string())?;
        let nth = self.offers.fetch_add(1, Ordering::Relaxed);
        let here: BTreeSet<String> = here.into_iter().collect();
        let numbered = (0_u32..).zip(&offer.files);
        let lacking = numbered.filter(|(_, file)| !here.contains(&file.name));
        let missing: BTreeSet<u32> = lacking.map(|(number, _)| number).collect();
        let wanted: Vec<u32> = missing.iter().copied().collect();
        let receiving = Receiving {
            offer,
            touched: now,
            nth,
            state: BytesMut::new(),
            missing,
            promise,
            part: None,
        };
        let replaced = self.receiving().insert(from.to_owned(), receiving);
        // Not under the lock: it removes files.
        drop(replaced);
        Ok(wire::encode_wanted(&wanted))
    }

    /// Takes the next part of what was offered.
    pub(super) fn chunk(&self, from: &str, payload: &Bytes, now: Instant) -> Result<Bytes, String> {
        let Chunk {
            file,
            offset,
            bytes,
        } = Chunk::decode(payload).map_err(|e| e.to_string())?;
        let mut receiving = self.receiving();
        let receiving = receiving.get_mut(from).ok_or("no snapshot was offered")?;
        receiving.touched = now;
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
        if !receiving.missing.contains(&number) {
            return Err("a file not asked for".to_owned());
        }
        let in_turn = match &receiving.part {
            Some((begun, part)) => *begun == number && part.bytes == offset,
            None => offset == 0,
        };
        if !in_turn || end > known.len {
            return Err(format!("a part of {} out of turn", known.name));
        }
        let mut part = match receiving.part.take() {
            Some((_, part)) => part,
            None => Part::begin(&self.segments, known, receiving.nth).map_err(failed)?,
        };
        part.write(&bytes).map_err(failed)?;
        if part.bytes == known.len {
            part.keep(known)?;
            receiving.missing.remove(&number);
        } else {
            receiving.part = Some((number, part));
        }
        Ok(Bytes::new())
    }

    /// What senders that come no more have begun: dropping it lets go of files and removes parts of
    /// them, on a thread that may wait. This does not: one that is busy has a sender.
    pub(super) fn abandoned(&self, now: Instant) -> Vec<Receiving> {
        let Ok(mut receiving) = self.receiving.try_lock() else {
            return Vec::new();
        };
        let is_left = |one: &Receiving| now.saturating_duration_since(one.touched) >= RELEASE_AFTER;
        let left = receiving.extract_if(.., |_, one| is_left(one));
        let left = left.map(|(from, one)| {
            let index = one.offer.index;
            tracing::warn!(
                from,
                index,
                "a snapshot is not waited for any more: its sender is silent"
            );
            one
        });
        left.collect()
    }

    /// Makes what was received durable under its names: ready for the store to install.
    pub(super) fn finish(&self, from: &str) -> Result<SnapshotFiles, String> {
        let removed = self.receiving().remove(from);
        let Receiving {
            offer,
            state,
            missing,
            promise,
            ..
        } = removed.ok_or("no snapshot was offered")?;
        if state.len() as u64 != offer.state_bytes {
            return Err("a part of the state is missing".to_owned());
        }
        if !missing.is_empty() {
            return Err(format!("{} of its files are missing", missing.len()));
        }
        let here = self.segments.list().map_err(|e| e.to_string())?;
        let here: BTreeSet<String> = here.into_iter().collect();
        if let Some(gone) = offer.files.iter().find(|file| !here.contains(&file.name)) {
            // Not by this node: its disk, or somebody.
            return Err(format!("{} is gone meanwhile: offer it again", gone.name));
        }
        if self.failed.load(Ordering::Relaxed) {
            return Err(
                "an earlier sync failed; restart the node, and look at its disk".to_owned(),
            );
        }
        if let Err(error) = self.segments.sync_directory() {
            self.failed.store(true, Ordering::Relaxed);
            tracing::error!(%error, "what a snapshot brought is not durable; no other is taken");
            return Err(error.to_string());
        }
        // A leader that was replaced comes no more for what it began.
        self.receiving()
            .retain(|_, other| other.offer.index > offer.index);
        let snapshot = SnapshotFiles::new(offer.index, offer.raft, state.freeze(), offer.files);
        Ok(snapshot.with_promise(promise))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use journal::SimStorage;

    use super::*;
    use crate::cluster::apply::tests::begun;
    use crate::cluster::log::LeaderId;

    fn bytes_of(file: &dyn StorageFile, len: u64) -> Bytes {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        bytes.into()
    }

    /// What a leader has to send after the merge of one line, and the bytes of its one file.
    fn merged() -> (Offer, Bytes, Bytes) {
        let (mut store, job) = begun(&SimStorage::new(1));
        store.finish_merge(job.run().unwrap()).unwrap();
        let snapshot = store.snapshot().unwrap();
        assert_eq!(snapshot.files.len(), 1);
        let SegmentFile { name, len, .. } = &snapshot.files[0];
        let file = store.segments().open(name, OpenMode::Existing).unwrap();
        let content = bytes_of(&*file, *len);
        let offer = Offer {
            index: snapshot.index,
            raft: snapshot.raft.clone(),
            state_bytes: snapshot.state.len() as u64,
            files: snapshot.files.clone(),
        };
        (offer, snapshot.state, content)
    }

    /// The same with so many files of one content.
    fn merged_with_copies(count: usize) -> (Offer, Bytes, Bytes) {
        let (mut offer, state, content) = merged();
        let known = offer.files[0].clone();
        for nth in 1..count {
            let name = format!("{nth}-{}", known.name);
            let (len, digest) = (known.len, known.digest);
            offer.files.push(SegmentFile { name, len, digest });
        }
        (offer, state, content)
    }

    fn receiver(storage: &Arc<dyn Storage>) -> Receiver {
        Receiver::new(Arc::clone(storage), Claims::new(Arc::clone(storage)))
    }

    fn offer(to: &Receiver, from: &str, offer: &Offer) -> Vec<u32> {
        let wanted = to.offer(from, &offer.encode(), now()).unwrap();
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
        to.chunk(from, &chunk.encode(), now())
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn two_senders_do_not_write_into_one_file() {
        let (snapshot, state, content) = merged();
        let storage = SimStorage::new(2).as_storage();
        let receiver = receiver(&storage);
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
        assert_eq!(bytes_of(&*file, end as u64), content);
    }

    /// A transfer that broke took all that had come with it.
    #[test]
    fn a_transfer_goes_on_with_what_is_missing() {
        let storage = SimStorage::new(2).as_storage();
        let receiver = receiver(&storage);
        let (snapshot, state, content) = merged_with_copies(3);
        let (half, end) = (content.len() / 2, content.len());
        assert_eq!(offer(&receiver, "a", &snapshot), [0, 1, 2]);
        send(&receiver, "a", Some(0), &content, 0..end).unwrap();
        send(&receiver, "a", Some(1), &content, 0..half).unwrap();
        assert_eq!(
            offer(&receiver, "a", &snapshot),
            [1, 2],
            "half a file is none"
        );
        send(&receiver, "a", Some(1), &content, 0..end).unwrap();
        receiver.finish("a").unwrap_err();
        assert_eq!(offer(&receiver, "another", &snapshot), [2]);
        send(&receiver, "another", Some(2), &content, 0..end).unwrap();
        send(&receiver, "another", None, &state, 0..state.len()).unwrap();
        assert_eq!(receiver.finish("another").unwrap().files, snapshot.files);
        assert_eq!(storage.list().unwrap().len(), 3, "no part is left");
    }

    /// To another node's receiver; nothing is installed.
    struct ToReceiver(Receiver);

    impl Link for ToReceiver {
        fn call(
            &self,
            _to: &Member,
            _purpose: Purpose,
            kind: Kind,
            payload: Bytes,
            _limit: Duration,
        ) -> BoxFuture<'static, Result<Bytes, CallError>> {
            let answer = match kind {
                Kind::SnapshotOffer => self.0.offer("a", &payload, now()),
                Kind::SnapshotChunk => self.0.chunk("a", &payload, now()),
                _ => Err("not now".to_owned()),
            };
            let refused = |why| CallError::Refused {
                address: "b".to_owned(),
                why,
            };
            Box::pin(std::future::ready(answer.map_err(refused)))
        }
    }

    /// It was sent again and again, and nobody was told but in the log of the other node.
    #[tokio::test]
    async fn what_is_damaged_is_told_by_the_sender_and_not_sent_whole() {
        let sim = SimStorage::new(1);
        let (mut store, job) = begun(&sim);
        store.finish_merge(job.run().unwrap()).unwrap();
        let storage = SimStorage::new(2).as_storage();
        let link = ToReceiver(receiver(&storage));
        let segments = store.segments();
        let sent = async |snapshot: SnapshotFiles| {
            let to = Member::default();
            let leader_id = LeaderId {
                term: 1,
                node_id: 1,
            };
            let vote = Vote {
                leader_id,
                committed: true,
            };
            super::send(&link, &to, &*segments, vote, snapshot).await
        };
        let snapshot = store.snapshot().unwrap();
        let name = format!("segments/{}", snapshot.files[0].name);
        assert!(sim.flip_bit(&name, 60 * 8));
        let error = sent(snapshot.clone()).await.unwrap_err();
        assert!(
            matches!(error, SendError::Read(StoreError::Damaged { .. })),
            "{error}"
        );
        assert_eq!(store.view().damage_count().files, 1);
        assert!(sim.flip_bit(&name, 60 * 8));
        let error = sent(snapshot).await.unwrap_err();
        assert!(error.to_string().contains("not now"), "all came: {error}");
    }

    #[test]
    fn an_offer_of_many_files_opens_one_at_a_time() {
        let sim = SimStorage::new(2);
        sim.limit_open_files(1);
        let receiver = receiver(&sim.as_storage());
        let (many, _, content) = merged_with_copies(20);
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
        let receiver = receiver(&storage);
        for at in [0, content.len() / 2, content.len() - 20] {
            let mut bad = content.to_vec();
            bad[at] ^= 1;
            assert_eq!(offer(&receiver, "a", &snapshot), [0_u32], "byte {at}");
            send(&receiver, "a", None, &state, 0..state.len()).unwrap();
            send(&receiver, "a", Some(0), &bad.into(), 0..content.len()).unwrap_err();
            receiver.finish("a").unwrap_err();
            assert!(storage.list().unwrap().is_empty(), "byte {at}");
        }
    }

    /// A view that ended unlinked the file between the offer, which was told that it is here, and the
    /// installation, which ended the node then.
    #[test]
    fn what_an_offer_counts_on_stays_until_it_is_installed() {
        for ends_before_all_came in [true, false] {
            let sim = SimStorage::new(1);
            let (mut store, job) = begun(&sim);
            store.finish_merge(job.run().unwrap()).unwrap();
            let receiver = Receiver::new(store.segments(), store.claims());
            let kept = store.snapshot().unwrap();
            let (raft, state) = (kept.raft.clone(), kept.state.clone());
            let mut offered = Offer {
                index: 4,
                raft: raft.clone(),
                state_bytes: state.len() as u64,
                files: kept.files.clone(),
            };
            drop(kept);
            let view = store.view();
            let without = SnapshotFiles::new(3, raft, state.clone(), Vec::new());
            store.install(without).unwrap();
            assert!(
                offer(&receiver, "a", &offered).is_empty(),
                "a view reads it"
            );
            send(&receiver, "a", None, &state, 0..state.len()).unwrap();
            let mut view = Some(view);
            view.take_if(|_| ends_before_all_came);
            let received = receiver.finish("a").unwrap();
            drop(view);
            store.install(received).unwrap();
            assert_eq!(store.view().row_count("weather"), Some(1));
            // One that comes to nothing holds nothing.
            store
                .install(SnapshotFiles::new(
                    5,
                    offered.raft.clone(),
                    state.clone(),
                    Vec::new(),
                ))
                .unwrap();
            let left = store.segments().list().unwrap();
            assert!(left.is_empty(), "{left:?}");
            offered.index = 6;
            assert_eq!(offer(&receiver, "a", &offered), [0]);
        }
    }

    /// The promise of an offer that nobody came back for once lasted until a restart.
    #[test]
    fn what_a_silent_sender_counted_on_is_let_go_of() {
        let (mut store, job) = begun(&SimStorage::new(1));
        store.finish_merge(job.run().unwrap()).unwrap();
        let receiver = Receiver::new(store.segments(), store.claims());
        let kept = store.snapshot().unwrap();
        let offered = Offer {
            index: 4,
            raft: kept.raft.clone(),
            state_bytes: kept.state.len() as u64,
            files: kept.files.clone(),
        };
        let began = now();
        let payload = offered.encode();
        receiver.offer("a", &payload, began).unwrap();
        let without = SnapshotFiles::new(3, kept.raft.clone(), kept.state.clone(), Vec::new());
        store.install(without).unwrap();
        let chunk = Chunk {
            file: None,
            offset: 0,
            bytes: kept.state.slice(..1),
        };
        drop(kept);
        let later = began + RELEASE_AFTER / 2;
        receiver.chunk("a", &chunk.encode(), later).unwrap();
        assert!(receiver.abandoned(began + RELEASE_AFTER).is_empty());
        assert_eq!(store.segments().list().unwrap().len(), 1);
        assert_eq!(receiver.abandoned(later + RELEASE_AFTER).len(), 1);
        assert!(store.segments().list().unwrap().is_empty());
        receiver.finish("a").unwrap_err();
    }
}
