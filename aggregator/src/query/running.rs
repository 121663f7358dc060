//! Threads and limits of running queries. They have a runtime of their own, so that no query holds
//! up ingest; answers cross in a short queue, and who drops one cancels its query.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use futures_util::{Stream, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{QueryError, QueryOptions, session};

/// Record batches as they come; dropping it cancels the query.
pub type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, QueryError>> + Send>>;

/// Batches that wait for a slow reader.
const QUEUE_BATCHES_MAX: usize = 2;
/// Planning is recursive; `statement` bounds how deep, this is room for it.
const STACK_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Workers {
    options: QueryOptions,
    places: Arc<Semaphore>,
    place_count: usize,
    runtime: Option<Runtime>,
}

/// A plan, and what is still to be done to it.
#[derive(Debug)]
pub(super) enum Logical {
    AsWritten(LogicalPlan),
    Optimized(LogicalPlan),
}

/// Ends its task when it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runtimes may not be waited for by who drops them.
impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Workers {
    pub(super) fn start(options: QueryOptions) -> Result<Self, QueryError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.cores.max(1))
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build();
        let runtime = runtime.map_err(|error| QueryError::Internal {
            message: format!("cannot start the threads of queries: {error}"),
        })?;
        let room = options.memory_bytes / options.query_memory_bytes.max(1);
        let place_count = room
            .min(options.queries_max)
            .clamp(1, Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(place_count));
        Ok(Self {
            options,
            places,
            place_count,
            runtime: Some(runtime),
        })
    }

    pub(super) fn options(&self) -> &QueryOptions {
        &self.options
    }

    /// Runs something short, in a place, within the time of a query.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let place = self.place().await?;
        let after = self.options.time_max;
        let mut task = Task(self.runtime().spawn(async move {
            let result = tokio::time::timeout(after, work).await;
            drop(place);
            result.unwrap_or(Err(QueryError::Timeout { after }))
        }));
        (&mut task.0)
            .await
            .unwrap_or_else(|error| Err(broken(&error)))
    }

    /// Runs a plan, in a place, within the time of a query.
    pub(super) async fn answer(
        &self,
        state: SessionState,
        plan: Logical,
    ) -> Result<Batches, QueryError> {
        let place = self.place().await?;
        let after = self.options.time_max;
        let context = session::task_context(&state, &self.options)?;
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES_MAX);
        let task = Task(self.runtime().spawn(async move {
            let work = produce(state, plan, context, &sender);
            let result = tokio::time::timeout(after, work).await;
            drop(place);
            if let Err(error) = result.unwrap_or(Err(QueryError::Timeout { after })) {
                // Nobody to tell: the reader has gone.
                let _ = sender.send(Err(error)).await;
            }
        }));
        Ok(Box::pin(futures_util::stream::unfold(
            Some((receiver, task)),
            next,
        )))
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let waited = self.options.time_max;
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(waited, place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(QueryError::Busy {
                running: self.place_count,
                waited,
            }),
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("only dropping takes it")
    }
}

type Answer = (mpsc::Receiver<Result<RecordBatch, QueryError>>, Task<()>);

/// A queue that ends without an error may also mean that the task broke.
async fn next(answer: Option<Answer>) -> Option<(Result<RecordBatch, QueryError>, Option<Answer>)> {
    let (mut receiver, mut task) = answer?;
    match receiver.recv().await {
        Some(item) => Some((item, Some((receiver, task)))),
        None => match (&mut task.0).await {
            Ok(()) => None,
            Err(error) => Some((Err(broken(&error)), None)),
        },
    }
}

async fn produce(
    state: SessionState,
    plan: Logical,
    context: Arc<TaskContext>,
    sender: &mpsc::Sender<Result<RecordBatch, QueryError>>,
) -> Result<(), QueryError> {
    let plan = match plan {
        Logical::Optimized(plan) => plan,
        Logical::AsWritten(plan) => state.optimize(&plan)?,
    };
    let physical = state
        .query_planner()
        .create_physical_plan(&plan, &state)
        .await?;
    let mut batches = execute_stream(physical, context)?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.num_rows() > 0 && sender.send(Ok(batch)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn broken(error: &tokio::task::JoinError) -> QueryError {
    tracing::error!(%error, "a query task broke");
    QueryError::Internal {
        message: "the query broke; the node's log says where".to_owned(),
    }
}
