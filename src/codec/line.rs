//! Messages that end with a newline: read from bytes in any split, and written.
//!
//! Contract:
//!
//! 1. [`Decoder`] takes bytes as they arrive and gives whole lines, without their end (LF or CR LF). The split does not
//!    matter. Empty lines are no messages.
//! 2. A line of more bytes than the limit is reported once ([`TooLong`]) as soon as that is clear. What is left of it
//!    is skipped and not held; then the next line is read.
//! 3. [`encode`] writes a message as one line.
//!
//! ```
//! use outrigger::codec::line::Decoder;
//!
//! let mut decoder = Decoder::new(8);
//! decoder.push(b"{\"id\":1}\r\n{\"id\":");
//! assert_eq!(decoder.next().unwrap()?, "{\"id\":1}");
//! assert!(decoder.next().is_none());
//! decoder.push(b"20000}\n{}\n");
//! assert!(decoder.next().unwrap().is_err());
//! assert_eq!(decoder.next().unwrap()?, "{}");
//! # Ok::<(), outrigger::codec::line::TooLong>(())
//! ```

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

/// A line has more bytes than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line is longer than the limit")
    }
}

impl std::error::Error for TooLong {}

/// Reads lines out of bytes in any split.
///
/// Call [`push`](Self::push) with each chunk, then [`next`](Self::next) until it gives nothing.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: BytesMut,
    /// Up to here the buffer has no line end.
    seen: usize,
    /// Whether the rest of a line that was too long is still to come.
    is_skipping: bool,
}

impl Decoder {
    /// A decoder of lines that have at most `limit` bytes each, their end not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: BytesMut::new(),
            seen: 0,
            is_skipping: false,
        }
    }

    /// Takes what has arrived.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Gives the next line, or nothing until more is pushed.
    #[expect(
        clippy::should_implement_trait,
        reason = "nothing means not yet, not the end"
    )]
    pub fn next(&mut self) -> Option<Result<Bytes, TooLong>> {
        loop {
            let Some(at) = memchr(b'\n', self.buffer.get(self.seen..)?) else {
                return self.wait();
            };
            let mut line = self.buffer.split_to(self.seen + at);
            self.buffer.advance(1);
            self.seen = 0;
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            if line.ends_with(b"\r") {
                line.truncate(line.len() - 1);
            }
            if line.len() > self.limit {
                return Some(Err(TooLong));
            }
            if !line.is_empty() {
                return Some(Ok(line.freeze()));
            }
        }
    }

    /// Ends it: the last line, if it came without an end.
    ///
    /// # Errors
    ///
    /// [`TooLong`], if that was not reported before.
    #[must_use]
    pub fn finish(mut self) -> Option<Result<Bytes, TooLong>> {
        self.push(b"\n");
        self.next()
    }

    /// No line ends in the buffer.
    fn wait(&mut self) -> Option<Result<Bytes, TooLong>> {
        // A CR at the end may be part of the line's end.
        let length = self.buffer.len() - usize::from(self.buffer.ends_with(b"\r"));
        let is_too_long = !self.is_skipping && length > self.limit;
        self.is_skipping |= is_too_long;
        if self.is_skipping {
            self.buffer.clear();
        }
        self.seen = self.buffer.len();
        is_too_long.then_some(Err(TooLong))
    }
}

/// `message` as one line. Line ends in it become spaces: JSON has them between its tokens only.
#[must_use]
pub fn encode(message: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(message.len() + 1);
    line.extend(message.iter().map(|&byte| match byte {
        b'\r' | b'\n' => b' ',
        other => other,
    }));
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn decode<'a>(
        limit: usize,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<Result<Bytes, TooLong>> {
        let mut decoder = Decoder::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            lines.extend(std::iter::from_fn(|| decoder.next()));
        }
        lines.extend(decoder.finish());
        lines
    }

    proptest! {
        #[test]
        fn rule_1_any_split_gives_the_same_lines(
            bytes in vec(prop::sample::select(b"ab\r\n".to_vec()), 0..60),
            size in 1_usize..9,
            limit in 0_usize..8,
        ) {
            let whole = decode(limit, [&bytes[..]]);
            prop_assert_eq!(&decode(limit, bytes.chunks(size)), &whole);
            let expected: Vec<_> = bytes
                .split(|&byte| byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.is_empty())
                .map(|line| if line.len() > limit { Err(TooLong) } else { Ok(Bytes::copy_from_slice(line)) })
                .collect();
            prop_assert_eq!(whole, expected);
        }
    }

    #[test]
    fn rule_2_a_line_too_long_is_reported_at_once_and_not_held() {
        let mut decoder = Decoder::new(4);
        decoder.push(b"12345");
        assert_eq!(decoder.next(), Some(Err(TooLong)));
        for _ in 0..100 {
            decoder.push(b"678");
            assert_eq!(decoder.next(), None);
            assert!(decoder.buffer.is_empty());
        }
        decoder.push(b"9\nok\n");
        assert_eq!(decoder.next(), Some(Ok(Bytes::from_static(b"ok"))));
        assert_eq!(decoder.finish(), None);
    }

    #[test]
    fn rule_3_a_message_is_one_line() {
        let pretty = b"{\r\n  \"a\": \"x\\n\",\n  \"b\": 1.0\r}";
        let line = encode(pretty);
        assert_eq!(memchr(b'\n', &line), Some(line.len() - 1));
        let read: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read, serde_json::from_slice::<Value>(pretty).unwrap());
    }
}
