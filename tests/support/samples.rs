//! One scrape of `/metrics`, parsed into samples by name and labels.
//!
//! Rule: an absent series is not a zero. It knows only the part of the text format that the project writes, and no metric's meaning.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one scrape.
pub(crate) struct Samples(Vec<Sample>);

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Samples {
    /// Reads the text exposition format.
    ///
    /// # Panics
    /// When a line has another format.
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    /// The sum over all series of `name` with these labels.
    ///
    /// # Panics
    /// When no series matches.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut values = self.matching(name, labels).map(|sample| sample.value).peekable();
        assert!(values.peek().is_some(), "no series {name}{labels:?}");
        values.sum()
    }

    /// The values that `label` takes over all series of `name`.
    pub(crate) fn values_of(&self, name: &str, label: &str) -> BTreeSet<&str> {
        self.matching(name, &[]).filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        let carries =
            |sample: &Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|own| own == value));
        self.0.iter().filter(move |sample| sample.name == name && carries(sample))
    }
}

/// Parses `name{label="value",…} number` or `name number`. The project's label values contain neither quotes nor commas.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    let pair = |label: &str| {
        let (key, value) = label.split_once('=')?;
        Some((key.to_owned(), value.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(pair).collect::<Option<_>>()?;
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}
