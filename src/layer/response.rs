//! Whether the response to a request has gone by in a stream of events.

use bytes::Bytes;
use memchr::memmem;

use crate::call::Call;
use crate::codec::sse::{Decoder, Event};
use crate::mcp::message::{Kind, Message, Parsed};
use crate::mcp::revision::Era;

/// The largest event that is looked at. Behind a larger one nothing is known any more.
const MAX_EVENT: usize = 1 << 20;

/// Whether a message is the response to the request `id`, in its JSON spelling. Most are not, and are not parsed.
pub(crate) fn answers(data: &[u8], id: &[u8]) -> bool {
    if !may_be_a_response(data) {
        return false;
    }
    let Ok(Parsed::One(message)) = Message::read(data) else {
        return false;
    };
    matches!(message.kind, Kind::Result | Kind::Error)
        && message.id.is_some_and(|span| span.of(data) == id)
}

fn may_be_a_response(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\"result\"").is_some() || memmem::find(bytes, b"\"error\"").is_some()
}

/// The response that a request waits for, in a stream that goes by.
#[derive(Debug)]
pub(crate) struct Awaited {
    id: Bytes,
    era: Era,
    decoder: Decoder,
    found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing so far.
    Nothing,
    /// The response.
    Response,
    /// It may come, or have come, elsewhere: an event was too large to be looked at, or a legacy caller has been given
    /// an event's id, with which it resumes the stream by itself.
    Unknown,
}

impl Awaited {
    /// Nothing for what has no response, and for `subscriptions/listen`, whose stream may end without one: that is how
    /// its caller sees that it has to listen anew.
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let id = call.id_token().filter(|_| !call.is_stream())?;
        Some(Self {
            id,
            era: call.era(),
            decoder: Decoder::new(MAX_EVENT),
            found: Found::Nothing,
        })
    }

    /// Looks at a piece of the stream.
    pub(crate) fn saw(&mut self, piece: &[u8]) {
        if self.found != Found::Nothing || self.is_of_no_interest(piece) {
            return;
        }
        self.decoder.push(piece);
        while self.found == Found::Nothing {
            match self.decoder.next() {
                Ok(Some(event)) => self.look(&event),
                Ok(None) => return,
                Err(_) => self.found = Found::Unknown,
            }
        }
        self.decoder = Decoder::new(0);
    }

    /// Whether the response has gone by.
    pub(crate) fn has_come(&self) -> bool {
        self.found == Found::Response
    }

    /// Whether nobody would ever give it if the stream ended here.
    pub(crate) fn would_be_missing(&self) -> bool {
        self.found == Found::Nothing
    }

    /// Whole events none of which is a response, as nearly all are. In the legacy era an id counts, too.
    fn is_of_no_interest(&self, piece: &[u8]) -> bool {
        self.era == Era::Modern
            && self.decoder.is_between_events()
            && (piece.ends_with(b"\n\n") || piece.ends_with(b"\n\r\n"))
            && !may_be_a_response(piece)
    }

    fn look(&mut self, event: &Event) {
        if event.message().is_some_and(|data| answers(data, &self.id)) {
            self.found = Found::Response;
        } else if self.era == Era::Legacy && event.id.as_ref().is_some_and(|id| !id.is_empty()) {
            self.found = Found::Unknown;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::testing::post;

    const CALL: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t"}}"#;
    const LISTEN: &str = r#"{"jsonrpc":"2.0","id":"a","method":"subscriptions/listen"}"#;

    fn awaited(era: Era, text: &str) -> Option<Awaited> {
        Awaited::of(post(era, text).extensions().get::<Call>().unwrap())
    }

    /// What is known after a stream has gone by in pieces of this size: that it came, that it would be missing.
    fn after(era: Era, stream: &str, size: usize) -> (bool, bool) {
        let mut awaited = awaited(era, CALL).unwrap();
        for piece in stream.as_bytes().chunks(size) {
            awaited.saw(piece);
        }
        (awaited.has_come(), awaited.would_be_missing())
    }

    #[test]
    fn the_response_is_found_in_any_split() {
        let progress =
            r#"data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"error":1}}"#;
        let other = r#"data: {"jsonrpc":"2.0","id":"b","result":{}}"#;
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            for answer in [r#""result":{}"#, r#""error":{"code":1,"message":"x"}"#] {
                let without = format!(": c{end}{progress}{end}{other}{end}");
                let with =
                    format!("{without}data: {{\"jsonrpc\":\"2.0\",\"id\":\"a\",{answer}}}{end}");
                for era in [Era::Legacy, Era::Modern] {
                    for size in 1..with.len() {
                        assert_eq!(after(era, &without, size), (false, true), "{size}");
                        assert_eq!(after(era, &with, size), (true, false), "{size} {with}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_legacy_caller_that_was_given_an_id_may_resume_by_itself() {
        for size in [1, 5, 100] {
            assert_eq!(
                after(Era::Legacy, "id: 7\ndata: \n\n", size),
                (false, false)
            );
            assert_eq!(after(Era::Modern, "id: 7\ndata: \n\n", size), (false, true));
        }
    }

    #[test]
    fn behind_an_event_that_is_too_large_nothing_is_known() {
        let long = format!("data: {}", "x".repeat(MAX_EVENT));
        assert_eq!(after(Era::Modern, &long, 4096), (false, false));
    }

    #[test]
    fn listen_and_what_has_no_response_await_none() {
        assert!(awaited(Era::Modern, LISTEN).is_none());
        let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert!(awaited(Era::Legacy, note).is_none());
    }
}
