//! A stream for lines that nobody needs to read: a pipe whose reader stands still holds up nobody.
//!
//! Rule: a line is written as a whole, or left out. No write waits for room, because the threads that write also serve clients and
//! upstreams, and a machine with one processor has only one of them. Lines that are left out are counted ([`left_out`]).

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The number of bytes that a pipe takes without blocking if it has any room (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// The number of lines that all streams left out or cut.
pub(super) fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// A stream that is written to only while it has room. Each call of `write` writes one line.
#[derive(Debug)]
pub(super) struct Unstalled<S> {
    stream: S,
    writing: Mutex<()>,
    /// Whether the last line was cut, so that its end is missing.
    is_cut: AtomicBool,
}

impl<S: AsFd> Unstalled<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, writing: Mutex::new(()), is_cut: AtomicBool::new(false) }
    }

    /// Writes a line, or leaves it out.
    fn line(&self, line: &[u8]) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let end: &[u8] = if self.is_cut.load(Ordering::Relaxed) { b"\n" } else { b"" };
        let whole = [end, line].concat();
        let mut rest = &whole[..];
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(PIECE)];
            let written = if self.has_room() { rustix::io::write(&self.stream, piece) } else { Err(Errno::AGAIN) };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => rest = &rest[bytes..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                    self.is_cut.fetch_or(rest.len() < whole.len(), Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.is_cut.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a piece can be written now without waiting. A stream that cannot be polled counts as having room; the write tells.
    fn has_room(&self) -> bool {
        let mut asked = [PollFd::new(&self.stream, PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(poll(&mut asked, Some(&at_once)), Ok(0))
    }
}

impl<S: AsFd> Write for &Unstalled<S> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up_and_continues_when_read() {
        let (mut reader, writer) = io::pipe().unwrap();
        let stream = Unstalled::new(writer);
        let line = |number: usize| format!("{number} {}\n", "x".repeat(6000));
        let before = left_out();
        let written = (0..).take_while(|number| {
            (&stream).write_all(line(*number).as_bytes()).unwrap();
            left_out() == before
        });
        let written = written.count();
        assert!((1..10_000).contains(&written), "{written}");
        let mut seen = vec![0; 4 << 20];
        let length = reader.read(&mut seen).unwrap();
        (&stream).write_all(b"the last\n").unwrap();
        drop(stream);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let all = String::from_utf8_lossy(&seen[..length]).into_owned() + &rest;
        assert!(all.ends_with("\nthe last\n"), "{}", &all[all.len() - 80..]);
        let whole = all.lines().filter(|text| text.ends_with('x') && text.len() > 6000).count();
        assert_eq!(whole, written);
    }
}
