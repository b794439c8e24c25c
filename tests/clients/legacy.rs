//! raven for Python and for Ruby, the clients before the SDKs: they know only the store endpoint.

use super::between::Between;
use super::program;
use crate::install;

#[tokio::test]
async fn events_of_both_ravens_reach_both_upstreams_as_envelopes() {
    let between = Between::start().await;
    let mut python = program::command(install::python_with_raven(), "raven_service.py");
    python.arg(between.relay.dsn());
    let mut ruby = program::command(install::debian("ruby", "ruby-sentry-raven"), "raven_service.rb");
    ruby.arg(between.relay.dsn());
    let (python, ruby) = tokio::join!(
        program::promises("raven (Python)", python),
        program::promises("raven (apt-get install ruby-sentry-raven)", ruby)
    );
    assert_eq!((python.len(), ruby.len()), (2, 2));
    let arrived = between.has_brought(&[python, ruby].concat()).await;
    assert_eq!(arrived.len(), 4);
    assert!(arrived.iter().all(|item| item.envelope["event_id"] == event_id(item)));
}

fn event_id(item: &super::items::Item) -> serde_json::Value {
    let event: serde_json::Value = serde_json::from_slice(&item.payload).expect("an event");
    event["event_id"].clone()
}
