//! Which other nodes do not answer: told when it has lasted for a moment, once a minute while it
//! lasts, and when it is over. Whoever asks tries again many times a second, and would say so each
//! time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A silence that ends before is not worth a line.
const TOLD_AFTER: Duration = Duration::from_secs(2);
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The silences of all that are asked, by address: as many as there are nodes.
#[derive(Debug, Default)]
pub(super) struct Silences {
    // A std mutex: held for a few instructions.
    peers: Mutex<BTreeMap<String, Silence>>,
}

#[derive(Debug)]
struct Silence {
    since: Instant,
    told_at: Option<Instant>,
}

impl Silences {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<String, Silence>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There was no answer. `Some`: say so now, and for how long there has been none.
    pub(super) fn failed(&self, address: &str, now: Instant) -> Option<Duration> {
        let mut peers = self.peers();
        let Some(silence) = peers.get_mut(address) else {
            let silence = Silence {
                since: now,
                told_at: None,
            };
            peers.insert(address.to_owned(), silence);
            return None;
        };
        let lasted = now.saturating_duration_since(silence.since);
        let due = match silence.told_at {
            None => lasted >= TOLD_AFTER,
            Some(told_at) => now.saturating_duration_since(told_at) >= TOLD_EVERY,
        };
        due.then(|| {
            silence.told_at = Some(now);
            lasted
        })
    }

    /// There was an answer. `Some`: that there was none was said, and how long it lasted.
    pub(super) fn answered(&self, address: &str, now: Instant) -> Option<Duration> {
        let silence = self.peers().remove(address)?;
        silence
            .told_at
            .map(|_| now.saturating_duration_since(silence.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant serves as a start")]
    fn a_silence_is_told_once_a_minute_and_its_end_once() {
        let (silences, start) = (Silences::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        // Ten requests a second, for two minutes.
        let told: Vec<u64> = (0..1_200)
            .map(|nth| nth * 100)
            .filter(|ms| silences.failed("b:1", at(*ms)).is_some())
            .collect();
        assert_eq!(told, [2_000, 62_000]);
        assert_eq!(silences.failed("c:1", at(120_000)), None, "another one");
        let lasted = Some(Duration::from_secs(120));
        assert_eq!(silences.answered("b:1", at(120_000)), lasted);
        assert_eq!(silences.answered("b:1", at(120_001)), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant serves as a start")]
    fn a_moment_is_not_told() {
        let (silences, start) = (Silences::default(), Instant::now());
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(silences.failed("b:1", now), None);
            assert_eq!(silences.failed("b:1", now), None);
            assert_eq!(silences.answered("b:1", now), None);
        }
    }
}
