//! Which headers cross: the protocol's and the allowed ones inwards, nothing of the connection's outwards.
//!
//! Contract:
//!
//! 1. Inwards, every header is dropped but those that the protocol needs (`Accept`, `Content-Type`, `Mcp-*` with any
//!    `Mcp-Param-*`, `Last-Event-ID`) and those of the allow-list. Names have no case; `*` is not a name.
//! 2. Never, whatever the list says: credentials (`Authorization`, `Cookie`), what belongs to the connection (RFC 9110,
//!    section 7.6.1, and what `Connection` names), `Host`, `Origin`, `Content-Length` (the client writes it anew; it stays
//!    where it says the length of the [`Call`]'s body),
//!    `Accept-Encoding` (the upstream is asked for `identity`), and what tells of the way here (`Forwarded`,
//!    `X-Forwarded-*`, `X-Real-IP`). [`Params`] refuses them when it is built.
//! 3. A modern request takes no session with it: `Mcp-Session-Id` and `Last-Event-ID` are dropped (statement C94).
//! 4. Then renamed headers get their new name, and fixed ones are set, in place of any that came in.
//! 5. Outwards, the connection's headers, cookies, `Server`, `Alt-Svc`, the upstream's CORS headers and its challenges
//!    (they speak of our credential) are dropped. All others pass, `Content-Encoding` among them.
//! 6. A fixed header whose secret is missing fails the call, unsent, with [`Cause::CredentialMissing`].
//!
//! Without a `Call` rule 3 does not apply; all else does. It stands outside `credential`, which has the last word on its
//! own header, and it sets nothing that `dialect` sets.
//!
//! ```
//! use http::{Request, Response};
//! use outrigger::layer::headers::{FilterHeadersLayer, Params};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let params = Params::default()
//!     .forward("X-Request-ID")?
//!     .fixed("X-Api-Version", "v1")?;
//! let mut stack = FilterHeadersLayer::new(params).layer(service_fn(|request: Request<()>| async move {
//!     assert!(request.headers().contains_key("x-request-id"));
//!     assert!(!request.headers().contains_key("cookie"));
//!     Ok::<_, outrigger::BoxError>(Response::new(()))
//! }));
//! let request = Request::post("http://mcp.example.com/mcp")
//!     .header("x-request-id", "7")
//!     .header("cookie", "a=b")
//!     .body(())?;
//! stack.ready().await?.call(request).await?;
//! # Ok(())
//! # }
//! ```

mod rules;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::Call;
use crate::error::{BoxError, Cause, Failure};
use crate::mcp::revision::Era;

pub use rules::{HeaderRefused, Params};

/// Lets only chosen headers cross.
#[derive(Clone, Debug)]
#[must_use]
pub struct FilterHeadersLayer {
    params: Arc<Params>,
}

impl FilterHeadersLayer {
    /// A layer with these rules.
    pub fn new(params: Params) -> Self {
        Self {
            params: Arc::new(params),
        }
    }
}

impl<S> Layer<S> for FilterHeadersLayer {
    type Service = FilterHeaders<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FilterHeaders {
            inner,
            params: Arc::clone(&self.params),
        }
    }
}

/// The service of [`FilterHeadersLayer`].
#[derive(Clone, Debug)]
pub struct FilterHeaders<S> {
    inner: S,
    params: Arc<Params>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for FilterHeaders<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let call = request.extensions().get::<Call>();
        let carried = rules::Carried {
            is_modern: call.is_some_and(|call| call.era() == Era::Modern),
            length: call.map(|call| call.body().len() as u64),
        };
        let state = if self.params.inward(request.headers_mut(), carried) {
            State::Inner {
                future: self.inner.call(request),
            }
        } else {
            State::Missing
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`FilterHeaders`].
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Inner { #[pin] future: F },
        Missing,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Inner { future } => {
                let mut answer = future.poll(cx);
                if let Poll::Ready(Ok(response)) = &mut answer {
                    outward(response.headers_mut());
                }
                answer.map_err(Into::into)
            }
            StateProjection::Missing => {
                Poll::Ready(Err(Failure::unsent(Cause::CredentialMissing).into()))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Takes off an answer what is not the caller's business.
fn outward(headers: &mut HeaderMap) {
    rules::remove(headers, rules::stays_behind);
}

#[cfg(test)]
mod tests;
