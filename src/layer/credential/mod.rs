//! Puts the upstream's credential on a call, last of all headers.
//!
//! Contract:
//!
//! 1. What a caller sent in the credential's header is removed; then the credential is set there, sensitive. A source
//!    that never has one (`none`) leaves the headers alone.
//! 2. A source that cannot give its credential fails the call, unsent.
//! 3. A 401 means that nothing was executed: a renewable credential is looked for anew, once, and if it is another one
//!    the call is sent again, once, whatever it is.
//! 4. Otherwise the credential is held back: calls fail unsent with [`CredentialHeld`](crate::error::Cause::CredentialHeld) and say for how long. The
//!    span is 10 s and doubles to 5 min with each refusal; when it is over, one call tries. A new value at the source,
//!    or an acceptance, ends it. A caller's own token is never held back.
//! 5. A 401 becomes [`Unauthorized`](crate::error::Cause::Unauthorized), a 403 [`Forbidden`](crate::error::Cause::Forbidden), both answered: the upstream's text stays here.
//!    Where callers' own tokens are sent on, the status is kept, since it is meant for them.
//! 6. It sends to the inner service only, and follows nothing: a credential never goes to another origin.
//!
//! Without a `Call` all of this holds; a call is sent twice only after a 401. Without a `Caller` in the `Facts`,
//! `passthrough` sees a caller that brought nothing. The request is cloned only for a renewable source.
//!
//! # Cancellation
//!
//! Dropping the future drops the inner call. A file that is being read is read to its end by its own thread.
//!
//! ```
//! use http::{Request, Response};
//! use outrigger::Secret;
//! use outrigger::auth::{SecretCell, StaticCredential};
//! use outrigger::layer::credential::InjectCredentialLayer;
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let source = StaticCredential::bearer(SecretCell::new(Secret::new("t0ken")));
//! let layer = InjectCredentialLayer::new(source).at("https://mcp.example.com".into());
//! let mut stack = layer.layer(service_fn(|request: Request<()>| async move {
//!     assert_eq!(request.headers()["authorization"], "Bearer t0ken");
//!     Ok::<_, outrigger::BoxError>(Response::new(()))
//! }));
//! stack.ready().await?.call(Request::new(())).await?;
//! # Ok(())
//! # }
//! ```

mod future;
mod held;

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::auth::CredentialSource;
use crate::error::BoxError;
use crate::facts::Facts;
use held::Held;

pub use future::ResponseFuture;

/// Puts the credential of a source on each call.
///
/// Its clones share what was refused: the endpoints of a server, which share the credential, have one each.
#[derive(Debug)]
#[must_use]
pub struct InjectCredentialLayer<C> {
    shared: Arc<Shared<C>>,
    origin: Option<Arc<str>>,
}

#[derive(Debug)]
struct Shared<C> {
    source: C,
    held: Held,
}

impl<C: CredentialSource> InjectCredentialLayer<C> {
    /// A layer that asks `source`.
    pub fn new(source: C) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                held: Held::default(),
            }),
            origin: None,
        }
    }

    /// Names the upstream in failures: scheme, host and port.
    pub fn at(mut self, origin: Arc<str>) -> Self {
        self.origin = Some(origin);
        self
    }
}

impl<C> Clone for InjectCredentialLayer<C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            origin: self.origin.clone(),
        }
    }
}

impl<S, C> Layer<S> for InjectCredentialLayer<C> {
    type Service = InjectCredential<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        InjectCredential {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of [`InjectCredentialLayer`].
#[derive(Debug)]
pub struct InjectCredential<S, C> {
    inner: S,
    layer: InjectCredentialLayer<C>,
}

impl<S: Clone, C> Clone for InjectCredential<S, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S, C, ReqBody, ResBody> Service<Request<ReqBody>> for InjectCredential<S, C>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    S::Error: Into<BoxError>,
    C: CredentialSource,
    ReqBody: Clone,
{
    type Response = Response<ResBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S, C, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let caller = Facts::get(&request).and_then(Facts::caller);
        let source = &self.layer.shared.source;
        if let Some(outcome) = source.at_hand(caller) {
            return ResponseFuture::at_hand(&self.layer, &mut self.inner, request, outcome);
        }
        let fetch = source.credential(caller);
        // `poll_ready` readied this very service, so it goes with the request; the clone stays.
        let unready = self.inner.clone();
        let inner = mem::replace(&mut self.inner, unready);
        ResponseFuture::fetch(self.layer.clone(), inner, request, fetch)
    }
}

#[cfg(test)]
mod tests;
