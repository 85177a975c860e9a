//! Keeps a caller's connection alive while nothing comes: a late answer becomes a stream, and a silent stream speaks.
//!
//! Load balancers and clients give up on a connection without bytes, and some servers hold even their headers back
//! until the first message.
//!
//! Contract:
//!
//! 1. A request (POST) that is not answered within [`Params::hold`] is committed: the caller gets `200`, a
//!    `text/event-stream`, and a comment at once. What answers it later comes in that stream: events as they are, a
//!    JSON message or an error answer as one event, a [`Failure`] as the event of its error.
//! 2. Not committed are: `initialize` (its answer carries a header), batches, notifications, responses, and what does
//!    not accept `text/event-stream`.
//! 3. A GET is committed likewise, so that its headers come although the upstream's do not. If a late answer is no
//!    stream then, the stream ends.
//! 4. In a stream of events, committed or the upstream's, there is a comment after each [`Params::keep_alive`] of
//!    silence, only ever between two events.
//! 5. A stream of a request that breaks, or ends before its response, ends with an error event for its id, so that nobody
//!    waits for ever. An event that has begun is given another name first, which clients pass over. Nothing is added
//!    behind a response, to a `subscriptions/listen` that ends, and where a legacy caller was given an event's id: it
//!    resumes by itself. All other bodies are cut.
//! 6. Every stream of events says `X-Accel-Buffering: no`. All other bytes of an answer are as they came.
//! 7. Dropping the answer, or its body, drops the call.
//! 8. Without a [`Call`] everything passes as it is, however long it takes.
//! 9. Once the [`Signal`] is given, the process ends, and a call that has no answer yet fails as
//!    [`Cause::ShuttingDown`]: with an error answer, or in its stream as in rule 5. The signal is looked at when the
//!    answer, or its body, is polled, so whoever gives it polls them all: to wait for it would cost each call more than
//!    all the rest here. What wants no answer, and bodies that are no stream of a call, are left to be cut.
//!
//! It stands outside [`rescue`](super::rescue), which makes answers of failures, and inside `authenticate`: what is
//! committed can no longer be refused.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::BoxError;
//! use outrigger::layer::hold::{HoldLayer, Params};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(HoldLayer::new(Params::default()))
//!     .service(service_fn(async |_: Request<()>| {
//!         Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
//!     }));
//! assert_eq!(service.oneshot(Request::new(())).await?.status(), 200);
//! # Ok(())
//! # }
//! ```

mod body;
mod message;
mod stream;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::ResponseBody;
use self::stream::Stream;
use crate::call::{Call, Form};
use crate::error::{Addressee, BoxError, Cause, Failure, Phase, answer};
use crate::facts::Facts;
use crate::layer::media;
use crate::mcp::message::Kind;
use crate::mcp::method::Method;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How long silence may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Params {
    /// After how long a request without an answer is committed. Default: 1.5 s; `Duration::MAX` is never.
    pub hold: Duration,
    /// After how much silence a stream has a comment. Default: 15 s; `Duration::MAX` is never.
    pub keep_alive: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            hold: Duration::from_millis(1_500),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// The signal: true once the process ends.
pub type Signal = watch::Receiver<bool>;

/// When a caller may try again whose call the end of the process has cut.
const COME_AGAIN: Duration = Duration::from_secs(1);

fn is_over(signal: Option<&Signal>) -> bool {
    signal.is_some_and(|signal| *signal.borrow())
}

fn shutting_down(phase: Phase) -> Failure {
    Failure::new(Cause::ShuttingDown, phase).with_retry_after(COME_AGAIN)
}

/// Keeps a caller's connection alive.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct HoldLayer {
    params: Params,
    over: Option<Signal>,
}

impl HoldLayer {
    /// Holds calls by these parameters.
    pub fn new(params: Params) -> Self {
        Self { params, over: None }
    }

    /// Ends calls when `signal` turns true.
    pub fn until(mut self, signal: Signal) -> Self {
        self.over = Some(signal);
        self
    }
}

impl<S> Layer<S> for HoldLayer {
    type Service = Hold<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Hold {
            inner,
            params: self.params,
            over: self.over.clone(),
        }
    }
}

/// The service of [`HoldLayer`].
#[derive(Clone, Debug)]
pub struct Hold<S> {
    inner: S,
    params: Params,
    over: Option<Signal>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Hold<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: Body<Data = Bytes> + From<Bytes>,
{
    type Response = Response<ResponseBody<S::Future, ResBody>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let held = Held::of(&request, self.params, self.over.as_ref());
        ResponseFuture {
            inner: Some(Box::pin(self.inner.call(request))),
            held,
            patience: None,
        }
    }
}

/// What must be known of a request that may be silent.
#[derive(Debug)]
struct Held {
    /// When its answer is committed, if it may be before it comes.
    until: Option<Instant>,
    keep_alive: Duration,
    call: Call,
    facts: Option<Facts>,
    over: Option<Signal>,
}

impl Held {
    /// Nothing for what passes as it is.
    fn of<B>(request: &Request<B>, params: Params, over: Option<&Signal>) -> Option<Self> {
        let call = request.extensions().get::<Call>()?;
        let is_held = match call.form() {
            Form::Message(message) if message.kind == Kind::Request => {
                call.method() != Some(Method::Initialize)
            }
            Form::Stream => true,
            Form::Batch(_) => false,
            _ => return None,
        };
        let may_commit = is_held && accepts_events(request.headers());
        let facts = Facts::get(request);
        let until = may_commit
            .then(|| Instant::now().checked_add(params.hold))
            .flatten();
        if let (Some(facts), Some(until)) = (facts, until) {
            facts.want_poll(until);
        }
        Some(Self {
            until,
            keep_alive: params.keep_alive,
            call: call.clone(),
            facts: facts.cloned(),
            over: over.cloned(),
        })
    }

    /// Whether the call is polled in time without a timer of ours: before its time, if an inner one sees to that.
    fn is_woken(&self, until: Instant) -> bool {
        let is_seen_to = self.facts.as_ref().is_some_and(Facts::is_poll_seen_to);
        is_seen_to && Instant::now() < until
    }

    fn stream(self) -> Box<Stream> {
        let stream = Stream::new(self.keep_alive, &self.call, self.facts, self.over);
        Box::new(stream)
    }

    /// The answer of a call that ends with the process.
    fn farewell<B: From<Bytes>>(&self) -> Response<B> {
        let facts = self.facts.as_ref();
        let phase = if facts.is_some_and(|facts| facts.sent() == 0) {
            Phase::Unsent
        } else {
            Phase::Sent
        };
        let failure = shutting_down(phase);
        if let Some(facts) = facts {
            facts.set_cause(failure.cause());
        }
        answer(&failure, &Addressee::to(Some(&self.call), facts))
    }
}

fn accepts_events(headers: &HeaderMap) -> bool {
    if headers
        .get(ACCEPT)
        .is_some_and(|value| value == media::USUAL_ACCEPT)
    {
        return true;
    }
    let name = media::EVENT_STREAM.as_bytes();
    headers.get_all(ACCEPT).iter().any(|value| {
        let value = value.as_bytes();
        memchr::memmem::find(value, name).is_some()
            || value
                .windows(name.len())
                .any(|part| part.eq_ignore_ascii_case(name))
    })
}

/// The inner answer, or a stream that waits for it.
pub struct ResponseFuture<F> {
    // Boxed, because it moves into the body when the answer is committed.
    inner: Option<Pin<Box<F>>>,
    held: Option<Held>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes> + From<Bytes>,
{
    type Output = Result<Response<ResponseBody<F, B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Pending;
        };
        if let Poll::Ready(outcome) = inner.as_mut().poll(cx) {
            this.inner = None;
            let response = outcome.map_err(Into::into)?;
            return Poll::Ready(Ok(pass(response, this.held.take())));
        }
        let Some(held) = this.held.as_ref() else {
            return Poll::Pending;
        };
        if is_over(held.over.as_ref()) {
            this.inner = None;
            return Poll::Ready(Ok(held.farewell().map(ResponseBody::plain)));
        }
        let Some(until) = held.until else {
            return Poll::Pending;
        };
        if this.patience.is_none() && held.is_woken(until) {
            return Poll::Pending;
        }
        let patience = this
            .patience
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(match (this.inner.take(), this.held.take()) {
            (Some(late), Some(held)) => Ok(commit(ResponseBody::late(late, held.stream()))),
            _ => Err("polled after it was ready".into()),
        })
    }
}

/// The answer as it came; if it is a stream of events, one that is kept alive.
fn pass<F, B: Body<Data = Bytes>>(
    mut response: Response<B>,
    held: Option<Held>,
) -> Response<ResponseBody<F, B>> {
    let is_stream = media::is_event_stream(response.headers());
    let Some(held) = held.filter(|_| is_stream) else {
        return response.map(ResponseBody::plain);
    };
    let headers = response.headers_mut();
    headers
        .entry(X_ACCEL_BUFFERING)
        .or_insert(HeaderValue::from_static("no"));
    // It is there as a whole: nothing must come between its bytes, and nothing will be late.
    if headers.contains_key(CONTENT_LENGTH) {
        return response.map(ResponseBody::plain);
    }
    response.map(|body| ResponseBody::events(body, held.stream()))
}

fn commit<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media::EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
