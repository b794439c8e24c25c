//! Requests from other machines, and sessions that expire: no test can bring these through a real listener.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::clock::{Clock, Timestamp};
use crate::delivery::board::Board;
use crate::delivery::verifier::Verifier;
use crate::http::admin::order::SwitchOrder;
use crate::http::admin::routes::{Row, Who, operators, table};
use crate::http::admin::session::LIFE;
use crate::http::admin::state::View;
use crate::http::readiness::Readiness;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{self, Journal};
use crate::policy::routing::Routing;
use crate::telemetry::ledger::Ledger;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pulse::Pulse;
use crate::units::Secret;

use super::*;

const HERE: &str = "127.0.0.1:40000";
const ELSEWHERE: &str = "192.0.2.7:40000";

fn view(token: &str) -> View {
    let routing = Routing { primary: "sentry".into(), mirror: true, projects: vec![] };
    let upstreams = ["sentry", "glitchtip"].map(|name| (name.into(), Duration::from_secs(3600))).into();
    let (token, hosts) = (Some(Secret::new(token.to_owned())), vec!["relay.test".to_owned()]);
    View { routing: Arc::new(routing), upstreams, token, open_on_loopback: true, hosts, ..View::default() }
}

/// The state of an admin listener, where its orders arrive, and the folder of its journal.
async fn admin() -> (Admin, mpsc::Receiver<SwitchOrder>, TempDir) {
    let (ledger, clock) = (Ledger::default(), Clock::simulated(Timestamp::from_millis(1_767_571_200_000)));
    let folder = tempfile::tempdir().unwrap();
    let settings = journal::Settings { path: folder.path().join("journal.db"), ..journal::Settings::default() };
    let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(&settings, clock.clone(), ledger.clone()).unwrap());
    for name in ["sentry", "glitchtip"] {
        journal.target(name).await.unwrap();
    }
    let targets = journal.targets().await.unwrap();
    let readiness = Readiness::new(Arc::clone(&journal), CancellationToken::new());
    let (control, orders) = mpsc::channel(1);
    let verifier = Verifier::new(Arc::clone(&journal), clock.clone(), Board::default());
    let time = (clock.clone(), Pulse::new(clock.now(), clock.since_boot()));
    let admin = Admin::new((journal, ledger), (Board::default(), verifier), Metrics::new(), time, readiness, control);
    admin.configure(View { targets, ..view("the-token") });
    (admin, orders, folder)
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn is_page(&self) -> bool {
        self.headers[header::CONTENT_TYPE] == "text/html; charset=utf-8"
    }

    fn cookie(&self) -> String {
        self.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    fn form_token(&self) -> String {
        let (_, rest) = self.text.split_once("name=\"csrf\" value=\"").expect("a form");
        rest.split('"').next().unwrap().to_owned()
    }
}

async fn ask(admin: &Admin, peer: &str, request: http::request::Builder, body: &str) -> Answer {
    let mut request = request.header("host", "relay.test:8485").body(Body::from(body.to_owned())).unwrap();
    request.extensions_mut().insert(peer.parse::<SocketAddr>().unwrap());
    let (parts, body) = operators(admin.clone()).oneshot(request).await.unwrap().into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text }
}

async fn get(admin: &Admin, peer: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    ask(admin, peer, request, "").await
}

/// Sends a request for a row of the table, under an authority that takes precedence over the header `host`.
async fn ask_for(admin: &Admin, peer: &str, authority: &str, row: &Row, headers: &[(&str, &str)]) -> Answer {
    let path = row.path.replace("{id}", "1");
    let uri = if authority.is_empty() { path } else { format!("http://{authority}{path}") };
    let request = Request::builder().method(&row.method).uri(uri);
    ask(admin, peer, headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)), "").await
}

async fn post(admin: &Admin, path: &str, cookie: &str, form: &str) -> Answer {
    let request = Request::post(path).header("cookie", cookie).header("origin", "http://relay.test:8485");
    ask(admin, ELSEWHERE, request.header("content-type", "application/x-www-form-urlencoded"), form).await
}

#[tokio::test]
async fn from_another_machine_pages_ask_for_a_sign_in_and_the_api_for_the_token() {
    let (admin, _orders, _folder) = admin().await;
    let through_a_proxy = ("x-forwarded-for", "192.0.2.7");
    for (peer, headers) in [(ELSEWHERE, vec![]), ("[2001:db8::7]:40000", vec![]), (HERE, vec![through_a_proxy])] {
        for row in table() {
            let refusal = ask_for(&admin, peer, "", &row, &headers).await;
            let told = format!("{peer} {} {}: {}", row.method, row.path, refusal.text);
            match row.who {
                Who::Anybody => assert_eq!(refusal.status, 200, "{told}"),
                Who::Guest => assert!(refusal.is_page() && ![401, 403].contains(&refusal.status.as_u16()), "{told}"),
                Who::Visitor => {
                    assert!(refusal.status == 401 && refusal.is_page(), "{told}");
                    assert!(told.contains("action=\"login\"") && !told.contains("sentry"), "{told}");
                }
                Who::Form => assert!(refusal.status == 403 && refusal.is_page(), "{told}"),
                Who::Reader | Who::ContentReader => {
                    assert!(refusal.status == 401 && told.contains("Authorization: Bearer"), "{told}");
                }
                Who::Changer => assert!(refusal.status == 403 && told.contains("Authorization: Bearer"), "{told}"),
            }
        }
        for token in ["Bearer the-token", "Bearer another"] {
            let headers = [headers.clone(), vec![("authorization", token)]].concat();
            let expected = if token.ends_with("the-token") { 200 } else { 401 };
            assert_eq!(get(&admin, peer, "/", &headers).await.status, expected);
            assert_eq!(get(&admin, peer, "/api/status", &headers).await.status, expected);
        }
    }
    for peer in [HERE, "[::1]:40000", "[::ffff:127.0.0.1]:40000"] {
        let page = get(&admin, peer, "/", &[]).await;
        assert_eq!(page.status, 200);
        assert!(page.text.contains("href=\"login\"") && !page.text.contains("csrf"), "{}", page.text);
    }
}

#[tokio::test]
async fn on_this_machine_too_what_is_in_events_and_changes_take_the_token_and_all_but_health_a_name_of_ours() {
    let (admin, _orders, _folder) = admin().await;
    let token = ("authorization", "Bearer the-token");
    for row in table() {
        let told = format!("{} {}", row.method, row.path);
        let is_refused = |answer: &Answer| [401, 403].contains(&answer.status.as_u16());
        let without = ask_for(&admin, HERE, "", &row, &[]).await;
        let with = ask_for(&admin, ELSEWHERE, "", &row, &[token]).await;
        match row.who {
            Who::Anybody | Who::Guest => assert!(!is_refused(&without), "{told}"),
            Who::Reader => assert!(!is_refused(&without) && !is_refused(&with), "{told}"),
            Who::ContentReader | Who::Changer => assert!(is_refused(&without) && !is_refused(&with), "{told}"),
            Who::Form => assert!(is_refused(&without) && is_refused(&with), "{told}"),
            // Some pages are only for signed-in visitors.
            Who::Visitor => {}
        }
        let status = ask_for(&admin, HERE, "evil.test", &row, &[]).await.status;
        assert_eq!(status == StatusCode::MISDIRECTED_REQUEST, row.who != Who::Anybody, "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_signs_in_from_another_machine_reads_and_changes_for_twelve_hours() {
    let (admin, mut orders, _folder) = admin().await;
    let signed_in = post(&admin, "/login", "", "token=the-token").await;
    assert_eq!((signed_in.status, &signed_in.headers["location"]), (StatusCode::SEE_OTHER, &"./".parse().unwrap()));
    let cookie = signed_in.cookie();
    let with_cookie = [("cookie", cookie.as_str())];
    for path in ["/", "/report?candidate=glitchtip", "/api/status", "/metrics"] {
        assert_eq!(get(&admin, ELSEWHERE, path, &with_cookie).await.status, 200, "{path}");
    }
    let form_token = get(&admin, ELSEWHERE, "/switch?to=glitchtip", &with_cookie).await.form_token();
    let form = format!("csrf={form_token}&to=glitchtip&reason=48+hours");
    advance(LIFE - Duration::from_secs(1)).await;
    let carry_out = async {
        let order = orders.recv().await.expect("an order");
        let words = (order.to.as_str(), order.reason.as_deref(), order.author.as_deref(), order.announced);
        assert_eq!(words, ("glitchtip", Some("48 hours"), Some("status page, 192.0.2.7"), false));
        order.reply.send(Ok(())).unwrap();
    };
    let (switched, ()) = tokio::join!(post(&admin, "/switch", &cookie, &form), carry_out);
    assert_eq!(
        (switched.status, &switched.headers["location"]),
        (StatusCode::SEE_OTHER, &"./?done=switched".parse().unwrap())
    );

    advance(Duration::from_secs(1)).await;
    for path in ["/", "/api/status"] {
        assert_eq!(get(&admin, ELSEWHERE, path, &with_cookie).await.status, 401, "{path}");
    }
    let refused = post(&admin, "/switch", &cookie, &form).await;
    assert!(refused.status == 403 && refused.text.contains("your session has ended"), "{}", refused.text);
    assert!(orders.try_recv().is_err());
}

#[tokio::test]
async fn another_token_ends_all_sessions_for_good() {
    let (admin, mut orders, _folder) = admin().await;
    let cookie = post(&admin, "/login", "", "token=the-token").await.cookie();
    let with_cookie = [("cookie", cookie.as_str())];
    let form_token = get(&admin, ELSEWHERE, "/", &with_cookie).await.form_token();
    admin.configure(view("the-token"));
    assert_eq!(get(&admin, ELSEWHERE, "/", &with_cookie).await.status, 200, "a reload by itself ends none");
    for token in ["another", "the-token"] {
        admin.configure(view(token));
        assert_eq!(get(&admin, ELSEWHERE, "/", &with_cookie).await.status, 401, "under {token}");
        assert_eq!(post(&admin, "/switch", &cookie, &format!("csrf={form_token}&to=glitchtip")).await.status, 403);
    }
    admin.configure(View { token: None, ..view("") });
    let page = get(&admin, ELSEWHERE, "/", &with_cookie).await;
    assert!(page.status == 401 && page.text.contains("[admin]") && !page.text.contains("<form"), "{}", page.text);
    assert_eq!(post(&admin, "/login", "", "token=").await.status, 403);
    assert!(orders.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_form_is_neither_waited_for_nor_read_without_end() {
    let (admin, _orders, _folder) = admin().await;
    let form = |body: Body| {
        let request = Request::post("/login").header("content-type", "application/x-www-form-urlencoded");
        let mut request = request.header("host", "relay.test:8485").body(body).unwrap();
        request.extensions_mut().insert(ELSEWHERE.parse::<SocketAddr>().unwrap());
        operators(admin.clone()).oneshot(request)
    };
    let endless = || futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>("token=a&".repeat(100)));
    assert_eq!(form(Body::from_stream(endless())).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    let silent = futures_util::stream::pending::<Result<String, std::io::Error>>();
    assert_eq!(form(Body::from_stream(silent)).await.unwrap().status(), StatusCode::REQUEST_TIMEOUT);
}

#[test]
fn an_origin_is_ours_if_its_host_and_port_were_asked() {
    let ours = |origin: &str, host: &str| is_origin_of(origin, &host.parse().unwrap());
    for (origin, host) in [
        ("http://relay.test:8485", "relay.test:8485"),
        ("http://RELAY.test:8485", "relay.test:8485"),
        ("http://127.0.0.1:8485", "127.0.0.1:8485"),
        ("http://[::1]:8485", "[::1]:8485"),
        ("https://relay.test", "relay.test"),
        ("https://relay.test", "relay.test:443"),
        ("http://relay.test", "relay.test:80"),
    ] {
        assert!(ours(origin, host), "{origin} {host}");
    }
    for (origin, host) in [
        ("null", "relay.test:8485"),
        ("", "relay.test:8485"),
        ("http://relay.test:8484", "relay.test:8485"),
        ("http://relay.test", "relay.test:8485"),
        ("https://relay.test:80", "relay.test"),
        ("http://relay.test.evil.example:8485", "relay.test:8485"),
        ("http://evil.example", "relay.test:8485"),
        ("relay.test:8485", "relay.test:8485"),
        ("file://relay.test", "relay.test"),
    ] {
        assert!(!ours(origin, host), "{origin} {host}");
    }
}
