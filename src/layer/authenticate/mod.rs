//! Finds out who calls, and takes what proved it out of the headers.
//!
//! Contract:
//!
//! 1. Each request is asked, whatever session or handle it names (statement C92).
//! 2. Who may not call gets 401 with `WWW-Authenticate`; the inner service is not asked. `error="invalid_token"` says
//!    that something was shown and was wrong.
//! 3. The [`Caller`] goes into the `Facts`: the principal, and the bearer token unless it was the proof. Only
//!    `passthrough` may send that token on (statement C83).
//! 4. `Authorization` and the headers of all keys are taken off every request that goes on.
//! 5. Keys are compared in constant time, all of them each time, and read from their cell each time, so that a rotated
//!    key counts at once. A header that stands twice shows nothing.
//!
//! It answers for itself, outside `rescue`. It needs no `Call` and is the same without one.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::Secret;
//! use outrigger::auth::SecretCell;
//! use outrigger::layer::authenticate::{ApiKeys, AuthenticateLayer};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let keys = ApiKeys::new().with("agents", SecretCell::new(Secret::new("k3y")));
//! let mut stack = AuthenticateLayer::new(keys).layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, outrigger::BoxError>(Response::new(Full::<Bytes>::default()))
//! }));
//! let nobody = Request::new(());
//! assert_eq!(stack.ready().await?.call(nobody).await?.status(), 401);
//! let agent = Request::builder().header("x-api-key", "k3y").body(())?;
//! assert_eq!(stack.ready().await?.call(agent).await?.status(), 200);
//! # Ok(())
//! # }
//! ```

mod keys;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{Addressee, Cause, Failure, answer};
use crate::facts::{Caller, Facts};
use crate::layer::Answered;

pub use keys::{Anyone, ApiKeys};

/// Says who calls by what the headers show.
pub trait Authenticator {
    /// The caller, or what is asked of it. Takes out of `headers` what was shown, right or wrong.
    ///
    /// # Errors
    ///
    /// Fails if the caller may not call.
    fn authenticate(&self, headers: &mut HeaderMap) -> Result<Caller, Challenge>;

    /// In which headers it looks for a credential: a refusal names them. `Authorization` stands for a bearer token.
    fn headers(&self) -> Vec<HeaderName> {
        vec![AUTHORIZATION]
    }
}

/// What is asked of a caller that may not call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Challenge {
    /// It showed nothing.
    Missing,
    /// What it showed is wrong.
    Invalid,
}

impl Challenge {
    /// A 401 always has one (RFC 9110, section 15.5.2); that of `Bearer` only where a bearer token is taken.
    fn header(self, headers: &[HeaderName]) -> HeaderValue {
        HeaderValue::from_static(match self {
            _ if !headers.contains(&AUTHORIZATION) => "ApiKey realm=\"outrigger\"",
            Self::Missing => "Bearer realm=\"outrigger\"",
            Self::Invalid => "Bearer realm=\"outrigger\", error=\"invalid_token\"",
        })
    }
}

/// Asks each request who it is from.
#[derive(Debug)]
#[must_use]
pub struct AuthenticateLayer<A> {
    authenticator: Arc<A>,
}

impl<A> AuthenticateLayer<A> {
    /// A layer that asks `authenticator`.
    pub fn new(authenticator: A) -> Self {
        Self {
            authenticator: Arc::new(authenticator),
        }
    }
}

impl<A> Clone for AuthenticateLayer<A> {
    fn clone(&self) -> Self {
        Self {
            authenticator: Arc::clone(&self.authenticator),
        }
    }
}

impl<S, A> Layer<S> for AuthenticateLayer<A> {
    type Service = Authenticate<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate {
            inner,
            authenticator: Arc::clone(&self.authenticator),
        }
    }
}

/// The service of [`AuthenticateLayer`].
#[derive(Debug)]
pub struct Authenticate<S, A> {
    inner: S,
    authenticator: Arc<A>,
}

impl<S: Clone, A> Clone for Authenticate<S, A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            authenticator: Arc::clone(&self.authenticator),
        }
    }
}

impl<S, A, ReqBody, ResBody> Service<Request<ReqBody>> for Authenticate<S, A>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    A: Authenticator,
    ResBody: From<Bytes>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = Answered<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match self.authenticator.authenticate(request.headers_mut()) {
            Ok(caller) => {
                Facts::of(&mut request).set_caller(caller);
                Answered::inner(self.inner.call(request))
            }
            Err(challenge) => {
                Facts::of(&mut request).set_cause(Cause::Unauthenticated);
                let headers = self.authenticator.headers();
                let names: Vec<_> = headers.iter().map(shown).collect();
                let failure = Failure::unsent(Cause::Unauthenticated)
                    .with_data(serde_json::json!({ "headers": names }));
                let mut refusal = answer(&failure, &Addressee::of(&request));
                refusal
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, challenge.header(&headers));
                Answered::answer(refusal)
            }
        }
    }
}

/// A header as a person writes it.
fn shown(name: &HeaderName) -> &str {
    if *name == AUTHORIZATION {
        "Authorization: Bearer"
    } else {
        name.as_str()
    }
}

#[cfg(test)]
mod tests;
