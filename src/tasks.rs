//! Background tasks. The only caller of `tokio::spawn`: every task is tracked, can be told to stop, and its failure is seen.
//!
//! Rule: what is spawned is in a box, so that the runtime's part of a task is compiled once, and not for each kind of task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What is spawned.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

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

    /// Runs `task` without watching how it ends: for the many short ones (a connection) whose panic concerns nobody else.
    pub fn spawn_detached(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: Work = Box::pin(task);
        drop(self.tracker.spawn(task));
    }

    /// [`to_its_end`], and this set waits for it as for its other tasks.
    pub fn to_its_end<T, F>(&self, work: F) -> impl Future<Output = T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        ToItsEnd { work: Some(Box::pin(work)), token: Some(self.tracker.token()) }
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

    /// Waits until all have ended; no more are to come.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
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

/// Work that is brought to its end even when whoever waits for it goes away: a client that closes its connection must not
/// undo half of what it asked for. Nothing is spawned as long as somebody waits.
pub fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> + Send {
    ToItsEnd { work: Some(Box::pin(work)), token: None }
}

struct ToItsEnd<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// Keeps the set from ending before the work does.
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

/// Runs what nobody waits for and what may take a moment, beside whoever asks for it.
pub fn aside(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => {
            let work: Box<dyn FnOnce() + Send> = Box::new(work);
            drop(runtime.spawn_blocking(work));
        }
        Err(_) => work(),
    }
}

/// How many threads [`blocking`] may use where so many files may be open. Each has one file open at a time, so this is also the
/// most files that bodies take while they are written and read.
pub const fn threads(files: usize) -> usize {
    match files / 8 {
        0..16 => 16,
        some @ 16..512 => some,
        _ => 512,
    }
}

/// Runs what takes the processor for longer than a request may hold up others, on a thread of its own.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work: Box<dyn FnOnce() -> T + Send> = Box::new(work);
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
    async fn work_goes_on_when_nobody_waits_for_it_any_more() {
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
    async fn a_set_waits_for_work_of_its_own_that_nobody_else_waits_for() {
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
