//! The body of an answer; that of a later attempt shows the caller's own id.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::renumber::{Ids, Restore};

pin_project! {
    /// The inner body, with the caller's id put back where an attempt had another.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        restore: Option<Box<Restoring>>,
    }
}

struct Restoring {
    restore: Restore,
    /// What stopped the data, held while the rest of it goes first.
    last: Option<Last>,
}

enum Last {
    End,
    Trailers(Frame<Bytes>),
}

impl<B> ResponseBody<B> {
    pub(super) fn wrap(response: Response<B>, ids: Option<Ids>) -> Response<Self> {
        let restore = ids.map(|ids| {
            Box::new(Restoring {
                restore: Restore::new(ids),
                last: None,
            })
        });
        let is_changed = restore.is_some();
        let mut response = response.map(|inner| Self { inner, restore });
        if is_changed {
            // The ids differ in length.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response
    }
}

impl<B: From<Bytes>> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self {
            inner: B::from(bytes),
            restore: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(Restoring { restore, last }) = this.restore.as_deref_mut() else {
            return this.inner.poll_frame(cx);
        };
        loop {
            match last.take() {
                None => {}
                Some(Last::Trailers(trailers)) => {
                    *last = Some(Last::End);
                    return Poll::Ready(Some(Ok(trailers)));
                }
                Some(Last::End) => {
                    *last = Some(Last::End);
                    return Poll::Ready(None);
                }
            }
            let rest = match ready!(this.inner.as_mut().poll_frame(cx)?) {
                None => {
                    *last = Some(Last::End);
                    restore.finish()
                }
                Some(frame) => match frame.into_data() {
                    Ok(data) => restore.push(data),
                    Err(trailers) => {
                        *last = Some(Last::Trailers(trailers));
                        restore.finish()
                    }
                },
            };
            if !rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(rest))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.restore.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.restore.is_none() {
            self.inner.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
