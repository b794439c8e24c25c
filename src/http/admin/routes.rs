//! All routes that operators reach: who may ask for each, and what answers. Also what a browser may do with the answers.

use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::middleware::{from_extractor_with_state, from_fn_with_state};
use axum::response::Response;
use axum::routing::{self, MethodRouter};
use http::{HeaderValue, Method, Request, StatusCode, header};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::clock::Clock;
use crate::http::listener::doors::Doors;
use crate::http::listener::serve::{App, serve};
use crate::tasks::Tasks;

use super::access::{Changer, ContentReader, Reader, only_known_hosts};
use super::pages::{self, changes};
use super::state::Admin;
use super::{api, backfill, letters, verify};

/// Who may ask for a route. All but [`Who::Anybody`] must name a host of ours or prove who they are; [`access`](super::access) has the
/// rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// Everyone, without a check of the host.
    Anybody,
    /// A visitor who is about to sign in.
    Guest,
    /// A reader of figures and names.
    Reader,
    /// A reader of the contents of events.
    ContentReader,
    /// A program that may change something.
    Changer,
    /// A visitor of a page: its function takes a `Visitor`.
    Visitor,
    /// A signed-in visitor who sends a form of a page: its function takes a `Change`.
    Form,
}

/// One route.
pub(super) struct Row {
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests ask by it"))]
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) who: Who,
    answer: MethodRouter<Admin>,
}

fn get<T: 'static>(path: &'static str, who: Who, answer: impl Handler<T, Admin>) -> Row {
    Row { method: Method::GET, path, who, answer: routing::get(answer) }
}

fn post<T: 'static>(path: &'static str, who: Who, answer: impl Handler<T, Admin>) -> Row {
    Row { method: Method::POST, path, who, answer: routing::post(answer) }
}

/// All routes.
pub(super) fn table() -> Vec<Row> {
    use Who::{Anybody, Changer, ContentReader, Form, Guest, Reader, Visitor};
    vec![
        get("/healthz", Anybody, api::healthz),
        get("/readyz", Anybody, api::readyz),
        get("/login", Guest, changes::sign_in_page),
        post("/login", Guest, changes::sign_in),
        post("/logout", Form, changes::sign_out),
        get("/", Visitor, pages::status_page),
        get("/report", Visitor, pages::report_page),
        get("/switch", Visitor, changes::switch_page),
        post("/switch", Form, changes::switch),
        post("/retry", Form, changes::retry),
        get("/discard", Visitor, changes::discard_page),
        post("/discard", Form, changes::discard),
        post("/cancel", Form, changes::cancel_backfill),
        post("/repair", Form, changes::repair),
        get("/metrics", Reader, api::metrics),
        get("/api/status", Reader, api::status),
        get("/api/report", Reader, api::report),
        post("/api/primary", Changer, api::switch),
        get("/api/backfill", Reader, backfill::show),
        post("/api/backfill", Changer, backfill::begin),
        post("/api/backfill/cancel", Changer, backfill::cancel),
        post("/api/verify", Changer, verify::look),
        post("/api/verify/again", Changer, verify::look_again),
        post("/api/verify/event", Changer, verify::compare),
        post("/api/repair", Changer, verify::repair),
        get("/api/dead-letters", Reader, letters::list),
        get("/api/dead-letters/{id}", ContentReader, letters::show),
        get("/api/dead-letters/{id}/envelope", ContentReader, letters::envelope),
        post("/api/dead-letters/retry", Changer, letters::retry),
        post("/api/dead-letters/discard", Changer, letters::discard),
    ]
}

impl Row {
    /// The handler, behind the check of who asks.
    fn guarded(self, admin: &Admin) -> MethodRouter<Admin> {
        let Self { answer, who, .. } = self;
        match who {
            Who::Reader => answer.route_layer(from_extractor_with_state::<Reader, _>(admin.clone())),
            Who::ContentReader => answer.route_layer(from_extractor_with_state::<ContentReader, _>(admin.clone())),
            Who::Changer => answer.route_layer(from_extractor_with_state::<Changer, _>(admin.clone())),
            Who::Anybody | Who::Guest | Who::Visitor | Who::Form => answer,
        }
    }
}

/// The routes that operators reach.
pub(super) fn operators(state: Admin) -> Router {
    let (open, named): (Vec<Row>, Vec<Row>) = table().into_iter().partition(|row| row.who == Who::Anybody);
    let add = |router: Router<Admin>, row: Row| router.route(row.path, row.guarded(&state));
    let named = named.into_iter().fold(Router::new(), add);
    let named = named.fallback(|| async { (StatusCode::NOT_FOUND, "no such page\n") });
    let named = named.layer(from_fn_with_state(state.clone(), only_known_hosts));
    open.into_iter().fold(named, add).with_state(state)
}

/// Serves operators on `listener`.
pub async fn serve_admin(listener: TcpListener, state: Admin, clock: Clock, tasks: Tasks) {
    serve(listener, AdminApp(operators(state), Doors::of_operators()), clock, tasks).await;
}

#[derive(Clone)]
struct AdminApp(Router, Doors);

impl App for AdminApp {
    fn doors(&self) -> &Doors {
        &self.1
    }

    async fn answer(&self, peer: SocketAddr, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(peer);
        let mut response = self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        confine(&mut response);
        response
    }
}

/// The content security policy: only the status page's own script may run, and may fetch only from here.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src {}; connect-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        *pages::layout::SCRIPT_SOURCE
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// Limits what a browser may do with an answer: show it, store nothing of it, and send forms only to here.
fn confine(response: &mut Response) {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}
