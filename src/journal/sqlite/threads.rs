//! The journal's threads.
//!
//! Rule: a thread that panics ends the process. Without the thread nothing would be answered any more, and nothing would say so. The next
//! start finds the journal whole.

use std::io;
use std::thread::{self, Builder, JoinHandle};

/// Starts a thread with this name.
pub(super) fn start<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(move || {
        let _ended = Ended(name);
        run()
    })
}

/// Dropped when the thread with this name ends.
struct Ended(&'static str);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                thread = self.0,
                "a thread of the journal has panicked: ending, to begin from what is on the disk"
            );
            std::process::abort();
        }
    }
}
