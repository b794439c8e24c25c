//! Bombs: bodies that grow a thousandfold, and bodies that decode to nothing.

use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc, FlushCompress};

use super::beside::beside;
use crate::support::memory::Memory;
use crate::support::relay::{Plan, Relay};
use crate::support::upstream::Upstream;
use crate::support::wire::{Answer, chunked, exchange, post};
use crate::{front, keyed};

const MIB: usize = 1024 * 1024;
/// The memory that a bomb may take at its peak, in KiB.
const MOST_MEMORY: u64 = 16 * 1024;
/// Long enough for an unoptimised build beside other tests. Decoding a bomb to its end would take minutes.
const MOST_TIME: Duration = Duration::from_secs(20);

/// A valid gzip body of 4.7 MB with 4.7 GB of zeros: 16 MiB that were compressed once, repeated.
fn gigabytes_of_gzip() -> Vec<u8> {
    const PIECES: usize = 281;
    let zeros = vec![0; 16 * MIB];
    let mut compress = flate2::Compress::new(Compression::best(), false);
    let mut piece = Vec::with_capacity(64 * 1024);
    // The full flush ends at a byte boundary, and the next piece refers to no earlier data.
    compress.compress_vec(&zeros, &mut piece, FlushCompress::Full).expect("memory");
    assert_eq!(compress.total_in() as usize, zeros.len());
    let (mut sum, mut one) = (Crc::new(), Crc::new());
    one.update(&zeros);
    for _ in 0..PIECES {
        sum.combine(&one);
    }
    let mut bomb = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff".to_vec();
    bomb.extend(piece.repeat(PIECES));
    bomb.extend(b"\x03\x00");
    bomb.extend(sum.sum().to_le_bytes());
    bomb.extend(((PIECES * zeros.len()) as u32).to_le_bytes());
    bomb
}

/// The same text in zstd: a frame of 16 MiB, repeated.
fn gigabytes_of_zstd() -> Vec<u8> {
    zstd::encode_all(&vec![0; 16 * MIB][..], 0).expect("memory").repeat(281)
}

fn raw_deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(vec![], Compression::best());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

/// 4.7 MB that decode to nothing: the smallest unit of an encoding that yields no byte, repeated.
fn nothing_in_much(begin: &[u8], unit: &[u8], end: &[u8]) -> Vec<u8> {
    [begin, &unit.repeat(4_700_000 / unit.len()), end].concat()
}

/// A few hundred bytes that decode to nothing: 1 GiB of a unit that yields no byte, packed by zstd twice.
fn nothing_in_few_bytes(begin: &[u8], unit: &[u8], end: &[u8]) -> Vec<u8> {
    const BETWEEN: usize = 1024 * MIB;
    let piece = unit.repeat(MIB / unit.len());
    let mut encoder = zstd::Encoder::new(vec![], 1).expect("memory");
    encoder.write_all(begin).expect("memory");
    for _ in 0..BETWEEN / piece.len() {
        encoder.write_all(&piece).expect("memory");
    }
    encoder.write_all(end).expect("memory");
    zstd::encode_all(&encoder.finish().expect("memory")[..], 3).expect("memory")
}

/// Bombs, each with its name and content encoding.
fn bombs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let gzip = gigabytes_of_gzip();
    let twice = {
        let mut encoder = flate2::write::GzEncoder::new(vec![], Compression::fast());
        encoder.write_all(&gzip).expect("memory");
        encoder.finish().expect("memory")
    };
    let deflate = [&b"\x78\x9c"[..], &raw_deflate(&vec![0; 256 * MIB / 4])].concat();
    let empty_member: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    vec![
        ("4.7 GB of zeros", "gzip", gzip),
        ("4.7 GB of zeros, packed twice", "gzip, gzip", twice),
        ("64 MiB of zeros without an end", "deflate", deflate),
        ("4.7 GB of zeros", "zstd", gigabytes_of_zstd()),
        ("skippable frames", "zstd", nothing_in_much(b"", b"\x50\x2a\x4d\x18\x00\x00\x00\x00", b"")),
        ("empty blocks", "zstd", nothing_in_much(b"\x28\xb5\x2f\xfd\x00\x00", b"\x00\x00\x00", b"\x01\x00\x00")),
        ("empty members", "gzip", nothing_in_much(b"", empty_member, b"")),
        ("empty blocks", "deflate", nothing_in_much(b"", b"\x00\x00\x00\xff\xff", b"\x03\x00")),
        ("empty blocks, three deep", "br, br, br", nothing_in_much(b"", b"\x06", b"\x03")),
    ]
}

/// Sends a bomb with a length or in chunks. It must be refused in time and take no memory.
async fn refused(relay: &Relay, name: &str, encoding: &str, request: &[u8]) -> Answer {
    let memory = Memory::of(relay.pid());
    memory.forget_peak();
    let (before, began) = (memory.resident(), Instant::now());
    let answer = exchange(&relay.address(), request).await;
    let (taken, grown) = (began.elapsed(), memory.peak() - before);
    eprintln!("{name} ({encoding}): {} after {taken:?}, {grown} KiB more than {before} KiB at the most", answer.status);
    assert!(matches!(answer.status, 400 | 413), "{name}: {answer:?}");
    assert!(!answer.detail().is_empty());
    assert!(grown < MOST_MEMORY, "{name} ({encoding}): {grown} KiB");
    assert!(taken < MOST_TIME, "{name} ({encoding}): {taken:?}");
    answer
}

#[tokio::test]
async fn a_bomb_of_4_7_gigabytes_is_refused_with_flat_memory() {
    let (relay, upstream) = front().await;
    let bomb = gigabytes_of_gzip();
    assert!(bomb.len() > 4_500_000, "{}", bomb.len());
    let path = keyed("/api/1/envelope/");
    let headers = [("content-encoding", "gzip")];
    let attack = async {
        for request in [post(&path, &headers, &bomb), chunked(&path, &headers, &bomb, 60_000)] {
            let answer = refused(&relay, "4.7 GB of zeros", "gzip", &request).await;
            assert_eq!(answer.status, 400, "its first line is no header, and nothing of it is written");
        }
    };
    let ((), sent) = beside(&relay, attack).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

#[tokio::test]
async fn encodings_on_many_lines_have_the_limit_of_one_line() {
    let (relay, upstream) = front().await;
    // A decoder allocates a window of 8 MiB when a frame asks for one.
    let skipped = [&b"\x50\x2a\x4d\x18"[..], &(9 * MIB as u32).to_le_bytes(), &vec![0; 9 * MIB]].concat();
    let mut body = zstd::encode_all(&b"{}\n"[..], 1).expect("memory");
    for _ in 1..60 {
        body = zstd::encode_all(&[&skipped[..], &body].concat()[..], 1).expect("memory");
    }
    let lines = [("content-encoding", "zstd, zstd, zstd"); 20];
    let memory = Memory::of(relay.pid());
    memory.forget_peak();
    let before = memory.resident();
    let answer = exchange(&relay.address(), &post("/api/1/envelope/", &lines, &body)).await;
    assert_eq!(answer.status, 415, "{answer:?}");
    let grown = memory.peak() - before;
    assert!(grown < MOST_MEMORY, "{grown} KiB");
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 0);
}

#[tokio::test]
async fn bombs_of_every_encoding_cost_neither_memory_nor_much_time() {
    let (relay, upstream) = front().await;
    let path = keyed("/api/1/envelope/");
    let bombs = bombs();
    for (name, encoding, body) in &bombs {
        refused(&relay, name, encoding, &post(&path, &[("content-encoding", encoding)], body)).await;
    }
    // All bombs at once, in chunks.
    let memory = Memory::of(relay.pid());
    memory.forget_peak();
    let before = memory.resident();
    let attack = futures_util::future::join_all(bombs.iter().map(async |(name, encoding, body)| {
        let request = chunked(&path, &[("content-encoding", encoding)], body, 50_000);
        let answer = exchange(&relay.address(), &request).await;
        assert!(matches!(answer.status, 400 | 413 | 503), "{name} ({encoding}): {answer:?}");
    }));
    let (_, sent) = beside(&relay, attack).await;
    let grown = memory.peak() - before;
    eprintln!("all {} of them at once: {grown} KiB more than {before} KiB at the most", bombs.len());
    // The relay holds the encoded bodies, and a window for each body that is being decoded.
    assert!(grown < 64 * 1024, "{grown} KiB");
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}

#[tokio::test]
async fn nested_bombs_that_yield_nothing_keep_no_thread_busy() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]);
    let relay = plan.server("max_body = \"16MiB\"").start().await;
    let empty_member: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let bombs = [
        ("deflate, zstd, zstd", nothing_in_few_bytes(b"", b"\x00\x00\x00\xff\xff", b"\x03\x00")),
        ("gzip, zstd, zstd", nothing_in_few_bytes(b"", empty_member, b"")),
        ("br, zstd, zstd", nothing_in_few_bytes(b"\x0c", b"\x06", b"\x03")),
    ];
    // Without a key: the body would have to name the project.
    let path = "/api/1/envelope/";
    for (encoding, body) in &bombs {
        assert!(body.len() < 20_000, "{encoding}: {}", body.len());
        let request = post(path, &[("content-encoding", encoding)], body);
        let answer = refused(&relay, "gigabytes of nothing", encoding, &request).await;
        assert_eq!(answer.status, 413, "{encoding}: {answer:?}");
    }
    // More bombs at once than threads: each gets its answer, and other clients are served meanwhile.
    let attack = futures_util::future::join_all(bombs.iter().cycle().take(9).map(async |(encoding, body)| {
        let began = Instant::now();
        let answer = exchange(&relay.address(), &post(path, &[("content-encoding", encoding)], body)).await;
        assert!(matches!(answer.status, 413 | 503), "{encoding}: {answer:?}");
        assert!(began.elapsed() < MOST_TIME, "{encoding}: {:?}", began.elapsed());
    }));
    let (_, sent) = beside(&relay, attack).await;
    relay.finish().await;
    assert_eq!(upstream.taken_count(), sent);
}
