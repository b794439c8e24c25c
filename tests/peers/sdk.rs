//! Services that report through real SDKs: programs of `fixtures/clients`, run with a plan, and the events they say they captured.
//!
//! Rule: an event counts as sent once the SDK returned its id, whether anybody received it or not. It does not know who answers at the DSN.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::install;
use crate::support::eventually::eventually;
use crate::support::process::Process;

/// The work of a service before it flushes and ends.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan {
    /// Exceptions to capture, with the messages `msg-0`, `msg-1`, …
    pub(crate) errors: u32,
    /// Transactions to send after them, named `work-0`, `work-1`, …
    pub(crate) transactions: u32,
    /// Whether transactions carry a profile (Node only).
    pub(crate) profile: bool,
    /// The pause between two of them.
    pub(crate) pause: Duration,
}

/// One event or transaction that an SDK captured.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Captured {
    /// `error` or `transaction`.
    pub(crate) kind: String,
    /// 32 hex digits.
    pub(crate) event_id: String,
    /// The exception's message or the transaction's name.
    pub(crate) message: String,
}

/// The result of a service's run.
pub(crate) struct Run {
    /// In the order of capture.
    pub(crate) captured: Vec<Captured>,
    /// Success if the SDK flushed everything in time.
    pub(crate) status: ExitStatus,
}

/// A running service, killed when dropped.
pub(crate) struct Service {
    /// The value of the tag `service` on its errors.
    pub(crate) name: &'static str,
    home: TempDir,
    process: Process,
}

impl Service {
    /// A service with `@sentry/node`.
    pub(crate) fn node(dsn: &str, plan: &Plan) -> Self {
        let mut command = Command::new("node");
        command.env("NODE_PATH", install::node_modules()).arg(program("node-service.cjs"));
        Self::start("node", command, dsn, plan)
    }

    /// A service with `sentry-sdk`.
    pub(crate) fn python(dsn: &str, plan: &Plan) -> Self {
        let mut command = Command::new(install::python_with_sdk());
        command.arg(program("python_service.py"));
        Self::start("python", command, dsn, plan)
    }

    fn start(name: &'static str, mut command: Command, dsn: &str, plan: &Plan) -> Self {
        let home = TempDir::with_prefix("service-").expect("a folder for a service");
        let plan = json!({
            "dsn": dsn,
            "errors": plan.errors,
            "transactions": plan.transactions,
            "profile": plan.profile,
            "pause_ms": u64::try_from(plan.pause.as_millis()).expect("a short pause"),
        });
        command.arg(plan.to_string());
        // SDKs would read these from the environment of the test run.
        for variable in
            ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "SENTRY_ENVIRONMENT", "SENTRY_RELEASE"]
        {
            command.env_remove(variable);
        }
        let stdout = File::create(home.path().join("captured")).expect("a file for a service's output");
        let process = Process::start(name, &mut command, &home.path().join("log"), Some(stdout));
        Self { name, home, process }
    }

    /// The events captured so far.
    pub(crate) fn captured(&self) -> Vec<Captured> {
        let said = fs::read_to_string(self.home.path().join("captured")).expect("a service's output");
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line for each captured event")).collect()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `within`.
    pub(crate) async fn finished(mut self, within: Duration) -> Run {
        let what = format!("the {} service flushes and ends", self.name);
        let status =
            eventually(&what, within, async || self.process.ended().ok_or_else(|| self.process.last_words())).await;
        Run { captured: self.captured(), status }
    }
}

/// Fails unless `event` has everything that the service `name` put into the error it `captured`.
pub(crate) fn assert_intact(name: &str, captured: &Captured, event: &Value) {
    let Captured { event_id, message, .. } = captured;
    let turn = message.strip_prefix("msg-").expect("an error's message");
    let number: u32 = turn.parse().expect("an error's number");
    assert_eq!(event["event_id"], *event_id.as_str(), "{event}");
    assert_eq!(event["exception"]["values"][0]["value"], *message.as_str(), "{event}");
    assert_eq!(event["tags"], json!({ "service": name, "turn": turn }), "{event}");
    assert_eq!(
        event["user"],
        json!({ "id": format!("user-{turn}"), "email": format!("user-{turn}@example.com") }),
        "{event}"
    );
    assert_eq!(
        event["extra"]["order"],
        json!({ "number": number, "note": "snowman \u{2603}, quote \", tab \t" }),
        "{event}"
    );
    // Node sends a list, Python a list in an object; both are valid.
    let crumbs = event["breadcrumbs"].as_array().or_else(|| event["breadcrumbs"]["values"].as_array());
    let crumb = crumbs.and_then(|crumbs| crumbs.iter().find(|crumb| crumb["message"] == *format!("before {message}")));
    let crumb = crumb.unwrap_or_else(|| panic!("no breadcrumb in {event}"));
    assert_eq!(crumb["data"], json!({ "step": number }), "{event}");
}

fn program(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/clients").join(file)
}
