//! What serving asks of the cluster. A seam of its own, because tests must be able to answer late,
//! never, or with the view of another time.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::query::NodeRow;
use crate::store::View;

/// One node, as far as answers need it.
pub trait Upstream: Send + Sync + 'static {
    /// A view of at least every entry that was committed, by any node, before the call: read index,
    /// never a lease. Resolves once this node has applied that index; an error at the deadline.
    fn linearizable(&self, deadline: Instant) -> BoxFuture<'_, Result<Arc<View>, NotReadable>>;

    /// What this node has applied, however far behind: only for who asks for it.
    fn latest(&self) -> Arc<View>;

    /// The cluster as this node sees it now.
    fn overview(&self) -> Overview;

    /// Recovered, and a leader is known; the text says what is missing.
    fn ready(&self) -> Result<(), &'static str>;
}

/// What `GET /v1/status` and the table `nodes` show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    pub cluster: String,
    /// The name and id of this node.
    pub node: String,
    pub id: u64,
    /// `None`: this node knows of none.
    pub leader: Option<u64>,
    pub term: u64,
    /// The last log entry in this node's views.
    pub applied: u64,
    /// The last log entry that this node knows to be at a quorum.
    pub committed: u64,
    /// Names this cluster since it was initialised or restored.
    pub incarnation: u64,
    pub nodes: Arc<Vec<NodeRow>>,
}

/// Why there is no linearizable view. Who must act: the caller, who asks again or another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReadable {
    #[error("this node knows no leader, or has lost the quorum")]
    NoLeader,
    #[error("this node did not learn in time what the cluster has committed")]
    Deadline,
    #[error("this node has not recovered yet, or is stopping")]
    NotServing,
}
