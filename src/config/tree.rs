//! The parsed file as a tree whose keys and values know their places in the text.
//!
//! Rule: spans refer to the file as written, even after a value was replaced or removed. This file does not interpret the values.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde_path_to_error as path_to_error;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

/// One step of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Segment {
    /// A key of a table.
    Key(String),
    /// A position in an array.
    Index(usize),
}

/// The path from the top of the file to a value. It prints as `projects[0].upstreams.sentry`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Path(Vec<Segment>);

impl Path {
    /// The value under `key` in the table at this path.
    pub(super) fn key(&self, key: &str) -> Self {
        self.join(Segment::Key(key.to_owned()))
    }

    /// The element at `index` of the array at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        self.join(Segment::Index(index))
    }

    fn join(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// The steps, from the top.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Whether `other` is this path or below it.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The last step and the path before it; `None` at the top.
    pub(super) fn split_last(&self) -> Option<(&Segment, Self)> {
        self.0.split_last().map(|(last, rest)| (last, Self(rest.to_vec())))
    }
}

impl From<&path_to_error::Path> for Path {
    fn from(path: &path_to_error::Path) -> Self {
        let known = path.iter().map_while(|segment| match segment {
            path_to_error::Segment::Seq { index } => Some(Segment::Index(*index)),
            path_to_error::Segment::Map { key } => Some(Segment::Key(key.clone())),
            path_to_error::Segment::Enum { .. } | path_to_error::Segment::Unknown => None,
        });
        Self(known.collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            let dot = if position == 0 { "" } else { "." };
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if crate::protocol::dsn::is_token(key) => write!(f, "{dot}{key}")?,
                Segment::Key(key) => write!(f, "{dot}{key:?}")?,
            }
        }
        Ok(())
    }
}

/// The parsed file.
#[derive(Clone, Debug)]
pub(super) struct Tree<'t>(Spanned<DeValue<'t>>);

impl<'t> Tree<'t> {
    /// Parses `text` as far as possible. With errors, parts of the tree may be missing.
    pub(super) fn parse(text: &'t str) -> (Self, Vec<Error>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let span = table.span();
        (Self(Spanned::new(span, DeValue::Table(table.into_inner()))), errors)
    }

    /// A deserializer of a copy of the tree.
    pub(super) fn deserializer(&self) -> ValueDeserializer<'t> {
        ValueDeserializer::from(self.0.clone())
    }

    /// The value at `path`.
    pub(super) fn value(&self, path: &Path) -> Option<&DeValue<'t>> {
        self.node(path.segments()).map(Spanned::get_ref)
    }

    /// The string at `path`.
    pub(super) fn string(&self, path: &Path) -> Option<&str> {
        self.value(path).and_then(DeValue::as_str)
    }

    /// The keys of the table at `path`.
    pub(super) fn keys(&self, path: &Path) -> Vec<String> {
        let table = self.value(path).and_then(DeValue::as_table);
        table.map(|table| table.keys().map(|key| key.get_ref().to_string()).collect()).unwrap_or_default()
    }

    /// The span of the value at `path`, or of the nearest value around it if it is absent.
    pub(super) fn span(&self, path: &Path) -> Range<usize> {
        let depths = (1..=path.segments().len()).rev();
        depths
            .filter_map(|depth| self.node(&path.segments()[..depth]))
            .map(Spanned::span)
            .find(|span| !span.is_empty())
            .unwrap_or(0..0)
    }

    /// The span of the key at `path`; for an element of an array, the span of the element.
    pub(super) fn key_span(&self, path: &Path) -> Range<usize> {
        let key = match path.segments().split_last() {
            Some((Segment::Key(key), parent)) => self
                .node(parent)
                .and_then(|table| table.get_ref().as_table())
                .and_then(|table| table.get_key_value(key.as_str()))
                .map(|(key, _)| key.span()),
            _ => None,
        };
        key.unwrap_or_else(|| self.span(path))
    }

    /// Removes the value at `path`; `false` when there is none.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
        let Some((last, parent)) = path.split_last() else { return false };
        let Some(parent) = self.node_mut(parent.segments()) else { return false };
        match (parent.get_mut(), last) {
            (DeValue::Table(table), Segment::Key(key)) => table.remove(key.as_str()).is_some(),
            (DeValue::Array(array), Segment::Index(index)) if *index < array.len() => {
                let kept = array.iter().enumerate().filter(|(position, _)| position != index);
                *array = kept.map(|(_, value)| value.clone()).collect();
                true
            }
            _ => false,
        }
    }

    /// Replaces the value at `path` by a string.
    pub(super) fn set_string(&mut self, path: &Path, text: String) {
        if let Some(node) = self.node_mut(path.segments()) {
            *node.get_mut() = DeValue::String(Cow::Owned(text));
        }
    }

    /// All values that are neither tables nor arrays, with their paths and spans.
    pub(super) fn leaves(&self) -> Vec<(Path, Range<usize>, &DeValue<'t>)> {
        let mut leaves = vec![];
        collect(&self.0, &Path::default(), &mut leaves);
        leaves
    }

    fn node(&self, segments: &[Segment]) -> Option<&Spanned<DeValue<'t>>> {
        segments.iter().try_fold(&self.0, |node, segment| match segment {
            Segment::Key(key) => node.get_ref().get(key.as_str()),
            Segment::Index(index) => node.get_ref().get(*index),
        })
    }

    fn node_mut(&mut self, segments: &[Segment]) -> Option<&mut Spanned<DeValue<'t>>> {
        segments.iter().try_fold(&mut self.0, |node, segment| match (node.get_mut(), segment) {
            (DeValue::Table(table), Segment::Key(key)) => table.get_mut(key.as_str()),
            (DeValue::Array(array), Segment::Index(index)) => array.get_mut(*index),
            _ => None,
        })
    }
}

fn collect<'a, 't>(
    node: &'a Spanned<DeValue<'t>>,
    path: &Path,
    leaves: &mut Vec<(Path, Range<usize>, &'a DeValue<'t>)>,
) {
    match node.get_ref() {
        DeValue::Table(table) => table.iter().for_each(|(key, value)| collect(value, &path.key(key.get_ref()), leaves)),
        DeValue::Array(array) => {
            array.iter().enumerate().for_each(|(index, value)| collect(value, &path.index(index), leaves));
        }
        leaf => leaves.push((path.clone(), node.span(), leaf)),
    }
}
