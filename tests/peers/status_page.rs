//! The status page under a path of a real nginx: every link, form and redirect stays below that path.

use std::fs;
use std::path::Path;
use std::process::Command;

use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use tempfile::TempDir;
use url::form_urlencoded;

use super::install;
use crate::support::eventually::eventually;
use crate::support::net::free_port;
use crate::support::process::Process;
use crate::support::relay::{Plan, SOON};
use crate::support::upstream::Upstream;

const TOKEN: &str = "a-token-of-the-operators";

fn nginx(home: &Path, admin: &str, port: u16) -> Command {
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {};\n", home.join(kind).display()))
        .concat();
    // The configuration block as the handbook shows it.
    let page = include_str!("../../deploy/handbook/operate.md");
    let location = page.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of nginx");
    let location = location.replace("127.0.0.1:8485", admin);
    let config = format!(
        "pid nginx.pid;\ndaemon off;\nmaster_process off;\nerror_log stderr;\nevents {{ worker_connections 64; }}\n\
         http {{\n  access_log off;\n{folders}  server {{\n    listen 127.0.0.1:{port};\n{location}  }}\n}}\n"
    );
    fs::write(home.join("nginx.conf"), config).expect("a configuration");
    let mut command = Command::new(install::debian("nginx", "nginx-light"));
    command.arg("-p").arg(home).arg("-c").arg(home.join("nginx.conf")).arg("-e").arg("stderr");
    command
}

/// A browser at a page.
struct Browser {
    client: Client,
    at: Url,
    text: String,
    cookie: String,
}

impl Browser {
    /// Follows a link of the page.
    async fn go(&mut self, link: &str) {
        self.at = self.at.join(link).expect("an address");
        let answer = self.client.get(self.at.clone()).header("cookie", &self.cookie).send().await.expect("an answer");
        self.text = answer.text().await.expect("a page");
    }

    /// Sends the form with this action, which the page must have, and follows the redirect.
    async fn send(&mut self, action: &str, fields: &[(&str, &str)]) -> Response {
        assert!(self.text.contains(&format!("action=\"{action}\"")), "{action} in {}", self.text);
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let to = self.at.join(action).expect("an address");
        let request = self.client.post(to.clone()).body(body).header("origin", to.origin().ascii_serialization());
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").header("cookie", &self.cookie);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 303, "{answer:?}");
        self.at = to;
        if let Some(cookie) = answer.headers().get("set-cookie") {
            let cookie = cookie.to_str().expect("ASCII");
            // Without a path a browser limits the cookie to the folder of the form.
            assert!(!cookie.contains("Path="), "{cookie}");
            self.cookie = cookie.split(';').next().expect("a cookie").to_owned();
        }
        let location = answer.headers()["location"].to_str().expect("ASCII").to_owned();
        self.go(&location).await;
        answer
    }

    fn form_token(&self) -> String {
        let (_, rest) = self.text.split_once("name=\"csrf\" value=\"").expect("a form");
        rest.split('"').next().expect("a token").to_owned()
    }
}

#[tokio::test]
async fn the_status_page_works_under_a_path_of_nginx() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("old", old.dsn("0ld", 1)), ("new", new.dsn("4e3", 2))]);
    let plan = plan.admin(&format!("token = \"{TOKEN}\"")).admin("hosts = [\"relay.localhost\"]");
    let relay = plan.start().await;
    let (home, port) = (TempDir::with_prefix("nginx-").expect("a folder"), free_port());
    let mut command = nginx(home.path(), &relay.admin_address(), port);
    let nginx = Process::start("nginx", &mut command, &home.path().join("log"), None);
    let client = Client::builder().no_proxy().redirect(Policy::none());
    let client = client.resolve("relay.localhost", ([127, 0, 0, 1], port).into()).build().expect("a client");
    let home_page: Url = format!("http://relay.localhost:{port}/switchyard/").parse().expect("an address");
    let mut browser = Browser { client, at: home_page.clone(), text: String::new(), cookie: String::new() };
    eventually("nginx serves", SOON, async || match browser.client.get(home_page.clone()).send().await {
        Ok(answer) if answer.status() == 401 => Ok(()),
        other => Err(format!("{other:?} {}", nginx.last_words())),
    })
    .await;

    browser.go("").await;
    browser.send("login", &[("token", TOKEN)]).await;
    assert_eq!(browser.at, home_page);
    browser.go("report").await;
    assert!(browser.text.contains("Report") || browser.text.contains("report"), "{}", browser.text);
    browser.go("./").await;
    assert!(!browser.text.contains("=\"/"), "a link to the root of the host: {}", browser.text);
    browser.go("switch?to=new").await;
    let form_token = browser.form_token();
    browser.send("switch", &[("csrf", &form_token), ("to", "new")]).await;
    assert_eq!(browser.at.as_str(), format!("{home_page}?done=switched"));
    assert!(browser.text.contains("url=./") && browser.text.contains("Done: new is the primary."), "{}", browser.text);
    browser.send("logout", &[("csrf", &form_token)]).await;
    assert!(browser.text.contains("action=\"login\""), "{}", browser.text);
    nginx.stop(SOON).await;
    relay.finish().await;
}
