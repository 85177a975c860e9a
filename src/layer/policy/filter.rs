//! Cutting what is not offered out of the answer to a `tools/list`, in JSON and in events, without I/O.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::codec::sse::Decoder;
use crate::error::{Cause, Failure, Phase};
use crate::layer::policy::Params;
use crate::mcp::list::{List, remove_elements};
use crate::mcp::message::{Kind, Message, Parsed};

/// What has been read of an answer, and what of it goes on.
pub(super) struct Filter {
    params: Arc<Params>,
    /// The id of the list request; nothing in a batch.
    id: Option<Bytes>,
    seen: usize,
    out: BytesMut,
    /// Only for an event stream.
    events: Option<Decoder>,
}

impl Filter {
    /// A filter for an answer with these headers; nothing if it is none that carries messages.
    pub(super) fn of(
        headers: &HeaderMap,
        params: Arc<Params>,
        id: Option<Bytes>,
    ) -> Option<Result<Self, Failure>> {
        let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let events = if kind.eq_ignore_ascii_case("text/event-stream") {
            Some(Decoder::new(params.max_list))
        } else if kind.eq_ignore_ascii_case("application/json") {
            None
        } else {
            return None;
        };
        let encoding = headers.get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Some(Err(bad("the list is encoded")));
        }
        Some(Ok(Self {
            params,
            id,
            seen: 0,
            out: BytesMut::new(),
            events,
        }))
    }

    /// Takes what has arrived, and says whether the answer is complete although the body may go on.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<bool, Failure> {
        self.seen = self.seen.saturating_add(chunk.len());
        if self.seen > self.params.max_list {
            return Err(bad("the list is too long"));
        }
        let Some(events) = &mut self.events else {
            self.out.extend_from_slice(chunk);
            return Ok(false);
        };
        events.push(chunk);
        while let Some(event) = events.next().map_err(|_| bad("an event is too long"))? {
            let Some(message) = event.message() else {
                self.out.extend_from_slice(&event.raw);
                continue;
            };
            let kept = keep(&self.params, message)?;
            if kept == *message {
                self.out.extend_from_slice(&event.raw);
            } else {
                self.out.extend_from_slice(&event.with_data(&kept));
            }
            if self.id.as_deref().is_some_and(|id| is_answer(message, id)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What goes on.
    pub(super) fn finish(mut self) -> Result<Bytes, Failure> {
        if let Some(events) = self.events {
            self.out.extend_from_slice(&events.finish());
            return Ok(self.out.freeze());
        }
        let whole = self.out.freeze();
        if whole.is_empty() {
            return Ok(whole);
        }
        keep(&self.params, &whole)
    }
}

fn keep(params: &Params, message: &Bytes) -> Result<Bytes, Failure> {
    remove_elements(message, List::Tools, |name| params.offers(name)).map_err(|malformed| {
        Failure::new(Cause::BadResponse, Phase::Answered).with_source(malformed)
    })
}

/// Whether `message` answers the request with this id.
fn is_answer(message: &[u8], id: &[u8]) -> bool {
    matches!(Message::read(message), Ok(Parsed::One(read))
        if matches!(read.kind, Kind::Result | Kind::Error)
            && read.id.is_some_and(|span| span.of(message) == id))
}

fn bad(why: &'static str) -> Failure {
    Failure::new(Cause::BadResponse, Phase::Answered).with_source(why)
}
