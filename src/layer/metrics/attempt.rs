//! Times each try at an endpoint, to its first answer.
//!
//! What a caller waits for beyond this is second tries, and the wait for a connection or a share.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use prometheus::Histogram;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::Call;

/// Times each try at one endpoint, answered or failed. GET and listen streams, which may wait for ever, are not timed;
/// nor is a try that was given up. Without a [`Call`] a request is timed all the same.
#[derive(Clone, Debug)]
#[must_use]
pub struct TimeAttemptsLayer {
    spans: Histogram,
}

impl TimeAttemptsLayer {
    pub(super) fn new(spans: Histogram) -> Self {
        Self { spans }
    }
}

impl<S> Layer<S> for TimeAttemptsLayer {
    type Service = TimeAttempts<S>;

    fn layer(&self, inner: S) -> TimeAttempts<S> {
        TimeAttempts {
            inner,
            spans: self.spans.clone(),
        }
    }
}

/// The service of [`TimeAttemptsLayer`].
#[derive(Clone)]
pub struct TimeAttempts<S> {
    inner: S,
    spans: Histogram,
}

impl<S> fmt::Debug for TimeAttempts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeAttempts").finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for TimeAttempts<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_stream = request.extensions().get().is_some_and(Call::is_stream);
        let timed = (!is_stream).then(|| (self.spans.clone(), Instant::now()));
        ResponseFuture {
            inner: self.inner.call(request),
            timed,
        }
    }
}

pin_project! {
    /// The future of [`TimeAttempts`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        timed: Option<(Histogram, Instant)>,
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if let Some((spans, began)) = this.timed.take() {
            spans.observe(began.elapsed().as_secs_f64());
        }
        Poll::Ready(answer)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
