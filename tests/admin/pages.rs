//! The operator's work in a browser: signing in with the token, switching the primary, deciding about dead letters and backfills, signing
//! out. Nobody else can make a browser do any of it.

use std::fs;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::support::eventually::eventually;
use super::support::glitchtip::{self, Glitchtip};
use super::support::relay::{Plan, Relay, SOON};
use super::support::upstream::{Reply, Upstream};
use super::{TOKEN, two_upstreams, with_comments};

/// A timeout for several rounds of verification on a busy machine.
const A_WHILE: Duration = Duration::from_secs(60);

/// The answer to a request for a page.
#[derive(Debug)]
struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The token of the page's forms; `None` without a form.
    fn form_token(&self) -> Option<String> {
        let (_, rest) = self.text.split_once("name=\"csrf\" value=\"")?;
        rest.split('"').next().map(str::to_owned)
    }

    /// Fails unless the page has this status and contains all these words.
    fn shows(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(words.iter().all(|word| self.text.contains(word)), "{words:?} in {self:?}");
    }
}

/// A browser that follows no redirect by itself.
struct Browser {
    client: Client,
    origin: String,
    cookie: String,
}

impl Browser {
    fn at(relay: &Relay) -> Self {
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().expect("a client");
        Self { client, origin: format!("http://{}", relay.admin_address()), cookie: String::new() }
    }

    async fn signed_in(relay: &Relay) -> Self {
        let mut browser = Self::at(relay);
        let answer = browser.post("/login", &[("token", TOKEN)]).await;
        answer.shows(303, &[]);
        browser.cookie = answer.header("set-cookie").split(';').next().expect("a cookie").to_owned();
        browser
    }

    async fn ask(&self, request: RequestBuilder) -> Page {
        let response = request.header("cookie", &self.cookie).send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        Page { status, headers, text: response.text().await.expect("a page") }
    }

    async fn get(&self, path: &str) -> Page {
        // Links on a page are relative, and all pages are on one level.
        self.ask(self.client.get(format!("{}/{}", self.origin, path.trim_start_matches("./").trim_start_matches('/'))))
            .await
    }

    /// Posts a form with the headers that a browser sends with a form of ours.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.post_with(path, fields, &[("origin", &self.origin), ("sec-fetch-site", "same-origin")]).await
    }

    async fn post_with(&self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Page {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client.post(format!("{}{path}", self.origin)).body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.ask(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    async fn form_token(&self) -> String {
        self.get("/").await.form_token().expect("forms for who is signed in")
    }
}

fn with_token(plan: Plan) -> Plan {
    plan.admin(&format!("token = \"{TOKEN}\""))
}

#[tokio::test]
async fn only_a_signed_in_browser_gets_forms_and_strangers_change_nothing() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let stranger = Browser::at(&relay);
    let page = stranger.get("/").await;
    page.shows(200, &["href=\"login\"", "to change something"]);
    assert!(!page.text.contains("<form") && page.form_token().is_none(), "{page:?}");
    for path in ["/switch?to=new", "/discard?id=1"] {
        stranger.get(path).await.shows(401, &["type=\"password\""]);
    }
    stranger.get("/login").await.shows(200, &["type=\"password\""]);

    let signed_in = stranger.post("/login", &[("token", TOKEN)]).await;
    signed_in.shows(303, &[]);
    let set_cookie = signed_in.header("set-cookie");
    assert!(set_cookie.ends_with("; Max-Age=43200; HttpOnly; SameSite=Strict"), "{set_cookie}");
    let browser = Browser::signed_in(&relay).await;
    let page = browser.get("/").await;
    page.shows(200, &["Make <b>new</b> the primary", "Sign out"]);
    assert!(!page.text.contains("Make <b>old</b>"), "{page:?}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(page.header(name), value, "{name}");
    }
    for directive in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(page.header("content-security-policy").contains(directive), "{directive}");
    }
    relay.finish().await;
}

#[tokio::test]
async fn a_form_switches_the_primary_and_keeps_every_other_byte_of_the_file() {
    let (old, new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let commented = with_comments(&relay).await;
    let browser = Browser::signed_in(&relay).await;
    let page = browser.get("/switch?to=new&reason=not+shown%3Cb%3E").await;
    page.shows(200, &["Make new the primary", "comes for shop", "switchyard switch old", "name=\"reason\""]);
    // The page shows the report's verdict and the criteria that fail.
    page.shows(
        200,
        &["not ready: new fails ", "stored: nothing shows that new stores", "href=\"report?candidate=new\""],
    );
    assert!(!page.text.contains("not shown") && !page.text.contains("http-equiv"), "{page:?}");
    let form_token = page.form_token().expect("a form");
    assert_eq!(relay.status().await["primary"], "old", "looking changes nothing");
    let reason = "48 hours <are> over, ☃ & done";
    let switched = browser.post("/switch", &[("csrf", &form_token), ("to", "new"), ("reason", reason)]).await;
    assert_eq!((switched.status, switched.header("location")), (StatusCode::SEE_OTHER, "./?done=switched"));
    let status = relay.status().await;
    let switch = &status["switches"][0];
    assert_eq!((&status["primary"], &switch["from"], &switch["to"]), (&json!("new"), &json!("old"), &json!("new")));
    assert_eq!((&switch["reason"], &switch["author"]), (&json!(reason), &json!("status page, 127.0.0.1")));
    let after = fs::read_to_string(relay.config()).expect("the file");
    assert_eq!(after, commented.replacen("\"old\" # since", "\"new\" # since", 1));
    let page = browser.get(switched.header("location")).await;
    page.shows(
        200,
        &["Done: new is the primary. The way back is to make old", "48 hours &lt;are&gt; over, ☃ &amp; done"],
    );
    // From then on, what matters is the way back, which waits for no verdict.
    page.shows(200, &["The way back</dt>", "✔ old</b>", "up, nothing waits for it"]);
    assert!(!page.text.contains("May we switch?"), "{page:?}");
    let page = browser.get("/switch?to=old").await;
    page.shows(200, &["The last switch came from <b>old</b>: this is the way back. It needs no verdict."]);
    assert!(!page.text.contains("not ready"), "{page:?}");
    let (_, report) = relay.verb(&["report"]).await;
    assert!(report.contains("the last switch came from old: to go back to it needs no verdict"), "{report}");
    let again = browser.post("/switch", &[("csrf", &form_token), ("to", "new")]).await;
    assert_eq!(again.header("location"), "./?done=unchanged");
    assert_eq!(relay.status().await["switches"].as_array().expect("switches").len(), 1);
    let odd = browser.get("/?done=%3Cscript%3E&done=switched&x=%ff").await;
    assert!(odd.status == 200 && odd.text.matches("<script").count() <= 1, "{odd:?}");
    // The file watch saw the page's edit too and did not reload a second time.
    assert_eq!(relay.log().matches("the configuration was reloaded").count(), 2, "{}", relay.log());
    relay.send_errors(2).await;
    relay.finish().await;
    assert_eq!((old.taken_count(), new.taken_count()), (2, 2));
}

#[tokio::test]
async fn signing_out_ends_the_session_and_the_log_shows_no_secret() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    let signed_out = browser.post("/logout", &[("csrf", &form_token)]).await;
    signed_out.shows(303, &[]);
    assert!(signed_out.header("set-cookie").contains("=; Max-Age=0; HttpOnly;"), "{signed_out:?}");
    // The cookie is worthless afterwards, even to a client that kept it.
    browser.get("/").await.shows(200, &["href=\"login\""]);
    browser.post("/switch", &[("csrf", &form_token), ("to", "new")]).await.shows(403, &["Sign in"]);
    assert_eq!(relay.status().await["primary"], "old");
    let (log, cookie) = (relay.log(), browser.cookie.split_once('=').expect("a cookie").1);
    assert!(log.contains("signed in"), "{log}");
    assert!([TOKEN, cookie, &form_token].iter().all(|secret| !log.contains(secret)), "{log}");
    relay.finish().await;
}

#[tokio::test]
async fn the_page_says_who_can_write_the_file_when_the_daemon_cannot() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let file = fs::read_to_string(relay.config()).expect("the file");
    // A folder stands at the path of the temporary file, and no permission lets the daemon write there.
    let beside = relay.home().join(format!(".config.toml.{}.new", relay.pid()));
    fs::create_dir(&beside).expect("a folder");
    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    let fields = [("csrf", form_token.as_str()), ("to", "new"), ("reason", "48 hours are over")];
    let failed = browser.post("/switch", &fields).await;
    failed.shows(409, &["Nothing was changed", "the daemon cannot change its file", "switchyard switch new"]);
    unchanged(&relay, &file, "the file that cannot be written").await;
    fs::remove_dir(&beside).expect("the folder");
    // A switch by hand later does not get the reason of the failed one.
    relay.flip_to("new").await;
    let switch = eventually("the switch is kept", SOON, async || match relay.status().await["switches"][0].clone() {
        Value::Null => Err("none yet".to_owned()),
        switch => Ok(switch),
    })
    .await;
    assert_eq!((&switch["to"], &switch["reason"]), (&json!("new"), &Value::Null));
    relay.finish().await;
}

/// Fails unless the primary, the history and the file are unchanged.
async fn unchanged(relay: &Relay, file: &str, what: &str) {
    let status = relay.status().await;
    let switches = status["switches"].as_array().map(Vec::len);
    assert_eq!((&status["primary"], switches), (&json!("old"), Some(0)), "{what}");
    assert_eq!(fs::read_to_string(relay.config()).expect("the file"), file, "{what}");
}

#[tokio::test]
async fn an_incomplete_form_is_refused_and_changes_nothing() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let file = fs::read_to_string(relay.config()).expect("the file");
    let (browser, other) = (Browser::signed_in(&relay).await, Browser::signed_in(&relay).await);
    let (ours, others) = (browser.form_token().await, other.form_token().await);
    assert_ne!(ours, others);
    let origin = browser.origin.clone();
    let nearby = format!("{}0", origin.trim_end_matches(|c: char| c.is_ascii_digit()));
    let session = browser.cookie.split_once('=').expect("a cookie").1.to_owned();
    for (headers, form_token, why) in [
        (vec![("origin", "https://elsewhere.example")], ours.as_str(), "another site"),
        (vec![("origin", nearby.as_str())], &ours, "another site"),
        (vec![("origin", "null")], &ours, "another site"),
        (vec![("origin", origin.as_str()), ("origin", "https://elsewhere.example")], &ours, "another site"),
        (vec![("origin", origin.as_str()), ("sec-fetch-site", "cross-site")], &ours, "another site"),
        (vec![("sec-fetch-site", "same-site")], &ours, "another site"),
        (vec![("origin", origin.as_str())], "", "another session"),
        (vec![("origin", origin.as_str())], &others, "another session"),
        (vec![("origin", origin.as_str())], &session, "another session"),
        (vec![("origin", origin.as_str())], TOKEN, "another session"),
    ] {
        for path in ["/switch", "/logout", "/retry", "/discard", "/cancel", "/repair"] {
            let fields = [("csrf", form_token), ("to", "new"), ("id", "1"), ("upstream", "new")];
            let refused = browser.post_with(path, &fields, &headers).await;
            refused.shows(403, &[why, "Nothing was changed"]);
        }
        unchanged(&relay, &file, &format!("{headers:?} {form_token}")).await;
    }
    let fields = [("csrf", ours.as_str()), ("to", "new")];
    let no_cookie = Browser::at(&relay);
    no_cookie.post("/switch", &fields).await.shows(403, &["You are not signed in"]);
    let forged = Browser { cookie: browser.cookie.replacen('=', "=9", 1), ..Browser::at(&relay) };
    forged.post("/switch", &fields).await.shows(403, &["You are not signed in"]);
    for path in ["/logout", "/retry", "/cancel", "/repair"] {
        browser.get(&format!("{path}?csrf={ours}&to=new&id=1")).await.shows(405, &[]);
    }
    browser.get(&format!("/switch?csrf={ours}&to=new")).await.shows(200, &[]);
    let typed = browser.client.post(format!("{origin}/switch")).header("origin", &origin);
    let typed = typed.header("content-type", "text/plain").body(format!("csrf={ours}&to=new"));
    browser.ask(typed).await.shows(400, &["no form"]);
    let long = "x".repeat(9000);
    let large = [fields.as_slice(), &[("reason", &long)]].concat();
    browser.post("/switch", &large).await.shows(413, &["8 KiB"]);
    browser.post("/switch", &[("csrf", &ours), ("to", "newer")]).await.shows(409, &["newer", "Nothing was changed"]);
    browser.get("/switch?to=newer").await.shows(404, &["no such upstream"]);
    // A script's request to the API needs the same token and origin.
    let order = |headers: &[(&str, &str)]| {
        let request = browser.client.post(format!("{origin}/api/primary")).json(&json!({"to": "new"}));
        browser.ask(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
    };
    let here = ("origin", origin.as_str());
    order(&[here]).await.shows(403, &["token"]);
    order(&[here, ("x-csrf-token", &others)]).await.shows(403, &["token"]);
    order(&[("origin", "https://elsewhere.example"), ("x-csrf-token", &ours)]).await.shows(403, &["token"]);
    unchanged(&relay, &file, "all of it").await;
    order(&[here, ("x-csrf-token", &ours)]).await.shows(200, &["\"primary\":\"new\""]);
    relay.finish().await;
}

#[tokio::test]
async fn a_new_token_or_a_restart_ends_every_session() {
    let (_old, _new, plan) = two_upstreams().await;
    let mut relay = with_token(plan).start().await;
    let file = fs::read_to_string(relay.config()).expect("the file");
    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    let fields = [("csrf", form_token.as_str()), ("to", "new")];
    relay.replace_config(&file.replace(TOKEN, "another-token-of-theirs"));
    eventually("the other token is loaded", SOON, async || {
        if relay.log().contains("admin.token changed") { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    browser.post("/switch", &fields).await.shows(403, &["your session has ended"]);
    browser.post("/login", &[("token", TOKEN)]).await.shows(401, &["not the token"]);
    relay.replace_config(&file);
    eventually("the token is back", SOON, async || {
        let changes = relay.log().matches("admin.token changed").count();
        if changes == 2 { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    browser.post("/switch", &fields).await.shows(403, &["your session has ended"]);

    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    relay.stop().await;
    let relay = relay.started().await;
    let fields = [("csrf", form_token.as_str()), ("to", "new")];
    browser.post("/switch", &fields).await.shows(403, &["your session has ended"]);
    unchanged(&relay, &file, "the restart").await;
    relay.finish().await;
}

#[tokio::test]
async fn token_guesses_are_bounded_and_lock_out_no_token_in_a_header() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let browser = Browser::at(&relay);
    // A guess that another site makes a browser send is not checked.
    for _ in 0..15 {
        let elsewhere = [("origin", "https://elsewhere.example")];
        browser.post_with("/login", &[("token", "guess")], &elsewhere).await.shows(403, &["another site"]);
    }
    for guess in ["", "a", "A-token-of-the-operators", "a-token-of-the-operators-", "<b>", "1", "2", "3", "4", "5"] {
        let wrong = browser.post("/login", &[("token", guess)]).await;
        wrong.shows(401, &["not the token", "type=\"password\""]);
        assert_eq!(wrong.header("set-cookie"), "");
    }
    for token in ["6", TOKEN] {
        let late = browser.post_with("/login", &[("token", token)], &[]).await;
        late.shows(429, &["Too many wrong tokens"]);
        let wait: u64 = late.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let api = relay.client().post(format!("http://{}/api/primary", relay.admin_address())).json(&json!({"to": "new"}));
    let api = api.header("origin", &browser.origin).bearer_auth(TOKEN).send().await.expect("an answer");
    assert_eq!(api.status(), 200);
    assert_eq!(relay.log().matches("a wrong token was given").count(), 10, "{}", relay.log());
    assert!(!relay.log().contains("a-token-of"), "{}", relay.log());
    relay.finish().await;
}

#[tokio::test]
async fn requests_forwarded_by_a_local_proxy_are_not_taken_for_local() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = with_token(plan).admin("hosts = [\"relay.example\"]").start().await;
    let mut browser = Browser::at(&relay);
    let passed_on = ("x-forwarded-for", "192.0.2.7");
    let url = |path: &str| format!("http://{}{path}", relay.admin_address());
    browser.ask(browser.client.get(url("/")).header(passed_on.0, passed_on.1)).await.shows(401, &["type=\"password\""]);
    browser
        .ask(browser.client.get(url("/api/status")).header(passed_on.0, passed_on.1))
        .await
        .shows(401, &["{\"detail\""]);
    let order = browser.client.post(url("/api/primary")).json(&json!({"to": "new"}));
    browser.ask(order.header("via", "1.1 proxy")).await.shows(403, &["{\"detail\""]);
    // Behind a TLS proxy that keeps the host name.
    let headers = [("host", "relay.example"), ("origin", "https://relay.example"), passed_on];
    let signed_in = browser.post_with("/login", &[("token", TOKEN)], &headers).await;
    assert!(signed_in.header("set-cookie").ends_with("; SameSite=Strict; Secure"), "{signed_in:?}");
    browser.cookie = signed_in.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    browser.ask(browser.client.get(url("/")).header(passed_on.0, passed_on.1)).await.shows(200, &["Sign out"]);
    browser.ask(browser.client.get(url("/api/status")).header(passed_on.0, passed_on.1)).await.shows(200, &["\"old\""]);
    let form_token = browser.form_token().await;
    let switched = browser.post_with("/switch", &[("csrf", &form_token), ("to", "new")], &headers).await;
    assert_eq!(switched.header("location"), "./?done=switched", "{switched:?}");
    relay.finish().await;
}

#[tokio::test]
async fn the_page_without_a_token_says_what_changes_need() {
    let (_old, _new, plan) = two_upstreams().await;
    let relay = plan.start().await;
    let browser = Browser::at(&relay);
    let page = browser.get("/").await;
    page.shows(200, &["[admin]", "To change something from here"]);
    assert!(!page.text.contains("<form") && !page.text.contains("login"), "{page:?}");
    let page = browser.get("/login").await;
    page.shows(200, &["There is no token to sign in with"]);
    assert!(!page.text.contains("<form"), "{page:?}");
    browser.post("/login", &[("token", "")]).await.shows(403, &["There is no token to sign in with"]);
    browser.post("/switch", &[("csrf", ""), ("to", "new")]).await.shows(403, &["You are not signed in"]);
    relay.finish().await;
}

#[tokio::test]
async fn dead_letters_are_retried_and_discarded_from_the_page() {
    let (_old, new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    new.always(Reply::Status(400, vec![], "no such <field>".to_owned()));
    relay.send_errors(2).await;
    let dead = async |count: u64| {
        eventually("the dead letters are counted", SOON, async || {
            match relay.upstream("new").await["dead_letters"].clone() {
                n if n == count => Ok(()),
                n => Err(n.to_string()),
            }
        })
        .await;
    };
    dead(2).await;
    new.always(Reply::Ok);
    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    let letters = relay.client().get(format!("{}/api/dead-letters", browser.origin)).send().await.expect("an answer");
    let letters: Value = letters.json().await.expect("JSON");
    let ids = [0, 1].map(|i| letters["dead_letters"][i]["id"].to_string());
    browser.get("/").await.shows(200, &["action=\"retry\"", &format!("value=\"{}\"", ids[1])]);
    let retried = browser.post("/retry", &[("csrf", &form_token), ("id", &ids[0])]).await;
    assert_eq!(retried.header("location"), "./?done=retried", "{retried:?}");
    browser.get(retried.header("location")).await.shows(200, &["will be sent again"]);
    eventually("it is delivered", SOON, async || match new.taken_count() {
        1 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;

    let asked = browser.get(&format!("/discard?id={}", ids[1])).await;
    asked.shows(200, &["no such &lt;field&gt;", "gone for good", "Keep it"]);
    dead(1).await;
    let discarded = browser.post("/discard", &[("csrf", &form_token), ("id", &ids[1])]).await;
    assert_eq!(discarded.header("location"), "./?done=discarded", "{discarded:?}");
    dead(0).await;
    for (path, id, status) in
        [("retry", ids[1].as_str(), 404), ("discard", &ids[1], 404), ("retry", "-1", 400), ("discard", "", 400)]
    {
        let gone = browser.post(&format!("/{path}"), &[("csrf", &form_token), ("id", id)]).await;
        gone.shows(status, &["Nothing was changed"]);
    }
    browser.get(&format!("/discard?id={}", ids[1])).await.shows(404, &["there is no dead letter"]);
    relay.finish().await;
}

#[tokio::test]
async fn a_backfill_is_ended_from_the_page() {
    let (_old, mut new, plan) = two_upstreams().await;
    let relay = with_token(plan).start().await;
    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    // A backfill that cannot go on still runs when the operator ends it.
    let file = fs::read_to_string(relay.config()).expect("the file");
    relay.replace_config(&file.replacen('\n', "\nmirror = false\n", 1));
    eventually("mirror is off", SOON, async || match relay.status().await["mirror"].clone() {
        off if off == false => Ok(()),
        on => Err(on.to_string()),
    })
    .await;
    relay.send_errors(30).await;
    new.go_down().await;
    let order = json!({"upstream": "new", "since": "1h"});
    let begun = relay
        .client()
        .post(format!("{}/api/backfill", browser.origin))
        .bearer_auth(TOKEN)
        .json(&order)
        .send()
        .await
        .expect("an answer");
    assert_eq!(begun.status(), 200);
    browser.get("/").await.shows(200, &["action=\"cancel\""]);
    let ended = browser.post("/cancel", &[("csrf", &form_token), ("upstream", "new")]).await;
    assert_eq!(ended.header("location"), "./?done=cancelled", "{ended:?}");
    let page = browser.get(ended.header("location")).await;
    page.shows(200, &["the backfill has ended", "cancelled"]);
    assert!(!page.text.contains("action=\"cancel\""), "{page:?}");
    browser.post("/cancel", &[("csrf", &form_token), ("upstream", "new")]).await.shows(404, &["no backfill"]);
    new.come_back().await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_events_are_sent_again_from_the_page() {
    let (old, tracker) = (Upstream::start().await, Glitchtip::start(Duration::from_millis(100), Duration::ZERO).await);
    let plan = Plan::new(&[("old", old.dsn("beef", 8)), ("new", tracker.dsn())])
        .api("new", "glitchtip", Some(glitchtip::PLACE), glitchtip::TOKEN)
        .upstream("new", "api.remembers = \"0s\"")
        .more("[verify]\nsettle = \"1s\"\nrequests = \"50/s\"\n");
    let relay = with_token(plan).start().await;
    let counts = async |what: &str, count: u64| {
        eventually(&format!("{count} are {what}"), A_WHILE, async || {
            let found = relay.upstream("new").await["verification"][what].clone();
            if found == count { Ok(()) } else { Err(format!("{found}\n{}", relay.log())) }
        })
        .await;
    };
    // A stored event proves that the project is the right one.
    relay.send_errors(1).await;
    counts("stored", 1).await;
    tracker.set_worker(false);
    let ids = relay.send_errors(3).await;
    relay.balanced(SOON).await;
    tracker.lose_queue();
    tracker.set_worker(true);
    counts("missing", 3).await;
    let page = Browser::at(&relay).get("/").await;
    assert!(page.text.contains("3 missing") && !page.text.contains("action=\"repair\""), "{page:?}");
    let browser = Browser::signed_in(&relay).await;
    let form_token = browser.form_token().await;
    browser.get("/").await.shows(200, &["action=\"repair\"", "Send the 3 missing again"]);
    browser.post("/repair", &[("csrf", &form_token), ("upstream", "old")]).await.shows(404, &["Nothing was changed"]);
    let repaired = browser.post("/repair", &[("csrf", &form_token), ("upstream", "new")]).await;
    assert_eq!(repaired.header("location"), "./?done=repaired", "{repaired:?}");
    browser.get(repaired.header("location")).await.shows(200, &["is sent again"]);
    counts("missing", 0).await;
    eventually("they are stored", SOON, async || {
        let stored = tracker.stored();
        if ids.iter().all(|id| stored.contains(id)) { Ok(()) } else { Err(format!("{stored:?}")) }
    })
    .await;
    relay.finish().await;
}
