//! The differences between two configurations, and which of them a running daemon cannot take over.
//!
//! Rule: secrets are compared and never shown; for a changed secret the text says only that it changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::policy::routing::Project;

use super::Config;

/// The fields that are fixed at the daemon's start: listening sockets and routes, the limits that size buffers, and the open journal.
/// Everything else changes live.
pub const FIXED: [&str; 14] = [
    "server.listen",
    "server.tunnel",
    "server.max_body",
    "server.max_inflight_bytes",
    "admin.listen",
    "journal.path",
    "journal.sync",
    "journal.max_size",
    "journal.min_free_disk",
    "journal.url",
    "journal.durability",
    "journal.node",
    "journal.spill",
    "journal.spill_path",
];

/// The fields of [`FIXED`] in which the two differ. If there are any, the new configuration needs a restart.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let (old, new) = (fields(old), fields(new));
    FIXED.into_iter().filter(|field| old.get(*field) != new.get(*field)).collect()
}

/// In words, the projects that would take over the name of another project. Journaled records know their project by name: those of the
/// other project would go to this one's DSNs.
pub fn moved_names(old: &Config, new: &Config) -> Vec<String> {
    let is_known = |name: &str| old.projects.iter().any(|project| *project.name == *name);
    let moved = |project: &Arc<Project>| {
        let same = |other: &&Arc<Project>| (&other.id, &other.public_key) == (&project.id, &project.public_key);
        let (id, name, before) = (&project.id, &project.name, &old.projects.iter().find(same)?.name);
        (before != name && is_known(name)).then(|| {
            format!(
                "project {id}, named {before} so far, would be named {name}, which another project is so far: what waits \
                 for that one would go to the DSNs of project {id}; leave it its name, or give it one that no project has had"
            )
        })
    };
    new.projects.iter().filter_map(moved).collect()
}

/// All differences in words, as in `primary: sentry -> glitchtip`, sorted.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let sections = [("upstreams", upstream_names(old), upstream_names(new)), ("projects", names(old), names(new))];
    let (old, new) = (fields(old), fields(new));
    let mut changes = vec![];
    let mut whole = vec![];
    for (section, before, after) in sections {
        for name in before.iter().filter(|name| !after.contains(name)) {
            changes.push(format!("{section}.{name} removed"));
            whole.push(format!("{section}.{name}."));
        }
        for name in after.iter().filter(|name| !before.contains(name)) {
            changes.push(format!("{section}.{name} added"));
            whole.push(format!("{section}.{name}."));
        }
    }
    let mut all: Vec<_> = old.keys().chain(new.keys()).collect();
    all.sort();
    all.dedup();
    for field in all.into_iter().filter(|field| !whole.iter().any(|name| field.starts_with(name.as_str()))) {
        changes.extend(change(field, old.get(field), new.get(field)));
    }
    changes.sort();
    changes
}

/// A value to compare, and its form to show.
#[derive(PartialEq, Eq)]
struct Field {
    compared: String,
    shown: String,
}

impl Field {
    fn open(text: impl ToString) -> Self {
        let text = text.to_string();
        Self { compared: text.clone(), shown: text }
    }

    fn hidden(compared: &str, shown: String) -> Self {
        Self { compared: compared.to_owned(), shown }
    }
}

fn change(name: &str, old: Option<&Field>, new: Option<&Field>) -> Option<String> {
    match (old, new) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) if old.shown == new.shown => Some(format!("{name} changed")),
        (Some(old), Some(new)) => Some(format!("{name}: {} -> {}", old.shown, new.shown)),
        (Some(_), None) => Some(format!("{name} removed")),
        (None, Some(new)) => Some(format!("{name} added: {}", new.shown)),
        (None, None) => None,
    }
}

fn upstream_names(config: &Config) -> Vec<&str> {
    config.upstreams.keys().map(|name| &**name).collect()
}

fn names(config: &Config) -> Vec<&str> {
    config.projects.iter().map(|project| &*project.name).collect()
}

/// Every field of a configuration by name.
fn fields(config: &Config) -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    fields.insert("primary".into(), Field::open(&config.primary));
    fields.insert("mirror".into(), Field::open(config.mirror));
    fields.insert("admin.listen".into(), Field::open(config.admin.listen));
    fields.insert("admin.open_on_loopback".into(), Field::open(config.admin.open_on_loopback));
    fields.insert("admin.hosts".into(), Field::open(config.admin.hosts.join(" ")));
    if let Some(token) = &config.admin.token {
        fields.insert("admin.token".into(), Field::hidden(token.expose(), token.to_string()));
    }
    section(&mut fields, "server", &config.server);
    if let Some(certificate) = &config.certificate {
        let content = certificate.content().to_string();
        fields.insert("server.certificate".into(), Field::hidden(&content, "***".into()));
    }
    section(&mut fields, "journal", &config.journal);
    if let Some(url) = &config.journal.url {
        fields.insert("journal.url".into(), Field::hidden(url.expose(), url.to_string()));
    }
    section(&mut fields, "dedup", &config.dedup);
    section(&mut fields, "limits", &config.limits.all);
    for (project, own) in &config.limits.own {
        section(&mut fields, &format!("projects.{project}.limits"), own);
    }
    for (project, browsers) in &config.limits.browsers {
        fields.insert(format!("projects.{project}.browsers"), Field::open(browsers));
    }
    section(&mut fields, "report", &config.report);
    section(&mut fields, "canary", &config.canary);
    section(&mut fields, "verify", &config.verify);
    for (n, receiver) in config.notify.iter().enumerate() {
        // Debug forms hide secrets.
        let compared = format!("{} {receiver:?}", receiver.url.expose());
        fields.insert(format!("notify.{}", n + 1), Field::hidden(&compared, receiver.shown()));
    }
    for (name, settings) in &config.upstreams {
        section(&mut fields, &format!("upstreams.{name}"), settings);
        if let Some(content) = settings.credentials.content() {
            let files = Field::hidden(&content.to_string(), "***".into());
            fields.insert(format!("upstreams.{name}.credentials"), files);
        }
        if let Some(shown) = settings.proxy.shown() {
            let proxy = Field::hidden(&settings.proxy.compared(), shown);
            fields.insert(format!("upstreams.{name}.proxy"), proxy);
        }
        for (header, value) in settings.headers.iter() {
            let value = Field::hidden(value.expose(), value.to_string());
            fields.insert(format!("upstreams.{name}.headers.{header}"), value);
        }
        if let Some(api) = &settings.api {
            let token = Field::hidden(api.token.expose(), api.token.to_string());
            fields.insert(format!("upstreams.{name}.api.token"), token);
        }
    }
    for project in &config.projects {
        project_fields(&mut fields, project);
    }
    fields
}

/// Adds the fields of a section without secrets.
fn section(fields: &mut BTreeMap<String, Field>, name: &str, settings: &impl Serialize) {
    // Settings are plain structs: they always have a JSON form.
    let Ok(Value::Object(values)) = serde_json::to_value(settings) else { return };
    for (key, value) in values.into_iter().filter(|(_, value)| !value.is_null()) {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fields.insert(format!("{name}.{key}"), Field::open(shown));
    }
}

fn project_fields(fields: &mut BTreeMap<String, Field>, project: &Project) {
    let mut add = |key: &str, field| {
        fields.insert(format!("projects.{}.{key}", project.name), field);
    };
    add("id", Field::open(&project.id));
    add("public_key", Field::hidden(project.public_key.expose(), "***".into()));
    if let Some(primary) = &project.primary {
        add("primary", Field::open(primary));
    }
    if let Some(mirror) = project.mirror {
        add("mirror", Field::open(mirror));
    }
    for (upstream, dsn) in &project.dsns {
        add(&format!("upstreams.{upstream}"), Field::hidden(&dsn.reveal(), dsn.to_string()));
    }
    for (upstream, name) in &project.places {
        add(&format!("upstreams.{upstream}.project"), Field::open(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
primary = "sentry"
[admin]
token = "hunter2"
[upstreams.sentry]
[upstreams.old]
[[projects]]
name = "shop"
id = "1"
public_key = "abcdef"
[projects.upstreams]
sentry = "https://hunter2@a/1"
old = "https://hunter2@b/1"
"#;

    const AFTER: &str = r#"
primary = "glitchtip"
[server]
listen = ["127.0.0.1:9000"]
trusted_proxies = ["127.0.0.1"]
[limits]
error = { rate = "100/s", burst = 500 }
storm = { limit = 100 }
[journal]
sync = "normal"
retain = "3h"
[admin]
token = "hunter3"
[canary]
interval = "5m"
[upstreams.sentry]
timeout = "5s"
headers = { X-Gate = "hunter3" }
proxy = "http://hunter3:hunter3@p:3128"
kind = "bugsink"
api = { url = "http://a/", token = "hunter3" }
[upstreams.glitchtip]
[[projects]]
name = "shop"
id = "1"
public_key = "fedcba"
mirror = false
limits.session = "5/s"
[projects.upstreams]
sentry = "https://hunter3@a/1"
glitchtip = "https://hunter3@c/1"
"#;

    fn config(text: &str) -> Config {
        super::super::parse("config.toml", text, &|_| None).unwrap().config
    }

    #[test]
    fn changes_are_listed_without_secrets() {
        insta::assert_snapshot!(changes(&config(BEFORE), &config(AFTER)).join("\n"), @r##"
        admin.token changed
        canary.interval added: 5m
        journal.retain: 24h -> 3h
        journal.sync: full -> normal
        limits.error added: 100/s burst 500
        limits.storm added: {"limit":100,"window":"1m"}
        primary: sentry -> glitchtip
        projects.shop.limits.session added: 5/s
        projects.shop.mirror added: false
        projects.shop.public_key changed
        projects.shop.upstreams.glitchtip added: https://***@c/1
        projects.shop.upstreams.old removed
        projects.shop.upstreams.sentry changed
        server.listen: ["127.0.0.1:8484","[::1]:8484"] -> ["127.0.0.1:9000"]
        server.trusted_proxies: [] -> ["127.0.0.1"]
        upstreams.glitchtip added
        upstreams.old removed
        upstreams.sentry.api added: {"remembers":null,"url":"http://a"}
        upstreams.sentry.api.token added: ***
        upstreams.sentry.headers.X-Gate added: ***
        upstreams.sentry.kind: generic -> bugsink
        upstreams.sentry.proxy added: http://***@p:3128
        upstreams.sentry.timeout: 30s -> 5s
        "##);
    }

    #[test]
    fn a_project_may_not_take_over_the_name_of_another() {
        let blog = "[[projects]]\nname = \"blog\"\nid = \"2\"\npublic_key = \"b10c\"\n[projects.upstreams]\nsentry = \"https://k@a/2\"\n";
        let both = format!("{BEFORE}{blog}");
        let moved = |text: &str| moved_names(&config(&both), &config(text));
        let named = |text: &str, from: &str, to: &str| text.replace(&format!("\"{from}\""), &format!("\"{to}\""));
        assert_eq!(moved(&named(&named(&both, "shop", "old"), "blog", "shop")).len(), 1);
        assert_eq!(moved(&named(&named(&named(&both, "shop", "x"), "blog", "shop"), "x", "blog")).len(), 2);
        for fine in [named(&both, "shop", "shop2"), named(&both, "abcdef", "fedcba"), BEFORE.to_owned(), both.clone()] {
            assert_eq!(moved(&fine), Vec::<String>::new());
        }
    }

    #[test]
    fn every_fixed_field_exists_and_needs_a_restart() {
        assert_eq!(needs_restart(&config(BEFORE), &config(AFTER)), ["server.listen", "journal.sync"]);
        let all = "[server]\ntunnel = \"/tunnel\"\n[journal]\nurl = \"postgres://db/x\"\nnode = \"one\"\n[admin]";
        let all = BEFORE.replace("[admin]", all);
        assert!(FIXED.iter().all(|field| fields(&config(&all)).contains_key(*field)));
    }

    #[test]
    fn equal_configurations_have_no_changes() {
        assert_eq!(changes(&config(AFTER), &config(AFTER)), Vec::<String>::new());
    }
}
