//! Background tasks. The only caller of `tokio::spawn`: every task is tracked, can be told to stop, and its failure is noticed.
//!
//! Rule: every spawned future is boxed, so that the runtime's code for a task is compiled once and not for each kind of task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A future to spawn.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A set of tasks that are told to stop together and are waited for together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    failed: CancellationToken,
    tracker: TaskTracker,
    failure: Arc<std::sync::OnceLock<String>>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A subset. It can be stopped and waited for by itself, and stops when this set does. Its failures reach this set.
    pub fn child(&self) -> Self {
        Self {
            stop: self.stop.child_token(),
            failed: self.failed.clone(),
            tracker: TaskTracker::new(),
            failure: Arc::clone(&self.failure),
        }
    }

    /// Spawns `task`. A panic in it becomes the set's failure under `name`, unless there is one already, and stops the daemon.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.watch(name, Box::pin(task));
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    fn watch(&self, name: &'static str, task: Work) {
        let running = tokio::spawn(self.tracker.track_future(task));
        let set = self.clone();
        let watch: Work = Box::pin(async move {
            if let Err(error) = running.await {
                set.fail(format!("{name} ended unexpectedly: {error}"));
            }
        });
        tokio::spawn(self.tracker.track_future(watch));
    }

    /// Spawns `task` without watching how it ends: for many short tasks, such as connections, whose panics affect nothing else.
    pub fn spawn_detached(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: Work = Box::pin(task);
        drop(self.tracker.spawn(task));
    }

    /// Like [`to_its_end`]; this set also waits for the work.
    pub fn to_its_end<T, F>(&self, work: F) -> impl Future<Output = T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        ToItsEnd { work: Some(Box::pin(work)), token: Some(self.tracker.token()) }
    }

    /// Reports a failure after which the daemon cannot go on. Only the first one is kept.
    pub fn fail(&self, what: String) {
        // A second failure is usually a consequence of the first one.
        drop(self.failure.set(what));
        self.failed.cancel();
    }

    /// The token that tells these tasks to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until all tasks have ended. No more may be added.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Waits for the first failure of any task and returns it.
    pub async fn first_failure(&self) -> String {
        self.failed.cancelled().await;
        self.failure.get().cloned().unwrap_or_default()
    }

    /// Tells the tasks to stop and waits up to `patience` for them. Returns whether all ended in time.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}

/// Completes work even if its caller goes away: a client that closes its connection must not leave a request half done. Nothing is
/// spawned while the caller waits.
pub fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> + Send {
    ToItsEnd { work: Some(Box::pin(work)), token: None }
}

struct ToItsEnd<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// Keeps the set from ending before the work.
    token: Option<TaskTrackerToken>,
}

impl<T: Send + 'static> Future for ToItsEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let done = ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for ToItsEnd<T> {
    fn drop(&mut self) {
        if let (Some(rest), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            let token = self.token.take();
            let rest: Work = Box::pin(async move {
                rest.await;
                drop(token);
            });
            drop(runtime.spawn(rest));
        }
    }
}

/// Runs blocking work whose result nobody needs on another thread; without a runtime, on this thread.
pub fn aside(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => {
            let work: Box<dyn FnOnce() + Send> = Box::new(work);
            drop(runtime.spawn_blocking(work));
        }
        Err(_) => work(),
    }
}

/// The number of threads of [`blocking`] when so many files may be open. Each thread has one file open at a time, so this is also the
/// most files that are open to write and read bodies.
pub const fn threads(files: usize) -> usize {
    match files / 8 {
        0..16 => 16,
        some @ 16..512 => some,
        _ => 512,
    }
}

/// Runs blocking or processor-bound work on a thread of its own, so that it does not hold up other requests.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work: Box<dyn FnOnce() -> T + Send> = Box::new(work);
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Nothing cancels the task, so it failed by a panic, which continues in the caller.
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
    async fn work_continues_after_its_caller_is_gone() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut waiting = Box::pin(to_its_end(async move {
            gone.await.unwrap();
            tell.send("done").unwrap();
        }));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        go.send(()).unwrap();
        assert_eq!(told.await, Ok("done"));
    }

    #[tokio::test]
    async fn a_set_waits_for_its_work_whose_caller_is_gone() {
        let tasks = Tasks::new();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let mut waiting = Box::pin(tasks.to_its_end(gone));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        let mut ended = std::pin::pin!(tasks.ended());
        assert!(futures_util::poll!(ended.as_mut()).is_pending());
        go.send(()).unwrap();
        ended.await;
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
