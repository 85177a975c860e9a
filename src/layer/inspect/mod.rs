//! Reads a request once and leaves a [`Call`]; what contradicts itself is refused here.
//!
//! Contract:
//!
//! 1. The body of a POST is read whole, up to [`Params::max_body`] bytes (413 above), within [`Params::body_timeout`]
//!    (408 after), out of one [`ByteBudget`] for the process (503 when it is spent). Bytes are taken from the budget as
//!    they come, whatever length was announced, and given back when the first answer comes.
//! 2. The era is the one that the request shows (see `judge`): an envelope in `params._meta` makes it modern whatever
//!    else it carries (C23); `initialize` without one is legacy whatever its header. One that offers a revision which has
//!    no `initialize` goes on offering the newest that has (C22).
//! 3. A modern request agrees with itself or is refused: version header and envelope (C02, C04, C05), a served revision
//!    (C06), `Mcp-Method` (C07), `Mcp-Name` (C08, C10), a method that the revision still has (C12). No key
//!    that is read stands beside one that differs by case alone: who does not tell case apart would read that one.
//! 4. A legacy request names a revision that exists, or none (C49). Arrays pass where no revision after 2025-03-26 is
//!    named, without `initialize` in them (C50).
//! 5. What it does not know it passes on: methods, fields, headers.
//! 6. From here inwards the body is `Full<Bytes>`, the bytes are those that came (but for C22), and [`Facts`] know era,
//!    method, tool.
//!
//! What is no call is refused, so that none without one gets further: a body that is no message, an id of more than
//! 1 KiB, a method that is not the protocol's.
//!
//! It deliberately leaves out: sessions (`session`), `Mcp-Param-*` (they need the tool's schema), and who may call what.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::layer::inspect::{InspectLayer, Params};
//! use outrigger::{BoxError, Call};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let server = service_fn(async |request: Request<Full<Bytes>>| {
//!     let method = request.extensions().get::<Call>().and_then(Call::method);
//!     Ok::<_, BoxError>(Response::new(Full::new(Bytes::from(format!("{method:?}")))))
//! });
//! let stack = ServiceBuilder::new().layer(InspectLayer::new(Params::default())).service(server);
//! let ping = Full::new(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
//! let answer = stack.oneshot(Request::post("/mcp").body(ping)?).await?;
//! assert_eq!(answer.status(), 200);
//! # Ok(())
//! # }
//! ```

mod budget;
mod future;
mod judge;

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::{Call, Form};
use crate::error::{BoxError, Cause, Failure};
use crate::facts::Facts;
use crate::mcp::revision::Era;

pub use budget::ByteBudget;
pub use future::ResponseFuture;
pub use judge::judge;

/// What `inspect` bounds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Params {
    /// The most bytes that one message may have. Default 10 MiB.
    pub max_body: usize,
    /// How long a body may take to arrive. Default 30 s.
    pub body_timeout: Duration,
    /// The bytes that all requests of the process may hold at once. Default 256 MiB.
    pub budget: ByteBudget,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_body: 10 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            budget: ByteBudget::new(256 * 1024 * 1024),
        }
    }
}

/// Reads each request once and leaves a [`Call`] in its extensions.
#[derive(Clone, Debug)]
#[must_use]
pub struct InspectLayer {
    params: Params,
}

impl InspectLayer {
    /// A layer with these bounds.
    pub fn new(params: Params) -> Self {
        Self { params }
    }
}

impl<S> Layer<S> for InspectLayer {
    type Service = Inspect<S>;

    fn layer(&self, inner: S) -> Inspect<S> {
        Inspect {
            inner,
            params: self.params.clone(),
        }
    }
}

/// The service of [`InspectLayer`].
#[derive(Clone)]
pub struct Inspect<S> {
    inner: S,
    params: Params,
}

impl<S> fmt::Debug for Inspect<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspect")
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Inspect<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>> + Clone,
    ReqBody: http_body::Body<Data = Bytes>,
    ReqBody::Error: Into<BoxError>,
    ResBody: From<Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let facts = Facts::of(&mut request);
        let form = match *request.method() {
            Method::POST => return self.read(request, facts),
            Method::GET => Form::Stream,
            Method::DELETE => Form::End,
            _ => {
                let failure = Failure::unsent(Cause::MethodNotAllowed);
                return ResponseFuture::refuse(&failure, &request, &facts);
            }
        };
        let revision = judge::named_revision(request.headers());
        let era = revision.map_or(Era::Legacy, crate::mcp::revision::Revision::era);
        facts.set_era(era);
        let (mut parts, _) = request.into_parts();
        parts
            .extensions
            .insert(Call::new(form, era, revision, Bytes::new()));
        ResponseFuture::pass(self.inner.call(Request::from_parts(parts, Full::default())))
    }
}

impl<S: Clone> Inspect<S> {
    /// Begins to read the body of a POST.
    fn read<ReqBody, ResBody>(
        &mut self,
        request: Request<ReqBody>,
        facts: Facts,
    ) -> ResponseFuture<S, ReqBody>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        ReqBody: http_body::Body<Data = Bytes>,
        ReqBody::Error: Into<BoxError>,
        ResBody: From<Bytes>,
    {
        // `poll_ready` readied this very service, so it goes with the request; the clone stays.
        let unready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, unready);
        ResponseFuture::read(inner, request, facts, &self.params)
    }
}

#[cfg(test)]
mod tests;
