//! What kind of tracker is it? Told by what each says of itself to everybody: its settings, its health, its API's version,
//! and, once its key was tried, the limits in its answer. Nothing here needs a token, and nothing is stored there.
//!
//! Rule: no guess without an answer. A request that fails says nothing of the tracker, so nothing is concluded from it.
//!
//! In this order, because GlitchTip imitates Sentry's API, and Relay passes on to Sentry what it does not know.

use http::{HeaderMap, Method, Uri};
use serde_json::Value;

use crate::config::Kind;
use crate::protocol::dsn::Dsn;

use super::asker::{Asker, Silence};

/// There was no answer that tells anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NoAnswer {
    /// None at all.
    Silent(Silence),
    /// A server in trouble, which may answer otherwise when it is well.
    Trouble,
}

/// The kind of the tracker behind a DSN, as far as it can be told without a key; `None` is another one.
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
    // It is no GlitchTip, whatever it is.
    Ok(kind.await.unwrap_or_default())
}

/// The kind that an answer's `X-Sentry-Rate-Limits` tells: Bugsink's way of saying that it stores no such things (bugsink,
/// `ingest/views.py`).
pub(super) fn kind_by_limits(limits: &str) -> Option<Kind> {
    limits.contains("86400:transaction;span:organization").then_some(Kind::Bugsink)
}

fn is_sentrys_own(host: &str) -> bool {
    host == "sentry.io" || host.ends_with(".sentry.io")
}

/// The JSON at a path of the tracker: null for an answer that is none.
async fn told(http: &Asker, dsn: &Dsn, path: &str) -> Result<Value, NoAnswer> {
    let address = Uri::builder().scheme(dsn.scheme().clone()).authority(dsn.authority().clone());
    let address = address.path_and_query(format!("{}{path}", dsn.prefix())).build().map_err(|_| NoAnswer::Trouble)?;
    let answer = http.ask(Method::GET, address, HeaderMap::new(), "").await.map_err(NoAnswer::Silent)?;
    if answer.status.is_server_error() {
        return Err(NoAnswer::Trouble);
    }
    // What is cut off, because it is larger, is none of these.
    Ok(serde_json::from_str(&answer.text).ok().filter(|_| answer.status.is_success()).unwrap_or_default())
}

/// What to write into the file, when the tracker is something else than it is said to be there.
pub(super) fn suggestion(upstream: &str, written: Kind, found: Kind) -> Option<String> {
    // They behave alike, and the one stands before the other.
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
    fn what_is_written_already_is_not_suggested() {
        assert_eq!(suggestion("a", Kind::Bugsink, Kind::Bugsink), None);
        assert_eq!(suggestion("a", Kind::Sentry, Kind::Relay), None);
        let expected = "a looks like glitchtip: write kind = \"glitchtip\" under [upstreams.a]";
        assert_eq!(suggestion("a", Kind::Generic, Kind::Glitchtip).as_deref(), Some(expected));
        assert!(suggestion("a", Kind::Sentry, Kind::Bugsink).is_some());
    }

    #[test]
    fn sentrys_own_hosts_are_known_by_name() {
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
