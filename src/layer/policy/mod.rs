//! Which tools are offered: the others are hidden from lists and refused on calls.
//!
//! Contract:
//!
//! 1. A tool is offered if its name fits one of `include` (or there is none) and none of `exclude`.
//! 2. A `tools/call` of another tool, or of none with a readable name, fails unsent with [`Cause::PolicyDenied`]. So does
//!    a batch with such a call in it: the whole, since half a batch is another one.
//!    A message with a key that differs from one that is read by case alone fails with [`Cause::DuplicateKey`]: a server
//!    that does not tell case apart would read another name than was judged.
//! 3. Of a `tools/list` answer, in JSON or in events, the elements that are not offered are cut; every other byte stays.
//!    It is held for that, up to `max_list` bytes, an event stream up to the event that answers the list. One that is
//!    too long, encoded or not readable fails with [`Cause::BadResponse`]: what cannot be read cannot be filtered.
//! 4. Everything else passes untouched: other methods, tasks, notifications, answers that are neither JSON nor events.
//! 5. Without `include` and `exclude` it does nothing at all.
//! 6. A GET stream is never resumed: `Last-Event-ID` is removed, for what a server repeats there may be a list, which
//!    nobody filters. What was missed is lost to the caller; the resumption of an upstream's streams goes on further
//!    inside.
//!
//! Without a `Call` it refuses, where there is anything to refuse, with [`Cause::Internal`]: what it cannot see it cannot
//! judge, and who built the stack has to put `inspect` outside it.
//!
//! ```
//! use outrigger::layer::policy::{Glob, Params, RestrictToolsLayer};
//!
//! let mut params = Params::default();
//! params.exclude = vec![Glob::new("delete*")];
//! assert!(params.offers("read_file"));
//! assert!(!params.offers("delete_file"));
//! let layer = RestrictToolsLayer::new(params);
//! # drop(layer);
//! ```

mod filter;
mod future;
mod glob;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::call::{Call, Form};
use crate::error::{BoxError, Cause, Failure};
use crate::mcp::headers::LAST_EVENT_ID;
use crate::mcp::message::Message;
use crate::mcp::method::Method;

pub use future::ResponseFuture;
pub use glob::Glob;

/// Which tools are offered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Params {
    /// Only these, if there are any. Default: none, which is all.
    pub include: Vec<Glob>,
    /// None of these. Default: none.
    pub exclude: Vec<Glob>,
    /// The most bytes that the answer to a `tools/list` may have. Default 8 MiB.
    pub max_list: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            max_list: 8 * 1024 * 1024,
        }
    }
}

impl Params {
    /// Whether a tool of that name is offered.
    #[must_use]
    pub fn offers(&self, name: &str) -> bool {
        let fits = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        (self.include.is_empty() || fits(&self.include)) && !fits(&self.exclude)
    }

    fn offer_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

/// Offers chosen tools only.
#[derive(Clone, Debug)]
#[must_use]
pub struct RestrictToolsLayer {
    /// Nothing if all tools are offered.
    params: Option<Arc<Params>>,
}

impl RestrictToolsLayer {
    /// A layer that offers what `params` say.
    pub fn new(params: Params) -> Self {
        Self {
            params: (!params.offer_all()).then(|| Arc::new(params)),
        }
    }
}

impl<S> Layer<S> for RestrictToolsLayer {
    type Service = RestrictTools<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RestrictTools {
            inner,
            params: self.params.clone(),
        }
    }
}

/// The service of [`RestrictToolsLayer`].
#[derive(Clone, Debug)]
pub struct RestrictTools<S> {
    inner: S,
    params: Option<Arc<Params>>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RestrictTools<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: http_body::Body<Data = Bytes> + From<Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Some(params) = &self.params else {
            return ResponseFuture::passing(self.inner.call(request));
        };
        let Some(call) = request.extensions().get::<Call>() else {
            let why = "policy needs the Call that inspect leaves";
            return ResponseFuture::failed(Failure::unsent(Cause::Internal).with_source(why));
        };
        if has(call, |message| message.has_lookalike) {
            return ResponseFuture::failed(Failure::unsent(Cause::DuplicateKey));
        }
        if has(call, |message| is_denied(params, call, message)) {
            return ResponseFuture::failed(Failure::unsent(Cause::PolicyDenied));
        }
        if matches!(call.form(), Form::Stream) {
            request.headers_mut().remove(LAST_EVENT_ID);
            return ResponseFuture::passing(self.inner.call(request));
        }
        if !has(call, |message| {
            message.known_method() == Some(Method::ToolsList)
        }) {
            return ResponseFuture::passing(self.inner.call(request));
        }
        let (params, id) = (Arc::clone(params), call.id_token());
        ResponseFuture::filtering(self.inner.call(request), params, id)
    }
}

/// Whether the message, or a part of the batch, is such.
fn has(call: &Call, is_such: impl Fn(&Message) -> bool) -> bool {
    match call.form() {
        Form::Message(message) => is_such(message),
        Form::Batch(parts) => parts.iter().any(|(_, part)| is_such(part)),
        Form::Stream | Form::End => false,
    }
}

/// A call without an id would be executed, too, by a server that does not look: it is judged like one with an id.
fn is_denied(params: &Params, call: &Call, message: &Message) -> bool {
    message.known_method() == Some(Method::ToolsCall)
        && message
            .params
            .name
            .is_none_or(|name| !params.offers(&name.decode(call.body())))
}

#[cfg(test)]
mod tests;
