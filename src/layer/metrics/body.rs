//! Watches one call to the end of its body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::{BoxError, Cause, Failure};
use crate::exchange::End;
use crate::facts::Facts;
use crate::layer::metrics::families::{Label, ServerFamilies};
use crate::layer::metrics::outcome::Outcome;
use crate::layer::metrics::reading::Reading;
use crate::layer::metrics::semconv::Operation;
use crate::mcp::headers;
use crate::mcp::method::{self, Class};
use crate::mcp::revision::{Era, Revision};

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
    reading: Reading,
    /// The revision that the request names; asked only where somebody counts by it.
    revision: Option<Revision>,
    ended: bool,
}

impl Observer {
    pub(super) fn begin<B>(
        families: Arc<ServerFamilies>,
        facts: Facts,
        request: &Request<B>,
    ) -> Self {
        let is_get = request.method() == Method::GET;
        let gauge = if is_get {
            &families.streams
        } else {
            &families.in_flight
        };
        gauge.inc();
        let revision = families
            .semconv()
            .and_then(|_| request.headers().get(headers::PROTOCOL_VERSION))
            .and_then(|value| Revision::parse(value.to_str().ok()?));
        Self {
            families,
            facts,
            label: match *request.method() {
                Method::GET => Label::Get,
                Method::DELETE => Label::Delete,
                _ => Label::Other,
            },
            is_stream: is_get,
            status: StatusCode::OK,
            reading: Reading::away(),
            revision,
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
        self.reading = Reading::of(headers);
    }

    /// A piece of the body goes by.
    fn saw(&mut self, piece: &Bytes) {
        let events = self.reading.saw(piece);
        if events > 0 {
            self.families.events.inc_by(events);
        }
    }

    /// The body has ended as it should.
    fn complete(&mut self) {
        self.reading.complete();
        let outcome = match self.facts.cause() {
            Some(cause) => Outcome::of_cause(cause),
            None => self.reading.verdict().map_or_else(
                || Outcome::of_status(self.status),
                |verdict| verdict.outcome,
            ),
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
        let exists = self.reading.is_answered() && outcome == Outcome::Ok;
        self.families.count(label, tool, exists, outcome, seconds);
        if let Some(cause) = self.facts.cause() {
            self.families.count_error(label, cause);
        }
        self.count_operation(outcome, seconds);
        if let Some(exchange) = self.facts.exchange() {
            exchange.ended(&self.facts, self.end_of(outcome));
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

impl Observer {
    /// Counts it by OpenTelemetry's conventions, if it is what they call an operation.
    fn count_operation(&self, outcome: Outcome, seconds: f64) {
        let (Some(semconv), Some(method)) = (self.families.semconv(), self.facts.method()) else {
            return;
        };
        if self.is_stream {
            return;
        }
        semconv.answered(
            &Operation {
                server: self.families.server(),
                method,
                tool: self.facts.tool().map(|tool| self.families.tool_label(tool)),
                revision: self.revision,
            },
            self.end_of(outcome),
            seconds,
        );
    }

    /// How it ended, as those who record it are told.
    fn end_of(&self, outcome: Outcome) -> End {
        match (outcome, self.facts.cause()) {
            (Outcome::Cancelled, _) => End::Cancelled,
            (_, Some(cause)) => End::Failed(cause, self.reading.code()),
            (_, None) => self.reading.end(self.status),
        }
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
