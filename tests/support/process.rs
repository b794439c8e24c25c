//! A child process with all processes it starts: its own process group, output in a file, killed when the test ends.
//!
//! Rule: only processes that were started here are signalled. It does not know what a process is for.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::eventually::eventually;

/// A child process; dropping it kills it if it still runs.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stderr appended to `log`; stdout goes there too unless `stdout` names a file.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path, stdout: Option<File>) -> Self {
        Self::start_with_stdin(name, command, log, stdout, Stdio::null())
    }

    /// Like [`start`](Self::start), with `stdin` as standard input, which may also be a socket.
    pub(crate) fn start_with_stdin(
        name: &'static str,
        command: &mut Command,
        log: &Path,
        stdout: Option<File>,
        stdin: Stdio,
    ) -> Self {
        let errors = File::options().create(true).append(true).open(log).expect("a log file");
        let output = stdout.unwrap_or_else(|| errors.try_clone().expect("a second handle of the log file"));
        let child = command.stdin(stdin).stdout(output).stderr(errors).process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name, child, log: log.to_owned() }
    }

    /// The exit status; `None` while the process runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// The last lines of the output, for the message of a failing test.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(30)..];
        format!("{} said last:\n{}", self.name, tail.join("\n"))
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(mut self, within: Duration) -> ExitStatus {
        if self.ended().is_none() {
            kill_process(self.pid(), Signal::TERM).expect("SIGTERM to a child");
        }
        eventually(&format!("{} ends after SIGTERM", self.name), within, async || {
            self.ended().ok_or_else(|| self.last_words())
        })
        .await
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal; a process that has ended gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a signal to a child");
    }

    /// Kills the whole group at once (SIGKILL), as a crash would.
    pub(crate) fn kill(&mut self) {
        // The kernel does not reuse the group's number while its leader has not been waited for.
        if self.ended().is_some() {
            return;
        }
        kill_process_group(self.pid(), Signal::KILL).expect("SIGKILL to a child's group");
        self.child.wait().expect("the end of a child");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
