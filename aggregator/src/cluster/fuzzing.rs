//! A door for fuzzers: what another node sends.

use bytes::Bytes;

use super::wire::{self, Chunk, HEADER_BYTES, Head, JoinRequest, Joined, Kind, Offer, Proposed};

/// Any bytes as what a frame carries; the first says of which kind. Each is an error or a message.
///
/// # Panics
/// What was read is written otherwise: then nodes would not mean the same.
pub fn message(bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        // Nothing is allocated for what comes, whatever it says.
        let _ = Head::parse(header);
    }
    let Some((kind, payload)) = bytes.split_first() else {
        return;
    };
    let payload = Bytes::copy_from_slice(payload);
    let written = match Kind::ALL[usize::from(*kind) % Kind::ALL.len()] {
        Kind::Append => {
            let append = wire::decode_append(&payload).ok();
            append.map(|append| wire::encode_append(&append).expect("it came in one frame"))
        }
        Kind::Vote | Kind::PreVote => {
            let request = wire::decode_vote_request(&payload).ok();
            request.map(|request| wire::encode_vote_request(&request))
        }
        Kind::TransferLeader => {
            let transfer = wire::decode_transfer(&payload).ok();
            transfer.map(|transfer| wire::encode_transfer(&transfer))
        }
        Kind::ReadIndex => wire::decode_index(&payload).ok().map(wire::encode_index),
        Kind::Join => JoinRequest::decode(&payload).ok().map(|join| join.encode()),
        Kind::SnapshotOffer => Offer::decode(&payload).ok().map(|offer| offer.encode()),
        Kind::SnapshotChunk => Chunk::decode(&payload).ok().map(|chunk| chunk.encode()),
        Kind::SnapshotInstall => {
            let vote = wire::decode_install(&payload).ok();
            vote.map(|vote| wire::encode_install(&vote))
        }
        Kind::Answer => answer(&payload),
        // Commands have a door of their own, refusals are text for people.
        Kind::Propose | Kind::Refusal => None,
    };
    if let Some(written) = written {
        assert_eq!(written, payload, "of kind {kind}");
    }
}

/// What answers to requests of several kinds.
fn answer(payload: &Bytes) -> Option<Bytes> {
    let (what, payload) = (payload.first()?, payload.slice(1..));
    let written = match what % 5 {
        0 => {
            let appended = wire::decode_appended(&payload).ok()?;
            wire::encode_appended(&appended)
        }
        1 => wire::encode_voted(&wire::decode_voted(&payload).ok()?),
        2 => wire::encode_wanted(&wire::decode_wanted(&payload).ok()?),
        3 => Proposed::decode(&payload).ok()?.encode(),
        _ => Joined::decode(&payload).ok()?.encode(),
    };
    assert_eq!(written, payload);
    None
}
