//! What is known of one exchange: written once by the layers it passes, read by those that count and log.
//!
//! Contract:
//!
//! 1. There is one [`Facts`] per inbound request, an `Arc` in its extensions. `metrics` creates it; a layer used alone
//!    creates it itself ([`Facts::of`]).
//! 2. Each fact is written once; a later write is ignored. Endpoint, attempts and revision of the last attempt are the
//!    exception: the last one counts.
//! 3. It outlives the request, so that a failed or dropped call has its labels too.
//! 4. A call has one timer: an outer layer says by when it wants to be polled, and an inner one that sets a timer anyway
//!    sets it no later and says so. As long as nobody has said so, the outer layer sets its own.
//! 5. [`Caller`] says who calls: a *principal* (who, stable) and an *authorization context* (which upstream credential
//!    serves it). The two are never mixed. It is kept by whatever must call again later.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use crate::error::Cause;
use crate::exchange::Exchange;
use crate::mcp::method::Method;
use crate::mcp::revision::Era;
use crate::secret::Secret;
use crate::session::OpenSession;
use crate::short::Short;

/// Names one inbound request in logs and in `error.data.requestId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    principal: Option<Arc<str>>,
    token: Option<Secret>,
}

impl Caller {
    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A caller that proved to be `principal`.
    #[must_use]
    pub fn named(principal: Arc<str>) -> Self {
        Self {
            principal: Some(principal),
            token: None,
        }
    }

    /// Keeps the credential that came in, which only `passthrough` may send on.
    #[must_use]
    pub fn with_token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// Who it is, or nothing if nobody asked. Sessions are bound to it.
    #[must_use]
    pub fn principal(&self) -> Option<&Arc<str>> {
        self.principal.as_ref()
    }

    /// The credential that came in.
    #[must_use]
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }
}

/// What is known of one exchange.
#[derive(Clone)]
pub struct Facts(Arc<Cell>);

struct Cell {
    started: Instant,
    request_id: RequestId,
    server: Option<Arc<str>>,
    exchange: Option<Arc<dyn Exchange>>,
    caller: OnceLock<Caller>,
    session: OnceLock<Arc<OpenSession>>,
    method: OnceLock<Option<Method>>,
    subject: OnceLock<Short>,
    era: AtomicU8,
    cause: OnceLock<Cause>,
    endpoint: AtomicU32,
    attempts: AtomicU32,
    sent: AtomicU32,
    /// In microseconds after `started`; 0 if nobody wants to.
    wants_poll: AtomicU64,
    is_poll_seen_to: AtomicBool,
}

/// Set in `Cell::endpoint` as long as there is none.
const NO_ENDPOINT: u32 = u32::MAX;
/// The longest name of a tool that is kept.
const MAX_TOOL: usize = 128;
/// What `Cell::era` holds: not yet read, or one of the two.
const NO_ERA: u8 = 0;
const LEGACY: u8 = 1;
const MODERN: u8 = 2;

impl Facts {
    /// Facts of an exchange that begins now, with `server` if it is known.
    #[must_use]
    pub fn new(server: Option<Arc<str>>) -> Self {
        Self::recorded(server, None)
    }

    /// The same, of an exchange that somebody records.
    #[must_use]
    pub fn recorded(server: Option<Arc<str>>, exchange: Option<Arc<dyn Exchange>>) -> Self {
        let cell = Cell {
            started: Instant::now(),
            request_id: next_request_id(),
            server,
            exchange,
            caller: OnceLock::new(),
            session: OnceLock::new(),
            method: OnceLock::new(),
            subject: OnceLock::new(),
            era: AtomicU8::new(NO_ERA),
            cause: OnceLock::new(),
            endpoint: AtomicU32::new(NO_ENDPOINT),
            attempts: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            wants_poll: AtomicU64::new(0),
            is_poll_seen_to: AtomicBool::new(false),
        };
        Self(Arc::new(cell))
    }

    /// The facts of a request, if somebody began them.
    #[must_use]
    pub fn get<B>(request: &Request<B>) -> Option<&Self> {
        request.extensions().get()
    }

    /// The facts of a request; begun here if nobody has.
    pub fn of<B>(request: &mut Request<B>) -> Self {
        if let Some(facts) = Self::get(request) {
            return facts.clone();
        }
        let facts = Self::new(None);
        request.extensions_mut().insert(facts.clone());
        facts
    }

    /// When the exchange began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// Its name in logs.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.0.request_id
    }

    /// The configured name of the server it goes to.
    #[must_use]
    pub fn server(&self) -> Option<&Arc<str>> {
        self.0.server.as_ref()
    }

    /// Who records it, if anybody does.
    #[must_use]
    pub fn exchange(&self) -> Option<&Arc<dyn Exchange>> {
        self.0.exchange.as_ref()
    }

    /// Who calls, once `authenticate` has said so.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.0.caller.get()
    }

    /// Says who calls.
    pub fn set_caller(&self, caller: Caller) {
        let _ = self.0.caller.set(caller);
    }

    /// The legacy session that it belongs to, once `session` has opened it.
    #[must_use]
    pub fn session(&self) -> Option<&Arc<OpenSession>> {
        self.0.session.get()
    }

    /// Says to which legacy session it belongs.
    pub fn set_session(&self, session: Arc<OpenSession>) {
        let _ = self.0.session.set(session);
    }

    /// The method: known, of no specification (`Some(None)`), or not yet read (`None`).
    #[must_use]
    pub fn method(&self) -> Option<Option<Method>> {
        self.0.method.get().copied()
    }

    /// Says which method it is.
    pub fn set_method(&self, method: Option<Method>) {
        let _ = self.0.method.set(method);
    }

    /// The tool that is called. It came from a peer: a label only where it is known to exist.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        std::str::from_utf8(self.0.subject.get()?.as_bytes()).ok()
    }

    /// Says which tool is called. A name of more than 128 bytes is none that a specification allows, and is not kept.
    pub fn set_tool(&self, tool: &str) {
        if tool.len() > MAX_TOOL {
            return;
        }
        let _ = self.0.subject.set(Short::of(tool.as_bytes()));
    }

    /// The caller's era.
    #[must_use]
    pub fn era(&self) -> Option<Era> {
        match self.0.era.load(Ordering::Relaxed) {
            LEGACY => Some(Era::Legacy),
            MODERN => Some(Era::Modern),
            _ => None,
        }
    }

    /// Says which era the caller speaks.
    pub fn set_era(&self, era: Era) {
        let era = match era {
            Era::Legacy => LEGACY,
            Era::Modern => MODERN,
        };
        let written = &self.0.era;
        let _ = written.compare_exchange(NO_ERA, era, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Why it failed, if it did so by our word.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.0.cause.get().copied()
    }

    /// Says why it failed.
    pub fn set_cause(&self, cause: Cause) {
        let _ = self.0.cause.set(cause);
    }

    /// The index of the endpoint that the last attempt went to.
    #[must_use]
    pub fn endpoint(&self) -> Option<u32> {
        let endpoint = self.0.endpoint.load(Ordering::Relaxed);
        (endpoint != NO_ENDPOINT).then_some(endpoint)
    }

    /// Says to which endpoint an attempt goes.
    pub fn set_endpoint(&self, endpoint: u32) {
        self.0.endpoint.store(endpoint, Ordering::Relaxed);
    }

    /// How many attempts were made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Counts an attempt.
    pub fn count_attempt(&self) {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times a request of it was given to a connection, and so may have reached an upstream.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Counts a request that is given to a connection.
    pub fn count_sent(&self) {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that an outer layer wants to be polled at `at`, whether or not something has come.
    pub(crate) fn want_poll(&self, at: Instant) {
        let after = at.saturating_duration_since(self.0.started).as_micros();
        // Rounded up: who is polled early would have to set a timer after all.
        let after = u64::try_from(after).unwrap_or(u64::MAX).saturating_add(1);
        self.0.wants_poll.store(after, Ordering::Relaxed);
    }

    /// When an outer layer wants to be polled, if it does.
    pub(crate) fn wants_poll(&self) -> Option<Instant> {
        match self.0.wants_poll.load(Ordering::Relaxed) {
            0 => None,
            after => self.0.started.checked_add(Duration::from_micros(after)),
        }
    }

    /// Says whether a timer that stands now is no later than that.
    pub(crate) fn see_to_poll(&self, is_seen_to: bool) {
        self.0.is_poll_seen_to.store(is_seen_to, Ordering::Relaxed);
    }

    /// Whether some inner layer's timer is no later than that.
    pub(crate) fn is_poll_seen_to(&self) -> bool {
        self.0.is_poll_seen_to.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts")
            .field("request_id", &self.0.request_id)
            .field("server", &self.server())
            .field("method", &self.method())
            .field("cause", &self.cause())
            .finish_non_exhaustive()
    }
}

/// Where a call has to go, because of a session or an earlier attempt. `balance` obeys it before its policy.
///
/// Put into the extensions of a request only where it says something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pin {
    /// The endpoint that holds the session.
    pub endpoint: Option<u32>,
    /// Endpoints that have failed this call already, to be avoided if there are others.
    pub avoid: Vec<u32>,
}

/// What a call was admitted by. Who lets a call outlive its caller holds it, so that the call counts on.
///
/// Put into the extensions of a request only where calls are counted. It holds nothing itself: a request that somebody
/// keeps does not count.
#[derive(Clone)]
pub struct Share(Weak<dyn Any + Send + Sync>);

/// A [`Share`] that is held: the call counts until this is dropped.
pub type HeldShare = Arc<dyn Any + Send + Sync>;

impl Share {
    /// The share that `permit` is.
    pub fn of<T: Any + Send + Sync>(permit: &Arc<T>) -> Self {
        let permit: HeldShare = permit.clone();
        Self(Arc::downgrade(&permit))
    }

    /// Holds it, if it was not given back.
    #[must_use]
    pub fn hold(&self) -> Option<HeldShare> {
        self.0.upgrade()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").finish_non_exhaustive()
    }
}

/// The next id: a counter that begins at a random place, so that two processes rarely share one.
fn next_request_id() -> RequestId {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| {
        use std::hash::{BuildHasher, RandomState};
        AtomicU64::new(RandomState::new().hash_one(0_u8))
    });
    RequestId(next.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_1_one_per_request() {
        let mut request = Request::new(());
        let facts = Facts::of(&mut request);
        assert_eq!(facts.request_id(), Facts::of(&mut request).request_id());
        assert_ne!(facts.request_id(), Facts::new(None).request_id());
    }

    #[test]
    fn rule_2_a_fact_is_written_once() {
        let facts = Facts::new(Some("wiki".into()));
        facts.set_cause(Cause::Dns);
        facts.set_cause(Cause::Internal);
        assert_eq!(facts.cause(), Some(Cause::Dns));
        assert_eq!(facts.endpoint(), None);
        facts.set_endpoint(0);
        facts.set_endpoint(1);
        assert_eq!(facts.endpoint(), Some(1));
    }

    #[test]
    fn rule_4_a_poll_is_not_wanted_early() {
        let facts = Facts::new(None);
        assert_eq!(facts.wants_poll(), None);
        let at = facts.started() + Duration::from_nanos(1_500_000_100);
        facts.want_poll(at);
        let wanted = facts.wants_poll().unwrap();
        assert!(wanted >= at && wanted < at + Duration::from_micros(2));
    }

    #[test]
    fn a_tool_has_a_name_of_128_bytes_at_most() {
        let facts = Facts::new(None);
        facts.set_tool(&"x".repeat(129));
        assert_eq!(facts.tool(), None);
        facts.set_tool(&"x".repeat(128));
        assert_eq!(facts.tool().map(str::len), Some(128));
    }

    #[test]
    fn rule_5_a_token_is_not_shown() {
        let caller = Caller::named("ann".into()).with_token(Secret::new("hunter2"));
        assert!(!format!("{caller:?}").contains("hunter2"));
    }
}
