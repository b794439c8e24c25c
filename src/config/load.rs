//! Turns a file into a [`Config`], or into all its problems.
//!
//! The steps: text → tree with places → `${…}` followed → values of the right kind → checks across values. A text that is not TOML ends the
//! first step. Every later step goes on with the values that it has.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

use crate::units::Secret;

use super::diagnostics::{LoadError, Problems};
use super::interpolate::{Variables, interpolate};
use super::report::Report;
use super::tree::{self, Tree};
use super::{Config, certificate, resolve, shape};

/// The maximum size of a configuration file in bytes.
pub(super) const LARGEST: u64 = 1024 * 1024;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The warnings about it; often empty.
    pub warnings: Problems,
    /// The fingerprint of the file's content, from which [`Watch`](super::watch::Watch) detects changes.
    pub fingerprint: Fingerprint,
    /// The file's content as it is written.
    pub text: Secret,
}

impl Loaded {
    /// Problems with one message for each of these fields, at their places in the file.
    pub fn problems_at(&self, file: &str, fields: &[&str], message: &str) -> Problems {
        let mut report = Report::new(self.text.expose(), Tree::parse(self.text.expose()).0);
        for field in fields {
            let path = field.split('.').fold(tree::Path::default(), |path, key| path.key(key));
            report.error(&path, message, None);
        }
        report.finish(file)
    }
}

/// Identifies the content of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of `content`.
    pub fn of(content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Loads the file at `path`. `${NAME}` is looked up in the process's environment.
///
/// # Errors
///
/// When the file cannot be read, or with all problems of its content.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let content = read(path)?;
    let text = std::str::from_utf8(&content).map_err(|error| LoadError::Unfit {
        path: path.to_owned(),
        why: format!("byte {} is not UTF-8 text", error.valid_up_to()),
    })?;
    Ok(parse(&path.display().to_string(), text, &|name| std::env::var(name).ok())?)
}

/// Loads a configuration from its text. `file` is the file's name in problems.
///
/// # Errors
///
/// With all problems, if any of them is an error.
pub fn parse(file: &str, text: &str, variables: Variables<'_>) -> Result<Loaded, Problems> {
    let (mut tree, errors) = Tree::parse(text);
    let mut report = Report::new(text, tree.clone());
    for error in &errors {
        report.syntax(error.span().unwrap_or_default(), error.message());
    }
    if report.has_errors() {
        return Err(report.finish(file));
    }
    interpolate(&mut tree, variables, &mut report);
    let config = shape::read(&mut tree, &mut report).map(|mut shape| {
        for (name, upstream) in &mut shape.upstreams {
            upstream.credentials = certificate::read_upstream(name, upstream, &mut report);
        }
        let certificate = certificate::read(&shape.server, &mut report);
        Config { certificate, ..resolve::resolve(shape, &mut report) }
    });
    match config {
        Some(config) if !report.has_errors() => {
            let (fingerprint, written) = (Fingerprint::of(text.as_bytes()), Secret::new(text.to_owned()));
            Ok(Loaded { config, warnings: report.finish(file), fingerprint, text: written })
        }
        _ => Err(report.finish(file)),
    }
}

/// Reads a file, unless it is too large.
fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let mut content = vec![];
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content))
        .map_err(|error| LoadError::reading(path, &error))?;
    if content.len() as u64 > LARGEST {
        return Err(LoadError::Unfit { path: path.to_owned(), why: "it is larger than 1 MiB".to_owned() });
    }
    Ok(content)
}
