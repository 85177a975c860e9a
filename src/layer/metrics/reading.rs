//! Reads off an answer's bytes, as they go by, how the call ended.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::codec::sse::Decoder;
use crate::exchange::End;
use crate::layer::media;
use crate::layer::metrics::outcome::{Outcome, Verdict, may_be_a_result, may_be_an_error};

/// The most bytes of a JSON answer, or of one event, that are looked at.
const LOOKED_AT: usize = 64 * 1024;

/// One answer, as far as it was seen.
#[derive(Debug)]
pub(super) struct Reading {
    look: Look,
    verdict: Option<Verdict>,
    /// Whether an answer was seen. One that is too large to be looked at may be an error.
    is_answered: bool,
}

/// How the bytes are looked at.
#[derive(Debug)]
enum Look {
    /// Not at all.
    Away,
    /// One JSON message; `None` until the first piece.
    Json(Option<Bytes>),
    /// One JSON message that came in several pieces.
    Pieces(BytesMut),
    /// Events.
    Events(Box<Decoder>),
}

impl Reading {
    /// Of an answer that has not come.
    pub(super) fn away() -> Self {
        Self {
            look: Look::Away,
            verdict: None,
            is_answered: false,
        }
    }

    /// Of an answer with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let look = if media::is_event_stream(headers) {
            Look::Events(Box::new(Decoder::new(LOOKED_AT)))
        } else if media::is_json(headers) {
            Look::Json(None)
        } else {
            Look::Away
        };
        Self {
            look,
            ..Self::away()
        }
    }

    /// What the answer says, if it said anything but a plain result.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Whether an answer was seen.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// The code of the JSON-RPC error that it is, if it is one and has one.
    pub(super) fn code(&self) -> Option<i64> {
        self.verdict?.code.map(i64::from)
    }

    /// What the answer says, with that status, as whoever records it is told.
    pub(super) fn end(&self, status: StatusCode) -> End {
        let outcome = self
            .verdict
            .map_or_else(|| Outcome::of_status(status), |verdict| verdict.outcome);
        match outcome {
            Outcome::Ok => End::Ok {
                shown: self.is_answered,
            },
            Outcome::ToolError => End::ToolError,
            Outcome::RpcError => End::RpcError(self.code()),
            _ => End::Refused(status),
        }
    }

    /// A piece of the body goes by. Says how many events ended in it.
    pub(super) fn saw(&mut self, piece: &Bytes) -> u64 {
        match &mut self.look {
            Look::Away => 0,
            Look::Json(_) | Look::Pieces(_) => {
                self.collect(piece);
                0
            }
            Look::Events(decoder) => {
                decoder.push(piece);
                let mut events = 0;
                loop {
                    match decoder.next() {
                        Ok(Some(event)) => {
                            let Some(message) = event.message() else {
                                continue;
                            };
                            events += 1;
                            if may_be_an_error(message)
                                && let Some(verdict) = Verdict::of_message(message)
                            {
                                self.verdict = Some(verdict);
                            }
                            self.is_answered = self.is_answered || may_be_a_result(message);
                        }
                        Ok(None) => break,
                        Err(_) => {
                            self.look = Look::Away;
                            break;
                        }
                    }
                }
                events
            }
        }
    }

    /// A piece of a JSON message. One that is too large is not looked at.
    fn collect(&mut self, piece: &Bytes) {
        let look = std::mem::replace(&mut self.look, Look::Away);
        let seen = match &look {
            Look::Json(first) => first.as_ref().map_or(0, Bytes::len),
            Look::Pieces(all) => all.len(),
            Look::Away | Look::Events(_) => 0,
        };
        if seen.saturating_add(piece.len()) > LOOKED_AT {
            return;
        }
        self.look = match look {
            Look::Json(None) => Look::Json(Some(piece.clone())),
            Look::Json(Some(first)) => {
                let mut all = BytesMut::from(first);
                all.extend_from_slice(piece);
                Look::Pieces(all)
            }
            Look::Pieces(mut all) => {
                all.extend_from_slice(piece);
                Look::Pieces(all)
            }
            look @ (Look::Away | Look::Events(_)) => look,
        };
    }

    /// The body has ended as it should.
    pub(super) fn complete(&mut self) {
        let message = match &self.look {
            Look::Json(Some(message)) => Some(&message[..]),
            Look::Pieces(message) => Some(&message[..]),
            Look::Json(None) | Look::Away | Look::Events(_) => None,
        };
        if let Some(message) = message {
            self.is_answered = true;
            if may_be_an_error(message) {
                self.verdict = Verdict::of_message(message);
            }
        }
    }
}
