//! The checks of `[upstreams.NAME.api]`, and of the names that its tracker has for projects.

use crate::delivery::asking::{authorization, wants_a_name};
use crate::delivery::settings::Kind;

use super::report::Report;
use super::shape::File;
use super::tree::Path;

/// Checks the sections of all upstreams.
pub(super) fn check(file: &File, report: &mut Report<'_>) {
    for (name, settings) in &file.upstreams {
        let Some(api) = &settings.api else { continue };
        let section = Path::default().key("upstreams").key(name).key("api");
        if !report.has(&section.key("token")) {
            let help = "add token = \"${…}\", made in the tracker, or leave the section out";
            report.warning(
                &section.key("token"),
                format!("is missing: {name} is not asked what it stores"),
                Some(help.into()),
            );
            continue;
        }
        check_kind(&section, settings.kind, report);
        if api.token.expose().trim().is_empty() {
            report.error(&section.key("token"), "is empty", None);
        } else if authorization(&api.token).is_none() {
            report.error(&section.key("token"), "has characters that no header may have", None);
        }
    }
}

fn check_kind(section: &Path, kind: Kind, report: &mut Report<'_>) {
    let message = format!("an upstream of kind {} cannot be asked what it stores", kind.name());
    match kind {
        Kind::Relay => {
            report.error_at_key(section, message, Some("a Relay stores nothing; leave the section out".into()));
        }
        Kind::Generic => {
            let help = "write kind = \"glitchtip\", \"sentry\" or \"bugsink\" if it is one, or leave the section out";
            report.warning(section, message, Some(help.into()));
        }
        Kind::Sentry | Kind::Glitchtip | Kind::Bugsink => {}
    }
}

/// Checks the name that an upstream's API has for a project. `place` is the path of the DSN, `at` that of the name.
pub(super) fn check_place(
    (place, at): (&Path, &Path),
    upstream: &str,
    name: Option<&String>,
    file: &File,
    report: &mut Report<'_>,
) {
    let Some(settings) = file.upstreams.get(upstream) else { return };
    let has_token = settings.api.as_ref().is_some_and(|api| authorization(&api.token).is_some());
    let help = format!(
        "write {upstream} = {{ dsn = \"…\", project = \"organization/project\" }}, as in the address of its page"
    );
    match name {
        None if has_token && wants_a_name(settings.kind) => {
            let message =
                "its api section needs to know what the tracker calls this project, which is not looked up there";
            report.warning(place, message, Some(help));
        }
        Some(name) if !is_name(name) => report.error(at, "is not organization/project", Some(help)),
        Some(_) if !wants_a_name(settings.kind) => {
            let message = format!("an upstream of kind {} has no such names", settings.kind.name());
            report.error_at_key(at, message, Some("leave it out".into()));
        }
        _ => {}
    }
}

/// Whether a text is two slugs separated by a slash.
fn is_name(name: &str) -> bool {
    let is_slug = |slug: &str| {
        (1..=100).contains(&slug.len()) && slug.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.split_once('/').is_some_and(|(organization, project)| is_slug(organization) && is_slug(project))
}

#[cfg(test)]
mod tests {
    use crate::config::tests;

    const BEGINNING: &str = r#"
primary = "sentry"
[upstreams.sentry]
[upstreams.glitchtip]
kind = "glitchtip"
[upstreams.bugsink]
kind = "bugsink"
[[projects]]
name = "shop"
id = "1"
public_key = "${KEY}"
[projects.upstreams]
sentry = "http://hunter2@h/9"
"#;

    fn lines(end: &str) -> String {
        tests::lines(&format!("{BEGINNING}{end}"))
    }

    #[test]
    fn api_sections_and_names_are_read_and_tokens_are_not_shown() {
        let end = "glitchtip = { dsn = \"http://hunter2@127.0.0.1:8080/1\", project = \"acme/shop\" }\n\
             bugsink = { dsn = \"http://hunter2@127.0.0.1:8000/1\" }\n\
             [upstreams.glitchtip.api]\ntoken = \"${KEY}\"\nurl = \"http://h/\"\n[upstreams.bugsink.api]\ntoken = \"${KEY}\"\n";
        let loaded = tests::read(&format!("{BEGINNING}{end}")).unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        let api = loaded.config.upstreams["glitchtip"].api.clone().unwrap();
        assert_eq!((api.token.expose(), api.url.unwrap().to_string().as_str()), ("hunter2", "http://h"));
        assert_eq!(&*loaded.config.projects[0].places["glitchtip"], "acme/shop");
        assert!(!format!("{:?}", loaded.config).contains("hunter2"));
    }

    #[test]
    fn problems_of_an_api_section_are_reported_at_their_places() {
        let wrong = "glitchtip = \"http://hunter2@h/3\"\nbugsink = { dsn = \"http://hunter2@h/2\", project = \"a/b\" }\n\
                     [upstreams.glitchtip.api]\ntoken = \"hunter2\\u0007\"\nurl = \"http://hunter2@h/\"\n\
                     [upstreams.bugsink.api]\ntoken = \"\"\n[upstreams.sentry.api]\ntoken = \"hunter2\"\n";
        insta::assert_snapshot!(lines(wrong), @r##"
        config.toml:15:41: projects[0].upstreams.bugsink.project: an upstream of kind bugsink has no such names (leave it out)
        config.toml:17:9: upstreams.glitchtip.api.token: has characters that no header may have
        config.toml:18:7: upstreams.glitchtip.api.url: this is no address of a tracker: write one as in "https://errors.example", without /api/ and without user and query
        config.toml:20:9: upstreams.bugsink.api.token: is empty
        config.toml:21:1: warning: upstreams.sentry.api: an upstream of kind generic cannot be asked what it stores (write kind = "glitchtip", "sentry" or "bugsink" if it is one, or leave the section out)
        4 problems, 1 warning in config.toml
        "##);
        let table = "glitchtip = { dsn = \"http://hunter2@h/1\", project = \"shop\", slug = \"x\" }\nbugsink = { project = \"a/b\" }\n";
        insta::assert_snapshot!(lines(table), @r##"
        config.toml:14:53: projects[0].upstreams.glitchtip.project: is not organization/project (write glitchtip = { dsn = "…", project = "organization/project" }, as in the address of its page)
        config.toml:14:61: projects[0].upstreams.glitchtip.slug: unknown key (known here: dsn, project)
        config.toml:15:11: projects[0].upstreams.bugsink.dsn: is missing
        3 problems in config.toml
        "##);
    }

    #[test]
    fn an_api_section_without_token_or_name_gets_a_warning() {
        let end = "glitchtip = \"http://hunter2@127.0.0.1:8080/1\"\nbugsink = \"http://hunter2@127.0.0.1:8000/1\"\n\
             [upstreams.glitchtip.api]\ntoken = \"${KEY}\"\n[upstreams.bugsink.api]\n[upstreams.sentry.api]\n";
        let loaded = tests::read(&format!("{BEGINNING}{end}")).unwrap();
        insta::assert_snapshot!(loaded.warnings, @r##"
        config.toml:14:13: warning: projects[0].upstreams.glitchtip: its api section needs to know what the tracker calls this project, which is not looked up there (write glitchtip = { dsn = "…", project = "organization/project" }, as in the address of its page)
        config.toml:18:1: warning: upstreams.bugsink.api.token: is missing: bugsink is not asked what it stores (add token = "${…}", made in the tracker, or leave the section out)
        config.toml:19:1: warning: upstreams.sentry.api.token: is missing: sentry is not asked what it stores (add token = "${…}", made in the tracker, or leave the section out)
        3 warnings in config.toml
        "##);
        let named = format!("{BEGINNING}{end}[projects.api]\nglitchtip = \"acme/shop\"\n");
        assert_eq!(&*tests::read(&named).unwrap().config.projects[0].places["glitchtip"], "acme/shop");
        let wrong = "glitchtip = { dsn = \"http://hunter2@h/1\", project = \"a/b\" }\nbugsink = \"http://hunter2@h/2\"\n\
             [projects.api]\nglitchtip = \"a/b\"\nbugsink = \"a/b\"\nsentry = \"a\"\nother = \"a/b\"\n";
        let said = lines(wrong);
        for problem in [
            "api.glitchtip: this name stands beside the DSN, too",
            "api.bugsink: an upstream of kind bugsink has no such names",
            "api.sentry: is not organization/project",
            "api.other: there is no such upstream",
        ] {
            assert!(said.contains(&format!("projects[0].{problem}")), "{said}");
        }
    }

    #[test]
    fn the_error_for_a_former_section_names_its_replacement() {
        let before = "[upstreams.glitchtip.canary]\nread_back = \"http://h/events/\"\ntoken = \"hunter2\"\n";
        assert!(lines(before).contains(
            "config.toml:14:22: upstreams.glitchtip.canary: unknown key (use an `api` section with `token` instead, and the \
             project's name there beside its DSN: { dsn = \"…\", project = \"organization/project\" })"
        ));
    }
}
