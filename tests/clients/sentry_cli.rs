//! `sentry-cli` commands that use a DSN: events from the command line and from a file, stored envelopes, check-ins.

use std::process::Command;

use serde_json::json;

use super::between::Between;
use super::items::Promise;
use super::program;
use crate::install;

#[tokio::test]
async fn events_envelopes_and_check_ins_of_sentry_cli_reach_both_upstreams() {
    let between = Between::start().await;
    let cli = |arguments: &[&str]| {
        let mut command = Command::new(install::sentry_cli());
        command.env("SENTRY_DSN", between.relay.dsn()).args(arguments);
        program::output("sentry-cli", command)
    };
    let said =
        cli(&["send-event", "--message", "it broke", "--tag", "service:cli", "--release", "everything@1.0.0"]).await;
    let id = said.lines().find_map(|line| line.strip_prefix("Event id: ")).expect("an event's id");
    let stored = "fixtures/record/programs";
    cli(&["send-event", "--raw", &format!("{stored}/event.json")]).await;
    cli(&["send-envelope", "--raw", &format!("{stored}/raw.envelope")]).await;
    cli(&["monitors", "run", "nightly", "--", "true"]).await;
    let event = [
        ("/event_id", json!(id.replace('-', ""))),
        ("/logentry/message", json!("it broke")),
        ("/tags/service", json!("cli")),
        ("/release", json!("everything@1.0.0")),
    ];
    let check_in =
        |status: &str| Promise::of("check_in", [("/monitor_slug", json!("nightly")), ("/status", json!(status))]);
    let promises = [
        Promise::of("event", event),
        Promise::of("event", [("/message", json!("nightly import failed")), ("/server_name", json!("shop-1"))]),
        Promise::of("event", [("/message", json!("stored, then sent"))]),
        Promise::of("x_shop_unknown", []),
        check_in("in_progress"),
        check_in("ok"),
    ];
    between.has_brought(&promises).await;
}
