//! Counts each call to the end of its body, and writes one access line for it.
//!
//! Contract:
//!
//! 1. It creates the [`Facts`] of the request; whatever inner layers write there becomes labels. It knows no other layer.
//! 2. A call counts once, when its answer's body has ended, failed or was dropped: attempts have their own counters.
//!    GET and listen streams count as streams, not as load.
//! 3. [`Outcome`] is a closed list: by our own [`Cause`] if we made the answer, else by status and by what the one JSON
//!    message (of at most 64 KiB) or the events of the answer say: `error` is `rpc_error`, `isError` is `tool_error`.
//! 4. Labels are bounded. `method` is one of the table, else `_other`. `tool` is a name that a call was seen to succeed
//!    with (an answer that is not looked at shows nothing), at most [`MAX_TOOLS`] a server, else `_other`. Never an id, a URL, a caller.
//! 5. Handles are looked up once and held: a call on a known path takes no lock but that of its tool's name.
//! 6. The access line is an event at debug on the target `outrigger::access`; switched off it costs nothing.
//! 7. Attempts are timed by a layer of their own ([`TimeAttemptsLayer`]), next to the endpoint.
//! 8. What each family is called, labelled and good for is said once ([`Declared`]).
//! 9. OpenTelemetry's own families ([`semconv`]) are counted too where [`Families::with_semconv`] asks for it, and cost
//!    nothing elsewhere.
//! 10. Somebody who records exchanges ([`Recorder`]) is told of each at its begin and its end. Without one that is one
//!     branch.
//!
//! It needs no `Call`: without what `inspect` would write into the `Facts`, method, tool and era are unknown, and every
//! request but a GET is load.
//!
//! It deliberately leaves out: spans (`trace`), and what is known only at the time of a scrape (connections, sessions).

mod attempt;
mod body;
mod declared;
mod families;
mod outcome;
mod reading;
pub mod semconv;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{BoxError, Cause};
use crate::exchange::Recorder;
use crate::facts::Facts;
use crate::layer::metrics::body::Observer;

pub use attempt::{AttemptBody, TimeAttempts, TimeAttemptsLayer};
pub use body::ResponseBody;
pub use declared::{Declared, Kind};
pub use families::{DECLARED, Families, MAX_TOOLS, ServerFamilies};
pub use outcome::Outcome;
pub use semconv::Semconv;

/// Counts each call to the end of its body.
#[derive(Clone, Debug)]
#[must_use]
pub struct MetricsLayer {
    families: Arc<ServerFamilies>,
    recorder: Option<Arc<dyn Recorder>>,
}

impl MetricsLayer {
    /// A layer that counts into the families of one server.
    pub fn new(families: Arc<ServerFamilies>) -> Self {
        Self {
            families,
            recorder: None,
        }
    }

    /// Tells them, too, of each exchange.
    pub fn recorded_by(mut self, recorder: Option<Arc<dyn Recorder>>) -> Self {
        self.recorder = recorder;
        self
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics {
            inner,
            families: self.families.clone(),
            recorder: self.recorder.clone(),
        }
    }
}

/// The service of [`MetricsLayer`].
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    families: Arc<ServerFamilies>,
    recorder: Option<Arc<dyn Recorder>>,
}

impl<S> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("families", &self.families)
            .finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Metrics<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let server = self.families.server();
        let exchange = self
            .recorder
            .as_ref()
            .map(|recorder| recorder.clone().begin(server, request.headers()));
        let facts = Facts::recorded(Some(server.clone()), exchange);
        request.extensions_mut().insert(facts.clone());
        let observer = Observer::begin(self.families.clone(), facts, &request);
        ResponseFuture {
            inner: self.inner.call(request),
            observer: Some(observer),
        }
    }
}

pin_project! {
    /// The future of [`Metrics`]. Dropped before its answer, the call counts as cancelled.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        observer: Option<Observer>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ResBody: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let Some(mut observer) = this.observer.take() else {
            return Poll::Pending;
        };
        Poll::Ready(match answer {
            Ok(response) => {
                observer.answered(response.status(), response.headers());
                Ok(response.map(|body| ResponseBody::new(body, observer)))
            }
            Err(error) => {
                observer.failed(Cause::Internal);
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
