//! Background tasks. The only caller of `tokio::spawn`: every task is tracked, can be told to stop, and its failure is seen.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks that start together, are told to stop together and are waited for together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    failed: CancellationToken,
    tracker: TaskTracker,
    failure: Arc<std::sync::OnceLock<String>>,
}

impl Tasks {
    /// A set with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A subset: it can be stopped and waited for by itself, and stops when this set does. Failures reach this set.
    pub fn child(&self) -> Self {
        Self {
            stop: self.stop.child_token(),
            failed: self.failed.clone(),
            tracker: TaskTracker::new(),
            failure: Arc::clone(&self.failure),
        }
    }

    /// Runs `task`. A panic in it is remembered as the set's first failure under `name`, and stops the daemon.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let running = tokio::spawn(self.tracker.track_future(task));
        let set = self.clone();
        tokio::spawn(self.tracker.track_future(async move {
            if let Err(error) = running.await {
                set.fail(format!("{name} ended unexpectedly: {error}"));
            }
        }));
    }

    /// Runs `task` without watching how it ends: for the many short ones (a connection) whose panic concerns nobody else.
    pub fn spawn_detached(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tracker.spawn(task));
    }

    /// Reports a failure that the daemon cannot go on with; the first one is kept.
    pub fn fail(&self, what: String) {
        // A second failure is usually the first one's echo.
        drop(self.failure.set(what));
        self.failed.cancel();
    }

    /// The token that tells these tasks to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits for the first failure of any task and tells it.
    pub async fn first_failure(&self) -> String {
        self.failed.cancelled().await;
        self.failure.get().cloned().unwrap_or_default()
    }

    /// Tells the tasks to stop and waits up to `patience` for them; `true` when all ended in time.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}

/// Runs what takes the processor for longer than a request may hold up others, on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It was not cancelled, nobody can: its panic goes on where it was asked for.
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_the_first_failure_of_the_set() {
        let tasks = Tasks::new();
        tasks.child().spawn("the worker", async { panic!("broken") });
        assert!(tasks.first_failure().await.starts_with("the worker ended unexpectedly"));
    }

    #[tokio::test]
    async fn stopping_reaches_children_and_waits_for_them() {
        let tasks = Tasks::new();
        let child = tasks.child();
        let stopping = child.stopping().clone();
        child.spawn("waiter", async move { stopping.cancelled().await });
        tasks.stop(Duration::from_secs(5)).await;
        assert!(child.stop(Duration::from_secs(5)).await);
    }
}
