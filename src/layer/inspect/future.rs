//! The future of `inspect`: read, judge, pass on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Request, Response, header};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use crate::call::{Call, LARGE};
use crate::error::{self, Addressee, BoxError, Cause, Failure};
use crate::facts::Facts;
use crate::layer::inspect::budget::Held;
use crate::layer::inspect::{Params, judge};
use crate::layer::media;
use crate::mcp::method::Method;

pin_project! {
    /// The future of [`Inspect`](super::Inspect).
    pub struct ResponseFuture<S, ReqBody>
    where
        S: Service<Request<Full<Bytes>>>,
    {
        #[pin]
        state: State<S::Future, S::Response, Reading<S, ReqBody>>,
        // What was taken for a small body, given back when the first answer comes.
        held: Option<Held>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R, B> {
        // Boxed: it is moved by all layers around before it is polled, and is most of them.
        Read { reading: Pin<Box<B>> },
        Inner { #[pin] future: F },
        Answer { response: Option<R> },
    }
}

pin_project! {
    /// A body on its way in.
    struct Reading<S, ReqBody> {
        #[pin]
        body: ReqBody,
        // Boxed: mostly the body is there, and a future without room for a timer is moved for less.
        timeout: Option<Pin<Box<Sleep>>>,
        inner: Option<(S, Parts)>,
        facts: Facts,
        collected: Collected,
        held: Option<Held>,
        params: Params,
    }
}

/// The bytes that have come: one piece as it came, or several put together.
#[derive(Default)]
struct Collected {
    first: Option<Bytes>,
    all: BytesMut,
}

impl Collected {
    fn len(&self) -> usize {
        self.first.as_ref().map_or(self.all.len(), Bytes::len)
    }

    fn push(&mut self, piece: Bytes) {
        if self.first.is_none() && self.all.is_empty() {
            self.first = Some(piece);
            return;
        }
        if let Some(first) = self.first.take() {
            self.all.extend_from_slice(&first);
        }
        self.all.extend_from_slice(&piece);
    }

    fn take(&mut self) -> Bytes {
        self.first
            .take()
            .unwrap_or_else(|| std::mem::take(&mut self.all).freeze())
    }
}

impl<S, ReqBody, ResBody> ResponseFuture<S, ReqBody>
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
    ReqBody: http_body::Body<Data = Bytes>,
    ReqBody::Error: Into<BoxError>,
    ResBody: From<Bytes>,
{
    /// Goes on with the inner service at once.
    pub(super) fn pass(future: S::Future) -> Self {
        Self {
            state: State::Inner { future },
            held: None,
        }
    }

    /// Answers at once.
    pub(super) fn refuse(failure: &Failure, request: &Request<ReqBody>, facts: &Facts) -> Self {
        facts.set_cause(failure.cause());
        let response = error::answer(failure, &Addressee::of(request));
        Self {
            state: State::Answer {
                response: Some(response),
            },
            held: None,
        }
    }

    /// Reads the body, then goes on.
    pub(super) fn read(inner: S, request: Request<ReqBody>, facts: Facts, params: &Params) -> Self {
        if let Err(failure) = media_types(request.headers()) {
            return Self::refuse(&failure, &request, &facts);
        }
        let expected = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
        if expected > params.max_body {
            return Self::refuse(&Failure::unsent(Cause::BodyTooLarge), &request, &facts);
        }
        let (parts, body) = request.into_parts();
        let reading = Reading {
            body,
            timeout: None,
            inner: Some((inner, parts)),
            facts,
            collected: Collected::default(),
            // Only what has come is taken: a length costs its sender nothing.
            held: Some(params.budget.hold()),
            params: params.clone(),
        };
        Self {
            state: State::Read {
                reading: Box::pin(reading),
            },
            held: None,
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, ReqBody>
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
    ReqBody: http_body::Body<Data = Bytes>,
    ReqBody::Error: Into<BoxError>,
    ResBody: From<Bytes>,
{
    type Output = Result<Response<ResBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Read { reading } => {
                    let outcome = ready!(reading.as_mut().poll_body(cx));
                    let mut held = reading.as_mut().project().held.take();
                    let outcome = outcome.map(|body| match held.take_if(|_| body.len() > LARGE) {
                        Some(held) => held.charge(body),
                        None => body,
                    });
                    *this.held = held;
                    match reading.as_mut().finish(outcome) {
                        Ok(future) => State::Inner { future },
                        Err(response) => State::Answer { response },
                    }
                }
                StateProjection::Inner { future } => {
                    let answer = future.poll(cx);
                    if answer.is_ready() {
                        *this.held = None;
                    }
                    return answer;
                }
                StateProjection::Answer { response } => {
                    *this.held = None;
                    return response
                        .take()
                        .map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, ReqBody> Reading<S, ReqBody>
where
    ReqBody: http_body::Body<Data = Bytes>,
    ReqBody::Error: Into<BoxError>,
{
    /// Reads to the end of the body, within the bounds.
    fn poll_body(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let mut this = self.project();
        loop {
            if this.body.is_end_stream() {
                return Poll::Ready(Ok(this.collected.take()));
            }
            let frame = match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) => return Poll::Ready(Ok(this.collected.take())),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(
                        Failure::unsent(Cause::BodyIncomplete).with_source(error)
                    ));
                }
                Poll::Pending => {
                    let span = this.params.body_timeout;
                    let timeout = this
                        .timeout
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(span)));
                    ready!(timeout.as_mut().poll(cx));
                    return Poll::Ready(Err(Failure::unsent(Cause::BodyTimeout)));
                }
            };
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            let total = this.collected.len().saturating_add(piece.len());
            if total > this.params.max_body {
                return Poll::Ready(Err(Failure::unsent(Cause::BodyTooLarge)));
            }
            if this.held.as_mut().is_some_and(|held| !held.grow_to(total)) {
                return Poll::Ready(Err(Failure::unsent(Cause::Overloaded)));
            }
            this.collected.push(piece);
        }
    }

    /// Judges what came: the inner service's future, or the answer.
    fn finish<ResBody>(
        self: Pin<&mut Self>,
        outcome: Result<Bytes, Failure>,
    ) -> Result<S::Future, Option<Response<ResBody>>>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        ResBody: From<Bytes>,
    {
        let this = self.project();
        let Some((mut inner, mut parts)) = this.inner.take() else {
            return Err(None);
        };
        let judged = match outcome {
            Ok(body) => judge(&parts.headers, &body),
            Err(failure) => Err((failure, None)),
        };
        match judged {
            Ok(call) => {
                note(this.facts, &call);
                let body = Full::new(call.body().clone());
                parts.extensions.insert(call);
                Ok(inner.call(Request::from_parts(parts, body)))
            }
            Err((failure, call)) => {
                this.facts.set_cause(failure.cause());
                if let Some(call) = call {
                    note(this.facts, &call);
                    parts.extensions.insert(call);
                }
                let request = Request::from_parts(parts, ());
                Err(Some(error::answer(&failure, &Addressee::of(&request))))
            }
        }
    }
}

/// Tells the facts what the call is.
fn note(facts: &Facts, call: &Call) {
    facts.set_era(call.era());
    facts.set_method(call.method());
    if call.method() == Some(Method::ToolsCall)
        && let Some(tool) = call.subject()
    {
        facts.set_tool(&tool);
    }
    if let Some(exchange) = facts.exchange() {
        exchange.read(call);
    }
}

/// `Content-Type` is JSON, and `Accept` takes what an MCP server may answer with; absent ones count as fitting.
fn media_types(headers: &HeaderMap) -> Result<(), Failure> {
    if let Some(content_type) = headers.get(header::CONTENT_TYPE)
        && !is_json(content_type.as_bytes())
    {
        return Err(Failure::unsent(Cause::UnsupportedMediaType));
    }
    if headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept == media::USUAL_ACCEPT)
    {
        return Ok(());
    }
    let mut accepts = headers.get_all(header::ACCEPT).iter().peekable();
    if accepts.peek().is_none() {
        return Ok(());
    }
    let (mut json, mut events) = (false, false);
    for range in accepts.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')) {
        match media_type(range) {
            b"*/*" => (json, events) = (true, true),
            kind if kind.eq_ignore_ascii_case(b"application/json") => json = true,
            kind if kind.eq_ignore_ascii_case(b"text/event-stream") => events = true,
            kind if kind.eq_ignore_ascii_case(b"application/*") => json = true,
            kind if kind.eq_ignore_ascii_case(b"text/*") => events = true,
            _ => {}
        }
    }
    if json && events {
        Ok(())
    } else {
        Err(Failure::unsent(Cause::NotAcceptable))
    }
}

/// The media type of a header value, without parameters.
fn media_type(value: &[u8]) -> &[u8] {
    value
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

fn is_json(value: &[u8]) -> bool {
    value == b"application/json" || media_type(value).eq_ignore_ascii_case(b"application/json")
}

impl<S, ReqBody> fmt::Debug for ResponseFuture<S, ReqBody>
where
    S: Service<Request<Full<Bytes>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
