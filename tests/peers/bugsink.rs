//! Bugsink, a real self-hosted tracker with an API for stored events: it is started, filled with projects, read, killed and restarted.
//!
//! Rule: each instance has its own folder and port, so tests do not see one another's events. It does not know the relay.
//!
//! Learned by running 2.6.1: it stores events only (everything else gets 200 and is discarded), keeps one copy per event id, prefers an
//! envelope header's `dsn` to the request's key, and hyphenates `event_id` in its own answers but not in the event's data.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::install;
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::process::Process;

/// The number of events that an instance takes before it answers 429, for all projects together and for each.
#[derive(Clone, Copy)]
pub(crate) struct Quotas {
    /// Events in any five minutes; 1,000 in a stock installation.
    pub(crate) per_5_minutes: u32,
    /// Events in any hour; 5,000 in a stock installation.
    pub(crate) per_hour: u32,
}

impl Quotas {
    /// Quotas that no test reaches.
    pub(crate) const OUT_OF_THE_WAY: Self = Self { per_5_minutes: 1_000_000, per_hour: 1_000_000 };
    /// The quotas of a stock installation.
    pub(crate) const STOCK: Self = Self { per_5_minutes: 1000, per_hour: 5000 };
}

/// An instance with its data; killed and removed when dropped.
pub(crate) struct Bugsink {
    home: TempDir,
    port: u16,
    client: Client,
    token: String,
    process: Option<Process>,
}

/// A project of an instance.
pub(crate) struct Project {
    id: String,
    /// The DSN for an SDK or an upstream.
    pub(crate) dsn: String,
}

impl Bugsink {
    /// A fresh instance whose quotas no test reaches.
    pub(crate) async fn start() -> Self {
        Self::start_with(Quotas::OUT_OF_THE_WAY).await
    }

    /// A fresh instance with these quotas.
    pub(crate) async fn start_with(quotas: Quotas) -> Self {
        let template = install::ready("bugsink-empty", "migrated, with a token; 1", migrate);
        let home = TempDir::with_prefix("bugsink-").expect("a folder for Bugsink");
        let port = net::free_port();
        for file in ["bugsink_conf.py", "db.sqlite3", "snappea.sqlite3"] {
            fs::copy(template.join(file), home.path().join(file)).expect("a copy of an empty installation");
        }
        configure(home.path(), port, quotas);
        let token = fs::read_to_string(template.join("token")).expect("the token of an empty installation");
        let mut bugsink =
            Self { home, port, client: client_with(token.trim()), token: token.trim().to_owned(), process: None };
        bugsink.start_again().await;
        bugsink
    }

    /// Starts the same installation again, on the same port and data, and waits until it answers.
    ///
    /// # Panics
    /// When it still runs, or is not ready within 20 seconds.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.process.is_none(), "Bugsink runs already");
        let mut gunicorn = Command::new(install::bugsink().join("gunicorn"));
        // One worker with threads, because the database is a file. The control socket would be the same path for all instances.
        gunicorn.args(["--workers", "1", "--threads", "4", "--no-control-socket"]);
        // An orderly stop waits this long for idle connections.
        gunicorn.args(["--graceful-timeout", "2"]);
        gunicorn.args(["--bind", &format!("127.0.0.1:{}", self.port), "bugsink.wsgi"]);
        gunicorn.current_dir(self.home.path());
        let mut process = Process::start("Bugsink", &mut gunicorn, &self.home.path().join("log"), None);
        let ready = format!("http://127.0.0.1:{}/health/ready", self.port);
        eventually("Bugsink is ready", Duration::from_secs(20), async || {
            assert!(process.ended().is_none(), "Bugsink ended. {}", process.last_words());
            net::text(&self.client, &ready).await
        })
        .await;
        self.process = Some(process);
    }

    /// Stops it in order: requests that have begun are answered.
    pub(crate) async fn stop(&mut self) {
        let process = self.process.take().expect("a running Bugsink");
        let status = process.stop(Duration::from_secs(20)).await;
        assert!(status.success(), "Bugsink ended with {status}");
    }

    /// Kills it at once, master and workers.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("a running Bugsink").kill();
    }

    /// Sets the quotas for the next start.
    pub(crate) fn reconfigure(&self, quotas: Quotas) {
        configure(self.home.path(), self.port, quotas);
    }

    /// Shortens the minute that Bugsink asks clients to wait at its quota to two seconds, from the next start on. It still decides itself
    /// which events exceed the quota.
    pub(crate) fn shorten_pauses(&self) {
        let middleware = r#"
class ShortPauses:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        if "X-Sentry-Rate-Limits" in response:
            response["X-Sentry-Rate-Limits"] = response["X-Sentry-Rate-Limits"].replace("60::key", "2::key")
        return response


MIDDLEWARE = ["bugsink_conf.ShortPauses"] + list(MIDDLEWARE)
"#;
        append(self.home.path(), middleware);
    }

    /// Shortens its five minutes to forty seconds and its hour to eight minutes, from the next start on, so that a test can wait for stock
    /// quotas.
    pub(crate) fn shorten_periods(&self) {
        let middleware = r#"
class ShortPeriods:
    def __init__(self, get_response):
        from datetime import timedelta
        from ingest import event_counter
        length = {"minute": timedelta(seconds=8), "hour": timedelta(minutes=8)}

        def shorter(original, sign):
            def moved(at, number, period):
                if period in length:
                    return at + sign * number * length[period]
                return original(at, number, period)
            return moved

        event_counter.sub_periods_from_datetime = shorter(event_counter.sub_periods_from_datetime, -1)
        event_counter.add_periods_to_datetime = shorter(event_counter.add_periods_to_datetime, 1)
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)


MIDDLEWARE = ["bugsink_conf.ShortPeriods"] + list(MIDDLEWARE)
"#;
        append(self.home.path(), middleware);
    }

    /// Creates a project.
    pub(crate) async fn project(&self, name: &str) -> Project {
        let team = self.create("teams", &json!({ "name": format!("team of {name}") })).await;
        let made = self.create("projects", &json!({ "name": name, "team": team })).await;
        let project = self.get(&self.api(&format!("projects/{made}/"))).await.expect("a new project");
        Project { id: made, dsn: project["dsn"].as_str().expect("a project's DSN").to_owned() }
    }

    /// The number of distinct events stored for `project`; cheap enough to poll.
    pub(crate) async fn stored(&self, project: &Project) -> Result<u64, String> {
        let answer = self.get(&self.api(&format!("projects/{}/", project.id))).await?;
        answer["stored_event_count"].as_u64().ok_or_else(|| format!("no count of events in {answer}"))
    }

    /// All events stored for `project`, across issues, as the SDK sent them.
    pub(crate) async fn events(&self, project: &Project) -> Vec<Value> {
        let mut events = Vec::new();
        for issue in self.all(&self.api(&format!("issues/?project={}", project.id))).await {
            let issue = issue["id"].as_str().expect("an issue's id");
            for listed in self.all(&self.api(&format!("events/?issue={issue}"))).await {
                let id = listed["id"].as_str().expect("Bugsink's own id of an event");
                let mut event = self.get(&self.api(&format!("events/{id}/"))).await.expect("a listed event");
                events.push(event["data"].take());
            }
        }
        events
    }

    /// Changes the text of a part of a stored event in the database.
    pub(crate) fn change(&self, id: &str, part: &str, value: &str) {
        let script = "import json, sqlite3, sys\nid, part, value = sys.argv[1:]\nbase = sqlite3.connect('db.sqlite3', timeout=20)\n\
                      at = \"WHERE replace(event_id, '-', '') = ?\"\n\
                      event = json.loads(base.execute('SELECT data FROM events_event ' + at, [id]).fetchone()[0])\n\
                      event[part] = value\n\
                      print(base.execute('UPDATE events_event SET data = ? ' + at, [json.dumps(event), id]).rowcount)\nbase.commit()";
        let mut python = Command::new(install::bugsink().join("python"));
        let said = install::run("Python 3", python.args(["-c", script, id, part, value]).current_dir(self.home.path()));
        assert_eq!(said.trim(), "1", "rows of that event");
    }

    /// The token of its API.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Removes a stored event from its database.
    pub(crate) fn lose(&self, id: &str) {
        let script = "import sqlite3, sys\nbase = sqlite3.connect('db.sqlite3', timeout=20)\n\
                      print(base.execute(\"DELETE FROM events_event WHERE replace(event_id, '-', '') = ?\", sys.argv[1:]).rowcount)\n\
                      base.commit()";
        let mut python = Command::new(install::bugsink().join("python"));
        let said = install::run("Python 3", python.args(["-c", script, id]).current_dir(self.home.path()));
        assert_eq!(said.trim(), "1", "rows of that event");
    }

    /// The values of a tag over all events. No API returns them, so they come from the database.
    pub(crate) fn tag_values(&self, key: &str) -> Vec<String> {
        let script = "import sqlite3, sys\nquery = 'SELECT DISTINCT v.value FROM tags_tagvalue v JOIN tags_tagkey k ON v.key_id = k.id \
                      WHERE k.key = ? ORDER BY v.value'\n\
                      [print(row[0]) for row in sqlite3.connect('db.sqlite3').execute(query, sys.argv[1:])]";
        let mut python = Command::new(install::bugsink().join("python"));
        let said = install::run("Python 3", python.args(["-c", script, key]).current_dir(self.home.path()));
        said.lines().map(str::to_owned).collect()
    }

    fn api(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/api/canonical/0/{path}", self.port)
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        net::json(&self.client, url).await
    }

    /// The results of a listing, over all pages.
    async fn all(&self, first: &str) -> Vec<Value> {
        let mut results = Vec::new();
        let mut next = Some(first.to_owned());
        while let Some(url) = next {
            let mut page = self.get(&url).await.expect("a page of a listing");
            results.append(page["results"].as_array_mut().expect("results"));
            next = page["next"].as_str().map(str::to_owned);
        }
        results
    }

    /// Creates an object of `kind` and returns its id.
    async fn create(&self, kind: &str, body: &Value) -> String {
        let answer =
            self.client.post(self.api(&format!("{kind}/"))).json(body).send().await.expect("an answer of Bugsink");
        let status = answer.status();
        let answer = answer.text().await.expect("a body");
        assert!(status.is_success(), "Bugsink refused to create one of {kind}: {status}: {answer}");
        let made: Value = serde_json::from_str(&answer).expect("JSON");
        made["id"].as_str().expect("an id").to_owned()
    }
}

/// Builds an empty installation once, to be copied for each instance: the migrations take longer than everything else together.
fn migrate(place: &Path) {
    let programs = install::bugsink();
    let bugsink = |program: &str, arguments: &[&str]| {
        install::run("bugsink", Command::new(programs.join(program)).args(arguments).current_dir(place))
    };
    bugsink("bugsink-create-conf", &["--template=local", "--host=127.0.0.1", "--port=1"]);
    bugsink("bugsink-manage", &["migrate", "-v0"]);
    bugsink("bugsink-manage", &["migrate", "snappea", "--database=snappea", "-v0"]);
    let said = bugsink("bugsink-manage", &["create_auth_token"]);
    let token = said.lines().last().expect("a token");
    fs::write(place.join("token"), token).expect("the token's file");
}

fn configure(home: &Path, port: u16, quotas: Quotas) {
    let Quotas { per_5_minutes, per_hour } = quotas;
    let own = format!(
        "\nBUGSINK.update(\n    BASE_URL=\"http://127.0.0.1:{port}\", PHONEHOME=False, INGEST_STORE_BASE_DIR=\"ingest\",\n    \
         MAX_EVENTS_PER_5_MINUTES={per_5_minutes}, MAX_EVENTS_PER_PROJECT_PER_5_MINUTES={per_5_minutes},\n    \
         MAX_EVENTS_PER_HOUR={per_hour}, MAX_EVENTS_PER_PROJECT_PER_HOUR={per_hour},\n)\n\
         # One proxy in front of the relay, and the relay.\nUSE_X_FORWARDED_FOR = True\nX_FORWARDED_FOR_PROXY_COUNT = 2\n"
    );
    append(home, &own);
}

fn append(home: &Path, lines: &str) {
    let conf = home.join("bugsink_conf.py");
    let all = fs::read_to_string(&conf).expect("the installation's settings") + lines;
    fs::write(conf, all).expect("the instance's settings");
}

fn client_with(token: &str) -> Client {
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token of plain letters");
    net::client_with(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
}
