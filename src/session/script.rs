//! For tests: calls as `inspect` leaves them, and bodies that come as a script says.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::Full;
use tokio::time::{Sleep, sleep};

use crate::body::Body;
use crate::call::{Call, Form};
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::mcp::message::{Message, Parsed};
use crate::mcp::revision::{Era, Revision};
use crate::session::state::lock;

/// A legacy POST as it stands below `inspect`.
pub(crate) fn post(text: &str) -> Request<Full<Bytes>> {
    let body = Bytes::from(text.to_owned());
    let form = match Message::read(&body).unwrap() {
        Parsed::One(message) => Form::Message(message),
        Parsed::Batch(parts) => Form::Batch(parts),
    };
    request(Method::POST, form, body)
}

/// A legacy GET.
pub(crate) fn get() -> Request<Full<Bytes>> {
    request(Method::GET, Form::Stream, Bytes::new())
}

/// A legacy DELETE.
pub(crate) fn delete() -> Request<Full<Bytes>> {
    request(Method::DELETE, Form::End, Bytes::new())
}

fn request(method: Method, form: Form, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = method;
    let call = Call::new(form, Era::Legacy, Some(Revision::V2025_11_25), body);
    request.extensions_mut().insert(call);
    request
}

/// A 200 with this body and type.
pub(crate) fn answer(kind: &str, body: impl Into<Body>) -> Response<Body> {
    Response::builder()
        .header("content-type", kind)
        .body(body.into())
        .unwrap()
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, text: impl Into<String>) {
        lock(&self.0).push(text.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// Notes whether what holds it came to its end or was dropped before.
pub(crate) struct Guard {
    log: Log,
    is_done: bool,
}

impl Guard {
    pub(crate) fn new(log: Log) -> Self {
        let is_done = false;
        Self { log, is_done }
    }

    pub(crate) fn done(&mut self) {
        self.is_done = true;
        self.log.note("done");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_done {
            self.log.note("cancelled");
        }
    }
}

/// A body whose pieces come after a while each; `None` breaks the connection.
pub(crate) struct Script {
    steps: VecDeque<(u64, Option<Bytes>)>,
    sleep: Option<Pin<Box<Sleep>>>,
    guard: Option<Guard>,
}

impl Script {
    pub(crate) fn body(steps: &[(u64, Option<&str>)], guard: Option<Guard>) -> Body {
        let steps = steps
            .iter()
            .map(|(after, text)| (*after, text.map(|text| Bytes::from(text.to_owned()))))
            .collect();
        let sleep = None;
        Body::new(Self {
            steps,
            sleep,
            guard,
        })
    }
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some((after, _)) = this.steps.front() else {
            if let Some(guard) = &mut this.guard {
                guard.done();
            }
            this.guard = None;
            return Poll::Ready(None);
        };
        let after = Duration::from_millis(*after);
        let sleeping = this.sleep.get_or_insert_with(|| Box::pin(sleep(after)));
        ready!(sleeping.as_mut().poll(cx));
        this.sleep = None;
        if let Some((_, Some(piece))) = this.steps.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        this.steps.clear();
        let failure = Failure::new(Cause::ConnectionLost, Phase::Sent);
        Poll::Ready(Some(Err(failure.into())))
    }
}
