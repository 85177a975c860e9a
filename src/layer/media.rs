//! What an answer is by its `Content-Type`: a JSON message, a stream of events, or neither.

use http::header::{CONTENT_TYPE, HeaderMap};

pub(crate) const JSON: &str = "application/json";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";
/// The `Accept` that nearly every client sends, so that it need not be taken apart.
pub(crate) const USUAL_ACCEPT: &str = "application/json, text/event-stream";

/// Whether the body is one JSON message.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    is(headers, JSON)
}

/// Whether the body is a stream of events.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    is(headers, EVENT_STREAM)
}

fn is(headers: &HeaderMap, essence: &str) -> bool {
    // Answers have few headers, and this is mostly the first of them: that costs less than to hash its name.
    let Some((_, value)) = headers.iter().find(|(name, _)| **name == CONTENT_TYPE) else {
        return false;
    };
    let (Some(head), rest) = (value.as_bytes().get(..essence.len()), essence.len()) else {
        return false;
    };
    // Nearly all write it in lower case, and bytes compare faster than letters.
    (head == essence.as_bytes() || head.eq_ignore_ascii_case(essence.as_bytes()))
        && matches!(value.as_bytes().get(rest), None | Some(b';' | b' '))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn parameters_and_case_do_not_count() {
        for (value, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json-seq", false),
            ("application/jso", false),
            ("text/html", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_json(&headers), json, "{value}");
        }
        assert!(!is_event_stream(&HeaderMap::new()));
    }
}
