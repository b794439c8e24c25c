//! Programs of `fixtures/clients`, run to their end, and their output.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::items::Promise;
use crate::support::eventually::eventually;
use crate::support::process::Process;

/// A timeout for a program to work, flush and end beside all the others.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of a program.
pub(crate) fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/clients").join(file)
}

/// A command that runs a program with an interpreter.
pub(crate) fn command(interpreter: impl AsRef<OsStr>, file: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(fixture(file));
    command
}

/// Runs a program and returns its output.
///
/// # Panics
/// When it does not end in time or does not succeed.
pub(crate) async fn output(name: &'static str, mut command: Command) -> String {
    let home = TempDir::with_prefix("client-").expect("a folder for a client");
    let (log, said) = (home.path().join("log"), home.path().join("said"));
    // SDKs would read these from the environment of the test run.
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "SENTRY_ENVIRONMENT", "SENTRY_RELEASE"] {
        command.env_remove(variable);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let stdout = File::create(&said).expect("a file for a client's output");
    let mut process = Process::start(name, &mut command, &log, Some(stdout));
    let what = format!("{name} flushes and ends");
    let status = eventually(&what, PATIENCE, async || process.ended().ok_or_else(|| process.last_words())).await;
    assert!(status.success(), "{status}: {}", process.last_words());
    fs::read_to_string(said).expect("a client's output")
}

/// Runs a program whose every output line is a promise.
pub(crate) async fn promises(name: &'static str, command: Command) -> Vec<Promise> {
    read(&output(name, command).await)
}

/// Parses promises, a line each.
pub(crate) fn read(text: &str) -> Vec<Promise> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Fails unless there is a promise of each of these types.
pub(crate) fn assert_types(promises: &[Promise], types: &[&str]) {
    for kind in types {
        assert!(promises.iter().any(|promise| promise.item == *kind), "no {kind} in {promises:?}");
    }
}
