//! JSON-RPC error codes, and the writing of an error message around an id in any spelling.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

/// The bytes are not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but no valid request.
pub const INVALID_REQUEST: i32 = -32600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// The parameters are wrong; also an unknown tool or resource.
pub const INVALID_PARAMS: i32 = -32602;
/// Something broke.
pub const INTERNAL_ERROR: i32 = -32603;
/// Legacy servers' general code (no meaning in 2026-07-28).
pub const SERVER_ERROR: i32 = -32000;
/// What legacy servers answer to a session they do not know.
pub const SESSION_NOT_FOUND: i32 = -32001;
/// 2026-07-28: headers and body disagree.
pub const HEADER_MISMATCH: i32 = -32020;
/// 2026-07-28: the request needs a capability that the client did not declare.
pub const MISSING_CAPABILITY: i32 = -32021;
/// 2026-07-28: the revision is not served.
pub const UNSUPPORTED_VERSION: i32 = -32022;

/// What servers before 2026-07-28 answer for a resource that is not there.
pub const RESOURCE_NOT_FOUND: i32 = -32002;
/// What legacy servers answer where somebody has to open a URL first.
pub const URL_NEEDED: i32 = -32042;

/// The codes that a specification has given a meaning, as text. Others are whatever an upstream likes, so nothing that
/// counts by code may have them.
const KNOWN: &[(i32, &str)] = &[
    (PARSE_ERROR, "-32700"),
    (INVALID_REQUEST, "-32600"),
    (METHOD_NOT_FOUND, "-32601"),
    (INVALID_PARAMS, "-32602"),
    (INTERNAL_ERROR, "-32603"),
    (SERVER_ERROR, "-32000"),
    (SESSION_NOT_FOUND, "-32001"),
    (RESOURCE_NOT_FOUND, "-32002"),
    (HEADER_MISMATCH, "-32020"),
    (MISSING_CAPABILITY, "-32021"),
    (UNSUPPORTED_VERSION, "-32022"),
    (URL_NEEDED, "-32042"),
];

/// The code as text, if a specification has given it a meaning.
#[must_use]
pub fn known(code: i64) -> Option<&'static str> {
    let found = KNOWN.iter().find(|(known, _)| i64::from(*known) == code);
    found.map(|(_, text)| *text)
}

/// Whether the code says that the caller was wrong: to the one that answers it is no error.
#[must_use]
pub fn is_the_callers(code: i64) -> bool {
    [
        PARSE_ERROR,
        INVALID_REQUEST,
        METHOD_NOT_FOUND,
        INVALID_PARAMS,
        RESOURCE_NOT_FOUND,
    ]
    .iter()
    .any(|known| i64::from(*known) == code)
}

/// An error message. `id` is a JSON token, in the spelling of the request; without one there is no `id` member in it
/// (2026-07-28: only where it was unreadable).
#[must_use]
pub fn error_message(id: Option<&[u8]>, code: i32, message: &str, data: Option<&Value>) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + message.len());
    out.put_slice(br#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        out.put_slice(br#""id":"#);
        out.put_slice(id);
        out.put_u8(b',');
    }
    out.put_slice(br#""error":{"code":"#);
    out.put_slice(code.to_string().as_bytes());
    out.put_slice(br#","message":"#);
    out.put_slice(Value::from(message).to_string().as_bytes());
    if let Some(data) = data {
        out.put_slice(br#","data":"#);
        out.put_slice(data.to_string().as_bytes());
    }
    out.put_slice(b"}}");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mcp::message::{Kind, Message};

    #[test]
    fn c13_the_id_keeps_its_json_type() {
        for id in ["1", "1.0", "\"1\"", "18446744073709551616"] {
            let message = error_message(Some(id.as_bytes()), INTERNAL_ERROR, "a \"b\"", None);
            let text = std::str::from_utf8(&message).unwrap();
            assert!(
                text.starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{id},"error":"#)),
                "{text}"
            );
            assert!(serde_json::from_str::<Value>(text).is_ok());
        }
    }

    #[test]
    fn known_codes_are_a_closed_list() {
        for &(code, text) in KNOWN {
            assert_eq!(
                (code.to_string().as_str(), known(code.into())),
                (text, Some(text))
            );
        }
        assert_eq!(known(-31_999), None);
    }

    proptest! {
        #[test]
        fn any_error_is_a_message_that_says_what_was_meant(code in any::<i32>(), text in any::<String>(), id in proptest::option::of(any::<String>()), data in proptest::option::of(any::<String>())) {
            let id = id.map(|id| Value::from(id).to_string());
            let data = data.map(|data| serde_json::json!({"x": data}));
            let message = error_message(id.as_deref().map(str::as_bytes), code, &text, data.as_ref());
            let (read, reply) = Message::read_answer(&message).unwrap();
            prop_assert_eq!(read.kind, Kind::Error);
            prop_assert_eq!(read.id.map(|span| span.text(&message)), id.as_deref());
            prop_assert_eq!(reply.error_code(&message), Some(code.into()));
            prop_assert_eq!(reply.message.unwrap().decode(&message), text);
            let whole: Value = serde_json::from_slice(&message).unwrap();
            prop_assert_eq!(whole["error"].get("data"), data.as_ref());
        }
    }
}
