//! Content: is it what it says, in a form that every replica will accept for ever?
//!
//! Pure and CPU-bound; `connection` runs large ones off the event loop. What passes here is
//! never refused again for its content, only for its number.

use bytes::Bytes;
use shared::batch::check::{COLUMN_PRICE, GROUP_PRICE, SERIES_PRICE, decoded_bytes};
use shared::batch::{self, DecodeError};
use shared::column::TIME_PRICE;
use shared::id::{AgentId, Lane, TimeNs};
use shared::limits::{LINE_PAYLOAD_BYTES_MAX, decoded_bytes_max};
use shared::payload::line::{self, LineOptions};

use super::lane_gate::Place;
use crate::state::command::Payload;

/// Below this many bytes a check is made at once, and ends the turn of its connection: most are
/// shorter than a trip to another thread, but some bytes may decode to a mebibyte.
pub(super) const INLINE_BYTES_MAX: usize = 32 << 10;

// The longest of them takes about a millisecond.
const _: () = assert!(decoded_bytes_max(INLINE_BYTES_MAX) <= 1 << 20);

/// What a line weighs beside its bytes and values: it is decoded to a group of one series.
const LINE_PRICE: usize = GROUP_PRICE + TIME_PRICE + SERIES_PRICE;

/// What a topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Batch(Lane),
    Lines,
}

/// Content that may go to the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// Where the batch stands in its stream; `None` for lines.
    pub(super) place: Option<Place>,
    pub(super) payload: Payload,
    /// What decoding it takes, in the prices of the format.
    pub(super) decoded_bytes: usize,
}

/// Content that never will.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// Where it would have stood, as far as the header can be believed.
    pub(super) place: Option<Place>,
    pub(super) reason: String,
}

/// Checks what `agent` published. Takes as long as decoding it.
pub(super) fn check(kind: Kind, agent: &AgentId, payload: Bytes) -> Result<Checked, Invalid> {
    match kind {
        Kind::Batch(lane) => check_batch(lane, payload),
        Kind::Lines => check_lines(agent, payload),
    }
}

fn check_batch(lane: Lane, bytes: Bytes) -> Result<Checked, Invalid> {
    let place = batch::read_header(&bytes).ok().map(|(header, _)| Place {
        epoch: header.epoch,
        lane: header.lane,
        from: header.number,
        to: header.number,
    });
    let batch = batch::decode(&bytes).map_err(|error| {
        let hint = match error {
            DecodeError::Version { .. } => "; upgrade the cluster before its agents",
            DecodeError::Damaged(_) => "; the bytes changed on the agent's disk or on the way",
            DecodeError::Invalid(_) | DecodeError::Limit(_) => "",
        };
        Invalid {
            place,
            reason: format!("{error}{hint}"),
        }
    })?;
    let place = place.map(|place| Place {
        from: batch.first_number(),
        ..place
    });
    if batch.header.lane != lane {
        let (says, topic) = (batch.header.lane.as_str(), lane.as_str());
        let reason = format!("a batch of the lane {says} on the topic of the lane {topic}");
        // Its own lane did not refuse it, so no gate is shut.
        return Err(Invalid {
            place: None,
            reason,
        });
    }
    Ok(Checked {
        place,
        payload: Payload::Batch(bytes),
        decoded_bytes: decoded_bytes(&batch.body),
    })
}

fn check_lines(agent: &AgentId, bytes: Bytes) -> Result<Checked, Invalid> {
    let invalid = |reason: String| Invalid {
        place: None,
        reason,
    };
    if bytes.len() > LINE_PAYLOAD_BYTES_MAX {
        let reason = format!(
            "{} bytes of lines in one message; {LINE_PAYLOAD_BYTES_MAX} are allowed",
            bytes.len()
        );
        return Err(invalid(reason));
    }
    // The time of lines without one is given at apply; for the check any will do.
    let (mut readings, mut decoded_bytes) = (0_usize, bytes.len());
    for reading in line::parse(&bytes, LineOptions::new(TimeNs(0), agent.as_str())) {
        // All or nothing: one acknowledgement cannot say which lines were stored.
        let reading = reading.map_err(|error| invalid(error.to_string()))?;
        readings += 1;
        decoded_bytes += LINE_PRICE + reading.values.len() * COLUMN_PRICE;
    }
    if readings == 0 {
        return Err(invalid("no line of readings in the message".to_owned()));
    }
    Ok(Checked {
        place: None,
        payload: Payload::Lines(bytes),
        decoded_bytes,
    })
}

#[cfg(test)]
mod tests {
    use shared::batch::{
        Body, Column, Data, Gap, GapReason, Group, Header, SeriesColumns, Values, encode,
    };
    use shared::id::{BatchNumber, Digest, Epoch, LocalSeriesId};

    use super::*;

    fn ask(kind: Kind, bytes: &[u8]) -> Result<Checked, Invalid> {
        check(
            kind,
            &AgentId::parse("gw1").unwrap(),
            Bytes::copy_from_slice(bytes),
        )
    }

    fn header(number: u64) -> Header {
        Header {
            epoch: Epoch(0xe),
            lane: Lane::Live,
            number: BatchNumber(number),
            previous: Digest::ZERO,
            names_needed: BatchNumber(0),
            sealed_at: TimeNs(0),
            complete_below: TimeNs(0),
            boot_relative: false,
        }
    }

    fn gap_record(from: u64, to: u64) -> Vec<u8> {
        let from = BatchNumber(from);
        let gap = Gap {
            from,
            readings: 1,
            reason: GapReason::Overflow,
            digest_to: Digest([1; 8]),
        };
        encode(&header(to), &Body::Gap(gap)).unwrap()
    }

    #[test]
    fn what_is_small_may_weigh_much() {
        let one = |id| SeriesColumns {
            id: LocalSeriesId(id),
            columns: vec![Column {
                field: 0,
                present: None,
                values: Values::Bool(vec![false]),
            }],
        };
        let group = Group {
            times: vec![0],
            series: (0..9_190).map(one).collect(),
        };
        let groups = vec![group];
        let bytes = encode(&header(1), &Body::Data(Data { groups })).unwrap();
        assert!(bytes.len() < 100);
        let batch = ask(Kind::Batch(Lane::Live), &bytes).unwrap();
        assert!(batch.decoded_bytes > 1_000_000);
        let lines = ask(Kind::Lines, &b"t a=1\n".repeat(1_000)).unwrap();
        assert!(lines.decoded_bytes > 150_000);
        let gap = ask(Kind::Batch(Lane::Live), &gap_record(3, 9)).unwrap();
        assert_eq!(gap.decoded_bytes, 0);
    }

    #[test]
    fn a_gap_record_stands_for_all_its_numbers() {
        let checked = ask(Kind::Batch(Lane::Live), &gap_record(3, 9)).unwrap();
        let place = checked.place.unwrap();
        assert_eq!((place.from, place.to), (BatchNumber(3), BatchNumber(9)));
    }

    #[test]
    fn no_damaged_byte_passes_and_the_place_is_told_if_it_can_be_believed() {
        let good = gap_record(3, 9);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let invalid = ask(Kind::Batch(Lane::Live), &bad).unwrap_err();
            assert_eq!(invalid.place, None, "byte {at}");
        }
        for end in 0..good.len() {
            assert!(ask(Kind::Batch(Lane::Live), &good[..end]).is_err());
        }
    }

    #[test]
    fn the_lane_of_the_header_is_the_lane_of_the_topic() {
        let invalid = ask(Kind::Batch(Lane::Backlog), &gap_record(1, 1)).unwrap_err();
        assert!(
            invalid
                .reason
                .contains("lane live on the topic of the lane backlog")
        );
    }

    #[test]
    fn every_line_must_be_a_reading() {
        assert!(
            ask(
                Kind::Lines,
                b"weather,device=a t=1.5 7\n# note\nweather t=2i\n"
            )
            .is_ok()
        );
        let invalid = ask(Kind::Lines, b"weather t=1\nweather t=\n").unwrap_err();
        assert!(
            invalid.reason.starts_with("line 2, column"),
            "{}",
            invalid.reason
        );
        assert!(ask(Kind::Lines, b"").is_err());
        assert!(ask(Kind::Lines, &vec![b'#'; LINE_PAYLOAD_BYTES_MAX + 1]).is_err());
    }
}
