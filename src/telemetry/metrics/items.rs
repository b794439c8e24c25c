//! The metrics of the accounts in Prometheus' text format, made from the accounts at each scrape.
//!
//! Rule: no registry holds them. Nearly all series are theirs, one for each upstream, project, category and reason, and a registry takes
//! a kilobyte for each: half a gigabyte with two hundred projects at ten upstreams.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::policy::outcome::DropReason;
use crate::telemetry::ledger::{Account, AccountKey};

/// An account and its pending items.
#[derive(Clone, Copy, Debug, Default)]
pub struct Items {
    /// The account.
    pub account: Account,
    /// The number of items that wait.
    pub pending: u64,
}

/// Name, type and help.
type Family = (&'static str, &'static str, &'static str);

const ACCEPTED: Family = ("switchyard_accepted_items_total", "counter", "Items accepted: committed to the journal.");
const DROPPED: Family =
    ("switchyard_dropped_items_total", "counter", "Accepted items an upstream will not get, by reason.");
/// A metric and its value.
type Figure = (Family, fn(&Items) -> u64);

/// The metrics of each upstream.
const OF_UPSTREAMS: [Figure; 3] = [
    (("switchyard_delivered_items_total", "counter", "Items an upstream answered with 2xx."), |items| {
        items.account.delivered
    }),
    (("switchyard_pending_items", "gauge", "Accepted items that wait for an upstream."), |items| items.pending),
    (
        (
            "switchyard_returned_items_total",
            "counter",
            "Items that were dropped and wait for the upstream again, as retried dead letters or by a backfill: accepted + returned = \
             delivered + dropped + pending.",
        ),
        |items| items.account.returned,
    ),
];

/// Writes all of these metrics.
pub fn write(all: &BTreeMap<AccountKey, Items>, text: &mut String) {
    let (of_intake, of_upstreams): (Vec<_>, Vec<_>) = all.iter().partition(|(key, _)| key.upstream.is_none());
    begin(text, ACCEPTED);
    of_intake.iter().for_each(|(key, items)| line(text, ACCEPTED, key, None, items.account.accepted));
    for (family, figure) in OF_UPSTREAMS {
        begin(text, family);
        of_upstreams.iter().for_each(|(key, items)| line(text, family, key, None, figure(items)));
    }
    begin(text, DROPPED);
    for (key, items) in of_upstreams {
        DropReason::ALL
            .iter()
            .for_each(|reason| line(text, DROPPED, key, Some(*reason), items.account.dropped(*reason)));
    }
}

fn begin(text: &mut String, (name, kind, help): Family) {
    text.extend(["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"]);
}

fn line(text: &mut String, (name, ..): Family, key: &AccountKey, reason: Option<DropReason>, value: u64) {
    text.extend([name, "{category=\"", key.category.name(), "\",project=\"", &escaped(&key.project)]);
    if let Some(reason) = reason {
        text.extend(["\",reason=\"", reason.name()]);
    }
    if let Some(upstream) = &key.upstream {
        text.extend(["\",upstream=\"", &escaped(upstream)]);
    }
    text.extend(["\"} ", &value.to_string(), "\n"]);
}

/// A label value, escaped for the text format.
fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        return value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n").into();
    }
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::outcome::Outcome;
    use crate::protocol::category::Category;

    #[test]
    fn each_account_is_written_with_its_labels_whatever_its_names() {
        let key = |upstream: Option<&str>| AccountKey {
            upstream: upstream.map(Into::into),
            project: "a \"\\\n".into(),
            category: Category::Error,
        };
        let mut account = Account::default();
        account.post(Outcome::Accepted, 9);
        account.post(Outcome::Delivered, 5);
        account.post(Outcome::Dropped(DropReason::Expired), 2);
        let items = Items { account, pending: 2 };
        let mut text = String::new();
        write(&BTreeMap::from([(key(None), items), (key(Some("b")), items)]), &mut text);
        let told: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0")).collect();
        let expected = [
            r#"switchyard_accepted_items_total{category="error",project="a \"\\\n"} 9"#,
            r#"switchyard_delivered_items_total{category="error",project="a \"\\\n",upstream="b"} 5"#,
            r#"switchyard_pending_items{category="error",project="a \"\\\n",upstream="b"} 2"#,
            r#"switchyard_dropped_items_total{category="error",project="a \"\\\n",reason="expired",upstream="b"} 2"#,
        ];
        assert_eq!(told, expected);
        assert_eq!(text.matches("switchyard_dropped_items_total{").count(), DropReason::ALL.len());
    }
}
