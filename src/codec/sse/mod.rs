//! Server-sent events: read from bytes in any split, and written.
//!
//! Contract:
//!
//! 1. [`Decoder`] takes bytes as they arrive and gives whole events. The split does not matter (but see 5).
//! 2. Nothing gets lost: the [`Event::raw`] bytes of everything that comes out, in order, and then
//!    [`Decoder::finish`], are the bytes that went in. So an event can be passed on untouched.
//! 3. What stands between events (comments, blank lines, a byte order mark) comes out as events without a field
//!    ([`Event::is_padding`]), as soon as its lines are whole; it waits for no event and adds up to nothing.
//! 4. An event of more bytes than the limit is [`TooLarge`], however it is split. After that the decoder gives nothing
//!    more and takes nothing more.
//! 5. An event comes out with the byte that ends it. Lines end with LF, CR LF or CR, and may be mixed. Where a chunk ends
//!    between the last CR and LF of an event, the LF comes out as padding.
//! 6. Fields are read as the HTML specification demands, but for two things: they stay bytes (their UTF-8 is not
//!    judged), and an event without data, or with empty data, comes out too: it carries the id that primes a stream.
//!
//! It deliberately keeps no last event id and no reconnection time across events: that is the owner's of a stream.
//!
//! ```
//! use outrigger::codec::sse::Decoder;
//!
//! let mut decoder = Decoder::new(1 << 20);
//! decoder.push(b": hello\n\nid: 7\ndata: {\"jsonrpc\"");
//! assert!(decoder.next()?.unwrap().is_padding());
//! assert!(decoder.next()?.is_none());
//! decoder.push(b":\"2.0\"}\n\n");
//! let event = decoder.next()?.unwrap();
//! assert_eq!(event.id.as_deref(), Some(&b"7"[..]));
//! assert_eq!(event.with_data(b"{}"), "id: 7\ndata: {}\n\n");
//! # Ok::<(), outrigger::codec::sse::TooLarge>(())
//! ```

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::{memchr, memchr2};

/// The name of an event that has none.
pub const DEFAULT_NAME: &[u8] = b"message";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event, or what stands between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// `event`: its name.
    pub name: Option<Bytes>,
    /// `data`: its lines joined with LF. Empty data is not the same as none.
    pub data: Option<Bytes>,
    /// `id`.
    pub id: Option<Bytes>,
    /// `retry`, in milliseconds.
    pub retry: Option<u64>,
    /// The bytes that it came in, the blank line that ends it included.
    pub raw: Bytes,
}

impl Event {
    /// Whether there is nothing to read in it: comments, blank lines, unknown fields.
    #[must_use]
    pub fn is_padding(&self) -> bool {
        self.name.is_none() && self.data.is_none() && self.id.is_none() && self.retry.is_none()
    }

    /// Its data if it carries an MCP message: the name is `message` or missing, and the data not empty.
    #[must_use]
    pub fn message(&self) -> Option<&Bytes> {
        let name = self.name.as_deref().unwrap_or_default();
        let is_message = name.is_empty() || name == DEFAULT_NAME;
        self.data
            .as_ref()
            .filter(|data| is_message && !data.is_empty())
    }

    /// Its bytes with other data: the lines that are not data stay as they came, line ends included.
    #[must_use]
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        rewrite(&self.raw, b"data", lines_of(data))
    }

    /// Its bytes with another id. An id cannot hold CR, LF or NUL: they are left out.
    #[must_use]
    pub fn with_id(&self, id: &[u8]) -> Bytes {
        let id = one_line(id);
        rewrite(&self.raw, b"id", std::iter::once(id.as_slice()))
    }

    fn read(raw: Bytes) -> Self {
        let mut event = Self::default();
        let mut joined: Option<BytesMut> = None;
        for line in Lines(&raw) {
            let Some((field, value)) = line.field() else {
                continue;
            };
            match field {
                b"data" => match (&event.data, &mut joined) {
                    (None, _) => event.data = Some(raw.slice_ref(value)),
                    (Some(first), None) => {
                        let mut both = BytesMut::with_capacity(raw.len());
                        both.extend_from_slice(first);
                        both.put_u8(b'\n');
                        both.extend_from_slice(value);
                        joined = Some(both);
                    }
                    (Some(_), Some(joined)) => {
                        joined.put_u8(b'\n');
                        joined.extend_from_slice(value);
                    }
                },
                b"event" => event.name = Some(raw.slice_ref(value)),
                b"id" if memchr(0, value).is_none() => event.id = Some(raw.slice_ref(value)),
                b"retry" => event.retry = milliseconds(value).or(event.retry),
                _ => {}
            }
        }
        if let Some(joined) = joined {
            event.data = Some(joined.freeze());
        }
        event.raw = raw;
        event
    }
}

/// An event has more bytes than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a server-sent event is larger than the limit")
    }
}

impl std::error::Error for TooLarge {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A byte order mark may come.
    Start,
    Open,
    Failed,
}

/// Reads events out of bytes in any split.
///
/// Call [`push`](Self::push) with each chunk, then [`next`](Self::next) until it gives nothing; at the end of the
/// stream [`finish`](Self::finish).
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    phase: Phase,
    /// What has not gone out yet.
    buffer: BytesMut,
    /// Where the line begins that is being read.
    line: usize,
    /// Up to here that line has no end.
    seen: usize,
    /// Whether an event has begun, at the start of the buffer.
    in_event: bool,
}

impl Decoder {
    /// A decoder of events that have at most `limit` bytes each.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            phase: Phase::Start,
            buffer: BytesMut::new(),
            line: 0,
            seen: 0,
            in_event: false,
        }
    }

    /// Takes what has arrived.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.phase != Phase::Failed {
            self.buffer.extend_from_slice(chunk);
        }
    }

    /// Gives the next event, or nothing until more is pushed.
    ///
    /// # Errors
    ///
    /// [`TooLarge`], and then forever.
    #[expect(
        clippy::should_implement_trait,
        reason = "nothing means not yet, not the end"
    )]
    pub fn next(&mut self) -> Result<Option<Event>, TooLarge> {
        match self.phase {
            Phase::Failed => return Err(TooLarge),
            Phase::Start if self.buffer.starts_with(BYTE_ORDER_MARK) => {
                self.phase = Phase::Open;
                (self.line, self.seen) = (BYTE_ORDER_MARK.len(), BYTE_ORDER_MARK.len());
                return Ok(Some(self.padding(BYTE_ORDER_MARK.len())));
            }
            Phase::Start if BYTE_ORDER_MARK.starts_with(&self.buffer) => return Ok(None),
            Phase::Start => self.phase = Phase::Open,
            Phase::Open => {}
        }
        while let Some((stop, end)) = self.line_end() {
            let start = self.line;
            let (is_blank, is_comment) = (stop == start, self.buffer.get(start) == Some(&b':'));
            let from = if self.in_event { 0 } else { start };
            // Without the LF of a CR LF, which may come too late to be counted.
            if stop + 1 - from > self.limit {
                return self.fail();
            }
            (self.line, self.seen) = (end, end);
            if self.in_event && is_blank {
                self.in_event = false;
                return Ok(Some(Event::read(self.cut(end))));
            }
            if !self.in_event && !is_blank && !is_comment {
                self.in_event = true;
                if start > 0 {
                    return Ok(Some(self.padding(start)));
                }
            }
        }
        if !self.in_event && self.line > 0 {
            return Ok(Some(self.padding(self.line)));
        }
        if self.buffer.len() > self.limit {
            return self.fail();
        }
        Ok(None)
    }

    /// Whether nothing is held back: the bytes so far end with an event, or with what stands between two. Only there
    /// something of one's own may be put into the stream.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Ends it: the bytes of an event that has not ended. A reader ignores them, a proxy may pass them on.
    ///
    /// After [`TooLarge`] these are the bytes up to the end of the chunk that was too much.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }

    /// Where the line that is being read stops, and where its line end ends.
    fn line_end(&mut self) -> Option<(usize, usize)> {
        let Some(at) = memchr2(b'\r', b'\n', self.buffer.get(self.seen..)?) else {
            self.seen = self.buffer.len();
            return None;
        };
        let stop = self.seen + at;
        self.seen = stop;
        if self.buffer.get(stop) == Some(&b'\n') {
            return Some((stop, stop + 1));
        }
        match self.buffer.get(stop + 1) {
            Some(b'\n') => Some((stop, stop + 2)),
            Some(_) => Some((stop, stop + 1)),
            // A CR that ends an event must not wait for an LF that may never come.
            None if self.in_event && stop == self.line => Some((stop, stop + 1)),
            None => None,
        }
    }

    /// The first `count` bytes, which are none.
    fn padding(&mut self, count: usize) -> Event {
        Event {
            raw: self.cut(count),
            ..Event::default()
        }
    }

    fn cut(&mut self, count: usize) -> Bytes {
        self.line = self.line.saturating_sub(count);
        self.seen = self.seen.saturating_sub(count);
        self.buffer.split_to(count).freeze()
    }

    fn fail(&mut self) -> Result<Option<Event>, TooLarge> {
        self.phase = Phase::Failed;
        Err(TooLarge)
    }
}

/// An event as it is written. Data of several lines becomes several `data` lines; CR, LF and NUL in a name or an id,
/// which these cannot hold, are left out.
#[must_use]
pub fn encode_event(name: Option<&str>, id: Option<&str>, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 32);
    if let Some(name) = name {
        put_line(&mut out, b"event: ", &one_line(name.as_bytes()), b"\n");
    }
    if let Some(id) = id {
        put_line(&mut out, b"id: ", &one_line(id.as_bytes()), b"\n");
    }
    for line in lines_of(data) {
        put_line(&mut out, b"data: ", line, b"\n");
    }
    out.put_u8(b'\n');
    out.freeze()
}

/// A comment as it is written, with a blank line after it, so that readers which wait for one see it too.
#[must_use]
pub fn comment(text: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len() + 8);
    for line in lines_of(text.as_bytes()) {
        put_line(&mut out, b": ", line, b"\n");
    }
    out.put_u8(b'\n');
    out.freeze()
}

/// `raw` with the lines of `field` replaced by one for each of `values`, where the first stood or else at the end.
fn rewrite<'a>(raw: &[u8], field: &[u8], values: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let mut values = Some(values);
    let mut out = BytesMut::with_capacity(raw.len() + 32);
    let mut put_values = |out: &mut BytesMut, end: &[u8]| {
        for value in values.take().into_iter().flatten() {
            out.extend_from_slice(field);
            put_line(out, b": ", value, end);
        }
    };
    for line in Lines(raw) {
        let is_replaced = line.field().is_some_and(|(name, _)| name == field);
        if is_replaced || line.text.is_empty() {
            put_values(&mut out, line.end);
        }
        if is_replaced {
            continue;
        }
        // The line that stood between a CR and this LF is gone: they must not become one line end.
        if out.ends_with(b"\r") && line.text.is_empty() && line.end == b"\n" {
            out.put_u8(b'\n');
        }
        put_line(&mut out, b"", line.text, line.end);
    }
    out.freeze()
}

fn put_line(out: &mut BytesMut, prefix: &[u8], text: &[u8], end: &[u8]) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(text);
    out.extend_from_slice(end);
}

/// A line and the bytes that end it.
struct Line<'a> {
    text: &'a [u8],
    end: &'a [u8],
}

impl<'a> Line<'a> {
    /// Its field and value; a comment or a blank line has none.
    fn field(&self) -> Option<(&'a [u8], &'a [u8])> {
        match memchr(b':', self.text) {
            Some(0) => None,
            Some(colon) => {
                let (name, rest) = self.text.split_at(colon);
                let value = rest.strip_prefix(b":").unwrap_or(rest);
                Some((name, value.strip_prefix(b" ").unwrap_or(value)))
            }
            None if self.text.is_empty() => None,
            None => Some((self.text, self.text.get(self.text.len()..)?)),
        }
    }
}

/// The lines of whole lines.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let stop = memchr2(b'\r', b'\n', self.0).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(stop);
        let width = if rest.starts_with(b"\r\n") { 2 } else { 1 };
        let (end, rest) = rest.split_at(width.min(rest.len()));
        self.0 = rest;
        Some(Line { text, end })
    }
}

/// The lines of a value; an empty value has one.
fn lines_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends_open = value.is_empty() || value.ends_with(b"\n") || value.ends_with(b"\r");
    let last: Option<&[u8]> = ends_open.then_some(&[]);
    Lines(value).map(|line| line.text).chain(last)
}

fn one_line(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    value.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
    value
}

/// Digits only; a number too large for us is none.
fn milliseconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
