//! The body of a layer that leaves most answers alone: the inner body, or one of its own.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::body::Body;
use crate::error::BoxError;

pin_project! {
    /// The inner body as it is, or a boxed one that the layer has made of it.
    pub struct PassedBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<B> {
        Inner { #[pin] body: B },
        Own { body: Body },
    }
}

impl<B> PassedBody<B> {
    /// Leaves it alone.
    pub(crate) fn inner(body: B) -> Self {
        Self {
            state: State::Inner { body },
        }
    }

    /// One of the layer's own.
    pub(crate) fn own(body: Body) -> Self {
        Self {
            state: State::Own { body },
        }
    }
}

impl<B> From<Bytes> for PassedBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::own(Body::from(bytes))
    }
}

impl<B> http_body::Body for PassedBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().state.project() {
            Projection::Inner { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Projection::Own { body } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Inner { body } => body.is_end_stream(),
            State::Own { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Inner { body } => body.size_hint(),
            State::Own { body } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for PassedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassedBody").finish_non_exhaustive()
    }
}
