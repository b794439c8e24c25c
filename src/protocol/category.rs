//! Sentry's data categories: rate limits name them, and the accounts count by them. A closed vocabulary.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;

use crate::vocabulary::vocabulary;

vocabulary! {
    /// A data category (getsentry/relay, `relay-base-schema/src/data_category.rs`; only the ones that items can have).
    #[repr(u8)]
    pub enum Category {
        /// Error events.
        Error = "error",
        /// Security reports: CSP, Expect-CT and their kin.
        Security = "security",
        /// Transactions.
        Transaction = "transaction",
        /// Spans sent on their own.
        Span = "span",
        /// Attachments, counted in bytes.
        Attachment = "attachment",
        /// Attachments, counted singly.
        AttachmentItem = "attachment_item",
        /// User feedback, old and new.
        Feedback = "feedback",
        /// Profiles of a transaction.
        Profile = "profile",
        /// Chunks of continuous profiles of backends.
        ProfileChunk = "profile_chunk",
        /// Chunks of continuous profiles of user interfaces.
        ProfileChunkUi = "profile_chunk_ui",
        /// Session replays.
        Replay = "replay",
        /// Check-ins of cron monitors.
        Monitor = "monitor",
        /// Log entries, counted singly.
        LogItem = "log_item",
        /// Log entries, counted in bytes.
        LogByte = "log_byte",
        /// Trace metrics.
        TraceMetric = "trace_metric",
        /// Session updates and aggregates.
        Session = "session",
        /// Metric buckets and statsd lines.
        MetricBucket = "metric_bucket",
        /// Events of Sentry's default type. Only a payload tells that type, and payloads are not read for it, so such events count as
        /// errors. A limit of an upstream may name this category.
        Default = "default",
        /// Client reports.
        Internal = "internal",
        /// Items of no category: counted, never limited.
        Unknown = "unknown",
    }
}

impl Category {
    /// Whether a rate limit may hold back items of this category ("Rate Limiting": never client reports and unknown items).
    pub const fn can_be_limited(self) -> bool {
        !matches!(self, Self::Internal | Self::Unknown)
    }

    /// Whether a limit of the configuration may name it: items can have it, and may be held back.
    pub const fn can_be_configured(self) -> bool {
        self.can_be_limited() && !matches!(self, Self::Default)
    }

    /// Whether the category of that name counts items. Two categories count bytes of items that another category counts singly.
    pub fn counts_items(name: &str) -> bool {
        ![Self::Attachment, Self::LogByte].iter().any(|category| category.name() == name)
    }

    /// Whether client reports tell of its losses. They do not for client reports, and cannot for items without a category.
    pub const fn can_be_reported(self) -> bool {
        !matches!(self, Self::Internal | Self::Unknown)
    }
}

/// The names of the categories that the configuration may name.
pub const CONFIGURABLE: [&str; Category::ALL.len() - 3] = {
    let mut names = [""; Category::ALL.len() - 3];
    let mut at = 0;
    while at < names.len() {
        names[at] = Category::ALL[at].name();
        at += 1;
    }
    names
};

impl<'de> Deserialize<'de> for Category {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Category;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a category")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Category, E> {
                let known = Category::from_name(name).filter(|category| category.can_be_configured());
                known.ok_or_else(|| E::unknown_field(name, &CONFIGURABLE))
            }
        }
        deserializer.deserialize_identifier(Name)
    }
}

/// An amount for each category, such as of what a record holds or what was delivered. Never holds a zero. Copied often on an
/// envelope's way, and nearly always of one or two categories.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Quantities(SmallVec<[(Category, u64); 2]>);

impl Quantities {
    /// No quantities.
    pub const fn new() -> Self {
        Self(SmallVec::new_const())
    }

    /// Adds `quantity` of `category`.
    pub fn add(&mut self, category: Category, quantity: u64) {
        if quantity == 0 {
            return;
        }
        match self.0.iter_mut().find(|(c, _)| *c == category) {
            Some((_, n)) => *n = n.saturating_add(quantity),
            None => self.0.push((category, quantity)),
        }
    }

    /// Adds everything in `other`.
    pub fn extend(&mut self, other: &Self) {
        for (category, quantity) in other.iter() {
            self.add(category, quantity);
        }
    }

    /// The pairs, in the order in which their categories were first added.
    pub fn iter(&self) -> impl Iterator<Item = (Category, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Whether every category is at zero.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Category, u64)> for Quantities {
    fn from_iter<T: IntoIterator<Item = (Category, u64)>>(iter: T) -> Self {
        let mut all = Self::new();
        for (category, quantity) in iter {
            all.add(category, quantity);
        }
        all
    }
}

/// `error=1 attachment=2048`: the form in the journal, readable with any SQLite shell.
impl fmt::Display for Quantities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (category, quantity)) in self.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{category}={quantity}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Quantities {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |word: &str| {
            let (name, n) = word.split_once('=')?;
            Some((Category::from_name(name)?, n.parse().ok()?))
        };
        text.split_whitespace().map(|word| pair(word).ok_or_else(|| format!("{word:?} is no quantity"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configurable_names_are_the_categories_that_may_be_configured() {
        for category in Category::ALL {
            assert_eq!(CONFIGURABLE.contains(&category.name()), category.can_be_configured());
        }
    }

    #[test]
    fn quantities_print_and_read_back() {
        let mut q = Quantities::new();
        q.add(Category::Error, 1);
        q.add(Category::Attachment, 2048);
        q.add(Category::Error, 1);
        q.add(Category::Span, 0);
        assert_eq!(q.to_string(), "error=2 attachment=2048");
        assert_eq!(q.to_string().parse(), Ok(q));
        assert!("error=x".parse::<Quantities>().is_err());
    }
}
