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
//! 5. Any bytes give a value or an error. Depth and size are the caller's bound; nothing here recurses on input.
//!
//! It deliberately does not judge: which fields an era demands is `inspect`'s and `bridge`'s to say.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::mcp::method::{Method, NamedBy};

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
    /// Not JSON, or not UTF-8.
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
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Syntax)?;
        if u32::try_from(text.len()).is_err() {
            return Err(Malformed::Syntax);
        }
        if text
            .trim_start_matches([' ', '\t', '\n', '\r'])
            .starts_with('[')
        {
            return read_batch(text).map(Parsed::Batch);
        }
        read_one(text, text).map(Parsed::One)
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

fn read_batch(text: &str) -> Result<Vec<(Span, Message)>, Malformed> {
    let mut json = serde_json::Deserializer::from_str(text);
    let parts = serde::Deserializer::deserialize_seq(&mut json, Parts).map_err(malformed)?;
    json.end().map_err(|_| Malformed::Syntax)?;
    if parts.is_empty() || parts.len() > MAX_BATCH {
        return Err(Malformed::BatchSize);
    }
    parts
        .into_iter()
        .map(|part| Ok((span_of(text, part), read_one(text, part)?)))
        .collect()
}

fn read_one(whole: &str, text: &str) -> Result<Message, Malformed> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = EnvelopeSeed { whole }
        .deserialize(&mut json)
        .map_err(malformed)?;
    json.end().map_err(|_| Malformed::Syntax)?;
    found.into_message(whole)
}

/// Sentinels that our visitors put into serde's error, to be told apart below.
const DUPLICATE: &str = "outrigger: duplicate key";
const SHAPE: &str = "outrigger: not a message";

fn malformed(error: serde_json::Error) -> Malformed {
    if error.classify() != serde_json::error::Category::Data {
        return Malformed::Syntax;
    }
    if error.to_string().starts_with(DUPLICATE) {
        Malformed::DuplicateKey
    } else {
        Malformed::NotAMessage
    }
}

/// Where `part`, a slice of `whole`, stands in it.
fn span_of(whole: &str, part: &str) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    Span {
        start: u32::try_from(start).unwrap_or(u32::MAX),
        end: u32::try_from(start + part.len()).unwrap_or(u32::MAX),
    }
}

/// Notes `span` in `slot`, once.
fn once<T, E: serde::de::Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    if slot.replace(value).is_some() {
        Err(E::custom(DUPLICATE))
    } else {
        Ok(())
    }
}

/// The string token at `span`, or nothing if another value stands there.
fn text_at(whole: &str, span: Span) -> Option<Text> {
    span.of(whole.as_bytes())
        .starts_with(b"\"")
        .then_some(Text(span))
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHAPE)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = seq.next_element::<&RawValue>()? {
            if parts.len() <= MAX_BATCH {
                parts.push(part.get());
            }
        }
        Ok(parts)
    }
}

#[derive(Default)]
struct Envelope {
    version: Option<Span>,
    id: Option<Span>,
    method: Option<Span>,
    params: Option<Params>,
    result: Option<Span>,
    error: Option<Span>,
}

impl Envelope {
    fn into_message(self, whole: &str) -> Result<Message, Malformed> {
        let bytes = whole.as_bytes();
        if self
            .version
            .is_none_or(|version| version.of(bytes) != b"\"2.0\"")
        {
            return Err(Malformed::NotAMessage);
        }
        let id_is_null = self.id.is_some_and(|id| id.of(bytes) == b"null");
        let method = match self.method {
            None => None,
            Some(span) => Some(text_at(whole, span).ok_or(Malformed::NotAMessage)?),
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
            params: self.params.unwrap_or_default(),
            outcome: self.result.or(self.error),
        })
    }
}

/// A string, a number in any spelling, or null.
fn is_id(token: &[u8]) -> bool {
    matches!(token.first(), Some(b'"' | b'-' | b'0'..=b'9')) || token == b"null"
}

struct EnvelopeSeed<'a> {
    whole: &'a str,
}

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'de> {
    type Value = Envelope;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Envelope, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'de> {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHAPE)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope, A::Error> {
        let mut found = Envelope::default();
        while let Some(key) = map.next_key_seed(Key)? {
            match key.as_ref() {
                "jsonrpc" => once(&mut found.version, raw(self.whole, &mut map)?)?,
                "id" => once(&mut found.id, raw(self.whole, &mut map)?)?,
                "method" => once(&mut found.method, raw(self.whole, &mut map)?)?,
                "params" => once(
                    &mut found.params,
                    map.next_value_seed(ParamsSeed { whole: self.whole })?,
                )?,
                "result" => once(&mut found.result, raw(self.whole, &mut map)?)?,
                "error" => once(&mut found.error, raw(self.whole, &mut map)?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

fn raw<'de, A: MapAccess<'de>>(whole: &'de str, map: &mut A) -> Result<Span, A::Error> {
    Ok(span_of(whole, map.next_value::<&'de RawValue>()?.get()))
}

/// A key, borrowed unless it has escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// Reads `params`: its known keys if it is an object, only its span otherwise.
struct ParamsSeed<'a> {
    whole: &'a str,
}

impl<'de> DeserializeSeed<'de> for ParamsSeed<'de> {
    type Value = Params;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Params, D::Error> {
        // The span is found by taking the value whole; what it holds is then read from that slice. Strings inside
        // are skipped, not decoded, so the second look costs little; one visitor cannot give both.
        let raw = <&'de RawValue as serde::Deserialize<'de>>::deserialize(deserializer)?.get();
        let mut params = if raw.starts_with('{') {
            let mut json = serde_json::Deserializer::from_str(raw);
            serde::Deserializer::deserialize_map(&mut json, ParamsVisitor { whole: self.whole })
                .map_err(D::Error::custom)?
        } else {
            Params::default()
        };
        params.span = Some(span_of(self.whole, raw));
        Ok(params)
    }
}

struct ParamsVisitor<'a> {
    whole: &'a str,
}

impl<'de> Visitor<'de> for ParamsVisitor<'de> {
    type Value = Params;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHAPE)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Params, A::Error> {
        let whole = self.whole;
        let (mut name, mut uri, mut task, mut version, mut meta) = (None, None, None, None, None);
        let mut params = Params::default();
        while let Some(key) = map.next_key_seed(Key)? {
            match key.as_ref() {
                "name" => once(&mut name, raw(whole, &mut map)?)?,
                "uri" => once(&mut uri, raw(whole, &mut map)?)?,
                "taskId" => once(&mut task, raw(whole, &mut map)?)?,
                "protocolVersion" => once(&mut version, raw(whole, &mut map)?)?,
                "requestId" => once(&mut params.request_id, raw(whole, &mut map)?)?,
                "arguments" => once(&mut params.arguments, raw(whole, &mut map)?)?,
                "_meta" => once(&mut meta, map.next_value_seed(MetaSeed { whole })?)?,
                "inputResponses" | "requestState" => {
                    map.next_value::<IgnoredAny>()?;
                    params.is_answer_to_input = true;
                }
                "task" => {
                    map.next_value::<IgnoredAny>()?;
                    params.has_task = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        params.name = name.and_then(|span| text_at(whole, span));
        params.uri = uri.and_then(|span| text_at(whole, span));
        params.task_id = task.and_then(|span| text_at(whole, span));
        params.protocol_version = version.and_then(|span| text_at(whole, span));
        params.meta = meta.unwrap_or_default();
        Ok(params)
    }
}

struct MetaSeed<'a> {
    whole: &'a str,
}

impl<'de> DeserializeSeed<'de> for MetaSeed<'de> {
    type Value = Meta;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Meta, D::Error> {
        let raw = <&'de RawValue as serde::Deserialize<'de>>::deserialize(deserializer)?.get();
        let span = Some(span_of(self.whole, raw));
        if !raw.starts_with('{') {
            return Ok(Meta {
                span,
                ..Meta::default()
            });
        }
        let mut json = serde_json::Deserializer::from_str(raw);
        let meta =
            serde::Deserializer::deserialize_map(&mut json, self).map_err(D::Error::custom)?;
        Ok(Meta { span, ..meta })
    }
}

impl<'de> Visitor<'de> for MetaSeed<'de> {
    type Value = Meta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHAPE)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Meta, A::Error> {
        let whole = self.whole;
        let mut meta = Meta::default();
        while let Some(key) = map.next_key_seed(Key)? {
            let slot = match key.as_ref() {
                "io.modelcontextprotocol/protocolVersion" => &mut meta.protocol_version,
                "io.modelcontextprotocol/clientCapabilities" => &mut meta.client_capabilities,
                "io.modelcontextprotocol/logLevel" => &mut meta.log_level,
                "progressToken" => &mut meta.progress_token,
                "traceparent" => &mut meta.traceparent,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            once(slot, raw(whole, &mut map)?)?;
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Message {
        match Message::read(text.as_bytes()).unwrap() {
            Parsed::One(message) => message,
            Parsed::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn rule_1_spans_point_into_the_bytes() {
        let text = r#" {"x":1,"jsonrpc":"2.0","params":{"name":"a\u0062","_meta":{"progressToken": 7 }},"id": 1.0 ,"method":"tools\/call"}"#;
        let message = one(text);
        assert_eq!(message.kind, Kind::Request);
        assert_eq!(message.id.unwrap().text(text.as_bytes()), "1.0");
        assert_eq!(message.known_method(), Some(Method::ToolsCall));
        assert_eq!(message.subject().unwrap().decode(text.as_bytes()), "ab");
        assert_eq!(
            message
                .params
                .meta
                .progress_token
                .unwrap()
                .text(text.as_bytes()),
            "7"
        );
    }

    #[test]
    fn rule_3_a_key_that_is_read_stands_once() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
        ] {
            assert_eq!(
                Message::read(text.as_bytes()),
                Err(Malformed::DuplicateKey),
                "{text}"
            );
        }
    }

    #[test]
    fn rule_4_a_batch_is_told_apart() {
        let text = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}, {"jsonrpc":"2.0","method":"notifications/initialized"}]"#;
        let Parsed::Batch(parts) = Message::read(text.as_bytes()).unwrap() else {
            panic!("one")
        };
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[1].0.text(text.as_bytes()),
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#
        );
        assert_eq!(parts[1].1.kind, Kind::Notification);
        assert_eq!(Message::read(b"[]"), Err(Malformed::BatchSize));
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(
            one(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#).kind,
            Kind::Result
        );
        assert_eq!(
            one(r#"{"jsonrpc":"2.0","id":null,"error":{}}"#).kind,
            Kind::Error
        );
        assert_eq!(one(r#"{"jsonrpc":"2.0","error":{}}"#).kind, Kind::Error);
        for text in [
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            "7",
            "\"a\"",
        ] {
            assert_eq!(
                Message::read(text.as_bytes()),
                Err(Malformed::NotAMessage),
                "{text}"
            );
        }
        for text in ["", "{", "{}}", "{\"jsonrpc\":\"2.0\",}", "\u{feff}{}"] {
            assert_eq!(
                Message::read(text.as_bytes()),
                Err(Malformed::Syntax),
                "{text}"
            );
        }
    }
}
