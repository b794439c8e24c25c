//! Hides the secrets of a configuration file in the text that diagnostics show.
//!
//! Rule: each hidden character is replaced by one of the same width and number of bytes, so that lines, columns and spans keep their
//! places. Line breaks, quotes and `${…}` references stay visible. In doubt a value is hidden. A broken file has no reliable tree, so a
//! second pass looks at single lines.

use std::ops::Range;

use toml::de::DeValue;

use crate::protocol::dsn::Dsn;

use super::tree::{Path, Segment, Tree};

/// Keys whose value is hidden wherever they occur.
const SECRET_KEYS: [&str; 8] =
    ["public_key", "token", "dsn", "key", "secret", "secret_key", "password", "authorization"];

/// Whether the value at `path` is a secret: a key, a token, a DSN, or a value in the place of one.
pub(super) fn is_secret(path: &Path) -> bool {
    let segments = path.segments();
    let named = segments.iter().any(|segment| matches!(segment, Segment::Key(key) if is_secret_key(key)));
    let key = |position: usize| match segments.get(position) {
        Some(Segment::Key(key)) => Some(key.as_str()),
        _ => None,
    };
    let projects = key(0) == Some("projects");
    let notified = key(0) == Some("notify") && key(2) == Some("url");
    let database = key(0) == Some("journal") && key(1) == Some("url");
    let added = key(0) == Some("upstreams") && matches!(key(2), Some("headers" | "proxy"));
    named
        || notified
        || database
        || added
        || (projects && (segments.len() <= 2 || key(1) == Some("upstreams") || key(2) == Some("upstreams")))
}

/// The text of the file with its secrets hidden.
pub(super) fn source(text: &str, tree: &Tree<'_>) -> String {
    let mut hidden = vec![];
    for (path, span, leaf) in tree.leaves() {
        let Some(written) = text.get(span.clone()) else { continue };
        if !is_secret(&path) {
            continue;
        }
        match leaf {
            DeValue::String(value) if is_plain_dsn(value) => {} // its key is hidden as a URL's user name, below
            _ => hidden.extend(secret_parts(written).into_iter().map(|part| shifted(part, span.start))),
        }
    }
    let mut section = String::new();
    for (start, line) in lines(text) {
        hidden.extend(suspicious(line, &mut section).into_iter().map(|part| shifted(part, start)));
    }
    hidden.extend(user_names(text));
    replace(text, &hidden)
}

/// `message` with the user names of URLs and control characters hidden.
pub(super) fn message(message: &str) -> String {
    replace(message, &user_names(message))
}

fn is_secret_key(key: &str) -> bool {
    SECRET_KEYS.iter().any(|secret| secret.eq_ignore_ascii_case(key))
}

fn is_plain_dsn(value: &str) -> bool {
    value.parse::<Dsn>().is_ok() && !value.contains(['?', '#', '\\']) && value.matches("://").count() == 1
}

/// The user names of URLs: everything between `://` and the last `@` of the URL.
fn user_names(text: &str) -> Vec<Range<usize>> {
    let starts = text.match_indices("://").map(|(position, found)| position + found.len());
    let ranges = starts.filter_map(|start| {
        let rest = &text[start..];
        let url = &rest[..rest.find(|c: char| c.is_whitespace() || "\"'`".contains(c)).unwrap_or(rest.len())];
        // `<key>` stands for a key in our own words, and hides none.
        let end = url.rfind('@').filter(|end| &url[..*end] != "<key>")?;
        Some(secret_parts(&url[..end]).into_iter().map(move |part| shifted(part, start)))
    });
    ranges.flatten().collect()
}

/// The parts of a written value to hide: all but quotes at its ends and references.
fn secret_parts(written: &str) -> Vec<Range<usize>> {
    let quote = |c: char| c == '"' || c == '\'';
    let start = written.len() - written.trim_start_matches(quote).len();
    let end = start + written[start..].trim_end_matches(quote).len();
    let mut parts = vec![];
    let mut from = start;
    while let Some(reference) = written[from..end].find("${") {
        let reference = from + reference;
        let Some(length) = written[reference..end].find('}') else { break };
        parts.push(from..reference);
        from = reference + length + 1;
    }
    parts.push(from..end);
    parts
}

/// The parts of a line that may be secret, even if the file is broken. `section` is the name in the last header, which this updates.
fn suspicious(line: &str, section: &mut String) -> Vec<Range<usize>> {
    let bare = line.trim_start_matches(|c: char| c.is_whitespace() || c == '#');
    let header = bare.split('#').next().unwrap_or_default();
    if header.starts_with('[') && !header.contains('=') {
        *section = header.chars().filter(|c| !c.is_whitespace() && !"[]\"'".contains(*c)).collect();
    }
    let Some(equals) = line.find('=') else { return vec![] };
    let is_address = section == "notify" || section == "journal" || line[..equals].contains("journal");
    let is_address = is_address && line[..equals].trim_end_matches([' ', '\t', '"', '\'']).ends_with("url");
    let is_header = section.ends_with(".headers") || line[..equals].contains("headers");
    if is_address || is_header || section.starts_with("projects.upstreams") || line[..equals].contains("upstreams") {
        return after_equals(line, equals);
    }
    let assignments = line.match_indices('=').map(|(position, _)| position);
    let secret = |position: &usize| {
        let key = line[..*position].trim_end().trim_end_matches(['"', '\'']);
        key.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().is_some_and(is_secret_key)
    };
    assignments.filter(secret).flat_map(|position| after_equals(line, position)).collect()
}

/// The value after an equals sign, to its closing quote if it has one, else to the end of the line. Empty for a plain DSN.
fn after_equals(line: &str, equals: usize) -> Vec<Range<usize>> {
    let rest = &line[equals + 1..];
    let start = equals + 1 + (rest.len() - rest.trim_start().len());
    let value = line[start..].trim_end();
    let value = match value.chars().next() {
        Some('{') => return value.match_indices('=').flat_map(|(at, _)| after_equals(line, start + at)).collect(),
        Some(quote @ ('"' | '\'')) => match value[1..].find(quote) {
            Some(0) | None => value,
            Some(length) => &value[..length + 2],
        },
        _ => value,
    };
    if is_plain_dsn(value.trim_matches(['"', '\''])) {
        return vec![];
    }
    secret_parts(value).into_iter().map(|part| shifted(part, start)).collect()
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |start, line| {
        let begins = *start;
        *start += line.len();
        Some((begins, line))
    })
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

fn replace(text: &str, hidden: &[Range<usize>]) -> String {
    let mut hide = vec![false; text.len()];
    hidden.iter().cloned().flatten().for_each(|position| hide[position] = true);
    text.char_indices().map(|(position, c)| if hide[position] || is_action(c) { veil(c) } else { c }).collect()
}

/// Whether a terminal would act on the character instead of showing it.
fn is_action(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}

/// The replacement of a hidden character, of as many bytes and one column wide.
fn veil(c: char) -> char {
    match c.len_utf8() {
        _ if matches!(c, ' ' | '\t' | '\r' | '\n') => c,
        1 => '*',
        2 => '·',
        3 => '•',
        _ => '🞄',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let masked = source(text, &Tree::parse(text).0);
        assert_eq!(masked.len(), text.len());
        assert_eq!(masked.chars().count(), text.chars().count());
        masked
    }

    #[test]
    fn keys_tokens_and_dsns_are_hidden_and_their_hosts_stay() {
        let text = r#"
[admin]
token = 'hunter2' # not a word
[[projects]]
id = "1"
public_key = "abcdef"
upstreams.sentry = "https://abcdef:s@o1.ingest.sentry.io/42"
upstreams.glitchtip = "${DSN}"
upstreams.bugsink = "http//abcdef@h/1"
"#;
        insta::assert_snapshot!(masked(text), @r#"
        [admin]
        token = '*******' # not a word
        [[projects]]
        id = "1"
        public_key = "******"
        upstreams.sentry = "https://********@o1.ingest.sentry.io/42"
        upstreams.glitchtip = "${DSN}"
        upstreams.bugsink = "****************"
        "#);
    }

    #[test]
    fn a_secret_is_hidden_wherever_and_however_it_is_written() {
        for text in [
            "projects = [{ public_key = 'hunter2', upstreams = { a = 'hunter2' } }]",
            "[[projects]]\npublic_key = \"\"\"\nhunter2\"\"\"",
            "[[projects]]\npublic_key = hunter2",
            "[[projects]]\npublic_key = \"hunter2",
            "[[projects]]\n\"public_key\" = \"hunter2",
            "[[projects]]\n[projects.upstreams]\nsentry = hunter2",
            "[[projects]]\n[projects.upstreams]\n# sentry = 'hunter2'",
            "[[projects]]\nupstreams = { sentry = hunter2",
            "[[projects]]\nupstreams = \"hunter2\"",
            "projects = \"hunter2\"",
            "# token = \"hunter2\"",
            "token = \"hunter2\" oops",
            "primary = \"https://hunter2@host/1\"",
            "# see https://user:hunter2@host/1",
            "[[projects]]\nupstreams.a = \"https://k@h/1?sentry_key=hunter2\"",
            "[[projects]]\nupstreams.a = \"https://h/hunter2\"",
            "token = 'häunter2'",
            "[upstreams.a]\nheaders = { X-Gate = 'hunter2', \"X-B\" = \"hunter2\" }",
            "[upstreams.a.headers]\nX-Gate = 'hunter2'",
            "[upstreams.a]\n# headers = { X-Gate = 'hunter2",
            "[upstreams.a]\nheaders = 'hunter2'",
            "journal.url = \"postgres://db/x?password=hunter2\"",
            "journal = { url = \"postgres://db/x?password=hunter2",
            "[journal]\nurl = 'hunter2",
            "[journal]\n\"url\" = postgres://relay:hunter2@db/x",
        ] {
            let masked = masked(text);
            assert!(!masked.contains("unter2"), "{masked}");
        }
    }

    #[test]
    fn a_message_hides_keys_and_no_placeholder() {
        assert_eq!(
            message("a DSN is a URL like https://<key>@<host>/<project>"),
            crate::protocol::dsn::InvalidDsn::NotAUrl.to_string()
        );
        assert_eq!(message("see https://<key>:x@h/1"), "see https://*******@h/1");
    }

    #[test]
    fn values_without_secrets_stay_visible() {
        for text in
            ["primary = \"sentry\"", "[upstreams.sentry]\ntimeout = \"30s\"", "[server]\nlisten = [\"[::1]:8484\"]", ""]
        {
            assert_eq!(masked(text), text);
        }
    }
}
