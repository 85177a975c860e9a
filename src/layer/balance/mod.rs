//! Chooses the endpoint of a call among those of one server.
//!
//! Contract:
//!
//! 1. It chooses in `call`, when it sees the request; it is always ready, and waits for the chosen endpoint only.
//! 2. [`Pin::endpoint`](crate::facts::Pin) is obeyed whatever state that endpoint is in: a session lives there.
//! 3. Else the [`Policy`] chooses among the endpoints that are not put aside, first those that `Pin::avoid` does not
//!    name. A call without a pin is free.
//! 4. An endpoint to which no connection could be made is put aside for 1 s, doubling to 30 s with each further
//!    failure. When that has passed, one call goes there; if that fails, or says nothing, it stays aside for another
//!    such span. Any answer ends it, and so does an error after the call was sent.
//! 5. When no endpoint is left, the call fails at once with
//!    [`Cause::NoEndpoint`](crate::error::Cause), unsent. A single endpoint is never put aside: it is always tried.
//! 6. A call counts as load from here to the end of its body. GET and `subscriptions/listen` are no load.
//! 7. The choice is noted in [`Facts`].
//! 8. Without a [`Call`] a request is balanced all the same, and counts as load.
//!
//! It deliberately leaves out what an answer says: endpoints that answer with errors are not put aside.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::BoxError;
//! use outrigger::layer::balance::{Balance, Policy};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let endpoint = |name: &'static str| {
//!     service_fn(move |_: Request<()>| async move {
//!         Ok::<_, BoxError>(Response::new(Full::new(Bytes::from(name))))
//!     })
//! };
//! let balance = Balance::new([endpoint("a"), endpoint("a")], Policy::RoundRobin);
//! let states = balance.states();
//! let response = balance.oneshot(Request::new(())).await?;
//! assert_eq!(states.snapshot().iter().map(|state| state.in_flight).sum::<u64>(), 1);
//! drop(response);
//! assert_eq!(states.snapshot().iter().map(|state| state.in_flight).sum::<u64>(), 0);
//! # Ok(())
//! # }
//! ```

mod endpoint;
mod future;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower_service::Service;

use self::endpoint::{Endpoint, Endpoints, Load};
pub use self::future::{ResponseBody, ResponseFuture};
use crate::call::Call;
use crate::error::{BoxError, Cause, Failure};
use crate::facts::{Facts, Pin};

/// Which endpoint a call goes to that is free to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The first in order that is not put aside.
    Failover,
    /// The one with the fewest calls in flight.
    LeastLoaded,
}

/// The state of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
    /// How many calls are in flight, to the end of their bodies.
    pub in_flight: u64,
    /// How many connections in a row could not be made.
    pub failures: u32,
    /// For how long it is still put aside.
    pub aside: Option<Duration>,
    /// What failed there last, whether it has worked since or not.
    pub last_failure: Option<LastFailure>,
}

/// What failed last at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastFailure {
    /// Why.
    pub cause: Cause,
    /// How long ago.
    pub ago: Duration,
}

/// A view of the endpoints' states, for status and metrics.
#[derive(Clone, Debug)]
pub struct EndpointStates(Endpoints);

impl EndpointStates {
    /// How they are now, in their order.
    #[must_use]
    pub fn snapshot(&self) -> Vec<EndpointState> {
        self.0.iter().map(Endpoint::state).collect()
    }
}

/// Chooses the endpoint of a call. Clones share everything.
pub struct Balance<S> {
    services: Arc<[S]>,
    endpoints: Endpoints,
    policy: Policy,
    turn: Arc<AtomicUsize>,
}

impl<S> Balance<S> {
    /// Balances over these endpoints, whose places are their names in [`Pin`] and [`Facts`].
    pub fn new(services: impl IntoIterator<Item = S>, policy: Policy) -> Self {
        let services: Arc<[S]> = services.into_iter().collect();
        Self {
            endpoints: services.iter().map(|_| Endpoint::new()).collect(),
            services,
            policy,
            turn: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// The endpoints' states.
    #[must_use]
    pub fn states(&self) -> EndpointStates {
        EndpointStates(self.endpoints.clone())
    }

    /// Where a request goes: rules 2, 3 and 5.
    fn choose(&self, pin: Option<&Pin>) -> Option<usize> {
        let count = self.endpoints.len();
        if let Some(pinned) = pin.and_then(|pin| pin.endpoint) {
            return usize::try_from(pinned).ok().filter(|at| *at < count);
        }
        if count <= 1 {
            return count.checked_sub(1);
        }
        let avoid = pin.map_or(&[][..], |pin| &pin.avoid);
        let is_avoided = |at: usize| avoid.iter().any(|other| usize::try_from(*other) == Ok(at));
        self.choose_among(|at| !is_avoided(at))
            .or_else(|| self.choose_among(is_avoided))
    }

    fn choose_among(&self, is_candidate: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.endpoints.len();
        let first = match self.policy {
            Policy::Failover => 0,
            _ => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        let order = || {
            (first..count)
                .chain(0..first)
                .filter(|at| is_candidate(*at))
        };
        let endpoint = |at: &usize| self.endpoints.get(*at);
        let is_open = |at: &usize| endpoint(at).is_some_and(Endpoint::open);
        if self.policy == Policy::LeastLoaded {
            let least = order()
                .filter(|at| endpoint(at).is_some_and(Endpoint::may_open))
                .min_by_key(|at| endpoint(at).map(Endpoint::in_flight));
            // Only the one that is taken may be asked for its permission: asking uses it up.
            if let Some(least) = least.filter(is_open) {
                return Some(least);
            }
        }
        order().find(is_open)
    }
}

impl<S> Clone for Balance<S> {
    fn clone(&self) -> Self {
        Self {
            services: self.services.clone(),
            endpoints: self.endpoints.clone(),
            policy: self.policy,
            turn: self.turn.clone(),
        }
    }
}

impl<S> fmt::Debug for Balance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("endpoints", &self.endpoints)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Balance<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, S::Future, ReqBody>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let chosen = self.choose(request.extensions().get::<Pin>());
        let Some((at, service)) = chosen.and_then(|at| Some((at, self.services.get(at)?))) else {
            return ResponseFuture::fail(Failure::unsent(Cause::NoEndpoint));
        };
        if let (Some(facts), Ok(at)) = (Facts::get(&request), u32::try_from(at)) {
            facts.set_endpoint(at);
        }
        let is_load = !request
            .extensions()
            .get::<Call>()
            .is_some_and(Call::is_stream);
        let load = Load::of(self.endpoints.clone(), at, is_load);
        ResponseFuture::new(service.clone(), request, load)
    }
}

#[cfg(test)]
mod tests;
