//! Clients that hang up at once: the relay takes every complete request and counts every truncated one.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::tls::Files;
use crate::support::envelopes::{self, KEY, envelope, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::{Reply, Upstream};
use crate::support::wire::{Wire, chunked, head, post};
use crate::{front, keyed, refused};

const CLIENTS: usize = 200;

/// The way in which a client ends its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    HalfClose,
    Close,
    Reset,
}

const ENDS: [End; 3] = [End::HalfClose, End::Close, End::Reset];

/// Sends `bytes` and ends the connection at once. The returned value keeps a half-closed connection open.
async fn send_and_hang_up(address: &str, bytes: &[u8], end: End) -> Option<Wire> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("bytes are taken");
    match end {
        End::HalfClose => {
            stream.shutdown().await.expect("a half-close");
            return Some(Wire::of(stream));
        }
        End::Close => drop(stream),
        End::Reset => {
            all_arrived(&stream).await;
            stream.set_zero_linger().expect("an option of the socket");
        }
    }
    None
}

/// Waits until the other side's kernel has all bytes: a reset discards bytes that were not sent yet.
async fn all_arrived(stream: &TcpStream) {
    let port = format!(":{:04X}", stream.local_addr().expect("an address").port());
    eventually("everything sent has arrived", SOON, async || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of connections");
        let ours = table.lines().map(str::split_whitespace).find_map(|mut fields| {
            let is_ours = fields.nth(1).is_some_and(|local| local.ends_with(&port));
            is_ours.then(|| fields.nth(2).unwrap_or_default().to_owned())
        });
        let waiting = ours.unwrap_or_default();
        if waiting.starts_with("00000000:") { Ok(()) } else { Err(waiting) }
    })
    .await;
}

async fn two_upstreams(shape: impl FnOnce(Plan) -> Plan) -> (Relay, [Upstream; 2]) {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    let plan = Plan::new(&[("first", upstreams[0].dsn("cafe", 7)), ("second", upstreams[1].dsn("beef", 8))]);
    (shape(plan).start().await, upstreams)
}

/// Waits until both upstreams have these events.
async fn both_have(upstreams: &[Upstream; 2], ids: &BTreeSet<String>) {
    for upstream in upstreams {
        eventually("every event has arrived", SOON, async || {
            let envelopes = upstream.taken().into_iter().filter(|seen| seen.path.ends_with("/envelope/"));
            let taken: BTreeSet<String> = envelopes.map(|seen| seen.event_id()).collect();
            let missing = ids.difference(&taken).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are missing", ids.len())) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_request_arrives_whatever_becomes_of_its_connection() {
    let (relay, upstreams) = two_upstreams(|plan| plan).await;
    let path = keyed("/api/1/envelope/");
    for end in ENDS {
        let ids: BTreeSet<String> = (0..CLIENTS).map(|_| new_id()).collect();
        let sendings = ids.iter().enumerate().map(async |(turn, id)| {
            let body = envelopes::error(id);
            let request = match turn % 2 {
                0 => post(&path, &[], body.as_bytes()),
                _ => chunked(&path, &[], body.as_bytes(), 100),
            };
            if let Some(mut wire) = send_and_hang_up(&relay.address(), &request, end).await {
                assert_eq!(wire.answer().await.json()["id"], **id, "who has half-closed still gets the answer");
                wire.ends().await;
            }
        });
        futures_util::future::join_all(sendings).await;
        both_have(&upstreams, &ids).await;
        eprintln!("{end:?}: {CLIENTS} of {CLIENTS} arrived at both upstreams");
    }
    relay.balanced(SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_request_of_any_size_encoding_or_kind_arrives() {
    let (relay, upstreams) = two_upstreams(|plan| plan).await;
    let packed =
        |id: &str| zstd::encode_all(envelope(id, "event", &"{}".repeat(90_000)).as_bytes(), 1).expect("packed");
    for end in ENDS {
        let before = upstreams[0].taken_count();
        let (large, encoded) = (new_id(), new_id());
        let path = keyed("/api/1/envelope/");
        let attachment = envelope(&large, "attachment", &"x".repeat(3 << 20));
        let report = r#"{"csp-report":{"document-uri":"https://shop.example/"}}"#;
        for request in [
            post(&path, &[], attachment.as_bytes()),
            post(&path, &[("content-encoding", "zstd")], &packed(&encoded)),
            post(&keyed("/api/1/csp-report/"), &[("content-type", "application/csp-report")], report.as_bytes()),
            post(&keyed("/api/1/store/"), &[("content-type", "application/json")], br#"{"message":"stored"}"#),
            head("GET", &keyed("/api/1/cron/nightly/").replace('?', "?status=ok&"), &[]),
            post(&keyed("/api/1/brand-new/thing/"), &[], b"passed on"),
        ] {
            let ended = send_and_hang_up(&relay.address(), &request, end).await;
            if let Some(mut wire) = ended {
                let answer = wire.answer().await;
                assert!(answer.status < 300, "{answer:?}");
            }
        }
        both_have(&upstreams, &[large, encoded].into()).await;
        eventually("each of them has arrived", SOON, async || {
            let taken = upstreams[0].taken_count() - before;
            if taken == 6 { Ok(()) } else { Err(format!("{end:?}: {taken}")) }
        })
        .await;
    }
    relay.balanced(SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_request_over_tls_arrives() {
    let files = Files::new();
    let (relay, upstreams) = two_upstreams(|plan| plan.server(&files.options())).await;
    let tls = files.connector();
    for end in ENDS {
        let ids: BTreeSet<String> = (0..CLIENTS / 4).map(|_| new_id()).collect();
        let sendings = ids.iter().map(async |id| {
            let stream = TcpStream::connect(relay.address()).await.expect("a connection");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = tls.connect(name, stream).await.expect("a handshake");
            let request = post(&keyed("/api/1/envelope/"), &[], envelopes::error(id).as_bytes());
            stream.write_all(&request).await.expect("bytes are taken");
            stream.flush().await.expect("bytes are taken");
            match end {
                End::HalfClose => stream.shutdown().await.expect("a half-close"),
                End::Close => {}
                End::Reset => {
                    all_arrived(stream.get_ref().0).await;
                    stream.get_ref().0.set_zero_linger().expect("an option of the socket");
                }
            }
        });
        futures_util::future::join_all(sendings).await;
        both_have(&upstreams, &ids).await;
    }
    relay.balanced(SOON).await;
    relay.finish().await;
}

/// An HTTP/2 frame by hand: no library sends a request and its reset together.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A complete request on `stream`, and its reset.
fn request_and_reset(stream: u32, body: &[u8]) -> Vec<u8> {
    let (path, length) = (format!("/api/1/envelope/?sentry_key={KEY}"), body.len().to_string());
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    // HPACK: POST and http from the static table, the rest as literals with names from that table.
    let fields = [&[0x83, 0x86, 0x04][..], &text(&path), &[0x01], &text("relay.test"), &[0x0f, 0x0d], &text(&length)];
    let (headers, data) = (frame(1, 4, stream, &fields.concat()), frame(0, 1, stream, body));
    [headers, data, frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_http2_request_arrives_although_its_stream_is_reset() {
    let (relay, upstreams) = two_upstreams(|plan| plan).await;
    let ids: Vec<String> = (0..CLIENTS).map(|_| new_id()).collect();
    let sendings = ids.chunks(2).enumerate().map(async |(turn, ids)| {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        for (stream, id) in [1, 3].into_iter().zip(ids) {
            bytes.extend(request_and_reset(stream, envelopes::error(id).as_bytes()));
        }
        send_and_hang_up(&relay.address(), &bytes, ENDS[turn % 3]).await
    });
    let held = futures_util::future::join_all(sendings).await;
    both_have(&upstreams, &ids.into_iter().collect()).await;
    drop(held);
    relay.balanced(SOON).await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_request_is_counted_and_nothing_of_it_arrives() {
    let (relay, upstream) = front().await;
    let body = envelopes::error(&new_id());
    for path in [keyed("/api/1/envelope/"), keyed("/api/1/csp-report/"), "/api/0/projects/".to_owned()] {
        let whole = [
            post(&path, &[("content-type", "application/csp-report")], body.as_bytes()),
            chunked(&path, &[("content-type", "application/csp-report")], body.as_bytes(), 50),
        ];
        for request in whole {
            for end in ENDS {
                let before = refused(&relay, "disconnected").await;
                let cut = &request[..request.len() - 10];
                let held = send_and_hang_up(&relay.address(), cut, end).await;
                eventually("it is counted", Duration::from_secs(5), async || {
                    let counted = refused(&relay, "disconnected").await - before;
                    if counted == 1.0 { Ok(()) } else { Err(format!("{path} {end:?}: {counted}")) }
                })
                .await;
                drop(held);
            }
        }
    }
    assert_eq!(upstream.taken_count(), 0);
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_a_request_whose_client_is_gone() {
    let (relay, upstream) = front().await;
    upstream.always(Reply::status(200));
    let ids: Vec<String> = (0..20).map(|_| new_id()).collect();
    for id in &ids {
        let request = post(&keyed("/api/1/envelope/"), &[], envelopes::error(id).as_bytes());
        send_and_hang_up(&relay.address(), &request, End::Reset).await;
    }
    // Envelopes that were not delivered before the stop are delivered after the next start.
    relay.signal(rustix::process::Signal::TERM);
    let mut relay = relay;
    assert!(relay.ended(SOON).await.success());
    let relay = relay.started().await;
    eventually("all have arrived", SOON, async || {
        let taken: BTreeSet<String> = upstream.taken_ids().into_iter().collect();
        let missing = ids.iter().filter(|id| !taken.contains(*id)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    relay.finish().await;
}
