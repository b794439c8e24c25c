//! Crash reports and files that are sent apart from their events: the answers, and the envelope that both upstreams get.

use std::io::{Read as _, Write as _};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::envelopes::{self, KEY, envelope, new_id};
use crate::support::memory::Memory;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Answer, Wire, chunked, exchange, head, post};
use crate::{front_of, keyed};

const ID: &str = "9ec79c33-ec99-42ab-8353-589fcb2e04dc";

/// A relay with two upstreams.
async fn pair() -> (Relay, [Upstream; 2]) {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    let dsns = [("first", upstreams[0].dsn("cafe", 7)), ("second", upstreams[1].dsn("beef", 8))];
    (Plan::new(&dsns).start().await, upstreams)
}

fn minidump(size: usize) -> Vec<u8> {
    [&b"MDMP\x93\xa7\r\n"[..], &(0..size).map(|i| (i * 7 + i / 251) as u8).collect::<Vec<_>>()].concat()
}

/// A form with these parts, each a name, a file name and contents.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    form_with("frontier", parts)
}

/// A form with this boundary.
fn form_with(boundary: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = vec![];
    for (name, file, contents) in parts {
        let file = file
            .map(|file| format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream"))
            .unwrap_or_default();
        body.extend_from_slice(
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(contents);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=frontier");

async fn send(relay: &Relay, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    exchange(&relay.address(), &post(path, headers, body)).await
}

/// An item of an envelope: its header without the length, and its payload.
type Item = (Value, Vec<u8>);

/// The items of an envelope; each must have a length.
fn items(mut rest: &[u8]) -> Vec<Item> {
    let mut items = vec![];
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').expect("an item's header");
        let mut header: Value = serde_json::from_slice(&rest[..end]).expect("JSON");
        let length = header.as_object_mut().expect("an object").remove("length").expect("a length");
        let length = usize::try_from(length.as_u64().expect("a number")).expect("a length");
        items.push((header, rest[end + 1..end + 1 + length].to_vec()));
        assert_eq!(rest[end + 1 + length], b'\n');
        rest = &rest[end + 2 + length..];
    }
    items
}

/// The header and the items that arrived under this id; both upstreams must have the same.
async fn arrived(relay: &Relay, upstreams: &[Upstream; 2], id: &str) -> (Value, Vec<Item>) {
    relay.balanced(SOON).await;
    let [first, second] = [0, 1].map(|at| {
        let seen: Vec<_> = upstreams[at].taken().into_iter().filter(|seen| seen.event_id() == id).collect();
        assert_eq!(seen.len(), 1, "{id}");
        assert_eq!(seen[0].path, ["/api/7/envelope/", "/api/8/envelope/"][at]);
        (seen[0].header(), items(seen[0].items()))
    });
    assert!(first == second);
    first
}

/// The event id in a text answer, without hyphens.
fn id_in(answer: &Answer) -> String {
    let text = String::from_utf8(answer.body.clone()).expect("text");
    assert_eq!((answer.status, text.len(), text.matches('-').count()), (200, 36, 4), "{answer:?}");
    text.replace('-', "")
}

fn attachment(kind: &str, content_type: &str, file: &str) -> Value {
    json!({ "type": "attachment", "attachment_type": kind, "content_type": content_type, "filename": file })
}

#[tokio::test]
async fn a_minidump_in_a_form_becomes_an_envelope_under_the_answered_id() {
    let (relay, upstreams) = pair().await;
    let event = format!("{{\"event_id\":\"{ID}\",\"release\":\"shop@1\"}}");
    // A small dump stays in memory, a large one goes through a file.
    for (size, fields, id) in [
        (100, vec![("sentry", event.as_str()), ("ptype", "browser")], Some(ID)),
        (
            3 << 20,
            vec![("sentry[event_id]", "00000000000000000000000000000abc")],
            Some("00000000-0000-0000-0000-000000000abc"),
        ),
        (
            100,
            vec![("sentry__2", "\"00000000000000000000000000000def\"}"), ("sentry__1", "{\"event_id\":")],
            Some("00000000000000000000000000000def"),
        ),
        (2 << 20, vec![], None),
    ] {
        let dump = minidump(size);
        let mut parts: Vec<(&str, Option<&str>, &[u8])> =
            vec![("upload_file_minidump", Some("a \"b\".dmp"), &dump), ("log", Some("log.txt"), b"a\nb\n")];
        parts[0].1 = Some("crash.dmp");
        // The fields with the id come last, as curl and Crashpad may send them.
        parts.extend(fields.iter().map(|(name, value)| (*name, None, value.as_bytes())));
        let request = chunked(&keyed("/api/1/minidump/"), &[FORM], &form(&parts), 60_000);
        let answer = exchange(&relay.address(), &request).await;
        let answered = id_in(&answer);
        if let Some(id) = id {
            assert_eq!(answered, id.replace('-', ""));
        }
        let (header, items) = arrived(&relay, &upstreams, &answered).await;
        assert_eq!(header, json!({ "event_id": answered }));
        assert_eq!(items[0].0, attachment("event.minidump", "application/x-dmp", "crash.dmp"));
        assert!(items[0].1 == dump, "{size}");
        assert_eq!(
            items[1],
            (attachment("event.attachment", "application/octet-stream", "log.txt"), b"a\nb\n".to_vec())
        );
        let data: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .flat_map(|text| [&u32::try_from(text.len()).expect("short").to_le_bytes()[..], text.as_bytes()].concat())
            .collect();
        assert_eq!(items.len(), if fields.is_empty() { 2 } else { 3 });
        if let Some((header, payload)) = items.get(2) {
            assert_eq!(header, &json!({ "type": "form_data", "content_type": "text/plain" }));
            assert_eq!(payload, &data);
        }
    }
    relay.finish().await;
}

#[tokio::test]
async fn curl_uploads_a_minidump_as_crashpad_does() {
    let (relay, upstreams) = pair().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (dump, event) = (minidump(1_500_000), [b"\x81\xa8event_id\xd9\x24", ID.as_bytes()].concat());
    for (name, contents) in [("crash.dmp", &dump), ("__sentry-event", &event)] {
        std::fs::write(folder.path().join(name), contents).expect("a file");
    }
    let url = format!("http://{}/api/1/minidump/?sentry_key={KEY}", relay.address());
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "--fail-with-body",
        "-F",
        "upload_file_minidump=@crash.dmp",
        "-F",
        "__sentry-event=@__sentry-event",
    ]);
    let output = curl.args(["-F", "prod=Shop", &url]).current_dir(folder.path()).output();
    let output =
        tokio::task::spawn_blocking(move || output).await.expect("a thread").expect("curl, which .ci/run installs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), ID, "sentry-native's own id");
    let (_, items) = arrived(&relay, &upstreams, &ID.replace('-', "")).await;
    assert!(items[0].1 == dump);
    assert_eq!(items[1], (attachment("event.payload", "application/octet-stream", "__sentry-event"), event));
    relay.finish().await;
}

#[tokio::test]
async fn a_bare_minidump_is_taken_and_unpacked_from_every_compression() {
    let (relay, upstreams) = pair().await;
    let dump = minidump(1_200_000);
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&dump).expect("memory");
    let (mut xz, mut bzip2) = (vec![], vec![]);
    liblzma::bufread::XzEncoder::new(&dump[..], 1).read_to_end(&mut xz).expect("memory");
    bzip2::bufread::BzEncoder::new(&dump[..], bzip2::Compression::fast()).read_to_end(&mut bzip2).expect("memory");
    let zstd = zstd::encode_all(&dump[..], 1).expect("memory");
    for (ending, packed) in
        [("", dump.clone()), (".gz", gzip.finish().expect("memory")), (".xz", xz), (".bz2", bzip2), (".zst", zstd)]
    {
        let raw = [("content-type", "application/x-dmp")];
        let id = id_in(&send(&relay, &keyed("/api/1/minidump"), &raw, &packed).await);
        let (_, items) = arrived(&relay, &upstreams, &id).await;
        assert_eq!((items.len(), &items[0].0), (1, &attachment("event.minidump", "application/x-dmp", "Minidump")));
        assert!(items[0].1 == dump, "{ending}");
        let name = format!("a.dmp{ending}");
        let in_form = form(&[("upload_file_minidump", Some(&name), &packed)]);
        let id = id_in(&send(&relay, &keyed("/api/1/minidump"), &[FORM], &in_form).await);
        let (_, items) = arrived(&relay, &upstreams, &id).await;
        assert_eq!(items[0].0["filename"], "a.dmp");
        assert!(items[0].1 == dump, "{ending}");
    }
    relay.finish().await;
}

#[tokio::test]
async fn a_minidump_in_a_nested_form_is_found() {
    let (relay, upstreams) = pair().await;
    let beside = vec![b'x'; 2 << 20];
    let packed = zstd::encode_all(&minidump(1000)[..], 1).expect("memory");
    // As old versions of Electron's SDK for Linux send a dump: packed or not, in memory or through a file.
    for (sent, dump) in
        [(minidump(100), minidump(100)), (minidump(1_500_000), minidump(1_500_000)), (packed, minidump(1000))]
    {
        let inner = form_with(
            "----electron",
            &[
                ("prod", None, b"Electron"),
                ("other", Some("o.bin"), &beside),
                ("upload_file_minidump", Some("inner.dmp"), &sent),
                ("more", Some("m.bin"), &beside),
            ],
        );
        let id = new_id();
        let body = form(&[
            ("upload_file_minidump", Some("crash.dmp"), &inner),
            ("sentry[event_id]", None, id.as_bytes()),
            ("log", Some("log.txt"), b"log"),
        ]);
        let request = chunked(&keyed("/api/1/minidump/"), &[FORM], &body, 50_000);
        assert_eq!(id_in(&exchange(&relay.address(), &request).await), id);
        let (_, items) = arrived(&relay, &upstreams, &id).await;
        assert_eq!(items[0].0, attachment("event.minidump", "application/x-dmp", "crash.dmp"));
        assert!(items[0].1 == dump, "{} bytes of {}", items[0].1.len(), dump.len());
        assert_eq!((&items[1].0["filename"], items.len()), (&json!("log.txt"), 3));
    }
    relay.finish().await;
}

#[tokio::test]
async fn crash_reports_over_the_limit_of_errors_are_dropped_silently() {
    let (relay, upstream) = front_of(|plan| plan.more("[limits]\nerror = { rate = \"1/h\", burst = 4 }")).await;
    let dump = minidump(1000);
    let raw = [("content-type", "application/x-dmp")];
    let in_form = form(&[
        ("upload_file_minidump", Some("a.dmp"), &dump),
        ("__sentry-event", Some("e"), b"\x80"),
        ("a", None, b"b"),
    ]);
    let apple = |id: &str| {
        let header = "{\"type\":\"attachment\",\"attachment_type\":\"event.applecrashreport\",\"length\":2}";
        format!("{{\"event_id\":\"{id}\"}}\n{header}\nxx\n")
    };
    // Each report is one error, whatever it consists of, and so is an event with a minidump.
    let mut ids = vec![id_in(&send(&relay, &keyed("/api/1/minidump"), &raw, &dump).await)];
    ids.push(id_in(&send(&relay, &keyed("/api/1/minidump"), &[FORM], &in_form).await));
    ids.push(id_in(&send(&relay, &format!("/api/1/unreal/{KEY}/"), &[], &dump).await));
    let id = new_id();
    let item = "{\"type\":\"attachment\",\"attachment_type\":\"event.minidump\",\"length\":4}\nMDMP\n";
    assert_eq!(relay.send(envelopes::error(&id) + item).await.status(), 200);
    ids.push(id);
    // The fifth is over the limit. An uploader would send it again after a 429, so it gets a 200.
    id_in(&send(&relay, &keyed("/api/1/minidump"), &[FORM], &in_form).await);
    id_in(&send(&relay, &format!("/api/1/unreal/{KEY}/"), &[], &dump).await);
    let answer = relay.send(apple(&new_id())).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers()["x-sentry-rate-limits"].to_str().expect("text").contains(":error:"), "{answer:?}");
    // Other attachments are no errors.
    let file = form(&[("a", Some("a.txt"), b"A")]);
    assert_eq!(send(&relay, &keyed(&format!("/api/1/events/{ID}/attachments/")), &[FORM], &file).await.status, 201);
    assert_eq!(relay.send(envelope(&new_id(), "attachment", "x")).await.status(), 200);
    let samples = relay.balanced(SOON).await;
    for (name, category, items) in [
        ("accepted", "error", 4.0),
        ("accepted", "attachment_item", 6.0),
        ("refused", "error", 3.0),
        ("refused", "attachment_item", 3.0),
    ] {
        let found = samples.sum(&format!("switchyard_{name}_items_total"), &[("category", category)]);
        assert_eq!(found, items, "{name} {category}");
    }
    let taken = upstream.taken_ids();
    assert_eq!((taken.len(), &taken[..4]), (6, &ids[..]));
    relay.finish().await;
}

#[tokio::test]
async fn a_broken_crash_report_is_refused_with_a_reason() {
    let (relay, upstreams) = pair().await;
    let dump = minidump(10);
    let bomb = zstd::encode_all(&[&dump[..], &vec![0; 201 << 20]].concat()[..], 1).expect("memory");
    let endless = [&form(&[("a", None, b"b")])[..8], &vec![b'x'; 3 << 20]].concat();
    let long = vec![b'x'; (1 << 20) + 1];
    // Nested forms: one without a minidump, one without an end.
    let without = form_with("within", &[("other", Some("a"), &dump)]);
    let cut = [&form_with("within", &[("upload_file_minidump", Some("a"), &dump)])[..100], b"x"].concat();
    for (path, headers, body, status, words) in [
        ("minidump", vec![], b"nonsense".to_vec(), 400, "MDMP"),
        ("minidump", vec![], vec![], 400, "MDMP"),
        ("minidump", vec![], b"\x1f\x8bnonsense".to_vec(), 400, "cannot be unpacked"),
        ("minidump", vec![], bomb, 413, "limit"),
        ("minidump", vec![FORM], b"nonsense".to_vec(), 400, "multipart"),
        ("minidump", vec![FORM], form(&[("upload_file_minidump", Some("a"), b"text")]), 400, "MDMP"),
        ("minidump", vec![FORM], form(&[("upload_file_minidump", Some("a"), b"--\r\n")]), 400, "MDMP"),
        ("minidump", vec![FORM], form(&[("upload_file_minidump", Some("a"), &without)]), 400, "MDMP"),
        ("minidump", vec![FORM], form(&[("upload_file_minidump", Some("a"), &cut)]), 400, "multipart"),
        ("minidump", vec![FORM], form(&[("other", Some("a"), &dump), ("b", None, b"c")]), 400, "upload_file_minidump"),
        (
            "minidump",
            vec![FORM],
            form(&[("upload_file_minidump", Some("a"), &dump), ("b", None, &long)]),
            413,
            "form's data",
        ),
        ("minidump", vec![FORM], endless, 400, "headers"),
        ("unreal/KEY", vec![], vec![], 400, "empty"),
        ("events/not-an-id/attachments", vec![FORM], form(&[("a", Some("a"), b"a")]), 400, "event id"),
        (&format!("events/{ID}/attachments"), vec![FORM], form(&[("a", None, b"a")]), 400, "empty"),
        (&format!("events/{ID}/attachments"), vec![], b"a".to_vec(), 400, "multipart"),
    ] {
        let path = format!("/api/1/{path}/");
        let path = if path.contains("KEY") { path.replace("KEY", KEY) } else { keyed(&path) };
        let answer = send(&relay, &path, &headers, &body).await;
        assert_eq!(answer.status, status, "{path} {words} {answer:?}");
        assert!(answer.detail().contains(words), "{words}: {answer:?}");
    }
    for (path, status) in [
        ("/api/1/minidump/".to_owned(), 401),
        ("/api/1/minidump/?sentry_key=unknown".to_owned(), 403),
        ("/api/1/unreal/unknown/".to_owned(), 403),
        (format!("/api/1/unreal/{KEY}/?sentry_key={KEY}"), 401),
    ] {
        assert_eq!(send(&relay, &path, &[], &dump).await.status, status, "{path}");
    }
    relay.balanced(SOON).await;
    assert!(upstreams.iter().all(|upstream| upstream.seen().is_empty()));
    relay.finish().await;
}

#[tokio::test]
async fn an_unreal_crash_becomes_an_envelope_as_relay_makes_it() {
    let (relay, upstreams) = pair().await;
    let crash = [&b"CR1\xff\n"[..], &minidump(1_100_000)].concat();
    for path in
        [format!("/api/1/unreal/{KEY}/?AppID=CrashReporter&UserID=me%7C%7Cmachine"), format!("/api/1/unreal/{KEY}")]
    {
        let id = id_in(&send(&relay, &path, &[("content-type", "application/octet-stream")], &crash).await);
        let (header, items) = arrived(&relay, &upstreams, &id).await;
        match path.contains("UserID") {
            true => assert_eq!(header, json!({ "event_id": id, "unreal_user_header": "me||machine" })),
            false => assert_eq!(header, json!({ "event_id": id })),
        }
        assert_eq!(items[0].0, json!({ "type": "unreal_report", "content_type": "application/octet-stream" }));
        assert!(items.len() == 1 && items[0].1 == crash);
    }
    relay.finish().await;
}

#[tokio::test]
async fn attachments_by_url_go_to_the_event_of_the_path() {
    let (relay, upstreams) = pair().await;
    let large = minidump(2 << 20);
    let body = form(&[("a", Some("a.txt"), b"A"), ("note", None, b"n"), ("b", Some("b.bin"), &large)]);
    let answer = send(&relay, &keyed(&format!("/api/1/events/{ID}/attachments/")), &[FORM], &body).await;
    assert_eq!((answer.status, answer.body.len()), (201, 0), "{answer:?}");
    let (_, items) = arrived(&relay, &upstreams, &ID.replace('-', "")).await;
    let kind = |file| attachment("event.attachment", "application/octet-stream", file);
    assert_eq!(items[0], (kind("a.txt"), b"A".to_vec()));
    assert!(items[1].0 == kind("b.bin") && items[1].1 == large);
    assert_eq!(items[2].0["type"], "form_data");
    let samples = relay.balanced(SOON).await;
    assert_eq!(samples.sum("switchyard_accepted_items_total", &[("category", "attachment_item")]), 2.0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_upload_of_70_mib_arrives_and_costs_no_memory() {
    let (relay, upstreams) = pair().await;
    let gzip = |text: &[u8], level| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], level);
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    };
    // Incompressible data is large before and after decoding; zeros are small on the way in.
    let (dump, zeros) = (minidump(1 << 20).repeat(70), [&b"MDMP"[..], &vec![0; 70 << 20]].concat());
    let id = new_id();
    let in_form =
        form(&[("upload_file_minidump", Some("crash.dmp"), &dump), ("sentry[event_id]", None, id.as_bytes())]);
    let (large, small) = (flate2::Compression::none(), flate2::Compression::fast());
    let raw = ("content-type", "application/x-dmp");
    let (keyed, unreal) = (keyed("/api/1/minidump/"), format!("/api/1/unreal/{KEY}/"));
    let memory = Memory::of(relay.pid());
    let before = memory.resident();
    for (path, kind, body, contents) in [
        // As Crashpad sends a dump.
        (&keyed, FORM, gzip(&in_form, large), &dump),
        (&keyed, raw, gzip(&dump, large), &dump),
        (&keyed, raw, gzip(&zeros, small), &zeros),
        (&unreal, raw, gzip(&zeros, small), &zeros),
    ] {
        let answer = send(&relay, path, &[kind, ("content-encoding", "gzip")], &body).await;
        let answered = id_in(&answer);
        assert!(kind == raw || answered == id, "{answered}");
        let (_, items) = arrived(&relay, &upstreams, &answered).await;
        assert!(items[0].1 == *contents, "{} bytes of {}", items[0].1.len(), contents.len());
    }
    let grown = memory.peak() - before;
    eprintln!("encoded crash uploads of 70 MiB: {grown} KiB more than {before} KiB at the most");
    assert!(grown < 32 * 1024, "{grown} KiB");
    // An encoded upload has the same size limit, both encoded and decoded.
    let bomb = gzip(&vec![0; 201 << 20], small);
    let answer = send(&relay, &keyed, &[raw, ("content-encoding", "gzip")], &bomb).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.detail(), "the decoded body has more than 209715200 bytes, the limit of max_body");
    relay.finish().await;
}

#[tokio::test]
async fn a_form_of_more_files_than_an_envelope_may_have_is_refused_before_the_rest_of_it_comes() {
    let (relay, _upstream) = front_of(|plan| plan).await;
    let path = keyed(&format!("/api/1/events/{ID}/attachments/"));
    let files = |count: usize| form(&vec![("a", Some("a"), &b""[..]); count]);
    assert_eq!(send(&relay, &path, &[FORM], &files(30)).await.status, 201);
    let mut wire = Wire::connect(&relay.address()).await;
    wire.send(&head("POST", &path, &[FORM, ("content-length", "3000000")])).await;
    let whole = files(32);
    wire.send(&whole[..whole.len() - "--frontier--\r\n".len()]).await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.detail(), "one attachment item too many: 30 in one envelope is the limit");
    relay.finish().await;
}
