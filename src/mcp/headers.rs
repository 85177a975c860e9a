//! Names and values of the protocol's HTTP headers.
//!
//! Values of `Mcp-Name` and `Mcp-Param-*` that a header cannot carry as they are (non-ASCII, control characters, white
//! space at an end, or what already looks so) are wrapped as `=?base64?…?=` (2026-07-28, streamable-http).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};

/// `Mcp-Session-Id`: the legacy session.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version`.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method`.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name`.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// `Last-Event-ID`: where to resume a stream.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What the names of mirrored arguments begin with.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// Takes off what names a session, or a place in its stream.
pub(crate) fn remove_session(headers: &mut HeaderMap) {
    // One look at each name costs less than to look up two that are hardly ever there.
    let is_of_session =
        |name: &HeaderName| matches!(name.as_str(), "mcp-session-id" | "last-event-id");
    if headers.keys().any(is_of_session) {
        headers.remove(SESSION_ID);
        headers.remove(LAST_EVENT_ID);
    }
}

/// Whether a session is named. One look at each name costs less than to hash this one.
pub(crate) fn name_session(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == SESSION_ID)
}

const OPEN: &str = "=?base64?";
const CLOSE: &str = "?=";

/// `value` as a header carries it: itself, or wrapped.
#[must_use]
pub fn encode(value: &str) -> Cow<'_, str> {
    let is_visible = value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let has_space_at_an_end = value.starts_with(' ') || value.ends_with(' ');
    let looks_wrapped = value.starts_with(OPEN) && value.ends_with(CLOSE);
    if is_visible && !has_space_at_an_end && !looks_wrapped {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("{OPEN}{}{CLOSE}", STANDARD.encode(value)))
    }
}

/// What a header's value says, or nothing if it is wrapped and cannot be undone.
///
/// White space around it does not count; markers are literal text unless they are exact.
#[must_use]
pub fn decode(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let Some(wrapped) = text
        .strip_prefix(OPEN)
        .and_then(|rest| rest.strip_suffix(CLOSE))
    else {
        return Some(Cow::Borrowed(text));
    };
    let bytes = STANDARD.decode(wrapped).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c08_the_base64_sentinel_goes_both_ways() {
        for value in [
            "",
            "plain",
            "Grüße",
            " lead",
            "trail ",
            "a\nb",
            "=?base64?Zm9v?=",
            "=?base64?",
        ] {
            assert_eq!(
                decode(encode(value).as_bytes()).as_deref(),
                Some(value),
                "{value}"
            );
        }
        assert_eq!(encode("plain"), "plain");
        assert_eq!(decode(b"  x\t").as_deref(), Some("x"));
    }

    #[test]
    fn c10_an_undecodable_sentinel_is_nothing_and_other_markers_are_literal() {
        assert_eq!(decode(b"=?base64?!!?="), None);
        assert_eq!(decode(b"=?base64?/w==?="), None);
        assert_eq!(
            decode(b"=?BASE64?Zm9v?=").as_deref(),
            Some("=?BASE64?Zm9v?=")
        );
        assert_eq!(decode(b"=?base64?Zm9v").as_deref(), Some("=?base64?Zm9v"));
    }

    proptest! {
        #[test]
        fn c08_any_text_survives_a_header(text in prop_oneof!["\\PC{0,20}", "[ \t=?base64]{0,20}", "=\\?base64\\?[A-Za-z=]{0,8}\\?=", any::<String>()]) {
            let value = encode(&text);
            prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            let read = decode(value.as_bytes());
            prop_assert_eq!(read.as_deref(), Some(&text[..]));
        }

        #[test]
        fn any_header_says_something_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(text) = decode(&bytes) {
                let value = encode(&text);
                let read = decode(value.as_bytes());
                prop_assert_eq!(read.as_deref(), Some(&*text));
            }
        }
    }
}
