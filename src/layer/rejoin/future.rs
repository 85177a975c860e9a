//! What [`Rejoin`](super::Rejoin) answers with.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::Body;
use crate::error::BoxError;
use crate::layer::PassedBody;
use crate::layer::media::is_event_stream;
use crate::layer::rejoin::again::Shape;
use crate::layer::rejoin::rebuild::{is_down, is_lost, lost, may_be_lost, read_lost, read_to_end};
use crate::layer::rejoin::resume::Resumed;
use crate::layer::rejoin::{Rebuild, Rest};

pin_project! {
    /// The inner answer, or that of a second try after the session was rebuilt.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; a rebuild that others wait for is then begun anew by one of them.
    pub struct ResponseFuture<S, F> {
        #[pin]
        state: State<S, F>,
    }
}

type Recovery = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

pin_project! {
    #[project = Projection]
    enum State<S, F> {
        Pass { #[pin] future: F },
        First { #[pin] future: F, rest: Option<Rest<S>> },
        Recover { future: Recovery },
    }
}

impl<S, F> ResponseFuture<S, F> {
    pub(super) fn pass(future: F) -> Self {
        Self {
            state: State::Pass { future },
        }
    }

    pub(super) fn first(future: F, rest: Rest<S>) -> Self {
        let rest = Some(rest);
        Self {
            state: State::First { future, rest },
        }
    }
}

impl<S, B> Future for ResponseFuture<S, S::Future>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Output = Result<Response<PassedBody<B>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut state = self.as_mut().project().state;
            let recovery: Recovery = match state.as_mut().project() {
                Projection::Pass { future } => {
                    let output = ready!(future.poll(cx)).map_err(Into::into);
                    return Poll::Ready(output.map(|response| response.map(PassedBody::inner)));
                }
                Projection::Recover { future } => {
                    let output = ready!(future.as_mut().poll(cx));
                    return Poll::Ready(output.map(|response| response.map(PassedBody::own)));
                }
                Projection::First { future, rest } => {
                    let output = ready!(future.poll(cx)).map_err(Into::into);
                    match Next::after(&output, rest.as_ref()) {
                        Next::Pass => {
                            return Poll::Ready(output.map(|it| it.map(PassedBody::inner)));
                        }
                        Next::Watch => {
                            return Poll::Ready(output.map(|response| {
                                let response = response.map(Body::new);
                                Rest::watch(rest.take(), response).map(PassedBody::own)
                            }));
                        }
                        Next::Recover => match rest.take() {
                            Some(rest) => {
                                let output = output.map(|response| response.map(Body::new));
                                Box::pin(rest.recover(output))
                            }
                            // `Next` is this only with it.
                            None => return Poll::Pending,
                        },
                    }
                }
            };
            state.set(State::Recover { future: recovery });
        }
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// What is to be done with the first answer.
enum Next {
    Pass,
    /// Its stream may break.
    Watch,
    /// The session may be lost.
    Recover,
}

impl Next {
    fn after<S, B>(output: &Result<Response<B>, BoxError>, rest: Option<&Rest<S>>) -> Self {
        let Some(rest) = rest else {
            return Self::Pass;
        };
        let shape = rest.again.shape();
        match output {
            _ if shape == Shape::End => Self::Pass,
            Ok(response) if is_lost(response) || may_be_lost(response, shape) => Self::Recover,
            Ok(response) if rest.is_watched(response) => Self::Watch,
            Err(error) if rest.may_move() && is_down(error) => Self::Recover,
            _ => Self::Pass,
        }
    }
}

impl<S> Rest<S> {
    fn may_move(&self) -> bool {
        self.params.rebuild == Rebuild::Auto && self.again.session().is_pinned()
    }

    /// Whether an answer is a stream that can be resumed: a GET's, or one request's.
    fn is_watched<B>(&self, response: &Response<B>) -> bool {
        response.status().is_success()
            && is_event_stream(response.headers())
            && matches!(self.again.shape(), Shape::Stream | Shape::Request)
    }
}

impl<S, B> Rest<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn watch(rest: Option<Self>, response: Response<Body>) -> Response<Body> {
        match rest {
            Some(rest) if rest.is_watched(&response) => {
                response.map(|body| Body::new(Resumed::new(body, Box::new(rest))))
            }
            _ => response,
        }
    }

    /// Rebuilds the session, if it is lost, and sends the call once more.
    async fn recover(
        mut self,
        first: Result<Response<Body>, BoxError>,
    ) -> Result<Response<Body>, BoxError> {
        let shape = self.again.shape();
        if let Ok(response) = first {
            let (response, is_lost) = read_lost(response, shape).await?;
            if !is_lost {
                return Ok(response);
            }
            read_to_end(response.into_body()).await;
        }
        self.rebuild(self.generation).await?;
        let (request, generation) = self.again.request().ok_or_else(lost)?;
        self.generation = generation;
        let response = self.send(request).await?;
        let (response, is_still_lost) = read_lost(response, shape).await?;
        if is_still_lost {
            return Err(lost().into());
        }
        Ok(Self::watch(Some(self), response))
    }
}
