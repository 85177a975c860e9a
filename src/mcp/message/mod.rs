//! The envelope of a JSON-RPC message, read once and borrowed: where things stand in the bytes, nothing copied.
//!
//! Contract:
//!
//! 1. [`Message::read`] looks at the bytes once and notes spans of them. The bytes stay the message: what is passed
//!    on is what came, with every unknown field, number spelling and key order.
//! 2. An id is kept in the JSON spelling it came in (`1`, `1.0`, `"1"` are three ids).
//! 3. A key that policy, routing or correlation reads must not stand twice in its object: the server might read the
//!    other one. Such a message is refused ([`Malformed::DuplicateKey`]).
//! 4. An array is a batch: told apart, counted and read part by part, never half.
//! 5. A string that we read (a method, a name) and a key beside it must say the same to everybody: a lone surrogate in
//!    it is refused ([`Malformed::Syntax`]).
//! 6. Any bytes give a value or an error. JSON is checked whole, to the last byte, and to a depth of 128; its size is
//!    the caller's bound.
//!
//! It deliberately does not judge: which fields an era demands is `inspect`'s and `bridge`'s to say.

use std::borrow::Cow;
use std::fmt;

use crate::mcp::method::{Method, NamedBy};
use crate::mcp::reply::Reply;
use crate::mcp::scan::Scanner;

/// A piece of the bytes that were read: `start..end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// From `start` up to `end`.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            end: u32::try_from(end).unwrap_or(u32::MAX),
        }
    }

    /// The piece of `bytes`, which must be those that were read; of others, nothing.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// The piece as text; of bytes that are not UTF-8, nothing.
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).unwrap_or_default()
    }
}

/// A JSON string in the bytes, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(Span);

impl Text {
    /// The string token at `span`.
    pub(crate) fn new(span: Span) -> Self {
        Self(span)
    }

    /// Where its token stands, quotes included.
    #[must_use]
    pub fn span(self) -> Span {
        self.0
    }

    /// What it says: borrowed, unless it has escapes.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        let token = self.0.text(bytes);
        let inner = token
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or_default();
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Cow::Borrowed(inner);
        }
        serde_json::from_str::<String>(token).map_or(Cow::Borrowed(""), Cow::Owned)
    }
}

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Has a method and an id: wants an answer.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has a `result`.
    Result,
    /// Has an `error`.
    Error,
}

/// The method of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MethodName {
    /// One of the specification.
    Known(Method),
    /// Another one.
    Other(Text),
}

impl MethodName {
    /// The known method.
    #[must_use]
    pub fn known(self) -> Option<Method> {
        match self {
            Self::Known(method) => Some(method),
            Self::Other(_) => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Known(method) => Cow::Borrowed(method.as_str()),
            Self::Other(text) => text.decode(bytes),
        }
    }
}

/// What stands in `params._meta` (requests) that a proxy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// The whole object.
    pub span: Option<Span>,
    /// `io.modelcontextprotocol/protocolVersion`, any JSON value.
    pub protocol_version: Option<Span>,
    /// `io.modelcontextprotocol/clientCapabilities`, any JSON value.
    pub client_capabilities: Option<Span>,
    /// `io.modelcontextprotocol/logLevel`.
    pub log_level: Option<Span>,
    /// `progressToken`, in its JSON spelling.
    pub progress_token: Option<Span>,
    /// `traceparent`.
    pub traceparent: Option<Span>,
    /// As [`Message::has_lookalike`], of its keys.
    pub has_lookalike: bool,
}

impl Meta {
    /// Whether the message claims to describe itself (2026-07-28): then it is never served as legacy.
    #[must_use]
    pub fn is_envelope(&self) -> bool {
        self.protocol_version.is_some() || self.client_capabilities.is_some()
    }
}

/// What stands in `params` that a proxy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Params {
    /// The whole value.
    pub span: Option<Span>,
    /// `params.name`, if it is a string.
    pub name: Option<Text>,
    /// `params.uri`, if it is a string.
    pub uri: Option<Text>,
    /// `params.taskId`, if it is a string.
    pub task_id: Option<Text>,
    /// `params.requestId` (of `notifications/cancelled`), in its JSON spelling.
    pub request_id: Option<Span>,
    /// `params.protocolVersion` (of `initialize`).
    pub protocol_version: Option<Text>,
    /// `params.arguments` (of `tools/call`).
    pub arguments: Option<Span>,
    /// Whether it answers an `input_required` result: `inputResponses` or `requestState` is there.
    pub is_answer_to_input: bool,
    /// Whether it asks for a task (2025-11-25): `params.task` is there.
    pub has_task: bool,
    /// `params._meta`.
    pub meta: Meta,
    /// As [`Message::has_lookalike`], of the keys of `params` and `_meta`.
    pub has_lookalike: bool,
}

/// Where things stand in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its id, in its JSON spelling. `null` counts as an id of an error only.
    pub id: Option<Span>,
    /// Its method, if it is a request or a notification.
    pub method: Option<MethodName>,
    /// What `params` holds.
    pub params: Params,
    /// The value of `result` or `error`.
    pub outcome: Option<Span>,
    /// Whether a key is one that we read but for its case. A peer whose decoder does not tell case apart reads it, too,
    /// and then not what we have read.
    pub has_lookalike: bool,
}

/// One message, or several in an array (2025-03-26).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parsed {
    /// One message.
    One(Message),
    /// A batch: the spans of its parts and what they are.
    Batch(Vec<(Span, Message)>),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Not JSON, not UTF-8, or nested too deep.
    Syntax,
    /// JSON, but no JSON-RPC 2.0 message.
    NotAMessage,
    /// A key that we read stands twice.
    DuplicateKey,
    /// A batch without parts, or with too many.
    BatchSize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not valid JSON",
            Self::NotAMessage => "not a JSON-RPC 2.0 message",
            Self::DuplicateKey => "a key stands twice",
            Self::BatchSize => "a batch must have 1 to 100 parts",
        })
    }
}

impl std::error::Error for Malformed {}

/// The most parts a batch may have.
pub const MAX_BATCH: usize = 100;

impl Message {
    /// Reads one message or a batch.
    ///
    /// # Errors
    ///
    /// As [`Malformed`] says. More than 4 GiB is [`Malformed::Syntax`].
    pub fn read(bytes: &[u8]) -> Result<Parsed, Malformed> {
        checked(bytes, |json| {
            if json.peek() == Some(b'[') {
                return read_batch(bytes, json).map(Parsed::Batch);
            }
            let found = Envelope::read(json, None)?;
            found.into_message(bytes).map(Parsed::One)
        })
    }

    /// Reads one message and, if it is an answer, what its `result` or `error` holds.
    ///
    /// # Errors
    ///
    /// As [`Malformed`] says; a batch is [`Malformed::NotAMessage`] (its parts: [`Reply::of`]).
    pub fn read_answer(bytes: &[u8]) -> Result<(Self, Reply), Malformed> {
        checked(bytes, |json| {
            let mut reply = Reply::default();
            let found = Envelope::read(json, Some(&mut reply))?;
            Ok((found.into_message(bytes)?, reply))
        })
    }

    /// The subject of the request, as 2026-07-28 mirrors it in `Mcp-Name`.
    #[must_use]
    pub fn subject(&self) -> Option<Text> {
        match self.method?.known()?.named_by()? {
            NamedBy::Name => self.params.name,
            NamedBy::Uri => self.params.uri,
            NamedBy::TaskId => self.params.task_id,
        }
    }

    /// The known method.
    #[must_use]
    pub fn known_method(&self) -> Option<Method> {
        self.method?.known()
    }
}

/// What `read` makes of the bytes, which it must read to the end. Of what is wrong with them, the syntax comes first.
fn checked<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Scanner<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    // Most messages are ASCII, and to see that costs a tenth of what it costs to read UTF-8.
    let is_text = bytes.is_ascii() || std::str::from_utf8(bytes).is_ok();
    let (true, Ok(end)) = (is_text, u32::try_from(bytes.len())) else {
        return Err(Malformed::Syntax);
    };
    let span = Span { start: 0, end };
    let mut json = Scanner::within(bytes, span);
    let outcome = read(&mut json);
    if outcome.is_err() {
        json = Scanner::within(bytes, span);
        json.value()?;
    }
    json.end()?;
    outcome
}

fn read_batch(bytes: &[u8], json: &mut Scanner<'_>) -> Result<Vec<(Span, Message)>, Malformed> {
    let mut parts = Vec::new();
    let mut count = 0;
    json.array(|json| {
        count += 1;
        if count > MAX_BATCH {
            return Err(Malformed::BatchSize);
        }
        let start = json.place();
        let message = Envelope::read(json, None)?.into_message(bytes)?;
        parts.push((json.span_from(start), message));
        Ok(())
    })?;
    if parts.is_empty() {
        return Err(Malformed::BatchSize);
    }
    Ok(parts)
}

/// Notes `value` in `slot`, once.
pub(crate) fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::DuplicateKey),
    }
}

/// Notes that something is there, once.
fn first(is_there: &mut bool) -> Result<(), Malformed> {
    if std::mem::replace(is_there, true) {
        return Err(Malformed::DuplicateKey);
    }
    Ok(())
}

const ENVELOPE_KEYS: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS_KEYS: &[&str] = &[
    "name",
    "uri",
    "taskId",
    "protocolVersion",
    "requestId",
    "arguments",
    "_meta",
    "inputResponses",
    "requestState",
    "task",
];
const META_KEYS: &[&str] = &[
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/logLevel",
    "progressToken",
    "traceparent",
];

/// Whether a decoder that does not tell case apart takes `key` for one of `known`. Some fold as Unicode does: two
/// letters beyond ASCII are then an `s` and a `k`.
fn looks_like_one_of(known: &[&str], key: &[u8]) -> bool {
    if key.is_ascii() {
        return known
            .iter()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(key));
    }
    let folded = String::from_utf8_lossy(key)
        .replace('\u{17f}', "s")
        .replace('\u{212a}', "k");
    known
        .iter()
        .any(|known| known.eq_ignore_ascii_case(&folded))
}

/// What stands in the object of a message.
#[derive(Default)]
struct Envelope {
    version: Option<Span>,
    id: Option<Span>,
    method: Option<(Span, Option<Text>)>,
    // In place, and not as an option: it is most of a message, and would be moved from hand to hand.
    params: Params,
    has_params: bool,
    result: Option<Span>,
    error: Option<Span>,
    has_lookalike: bool,
}

impl Envelope {
    /// Reads one message. What a `result` or an `error` holds goes to `reply`, if somebody wants it.
    fn read(json: &mut Scanner<'_>, mut reply: Option<&mut Reply>) -> Result<Self, Malformed> {
        if json.peek() != Some(b'{') {
            return Err(Malformed::NotAMessage);
        }
        let mut found = Self::default();
        json.object(|json, key| match key {
            b"jsonrpc" => once(&mut found.version, json.value()?),
            b"id" => once(&mut found.id, json.value()?),
            b"method" => once(&mut found.method, json.text()?),
            b"params" => {
                first(&mut found.has_params)?;
                found.params.read(json)
            }
            b"result" => once(&mut found.result, outcome(json, reply.as_deref_mut())?),
            b"error" => once(&mut found.error, outcome(json, reply.as_deref_mut())?),
            _ => {
                found.has_lookalike |= looks_like_one_of(ENVELOPE_KEYS, key);
                json.value().map(drop)
            }
        })?;
        Ok(found)
    }

    fn into_message(self, bytes: &[u8]) -> Result<Message, Malformed> {
        if self
            .version
            .is_none_or(|version| version.of(bytes) != b"\"2.0\"")
        {
            return Err(Malformed::NotAMessage);
        }
        let id_is_null = self.id.is_some_and(|id| id.of(bytes) == b"null");
        let method = match self.method {
            None => None,
            Some((_, text)) => Some(text.ok_or(Malformed::NotAMessage)?),
        };
        let kind = match (method, self.result, self.error) {
            (Some(_), None, None) if self.id.is_none() => Kind::Notification,
            (Some(_), None, None) if !id_is_null => Kind::Request,
            (None, Some(_), None) if self.id.is_some() && !id_is_null => Kind::Result,
            (None, None, Some(_)) => Kind::Error,
            _ => return Err(Malformed::NotAMessage),
        };
        if self.id.is_some_and(|id| !is_id(id.of(bytes))) {
            return Err(Malformed::NotAMessage);
        }
        Ok(Message {
            kind,
            id: self.id,
            method: method.map(|text| match Method::parse(&text.decode(bytes)) {
                Some(method) => MethodName::Known(method),
                None => MethodName::Other(text),
            }),
            has_lookalike: self.has_lookalike || self.params.has_lookalike,
            params: self.params,
            outcome: self.result.or(self.error),
        })
    }
}

fn outcome(json: &mut Scanner<'_>, reply: Option<&mut Reply>) -> Result<Span, Malformed> {
    match reply {
        Some(reply) => reply.fill(json),
        None => json.value(),
    }
}

/// A string, a number in any spelling, or null.
fn is_id(token: &[u8]) -> bool {
    matches!(token.first(), Some(b'"' | b'-' | b'0'..=b'9')) || token == b"null"
}

impl Params {
    /// Reads `params`: its known keys if it is an object, only its span otherwise.
    fn read(&mut self, json: &mut Scanner<'_>) -> Result<(), Malformed> {
        if json.peek() != Some(b'{') {
            self.span = Some(json.value()?);
            return Ok(());
        }
        let (mut name, mut uri, mut task, mut version) = (None, None, None, None);
        let mut has_meta = false;
        let span = json.object(|json, key| match key {
            b"name" => once(&mut name, json.text()?.1),
            b"uri" => once(&mut uri, json.text()?.1),
            b"taskId" => once(&mut task, json.text()?.1),
            b"protocolVersion" => once(&mut version, json.text()?.1),
            b"requestId" => once(&mut self.request_id, json.value()?),
            b"arguments" => once(&mut self.arguments, json.value()?),
            b"_meta" => {
                first(&mut has_meta)?;
                self.meta.read(json)
            }
            b"inputResponses" | b"requestState" => {
                self.is_answer_to_input = true;
                json.value().map(drop)
            }
            b"task" => {
                self.has_task = true;
                json.value().map(drop)
            }
            _ => {
                self.has_lookalike |= looks_like_one_of(PARAMS_KEYS, key);
                json.value().map(drop)
            }
        })?;
        self.span = Some(span);
        self.name = name.flatten();
        self.uri = uri.flatten();
        self.task_id = task.flatten();
        self.protocol_version = version.flatten();
        self.has_lookalike |= self.meta.has_lookalike;
        Ok(())
    }
}

impl Meta {
    /// Reads `_meta`: its known keys if it is an object, only its span otherwise.
    fn read(&mut self, json: &mut Scanner<'_>) -> Result<(), Malformed> {
        if json.peek() != Some(b'{') {
            self.span = Some(json.value()?);
            return Ok(());
        }
        let span = json.object(|json, key| {
            let value = json.value()?;
            let slot = match key {
                b"io.modelcontextprotocol/protocolVersion" => &mut self.protocol_version,
                b"io.modelcontextprotocol/clientCapabilities" => &mut self.client_capabilities,
                b"io.modelcontextprotocol/logLevel" => &mut self.log_level,
                b"progressToken" => &mut self.progress_token,
                b"traceparent" => &mut self.traceparent,
                _ => {
                    self.has_lookalike |= looks_like_one_of(META_KEYS, key);
                    return Ok(());
                }
            };
            once(slot, value)
        })?;
        self.span = Some(span);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
