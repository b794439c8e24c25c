//! The real sentry-cli, and an upstream that answers it as Sentry does.
//!
//! Rule: sentry-cli gets an address, a token and a DSN, as on a build machine, and does not know what answers there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::install;
use crate::support::upstream::{Reply, Seen, Upstream};

/// Also the version with which the fixtures were recorded.
const PACKAGE: &str = "@sentry/cli@3.8.0";

/// The token that a build machine authenticates with.
pub(crate) const TOKEN: &str = "sntrys_of_a_build_machine";

/// A folder with a program to release: a git repository and a script with its source map.
pub(crate) struct Project(TempDir);

impl Project {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("release-").expect("a folder to release");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("dist")).expect("a folder");
        std::fs::write(at("dist/app.js"), "throw new Error(1);\n//# sourceMappingURL=app.js.map\n").expect("a script");
        let map =
            json!({ "version": 3, "sources": ["app.ts"], "sourcesContent": ["x"], "names": [], "mappings": "AAAA" });
        std::fs::write(at("dist/app.js.map"), map.to_string()).expect("a source map");
        let project = Self(folder);
        project.git(&["init", "--quiet"]);
        project.git(&[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "one",
        ]);
        project
    }

    fn git(&self, arguments: &[&str]) {
        install::run("git", Command::new("git").args(arguments).current_dir(self.0.path()));
    }

    /// Runs sentry-cli here against `address`, a `host:port`; it must succeed.
    pub(crate) async fn cli(&self, address: &str, dsn: &str, arguments: &[&str]) {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.0.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.0.path());
        command.env("SENTRY_URL", format!("http://{address}")).env("SENTRY_AUTH_TOKEN", TOKEN);
        command.env("SENTRY_DSN", dsn).env("SENTRY_ORG", "shop").env("SENTRY_PROJECT", "web");
        let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let Output { status, stdout, stderr } = ran.expect("sentry-cli starts");
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert!(status.success(), "sentry-cli {arguments:?}: {said}");
    }
}

/// Installs sentry-cli; its binary is in a separate package for each platform.
fn program() -> PathBuf {
    let place = install::ready("sentry-cli", PACKAGE, |place| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(place).arg(PACKAGE);
        install::run("npm (Node.js)", &mut npm);
    });
    binary(&place.join("node_modules/@sentry")).expect("a binary of sentry-cli for this platform")
}

fn binary(packages: &Path) -> Option<PathBuf> {
    let packages = std::fs::read_dir(packages).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let native = packages.filter(|path| path.to_string_lossy().contains("/cli-"));
    native.map(|path| path.join("bin/sentry-cli")).find(|path| path.is_file())
}

/// Makes `upstream` answer the calls of sentry-cli as Sentry does. Uploads are sent to `upload`.
pub(crate) fn answers_as_sentry(upstream: &Upstream, upload: &str) {
    let options = json!({
        "url": upload, "chunkSize": 8_388_608, "chunksPerRequest": 64, "maxFileSize": 2_147_483_648_u64,
        "maxRequestSize": 33_554_432, "concurrency": 8, "hashAlgorithm": "sha1", "compression": ["gzip"],
        "accept": ["release_files", "sources", "artifact_bundles", "artifact_bundles_v2"],
    });
    let uploaded = std::sync::atomic::AtomicBool::new(false);
    upstream.when(move |seen| {
        let call = seen.path.strip_prefix("/api/0/organizations/shop/")?;
        let answer = |code: u16, json: Value| Some(reply(code, &json));
        match (seen.method.as_str(), call) {
            ("GET", "chunk-upload/") => answer(200, options.clone()),
            ("POST", "chunk-upload/") => {
                uploaded.store(true, std::sync::atomic::Ordering::Relaxed);
                answer(200, json!({}))
            }
            ("POST", "artifactbundle/assemble/") => {
                let missing =
                    if uploaded.load(std::sync::atomic::Ordering::Relaxed) { json!([]) } else { chunks(seen) };
                let state = if missing == json!([]) { "ok" } else { "not_found" };
                answer(200, json!({ "state": state, "missingChunks": missing, "detail": null }))
            }
            ("GET", "repos/") => answer(200, json!([])),
            ("GET", call) if call.ends_with("/previous-with-commits/") => answer(200, json!({})),
            ("POST", "releases/") => answer(201, release()),
            (_, call) if call.starts_with("releases/") => answer(200, release()),
            _ => answer(404, json!({ "detail": "The requested resource does not exist" })),
        }
    });
}

fn reply(code: u16, json: &Value) -> Reply {
    Reply::Status(code, vec![("content-type", "application/json".to_owned())], json.to_string())
}

fn chunks(seen: &Seen) -> Value {
    serde_json::from_slice::<Value>(&seen.body).expect("JSON")["chunks"].take()
}

fn release() -> Value {
    json!({
        "version": "web@1.0", "projects": [{ "slug": "web", "name": "web" }], "dateCreated": "2024-01-01T00:00:00Z",
        "dateReleased": null, "lastEvent": null, "newGroups": 0, "url": null,
    })
}
