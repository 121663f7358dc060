//! What serving asks of the cluster. A seam of its own, because tests must be able to answer late,
//! never, or with the view of another time.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::cluster::{Cluster, NotReadable, Overview};
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

impl Upstream for Cluster {
    fn linearizable(&self, deadline: Instant) -> BoxFuture<'_, Result<Arc<View>, NotReadable>> {
        Box::pin(self.linearizable(deadline))
    }

    fn latest(&self) -> Arc<View> {
        self.latest()
    }

    fn overview(&self) -> Overview {
        self.overview()
    }

    fn ready(&self) -> Result<(), &'static str> {
        self.readiness()
    }
}
