//! A body that must not be silent for too long.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::timer::Timer;
use crate::error::BoxError;

pin_project! {
    /// The inner body, if it goes on in time. What ran out of time yields its failure and ends.
    pub struct ResponseBody<B> {
        #[pin]
        inner: Option<B>,
        timer: Option<Timer>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, timer: Option<Timer>) -> Self {
        let timer = timer.filter(Timer::watches_body).map(|mut timer| {
            timer.heard();
            timer
        });
        Self {
            inner: Some(inner),
            timer,
        }
    }
}

impl<B: From<Bytes>> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self {
            inner: Some(B::from(bytes)),
            timer: None,
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = inner.poll_frame(cx) {
            match (&frame, this.timer.as_mut()) {
                (Some(Ok(_)), Some(timer)) => timer.heard(),
                // Nothing comes after the end or an error: no timer may fire then.
                _ => *this.timer = None,
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(timer) = this.timer.as_mut() else {
            return Poll::Pending;
        };
        timer.poll_silence(cx).map(|failure| {
            this.inner.set(None);
            Some(Err(failure.into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
