//! Reads Rust sources as far as the architecture's rules need: code without comments, strings and test modules; the paths it names, with
//! `use` trees expanded; the functions it defines. It is no full parser and skips what it cannot read.

use std::fs;
use std::path::{Path, PathBuf};

/// One file below `src`.
pub(crate) struct Source {
    /// The path relative to the repository.
    pub path: String,
    /// The text of the file.
    pub text: String,
    tokens: Vec<Token>,
}

/// A path in the code, with `use` trees expanded: `["crate", "journal", "Journal"]`.
pub(crate) struct Named {
    /// The line of the path.
    pub line: usize,
    /// The segments of the path.
    pub segments: Vec<String>,
    /// Whether it is re-exported with `pub use`.
    pub is_handed_on: bool,
}

/// A function with a body.
pub(crate) struct Function {
    /// The name of the function.
    pub name: String,
    /// The line of `fn`.
    pub line: usize,
    /// The number of lines from `fn` to the closing brace.
    pub lines: usize,
}

#[derive(Clone, Debug)]
struct Token {
    line: usize,
    text: String,
}

/// The sources below `src`, sorted by path.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    files.sort();
    files.into_iter().map(|file| Source::read(root, &file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

impl Source {
    fn read(root: &Path, file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("a source can be read");
        let path = file.strip_prefix(root).expect("it lies below the repository").to_string_lossy().replace('\\', "/");
        let tokens = tokens(&without_comments_and_strings(&text));
        Self { path, text, tokens }
    }

    /// The path below `src` without `.rs` and `/mod`: `journal/sqlite`.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        below.strip_suffix("/mod").unwrap_or(below)
    }

    /// The folder or file directly below `src`.
    pub(crate) fn part(&self) -> &str {
        self.module().split('/').next().unwrap_or_default()
    }

    /// Whether the file is the body of a test module.
    pub(crate) fn is_test(&self) -> bool {
        self.module().split('/').any(|segment| segment == "tests")
    }

    /// The number of lines without test modules.
    pub(crate) fn lines(&self) -> usize {
        let tested: usize = test_items(&self.tokens).iter().map(|(from, to)| span(&self.tokens, *from, *to)).sum();
        self.text.lines().count() - tested
    }

    /// The paths outside test modules. A leading `super` that leaves the part is spelled `crate`.
    pub(crate) fn named(&self) -> Vec<Named> {
        let tests = test_items(&self.tokens);
        let mut at = 0;
        let mut found = Vec::new();
        while at < self.tokens.len() {
            if let Some((_, end)) = tests.iter().find(|(from, _)| *from == at) {
                at = end + 1;
            } else if is_word(&self.tokens[at].text) {
                let (before, first) = (found.len(), at);
                at = read_path(&self.tokens, at, &mut vec![], &mut found);
                let is_handed_on =
                    first > 1 && self.tokens[first - 1].text == "use" && is_public(&self.tokens[..first - 1]);
                found[before..].iter_mut().for_each(|named| named.is_handed_on = is_handed_on);
            } else {
                at += 1;
            }
        }
        let depth = self.module().split('/').count();
        found.into_iter().map(|named| absolute(named, depth)).collect()
    }

    /// Every function with a body, tests included.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let tokens = &self.tokens;
        let starts = (0..tokens.len()).filter(|at| tokens[*at].text == "fn");
        let read = starts.filter_map(|at| {
            let name = tokens.get(at + 1).filter(|token| is_word(&token.text))?;
            let end = item_end(tokens, at)?;
            let body = tokens[end].text == "}";
            body.then(|| Function { name: name.text.clone(), line: tokens[at].line, lines: span(tokens, at, end) })
        });
        read.collect()
    }
}

/// Spells `super::super::x` in a module two levels deep as `crate::x`.
fn absolute(named: Named, depth: usize) -> Named {
    let supers = named.segments.iter().take_while(|segment| *segment == "super").count();
    if supers < depth || supers == 0 {
        return named;
    }
    let rest = named.segments.into_iter().skip(supers);
    Named { segments: ["crate".to_owned()].into_iter().chain(rest).collect(), ..named }
}

/// Whether the tokens end with a visibility such as `pub` or `pub(crate)`.
fn is_public(tokens: &[Token]) -> bool {
    let text =
        |back: usize| tokens.len().checked_sub(back).and_then(|at| tokens.get(at)).map_or("", |token| &token.text);
    text(1) == "pub"
        || (text(1) == ")"
            && tokens
                .iter()
                .rev()
                .find(|token| token.text == "pub" || token.text == ";")
                .is_some_and(|token| token.text == "pub"))
}

/// Reads a path or a tree of paths from token `at` on; returns the index of the token behind it.
fn read_path(tokens: &[Token], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<Named>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let (line, depth) = (tokens[at].line, prefix.len());
    while is_word(text(at)) || text(at) == "*" {
        prefix.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    if text(at) == "{" && text(at - 1) == "::" {
        at += 1;
        while !matches!(text(at), "}" | "") {
            let next = read_path(tokens, at, prefix, found);
            at = if next == at { at + 1 } else { next };
        }
        at += 1;
    } else if prefix.len() > depth {
        found.push(Named { line, segments: prefix.clone(), is_handed_on: false });
    }
    prefix.truncate(depth);
    at
}

/// The first and last token of every item marked `#[cfg(test)]`.
fn test_items(tokens: &[Token]) -> Vec<(usize, usize)> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let marked =
        |at: &usize| MARK.iter().enumerate().all(|(n, text)| tokens.get(at + n).is_some_and(|t| t.text == *text));
    let starts = (0..tokens.len()).filter(marked);
    starts.filter_map(|at| Some((at, item_end(tokens, at + MARK.len())?))).collect()
}

/// The last token of the item that begins at `at`: its `;` or the closing brace of its first body.
fn item_end(tokens: &[Token], at: usize) -> Option<usize> {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => round += 1,
            ")" | "]" => round -= 1,
            "{" => curly += 1,
            "}" => {
                curly -= 1;
                if curly == 0 && round == 0 {
                    return Some(index);
                }
            }
            ";" if curly == 0 && round == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

fn span(tokens: &[Token], from: usize, to: usize) -> usize {
    tokens[to].line - tokens[from].line + 1
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if rest.starts_with("::") {
                2
            } else if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            found.push(Token { line: number + 1, text: rest[..length].to_owned() });
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// The text with comments, strings and characters blanked; line numbers stay the same.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = opaque_end(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The end of the comment, string or character that begins at `at`; `at` itself when none begins there.
fn opaque_end(chars: &[char], at: usize) -> usize {
    let is = |n: usize, c: char| chars.get(at + n) == Some(&c);
    let find = |from: usize, what: &[char]| {
        let mut windows = (from..chars.len()).filter(|n| chars[*n..].starts_with(what));
        windows.next().map_or(chars.len(), |n| n + what.len())
    };
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if is(1, '/') => find(at, &['\n']) - 1,
        '/' if is(1, '*') => find(at + 2, &['*', '/']),
        'r' if !in_word || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if is(1 + hashes, '"') { find(at + 2 + hashes, &[&['"'][..], &vec!['#'; hashes]].concat()) } else { at }
        }
        '"' => quoted_end(chars, at, '"'),
        '\'' if is(1, '\\') || is(2, '\'') => quoted_end(chars, at, '\''),
        _ => at,
    }
}

fn quoted_end(chars: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len())
}
