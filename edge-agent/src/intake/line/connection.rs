//! One connection of a line intake: reads, hands over, answers; reading goes on while answers wait.
//!
//! Bounded: one group is taken at a time, a few wait for their answer. A device that does not
//! read its answers stops being read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shared::id::AgentId;
use shared::reading::Reading;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::dialogue::{Answers, Dialogue, Stream};
use crate::config::Line;
use crate::handed::{NotKept, Stamp, Stopped};
use crate::intake::{Complaints, Entry, Outcome, outcome_of, stopped};

/// Bytes of one read.
const READ_BYTES: usize = 32 << 10;
/// Groups that wait for their answer.
const GROUPS_MAX: usize = 16;

pub(super) struct Connection {
    pub(super) options: Arc<Line>,
    pub(super) agent: AgentId,
    pub(super) entry: Entry,
    /// Who speaks, for the log.
    pub(super) peer: String,
    pub(super) complaints: Arc<LineComplaints>,
}

/// Of all connections of one intake.
#[derive(Debug)]
pub(super) struct LineComplaints {
    refused: Complaints,
    not_kept: Complaints,
}

impl LineComplaints {
    pub(super) fn new(start: Instant) -> LineComplaints {
        LineComplaints {
            refused: Complaints::new(start),
            not_kept: Complaints::new(start),
        }
    }
}

/// A group that is to be answered.
struct Unanswered {
    answers: Answers,
    fate: Fate,
}

/// What became of the readings of a group.
enum Fate {
    /// There were none, or nobody wants to know.
    Settled,
    Stopping,
    Open(Outcome),
}

impl Connection {
    /// Until the peer closes or the agent stops, and all that was taken is answered.
    pub(super) async fn serve(
        &self,
        read: impl AsyncRead + Unpin,
        write: impl AsyncWrite + Unpin,
        stop: watch::Receiver<bool>,
    ) {
        let (sender, receiver) = mpsc::channel(GROUPS_MAX);
        tokio::join!(self.take(read, sender, stop), self.answer(write, receiver));
    }

    async fn take(
        &self,
        mut read: impl AsyncRead + Unpin,
        unanswered: mpsc::Sender<Unanswered>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut dialogue = Dialogue::new(&self.options, self.agent.as_str());
        let mut piece = vec![0; READ_BYTES];
        loop {
            let read = tokio::select! {
                biased;
                // What was not read was not taken: the device has no answer and knows.
                () = stopped(&mut stop) => return,
                read = read.read(&mut piece) => read,
            };
            let (length, stream) = match read {
                Ok(0) => (0, Stream::Ended),
                Ok(length) => (length, Stream::Open),
                Err(_) => (0, Stream::Broken),
            };
            dialogue.push(&piece[..length]);
            let now = self.entry.clock().stamp();
            while let Some(group) = dialogue.next(now, stream) {
                self.complain(&group.answers);
                let fate = self.hand_over(group.readings, group.stamp).await;
                let stopping = matches!(fate, Fate::Stopping);
                let group = Unanswered {
                    answers: group.answers,
                    fate,
                };
                if unanswered.send(group).await.is_err() || stopping {
                    return;
                }
            }
            if stream != Stream::Open {
                return;
            }
        }
    }

    async fn hand_over(&self, readings: Vec<Reading>, stamp: Stamp) -> Fate {
        if readings.is_empty() {
            return Fate::Settled;
        }
        let answer = self.options.ack;
        match self.entry.hand_over(readings, stamp, answer).await {
            Ok(None) => Fate::Settled,
            Ok(Some(outcome)) => Fate::Open(outcome),
            Err(Stopped) => Fate::Stopping,
        }
    }

    async fn answer(
        &self,
        mut write: impl AsyncWrite + Unpin,
        mut unanswered: mpsc::Receiver<Unanswered>,
    ) {
        // A peer that is gone gets no answers; its readings are kept all the same.
        let mut listening = self.options.ack;
        while let Some(Unanswered { answers, fate }) = unanswered.recv().await {
            let outcome = match fate {
                Fate::Settled => Ok(()),
                Fate::Stopping => Err(NotKept::Stopping),
                Fate::Open(outcome) => outcome_of(outcome).await,
            };
            if let Err(why) = outcome {
                self.not_kept(answers.readings(), why);
            }
            if listening {
                let text = answers.text(outcome);
                listening = write.write_all(text.as_bytes()).await.is_ok();
                listening = listening && write.flush().await.is_ok();
            }
        }
    }

    fn complain(&self, answers: &Answers) {
        for (number, refusal) in answers.refused() {
            self.entry
                .counters()
                .refused
                .fetch_add(1, Ordering::Relaxed);
            if let Some(unsaid) = self.complaints.refused.allow(Instant::now()) {
                tracing::warn!(
                    "{}: line {number} of {} is refused: {refusal} ({unsaid} more unsaid)",
                    self.entry.name(),
                    self.peer
                );
            }
        }
    }

    fn not_kept(&self, readings: u64, why: NotKept) {
        let counter = &self.entry.counters().not_kept;
        counter.fetch_add(readings, Ordering::Relaxed);
        if let Some(unsaid) = self.complaints.not_kept.allow(Instant::now()) {
            tracing::warn!(
                "{}: {readings} readings of {} are not kept: {why} ({unsaid} more unsaid)",
                self.entry.name(),
                self.peer
            );
        }
    }
}
