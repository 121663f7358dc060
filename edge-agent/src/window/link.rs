//! What the link to the cluster carries: how much may be on its way at once, and how long its
//! silence is borne. No clock: `now` is an argument.
//!
//! A link of 2 KB/s takes minutes for what another takes in a blink. So a session begins with
//! little on its way and takes more while answers come soon; and it is given up only after several
//! times what the link, as far as it was measured, needs for what is on its way.

use std::time::Duration;

/// What a session begins with, and less than a batch: one may always be on its way.
pub(super) const START_BYTES: usize = 16 << 10;
/// It never falls below this; a larger batch goes alone.
const BYTES_MIN: usize = 4 << 10;
/// Answers that come sooner let more onto the way.
const SOON: Duration = Duration::from_secs(3);
/// Answers that come later let less: it only waits in a queue, with all that is live behind it.
const LATE: Duration = Duration::from_secs(6);
/// Fewer bytes say more of the round trip than of the link: they may show that it carries more than
/// was thought, and no more.
const MEASURE_BYTES_MIN: usize = 8 << 10;
/// How long any answer is waited for. The cluster itself gives a batch up after as long.
const ANSWER_LIMIT_MIN: Duration = Duration::from_secs(10);
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(600);
/// How many times as long as expected an answer may take on top of that.
const MARGIN: u32 = 3;

#[derive(Debug, Clone, Hash)]
pub(super) struct Link {
    /// Of what is on its way, as configured.
    bytes_max: usize,
    /// The same, in this session and as things are.
    bytes_allowed: usize,
    /// What passes in a second; `None` before anything did.
    bytes_per_second: Option<u64>,
    /// The largest batch that was sent.
    largest_bytes: usize,
    /// Answers to what was sent before this say nothing new.
    shrunk_at: Duration,
    /// The last session got no answer to what was on its way.
    silent: bool,
}

impl Link {
    pub(super) fn new(bytes_max: usize) -> Link {
        Link {
            bytes_max,
            bytes_allowed: START_BYTES.min(bytes_max),
            bytes_per_second: None,
            largest_bytes: 0,
            shrunk_at: Duration::ZERO,
            silent: false,
        }
    }

    /// A session begins.
    pub(super) fn begin(&mut self, now: Duration) {
        let start = if self.silent { BYTES_MIN } else { START_BYTES };
        self.bytes_allowed = start.min(self.bytes_max);
        self.shrunk_at = now;
    }

    /// Another bound was configured.
    pub(super) fn use_bound(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.bytes_allowed = self.bytes_allowed.min(bytes_max);
    }

    /// Bytes that may be on their way now.
    pub(super) fn bytes_allowed(&self) -> usize {
        self.bytes_allowed
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.largest_bytes = self.largest_bytes.max(bytes);
    }

    /// A batch of `bytes` was answered that was sent at `sent_at`, when `ahead` bytes were on their
    /// way, its own among them: so these passed since.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        sent_at: Duration,
        bytes: usize,
        ahead: usize,
    ) {
        self.silent = false;
        let took = now.saturating_sub(sent_at);
        self.measure(ahead, took);
        // What is not used says nothing of what the link would bear.
        let used = ahead * 2 >= self.bytes_allowed;
        if took <= SOON && used {
            self.bytes_allowed = (self.bytes_allowed + bytes).min(self.bytes_max);
        } else if took > LATE && sent_at >= self.shrunk_at {
            self.bytes_allowed = (self.bytes_allowed / 2).max(BYTES_MIN.min(self.bytes_max));
            self.shrunk_at = now;
        }
    }

    fn measure(&mut self, bytes: usize, took: Duration) {
        let rate = rate(bytes, took);
        self.bytes_per_second = match self.bytes_per_second {
            Some(known) if rate >= known => Some(rate),
            Some(known) if bytes >= MEASURE_BYTES_MIN => Some((known / 4 * 3 + rate / 4).max(1)),
            Some(known) => Some(known),
            None => (bytes >= MEASURE_BYTES_MIN).then_some(rate),
        };
    }

    /// Nothing was answered for `silence` while `bytes` were on their way. Either nobody is there,
    /// or the link carries less than was thought: next time there is more patience.
    pub(super) fn silent(&mut self, bytes: usize, silence: Duration) {
        self.silent = true;
        let at_most = (rate(bytes, silence) / 2).max(1);
        let known = self.bytes_per_second.unwrap_or(at_most);
        self.bytes_per_second = Some(known.min(at_most));
    }

    /// How long an answer may take while `bytes` are on their way.
    pub(super) fn answer_limit(&self, bytes: usize) -> Duration {
        let margin = self.expected(bytes).saturating_mul(MARGIN);
        ANSWER_LIMIT_MIN
            .saturating_add(margin)
            .min(ANSWER_LIMIT_MAX)
    }

    /// The keep alive for the next session. A ping stands behind what is on its way, and the client
    /// gives a session up when one is not answered within another keep alive.
    pub(super) fn keep_alive(&self, configured: Duration) -> Duration {
        let needed = self.expected(self.largest_bytes).saturating_mul(2);
        configured.max(needed.min(ANSWER_LIMIT_MAX))
    }

    /// What the link needs for so much; nothing, before anything was measured.
    fn expected(&self, bytes: usize) -> Duration {
        self.bytes_per_second
            .map_or(Duration::ZERO, |bytes_per_second| {
                let ms = (bytes as u64).saturating_mul(1_000) / bytes_per_second;
                Duration::from_millis(ms)
            })
    }
}

/// Bytes a second, at least 1.
fn rate(bytes: usize, took: Duration) -> u64 {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    ((bytes as u64).saturating_mul(1_000) / took_ms).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sends batches of `bytes` for as many round trips, each of which takes `trip`.
    fn trips(link: &mut Link, count: u32, trip: Duration, bytes: usize) {
        for nth in 0..count {
            let sent_at = trip * nth;
            let batches = (link.bytes_allowed() / bytes).max(1);
            for batch in 1..=batches {
                link.sent(bytes);
                link.answered(sent_at + trip, sent_at, bytes, batch * bytes);
            }
        }
    }

    #[test]
    fn a_quick_link_is_filled_in_a_few_round_trips_and_a_slow_one_is_not() {
        let mut link = Link::new(2 << 20);
        link.begin(Duration::ZERO);
        assert_eq!(link.bytes_allowed(), START_BYTES);
        trips(&mut link, 15, SECOND / 10, 4 << 10);
        assert_eq!(link.bytes_allowed(), 2 << 20);
        link.begin(SECOND * 10);
        assert_eq!(link.bytes_allowed(), START_BYTES, "each session anew");
        trips(&mut link, 10, SECOND * 8, 2 << 10);
        assert_eq!(link.bytes_allowed(), BYTES_MIN);
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let mut link = Link::new(2 << 20);
        link.begin(Duration::ZERO);
        for _ in 0..1_000 {
            link.answered(SECOND, SECOND / 2, 500, 500);
        }
        assert_eq!(link.bytes_allowed(), START_BYTES);
    }

    #[test]
    fn a_bound_below_the_start_holds() {
        let mut link = Link::new(1_000);
        link.begin(Duration::ZERO);
        trips(&mut link, 5, SECOND, 400);
        assert_eq!(link.bytes_allowed(), 1_000);
        trips(&mut link, 5, SECOND * 8, 400);
        assert_eq!(link.bytes_allowed(), 1_000);
    }

    #[test]
    fn patience_follows_what_is_on_its_way_and_what_the_link_carries() {
        let mut link = Link::new(2 << 20);
        link.answered(SECOND, Duration::ZERO, 100, 100);
        assert_eq!(link.answer_limit(1 << 20), ANSWER_LIMIT_MIN);
        assert_eq!(link.keep_alive(SECOND * 20), SECOND * 20);
        // 2,000 bytes a second.
        link.sent(20_000);
        link.answered(SECOND * 10, Duration::ZERO, 20_000, 20_000);
        assert_eq!(link.answer_limit(2_000), SECOND * 13);
        assert_eq!(link.answer_limit(100_000), SECOND * 160);
        assert_eq!(link.answer_limit(10 << 20), ANSWER_LIMIT_MAX);
        assert_eq!(link.keep_alive(SECOND * 5), SECOND * 20);
        assert_eq!(link.keep_alive(SECOND * 60), SECOND * 60);
        // A small batch that waits for its round trip does not slow the measure; a quick one, and
        // a large slow one, change it.
        link.answered(SECOND * 10, SECOND * 9, 100, 100);
        assert_eq!(link.answer_limit(2_000), SECOND * 13);
        link.answered(SECOND * 10, SECOND * 9, 20_000, 20_000);
        assert_eq!(link.answer_limit(20_000), SECOND * 13);
        link.answered(SECOND * 30, SECOND * 10, 20_000, 20_000);
        assert!(link.answer_limit(20_000) > SECOND * 13);
    }

    #[test]
    fn after_each_silent_session_there_is_more_patience_until_one_is_answered() {
        let mut link = Link::new(2 << 20);
        // 256 KiB at 2,000 bytes a second.
        let (bytes, needs) = (256 << 10, SECOND * 131);
        let mut sessions = 0;
        while link.answer_limit(bytes) < needs {
            let limit = link.answer_limit(bytes);
            link.silent(bytes, limit);
            link.begin(SECOND);
            assert_eq!(link.bytes_allowed(), BYTES_MIN);
            // What is small and live gets through meanwhile, and does not undo it.
            link.answered(SECOND * 3, SECOND, 1_000, 1_000);
            sessions += 1;
        }
        assert!(sessions <= 3, "{sessions}");
        link.answered(needs, Duration::ZERO, bytes, bytes);
        assert!(link.answer_limit(bytes) > needs * 2);
        // Once the link is good again, so is the limit.
        link.answered(SECOND * 2, SECOND, 64 << 10, 64 << 10);
        assert_eq!(link.answer_limit(64 << 10), SECOND * 13);
    }
}
