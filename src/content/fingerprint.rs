//! Kinds of events: events of one project with the same exception and frame, or with the same message.
//!
//! Rule: a kind is good enough to choose events for comparison, and for nothing else. Numbers in a text do not matter.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use serde_json::Value;

use super::shape;

/// The most characters of a text that count.
const MAX_TEXT: usize = 200;

/// The kind of an error event; `None` when the payload is none. Another version may give the same kind another number.
pub fn fingerprint(project: &str, sent: &[u8]) -> Option<u64> {
    let event = shape::of_event(&super::read(sent).ok()?);
    let mut hasher = DefaultHasher::new();
    project.hash(&mut hasher);
    // The last exception of a chain is the one that was thrown.
    match event["exception"].as_array().and_then(|all| all.last()) {
        Some(thrown) => {
            text(&thrown["type"]).hash(&mut hasher);
            match own_frame(&thrown["frames"]) {
                Some(frame) => (text(&frame["filename"]), text(&frame["function"])).hash(&mut hasher),
                None => text(&thrown["value"]).hash(&mut hasher),
            }
        }
        None => {
            let template = Some(&event["message"]["message"]).filter(|template| !template.is_null());
            text(template.unwrap_or(&event["message"]["formatted"])).hash(&mut hasher);
        }
    }
    Some(hasher.finish())
}

/// The topmost frame of the application, or the topmost of all.
fn own_frame(frames: &Value) -> Option<&Value> {
    let frames = frames.as_array()?;
    frames.iter().rfind(|frame| frame["in_app"] == true).or(frames.last())
}

/// The beginning of a text, without its numbers.
fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().take(MAX_TEXT).filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(event: &Value) -> u64 {
        fingerprint("shop", event.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn kinds_differ_by_project_exception_frame_or_message_and_not_by_numbers() {
        let frame = |function: &str, line: u32| json!({"filename": "app.js", "function": function, "lineno": line, "in_app": true});
        let thrown = |kind: &str, value: &str, frame: &Value| {
            let library = json!({"filename": "lib.js", "function": "call", "in_app": false});
            json!({"exception": {"values": [{"type": "Cause"}, {"type": kind, "value": value, "stacktrace": {"frames": [frame, library]}}]}})
        };
        let one = of(&thrown("TypeError", "x", &frame("f", 1)));
        assert_eq!(one, of(&thrown("TypeError", "y", &frame("f", 2))));
        assert_ne!(one, of(&thrown("RangeError", "x", &frame("f", 1))));
        assert_ne!(one, of(&thrown("TypeError", "x", &frame("g", 1))));
        assert_ne!(Some(one), fingerprint("web", thrown("TypeError", "x", &frame("f", 1)).to_string().as_bytes()));
        let said = |text: &str| of(&json!({"message": text}));
        assert_eq!(said("order 17 failed"), said("order 4 failed"));
        assert_ne!(said("order 17 failed"), said("refund 17 failed"));
        let logged = |template: &str, text: &str| of(&json!({"logentry": {"message": template, "formatted": text}}));
        assert_eq!(logged("%s failed", "a failed"), logged("%s failed", "b failed"));
        assert_ne!(
            of(&json!({"exception": [{"type": "E", "value": "a"}]})),
            of(&json!({"exception": [{"type": "E", "value": "b"}]}))
        );
    }

    #[test]
    fn a_payload_that_is_no_error_event_has_no_kind() {
        for payload in ["", "[]", "7", r#"{"type":"transaction"}"#] {
            assert_eq!(fingerprint("shop", payload.as_bytes()), None, "{payload}");
        }
        of(&json!({}));
        of(&json!({"exception": 7, "message": []}));
    }
}
