//! Times each try at an endpoint, to its first answer.
//!
//! What a caller waits for beyond this is second tries, and the wait for a connection or a share.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use prometheus::Histogram;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::Call;
use crate::error::{BoxError, Cause, Failure};
use crate::exchange::End;
use crate::facts::Facts;
use crate::layer::metrics::families::ServerFamilies;
use crate::layer::metrics::reading::Reading;
use crate::layer::metrics::semconv::Operation;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;

/// Times each try at one endpoint, answered or failed. GET and listen streams, which may wait for ever, are not timed;
/// nor is a try that was given up. Without a [`Call`] a request is timed all the same.
///
/// Where the server's families count by OpenTelemetry's conventions, each operation is watched to its end besides.
#[derive(Clone, Debug)]
#[must_use]
pub struct TimeAttemptsLayer {
    spans: Histogram,
    families: Arc<ServerFamilies>,
    /// Host and port of the endpoint.
    place: Arc<(String, String)>,
}

impl TimeAttemptsLayer {
    pub(super) fn new(spans: Histogram, families: Arc<ServerFamilies>) -> Self {
        Self {
            spans,
            families,
            place: Arc::default(),
        }
    }

    /// Says where the endpoint is, which OpenTelemetry's conventions ask for.
    pub fn at(mut self, host: &str, port: u16) -> Self {
        self.place = Arc::new((host.to_owned(), port.to_string()));
        self
    }
}

impl<S> Layer<S> for TimeAttemptsLayer {
    type Service = TimeAttempts<S>;

    fn layer(&self, inner: S) -> TimeAttempts<S> {
        TimeAttempts {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`TimeAttemptsLayer`].
#[derive(Clone)]
pub struct TimeAttempts<S> {
    inner: S,
    layer: TimeAttemptsLayer,
}

impl<S> fmt::Debug for TimeAttempts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeAttempts").finish_non_exhaustive()
    }
}

impl<S, B, ResBody> Service<Request<B>> for TimeAttempts<S>
where
    S: Service<Request<B>, Response = Response<ResBody>, Error = BoxError>,
    ResBody: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Response = Response<AttemptBody<ResBody>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call: Option<&Call> = request.extensions().get();
        let is_stream = call.is_some_and(Call::is_stream);
        let timed = (!is_stream).then(|| (self.layer.spans.clone(), Instant::now()));
        let watch = if is_stream {
            None
        } else {
            call.and_then(|call| Watch::begin(&self.layer, call, Facts::get(&request)))
        };
        ResponseFuture {
            inner: self.inner.call(request),
            timed,
            watch,
        }
    }
}

/// One operation from its begin to its end. Boxed, so that it costs next to nothing where nobody counts by it.
#[derive(Debug)]
struct Watch(Box<Watched>);

#[derive(Debug)]
struct Watched {
    families: Arc<ServerFamilies>,
    place: Arc<(String, String)>,
    began: Instant,
    method: Option<Method>,
    revision: Option<Revision>,
    facts: Option<Facts>,
    status: StatusCode,
    reading: Reading,
}

impl Watch {
    /// Begins, if somebody counts by it and it is an operation.
    fn begin(layer: &TimeAttemptsLayer, call: &Call, facts: Option<&Facts>) -> Option<Self> {
        layer.families.semconv()?;
        call.message()?.method?;
        Some(Self(Box::new(Watched {
            families: layer.families.clone(),
            place: layer.place.clone(),
            began: Instant::now(),
            method: call.method(),
            revision: call.revision(),
            facts: facts.cloned(),
            status: StatusCode::OK,
            reading: Reading::away(),
        })))
    }

    fn answered<B>(&mut self, response: &Response<B>) {
        self.0.status = response.status();
        self.0.reading = Reading::of(response.headers());
    }

    /// The answer has ended as it should.
    fn complete(mut self) {
        self.0.reading.complete();
        let end = self.said();
        self.end(end);
    }

    /// There is no answer, or it broke off.
    fn failed(self, error: &BoxError) {
        let cause = Failure::of(error).map_or(Cause::ConnectionLost, Failure::cause);
        self.end(End::Failed(cause, None));
    }

    /// Nobody wants the rest. An answer that was seen counts, and so does a status that said enough.
    fn dropped(self) {
        let end = match self.said() {
            End::Ok { shown: false } => End::Cancelled,
            end => end,
        };
        self.end(end);
    }

    /// What the answer says, as far as it was seen.
    fn said(&self) -> End {
        self.0.reading.end(self.0.status)
    }

    fn end(self, end: End) {
        let watched = *self.0;
        let families = &watched.families;
        let Some(semconv) = families.semconv() else {
            return;
        };
        let tool = watched.facts.as_ref().and_then(Facts::tool);
        let operation = Operation {
            server: families.server(),
            method: watched.method,
            tool: tool.map(|tool| families.tool_label(tool)),
            revision: watched.revision,
        };
        let place = (watched.place.0.as_str(), watched.place.1.as_str());
        semconv.tried(
            &operation,
            place,
            end,
            watched.began.elapsed().as_secs_f64(),
        );
    }
}

pin_project! {
    /// The future of [`TimeAttempts`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        timed: Option<(Histogram, Instant)>,
        watch: Option<Watch>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(watch) = this.project().watch.take() {
                watch.end(End::Cancelled);
            }
        }
    }
}

impl<F, ResBody> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, BoxError>>,
    ResBody: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Output = Result<Response<AttemptBody<ResBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if let Some((spans, began)) = this.timed.take() {
            spans.observe(began.elapsed().as_secs_f64());
        }
        let watch = this.watch.take();
        Poll::Ready(match answer {
            Ok(response) => Ok(AttemptBody::of(response, watch)),
            Err(error) => {
                if let Some(watch) = watch {
                    watch.failed(&error);
                }
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

pin_project! {
    /// The answer's body, watched to its end where somebody counts by it.
    #[derive(Debug)]
    pub struct AttemptBody<B>
    where
        B: http_body::Body,
    {
        #[pin]
        body: B,
        watch: Option<Watch>,
    }

    impl<B> PinnedDrop for AttemptBody<B>
    where
        B: http_body::Body,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(watch) = this.watch.take() {
                // A reader that knows the length does not poll for the end.
                if this.body.is_end_stream() {
                    watch.complete();
                } else {
                    watch.dropped();
                }
            }
        }
    }
}

impl<B: http_body::Body> AttemptBody<B> {
    fn of(response: Response<B>, mut watch: Option<Watch>) -> Response<Self> {
        if let Some(watch) = &mut watch {
            watch.answered(&response);
        }
        response.map(|body| Self { body, watch })
    }
}

impl<B> http_body::Body for AttemptBody<B>
where
    B: http_body::Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let Some(mut watch) = this.watch.take() {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        watch.0.reading.saw(piece);
                    }
                    *this.watch = Some(watch);
                }
                Some(Err(error)) => watch.failed(error),
                None => watch.complete(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
