//! The section `[upstreams.NAME.api]` of the configuration: the API that tells what a tracker stores, and the token for it.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::Url;

use crate::units::{Period, Secret};

/// The section `[upstreams.NAME.api]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The token of the API; empty when the section has none, and then the tracker is not asked.
    #[serde(default, skip_serializing)]
    pub token: Secret,
    /// The address of the API; `None` to derive it from the DSN.
    #[serde(default)]
    pub url: Option<Address>,
    /// How long the tracker drops repeats of an event id; `None` for the default of its kind.
    #[serde(default)]
    pub remembers: Option<Period>,
}

/// The address of an API, without a slash at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address(String);

/// A text that is no such address. The error does not repeat the text, which may hold a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this is no address of a tracker: write one as in \"https://errors.example\", without /api/ and without user and query"
)]
pub struct InvalidAddress;

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let url = Url::parse(text).map_err(|_| InvalidAddress)?;
        let is_bare = url.username().is_empty() && url.password().is_none();
        let is_plain = is_bare && url.query().is_none() && url.fragment().is_none() && !url.path().contains("/api");
        if !is_plain || !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(InvalidAddress);
        }
        let address = url.as_str().trim_end_matches('/').to_owned();
        let _: Uri = address.parse().map_err(|_| InvalidAddress)?;
        Ok(Self(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
