//! `sentry-sdk`: the newest version, and the last one that posted errors to the store endpoint.

use super::between::Between;
use super::program;
use crate::install;

#[tokio::test]
async fn everything_that_pythons_sdk_sends_reaches_both_upstreams() {
    let between = Between::start().await;
    let mut command = program::command(install::python_with_sdk(), "python_everything.py");
    command.arg(between.relay.dsn());
    let promises = program::promises("sentry-sdk", command).await;
    let types = ["event", "attachment", "transaction", "check_in", "log", "trace_metric", "session"];
    program::assert_types(&promises, &types);
    between.has_brought(&promises).await;
}

#[tokio::test]
async fn everything_that_pythons_sdk_1_5_sends_reaches_both_upstreams() {
    let between = Between::start().await;
    let mut command = program::command(install::python_with_old_sdk(), "python_everything.py");
    command.arg(between.relay.dsn());
    let promises = program::promises("sentry-sdk 1.5", command).await;
    program::assert_types(&promises, &["event", "attachment", "transaction", "session"]);
    between.has_brought(&promises).await;
}
