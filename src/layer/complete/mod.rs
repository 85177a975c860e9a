//! Gives a JSON answer on when it is complete, so that one that breaks is a failure and not half an answer.
//!
//! A JSON message is of no use before its last byte, and once its head has gone to the caller nothing but a cut can say
//! that the rest will not come. So it is waited for, as far as memory allows.
//!
//! Contract:
//!
//! 1. The JSON answer of a call that succeeded is held until its body has ended. It is then one piece, and whoever
//!    stands above sees it end with it.
//! 2. If it breaks before that, the call fails with the body's error: `retry` may send it again, `rescue` answers.
//! 3. An answer that ends without a byte, or, where nothing said how long it would be, in the midst of a JSON value, is
//!    none: the call fails as [`Cause::BadResponse`]. A server that dies while it answers until the connection closes
//!    looks like that.
//! 4. No more than [`MAX_HELD`] bytes are held. An answer that says that it has more passes at once; one that turns out
//!    to have more passes from there on, with all that was held. What breaks of it then is the body's error, which cuts
//!    the connection of whoever reads it.
//! 5. Streams of events, error answers, answers to what wants none, and all without a [`Call`] pass as they come.
//! 6. Dropping the answer drops what was held and the body.
//!
//! It is a seam as [`BoxBodyLayer`](super::BoxBodyLayer) is: every answer's body becomes a [`Body`], and the usual
//! answer, which comes whole with its head, costs no allocation here.
//!
//! It sets no time: `deadline` stands inside of it and bounds the silence of a body.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::layer::complete::CompleteLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let upstream = service_fn(async |_: Request<()>| {
//!     Ok::<_, outrigger::BoxError>(Response::new(Full::new(Bytes::from_static(b"{}"))))
//! });
//! let answer: Response<outrigger::Body> = CompleteLayer::new().layer(upstream).oneshot(Request::new(())).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use serde::de::IgnoredAny;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::Body;
use crate::call::Call;
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::layer::media;

/// The most bytes of an answer that are held.
pub const MAX_HELD: usize = 64 * 1024;

/// Gives JSON answers on when they are complete.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct CompleteLayer;

impl CompleteLayer {
    /// The layer. It has no settings.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for CompleteLayer {
    type Service = Complete<S>;

    fn layer(&self, inner: S) -> Complete<S> {
        Complete { inner }
    }
}

/// The service of [`CompleteLayer`].
#[derive(Clone)]
pub struct Complete<S> {
    inner: S,
}

impl<S> fmt::Debug for Complete<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Complete").finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Complete<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        ResponseFuture {
            wants_answer: request.extensions().get().is_some_and(Call::wants_answer),
            inner: self.inner.call(request),
            begun: None,
        }
    }
}

pin_project! {
    /// The answer, once it is complete.
    pub struct ResponseFuture<F, B> {
        #[pin]
        inner: F,
        wants_answer: bool,
        // Boxed: the usual answer is there with its head, and is never held.
        begun: Option<Box<(Response<B>, Held)>>,
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(begun) = this.begun.as_deref_mut() {
            let (response, held) = begun;
            ready!(held.poll_rest(response, cx))?;
            return match this.begun.take() {
                Some(begun) => Poll::Ready(give_on(begun.0, begun.1)),
                None => Poll::Pending,
            };
        }
        let mut response = ready!(this.inner.poll(cx)).map_err(Into::into)?;
        if !(*this.wants_answer && is_held(&response)) {
            return Poll::Ready(Ok(response.map(Body::new)));
        }
        let mut held = Held::of(&response);
        if let Poll::Ready(came) = held.poll_rest(&mut response, cx) {
            return Poll::Ready(came.and_then(|()| give_on(response, held)));
        }
        *this.begun = Some(Box::new((response, held)));
        Poll::Pending
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

fn is_held<B: http_body::Body>(response: &Response<B>) -> bool {
    response.status().is_success()
        && media::is_json(response.headers())
        && response.body().size_hint().lower() <= MAX_HELD as u64
}

/// What has come of a body.
struct Held {
    /// Nearly always the whole.
    first: Option<Bytes>,
    /// All of it, if it came in more than one piece.
    joined: BytesMut,
    trailers: Option<Frame<Bytes>>,
    says_length: bool,
    has_ended: bool,
}

impl Held {
    fn of<B: http_body::Body>(response: &Response<B>) -> Self {
        Self {
            first: None,
            joined: BytesMut::new(),
            trailers: None,
            says_length: response.body().size_hint().exact().is_some(),
            has_ended: false,
        }
    }

    /// Reads on, to the end or until it is too much to be held.
    fn poll_rest<B>(
        &mut self,
        response: &mut Response<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let body = response.body_mut();
        while !self.has_ended && self.len() <= MAX_HELD {
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose();
            match frame.map_err(Into::into)?.map(Frame::into_data) {
                Some(Ok(piece)) => self.push(piece, body.size_hint().lower()),
                Some(Err(trailers)) => {
                    self.trailers = Some(trailers);
                    self.has_ended = true;
                }
                None => self.has_ended = true,
            }
            // With a Content-Length the last byte is the end.
            self.has_ended = self.has_ended || body.is_end_stream();
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, piece: Bytes, to_come: u64) {
        if self.first.is_none() && self.joined.is_empty() {
            self.first = Some(piece);
            return;
        }
        if let Some(first) = self.first.take() {
            let to_come = usize::try_from(to_come).unwrap_or_default().min(MAX_HELD);
            self.joined.reserve(first.len() + piece.len() + to_come);
            self.joined.extend_from_slice(&first);
        }
        self.joined.extend_from_slice(&piece);
    }

    fn len(&self) -> usize {
        self.first.as_ref().map_or(self.joined.len(), Bytes::len)
    }

    fn take(&mut self) -> Bytes {
        let joined = self.joined.split();
        self.first.take().unwrap_or_else(|| joined.freeze())
    }

    /// Whether an answer that has ended is none.
    fn is_no_answer(&self) -> bool {
        let bytes = self.first.as_deref().unwrap_or(&self.joined);
        // A length that was said was kept to, else the body would have failed.
        bytes.is_empty()
            || !self.says_length
                && serde_json::from_slice::<IgnoredAny>(bytes).is_err_and(|error| error.is_eof())
    }
}

/// The answer with what has come of it: all, or what it begins with.
fn give_on<B>(response: Response<B>, mut held: Held) -> Result<Response<Body>, BoxError>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    if held.has_ended && held.is_no_answer() {
        return Err(Failure::new(Cause::BadResponse, Phase::Sent)
            .with_source("the answer ended in the midst of its message")
            .into());
    }
    if held.has_ended && held.trailers.is_none() {
        return Ok(response.map(|_| Body::from(held.take())));
    }
    Ok(response.map(|rest| {
        Body::new(Continued {
            held: Some(held.take()),
            trailers: held.trailers,
            rest,
        })
    }))
}

/// What was held of a body, and then the rest.
struct Continued<B> {
    held: Option<Bytes>,
    trailers: Option<Frame<Bytes>>,
    rest: B,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Continued<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let held = self.held.take().map(Frame::data);
        if let Some(frame) = held.or_else(|| self.trailers.take()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.trailers.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| held.len() as u64);
        let rest = self.rest.size_hint();
        let mut both = SizeHint::new();
        both.set_lower(rest.lower().saturating_add(held));
        if let Some(upper) = rest.upper() {
            both.set_upper(upper.saturating_add(held));
        }
        both
    }
}

#[cfg(test)]
mod tests;
