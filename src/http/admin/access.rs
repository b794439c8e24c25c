//! Access to the admin listener: the proofs that a request may read, change by program, look at a page, or change by a form of a page.
//! The table in [`routes`](super::routes) says which route needs which proof.
//!
//! Rule: without a token, everything is free on this machine and nothing from elsewhere. With a token, every change and every look at
//! the contents of events needs it, or a session that began with it. Other reads need it from elsewhere, and on this machine if
//! `open_on_loopback` is off. Requests without either are answered only under known host names, see [`host`]. A browser sends our cookie
//! on behalf of any page that is open in it: its changes need a session, the form token of that session, and an origin that is our own.
//! A refused request changes nothing, and of its body only a form is read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use url::form_urlencoded;

use super::pages::forms;
use super::state::Admin;

use super::answer::refuse;
use super::denied::Denied;
use super::host;
use super::session::{Session, is_same};

/// The cookie of a session.
pub(super) const COOKIE: &str = "switchyard_session";
/// The header in which scripts on our pages send the form token, which forms carry in a field.
const FORM_TOKEN: &str = "x-csrf-token";
/// The largest form, in bytes.
const LARGEST_FORM: usize = 8 << 10;
/// How long a form may take to arrive.
const FORM_PATIENCE: Duration = Duration::from_secs(10);
/// The most fields of a form that are read.
const MOST_FIELDS: usize = 16;
/// The most cookies of our name that are read: other sites on our host can add some.
const MOST_COOKIES: usize = 4;

/// Proof that the request may read.
pub(super) struct Reader;

/// Proof that the request may read what is in events.
pub(super) struct ContentReader;

/// Proof that the request may change something.
pub(super) struct Changer;

/// Proof that the request may look at pages.
pub(super) struct Visitor {
    /// The session, if the visitor is signed in.
    pub(super) session: Option<Session>,
}

/// A form from one of our pages or from a program, whose sender need not be signed in.
pub(super) struct Form {
    pub(super) fields: Fields,
    pub(super) peer: IpAddr,
    /// Whether the browser speaks TLS with a proxy in front of us.
    pub(super) is_secure: bool,
}

/// A form that a signed-in visitor has sent from one of our pages.
pub(super) struct Change {
    pub(super) fields: Fields,
    pub(super) session: Session,
    pub(super) peer: IpAddr,
}

impl FromRequestParts<Admin> for Reader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        if is_free_to_read(parts, admin) || is_known(&parts.headers, admin) {
            return Ok(Self);
        }
        let why = match is_local(parts) {
            true => "open_on_loopback is off: the admin token is needed: Authorization: Bearer …",
            false => "from other machines the admin token is needed: Authorization: Bearer …",
        };
        Err(refuse(StatusCode::UNAUTHORIZED, why))
    }
}

impl FromRequestParts<Admin> for ContentReader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        if is_free(parts, admin) || is_known(&parts.headers, admin) {
            return Ok(Self);
        }
        Err(refuse(StatusCode::UNAUTHORIZED, "what is in events takes the admin token: Authorization: Bearer …"))
    }
}

impl FromRequestParts<Admin> for Changer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        // Any page can make a browser on this machine send a POST. Browsers always send one of these headers with it.
        let is_browser = ["origin", "sec-fetch-site", "referer"].iter().any(|name| parts.headers.contains_key(*name));
        let is_free = is_free(parts, admin) && !is_browser;
        if is_free || has_token(&parts.headers, admin) || is_of_our_page(parts, admin) {
            return Ok(Self);
        }
        Err(refuse(StatusCode::FORBIDDEN, "changes need the admin token: Authorization: Bearer …"))
    }
}

impl FromRequestParts<Admin> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Response> {
        let session = session(&parts.headers, admin);
        if session.is_some() || is_free_to_read(parts, admin) || has_token(&parts.headers, admin) {
            return Ok(Self { session });
        }
        Err(forms::sign_in(StatusCode::UNAUTHORIZED, admin.view.load().token.is_some(), None))
    }
}

impl FromRequest<Admin> for Form {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, _: &Admin) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let peer = peer(&parts);
        let is_secure =
            parts.headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https:"));
        let fields = read(&parts, body).await.map_err(forms::denied)?;
        Ok(Self { fields, peer, is_secure })
    }
}

impl FromRequest<Admin> for Change {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, admin: &Admin) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let session = session(&parts.headers, admin).ok_or(Denied::SignedOut).map_err(forms::denied)?;
        let fields = read(&parts, body).await.map_err(forms::denied)?;
        if !session.is_of(fields.get("csrf")) {
            return Err(forms::denied(Denied::OtherForm));
        }
        Ok(Self { fields, session, peer: peer(&parts) })
    }
}

/// Answers only requests that name a host of ours, or prove who asks.
pub(super) async fn only_known_hosts(State(admin): State<Admin>, request: Request<Body>, next: Next) -> Response {
    let is_ours = host::is_ours(request.uri(), request.headers(), &admin.view.load().hosts)
        || is_known(request.headers(), &admin);
    if is_ours {
        return next.run(request).await;
    }
    let why = "the admin listener does not answer to this host name without the token: name it in the configuration, \
               as in hosts = [\"relay.example.org\"] under [admin]";
    refuse(StatusCode::MISDIRECTED_REQUEST, why)
}

/// The session that a request belongs to; `None` without a valid cookie.
fn session(headers: &HeaderMap, admin: &Admin) -> Option<Session> {
    let view = admin.view.load();
    let token = view.token.as_ref()?;
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    let ours = cookies.filter(|(name, _)| *name == COOKIE).take(MOST_COOKIES);
    ours.map(|(_, value)| value).find_map(|value| admin.sessions.find(value, token, admin.clock.uptime()))
}

/// Whether a script on one of our pages has sent the request.
fn is_of_our_page(parts: &Parts, admin: &Admin) -> bool {
    let form_token = parts.headers.get(FORM_TOKEN).and_then(|value| value.to_str().ok());
    let session = session(&parts.headers, admin);
    let is_ours = form_token.zip(session).is_some_and(|(form_token, session)| session.is_of(form_token));
    is_ours && is_same_origin(parts)
}

/// Whether no header says that another site's page has sent the request.
fn is_same_origin(parts: &Parts) -> bool {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let host: Option<Authority> = parts.uri.authority().cloned().or(host);
    let is_ours = |origin: &str| host.as_ref().is_some_and(|host| is_origin_of(origin, host));
    let says = |name: &str, is_right: &dyn Fn(&str) -> bool| {
        parts.headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(is_right))
    };
    says("origin", &is_ours) && says("sec-fetch-site", &|site| site == "same-origin")
}

/// Whether an `Origin` is that of the pages at this `Host`. `null` never is.
fn is_origin_of(origin: &str, host: &Authority) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let default = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    origin.authority().is_some_and(|own| own.host().eq_ignore_ascii_case(host.host()) && port(own) == port(host))
}

/// Reads a form, unless another site's page has sent it.
async fn read(parts: &Parts, body: Body) -> Result<Fields, Denied> {
    if !is_same_origin(parts) {
        return Err(Denied::OtherSite);
    }
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Denied::NoForm);
    }
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > LARGEST_FORM) {
        return Err(Denied::TooLarge);
    }
    let bytes = tokio::time::timeout(FORM_PATIENCE, to_bytes(body, LARGEST_FORM)).await;
    let bytes = bytes.map_err(|_| Denied::TooSlow)?;
    // A body with an announced length fits, and has failed otherwise. A body without one is most likely too large.
    let failed = if length.is_some() { Denied::NoForm } else { Denied::TooLarge };
    bytes.map(|bytes| Fields::parse(&bytes)).map_err(|_| failed)
}

/// The fields of a form or of a query.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads the first [`MOST_FIELDS`] fields.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).take(MOST_FIELDS).map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    /// A field, without space around it; empty when it is absent.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value.trim())
    }
}

fn peer(parts: &Parts) -> IpAddr {
    let peer = parts.extensions.get::<SocketAddr>();
    peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip().to_canonical())
}

/// Whether the request comes from this machine, and no proxy on it has passed it on.
fn is_local(parts: &Parts) -> bool {
    let is_passed_on =
        ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| parts.headers.contains_key(*name));
    peer(parts).is_loopback() && !is_passed_on
}

/// Whether the request may do everything without a proof: no token is set, and the request comes from this machine.
fn is_free(parts: &Parts, admin: &Admin) -> bool {
    is_local(parts) && admin.view.load().token.is_none()
}

/// Whether the request may read the status without a proof.
fn is_free_to_read(parts: &Parts, admin: &Admin) -> bool {
    is_free(parts, admin) || (is_local(parts) && admin.view.load().open_on_loopback)
}

/// Whether the request carries the token, or the cookie of a session.
fn is_known(headers: &HeaderMap, admin: &Admin) -> bool {
    has_token(headers, admin) || session(headers, admin).is_some()
}

fn has_token(headers: &HeaderMap, admin: &Admin) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    match (&admin.view.load().token, sent) {
        (Some(token), Some(sent)) => is_same(token.expose(), sent),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
