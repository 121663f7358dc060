//! After a refusal in a lane: refuse what follows until the refused number comes again.
//!
//! What follows would be refused by the replicated state as well; here it costs no log entry. So
//! forgetting a gate is harmless, and their number can be bounded.

use std::collections::VecDeque;

use shared::id::{BatchNumber, Epoch, Lane};
use shared::verdict::{Position, Verdict};

/// Streams of one connection that are remembered. An agent drains one older epoch at a time.
const GATES_MAX: usize = 64;
/// How long a publisher waits before it repeats what stood behind a refused batch.
pub(super) const RETRY_MS: u32 = 200;

/// The stream and numbers of one batch; of a gap record, all numbers it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: Epoch,
    pub(super) lane: Lane,
    pub(super) from: BatchNumber,
    pub(super) to: BatchNumber,
}

#[derive(Debug, Default)]
pub(super) struct LaneGates {
    gates: VecDeque<Gate>,
}

#[derive(Debug)]
struct Gate {
    epoch: Epoch,
    lane: Lane,
    /// Closed until a batch comes that covers this number or an earlier one.
    shut: Option<(BatchNumber, Verdict)>,
    /// Refusals of packets before this one are old news: what they miss has come again.
    opened_at: u64,
}

impl LaneGates {
    /// Whether packet `sequence` with a batch at `place` may pass; else the verdict for it.
    pub(super) fn pass(&mut self, sequence: u64, place: Place) -> Result<(), Verdict> {
        let Some(gate) = self.find(place) else {
            return Ok(());
        };
        match gate.shut {
            Some((wanted, verdict)) if place.from > wanted => Err(verdict),
            Some(_) => {
                gate.shut = None;
                gate.opened_at = sequence;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Packet `sequence` with the batch at `place` got `verdict`, which is no success.
    pub(super) fn refused(&mut self, sequence: u64, place: Place, verdict: Verdict) {
        let (wanted, behind) = match verdict {
            Verdict::Gap(position) => (next(position), verdict),
            Verdict::Fork(_) => (place.from, verdict),
            _ => (place.from, Verdict::Busy { retry_ms: RETRY_MS }),
        };
        if let Some(gate) = self.find(place) {
            if sequence < gate.opened_at {
                return;
            }
            // The earliest refused number decides: all behind it must come again anyway.
            if gate.shut.is_none_or(|(earlier, _)| wanted <= earlier) {
                gate.shut = Some((wanted, behind));
            }
            return;
        }
        if self.gates.len() == GATES_MAX {
            self.gates.pop_front();
        }
        let (epoch, lane) = (place.epoch, place.lane);
        self.gates.push_back(Gate {
            epoch,
            lane,
            shut: Some((wanted, behind)),
            opened_at: 0,
        });
    }

    fn find(&mut self, place: Place) -> Option<&mut Gate> {
        self.gates
            .iter_mut()
            .find(|gate| gate.epoch == place.epoch && gate.lane == place.lane)
    }
}

fn next(position: Position) -> BatchNumber {
    BatchNumber(position.last.0.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> Place {
        span(number, number)
    }

    fn span(from: u64, to: u64) -> Place {
        let (from, to) = (BatchNumber(from), BatchNumber(to));
        Place {
            epoch: Epoch(7),
            lane: Lane::Live,
            from,
            to,
        }
    }

    fn gap(last: u64) -> Verdict {
        Verdict::Gap(Position {
            last: BatchNumber(last),
            ..Position::default()
        })
    }

    #[test]
    fn a_refused_lane_opens_with_the_refused_number_only() {
        let mut gates = LaneGates::default();
        gates.refused(0, at(5), gap(2));
        assert_eq!(gates.pass(1, at(6)), Err(gap(2)));
        assert_eq!(gates.pass(2, at(4)), Err(gap(2)));
        assert_eq!(
            gates.pass(
                3,
                Place {
                    lane: Lane::Names,
                    ..at(6)
                }
            ),
            Ok(())
        );
        assert_eq!(
            gates.pass(
                4,
                Place {
                    epoch: Epoch(8),
                    ..at(6)
                }
            ),
            Ok(())
        );
        assert_eq!(gates.pass(5, at(3)), Ok(()));
        assert_eq!(gates.pass(6, at(4)), Ok(()));
    }

    #[test]
    fn a_gap_record_over_the_refused_number_opens_it() {
        let mut gates = LaneGates::default();
        gates.refused(0, at(5), Verdict::Invalid);
        let busy = Err(Verdict::Busy { retry_ms: RETRY_MS });
        assert_eq!(gates.pass(1, at(6)), busy);
        assert_eq!(gates.pass(2, span(6, 9)), busy);
        assert_eq!(gates.pass(3, span(4, 9)), Ok(()));
    }

    #[test]
    fn answers_to_packets_before_the_repeat_do_not_shut_it_again() {
        let mut gates = LaneGates::default();
        gates.refused(0, at(5), gap(4));
        assert_eq!(gates.pass(3, at(5)), Ok(()));
        gates.refused(1, at(6), gap(4));
        assert_eq!(gates.pass(4, at(6)), Ok(()));
        gates.refused(4, at(6), gap(4));
        assert_eq!(gates.pass(5, at(7)), Err(gap(4)));
    }

    #[test]
    fn their_number_is_bounded() {
        let mut gates = LaneGates::default();
        for epoch in 0..1_000 {
            gates.refused(
                0,
                Place {
                    epoch: Epoch(epoch),
                    ..at(1)
                },
                gap(0),
            );
        }
        assert_eq!(gates.gates.len(), GATES_MAX);
    }
}
