//! The text of an upstream's answer: whether a tracker answers like this, and what a person reads of it. Of a web page only the title.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The answer of an upstream that has taken an envelope. It is never a web page: captive portals, gateways and servers at a wrong port
/// answer with pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Any text but a web page.
    Anything,
    /// `{"id": …}`, `{}` or nothing.
    Id,
    /// As `Id`, but an empty body of type `text/html` is excluded.
    IdWithoutHtml,
}

/// A length in bytes that no tracker's answer reaches.
const LONGEST: usize = 1024;

impl Expected {
    /// Whether something other than such an upstream answered. `text` is the beginning of the body; `is_html` says whether its type is
    /// `text/html`. An object that breaks off within `LONGEST` bytes is not excluded.
    pub fn excludes(self, text: &str, is_html: bool) -> bool {
        match (self, text.trim_ascii()) {
            (_, text) if is_page(text) => true,
            (Self::Anything, _) => false,
            (expected, "") => is_html && expected == Self::IdWithoutHtml,
            (_, text) => !may_tell_an_id(text),
        }
    }
}

fn may_tell_an_id(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Told {
        id: Option<IgnoredAny>,
        event_id: Option<IgnoredAny>,
    }
    let Some(inside) = text.strip_prefix('{') else { return false };
    if inside.starts_with("\"id\":") || inside.starts_with('}') {
        return true;
    }
    match serde_json::from_str(text) {
        Ok(Told { id, event_id }) => id.is_some() || event_id.is_some(),
        Err(error) => error.is_eof() && text.len() < LONGEST,
    }
}

/// The gist of a page without a title.
const UNTITLED: &str = "a web page without a title";

/// Whether the text is a web page.
pub fn is_page(text: &str) -> bool {
    // A page may begin with a byte order mark, an XML declaration or a comment.
    let text = text.trim_start_matches('\u{feff}').trim_ascii_start();
    text.starts_with('<') && ["<!doctype html", "<html", "<title"].iter().any(|tag| find(text, tag).is_some())
}

/// The answer in short: the title of a web page, or any other text with the space around it removed.
pub fn gist(text: &str) -> Cow<'_, str> {
    match is_page(text) {
        true => title(text).map_or(Cow::Borrowed(UNTITLED), Cow::Owned),
        false => Cow::Borrowed(text.trim()),
    }
}

/// The first title of a page, with each run of whitespace as one space.
fn title(page: &str) -> Option<String> {
    let after = &page[find(page, "<title")?..];
    let inner = &after[after.find('>')? + 1..];
    let inner = &inner[..find(inner, "</title").unwrap_or(inner.len())];
    let words: Vec<&str> = inner.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// The position of a tag, compared without case.
fn find(text: &str, tag: &str) -> Option<usize> {
    text.as_bytes().windows(tag.len()).position(|window| window.eq_ignore_ascii_case(tag.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_upstream_excludes_answers_of_other_servers() {
        use Expected::{Anything, Id, IdWithoutHtml};
        let all = [Anything, Id, IdWithoutHtml];
        for (text, excluded_by) in [
            ("{\"id\":\"fc6d8c0c43fc4630ad850ee518f1b9d0\"}", &[][..]),
            ("{\"id\": null}", &[]),
            ("{}\n", &[]),
            ("", &[]),
            ("{\n \"status\": \"queued\", \"event_id\": \"1\"}", &[]),
            // A body that broke off.
            ("{\"i", &[]),
            ("OK", &[Id, IdWithoutHtml]),
            ("{\"ok\":true}", &[Id, IdWithoutHtml]),
            ("{ok: true}", &[Id, IdWithoutHtml]),
            ("[]", &[Id, IdWithoutHtml]),
            ("null", &[Id, IdWithoutHtml]),
            ("<Error/>", &[Id, IdWithoutHtml]),
            (&format!("{{\"text\":\"{}", "x".repeat(2000)), &[Id, IdWithoutHtml]),
            ("<html><title>Sign in</title>", &all),
        ] {
            for expected in all {
                assert_eq!(expected.excludes(text, false), excluded_by.contains(&expected), "{expected:?} {text}");
            }
        }
        assert_eq!(all.map(|expected| expected.excludes("", true)), [false, false, true]);
        assert!(all.iter().all(|expected| !expected.excludes("{}", true)), "the text says more than its type");
    }

    #[test]
    fn the_gist_of_a_page_is_its_title_and_other_text_is_kept() {
        for (text, told) in [
            ("\n<!doctype html>\n<html><head><title>Server\n Error (500)</title></head>…", "Server Error (500)"),
            ("<HTML><TITLE lang=en>Not Found</TITLE>", "Not Found"),
            ("<html><body>down</body></html>", UNTITLED),
            ("<html><title></title>", UNTITLED),
            ("<html><title>cut off he", "cut off he"),
            ("\u{feff}<!-- of a proxy --><HTML>x", UNTITLED),
            ("<?xml version=\"1.0\"?><html/>", UNTITLED),
            ("<?xml version=\"1.0\"?><html><title>Überlastet</title>", "Überlastet"),
            (" {\"detail\": \"<title>\"} ", "{\"detail\": \"<title>\"}"),
            ("<Error><Code>AccessDenied</Code></Error>", "<Error><Code>AccessDenied</Code></Error>"),
            ("", ""),
        ] {
            assert_eq!(gist(text), told, "{text:?}");
        }
    }
}
