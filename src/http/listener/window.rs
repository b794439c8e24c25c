//! The window of an HTTP/2 connection: the bytes that may arrive before its requests read them. They take room as read bytes do.
//!
//! Rule: an HTTP/2 connection is not read until there is room for its window, and the room is given back when there are no requests. A
//! connection that finds no room in time ends. HTTP/1.1 needs no window: unread bytes stay in the kernel.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

/// The window of one body, in bytes.
pub(super) const OF_STREAM: u32 = 64 << 10;
/// The window of all bodies of a connection, in bytes. One body that waits leaves room for another.
pub(super) const OF_CONNECTION: u32 = 128 << 10;

/// Room that was taken; dropping it gives it back.
pub(in crate::http) type Room = Box<dyn Send>;
/// Waits for room and takes it; `None` if that takes too long.
pub(in crate::http) type Taking = BoxFuture<'static, Option<Room>>;

/// The window of one connection. Cheap to clone; clones are the same window.
#[derive(Clone)]
pub(super) struct Window(Arc<Inner>);

struct Inner {
    take: Box<dyn Fn() -> Taking + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    room: Option<Room>,
    /// Requests under way.
    requests: usize,
    found_no_room: bool,
}

impl Window {
    /// A window without room, which `take` gets for it.
    pub(super) fn new(take: impl Fn() -> Taking + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { take: Box::new(take), state: Mutex::default() }))
    }

    /// Whether the connection may be read.
    pub(super) fn is_open(&self) -> bool {
        self.state().room.is_some()
    }

    /// Waits for room and takes it; an error if there is none in time.
    pub(super) async fn open(self) -> io::Result<()> {
        let room = (self.0.take)().await;
        let mut state = self.state();
        state.found_no_room = room.is_none();
        state.room = room;
        match state.found_no_room {
            true => Err(io::Error::other("there is no room for what the connection brings")),
            false => Ok(()),
        }
    }

    /// Whether the connection was ended because it found no room.
    pub(super) fn found_no_room(&self) -> bool {
        self.state().found_no_room
    }

    /// Reports that a request has begun.
    pub(super) fn request(&self) -> UnderWay {
        self.state().requests += 1;
        UnderWay(self.clone())
    }

    /// Gives the room back if there are no requests: what was read meanwhile were pings and the like.
    pub(super) fn close_unused(&self) {
        let mut state = self.state();
        if state.requests == 0 {
            state.room = None;
        }
    }

    /// Nobody panics while holding the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way; dropping this ends it.
pub(super) struct UnderWay(Window);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().requests -= 1;
        self.0.close_unused();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_window_has_room_during_requests_and_reports_when_it_found_none() {
        let room = Arc::new(());
        let taken = Arc::clone(&room);
        let window = Window::new(move || Box::pin(std::future::ready(Some(Box::new(Arc::clone(&taken)) as Room))));
        assert!(!window.is_open());
        window.clone().open().await.unwrap();
        let (first, second) = (window.request(), window.request());
        drop(first);
        window.close_unused();
        assert!(window.is_open() && Arc::strong_count(&room) == 3);
        drop(second);
        assert!(!window.is_open() && Arc::strong_count(&room) == 2);
        window.clone().open().await.unwrap();
        window.close_unused();
        assert!(!window.is_open() && !window.found_no_room());
        let full = Window::new(|| Box::pin(std::future::ready(None)));
        full.clone().open().await.unwrap_err();
        assert!(!full.is_open() && full.found_no_room());
    }
}
