//! Content encodings: the only place with decompressors. Memory is bounded whatever the body is.
//!
//! A small body is decoded in one pass, into memory that was reserved for it. A larger one is first decoded without keeping the text,
//! to learn its size within the limit, and then once more, in pieces: a bomb costs time within the limit, and no memory.
//!
//! Rule: the limit also holds for the text between two encodings. A few bytes can become gigabytes from which the next encoding yields
//! nothing; without a limit they would keep a thread busy.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

mod between;
mod container;
use between::{Between, Beyond};
pub use container::{Container, MAGIC};

/// The size of the pieces of a larger text, in bytes.
const PIECE: u64 = 128 * 1024;

/// The largest window that a zstd frame may ask for: 2^23 bytes, the most that RFC 8878 wants every decoder to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The greatest number of encodings. The protocol allows several; no client is known to use more than one.
const MOST_ENCODINGS: usize = 3;

/// A content encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// gzip, x-gzip; several members in a row make one text.
    Gzip,
    /// deflate: with zlib's header, as the RFC says, or raw, as many clients send it.
    Deflate,
    /// br
    Brotli,
    /// zstd
    Zstd,
}

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// An encoding that is not supported: 415.
    #[error("unsupported content encoding {0:?}: gzip, deflate, br, zstd and identity are understood")]
    Unsupported(String),
    /// The body is not in its encoding: 400.
    #[error("the body is not valid {encodings}: {why}")]
    Malformed {
        /// The expected encodings.
        encodings: String,
        /// The error of the decompressor.
        why: io::Error,
    },
    /// The text is larger than the limit: 413.
    #[error("the decoded body has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

impl DecodeError {
    fn of(encodings: &[Encoding], limit: u64, why: io::Error) -> Self {
        if why.get_ref().is_some_and(|why| why.is::<Beyond>()) {
            return Self::TooLarge { limit };
        }
        let names: Vec<&str> = encodings.iter().rev().map(|encoding| encoding.name()).collect();
        Self::Malformed { encodings: names.join(", "), why }
    }
}

impl Encoding {
    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// Parses a `Content-Encoding` into the order of decoding, the last encoding first. An empty value and `UTF-8` mean identity: real SDKs
/// send both.
pub fn encodings(header: &str) -> Result<Vec<Encoding>, DecodeError> {
    let mut list = Vec::new();
    for word in header.split(',').map(str::trim) {
        match word.to_ascii_lowercase().as_str() {
            "" | "identity" | "utf-8" => {}
            "gzip" | "x-gzip" => list.push(Encoding::Gzip),
            "deflate" => list.push(Encoding::Deflate),
            "br" => list.push(Encoding::Brotli),
            "zstd" => list.push(Encoding::Zstd),
            _ => return Err(DecodeError::Unsupported(word.chars().take(40).collect())),
        }
    }
    if list.len() > MOST_ENCODINGS {
        return Err(DecodeError::Unsupported(format!("a list of {}", list.len())));
    }
    list.reverse();
    Ok(list)
}

/// Decodes a body, in the order that [`encodings`] returned. Without encodings the body is returned unchanged.
///
/// Memory grows with the text, up to `limit`.
pub fn decode(body: Bytes, encodings: &[Encoding], limit: u64) -> Result<Bytes, DecodeError> {
    if encodings.is_empty() {
        return Ok(body);
    }
    let mut text = Vec::new();
    let read = chain(&body[..], encodings, limit).and_then(|reader| reader.take(limit + 1).read_to_end(&mut text));
    match read {
        Err(why) => Err(DecodeError::of(encodings, limit, why)),
        Ok(n) if n as u64 > limit => Err(DecodeError::TooLarge { limit }),
        Ok(_) => Ok(text.into()),
    }
}

/// The size of the decoded text, found without keeping the text.
pub fn size(body: impl BufRead, encodings: &[Encoding], limit: u64) -> Result<u64, DecodeError> {
    let read = chain(body, encodings, limit).and_then(|reader| io::copy(&mut reader.take(limit + 1), &mut io::sink()));
    match read {
        Err(why) => Err(DecodeError::of(encodings, limit, why)),
        Ok(n) if n > limit => Err(DecodeError::TooLarge { limit }),
        Ok(n) => Ok(n),
    }
}

/// The first bytes of the decoded text, at most `most`, as far as the beginning of a body yields them.
pub fn beginning(body: &[u8], encodings: &[Encoding], most: u64) -> Vec<u8> {
    let mut text = Vec::new();
    // What was decoded before an error counts: the body goes on.
    if let Ok(reader) = chain(body, encodings, body.len() as u64 + most) {
        drop(reader.take(most).read_to_end(&mut text));
    }
    text
}

/// Decodes `size` bytes, the result of [`size`], and passes them to `hand_over` in pieces, until it returns `false`.
pub fn pieces(
    body: impl BufRead,
    encodings: &[Encoding],
    limit: u64,
    size: u64,
    mut hand_over: impl FnMut(Bytes) -> bool,
) -> Result<(), DecodeError> {
    let failed = |why| DecodeError::of(encodings, limit, why);
    let mut reader = chain(body, encodings, limit).map_err(failed)?.take(size);
    loop {
        let mut piece = Vec::with_capacity(PIECE as usize);
        let read = reader.by_ref().take(PIECE).read_to_end(&mut piece).map_err(failed)?;
        if read == 0 || !hand_over(piece.into()) {
            return Ok(());
        }
    }
}

/// Chains the decompressors. The caller limits the output of the last one.
fn chain<'a>(body: impl BufRead + 'a, encodings: &[Encoding], limit: u64) -> io::Result<Box<dyn BufRead + 'a>> {
    let whole: Box<dyn BufRead + 'a> = Box::new(body);
    let Some((first, others)) = encodings.split_first() else { return Ok(whole) };
    let first = wrap(whole, *first)?;
    others.iter().try_fold(first, |inner, encoding| wrap(Box::new(Between::new(inner, limit)), *encoding))
}

fn wrap<'a>(mut inner: Box<dyn BufRead + 'a>, encoding: Encoding) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(match encoding {
        Encoding::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(inner))),
        Encoding::Deflate if has_zlib_header(inner.fill_buf()?) => Box::new(BufReader::new(ZlibDecoder::new(inner))),
        Encoding::Deflate => Box::new(BufReader::new(DeflateDecoder::new(inner))),
        Encoding::Brotli => Box::new(BufReader::new(brotli_decompressor::Decompressor::new(inner, 4096))),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(BufReader::new(decoder))
        }
    })
}

/// Whether the body begins with method 8 and a valid header checksum (RFC 1950, section 2.2). Raw deflate does so only with a first
/// block that no compressor writes.
fn has_zlib_header(body: &[u8]) -> bool {
    matches!(body, [cmf, flg, ..] if cmf & 0x0f == 8 && (u16::from(*cmf) << 8 | u16::from(*flg)).is_multiple_of(31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    const TEXT: &[u8] = b"{}\n{\"type\":\"event\"}\n{\"message\":\"hello hello hello\"}";

    fn gzip(text: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(vec![], Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap().into()
    }

    const MIB: u64 = 1024 * 1024;

    fn decoded(header: &str, body: Bytes) -> Bytes {
        decode(body, &encodings(header).unwrap(), 10 * MIB).unwrap()
    }

    #[test]
    fn both_deflates_are_understood() {
        let mut zlib = ZlibEncoder::new(vec![], Compression::default());
        zlib.write_all(TEXT).unwrap();
        let mut raw = DeflateEncoder::new(vec![], Compression::default());
        raw.write_all(TEXT).unwrap();
        assert_eq!(decoded("deflate", zlib.finish().unwrap().into()), TEXT);
        assert_eq!(decoded("deflate", raw.finish().unwrap().into()), TEXT);
    }

    #[test]
    fn encodings_apply_in_order_and_meaningless_names_mean_identity() {
        let twice = gzip(&zstd::encode_all(TEXT, 0).unwrap());
        assert_eq!(decoded("zstd, x-gzip", twice), TEXT);
        for header in ["", "identity", "UTF-8", " , "] {
            assert_eq!(decoded(header, Bytes::from_static(TEXT)), TEXT);
        }
        assert!(matches!(encodings("compress"), Err(DecodeError::Unsupported(_))));
        assert!(matches!(encodings("gzip,gzip,gzip,gzip"), Err(DecodeError::Unsupported(_))));
    }

    #[test]
    fn gzip_members_in_a_row_make_one_text() {
        let two = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(decoded("gzip", two.into()), "abcd");
    }

    #[test]
    fn large_bodies_are_decoded_whole_and_in_pieces() {
        let text = vec![b'x'; 3 * 1024 * 1024 + 7];
        assert_eq!(decoded("gzip", gzip(&text)), text);
        let (packed, mut all) = (gzip(&text), vec![]);
        let more = |piece: Bytes| {
            all.extend_from_slice(&piece);
            true
        };
        pieces(&packed[..], &[Encoding::Gzip], 10 * MIB, text.len() as u64, more).unwrap();
        assert!(all == text);
        let mut count = 0;
        let refuse = |_| {
            count += 1;
            false
        };
        pieces(&packed[..], &[Encoding::Gzip], 10 * MIB, text.len() as u64, refuse).unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn a_bomb_is_refused_and_takes_no_memory() {
        let bomb = gzip(&vec![0; 30 * 1024 * 1024]);
        let limit = 20 * 1024 * 1024;
        assert!(matches!(size(&bomb[..], &[Encoding::Gzip], limit), Err(DecodeError::TooLarge { limit: 20_971_520 })));
        assert!(matches!(decode(bomb.clone(), &[Encoding::Gzip], 1000), Err(DecodeError::TooLarge { .. })));
        assert_eq!(size(&bomb[..], &[Encoding::Gzip], 2 * limit).unwrap(), 30 * 1024 * 1024);
    }

    /// A text as stored blocks of brotli.
    fn brotli(text: &[u8]) -> Vec<u8> {
        let (mut all, mut is_first) = (vec![], 1);
        for block in text.chunks(0x1_0000) {
            // One bit for the window of the stream, then "not the last block, 16 bits of length" in three bits, and "stored".
            let head = ((block.len() as u32 - 1) << 3 | 1 << 19) << std::mem::take(&mut is_first);
            all.extend(&head.to_le_bytes()[..3]);
            all.extend(block);
        }
        all.push(3);
        all
    }

    fn packed(encoding: Encoding, text: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Gzip => gzip(text).into(),
            Encoding::Deflate => {
                let mut encoder = ZlibEncoder::new(vec![], Compression::default());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Brotli => brotli(text),
            Encoding::Zstd => zstd::encode_all(text, 0).unwrap(),
        }
    }

    /// Two and a half MiB that decode to nothing.
    fn nothing(encoding: Encoding) -> Vec<u8> {
        let (begin, unit, end): (&[u8], Vec<u8>, &[u8]) = match encoding {
            Encoding::Gzip => (b"", gzip(b"").into(), b""),
            Encoding::Deflate => (b"", b"\x00\x00\x00\xff\xff".to_vec(), b"\x03\x00"),
            Encoding::Brotli => (b"\x0c", b"\x06".to_vec(), b"\x03"),
            Encoding::Zstd => (b"\x28\xb5\x2f\xfd\x00\x00", b"\x00\x00\x00".to_vec(), b"\x01\x00\x00"),
        };
        [begin, &unit.repeat(2_500_000 / unit.len()), end].concat()
    }

    const ALL: [Encoding; 4] = [Encoding::Gzip, Encoding::Deflate, Encoding::Brotli, Encoding::Zstd];

    #[test]
    fn the_text_between_two_encodings_is_bounded_even_if_it_yields_nothing() {
        for (inner, outer) in ALL.into_iter().flat_map(|inner| ALL.map(|outer| (inner, outer))) {
            let (layers, body) = ([outer, inner], packed(outer, &nothing(inner)));
            let refused = |read: Result<u64, DecodeError>| matches!(read, Err(DecodeError::TooLarge { limit: MIB }));
            assert!(refused(size(&body[..], &layers, MIB)), "{inner:?} in {outer:?}");
            assert!(refused(decode(body.clone().into(), &layers, MIB).map(|text| text.len() as u64)));
            assert!(refused(pieces(&body[..], &layers, MIB, 1, |_| true).map(|()| 0)), "{inner:?} in {outer:?}");
            assert_eq!(size(&body[..], &layers, 3 * MIB).unwrap(), 0, "{inner:?} in {outer:?}");
            let three = packed(Encoding::Zstd, &body);
            assert!(refused(size(&three[..], &[Encoding::Zstd, outer, inner], MIB)), "{inner:?} in {outer:?} in zstd");
            let text = packed(outer, &packed(inner, TEXT));
            assert_eq!(decode(text.into(), &layers, MIB).unwrap(), TEXT, "{inner:?} in {outer:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_cut_body_is_decoded_and_no_more() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for encoding in ALL {
            let packed = packed(encoding, &text);
            assert!(beginning(&packed[..400_000], &[encoding], 1000) == text[..1000], "{encoding:?}");
        }
        assert_eq!(beginning(b"nonsense", &[Encoding::Gzip], 1000), b"");
    }

    #[test]
    fn a_truncated_or_invalid_body_is_malformed() {
        let cut = gzip(TEXT).slice(..20);
        for (encoding, body) in [
            (Encoding::Gzip, cut),
            (Encoding::Deflate, Bytes::from_static(b"\xff\xff\xff\xff")),
            (Encoding::Brotli, Bytes::from_static(b"\xff\xff\xff\xff")),
            (Encoding::Zstd, Bytes::from_static(b"nonsense")),
        ] {
            assert!(matches!(decode(body, &[encoding], MIB), Err(DecodeError::Malformed { .. })), "{encoding:?}");
        }
    }
}
