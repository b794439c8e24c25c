//! The command line as scripts and people use it: exit codes, messages, JSON, and the verbs against a running relay.

mod support;

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/docs.rs"]
mod docs;
#[path = "cli/questions.rs"]
mod questions;
#[path = "cli/remedies.rs"]
mod remedies;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use support::envelopes;
use support::eventually::eventually;
use support::net;
use support::process::Process;
use support::relay::{Plan, Relay, SOON};
use support::upstream::{Reply, Seen, Upstream};

const CONFIG: &str = r#"primary = "sentry"  # flip me
[admin]
listen = "127.0.0.1:1"
[upstreams.sentry]
[upstreams.glitchtip]
[[projects]]
name = "shop"
id = "1"
public_key = "key"
[projects.upstreams]
sentry = "http://key@127.0.0.1:9/1"
glitchtip = "http://key@127.0.0.1:9/2"
"#;

fn switchyard(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(args).timeout(Duration::from_secs(60));
    for name in ["SWITCHYARD_CONFIG", "SWITCHYARD_LOG", "SWITCHYARD_LOG_FORMAT", "RUST_LOG", "SUDO_USER"] {
        command.env_remove(name);
    }
    command.env("USER", "ada").env("NO_COLOR", "1");
    command.output().expect("the binary")
}

/// Runs a verb with a configuration file.
fn on(config: &Path, args: &[&str]) -> Output {
    let mut all = args.to_vec();
    all.extend(["--config", config.to_str().expect("a path in UTF-8")]);
    switchyard(&all)
}

/// Like [`on`], while servers of this test keep running.
async fn beside(config: &Path, args: &'static [&'static str]) -> Output {
    let config = config.to_owned();
    tokio::task::spawn_blocking(move || on(&config, args)).await.expect("the verb ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {output:?}"))
}

fn folder_with(config: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    std::fs::write(&path, config).expect("a configuration");
    (folder, path)
}

async fn relay_with_two() -> (Relay, Upstream, Upstream) {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let dsns = [("sentry", sentry.dsn("a", 1)), ("glitchtip", glitchtip.dsn("b", 2))];
    (Plan::new(&dsns).start().await, sentry, glitchtip)
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_a_working_file_and_says_what_services_need() {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let first = format!("shop:sentry={}", upstreams[0].dsn("secret-s", 11));
    let args =
        ["init", "--json", "--primary", "glitchtip", &first, "shop:glitchtip=${GLITCHTIP_DSN}", "api:glitchtip=${S}"];
    let output = on(&path, &args);
    assert_eq!(code(&output), 0, "{output:?}");
    let written: Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!((&written["primary"], written["projects"].as_array().map(Vec::len)), (&"glitchtip".into(), Some(2)));
    let text = std::fs::read_to_string(&path).expect("the file");
    assert_eq!(text.matches("\n[upstreams.").count(), 2, "{text}");
    assert_eq!(written["unasked"], serde_json::json!(["sentry", "glitchtip"]));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("the file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = on(&path, &args);
    assert_eq!((code(&again), err(&again).contains("--force")), (73, true), "{again:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), text);

    let [port, admin] = [net::free_port(), net::free_port()];
    let journal = folder.path().join("journal.db");
    let more = format!("[server]\nlisten = [\"127.0.0.1:{port}\"]\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n");
    let text = text.replace("[journal]\n", &format!("[journal]\npath = {journal:?}\n"));
    std::fs::write(&path, text + &more).expect("a longer file");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["run", "--config"]).arg(&path).env("GLITCHTIP_DSN", upstreams[1].dsn("secret-g", 22));
    command.env("S", upstreams[1].dsn("secret-a", 33));
    let relay = Process::start("switchyard", &mut command, &folder.path().join("log"), None);
    let dsn = written["projects"][0]["dsn"].as_str().expect("a DSN");
    let (key, end) = dsn.trim_start_matches("http://").split_once('@').expect("a key");
    assert_eq!(end, "127.0.0.1:8484/1");
    let (id, client) = (envelopes::new_id(), net::client());
    eventually("an envelope is accepted", SOON, async || {
        let url = format!("http://127.0.0.1:{port}/api/1/envelope/?sentry_key={key}");
        let answer = client.post(url).body(envelopes::error(&id)).send().await.map_err(|error| error.to_string())?;
        if answer.status() == 200 { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    for upstream in &upstreams {
        eventually("it is at both upstreams", SOON, async || match upstream.taken_ids() {
            ids if ids == [id.clone()] => Ok(()),
            ids => Err(format!("{ids:?}")),
        })
        .await;
    }
    assert!(relay.stop(SOON).await.success());
}

#[test]
fn init_writes_the_settings_of_a_parallel_run_and_says_what_it_assumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let dsns =
        ["init", "saas=https://key@o1.ingest.sentry.io/1", "my-glitchtip=http://key@g/2", "other=http://key@o/3"];
    let output = on(&path, &[&dsns[..], &["--canary", "1m"]].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    let text = std::fs::read_to_string(&path).expect("the file");
    for line in ["retain = \"72h\"\n", "[canary]\ninterval = \"1m\"\ntimeout = \"30000ms\"\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for line in [
        "saas is taken for kind sentry, by its host",
        "my-glitchtip is taken for kind glitchtip, by its name",
        "other is taken for kind generic: neither its name nor its host tells",
    ] {
        assert!(out(&output).contains(line), "{line}: {output:?}");
    }
    assert_eq!(code(&on(&path, &["check"])), 0);
    let elsewhere = folder.path().join("none.toml");
    let wrong = on(&elsewhere, &[&dsns[..], &["--canary", "10ms"]].concat());
    assert!(code(&wrong) == 64 || code(&wrong) == 2, "{wrong:?}");
    assert!(err(&wrong).contains("shorter than 1s") && !err(&wrong).contains("none.toml"), "{wrong:?}");
    assert!(!elsewhere.exists());
}

#[test]
fn init_refuses_bad_arguments_and_repeats_no_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    for (args, says) in [
        (&["init"][..], "DSN"),
        (&["init", "secret"], "UPSTREAM=DSN"),
        (&["init", "sentry=https://secret@/1"], "the DSN for sentry"),
        (&["init", "a=http://secret@h/1", "a=http://secret@h/2"], "two DSNs for a"),
        (&["init", "a=http://secret@h/1", "--primary", "b"], "b"),
        (&["init", "=http://secret@h/1"], "upstream"),
        (&["init", "glitchtip=http://secret@h/1", "--token", "secret"], "--token UPSTREAM=TOKEN"),
        (&["init", "glitchtip=http://secret@h/1", "--token", "sentry=secret"], "with an upstream that has a DSN"),
        (&["init", "glitchtip=http://secret@h/1", "--token", "glitchtip=secret"], "--name default:glitchtip="),
        (&["init", "relay=http://secret@h/1", "--token", "relay=secret"], "cannot be asked what it stores"),
        (&["init", "sentry=${SENTRY_DSN"], "${NAME}"),
        (&["init", "sentry=${A}/${B}"], "alone"),
        (&["init", "sentry=${1}"], "the DSN for sentry"),
    ] {
        let output = on(&path, args);
        assert_eq!(code(&output), 2, "{args:?}: {output:?}");
        let told = err(&output);
        assert!(told.contains(says) && !told.contains("secret"), "{args:?}: {told}");
        assert!(!path.exists());
    }
    let nowhere = folder.path().join("no/config.toml");
    assert_eq!(code(&on(&nowhere, &["init", "sentry=http://secret@h/1"])), 73);
}

#[test]
fn a_command_that_is_said_names_its_file_as_a_shell_takes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("it's mine.toml");
    let told = out(&on(&path, &["init", "a=http://key@h/1", "b=http://key@h/2"]));
    let quoted = format!("--config '{}'", path.display().to_string().replace('\'', r"'\''"));
    assert!(told.contains(&format!("switchyard {quoted} run")), "{told}");
    let told = out(&on(&path, &["switch", "b"]));
    assert!(told.contains(&format!("undo: switchyard switch a {quoted}")), "{told}");
}

#[test]
fn init_with_the_tokens_of_apis_writes_a_file_by_which_trackers_are_asked_what_they_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.toml");
    let dsns = ["init", "shop:sentry=http://key@h/1", "shop:glitchtip=http://key@g/2", "shop:bugsink=http://key@b/3"];
    let tokens =
        ["--token", "glitchtip=${file:/etc/token}", "--token", "bugsink=hush", "--name", "shop:glitchtip=acme/shop"];
    let output = on(&path, &[&dsns[..], &tokens].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    let told = out(&output);
    assert!(told.contains("nobody can ask sentry what is stored") && !told.contains("hush"), "{told}");
    assert!(!told.contains("is ready"), "a report judges glitchtip, whose token is there: {told}");
    let text = std::fs::read_to_string(&path).expect("the file");
    for line in [
        "[upstreams.glitchtip.api]\ntoken = \"${file:/etc/token}\"\n",
        "[upstreams.bugsink.api]\ntoken = \"hush\"\n",
        "# [upstreams.sentry.api]",
        "glitchtip = { dsn = \"http://key@g/2\", project = \"acme/shop\" }\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn init_with_force_replaces_a_link_and_leaves_its_target_alone() {
    let (folder, elsewhere) = folder_with("mine");
    let path = folder.path().join("link.toml");
    std::os::unix::fs::symlink(&elsewhere, &path).expect("a link");
    assert_eq!(code(&on(&path, &["init", "sentry=http://key@h/1"])), 73);
    assert_eq!(code(&on(&path, &["init", "--force", "sentry=http://key@h/1"])), 0);
    let written = std::fs::symlink_metadata(&path).expect("a file");
    assert_eq!((written.is_file(), written.permissions().mode() & 0o777), (true, 0o600));
    assert_eq!(std::fs::read_to_string(&elsewhere).expect("a file"), "mine");
}

#[test]
fn help_version_completions_and_manual_pages_are_printed() {
    assert!(out(&switchyard(&["--version"])).starts_with(concat!("switchyard ", env!("CARGO_PKG_VERSION"))));
    let help = out(&switchyard(&["--help"]));
    for verb in [
        "run",
        "demo",
        "init",
        "check",
        "switch",
        "send-test",
        "status",
        "dead-letters",
        "backfill",
        "journal",
        "sink",
        "healthcheck",
        "completions",
        "man",
    ] {
        assert!(help.contains(verb), "{verb} is not in {help}");
        assert_eq!(code(&switchyard(&[verb, "--help"])), 0, "{verb}");
        assert!(out(&switchyard(&["man", verb])).starts_with(".ie"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(out(&switchyard(&["completions", shell])).contains("send-test"), "{shell}");
    }
    assert_eq!(code(&switchyard(&["man", "nonsense"])), 2);
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(code(&switchyard(&["man", "--to", &folder.path().display().to_string()])), 0);
    let page = |name: &str| std::fs::read_to_string(folder.path().join(format!("{name}.1")));
    let mut pages = vec!["switchyard".to_owned()];
    while let Some(name) = pages.pop() {
        let text = page(&name).unwrap_or_else(|error| panic!("{name}: {error}")).replace("\\-", "-");
        pages.extend(text.lines().filter_map(|line| line.strip_suffix("(1)")).map(str::to_owned));
    }
    assert!(page("switchyard-dead-letters-list").is_ok_and(|text| text.contains("SWITCHYARD_CONFIG")));
}

#[test]
fn help_prints_the_handbook_without_a_network_and_knows_every_verb() {
    let page = switchyard(&["help", "alerts"]);
    assert_eq!(code(&page), 0);
    assert!(out(&page).contains("SwitchyardUpstreamDown") && !out(&page).contains("]("), "{}", out(&page));
    let page = out(&switchyard(&["help", "delivery"]));
    assert!(page.contains("(help ") && page.lines().all(|line| line.chars().count() <= 80), "{page}");
    let verb = switchyard(&["help", "switch"]);
    assert!(out(&verb).contains("Usage: switchyard switch"), "{}", out(&verb));
    let verb = switchyard(&["help", "journal", "move"]);
    assert!(out(&verb).contains("Usage: switchyard journal move"), "{}", out(&verb));
    for supervisor in ["pm2", "systemd"] {
        let page = switchyard(&["help", supervisor]);
        assert!(code(&page) == 0 && !out(&page).contains("]("), "{page:?}");
    }
    let index = switchyard(&["help"]);
    assert!(out(&index).contains("parallel-run") && out(&index).contains("dead-letters"), "{}", out(&index));
    let unknown = switchyard(&["help", "weather"]);
    assert_eq!(code(&unknown), 2);
    assert!(err(&unknown).contains("the pages are alerts"), "{}", err(&unknown));
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &["nonsense"][..],
        &[],
        &["switch", "--reason", "why"],
        &["sink", "--status", "700"],
        &["dead-letters", "list", "--reason", "refuse"],
        &["dead-letters", "list", "--limit", "0"],
        &["help", "journal", "mvoe"],
    ] {
        assert_eq!(code(&switchyard(args)), 2, "{args:?}");
    }
}

#[test]
fn a_variable_that_is_empty_counts_as_one_that_is_not_set() {
    let (folder, _) = folder_with(CONFIG);
    let run = |variable: &str, verb: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.arg(verb).current_dir(&folder).env_remove("SWITCHYARD_CONFIG").env(variable, "");
        command.output().expect("the binary")
    };
    assert_eq!(code(&run("SWITCHYARD_CONFIG", "check")), 0);
    std::fs::remove_file(folder.path().join("config.toml")).expect("the file");
    let output = run("SWITCHYARD_LOG_FORMAT", "run");
    assert!(code(&output) == 66 || Path::new("/etc/switchyard/config.toml").exists(), "{output:?}");
}

#[test]
fn a_missing_configuration_exits_with_66_and_says_how_to_name_one() {
    for verb in ["run", "check", "switch", "status", "send-test"] {
        let output = on(Path::new("/nowhere/config.toml"), &[verb]);
        assert_eq!(code(&output), 66, "{verb}");
        assert!(err(&output).contains("/nowhere/config.toml does not exist"), "{output:?}");
        assert!(err(&output).contains("--config"), "{output:?}");
    }
}

#[test]
fn the_message_without_a_configuration_names_every_place_looked_at() {
    if Path::new("/etc/switchyard/config.toml").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for verb in ["run", "check", "switch", "status", "send-test", "report"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        let output = command.arg(verb).current_dir(&folder).env_remove("SWITCHYARD_CONFIG").output().unwrap();
        assert_eq!(code(&output), 66, "{verb}");
        for place in
            ["config.toml, config/config.toml, /etc/switchyard/config.toml", "--config FILE", "switchyard init"]
        {
            assert!(err(&output).contains(place), "{output:?}");
        }
    }
}

#[test]
fn a_place_that_this_user_may_not_look_into_is_named() {
    if Path::new("/etc/switchyard/config.toml").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shut = folder.path().join("config");
    std::fs::create_dir(&shut).unwrap();
    for (path, mode) in [(folder.path(), 0o755), (&shut, 0)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.arg("status").current_dir(&folder).env_remove("SWITCHYARD_CONFIG");
    if rustix::process::geteuid().is_root() {
        // Nothing is shut to root.
        command.uid(65534).gid(65534);
    }
    let output = command.output();
    std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o700)).unwrap();
    // Where another user may not start the program there is nothing to be seen.
    let Ok(output) = output else { return };
    assert!(code(&output) == 77 && err(&output).contains("config/config.toml cannot be read"), "{output:?}");
}

#[test]
fn a_configuration_that_can_be_used_is_summed_up() {
    let (_folder, config) = folder_with(CONFIG);
    let output = on(&config, &["check"]);
    assert_eq!(code(&output), 0);
    assert!(
        out(&output).contains("primary sentry, mirror on; upstreams glitchtip, sentry; projects shop"),
        "{output:?}"
    );
}

#[test]
fn all_problems_are_reported_at_once_with_lines_and_without_secrets() {
    let broken =
        CONFIG.replace("\"sentry\"  #", "\"nobody\" #").replace("[admin]", "[admin]\ncolour = 1\ntoken = \"hush\"");
    let (_folder, config) = folder_with(&broken);
    for verb in ["check", "run"] {
        let output = on(&config, &[verb]);
        assert_eq!(code(&output), 78, "{verb}");
        let told = out(&output) + &err(&output);
        for word in ["nobody", "colour", "config.toml:1:", "config.toml:3:", "2 problems"] {
            assert!(told.contains(word), "{word:?} is not in {told}");
        }
        assert!(!told.contains("hush"), "{told}");
    }
    let output = on(&config, &["check", "--json"]);
    assert_eq!(code(&output), 78);
    assert_eq!(json(&output)["errors"], 2);
    assert_eq!(json(&output)["problems"][1]["line"], 3);
}

#[test]
fn check_against_lists_changes_and_what_needs_a_restart() {
    let (_folder, old) = folder_with(CONFIG);
    let (_other, new) =
        folder_with(&CONFIG.replace("127.0.0.1:1\"", "127.0.0.1:2\"").replace("\"sentry\"  #", "\"glitchtip\" #"));
    let output = on(&new, &["check", "--json", "--against", old.to_str().expect("a path")]);
    assert_eq!(code(&output), 0);
    assert_eq!(json(&output)["changes"]["needs_restart"], serde_json::json!(["admin.listen"]));
    assert_eq!(json(&output)["changes"]["changes"][1], "primary: sentry -> glitchtip");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_asks_each_upstream_and_explains_failures() {
    let (good, bad) = (Upstream::start().await, Upstream::start().await);
    bad.always(Reply::Status(403, vec![], "no such key: hush7".to_owned()));
    let text = CONFIG.replace("http://key@127.0.0.1:9/1", &good.dsn("k", 1));
    let (_folder, config) = folder_with(&text.replace("http://key@127.0.0.1:9/2", &bad.dsn("hush7", 2)));
    let output = beside(&config, &["check", "--online", "--json"]).await;
    assert_eq!(code(&output), 1);
    let found = json(&output);
    let of = |name: &str| found["online"].as_array().unwrap().iter().find(|p| p["upstream"] == name).unwrap().clone();
    assert_eq!(of("sentry")["result"], "good", "{found}");
    assert_eq!(of("glitchtip")["status"], 403, "{found}");
    assert!(of("glitchtip")["explanation"].as_str().unwrap().contains("no such key: ***"), "{found}");
    assert!(!found.to_string().contains("hush7"), "{found}");
    assert_eq!(good.questions(), 1, "an envelope without items, of which nothing is stored");
    bad.always(Reply::Status(200, vec![], "<!doctype html><title>Welcome to nginx!</title>".to_owned()));
    let output = beside(&config, &["check", "--online"]).await;
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("Welcome to nginx!"), "{}", out(&output));

    bad.always(Reply::Ok);
    assert_eq!(code(&beside(&config, &["check", "--online"]).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_reads_only_the_beginning_of_an_endless_answer() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", net::free_port())).expect("a port");
    let dsn = format!("http://key@{}/1", listener.local_addr().expect("an address"));
    let serving = std::thread::spawn(move || {
        // The first connection only tests whether somebody listens.
        let mut streams = listener.incoming().map(|stream| stream.expect("a connection"));
        drop(streams.next());
        // The probe then asks for the kind and at last tries the key.
        let mut stream = loop {
            let mut stream = streams.next().expect("a request");
            let (mut request, mut piece) = (vec![], [0; 1024]);
            while !(request.ends_with(b"{}\n") || request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n")) {
                let length = stream.read(&mut piece).expect("the probe");
                assert!(length > 0, "it broke off");
                request.extend_from_slice(&piece[..length]);
            }
            if request.starts_with(b"POST") {
                break stream;
            }
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").expect("an answer");
        };
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("an answer");
        let piece = vec![b'x'; 256 * 1024];
        (0..1024).take_while(|_| stream.write_all(&piece).is_ok()).count()
    });
    let (_folder, config) = folder_with(&CONFIG.replace("http://key@127.0.0.1:9/1", &dsn));
    let output = beside(&config, &["check", "--online"]).await;
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("does not understand the probe: xxx"), "{output:?}");
    let pieces = serving.join().expect("a server");
    assert!(pieces < 100, "{pieces} of 256 KiB each were taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_tracker_is_recognised_and_its_line_suggested() {
    let json_at = |path: &'static str, body: &'static str| {
        move |seen: &Seen| match seen.path.as_str() {
            at if at == path => Some(Reply::Status(200, vec![], body.to_owned())),
            at if at.ends_with("/envelope/") => None,
            _ => Some(Reply::status(404)),
        }
    };
    for (kind, path, body) in [
        ("glitchtip", "/api/settings/", r#"{"socialApps": [], "iPaidForGlitchTip": false, "version": "5.2.0"}"#),
        ("relay", "/api/relay/healthcheck/live/", r#"{"is_healthy":true}"#),
        ("sentry", "/api/0/", r#"{"version":"0","auth":null,"user":null}"#),
        ("bugsink", "", ""),
        ("", "/api/settings/", r#"{"version":"0"}"#),
    ] {
        let tracker = Upstream::start().await;
        tracker.always(match kind {
            "bugsink" => Reply::with_header(200, "x-sentry-rate-limits", "86400:transaction;span:organization"),
            _ => Reply::Ok,
        });
        tracker.when(json_at(path, body));
        let text = CONFIG.replace("http://key@127.0.0.1:9/1", &tracker.dsn("k", 1));
        let (_folder, config) = folder_with(&text.replace("http://key@127.0.0.1:9/2", &tracker.dsn("k", 2)));
        let output = beside(&config, &["check", "--online", "--json"]).await;
        let found = json(&output);
        assert_eq!((code(&output), found["online"][0]["kind"].as_str().unwrap_or_default()), (0, kind), "{found}");
        let shown = out(&beside(&config, &["check", "--online"]).await);
        let line = |upstream: &str| {
            format!("{upstream} looks like {kind}: write kind = \"{kind}\" under [upstreams.{upstream}]")
        };
        for upstream in ["sentry", "glitchtip"] {
            assert_eq!(shown.matches(&line(upstream)).count(), usize::from(!kind.is_empty()), "{shown}");
        }
        let written = format!("[upstreams.sentry]\nkind = \"{kind}\"");
        std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace("[upstreams.sentry]", &written))
            .unwrap();
        if !kind.is_empty() {
            let shown = out(&beside(&config, &["check", "--online"]).await);
            assert!(!shown.contains(&line("sentry")) && shown.contains(&line("glitchtip")), "{shown}");
        }
    }
}

/// Makes an upstream a GlitchTip that knows `key` and refuses everybody after a wrong key.
fn as_glitchtip(tracker: &Upstream, key: &'static str) {
    let locked = std::sync::atomic::AtomicBool::new(false);
    let denied = || Some(Reply::Status(403, vec![], "{\"detail\": \"Denied\"}".to_owned()));
    tracker.when(move |seen| match seen.path.as_str() {
        "/api/settings/" => Some(Reply::Status(200, vec![], "{\"iPaidForGlitchTip\":false}".to_owned())),
        path if path.ends_with("/envelope/") => {
            let sent = seen.headers["x-sentry-auth"].to_str().expect("text");
            let is_wrong = !sent.ends_with(&format!("sentry_key={key}"));
            let is_locked = locked.fetch_or(is_wrong, std::sync::atomic::Ordering::Relaxed);
            if is_wrong || is_locked { denied() } else { None }
        }
        _ => Some(Reply::status(404)),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn checking_a_mistyped_key_locks_no_running_glitchtip_project_out() {
    let (sentry, tracker) = (Upstream::start().await, Upstream::start().await);
    as_glitchtip(&tracker, "4197");
    let relay = Plan::new(&[("sentry", sentry.dsn("k", 1)), ("tracker", tracker.dsn("4197", 2))]).start().await;
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    let text = CONFIG.replace("http://key@127.0.0.1:9/1", &sentry.dsn("k", 1));
    let (_folder, config) = folder_with(&text.replace("http://key@127.0.0.1:9/2", &tracker.dsn("4179", 2)));
    let output = beside(&config, &["check", "--online"]).await;
    let shown = out(&output);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(shown.contains("glitchtip looks like glitchtip") && shown.contains("its key was not tried"), "{shown}");
    assert!(shown.contains("With --yes the keys"), "{shown}");
    assert_eq!((tracker.questions(), sentry.questions()), (0, 1), "{shown}");
    relay.send_errors(1).await;
    relay.balanced(SOON).await;
    assert_eq!(tracker.taken_count(), 2 + 1, "two events, and its settings");

    let output = beside(&config, &["check", "--online", "--yes", "--json"]).await;
    let found = json(&output);
    assert_eq!(code(&output), 1, "{found}");
    let explained = found["online"].as_array().expect("probes").iter().find(|probe| probe["upstream"] == "glitchtip");
    assert!(explained.expect("a probe")["explanation"].to_string().contains("somebody tried a wrong key"), "{found}");
    assert_eq!((tracker.questions(), sentry.questions()), (1, 2), "{found}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_keys_reports_portals_and_failing_upstreams() {
    let page = "<!doctype html><title>Sign in to the guest network</title>";
    for (kind, status, text, told) in [
        ("glitchtip", 200, page, "Sign in to the guest network"),
        ("glitchtip", 200, "{\"ok\":true}", "{\"ok\":true}"),
        ("glitchtip", 403, "only for staff", "only for staff"),
        ("glitchtip", 503, "down for repair", "down for repair"),
        ("generic", 503, "down for repair", "down for repair"),
    ] {
        let tracker = Upstream::start().await;
        tracker.always(Reply::Status(status, vec![], text.to_owned()));
        let config = format!(
            "primary = \"t\"\n[upstreams.t]\nkind = \"{kind}\"\n[[projects]]\nname = \"p\"\nid = \"1\"\npublic_key = \"k1\"\n\
             upstreams.t = \"{}\"\n",
            tracker.dsn("hush7", 2)
        );
        let (_folder, config) = folder_with(&config);
        let verbs: [&'static [&'static str]; 2] = [&["check", "--online"], &["check", "--online", "--yes"]];
        for verb in verbs {
            let output = beside(&config, verb).await;
            assert_eq!(code(&output), 1, "{kind} {status}: {output:?}");
            assert!(out(&output).contains(told) && !out(&output).contains("not tried"), "{}", out(&output));
        }
        assert_eq!(tracker.questions(), 0, "no key was tried");
    }
    // A server that refuses the method is up, and no key is tried.
    let (sentry, tracker) = (Upstream::start().await, Upstream::start().await);
    tracker.always(Reply::status(405));
    let text = CONFIG.replace("http://key@127.0.0.1:9/1", &sentry.dsn("k", 1));
    let text = text.replace("http://key@127.0.0.1:9/2", &tracker.dsn("k", 2));
    let (_folder, config) =
        folder_with(&text.replace("[upstreams.glitchtip]", "[upstreams.glitchtip]\nkind = \"glitchtip\""));
    let output = beside(&config, &["check", "--online"]).await;
    assert!(out(&output).contains("its key was not tried"), "{output:?}");
    assert_eq!(tracker.questions(), 0);
}

/// A GlitchTip that closes each connection without a `Connection: close`. Every `silent`th connection gets no answer.
async fn closing_glitchtip(silent: usize) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        for n in 1.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut head = vec![];
            while !head.windows(4).any(|end| end == b"\r\n\r\n")
                && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0)
            {}
            if n % silent == 0 {
                continue;
            }
            let is = |path: &str| head.windows(path.len()).any(|part| part == path.as_bytes());
            let body = match () {
                () if is("/api/settings/") => "{\"iPaidForGlitchTip\":false}",
                () if is("/api/0/") => "{\"version\":\"0\"}",
                () => "{}",
            };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    (port, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_a_server_that_closes_its_connections_find_no_wrong_kind() {
    for silent in [usize::MAX, 3] {
        let (port, _serving) = closing_glitchtip(silent).await;
        let mut text = "primary = \"g\"\n[upstreams.g]\n".to_owned();
        for n in 1..=100 {
            let dsn = format!("http://key{n}@127.0.0.1:{port}/{n}");
            text += &format!(
                "[[projects]]\nname = \"p{n}\"\nid = \"{n}\"\npublic_key = \"k{n}\"\nupstreams.g = \"{dsn}\"\n"
            );
        }
        let (_folder, config) = folder_with(&text);
        let found = json(&beside(&config, &["check", "--online", "--json"]).await);
        let kinds = found["online"].as_array().expect("probes").iter().map(|probe| probe["kind"].clone());
        let glitchtips = kinds.clone().filter(|kind| *kind == "glitchtip").count();
        assert!(kinds.into_iter().all(|kind| kind == "glitchtip" || kind.is_null()), "{found}");
        assert!(if silent == 3 { glitchtips > 0 } else { glitchtips == 100 }, "{glitchtips}: {found}");
    }
}

#[test]
fn a_switch_without_a_daemon_edits_one_line_and_says_when_it_takes_effect() {
    let (_folder, config) = folder_with(CONFIG);
    let output = on(&config, &["switch", "glitchtip"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(out(&output).contains("takes effect when one starts"), "{output:?}");
    assert!(out(&output).contains("undo: switchyard switch sentry --config"), "{output:?}");
    let text = std::fs::read_to_string(&config).unwrap();
    assert_eq!(text, CONFIG.replace("primary = \"sentry\"", "primary = \"glitchtip\""));

    let again = on(&config, &["switch", "glitchtip", "--json"]);
    assert_eq!((code(&again), &json(&again)["changed"]), (0, &Value::Bool(false)));
    let shown = on(&config, &["switch", "--json"]);
    assert_eq!((&json(&shown)["primary"], &json(&shown)["live"]), (&"glitchtip".into(), &false.into()));
}

#[test]
fn a_switch_that_would_stop_a_start_is_refused_and_changes_nothing() {
    let other = "[[projects]]\nname = \"blog\"\nid = \"2\"\npublic_key = \"other\"\n[projects.upstreams]\n\
                 sentry = \"http://key@127.0.0.1:9/3\"\n";
    let text = format!("{CONFIG}{other}");
    let (_folder, config) = folder_with(&text);
    let output = on(&config, &["switch", "glitchtip"]);
    assert_eq!(code(&output), 78, "{output:?}");
    for words in ["projects[1]", "nothing was changed"] {
        assert!(err(&output).contains(words), "{words:?} is not in {output:?}");
    }
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    // An earlier problem of the file is no reason to refuse: the daemon may know a variable that is unknown here.
    let unknown = CONFIG.replace("public_key = \"key\"", "public_key = \"${NOT_KNOWN_HERE}\"");
    std::fs::write(&config, &unknown).unwrap();
    assert_eq!(code(&on(&config, &["switch", "glitchtip"])), 0);
}

#[test]
fn an_unknown_upstream_exits_with_2_and_lists_those_there_are() {
    let (_folder, config) = folder_with(CONFIG);
    let output = on(&config, &["switch", "nobody"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("sentry, glitchtip"), "{output:?}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), CONFIG);
}

#[test]
fn commands_that_need_a_daemon_say_when_none_answers() {
    let (_folder, config) = folder_with(CONFIG);
    for (verb, expected) in [("status", 69), ("send-test", 69), ("healthcheck", 1)] {
        let output = on(&config, &[verb]);
        assert_eq!(code(&output), expected, "{verb}");
        assert!(err(&output).contains("127.0.0.1:1"), "{output:?}");
    }
}

#[test]
fn a_file_that_is_no_toml_or_gone_is_told_only_when_no_daemon_answers() {
    let (_folder, config) = folder_with(&format!("x = = 1\n{CONFIG}"));
    for (verb, expected) in
        [(&["status"][..], 78), (&["report"], 78), (&["healthcheck"], 1), (&["status", "--check"], 2)]
    {
        assert_eq!(code(&on(&config, verb)), expected, "{verb:?}");
    }
    std::fs::remove_file(&config).expect("the file goes");
    for (verb, expected) in [(&["switch", "glitchtip"][..], 66), (&["check"], 66)] {
        assert_eq!(code(&on(&config, verb)), expected, "{verb:?}");
    }
}

#[tokio::test]
async fn an_unusable_journal_exits_with_74_and_a_taken_address_with_69() {
    let (folder, config) = folder_with(CONFIG);
    let at = |text: &str| std::fs::write(&config, text).expect("a configuration");
    at(&format!("{CONFIG}\n[journal]\npath = \"/proc/no/journal.db\"\n"));
    let output = beside(&config, &["run"]).await;
    assert_eq!(code(&output), 74, "{output:?}");

    let taken = std::net::TcpListener::bind(("127.0.0.1", net::free_port())).expect("a port");
    let journal = folder.path().join("journal.db");
    at(&format!(
        "{}\n[journal]\npath = {journal:?}\n[server]\nlisten = [\"{}\"]\n",
        CONFIG,
        taken.local_addr().expect("an address")
    ));
    let output = beside(&config, &["run"]).await;
    assert_eq!(code(&output), 69, "{output:?}");
    assert!(err(&output).contains("cannot listen on"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_live_before_the_command_ends_and_keeps_author_and_reason() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let output = beside(&relay.config(), &["switch", "glitchtip", "--reason", "the window is over", "--json"]).await;
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(json(&output)["live"], true);
    assert!(json(&output)["took_ms"].as_u64().unwrap() < 5000);
    let status = relay.status().await;
    assert_eq!(status["primary"], "glitchtip");
    assert_eq!(status["switches"][0]["reason"], "the window is over");
    assert!(status["switches"][0]["author"].as_str().unwrap().starts_with("ada"), "{status}");

    let shown = beside(&relay.config(), &["switch"]).await;
    assert!(out(&shown).contains("sentry -> glitchtip by ada"), "{shown:?}");
    assert!(out(&shown).contains("undo the last: switchyard switch sentry"), "{shown:?}");
    let again = beside(&relay.config(), &["switch", "glitchtip"]).await;
    assert!(out(&again).contains("already"), "{again:?}");
    assert_eq!(code(&beside(&relay.config(), &["switch", "nobody"]).await), 2);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_without_the_mirror_names_the_idle_upstream_and_the_backfill() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    relay.replace_config(&text.replacen('\n', "\nmirror = false\n", 1));
    eventually("the mirror is off", SOON, async || match relay.status().await["mirror"] == false {
        true => Ok(()),
        false => Err(relay.log()),
    })
    .await;
    let calm = beside(&relay.config(), &["status", "--check"]).await;
    assert!(out(&calm).contains("sentry takes what comes and nobody else does, for the mirror is off"), "{calm:?}");
    let output = beside(&relay.config(), &["switch", "glitchtip"]).await;
    let said = out(&output);
    for words in [
        "the mirror is off: sentry gets nothing new",
        "backfill glitchtip --since 90d",
        "undo: switchyard switch sentry",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let back = beside(&relay.config(), &["switch", "sentry"]).await;
    // The former primary has missed events since a moment ago, and the output names a command that runs.
    let told = out(&back);
    let command = told.split('`').find(|words| words.starts_with("switchyard backfill sentry --since 24h"));
    let command = command.unwrap_or_else(|| panic!("no command for sentry: {told}"));
    let words: Vec<String> = command.split(' ').skip(1).map(str::to_owned).collect();
    let run = move || switchyard(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let ended = tokio::task::spawn_blocking(run).await.expect("it ends");
    assert_eq!(code(&ended), 0, "{command}: {ended:?}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_the_daemon_refuses_leaves_the_file_unchanged() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    let unfit = text.replace("\"journal.db\"", "\"another.db\"");
    relay.replace_config(&unfit);
    let output = beside(&relay.config(), &["switch", "glitchtip", "--reason", "too early"]).await;
    assert_eq!(code(&output), 1, "{output:?}");
    for words in
        ["journal.path", "restart the daemon where that is what is needed, then switch again", "the file is as it was"]
    {
        assert!(err(&output).contains(words), "{words:?} is not in {output:?}");
    }
    assert_eq!(std::fs::read_to_string(relay.config()).expect("the configuration"), unfit);
    assert_eq!(relay.status().await["primary"], "sentry");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reaches_the_daemon_without_the_files_secrets() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let text = std::fs::read_to_string(relay.config()).expect("the configuration");
    let beside_it = relay.home().join("other.toml");
    let hidden = text.replace(&format!("\"{}\"", envelopes::KEY), "\"${ONLY_THE_DAEMON_KNOWS}\"");
    std::fs::write(&beside_it, hidden).expect("a second configuration");
    assert_eq!(code(&beside(&beside_it, &["check"]).await), 78);
    assert_eq!(code(&beside(&beside_it, &["status"]).await), 0);
    assert_eq!(code(&beside(&beside_it, &["healthcheck"]).await), 0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_shown_as_a_table_and_as_json() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    let shown = beside(&relay.config(), &["status"]).await;
    assert_eq!(code(&shown), 0);
    for word in ["primary sentry", "ready", "glitchtip  shadow", "6 items delivered"] {
        assert!(out(&shown).contains(word), "{word:?} is not in {}", out(&shown));
    }
    let status = beside(&relay.config(), &["status", "--json"]).await;
    assert_eq!(json(&status)["upstreams"][0]["delivered"], 3);
    assert_eq!(json(&status)["difference"], 0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_check_answers_in_one_line_and_by_its_exit_code() {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("5e", 1)), ("glitchtip", glitchtip.dsn("91", 2))]);
    let relay = plan.upstream("glitchtip", "max_age = \"3s\"").start().await;
    let told = async |expected: i32, words: &'static str| {
        eventually(words, SOON, async || {
            let output = beside(&relay.config(), &["status", "--check"]).await;
            let is_told =
                code(&output) == expected && out(&output).contains(words) && out(&output).lines().count() == 1;
            if is_told { Ok(()) } else { Err(format!("{output:?}")) }
        })
        .await;
    };
    relay.send_errors(1).await;
    told(0, "All well: sentry is the primary, sentry and glitchtip take what comes, nothing waits").await;
    glitchtip.always(Reply::status(503));
    relay.send_errors(2).await;
    told(1, "Degraded: ").await;
    told(2, "Losing data: 2 items for glitchtip were dropped in the last two hours").await;
    let shown = out(&beside(&relay.config(), &["status"]).await);
    assert!(shown.starts_with("✖ Losing data: 2 items for glitchtip"), "{shown}");
    relay.finish().await;

    let (_folder, config) = folder_with(CONFIG);
    let output = beside(&config, &["status", "--check"]).await;
    assert_eq!((code(&output), out(&output).lines().count()), (2, 1), "{output:?}");
    assert!(out(&output).starts_with("Losing data: no daemon answers at 127.0.0.1:1"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_page_name_projects_with_their_own_primary_or_mirror() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let page = async || {
        let page = relay.client().get(format!("http://{}/", relay.admin_address())).send().await.expect("a page");
        page.text().await.expect("a text")
    };
    assert!(!page().await.contains("Project <b>shop"), "it goes no way of its own");
    let config = std::fs::read_to_string(relay.config()).expect("the configuration");
    let own = "name = \"shop\"\nprimary = \"glitchtip\"\nmirror = false";
    relay.replace_config(&config.replace("name = \"shop\"", own));
    eventually("it is live", SOON, async || {
        let project = relay.status().await["projects"][0].clone();
        if project["primary"] == "glitchtip" { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    let status = relay.status().await;
    assert_eq!((&status["projects"][0]["mirror"], &status["mirror"]), (&false.into(), &true.into()));
    let shown = out(&beside(&relay.config(), &["status"]).await);
    for word in ["primary sentry", "project shop: primary glitchtip · mirror off", "shadow, primary of shop"] {
        assert!(shown.contains(word), "{word:?} is not in {shown}");
    }
    let page = page().await;
    for word in ["Project <b>shop</b>: primary <b>glitchtip</b> · mirror off", "shadow, primary of shop"] {
        assert!(page.contains(word), "{word:?} is not in {page}");
    }
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_event_reaches_every_upstream_and_each_is_named() {
    let (relay, sentry, glitchtip) = relay_with_two().await;
    let output = beside(&relay.config(), &["send-test", "--json"]).await;
    assert_eq!(code(&output), 0, "{output:?}");
    let told = json(&output);
    assert!(told["upstreams"].as_array().unwrap().iter().all(|upstream| upstream["result"] == "yes"), "{told}");
    for upstream in [&sentry, &glitchtip] {
        assert_eq!(upstream.taken_ids(), [told["event_id"].as_str().unwrap()]);
    }
    assert_eq!(code(&beside(&relay.config(), &["send-test", "--project", "nothing"]).await), 2);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_status_and_send_test_say_what_a_shadow_is_spared() {
    let (sentry, glitchtip) = (Upstream::start().await, Upstream::start().await);
    let plan = Plan::new(&[("sentry", sentry.dsn("cafe", 7)), ("glitchtip", glitchtip.dsn("beef", 8))]);
    let relay = plan.more("[upstreams.glitchtip.shadow]\nitems = [\"transaction\"]").start().await;
    let output = beside(&relay.config(), &["send-test", "--json"]).await;
    assert_eq!(code(&output), 0, "nothing is wrong: {output:?}");
    let told: BTreeMap<String, String> = (json(&output)["upstreams"].as_array().expect("a list").iter())
        .map(|one| (one["upstream"].to_string(), one["result"].to_string()))
        .collect();
    assert_eq!((told["\"sentry\""].as_str(), told["\"glitchtip\""].as_str()), ("\"yes\"", "\"not_meant\""));
    let checked = out(&beside(&relay.config(), &["check"]).await);
    assert!(checked.contains("While glitchtip is not the primary it gets: only transaction"), "{checked}");
    let status = out(&beside(&relay.config(), &["status"]).await);
    assert!(status.contains("as a shadow it gets: only transaction"), "{status}");
    assert!(status.contains("dropped as filtered: 1"), "{status}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_test_event_is_reported_in_the_upstreams_words() {
    let (relay, _sentry, glitchtip) = relay_with_two().await;
    glitchtip.always(Reply::Status(400, vec![], "not today".to_owned()));
    let output = beside(&relay.config(), &["send-test"]).await;
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(out(&output).contains("not today"), "{output:?}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_shows_what_arrives_and_answers_as_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (port, lines) = (net::free_port(), folder.path().join("lines"));
    let listen = format!("127.0.0.1:{port}");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["sink", "--json", "--name", "late", "--status", "429", "--listen", &listen]);
    let stdout = std::fs::File::create(&lines).expect("a file");
    let sink = Process::start("a sink", &mut command, &folder.path().join("log"), Some(stdout));
    let (id, client) = (envelopes::new_id(), net::client());
    let url = format!("http://{listen}/api/5/envelope/?sentry_key=anything");
    let answer = eventually("the sink answers", SOON, async || {
        client.post(&url).body(envelopes::error(&id)).send().await.map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "60");
    let arrival: Value = eventually("the sink shows it", SOON, async || {
        let text = std::fs::read_to_string(&lines).map_err(|error| error.to_string())?;
        serde_json::from_str(text.trim()).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(arrival["event_id"], id.as_str());
    assert_eq!((&arrival["project"], &arrival["summary"]), (&"5".into(), &"a message".into()));
    assert!(sink.stop(SOON).await.success());
}

#[test]
fn the_demo_loses_nothing_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["demo", "--exit"]).env("TMPDIR", folder.path()).timeout(Duration::from_secs(60));
    let output = command.output().expect("the binary");
    assert_eq!(code(&output), 0, "{output:?}");
    for words in ["live ", "wait in the journal", "0 missing, 0 twice", "accepted - delivered - dropped - waiting = 0"]
    {
        assert!(out(&output).contains(words), "{words:?} is not in {}", out(&output));
    }
    assert_eq!(
        docs::not_said(&docs::of_demo("README.md"), &out(&output)),
        None,
        "the README shows it, and this is said: {}",
        out(&output)
    );
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
