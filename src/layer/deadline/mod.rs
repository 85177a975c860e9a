//! Bounds an attempt in time: its first answer, the silence within its stream, and the whole of it.
//!
//! Contract:
//!
//! 1. An attempt fails with [`Cause::RequestTimeout`](crate::error::Cause) if the service beneath has not answered
//!    within `request`, which a method may have its own of ([`Timeouts`]). Acquiring a token, a connection and a
//!    redirect count in it.
//! 2. A body that is silent for `streamIdle` fails with `StreamIdle`; any byte begins the span anew. Time in which
//!    nobody asks the body for more does not count: a slow caller is not a silent upstream.
//! 3. `total` bounds a call from the beginning of the exchange ([`Facts`]) to the end of its body: `TotalTimeout`.
//! 4. GET and `subscriptions/listen` are not timed, not even up to their headers: some servers send those with the
//!    first event only. A GET without a [`Call`] counts as such a stream; another request without one has `request`.
//! 5. Whatever ran out of time is dropped there and then, so that the upstream is told in its transport's way.
//! 6. What is ready at once costs no timer; what is not, has one timer from the first wait to the end of the body. If an
//!    outer layer wants to be polled before it would fire ([`Facts`], rule 4), that timer fires for it first.
//!
//! All failures are [`Phase::Sent`](crate::error::Phase): nobody knows how far the call had come.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::error::{BoxError, Cause, Failure};
//! use outrigger::layer::deadline::DeadlineLayer;
//! use outrigger::layer::timeouts::Timeouts;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let timeouts = Timeouts::default().request(Duration::from_secs(2));
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(timeouts))
//!     .service(service_fn(|request: Request<()>| async {
//!         tokio::time::sleep(Duration::from_secs(60)).await;
//!         Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
//!     }));
//! let request = Request::post("/mcp").body(()).unwrap();
//! let error = service.oneshot(request).await.unwrap_err();
//! assert_eq!(Failure::of(&error).unwrap().cause(), Cause::RequestTimeout);
//! # }
//! ```

mod body;
mod timer;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method as Verb, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::ResponseBody;
use self::timer::Timer;
use crate::call::Call;
use crate::error::{BoxError, Cause};
use crate::facts::Facts;
use crate::layer::timeouts::Timeouts;

/// Bounds an attempt in time.
#[derive(Clone, Debug)]
#[must_use]
pub struct DeadlineLayer {
    timeouts: Timeouts,
    origin: Option<Arc<str>>,
}

impl DeadlineLayer {
    /// Bounds attempts by these timeouts.
    pub fn new(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            origin: None,
        }
    }

    /// Names the upstream in failures: its scheme, host and port.
    pub fn at(mut self, origin: Arc<str>) -> Self {
        self.origin = Some(origin);
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline {
            inner,
            timeouts: self.timeouts.clone(),
            origin: self.origin.clone(),
        }
    }
}

/// The service of [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    timeouts: Timeouts,
    origin: Option<Arc<str>>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Deadline<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let timer = timer_for(&request, &self.timeouts, self.origin.clone());
        ResponseFuture {
            inner: Some(self.inner.call(request)),
            timer,
        }
    }
}

/// The clockwork of an attempt; none for a stream that lives on its own.
fn timer_for<B>(
    request: &Request<B>,
    timeouts: &Timeouts,
    origin: Option<Arc<str>>,
) -> Option<Timer> {
    let call = request.extensions().get::<Call>();
    let is_stream = call.map_or_else(|| request.method() == Verb::GET, Call::is_stream);
    if is_stream {
        return None;
    }
    let facts = Facts::get(request);
    let whole = timeouts.whole().map(|span| {
        let started = facts.map_or_else(Instant::now, Facts::started);
        started + span
    });
    let first = timeouts.first_answer(call);
    let idle = timeouts.idle();
    Some(Timer::new(first, idle, whole, origin, facts.cloned()))
}

pin_project! {
    /// The inner answer, if it comes in time.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        timer: Option<Timer>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        if let Poll::Ready(outcome) = inner.poll(cx) {
            let timer = this.timer.take();
            return Poll::Ready(match outcome {
                Ok(response) => Ok(response.map(|body| ResponseBody::new(body, timer))),
                Err(error) => Err(error.into()),
            });
        }
        let Some(timer) = this.timer else {
            return Poll::Pending;
        };
        timer.poll_first_answer(cx).map(|failure| {
            this.inner.set(None);
            Err(failure.into())
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Which bound a timer stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    FirstAnswer,
    Idle,
    Total,
}

impl Bound {
    fn cause(self) -> Cause {
        match self {
            Self::FirstAnswer => Cause::RequestTimeout,
            Self::Idle => Cause::StreamIdle,
            Self::Total => Cause::TotalTimeout,
        }
    }
}

#[cfg(test)]
mod tests;
