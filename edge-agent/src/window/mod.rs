//! What to send next, and what an answer means. No I/O and no clock: `now` is an argument, counted
//! from the keeper's start.
//!
//! Invariants: a lane is sent in number order; what is in flight is bounded in batches and bytes;
//! a batch leaves the buffer only on success, or on a "have" that fits the own chain. Names go
//! first, then live; backlog and older epochs have a guaranteed share.
//!
//! `link.rs` says how many bytes may be on their way and how long silence is borne, `courtesy.rs` how
//! many of the backlog beside live batches; `pace.rs` keeps the operator's cap, `hours.rs` the hours
//! of the backlog.

mod courtesy;
mod hours;
mod link;
mod pace;

use std::collections::BTreeMap;
use std::time::Duration;

use shared::batch::GapReason;
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::verdict::{Position, Verdict};

use crate::buffer::{Buffer, Place, RunToLoad, Sendable, Settled};
use courtesy::{Courtesy, Trip};
pub use hours::Hours;
use link::Link;
use pace::Pace;

/// How long a stream rests after an answer that makes no sense to it.
const PUZZLED: Duration = Duration::from_millis(200);
/// How long it rests when only an operator can help.
const HELPLESS: Duration = Duration::from_secs(5);
/// A server may ask for this much rest, not for more.
const REST_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowOptions {
    /// Batches in flight; also live batches that may be unacked before batches go to the backlog.
    pub batches_max: usize,
    /// Bytes in flight; one larger batch goes alone.
    pub bytes_max: usize,
    /// Of the batches sent while live ones wait: at least this share for all others.
    pub backlog_share_percent: u8,
    /// Of batches, live ones and repeats included; 0: no cap.
    pub bytes_per_second_max: u64,
    /// When backlog and older epochs are sent.
    pub backlog_hours: Hours,
}

/// A batch to publish; its answer is told with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub id: u64,
    pub place: Place,
    /// It was sent before.
    pub again: bool,
    /// The server takes no packet of its size: do not publish it, answer [`Verdict::Invalid`].
    pub too_large: bool,
}

/// What an answer did, and what the driver has to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub settled: Settled,
    pub alarm: Option<Alarm>,
    /// Refused for ever: keep its bytes aside, then call [`Window::give_up`].
    pub refused: Option<Place>,
    /// From sending to this success; not of the backlog.
    pub took: Option<Duration>,
}

/// What people should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Another chain than ours: the stream is stopped and its data are kept.
    Fork { epoch: Epoch, lane: Lane },
    /// The cluster does not let this agent publish to its topics.
    Topic { epoch: Epoch, lane: Lane },
    /// A gap record or a batch that is sound here was called invalid.
    Refused { epoch: Epoch, lane: Lane },
}

#[derive(Debug, Clone, Hash)]
pub struct Window {
    options: WindowOptions,
    connected: bool,
    streams: BTreeMap<(Epoch, Lane), Stream>,
    flights: BTreeMap<u64, Flight>,
    flight_bytes: usize,
    next_id: u64,
    /// What the backlog is owed, in hundredths of a batch.
    owed: u32,
    progress_at: Duration,
    link: Link,
    courtesy: Courtesy,
    pace: Pace,
    ceiling: Ceiling,
    unloaded: Option<RunToLoad>,
}

/// What the server is known to take no packet for.
#[derive(Debug, Clone, Hash, Default)]
struct Ceiling {
    /// Of a batch, in this session.
    bytes_max: Option<usize>,
    /// A session ended over it. With its bytes: the gap record that takes its place is another.
    refused: Option<(Place, usize)>,
}

impl Ceiling {
    fn forbids(&self, chosen: &Sendable) -> bool {
        let above = self.bytes_max.is_some_and(|max| chosen.bytes > max);
        above || self.refused == Some((chosen.place, chosen.bytes))
    }
}

/// One stream in this session.
#[derive(Debug, Clone, Copy, Hash)]
struct Stream {
    next: BatchNumber,
    /// Grows whenever the stream goes back; refusals of an earlier round are old news.
    round: u64,
    not_before: Duration,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Flight {
    place: Place,
    digest: Digest,
    round: u64,
    bytes: usize,
    /// Bytes on their way when it was sent, its own among them.
    ahead: usize,
    /// Of the backlog or an older epoch.
    can_wait: bool,
    sent_at: Duration,
}

impl Window {
    pub fn new(options: WindowOptions) -> Self {
        Window {
            options,
            connected: false,
            streams: BTreeMap::new(),
            flights: BTreeMap::new(),
            flight_bytes: 0,
            next_id: 0,
            owed: 0,
            progress_at: Duration::ZERO,
            link: Link::new(options.bytes_max),
            courtesy: Courtesy::new(),
            pace: Pace::new(options.bytes_per_second_max),
            ceiling: Ceiling::default(),
            unloaded: None,
        }
    }

    /// From here on; what is in flight stays there.
    pub fn use_options(&mut self, options: WindowOptions) {
        if options.bytes_per_second_max != self.options.bytes_per_second_max {
            self.pace = Pace::new(options.bytes_per_second_max);
        }
        self.link.use_bound(options.bytes_max);
        self.options = options;
    }

    /// A session began; CONNACK told these positions, and the largest batch that fits the server's
    /// packets if there is a bound. Positions move streams forward, never back.
    pub fn connected(
        &mut self,
        now: Duration,
        positions: &[(Epoch, Lane, Position)],
        batch_bytes_max: Option<usize>,
        buffer: &mut Buffer,
    ) -> Outcome {
        self.disconnected();
        self.connected = true;
        self.progress_at = now;
        self.ceiling.bytes_max = batch_bytes_max;
        self.link.begin(now);
        self.courtesy.begin(now);
        let mut outcome = Outcome::default();
        for (epoch, lane, position) in positions {
            buffer.stands_at(*epoch, *lane, position.last);
            if position.last > buffer.acked(*epoch, *lane).last {
                believe(buffer, *epoch, *lane, *position, &mut outcome);
            }
        }
        outcome
    }

    /// The session is over: nothing is known of what was in flight.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.streams.clear();
        self.flights.clear();
        self.flight_bytes = 0;
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// When the session has to be given up, unless something is answered before; `None` while
    /// nothing is in flight. See [`Window::gave_up`].
    pub fn answer_due(&self) -> Option<Duration> {
        let limit = self.link.answer_limit(self.flight_bytes);
        (!self.flights.is_empty()).then_some(self.progress_at + limit)
    }

    /// The session is given up because nothing was answered until [`Window::answer_due`]. Returns
    /// how long there was silence.
    pub fn gave_up(&mut self, now: Duration) -> Duration {
        let silence = now.saturating_sub(self.progress_at);
        self.link.silent(self.flight_bytes, silence);
        self.disconnected();
        silence
    }

    /// The server ended the session over the size of a packet: that of the largest batch in flight,
    /// if over any of them. It is not sent again.
    pub fn packet_refused(&mut self) {
        let largest = self.flights.values().max_by_key(|flight| flight.bytes);
        if let Some(flight) = largest {
            self.ceiling.refused = Some((flight.place, flight.bytes));
        }
        self.disconnected();
    }

    /// The keep alive to ask for in the next session: on a link that needs longer for a batch,
    /// longer than `configured`.
    pub fn keep_alive(&self, configured: Duration) -> Duration {
        self.link.keep_alive(configured)
    }

    /// What to publish now; `None` if nothing can be, or something is
    /// [not loaded](Window::unloaded). `wall` is the time of day.
    pub fn next(&mut self, now: Duration, wall: TimeNs, buffer: &mut Buffer) -> Option<Ticket> {
        let full = self.flights.len() >= self.options.batches_max;
        if !self.connected || full || self.pace.rests_until(now).is_some() {
            return None;
        }
        let chosen = self.choose(now, wall, buffer);
        let chosen = chosen.filter(|_| self.unloaded.is_none())?;
        let too_much = self.flight_bytes + chosen.bytes > self.link.bytes_allowed();
        if too_much && !self.flights.is_empty() {
            return None;
        }
        let too_large = self.ceiling.forbids(&chosen);
        if !too_large {
            self.pace.sent(now, chosen.bytes);
            self.link.sent(chosen.bytes);
        }
        let Place {
            epoch, lane, to, ..
        } = chosen.place;
        let can_wait = lane == Lane::Backlog || (lane == Lane::Live && epoch != buffer.epoch());
        if can_wait {
            self.courtesy.sent(chosen.bytes);
            self.pay(false);
        } else if lane == Lane::Live {
            self.courtesy.live_sent(now);
            self.pay(true);
        }
        let stream = self.stream(epoch, lane, buffer);
        let round = stream.round;
        stream.next = to.next();
        if self.flights.is_empty() {
            self.progress_at = now;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.flight_bytes += chosen.bytes;
        self.flights.insert(
            id,
            Flight {
                place: chosen.place,
                digest: chosen.digest,
                round,
                bytes: chosen.bytes,
                ahead: self.flight_bytes,
                can_wait,
                sent_at: now,
            },
        );
        let again = buffer.was_sent(chosen.place);
        if !too_large {
            buffer.sends(chosen.place);
        }
        Some(Ticket {
            id,
            place: chosen.place,
            again,
            too_large,
        })
    }

    /// What the buffer has to load before there is a next batch.
    pub fn unloaded(&mut self) -> Option<RunToLoad> {
        self.unloaded.take()
    }

    /// The stream of what is in flight.
    pub fn stream_of(&self, id: u64) -> Option<(Epoch, Lane)> {
        let place = self.flights.get(&id)?.place;
        Some((place.epoch, place.lane))
    }

    /// When a stream that rests may be sent again, or anything under the cap.
    pub fn wake_at(&self, now: Duration) -> Option<Duration> {
        let streams = self.streams.values().map(|stream| stream.not_before);
        let times = streams.chain(self.pace.rests_until(now));
        times.filter(|time| *time > now).min()
    }

    fn choose(&mut self, now: Duration, wall: TimeNs, buffer: &Buffer) -> Option<Sendable> {
        let current = buffer.epoch();
        let backlog = self.options.backlog_hours.contains(wall);
        let epochs: Vec<Epoch> = buffer
            .epochs()
            .filter(|epoch| backlog || *epoch == current)
            .collect();
        let names = epochs
            .iter()
            .find_map(|epoch| self.ready(now, *epoch, Lane::Names, buffer));
        if names.is_some() {
            return names;
        }
        let live = self.ready(now, current, Lane::Live, buffer);
        let share = u32::from(self.options.backlog_share_percent.min(100));
        if !backlog || (live.is_some() && self.owed < 100 - share) {
            return live;
        }
        let other = epochs.iter().find_map(|epoch| {
            let older = *epoch != current;
            let live = older
                .then(|| self.ready(now, *epoch, Lane::Live, buffer))
                .flatten();
            live.or_else(|| self.ready(now, *epoch, Lane::Backlog, buffer))
        });
        // What it is owed while live batches wait it gets.
        let other = other.filter(|one| live.is_some() || self.courtesy.lets(now, one.bytes));
        other.or(live)
    }

    fn pay(&mut self, live: bool) {
        let share = u32::from(self.options.backlog_share_percent.min(100));
        self.owed = if live {
            (self.owed + share).min(200)
        } else {
            self.owed.saturating_sub(100 - share)
        };
    }

    /// The next batch of a stream, if it may be sent now.
    fn ready(
        &mut self,
        now: Duration,
        epoch: Epoch,
        lane: Lane,
        buffer: &Buffer,
    ) -> Option<Sendable> {
        let stream = *self.stream(epoch, lane, buffer);
        if stream.not_before > now {
            return None;
        }
        let Some(sendable) = buffer.sendable(epoch, lane, stream.next) else {
            self.unloaded = self.unloaded.or(buffer.run_at(epoch, lane, stream.next));
            return None;
        };
        // Names that are still to be sent go first: behind them it would only be refused.
        let names_sent = |window: &mut Self| {
            window.stream(epoch, Lane::Names, buffer).next > sendable.names_needed
        };
        (lane == Lane::Names || names_sent(self)).then_some(sendable)
    }

    fn stream(&mut self, epoch: Epoch, lane: Lane, buffer: &Buffer) -> &mut Stream {
        self.streams.entry((epoch, lane)).or_insert_with(|| Stream {
            next: buffer.acked(epoch, lane).last.next(),
            round: 0,
            not_before: Duration::ZERO,
        })
    }

    /// Takes what was answered off its way.
    fn land(&mut self, now: Duration, id: u64, verdict: Verdict) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        self.flight_bytes -= flight.bytes;
        self.progress_at = now;
        // What is invalid may never have been on its way: it was damaged here, or too large.
        if verdict != Verdict::Invalid {
            self.link
                .answered(now, flight.sent_at, flight.bytes, flight.ahead);
        }
        let trip = Trip {
            sent_at: flight.sent_at,
            bytes: flight.bytes,
            ahead: flight.ahead,
            can_wait: flight.can_wait,
        };
        match verdict {
            Verdict::Ok => self.courtesy.answered(now, trip),
            _ => self.courtesy.landed(trip),
        }
        Some(flight)
    }

    /// The cluster answered. An id that is not in flight in this session is passed over.
    pub fn answered(
        &mut self,
        now: Duration,
        wall: TimeNs,
        id: u64,
        verdict: Verdict,
        buffer: &mut Buffer,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(flight) = self.land(now, id, verdict) else {
            return outcome;
        };
        let Place {
            epoch,
            lane,
            from,
            to,
        } = flight.place;
        match verdict {
            Verdict::Ok => {
                let position = Position {
                    last: to,
                    digest: flight.digest,
                };
                let took = now.saturating_sub(flight.sent_at);
                outcome.took = (lane != Lane::Backlog).then_some(took);
                outcome.settled = buffer.advance(epoch, lane, position);
                return outcome;
            }
            Verdict::Have(position) if position.last >= to => {
                if believe(buffer, epoch, lane, position, &mut outcome) {
                    let position = Position {
                        last: to,
                        digest: flight.digest,
                    };
                    outcome.settled.add(buffer.advance(epoch, lane, position));
                }
                return outcome;
            }
            _ => {}
        }
        if flight.round != self.stream(epoch, lane, buffer).round {
            return outcome;
        }
        match verdict {
            Verdict::Ok => {}
            Verdict::Have(_) => self.back(epoch, lane, from, now + PUZZLED, buffer),
            Verdict::Gap(position) => {
                self.gap(now, wall, flight.place, position, buffer, &mut outcome);
            }
            Verdict::Names(position) => {
                buffer.names_lost(epoch, position);
                self.back(epoch, Lane::Names, position.last.next(), now, buffer);
                let rest = if flight_needs_nothing(buffer, epoch, position) {
                    PUZZLED
                } else {
                    Duration::ZERO
                };
                self.back(epoch, lane, from, now + rest, buffer);
            }
            Verdict::Fork(_) => fork(buffer, epoch, lane, &mut outcome),
            Verdict::Busy { retry_ms } | Verdict::Quota { retry_ms } => {
                let rest = Duration::from_millis(u64::from(retry_ms)).min(REST_MAX);
                self.back(epoch, lane, from, now + rest, buffer);
            }
            Verdict::ForeignTopic | Verdict::BadTopic => {
                outcome.alarm = Some(Alarm::Topic { epoch, lane });
                self.back(epoch, lane, from, now + HELPLESS, buffer);
            }
            Verdict::Invalid => {
                outcome.refused = Some(flight.place);
                self.back(epoch, lane, from, now, buffer);
            }
        }
        outcome
    }

    /// A batch that was refused for ever is kept aside, or one is damaged on disk: a gap record
    /// takes its place.
    pub fn give_up(
        &mut self,
        now: Duration,
        wall: TimeNs,
        place: Place,
        reason: GapReason,
        buffer: &mut Buffer,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(settled) = buffer.give_up(place, reason, wall) {
            outcome.settled = settled;
        } else {
            let Place {
                epoch, lane, from, ..
            } = place;
            outcome.alarm = Some(Alarm::Refused { epoch, lane });
            self.back(epoch, lane, from, now + HELPLESS, buffer);
        }
        outcome
    }

    fn gap(
        &mut self,
        now: Duration,
        wall: TimeNs,
        place: Place,
        position: Position,
        buffer: &mut Buffer,
        outcome: &mut Outcome,
    ) {
        let Place {
            epoch, lane, from, ..
        } = place;
        let acked = buffer.acked(epoch, lane).last;
        if position.last > acked {
            if !believe(buffer, epoch, lane, position, outcome) {
                return;
            }
        } else if lane == Lane::Names {
            buffer.names_lost(epoch, position);
        } else {
            let known = buffer.digest_at(epoch, lane, position.last);
            if known.is_some_and(|known| known != position.digest) {
                return fork(buffer, epoch, lane, outcome);
            }
            outcome
                .settled
                .add(buffer.restored(epoch, lane, position, now, wall));
        }
        // Nothing that is held is missing before it, and yet it is refused: not at once again.
        let next = position.last.next();
        let is_next = |sendable: Sendable| sendable.place.from >= from;
        let rest = if next >= from || buffer.sendable(epoch, lane, next).is_some_and(is_next) {
            PUZZLED
        } else {
            Duration::ZERO
        };
        self.back(epoch, lane, next, now + rest, buffer);
    }

    fn back(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        next: BatchNumber,
        not_before: Duration,
        buffer: &Buffer,
    ) {
        let stream = self.stream(epoch, lane, buffer);
        stream.next = next;
        stream.round += 1;
        stream.not_before = not_before;
    }
}

/// Whether the cluster has all names there are, and yet asks for some.
fn flight_needs_nothing(buffer: &Buffer, epoch: Epoch, position: Position) -> bool {
    position.last >= buffer.sealed(epoch, Lane::Names).last
}

/// Takes what the cluster says it has if it fits the own chain; else it is a fork, and stays one
/// whatever the other writer adds.
fn believe(
    buffer: &mut Buffer,
    epoch: Epoch,
    lane: Lane,
    position: Position,
    outcome: &mut Outcome,
) -> bool {
    if buffer.is_stopped(epoch, lane) {
        return false;
    }
    let known = buffer.digest_at(epoch, lane, position.last);
    let beyond = position.last > buffer.sealed(epoch, lane).last;
    let fits = match known {
        Some(own) => own == position.digest,
        None => !(beyond && buffer.knows_all_of(epoch)),
    };
    if fits {
        if known.is_some() || beyond {
            outcome.settled.add(buffer.advance(epoch, lane, position));
        }
    } else {
        fork(buffer, epoch, lane, outcome);
    }
    fits
}

fn fork(buffer: &mut Buffer, epoch: Epoch, lane: Lane, outcome: &mut Outcome) {
    buffer.fork(epoch, lane);
    outcome.alarm = Some(Alarm::Fork { epoch, lane });
}

#[cfg(test)]
mod tests;
