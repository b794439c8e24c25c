//! Chooses the forward proxy for a connection to an upstream: the one in its section, else the one in the environment, by curl's rules
//! (curl.se/docs/manpage.html, "ENVIRONMENT"; curl, `lib/noproxy.c`).
//!
//! Rule: an invalid proxy is an error, and never a direct connection. A password is shown nowhere.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::uri::Authority;
use http::{HeaderValue, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};

use crate::units::Secret;

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| Environment::read(&|name| std::env::var(name).ok()));

/// A forward proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    scheme: Scheme,
    authority: Authority,
    user: Option<(String, Secret)>,
}

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// SOCKS 5; the relay looks names up.
    Socks5,
    /// SOCKS 5; the proxy looks names up.
    Socks5h,
}

/// A text that names no proxy. The error does not repeat the text, which may hold a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is no proxy: write one as in \"http://proxy:3128\" (http, https, socks5 or socks5h)")]
pub struct InvalidProxy;

impl Scheme {
    const ALL: [(&'static str, Self); 4] =
        [("http", Self::Http), ("https", Self::Https), ("socks5", Self::Socks5), ("socks5h", Self::Socks5h)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Proxy {
    type Err = InvalidProxy;

    /// Parses a proxy as curl does: the scheme defaults to http, the port to 1080, or to 443 for https.
    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("http", text.trim()));
        let known = Scheme::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        let scheme = known.map(|(_, scheme)| *scheme).ok_or(InvalidProxy)?;
        let rest = rest.split_once('/').map_or(rest, |(before, _)| before);
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let place: Authority = place.parse().map_err(|_| InvalidProxy)?;
        let has_port = place.as_str() != place.host();
        if place.host().is_empty() || (has_port && place.port_u16().is_none()) {
            return Err(InvalidProxy);
        }
        let usual = if scheme == Scheme::Https { 443 } else { 1080 };
        let authority = format!("{}:{}", place.host(), place.port_u16().unwrap_or(usual));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        let user = user.map(|(user, password)| (decoded(user), Secret::new(decoded(password))));
        Ok(Self { scheme, authority: authority.parse().map_err(|_| InvalidProxy)?, user })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.user.is_some() { "***@" } else { "" };
        write!(f, "{}://{user}{}", self.scheme.name(), self.authority)
    }
}

impl Proxy {
    /// Its protocol.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its host and port.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The address to connect to.
    pub fn uri(&self) -> Option<Uri> {
        let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query("/").build().ok()
    }

    /// Its user and password; `None` when it has none.
    pub fn user(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(user, password)| (user.as_str(), password.expose()))
    }

    /// The value of `Proxy-Authorization`; `None` without a user.
    pub fn authorization(&self) -> Option<HeaderValue> {
        let (user, password) = self.user()?;
        let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(format!("{user}:{password}")))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether its protocol is HTTP or HTTPS.
    pub fn is_http(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https)
    }
}

/// The option `proxy` of an upstream.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Choice {
    /// The proxy of the environment, if there is one.
    #[default]
    Environment,
    /// No proxy.
    Direct,
    /// This proxy.
    Through(Proxy),
    /// A text that names no proxy, as it is written.
    Invalid(Secret),
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown().unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "none" {
            return Ok(Self::Direct);
        }
        Ok(text.parse().map_or_else(|_| Self::Invalid(Secret::new(text)), Self::Through))
    }
}

/// A variable of the environment that names no proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} in the environment {InvalidProxy}")]
pub struct InvalidVariable(&'static str);

impl Choice {
    /// The option as it is shown, without secrets; `None` for the environment.
    pub fn shown(&self) -> Option<String> {
        match self {
            Self::Environment => None,
            Self::Direct => Some("none".to_owned()),
            Self::Through(proxy) => Some(proxy.to_string()),
            Self::Invalid(_) => Some("***".to_owned()),
        }
    }

    /// A text that differs from choice to choice, secrets included.
    pub fn compared(&self) -> String {
        match self {
            Self::Through(proxy) => format!("{proxy} {:?}", proxy.user()),
            Self::Invalid(text) => text.expose().to_owned(),
            other => other.shown().unwrap_or_default(),
        }
    }

    /// The proxy for connections to `uri`.
    ///
    /// # Errors
    ///
    /// When the environment names an invalid one.
    pub fn proxy(&self, uri: &Uri) -> Result<Option<&Proxy>, InvalidVariable> {
        match self {
            Self::Environment => ENVIRONMENT.proxy(uri),
            Self::Through(proxy) => Ok(Some(proxy)),
            // A configuration with an invalid one is never in force.
            Self::Direct | Self::Invalid(_) => Ok(None),
        }
    }
}

/// The proxies of the environment.
#[derive(Debug)]
struct Environment {
    http: Option<Variable>,
    https: Option<Variable>,
    none: Exceptions,
}

type Variable = (&'static str, Option<Proxy>);

impl Environment {
    /// A name in lower case comes first. `HTTP_PROXY` is not read: in a CGI it is a header that any client can send.
    fn read(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            let mut set = names.iter().filter_map(|name| Some((*name, get(name).filter(|text| !text.is_empty())?)));
            set.next()
        };
        let proxy = |names: &[&'static str]| first(names).map(|(name, text)| (name, text.parse().ok()));
        let none = first(&["no_proxy", "NO_PROXY"]).map(|(_, text)| text).unwrap_or_default();
        Self {
            http: proxy(&["http_proxy", "all_proxy", "ALL_PROXY"]),
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            none: Exceptions::read(&none),
        }
    }

    fn proxy(&self, uri: &Uri) -> Result<Option<&Proxy>, InvalidVariable> {
        let variable = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        match variable {
            Some((name, proxy)) if !self.none.has(uri.host().unwrap_or_default()) => {
                proxy.as_ref().map(Some).ok_or(InvalidVariable(name))
            }
            _ => Ok(None),
        }
    }
}

/// The hosts of `NO_PROXY`.
#[derive(Debug)]
enum Exceptions {
    All,
    Some(Vec<Exception>),
}

#[derive(Debug)]
enum Exception {
    Network(IpNet),
    /// A domain with all names below it, in lower case.
    Domain(String),
}

impl Exceptions {
    fn read(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::All;
        }
        let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        Self::Some(words.map(Exception::read).collect())
    }

    fn has(&self, host: &str) -> bool {
        let Self::Some(exceptions) = self else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok();
        exceptions.iter().any(|exception| match (exception, ip) {
            (Exception::Network(network), Some(ip)) => network.contains(&ip),
            (Exception::Domain(domain), None) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => false,
        })
    }
}

impl Exception {
    fn read(word: &str) -> Self {
        let bare = word.trim_start_matches('[').replace(']', "");
        let network = bare.parse::<IpNet>().ok().or_else(|| bare.parse::<IpAddr>().ok().map(IpNet::from));
        network.map_or_else(|| Self::Domain(domain(word)), Self::Network)
    }
}

/// The word in lower case, without a dot at either end.
fn domain(word: &str) -> String {
    let word = word.strip_prefix('.').unwrap_or(word);
    word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(variables: &[(&str, &str)], uri: &str) -> String {
        let get = |name: &str| variables.iter().find(|(have, _)| *have == name).map(|(_, value)| (*value).to_owned());
        match Environment::read(&get).proxy(&uri.parse().unwrap()) {
            Ok(proxy) => proxy.map_or("direct".to_owned(), ToString::to_string),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn variables_count_as_with_curl() {
        let (http, https) = ("http://a.test/", "https://a.test/");
        assert_eq!(through(&[], http), "direct");
        assert_eq!(through(&[("http_proxy", "p")], http), "http://p:1080");
        assert_eq!(through(&[("http_proxy", "p")], https), "direct");
        assert_eq!(through(&[("HTTP_PROXY", "p")], http), "direct");
        assert_eq!(through(&[("HTTPS_PROXY", "https://p"), ("https_proxy", "http://q:1/")], https), "http://q:1");
        assert_eq!(through(&[("HTTPS_PROXY", "https://p"), ("https_proxy", "")], https), "https://p:443");
        assert_eq!(through(&[("ALL_PROXY", "socks5h://p"), ("http_proxy", "q:8")], http), "http://q:8");
        assert_eq!(through(&[("ALL_PROXY", "socks5h://p")], https), "socks5h://p:1080");
        let none = through(&[("https_proxy", "ftp://u:hunter2@p")], https);
        assert!(none.starts_with("https_proxy in the environment is no proxy") && !none.contains("hunter2"), "{none}");
    }

    #[test]
    fn exceptions_are_names_with_all_below_them_addresses_and_networks() {
        let list = "a.test, .b.test\t10.0.0.0/8,192.0.2.7 [fd00::1] 2001:db8::/32,Dot.test.";
        let is_direct = |host: &str| {
            let variables = [("all_proxy", "http://p:1"), ("NO_PROXY", list)];
            through(&variables, &format!("http://{host}:80/")) == "direct"
        };
        for host in ["a.test", "A.test", "x.a.test", "a.test.", "b.test", "x.b.test", "dot.test"] {
            assert!(is_direct(host), "{host}");
        }
        for host in ["10.1.2.3", "192.0.2.7", "[fd00::1]", "[2001:db8::7]"] {
            assert!(is_direct(host), "{host}");
        }
        for host in ["xa.test", "a.test.example", "11.0.0.1", "192.0.2.8", "[fd00::2]", "localhost", "127.0.0.1"] {
            assert!(!is_direct(host), "{host}");
        }
        let all = |list| through(&[("all_proxy", "http://p:1"), ("no_proxy", list)], "http://10.0.0.1/");
        assert_eq!((all("*"), all("*,x").as_str()), ("direct".to_owned(), "http://p:1"));
    }

    #[test]
    fn users_and_passwords_are_decoded_and_not_shown() {
        let proxy: Proxy = "http://m%40e:hunter%32@p:3128/".parse().unwrap();
        assert_eq!(proxy.user(), Some(("m@e", "hunter2")));
        assert_eq!(proxy.to_string(), "http://***@p:3128");
        assert!(!format!("{proxy:?} {:?}", proxy.authorization()).contains("hunter"));
        assert_eq!(proxy.authorization().unwrap(), "Basic bUBlOmh1bnRlcjI=");
        for text in ["", "http://", "ftp://p", "http://p:x", "http://p:99999", "p q"] {
            assert_eq!(text.parse::<Proxy>(), Err(InvalidProxy), "{text}");
        }
    }
}
