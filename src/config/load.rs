//! From a file to a [`Config`], or to everything that is wrong with it.
//!
//! text → tree with places → `${…}` followed → values of the right kind → checks across values. A text that is no TOML ends the
//! way at once; every later step goes on with what it has.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

use crate::units::Secret;

use super::diagnostics::{LoadError, Problems};
use super::interpolate::{Variables, interpolate};
use super::report::Report;
use super::tree::{self, Tree};
use super::{Config, certificate, resolve, shape};

/// The largest file that is taken for a configuration.
pub(super) const LARGEST: u64 = 1024 * 1024;

/// A configuration fit for use.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What somebody should look at; often empty.
    pub warnings: Problems,
    /// What the file held, for [`Watch`](super::watch::Watch) to tell a change from.
    pub fingerprint: Fingerprint,
    /// What the file held, as it is written.
    pub text: Secret,
}

impl Loaded {
    /// The same problem with each of these fields, at its place in the file.
    pub fn problems_at(&self, file: &str, fields: &[&str], message: &str) -> Problems {
        let mut report = Report::new(self.text.expose(), Tree::parse(self.text.expose()).0);
        for field in fields {
            let path = field.split('.').fold(tree::Path::default(), |path, key| path.key(key));
            report.error(&path, message, None);
        }
        report.finish(file)
    }
}

/// Tells one content of a file from another.
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

/// Loads the file at `path`; `${NAME}` is looked up in the process's environment.
///
/// # Errors
///
/// When the file cannot be read, and when anything in it is wrong: then everything that is.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let content = read(path)?;
    let text = std::str::from_utf8(&content).map_err(|error| LoadError::Unfit {
        path: path.to_owned(),
        why: format!("byte {} is not UTF-8 text", error.valid_up_to()),
    })?;
    Ok(parse(&path.display().to_string(), text, &|name| std::env::var(name).ok())?)
}

/// Loads a configuration from its text; `file` is the name that problems are told under.
///
/// # Errors
///
/// When anything in it is wrong: then everything that is.
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

/// The bytes of a file, unless there are too many.
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
