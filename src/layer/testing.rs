//! What tests of layers share: calls of every form, and a body that is fed by hand.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method as Verb, Request};
use http_body::Frame;
use http_body_util::Full;
use tokio::sync::mpsc;

use crate::call::{Call, Form};
use crate::error::BoxError;
use crate::mcp::message::{Message, Parsed};
use crate::mcp::revision::Era;

/// A POST of `text`, as `inspect` hands it on.
pub(crate) fn post(era: Era, text: &str) -> Request<Full<Bytes>> {
    let body = Bytes::copy_from_slice(text.as_bytes());
    let form = match Message::read(&body).unwrap() {
        Parsed::One(message) => Form::Message(message),
        Parsed::Batch(parts) => Form::Batch(parts),
    };
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Verb::POST;
    let call = Call::new(form, era, None, body);
    request.extensions_mut().insert(call);
    request
}

/// A legacy GET or DELETE.
pub(crate) fn bodiless(form: Form) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    let call = Call::new(form, Era::Legacy, None, Bytes::new());
    request.extensions_mut().insert(call);
    request
}

/// A body that is fed by hand. It tells when it was dropped.
#[derive(Debug)]
pub(crate) struct Fed {
    frames: mpsc::UnboundedReceiver<Result<Bytes, BoxError>>,
    _alive: Arc<()>,
}

/// Feeds a [`Fed`] body; dropped, the body ends.
#[derive(Debug)]
pub(crate) struct Feeder {
    frames: mpsc::UnboundedSender<Result<Bytes, BoxError>>,
    alive: std::sync::Weak<()>,
}

/// A body and its feeder.
pub(crate) fn fed() -> (Feeder, Fed) {
    let (tx, rx) = mpsc::unbounded_channel();
    let alive = Arc::new(());
    let feeder = Feeder {
        frames: tx,
        alive: Arc::downgrade(&alive),
    };
    (
        feeder,
        Fed {
            frames: rx,
            _alive: alive,
        },
    )
}

impl From<Bytes> for Fed {
    fn from(bytes: Bytes) -> Self {
        let (feeder, body) = fed();
        let _ = feeder.frames.send(Ok(bytes));
        body
    }
}

impl Feeder {
    pub(crate) fn send(&self, text: &str) {
        let _ = self
            .frames
            .send(Ok(Bytes::copy_from_slice(text.as_bytes())));
    }

    pub(crate) fn fail(&self, error: impl Into<BoxError>) {
        let _ = self.frames.send(Err(error.into()));
    }

    pub(crate) fn body_is_dropped(&self) -> bool {
        self.alive.strong_count() == 0
    }
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.frames
            .poll_recv(cx)
            .map(|frame| frame.map(|frame| frame.map(Frame::data)))
    }
}
