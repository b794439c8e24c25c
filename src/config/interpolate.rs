//! Follows `${NAME}` and `${file:/path}` in the strings of the configuration, which keep secrets out of the file.
//!
//! Rule: a replacement is not searched again, so a value cannot smuggle in another reference, and no message repeats it. `$${` stands for a
//! plain `${`. Keys are taken as they are.

use std::fs::File;
use std::io::{self, Read};

use toml::de::DeValue;

use super::report::Report;
use super::tree::Tree;

/// Looks up the variable of `${NAME}`; `None` when it is not set.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The size limit of `${file:…}`: a secret is short, and a wrong path must not fill the memory.
const LARGEST_FILE: u64 = 64 * 1024;

const HELP: &str = "set it in the daemon's environment, or write ${file:/path} to take the value from a file";

/// The message of a reference that cannot be followed, and the help.
type Broken = (String, &'static str);

/// Replaces every reference in the tree. One that cannot be followed is reported at its place and stays as written.
pub(super) fn interpolate(tree: &mut Tree<'_>, variables: Variables<'_>, report: &mut Report<'_>) {
    let mut replaced = vec![];
    for (path, _, leaf) in tree.leaves() {
        let DeValue::String(text) = leaf else { continue };
        match expand(text, variables) {
            Ok(None) => {}
            Ok(Some(text)) => replaced.push((path, text)),
            Err((message, help)) => report.error(&path, message, Some(help.to_owned())),
        }
    }
    for (path, text) in replaced {
        tree.set_string(&path, text);
    }
}

/// `text` with its references followed, for callers that need one value of a file with problems elsewhere.
///
/// # Errors
///
/// Says which reference cannot be followed, and why.
pub fn followed(text: &str, variables: Variables<'_>) -> Result<String, String> {
    let expanded = expand(text, variables).map_err(|(message, _)| message)?;
    Ok(expanded.unwrap_or_else(|| text.to_owned()))
}

/// `text` with its references followed; `None` when it has none.
fn expand(text: &str, variables: Variables<'_>) -> Result<Option<String>, Broken> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        let end = reference
            .find('}')
            .ok_or_else(|| ("a ${ without its }".to_owned(), "write ${NAME} or ${file:/path}; $${ is a plain ${"))?;
        expanded.push_str(before);
        expanded.push_str(&follow(&reference[2..end], variables)?);
        rest = &reference[end + 1..];
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

fn follow(reference: &str, variables: Variables<'_>) -> Result<String, Broken> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read(path).map_err(|error| {
            let message = format!("{path} cannot be read: {error}");
            (message, "the file must exist and be readable by the user that runs the daemon")
        });
    }
    if !is_variable_name(reference) {
        let message = "between ${ and } there is neither a variable's name nor file:/path".to_owned();
        return Err((message, "write ${NAME} or ${file:/path}; $${ is a plain ${"));
    }
    match variables(reference) {
        Some(value) if value.is_empty() => Err((format!("the environment variable {reference} is empty"), HELP)),
        Some(value) => Ok(value),
        None => Err((format!("the environment variable {reference} is not set"), HELP)),
    }
}

fn is_variable_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Reads a file without the newline at its end. It must be a regular file: a pipe would block the loader.
fn read(path: &str) -> io::Result<String> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut text = String::new();
    let read = File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text);
    read.map_err(|error| if error.kind() == io::ErrorKind::InvalidData { refused("not UTF-8 text") } else { error })?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(refused("larger than 64 KiB"));
    }
    let trimmed = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if trimmed.is_empty() {
        return Err(refused("empty"));
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Option<String> {
        match name {
            "ONE" => Some("1".into()),
            "NESTED" => Some("${ONE}".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn expanded(text: &str) -> String {
        expand(text, &one).unwrap().unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn references_are_followed_once_and_anywhere_in_a_text() {
        assert_eq!(expanded("http://${ONE}@h/${ONE}"), "http://1@h/1");
        assert_eq!(expanded("${NESTED}"), "${ONE}");
        assert_eq!(expanded("$ {ONE} $ONE }"), "$ {ONE} $ONE }");
    }

    #[test]
    fn a_doubled_dollar_before_a_brace_is_a_plain_dollar() {
        assert_eq!(expanded("a$${ONE}b${ONE}"), "a${ONE}b1");
    }

    #[test]
    fn a_broken_reference_is_refused_with_the_reason() {
        for (text, why) in [
            ("${TWO}", "TWO is not set"),
            ("${EMPTY}", "EMPTY is empty"),
            ("${ONE", "without its }"),
            ("${}", "neither"),
            ("${1A}", "neither"),
            ("${file:/nowhere/at/all}", "/nowhere/at/all cannot be read"),
            ("${file:/}", "not a regular file"),
            ("${file:/dev/null}", "not a regular file"),
        ] {
            let (message, _) = expand(text, &one).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn only_the_final_newline_of_a_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (written, read) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a", " a")] {
            std::fs::write(&path, written).unwrap();
            assert_eq!(expanded(&format!("${{file:{}}}", path.display())), read);
        }
        for unfit in [&b"\n"[..], b"\xff", &[b'x'; 70_000]] {
            std::fs::write(&path, unfit).unwrap();
            assert!(expand(&format!("${{file:{}}}", path.display()), &one).is_err());
        }
    }
}
