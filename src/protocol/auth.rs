//! Authentication of a request: which project key it carries, in which of the forms that SDKs use.
//!
//! Order and rules follow getsentry/relay (`relay-server/src/extractors/request_meta.rs`): `X-Sentry-Auth`, `Authorization: Sentry`,
//! `Authorization: Basic`, the query, the path. Two forms in one request are refused, even when they agree. A form that is not meant for
//! the relay does not count: another scheme, an empty header, an empty key, or `Basic` credentials of the site in front of the relay.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::dsn::is_token;

/// The newest version of the protocol. A request that names none is taken to speak it.
pub const PROTOCOL_VERSION: u16 = 7;

/// The credentials of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The project's public key as sent.
    pub public_key: String,
    /// Name and version of the SDK, `sentry.javascript.node/10.24.0`.
    pub client: Option<String>,
}

/// Why the credentials of a request cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// More than one form in one request: 401.
    #[error("multiple authentication payloads in one request")]
    Multiple,
    /// A form is there but cannot be read: 401.
    #[error("bad sentry authentication header")]
    Unreadable,
    /// A form is there but has no key: 401.
    #[error("missing sentry_key in the authentication")]
    NoKey,
    /// The key has characters that no key has: 403, as for any unknown key.
    #[error("the public key has characters that no key has")]
    InvalidKey,
    /// A protocol version this relay does not speak: 400.
    #[error("unsupported protocol version: at most {PROTOCOL_VERSION} is spoken")]
    Version,
}

/// Finds the credentials of a request; `None` when it carries none.
///
/// `sentry_auth` and `authorization` are the values of these headers, `query` is the raw query string, and `key` is the key in the path
/// of some endpoints. `is_ours` says whether a project has the key. A browser adds the `Basic` credentials of a protected site by itself;
/// they are ignored unless the user is a project's key.
pub fn find<'a>(
    sentry_auth: impl Iterator<Item = &'a str>,
    authorization: impl Iterator<Item = &'a str>,
    query: Option<&str>,
    key: Option<&str>,
    is_ours: impl Fn(&str) -> bool,
) -> Result<Option<Credentials>, AuthError> {
    let mut found: Option<Fields> = None;
    let mut take = |fields: Fields| match fields.is_blank() {
        // The key may be elsewhere. The version is checked anyway.
        true => fields.check_version(),
        false if found.replace(fields).is_some() => Err(AuthError::Multiple),
        false => Ok(()),
    };
    for value in sentry_auth.filter(|value| !value.trim().is_empty()) {
        take(header_fields(value).ok_or(AuthError::Unreadable)?)?;
    }
    for value in authorization {
        // Other schemes belong to a proxy in front of the relay.
        if let Some(fields) = header_fields(value).or_else(|| basic_fields(value, &is_ours)) {
            take(fields)?;
        }
    }
    let asked = query.map(query_fields).unwrap_or_default();
    match &asked.key {
        Some(_) => take(asked)?,
        None => asked.check_version()?,
    }
    if let Some(key) = key {
        take(Fields { key: Some(key.to_owned()), ..Fields::default() })?;
    }
    found.map(Fields::validate).transpose()
}

/// The fields of one form, not yet validated.
#[derive(Default)]
struct Fields {
    key: Option<String>,
    version: Option<String>,
    client: Option<String>,
}

impl Fields {
    fn set(&mut self, name: &str, value: &str) {
        let field = match name {
            "sentry_key" => &mut self.key,
            "sentry_version" => &mut self.version,
            "sentry_client" => &mut self.client,
            // sentry_secret is accepted and ignored; sentry_timestamp has no meaning any more.
            _ => return,
        };
        if !value.is_empty() || field.is_none() {
            *field = Some(value.to_owned());
        }
    }

    /// Whether the key is there and empty, as a template writes it when its variable is empty.
    fn is_blank(&self) -> bool {
        self.key.as_deref() == Some("")
    }

    fn check_version(&self) -> Result<(), AuthError> {
        let major = self.version.as_deref().and_then(|version| version.split('.').next()).unwrap_or_default();
        match major.is_empty() || major.parse::<u16>().is_ok_and(|version| version <= PROTOCOL_VERSION) {
            true => Ok(()),
            false => Err(AuthError::Version),
        }
    }

    fn validate(self) -> Result<Credentials, AuthError> {
        self.check_version()?;
        let public_key = self.key.filter(|key| !key.is_empty()).ok_or(AuthError::NoKey)?;
        if !is_token(&public_key) {
            return Err(AuthError::InvalidKey);
        }
        Ok(Credentials { public_key, client: self.client.filter(|client| is_client(client)) })
    }
}

/// Whether the client's name is kept: it must be fit for a header of a later request.
fn is_client(client: &str) -> bool {
    !client.is_empty() && client.len() <= 128 && client.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// Reads `Sentry k=v, k=v`: the scheme in any case, the pairs separated by commas or spaces.
fn header_fields(value: &str) -> Option<Fields> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("sentry") {
        return None;
    }
    let mut fields = Fields::default();
    for pair in rest.split([',', ' ']) {
        if let Some((name, value)) = pair.split_once('=') {
            fields.set(name.trim(), value.trim());
        }
    }
    Some(fields)
}

fn basic_fields(value: &str, is_ours: impl Fn(&str) -> bool) -> Option<Fields> {
    let (user, _) = basic(value)?;
    is_ours(&user).then(|| Fields { key: Some(user), ..Fields::default() })
}

/// The user and password of `Basic` authentication (RFC 7617).
pub fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':').unwrap_or((&text, ""));
    Some((user.to_owned(), password.to_owned()))
}

/// The fields of a query. It is a form of authentication only when it names a key.
fn query_fields(query: &str) -> Fields {
    let mut fields = Fields::default();
    if !query.contains("sentry_") {
        return fields;
    }
    for pair in query.split('&') {
        if pair.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
            for (name, value) in url::form_urlencoded::parse(pair.as_bytes()) {
                fields.set(&name, &value);
            }
        } else {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            fields.set(name, value);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";

    fn find_in(
        header: Option<&str>,
        authorization: Option<&str>,
        query: Option<&str>,
    ) -> Result<Option<Credentials>, AuthError> {
        find(header.into_iter(), authorization.into_iter(), query, None, |key| key == KEY)
    }

    fn with(client: Option<&str>) -> Result<Option<Credentials>, AuthError> {
        Ok(Some(Credentials { public_key: KEY.into(), client: client.map(str::to_owned) }))
    }

    #[test]
    fn each_form_is_read() {
        let header =
            format!("sEnTrY sentry_version=7, sentry_client=raven-python/6.10, sentry_key={KEY}, sentry_secret=x");
        assert_eq!(find_in(Some(&header), None, None), with(Some("raven-python/6.10")));
        assert_eq!(find_in(None, Some(&header), None), with(Some("raven-python/6.10")));
        let basic = format!("Basic {}", BASE64.encode(format!("{KEY}:")));
        assert_eq!(find_in(None, Some(&basic), None), with(None));
        let query = format!("sentry_version=7&sentry_key={KEY}&sentry_client=sentry.javascript.node%2F10.24.0");
        assert_eq!(find_in(None, None, Some(&query)), with(Some("sentry.javascript.node/10.24.0")));
    }

    #[test]
    fn two_forms_are_refused_even_when_equal() {
        let header = format!("Sentry sentry_key={KEY}");
        let query = format!("sentry_key={KEY}");
        assert_eq!(find_in(Some(&header), None, Some(&query)), Err(AuthError::Multiple));
        assert_eq!(find_in(Some(&header), Some(&header), None), Err(AuthError::Multiple));
    }

    #[test]
    fn a_key_in_the_path_is_a_form_like_the_others() {
        let in_path = |query| find([].into_iter(), [].into_iter(), query, Some(KEY), |_| true);
        assert_eq!(in_path(Some("status=ok")), with(None));
        assert_eq!(in_path(Some(&format!("sentry_key={KEY}"))), Err(AuthError::Multiple));
    }

    #[test]
    fn a_request_without_a_form_has_no_credentials_and_foreign_forms_are_ignored() {
        assert_eq!(find_in(None, None, Some("x=y")), Ok(None));
        let site = format!("Basic {}", BASE64.encode("staging:secret"));
        let query = format!("sentry_key={KEY}");
        for foreign in ["Bearer token", "Digest username=\"a\"", "Negotiate YQ==", "Basic ?", "Basic", "", &site] {
            assert_eq!(find_in(None, Some(foreign), None), Ok(None), "{foreign}");
            assert_eq!(find_in(None, Some(foreign), Some(&query)), with(None), "{foreign}");
        }
        assert_eq!(find_in(Some(" "), None, None), Ok(None));
        assert_eq!(find_in(Some(""), None, Some(&query)), with(None));
        // A form with an empty key is ignored as well.
        let header = format!("Sentry sentry_version=7, sentry_key={KEY}");
        assert_eq!(find_in(Some("Sentry sentry_version=7, sentry_key="), None, Some(&query)), with(None));
        assert_eq!(find_in(Some(&header), None, Some("sentry_version=7&sentry_key=")), with(None));
        assert_eq!(find_in(Some("Sentry sentry_key="), None, Some("sentry_key&sentry_client=a%2F1")), Ok(None));
        assert_eq!(find_in(None, None, Some(&format!("{query}&sentry_key="))), with(None));
        assert_eq!(find_in(None, None, Some("sentry_version=8&sentry_key=")), Err(AuthError::Version));
        let own = format!("Basic {}", BASE64.encode(format!("{KEY}:")));
        assert_eq!(find_in(None, Some(&own), Some(&query)), Err(AuthError::Multiple));
    }

    #[test]
    fn an_unusable_form_gives_its_reason() {
        assert_eq!(find_in(Some("nonsense"), None, None), Err(AuthError::Unreadable));
        assert_eq!(find_in(Some("Sentry sentry_version=7"), None, None), Err(AuthError::NoKey));
        let newer = format!("Sentry sentry_version=8, sentry_key={KEY}");
        assert_eq!(find_in(Some(&newer), None, None), Err(AuthError::Version));
        let broken = "Sentry sentry_version=seven, sentry_key=k";
        assert_eq!(find_in(Some(broken), None, None), Err(AuthError::Version));
        assert_eq!(find_in(None, None, Some("sentry_key=a%0d%0ab")), Err(AuthError::InvalidKey));
    }

    #[test]
    fn an_old_version_is_spoken_too() {
        let header = format!("Sentry sentry_version=2.0, sentry_key={KEY}");
        assert_eq!(find_in(Some(&header), None, None), with(None));
    }
}
