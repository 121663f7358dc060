//! Heartbeats over a link on which an answer takes longer than the next heartbeat.
//!
//! openraft gives each of them up when the next is due, so where the round trip is longer none would
//! ever count: the leader's lease would run out, and with it what it takes, while followers that hear
//! it all the time elect nobody. So they are waited for here, and whatever answer comes first stands
//! for the newest. The leader believes in its lease longer by the age of what was answered. That moves
//! only the moment from which it refuses submissions and votes against itself: what is committed, and
//! what a read may show, says a quorum each time.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::link::CallError;

/// Heartbeats on their way to one node: with more, those are waited for.
const FLIGHTS_MAX: usize = 64;

/// The heartbeats of one leader to one node.
pub(super) struct Pulse {
    /// For so long the answer to one counts.
    limit: Duration,
    flights: JoinSet<Result<Bytes, CallError>>,
}

impl Pulse {
    pub(super) fn new(limit: Duration) -> Pulse {
        Pulse {
            limit,
            flights: JoinSet::new(),
        }
    }

    /// Sends another heartbeat, which is given up after the time that it is told, and returns the first
    /// answer to any of them; an error only when no answer can come any more. Whoever stops waiting for
    /// it takes up with the next.
    pub(super) async fn beat(
        &mut self,
        send: impl FnOnce(Duration) -> BoxFuture<'static, Result<Bytes, CallError>>,
    ) -> Result<Bytes, CallError> {
        if self.flights.len() < FLIGHTS_MAX {
            self.flights.spawn(send(self.limit));
        }
        loop {
            let ended = self.flights.join_next().await;
            let ended = ended.expect("there is one: whatever is the last to end is returned");
            let ended = ended.expect("a call does not panic, and nobody ends it");
            if ended.is_ok() || self.flights.is_empty() {
                return ended;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);
    const LIMIT: Duration = Duration::from_millis(400);

    fn answered(
        after: Duration,
    ) -> impl FnOnce(Duration) -> BoxFuture<'static, Result<Bytes, CallError>> {
        move |limit| {
            Box::pin(async move {
                let answer = sleep(after);
                match timeout(limit, answer).await {
                    Ok(()) => Ok(Bytes::new()),
                    Err(_) => Err(CallError::Lost {
                        address: "b".to_owned(),
                        why: "no answer in time".to_owned(),
                    }),
                }
            })
        }
    }

    /// As openraft does it.
    async fn beats(pulse: &mut Pulse, after: Duration, beats: usize) -> usize {
        let mut counted = 0;
        for _ in 0..beats {
            let next = Instant::now() + INTERVAL;
            let answer = timeout(INTERVAL, pulse.beat(answered(after))).await;
            counted += usize::from(matches!(answer, Ok(Ok(_))));
            tokio::time::sleep_until(next).await;
        }
        counted
    }

    #[tokio::test(start_paused = true)]
    async fn answers_count_that_come_after_the_next_heartbeat() {
        let mut pulse = Pulse::new(LIMIT);
        assert_eq!(beats(&mut pulse, Duration::from_millis(5), 10).await, 10);
        let mut pulse = Pulse::new(LIMIT);
        // Those of 250 ms ago.
        assert_eq!(beats(&mut pulse, Duration::from_millis(250), 10).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_is_not_believed_in() {
        let mut pulse = Pulse::new(LIMIT);
        assert_eq!(beats(&mut pulse, Duration::from_secs(1), 40).await, 0);
        assert!(pulse.flights.len() <= 5);
        // It is there again: what was lost is no answer, and does not hide one.
        assert!(beats(&mut pulse, Duration::from_millis(5), 10).await >= 9);
    }
}
