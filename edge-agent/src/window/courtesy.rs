//! How much of the backlog may be on its way while live batches go beside it: what queues up before
//! them makes them late. No clock: `now` is an argument.
//!
//! A trip that takes longer than one on an empty way tells of a queue long before anything is lost,
//! so that what can wait gets out of the way of what cannot. The idea is that of LEDBAT (RFC 6817);
//! what is compared with is a usual trip, not the quickest one ever: answers wait for disks.

use std::time::Duration;

use super::link::START_BYTES;

/// So long after the last live batch the way belongs to the backlog alone.
const LIVE_RECENT: Duration = Duration::from_secs(10);
const BYTES_MIN: usize = 1 << 10;
/// How much longer than on an empty way a trip may take: a quarter, and what a busy machine needs to
/// look.
const SLACK: Duration = Duration::from_micros(500);
/// A trip counts for so much of what is known of trips.
const GAIN: u32 = 8;

#[derive(Debug, Clone, Hash)]
pub(super) struct Courtesy {
    live_at: Option<Duration>,
    /// What a trip usually takes when nothing else is on its way.
    alone: Option<Duration>,
    /// Of the backlog, on its way.
    bytes: usize,
    bytes_allowed: usize,
    /// No queue was seen in this session.
    doubling: bool,
    /// Answers to what was sent before this say nothing new.
    shrunk_at: Duration,
}

/// A batch that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trip {
    pub(super) sent_at: Duration,
    pub(super) bytes: usize,
    /// Bytes on their way when it was sent, its own among them.
    pub(super) ahead: usize,
    pub(super) can_wait: bool,
}

impl Courtesy {
    pub(super) fn new() -> Courtesy {
        Courtesy {
            live_at: None,
            alone: None,
            bytes: 0,
            bytes_allowed: START_BYTES,
            doubling: true,
            shrunk_at: Duration::ZERO,
        }
    }

    /// A session begins: nothing is on its way.
    pub(super) fn begin(&mut self, now: Duration) {
        self.bytes = 0;
        self.bytes_allowed = START_BYTES;
        self.doubling = true;
        self.shrunk_at = now;
    }

    pub(super) fn live_sent(&mut self, now: Duration) {
        self.live_at = Some(now);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Whether so many bytes more of the backlog may go.
    pub(super) fn lets(&self, now: Duration, bytes: usize) -> bool {
        self.bytes == 0 || !self.is_due(now) || self.bytes + bytes <= self.bytes_allowed
    }

    fn is_due(&self, now: Duration) -> bool {
        self.live_at
            .is_some_and(|at| now.saturating_sub(at) < LIVE_RECENT)
    }

    /// It is on its way no more, and nothing is said of the way: it was refused.
    pub(super) fn landed(&mut self, trip: Trip) {
        if trip.can_wait {
            self.bytes -= trip.bytes;
        }
    }

    /// It was taken.
    pub(super) fn answered(&mut self, now: Duration, trip: Trip) {
        let took = now.saturating_sub(trip.sent_at);
        let was_full = self.bytes * 2 >= self.bytes_allowed;
        self.landed(trip);
        self.learn(took, trip.ahead == trip.bytes);
        if !self.is_due(now) {
            return;
        }
        if took <= self.limit() {
            if trip.can_wait && was_full {
                self.grow(trip.bytes);
            }
        } else if trip.sent_at >= self.shrunk_at && self.bytes > 0 {
            self.bytes_allowed = (self.bytes_allowed / 2).max(BYTES_MIN);
            self.doubling = false;
            self.shrunk_at = now;
        }
    }

    /// By as much as was answered, and later by a batch for all that is on its way.
    fn grow(&mut self, bytes: usize) {
        let share = if self.doubling {
            bytes
        } else {
            let square = bytes as u64 * bytes as u64 / self.bytes_allowed as u64;
            usize::try_from(square).map_or(bytes, |share| share.clamp(1, bytes))
        };
        self.bytes_allowed = self.bytes_allowed.saturating_add(share);
    }

    /// A trip on an empty way tells how long that takes, and any trip that it takes no longer.
    fn learn(&mut self, took: Duration, alone: bool) {
        self.alone = match self.alone {
            Some(known) if alone || took < known => Some(known * (GAIN - 1) / GAIN + took / GAIN),
            None if alone => Some(took),
            known => known,
        };
    }

    fn limit(&self) -> Duration {
        self.alone
            .map_or(Duration::MAX, |alone| alone * 5 / 4 + SLACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 16 << 10;
    const MS: Duration = Duration::from_millis(1);

    /// A way that carries one batch of the backlog in `each`, one after the other, and any in `trip`.
    struct Way {
        courtesy: Courtesy,
        now: Duration,
        trip: Duration,
        each: Duration,
        under_way: Vec<(Duration, Trip)>,
        most: usize,
    }

    impl Way {
        fn new(trip: Duration, each: Duration) -> Way {
            let mut way = Way {
                courtesy: Courtesy::new(),
                now: Duration::ZERO,
                trip,
                each,
                under_way: Vec::new(),
                most: 0,
            };
            way.courtesy.live_sent(Duration::ZERO);
            way.courtesy
                .answered(trip, of(Duration::ZERO, 100, 100, false));
            way
        }

        /// As long as that: all that may go goes, all that is through is answered.
        fn run(&mut self, length: Duration, live: bool) -> usize {
            let (end, mut through, mut free_at) = (self.now + length, 0, self.now);
            while self.now < end {
                self.now += MS / 4;
                if live {
                    self.courtesy.live_sent(self.now);
                }
                while self.under_way.len() < 64 && self.courtesy.lets(self.now, BATCH) {
                    self.courtesy.sent(BATCH);
                    let ahead = (self.under_way.len() + 1) * BATCH;
                    free_at = free_at.max(self.now) + self.each;
                    let trip = of(self.now, BATCH, ahead, true);
                    self.under_way.push((free_at + self.trip, trip));
                    self.most = self.most.max(self.under_way.len());
                }
                while self.under_way.first().is_some_and(|one| one.0 <= self.now) {
                    let (_, trip) = self.under_way.remove(0);
                    self.courtesy.answered(self.now, trip);
                    through += 1;
                }
            }
            through
        }
    }

    fn of(sent_at: Duration, bytes: usize, ahead: usize, can_wait: bool) -> Trip {
        Trip {
            sent_at,
            bytes,
            ahead,
            can_wait,
        }
    }

    #[test]
    fn beside_live_batches_no_queue_builds_up_and_the_way_is_used() {
        let mut way = Way::new(MS * 50, MS);
        let through = way.run(Duration::from_secs(20), true);
        // 50 fill the way.
        assert!(through > 12_000, "{through}");
        way.most = 0;
        way.run(Duration::from_secs(5), true);
        assert!((30..=64).contains(&way.most), "{}", way.most);
    }

    #[test]
    fn a_batch_is_always_let_and_on_a_slow_way_hardly_more() {
        let mut way = Way::new(MS, MS * 4);
        way.run(Duration::from_secs(1), true);
        way.most = 0;
        let through = way.run(Duration::from_secs(1), true);
        assert!(through > 150, "{through}");
        assert!(way.most <= 2, "{}", way.most);
    }

    #[test]
    fn without_live_batches_the_way_is_filled() {
        let mut way = Way::new(MS, MS * 4);
        way.run(Duration::from_secs(1), true);
        way.run(Duration::from_secs(20), false);
        assert_eq!(way.most, 64);
    }

    #[test]
    fn what_is_refused_leaves_the_way_and_says_nothing_of_it() {
        let mut courtesy = Courtesy::new();
        courtesy.live_sent(Duration::ZERO);
        courtesy.sent(BATCH);
        assert!(!courtesy.lets(Duration::ZERO, BATCH));
        courtesy.landed(of(Duration::ZERO, BATCH, BATCH, true));
        assert!(courtesy.lets(Duration::ZERO, BATCH));
        assert_eq!(courtesy.alone, None);
    }

    #[test]
    fn another_way_is_learned_if_it_is_longer_and_if_it_is_shorter() {
        let mut courtesy = Courtesy::new();
        let mut usual = |took: Duration, ahead: usize| {
            for _ in 0..60 {
                courtesy.answered(took, of(Duration::ZERO, 100, ahead, false));
            }
            courtesy.alone.unwrap()
        };
        assert_eq!(usual(MS, 100), MS);
        assert_eq!(usual(MS * 90, 200), MS, "others were on their way too");
        assert!(usual(MS * 90, 100) > MS * 80);
        assert!(usual(MS, 200) < MS * 2);
    }
}
