//! The sessions of one server: opened, minted, counted. They outlive a reload.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;

use crate::call::{Call, Form};
use crate::clock::Clock;
use crate::error::{Cause, Failure, Phase};
use crate::facts::{Caller, Facts};
use crate::layer::session::detach::Detached;
use crate::mcp::headers::PROTOCOL_VERSION;
use crate::mcp::revision::{Era, Revision};
use crate::session::answer::Negotiated;
use crate::session::seal::MAX_UPSTREAM;
use crate::session::state::{Changed, lock};
use crate::session::store::Found;
use crate::session::{
    Handle, MemoryStore, OpenSession, Sealed, SessionKeys, SessionState, SessionStore,
};

const SHARDS: usize = 16;

/// Settings of the sessions of one server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionParams {
    /// The server's name: an id opens for this server only.
    pub server: Arc<str>,
    /// The keys of ids.
    pub keys: SessionKeys,
    /// How many endpoints the server has. With more than one, a session stays on the one that opened it. Default 1.
    pub endpoints: usize,
    /// How long a session lives. Default 24 h.
    pub lifetime: Duration,
    /// How many sessions are kept open; a further one costs an opening, never a session. Default 10,000.
    pub capacity: usize,
    /// How many calls may outlive their clients at once. Default 100.
    pub detached: usize,
    /// How long such a call may last. Default 5 min.
    pub detach: Duration,
    /// Where time comes from.
    pub clock: Clock,
    /// Where the changing part is kept. Default: in memory, as many as `capacity`.
    pub store: Option<Arc<dyn SessionStore>>,
}

impl SessionParams {
    /// The defaults, for `server` and with `keys`.
    #[must_use]
    pub fn new(server: Arc<str>, keys: SessionKeys) -> Self {
        Self {
            server,
            keys,
            endpoints: 1,
            lifetime: Duration::from_hours(24),
            capacity: 10_000,
            detached: 100,
            detach: Duration::from_mins(5),
            clock: Clock::system(),
            store: None,
        }
    }
}

/// The sessions of one server. Clones share them; a reload gives the new stack a clone.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    server: Arc<str>,
    keys: SessionKeys,
    is_pinned: bool,
    lifetime: Duration,
    clock: Clock,
    store: Arc<dyn SessionStore>,
    detached: Detached,
    open: Vec<Mutex<Shard>>,
    per_shard: usize,
    opened: AtomicU64,
    refused: AtomicU64,
}

/// Open sessions by a piece of the random part of their ids. Only ids that were opened get in, so nobody can choose
/// where they fall, and the piece needs no hashing worth the name.
type Shard = HashMap<u64, Arc<OpenSession>, BuildHasherDefault<Spread>>;

#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, piece: u64) {
        self.0 = (self.0 ^ piece)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

/// What has been counted, and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Sessions that are open in this process and were not ended.
    pub active: usize,
    /// Sessions begun since the start.
    pub opened: u64,
    /// Ids that were refused: unknown, ended, expired, another's.
    pub refused: u64,
    /// Calls that have outlived their clients and still run.
    pub detached: usize,
    /// Calls that were cancelled because too many had outlived their clients.
    pub dropped: u64,
}

/// What an id gives.
pub(super) enum Opening {
    Open(Arc<OpenSession>),
    /// The store has to be asked first.
    Later(Unsettled),
    Lost,
}

/// A session whose state is on its way.
pub(super) struct Unsettled {
    id: HeaderValue,
    sealed: Sealed,
    handle: Handle,
    pub(super) state: std::pin::Pin<Box<dyn Future<Output = Option<Arc<SessionState>>> + Send>>,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(params: SessionParams) -> Self {
        let clock = params.clock;
        let capacity = params.capacity;
        Self(Arc::new(Shared {
            server: params.server,
            keys: params.keys,
            is_pinned: params.endpoints > 1,
            lifetime: params.lifetime,
            store: params
                .store
                .unwrap_or_else(|| Arc::new(MemoryStore::new(capacity, clock.clone()))),
            clock,
            detached: Detached::new(params.detached, params.detach),
            open: (0..SHARDS).map(|_| Mutex::default()).collect(),
            per_shard: capacity.div_ceil(SHARDS).max(1),
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// The calls that outlived their clients.
    #[must_use]
    pub fn detached(&self) -> &Detached {
        &self.0.detached
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            active: self.0.open.iter().map(|shard| lock(shard).len()).sum(),
            opened: self.0.opened.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            detached: self.0.detached.count(),
            dropped: self.0.detached.dropped(),
        }
    }

    /// Ends all sessions that are open in this process, and gives the requests that tell their upstreams so.
    ///
    /// For a process that is about to end and takes the key along. With a key that others have, they stay in use.
    #[must_use]
    pub fn end_all(&self) -> Vec<Request<Full<Bytes>>> {
        let now = self.0.clock.unix_seconds();
        let mut requests = Vec::new();
        for shard in &self.0.open {
            let ended = std::mem::take(&mut *lock(shard));
            let alive = ended.values().filter(|session| !session.has_ended(now));
            requests.extend(alive.map(|session| {
                session.state().end();
                end_request(session, &self.0.server)
            }));
        }
        requests
    }

    /// Opens the session that `id` names, for whoever `facts` say is calling.
    pub(super) fn open(&self, id: &HeaderValue, facts: Option<&Facts>) -> Opening {
        let now = self.0.clock.unix_seconds();
        let opening = match self.recall(id.as_bytes()) {
            Some(session) => Opening::Open(session),
            None => self.unseal(id),
        };
        let principal = facts.and_then(Facts::caller).and_then(Caller::principal);
        let principal = principal.map(|principal| &**principal);
        let is_admitted = match &opening {
            Opening::Open(session) => session.admits(principal, now),
            Opening::Later(unsettled) => unsettled.sealed.admits(principal, now),
            Opening::Lost => false,
        };
        if is_admitted {
            return opening;
        }
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        if let Opening::Open(session) = opening
            && session.has_ended(now)
        {
            self.forget(&session);
        }
        Opening::Lost
    }

    /// The state of an unsettled session is here; it is open from now on.
    pub(super) fn settle(&self, unsettled: Unsettled, state: Option<Arc<SessionState>>) {
        let Unsettled {
            id, sealed, handle, ..
        } = unsettled;
        self.admit(id, handle, sealed, state);
    }

    /// Seals a session that an upstream has opened.
    ///
    /// # Errors
    ///
    /// Fails if the upstream's id is too long or no header value, or if there is no randomness.
    pub(super) fn mint(
        &self,
        upstream: &HeaderValue,
        negotiated: Negotiated,
        params: Option<Bytes>,
        facts: Option<&Facts>,
    ) -> Result<Arc<OpenSession>, Failure> {
        if upstream.len() > MAX_UPSTREAM {
            return Err(Failure::new(Cause::BadResponse, Phase::Answered));
        }
        let shared = &self.0;
        let caller = facts.and_then(Facts::caller);
        let sealed = Sealed {
            endpoint: facts.and_then(Facts::endpoint).unwrap_or_default(),
            upstream: Bytes::copy_from_slice(upstream.as_bytes()),
            revision: negotiated.revision,
            capabilities: negotiated.capabilities,
            principal: caller.and_then(Caller::principal).cloned(),
            expires: shared.clock.unix_seconds() + shared.lifetime.as_secs(),
            params: params.clone(),
        };
        let internal = |source: crate::error::BoxError| {
            Failure::new(Cause::Internal, Phase::Answered).with_source(source)
        };
        let (id, handle) = shared
            .keys
            .seal(&sealed, &shared.server)
            .map_err(|error| internal(error.into()))?;
        let changed = Changed {
            params: params.filter(|_| !sealed.has_room()),
            ..Changed::default()
        };
        let id = HeaderValue::from_maybe_shared(Bytes::from(id))
            .map_err(|error| internal(error.into()))?;
        let state = Arc::new(SessionState::restore(0, false, changed));
        let session = self
            .admit(id, handle, sealed, Some(state))
            .ok_or_else(|| Failure::new(Cause::BadResponse, Phase::Answered))?;
        session.save();
        shared.opened.fetch_add(1, Ordering::Relaxed);
        Ok(session)
    }

    /// How long a session has lasted, if it was opened with the lifetime of now.
    pub(super) fn age(&self, session: &OpenSession) -> Duration {
        let opened = session.expires().saturating_sub(self.0.lifetime.as_secs());
        Duration::from_secs(self.0.clock.unix_seconds().saturating_sub(opened))
    }

    /// Takes a session out of those that are open.
    pub(super) fn forget(&self, session: &OpenSession) {
        if let Some((shard, piece)) = self.shard(session.id().as_bytes()) {
            lock(shard).remove(&piece);
        }
    }

    fn recall(&self, id: &[u8]) -> Option<Arc<OpenSession>> {
        let (shard, piece) = self.shard(id)?;
        let open = lock(shard);
        open.get(&piece)
            .filter(|session| session.id().as_bytes() == id)
            .cloned()
    }

    fn unseal(&self, id: &HeaderValue) -> Opening {
        let Ok((sealed, handle)) = self.0.keys.open(id.as_bytes(), &self.0.server) else {
            return Opening::Lost;
        };
        match self.0.store.find(handle) {
            Found::Now(state) => self
                .admit(id.clone(), handle, sealed, state)
                .map_or(Opening::Lost, Opening::Open),
            Found::Later(state) => Opening::Later(Unsettled {
                id: id.clone(),
                sealed,
                handle,
                state,
            }),
        }
    }

    fn admit(
        &self,
        mut id: HeaderValue,
        handle: Handle,
        sealed: Sealed,
        state: Option<Arc<SessionState>>,
    ) -> Option<Arc<OpenSession>> {
        // Whoever shows it is let in, so it is not to be logged by those that respect the mark.
        id.set_sensitive(true);
        let (shared, state) = (&self.0, state.unwrap_or_default());
        let store = shared.store.clone();
        let session = OpenSession::new(id, handle, sealed, shared.is_pinned, state, store)?;
        let session = Arc::new(session);
        if let Some((shard, piece)) = self.shard(session.id().as_bytes()) {
            let mut open = lock(shard);
            if open.len() >= shared.per_shard {
                make_room(&mut open, shared.clock.unix_seconds());
            }
            open.insert(piece, session.clone());
        }
        Some(session)
    }

    /// Where an id stands. Characters 8 to 16 are of the random part.
    fn shard(&self, id: &[u8]) -> Option<(&Mutex<Shard>, u64)> {
        let piece = u64::from_be_bytes(*id.get(8..)?.first_chunk()?);
        let mut spread = Spread::default();
        spread.write_u64(piece);
        let at = usize::try_from(spread.finish() >> 16).unwrap_or_default() % SHARDS;
        Some((self.0.open.get(at)?, piece))
    }
}

/// The DELETE of an upstream's session.
fn end_request(session: &OpenSession, server: &Arc<str>) -> Request<Full<Bytes>> {
    let revision = session.revision();
    let mut request = Request::new(Full::default());
    *request.method_mut() = Method::DELETE;
    // Revisions before that have no such header.
    if let Some(revision) = revision.filter(|it| *it >= Revision::V2025_06_18) {
        let revision = HeaderValue::from_static(revision.as_str());
        request.headers_mut().insert(PROTOCOL_VERSION, revision);
    }
    let call = Call::new(Form::End, Era::Legacy, revision, Bytes::new());
    request.extensions_mut().insert(call);
    let facts = Facts::new(Some(server.clone()));
    facts.set_era(Era::Legacy);
    request.extensions_mut().insert(facts);
    session.address(&mut request);
    request
}

/// Lets those go that have ended, or else any: it is opened again when it is asked for.
fn make_room(open: &mut Shard, now: u64) {
    let before = open.len();
    open.retain(|_, session| !session.has_ended(now));
    if open.len() == before
        && let Some(any) = open.keys().next().copied()
    {
        open.remove(&any);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("server", &self.0.server)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
