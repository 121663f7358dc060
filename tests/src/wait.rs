//! Waiting for a fact with a deadline: the one place of the harness that reads the clock.

use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(25);

/// Polls until `fact` gives a value. `Err` after `limit`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut fact: impl FnMut() -> Option<T>,
) -> Result<T, String> {
    let start = now();
    loop {
        if let Some(value) = fact() {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return Err(format!("{what}: not within {:.1} s", limit.as_secs_f64()));
        }
        thread::sleep(POLL);
    }
}

/// Watches for `time` that `fact` stays absent: `Err` with what came.
pub fn never<T>(time: Duration, mut fact: impl FnMut() -> Option<T>) -> Result<(), T> {
    let start = now();
    while start.elapsed() < time {
        if let Some(value) = fact() {
            return Err(value);
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Lets time go by: for a fault that lasts, or a moment that chance has chosen. Never for something
/// to have happened by then.
pub fn pass(time: Duration) {
    thread::sleep(time);
}

/// A steady clock.
#[expect(
    clippy::disallowed_methods,
    reason = "a harness drives real processes in real time"
)]
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_returns_the_fact_and_names_what_did_not_come() {
        let mut polls = 0;
        let found = until("third poll", Duration::from_secs(60), || {
            polls += 1;
            (polls == 3).then_some(polls)
        });
        assert_eq!(found, Ok(3));
        let none = until::<()>("the impossible", Duration::ZERO, || None);
        assert!(none.unwrap_err().contains("the impossible"));
        assert_eq!(never(Duration::from_secs(60), || Some(7)), Err(7));
    }
}
