//! The body of an answer, and the connection that it comes from.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::pool::Lease;
use crate::error::{BoxError, Cause, Failure, Phase};

pin_project! {
    /// The body of an answer. At its end the connection is free for the next call; dropped before, it is closed, which
    /// is how the upstream learns that nobody listens any more.
    pub struct ConnectionBody {
        #[pin]
        inner: Incoming,
        lease: Option<Lease>,
    }
}

impl ConnectionBody {
    pub(super) fn new(inner: Incoming, lease: Lease) -> Self {
        let mut lease = Some(lease);
        if inner.is_end_stream() {
            give_back(&mut lease);
        }
        Self { inner, lease }
    }
}

impl Body for ConnectionBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = std::task::ready!(this.inner.as_mut().poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                // With a Content-Length the last byte is the end; nobody may ask for the `None` behind it.
                if this.inner.is_end_stream() {
                    give_back(this.lease);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let failure = broken(error);
                Some(Err(match this.lease.take() {
                    Some(lease) => failure.at(lease.shared().endpoint.origin().clone()),
                    None => failure,
                }
                .into()))
            }
            None => {
                give_back(this.lease);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for ConnectionBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBody")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}

fn give_back(lease: &mut Option<Lease>) {
    if let Some(lease) = lease.take() {
        lease.give_back();
    }
}

/// The failure of an exchange that broke after the request was written, if only in part.
pub(super) fn broken(error: hyper::Error) -> Failure {
    let is_garbage = error.is_parse() || is_garbage(&error);
    let cause = if is_garbage {
        Cause::BadResponse
    } else {
        Cause::ConnectionLost
    };
    Failure::new(cause, Phase::Sent).with_source(error)
}

/// Whether the bytes came but were no body: a chunk size that is no number, a trailer without a colon.
fn is_garbage(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let kind = source
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    matches!(
        kind,
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
    )
}
