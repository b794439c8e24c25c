//! All routes that SDKs reach, and what all answers have in common.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use http::request::Parts;
use http::{Method, Request, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::clock::Clock;
use crate::http::listener::cut_short::{CutShort, SHARED};
use crate::http::listener::doors::Doors;
use crate::http::listener::serve::{App, serve};
use crate::http::listener::tls::Certificate;
use crate::http::listener::window::{self, Taking};
use crate::http::settings::{Server, TunnelPath};
use crate::protocol::endpoint::Endpoint;
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Refused, code_label};

use super::caller::{self, Caller};
use super::error::ApiError;
use super::ingest::ForProject;
use super::room::{Held, Owner};
use super::state::Public;
use super::{crash, ingest, path, proxy, raw};

/// The routes that SDKs reach.
fn routes(state: Arc<Public>) -> Router {
    let mut routes = Router::new();
    for (path, handler) in [
        ("/api/{project}/envelope", taken(ingest::envelope)),
        ("/api/{project}/store", and_get(taken(ingest::store), ingest::pixel)),
        ("/api/store", and_get(taken(ingest::store_without_project), ingest::pixel_without_project)),
        ("/api/{project}/minidump", taken(crash::minidump)),
        ("/api/{project}/unreal/{key}", taken(crash::unreal)),
        ("/api/{project}/events/{event_id}/attachments", taken(crash::attachments)),
        ("/api/{project}/security", raw(Endpoint::Security)),
        ("/api/{project}/csp-report", raw(Endpoint::CspReport)),
        ("/api/{project}/nel", raw(Endpoint::Nel)),
        ("/api/{project}/cron/{slug}", raw(Endpoint::Cron)),
        ("/api/{project}/cron/{slug}/{key}", raw(Endpoint::Cron)),
        ("/api/{project}/integration/otlp/v1/traces", raw(Endpoint::OtlpTraces)),
        ("/api/{project}/integration/otlp/v1/logs", raw(Endpoint::OtlpLogs)),
        ("/api/{project}/integration/otlp/v1/metrics", raw(Endpoint::OtlpMetrics)),
        ("/api/{project}/otlp/v1/traces", raw(Endpoint::OtlpTraces)),
        ("/api/{project}/otlp/v1/logs", raw(Endpoint::OtlpLogs)),
        ("/api/{project}/otlp/v1/metrics", raw(Endpoint::OtlpMetrics)),
        ("/api/{project}/integration/vercel/logs", raw(Endpoint::Vercel)),
        ("/api/{project}/integration/heroku", raw(Endpoint::Heroku)),
        ("/api/relay/healthcheck/live", get(alive).fallback(wrong_method)),
        ("/api/relay/healthcheck/ready", get(ready).fallback(wrong_method)),
    ] {
        routes = routes.route(path, handler.clone()).route(&format!("{path}/"), handler);
    }
    routes = routes.route("/api/{project}/integration/heroku/{*rest}", raw(Endpoint::Heroku));
    routes = routes.route("/", get(greet).fallback(nowhere));
    let tunnel = state.tunnel.as_ref().map(TunnelPath::as_str);
    if tunnel != Some(HEALTH) {
        for path in [HEALTH.to_owned(), format!("{HEALTH}/")] {
            routes = routes.route(&path, get(alive).fallback(nowhere));
        }
    }
    if let Some(path) = tunnel {
        routes = routes.route(path, taken(ingest::tunnel)).route(&format!("{path}/"), taken(ingest::tunnel));
    }
    routes.fallback(any(proxy::forward)).with_state(state)
}

fn taken<T: 'static>(handler: impl Handler<T, Arc<Public>>) -> MethodRouter<Arc<Public>> {
    post(handler).fallback(wrong_method)
}

/// An endpoint that takes no envelopes. Only check-ins may be sent with GET.
fn raw(endpoint: Endpoint) -> MethodRouter<Arc<Public>> {
    let handler =
        move |State(public): State<Arc<Public>>, request: Request<Body>| raw::take_in(public, endpoint, request);
    match endpoint {
        Endpoint::Cron => and_get(taken(handler), handler),
        _ => taken(handler),
    }
}

/// Adds GET to the methods. HEAD is refused: it is no submission, and would be handled like GET.
fn and_get<T: 'static>(
    routes: MethodRouter<Arc<Public>>,
    handler: impl Handler<T, Arc<Public>>,
) -> MethodRouter<Arc<Public>> {
    routes.get(handler).head(wrong_method)
}

/// The path that monitors ask by habit. The tunnel may have it instead.
const HEALTH: &str = "/healthz";

/// The answer at the root to monitors and people: the name, and nothing more.
async fn greet() -> &'static str {
    "switchyard\n"
}

async fn nowhere(State(public): State<Arc<Public>>, parts: Parts) -> Response {
    let error = ApiError::new(StatusCode::NOT_FOUND, Refused::NoSuchRoute, "no such endpoint");
    caller::refuse(&public, &parts, error)
}

async fn alive() -> Response {
    axum::Json(json!({ "is_healthy": true })).into_response()
}

async fn ready(State(public): State<Arc<Public>>) -> Response {
    let is_healthy = public.readiness.not_ready().await.is_none();
    let status = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({ "is_healthy": is_healthy }))).into_response()
}

async fn wrong_method(State(public): State<Arc<Public>>, parts: Parts) -> Response {
    let detail = "this endpoint does not take that method";
    caller::refuse(&public, &parts, ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Refused::Method, detail))
}

/// Serves SDKs on `listener`.
pub async fn serve_public(listener: TcpListener, state: Public, clock: Clock, tasks: Tasks) {
    let state = Arc::new(state);
    serve(listener, PublicApp { routes: routes(Arc::clone(&state)), state }, clock, tasks).await;
}

/// The project id in the path, if the request sends an envelope in the usual spelling. Nearly every request does, and bypasses the
/// router.
fn project_of_envelope(request: &Request<Body>) -> Option<&str> {
    let path = request.uri().path().strip_prefix("/api/")?;
    let id = path.strip_suffix('/').unwrap_or(path).strip_suffix("/envelope")?;
    let is_plain = !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_digit());
    (is_plain && request.method() == Method::POST).then_some(id)
}

#[derive(Clone)]
struct PublicApp {
    routes: Router,
    state: Arc<Public>,
}

impl App for PublicApp {
    async fn answer(&self, peer: SocketAddr, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(peer);
        path::normalise(request.uri_mut());
        let (mut response, project) = if request.method() == Method::OPTIONS {
            (preflight(), None)
        } else if let Some(id) = project_of_envelope(&request).map(str::to_owned) {
            ingest::envelope_for(&self.state, &id, request).await
        } else {
            let answer = Box::pin(self.routes.clone().oneshot(request)).await;
            let mut response = answer.unwrap_or_else(|never| match never {});
            let project = response.extensions_mut().remove::<ForProject>();
            (response, project.map(|ForProject(name)| name))
        };
        share(&mut response);
        self.count(&response, project.as_deref().unwrap_or_default());
        response
    }

    fn doors(&self) -> &Doors {
        &self.state.doors
    }

    fn room(&self, client: IpAddr, bytes: u64) -> Taking {
        let (room, mut held) = (self.state.room.clone(), Held::of_window(Owner::Client(client)));
        Box::pin(async move {
            room.window(&mut held, bytes).await.ok()?;
            Some(Box::new(held) as window::Room)
        })
    }

    fn server(&self) -> Option<Arc<Server>> {
        Some(self.state.server.load_full())
    }

    fn certificate(&self) -> Option<Arc<Certificate>> {
        self.state.certificate.load_full()
    }

    fn cut_short(&self, why: CutShort) {
        let reason = match why {
            CutShort::Stalled => Refused::Timeout,
            CutShort::TooManyHeaders => Refused::TooLarge,
            CutShort::NoProxyHeader | CutShort::StrayProxyHeader => Refused::ProxyProtocol,
            CutShort::TooManyConnections => Refused::TooManyConnections,
            CutShort::NoRoom => Refused::Overloaded,
            CutShort::EndlessLine | CutShort::NoTls | CutShort::Malformed => Refused::Malformed,
        };
        self.refused("", reason, why.detail(), None);
        let code = code_label(why.status().as_u16());
        self.state.metrics.received_requests_total.with_label_values(&["", code]).inc();
    }
}

impl PublicApp {
    fn count(&self, response: &Response, project: &str) {
        let code = code_label(response.status().as_u16());
        self.state.metrics.received_requests_total.with_label_values(&[project, code]).inc();
        if let Some(reason) = response.extensions().get::<Refused>() {
            let why = response.headers().get("x-sentry-error").and_then(|value| value.to_str().ok());
            self.refused(project, *reason, why.unwrap_or_default(), response.extensions().get::<Caller>());
        }
    }

    /// Counts every refusal, and logs one of each kind and project a minute.
    fn refused(&self, project: &str, reason: Refused, why: &str, caller: Option<&Caller>) {
        self.state.metrics.refused(reason);
        let Some(line) = self.state.damper.admit(&(reason, project.into())) else { return };
        tracing::warn!(
            reason = reason.name(),
            project.name = Some(project).filter(|name| !name.is_empty()),
            why,
            project.id = caller.and_then(|caller| caller.project.as_deref()),
            client.name = caller.and_then(|caller| caller.name.as_deref()),
            client.address = caller.map(|caller| caller.address.to_string()),
            suppressed = line.suppressed,
            "a request was refused; further ones of this kind are only counted for a minute"
        );
    }
}

/// The answer to a browser's preflight request (getsentry/relay, `relay-server/src/middlewares/cors.rs`).
fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "x-sentry-auth, x-requested-with, x-forwarded-for, origin, referer, accept, content-type, \
             authentication, authorization, content-encoding, transfer-encoding",
        ),
    ];
    (StatusCode::OK, headers).into_response()
}

/// Adds the headers of all answers; those that a tracker has set in a proxied answer stay.
fn share(response: &mut Response) {
    let headers = response.headers_mut();
    for (name, value) in SHARED {
        headers.entry(name).or_insert(value);
    }
}
