//! Recognises the kind of a tracker by what it tells everybody: its settings, its health, the version of its API, and, once its key was
//! tried, the limits in its answer. None of these requests needs a token or stores anything.
//!
//! Rule: no guess without an answer. A failed request says nothing about the tracker, so nothing is concluded from it.
//!
//! The order matters: GlitchTip imitates Sentry's API, and Relay passes requests that it does not know to Sentry.

use http::{HeaderMap, Method, Uri};
use serde_json::Value;

use crate::config::Kind;
use crate::protocol::dsn::Dsn;

use super::asker::{Asker, Silence};

/// Why the tracker could not be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NoAnswer {
    /// There was no answer.
    Silent(Silence),
    /// The server is in trouble, and may answer differently when it is well.
    Trouble,
}

/// The kind of the tracker behind a DSN, as far as it can be told without a key; `None` if it is another one or does not tell.
pub(super) async fn kind(http: &Asker, dsn: &Dsn) -> Result<Option<Kind>, NoAnswer> {
    if is_sentrys_own(dsn.authority().host()) {
        return Ok(Some(Kind::Sentry));
    }
    // glitchtip-backend, `glitchtip/api/api.py`.
    if told(http, dsn, "/api/settings/").await?.get("iPaidForGlitchTip").is_some() {
        return Ok(Some(Kind::Glitchtip));
    }
    let kind = async {
        if told(http, dsn, "/api/relay/healthcheck/live/").await?["is_healthy"] == true {
            return Ok(Some(Kind::Relay));
        }
        // getsentry/sentry, `src/sentry/api/endpoints/index.py`.
        Ok::<_, NoAnswer>((told(http, dsn, "/api/0/").await?["version"] == "0").then_some(Kind::Sentry))
    };
    // The tracker is no GlitchTip, so that a failure here is harmless.
    Ok(kind.await.unwrap_or_default())
}

/// The kind that an answer's `X-Sentry-Rate-Limits` tells: Bugsink says so that it stores no such items (bugsink, `ingest/views.py`).
pub(super) fn kind_by_limits(limits: &str) -> Option<Kind> {
    limits.contains("86400:transaction;span:organization").then_some(Kind::Bugsink)
}

fn is_sentrys_own(host: &str) -> bool {
    host == "sentry.io" || host.ends_with(".sentry.io")
}

/// The JSON at a path of the tracker; null for an answer without JSON or success.
async fn told(http: &Asker, dsn: &Dsn, path: &str) -> Result<Value, NoAnswer> {
    let address = Uri::builder().scheme(dsn.scheme().clone()).authority(dsn.authority().clone());
    let address = address.path_and_query(format!("{}{path}", dsn.prefix())).build().map_err(|_| NoAnswer::Trouble)?;
    let answer = http.ask(Method::GET, address, HeaderMap::new(), "").await.map_err(NoAnswer::Silent)?;
    if answer.status.is_server_error() {
        return Err(NoAnswer::Trouble);
    }
    // An answer that was cut off because of its size is none of these.
    Ok(serde_json::from_str(&answer.text).ok().filter(|_| answer.status.is_success()).unwrap_or_default())
}

/// The suggested line of the file, if the tracker is of another kind than is written there.
pub(super) fn suggestion(upstream: &str, written: Kind, found: Kind) -> Option<String> {
    // Both behave alike: a Relay stands before a Sentry.
    let alike = |kind| matches!(kind, Kind::Sentry | Kind::Relay);
    if written == found || (alike(written) && alike(found)) {
        return None;
    }
    let name = found.name();
    Some(format!("{upstream} looks like {name}: write kind = \"{name}\" under [upstreams.{upstream}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_the_file_has_is_not_suggested() {
        assert_eq!(suggestion("a", Kind::Bugsink, Kind::Bugsink), None);
        assert_eq!(suggestion("a", Kind::Sentry, Kind::Relay), None);
        let expected = "a looks like glitchtip: write kind = \"glitchtip\" under [upstreams.a]";
        assert_eq!(suggestion("a", Kind::Generic, Kind::Glitchtip).as_deref(), Some(expected));
        assert!(suggestion("a", Kind::Sentry, Kind::Bugsink).is_some());
    }

    #[test]
    fn hosts_of_sentry_saas_are_known_by_name() {
        for (host, own) in [
            ("sentry.io", true),
            ("o1.ingest.us.sentry.io", true),
            ("notsentry.io", false),
            ("sentry.io.example", false),
        ] {
            assert_eq!(is_sentrys_own(host), own, "{host}");
        }
    }
}
