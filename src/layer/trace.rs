//! One span around each call, so that every log line of the call can be found, under the caller's trace.
//!
//! Contract:
//!
//! 1. The span is `call`, at debug, on the target `outrigger`; nothing is made while nobody listens at that level.
//! 2. Its `trace_id` is that of the W3C `traceparent` header, if it is a valid one; a malformed one counts as none.
//! 3. The span is entered whenever the call is polled, to its answer; the body that follows is outside of it.
//! 4. It needs no `Call` and is the same without one. Requests and answers go by untouched: the bytes of `_meta`, the `traceparent` header and all others.
//!
//! It deliberately leaves out: exporting, and the trace that the upstream goes on with. Both are those of whoever records
//! (`crate::exchange`), as a span that is exported ends with the answer's body.
//!
//! ```
//! use http::{Request, Response};
//! use outrigger::layer::trace::TraceLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let stack = TraceLayer::new().layer(service_fn(async |_: Request<()>| Ok::<_, outrigger::BoxError>(Response::new(()))));
//! stack.oneshot(Request::new(())).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, Request};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Span;

use crate::mcp::context::Traceparent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Puts one span around each call.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct TraceLayer;

impl TraceLayer {
    /// The layer. It has no settings.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner }
    }
}

/// The service of [`TraceLayer`].
#[derive(Clone)]
pub struct Trace<S> {
    inner: S,
}

impl<S> fmt::Debug for Trace<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for Trace<S>
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
        // The macro asks whether anybody listens before it evaluates the fields.
        let span = tracing::debug_span!(
            target: "outrigger",
            "call",
            http_method = %request.method(),
            path = request.uri().path(),
            trace_id = trace_id(request.headers()),
        );
        let inner = span.in_scope(|| self.inner.call(request));
        ResponseFuture { inner, span }
    }
}

pin_project! {
    /// The future of [`Trace`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        span: Span,
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        this.inner.poll(cx)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}

/// The trace id of a valid `traceparent`.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    Traceparent::parse(text).map(|parent| parent.trace_id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tower_test::mock;
    use tracing::Level;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn id_of(traceparent: &str) -> Option<String> {
        let request = Request::get("/")
            .header("traceparent", traceparent)
            .body(())
            .unwrap();
        trace_id(request.headers()).map(str::to_owned)
    }

    #[test]
    fn rule_2_a_malformed_traceparent_counts_as_none() {
        assert_eq!(id_of(VALID).unwrap(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for malformed in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(id_of(malformed), None, "{malformed}");
        }
    }

    /// Counts spans of calls, and how often they are entered.
    #[derive(Clone)]
    struct Counting {
        most: Level,
        spans: Arc<AtomicUsize>,
        entered: Arc<AtomicUsize>,
    }

    impl Counting {
        fn up_to(most: Level) -> Self {
            Self {
                most,
                spans: Arc::default(),
                entered: Arc::default(),
            }
        }

        fn counts(&self) -> (usize, usize) {
            let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
            (read(&self.spans), read(&self.entered))
        }
    }

    impl tracing::Subscriber for Counting {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() <= self.most
        }
        fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::Id {
            assert_eq!(span.metadata().name(), "call");
            assert_eq!(span.metadata().target(), "outrigger");
            self.spans.fetch_add(1, Ordering::Relaxed);
            tracing::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &tracing::Id) {
            self.entered.fetch_add(1, Ordering::Relaxed);
        }
        fn exit(&self, _: &tracing::Id) {}
    }

    /// A call that is answered at its second poll.
    fn polled_twice() -> impl Future<Output = Result<&'static str, std::convert::Infallible>> {
        let mut has_waited = false;
        let inner = tower::service_fn(move |_: Request<()>| {
            std::future::poll_fn(move |_| {
                if std::mem::replace(&mut has_waited, true) {
                    Poll::Ready(Ok("answer"))
                } else {
                    Poll::Pending
                }
            })
        });
        TraceLayer::new().layer(inner).call(Request::new(()))
    }

    #[test]
    fn rule_1_nothing_is_made_while_nobody_listens() {
        for (most, spans) in [(Level::INFO, 0), (Level::DEBUG, 1), (Level::TRACE, 1)] {
            let counting = Counting::up_to(most);
            let _guard = tracing::subscriber::set_default(counting.clone());
            drop(polled_twice());
            assert_eq!(counting.counts().0, spans, "{most}");
        }
    }

    #[test]
    fn rule_3_the_span_is_entered_whenever_the_call_is_polled() {
        let counting = Counting::up_to(Level::DEBUG);
        let _guard = tracing::subscriber::set_default(counting.clone());
        let mut call = tokio_test::task::spawn(polled_twice());
        assert_eq!(counting.counts(), (1, 1), "while it is made");
        assert!(call.poll().is_pending());
        assert_eq!(counting.counts(), (1, 2));
        assert!(call.poll().is_ready());
        assert_eq!(counting.counts(), (1, 3));
    }

    #[tokio::test]
    async fn rule_4_the_request_goes_by_untouched_and_readiness_is_the_inner_one() {
        let (mut service, mut handle) =
            mock::spawn_layer::<Request<&str>, &str, _>(TraceLayer::new());
        handle.allow(0);
        assert!(service.poll_ready().is_pending());
        handle.allow(1);
        assert!(service.poll_ready().is_ready());
        let request = Request::get("/x")
            .header("traceparent", VALID)
            .body("body")
            .unwrap();
        let call = tokio::spawn(service.call(request));
        let (seen, answer) = handle.next_request().await.unwrap();
        assert_eq!(
            (
                seen.uri().path(),
                *seen.body(),
                &seen.headers()["traceparent"]
            ),
            ("/x", "body", &VALID.parse().unwrap())
        );
        answer.send_response("answer");
        assert_eq!(call.await.unwrap().unwrap(), "answer");
    }
}
