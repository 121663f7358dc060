//! Hands submissions to the leader, wherever it is, and gives each its answer: the driver of
//! `outbox`. The log is told what to hold here; what it holds is told by `apply`.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use shared::id::{AgentId, TimeNs};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::answer::Answer;
use super::outbox::{Leadership, Outbox, Proposal, ProposalId, Sent};
use crate::state::command::{Origin, Payload, Submission};

/// Bytes of submissions without an answer; above, `submit` waits.
const OPEN_BYTES_MAX: usize = 64 << 20;
/// What one permit of the above stands for.
const PERMIT_BYTES: usize = 1 << 10;
/// Submissions without an answer.
const OPEN_MAX: usize = 65_536;
/// After this long whoever waits is told that nothing is known.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a publisher waits when the log has no room. A merge takes longer, asking costs little.
const BUSY_RETRY_MS: u32 = 1_000;

/// Takes submissions and answers them.
pub(super) struct Proposer {
    boot: u64,
    // A std mutex: held for a few instructions by whoever hands in, applies or drives; never
    // across an await.
    open: Mutex<Open>,
    changed: Notify,
    bytes: Arc<Semaphore>,
    count: Arc<Semaphore>,
}

struct Open {
    outbox: Outbox,
    answers: HashMap<u64, Waiting>,
    ticket_next: u64,
}

impl Open {
    fn answer(&mut self, tickets: &[u64], answer: Answer) {
        for ticket in tickets {
            if let Some(waiting) = self.answers.remove(ticket) {
                // A session that ended needs no answer: its publisher asks again.
                let _ = waiting.answer.send(answer);
            }
        }
    }
}

struct Waiting {
    answer: oneshot::Sender<Answer>,
    _bytes: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

/// The answer of one submission, when it comes.
pub struct Ticket(oneshot::Receiver<Answer>);

impl Ticket {
    /// One whose answer is known.
    pub(super) fn answered(answer: Answer) -> Ticket {
        let (sender, ticket) = oneshot::channel();
        // The receiver is at hand.
        let _ = sender.send(answer);
        Ticket(ticket)
    }
}

impl Future for Ticket {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Answer::Unknown))
    }
}

/// Gives one command to the leader.
pub(super) trait Propose: Send + Sync + 'static {
    /// Commands are given in the order of the calls.
    fn propose(&self, to: u64, command: Bytes) -> BoxFuture<'static, Sent>;
}

impl Proposer {
    /// `boot`: random; names this run of this node in the log.
    pub(super) fn new(boot: u64) -> Arc<Proposer> {
        let open = Open {
            outbox: Outbox::new(),
            answers: HashMap::new(),
            ticket_next: 0,
        };
        Arc::new(Proposer {
            boot,
            open: Mutex::new(open),
            changed: Notify::new(),
            bytes: Arc::new(Semaphore::new(OPEN_BYTES_MAX / PERMIT_BYTES)),
            count: Arc::new(Semaphore::new(OPEN_MAX)),
        })
    }

    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one submission; waits while too much is without an answer.
    pub(super) async fn submit(
        &self,
        agent: AgentId,
        received: TimeNs,
        payload: Payload,
        decoded_bytes: usize,
    ) -> Ticket {
        let (answer, ticket) = oneshot::channel();
        let ticket = Ticket(ticket);
        let mut submission = Submission {
            origin: Origin {
                boot: self.boot,
                ticket: 0,
            },
            agent,
            received,
            payload,
        };
        let permits = u32::try_from(submission.bytes() / PERMIT_BYTES + 1).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(permits).await;
        let place = Arc::clone(&self.count).acquire_owned().await;
        let (Ok(bytes), Ok(place)) = (bytes, place) else {
            return ticket;
        };
        let deadline = (Instant::now() + ANSWER_LIMIT).into_std();
        {
            let mut open = self.open();
            submission.origin.ticket = open.ticket_next;
            open.ticket_next += 1;
            let waiting = Waiting {
                answer,
                _bytes: bytes,
                _place: place,
            };
            open.answers.insert(submission.origin.ticket, waiting);
            open.outbox.push(submission, decoded_bytes, deadline);
        }
        self.changed.notify_one();
        ticket
    }

    /// The submission was applied by this node, which published what it brought.
    pub(super) fn applied(&self, ticket: u64, answer: Answer) {
        let waiting = {
            let mut open = self.open();
            // Of a command that was proposed twice, the second time says nothing new.
            let Some(waiting) = open.answers.remove(&ticket) else {
                return;
            };
            open.outbox.applied(ticket);
            waiting
        };
        // A session that ended needs no answer: its publisher asks again.
        let _ = waiting.answer.send(answer);
        self.changed.notify_one();
    }

    /// A proposal ended.
    fn sent(&self, id: ProposalId, sent: Sent) {
        let now = Instant::now().into_std();
        let mut open = self.open();
        let put_off = open.outbox.sent(id, sent, now);
        let retry_ms = BUSY_RETRY_MS;
        open.answer(&put_off, Answer::Busy { retry_ms });
    }

    /// Drives until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        to: Arc<dyn Propose>,
        mut leadership: watch::Receiver<Option<Leadership>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut sending = FuturesUnordered::new();
        loop {
            let led = *leadership.borrow_and_update();
            let (proposals, wake_at) = self.due(led);
            for Proposal { id, command } in proposals {
                let sent = to.propose(id.under.leader, command);
                sending.push(async move { (id, sent.await) });
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                changed = leadership.changed() => if changed.is_err() { return },
                Some((id, sent)) = sending.next() => self.sent(id, sent),
                () = self.changed.notified() => {}
                () = at(wake_at) => {}
            }
        }
    }

    /// What is to be proposed now, and when to look again. Answers what has expired.
    fn due(&self, leadership: Option<Leadership>) -> (Vec<Proposal>, Option<std::time::Instant>) {
        let now = Instant::now().into_std();
        let mut open = self.open();
        open.outbox.lead(leadership);
        let expired = open.outbox.expire(now);
        open.answer(&expired, Answer::Unknown);
        let mut proposals = Vec::new();
        while let Some(proposal) = open.outbox.next(now) {
            proposals.push(proposal);
        }
        (proposals, open.outbox.wake_at())
    }
}

async fn at(when: Option<std::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
