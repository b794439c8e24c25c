//! A child process that ends when this process ends, in whatever way.
//!
//! Rule: a shell starts the child and then reads its standard input, whose other end is here. That end closes when the value is dropped, or
//! with this process, even if it is killed. The shell then ends the child and waits for it.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cli::failure::{Exit, Failure};

/// The shell's script; its arguments are the name of the signal and the command line.
const GUARD: &str = r#"signal=$1; shift; "$@" & child=$!; read -r _; kill -s "$signal" "$child"; wait "$child""#;

/// A running process, which ends when this value is dropped.
#[derive(Debug)]
pub(super) struct Guarded(Child);

/// The user that a process runs as, if not this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Guarded {
    /// Starts `program`, which `signal` will end. Its output goes to the file `log`.
    pub(super) fn start(
        program: &Path,
        arguments: &[&str],
        signal: &str,
        user: Option<User>,
        log: &Path,
    ) -> Result<Self, Failure> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.map_err(|error| Failure::file(log, "created", &error))?;
        let errors = out.try_clone().map_err(|error| Failure::file(log, "opened", &error))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "sh", signal]).arg(program).args(arguments);
        // Ctrl-C is for this process alone, which ends the others in order. The messages to systemd are this process's alone, too.
        shell.process_group(0).current_dir("/").env_remove("NOTIFY_SOCKET");
        if let Some(User { uid, gid }) = user {
            shell.uid(uid).gid(gid);
        }
        let started = shell.stdin(Stdio::piped()).stdout(out).stderr(errors).spawn();
        started.map(Self).map_err(|error| Failure::new(Exit::Internal, format_args!("sh cannot be started: {error}")))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The shell ends after the process that it guards.
        drop(self.0.wait());
    }
}

/// The last eight lines of a log.
pub(super) fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_guarded_process_runs_until_the_guard_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = "trap 'echo told; exit' TERM; echo runs; while :; do sleep 0.05; done";
        let guarded = Guarded::start(Path::new("/bin/sh"), &["-c", script], "TERM", None, &log).unwrap();
        let began = Instant::now();
        while last_words(&log) != "runs" {
            assert!(began.elapsed() < Duration::from_secs(10), "{}", last_words(&log));
            std::thread::yield_now();
        }
        drop(guarded);
        assert_eq!(last_words(&log), "runs\ntold");
    }
}
