//! Makes an answer of every failure, and keeps an upstream's own words away from the caller.
//!
//! Contract:
//!
//! 1. An error of the service beneath becomes an answer by [`error::answer`](crate::error::answer): by era, fault and
//!    id. Its cause is noted in [`Facts`].
//! 2. An upstream's error answer (400 and above) whose body is a JSON-RPC message passes as it came, in both eras.
//!    Only 401 never passes: it speaks of our credential, and clients would take it for theirs.
//! 3. Any other body of an error answer (HTML, text, a stack trace, more than 64 KiB, one that does not come within
//!    5 s) is replaced. `Retry-After` is kept, and so is the status, but for the credential's and for a path without
//!    a server, which are 502 ([`Cause`]'s table).
//! 4. A 404 within a legacy session is the end of the session and stays 404; a 405 to GET or DELETE stays 405.
//! 5. A 200 to a request that is neither JSON nor an event stream is no answer of an MCP server; a redirect is not
//!    passed on.
//! 6. A good answer is looked at and returned: nothing of it is moved or held.
//! 7. Without a [`Call`] only rule 1 holds: an answer passes as it came, whatever it is.
//!
//! It leaves alone what breaks after the headers: the body's own error cuts the connection, or [`hold`](super::hold)
//! makes an event of it. [`complete`](super::complete) sees to it that a JSON answer hardly ever does.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::error::{Cause, Failure};
//! use outrigger::layer::rescue::RescueLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(RescueLayer::new())
//!     .service(service_fn(|_: Request<()>| async {
//!         Err::<Response<Full<Bytes>>, _>(Failure::unsent(Cause::ConnectionRefused))
//!     }));
//! let response = service.oneshot(Request::new(())).await.unwrap();
//! assert_eq!(response.status(), 502);
//! # }
//! ```

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::call::{Call, Form};
use crate::clock::Clock;
use crate::error::{Addressee, BoxError, Cause, Failure, Phase, answer};
use crate::facts::Facts;
use crate::layer::{media, retry_after};
use crate::mcp::headers::name_session;
use crate::mcp::message::Message;
use crate::mcp::revision::Era;

/// The most of an error answer's body that is read.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long an error answer's body may take.
const MAX_ERROR_WAIT: Duration = Duration::from_secs(5);

/// Makes an answer of every failure.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RescueLayer {
    clock: Clock,
}

impl RescueLayer {
    /// Rescues, with the system's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads dates in `Retry-After` by another clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock }
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Rescue {
            inner,
            clock: self.clock.clone(),
        }
    }
}

/// The service of [`RescueLayer`].
#[derive(Clone, Debug)]
pub struct Rescue<S> {
    inner: S,
    clock: Clock,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Rescue<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: Body<Data = Bytes> + From<Bytes>,
{
    type Response = Response<ResBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let judge = Judge::of(&request, self.clock.clone());
        ResponseFuture {
            inner: self.inner.call(request),
            judge,
            reading: None,
        }
    }
}

/// What of a request decides over its answer.
struct Judge {
    call: Option<Call>,
    facts: Option<Facts>,
    asks: Asks,
    is_in_session: bool,
    clock: Clock,
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Nobody knows: there is no call.
    Unknown,
    /// A JSON-RPC answer.
    Answer,
    /// The stream of a session.
    Stream,
    /// The end of a session.
    End,
    /// Nothing: a notification or a response.
    Nothing,
}

enum Verdict {
    Pass,
    Replace(Failure),
    /// The body decides.
    Read,
}

impl Judge {
    fn of<B>(request: &Request<B>, clock: Clock) -> Self {
        let call = request.extensions().get::<Call>();
        let asks = call.map_or(Asks::Unknown, |call| match call.form() {
            Form::Stream => Asks::Stream,
            Form::End => Asks::End,
            _ if call.wants_answer() => Asks::Answer,
            _ => Asks::Nothing,
        });
        let is_legacy = call.is_some_and(|call| call.era() == Era::Legacy);
        Self {
            call: call.cloned(),
            facts: Facts::get(request).cloned(),
            asks,
            is_in_session: is_legacy && name_session(request.headers()),
            clock,
        }
    }

    fn look<B: Body>(&self, response: &Response<B>) -> Verdict {
        let (status, headers) = (response.status(), response.headers());
        if self.asks == Asks::Unknown {
            return Verdict::Pass;
        }
        if status.is_redirection() {
            return Verdict::Replace(Failure::new(Cause::Redirected, Phase::Answered));
        }
        if status == StatusCode::OK && matches!(self.asks, Asks::Answer | Asks::Stream) {
            return if media::is_json(headers) || media::is_event_stream(headers) {
                Verdict::Pass
            } else {
                Verdict::Replace(Failure::new(Cause::BadResponse, Phase::Answered))
            };
        }
        if !status.is_client_error() && !status.is_server_error() {
            return Verdict::Pass;
        }
        let fits = response.body().size_hint().lower() <= MAX_ERROR_BODY as u64;
        if fits && media::is_json(headers) && status != StatusCode::UNAUTHORIZED {
            Verdict::Read
        } else {
            Verdict::Replace(self.failure(status, headers))
        }
    }

    /// What an error answer means whose own words are not passed on.
    fn failure(&self, status: StatusCode, headers: &HeaderMap) -> Failure {
        let is_end = matches!(self.asks, Asks::Stream | Asks::End);
        let cause = match status {
            StatusCode::UNAUTHORIZED => Cause::Unauthorized,
            StatusCode::FORBIDDEN => Cause::Forbidden,
            StatusCode::NOT_FOUND if self.is_in_session => Cause::SessionLost,
            StatusCode::NOT_FOUND => Cause::NotFound,
            StatusCode::METHOD_NOT_ALLOWED if is_end => Cause::MethodNotAllowed,
            StatusCode::TOO_MANY_REQUESTS => Cause::UpstreamRateLimited,
            _ => Cause::UpstreamError,
        };
        let mut failure = Failure::new(cause, Phase::Answered);
        // 407 and 408 speak of the connection that they come on, which is ours and not the caller's.
        let is_of_connection = matches!(
            status,
            StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::REQUEST_TIMEOUT
        );
        if cause == Cause::UpstreamError {
            let is_safe_to_repeat = self.call.as_ref().is_some_and(Call::is_safe_to_repeat);
            let is_retryable = is_safe_to_repeat && matches!(status.as_u16(), 502..=504);
            failure = failure.with_data(serde_json::json!({
                "retryable": is_retryable,
                "upstreamStatus": status.as_u16(),
            }));
            if !is_of_connection {
                failure = failure.with_status(status);
            }
        }
        match retry_after::read(headers, &self.clock) {
            Some(after) => failure.with_retry_after(after),
            None => failure,
        }
    }

    fn answer<B: From<Bytes>>(&self, failure: &Failure) -> Response<B> {
        if let Some(facts) = &self.facts {
            facts.set_cause(failure.cause());
        }
        tracing::debug!(
            cause = failure.cause().as_str(),
            phase = ?failure.phase(),
            source = StdError::source(failure).map(tracing::field::display),
            "call failed"
        );
        answer(
            failure,
            &Addressee::to(self.call.as_ref(), self.facts.as_ref()),
        )
    }
}

pin_project! {
    /// The answer, whatever happens.
    pub struct ResponseFuture<F, B> {
        #[pin]
        inner: F,
        judge: Judge,
        // Boxed: only error answers pay for it, and the future of a good one stays small.
        reading: Option<Pin<Box<Reading<B>>>>,
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes> + From<Bytes>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.reading.is_none() {
            let response = match ready!(this.inner.poll(cx)) {
                Ok(response) => response,
                Err(error) => {
                    let failure = Failure::from_error(error.into());
                    return Poll::Ready(Ok(this.judge.answer(&failure)));
                }
            };
            match this.judge.look(&response) {
                Verdict::Pass => return Poll::Ready(Ok(response)),
                Verdict::Replace(failure) => return Poll::Ready(Ok(this.judge.answer(&failure))),
                Verdict::Read => *this.reading = Some(Box::pin(Reading::new(response))),
            }
        }
        let Some(reading) = this.reading else {
            return Poll::Pending;
        };
        let message = ready!(reading.as_mut().poll_message(cx));
        let head = reading.as_mut().project().head.take();
        Poll::Ready(Ok(match (message, head) {
            (Some(message), Some(head)) => Response::from_parts(head, B::from(message)),
            (_, Some(head)) => this
                .judge
                .answer(&this.judge.failure(head.status, &head.headers)),
            (_, None) => this
                .judge
                .answer(&Failure::new(Cause::Internal, Phase::Answered)),
        }))
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// An error answer whose body decides what becomes of it.
    struct Reading<B> {
        head: Option<response::Parts>,
        #[pin]
        body: B,
        held: BytesMut,
        #[pin]
        patience: Sleep,
    }
}

impl<B: Body<Data = Bytes>> Reading<B> {
    fn new(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            head: Some(head),
            body,
            held: BytesMut::new(),
            patience: sleep(MAX_ERROR_WAIT),
        }
    }

    /// The whole body if it is a JSON-RPC message, else nothing, as soon as that is known.
    fn poll_message(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut this = self.project();
        loop {
            let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) else {
                return this.patience.poll(cx).map(|()| None);
            };
            match frame {
                None => break,
                Some(Err(_)) => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if this.held.len() + data.len() > MAX_ERROR_BODY {
                        return Poll::Ready(None);
                    }
                    this.held.extend_from_slice(&data);
                }
            }
        }
        let body = this.held.split().freeze();
        Poll::Ready(Message::read(&body).is_ok().then_some(body))
    }
}

#[cfg(test)]
mod tests;
