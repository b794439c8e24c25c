//! The text between two encodings, up to the limit of a body.
//!
//! Rule: a text over the limit is an error as soon as it is seen. At most one buffer beyond the limit is decoded.

use std::fmt;
use std::io::{self, BufRead, Read};

/// Reads the output of another encoding.
pub(super) struct Between<R> {
    inner: R,
    /// The bytes that may still come.
    left: u64,
}

/// The text is larger than the limit. The outer decompressors return this error unchanged.
#[derive(Debug)]
pub(super) struct Beyond;

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text between two encodings is larger than a body may be")
    }
}

impl std::error::Error for Beyond {}

impl<R: BufRead> Between<R> {
    pub(super) const fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit }
    }
}

impl<R: BufRead> BufRead for Between<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let text = self.inner.fill_buf()?;
        if text.len() as u64 > self.left { Err(io::Error::other(Beyond)) } else { Ok(text) }
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount as u64);
        self.inner.consume(amount);
    }
}

impl<R: BufRead> Read for Between<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    /// Counts the bytes that are read from it.
    struct Counted<'a> {
        text: &'a [u8],
        taken: usize,
    }

    impl Read for Counted<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let read = self.text.read(into)?;
            self.taken += read;
            Ok(read)
        }
    }

    proptest! {
        #[test]
        fn no_text_beyond_the_limit_passes_and_at_most_a_buffer_is_decoded(
            length in 0_usize..2000,
            limit in 0_usize..2000,
            buffer in 1_usize..200,
            step in 1_usize..300,
        ) {
            let text = vec![b'x'; length];
            let mut counted = Counted { text: &text, taken: 0 };
            let mut between = Between::new(BufReader::with_capacity(buffer, &mut counted), limit as u64);
            let (mut came, mut piece) = (0, vec![0; step]);
            let ended = loop {
                match between.read(&mut piece) {
                    Ok(0) => break Ok(()),
                    Ok(read) => came += read,
                    Err(why) => break Err(why),
                }
            };
            prop_assert_eq!(ended.is_ok(), length <= limit);
            prop_assert!(came <= limit && (ended.is_err() || came == length));
            prop_assert!(ended.is_ok_and(|()| true) || counted.taken <= limit + buffer);
        }
    }
}
