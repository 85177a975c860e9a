//! The id of a later attempt, and the way back: the caller sees the id that it sent.
//!
//! 2026-07-28 wants a new id in each attempt. It is a JSON string that nobody else uses, so the bytes of its token,
//! quotes included, can stand in an answer only where a string has exactly this value: the id, a `requestId`, a
//! `subscriptionId`. (Within a text the closing quote would be escaped.) So the way back needs no decoder: each
//! occurrence is replaced as the bytes pass, in JSON and in events alike, and all other bytes stay.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use crate::call::{Call, Form};
use crate::facts::RequestId;
use crate::mcp::message::{Kind, Message, Parsed};
use crate::mcp::revision::Era;
use crate::mcp::splice;

/// The id that went to the upstream and the one that the caller knows, as JSON tokens.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    sent: Bytes,
    shown: Bytes,
}

/// The same call with an id of its own for the `attempt`th try, if its era wants one.
pub(super) fn renumber(call: &Call, request_id: RequestId, attempt: u32) -> Option<(Call, Ids)> {
    let message = call.message()?;
    if call.era() != Era::Modern || message.kind != Kind::Request {
        return None;
    }
    let shown = call.id_token()?;
    let sent = Bytes::from(format!("\"outrigger-{request_id}-{attempt}\""));
    let body = splice::replace(call.body(), message.id?, &sent);
    let Ok(Parsed::One(message)) = Message::read(&body) else {
        return None;
    };
    let call = Call::new(Form::Message(message), call.era(), call.revision(), body);
    Some((call, Ids { sent, shown }))
}

/// Puts the caller's id back into an answer, chunk by chunk.
#[derive(Debug)]
pub(super) struct Restore {
    ids: Ids,
    /// The end of the last chunk, if it may be the beginning of a token.
    held: Bytes,
}

impl Restore {
    pub(super) fn new(ids: Ids) -> Self {
        Self {
            ids,
            held: Bytes::new(),
        }
    }

    /// What goes on of `chunk`. Held back is only what may be the beginning of the id.
    pub(super) fn push(&mut self, chunk: Bytes) -> Bytes {
        let chunk = if self.held.is_empty() {
            chunk
        } else {
            let mut both = BytesMut::from(&*std::mem::take(&mut self.held));
            both.extend_from_slice(&chunk);
            both.freeze()
        };
        let chunk = replace_all(chunk, &self.ids);
        let keep = self.beginning_at_end(&chunk);
        self.held = chunk.slice(chunk.len() - keep..);
        chunk.slice(..chunk.len() - keep)
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }

    /// How many bytes at the end of `chunk` are the beginning of the token.
    fn beginning_at_end(&self, chunk: &[u8]) -> usize {
        (1..self.ids.sent.len())
            .rev()
            .find(|&n| {
                self.ids
                    .sent
                    .get(..n)
                    .is_some_and(|start| chunk.ends_with(start))
            })
            .unwrap_or(0)
    }
}

fn replace_all(chunk: Bytes, ids: &Ids) -> Bytes {
    let mut places = memmem::find_iter(&chunk, &ids.sent).peekable();
    if places.peek().is_none() {
        return chunk;
    }
    let mut out = BytesMut::with_capacity(chunk.len());
    let mut done = 0;
    for place in places {
        out.extend_from_slice(chunk.get(done..place).unwrap_or_default());
        out.extend_from_slice(&ids.shown);
        done = place + ids.sent.len();
    }
    out.extend_from_slice(chunk.get(done..).unwrap_or_default());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> Ids {
        Ids {
            sent: Bytes::from_static(b"\"outrigger-ab-2\""),
            shown: Bytes::from_static(b"1.0"),
        }
    }

    const ANSWER: &str = r#"{ "jsonrpc":"2.0", "id" : "outrigger-ab-2","result":{"x":1e3,"_meta":{"io.modelcontextprotocol/subscriptionId":"outrigger-ab-2"},"text":"\"outrigger-ab-2\" outrigger-ab-2"}}"#;
    const SHOWN: &str = r#"{ "jsonrpc":"2.0", "id" : 1.0,"result":{"x":1e3,"_meta":{"io.modelcontextprotocol/subscriptionId":1.0},"text":"\"outrigger-ab-2\" outrigger-ab-2"}}"#;

    fn restore(chunks: &[&[u8]]) -> String {
        let mut restore = Restore::new(ids());
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(&restore.push(Bytes::copy_from_slice(chunk)));
        }
        out.extend_from_slice(&restore.finish());
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn any_split_gives_the_callers_id_and_all_other_bytes(mut cuts in prop::collection::vec(0..ANSWER.len(), 0..6)) {
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([ANSWER.len()]) {
                chunks.push(&ANSWER.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(restore(&chunks), SHOWN);
        }
    }

    #[test]
    fn an_event_is_not_held_back() {
        let mut restore = Restore::new(ids());
        let event = Bytes::from_static(b"data: {\"id\":\"outrigger-ab-2\"}\n\n");
        assert_eq!(restore.push(event), "data: {\"id\":1.0}\n\n");
        assert_eq!(
            restore.push(Bytes::from_static(b"data: \"outrig")),
            "data: "
        );
        assert_eq!(restore.finish(), "\"outrig");
    }
}
