//! Every route that operators reach on one page, and what a browser may do with its answers.

use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{any, get, post};
use http::{HeaderValue, Request, StatusCode, header};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::clock::Clock;
use crate::http::listener::doors::Doors;
use crate::http::listener::serve::{App, serve};
use crate::tasks::Tasks;

use super::access::only_known_hosts;
use super::pages::{self, changes};
use super::state::Admin;
use super::{api, backfill, letters, verify};

/// What operators reach.
pub(super) fn operators(state: Admin) -> Router {
    Router::new()
        .route("/", get(pages::status_page))
        .route("/login", get(changes::sign_in_page).post(changes::sign_in))
        .route("/logout", post(changes::sign_out))
        .route("/switch", get(changes::switch_page).post(changes::switch))
        .route("/retry", post(changes::retry))
        .route("/discard", get(changes::discard_page).post(changes::discard))
        .route("/cancel", post(changes::cancel_backfill))
        .route("/repair", post(changes::repair))
        .route("/metrics", get(api::metrics))
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz))
        .route("/api/status", get(api::status))
        .route("/report", get(pages::report_page))
        .route("/api/report", get(api::report))
        .route("/api/primary", post(api::switch))
        .route("/api/backfill", get(backfill::show).post(backfill::begin))
        .route("/api/backfill/cancel", post(backfill::cancel))
        .route("/api/verify", post(verify::look))
        .route("/api/verify/again", post(verify::look_again))
        .route("/api/verify/event", post(verify::compare))
        .route("/api/repair", post(verify::repair))
        .route("/api/dead-letters", get(letters::list))
        .route("/api/dead-letters/{id}", get(letters::show))
        .route("/api/dead-letters/{id}/envelope", get(letters::envelope))
        .route("/api/dead-letters/retry", post(letters::retry))
        .route("/api/dead-letters/discard", post(letters::discard))
        .fallback(any(|| async { (StatusCode::NOT_FOUND, "no such page\n") }))
        .layer(from_fn_with_state(state.clone(), only_known_hosts))
        .with_state(state)
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

/// One script, the status page's own, may run, and may look here again.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src {}; connect-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        *pages::layout::SCRIPT_SOURCE
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// What a browser may do with what operators get: show it, keep none of it, and send forms to where it came from.
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
