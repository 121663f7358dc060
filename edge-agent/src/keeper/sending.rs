//! What the keeper sends, and what it does about sessions that say nothing and batches that cannot go.

use std::time::Duration;

use bytes::Bytes;
use shared::batch::GapReason;
use shared::verdict::Verdict;

use super::{Keeper, TICK};
use crate::buffer::{Place, Source, payload_to_batch};
use crate::handed::NotKept;
use crate::window::Ticket;

impl Keeper {
    /// Ends a session in which nothing was answered for as long as the link may need.
    pub(super) fn give_up_silent_session(&mut self, now: Duration) {
        if self.window.answer_due().is_none_or(|due| now < due) {
            return;
        }
        let silence = self.window.gave_up(now).as_secs();
        self.session_ended(&format!("no acknowledgement within {silence} s"));
        self.uplink.fail();
    }

    /// Without a session readings are gathered for as long as they may be unsafe: what cannot be
    /// sent is then written in few and small batches.
    pub(super) fn gather_offline(&mut self) {
        let linger = self.options.batch.linger.usual();
        let max_unsafe = self.options.buffer.max_unsafe;
        self.batcher
            .gather(Some(max_unsafe.saturating_sub(linger.min(TICK))));
    }

    /// The server takes no packet of this size, so the batch goes where refused ones go, unsent.
    fn too_large(&mut self, ticket: Ticket, now: Duration) {
        let (wall, invalid) = (self.wall(), Verdict::Invalid);
        let outcome = self
            .window
            .answered(now, wall, ticket.id, invalid, &mut self.buffer);
        self.outcome(outcome);
    }

    pub(super) fn send(&mut self, now: Duration) {
        let wall = self.wall();
        loop {
            let Some(ticket) = self.window.next(now, wall, &mut self.buffer) else {
                match self.window.unloaded() {
                    Some(run) => self.load(run),
                    None => return,
                }
                continue;
            };
            if ticket.too_large {
                self.too_large(ticket, now);
                continue;
            }
            let Some(bytes) = self.read(ticket.place) else {
                self.damaged(ticket.id, ticket.place, now);
                continue;
            };
            let length = bytes.len() as u64;
            if !self.uplink.publish(ticket.id, ticket.place.lane, bytes) {
                self.session_ended("the session takes no more");
                self.uplink.fail();
                return;
            }
            self.account.sent(length, ticket.again);
        }
    }

    pub(super) fn read(&self, place: Place) -> Option<Bytes> {
        match self.buffer.source(place)? {
            Source::Ram(bytes) => Some(bytes),
            Source::Disk(position) => match self.disk.handle.reader().read(position) {
                Ok(payload) => payload_to_batch(&payload),
                Err(error) => {
                    tracing::error!(%error, ?place, "a batch cannot be read back from the buffer");
                    None
                }
            },
        }
    }

    fn damaged(&mut self, id: u64, place: Place, now: Duration) {
        self.set_aside(place);
        let wall = self.wall();
        self.window
            .answered(now, wall, id, Verdict::Invalid, &mut self.buffer);
        let reason = GapReason::Damaged;
        let outcome = self
            .window
            .give_up(now, wall, place, reason, &mut self.buffer);
        self.outcome(outcome);
    }

    /// The cluster will never take this batch: keep it aside, then let a gap record stand for it.
    pub(super) fn refused(&mut self, place: Place) {
        let (now, wall) = (self.clock.now(), self.wall());
        if let Some(bytes) = self.read(place) {
            match self.folder.dead_letter(place, &bytes) {
                Ok(removed) => {
                    self.account.dead_letters += 1;
                    self.account.dead_letters_removed += removed;
                }
                Err(error) => {
                    self.account
                        .trouble(format!("a refused batch could not be set aside: {error}"));
                }
            }
        }
        let reason = GapReason::Refused;
        let outcome = self
            .window
            .give_up(now, wall, place, reason, &mut self.buffer);
        self.settle_as(&outcome.settled, NotKept::Refused);
        if let Some(alarm) = outcome.alarm {
            self.alarm(alarm);
        }
    }
}
