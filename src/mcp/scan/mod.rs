//! One pass over JSON: checks every byte of it, decodes nothing, and does not recurse on input.
//!
//! It accepts what `serde_json` accepts when it ignores a value (RFC 8259; a lone surrogate escape is a matter of
//! decoding), up to [`MAX_DEPTH`]. A property test holds the two together.

use std::borrow::Cow;

use memchr::memchr2;

use crate::mcp::message::{Malformed, Span, Text};

/// How deep objects and arrays may nest.
pub(crate) const MAX_DEPTH: u32 = 128;

type Result<T> = std::result::Result<T, Malformed>;

/// A place in JSON text. The bytes must be UTF-8: that is checked before, and whole.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    /// At the start of `span`, not to be left.
    pub(crate) fn within(bytes: &'a [u8], span: Span) -> Self {
        Self {
            bytes: bytes.get(..span.end as usize).unwrap_or_default(),
            at: span.start as usize,
            depth: 0,
        }
    }

    /// The next byte that is no white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(Malformed::Syntax),
        }
    }

    /// Reads the members of the object that stands here. `member` gets each key, decoded, and must read the value.
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &[u8]) -> Result<()>,
    ) -> Result<Span> {
        self.expect(b'{')?;
        let start = self.at - 1;
        self.descend()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let key = self.key()?;
                member(self, &key)?;
                if self.comma_or(b'}')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(self.span_from(start))
    }

    /// Reads the elements of the array that stands here. `element` must read the value.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<Span> {
        self.expect(b'[')?;
        let start = self.at - 1;
        self.descend()?;
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                element(self)?;
                if self.comma_or(b']')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(self.span_from(start))
    }

    /// Reads any value. If it is a string that we are going to decode, use [`Self::text`].
    pub(crate) fn value(&mut self) -> Result<Span> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'{' | b'[') => self.container()?,
            _ => self.scalar()?,
        }
        Ok(self.span_from(start))
    }

    /// Reads any value; if it is a string, which must be one that can be decoded, it is the answer.
    pub(crate) fn text(&mut self) -> Result<(Span, Option<Text>)> {
        if self.peek() != Some(b'"') {
            return Ok((self.value()?, None));
        }
        let start = self.at;
        let escaped = self.string()?;
        let text = Text::new(self.span_from(start));
        if escaped {
            self.decoded(text)?;
        }
        Ok((text.span(), Some(text)))
    }

    /// Skips the object or array that stands here, with what is in it.
    fn container(&mut self) -> Result<()> {
        let outside = self.depth;
        // What encloses the place, innermost in the lowest bit: 1 for an object.
        let mut kinds: u128 = 0;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    self.at += 1;
                    self.descend()?;
                    let is_object = open == b'{';
                    kinds = kinds << 1 | u128::from(is_object);
                    let is_empty = self.peek() == Some(if is_object { b'}' } else { b']' });
                    if !is_empty {
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            while self.comma_or(if kinds & 1 == 1 { b'}' } else { b']' })? {
                kinds >>= 1;
                self.depth -= 1;
                if self.depth == outside {
                    return Ok(());
                }
            }
            if kinds & 1 == 1 {
                self.skip_key()?;
            }
        }
    }

    fn scalar(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(Malformed::Syntax),
        }
    }

    /// Skips a string, quotes included, and says whether it has escapes.
    fn string(&mut self) -> Result<bool> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_prefix(self.rest());
            match self.bump() {
                Some(b'"') => return Ok(escaped),
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                // A control character, or the end.
                _ => return Err(Malformed::Syntax),
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        match self.bump() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => match self.rest().first_chunk::<4>() {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {
                    self.at += 4;
                    Ok(())
                }
                _ => Err(Malformed::Syntax),
            },
            _ => Err(Malformed::Syntax),
        }
    }

    fn number(&mut self) -> Result<()> {
        self.eat(|byte| byte == b'-');
        if !self.eat(|byte| byte == b'0') {
            self.digits()?;
        }
        if self.eat(|byte| byte == b'.') {
            self.digits()?;
        }
        if self.eat(|byte| matches!(byte, b'e' | b'E')) {
            self.eat(|byte| matches!(byte, b'+' | b'-'));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<()> {
        let count = self
            .rest()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        if count == 0 {
            return Err(Malformed::Syntax);
        }
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<()> {
        if !self.rest().starts_with(word) {
            return Err(Malformed::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads a key and its colon. It must be one that can be decoded: it is compared.
    fn key(&mut self) -> Result<Cow<'a, [u8]>> {
        if self.peek() != Some(b'"') {
            return Err(Malformed::Syntax);
        }
        let start = self.at;
        let escaped = self.string()?;
        let end = self.at;
        self.expect(b':')?;
        if escaped {
            let text = Text::new(Span::new(start, end));
            return Ok(Cow::Owned(self.decoded(text)?.into_bytes()));
        }
        let inner = self.bytes.get(start + 1..end - 1);
        Ok(Cow::Borrowed(inner.unwrap_or_default()))
    }

    fn skip_key(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(Malformed::Syntax);
        }
        self.string()?;
        self.expect(b':')
    }

    /// What a string with escapes says. A lone surrogate, which Rust's text cannot hold, is refused: peers do not agree
    /// on what it says.
    fn decoded(&self, text: Text) -> Result<String> {
        serde_json::from_slice(text.span().of(self.bytes)).map_err(|_| Malformed::Syntax)
    }

    /// Whether the object or array ends here; otherwise a comma does.
    fn comma_or(&mut self, close: u8) -> Result<bool> {
        let next = self.peek();
        self.at += 1;
        match next {
            Some(b',') => Ok(false),
            Some(byte) if byte == close => Ok(true),
            _ => Err(Malformed::Syntax),
        }
    }

    fn descend(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Malformed::Syntax);
        }
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(Malformed::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    fn eat(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.bytes.get(self.at).is_some_and(|&byte| wanted(byte));
        self.at += usize::from(found);
        found
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Where the next value begins.
    pub(crate) fn place(&mut self) -> usize {
        self.peek();
        self.at
    }

    /// From there to here.
    pub(crate) fn span_from(&self, start: usize) -> Span {
        Span::new(start, self.at)
    }
}

/// How many bytes come before the first that is special in a string: a quote, a backslash, a control character.
///
/// Eight bytes at a time as one number, which is all that a short string takes; the rest of a long one by `memchr`.
fn plain_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk)
        && at < SHORT
    {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    if at < SHORT {
        let stop = rest.iter().position(|&byte| is_special(byte));
        return at + stop.unwrap_or(rest.len());
    }
    let stop = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    let plain = rest.get(..stop).unwrap_or_default();
    // The least byte of all, without a short cut: so the compiler makes vector instructions of it.
    if plain.iter().fold(u8::MAX, |least, &byte| least.min(byte)) < 0x20 {
        let control = plain.iter().position(|&byte| byte < 0x20);
        return at + control.unwrap_or(stop);
    }
    at + stop
}

/// So far eight bytes at a time are cheaper than the start of a `memchr`.
const SHORT: usize = 32;

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// The high bit of each special byte in `word`. Bits above the lowest of them may be wrong.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    below(word, 0x20)
        | below(word ^ (ONES * u64::from(b'"')), 1)
        | below(word ^ (ONES * u64::from(b'\\')), 1)
}

#[cfg(test)]
mod tests;
