//! What the cluster may have of a lane without its being known here: what was sent may have taken
//! effect, whether or not its answer came.
//!
//! A gap record counts its readings as lost. So one that covers a number which was sent covers
//! nothing else: the cluster either takes all of it, or has it. And it is not thinned: the cluster
//! would have both it and the sums.
//!
//! What an earlier process sent is not known, only how much may be in flight at once. So many
//! entries behind where the cluster is known to stand count as sent. It may stand further until it
//! tells; to hold all that it could have one by one would take memory that grows with the backlog.

use shared::id::{BatchNumber, Epoch, Lane};

use super::lane::{Entry, Form, LaneShelf};
use super::{Buffer, Place};
use crate::handed::Class;

/// Entries of all lanes together that count as sent by an earlier process: so many times what may
/// be in flight.
const BEFORE_PARTS: usize = 4;

/// Of one lane.
#[derive(Debug, Default, Clone, Copy, Hash)]
pub(super) struct Sent {
    /// The highest number that this process sent.
    here: BatchNumber,
    /// The highest that counts as sent by an earlier one.
    before: BatchNumber,
    /// The cluster has said since the start where it stands.
    is_told: bool,
}

impl LaneShelf {
    /// What is behind this number the cluster does not have, as far as can be known.
    pub(super) fn maybe_sent(&self) -> BatchNumber {
        self.acked.last.max(self.sent.here).max(self.sent.before)
    }

    /// The oldest data of a class that are whole and that the cluster cannot have, or the run that
    /// holds them.
    pub(super) fn oldest_unsent(&mut self, class: Class) -> Option<&Entry> {
        let oldest = self.oldest(class, Form::Whole, false)?.to;
        let start = self.index_of(oldest.max(self.maybe_sent().next()));
        let mut unsent = self.entries.range(start..);
        unsent.find(|entry| entry.holds(class, Form::Whole))
    }

    /// Gap records at most that stand for themselves alone because what they cover may be at the
    /// cluster.
    pub(super) fn gaps_apart_most(&self, entries_near: usize) -> u64 {
        let acked = self.acked.last;
        let here = self.index_of(self.sent.here.next());
        let here = here.saturating_sub(self.index_of(acked.next()));
        let before = self.sent.before.0.saturating_sub(acked.0);
        here as u64 + before.min(entries_near as u64)
    }

    /// The last number of so many records behind `last`.
    fn number_behind(&self, last: BatchNumber, records: u64) -> BatchNumber {
        let mut left = records;
        let mut end = last;
        for entry in self.entries.range(self.index_of(last.next())..) {
            if entry.run.is_some() && entry.records() > left {
                return BatchNumber(entry.from.0 - 1 + left);
            }
            left = left.saturating_sub(entry.records());
            end = entry.to;
            if left == 0 {
                break;
            }
        }
        end
    }
}

impl Buffer {
    /// Whether a number, or one behind it, was sent before by this process.
    pub fn was_sent(&self, place: Place) -> bool {
        let held = self.lane(place.epoch, place.lane);
        held.is_some_and(|held| place.to <= held.sent.here)
    }

    /// It goes to the cluster now.
    pub fn sends(&mut self, place: Place) {
        if let Some(held) = self.lane_mut(place.epoch, place.lane) {
            held.sent.here = held.sent.here.max(place.to);
        }
    }

    /// The cluster says where a stream stands. What an earlier process sent last may still come
    /// behind that.
    pub fn stands_at(&mut self, epoch: Epoch, lane: Lane, last: BatchNumber) {
        let mut shelves = self.epochs.iter_mut();
        if let Some(shelf) = shelves.find(|shelf| shelf.epoch == epoch) {
            shelf.early.is_placed |= lane == Lane::Names;
        }
        let records = self.records_before();
        if let Some(held) = self.lane_mut(epoch, lane)
            && held.sent.before > BatchNumber::NONE
            && !held.sent.is_told
        {
            let known = held.acked.last.max(last);
            held.sent.before = held.number_behind(known, records);
            held.sent.is_told = true;
        }
    }

    /// After a start: what is held now is of earlier processes.
    pub(super) fn sent_before(&mut self) {
        let records = self.records_before();
        for held in self.epochs.iter_mut().flat_map(|shelf| &mut shelf.lanes) {
            held.sent.before = held.number_behind(held.acked.last, records);
        }
    }

    /// Of each lane so many records count as sent by an earlier process.
    fn records_before(&self) -> u64 {
        let near = self.options.entries_near;
        let lanes = self.epochs.iter().flat_map(|shelf| &shelf.lanes);
        let held = lanes.filter(|lane| !lane.is_drained()).count().max(1);
        (near * BEFORE_PARTS / held).clamp(1, near.max(1)) as u64
    }
}
