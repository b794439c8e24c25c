//! What changes on the way out, and nothing else: the header line's `dsn`, `trace.public_key`, and `sent_at` when we held the
//! envelope; and `event_id` when an envelope of several events goes out as several. Every other byte of the line stays where it is; the items are not even looked at.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::protocol::dsn::Dsn;
use crate::protocol::envelope::HeaderSpans;
use crate::protocol::event_id::EventId;

/// An envelope kept for less than this was not held: clocks differ by more, and its header stays as it is.
const HELD: Duration = Duration::from_secs(1);

/// The header line for the upstream, without its newline, and the rest of the envelope, newline first. Both share the
/// memory of `envelope` where nothing changed. `event_id` replaces that of the envelope.
pub(super) fn rewrite(envelope: &Bytes, dsn: &Dsn, dwell: Duration, event_id: Option<EventId>) -> (Bytes, Bytes) {
    let end = memchr::memchr(b'\n', envelope).unwrap_or(envelope.len());
    (rewrite_line(&envelope.slice(..end), dsn, dwell, event_id), envelope.slice(end..))
}

/// The header line for the upstream, both without their newline.
pub(super) fn rewrite_line(line: &Bytes, dsn: &Dsn, dwell: Duration, event_id: Option<EventId>) -> Bytes {
    // The line was read before it was accepted; if it cannot be read now, it goes out as it came.
    let Ok(spans) = HeaderSpans::locate(line) else { return line.clone() };
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    if let Some(span) = spans.dsn {
        edits.push((span, quoted(&dsn.reveal())));
    }
    if let Some(span) = spans.trace_public_key {
        edits.push((span, quoted(dsn.public_key())));
    }
    if let (Some(span), Some(id)) = (spans.event_id, event_id) {
        edits.push((span, quoted(&id.to_string())));
    }
    if let Some(span) = spans.sent_at.filter(|_| dwell >= HELD) {
        let moved = serde_json::from_slice::<String>(&line[span.clone()]).ok().and_then(|at| moved(&at, dwell));
        edits.extend(moved.map(|at| (span, quoted(&at))));
    }
    if edits.is_empty() {
        return line.clone();
    }
    edits.sort_by_key(|(span, _)| span.start);
    apply(line, &edits).into()
}

fn apply(line: &[u8], edits: &[(Range<usize>, String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len() + 64);
    let mut at = 0;
    for (span, text) in edits {
        out.extend_from_slice(&line[at..span.start]);
        out.extend_from_slice(text.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(&line[at..]);
    out
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `sent_at` later by the time we held the envelope, so that no tracker takes the delay for a wrong clock and shifts the
/// event (getsentry/relay, `relay-event-normalization/src/clock_drift.rs`: from 55 minutes on). `None` when it is no date.
fn moved(sent_at: &str, dwell: Duration) -> Option<String> {
    let at = OffsetDateTime::parse(sent_at, &Rfc3339).ok()?.checked_add(dwell.try_into().ok()?)?;
    let second = at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]")).ok()?;
    // Fraction and offset are spelled as they were: strict readers expect the form they always got.
    let tail = sent_at.get(19..)?;
    let offset = tail.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let fraction = match tail.len() - offset.len() {
        0 => String::new(),
        digits => format!(".{:0<width$.width$}", format!("{:09}", at.nanosecond()), width = digits - 1),
    };
    Some(format!("{second}{fraction}{offset}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(envelope: &'static str, dwell_secs: u64) -> String {
        let dsn = "https://new_key@tracker.example:9000/prefix/42".parse().unwrap();
        let (line, rest) =
            rewrite(&Bytes::from_static(envelope.as_bytes()), &dsn, Duration::from_secs(dwell_secs), None);
        format!("{}{}", std::str::from_utf8(&line).unwrap(), std::str::from_utf8(&rest).unwrap())
    }

    #[test]
    fn only_what_addresses_the_envelope_changes() {
        let envelope = concat!(
            r#"{ "x" : 1.50e+3,"dsn":"http://old@h/1", "trace":{"trace_id":"t","public_key" : "old"},"sdk":{"dsn":"kept"}}"#,
            "\n{\"type\":\"event\"}\n{\"dsn\":\"kept\"}"
        );
        let expected = concat!(
            r#"{ "x" : 1.50e+3,"dsn":"https://new_key@tracker.example:9000/prefix/42", "trace":{"trace_id":"t","public_key" : "new_key"},"sdk":{"dsn":"kept"}}"#,
            "\n{\"type\":\"event\"}\n{\"dsn\":\"kept\"}"
        );
        assert_eq!(out(envelope, 0), expected);
    }

    #[test]
    fn what_is_absent_stays_absent() {
        for envelope in ["{}", "{}\n", "{\"trace\":{}}\n{\"type\":\"x\"}\n", "{\"dsn\":null,\"sent_at\":null}"] {
            assert_eq!(out(envelope, 7200), envelope);
        }
    }

    #[test]
    fn sent_at_moves_by_the_time_it_was_held_and_keeps_its_spelling() {
        for (before, held, after) in [
            ("2026-11-23T10:00:00.250Z", 7200, "2026-11-23T12:00:00.250Z"),
            ("2026-11-23T23:59:59.123456Z", 60, "2026-11-24T00:00:59.123456Z"),
            ("2026-11-23T10:00:00.000Z", 60, "2026-11-23T10:01:00.000Z"),
            ("2026-11-23T10:00:00Z", 60, "2026-11-23T10:01:00Z"),
            ("2026-11-23T10:00:00+02:00", 60, "2026-11-23T10:01:00+02:00"),
            ("2026-11-23T10:00:00.250Z", 0, "2026-11-23T10:00:00.250Z"),
            ("yesterday", 60, "yesterday"),
        ] {
            let envelope: &'static str = format!("{{\"sent_at\":\"{before}\"}}\n").leak();
            assert_eq!(out(envelope, held), format!("{{\"sent_at\":\"{after}\"}}\n"));
        }
    }

    #[test]
    fn an_event_that_goes_alone_goes_under_its_own_id() {
        let envelope = Bytes::from_static(b"{\"event_id\":\"00000000-0000-0000-0000-000000000001\",\"x\": 1}\n");
        let (line, _) = rewrite(&envelope, &"http://k@h/1".parse().unwrap(), Duration::ZERO, Some(2.into()));
        assert_eq!(line, r#"{"event_id":"00000000000000000000000000000002","x": 1}"#);
        let (line, _) =
            rewrite(&Bytes::from_static(b"{}\n"), &"http://k@h/1".parse().unwrap(), Duration::ZERO, Some(2.into()));
        assert_eq!(line, "{}", "absent stays absent");
    }

    #[test]
    fn an_envelope_with_nothing_to_change_is_not_copied() {
        let envelope = Bytes::from_static(b"{\"event_id\":\"x\"}\n{\"type\":\"event\"}\n{}");
        let (line, rest) = rewrite(&envelope, &"http://k@h/1".parse().unwrap(), Duration::ZERO, None);
        assert_eq!(line.as_ptr(), envelope.as_ptr());
        assert_eq!(rest.as_ptr().addr(), envelope.as_ptr().addr() + line.len());
    }
}
