//! What a frame and each message are, byte by byte, and that nothing else is one.

use openraft::EntryPayload;

use super::*;
use crate::cluster::log::LeaderId;
use crate::cluster::types::CommandBytes;

fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
    let leader_id = LeaderId { term, node_id };
    LogId { leader_id, index }
}

fn vote() -> Vote {
    Vote {
        leader_id: LeaderId {
            term: 7,
            node_id: 2,
        },
        committed: true,
    }
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    let command = CommandBytes(Bytes::from_static(b"command"));
    let entry = |index, payload| Entry {
        log_id: log_id(7, 2, index),
        payload,
    };
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(log_id(6, 1, 8)),
        entries: vec![
            entry(9, EntryPayload::Blank),
            entry(10, EntryPayload::Normal(command)),
        ],
        leader_commit: None,
    }
}

/// Every message, with a decoder that tells whether it was understood.
type Sample = (Bytes, fn(&Bytes) -> bool);

fn samples() -> Vec<Sample> {
    let file = SegmentFile {
        name: "x.seg".to_owned(),
        len: 9,
        digest: shared::id::Digest([3; 8]),
    };
    let offer = Offer {
        index: 5,
        raft: Bytes::from_static(b"raft"),
        state_bytes: 77,
        files: vec![file],
    };
    let chunk = Chunk {
        file: None,
        offset: 3,
        bytes: Bytes::from_static(b"part"),
    };
    let join = JoinRequest {
        name: "b".to_owned(),
        address: "h:1".to_owned(),
        joining: 4,
    };
    let taken = Joined::AddressTaken { name: "a".into() };
    let ask = VoteRequest {
        vote: vote(),
        last_log_id: Some(log_id(1, 1, 1)),
        leadership_transfer: true,
    };
    vec![
        (encode_append(&append()).unwrap(), |b| {
            decode_append(b).is_ok()
        }),
        (
            encode_appended(&AppendEntriesResponse::HigherVote(vote())),
            |b| decode_appended(b).is_ok(),
        ),
        (encode_vote_request(&ask), |b| {
            decode_vote_request(b).is_ok()
        }),
        (encode_voted(&VoteResponse::new(vote(), None, true)), |b| {
            decode_voted(b).is_ok()
        }),
        (
            encode_transfer(&TransferLeaderRequest::new(vote(), 3, None)),
            |b| decode_transfer(b).is_ok(),
        ),
        (join.encode(), |b| JoinRequest::decode(b).is_ok()),
        (
            Joined::Admitted {
                id: 3,
                incarnation: 4,
            }
            .encode(),
            |b| Joined::decode(b).is_ok(),
        ),
        (taken.encode(), |b| Joined::decode(b).is_ok()),
        (offer.encode(), |b| Offer::decode(b).is_ok()),
        (chunk.encode(), |b| Chunk::decode(b).is_ok()),
        (encode_wanted(&[1, 2]), |b| decode_wanted(b).is_ok()),
        (encode_install(&vote()), |b| decode_install(b).is_ok()),
        (Proposed::Taken.encode(), |b| {
            Proposed::decode(b) == Ok(Proposed::Taken)
        }),
        (Proposed::Full.encode(), |b| {
            Proposed::decode(b) == Ok(Proposed::Full)
        }),
        (encode_index(3), |b| decode_index(b).is_ok()),
    ]
}

#[test]
fn every_message_is_read_back_and_no_part_of_one_is() {
    for (nth, (bytes, understands)) in samples().into_iter().enumerate() {
        assert!(understands(&bytes), "{nth}");
        for cut in 0..bytes.len() {
            assert!(!understands(&bytes.slice(..cut)), "{nth} cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(!understands(&longer.into()), "{nth} and a byte");
    }
    let back = decode_append(&encode_append(&append()).unwrap()).unwrap();
    assert_eq!(back.entries, append().entries);
    assert_eq!(back.prev_log_id, append().prev_log_id);
}

#[test]
fn a_header_is_these_bytes() {
    let frame = Frame {
        kind: Kind::Vote,
        incarnation: 0x0102,
        request: 3,
        payload: Bytes::from_static(b"12345"),
    };
    let header = frame.header();
    assert_eq!(
        &header[..],
        b"TRBN\x01\x02\0\0\0\0\0\0\x05\0\0\0\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"
    );
    let head = Head::parse(&header).unwrap();
    assert_eq!((head.kind, head.payload_bytes), (Kind::Vote, 5));
    assert_eq!((head.incarnation, head.request), (0x0102, 3));
}

#[test]
fn headers_are_refused_before_anything_is_allocated() {
    let good = Frame {
        kind: Kind::Append,
        incarnation: 1,
        request: 1,
        payload: Bytes::new(),
    }
    .header();
    let with = |at: usize, byte: u8| {
        let mut header = good;
        header[at] = byte;
        Head::parse(&header)
    };
    assert!(Head::parse(&good).is_ok());
    assert!(with(0, b'X').is_err());
    assert_eq!(with(4, 2), Err(WireError::Version(2)));
    assert!(with(5, 99).is_err());
    assert!(with(6, 1).is_err());
    assert!(with(8, 1).is_err());
    assert!(with(15, 0xff).is_err(), "a length of 4 GB");
}
