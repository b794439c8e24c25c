//! Dead letters: shown, exported, retried, discarded, and kept through restarts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use super::verbs::verb;
use crate::support::envelopes;
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};

/// A relay whose upstream has refused `count` events and then took one; also the ids.
async fn with_refused(count: usize) -> (Relay, Upstream, Vec<String>) {
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("a", upstream.dsn("k3y-0f-a", 1))]).start().await;
    upstream.always(Reply::Status(400, vec![], "no such \u{1b}[2Jfield, k3y-0f-a".to_owned()));
    let mut ids = vec![];
    for number in 1..=count as u64 {
        ids.extend(relay.send_errors(1).await);
        letters(&relay, number).await;
    }
    upstream.always(Reply::Ok);
    relay.send_errors(1).await;
    (relay, upstream, ids)
}

async fn letters(relay: &Relay, count: u64) {
    eventually("the dead letters are counted", SOON, async || {
        match relay.upstream("a").await["dead_letters"].clone() {
            n if n == count => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_shown_readably_and_exported_byte_for_byte() {
    let (mut relay, _upstream, ids) = with_refused(2).await;
    let all = verb(&relay, &["dead-letters", "list", "--json"]).await.json();
    let newest = &all["dead_letters"][0];
    assert_eq!((newest["event_id"].as_str(), newest["upstream"].as_str()), (Some(&*ids[1]), Some("a")), "{all}");
    assert_eq!(
        (&newest["reason"], &newest["status"], &newest["attempts"]),
        (&json!("refused"), &json!(400), &json!(1))
    );
    assert_eq!(newest["quantities"], json!({ "error": 1 }));
    let number = newest["id"].to_string();

    // A restart changes nothing.
    relay.kill();
    let relay = relay.started().await;
    assert_eq!(verb(&relay, &["dead-letters", "list", "--json"]).await.json(), all);
    let table = verb(&relay, &["dead-letters", "list", "--upstream", "a", "--limit", "1"]).await.text();
    assert!(table.contains("error 1") && table.contains("no such  [2Jfield") && table.lines().count() == 2, "{table}");

    let shown = verb(&relay, &["dead-letters", "show", &number]).await.text();
    for word in ["refused at", "400", &ids[1], r#"{"type":"event""#, "item 1", "after 1 request\n"] {
        assert!(shown.contains(word), "{word:?} is not in {shown}");
    }
    assert!(!shown.contains('\u{1b}') && !shown.contains("k3y-0f-a"), "{shown}");

    let exported = verb(&relay, &["dead-letters", "export", &number]).await;
    assert_eq!(exported.out, envelopes::error(&ids[1]).into_bytes());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("letters");
    let to = path.to_str().expect("a path in UTF-8");
    let written = verb(&relay, &["dead-letters", "export", "--all", "--to", to]).await;
    assert_eq!((written.code, std::fs::read_dir(&path).expect("a folder").count()), (0, 2), "{written:?}");

    exported_files_are_private(&relay, &path, &number).await;

    let missing = verb(&relay, &["dead-letters", "show", "999"]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("there is no dead letter 999"), "{missing:?}");
    assert_eq!(verb(&relay, &["dead-letters", "retry"]).await.code, 2);
    assert_eq!(verb(&relay, &["dead-letters", "list", "--upstream", "nobody"]).await.code, 1);
    relay.finish().await;
}

/// Fails unless exported files are private and a link at their place is not followed.
async fn exported_files_are_private(relay: &Relay, folder: &Path, number: &str) {
    let mode = |path: &Path| std::fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o777;
    let (file, to) = (folder.join(format!("{number}.envelope")), folder.to_str().expect("a path in UTF-8"));
    assert_eq!((mode(folder), mode(&file)), (0o700, 0o600));
    let elsewhere = folder.with_file_name("elsewhere");
    std::fs::write(&elsewhere, "mine").expect("a file");
    std::fs::remove_file(&file).expect("what was exported");
    std::os::unix::fs::symlink(&elsewhere, &file).expect("a link");
    let refused = verb(relay, &["dead-letters", "export", number, "--to", to]).await;
    assert!(refused.code == 73 && refused.err.contains("--force"), "{refused:?}");
    assert!(file.is_symlink());
    let replaced = verb(relay, &["dead-letters", "export", number, "--to", to, "--force"]).await;
    assert_eq!(replaced.code, 0, "{replaced:?}");
    assert!(!file.is_symlink() && mode(&file) == 0o600);
    assert_eq!(std::fs::read_to_string(&elsewhere).expect("a file"), "mine");
}

#[tokio::test]
async fn retried_letters_are_delivered_and_discarded_letters_are_gone() {
    let (relay, upstream, ids) = with_refused(4).await;
    let all = verb(&relay, &["dead-letters", "list", "--json"]).await.json();
    let number = |i: usize| all["dead_letters"][i]["id"].to_string();

    let retried = verb(&relay, &["dead-letters", "retry", &number(3), "--json"]).await;
    assert_eq!(retried.json(), json!({ "changed": 1, "left": 0 }));
    eventually("the first is delivered", SOON, async || match upstream.taken_ids().contains(&ids[0]) {
        true => Ok(()),
        false => Err(format!("{:?}", upstream.taken_ids())),
    })
    .await;
    let forgotten = verb(&relay, &["dead-letters", "discard", &number(2)]).await;
    assert_eq!((forgotten.code, forgotten.text().trim()), (0, "1 forgotten"));
    assert_eq!(verb(&relay, &["dead-letters", "discard", &number(2)]).await.code, 1);

    // A letter that is refused again is a dead letter again, and the accounts count both refusals.
    upstream.always(Reply::status(400));
    assert_eq!(verb(&relay, &["dead-letters", "retry", "--upstream", "a", "--reason", "poison"]).await.code, 1);
    assert_eq!(verb(&relay, &["dead-letters", "retry", "--reason", "refused"]).await.text().trim(), "2 retried");
    letters(&relay, 2).await;
    upstream.always(Reply::Ok);
    assert_eq!(verb(&relay, &["dead-letters", "retry", "--all"]).await.code, 0);
    let samples = relay.balanced(SOON).await;
    let sum = |metric: &str| samples.sum(metric, &[("upstream", "a"), ("category", "error")]);
    assert_eq!(sum("switchyard_dropped_items_total"), 6.0, "four, and two of them again");
    assert_eq!(sum("switchyard_returned_items_total"), 5.0);
    assert_eq!(sum("switchyard_delivered_items_total"), 4.0);
    assert_eq!(samples.sum("switchyard_dead_letters", &[("upstream", "a")]), 0.0);
    let status = verb(&relay, &["status"]).await.text();
    assert!(status.contains("dropped as rejected: 6 (it refused them for good)\n"), "{status}");
    let taken = upstream.taken_ids();
    assert_eq!(ids.iter().filter(|id| taken.contains(id)).count(), 3, "all but the forgotten one, once");
    assert_eq!(taken.len(), 4);
    relay.finish().await;
}

#[tokio::test]
async fn a_browser_may_not_change_dead_letters_and_the_page_shows_them() {
    let (relay, _upstream, _) = with_refused(1).await;
    let address = format!("http://{}", relay.admin_address());
    for verb in ["retry", "discard"] {
        let order = relay.client().post(format!("{address}/api/dead-letters/{verb}")).json(&json!({ "all": true }));
        let answer = order.header("origin", "http://evil.example").send().await.expect("an answer");
        assert_eq!(answer.status(), 403);
    }
    let order = relay.client().post(format!("{address}/api/dead-letters/retry")).json(&json!({}));
    assert_eq!(order.send().await.expect("an answer").status(), 400);
    let page = relay.client().get(format!("{address}/")).send().await.expect("an answer").text().await.expect("a page");
    assert!(page.contains("Newest dead letters") && page.contains("no such"), "{page}");
    let status = verb(&relay, &["status"]).await.text();
    assert!(status.contains("switchyard dead-letters list"), "{status}");
    relay.finish().await;
}
