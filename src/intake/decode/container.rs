//! Files that were compressed before they were sent, detected by their first bytes. Memory is bounded whatever the file is.

use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::ZSTD_WINDOW_LOG_MAX;

/// The number of bytes needed to detect a container.
pub const MAGIC: usize = 6;
/// The memory limit of xz: enough for its presets up to the seventh. The dictionaries of the eighth and ninth, 32 MiB and 64 MiB, are of
/// no use to a minidump.
const XZ_MEMORY: u64 = 24 * 1024 * 1024;

/// How a file was compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Container {
    /// .gz
    Gzip,
    /// .xz
    Xz,
    /// .bz2
    Bzip2,
    /// .zst
    Zstd,
}

impl Container {
    /// The container of a file with these first bytes (getsentry/relay, `relay-server/src/endpoints/minidump.rs`).
    pub fn recognise(first: &[u8]) -> Option<Self> {
        let containers: [(&[u8], Self); 4] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\x00", Self::Xz),
            (b"BZh", Self::Bzip2),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        containers.into_iter().find_map(|(magic, container)| first.starts_with(magic).then_some(container))
    }

    /// A reader of the content. The caller limits its size.
    pub fn open(self, packed: Box<dyn BufRead + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Xz => Box::new(XzDecoder::new_stream(packed, Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?)),
            Self::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(packed: Vec<u8>) -> io::Result<Vec<u8>> {
        let container = Container::recognise(&packed).expect("a container");
        let mut all = vec![];
        container.open(Box::new(io::Cursor::new(packed)))?.read_to_end(&mut all)?;
        Ok(all)
    }

    fn xz(text: &[u8], level: u32) -> Vec<u8> {
        let mut all = vec![];
        liblzma::bufread::XzEncoder::new(text, level).read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn each_container_is_detected_and_unpacked() {
        let text = &b"MDMP and more".repeat(1000)[..];
        let mut gzip = vec![];
        flate2::bufread::GzEncoder::new(text, flate2::Compression::default()).read_to_end(&mut gzip).unwrap();
        let mut bzip2 = vec![];
        bzip2::bufread::BzEncoder::new(text, bzip2::Compression::default()).read_to_end(&mut bzip2).unwrap();
        for packed in [gzip, bzip2, xz(text, 6), zstd::encode_all(text, 0).unwrap()] {
            assert_eq!(unpacked(packed).unwrap(), text);
        }
        assert_eq!(Container::recognise(b"MDMP\x93\xa7"), None);
        assert_eq!(Container::recognise(b""), None);
    }

    #[test]
    fn a_file_that_needs_too_much_memory_or_is_broken_is_refused() {
        assert!(unpacked(xz(b"MDMP", 9)).is_err(), "a dictionary of 64 MiB");
        let mut cut = xz(&b"MDMP".repeat(1000), 6);
        cut.truncate(cut.len() / 2);
        assert!(unpacked(cut).is_err());
        assert!(unpacked(b"BZh9 nonsense".to_vec()).is_err());
    }
}
