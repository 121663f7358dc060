//! What waits for the log: submissions that were handed in, gathered into commands, proposed, and
//! kept until this node's own state answers them. No I/O, no clock: `propose` drives it.
//!
//! Invariants: submissions go out in the order they came; what is numbered may be proposed any
//! number of times, because applying it twice is applying it once; lines are proposed a second
//! time only where the first proposal cannot be in any log. Everything is answered: by apply, as
//! unknown at its deadline, or as to be sent again by a leader whose log has no room.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::limits::BATCH_DECODED_RATIO;

use crate::state::command::{Command, Payload, SUBMISSIONS_MAX, Submission};

/// Bytes of one command's submissions: what one group commit carries at most.
pub(super) const COMMAND_BYTES_MAX: usize = 2 << 20;
/// What decoding one command takes at most, in the prices of the format, so that applying it does
/// not hold up the next for long: a few bytes may be thousands of series. Batches that pay for what
/// they decode to are bounded by their bytes alone.
pub(super) const COMMAND_DECODED_BYTES_MAX: usize = COMMAND_BYTES_MAX * BATCH_DECODED_RATIO;
/// Commands on their way to the log. More would only make the gathered ones smaller.
pub(super) const FLIGHTS_MAX: usize = 4;
/// A command without an outcome is proposed again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// One that the leader took, after this long: a slow disk is not helped by a second copy.
const AGAIN_AFTER_TAKEN: Duration = Duration::from_secs(8);
/// One that was refused or lost, after this long.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);

/// A term and who leads in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leadership {
    pub(super) term: u64,
    pub(super) leader: u64,
}

/// A command to be proposed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) id: ProposalId,
    pub(super) command: Bytes,
}

/// Which proposal of which flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProposalId {
    flight: u64,
    pub(super) under: Leadership,
    /// Lines are in it, too.
    whole: bool,
}

/// What became of a proposal, as far as its sender can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// The leader has it; apply will tell.
    Taken,
    /// It is in no log and never will be.
    Refused,
    /// As refused, because the leader's log has no room for submissions now.
    Full,
    /// Nobody knows.
    Lost,
}

pub(super) struct Outbox {
    waiting: VecDeque<Waiting>,
    flights: VecDeque<Flight>,
    flight_next: u64,
    leadership: Option<Leadership>,
}

struct Waiting {
    submission: Submission,
    decoded_bytes: usize,
    deadline: Instant,
}

struct Flight {
    number: u64,
    /// What is not answered yet.
    submissions: VecDeque<Waiting>,
    /// When it is to be proposed again, unless all of it is answered by then; `None`: at once.
    due_at: Option<Instant>,
    /// Under whom its last proposal is on its way, or was taken.
    under: Option<Leadership>,
    /// Proposals of all of it that nobody refused: any of them may be in some log.
    unrefused: u32,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            waiting: VecDeque::new(),
            flights: VecDeque::new(),
            flight_next: 0,
            leadership: None,
        }
    }

    pub(super) fn push(&mut self, submission: Submission, decoded_bytes: usize, deadline: Instant) {
        self.waiting.push_back(Waiting {
            submission,
            decoded_bytes,
            deadline,
        });
    }

    /// Who leads now. With another leader, or in a new term, everything is proposed again, in order.
    pub(super) fn lead(&mut self, leadership: Option<Leadership>) {
        if self.leadership == leadership {
            return;
        }
        self.leadership = leadership;
        for flight in &mut self.flights {
            flight.due_at = None;
        }
    }

    /// The next command to propose, oldest first.
    pub(super) fn next(&mut self, now: Instant) -> Option<Proposal> {
        let leadership = self.leadership?;
        self.flights.retain(|flight| !flight.submissions.is_empty());
        let due = |flight: &Flight| flight.due_at.is_none_or(|at| at <= now);
        // Refused or lost a moment ago: what came later must not overtake it.
        let pauses = |flight: &Flight| flight.under.is_none() && !due(flight);
        let nth = self
            .flights
            .iter()
            .position(|flight| flight.has_proposable() && (due(flight) || pauses(flight)));
        let nth = match nth {
            Some(nth) if pauses(&self.flights[nth]) => return None,
            Some(nth) => nth,
            None => self.gather(leadership)?,
        };
        let flight = &mut self.flights[nth];
        let command = flight.command();
        let whole = flight.unrefused == 0;
        flight.due_at = Some(now + AGAIN_AFTER);
        flight.under = Some(leadership);
        flight.unrefused += u32::from(whole);
        let id = ProposalId {
            flight: flight.number,
            under: leadership,
            whole,
        };
        Some(Proposal { id, command })
    }

    /// Makes a flight of what waits.
    fn gather(&mut self, leadership: Leadership) -> Option<usize> {
        // Lines whose proposal was lost only wait for apply or their deadline: they hold up nobody.
        let flying = |flight: &&Flight| flight.under == Some(leadership) || flight.has_proposable();
        let flying = self.flights.iter().filter(flying).count();
        if self.waiting.is_empty() || flying >= FLIGHTS_MAX {
            return None;
        }
        let (mut count, mut bytes, mut decoded_bytes) = (0, 0, 0);
        for waiting in self.waiting.iter().take(SUBMISSIONS_MAX) {
            bytes += waiting.submission.bytes();
            decoded_bytes += waiting.decoded_bytes;
            let full = bytes > COMMAND_BYTES_MAX || decoded_bytes > COMMAND_DECODED_BYTES_MAX;
            if count > 0 && full {
                break;
            }
            count += 1;
        }
        self.flights.push_back(Flight {
            number: self.flight_next,
            submissions: self.waiting.drain(..count).collect(),
            due_at: None,
            under: None,
            unrefused: 0,
        });
        self.flight_next += 1;
        Some(self.flights.len() - 1)
    }

    /// A proposal ended so. Returns the tickets that are to be sent again later: of a full log, all
    /// of the flight.
    pub(super) fn sent(&mut self, id: ProposalId, sent: Sent, now: Instant) -> Vec<u64> {
        let is_it = |one: &Flight| one.number == id.flight;
        let Some(at) = self.flights.iter().position(is_it) else {
            return Vec::new();
        };
        if sent == Sent::Full {
            let flight = self.flights.remove(at).into_iter();
            let submissions = flight.flat_map(|flight| flight.submissions);
            return submissions
                .map(|one| one.submission.origin.ticket)
                .collect();
        }
        let flight = &mut self.flights[at];
        if sent == Sent::Refused && id.whole {
            flight.unrefused -= 1;
        }
        // What a leader of before said is old news: another has been given it, or will be at once.
        if flight.under == Some(id.under) && flight.due_at.is_some() {
            match sent {
                Sent::Taken => flight.due_at = Some(now + AGAIN_AFTER_TAKEN),
                // Whoever refused or vanished needs a moment.
                _ => {
                    flight.due_at = Some(now + AGAIN_PAUSE);
                    flight.under = None;
                }
            }
        }
        Vec::new()
    }

    /// The submission was applied. `false`: it was answered before.
    pub(super) fn applied(&mut self, ticket: u64) -> bool {
        for flight in &mut self.flights {
            let found = flight
                .submissions
                .iter()
                .position(|one| one.submission.origin.ticket == ticket);
            if let Some(at) = found {
                // In order within a command, so the first, nearly always.
                flight.submissions.remove(at);
                return true;
            }
        }
        false
    }

    /// Takes out what is past its deadline: their tickets. Each may be in the log, or not.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut expired = Vec::new();
        let flights = self
            .flights
            .iter_mut()
            .map(|flight| &mut flight.submissions);
        for queue in flights.chain([&mut self.waiting]) {
            // Deadlines are given in order: the first that is not late ends the search.
            while let Some(late) = queue.pop_front_if(|one| one.deadline <= now) {
                expired.push(late.submission.origin.ticket);
            }
        }
        self.flights.retain(|flight| !flight.submissions.is_empty());
        expired
    }

    /// When to look again though nothing happened.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        // Only what can be proposed: lines that may be in a log wait for apply or their deadline.
        let mut again = None;
        for flight in self.flights.iter().filter(|one| one.has_proposable()) {
            again = [again, flight.due_at].into_iter().flatten().min();
            // What is behind a pause is held up by it, due or not: waking for it would be in vain,
            // over and over until the pause ends.
            if flight.under.is_none() && flight.due_at.is_some() {
                break;
            }
        }
        // The oldest of each queue: deadlines are given in order.
        let oldest = self.flights.iter().map(|flight| flight.submissions.front());
        let oldest = oldest.chain([self.waiting.front()]).flatten();
        let deadline = oldest.map(|one| one.deadline).min();
        [again, deadline].into_iter().flatten().min()
    }
}

impl Flight {
    fn has_proposable(&self) -> bool {
        let batch = |one: &Waiting| matches!(one.submission.payload, Payload::Batch(_));
        self.unrefused == 0 || self.submissions.iter().any(batch)
    }

    fn command(&self) -> Bytes {
        let once_only = |one: &&Waiting| {
            self.unrefused == 0 || matches!(one.submission.payload, Payload::Batch(_))
        };
        let submissions = self.submissions.iter().filter(once_only);
        Command::Submissions(submissions.map(|one| one.submission.clone()).collect()).encode()
    }
}

#[cfg(test)]
mod tests {
    use shared::id::{AgentId, TimeNs};

    use super::*;
    use crate::state::command::Origin;

    const A: Leadership = Leadership { term: 1, leader: 1 };
    const B: Leadership = Leadership { term: 2, leader: 2 };

    #[expect(clippy::disallowed_methods, reason = "any instant serves as a start")]
    fn start() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn submission(ticket: u64, payload: Payload) -> Submission {
        Submission {
            origin: Origin { boot: 1, ticket },
            agent: AgentId::parse("gw1").unwrap(),
            received: TimeNs(0),
            payload,
        }
    }

    fn batch(ticket: u64) -> Submission {
        submission(ticket, Payload::Batch(Bytes::from(vec![0; 1_000_000])))
    }

    fn lines(ticket: u64) -> Submission {
        submission(ticket, Payload::Lines(Bytes::from_static(b"x y=1")))
    }

    fn tickets(proposal: &Proposal) -> Vec<u64> {
        match Command::decode(&proposal.command).unwrap() {
            Command::Submissions(all) => all.iter().map(|one| one.origin.ticket).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn filled(count: u64, now: Instant) -> Outbox {
        let mut outbox = Outbox::new();
        for ticket in 0..count {
            outbox.push(batch(ticket), 0, now + Duration::from_secs(10));
        }
        outbox
    }

    #[test]
    fn commands_are_bounded_in_bytes_and_in_number_and_in_order() {
        let now = start();
        let mut outbox = filled(20, now);
        assert_eq!(outbox.next(now), None, "nobody leads");
        outbox.lead(Some(A));
        let mut seen = Vec::new();
        let mut commands = 0;
        while let Some(proposal) = outbox.next(now) {
            seen.extend(tickets(&proposal));
            commands += 1;
        }
        assert_eq!(commands, FLIGHTS_MAX);
        assert!(seen.iter().copied().eq(0..seen.len() as u64), "{seen:?}");
        for ticket in seen.clone() {
            assert!(outbox.applied(ticket));
            assert!(!outbox.applied(ticket), "answered once");
        }
        assert_eq!(tickets(&outbox.next(now).unwrap())[0], seen.len() as u64);
    }

    #[test]
    fn a_command_is_bounded_in_what_it_decodes_to() {
        let now = start();
        let mut outbox = Outbox::new();
        let tiny = |ticket| submission(ticket, Payload::Batch(Bytes::from_static(b"tiny")));
        for ticket in 0..100 {
            outbox.push(tiny(ticket), 1 << 20, now + Duration::from_secs(10));
        }
        outbox.push(tiny(100), usize::MAX / 2, now + Duration::from_secs(10));
        outbox.lead(Some(A));
        let sizes: Vec<usize> = std::iter::from_fn(|| outbox.next(now))
            .map(|proposal| tickets(&proposal).len())
            .collect();
        assert_eq!(sizes, [32, 32, 32, 4]);
        (0..100).for_each(|ticket| assert!(outbox.applied(ticket)));
        assert_eq!(tickets(&outbox.next(now).unwrap()), [100], "alone");
    }

    #[test]
    fn a_new_leader_is_given_everything_that_is_open_in_order() {
        let now = start();
        let mut outbox = filled(4, now);
        outbox.lead(Some(A));
        let first = tickets(&outbox.next(now).unwrap());
        let second = tickets(&outbox.next(now).unwrap());
        outbox.applied(first[0]);
        outbox.lead(None);
        assert_eq!(outbox.next(now), None);
        outbox.lead(Some(B));
        let again = outbox.next(now).unwrap();
        assert_eq!((again.id.under, tickets(&again)), (B, first[1..].to_vec()));
        assert_eq!(tickets(&outbox.next(now).unwrap()), second);
    }

    #[test]
    fn lines_are_not_proposed_twice_unless_the_first_was_refused() {
        let now = start();
        let mut outbox = Outbox::new();
        outbox.push(lines(0), 0, now + Duration::from_secs(10));
        outbox.push(batch(1), 0, now + Duration::from_secs(10));
        outbox.lead(Some(A));
        let proposal = outbox.next(now).unwrap();
        assert_eq!(tickets(&proposal), [0, 1]);
        outbox.sent(proposal.id, Sent::Refused, now);
        let later = now + Duration::from_millis(200);
        let proposal = outbox.next(later).unwrap();
        assert_eq!(tickets(&proposal), [0, 1], "refused: surely in no log");
        outbox.sent(proposal.id, Sent::Lost, later);
        let later = later + Duration::from_millis(200);
        assert_eq!(tickets(&outbox.next(later).unwrap()), [1]);
        outbox.applied(1);
        outbox.lead(Some(B));
        assert_eq!(
            outbox.next(later),
            None,
            "only apply or time answers lines now"
        );
        assert_eq!(outbox.expire(now + Duration::from_secs(11)), [0]);
    }

    #[test]
    fn a_full_log_hands_everything_of_a_command_back_once() {
        let now = start();
        let mut outbox = Outbox::new();
        outbox.push(batch(0), 0, now + Duration::from_secs(10));
        outbox.push(lines(1), 0, now + Duration::from_secs(10));
        outbox.lead(Some(A));
        let lost = outbox.next(now).unwrap();
        assert_eq!(outbox.sent(lost.id, Sent::Lost, now), [0_u64; 0]);
        let later = now + Duration::from_secs(1);
        let again = outbox.next(later).unwrap();
        assert_eq!(tickets(&again), [0], "lines may be in a log");
        assert_eq!(outbox.sent(again.id, Sent::Full, later), [0, 1]);
        assert_eq!(outbox.sent(again.id, Sent::Full, later), [0_u64; 0]);
        assert!(!outbox.applied(0), "whoever waited was told");
        assert_eq!((outbox.next(later), outbox.wake_at()), (None, None));
    }

    #[test]
    fn lines_that_may_be_in_a_log_hold_up_nobody() {
        let now = start();
        let mut outbox = Outbox::new();
        let deadline = now + Duration::from_secs(10);
        outbox.lead(Some(A));
        for nth in 0..FLIGHTS_MAX as u64 {
            outbox.push(batch(2 * nth), 0, deadline);
            outbox.push(lines(2 * nth + 1), 0, deadline);
            outbox.next(now).unwrap();
        }
        outbox.push(batch(100), 0, deadline);
        assert_eq!(outbox.next(now), None, "enough is on its way");
        outbox.lead(Some(B));
        for nth in 0..FLIGHTS_MAX as u64 {
            assert!(outbox.applied(2 * nth));
        }
        assert_eq!(tickets(&outbox.next(now).unwrap()), [100]);
    }

    #[test]
    fn what_the_leader_took_is_not_proposed_again_soon() {
        let now = start();
        let mut outbox = filled(1, now);
        outbox.lead(Some(A));
        let old = outbox.next(now).unwrap().id;
        outbox.sent(old, Sent::Taken, now);
        assert_eq!(outbox.next(now + Duration::from_secs(3)), None);
        assert!(outbox.next(now + AGAIN_AFTER_TAKEN).is_some());
        outbox.lead(Some(B));
        let proposal = outbox.next(now).unwrap();
        assert_eq!(proposal.id.under, B);
        outbox.sent(old, Sent::Taken, now);
        let later = now + AGAIN_AFTER;
        assert!(outbox.next(later).is_some(), "A does not count any more");
    }

    /// The later one was applied first once: its agent was told of a gap that was none.
    #[test]
    fn what_came_later_does_not_overtake_what_was_refused() {
        let now = start();
        let mut outbox = filled(1, now);
        outbox.lead(Some(A));
        let first = outbox.next(now).unwrap();
        outbox.sent(first.id, Sent::Refused, now);
        outbox.push(batch(1), 0, now + Duration::from_secs(10));
        assert_eq!(outbox.next(now), None);
        let wake_at = outbox.wake_at();
        assert_eq!(wake_at, Some(now + AGAIN_PAUSE));
        let order = [(); 2].map(|()| tickets(&outbox.next(now + AGAIN_PAUSE).unwrap()));
        assert_eq!(order, [[0], [1]]);
    }

    /// A second proposal of the batches alone says nothing of the lines.
    #[test]
    fn what_is_held_up_by_a_pause_wakes_nobody() {
        let now = start();
        let mut outbox = filled(4, now);
        outbox.lead(Some(A));
        let first = outbox.next(now).unwrap();
        let second = outbox.next(now).unwrap();
        outbox.sent(second.id, Sent::Taken, now);
        let later = now + AGAIN_AFTER_TAKEN;
        outbox.sent(first.id, Sent::Refused, later);
        // The second is due again, and behind the first, which pauses.
        assert_eq!(outbox.next(later), None);
        assert_eq!(outbox.wake_at(), Some(later + AGAIN_PAUSE));
        assert!(outbox.next(later + AGAIN_PAUSE).is_some());
    }

    #[test]
    fn lines_are_given_again_when_all_that_carried_them_was_refused() {
        let now = start();
        let mut outbox = Outbox::new();
        outbox.push(lines(0), 0, now + Duration::from_secs(10));
        outbox.push(batch(1), 0, now + Duration::from_secs(10));
        outbox.lead(Some(A));
        let all = outbox.next(now).unwrap();
        assert_eq!(tickets(&all), [0, 1]);
        outbox.lead(Some(B));
        let batches = outbox.next(now).unwrap();
        assert_eq!(tickets(&batches), [1], "lines may be in a log");
        outbox.sent(all.id, Sent::Refused, now);
        outbox.sent(batches.id, Sent::Taken, now);
        outbox.applied(1);
        assert_eq!(outbox.wake_at(), Some(now + AGAIN_AFTER_TAKEN));
        assert_eq!(tickets(&outbox.next(now + AGAIN_AFTER_TAKEN).unwrap()), [0]);
    }

    #[test]
    fn what_is_not_answered_expires_wherever_it_is() {
        let now = start();
        let mut outbox = filled(3, now);
        outbox.lead(Some(A));
        outbox.next(now).unwrap();
        assert_eq!(outbox.wake_at(), Some(now + AGAIN_AFTER));
        assert_eq!(outbox.expire(now), [0_u64; 0]);
        let mut expired = outbox.expire(now + Duration::from_secs(10));
        expired.sort_unstable();
        assert_eq!(expired, [0, 1, 2]);
        assert_eq!(outbox.wake_at(), None);
    }
}
