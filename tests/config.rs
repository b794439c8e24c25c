//! The configuration files that come with Switchyard load as they are, and the commented one shows the real defaults.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use switchyard::config::{Loaded, parse};
use switchyard::{delivery, http, journal, policy, telemetry};

fn text(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of the variables that the files name.
fn variable(name: &str) -> Option<String> {
    match name {
        "SWITCHYARD_KEY" | "SWITCHYARD_MAILER_KEY" => Some(format!("{:032x}", name.len())),
        "NOTIFY_URL" => Some("https://hooks.slack.com/services/x".into()),
        "SWITCHYARD_ADMIN_TOKEN" => Some("token".into()),
        "SWITCHYARD_DB_PASSWORD" => Some("password".into()),
        _ if name.starts_with("SENTRY") => Some("https://key@o1.ingest.sentry.io/42".into()),
        _ if name.starts_with("GLITCHTIP") => Some("http://key@127.0.0.1:8080/1".into()),
        _ => None,
    }
}

fn load(name: &str, text: &str) -> Loaded {
    parse(name, text, &variable).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The text with the commented-out options enabled: lines like `# key = …` and `# [section]`.
fn with_all_options(text: &str) -> String {
    let option = |line: &&str| {
        let is_name = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b));
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| is_name(key))
    };
    let lines = text.lines().map(|line| line.strip_prefix("# ").filter(option).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// Loads the file with all options except the journal's file path, and with a certificate where it names one.
fn load_with_all_options(name: &str) -> Loaded {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("a file");
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    let place = folder.path().to_str().expect("a path in UTF-8");
    let all = with_all_options(&text(name)).replace("/etc/switchyard/tls", place);
    load(name, &all.lines().filter(|line| !line.starts_with("path = ")).collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_example_loads_as_it_is_and_with_all_its_options() {
    for name in ["config.toml", "minimal.toml", "parallel-run.toml"] {
        let loaded = load(name, &text(name));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        load_with_all_options(name);
    }
}

#[test]
fn a_max_age_over_30_days_is_refused() {
    let with = |age: &str| text("config.toml").replace("max_age = \"72h\"", &format!("max_age = \"{age}\""));
    load("config.toml", &with("30d"));
    let problems = parse("config.toml", &with("721h"), &variable).expect_err("a problem").to_string();
    assert!(problems.contains("max_age: is longer than 30d"), "{problems}");
}

#[test]
fn the_commented_example_has_every_option_at_its_default() {
    let config = load("config.toml", &text("config.toml")).config;
    assert!(config.mirror);
    assert_eq!(config.server, http::settings::Server::default());
    assert_eq!(config.admin, http::settings::Admin::default());
    assert_eq!(config.journal, journal::Settings::default());
    assert_eq!(config.dedup, policy::dedup::Settings::default());
    assert_eq!(config.limits, policy::limits::Limits::default());
    assert_eq!(config.canary, policy::canary::Settings::default());
    assert_eq!(config.verify, policy::verification::Settings::default());
    assert_eq!(config.report, telemetry::report::criteria::Settings::default());
    assert_eq!(config.upstreams["sentry"], delivery::settings::Settings::default());
}

#[test]
fn the_commented_example_lacks_no_option() {
    let example: toml::Table = toml::from_str(&with_all_options(&text("config.toml"))).unwrap();
    let written = |section: &str| example[section].as_table().unwrap().clone();
    let upstream = written("upstreams")["sentry"].as_table().unwrap().clone();
    let api = written("upstreams")["glitchtip"]["api"].as_table().unwrap().clone();
    // The table of another upstream shows the `api` section that this one lacks.
    let upstream = upstream.into_iter().chain([("api".to_owned(), api.clone().into())]).collect::<toml::Table>();
    let options = [
        (written("server"), serde_json::to_value(http::settings::Server::default()).unwrap()),
        (written("journal"), serde_json::to_value(journal::Settings::default()).unwrap()),
        (
            written("limits")["storm"].as_table().unwrap().clone(),
            serde_json::to_value(policy::storm::Settings::default()).unwrap(),
        ),
        (written("dedup"), serde_json::to_value(policy::dedup::Settings::default()).unwrap()),
        (
            upstream["shadow"].as_table().unwrap().clone(),
            serde_json::to_value(policy::shadow::Settings::default()).unwrap(),
        ),
        (written("canary"), serde_json::to_value(policy::canary::Settings::default()).unwrap()),
        // These options have no default.
        (api, serde_json::json!({"token": 0, "url": 0, "remembers": 0})),
        (written("verify"), serde_json::to_value(policy::verification::Settings::default()).unwrap()),
        (upstream, serde_json::to_value(delivery::settings::Settings::default()).unwrap()),
        // These settings are not serialisable, because they hold a token.
        (written("admin"), serde_json::json!({"listen": 0, "token": 0})),
    ];
    for (written, all) in options {
        for option in all.as_object().unwrap().keys() {
            assert!(written.contains_key(option), "{option}");
        }
    }
}

#[test]
fn the_commented_example_shows_each_way_to_write_a_limit() {
    let config = load_with_all_options("config.toml").config;
    let shown = |limits| serde_json::to_string(&limits).unwrap();
    let storm = policy::storm::Settings::default();
    assert_eq!(config.limits.all.storm, Some(storm));
    let of_shop = shown(config.limits.of("shop"));
    for limit in ["\"error\":\"100/s\"", "\"attachment\":\"10MiB/s burst 200MiB\"", "\"transaction\":\"50/s\""] {
        assert!(of_shop.contains(limit), "{of_shop}");
    }
}

#[test]
fn the_commented_example_marks_what_needs_a_restart() {
    let text = text("config.toml");
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name;
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ") else { continue };
        let fixed = switchyard::config::diff::FIXED.contains(&&*format!("{section}.{key}"));
        assert_eq!(line.ends_with("(restart)"), fixed, "{line}");
    }
}

#[test]
fn the_minimal_example_is_the_defaults() {
    let minimal = load("minimal.toml", &text("minimal.toml")).config;
    let mut commented = load("config.toml", &text("config.toml")).config;
    // A project's name at a tracker has no default.
    for project in &mut commented.projects {
        Arc::make_mut(project).places.clear();
    }
    assert_eq!(minimal, commented);
}

/// What `check` says of this text, and its exit code.
fn checked(text: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, dsn) = (folder.path().join("config.toml"), folder.path().join("glitchtip_dsn"));
    std::fs::write(&path, text.replace("/run/credentials/glitchtip_dsn", dsn.to_str().expect("UTF-8")))
        .expect("a file");
    std::fs::write(&dsn, "http://key@127.0.0.1:8080/1").expect("a file");
    std::fs::set_permissions(&dsn, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let names = ["SWITCHYARD_KEY", "SENTRY_SAAS_DSN", "SENTRY_API_TOKEN"];
    command.arg("check").arg("--config").arg(&path).envs(names.map(|name| (name, variable(name).expect("a value"))));
    let output = command.output().expect("the binary");
    (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn the_configuration_of_the_contract_passes_a_check_with_its_api_off_and_on() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/config/contract.toml");
    let off = std::fs::read_to_string(path).expect("the sample");
    let (code, said) = checked(&off);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("upstreams.sentry.api.token: is missing: sentry is not asked what it stores"), "{said}");

    let line = "# token = \"${SENTRY_API_TOKEN}\"; url = \"https://sentry.io\"";
    let on = off.replace(line, "token = \"${SENTRY_API_TOKEN}\"\nurl = \"https://sentry.io\"");
    let (code, said) = checked(&on);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("an upstream of kind generic cannot be asked what it stores"), "{said}");

    let of_kind = on.replace("# kind = \"sentry\"", "kind = \"sentry\"");
    let (code, said) = checked(&of_kind);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("project = \"organization/project\" }") && said.contains("not looked up there"), "{said}");

    let named = format!("{of_kind}[projects.api]\nsentry = \"acme/ai-admin\"\n[verify]\nrate = \"1/s\"\ncontent = 9\n");
    let (code, said) = checked(&named);
    assert!(code == Some(0) && !said.contains("warning"), "{said}");
}
