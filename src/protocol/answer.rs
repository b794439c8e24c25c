//! The text of an upstream's answer, as a person reads it: of a web page the title is enough.

use std::borrow::Cow;

/// What is said of a page that has no title.
const UNTITLED: &str = "a web page without a title";

/// Whether the text is a web page, and not what an API answers with.
pub fn is_page(text: &str) -> bool {
    // A page may begin with a byte order mark, a declaration of XML, a comment.
    let text = text.trim_start_matches('\u{feff}').trim_ascii_start();
    text.starts_with('<') && ["<!doctype html", "<html", "<title"].iter().any(|tag| find(text, tag).is_some())
}

/// The answer in few words: a web page's title, any other text as it is without the space around it.
pub fn gist(text: &str) -> Cow<'_, str> {
    match is_page(text) {
        true => title(text).map_or(Cow::Borrowed(UNTITLED), Cow::Owned),
        false => Cow::Borrowed(text.trim()),
    }
}

/// The first title of a page, with every run of space as one.
fn title(page: &str) -> Option<String> {
    let after = &page[find(page, "<title")?..];
    let inner = &after[after.find('>')? + 1..];
    let inner = &inner[..find(inner, "</title").unwrap_or(inner.len())];
    let words: Vec<&str> = inner.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Where a tag begins, whatever its case.
fn find(text: &str, tag: &str) -> Option<usize> {
    text.as_bytes().windows(tag.len()).position(|window| window.eq_ignore_ascii_case(tag.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_its_title_and_any_other_text_is_itself() {
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
