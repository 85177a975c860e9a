//! Gives legacy callers a sealed session id instead of the upstream's, and lets their calls outlive them.
//!
//! Contract:
//!
//! 1. Only legacy calls are its business. From a modern one `Mcp-Session-Id` and `Last-Event-ID` are removed; a request
//!    without a [`Call`] passes untouched.
//! 2. Where the answer to `initialize` carries an upstream's session id, the caller gets a sealed one
//!    ([`session::seal`](crate::session::seal)). It is bound to the caller's principal, this server and a time. An
//!    upstream without sessions stays without. `initialize` goes on without `MCP-Protocol-Version`, and an answer that
//!    agrees to a revision which is not opened so fails as [`Cause::BadResponse`] (C22).
//! 3. A later call's id is opened. What cannot be opened, has expired, was ended or is another principal's fails as
//!    [`Cause::SessionLost`] (404). Inwards go the upstream's id, the [`OpenSession`] in the [`Facts`], and a
//!    [`Pin`](crate::facts::Pin) where there are several endpoints. A batch in a session whose revision has none fails as
//!    [`Cause::BatchRefused`] (C50).
//! 4. A legacy call without an id passes without one: whether the server needs one is the server's to say (400).
//! 5. No answer, a modern one included, shows an upstream's id: the caller's own stands in its place, or nothing.
//! 6. What a rebuild must bring back is noted once the server has accepted it: log level, subscriptions. All of it is
//!    bounded; what is larger is not brought back, and a session whose `initialize` has parameters of more than 16 KiB is
//!    not rebuilt. DELETE ends the session for good, if the server does not refuse it; who records the
//!    exchange is told how long it had lasted.
//! 7. A legacy *request* whose caller leaves before its answer goes on in a task of its own, bounded in number and time
//!    ([`Detached`]), for a disconnect is no cancel (C55). It goes on to count against its caller's limits. A GET stream ends with its caller. The caller's
//!    `notifications/cancelled` goes upstream and, a second later, ends the detached call that it names.
//! 8. [`Sessions::end_all`] ends what is open here and gives the DELETEs that tell the upstreams. It is for a process that
//!    ends and whose key ends with it; a key that is configured may be another's, too, and its sessions go on.
//!
//! A legacy request costs one allocation here: a future that was polled can be handed to a task only if it is boxed.
//! Modern calls, notifications and GET streams cost none.
//!
//! It deliberately leaves out: what is done when the upstream has lost a session (`rejoin`), event ids towards the
//! caller (the upstream's pass), and the revision a call names (`inspect`).
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use outrigger::layer::session::{SessionLayer, SessionParams, Sessions};
//! use outrigger::session::{SessionKey, SessionKeys};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), outrigger::BoxError> {
//! let params = SessionParams::new("wiki".into(), SessionKeys::new(SessionKey::random()?));
//! let upstream = service_fn(async |_: http::Request<()>| {
//!     Ok::<_, outrigger::BoxError>(http::Response::new(Full::new(Bytes::from("{}"))))
//! });
//! let service = ServiceBuilder::new()
//!     .layer(SessionLayer::new(Sessions::new(params)))
//!     .service(upstream);
//! let response = service.oneshot(http::Request::new(())).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(()) }
//! ```

mod detach;
mod future;
mod sessions;
mod step;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use self::detach::Detached;
pub use self::detach::WeakDetached;
pub use self::future::ResponseFuture;
pub use self::sessions::{SessionParams, SessionStats, Sessions};

use self::detach::{Holder, Job};
use self::sessions::Opening;
use self::step::{Attend, Step};
use crate::call::{Call, Form};
use crate::error::{BoxError, Cause, Failure};
use crate::facts::{Caller, Facts, Share};
use crate::layer::PassedBody;
use crate::mcp::headers::{PROTOCOL_VERSION, SESSION_ID, remove_session};
use crate::mcp::method::Method;
use crate::mcp::revision::{Era, Revision};
use crate::session::OpenSession;

/// Adds [`Session`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionLayer {
    sessions: Sessions,
}

impl SessionLayer {
    /// A layer for the server whose sessions these are.
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = Session<S>;

    fn layer(&self, inner: S) -> Session<S> {
        Session {
            inner,
            sessions: self.sessions.clone(),
        }
    }
}

/// Seals and opens session ids. See the [module](self).
#[derive(Clone, Debug)]
pub struct Session<S> {
    inner: S,
    sessions: Sessions,
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for Session<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError> + Send + 'static,
    S::Future: Send + 'static,
    ReqBody: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<PassedBody<B>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        match Plan::of(&mut request, &self.sessions) {
            Plan::Pass => ResponseFuture::pass(self.inner.call(request)),
            Plan::Fail(failure) => ResponseFuture::fail(failure),
            Plan::Look(session) => ResponseFuture::look(self.inner.call(request), session),
            Plan::Keep(session, job) => {
                ResponseFuture::keep(self.inner.call(request), session, job)
            }
            Plan::Attend(step, session, job) => {
                let attend = Attend {
                    sessions: self.sessions.clone(),
                    facts: Facts::get(&request).cloned(),
                    session,
                };
                let future = self.inner.call(request);
                ResponseFuture::attend(attend.run(step, future), job)
            }
            Plan::Wait(mut unsettled) => {
                // `poll_ready` readied this very service, so it goes with the request; the clone stays.
                let unready = self.clone();
                let mut service = mem::replace(self, unready);
                ResponseFuture::attend(
                    async move {
                        let state = unsettled.state.as_mut().await;
                        service.sessions.settle(unsettled, state);
                        // The session is open now; the future it gets detaches itself.
                        service.call(request).await
                    },
                    None,
                )
            }
        }
    }
}

/// What is to be done with a request.
enum Plan {
    /// Not our business.
    Pass,
    Fail(Failure),
    /// Only the answer's session id is to be seen to.
    Look(Option<Arc<OpenSession>>),
    /// The same, and it outlives its caller.
    Keep(Option<Arc<OpenSession>>, Job),
    /// The answer has to be read, or decides something.
    Attend(Step, Option<Arc<OpenSession>>, Option<Job>),
    /// The session's state is on its way.
    Wait(sessions::Unsettled),
}

impl Plan {
    fn of<B>(request: &mut Request<B>, sessions: &Sessions) -> Self {
        let Some(call) = request.extensions().get::<Call>() else {
            return Self::Pass;
        };
        if call.era() == Era::Modern {
            remove_session(request.headers_mut());
            // A server that is legacy in truth may answer with an id, which the caller would hold against the next.
            return Self::Look(None);
        }
        let (wants_answer, id, step) = (call.wants_answer(), call.id_token(), Step::of(call));
        let is_batch = matches!(call.form(), Form::Batch(_));
        let cancelled = cancelled_id(call);
        let session = match &step {
            // It begins a session; one that it names is none of its business.
            Some(Step::Initialize { .. }) => {
                request.headers_mut().remove(SESSION_ID);
                // What is spoken is not negotiated yet, and a server that is of both eras would take this for modern.
                request.headers_mut().remove(PROTOCOL_VERSION);
                None
            }
            _ => match open(request, sessions) {
                Ok(Some(session)) if is_batch && !has_batches(&session) => {
                    return Self::Fail(Failure::unsent(Cause::BatchRefused));
                }
                Ok(session) => session,
                Err(plan) => return *plan,
            },
        };
        if let (Some(session), Some(id)) = (&session, cancelled) {
            sessions.detached().cancel(session.handle(), &id);
        }
        let job = wants_answer.then(|| Job {
            owner: sessions.detached().clone(),
            key: session.as_ref().map(|session| session.handle()).zip(id),
            holder: holder(request, session.as_deref()),
            held: request.extensions().get().and_then(Share::hold),
        });
        match (step, job) {
            (Some(step), job) => Self::Attend(step, session, job),
            (None, Some(job)) => Self::Keep(session, job),
            (None, None) => Self::Look(session),
        }
    }
}

/// Whether arrays are messages of what is spoken in the session (C50).
fn has_batches(session: &OpenSession) -> bool {
    session
        .revision()
        .is_none_or(|revision| revision <= Revision::V2025_03_26)
}

/// Who is to be charged for a call that outlives its caller.
fn holder<B>(request: &Request<B>, session: Option<&OpenSession>) -> Option<Holder> {
    let caller = Facts::get(request).and_then(Facts::caller);
    match caller.and_then(Caller::principal) {
        Some(principal) => Some(Holder::Principal(principal.clone())),
        None => session.map(|session| Holder::Session(session.handle())),
    }
}

/// Opens the session that a request names, and puts the upstream's into it.
fn open<B>(
    request: &mut Request<B>,
    sessions: &Sessions,
) -> Result<Option<Arc<OpenSession>>, Box<Plan>> {
    let Some(id) = request.headers().get(SESSION_ID) else {
        return Ok(None);
    };
    match sessions.open(id, Facts::get(request)) {
        Opening::Open(session) => {
            session.address(request);
            Facts::of(request).set_session(session.clone());
            Ok(Some(session))
        }
        Opening::Later(unsettled) => Err(Box::new(Plan::Wait(unsettled))),
        Opening::Lost => Err(Box::new(Plan::Fail(Failure::unsent(Cause::SessionLost)))),
    }
}

/// The id of the request that a `notifications/cancelled` names.
fn cancelled_id(call: &Call) -> Option<Bytes> {
    let Form::Message(message) = call.form() else {
        return None;
    };
    if message.known_method() != Some(Method::Cancelled) {
        return None;
    }
    let id = message.params.request_id?;
    Some(call.body().slice_ref(id.of(call.body())))
}
