//! A cluster that answers what and when the test says.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use shared::batch::{self, Body, Gap, GapReason, Header};
use shared::id::{AgentId, BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::verdict::Position;
use tokio::sync::{mpsc, oneshot};

use super::Upstream;
use crate::cluster::{Answer, Applied};
use crate::state::command::Payload;

/// A submission that waits for the test to answer it.
pub(super) struct Submitted {
    pub(super) agent: AgentId,
    pub(super) payload: Payload,
    pub(super) answer: oneshot::Sender<Answer>,
}

#[derive(Clone)]
pub(super) struct Script {
    submitted: mpsc::Sender<Submitted>,
    ready: bool,
}

/// Where its streams stand no quorum says.
pub(super) const UNPLACED: Epoch = Epoch(0xbad);

pub(super) struct Waiting(oneshot::Receiver<Answer>);

impl Script {
    pub(super) fn new(ready: bool) -> (Script, mpsc::Receiver<Submitted>) {
        let (submitted, cluster) = mpsc::channel(256);
        (Script { submitted, ready }, cluster)
    }
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Answer::Unknown))
    }
}

impl Upstream for Script {
    type Ticket = Waiting;

    async fn submit(&self, agent: AgentId, _: TimeNs, payload: Payload, _: usize) -> Waiting {
        let (answer, waiting) = oneshot::channel();
        self.submitted
            .send(Submitted {
                agent,
                payload,
                answer,
            })
            .await
            .unwrap();
        Waiting(waiting)
    }

    async fn positions(
        &self,
        _: &AgentId,
        streams: &[(Epoch, Lane)],
    ) -> Option<Vec<(Epoch, Lane, Position)>> {
        let placed = |(epoch, lane): &(Epoch, Lane)| {
            (*epoch != UNPLACED).then_some((*epoch, *lane, position(41)))
        };
        streams.iter().map(placed).collect()
    }

    fn incarnation(&self) -> u64 {
        0xabc
    }

    fn ready(&self) -> bool {
        self.ready
    }
}

pub(super) fn position(last: u64) -> Position {
    Position {
        last: BatchNumber(last),
        digest: Digest([7; 8]),
    }
}

pub(super) fn applied() -> Answer {
    Answer::Applied(Applied::sample(1, None))
}

/// A batch: the record of one number that will not come is the smallest there is.
pub(super) fn batch_bytes(lane: Lane, number: u64) -> Vec<u8> {
    let header = Header {
        epoch: Epoch(0xe),
        lane,
        number: BatchNumber(number),
        previous: Digest::ZERO,
        names_needed: BatchNumber(0),
        sealed_at: TimeNs(0),
        complete_below: TimeNs(0),
        boot_relative: false,
    };
    let gap = Gap {
        from: BatchNumber(number),
        readings: 1,
        reason: GapReason::Overflow,
        digest_to: Digest([1; 8]),
    };
    batch::encode(&header, &Body::Gap(gap)).unwrap()
}
