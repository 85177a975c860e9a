//! So many calls at once and per time, for each principal and in all.
//!
//! Contract:
//!
//! 1. A call is a POST. It counts from its arrival to the end of its answer's body, an error in it, or its drop.
//! 2. A GET, and a `subscriptions/listen` once it is answered, count as streams, which have a cap of their own. Until
//!    then a listen counts as a call, since what it is stands in its body.
//! 3. Each principal has its share; callers that nobody asked for a name have one together.
//! 4. What is too much is answered with 429 and `Retry-After` at once: nothing waits here. A refused call takes nothing
//!    of the rate's share if calls at once were what was exceeded.
//! 5. Calls and streams both take from the rate. A DELETE of a session always passes: it ends something. One that names none
//!    is a call.
//! 6. A call that outlives its caller counts until it has ended: its [`Share`] is in the request's extensions, and
//!    `session` holds it. To hang up makes no room.
//!
//! It answers for itself, outside `rescue`. It needs no `Call`; without the `Facts` that `inspect` writes a listen stays
//! a call.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::layer::limit::{Cap, LimitLayer, Params};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let mut params = Params::default();
//! params.calls.each = Some(1);
//! let mut stack = LimitLayer::new(params).layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, outrigger::BoxError>(Response::new(Full::new(Bytes::from_static(b"{}"))))
//! }));
//! let first = stack.ready().await?.call(Request::post("/mcp").body(())?).await?;
//! let second = stack.ready().await?.call(Request::post("/mcp").body(())?).await?;
//! assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 429));
//! # Ok(())
//! # }
//! ```

mod body;
mod shares;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{Addressee, Cause, Failure, answer};
use crate::facts::{Caller, Facts, Share};
use crate::layer::rate::{Rate, Rates};
use crate::mcp;
use crate::mcp::headers::SESSION_ID;
use shares::{Key, Permit, Shares};

pub use body::LimitedBody;
pub use shares::Cap;

/// When to try again where nobody knows when a call will end.
const SOON: Duration = Duration::from_secs(1);

/// What `limit` lets through. Default: everything.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Params {
    /// Calls at once.
    pub calls: Cap,
    /// Streams at once.
    pub streams: Cap,
    /// Calls per time, for each principal.
    pub rate_each: Option<Rate>,
    /// Calls per time, in all.
    pub rate_total: Option<Rate>,
}

/// Lets through so many calls at once and per time.
#[derive(Clone, Debug)]
#[must_use]
pub struct LimitLayer {
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Limits {
    calls: Arc<Shares>,
    streams: Arc<Shares>,
    rate_each: Option<Rates<Key>>,
    rate_total: Option<Rates<()>>,
}

impl LimitLayer {
    /// A layer with these limits. Clones share what was counted.
    pub fn new(params: Params) -> Self {
        Self {
            limits: Arc::new(Limits {
                calls: Shares::new(params.calls),
                streams: Shares::new(params.streams),
                rate_each: params.rate_each.map(Rates::new),
                rate_total: params.rate_total.map(Rates::new),
            }),
        }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit {
            inner,
            limits: Arc::clone(&self.limits),
        }
    }
}

/// The service of [`LimitLayer`].
#[derive(Clone, Debug)]
pub struct Limit<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Limit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: From<Bytes>,
{
    type Response = Response<LimitedBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let state = match self.limits.admit(&request) {
            Ok(permit) => {
                let may_be_listen = request.method() == Method::POST
                    && (permit.is_some() || self.limits.streams.are_limited());
                let listen = may_be_listen.then(|| Listen {
                    facts: Facts::of(&mut request),
                    streams: Arc::clone(&self.limits.streams),
                });
                if let Some(permit) = &permit {
                    request.extensions_mut().insert(Share::of(permit));
                }
                State::Inner {
                    future: self.inner.call(request),
                    permit,
                    listen,
                }
            }
            Err(failure) => {
                Facts::of(&mut request).set_cause(failure.cause());
                State::Refused {
                    refusal: Some((failure, Addressee::of(&request))),
                }
            }
        };
        ResponseFuture { state }
    }
}

impl Limits {
    /// A permit, if there is anything to count.
    fn admit<B>(&self, request: &Request<B>) -> Result<Option<Arc<Permit>>, Failure> {
        let shares = match *request.method() {
            Method::DELETE if request.headers().contains_key(SESSION_ID) => return Ok(None),
            Method::GET => &self.streams,
            _ => &self.calls,
        };
        if !shares.are_limited() && self.rate_each.is_none() && self.rate_total.is_none() {
            return Ok(None);
        }
        let key = key(Facts::get(request));
        let permit = take(shares, &key)?;
        let each = self
            .rate_each
            .as_ref()
            .map_or(Ok(()), |rate| rate.take(key));
        let both = each.and_then(|()| {
            self.rate_total
                .as_ref()
                .map_or(Ok(()), |rate| rate.take(()))
        });
        both.map_err(|wait| Failure::unsent(Cause::RateLimited).with_retry_after(wait))?;
        Ok(permit)
    }
}

fn take(shares: &Arc<Shares>, key: &Key) -> Result<Option<Arc<Permit>>, Failure> {
    if !shares.are_limited() {
        return Ok(None);
    }
    let permit = shares.take(key);
    permit
        .map(|permit| Some(Arc::new(permit)))
        .ok_or_else(|| Failure::unsent(Cause::TooManyCalls).with_retry_after(SOON))
}

fn key(facts: Option<&Facts>) -> Key {
    facts
        .and_then(Facts::caller)
        .and_then(Caller::principal)
        .cloned()
}

/// What has to be known to count a listen as the stream that it is.
#[derive(Debug)]
struct Listen {
    facts: Facts,
    streams: Arc<Shares>,
}

impl Listen {
    /// The permit of the answer: the call's, or a stream's instead.
    fn settle(self, call: Option<Arc<Permit>>) -> Result<Option<Arc<Permit>>, Failure> {
        if self.facts.method() != Some(Some(mcp::Method::Listen)) {
            return Ok(call);
        }
        drop(call);
        let permit = take(&self.streams, &key(Some(&self.facts)));
        permit.inspect_err(|failure| self.facts.set_cause(failure.cause()))
    }
}

pin_project! {
    /// The future of [`Limit`].
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Inner { #[pin] future: F, permit: Option<Arc<Permit>>, listen: Option<Listen> },
        Refused { refusal: Option<(Failure, Addressee)> },
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ResBody: From<Bytes>,
{
    type Output = Result<Response<LimitedBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Inner {
                future,
                permit,
                listen,
            } => {
                let response = ready!(future.poll(cx))?;
                let permit = permit.take();
                let settled = match listen.take() {
                    Some(listen) => listen.settle(permit),
                    None => Ok(permit),
                };
                Poll::Ready(Ok(match settled {
                    Ok(permit) => response.map(|body| LimitedBody::new(body, permit)),
                    Err(failure) => refuse(&failure, &Addressee::default()),
                }))
            }
            StateProjection::Refused { refusal } => match refusal.take() {
                Some((failure, to)) => Poll::Ready(Ok(refuse(&failure, &to))),
                None => Poll::Pending,
            },
        }
    }
}

fn refuse<B: From<Bytes>>(failure: &Failure, to: &Addressee) -> Response<LimitedBody<B>> {
    answer::<B>(failure, to).map(|body| LimitedBody::new(body, None))
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
