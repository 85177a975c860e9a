//! Which era a message belongs to, and whether its headers and its body agree.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};
use serde_json::json;

use crate::call::{Call, Form, LARGE};
use crate::error::{Cause, Failure, supported_versions};
use crate::mcp::headers;
use crate::mcp::message::{Kind, Malformed, Message, Parsed, Span};
use crate::mcp::method::Method;
use crate::mcp::revision::{Era, Revision};
use crate::mcp::splice;

use bytes::Bytes;

/// The revisions that a self-describing request may name here.
const SERVED_MODERN: &[Revision] = &[Revision::V2026_07_28];

/// The longest id of a message, in its JSON spelling.
const MAX_ID: u32 = 1024;

/// The revision that `MCP-Protocol-Version` names, if it is one that exists.
pub(super) fn named_revision(headers: &HeaderMap) -> Option<Revision> {
    version_header(headers).and_then(Revision::parse)
}

fn version_header(headers: &HeaderMap) -> Option<&str> {
    // One look at each header costs less than to hash a name as long as this one.
    let (_, value) = headers
        .iter()
        .find(|(name, _)| **name == headers::PROTOCOL_VERSION)?;
    value.to_str().ok().map(str::trim)
}

/// Reads the body of a POST and says what it is, or why it is refused.
///
/// The checks stand in the order of the specification's reference server: JSON, version header, envelope, agreement of
/// headers and body, revision, method (protocol, 3.4).
///
/// # Errors
///
/// A [`Failure`] by the caller's fault; nothing was sent. With it comes the call as far as it could be read, so that
/// the answer finds its id.
pub fn judge(headers: &HeaderMap, body: &Bytes) -> Result<Call, (Failure, Option<Call>)> {
    match Message::read(body) {
        Err(malformed) => Err((Failure::unsent(cause_of(malformed)), None)),
        // Without the call, so that the answer does not repeat the id.
        Ok(parsed) if has_long_id(&parsed) => Err((Failure::unsent(Cause::MalformedMessage), None)),
        Ok(Parsed::Batch(parts)) => {
            judge_batch(headers, body, parts).map_err(|failure| (failure, None))
        }
        Ok(Parsed::One(message)) => {
            if let Some(offered) = offer_without_initialize(body, &message) {
                // The budget is not charged for the copy, so it must be small.
                if body.len() > LARGE {
                    return Err((Failure::unsent(Cause::BodyTooLarge), None));
                }
                let newest = format!("\"{}\"", Revision::LATEST_LEGACY);
                let body = splice::replace(body, offered, newest.as_bytes());
                return judge(headers, &body);
            }
            let (era, verdict) = judge_message(headers, body, &message);
            let call = |revision| Call::new(Form::Message(message), era, revision, body.clone());
            match verdict {
                Ok(revision) => Ok(call(revision)),
                Err(failure) => Err((failure, Some(call(None)))),
            }
        }
    }
}

/// Where an `initialize` offers a revision that is not opened so.
///
/// Some servers agree to it, and then nothing that the two say to each other is defined. Offered the newest that is, a
/// server looks to its caller as if it spoke no later one, which is what `initialize` is there to find out.
fn offer_without_initialize(body: &[u8], message: &Message) -> Option<Span> {
    let is_legacy = !message.params.meta.is_envelope();
    let opens = is_legacy && message.known_method() == Some(Method::Initialize);
    let offered = opens.then_some(message.params.protocol_version)??;
    (*offered.decode(body) >= *Revision::V2026_07_28.as_str()).then(|| offered.span())
}

/// Ids are kept for as long as a call takes, and in tables; so they are bounded.
fn has_long_id(parsed: &Parsed) -> bool {
    let is_long = |message: &Message| message.id.is_some_and(|id| id.end - id.start > MAX_ID);
    match parsed {
        Parsed::One(message) => is_long(message),
        Parsed::Batch(parts) => parts.iter().any(|(_, part)| is_long(part)),
    }
}

fn cause_of(malformed: Malformed) -> Cause {
    match malformed {
        Malformed::Syntax => Cause::MalformedJson,
        Malformed::DuplicateKey => Cause::DuplicateKey,
        Malformed::BatchSize | Malformed::NotAMessage => Cause::MalformedMessage,
    }
}

fn judge_batch(
    headers: &HeaderMap,
    body: &Bytes,
    parts: Vec<(Span, Message)>,
) -> Result<Call, Failure> {
    let revision = legacy_revision(version_header(headers))?;
    let has_batches = revision.is_none_or(|revision| revision == Revision::V2025_03_26);
    let opens_a_session = parts
        .iter()
        .any(|(_, part)| part.known_method() == Some(Method::Initialize));
    let describes_itself = parts.iter().any(|(_, part)| part.params.meta.is_envelope());
    if !has_batches || opens_a_session || describes_itself {
        return Err(Failure::unsent(Cause::BatchRefused));
    }
    Ok(Call::new(
        Form::Batch(parts),
        Era::Legacy,
        revision,
        body.clone(),
    ))
}

fn judge_message(
    headers: &HeaderMap,
    body: &Bytes,
    message: &Message,
) -> (Era, Result<Option<Revision>, Failure>) {
    if message.params.meta.is_envelope() {
        return (Era::Modern, judge_modern(headers, body, message).map(Some));
    }
    if message.known_method() == Some(Method::Initialize) {
        let offered = message
            .params
            .protocol_version
            .map(|text| text.decode(body));
        return (
            Era::Legacy,
            Ok(offered.and_then(|version| Revision::parse(&version))),
        );
    }
    // Dates compare as text, so that a revision of the future counts as modern.
    let named = version_header(headers);
    let claims_modern = named.is_some_and(|version| version >= Revision::V2026_07_28.as_str());
    if !claims_modern {
        return (Era::Legacy, legacy_revision(named));
    }
    if message.kind == Kind::Request {
        return (Era::Modern, Err(Failure::unsent(Cause::EnvelopeIncomplete)));
    }
    (Era::Modern, Ok(named.and_then(Revision::parse)))
}

fn legacy_revision(named: Option<&str>) -> Result<Option<Revision>, Failure> {
    match named {
        None => Ok(None),
        Some(version) => Revision::parse(version)
            .map(Some)
            .ok_or_else(|| Failure::unsent(Cause::BadVersionHeader)),
    }
}

fn judge_modern(headers: &HeaderMap, body: &Bytes, message: &Message) -> Result<Revision, Failure> {
    if message.has_lookalike {
        return Err(Failure::unsent(Cause::DuplicateKey));
    }
    let named = Named::of(headers);
    let header = named.version.and_then(|version| version.to_str().ok());
    let Some(header) = header.map(str::trim) else {
        return Err(mismatch("MCP-Protocol-Version is missing"));
    };
    let meta = &message.params.meta;
    let (Some(version), Some(_)) = (meta.protocol_version, meta.client_capabilities) else {
        return Err(Failure::unsent(Cause::EnvelopeIncomplete));
    };
    let Some(version) = string(version.of(body)) else {
        return Err(Failure::unsent(Cause::EnvelopeIncomplete));
    };
    if header != version {
        return Err(mismatch("MCP-Protocol-Version differs from params._meta"));
    }
    let served = Revision::parse(&version).filter(|revision| SERVED_MODERN.contains(revision));
    let Some(revision) = served else {
        let data = supported_versions(&version, SERVED_MODERN);
        return Err(Failure::unsent(Cause::UnsupportedVersion).with_data(data));
    };
    if message.kind == Kind::Request {
        mirrored(&named, body, message)?;
        if message
            .known_method()
            .is_some_and(|method| !method.exists_in(revision))
        {
            return Err(Failure::unsent(Cause::UnknownMethod));
        }
    }
    Ok(revision)
}

/// What the headers repeat of the body: the first of each, by one look at all.
#[derive(Default)]
struct Named<'a> {
    version: Option<&'a HeaderValue>,
    method: Option<&'a HeaderValue>,
    name: Option<&'a HeaderValue>,
}

impl<'a> Named<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut named = Self::default();
        for (name, value) in headers {
            let slot = match name.as_str() {
                "mcp-protocol-version" => &mut named.version,
                "mcp-method" => &mut named.method,
                "mcp-name" => &mut named.name,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        named
    }
}

/// What a JSON string says; nothing if it is none, or none that can be decoded.
fn string(token: &[u8]) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_some() {
        return serde_json::from_slice(token).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// `Mcp-Method` and `Mcp-Name` say what the body says.
fn mirrored(named: &Named<'_>, body: &Bytes, message: &Message) -> Result<(), Failure> {
    let method = message
        .method
        .map(|name| name.name(body))
        .unwrap_or_default();
    let said = named
        .method
        .ok_or_else(|| mismatch("Mcp-Method is missing"))?;
    if said.as_bytes().trim_ascii() != method.as_bytes() {
        return Err(mismatch("Mcp-Method differs from the body's method"));
    }
    if message.known_method().and_then(Method::named_by).is_none() {
        return Ok(());
    }
    // A request without its subject is the server's to refuse (-32602); a header without a subject is not.
    match (message.subject(), named.name) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(mismatch("Mcp-Name is missing")),
        (None, Some(_)) => Err(mismatch("Mcp-Name names what the body does not")),
        (Some(subject), Some(named)) => {
            let named = headers::decode(named.as_bytes())
                .ok_or_else(|| mismatch("Mcp-Name cannot be decoded"))?;
            if named == subject.decode(body) {
                Ok(())
            } else {
                Err(mismatch("Mcp-Name differs from the body"))
            }
        }
    }
}

fn mismatch(detail: &str) -> Failure {
    Failure::unsent(Cause::HeaderMismatch).with_data(json!({ "detail": detail }))
}
