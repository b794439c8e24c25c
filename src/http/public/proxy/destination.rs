//! The destination of a request that only a tracker can answer: the address of a configured DSN, below its path prefix and `/api/`.
//!
//! The rule: nothing that a client sends decides the host, and no path leads out of `/api/`. Whatever names a project of ours (a
//! project id in the path, a key, the `dsn` of the crash-report dialog) is replaced by the primary's name of it. Opens no connection.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode;
use url::{Url, form_urlencoded};

use crate::http::public::path::{self, Spelling};
use crate::policy::routing::{Project, PublicKey, Routing};
use crate::protocol::auth::{self, AuthError, Credentials};
use crate::protocol::dsn::Dsn;

/// The most rounds of decoding a path; the last must change nothing.
const DEPTH: usize = 4;

/// Where a request goes.
#[derive(Debug)]
pub(super) struct Destination {
    /// The name of the primary.
    pub(super) upstream: Arc<str>,
    pub(super) url: Url,
    /// The replacement of the client's key; `None` if there is none to replace.
    pub(super) rekey: Option<Rekey>,
}

/// Why a request has no destination.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NoDestination {
    /// The path names nothing below `/api/`: 404.
    #[error("no such endpoint")]
    Nowhere,
    /// The path has dots as segments, however encoded, or backslashes, or leads elsewhere: 400.
    #[error("the path must not have dots as segments, nor backslashes")]
    Leaves,
    /// The primary could read the path as another one: 400.
    #[error(transparent)]
    Spelling(#[from] Spelling),
    /// The dialog's `dsn` belongs to no configured project: 404, as Sentry answers.
    #[error("the dsn in the query belongs to no configured project")]
    UnknownDsn,
    /// The key is not that of the project in the path: 403.
    #[error("project and public key do not belong to a known project")]
    UnknownKey,
    /// The authentication cannot be read: 401.
    #[error(transparent)]
    Unreadable(#[from] AuthError),
    /// The configuration has no DSN at the primary: 502.
    #[error("the primary has no address")]
    NoAddress,
}

/// Finds the destination of a request for `path` and `query`. The client's credentials are read only if the path names a project.
pub(super) fn find(
    routing: &Routing,
    path: &str,
    query: Option<&str>,
    credentials: impl FnOnce() -> Result<Option<Credentials>, AuthError>,
) -> Result<Destination, NoDestination> {
    let below = path.strip_prefix("/api/").filter(|below| !below.is_empty()).ok_or(NoDestination::Nowhere)?;
    if leaves(path) {
        return Err(NoDestination::Leaves);
    }
    path::check(path)?;
    if below.trim_end_matches('/') == "embed/error-page" {
        return dialog(routing, path, query);
    }
    let id = below.split('/').next().unwrap_or_default();
    // 0 is the version of the API, not a project.
    let mut projects = routing.projects.iter().filter(|project| &*project.id == id && id != "0").peekable();
    if projects.peek().is_none() {
        return to(shared(routing)?, path, query);
    }
    let credentials = credentials()?;
    let key = credentials.as_ref().map(|credentials| PublicKey::new(&credentials.public_key));
    let project = projects.find(|project| key.as_ref().is_none_or(|key| *key == project.public_key));
    let (upstream, dsn) = own(routing, project.ok_or(NoDestination::UnknownKey)?)?;
    let path = format!("/api/{}{}", dsn.project(), &below[id.len()..]);
    let rekey = credentials.map(|sent| Rekey { from: sent.public_key, to: dsn.public_key().to_owned() });
    let query = match (query, &rekey) {
        (Some(query), Some(rekey)) => Some(with_parameter(query, "sentry_key", &rekey.to)),
        (query, _) => query.map(str::to_owned),
    };
    Ok(Destination { rekey, ..to((upstream, dsn), &path, query.as_deref())? })
}

/// The destination of the crash-report dialog (Sentry, `src/sentry/web/frontend/error_page_embed.py`): the `dsn` in its query names the
/// project. A project's DSN at its primary is accepted, too, because the dialog's script is told that one.
fn dialog(routing: &Routing, path: &str, query: Option<&str>) -> Result<Destination, NoDestination> {
    let sent = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter(|(name, _)| name == "dsn").last();
    let Some((_, sent)) = sent else { return to(shared(routing)?, path, query) };
    let sent: Dsn = sent.parse().map_err(|_| NoDestination::UnknownDsn)?;
    let key = PublicKey::new(sent.public_key());
    let is_ours = |project: &&Arc<Project>| *project.id == *sent.project() && project.public_key == key;
    let is_theirs = |dsn: &Dsn| dsn.project() == sent.project() && PublicKey::new(dsn.public_key()) == key;
    let addresses = || routing.projects.iter().filter_map(|project| own(routing, project).ok());
    let address = match routing.projects.iter().find(is_ours) {
        Some(project) => own(routing, project)?,
        None => addresses().find(|(_, dsn)| is_theirs(dsn)).ok_or(NoDestination::UnknownDsn)?,
    };
    let query = query.map(|query| with_parameter(query, "dsn", &address.1.reveal()));
    to(address, path, query.as_deref())
}

type Address<'a> = (&'a Arc<str>, &'a Dsn);

/// The DSN of a project at its primary.
fn own<'a>(routing: &'a Routing, project: &'a Project) -> Result<Address<'a>, NoDestination> {
    let primary = routing.primary_of(project);
    project.dsns.get(primary).map(|dsn| (primary, dsn)).ok_or(NoDestination::NoAddress)
}

/// The address of the global primary, for requests of no project: that of the first configured project with a DSN there.
fn shared(routing: &Routing) -> Result<Address<'_>, NoDestination> {
    let mut dsns = routing.projects.iter().filter_map(|project| project.dsns.get(&routing.primary));
    dsns.next().map(|dsn| (&routing.primary, dsn)).ok_or(NoDestination::NoAddress)
}

fn to((upstream, dsn): Address<'_>, path: &str, query: Option<&str>) -> Result<Destination, NoDestination> {
    let base = format!("{}://{}{}", dsn.scheme(), dsn.authority(), dsn.prefix());
    let parsed = |text: &str| Url::parse(text).map_err(|_| NoDestination::Leaves);
    let (base, mut url) = (parsed(&base)?, parsed(&format!("{base}{path}"))?);
    // However the URL library reads the path, the result must keep the host and stay below `/api/`.
    if url.origin() != base.origin() || !url.path().starts_with(&format!("{}/api/", dsn.prefix())) {
        return Err(NoDestination::Leaves);
    }
    url.set_query(query);
    Ok(Destination { upstream: Arc::clone(upstream), url, rekey: None })
}

/// Returns whether a server on the way could find dots as segments in the path, however often they are encoded, or a backslash.
/// Encoded slashes alone are fine: names of releases have them.
fn leaves(path: &str) -> bool {
    if path.contains('\\') {
        return true;
    }
    let is_dots = |segment: &[u8]| matches!(segment.split(|b| *b == b';').next(), Some(b"." | b".."));
    let mut text = path.as_bytes().to_vec();
    for _ in 0..DEPTH {
        if text.split(|b| matches!(b, b'/' | b'\\')).any(is_dots) {
            return true;
        }
        let decoded: Vec<u8> = percent_decode(&text).collect();
        if decoded == text {
            return false;
        }
        text = decoded;
    }
    true
}

/// Replaces every value of `name` in a query; everything else stays as it is.
fn with_parameter(query: &str, name: &str, value: &str) -> String {
    let is_it = |pair: &str| form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(have, _)| have == name);
    let encoded = || form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
    let pairs = query.split('&').map(|pair| if is_it(pair) { encoded() } else { pair.to_owned() });
    pairs.collect::<Vec<_>>().join("&")
}

/// The client's key, and the primary's key that replaces it.
pub(super) struct Rekey {
    from: String,
    to: String,
}

impl Rekey {
    /// A value of `X-Sentry-Auth` or `Authorization`, with the key replaced.
    pub(super) fn header(&self, value: &str) -> String {
        match auth::basic(value) {
            Some((user, _)) if user == self.from => format!("Basic {}", BASE64.encode(format!("{}:", self.to))),
            _ => value.replace(&format!("sentry_key={}", self.from), &format!("sentry_key={}", self.to)),
        }
    }
}

impl std::fmt::Debug for Rekey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(id: &str, key: &str, primary: Option<&str>, dsns: &[(&str, &str)]) -> Arc<Project> {
        Arc::new(Project {
            name: format!("p{id}").as_str().into(),
            id: id.into(),
            public_key: PublicKey::new(key),
            dsns: dsns.iter().map(|(name, dsn)| ((*name).into(), dsn.parse().unwrap())).collect(),
            places: [].into(),
            primary: primary.map(Into::into),
            mirror: None,
        })
    }

    fn routing() -> Routing {
        let projects = vec![
            project("1", "one", None, &[("a", "https://aa@a.test:9000/pre/fix/11"), ("b", "http://bb@b.test/12")]),
            project("2", "two", Some("b"), &[("b", "http://bc@b.test/22")]),
        ];
        Routing { primary: "a".into(), mirror: true, projects }
    }

    fn with_key(path: &str, query: Option<&str>, key: Option<&str>) -> Result<Destination, NoDestination> {
        let sent = key.map(|key| Credentials { public_key: key.into(), client: None });
        find(&routing(), path, query, || Ok(sent))
    }

    fn found(path: &str, query: Option<&str>) -> String {
        with_key(path, query, None).unwrap().url.into()
    }

    fn refused(path: &str) -> NoDestination {
        with_key(path, None, None).unwrap_err()
    }

    #[test]
    fn api_requests_go_to_the_global_primary_and_project_routes_to_the_projects() {
        assert_eq!(
            found("/api/0/projects/", Some("cursor=1:0:0")),
            "https://a.test:9000/pre/fix/api/0/projects/?cursor=1:0:0"
        );
        assert_eq!(found("/api/42/later/", None), "https://a.test:9000/pre/fix/api/42/later/");
        assert_eq!(found("/api/1/later", None), "https://a.test:9000/pre/fix/api/11/later");
        assert_eq!(found("/api/2/later/x/", None), "http://b.test/api/22/later/x/");
        assert_eq!(with_key("/api/2/later/", None, None).unwrap().upstream, "b".into());
    }

    #[test]
    fn a_key_becomes_the_primarys_and_a_foreign_key_is_refused() {
        let found = with_key("/api/1/later/", Some("a=%2F&sentry_key=one&sentry_version=7"), Some("one")).unwrap();
        assert_eq!(found.url.query(), Some("a=%2F&sentry_key=aa&sentry_version=7"));
        let rekey = found.rekey.unwrap();
        assert_eq!(rekey.header("Sentry sentry_version=7, sentry_key=one"), "Sentry sentry_version=7, sentry_key=aa");
        assert_eq!(rekey.header("Basic b25lOg=="), "Basic YWE6");
        assert_eq!(with_key("/api/1/later/", None, Some("two")).unwrap_err(), NoDestination::UnknownKey);
    }

    #[test]
    fn the_dsn_of_the_dialog_becomes_the_primarys() {
        let dialog =
            |dsn: &str| with_key("/api/embed/error-page/", Some(&format!("eventId=1&dsn={dsn}&title=a%20b")), None);
        let url = |dsn: &str| dialog(dsn).unwrap().url.to_string();
        let theirs = "eventId=1&dsn=https%3A%2F%2Faa%40a.test%3A9000%2Fpre%2Ffix%2F11&title=a%20b";
        assert_eq!(
            url("http%3A%2F%2Fone@relay.test/1"),
            format!("https://a.test:9000/pre/fix/api/embed/error-page/?{theirs}")
        );
        assert_eq!(url("https://aa@a.test:9000/pre/fix/11"), url("http://one@relay.test/1"));
        assert!(url("http://two@relay.test/2").starts_with("http://b.test/api/embed/error-page/?"));
        for dsn in ["http://one@relay.test/2", "http://bb@b.test/12", "nonsense", "http://evil.test/1", ""] {
            assert_eq!(dialog(dsn).unwrap_err(), NoDestination::UnknownDsn, "{dsn}");
        }
        assert_eq!(found("/api/embed/error-page/", None), "https://a.test:9000/pre/fix/api/embed/error-page/");
    }

    #[test]
    fn no_path_leads_out_of_the_api() {
        for path in ["/", "/api", "/api/", "/elsewhere/", "", "*", "/apis/0/", "/API/0/"] {
            assert_eq!(refused(path), NoDestination::Nowhere, "{path}");
        }
        for path in [
            "/api/0/../../admin/",
            "/api/../admin/",
            "/api/0/%2e%2e/x",
            "/api/0/.%2E/x",
            "/api/0/..%2f..%2fadmin",
            "/api/0/%252e%252e%252fadmin",
            "/api/0/%2525252525252e/",
            "/api/0/..%5c..%5cadmin",
            "/api/0/..\\admin",
            "/api/0/..;x=1/admin",
            "/api/..",
            "/api/./0/",
        ] {
            assert_eq!(refused(path), NoDestination::Leaves, "{path}");
        }
    }

    #[test]
    fn names_with_slashes_dots_and_signs_pass_and_the_host_stays() {
        for path in [
            "/api/0/organizations/shop/releases/web%2F1.0..2/",
            "/api/0/releases/...%2F.x/",
            "/api/0/@evil.test/",
            "/api/0/http://evil.test/",
            "/api/evil.test:80/",
            "/api/0/%00%0d%0a/",
            "/api/0/caf\u{e9}/",
        ] {
            let url = with_key(path, Some("next=http://evil.test/&q=../.."), None).unwrap().url;
            assert_eq!((url.host_str(), url.port()), (Some("a.test"), Some(9000)), "{path}");
            assert!(url.path().starts_with("/pre/fix/api/"), "{url}");
            assert_eq!(url.username(), "");
        }
    }

    #[test]
    fn another_spelling_of_an_ingest_route_is_refused() {
        for path in
            ["/api/1/Envelope/", "/api/1/envelope;x/", "/api/1%2Fenvelope/", "/api/1/envelop%2565/", "/api/0/a%5Cb/"]
        {
            assert!(matches!(refused(path), NoDestination::Spelling(_)), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leads_away_from_the_configured_addresses(path in "/api/[ -~]{0,40}", query in proptest::option::of("[ -~]{0,20}")) {
            if let Ok(found) = with_key(&path, query.as_deref(), None) {
                let url = found.url.as_str();
                let leads_home = ["https://a.test:9000/pre/fix/api/", "http://b.test/api/"].iter().any(|home| url.starts_with(home));
                proptest::prop_assert!(leads_home, "{}", url);
            }
        }
    }
}
