//! A session that was opened, and what changes of it.
//!
//! Contract:
//!
//! 1. [`OpenSession`] is what a request carries inwards. [`OpenSession::address`] puts the upstream's current session
//!    into a request, and pins it to the endpoint that holds it where there are several.
//! 2. [`SessionState`] is shared by all who have the session open: what a rebuild brought, log level, subscriptions,
//!    whether it is over. A session that nobody changed has generation 0, and is read without a lock.
//! 3. Everything is bounded: [`MAX_SUBSCRIPTIONS`] subscriptions are remembered, of at most [`MAX_URI`] bytes each and
//!    [`MAX_URIS`] in all.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Request};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::error::Cause;
use crate::facts::Pin;
use crate::mcp::headers::SESSION_ID;
use crate::mcp::revision::Revision;
use crate::session::answer::Capabilities;
use crate::session::seal::Sealed;
use crate::session::store::SessionStore;

/// The most subscriptions of one session that a rebuild renews.
pub const MAX_SUBSCRIPTIONS: usize = 64;
/// The longest URI of such a subscription.
pub const MAX_URI: usize = 2048;
/// The most bytes that the URIs of one session's subscriptions have together.
pub const MAX_URIS: usize = 64 * 1024;

/// Names a session in stores: half of the random part of its id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle([u8; 16]);

impl Handle {
    pub(crate) fn of_nonce(nonce: &[u8]) -> Self {
        let mut handle = [0; 16];
        handle
            .iter_mut()
            .zip(nonce)
            .for_each(|(to, from)| *to = *from);
        Self(handle)
    }

    /// Its bytes, for a key in a store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, ..] = self.0;
        write!(f, "Handle({first:02x}{second:02x}…)")
    }
}

/// A session whose id was opened.
pub struct OpenSession {
    id: HeaderValue,
    handle: Handle,
    sealed: Sealed,
    upstream: HeaderValue,
    is_pinned: bool,
    state: Arc<SessionState>,
    store: Arc<dyn SessionStore>,
}

impl OpenSession {
    /// A session with the caller's `id`. Nothing if the upstream's id cannot stand in a header.
    pub(crate) fn new(
        id: HeaderValue,
        handle: Handle,
        sealed: Sealed,
        is_pinned: bool,
        state: Arc<SessionState>,
        store: Arc<dyn SessionStore>,
    ) -> Option<Self> {
        let mut upstream = HeaderValue::from_maybe_shared(sealed.upstream.clone()).ok()?;
        upstream.set_sensitive(true);
        Some(Self {
            id,
            handle,
            sealed,
            upstream,
            is_pinned,
            state,
            store,
        })
    }

    /// The id that the caller knows.
    #[must_use]
    pub fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// Its name in stores.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// When it ends by itself, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.sealed.expires
    }

    /// The revision that was negotiated.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.sealed.revision
    }

    /// What the server declared.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.sealed.capabilities
    }

    /// Whether it has to stay on one of several endpoints.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    /// Whether `principal` may use it at `now`.
    #[must_use]
    pub fn admits(&self, principal: Option<&str>, now: u64) -> bool {
        self.sealed.admits(principal, now) && !self.state.is_over()
    }

    /// Whether it has expired at `now`, or is over.
    #[must_use]
    pub fn has_ended(&self, now: u64) -> bool {
        now >= self.sealed.expires || self.state.is_over()
    }

    /// The `params` of its `initialize`, if they are known.
    #[must_use]
    pub fn params(&self) -> Option<Bytes> {
        let sealed = self.sealed.params.clone();
        sealed.or_else(|| self.state.changed().params.clone())
    }

    /// What changes of it.
    #[must_use]
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// The endpoint that holds it now.
    #[must_use]
    pub fn endpoint(&self) -> u32 {
        if self.state.generation() == 0 {
            return self.sealed.endpoint;
        }
        self.state.changed().endpoint
    }

    /// Puts the upstream's current session into a request, and its endpoint if it matters. Says which generation
    /// that was.
    pub fn address<B>(&self, request: &mut Request<B>) -> u32 {
        let (mut generation, mut endpoint) = (0, self.sealed.endpoint);
        let mut upstream = self.upstream.clone();
        if self.state.generation() > 0 {
            let changed = self.state.changed();
            // Read under the lock that a rebuild writes under, so that all three are of one generation.
            generation = self.state.generation();
            endpoint = changed.endpoint;
            upstream = changed.upstream.clone().unwrap_or(upstream);
        }
        request.headers_mut().insert(SESSION_ID, upstream);
        if self.is_pinned {
            let extensions = request.extensions_mut();
            let mut pin = extensions.remove::<Pin>().unwrap_or_default();
            pin.endpoint = Some(endpoint);
            extensions.insert(pin);
        }
        generation
    }

    /// Tells the store that the state has changed.
    pub fn save(&self) {
        self.store
            .save(self.handle, self.sealed.expires, &self.state);
    }
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSession")
            .field("handle", &self.handle)
            .field("sealed", &self.sealed)
            .field("generation", &self.state.generation())
            .finish_non_exhaustive()
    }
}

/// What changes of a session.
pub struct SessionState {
    generation: AtomicU32,
    is_over: AtomicBool,
    changed: Mutex<Changed>,
    /// One permit: who has it rebuilds.
    flight: Semaphore,
    landed: Mutex<Landed>,
    renewed: Notify,
}

/// What changes of a session, as a store keeps it.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// The upstream's id after the last rebuild.
    pub upstream: Option<HeaderValue>,
    /// The endpoint that holds it after the last rebuild.
    pub endpoint: u32,
    /// The `params` of the last `logging/setLevel` that was accepted, as JSON.
    pub log_level: Option<Bytes>,
    /// The URIs that are subscribed to.
    pub subscriptions: BTreeSet<Box<str>>,
    /// The `params` of `initialize`, where the id has no room for them.
    pub params: Option<Bytes>,
}

impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changed")
            .field("endpoint", &self.endpoint)
            .field("subscriptions", &self.subscriptions.len())
            .finish_non_exhaustive()
    }
}

/// How the last rebuild ended, for those who waited for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Landed {
    /// How many have ended.
    pub(crate) count: u32,
    /// Why the last one failed, if it did.
    pub(crate) failed: Option<Cause>,
    /// When the last one succeeded.
    pub(crate) rebuilt: Option<Instant>,
}

impl SessionState {
    /// The state of a session that was changed elsewhere: what a store gives back.
    #[must_use]
    pub fn restore(generation: u32, is_over: bool, changed: Changed) -> Self {
        Self {
            generation: AtomicU32::new(generation),
            is_over: AtomicBool::new(is_over),
            changed: Mutex::new(changed),
            flight: Semaphore::new(1),
            landed: Mutex::default(),
            renewed: Notify::new(),
        }
    }

    /// How often it was rebuilt.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it was ended, by DELETE or because it could not be rebuilt.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Ends it for good, and keeps nothing for a rebuild that will not come. Says whether it was open.
    pub fn end(&self) -> bool {
        let was_open = !self.is_over.swap(true, Ordering::AcqRel);
        let mut changed = self.changed();
        changed.subscriptions = BTreeSet::new();
        changed.params = None;
        changed.log_level = None;
        was_open
    }

    /// What has changed, for a store to keep.
    #[must_use]
    pub fn snapshot(&self) -> Changed {
        self.changed().clone()
    }

    /// A rebuild brought a new upstream session.
    pub fn rebuilt(&self, upstream: HeaderValue, endpoint: u32) {
        let mut changed = self.changed();
        changed.upstream = Some(upstream);
        changed.endpoint = endpoint;
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(changed);
        self.renewed.notify_waiters();
    }

    /// The server accepted a log level: the `params` of the request.
    pub fn set_log_level(&self, params: Bytes) {
        let mut changed = self.changed();
        if !self.is_over() {
            changed.log_level = Some(params);
        }
    }

    /// The server accepted a subscription. One too many, or too long, is not renewed by a rebuild.
    pub fn subscribe(&self, uri: &str) {
        let mut changed = self.changed();
        let held: usize = changed.subscriptions.iter().map(|uri| uri.len()).sum();
        let has_room = !self.is_over()
            && changed.subscriptions.len() < MAX_SUBSCRIPTIONS
            && held.saturating_add(uri.len()) <= MAX_URIS;
        if uri.len() <= MAX_URI && has_room {
            changed.subscriptions.insert(uri.into());
        }
    }

    /// The server ended a subscription.
    pub fn unsubscribe(&self, uri: &str) {
        self.changed().subscriptions.remove(uri);
    }

    /// Its one permit is held by who rebuilds the session.
    pub(crate) fn flight(&self) -> &Semaphore {
        &self.flight
    }

    /// Told of each rebuild.
    pub(crate) fn renewed(&self) -> &Notify {
        &self.renewed
    }

    /// How the last rebuild ended.
    pub(crate) fn landed(&self) -> Landed {
        *lock(&self.landed)
    }

    /// A rebuild has ended.
    pub(crate) fn land(&self, failed: Option<Cause>) {
        let mut landed = lock(&self.landed);
        landed.count = landed.count.wrapping_add(1);
        landed.failed = failed;
        if failed.is_none() {
            landed.rebuilt = Some(Instant::now());
        }
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        lock(&self.changed)
    }
}

impl Default for SessionState {
    fn default() -> Self {
        Self::restore(0, false, Changed::default())
    }
}

impl fmt::Debug for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionState")
            .field("generation", &self.generation())
            .field("is_over", &self.is_over())
            .finish_non_exhaustive()
    }
}

/// Nothing is left half done under these locks, so one that a panic poisoned is as good as before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::session::store::MemoryStore;

    fn session(is_pinned: bool) -> OpenSession {
        let sealed = Sealed {
            upstream: Bytes::from_static(b"up-1"),
            endpoint: 2,
            expires: 10,
            ..Sealed::default()
        };
        let store = Arc::new(MemoryStore::new(10, Clock::manual(0)));
        let (id, handle) = (HeaderValue::from_static("ours"), Handle([0; 16]));
        OpenSession::new(id, handle, sealed, is_pinned, Arc::default(), store).unwrap()
    }

    #[test]
    fn rule_1_a_request_gets_session_and_endpoint() {
        let mut request = Request::new(());
        assert_eq!(session(true).address(&mut request), 0);
        assert_eq!(request.headers()[SESSION_ID], "up-1");
        assert!(request.headers()[SESSION_ID].is_sensitive());
        assert_eq!(request.extensions().get::<Pin>().unwrap().endpoint, Some(2));
        let mut request = Request::new(());
        session(false).address(&mut request);
        assert!(request.extensions().get::<Pin>().is_none());
    }

    #[test]
    fn rule_2_after_a_rebuild_it_is_the_new_one() {
        let session = session(true);
        session.state().rebuilt(HeaderValue::from_static("up-2"), 0);
        let mut request = Request::new(());
        assert_eq!(session.address(&mut request), 1);
        assert_eq!(request.headers()[SESSION_ID], "up-2");
        assert_eq!(request.extensions().get::<Pin>().unwrap().endpoint, Some(0));
        assert!(!format!("{session:?}").contains("up-"));
    }

    #[test]
    fn rule_3_subscriptions_are_bounded() {
        let state = SessionState::default();
        (0..=MAX_SUBSCRIPTIONS).for_each(|n| state.subscribe(&n.to_string()));
        state.subscribe(&"x".repeat(MAX_URI + 1));
        assert_eq!(state.snapshot().subscriptions.len(), MAX_SUBSCRIPTIONS);
        state.unsubscribe("0");
        assert!(!state.snapshot().subscriptions.contains("0"));
        let state = SessionState::default();
        (0..MAX_SUBSCRIPTIONS).for_each(|n| state.subscribe(&format!("{n:0>MAX_URI$}")));
        assert_eq!(state.snapshot().subscriptions.len(), MAX_URIS / MAX_URI);
    }

    #[test]
    fn an_end_lets_go_of_what_a_rebuild_would_need_and_takes_no_more() {
        let state = SessionState::restore(
            0,
            false,
            Changed {
                params: Some(Bytes::from_static(b"{}")),
                ..Changed::default()
            },
        );
        state.subscribe("file:///a");
        state.set_log_level(Bytes::from_static(b"{}"));
        assert!(state.end());
        assert!(!state.end(), "it ends once");
        // What was on its way when it ended.
        state.subscribe("file:///b");
        state.set_log_level(Bytes::from_static(b"{}"));
        let kept = state.snapshot();
        assert!(kept.params.is_none() && kept.log_level.is_none());
        assert!(kept.subscriptions.is_empty());
    }

    #[test]
    fn a_state_comes_back_as_it_was_kept() {
        let state = SessionState::default();
        state.subscribe("test://a");
        state.rebuilt(HeaderValue::from_static("up-2"), 1);
        let back = SessionState::restore(state.generation(), state.is_over(), state.snapshot());
        assert_eq!((back.generation(), back.snapshot()), (1, state.snapshot()));
    }
}
