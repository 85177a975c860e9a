//! The one body type at the seams of the stack, and the two ways to make it.
//!
//! Between the seams bodies are generic. At a seam (an inbound route, an upstream connection) they become
//! [`Body`]: a whole message without a box, or a stream in one box. A layer that answers for itself asks only
//! that the body can be made `From<Bytes>`, which [`Body`], axum's and reqwest's bodies and `Full<Bytes>` all can.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Frame, SizeHint};

use crate::error::BoxError;

/// The number that a `Content-Length` says, if it is one.
pub(crate) fn said_length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    // A sign would be read as well.
    text.starts_with(|digit: char| digit.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// A body: nothing, one piece, or a stream.
pub struct Body(Kind);

enum Kind {
    Once(Option<Bytes>),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    /// A body without a byte.
    #[must_use]
    pub fn empty() -> Self {
        Self(Kind::Once(None))
    }

    /// Boxes any body: the one allocation at a seam. One that has ended already needs none.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Kind::Stream(Box::pin(IntoBoxError { body })))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Once(if bytes.is_empty() {
            None
        } else {
            Some(bytes)
        }))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Once(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Once(bytes) => bytes.is_none(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Once(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &http_body::Body::size_hint(self))
            .finish()
    }
}

pin_project_lite::pin_project! {
    /// Turns any error of a body into a [`BoxError`].
    struct IntoBoxError<B> {
        #[pin]
        body: B,
    }
}

impl<B> http_body::Body for IntoBoxError<B>
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
        self.project()
            .body
            .poll_frame(cx)
            .map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn one_piece_comes_out_as_it_went_in() {
        let body = Body::from(Bytes::from_static(b"{}"));
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(2));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "{}");
    }

    #[tokio::test]
    async fn a_stream_keeps_its_size_and_end() {
        let body = Body::new(Full::new(Bytes::from_static(b"abc")));
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        assert!(http_body::Body::is_end_stream(&Body::empty()));
    }
}
