//! What an answer holds that a proxy reads: spans into the bytes of the message, as in
//! [`message`](crate::mcp::message).
//!
//! Contract:
//!
//! 1. A key that is read here must not stand twice in its object.
//! 2. A value of another type than the specification's is as if it were not there.

use crate::mcp::message::{Malformed, Message, Span, Text, once};
use crate::mcp::scan::Scanner;

/// What stands in the `result` or the `error` of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// `result._meta`.
    pub meta: Option<Span>,
    /// `result.isError` (of `tools/call`), any JSON value.
    pub is_error: Option<Span>,
    /// `result.resultType` (2026-07-28).
    pub result_type: Option<Text>,
    /// `result.protocolVersion` (of `initialize`).
    pub protocol_version: Option<Text>,
    /// `result.capabilities` (of `initialize` and `server/discover`).
    pub capabilities: Option<Span>,
    /// `result.nextCursor` (of lists).
    pub next_cursor: Option<Text>,
    /// `error.code`, any JSON value.
    pub code: Option<Span>,
    /// `error.message`.
    pub message: Option<Text>,
    /// `error.data`.
    pub data: Option<Span>,
}

impl Reply {
    /// What the outcome of `message` holds, which was read from `bytes`. A message without one has an empty reply.
    ///
    /// # Errors
    ///
    /// [`Malformed::DuplicateKey`].
    pub fn of(bytes: &[u8], message: &Message) -> Result<Self, Malformed> {
        let mut reply = Self::default();
        if let Some(outcome) = message.outcome {
            reply.fill(&mut Scanner::within(bytes, outcome))?;
        }
        Ok(reply)
    }

    /// Whether a tool says that it failed.
    #[must_use]
    pub fn is_tool_error(&self, bytes: &[u8]) -> bool {
        self.is_error.is_some_and(|span| span.of(bytes) == b"true")
    }

    /// `error.code` as a number.
    #[must_use]
    pub fn error_code(&self, bytes: &[u8]) -> Option<i64> {
        self.code?.text(bytes).parse().ok()
    }

    pub(crate) fn fill(&mut self, json: &mut Scanner<'_>) -> Result<Span, Malformed> {
        if json.peek() != Some(b'{') {
            return json.value();
        }
        let (mut kind, mut version, mut cursor, mut message) = (None, None, None, None);
        let span = json.object(|json, key| match key {
            b"_meta" => once(&mut self.meta, json.value()?),
            b"isError" => once(&mut self.is_error, json.value()?),
            b"resultType" => once(&mut kind, json.text()?.1),
            b"protocolVersion" => once(&mut version, json.text()?.1),
            b"capabilities" => once(&mut self.capabilities, json.value()?),
            b"nextCursor" => once(&mut cursor, json.text()?.1),
            b"code" => once(&mut self.code, json.value()?),
            b"message" => once(&mut message, json.text()?.1),
            b"data" => once(&mut self.data, json.value()?),
            _ => json.value().map(drop),
        })?;
        self.result_type = kind.flatten();
        self.protocol_version = version.flatten();
        self.next_cursor = cursor.flatten();
        self.message = message.flatten();
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::message::{Kind, Parsed};

    #[test]
    fn an_answer_is_read_in_one_go_or_in_two() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError": true,"_meta":{"a":1},"resultType":"complete"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code": -32602 ,"message":"no","data":[1]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        ] {
            let bytes = text.as_bytes();
            let (message, reply) = Message::read_answer(bytes).unwrap();
            assert_eq!(Message::read(bytes), Ok(Parsed::One(message)));
            assert_eq!(Reply::of(bytes, &message), Ok(reply));
        }
    }

    #[test]
    fn it_points_into_the_bytes() {
        let bytes = br#"{"result":{"isError": true,"_meta":{"a":1},"resultType":"complete"},"jsonrpc":"2.0","id":1}"#;
        let (message, reply) = Message::read_answer(bytes).unwrap();
        assert_eq!(message.kind, Kind::Result);
        assert!(reply.is_tool_error(bytes));
        assert_eq!(reply.meta.unwrap().of(bytes), br#"{"a":1}"#);
        assert_eq!(reply.result_type.unwrap().decode(bytes), "complete");
        let bytes = br#"{"jsonrpc":"2.0","id":null,"error":{"code": -32602 ,"message":"n\u006f"}}"#;
        let (_, reply) = Message::read_answer(bytes).unwrap();
        assert_eq!(reply.error_code(bytes), Some(-32602));
        assert_eq!(reply.message.unwrap().decode(bytes), "no");
    }

    #[test]
    fn rule_1_a_key_that_is_read_stands_once() {
        let bytes = br#"{"jsonrpc":"2.0","id":1,"result":{"isError":false,"isError":true}}"#;
        assert_eq!(Message::read_answer(bytes), Err(Malformed::DuplicateKey));
        let Parsed::One(message) = Message::read(bytes).unwrap() else {
            panic!("a batch")
        };
        assert_eq!(Reply::of(bytes, &message), Err(Malformed::DuplicateKey));
    }
}
