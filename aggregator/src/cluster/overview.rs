//! What a node knows of its cluster, for those who ask.

use std::sync::Arc;

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

/// One row of the table `nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    pub id: u64,
    pub name: String,
    pub address: String,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    /// The last log entry it applied, if known.
    pub applied: Option<u64>,
    /// Log entries behind the leader, if known.
    pub lag: Option<u64>,
}
