//! The part of the configuration that relays on one database share, and the part that each relay has for itself.
//!
//! Rules: each relay has its own listeners, its own journal section, and its own line that names the primary. Everything else is common. So
//! are `retain` and `max_size` of the journal; a changed `max_size` needs a restart, so a difference is reported and not replaced.
//!
//! The common part is taken as it is written, with no `${…}` followed and no comment kept. It holds a secret only where the file has it in
//! plain text. A difference is named by its keys, never by values.

use std::fmt;

use toml::{Table, Value};

/// The keys that each relay has for itself.
const OWN: [&str; 4] = ["primary", "server", "admin", "journal"];
/// The keys of the journal's section that are common nevertheless.
const OF_THE_JOURNAL: [&str; 2] = ["max_size", "retain"];
/// The maximum number of names in a list of differences.
const MOST: usize = 12;

/// The common part of a configuration as a normalized text: equal settings give equal texts. Its debug form shows nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Common(String);

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common").finish_non_exhaustive()
    }
}

impl From<String> for Common {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Common {
    /// The common part of a file.
    pub fn of(file: &str) -> Self {
        let mut table = read(file);
        let journal = journal_of(&mut table).into_iter().filter(|(key, _)| OF_THE_JOURNAL.contains(&key.as_str()));
        let journal: Table = journal.collect();
        table.retain(|key, _| !OWN.contains(&key));
        if !journal.is_empty() {
            table.insert("journal".to_owned(), Value::Table(journal));
        }
        Self(table.to_string())
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The text of a file with this common part in place of the file's own. The file's `max_size` stays.
    pub fn put_into(&self, file: &str) -> String {
        let (mut table, mut common) = (read(file), read(&self.0));
        let mut journal = journal_of(&mut table);
        journal.remove("retain");
        journal.extend(journal_of(&mut common).remove_entry("retain"));
        table.retain(|key, _| OWN.contains(&key));
        table.insert("journal".to_owned(), Value::Table(journal));
        table.extend(common);
        table.to_string()
    }

    /// The names of tables and keys in which the two differ: the first 12, then how many more there are.
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let mut names = vec![];
        compare("", &by_name(read(&self.0)), &by_name(read(&other.0)), &mut names);
        let more = names.len().saturating_sub(MOST);
        names.truncate(MOST);
        names.extend((more > 0).then(|| format!("{more} more")));
        names
    }
}

/// Parses a text; empty when it is not valid TOML.
fn read(text: &str) -> Table {
    text.parse().unwrap_or_default()
}

/// Removes the journal's section from the table and returns it.
fn journal_of(table: &mut Table) -> Table {
    match table.remove("journal") {
        Some(Value::Table(journal)) => journal,
        _ => Table::new(),
    }
}

/// Returns the table with its projects by name, so that their order does not count.
fn by_name(mut table: Table) -> Table {
    if let Some(Value::Array(projects)) = table.remove("projects") {
        let name = |project: &Value| project.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
        let projects: Table = projects.into_iter().map(|project| (name(&project), project)).collect();
        table.insert("projects".to_owned(), Value::Table(projects));
    }
    table
}

fn compare(path: &str, one: &Table, other: &Table, names: &mut Vec<String>) {
    let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (one.get(key), other.get(key)) {
            (Some(Value::Table(one)), Some(Value::Table(other))) => compare(&path, one, other, names),
            (one, other) if one == other => {}
            _ => names.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
primary = "a" # in front
mirror = false
[server]
listen = ["127.0.0.1:1"]
[admin]
token = "hunter2"
[journal]
url = "postgres://relay:hunter2@db/x"
retain = "3h"
max_size = "1GiB"
# was: "hunter2"
[upstreams.a]
timeout = "5s"
[upstreams.b]
[[projects]]
name = "shop"
id = "1"
public_key = "${KEY}"
upstreams.a = "${DSN}"
"#;

    #[test]
    fn a_common_part_keeps_references_and_no_secrets_of_other_sections() {
        let common = Common::of(FILE);
        assert!(!common.text().contains("unter2") && !common.text().contains("primary"), "{}", common.text());
        assert!(common.text().contains("${DSN}") && common.text().contains("mirror = false"), "{}", common.text());
        assert!(!format!("{common:?}").contains("DSN"));
    }

    #[test]
    fn a_common_part_put_into_a_file_keeps_the_relays_own_part() {
        let other = FILE.replace("false", "true").replace("127.0.0.1:1", "127.0.0.1:2").replace("\"5s\"", "\"9s\"");
        let other = other.replace("3h", "4h").replace("1GiB", "2GiB");
        let put = Common::of(FILE).put_into(&other);
        assert!(put.contains("\"3h\"") && put.contains("\"2GiB\""), "{put}");
        assert!(put.contains("127.0.0.1:2") && put.contains("\"5s\"") && put.contains("mirror = false"), "{put}");
        assert_eq!(Common::of(&put).differing(&Common::of(FILE)), ["journal.max_size"]);
        crate::config::parse("config.toml", &put, &|name| {
            Some(if name == "KEY" { "abcdef" } else { "https://key@a/1" }.to_owned())
        })
        .unwrap();
    }

    #[test]
    fn differences_are_named_and_equal_settings_have_none() {
        let other = FILE.replace("[upstreams.b]", "[upstreams.c]").replace("${DSN}", "https://hunter2@a/1");
        let other = other.replace("\"5s\"", "\"9s\"").replace("mirror = false", "");
        let names = Common::of(FILE).differing(&Common::of(&other));
        assert_eq!(names, ["mirror", "projects.shop.upstreams.a", "upstreams.a.timeout", "upstreams.b", "upstreams.c"]);
        let same = FILE.replace("timeout", "# why\ntimeout  ").replace("upstreams.a = ", "upstreams = { a = ");
        let same = same.replace("\"${DSN}\"", "\"${DSN}\" }").replace("hunter2", "hunter3");
        assert_eq!(Common::of(FILE), Common::of(&same));
        let many: String = (0..20).map(|n| format!("[upstreams.x{n}]\n")).collect();
        assert_eq!(Common::of(FILE).differing(&Common::of(&format!("{FILE}\n{many}"))).last().unwrap(), "8 more");
    }
}
