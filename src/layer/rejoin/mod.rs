//! Keeps a legacy session alive when the upstream loses it, and its streams when they break.
//!
//! Contract:
//!
//! 1. Its business are legacy calls with an [`OpenSession`]; everything else passes untouched.
//! 2. A call that is answered with "I do not know this session" was not executed. The session is rebuilt, once for all that
//!    wait: `initialize` with the caller's own parameters and the revision in use, `notifications/initialized`, log
//!    level, subscriptions. Then the call is sent once more, whatever it is. DELETE is not. A session that is lost again
//!    within [`REBUILD_EVERY`] of that is not rebuilt: the call fails as [`Cause::SessionLost`], and the session is not
//!    over. A server that forgets at once would make a dozen requests out of each.
//! 3. That answer is 404, or 400 with a JSON-RPC error of code -32000 or -32600 whose text says so
//!    (`LOST_TEXTS`): what servers made from the TypeScript SDK's examples answer after a restart. To a GET they say
//!    it in plain text.
//! 4. A session on one of several endpoints is rebuilt there, or elsewhere if that endpoint is down; a call that was
//!    not sent because it is down counts as rule 2's.
//! 5. If the server then speaks another revision, or declares less than it did, or `rebuild` is off, the session is over
//!    ([`Cause::SessionLost`], 404): the caller starts anew and sees what changed. If the server cannot be reached
//!    the call fails, and the session is not over.
//! 6. A GET stream that ends or breaks is opened again with `Last-Event-ID`, after the time the server asks for (else 1 s,
//!    doubling to 30 s, at once after a rebuild), as long as its caller holds it. After a rebuild event ids begin
//!    anew and pass as they come. 405 and a lost session end it.
//! 7. A POST's stream that ends or breaks before the response, and had event ids, is resumed in the same way for at most
//!    [`resume`](RejoinParams::resume). Without ids, or after that, its body fails as [`Cause::ConnectionLost`], so
//!    no request stays without an end. It is never sent again.
//! 8. A caller never gets half an event: the end of a chunk that has no end of an event is held until it has, up to 1 MiB.
//!    An event larger than that passes as it comes, and then its stream is not resumed.
//!
//! Without a `Call`, or without an [`OpenSession`], a request passes untouched and is sent once.
//!
//! It deliberately leaves out: the replay of events towards the caller, who resumes with `Last-Event-ID` at the upstream, and
//! calls that broke after they were sent (`retry`'s).
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use outrigger::layer::rejoin::{RejoinLayer, RejoinParams};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), outrigger::BoxError> {
//! let upstream = service_fn(async |_: http::Request<Full<Bytes>>| {
//!     Ok::<_, outrigger::BoxError>(http::Response::new(Full::new(Bytes::from("{}"))))
//! });
//! let service = ServiceBuilder::new()
//!     .layer(RejoinLayer::new(RejoinParams::default()))
//!     .service(upstream);
//! let response = service.oneshot(http::Request::default()).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(()) }
//! ```

mod again;
mod future;
mod rebuild;
mod resume;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::ResponseFuture;

use self::again::Again;
use crate::body::Body;
use crate::error::BoxError;
use crate::facts::Facts;
use crate::layer::PassedBody;
use crate::session::OpenSession;

#[cfg(doc)]
use crate::error::Cause;

/// How long a session that was rebuilt is not rebuilt again.
pub const REBUILD_EVERY: Duration = Duration::from_secs(10);

/// Whether a lost session is rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// Once for each loss.
    #[default]
    Auto,
    /// Never: the caller gets 404, and starts anew.
    Never,
}

/// Settings of [`Rejoin`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RejoinParams {
    /// Whether a lost session is rebuilt. Default: yes.
    pub rebuild: Rebuild,
    /// How long a rebuild may take, from `initialize` to the last subscription. Default 30 s.
    pub time: Duration,
    /// How long it is tried to resume a POST's stream. Default 60 s.
    pub resume: Duration,
}

impl Default for RejoinParams {
    fn default() -> Self {
        Self {
            rebuild: Rebuild::Auto,
            time: Duration::from_secs(30),
            resume: Duration::from_mins(1),
        }
    }
}

/// Adds [`Rejoin`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RejoinLayer {
    params: Arc<RejoinParams>,
}

impl RejoinLayer {
    /// A layer with these settings.
    pub fn new(params: RejoinParams) -> Self {
        let params = Arc::new(params);
        Self { params }
    }
}

impl<S> Layer<S> for RejoinLayer {
    type Service = Rejoin<S>;

    fn layer(&self, inner: S) -> Rejoin<S> {
        let params = self.params.clone();
        Rejoin { inner, params }
    }
}

/// Rebuilds lost sessions and resumes broken streams. See the [module](self).
#[derive(Clone, Debug)]
pub struct Rejoin<S> {
    inner: S,
    params: Arc<RejoinParams>,
}

impl<S, B> Service<Request<Full<Bytes>>> for Rejoin<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<PassedBody<B>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Full<Bytes>>) -> Self::Future {
        let Some(session) = Facts::get(&request).and_then(Facts::session).cloned() else {
            return ResponseFuture::pass(self.inner.call(request));
        };
        // The session may have been rebuilt since it was put into the request.
        let generation = match session.state().generation() {
            0 => 0,
            _ => session.address(&mut request),
        };
        let Some(again) = Again::of(&request, session) else {
            return ResponseFuture::pass(self.inner.call(request));
        };
        // `poll_ready` readied this very service, so it takes the request; the clone is for what may come after.
        let rest = Rest {
            inner: self.inner.clone(),
            params: self.params.clone(),
            again,
            generation,
        };
        ResponseFuture::first(self.inner.call(request), rest)
    }
}

/// What is needed after the first answer.
struct Rest<S> {
    inner: S,
    params: Arc<RejoinParams>,
    again: Again,
    /// Which upstream session the request was sent with.
    generation: u32,
}

impl<S, B> Rest<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Sends a request of ours.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Body>, BoxError> {
        let inner = &mut self.inner;
        poll_fn(|cx| inner.poll_ready(cx))
            .await
            .map_err(Into::into)?;
        let response = inner.call(request).await.map_err(Into::into)?;
        Ok(response.map(Body::new))
    }

    fn session(&self) -> &OpenSession {
        self.again.session()
    }
}
