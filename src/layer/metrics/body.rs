//! Watches one call to the end of its body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::codec::sse::Decoder;
use crate::error::{BoxError, Cause, Failure};
use crate::facts::Facts;
use crate::layer::media;
use crate::layer::metrics::families::{Label, ServerFamilies};
use crate::layer::metrics::outcome::{Outcome, may_be_a_result, may_be_an_error};
use crate::mcp::method::{self, Class};
use crate::mcp::revision::Era;

/// The most bytes of a JSON answer, or of one event, that are looked at.
const LOOKED_AT: usize = 64 * 1024;

/// One call from its begin to its end. Dropped before the end was seen, the call was cancelled.
#[derive(Debug)]
pub(super) struct Observer {
    families: Arc<ServerFamilies>,
    facts: Facts,
    /// What it is counted under as long as no method is known.
    label: Label,
    /// Whether it is counted among the open streams (else among the calls in flight).
    is_stream: bool,
    status: StatusCode,
    outcome: Option<Outcome>,
    /// Whether an answer was seen. One that is too large to be looked at may be an error.
    is_answered: bool,
    look: Look,
    ended: bool,
}

/// How the answer's bytes are looked at.
#[derive(Debug)]
enum Look {
    /// Not at all.
    Away,
    /// One JSON message; `None` until the first piece.
    Json(Option<Bytes>),
    /// One JSON message that came in several pieces.
    Pieces(BytesMut),
    /// Events.
    Events(Decoder),
}

impl Observer {
    pub(super) fn begin(families: Arc<ServerFamilies>, facts: Facts, verb: &Method) -> Self {
        let is_get = verb == Method::GET;
        let gauge = if is_get {
            &families.streams
        } else {
            &families.in_flight
        };
        gauge.inc();
        Self {
            families,
            facts,
            label: match *verb {
                Method::GET => Label::Get,
                Method::DELETE => Label::Delete,
                _ => Label::Other,
            },
            is_stream: is_get,
            status: StatusCode::OK,
            outcome: None,
            is_answered: false,
            look: Look::Away,
            ended: false,
        }
    }

    /// The answer's head has come.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status;
        if self.facts.endpoint().is_some() && !self.is_stream {
            self.families.answered_after(self.facts.started().elapsed());
        }
        let is_listen =
            self.facts.method().flatten().map(method::Method::class) == Some(Class::Listen);
        if is_listen && !self.is_stream {
            self.is_stream = true;
            self.families.in_flight.dec();
            self.families.streams.inc();
        }
        self.look = if media::is_event_stream(headers) {
            Look::Events(Decoder::new(LOOKED_AT))
        } else if media::is_json(headers) {
            Look::Json(None)
        } else {
            Look::Away
        };
    }

    /// A piece of the body goes by.
    fn saw(&mut self, piece: &Bytes) {
        match &mut self.look {
            Look::Away => {}
            Look::Json(_) | Look::Pieces(_) => self.collect(piece),
            Look::Events(decoder) => {
                decoder.push(piece);
                loop {
                    match decoder.next() {
                        Ok(Some(event)) => {
                            let Some(message) = event.message() else {
                                continue;
                            };
                            self.families.events.inc();
                            if may_be_an_error(message)
                                && let Some(outcome) = Outcome::of_message(message)
                            {
                                self.outcome = Some(outcome);
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
    fn complete(&mut self) {
        let message = match &self.look {
            Look::Json(Some(message)) => Some(&message[..]),
            Look::Pieces(message) => Some(&message[..]),
            Look::Json(None) | Look::Away | Look::Events(_) => None,
        };
        if let Some(message) = message {
            self.is_answered = true;
            if may_be_an_error(message) {
                self.outcome = Outcome::of_message(message);
            }
        }
        let outcome = match self.facts.cause() {
            Some(cause) => Outcome::of_cause(cause),
            None => self
                .outcome
                .unwrap_or_else(|| Outcome::of_status(self.status)),
        };
        self.end(outcome, "complete");
    }

    /// There is no answer, or it broke off.
    pub(super) fn failed(&mut self, cause: Cause) {
        self.facts.set_cause(cause);
        self.end(
            Outcome::of_cause(self.facts.cause().unwrap_or(cause)),
            "upstream",
        );
    }

    fn end(&mut self, outcome: Outcome, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.is_stream {
            self.families.streams.dec();
            self.families.count_closed(reason);
        } else {
            self.families.in_flight.dec();
        }
        let label = match self.facts.method() {
            Some(Some(method)) => Label::Known(method),
            Some(None) => Label::Other,
            None => self.label,
        };
        let elapsed = self.facts.started().elapsed();
        let (tool, seconds) = (self.facts.tool(), elapsed.as_secs_f64());
        let exists = self.is_answered && outcome == Outcome::Ok;
        self.families.count(label, tool, exists, outcome, seconds);
        if let Some(cause) = self.facts.cause() {
            self.families.count_error(label, cause);
        }
        tracing::debug!(
            target: "outrigger::access",
            request_id = %self.facts.request_id(),
            server = %self.families.server(),
            method = label.as_str(),
            tool = self.facts.tool(),
            era = self.facts.era().map(Era::as_str),
            principal = self.facts.caller().and_then(|caller| caller.principal()).map(|name| &**name),
            endpoint = self.facts.endpoint(),
            attempts = self.facts.attempts(),
            status = self.status.as_u16(),
            outcome = outcome.as_str(),
            cause = self.facts.cause().map(Cause::as_str),
            ms = elapsed.as_millis(),
            "call"
        );
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, "caller");
    }
}

pin_project! {
    /// The answer's body, watched to its end.
    #[derive(Debug)]
    pub struct ResponseBody<B>
    where
        B: http_body::Body,
    {
        #[pin]
        body: B,
        observer: Option<Observer>,
    }

    impl<B> PinnedDrop for ResponseBody<B>
    where
        B: http_body::Body,
    {
        fn drop(this: Pin<&mut Self>) {
            // A reader that knows the length does not poll for the end.
            let this = this.project();
            if this.body.is_end_stream() && let Some(mut observer) = this.observer.take() {
                observer.complete();
            }
        }
    }
}

impl<B> ResponseBody<B>
where
    B: http_body::Body,
{
    pub(super) fn new(body: B, mut observer: Observer) -> Self {
        let ended = body.is_end_stream();
        if ended {
            observer.complete();
        }
        Self {
            body,
            observer: (!ended).then_some(observer),
        }
    }
}

impl<B> http_body::Body for ResponseBody<B>
where
    B: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let Some(observer) = this.observer {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        observer.saw(piece);
                    }
                }
                Some(Err(error)) => observer
                    .failed(Failure::of(error).map_or(Cause::ConnectionLost, Failure::cause)),
                None => observer.complete(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
