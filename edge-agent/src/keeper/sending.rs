//! What the keeper does about sessions that say nothing and batches that cannot go.

use std::time::Duration;

use shared::verdict::Verdict;

use super::Keeper;
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

    /// The server takes no packet of this size, so the batch goes where refused ones go, unsent.
    pub(super) fn too_large(&mut self, ticket: Ticket, now: Duration) {
        let (wall, invalid) = (self.wall(), Verdict::Invalid);
        let outcome = self
            .window
            .answered(now, wall, ticket.id, invalid, &mut self.buffer);
        self.outcome(outcome);
    }
}
