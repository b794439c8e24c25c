//! Tests of envelopes: what is parsed, what is kept, what is refused.

use proptest::prelude::*;

use super::*;

fn parse(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    Envelope::parse(Bytes::copy_from_slice(bytes))
}

fn payloads(envelope: &Envelope) -> Vec<(String, Bytes)> {
    envelope.items().iter().map(|i| (i.kind.name().to_owned(), envelope.payload(i))).collect()
}

#[test]
fn items_with_and_without_length_are_found() {
    let envelope = parse(
        b"{\"event_id\":\"9ec79c33ec9942ab8353589fcb2e04dc\"}\n{\"type\":\"attachment\",\"length\":10}\n\xef\xbb\xbfHello\r\n\n{\"type\":\"event\"}\n{\"a\":1}\r\n{\"type\":\"new_word\"}\n\n",
    )
    .unwrap();
    assert_eq!(envelope.event_id().unwrap().to_string(), "9ec79c33ec9942ab8353589fcb2e04dc");
    let found = payloads(&envelope);
    assert_eq!(found[0].1, &b"\xef\xbb\xbfHello\r\n"[..]);
    assert_eq!(found[1].1, &b"{\"a\":1}\r"[..]);
    assert_eq!(found[2], ("new_word".to_owned(), Bytes::new()));
    assert_eq!(found.len(), 3);
}

#[test]
fn a_header_alone_and_zero_length_items_are_envelopes() {
    assert!(parse(b"{}").unwrap().items().is_empty());
    assert!(parse(b"{}\n").unwrap().items().is_empty());
    let envelope = parse(b"{}\n{\"type\":\"session\",\"length\":0}\n\n{\"type\":\"session\",\"length\":0}\n").unwrap();
    assert_eq!(envelope.items().len(), 2);
    assert_eq!(parse(b"{}\n{\"type\":\"session\",\"length\":0}").unwrap().items().len(), 1);
}

#[test]
fn a_malformed_envelope_gives_the_position() {
    assert_eq!(parse(b"").unwrap_err(), EnvelopeError::Empty);
    assert!(matches!(parse(b"[]").unwrap_err(), EnvelopeError::Header(_)));
    assert!(matches!(parse(b"{} {}").unwrap_err(), EnvelopeError::Header(_)));
    assert!(matches!(parse(b"{\"event_id\":\"x\"}").unwrap_err(), EnvelopeError::Header(_)));
    assert!(matches!(parse(b"{}\n{\"length\":1}\nx").unwrap_err(), EnvelopeError::ItemHeader { at: 3, .. }));
    let eof = EnvelopeError::Eof { at: 31, length: 5, left: 2 };
    assert_eq!(parse(b"{}\n{\"type\":\"event\",\"length\":5}\nab").unwrap_err(), eof);
    let missing = EnvelopeError::MissingNewline { at: 32 };
    assert_eq!(parse(b"{}\n{\"type\":\"event\",\"length\":1}\nab").unwrap_err(), missing);
}

#[test]
fn two_sent_at_keys_are_refused() {
    assert!(parse(b"{\"sent_at\":\"a\",\"sent_at\":\"b\"}").unwrap_err().to_string().contains("sent_at"));
}

#[test]
fn an_oversized_item_is_named_with_its_limit() {
    let mut body = b"{}\n{\"type\":\"client_report\"}\n".to_vec();
    body.resize(body.len() + 100 * 1024 + 1, b'x');
    let error = parse(&body).unwrap_err();
    assert!(error.is_too_large());
    assert_eq!(error.to_string(), "the client_report item has 102401 bytes, more than its limit of 102400");
}

#[test]
fn too_many_items_are_refused_before_they_cost_memory() {
    let body = [b"{}\n".to_vec(), b"{\"type\":\"x\"}\n\n".repeat(MAX_ITEMS + 1)].concat();
    assert_eq!(parse(&body).unwrap_err(), EnvelopeError::TooManyItems);
}

#[test]
fn the_spans_of_a_header_are_the_ranges_of_its_values() {
    let line = br#"{ "dsn" : "http://a@b/1" ,"x":1.50e3,"trace":{"public_key":"k","t":[]},"s\u0065nt_at":"now"}"#;
    let spans = HeaderSpans::locate(line).unwrap();
    let text = |span: Option<Range<usize>>| std::str::from_utf8(&line[span.unwrap()]).unwrap();
    assert_eq!(text(spans.dsn), "\"http://a@b/1\"");
    assert_eq!(text(spans.trace_public_key), "\"k\"");
    assert_eq!(text(spans.sent_at), "\"now\"");
    for unreadable in [r#"{"dsn":"http:\uDfeb"}"#, r#"{"sent_at":"\ud800"}"#, r#"{"trace":{"public_key":"\udc00x"}}"#] {
        assert!(HeaderSpans::locate(unreadable.as_bytes()).is_err(), "{unreadable}");
    }
    assert!(HeaderSpans::locate(br#"{"dsn":"\ud83d\ude00"}"#).unwrap().dsn.is_some());
    let absent = HeaderSpans::locate(br#"{"dsn":null,"trace":{"a":1},"sent_at":5}"#).unwrap();
    assert_eq!(absent, HeaderSpans::default());
}

#[test]
fn a_selection_of_items_keeps_their_bytes() {
    let body = b"{\"k\":1}\n{\"type\":\"event\"}\n{}\n{ \"type\":\"attachment\",\"length\":3 }\n\n\0\n\n{\"type\":\"session\"}\ns";
    let envelope = parse(body).unwrap();
    assert_eq!(envelope.with_items(|i| i == 1), &b"{\"k\":1}\n{ \"type\":\"attachment\",\"length\":3 }\n\n\0\n\n"[..]);
    assert_eq!(envelope.quantities().to_string(), "error=1 attachment=3 attachment_item=1 session=1");
    assert_eq!(envelope.quantities_of(|i| i == 2).to_string(), "session=1");
}

#[test]
fn the_first_crash_report_makes_the_event_where_there_is_none() {
    let crash = |kind: &str| format!("{{\"type\":\"attachment\",\"attachment_type\":\"{kind}\",\"length\":1}}\nx\n");
    let counts =
        |items: &[&str]| parse(format!("{{}}\n{}", items.concat()).as_bytes()).unwrap().quantities().to_string();
    let (dump, apple) = (crash("event.minidump"), crash("event.applecrashreport"));
    let (file, event) = (crash("event.attachment"), "{\"type\":\"event\"}\n{}\n");
    assert_eq!(counts(&[&file, &dump, &apple]), "attachment=3 attachment_item=3 error=1");
    assert_eq!(counts(&[&dump, event]), "attachment=1 attachment_item=1 error=1");
    assert_eq!(counts(&["{\"type\":\"unreal_report\"}\nx\n"]), "error=1");
    assert_eq!(counts(&[event, "{\"type\":\"unreal_report\"}\nx\n"]), "error=1 unknown=1");
    // Without the event, the crash report makes one.
    let envelope = parse(format!("{{}}\n{event}{dump}").as_bytes()).unwrap();
    assert_eq!(envelope.quantities_of(|i| i == 1).to_string(), "attachment=1 attachment_item=1");
    let alone = envelope.quantities_without_others(|i| i == 1);
    assert_eq!(alone, parse(&envelope.with_items(|i| i == 1)).unwrap().quantities());
    assert_eq!(alone.to_string(), "error=1 attachment=1 attachment_item=1");
}

#[test]
fn items_in_another_order_keep_their_bytes() {
    let body = b"{\"k\":1}\n\n{\"type\":\"event\"}\n{}\r\n{ \"type\":\"attachment\",\"length\":3 }\n\n\0\n\n\n{\"type\":\"x_empty\"}";
    let expected = b"{\"k\":1}\n{\"type\":\"x_empty\"}\n\n{ \"type\":\"attachment\",\"length\":3 }\n\n\0\n\n{\"type\":\"event\"}\n{}\r\n";
    let reordered = parse(body).unwrap().in_order(&[2, 1, 0]);
    assert_eq!(reordered, &expected[..]);
    let names: Vec<String> = payloads(&parse(&reordered).unwrap()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x_empty", "attachment", "event"]);
}

#[test]
fn the_length_of_every_header_line_is_bounded() {
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_LINE));
    assert_eq!(parse(long.as_bytes()).unwrap_err(), EnvelopeError::LongLine { at: 0 });
    assert_eq!(parse(format!("{long}\n").as_bytes()).unwrap_err(), EnvelopeError::LongLine { at: 0 });
    let in_item = parse(format!("{{}}\n\n{long}\n").as_bytes()).unwrap_err();
    assert_eq!(in_item, EnvelopeError::LongLine { at: 4 });
    let longest = format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_LINE - 8));
    assert!(parse(longest.as_bytes()).is_ok());
}

/// The outline from pieces of these sizes. With `skip`, payloads are skipped.
fn in_pieces(bytes: &[u8], sizes: &[usize], skip: bool) -> Result<Outline, EnvelopeError> {
    let (mut scanner, mut rest, mut sizes) = (Scanner::new(), bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let far = usize::try_from(scanner.payload_left()).unwrap().min(rest.len());
        if skip && far > 0 {
            scanner.skip(far as u64);
            rest = &rest[far..];
            continue;
        }
        let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        scanner.push(&Bytes::copy_from_slice(piece))?;
        rest = after;
    }
    scanner.finish()
}

fn whole(bytes: &[u8]) -> Result<Outline, EnvelopeError> {
    parse(bytes).map(Envelope::into_outline)
}

#[test]
fn blank_lines_are_detected_and_nothing_else_is() {
    for (text, has) in [
        ("{}", false),
        ("{}\n", false),
        ("{}\n\n", true),
        ("{}\n{\"type\":\"x\"}\n\n{\"type\":\"x\",\"length\":2}\n\n\n\n", false),
        ("{}\n{\"type\":\"x\"}\na\n\n{\"type\":\"x\"}", true),
        ("{}\n{\"type\":\"x\"}\na\n\n", true),
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap().has_blank_line(), has, "{text}");
    }
}

proptest! {
    #[test]
    fn an_envelope_parses_alike_in_one_piece_and_in_many(
        text in r#"\{\}\n(\{"type":"(event|x)"(,"length":[0-9]{1,2})?\}|\{"type":"client_report","length":102401\}|\n|\n\n|[a-z\r]{0,9}){0,14}"#,
        sizes in proptest::collection::vec(1_usize..20, 1..5),
        skip: bool,
    ) {
        prop_assert_eq!(in_pieces(text.as_bytes(), &sizes, skip), whole(text.as_bytes()));
    }

    #[test]
    fn arbitrary_bytes_parse_alike_in_one_piece_and_in_many(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        sizes in proptest::collection::vec(1_usize..50, 1..5),
        skip: bool,
    ) {
        prop_assert_eq!(in_pieces(&bytes, &sizes, skip), whole(&bytes));
        let bytes = [b"{}\n", &bytes[..]].concat();
        prop_assert_eq!(in_pieces(&bytes, &sizes, skip), whole(&bytes));
    }

    #[test]
    fn arbitrary_bytes_never_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(parse(&bytes));
        drop(HeaderSpans::locate(&bytes));
    }

    #[test]
    fn text_like_an_envelope_never_makes_the_parser_panic(text in r#"(\{("(type|length|dsn|sent_at|trace)":("event"|-?[0-9]{1,12}|\{\}|null),?){0,3}\}|\n|x){0,12}"#) {
        if let Ok(envelope) = parse(text.as_bytes()) {
            prop_assert_eq!(&envelope.bytes()[..], text.as_bytes());
        }
    }

    #[test]
    fn a_written_envelope_reads_back(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6)) {
        let mut body = b"{}".to_vec();
        for payload in &payloads {
            body.extend(format!("\n{{\"type\":\"attachment\",\"length\":{}}}\n", payload.len()).bytes());
            body.extend(payload);
        }
        body.push(b'\n');
        let envelope = parse(&body).unwrap();
        prop_assert_eq!(&envelope.with_items(|_| true)[..], &body[..]);
        let read: Vec<Bytes> = envelope.items().iter().map(|item| envelope.payload(item)).collect();
        prop_assert_eq!(read, payloads);
    }
}
