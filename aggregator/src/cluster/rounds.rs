//! One round of a quorum for all who ask while the one before runs: thousands of agents come back at
//! once after an outage, and each asks for as much as a query does.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Shares what rounds come to.
#[derive(Debug)]
pub(super) struct Rounds<T> {
    /// Who asked so far.
    asked: AtomicU64,
    last: Mutex<Option<Round<T>>>,
}

#[derive(Debug)]
struct Round<T> {
    /// These had asked when it began.
    asked: u64,
    result: T,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self {
            asked: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }
}

impl<T: Clone> Rounds<T> {
    /// What a round comes to that began after this was called.
    pub(super) async fn next<F: Future<Output = T>>(&self, round: impl FnOnce() -> F) -> T {
        let own = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.asked >= own) {
            return last.result.clone();
        }
        let asked = self.asked.load(Ordering::SeqCst);
        let result = round().await;
        *last = Some(Round {
            asked,
            result: result.clone(),
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_while_a_round_runs_shares_the_next() {
        let (rounds, begun) = (Rounds::default(), AtomicU64::new(0));
        let start = Instant::now();
        let ask = |after: u64| {
            let (rounds, begun) = (&rounds, &begun);
            async move {
                sleep(Duration::from_millis(after)).await;
                let round = || async {
                    let nth = begun.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(10)).await;
                    nth
                };
                rounds.next(round).await
            }
        };
        let first = ask(0);
        let others = futures_util::future::join_all((1..100).map(|nth| ask(1 + nth % 5)));
        let (first, others) = futures_util::future::join(first, others).await;
        assert_eq!(first, 0);
        assert!(others.iter().all(|nth| *nth == 1), "{others:?}");
        assert_eq!(start.elapsed(), Duration::from_millis(20));
        // One that was over when it was asked for says nothing.
        assert_eq!(ask(0).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_the_round_to_the_next() {
        let rounds = Rounds::default();
        let never = rounds.next(std::future::pending::<u64>);
        let given_up = tokio::time::timeout(Duration::from_millis(5), never).await;
        assert!(given_up.is_err());
        assert_eq!(rounds.next(|| async { 7 }).await, 7);
    }
}
