//! openraft's network over a `Link`: its requests as messages, our errors as its errors.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};

use super::link::{CallError, Link, Purpose};
use super::log::LogId;
use super::snapshot;
use super::types::{Member, TypeConfig};
use super::wire::{self, Kind, WireError};
use crate::metrics::LogGate;
use crate::store::SnapshotFiles;

type C = TypeConfig;

/// A follower may take so long for the disk before the entries are sent again.
const APPEND_LIMIT: Duration = Duration::from_secs(10);
/// Between attempts to reach a node that is away.
const BACKOFF: Duration = Duration::from_millis(100);
/// How often the log says that a snapshot was not delivered.
const UNDELIVERED_WINDOW: Duration = Duration::from_secs(60);

/// Makes openraft's clients.
pub(super) struct Network {
    link: Arc<dyn Link>,
    segments: Arc<dyn journal::Storage>,
    cut: Arc<AtomicU64>,
    undelivered: Arc<LogGate>,
}

/// One of openraft's clients: to one node, for one purpose.
pub(super) struct Client {
    link: Arc<dyn Link>,
    segments: Arc<dyn journal::Storage>,
    member: Member,
    purpose: Purpose,
    cut: Arc<AtomicU64>,
    undelivered: Arc<LogGate>,
}

impl Network {
    /// `cut`: entries up to and with this one are sent to nobody any more; 0: all are.
    pub(super) fn new(
        link: Arc<dyn Link>,
        segments: Arc<dyn journal::Storage>,
        cut: Arc<AtomicU64>,
    ) -> Network {
        Network {
            link,
            segments,
            cut,
            undelivered: Arc::new(LogGate::new(1, UNDELIVERED_WINDOW)),
        }
    }

    fn client(&self, member: &Member, purpose: Purpose) -> Client {
        Client {
            link: Arc::clone(&self.link),
            segments: Arc::clone(&self.segments),
            member: member.clone(),
            purpose,
            cut: Arc::clone(&self.cut),
            undelivered: Arc::clone(&self.undelivered),
        }
    }
}

impl RaftNetworkFactory<C> for Network {
    type Network = Client;

    async fn new_client(&mut self, _target: u64, node: &Member) -> Client {
        self.client(node, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, _target: u64, node: &Member) -> Client {
        self.client(node, Purpose::Pulse)
    }

    async fn new_snapshot_client(&mut self, _target: u64, node: &Member) -> Client {
        self.client(node, Purpose::Snapshot)
    }
}

impl Client {
    /// Whether what follows this entry is not sent any more.
    fn is_cut(&self, previous: Option<&LogId>) -> bool {
        let first = previous.map_or(0, |id| id.index + 1);
        let cut = self.cut.load(Ordering::Relaxed);
        self.purpose == Purpose::Log && cut > 0 && first <= cut
    }

    async fn call(
        &self,
        purpose: Purpose,
        kind: Kind,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Bytes, RPCError<C>> {
        let called = self.link.call(&self.member, purpose, kind, payload, limit);
        called.await.map_err(|error| rpc_error(&error))
    }

    /// A vote, or what would be one.
    async fn ask_vote(
        &self,
        kind: Kind,
        rpc: &VoteRequest<C>,
        option: &RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let payload = wire::encode_vote_request(rpc);
        let asked = self.call(Purpose::Pulse, kind, payload, option.hard_ttl());
        wire::decode_voted(&asked.await?).map_err(unread)
    }
}

fn rpc_error(error: &CallError) -> RPCError<C> {
    let any = AnyError::error(error);
    match error {
        CallError::Unreachable { .. } | CallError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(&any))
        }
        CallError::Lost { .. } => RPCError::Network(NetworkError::new(&any)),
    }
}

fn unread(error: WireError) -> RPCError<C> {
    RPCError::Network(NetworkError::new(&error))
}

impl RaftNetworkV2<C> for Client {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        if self.is_cut(rpc.prev_log_id.as_ref()) {
            // openraft lets go of these entries for this follower then, and sends it a snapshot.
            let why = "the log is cut here: the follower was too slow";
            return Err(RPCError::Unreachable(Unreachable::from_string(why)));
        }
        let payload = wire::encode_append(&rpc).map_err(unread)?;
        let answer = self
            .call(self.purpose, Kind::Append, payload, APPEND_LIMIT)
            .await?;
        wire::decode_appended(&answer).map_err(unread)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(Kind::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(Kind::PreVote, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotFiles>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let send = snapshot::send(
            &*self.link,
            &self.member,
            &*self.segments,
            vote,
            snapshot.snapshot,
        );
        tokio::select! {
            biased;
            sent = send => sent.map_err(|error| {
                let now = tokio::time::Instant::now().into_std();
                if let Some(suppressed) = self.undelivered.admit(now) {
                    let to = self.member.name.as_str();
                    tracing::warn!(to, %error, suppressed, "a snapshot was not delivered; it is tried again");
                }
                StreamingError::Unreachable(Unreachable::new(&AnyError::error(error)))
            }),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let payload = wire::encode_transfer(&request);
        self.call(
            Purpose::Pulse,
            Kind::TransferLeader,
            payload,
            option.soft_ttl(),
        )
        .await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
