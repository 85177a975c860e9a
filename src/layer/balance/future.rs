//! A call on its way to the chosen endpoint, and its body, which is load until it ends.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::endpoint::Load;
use crate::error::{BoxError, Failure};

pin_project! {
    /// The chosen endpoint's answer.
    pub struct ResponseFuture<S, F, ReqBody> {
        #[pin]
        state: State<S, F, ReqBody>,
        load: Option<Load>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, ReqBody> {
        // Waits for the endpoint to be ready. Boxed, as it mostly is at once.
        Ready { waiting: Option<Box<(S, Request<ReqBody>)>> },
        Call { #[pin] call: F },
        Failed { error: Option<BoxError> },
    }
}

impl<S, F, ReqBody> ResponseFuture<S, F, ReqBody> {
    /// Calls the endpoint, at once if it is ready.
    pub(super) fn new(mut service: S, request: Request<ReqBody>, load: Load) -> Self
    where
        S: Service<Request<ReqBody>, Future = F>,
        S::Error: Into<BoxError>,
    {
        // Nobody is woken: what is not ready now is asked again when the future is polled.
        let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::Call {
                call: service.call(request),
            },
            Poll::Ready(Err(error)) => {
                let error = error.into();
                load.failed(&error);
                State::Failed { error: Some(error) }
            }
            Poll::Pending => State::Ready {
                waiting: Some(Box::new((service, request))),
            },
        };
        Self {
            state,
            load: Some(load),
        }
    }

    pub(super) fn fail(failure: Failure) -> Self {
        Self {
            state: State::Failed {
                error: Some(failure.into()),
            },
            load: None,
        }
    }
}

impl<S, ReqBody, ResBody> Future for ResponseFuture<S, S::Future, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Ready { waiting } => {
                    let Some((service, _)) = waiting.as_deref_mut() else {
                        return Poll::Pending;
                    };
                    let outcome = ready!(service.poll_ready(cx)).map_err(Into::into);
                    if let (Err(error), Some(load)) = (&outcome, this.load.as_ref()) {
                        load.failed(error);
                    }
                    outcome?;
                    let Some(waiting) = waiting.take() else {
                        return Poll::Pending;
                    };
                    let (mut service, request) = *waiting;
                    let call = service.call(request);
                    this.state.set(State::Call { call });
                }
                StateProjection::Call { call } => {
                    let outcome = ready!(call.poll(cx)).map_err(Into::into);
                    let load = this.load.take();
                    if let Some(load) = &load {
                        match &outcome {
                            Ok(_) => load.answered(),
                            Err(error) => load.failed(error),
                        }
                    }
                    return Poll::Ready(
                        outcome.map(|response| response.map(|inner| ResponseBody { inner, load })),
                    );
                }
                StateProjection::Failed { error } => {
                    return error
                        .take()
                        .map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
    }
}

impl<S, F, ReqBody> fmt::Debug for ResponseFuture<S, F, ReqBody> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The inner body, which counts as load until it ends, fails or is dropped.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        load: Option<Load>,
    }
}

impl<B: From<Bytes>> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self {
            inner: B::from(bytes),
            load: None,
        }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *this.load = None;
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
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
