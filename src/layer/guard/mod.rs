//! Turns away what has no business here, before anything of it is read: by address, rate, `Host`, `Origin` and size.
//!
//! Contract, in this order, for every method and path:
//!
//! 1. *Address*: with `allow_from`, a peer outside these networks is refused (403), and so is one whose address is not
//!    known. The address is the connection's own, never one that a header claims.
//! 2. *Rate*: with `rate`, a peer that sends more is refused (429, `Retry-After`). IPv6 peers count by /64. Requests whose
//!    address is not known count as one peer.
//! 3. *Host*: on a listener that only this machine reaches, `Host` and a request target's authority must mean loopback
//!    or be allowed (403): a page must not reach it through a name of its own. On other listeners it is checked only
//!    when `allowed_hosts` is set.
//! 4. *Origin*: absent is fine, since only browsers send it. Present, each must be allowed, or loopback's on a listener
//!    that only this machine reaches (403). `null` is nobody's (statement C81).
//! 5. *Size*: a `Content-Length` over `max_body` is refused (413). What has none is `inspect`'s to bound.
//!
//! It answers for itself, outside `rescue`, and notes the cause in the `Facts`. It needs no `Call` and is the same
//! without one; it reads no body.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::layer::guard::{GuardLayer, Params};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let mut stack = GuardLayer::new(Params::default()).layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, outrigger::BoxError>(Response::new(Full::<Bytes>::default()))
//! }));
//! let request = Request::post("/mcp")
//!     .header("host", "127.0.0.1:8000")
//!     .header("origin", "https://evil.example.com")
//!     .body(())?;
//! assert_eq!(stack.ready().await?.call(request).await?.status(), 403);
//! # Ok(())
//! # }
//! ```

mod names;
mod network;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{Addressee, Cause, Failure, answer};
use crate::facts::Facts;
use crate::layer::Answered;
use crate::layer::rate::{Rate, Rates};

pub use names::Names;
pub use network::{Network, NotANetwork};

/// The address at the other end of the connection. The listener puts it into a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "it is this one address, and listeners build it"
)]
pub struct PeerAddr(pub SocketAddr);

/// Who can reach a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// This machine (or pod) only.
    #[default]
    Loopback,
    /// Others, too.
    Others,
}

/// What `guard` lets in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Params {
    /// Who can reach the listener. Default: this machine only.
    pub reach: Reach,
    /// Origins that are allowed besides loopback's on a loopback listener. Default: none.
    pub allowed_origins: Names,
    /// Hosts that are allowed besides loopback's on a loopback listener. Default: none there, any on another.
    pub allowed_hosts: Names,
    /// Networks that peers must be in. Default: empty, which is any.
    pub allow_from: Vec<Network>,
    /// How much one address may send. Default: any.
    pub rate: Option<Rate>,
    /// The most bytes that a message may say it has. Default 10 MiB.
    pub max_body: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            reach: Reach::default(),
            allowed_origins: Names::default(),
            allowed_hosts: Names::default(),
            allow_from: Vec::new(),
            rate: None,
            max_body: 10 * 1024 * 1024,
        }
    }
}

/// Turns away what has no business here.
#[derive(Clone, Debug)]
#[must_use]
pub struct GuardLayer {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    params: Params,
    rates: Option<Rates<IpAddr>>,
}

impl GuardLayer {
    /// A layer that lets in what `params` say. Clones share what was counted.
    pub fn new(params: Params) -> Self {
        let rates = params.rate.map(Rates::new);
        Self {
            rules: Arc::new(Rules { params, rates }),
        }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard {
            inner,
            rules: Arc::clone(&self.rules),
        }
    }
}

/// The service of [`GuardLayer`].
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Guard<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: From<Bytes>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = Answered<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match self.rules.check(&request) {
            Ok(()) => Answered::inner(self.inner.call(request)),
            Err(failure) => {
                Facts::of(&mut request).set_cause(failure.cause());
                Answered::answer(answer(&failure, &Addressee::of(&request)))
            }
        }
    }
}

impl Rules {
    fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        self.check_peer(request)?;
        let found = self.look_at(request);
        let refused = if !found.is_host_allowed {
            Cause::HostRefused
        } else if !found.is_origin_allowed {
            Cause::OriginRefused
        } else if found.is_too_large {
            Cause::BodyTooLarge
        } else {
            return Ok(());
        };
        Err(Failure::unsent(refused))
    }

    fn check_peer<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        if self.params.allow_from.is_empty() && self.rates.is_none() {
            return Ok(());
        }
        let peer: Option<&PeerAddr> = request.extensions().get();
        let peer = peer.map(|PeerAddr(address)| address.ip());
        let is_in = |network: &Network| peer.is_some_and(|peer| network.contains(peer));
        if !self.params.allow_from.is_empty() && !self.params.allow_from.iter().any(is_in) {
            return Err(Failure::unsent(Cause::AddressRefused));
        }
        if let Some(rates) = &self.rates {
            let peer = peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            rates
                .take(network::peer_of(peer))
                .map_err(|wait| Failure::unsent(Cause::RateLimited).with_retry_after(wait))?;
        }
        Ok(())
    }

    /// What the headers say, by one look at each: to look up three costs more.
    fn look_at<B>(&self, request: &Request<B>) -> Found {
        let target = request.uri().authority();
        let is_any_host = self.is_any_host();
        let mut is_named = target.is_some();
        let mut found = Found {
            is_host_allowed: target.is_none_or(|target| self.is_ours(target.as_str())),
            is_origin_allowed: true,
            is_too_large: false,
        };
        for (name, value) in request.headers() {
            if *name == header::HOST && !is_any_host {
                is_named = true;
                found.is_host_allowed &= value.to_str().is_ok_and(|host| self.is_ours(host));
            } else if *name == header::ORIGIN {
                let origin = value.to_str();
                found.is_origin_allowed &= origin.is_ok_and(|origin| self.is_known(origin));
            } else if *name == header::CONTENT_LENGTH {
                found.is_too_large |= self.is_too_large(value);
            }
        }
        found.is_host_allowed = is_any_host || (is_named && found.is_host_allowed);
        found
    }

    fn is_local(&self) -> bool {
        self.params.reach == Reach::Loopback
    }

    fn is_any_host(&self) -> bool {
        let hosts = &self.params.allowed_hosts;
        *hosts == Names::Any || (!self.is_local() && *hosts == Names::Usual)
    }

    /// Whether an authority means this listener.
    fn is_ours(&self, authority: &str) -> bool {
        (self.is_local() && names::is_loopback_authority(authority))
            || self.params.allowed_hosts.have_host(authority)
    }

    /// Whether pages of this origin may call.
    fn is_known(&self, origin: &str) -> bool {
        self.params.allowed_origins.have_origin(origin)
            || (self.is_local() && names::is_loopback_origin(origin))
    }

    /// A length that is no number is the HTTP library's to refuse.
    fn is_too_large(&self, length: &HeaderValue) -> bool {
        let length = length.to_str().ok();
        let length = length.and_then(|length| length.trim().parse::<u64>().ok());
        length.is_some_and(|length| length > self.params.max_body)
    }
}

/// What the headers of a request say of it.
struct Found {
    is_host_allowed: bool,
    is_origin_allowed: bool,
    is_too_large: bool,
}

#[cfg(test)]
mod tests;
