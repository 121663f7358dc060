//! What this node answers to other nodes: openraft's requests, proposals, read indexes, joins.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::impls::ProgressResponder;
use openraft::raft::{ClientWriteResult, ReadPolicy};
use openraft::type_config::alias::OneshotReceiverOf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::gate::{Gate, Incoming};
use super::join::Admission;
use super::link::Answerer;
use super::outbox::Sent;
use super::snapshot::Receiver;
use super::types::{CommandBytes, Raft, TypeConfig};
use super::wire::{self, Kind, Proposed};
use crate::state::Command;
use crate::store::Claims;

/// Commands of other nodes that wait for openraft to take them.
pub(super) const PROPOSALS_MAX: usize = 64;
/// A proposer whose command openraft has not looked at by then is told that it was taken: a disk that
/// is so slow is not helped by a second copy. Below the time after which it would give one.
const OUTCOME_LIMIT: Duration = Duration::from_millis(1_500);

/// How often it is looked whether a sender of a snapshot comes no more.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Answers on behalf of one running node.
pub(super) struct Peer {
    incarnation: u64,
    raft: Raft,
    receiver: Arc<Receiver>,
    proposals: mpsc::Sender<Given>,
    admission: Arc<Admission>,
    gate: Arc<Gate>,
    incoming: Arc<Incoming>,
    inline: bool,
}

impl Peer {
    /// `inline`: disk work runs where it is called, not on a thread. The proposals that it takes are given to openraft by [`run_proposals`].
    pub(super) fn new(
        incarnation: u64,
        raft: Raft,
        (segments, claims): (Arc<dyn journal::Storage>, Arc<Claims>),
        admission: Arc<Admission>,
        gate: Arc<Gate>,
        incoming: Arc<Incoming>,
        inline: bool,
    ) -> (Peer, mpsc::Receiver<Given>) {
        let (proposals, taken) = mpsc::channel(PROPOSALS_MAX);
        let peer = Peer {
            incarnation,
            raft,
            receiver: Arc::new(Receiver::new(segments, claims)),
            proposals,
            admission,
            gate,
            incoming,
            inline,
        };
        (peer, taken)
    }

    /// Lets go of snapshots whose senders come no more.
    pub(super) fn release_snapshots(
        &self,
        mut stop: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (receiver, inline) = (Arc::clone(&self.receiver), self.inline);
        async move {
            loop {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let left = receiver.abandoned(Instant::now().into_std());
                if left.is_empty() {
                    continue;
                }
                let let_go = move || {
                    drop(left);
                    Ok(())
                };
                if on_disk(inline, let_go).await.is_err() {
                    tracing::error!("letting go of a snapshot failed: please report this");
                }
            }
        }
    }

    /// A proposal is taken in the order of arrival, or not at all. `None`: there is no room for it.
    fn propose(&self, command: Bytes) -> Result<Option<oneshot::Receiver<Outcome>>, String> {
        if !self.raft.is_leader() {
            return Err("this node does not lead".to_owned());
        }
        check(&command)?;
        if !self.gate.admits(&command) {
            return Ok(None);
        }
        let (given, outcome) = oneshot::channel();
        let given = Given { command, given };
        match self.proposals.try_send(given) {
            Ok(()) => Ok(Some(outcome)),
            Err(_) => Err(format!("{PROPOSALS_MAX} proposals wait already")),
        }
    }
}

/// A command of another node, on its way to openraft.
pub(super) struct Given {
    command: Bytes,
    given: oneshot::Sender<Outcome>,
}

/// Becomes what openraft made of one command.
pub(super) type Outcome = OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>;

/// Gives one command to openraft, behind those that were given before.
pub(super) async fn give(raft: &Raft, command: Bytes) -> Result<Outcome, Fatal<TypeConfig>> {
    let (responder, outcome) = ProgressResponder::complete_only();
    raft.client_write_ff(CommandBytes(command), Some(responder))
        .await?;
    Ok(outcome)
}

/// What became of a command, as its proposer has to know it. A leader that no quorum has answered
/// lately refuses commands: whoever takes such a one for taken waits for nothing.
pub(super) async fn sent(raft: &Raft, outcome: Outcome) -> Sent {
    // openraft takes what it is given in order: this is answered behind the command.
    sent_behind(raft.with_raft_state(|_| ()), outcome).await
}

/// As [`sent`]; `handled` ends behind the command, which by then is refused or has its place in the
/// log.
async fn sent_behind<Stopped, Closed>(
    handled: impl Future<Output = Result<(), Stopped>>,
    outcome: impl Future<Output = Result<ClientWriteResult<TypeConfig>, Closed>>,
) -> Sent {
    match tokio::time::timeout(OUTCOME_LIMIT, handled).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Sent::Lost,
        Err(_) => return Sent::Taken,
    }
    match outcome.now_or_never() {
        None | Some(Ok(Ok(_))) => Sent::Taken,
        // "Rejected before its entry was appended", says openraft.
        Some(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Sent::Refused,
        Some(Ok(Err(_)) | Err(_)) => Sent::Lost,
    }
}

/// As [`sent`], of a command of another node.
async fn proposed(raft: &Raft, taken: Option<oneshot::Receiver<Outcome>>) -> Result<Bytes, String> {
    let Some(given) = taken else {
        return Ok(Proposed::Full.encode());
    };
    let Ok(outcome) = given.await else {
        return Err("this node stops, and openraft was not given it".to_owned());
    };
    match sent(raft, outcome).await {
        Sent::Refused => Err("no quorum has answered this leader lately".to_owned()),
        // What is lost may be in a log: its proposer waits for apply, as for what was taken.
        _ => Ok(Proposed::Taken.encode()),
    }
}

/// What one node cannot read must not enter the log: every replica would stop at it, for ever.
fn check(command: &Bytes) -> Result<(), String> {
    let read = Command::decode(command);
    read.map(|_| ()).map_err(|error| {
        format!("what was proposed cannot be applied: {error}; upgrade all nodes to one version")
    })
}

/// Gives proposals to openraft, in order.
pub(super) async fn run_proposals(
    raft: Raft,
    mut taken: mpsc::Receiver<Given>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = taken.recv() => next,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Some(Given { command, given }) = next else {
            return;
        };
        let Ok(outcome) = give(&raft, command).await else {
            return;
        };
        // Whoever asked may have gone; apply tells it whether it is applied.
        let _ = given.send(outcome);
    }
}

impl Answerer for Peer {
    fn answer(
        &self,
        from: &str,
        kind: Kind,
        incarnation: u64,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        if kind != Kind::Join && incarnation != self.incarnation {
            let why = format!(
                "it belongs to incarnation {incarnation:016x} of the cluster, this node to {:016x}; \
                 it must rejoin with an empty data folder",
                self.incarnation
            );
            return Box::pin(async move { Err(why) });
        }
        let (raft, receiver) = (self.raft.clone(), Arc::clone(&self.receiver));
        let inline = self.inline;
        let from = from.to_owned();
        let now = Instant::now().into_std();
        match kind {
            Kind::Append => {
                let incoming = Arc::clone(&self.incoming);
                Box::pin(async move {
                    let rpc = wire::decode_append(&payload).map_err(text)?;
                    let _place = incoming.enter(&rpc, payload.len())?;
                    let answer = raft.append_entries(rpc).await.map_err(text)?;
                    Ok(wire::encode_appended(&answer))
                })
            }
            Kind::Vote => Box::pin(async move {
                let rpc = wire::decode_vote_request(&payload).map_err(text)?;
                Ok(wire::encode_voted(&raft.vote(rpc).await.map_err(text)?))
            }),
            Kind::PreVote => Box::pin(async move {
                let rpc = wire::decode_vote_request(&payload).map_err(text)?;
                Ok(wire::encode_voted(&raft.pre_vote(rpc).await.map_err(text)?))
            }),
            Kind::TransferLeader => Box::pin(async move {
                let request = wire::decode_transfer(&payload).map_err(text)?;
                let answer = raft.handle_transfer_leader(request).await.map_err(text)?;
                answer.map(|()| Bytes::new()).map_err(text)
            }),
            Kind::Propose => {
                let taken = self.propose(payload);
                Box::pin(async move { proposed(&raft, taken?).await })
            }
            Kind::ReadIndex => Box::pin(async move {
                let read = raft
                    .get_read_log_id(ReadPolicy::ReadIndex)
                    .await
                    .map_err(text)?;
                Ok(wire::encode_index(read.0.index()))
            }),
            Kind::Join => {
                let admission = Arc::clone(&self.admission);
                Box::pin(async move {
                    let request = wire::JoinRequest::decode(&payload).map_err(text)?;
                    Ok(admission.join(&from, request).await?.encode())
                })
            }
            Kind::SnapshotOffer => on_disk(inline, move || receiver.offer(&from, &payload, now)),
            Kind::SnapshotChunk => on_disk(inline, move || receiver.chunk(&from, &payload, now)),
            Kind::SnapshotInstall => Box::pin(async move {
                let vote = wire::decode_install(&payload).map_err(text)?;
                let files = on_disk(inline, move || receiver.finish(&from)).await?;
                let snapshot = super::apply::snapshot_of(files).map_err(text)?;
                let answer = raft
                    .install_full_snapshot(vote, snapshot)
                    .await
                    .map_err(text)?;
                Ok(wire::encode_installed(&answer))
            }),
            Kind::Answer | Kind::Refusal => {
                Box::pin(async { Err("an answer where a request belongs".to_owned()) })
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Disk work leaves the event loop, unless it is to run `inline`.
fn on_disk<T: Send + 'static>(
    inline: bool,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> BoxFuture<'static, Result<T, String>> {
    Box::pin(async move {
        if inline {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err("the work failed; please report this".to_owned()),
        }
    })
}

#[cfg(test)]
mod tests {
    use openraft::errors::ForwardToLeader;

    use super::*;

    /// It was told as taken once, and its proposer waited for eight seconds.
    #[tokio::test(start_paused = true)]
    async fn what_openraft_refuses_is_given_again_and_nothing_else_is() {
        type Result = ClientWriteResult<TypeConfig>;
        let nowhere = ForwardToLeader::empty;
        let handled = |ok: bool| std::future::ready(ok.then_some(()).ok_or(()));
        let told =
            |outcome: Result| sent_behind(handled(true), std::future::ready(Ok::<_, ()>(outcome)));
        let refused = || Err(ClientWriteError::ForwardToLeader(nowhere()));
        assert_eq!(told(refused()).await, Sent::Refused);
        let discarded = Err(ClientWriteError::LogEntryDiscarded(nowhere()));
        assert_eq!(told(discarded).await, Sent::Lost);
        let waits = std::future::pending::<std::result::Result<Result, ()>>;
        assert_eq!(sent_behind(handled(true), waits()).await, Sent::Taken);
        let closed = std::future::ready(Err::<Result, ()>(()));
        assert_eq!(sent_behind(handled(true), closed).await, Sent::Lost);
        assert_eq!(sent_behind(handled(false), waits()).await, Sent::Lost);
        let stands = std::future::pending::<std::result::Result<(), ()>>();
        assert_eq!(sent_behind(stands, waits()).await, Sent::Taken);
        // However long openraft takes to look at it, the refusal is heard.
        let (tell, outcome) = oneshot::channel::<Result>();
        let slow = async {
            tokio::time::sleep(OUTCOME_LIMIT / 2).await;
            assert!(tell.send(refused()).is_ok());
            Ok::<_, ()>(())
        };
        assert_eq!(sent_behind(slow, outcome).await, Sent::Refused);
    }

    /// Each of them was once committed, and no replica could apply it.
    #[test]
    fn what_cannot_be_applied_is_not_proposed() {
        let merge = Command::Merge.encode();
        let newer = Bytes::from([&[merge[0] + 1][..], &merge[1..]].concat());
        let longer = Bytes::from([&merge[..], &[0]].concat());
        for bytes in [Bytes::new(), newer, longer, Bytes::from_static(b"\x01\xff")] {
            assert!(check(&bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(check(&merge), Ok(()));
    }
}
