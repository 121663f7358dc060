//! The tasks of this stage: they have one owner and end with it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

/// Spawns; when the last clone is dropped, or at `end`, everything spawned is cut off.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended ones are taken off, so the set holds the living only.
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("a task of the cluster failed: please report this");
            }
        }
        tasks.spawn(task);
    }

    /// Others live as long as these.
    pub(super) fn keep(&self, others: Tasks) {
        self.spawn(async move {
            let _others = others;
            std::future::pending::<()>().await;
        });
    }

    pub(super) fn end(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort_all();
    }
}
