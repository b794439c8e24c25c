//! The crate `sentry`.

use std::sync::Arc;

use sentry::protocol::{Attachment, Event};
use sentry::{Client, ClientOptions, Hub, Level, Scope};
use serde_json::json;

use super::between::Between;
use super::items::Promise;

/// Sends one of everything through a new client; returns the ids of the two events and of the trace.
fn everything(dsn: &str) -> [String; 3] {
    let options = ClientOptions::new().dsn(dsn).release("everything@1.0.0").traces_sample_rate(1.0);
    let client = Arc::new(Client::from(sentry::apply_defaults(options)));
    let hub = Arc::new(Hub::new(Some(Arc::clone(&client)), Arc::new(Scope::default())));
    let ids = Hub::run(hub, || {
        sentry::configure_scope(|scope| scope.set_tag("service", "rust"));
        let plain = sentry::capture_message("low stock", Level::Warning);
        let with_file = sentry::with_scope(
            |scope| {
                let file =
                    Attachment { buffer: vec![0, 10, 13, 255], filename: "raw.bin".into(), ..Default::default() };
                scope.add_attachment(file);
            },
            || sentry::capture_event(Event { message: Some("with a file".into()), ..Event::default() }),
        );
        let transaction = sentry::start_transaction(sentry::TransactionContext::new("POST /checkout", "http.server"));
        transaction.start_child("db", "SELECT 1").finish();
        let trace = transaction.get_trace_context().trace_id;
        transaction.finish();
        [plain.simple().to_string(), with_file.simple().to_string(), trace.to_string()]
    });
    assert!(client.close(None), "everything is flushed");
    ids
}

#[tokio::test]
async fn everything_that_the_rust_crate_sends_reaches_both_upstreams() {
    let between = Between::start().await;
    let dsn = between.relay.dsn();
    let [plain, with_file, trace] = tokio::task::spawn_blocking(move || everything(&dsn)).await.expect("a client");
    let event = |id: &str, message: &str| {
        let tags = ("/tags/service", json!("rust"));
        Promise::of("event", [("/event_id", json!(id)), ("/message", json!(message)), tags])
    };
    let promises = [
        event(&plain, "low stock"),
        event(&with_file, "with a file"),
        Promise::of(
            "transaction",
            [("/contexts/trace/trace_id", json!(trace)), ("/transaction", json!("POST /checkout"))],
        ),
    ];
    let arrived = between.has_brought(&promises).await;
    let file = arrived.iter().find(|item| item.header["type"] == "attachment").expect("an attachment");
    assert_eq!((&file.payload[..], &file.header["filename"]), (&[0, 10, 13, 255][..], &json!("raw.bin")));
    assert_eq!(file.envelope["event_id"].as_str().map(|id| id.replace('-', "")), Some(with_file));
}
