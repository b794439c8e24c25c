//! Reads a header line in the plain spelling that SDKs use, in one pass and without a JSON parser.
//!
//! Rule: it reads a line as the parser of [`super::header`] would. It leaves every other line to that parser: escapes, control
//! characters, a repeated key, a value of another type, and text that is no JSON.

use std::ops::Range;

use super::spans::{Fields, HeaderSpans};

/// The depth of nested values; deeper ones are left to the parser.
const DEEPEST: u32 = 8;

/// Reads the line; `None` if it is not plain.
pub(super) fn read(line: &str) -> Option<(HeaderSpans, Fields)> {
    // One pass over the whole line is faster than a check of each byte below.
    if line.bytes().fold(false, |found, byte| found | (byte < b' ')) {
        return None;
    }
    let mut walk = Walk { line: line.as_bytes(), at: 0 };
    let (mut spans, mut fields, mut has_trace) = (HeaderSpans::default(), Fields::default(), false);
    walk.blank();
    walk.members(|walk, key| match &line[key] {
        r#""event_id""# => {
            let span = walk.string()?;
            fields.event_id = Some(line[span.start + 1..span.end - 1].parse().ok()?);
            once(&mut spans.event_id, span)
        }
        r#""dsn""# => once(&mut spans.dsn, walk.string()?),
        r#""sent_at""# => once(&mut spans.sent_at, walk.string()?),
        r#""trace""# if !std::mem::replace(&mut has_trace, true) => walk.members(|walk, key| match &line[key] {
            r#""public_key""# => once(&mut spans.trace_public_key, walk.string()?),
            _ => walk.value(DEEPEST),
        }),
        r#""trace""# => None,
        _ => walk.value(DEEPEST),
    })?;
    walk.blank();
    (walk.at == line.len()).then_some((spans, fields))
}

fn once(slot: &mut Option<Range<usize>>, span: Range<usize>) -> Option<()> {
    slot.replace(span).is_none().then_some(())
}

/// A position in a line. Each step returns `None` if the line is not plain there.
struct Walk<'a> {
    line: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The range of a string without escapes, its quotes included.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.expect(b'"')?;
        self.at += memchr::memchr2(b'"', b'\\', &self.line[self.at..])?;
        self.expect(b'"')?;
        Some(start..self.at)
    }

    /// An object. `value` reads each value and is passed the range of its key.
    fn members(&mut self, mut value: impl FnMut(&mut Self, Range<usize>) -> Option<()>) -> Option<()> {
        self.list(b'{', b'}', |walk| {
            let key = walk.string()?;
            walk.blank();
            walk.expect(b':')?;
            walk.blank();
            value(walk, key)
        })
    }

    fn list(&mut self, open: u8, close: u8, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(open)?;
        self.blank();
        if self.expect(close).is_some() {
            return Some(());
        }
        loop {
            element(self)?;
            self.blank();
            if self.expect(close).is_some() {
                return Some(());
            }
            self.expect(b',')?;
            self.blank();
        }
    }

    /// Any plain value, at most `depth` levels deep.
    fn value(&mut self, depth: u32) -> Option<()> {
        let deeper = depth.checked_sub(1)?;
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.members(|walk, _| walk.value(deeper)),
            b'[' => self.list(b'[', b']', |walk| walk.value(deeper)),
            b'1'..=b'9' => {
                self.at += self.line[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                (!matches!(self.peek(), Some(b'.' | b'e' | b'E'))).then_some(())
            }
            _ => {
                let word = ["true", "false", "null"]
                    .into_iter()
                    .find(|word| self.line[self.at..].starts_with(word.as_bytes()))?;
                self.at += word.len();
                Some(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::header;
    use super::*;

    #[test]
    fn a_line_as_sdks_write_it_is_plain() {
        let id = "9ec79c33ec9942ab8353589fcb2e04dc";
        let line = format!(
            r#"{{"event_id":"{id}","sent_at":"2026-11-28T20:00:00.000Z","sdk":{{"name":"sentry.javascript.node","packages":[{{"a":1}},null]}}, "dsn" : "http://k@h/1","trace":{{"environment":"p","public_key":"k","sampled":true}}}}"#
        );
        let (spans, fields) = read(&line).unwrap();
        let text = |span: Option<Range<usize>>| line[span.unwrap()].to_owned();
        assert_eq!(fields.event_id, id.parse().ok());
        assert_eq!(text(spans.event_id), format!("\"{id}\""));
        assert_eq!(text(spans.sent_at), r#""2026-11-28T20:00:00.000Z""#);
        assert_eq!(text(spans.dsn), r#""http://k@h/1""#);
        assert_eq!(text(spans.trace_public_key), r#""k""#);
        assert_eq!(read("{}"), Some(Default::default()));
    }

    #[test]
    fn a_line_that_is_not_plain_is_left_to_the_parser() {
        for line in [
            "",
            "[]",
            "{} {}",
            r#"{"dsn":"a","dsn":"b"}"#,
            r#"{"trace":{},"trace":{}}"#,
            r#"{"trace":{"public_key":"a","public_key":"b"}}"#,
            r#"{"d\u0073n":"a"}"#,
            r#"{"dsn":"\u0061"}"#,
            r#"{"dsn":null}"#,
            r#"{"event_id":"no id"}"#,
            r#"{"event_id":null}"#,
            r#"{"a":1.5}"#,
            r#"{"a":01}"#,
            r#"{"a":"b",}"#,
            "{\"a\":\"\u{1}\"}",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    fn piece() -> impl Strategy<Value = String> {
        let words = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            " ",
            "\t",
            "\r",
            "\"dsn\"",
            "\"sent_at\"",
            "\"trace\"",
            "\"public_key\"",
            "\"event_id\"",
            "\"9ec79c33ec9942ab8353589fcb2e04dc\"",
            "\"é\"",
            "\"\"",
            "\"d\\u0073n\"",
            "\"\\ud800\"",
            "null",
            "true",
            "falsee",
            "1",
            "-1",
            "0",
            "1.5",
            "1e3",
            "\"",
            "\\",
            "\u{1}",
        ];
        prop::sample::select(words.map(str::to_owned).to_vec())
    }

    fn member() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec!["dsn", "sent_at", "trace", "event_id", "sdk", "public_key"]);
        let value = prop_oneof![
            4 => Just("\"9ec79c33ec9942ab8353589fcb2e04dc\"".to_owned()),
            1 => piece(),
            2 => (piece(), piece()).prop_map(|(key, value)| format!("{{{key}: {value}}}")),
            2 => piece().prop_map(|value| format!("{{ \"public_key\":{value}}}")),
            1 => piece().prop_map(|value| format!("[{value},{{}}]")),
        ];
        (key, value).prop_map(|(key, value)| format!("\"{key}\":{value}"))
    }

    proptest! {
        #[test]
        fn a_plain_line_reads_as_the_parser_reads_it(
            line in prop_oneof![
                prop::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat()),
                prop::collection::vec(member(), 0..5).prop_map(|members| format!("{{{}}}", members.join(", "))),
            ]
        ) {
            if let Some(plain) = read(&line) {
                prop_assert_eq!(header::parse(&line), Ok(plain));
            }
        }
    }
}
