//! Compresses envelopes for upstreams that want it: those that are worth it, and once for all upstreams with the same encoding.
//!
//! The header line of an envelope differs from upstream to upstream; the rest is the same for all. The rest is compressed once. The line
//! precedes it uncompressed, in a block of its own in the same gzip member (RFC 1952) or zstd frame (RFC 8878), because decoders may stop
//! after the first of several.
//!
//! Rule: an envelope that compression hardly shrinks is sent uncompressed.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};
use http::HeaderValue;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use zstd::stream::write::Encoder;

use crate::tasks;

/// A smaller body fits into one network packet as it is.
const WORTH: usize = 1400;
/// A larger body is compressed on a thread of its own, not by the worker.
const BESIDE: usize = 32 * 1024;
/// A body must lose more than one part in this many of its size.
const GAIN: usize = 16;
/// The most bytes that upstreams share, and how long they are kept unused.
const MOST_SHARED: u64 = 4 << 20;
const SHARED_FOR: Duration = Duration::from_secs(5);
/// The level of zstd: its own default.
const LEVEL: i32 = 3;
/// The longest stored block of deflate, and the longest block of zstd.
const LONGEST_STORED: usize = 0xffff;
const LONGEST_RAW: usize = 128 * 1024;
/// The magic number of a zstd frame.
const MAGIC: u32 = 0xfd2f_b528;

/// The encoding of envelopes to an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// zstd: the least work. Sentry and its Relay know it.
    Zstd,
    /// gzip: known everywhere.
    Gzip,
    /// No compression.
    None,
}

impl Compress {
    /// The name in the configuration, and in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }

    /// The value of `Content-Encoding`.
    pub(super) const fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }
}

/// The bodies that were compressed lately. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Packs(Cache<(usize, usize, Compress), Arc<Pack>>);

/// The rest of an envelope, compressed.
#[derive(Debug)]
struct Pack {
    /// The uncompressed bytes. While they are kept here, no other body has their address, which is in the key.
    source: Bytes,
    /// Blocks of deflate or zstd, the last one marked as such; `None` when compression saves too little.
    blocks: Option<Bytes>,
    /// The checksum of the source; only gzip needs it.
    crc: Crc,
}

impl Default for Packs {
    fn default() -> Self {
        let weigh = |_: &_, pack: &Arc<Pack>| {
            let bytes = pack.source.len() + pack.blocks.as_ref().map_or(0, Bytes::len);
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().weigher(weigh).max_capacity(MOST_SHARED).time_to_idle(SHARED_FOR).build())
    }
}

impl Packs {
    /// The line and the rest of an envelope as pieces of a compressed body; `None` when compression saves too little.
    pub(super) async fn pack(&self, line: Bytes, rest: Bytes, how: Compress) -> Option<[Bytes; 3]> {
        if rest.len() < WORTH {
            return None;
        }
        let pack = if rest.len() > BESIDE {
            let packs = self.clone();
            tasks::blocking(move || packs.find(rest, how)).await
        } else {
            self.find(rest, how)
        };
        pack.after(&line, how)
    }

    fn find(&self, source: Bytes, how: Compress) -> Arc<Pack> {
        let key = (source.as_ptr().addr(), source.len(), how);
        // A second caller with the same source waits for the first.
        self.0.get_with(key, || Arc::new(Pack::of(source, how)))
    }
}

impl Pack {
    fn of(source: Bytes, how: Compress) -> Self {
        let mut crc = Crc::new();
        // Writing to memory does not fail.
        let blocks = match how {
            Compress::None => None,
            Compress::Zstd => zstd::bulk::compress(&source, LEVEL).ok().and_then(blocks_of),
            Compress::Gzip => {
                crc.update(&source);
                let mut deflate = DeflateEncoder::new(Vec::with_capacity(source.len() / 3), Compression::default());
                deflate.write_all(&source).and_then(|()| deflate.finish()).ok().map(Bytes::from)
            }
        };
        let blocks = blocks.filter(|blocks| blocks.len() < source.len() - source.len() / GAIN);
        Self { source, blocks, crc }
    }

    fn after(&self, line: &Bytes, how: Compress) -> Option<[Bytes; 3]> {
        let blocks = self.blocks.clone()?;
        let total = u32::try_from(line.len() + self.source.len()).ok()?;
        let mut head = BytesMut::with_capacity(line.len() + 64);
        let mut end = BytesMut::new();
        if how == Compress::Gzip {
            // No file name, no time, no system.
            head.put_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
            for block in line.chunks(LONGEST_STORED) {
                let length = u16::try_from(block.len()).ok()?;
                head.put_u8(0);
                head.put_u16_le(length);
                head.put_u16_le(!length);
                head.put_slice(block);
            }
            let mut crc = Crc::new();
            crc.update(line);
            crc.combine(&self.crc);
            end.put_u32_le(crc.sum());
            end.put_u32_le(total);
        } else {
            head.put_u32_le(MAGIC);
            // One segment, its size in four bytes, no checksum.
            head.put_u8(0b1010_0000);
            head.put_u32_le(total);
            for block in line.chunks(LONGEST_RAW) {
                head.put_uint_le((block.len() as u64) << 3, 3);
                head.put_slice(block);
            }
        }
        Some([head.freeze(), blocks, end.freeze()])
    }
}

/// The blocks of a zstd frame, without its header.
fn blocks_of(frame: Vec<u8>) -> Option<Bytes> {
    let descriptor = usize::from(*frame.get(4)?);
    let (size, one_segment, dictionary) = (descriptor >> 6, descriptor >> 5 & 1, descriptor & 3);
    let of_size = if size == 0 { one_segment } else { 1 << size };
    let of_dictionary = [0, 1, 2, 4][dictionary];
    let before = 5 + (1 - one_segment) + of_dictionary + of_size;
    (before < frame.len()).then(|| Bytes::from(frame).slice(before..))
}

/// Compresses, piece by piece, a body that is too large for the memory.
pub(super) enum Press {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(Encoder<'static, Vec<u8>>),
}

impl Press {
    /// Returns `None` for [`Compress::None`].
    pub(super) fn new(how: Compress) -> io::Result<Option<Self>> {
        Ok(match how {
            Compress::None => None,
            Compress::Gzip => Some(Self::Gzip(GzEncoder::new(vec![], Compression::default()))),
            Compress::Zstd => Some(Self::Zstd(Encoder::new(vec![], LEVEL)?)),
        })
    }

    /// Compresses a piece. Returns the output that is ready, which may be empty.
    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        let out = match self {
            Self::Gzip(gzip) => gzip.write_all(piece).map(|()| gzip.get_mut()),
            Self::Zstd(zstd) => zstd.write_all(piece).map(|()| zstd.get_mut()),
        }?;
        Ok(std::mem::take(out).into())
    }

    /// Ends the stream. Returns the last output.
    pub(super) fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Gzip(gzip) => gzip.finish(),
            Self::Zstd(zstd) => zstd.finish(),
        }
        .map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Decodes with a decoder that stops after the first member or frame.
    fn decoded(body: &[u8], how: Compress) -> Vec<u8> {
        let mut text = vec![];
        match how {
            Compress::Gzip => flate2::read::GzDecoder::new(body).read_to_end(&mut text).unwrap(),
            _ => zstd::stream::read::Decoder::new(body).unwrap().single_frame().read_to_end(&mut text).unwrap(),
        };
        text
    }

    fn text(length: usize) -> Bytes {
        let words = (0..).flat_map(|n: usize| format!("\n{{\"frame\":{n},\"file\":\"app{}.js\"}}", n % 7).into_bytes());
        words.take(length).collect()
    }

    #[tokio::test]
    async fn the_own_line_and_the_shared_rest_form_one_member_or_frame() {
        let packs = Packs::default();
        for how in [Compress::Gzip, Compress::Zstd] {
            for length in [WORTH, 4096, BESIDE + 1, 300_000, 1 << 20] {
                let rest = text(length);
                for line in ["", "{}", &format!("{{\"event_id\":\"{}\"}}", "x".repeat(70_000))] {
                    let pieces = packs.pack(Bytes::copy_from_slice(line.as_bytes()), rest.clone(), how).await.unwrap();
                    let body = pieces.concat();
                    assert!(body.len() < line.len() + length / 2);
                    assert_eq!(decoded(&body, how), [line.as_bytes(), &rest].concat(), "{how:?} {length}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_rest_is_compressed_once_for_all_upstreams_with_one_encoding() {
        let (packs, rest) = (Packs::default(), text(5000));
        let mut blocks = vec![];
        for line in ["{\"dsn\":\"a\"}", "{\"dsn\":\"b\"}"] {
            let [_, own, _] =
                packs.pack(Bytes::from_static(line.as_bytes()), rest.clone(), Compress::Zstd).await.unwrap();
            blocks.push(own.as_ptr());
        }
        assert_eq!(blocks[0], blocks[1]);
    }

    #[tokio::test]
    async fn a_body_that_compression_does_not_shrink_is_not_packed() {
        let (packs, line) = (Packs::default(), Bytes::from_static(b"{}"));
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Bytes = noise.take(10_000).collect();
        for how in [Compress::Gzip, Compress::Zstd, Compress::None] {
            assert!(packs.pack(line.clone(), text(WORTH - 1), how).await.is_none());
            assert!(packs.pack(line.clone(), noise.clone(), how).await.is_none(), "{how:?}");
        }
    }

    #[test]
    fn a_press_keeps_every_byte() {
        for how in [Compress::Gzip, Compress::Zstd] {
            let (mut press, whole) = (Press::new(how).unwrap().unwrap(), text(700_000));
            let mut body = vec![];
            for piece in whole.chunks(64 * 1024) {
                body.extend(press.write(piece).unwrap());
            }
            body.extend(press.finish().unwrap());
            assert!(body.len() < whole.len() / 4);
            assert_eq!(decoded(&body, how), whole);
        }
    }

    /// The figures of the handbook: `cargo test --lib figures -- --nocapture`.
    #[test]
    fn figures_of_recorded_envelopes() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/envelopes")).unwrap();
        let bodies =
            folder.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "body"));
        let bodies: Vec<Bytes> = bodies.map(|path| std::fs::read(path).unwrap().into()).collect();
        let worth = bodies.into_iter().filter(|body| body.len() >= WORTH && body.starts_with(b"{"));
        let worth: Vec<Bytes> = worth.collect();
        let before: usize = worth.iter().map(Bytes::len).sum();
        for how in [Compress::Gzip, Compress::Zstd] {
            let (began, rounds) = (std::time::Instant::now(), 20);
            let mut after = 0;
            for body in std::iter::repeat_n(&worth, rounds).flatten() {
                after += Pack::of(body.clone(), how).blocks.map_or(body.len(), |blocks| blocks.len());
            }
            let per_mib = began.elapsed().as_secs_f64() * 1000.0 / (before * rounds) as f64 * 1_048_576.0;
            let (count, saved) = (worth.len(), 100.0 - 100.0 * after as f64 / (before * rounds) as f64);
            println!("{count} envelopes, {before} bytes, {}: {saved:.0}% saved, {per_mib:.1} ms per MiB", how.name());
            assert!(after < before * rounds);
        }
    }
}
