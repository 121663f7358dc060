//! Sources that wait until their readings are kept, all of them.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::batcher::WaiterId;
use crate::handed::NotKept;

type Answer = oneshot::Sender<Result<(), NotKept>>;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: HashMap<WaiterId, Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    answer: Answer,
    /// Sealed batches with readings of it that are not safe yet.
    batches: usize,
    /// Some of its readings are, or may come to be, in the open batch.
    open: bool,
    /// Not all of its readings were pushed yet.
    pushing: bool,
}

impl Waiters {
    pub(super) fn add(&mut self, answer: Answer) -> WaiterId {
        let id = WaiterId(self.next);
        self.next += 1;
        self.waiting.insert(
            id,
            Waiter {
                answer,
                batches: 0,
                open: true,
                pushing: true,
            },
        );
        id
    }

    /// All readings are in the open batch or in sealed ones.
    pub(super) fn all_pushed(&mut self, id: WaiterId) {
        if let Some(waiter) = self.waiting.get_mut(&id) {
            waiter.pushing = false;
            waiter.open = true;
        }
    }

    /// The open batch was sealed with readings of these.
    pub(super) fn sealed(&mut self, ids: &[WaiterId]) {
        for id in ids {
            if let Some(waiter) = self.waiting.get_mut(id) {
                waiter.batches += 1;
                waiter.open = false;
            }
        }
    }

    /// One batch with readings of each of these is safe.
    pub(super) fn kept(&mut self, ids: &[WaiterId]) {
        for id in ids {
            let Some(waiter) = self.waiting.get_mut(id) else {
                continue;
            };
            waiter.batches -= 1;
            if waiter.batches == 0
                && !waiter.open
                && !waiter.pushing
                && let Some(done) = self.waiting.remove(id)
            {
                // A source that no longer listens needs no answer.
                let _ = done.answer.send(Ok(()));
            }
        }
    }

    /// A batch with readings of each of these is gone.
    pub(super) fn lost(&mut self, ids: &[WaiterId], why: NotKept) {
        for id in ids {
            if let Some(lost) = self.waiting.remove(id) {
                let _ = lost.answer.send(Err(why));
            }
        }
    }

    /// Whoever still waits is told that the agent stops.
    pub(super) fn stop(&mut self) {
        for (_, waiter) in self.waiting.drain() {
            let _ = waiter.answer.send(Err(NotKept::Stopping));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_when_its_last_batch_is_safe() {
        let mut waiters = Waiters::default();
        let (answer, mut told) = oneshot::channel();
        let id = waiters.add(answer);
        waiters.sealed(&[id]);
        waiters.all_pushed(id);
        waiters.kept(&[id]);
        assert!(told.try_recv().is_err(), "the rest is in the open batch");
        waiters.sealed(&[id]);
        waiters.kept(&[id]);
        assert_eq!(told.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn one_lost_batch_is_a_no() {
        let mut waiters = Waiters::default();
        let (answer, mut told) = oneshot::channel();
        let id = waiters.add(answer);
        waiters.sealed(&[id]);
        waiters.all_pushed(id);
        waiters.sealed(&[id]);
        waiters.lost(&[id], NotKept::BufferFull);
        waiters.kept(&[id]);
        assert_eq!(told.try_recv(), Ok(Err(NotKept::BufferFull)));
        let (answer, mut told) = oneshot::channel();
        waiters.add(answer);
        waiters.stop();
        assert_eq!(told.try_recv(), Ok(Err(NotKept::Stopping)));
    }
}
