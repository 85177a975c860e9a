//! The context of a trace (W3C Trace Context) as MCP carries it: `traceparent` and `tracestate` in `params._meta`.
//!
//! In `_meta` the two are keys without a prefix (SEP-414). They are written only where there is a `_meta` object: by
//! splicing, so that every other byte stays.

use std::borrow::Cow;

use bytes::Bytes;

use crate::mcp::message::{Malformed, Message, Span, Text};
use crate::mcp::scan::Scanner;
use crate::mcp::splice;

/// What a valid `traceparent` says. (W3C Trace Context, 3.2)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traceparent<'a> {
    /// The trace, 32 hex digits, not all of them zero.
    pub trace_id: &'a str,
    /// The span of the caller, 16 hex digits, not all of them zero.
    pub parent_id: &'a str,
    /// Whether the caller records it.
    pub is_sampled: bool,
}

impl<'a> Traceparent<'a> {
    /// Reads one; a malformed one is none.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, parent, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let valid = is_hex(version, 2)
            && version != "ff"
            && is_hex(trace, 32)
            && is_hex(parent, 16)
            && is_hex(flags, 2)
            // Only later versions may say more.
            && (version != "00" || parts.next().is_none());
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (valid && !is_zero(trace) && !is_zero(parent)).then_some(Self {
            trace_id: trace,
            parent_id: parent,
            is_sampled: flags & 1 == 1,
        })
    }
}

fn is_hex(part: &str, length: usize) -> bool {
    part.len() == length
        && part
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(part: &str) -> bool {
    part.bytes().all(|byte| byte == b'0')
}

/// The context that stands in a message's `params._meta`: its strings, whatever they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetaContext<'a> {
    /// `traceparent`.
    pub traceparent: Option<Cow<'a, str>>,
    /// `tracestate`.
    pub tracestate: Option<Cow<'a, str>>,
}

impl<'a> MetaContext<'a> {
    /// Reads it from the bytes that `message` was read from.
    #[must_use]
    pub fn of(body: &'a [u8], message: &Message) -> Self {
        let Some(places) = Places::of(body, message) else {
            return Self::default();
        };
        let text = |span: Option<Span>| {
            let span = span.filter(|span| span.of(body).starts_with(b"\""))?;
            Some(Text::new(span).decode(body))
        };
        Self {
            traceparent: text(places.traceparent),
            tracestate: text(places.tracestate),
        }
    }
}

/// Where the keys stand in `_meta`, and where one that is missing goes.
#[derive(Default)]
struct Places {
    traceparent: Option<Span>,
    tracestate: Option<Span>,
    /// Right behind the opening brace.
    start: usize,
    is_empty: bool,
}

impl Places {
    /// Nothing if there is no `_meta` object, or if a key stands twice in it: peers do not agree on what that says.
    fn of(body: &[u8], message: &Message) -> Option<Self> {
        let meta = message.params.meta.span?;
        let mut found = Self {
            start: meta.start as usize + 1,
            is_empty: true,
            ..Self::default()
        };
        let mut json = Scanner::within(body, meta);
        if json.peek() != Some(b'{') {
            return None;
        }
        let read = json.object(|json, key| {
            let value = json.value()?;
            found.is_empty = false;
            let slot = match key {
                b"traceparent" => &mut found.traceparent,
                b"tracestate" => &mut found.tracestate,
                _ => return Ok(()),
            };
            match slot.replace(value) {
                None => Ok(()),
                Some(_) => Err(Malformed::DuplicateKey),
            }
        });
        read.is_ok().then_some(found)
    }
}

/// The message with this context in its `params._meta`; every other byte stays. Nothing if it has no such object.
///
/// A `tracestate` that belongs to another trace, where there is none now, becomes an empty one.
#[must_use]
pub fn write(
    body: &Bytes,
    message: &Message,
    traceparent: &str,
    tracestate: Option<&str>,
) -> Option<Bytes> {
    let places = Places::of(body, message)?;
    let mut edits: Vec<(Span, Vec<u8>)> = Vec::with_capacity(2);
    let mut missing = Vec::new();
    let mut set = |key: &str, at: Option<Span>, value: &str| {
        let Ok(value) = serde_json::to_vec(value) else {
            return;
        };
        match at {
            Some(span) if span.of(body) == value.as_slice() => {}
            Some(span) => edits.push((span, value)),
            None => {
                missing.extend_from_slice(if missing.is_empty() { b"\"" } else { b",\"" });
                missing.extend_from_slice(key.as_bytes());
                missing.extend_from_slice(b"\":");
                missing.extend_from_slice(&value);
            }
        }
    };
    set("traceparent", places.traceparent, traceparent);
    match (tracestate, places.tracestate) {
        (None, None) => {}
        (state, at) => set("tracestate", at, state.unwrap_or_default()),
    }
    if !missing.is_empty() {
        if !places.is_empty {
            missing.push(b',');
        }
        edits.push((Span::new(places.start, places.start), missing));
    }
    // From the back, so that what is in front stays where it is.
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let edited = edits.into_iter().fold(body.clone(), |body, (span, with)| {
        splice::replace(&body, span, &with)
    });
    Some(edited)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mcp::message::Parsed;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn message(body: &[u8]) -> Message {
        match Message::read(body).unwrap() {
            Parsed::One(message) => message,
            Parsed::Batch(_) => panic!("a batch"),
        }
    }

    fn written(meta: &str, state: Option<&str>) -> Option<String> {
        let body = format!(
            r#"{{ "jsonrpc":"2.0","id":1.0,"method":"ping","params":{{"a":[1e3], "_meta": {meta} }}}}"#
        );
        let body = Bytes::from(body);
        let edited = write(&body, &message(&body), PARENT, state)?;
        let text = String::from_utf8(edited.to_vec()).unwrap();
        let inner = text
            .strip_prefix(
                r#"{ "jsonrpc":"2.0","id":1.0,"method":"ping","params":{"a":[1e3], "_meta": "#,
            )
            .and_then(|rest| rest.strip_suffix(" }}"));
        Some(inner.unwrap().to_owned())
    }

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let read = Traceparent::parse(PARENT).unwrap();
        assert_eq!(read.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            (read.parent_id, read.is_sampled),
            ("00f067aa0ba902b7", true)
        );
        assert!(
            !Traceparent::parse(&PARENT.replace("-01", "-02"))
                .unwrap()
                .is_sampled
        );
        assert!(Traceparent::parse(&format!("{}-more", PARENT.replacen("00", "cc", 1))).is_some());
        for malformed in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Traceparent::parse(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn the_context_of_meta_is_read() {
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"traceparent":"00-\u0061","tracestate":7}}}"#;
        let read = MetaContext::of(body, &message(body));
        assert_eq!(read.traceparent.as_deref(), Some("00-a"));
        assert_eq!(read.tracestate, None);
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        assert_eq!(
            MetaContext::of(body, &message(body)),
            MetaContext::default()
        );
    }

    #[test]
    fn only_the_two_keys_are_written() {
        for (meta, state, expected) in [
            (r"{}", None, r#"{"traceparent":"P"}"#),
            (r"{ }", None, r#"{"traceparent":"P" }"#),
            (r#"{ "x":1}"#, None, r#"{"traceparent":"P", "x":1}"#),
            (
                r#"{"x":1}"#,
                Some("a=1"),
                r#"{"traceparent":"P","tracestate":"a=1","x":1}"#,
            ),
            (
                r#"{"traceparent": "old" ,"x":1}"#,
                None,
                r#"{"traceparent": "P" ,"x":1}"#,
            ),
            (r#"{"traceparent":7}"#, None, r#"{"traceparent":"P"}"#),
            (
                r#"{"tracestate":"b=2","traceparent":""}"#,
                Some("a=\""),
                r#"{"tracestate":"a=\"","traceparent":"P"}"#,
            ),
            (
                r#"{"tracestate":"b=2"}"#,
                None,
                r#"{"traceparent":"P","tracestate":""}"#,
            ),
        ] {
            let expected = expected.replace('P', PARENT);
            assert_eq!(written(meta, state), Some(expected), "{meta}");
        }
    }

    #[test]
    fn without_a_meta_object_nothing_is_written() {
        for meta in [
            "null",
            "7",
            r#"["traceparent"]"#,
            r#"{"tracestate":"","tracestate":""}"#,
        ] {
            assert_eq!(written(meta, None), None, "{meta}");
        }
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}"#);
        assert_eq!(write(&body, &message(&body), PARENT, None), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_all_else_stays(
            before in prop::collection::vec(("[a-z]{1,8}", any::<i32>()), 0..4),
            state in prop::option::of("[ -~]{0,20}"),
        ) {
            let mut meta = serde_json::Map::new();
            for (key, value) in &before {
                meta.insert(key.clone(), (*value).into());
            }
            let whole = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": meta}});
            let body = Bytes::from(whole.to_string());
            let edited = write(&body, &message(&body), PARENT, state.as_deref()).unwrap();
            let read = message(&edited);
            let context = MetaContext::of(&edited, &read);
            prop_assert_eq!(context.traceparent.as_deref(), Some(PARENT));
            prop_assert_eq!(context.tracestate.as_deref(), state.as_deref());
            let mut after: serde_json::Value = serde_json::from_slice(&edited).unwrap();
            let meta = after["params"]["_meta"].as_object_mut().unwrap();
            meta.remove("traceparent");
            meta.remove("tracestate");
            prop_assert_eq!(after, whole);
        }
    }
}
