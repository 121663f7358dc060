//! Where openraft's generics end: the one place that fixes its type parameters.

use std::fmt;

use bytes::Bytes;

/// An encoded `state::command::Command`: what one log entry holds.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandBytes(pub Bytes);

/// Who a node is, as the membership records it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Member {
    /// The name in its certificate.
    pub name: String,
    /// `host:port` of its cluster listener.
    pub address: String,
}

openraft::declare_raft_types!(
    pub TypeConfig:
        D = CommandBytes,
        R = (),
        NodeId = u64,
        Node = Member,
        AsyncRuntime = super::runtime::Runtime,
);

/// The running consensus of a node.
pub type Raft = openraft::Raft<TypeConfig, super::apply::Applier>;

impl fmt::Debug for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
