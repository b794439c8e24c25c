//! The text between two encodings, as much of it as a body may have.
//!
//! Rule: what is too much is an error as soon as it is seen: of what is larger than the limit, no more than a buffer is decoded beyond it.

use std::fmt;
use std::io::{self, BufRead, Read};

/// Reads what another encoding yields.
pub(super) struct Between<R> {
    inner: R,
    /// How many bytes may still come.
    left: u64,
}

/// There is more than the limit. Whoever decodes what comes of it passes this on as it is.
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

    /// Counts what is asked of it.
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
        fn no_more_than_the_limit_comes_through_and_no_more_than_a_buffer_beyond_it_is_decoded(
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
