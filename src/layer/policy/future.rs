//! One call: passed on, refused, or its answer held until it is filtered.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, response};
use pin_project_lite::pin_project;

use crate::error::{BoxError, Failure};
use crate::layer::policy::Params;
use crate::layer::policy::filter::Filter;

pin_project! {
    /// The future of [`RestrictTools`](super::RestrictTools).
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B> {
        Passing { #[pin] future: F },
        Filtering { #[pin] future: F, params: Arc<Params>, id: Option<Bytes> },
        Holding { #[pin] body: B, held: Option<Held> },
        Failed { failure: Option<Failure> },
    }
}

/// An answer as far as it has arrived. Boxed, since only lists have one.
type Held = Box<(response::Parts, Filter)>;

impl<F, B> ResponseFuture<F, B> {
    pub(super) fn passing(future: F) -> Self {
        Self {
            state: State::Passing { future },
        }
    }

    pub(super) fn filtering(future: F, params: Arc<Params>, id: Option<Bytes>) -> Self {
        Self {
            state: State::Filtering { future, params, id },
        }
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self {
            state: State::Failed {
                failure: Some(failure),
            },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + From<Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Passing { future } => {
                    return future.poll(cx).map_err(Into::into);
                }
                StateProjection::Filtering { future, params, id } => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    let filter = Filter::of(response.headers(), Arc::clone(params), id.take());
                    let Some(filter) = filter.transpose()? else {
                        return Poll::Ready(Ok(response));
                    };
                    let (parts, body) = response.into_parts();
                    let held = Some(Box::new((parts, filter)));
                    state.set(State::Holding { body, held });
                }
                StateProjection::Holding { mut body, held } => {
                    let frame = ready!(body.as_mut().poll_frame(cx));
                    let frame = frame.transpose().map_err(Into::into)?;
                    let Some((_, filter)) = held.as_deref_mut() else {
                        return Poll::Pending;
                    };
                    let is_complete = match frame.map(http_body::Frame::into_data) {
                        Some(Ok(chunk)) => filter.push(&chunk)?,
                        Some(Err(_trailers)) => false,
                        None => true,
                    };
                    if is_complete && let Some(held) = held.take() {
                        return Poll::Ready(answer(*held));
                    }
                }
                StateProjection::Failed { failure } => {
                    return match failure.take() {
                        Some(failure) => Poll::Ready(Err(failure.into())),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}

fn answer<B: From<Bytes>>(
    (mut parts, filter): (response::Parts, Filter),
) -> Result<Response<B>, BoxError> {
    // It is that of what arrived; the body says its own.
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, B::from(filter.finish()?)))
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
