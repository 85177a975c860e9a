//! Makes a request good Streamable HTTP of its era, and tells the upstream when nobody waits for the answer any more.
//!
//! The last of an endpoint's layers, right above the [`Connector`](crate::transport::Connector).
//!
//! Contract:
//!
//! 1. Every request goes to the endpoint's path, in origin form, with the endpoint's `Host`. Without a [`Call`] that is
//!    all.
//! 2. A POST accepts JSON and SSE and says that it is JSON, a GET accepts SSE. Nothing is asked for in a content
//!    encoding, and an answer in one fails.
//! 3. 2026-07-28: `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` are written from the [`Call`], so that they match
//!    the body that goes out. A session id or `Last-Event-ID` never does. Other headers, `Mcp-Param-*` with them, stay.
//! 4. Legacy: session id, version and `Last-Event-ID` go out as they came.
//! 5. A legacy request in a session whose future or answer is dropped before its end is cancelled: with
//!    `notifications/cancelled` in the same session and with the same headers, if the request may have arrived. Not
//!    `initialize`, and no request for a task. That takes 5 s and 64 at once at most, in a task of its own.
//! 6. In 2026-07-28 closing the connection is the cancel, so nothing is sent.
//! 7. The body of an answer passes as it came.
//! 8. Somebody who records the exchange ([`Exchange`](crate::exchange::Exchange)) is told of each request with a
//!    [`Call`] and what came of it, and writes the trace that goes on into headers and body. If nobody does, both go out
//!    as they are.
//!
//! It deliberately does not judge answers (`rescue` does), and cancels no legacy batch and nothing outside a session:
//! the upstream could not tell whose request is meant.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use outrigger::transport::dialect::DialectLayer;
//! use outrigger::transport::{Connector, ConnectorParams, Endpoint, PlaintextPolicy};
//! use tower_layer::Layer;
//!
//! let endpoint = Endpoint::new("https://mcp.example.com/mcp", PlaintextPolicy::LoopbackOnly)?;
//! let connector = Connector::new(endpoint.clone(), ConnectorParams::default())?;
//! let upstream = DialectLayer::new(endpoint).layer(connector);
//! # let _ = upstream;
//! # Ok(())
//! # }
//! ```

mod cancel;
mod watched;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header, request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::{Call, Form};
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::facts::Facts;
use crate::mcp::headers;
use crate::mcp::message::MethodName;
use crate::mcp::revision::Era;
use crate::transport::connector::Endpoint;
use cancel::{Canceller, Guard};
use watched::Watched;

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";
const JSON_OR_SSE: &str = "application/json, text/event-stream";
const IDENTITY: &str = "identity";

/// Puts [`Dialect`] above a connector.
#[derive(Clone, Debug)]
#[must_use]
pub struct DialectLayer {
    endpoint: Endpoint,
}

impl DialectLayer {
    /// The dialect for the upstream at `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }
}

impl<S> Layer<S> for DialectLayer
where
    S: Service<Request<Full<Bytes>>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Service = Dialect<S>;

    fn layer(&self, inner: S) -> Dialect<S> {
        let canceller = Canceller::new(inner.clone(), self.endpoint.clone());
        Dialect {
            inner,
            endpoint: self.endpoint.clone(),
            canceller: Arc::new(canceller),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Dialect<S> {
    inner: S,
    endpoint: Endpoint,
    canceller: Arc<Canceller>,
}

impl<S, ResBody> Service<Request<Full<Bytes>>> for Dialect<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let (mut parts, mut body) = request.into_parts();
        address(&mut parts, &self.endpoint);
        let (mut watched, mut edited) = (None, None);
        let guard = parts.extensions.get::<Call>().and_then(|call| {
            parts.method = method(call);
            if !are_right(&parts.headers, call) {
                negotiate(&parts.method, &mut parts.headers);
                if call.era() == Era::Modern {
                    mirror(&mut parts.headers, call);
                }
            }
            let facts = parts.extensions.get::<Facts>();
            if let Some(exchange) = facts.and_then(Facts::exchange) {
                let headers = &mut parts.headers;
                let (begun, call) = Watched::begin(exchange, call, &self.endpoint, headers);
                (watched, edited) = (Some(begun), call);
            }
            Guard::of(&self.canceller, call, &parts.headers, facts)
        });
        if let Some(call) = edited {
            body = Full::new(call.body().clone());
            parts.extensions.insert(call);
        }
        ResponseFuture {
            inner: self.inner.call(Request::from_parts(parts, body)),
            guard,
            watched,
            endpoint: self.endpoint.clone(),
        }
    }
}

/// Rule 1: to the endpoint's path, with its name.
fn address(parts: &mut request::Parts, endpoint: &Endpoint) {
    parts.uri = endpoint.uri().clone();
    let host = endpoint.host_header().clone();
    parts.headers.insert(header::HOST, host);
}

fn method(call: &Call) -> Method {
    match call.form() {
        Form::Message(_) | Form::Batch(_) => Method::POST,
        Form::Stream => Method::GET,
        Form::End => Method::DELETE,
    }
}

/// Whether the headers of a message say all that rules 2 and 3 want, each once. Most callers speak as an upstream wants
/// to be spoken to, and one look at each header costs less than to write those that are right.
fn are_right(headers: &HeaderMap, call: &Call) -> bool {
    let Some(message) = call.message() else {
        return false;
    };
    let mut accept = Some(JSON_OR_SSE.as_bytes());
    let mut content_type = Some(JSON.as_bytes());
    let mut encoding = Some(IDENTITY.as_bytes());
    let is_modern = call.era() == Era::Modern;
    let subject = call.subject().filter(|_| is_modern);
    let subject = subject.as_deref().map(headers::encode);
    let spoken = message.method.filter(|_| is_modern);
    let spoken = spoken.map(|method| method.name(call.body()));
    let revision = call.revision().filter(|_| is_modern);
    let mut version = revision.map(|revision| revision.as_str().as_bytes());
    let mut method = spoken.as_deref().map(str::as_bytes);
    let mut name = subject.as_deref().map(str::as_bytes);
    for (header, value) in headers {
        let wanted = match header.as_str() {
            "accept" => &mut accept,
            "content-type" => &mut content_type,
            "accept-encoding" => &mut encoding,
            "mcp-protocol-version" if is_modern => &mut version,
            "mcp-method" if is_modern => &mut method,
            "mcp-name" if is_modern => &mut name,
            "mcp-session-id" | "last-event-id" if is_modern => return false,
            _ => continue,
        };
        // Taken, so that a second one is one too many.
        if wanted.take() != Some(value.as_bytes()) {
            return false;
        }
    }
    let left = [accept, content_type, encoding, version, method, name];
    left.iter().all(Option::is_none)
}

/// Rule 2: what the two sides may send each other.
fn negotiate(method: &Method, headers: &mut HeaderMap) {
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(IDENTITY));
    if method == Method::POST {
        headers.insert(header::ACCEPT, HeaderValue::from_static(JSON_OR_SSE));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    } else if method == Method::GET {
        headers.insert(header::ACCEPT, HeaderValue::from_static(SSE));
    }
}

/// Rule 3: the headers that repeat what the body says.
fn mirror(headers: &mut HeaderMap, call: &Call) {
    headers::remove_session(headers);
    if let Some(revision) = call.revision() {
        let version = HeaderValue::from_static(revision.as_str());
        headers.insert(headers::PROTOCOL_VERSION, version);
    }
    let method = call.message().and_then(|message| message.method);
    set(
        headers,
        headers::METHOD,
        match method {
            Some(MethodName::Known(method)) => Some(HeaderValue::from_static(method.as_str())),
            Some(MethodName::Other(text)) => value(&text.decode(call.body())),
            None => None,
        },
    );
    let name = call.subject().and_then(|name| value(&name));
    set(headers, headers::NAME, name);
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&headers::encode(text)).ok()
}

/// Writes it, or takes it away: what came in may be about another message.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

pin_project! {
    /// The future of an answer.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        guard: Option<Guard>,
        watched: Option<Watched>,
        endpoint: Endpoint,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    E: Into<BoxError>,
    ResBody: Body,
{
    type Output = Result<Response<ResponseBody<ResBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut guard = this.guard.take();
        let result = result.map_err(Into::into).and_then(|response| {
            if is_encoded(response.headers()) {
                let failure = Failure::new(Cause::BadResponse, Phase::Sent)
                    .at(this.endpoint.origin().clone())
                    .with_source("the answer has a content encoding that was not asked for");
                return Err(failure.into());
            }
            Ok(response)
        });
        if let Some(watched) = this.watched.take() {
            watched.end(result.as_ref().map(Response::status));
        }
        Poll::Ready(match result {
            Ok(response) => {
                if !response.status().is_success() {
                    disarm(&mut guard);
                }
                Ok(response.map(|body| ResponseBody::new(body, guard)))
            }
            Err(error) => {
                // Nothing is left to cancel: the connection is gone, there never was one, or its answer was dropped.
                disarm(&mut guard);
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

fn disarm(guard: &mut Option<Guard>) {
    if let Some(guard) = guard.take() {
        guard.disarm();
    }
}

/// Whether the body has an encoding, though `identity` was asked for.
fn is_encoded(headers: &HeaderMap) -> bool {
    // Asked first, as it costs less than an iteration and mostly says no.
    headers.contains_key(header::CONTENT_ENCODING)
        && headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

pin_project! {
    /// The body of an answer, whose drop before its end cancels the request.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        guard: Option<Guard>,
    }
}

impl<B: Body> ResponseBody<B> {
    fn new(inner: B, mut guard: Option<Guard>) -> Self {
        if inner.is_end_stream() {
            disarm(&mut guard);
        }
        Self { inner, guard }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        if this.guard.is_some() && (!matches!(frame, Some(Ok(_))) || this.inner.is_end_stream()) {
            disarm(this.guard);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}
