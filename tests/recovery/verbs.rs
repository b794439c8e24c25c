//! Verbs of the command line on a running relay.

use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;

use crate::support::relay::Relay;

/// The result of a verb: exit code, standard output, standard error.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }
}

/// Runs a verb while servers of this test keep running.
pub(crate) async fn verb(relay: &Relay, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(args).arg("--config").arg(relay.config()).env("NO_COLOR", "1").timeout(Duration::from_secs(60));
    let output = tokio::task::spawn_blocking(move || command.output().expect("the binary")).await.expect("it ends");
    Ended {
        code: output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}")),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
