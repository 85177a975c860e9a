//! Sends again what may be sent again, elsewhere if it can, within a budget.
//!
//! Contract:
//!
//! 1. Any message whose attempt failed [`Unsent`](crate::error::Phase) by the upstream's fault is sent again.
//! 2. What failed [`Sent`](crate::error::Phase), or was answered 502, 503 or 504, is sent again only if that cannot
//!    repeat an effect: [`Call::is_safe_to_repeat`], or a tool that [`ToolCalls`] allows.
//! 3. 429 was not executed: it is sent again whatever it is, not before `Retry-After`. (Zero, garbage and dates that
//!    have passed say nothing; then the backoff does.)
//! 4. Nothing is sent again once an answer has been returned: what breaks later breaks.
//! 5. [`Params::max_attempts`] counts all tries. Between two there is a [`Backoff`] with jitter, and no attempt starts
//!    later than `request` ([`Timeouts`]) after the first.
//! 6. One [`Budget`] for the server bounds repetition: when it is spent, the failure is returned as it is.
//! 7. A later attempt avoids the endpoints of the earlier ones (`Pin::avoid`).
//! 8. In 2026-07-28 a later attempt has an id of its own, spliced into the body; the [`Call`] says so. The caller's
//!    id is put back into the answer, JSON or events; every other byte is as it came.
//! 9. While it waits, nothing is held but the request. A call is never sent twice at the same time.
//! 10. Without a [`Call`] nothing is sent again.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::BoxError;
//! use outrigger::layer::retry::{Params, RetryLayer};
//! use tower::{ServiceBuilder, service_fn};
//!
//! let retry = RetryLayer::new(Params::default());
//! let stats = retry.stats();
//! let service = ServiceBuilder::new().layer(retry).service(service_fn(
//!     async |_: Request<Full<Bytes>>| Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())),
//! ));
//! assert_eq!(stats.retries_unsent(), 0);
//! # drop(service);
//! ```

mod backoff;
mod body;
mod budget;
mod future;
mod renumber;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tower_layer::Layer;
use tower_service::Service;

pub use self::backoff::Backoff;
use self::backoff::Dice;
pub use self::body::ResponseBody;
pub use self::budget::Budget;
use self::budget::Purse;
use self::future::Kept;
pub use self::future::ResponseFuture;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{BoxError, Cause, Failure, Fault, Phase};
use crate::facts::Facts;
use crate::layer::timeouts::Timeouts;
use crate::layer::{glob, retry_after};
use crate::mcp::method::Method;

/// What a server says of its tools.
pub trait ToolHints: Send + Sync {
    /// Whether the tool may be called twice: it only reads, or a second call changes nothing more. A tool that is
    /// not known may not.
    fn is_repeatable(&self, tool: &str) -> bool;
}

/// Which tool calls are sent again although they may have been executed.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum ToolCalls {
    /// None.
    #[default]
    Never,
    /// Those of tools that the server calls read-only or idempotent. This trusts the server.
    Annotated(Arc<dyn ToolHints>),
    /// Those of tools whose names are of one of these globs (`*`, `?`).
    Named(Arc<[Box<str>]>),
}

impl ToolCalls {
    fn allow(&self, tool: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Annotated(hints) => hints.is_repeatable(tool),
            Self::Named(globs) => globs.iter().any(|pattern| glob::matches(pattern, tool)),
        }
    }
}

impl fmt::Debug for ToolCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("Never"),
            Self::Annotated(_) => f.write_str("Annotated"),
            Self::Named(globs) => f.debug_tuple("Named").field(globs).finish(),
        }
    }
}

/// What is sent again, how often and when.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Params {
    /// How often a call is sent in all; 1 is never again. Default: 3.
    pub max_attempts: u32,
    /// The waits in between.
    pub backoff: Backoff,
    /// How much of the traffic may be repetition.
    pub budget: Budget,
    /// Which tool calls are sent again. Default: none.
    pub tool_calls: ToolCalls,
    /// `request` of these bounds when the last attempt may start.
    pub timeouts: Timeouts,
    /// By which dates in `Retry-After` are read.
    pub clock: Clock,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::default(),
            budget: Budget::default(),
            tool_calls: ToolCalls::Never,
            timeouts: Timeouts::default(),
            clock: Clock::system(),
        }
    }
}

/// How often calls of one server were sent again.
#[derive(Clone, Debug, Default)]
pub struct RetryStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    unsent: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
    rate_limited: AtomicU64,
    exhausted: AtomicU64,
}

impl RetryStats {
    /// Because nothing of the attempt before had been sent.
    #[must_use]
    pub fn retries_unsent(&self) -> u64 {
        self.0.unsent.load(Ordering::Relaxed)
    }

    /// Because the attempt before broke after it was sent.
    #[must_use]
    pub fn retries_sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Because of an answer of 502, 503 or 504.
    #[must_use]
    pub fn retries_answered(&self) -> u64 {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// Because of an answer of 429.
    #[must_use]
    pub fn retries_rate_limited(&self) -> u64 {
        self.0.rate_limited.load(Ordering::Relaxed)
    }

    /// How often the budget was spent where a call would have been sent again.
    #[must_use]
    pub fn budget_exhausted(&self) -> u64 {
        self.0.exhausted.load(Ordering::Relaxed)
    }

    fn count(&self, reason: Reason) {
        let counter = match reason {
            Reason::Unsent => &self.0.unsent,
            Reason::Sent => &self.0.sent,
            Reason::Answered => &self.0.answered,
            Reason::RateLimited => &self.0.rate_limited,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends again what may be sent again. One layer is one server: its services share budget and counters.
#[derive(Clone, Debug)]
#[must_use]
pub struct RetryLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    params: Params,
    purse: Purse,
    stats: RetryStats,
    dice: Dice,
}

impl RetryLayer {
    /// Retries by these parameters.
    pub fn new(params: Params) -> Self {
        Self(Arc::new(Shared {
            purse: Purse::new(params.budget),
            params,
            stats: RetryStats::default(),
            dice: Dice::new(),
        }))
    }

    /// The counters, which live on.
    #[must_use]
    pub fn stats(&self) -> RetryStats {
        self.0.stats.clone()
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry {
            inner,
            shared: self.0.clone(),
        }
    }
}

/// The service of [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, ResBody> Service<Request<Full<Bytes>>> for Retry<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<ResBody>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Full<Bytes>>) -> Self::Future {
        let call = request.extensions().get::<Call>().cloned();
        let Some(call) = call.filter(|_| self.shared.params.max_attempts > 1) else {
            if let Some(facts) = Facts::get(&request) {
                facts.count_attempt();
            }
            return ResponseFuture::new(self.inner.call(request), None);
        };
        self.shared.purse.pay();
        let facts = Facts::of(&mut request);
        facts.count_attempt();
        // `poll_ready` readied this very service, so it takes the request; the clone stays.
        let unready = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, unready);
        let kept = Kept::of(&request, call, facts, self.shared.clone());
        let attempt = inner.call(request);
        ResponseFuture::new(attempt, Some(Box::new((kept, inner))))
    }
}

/// Why a call is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Unsent,
    Sent,
    Answered,
    RateLimited,
}

/// Why and not before when a call with this outcome may be sent again, if it may: rules 1 to 3.
fn verdict<B>(
    call: &Call,
    params: &Params,
    outcome: &Result<Response<B>, BoxError>,
) -> Option<(Reason, Option<Duration>)> {
    let is_safe = || call.is_safe_to_repeat() || is_allowed_tool(call, &params.tool_calls);
    match outcome {
        Ok(response) => {
            let after = |headers: &HeaderMap| retry_after::read(headers, &params.clock);
            match response.status() {
                StatusCode::TOO_MANY_REQUESTS => {
                    Some((Reason::RateLimited, after(response.headers())))
                }
                status if matches!(status.as_u16(), 502..=504) && is_safe() => {
                    Some((Reason::Answered, after(response.headers())))
                }
                _ => None,
            }
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let after = failure.retry_after();
            if failure.cause().fault() != Fault::Upstream {
                return None;
            }
            match failure.phase() {
                Phase::Unsent => Some((Reason::Unsent, after)),
                Phase::Sent => is_safe().then_some((Reason::Sent, after)),
                Phase::Answered => (failure.cause() == Cause::UpstreamRateLimited)
                    .then_some((Reason::RateLimited, after)),
            }
        }
    }
}

fn is_allowed_tool(call: &Call, tools: &ToolCalls) -> bool {
    call.method() == Some(Method::ToolsCall)
        && call.subject().is_some_and(|tool| tools.allow(&tool))
}

#[cfg(test)]
mod tests;
