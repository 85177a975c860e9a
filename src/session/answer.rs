//! The first answer in a body, and what an `initialize` result says.
//!
//! Contract:
//!
//! 1. `first_answer` reads a body, JSON or a stream of events, until it has seen one `result` or `error`, and keeps
//!    every byte it took. What it gives back, in order, is the body that came. It holds at most its limit.
//! 2. [`Capabilities`] are what a server declared, two levels deep, so that two declarations can be compared. Names
//!    beyond [`MAX_OTHERS`], or longer than [`MAX_NAME`] bytes, that no specification has are not kept.
//!
//! It does not look at ids: it is asked only about bodies that answer one request.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::Value;

use crate::body::Body;
use crate::codec::sse::Decoder;
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::mcp::message::{Kind, Message, Parsed};
use crate::mcp::revision::Revision;

/// The most names of capabilities kept that no specification has.
pub const MAX_OTHERS: usize = 16;
/// The longest such name.
pub const MAX_NAME: usize = 64;

/// A body that was read up to its first answer.
#[derive(Debug)]
pub(crate) struct FirstAnswer {
    /// The message, if there was one.
    pub(crate) message: Option<Answer>,
    /// What was read.
    pub(crate) held: Bytes,
    /// The body as it came: what was read, and the rest.
    pub(crate) body: Body,
}

/// A `result` or an `error`.
#[derive(Debug)]
pub(crate) struct Answer {
    kind: Kind,
    outcome: Bytes,
}

impl Answer {
    fn read(bytes: &Bytes) -> Option<Self> {
        let Ok(Parsed::One(message)) = Message::read(bytes) else {
            return None;
        };
        if !matches!(message.kind, Kind::Result | Kind::Error) {
            return None;
        }
        Some(Self {
            kind: message.kind,
            outcome: bytes.slice_ref(message.outcome?.of(bytes)),
        })
    }

    /// The value of `result`.
    pub(crate) fn result(&self) -> Option<&Bytes> {
        (self.kind == Kind::Result).then_some(&self.outcome)
    }

    /// The value of `error`.
    pub(crate) fn error(&self) -> Option<&Bytes> {
        (self.kind == Kind::Error).then_some(&self.outcome)
    }
}

/// Reads `body` up to its first answer, or to its end if it has none.
///
/// # Errors
///
/// Fails as the body does, and as [`Cause::BadResponse`] if there is no answer within `limit` bytes.
///
/// # Cancellation
///
/// Dropped, it drops the body.
pub(crate) async fn first_answer(
    mut body: Body,
    is_stream: bool,
    limit: usize,
) -> Result<FirstAnswer, BoxError> {
    let mut held = Vec::new();
    let mut decoder = is_stream.then(|| Decoder::new(limit));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if held.len() + data.len() > limit {
            return Err(Failure::new(Cause::BadResponse, Phase::Sent).into());
        }
        held.extend_from_slice(&data);
        if let Some(decoder) = &mut decoder {
            decoder.push(&data);
            if let Some(message) = answer_in(decoder)? {
                let held = Bytes::from(held);
                return Ok(FirstAnswer {
                    message: Some(message),
                    held: held.clone(),
                    body: Replayed::body(held, Some(body)),
                });
            }
        }
    }
    let held = Bytes::from(held);
    let message = if is_stream { None } else { Answer::read(&held) };
    Ok(FirstAnswer {
        message,
        held: held.clone(),
        body: Replayed::body(held, None),
    })
}

fn answer_in(decoder: &mut Decoder) -> Result<Option<Answer>, BoxError> {
    while let Some(event) = decoder.next()? {
        if let Some(answer) = event.message().and_then(Answer::read) {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// Bytes that were read already, and the body that they were read from.
struct Replayed {
    held: Option<Bytes>,
    rest: Option<Body>,
}

impl Replayed {
    fn body(held: Bytes, rest: Option<Body>) -> Body {
        match rest {
            None => Body::from(held),
            Some(rest) => Body::new(Self {
                held: Some(held),
                rest: Some(rest),
            }),
        }
    }
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Some(Ok(Frame::data(held))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none()
            && self
                .rest
                .as_ref()
                .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What an `initialize` result says that a proxy reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) revision: Option<Revision>,
    /// Whether it is one, known or not, that is not opened with `initialize`.
    pub(crate) is_undefined: bool,
    pub(crate) capabilities: Capabilities,
}

impl Negotiated {
    /// Reads it off the value of `result`; what is missing there is missing here.
    pub(crate) fn of_result(result: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Result {
            protocol_version: Value,
        }
        let read: Result = serde_json::from_slice(result).unwrap_or_default();
        let version = read.protocol_version.as_str();
        Self {
            revision: version.and_then(Revision::parse),
            // Dates compare as text.
            is_undefined: version.is_some_and(|it| it >= Revision::V2026_07_28.as_str()),
            capabilities: Capabilities::of_result(result),
        }
    }
}

/// What a server declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<Box<str>>);

/// Capabilities that specifications name. An index, once given out, is never changed.
const KNOWN: [&str; 18] = [
    "tools",
    "tools.listChanged",
    "resources",
    "resources.subscribe",
    "resources.listChanged",
    "prompts",
    "prompts.listChanged",
    "logging",
    "completions",
    "experimental",
    "extensions",
    "tasks",
    "tasks.list",
    "tasks.cancel",
    "tasks.requests",
    "tools.subscribe",
    "prompts.subscribe",
    "experimental.tasks",
];

impl Capabilities {
    /// Reads `capabilities` of an `initialize` result. A member that is `false` or `null` is not declared.
    #[must_use]
    pub fn of_result(result: &[u8]) -> Self {
        let result: Value = serde_json::from_slice(result).unwrap_or_default();
        let mut names = BTreeSet::new();
        let mut others = 0;
        let mut note = |name: String| {
            let is_known = KNOWN.contains(&name.as_str());
            if is_known || (others < MAX_OTHERS && name.len() <= MAX_NAME) {
                others += usize::from(!is_known);
                names.insert(name.into_boxed_str());
            }
        };
        for (name, value) in declared(result.get("capabilities")) {
            note(name.clone());
            for (inner, _) in declared(Some(value)) {
                note(format!("{name}.{inner}"));
            }
        }
        Self(names)
    }

    /// Whether everything in `others` is here too.
    #[must_use]
    pub fn covers(&self, others: &Self) -> bool {
        others.0.is_subset(&self.0)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for name in &self.0 {
            let index = KNOWN.iter().position(|known| **known == **name);
            if let Some(index) = index.and_then(|index| u8::try_from(index + 1).ok()) {
                out.push(index);
            } else if let Ok(length) = u8::try_from(name.len()) {
                out.extend_from_slice(&[0, length]);
                out.extend_from_slice(name.as_bytes());
            }
        }
        out
    }

    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Self {
        let mut names = BTreeSet::new();
        while let Some((index, rest)) = bytes.split_first() {
            bytes = rest;
            if let Some(known) = usize::from(*index)
                .checked_sub(1)
                .and_then(|at| KNOWN.get(at))
            {
                names.insert((*known).into());
                continue;
            }
            let Some((length, rest)) = rest.split_first() else {
                break;
            };
            let Some((name, rest)) = rest.split_at_checked((*length).into()) else {
                break;
            };
            bytes = rest;
            names.insert(String::from_utf8_lossy(name).into());
        }
        Self(names)
    }
}

fn declared(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members.filter(|(_, value)| !matches!(value, Value::Null | Value::Bool(false)))
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use proptest::prelude::*;

    use super::*;

    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}"#;

    fn chunks(parts: Vec<Bytes>) -> Body {
        Body::new(StreamBody::new(Parts(parts.into_iter())))
    }

    struct Parts(std::vec::IntoIter<Bytes>);

    impl futures_core::Stream for Parts {
        type Item = Result<Frame<Bytes>, BoxError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.next().map(|part| Ok(Frame::data(part))))
        }
    }

    #[tokio::test]
    async fn rule_1_json_is_read_whole_and_given_back() {
        let body = Body::new(Full::new(Bytes::from(RESULT)));
        let read = first_answer(body, false, 1024).await.unwrap();
        let message = read.message.unwrap();
        assert_eq!(
            message.result().unwrap(),
            r#"{"protocolVersion":"2025-06-18"}"#
        );
        assert_eq!(read.body.collect().await.unwrap().to_bytes(), RESULT);
    }

    #[tokio::test]
    async fn rule_1_a_stream_is_read_up_to_its_answer_in_any_split() {
        let text = format!("id: 0\ndata:\n\n: x\n\ndata: {RESULT}\n\nid: 9\ndata: {{}}\n\n");
        for cut in [1, 3, 50, text.len()] {
            let parts: Vec<_> = text
                .as_bytes()
                .chunks(cut)
                .map(Bytes::copy_from_slice)
                .collect();
            let read = first_answer(chunks(parts), true, 1024).await.unwrap();
            assert!(read.message.is_some(), "{cut}");
            assert_eq!(read.body.collect().await.unwrap().to_bytes(), text);
        }
    }

    #[tokio::test]
    async fn rule_1_it_holds_no_more_than_its_limit() {
        let body = Body::new(Full::new(Bytes::from(vec![b' '; 2048])));
        let error = first_answer(body, false, 1024).await.unwrap_err();
        assert_eq!(Failure::of(&error).unwrap().cause(), Cause::BadResponse);
    }

    #[tokio::test]
    async fn an_error_is_an_answer_and_no_result() {
        let text = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"x"}}"#;
        let read = first_answer(Body::from(Bytes::from(text)), false, 1024)
            .await
            .unwrap();
        let message = read.message.unwrap();
        assert!(message.result().is_none() && message.error().is_some());
    }

    #[test]
    fn rule_2_more_covers_less() {
        let more = Capabilities::of_result(
            br#"{"capabilities":{"tools":{"listChanged":true},"x":{},"logging":{}}}"#,
        );
        let less = Capabilities::of_result(br#"{"capabilities":{"tools":{"listChanged":false}}}"#);
        assert!(more.covers(&less) && !less.covers(&more));
        assert!(more.covers(&more) && more.covers(&Capabilities::default()));
    }

    proptest! {
        #[test]
        fn rule_2_reading_undoes_writing(names in proptest::collection::vec("[a-z]{1,8}", 0..12)) {
            let members: serde_json::Map<_, _> =
                names.iter().map(|name| (name.clone(), serde_json::json!({"listChanged": true}))).collect();
            let result = serde_json::json!({"capabilities": members}).to_string();
            let read = Capabilities::of_result(result.as_bytes());
            prop_assert_eq!(Capabilities::from_bytes(&read.to_bytes()), read);
        }

        #[test]
        fn any_bytes_are_some_capabilities(bytes in any::<Vec<u8>>()) {
            let _ = Capabilities::from_bytes(&bytes);
            let _ = Negotiated::of_result(&bytes);
        }
    }
}
