//! `@sentry/node`: the first users' version with its profiler, and the newest version.

use std::path::PathBuf;
use std::process::Command;

use super::between::Between;
use super::items::Promise;
use super::program;
use crate::install;

fn everything(modules: PathBuf, dsn: &str) -> Command {
    let mut command = program::command("node", "node-everything.cjs");
    command.arg(dsn).env("NODE_PATH", modules);
    command
}

fn has_everything(promises: &[Promise], spans: &[&str]) {
    let kinds = ["event", "attachment", "client_report", "session", "check_in", "log", "trace_metric", "feedback"];
    program::assert_types(promises, &[&kinds, spans].concat());
}

#[tokio::test]
async fn everything_that_node_10_24_and_its_profiler_send_reaches_both_upstreams() {
    let between = Between::start().await;
    let mut command = everything(install::node_modules(), &between.relay.dsn());
    command.arg("profile");
    let promises = program::promises("@sentry/node 10.24", command).await;
    has_everything(&promises, &["transaction", "profile"]);
    between.has_brought(&promises).await;
}

#[tokio::test]
async fn everything_that_the_newest_node_sdk_sends_reaches_both_upstreams() {
    let between = Between::start().await;
    let promises =
        program::promises("@sentry/node", everything(install::newest_node_modules(), &between.relay.dsn())).await;
    has_everything(&promises, &["span"]);
    between.has_brought(&promises).await;
}
