//! The checks of `[journal]`, for a journal in a file and for one in a database that several relays share.
//!
//! Rule: an option without effect is refused, by its name.

use super::report::Report;
use super::shape::File;
use super::tree::Path;

/// The options that only apply to a file on this machine: the journal's file or the spill.
const OF_A_FILE: [&str; 3] = ["sync", "min_free_disk", "spill_path"];
/// The options that only apply to a journal in a database, besides `url`.
const OF_A_DATABASE: [&str; 4] = ["durability", "node", "spill", "spill_path"];

/// Checks the section.
pub(super) fn check(file: &File, report: &mut Report<'_>) {
    let (section, journal) = (Path::default().key("journal"), &file.journal);
    match &journal.url {
        Some(_) => {
            refuse(&["path"], "belongs to a journal in a file: take it out, or take out journal.url", report);
            if !journal.spill {
                let why = "nothing is kept in a file here: take it out, or take out journal.url or journal.spill";
                refuse(&OF_A_FILE, why, report);
            }
        }
        // An invalid `url` was taken out, and is reported already.
        None if report.has(&section.key("url")) => {}
        None => {
            let why = "belongs to a journal that several relays share: take it out, or add journal.url";
            refuse(&OF_A_DATABASE, why, report);
        }
    }
    if let Some(why) = journal.url.as_ref().and_then(|url| url.problem()) {
        let help = "as in \"postgres://relay:${SWITCHYARD_DB_PASSWORD}@db1,db2,db3/switchyard\"";
        report.error(&section.key("url"), why, Some(help.into()));
    }
    for (name, path) in [("path", &journal.path), ("spill_path", &journal.spill_path)] {
        if path.as_os_str().is_empty() {
            report.error(&section.key(name), "is empty", None);
        }
    }
    if journal.node.as_deref().is_some_and(|node| node.trim().is_empty()) {
        let help = "leave it out for the name of the machine";
        report.error(&section.key("node"), "is empty: each relay needs a name of its own", Some(help.into()));
    }
}

/// Reports those of the options that the file has.
fn refuse(names: &[&str], why: &str, report: &mut Report<'_>) {
    for path in names.iter().map(|name| Path::default().key("journal").key(name)) {
        if report.has(&path) {
            report.error_at_key(&path, why, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Loaded;
    use crate::config::diagnostics::Problems;

    fn parse(journal: &str) -> Result<Loaded, Problems> {
        let text = format!(
            "primary = \"a\"\n[journal]\n{journal}\n[upstreams.a]\n[[projects]]\nname = \"shop\"\nid = \"1\"\n\
             public_key = \"abcdef\"\n[projects.upstreams]\na = \"https://key@a/1\"\n"
        );
        let variable = |name: &str| (name == "PASSWORD").then(|| "hunter2".to_owned());
        crate::config::parse("config.toml", &text, &variable)
    }

    #[test]
    fn options_of_a_file_and_of_a_database_exclude_each_other() {
        let url = "url = \"postgres://relay@db/switchyard\"";
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        let problems = refused(&format!("{url}\npath = \"j.db\""));
        assert!(problems.contains("journal.path: belongs to a journal in a file: take it out"), "{problems}");
        for line in ["sync = \"full\"", "min_free_disk = \"1MiB\""] {
            parse(line).unwrap();
            parse(&format!("{url}\n{line}")).unwrap();
            let problems = refused(&format!("{url}\nspill = false\n{line}"));
            let name = line.split(' ').next().unwrap();
            assert!(problems.contains(&format!("journal.{name}: nothing is kept in a file here")), "{problems}");
        }
        for line in ["durability = \"single\"", "node = \"one\"", "spill = false", "spill_path = \"s.db\""] {
            parse(&format!("{url}\n{line}")).unwrap();
            let problems = refused(line);
            assert!(problems.contains("or add journal.url"), "{problems}");
        }
    }

    #[test]
    fn the_password_of_a_database_url_may_be_a_variable_and_is_never_shown() {
        let loaded = parse("url = \"postgres://relay:${PASSWORD}@db/switchyard\"").unwrap();
        let url = loaded.config.journal.url.clone().unwrap();
        assert_eq!(url.expose(), "postgres://relay:hunter2@db/switchyard");
        let other = parse("url = \"postgres://relay:hunter3@db/switchyard\"").unwrap();
        let changes = crate::config::diff::changes(&loaded.config, &other.config);
        assert_eq!(changes, ["journal.url changed"]);
        assert_eq!(crate::config::diff::needs_restart(&loaded.config, &other.config), ["journal.url"]);
        let shown = format!("{:?} {}", loaded.config, serde_json::to_string(&loaded.config.journal).unwrap());
        assert!(!shown.contains("unter2"), "{shown}");
    }

    #[test]
    fn an_invalid_database_url_is_refused_without_showing_its_password() {
        for url in [
            "postgres://relay:hunter2@db",
            "postgres://relay:h@unter2@db/x",
            "hunter2",
            "postgres://db/x?password=hunter2&port=hunter2",
            "postgres:///x?password=hunter2",
        ] {
            let problems = parse(&format!("url = \"{url}\"")).unwrap_err();
            let shown = problems.render(crate::config::diagnostics::Form::Plain);
            assert!(shown.contains("journal.url") && !shown.contains("unter2"), "{shown}");
        }
        let broken = parse("url = \"postgres://db/x?password=hunter2").unwrap_err();
        let shown = broken.render(crate::config::diagnostics::Form::Plain);
        assert!(!shown.contains("unter2"), "{shown}");
    }
}
