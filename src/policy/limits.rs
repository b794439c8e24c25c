//! Inbound limits: the section `[limits]` of the configuration, and a project's own limits.
//!
//! A limit is a sustained rate and a burst for a category. Client reports and items without a category are never limited.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::protocol::category::{CONFIGURABLE, Category};
use crate::units::{Amount, Rate};

use super::storm;

/// The limit on one category.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    rate: Rate,
    burst: Option<Amount>,
}

/// The longest time to fill a bucket; a longer one is a mistake.
const LONGEST_REFILL: Duration = Duration::from_secs(366 * 86_400);

impl Limit {
    fn new(rate: Rate, burst: Option<Amount>) -> Result<Self, String> {
        let limit = Self { rate, burst };
        if limit.interval().saturating_mul(limit.burst().get()) > LONGEST_REFILL {
            return Err(format!("a burst of {} takes more than a year at {rate}", limit.burst()));
        }
        Ok(limit)
    }

    /// How much may come at once; by default the amount of the rate.
    pub fn burst(&self) -> NonZeroU32 {
        self.burst.map_or(self.rate.amount(), Amount::get)
    }

    /// The time until one more may come, rounded up.
    pub fn interval(&self) -> Duration {
        let nanos = self.rate.per().as_nanos().div_ceil(self.rate.amount().get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.burst {
            None => self.rate.fmt(f),
            Some(burst) => write!(f, "{} burst {burst}", self.rate),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            rate: Rate,
            burst: Option<Amount>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Limit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate as in \"100/s\", or { rate = \"100/s\", burst = 500 }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
                text.parse().and_then(|rate| Limit::new(rate, None)).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limit, A::Error> {
                let Written { rate, burst } = Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Limit::new(rate, burst).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The limits of one section.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The limits by category; an absent category is unlimited.
    pub categories: BTreeMap<Category, Limit>,
    /// The limit on identical errors.
    pub storm: Option<storm::Settings>,
}

/// The default limits of a project that browsers use, as rate and burst. Its key is in every page, so anybody can send with it. They are
/// far above what pages send and far below what fills a journal.
const OF_BROWSERS: [(Category, &str, &str); 17] = [
    (Category::Error, "50/s", "500"),
    (Category::Security, "50/s", "500"),
    (Category::Transaction, "100/s", "1000"),
    (Category::Span, "1000/s", "20000"),
    // The largest attachment fits.
    (Category::Attachment, "5MiB/s", "200MiB"),
    (Category::AttachmentItem, "50/s", "500"),
    (Category::Feedback, "10/s", "100"),
    (Category::Profile, "20/s", "200"),
    (Category::ProfileChunk, "20/s", "200"),
    (Category::ProfileChunkUi, "20/s", "200"),
    (Category::Replay, "50/s", "500"),
    (Category::Monitor, "20/s", "200"),
    (Category::LogItem, "1000/s", "20000"),
    (Category::LogByte, "2MiB/s", "50MiB"),
    (Category::TraceMetric, "1000/s", "20000"),
    (Category::Session, "100/s", "1000"),
    (Category::MetricBucket, "100/s", "1000"),
];

fn of_browsers() -> impl Iterator<Item = (Category, Limit)> {
    OF_BROWSERS.into_iter().filter_map(|(category, rate, burst)| {
        let limit = Limit::new(rate.parse().ok()?, Some(burst.parse().ok()?)).ok()?;
        Some((category, limit))
    })
}

/// A key of the section.
enum Key {
    Category(Category),
    Storm,
}

/// All keys.
const KEYS: [&str; CONFIGURABLE.len() + 1] = {
    let mut keys = ["storm"; CONFIGURABLE.len() + 1];
    keys.split_at_mut(CONFIGURABLE.len()).0.copy_from_slice(&CONFIGURABLE);
    keys
};

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a category")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Key, E> {
                match Category::from_name(name).filter(|category| category.can_be_configured()) {
                    Some(category) => Ok(Key::Category(category)),
                    None if name == "storm" => Ok(Key::Storm),
                    None => Err(E::unknown_field(name, &KEYS)),
                }
            }
        }
        deserializer.deserialize_identifier(Name)
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Section;
        impl<'de> Visitor<'de> for Section {
            type Value = Settings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Settings::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Category(category) => drop(settings.categories.insert(category, map.next_value()?)),
                        Key::Storm => settings.storm = Some(map.next_value()?),
                    }
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_map(Section)
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (category, limit) in &self.categories {
            map.serialize_entry(category.name(), &limit.to_string())?;
        }
        if let Some(storm) = &self.storm {
            map.serialize_entry("storm", storm)?;
        }
        map.end()
    }
}

/// The limits of every project.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// The limits that hold for each project on its own.
    pub all: Settings,
    /// A project's own limits, by project name.
    pub own: BTreeMap<Arc<str>, Settings>,
    /// Whether browsers use a project, by name, if the file says so.
    pub browsers: BTreeMap<Arc<str>, bool>,
}

impl Limits {
    /// The limits in force for a project; `seen` if a browser has sent for it.
    pub fn in_force(&self, project: &str, seen: bool) -> BTreeMap<Category, Limit> {
        let mut categories = self.of(project).categories;
        if self.browsers.get(project).copied().unwrap_or(seen) {
            for (category, limit) in of_browsers() {
                categories.entry(category).or_insert(limit);
            }
        }
        categories
    }

    /// The configured limits of a project.
    pub fn of(&self, project: &str) -> Settings {
        let mut settings = self.all.clone();
        if let Some(own) = self.own.get(project) {
            settings.categories.extend(&own.categories);
            settings.storm = own.storm.clone().or(settings.storm);
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn every_category_that_has_items_to_limit_has_a_key() {
        for category in Category::ALL {
            assert_eq!(KEYS.contains(&category.name()), category.can_be_configured(), "{category}");
            assert_eq!(settings(&format!("{category} = \"1/s\"")).is_ok(), category.can_be_configured(), "{category}");
        }
    }

    #[test]
    fn a_limit_is_a_rate_with_or_without_a_burst() {
        let read = settings("error = \"100/s\"\nattachment = { rate = \"1MiB/m\", burst = \"20MiB\" }").unwrap();
        let limit = |category| read.categories[&category];
        assert_eq!((limit(Category::Error).burst().get(), limit(Category::Error).interval().as_millis()), (100, 10));
        assert_eq!(limit(Category::Attachment).burst().get(), 20 << 20);
        let shown = serde_json::to_string(&read).unwrap();
        assert_eq!(shown, r#"{"error":"100/s","attachment":"1MiB/m burst 20MiB"}"#);
        for (text, words) in [
            ("error = 100", "as in \"100/s\""),
            ("error = \"100\"", "is no rate"),
            ("error = { burst = 5 }", "missing field `rate`"),
            ("error = { rate = \"1/s\", burst = 0 }", "no amount"),
            ("error = { rate = \"1/d\", burst = 400 }", "more than a year"),
            ("eror = \"1/s\"", "unknown field `eror`"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_projects_own_limits_stand_in_place_of_those_of_all() {
        let all = settings("error = \"100/s\"\nsession = \"5/s\"").unwrap();
        let own = settings("error = \"7/s\"\n[storm]\nlimit = 3").unwrap();
        let limits = Limits { all: all.clone(), own: [("shop".into(), own)].into(), browsers: BTreeMap::new() };
        let shop = limits.of("shop");
        assert_eq!(serde_json::to_value(&shop).unwrap()["error"], "7/s");
        assert_eq!(serde_json::to_value(&shop).unwrap()["session"], "5/s");
        assert_eq!(shop.storm.unwrap().limit.get(), 3);
        assert_eq!(limits.of("other"), all);
    }

    #[test]
    fn browsers_bring_a_limit_for_every_category_that_has_none() {
        assert_eq!(of_browsers().count(), OF_BROWSERS.len());
        let mut limits = Limits { all: settings("error = \"7/s\"").unwrap(), ..Limits::default() };
        assert_eq!(limits.in_force("shop", false), limits.all.categories);
        let seen = limits.in_force("shop", true);
        assert_eq!(seen.len(), Category::ALL.iter().filter(|category| category.can_be_configured()).count());
        assert_eq!((seen[&Category::Error].to_string(), seen[&Category::Span].burst().get()), ("7/s".into(), 20_000));
        limits.browsers.insert("shop".into(), false);
        assert_eq!(limits.in_force("shop", true), limits.all.categories);
        limits.browsers.insert("shop".into(), true);
        assert_eq!(limits.in_force("shop", false), seen);
    }
}
