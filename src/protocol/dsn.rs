//! The DSN: one line that names the server, the project and its key.
//!
//! `{scheme}://{public_key}[:{secret}]@{host}[:{port}]{path prefix}/{project}` (Sentry's "SDK Overview", "Parsing the DSN").

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use url::Url;

/// A parsed DSN. Prints with its key hidden; [`Dsn::reveal`] returns it with the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    project: String,
    public_key: String,
    envelope_uri: Uri,
    host: HeaderValue,
    /// The whole DSN as a JSON string.
    quoted: Box<str>,
    quoted_key: Box<str>,
}

/// Why a text is no DSN. Never repeats the text, which may hold a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidDsn {
    /// Not a URL.
    #[error("a DSN is a URL like https://<key>@<host>/<project>")]
    NotAUrl,
    /// A placeholder in angle brackets, copied from an example.
    #[error("the DSN has a placeholder in angle brackets: write what the tracker shows in its place, without brackets")]
    Placeholder,
    /// Neither http nor https.
    #[error("the scheme of a DSN is http or https")]
    Scheme,
    /// No user name.
    #[error("the DSN has no public key before its @")]
    NoKey,
    /// No path.
    #[error("the DSN has no project id at its end")]
    NoProject,
    /// The project id or the key has characters other than letters, digits, `-` and `_`.
    #[error("the DSN's project id or key has characters other than letters, digits, - and _")]
    Characters,
}

impl Dsn {
    /// Whether its host is this machine, judged by its name or address alone.
    pub fn is_on_this_machine(&self) -> bool {
        let host = self.authority().host().trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        is_loopback || host.eq_ignore_ascii_case("localhost")
    }

    /// http or https.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Host and port, without the key.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The path before `/api/`: empty, or a path that begins with a slash and ends without one.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The project id.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The public key.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The DSN with its key, as it goes into an envelope header.
    pub fn reveal(&self) -> String {
        format!("{}://{}@{}{}/{}", self.scheme, self.public_key, self.authority, self.prefix, self.project)
    }

    /// The DSN with its key, as a JSON string.
    pub fn quoted(&self) -> &str {
        &self.quoted
    }

    /// The public key, as a JSON string.
    pub fn quoted_key(&self) -> &str {
        &self.quoted_key
    }

    /// The value of the header `Host`.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The beginning of every URL of this project: the part before `envelope/`.
    pub fn api_address(&self) -> String {
        format!("{}://{}{}/api/{}/", self.scheme, self.authority, self.prefix, self.project)
    }

    /// The URL that takes envelopes for this DSN. GlitchTip requires the slash at its end.
    pub fn envelope_uri(&self) -> &Uri {
        &self.envelope_uri
    }
}

impl FromStr for Dsn {
    type Err = InvalidDsn;
    fn from_str(text: &str) -> Result<Self, InvalidDsn> {
        if text.contains(['<', '>']) {
            return Err(InvalidDsn::Placeholder);
        }
        let url = Url::parse(text).map_err(|_| InvalidDsn::NotAUrl)?;
        let scheme = match url.scheme() {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err(InvalidDsn::Scheme),
        };
        let host = url.host_str().ok_or(InvalidDsn::NotAUrl)?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let authority = Authority::try_from(format!("{host}{port}")).map_err(|_| InvalidDsn::NotAUrl)?;
        let (prefix, project) = url.path().trim_end_matches('/').rsplit_once('/').ok_or(InvalidDsn::NoProject)?;
        match (url.username(), project) {
            ("", _) => return Err(InvalidDsn::NoKey),
            (_, "") => return Err(InvalidDsn::NoProject),
            (key, project) if !is_token(key) || !is_token(project) => return Err(InvalidDsn::Characters),
            _ => {}
        }
        let envelope_uri = format!("{scheme}://{authority}{prefix}/api/{project}/envelope/");
        let mut dsn = Self {
            envelope_uri: envelope_uri.parse().map_err(|_| InvalidDsn::NotAUrl)?,
            host: HeaderValue::try_from(authority.as_str()).map_err(|_| InvalidDsn::NotAUrl)?,
            scheme,
            authority,
            prefix: prefix.to_owned(),
            project: project.to_owned(),
            public_key: url.username().to_owned(),
            quoted: Box::default(),
            quoted_key: Box::default(),
        };
        dsn.quoted = quoted(&dsn.reveal());
        dsn.quoted_key = quoted(&dsn.public_key);
        Ok(dsn)
    }
}

fn quoted(text: &str) -> Box<str> {
    serde_json::Value::from(text).to_string().into()
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://***@{}{}/{}", self.scheme, self.authority, self.prefix, self.project)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `text` may stand unescaped in a header, a path and a query.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A public key in the form in which keys are compared: a UUID in lower case without hyphens, anything else unchanged.
///
/// Relay's keys are 32 hex digits; GlitchTip prints its keys as UUIDs; other trackers use any token.
pub fn constant_form(key: &str) -> String {
    uuid::Uuid::try_parse(key).map_or_else(|_| key.to_owned(), |id| id.simple().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_path_prefix_and_any_key_are_kept() {
        let dsn: Dsn = "http://Some_key-1:secret@localhost:8000/errors/glitch/42/".parse().unwrap();
        assert_eq!(*dsn.envelope_uri(), "http://localhost:8000/errors/glitch/api/42/envelope/");
        assert_eq!(dsn.reveal(), "http://Some_key-1@localhost:8000/errors/glitch/42");
    }

    #[test]
    fn ipv6_hosts_keep_their_brackets() {
        let dsn: Dsn = "https://k@[::1]:9000/1".parse().unwrap();
        assert_eq!(*dsn.envelope_uri(), "https://[::1]:9000/api/1/envelope/");
        assert_eq!(dsn.host(), "[::1]:9000");
    }

    #[test]
    fn the_key_is_not_shown() {
        let dsn: Dsn = "https://abcdef@o1.ingest.sentry.io/42".parse().unwrap();
        assert_eq!(format!("{dsn} {dsn:?}").matches("abcdef").count(), 0);
    }

    #[test]
    fn an_invalid_dsn_gives_its_reason() {
        for (text, why) in [
            ("nonsense", InvalidDsn::NotAUrl),
            ("https://<key>@h/1", InvalidDsn::Placeholder),
            ("https://k@<host>/<id>", InvalidDsn::Placeholder),
            ("ftp://k@h/1", InvalidDsn::Scheme),
            ("https://h/1", InvalidDsn::NoKey),
            ("https://k@h", InvalidDsn::NoProject),
            ("https://k@h/", InvalidDsn::NoProject),
            ("https://k%0d@h/1", InvalidDsn::Characters),
            ("https://k@h/1%2f2", InvalidDsn::Characters),
        ] {
            assert_eq!(text.parse::<Dsn>().unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn uuid_keys_compare_without_hyphens_and_case() {
        assert_eq!(constant_form("9EC79C33-EC99-42AB-8353-589FCB2E04DC"), "9ec79c33ec9942ab8353589fcb2e04dc");
        assert_eq!(constant_form("Any-Token"), "Any-Token");
    }
}
