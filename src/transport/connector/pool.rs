//! The list of connections of one endpoint.
//!
//! What holds at any time, under one lock:
//!
//! - `calls` counts the leases for calls, each with a connection or about to dial one. A connection is dialled only
//!   where none is idle, so connections for calls, busy or idle, are never more than `max`.
//! - Who comes when `calls` is `max` waits, first come first served, and gets the lease of who ends.
//! - Leases for streams are counted apart. A stream may take an idle connection away from the calls, and leaves one
//!   behind if there is room.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header::HeaderName};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::dial::dial;
use super::{ConnectorParams, Shared};
use crate::call::Call;
use crate::error::{Cause, Failure};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The upstream closes at its time by its clock: be gone before.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);
/// How long a connection whose answer has ended may take to be ready for the next request. It mostly is at once.
const SETTLE: Duration = Duration::from_millis(50);
/// How often idle connections are looked through.
const REAP_EVERY: Duration = Duration::from_secs(15);

/// How many connections there are, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectorStats {
    /// All of them: idle, in use by calls, in use by streams.
    pub open: usize,
    /// Waiting for a call.
    pub idle: usize,
    /// Taken by calls, those being dialled included.
    pub in_use: usize,
    /// Taken by streams, those being dialled included.
    pub streams: usize,
    /// Calls that wait for a connection.
    pub waiting: usize,
}

/// Which cap a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Calls,
    Streams,
}

impl Lane {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let is_stream = match request.extensions().get::<Call>() {
            Some(call) => call.is_stream(),
            None => request.method() == Method::GET,
        };
        if is_stream {
            Self::Streams
        } else {
            Self::Calls
        }
    }
}

/// A connection that has been made.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    born: Instant,
    /// How long it may be idle.
    idle_time: Duration,
    /// Which trust its certificate was judged by.
    trust: u64,
}

impl Connection {
    fn new(sender: SendRequest<Full<Bytes>>, shared: &Shared, trust: u64) -> Self {
        Self {
            sender,
            born: Instant::now(),
            idle_time: shared.params.max_idle_time,
            trust,
        }
    }
}

/// A connection that waits for a call.
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn is_usable(&self, now: Instant, params: &ConnectorParams) -> bool {
        !self.connection.sender.is_closed()
            && now.duration_since(self.since) < self.connection.idle_time
            && now.duration_since(self.connection.born) < params.max_age
    }
}

/// What the lock protects.
#[derive(Default)]
pub(super) struct State {
    idle: Vec<Idle>,
    calls: usize,
    streams: usize,
    waiting: VecDeque<oneshot::Sender<Lease>>,
    is_reaped: bool,
    is_trimmed: bool,
}

/// The right to one connection, and the connection. Dropped, it closes the connection and lets the next one in.
pub(super) struct Lease {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    lane: Lane,
    /// Whether it still counts; not after its place was passed on.
    counts: bool,
}

/// What came of asking for a lease.
pub(super) enum Taken {
    Lease(Lease),
    Wait(oneshot::Receiver<Lease>),
    Full(Cause),
}

impl Shared {
    pub(super) fn stats(&self) -> ConnectorStats {
        let state = self.lock();
        let idle = state
            .idle
            .iter()
            .filter(|idle| !idle.connection.sender.is_closed())
            .count();
        ConnectorStats {
            open: idle + state.calls + state.streams,
            idle,
            in_use: state.calls,
            streams: state.streams,
            waiting: state
                .waiting
                .iter()
                .filter(|waiter| !waiter.is_closed())
                .count(),
        }
    }

    /// The lease that was taken, or that one gets in its turn.
    pub(super) async fn wait(&self, taken: Taken) -> Result<Lease, Failure> {
        match taken {
            Taken::Lease(lease) => Ok(lease),
            Taken::Full(cause) => Err(Failure::unsent(cause)),
            Taken::Wait(turn) => match timeout(self.params.acquire_timeout(), turn).await {
                Ok(Ok(lease)) => Ok(lease),
                _ => Err(Failure::unsent(Cause::PoolExhausted)),
            },
        }
    }

    /// A lease if there is room, with a connection if one is idle.
    pub(super) fn take(self: &Arc<Self>, lane: Lane) -> Taken {
        let params = &self.params;
        let mut state = self.lock();
        match lane {
            Lane::Streams if state.streams >= params.streams => {
                return Taken::Full(Cause::StreamsExhausted);
            }
            Lane::Streams => state.streams += 1,
            Lane::Calls if state.calls >= params.max => return state.queue(params),
            Lane::Calls => state.calls += 1,
        }
        let now = Instant::now();
        let mut connection = None;
        // The last one in is the one whose peer most likely still wants it.
        while let Some(idle) = state.idle.pop() {
            if idle.is_usable(now, params) {
                connection = Some(idle.connection);
                break;
            }
        }
        drop(state);
        Taken::Lease(Lease {
            shared: Arc::clone(self),
            connection,
            lane,
            counts: true,
        })
    }

    fn trust(&self) -> u64 {
        self.trust.load(Ordering::Acquire)
    }

    /// Closes what waits for a call.
    pub(super) fn forget_idle(&self) {
        self.lock().idle.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and what it protects is whole after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what has been idle too long, until nothing is idle.
    async fn reap(shared: Weak<Self>, every: Duration) {
        loop {
            sleep(every).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let now = Instant::now();
            let mut state = shared.lock();
            state
                .idle
                .retain(|idle| idle.is_usable(now, &shared.params));
            if state.idle.is_empty() {
                state.is_reaped = false;
                return;
            }
        }
    }
}

impl Shared {
    /// Closes what is idle beyond `max_idle` for long enough, until nothing is.
    async fn trim(shared: Weak<Self>, after: Duration) {
        loop {
            sleep(after).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let mut state = shared.lock();
            if !state.trim(Instant::now(), &shared.params) {
                state.is_trimmed = false;
                return;
            }
        }
    }
}

impl State {
    /// Closes the surplus, as far as it has had its time. Says whether there is still some.
    fn trim(&mut self, now: Instant, params: &ConnectorParams) -> bool {
        let surplus = self.idle.len().saturating_sub(params.max_idle);
        // They stand in the order in which they were freed, so the first ones have waited longest.
        let over = self.idle.iter().take(surplus);
        let over = over.take_while(|idle| now.duration_since(idle.since) >= params.surplus_time);
        let over = over.count();
        self.idle.drain(..over);
        over < surplus
    }

    fn queue(&mut self, params: &ConnectorParams) -> Taken {
        self.waiting.retain(|waiter| !waiter.is_closed());
        if self.waiting.len() >= params.max_waiting {
            return Taken::Full(Cause::PoolExhausted);
        }
        let (turn, wait) = oneshot::channel();
        self.waiting.push_back(turn);
        Taken::Wait(wait)
    }

    fn keep(&mut self, connection: Connection, shared: &Arc<Shared>) {
        let params = &shared.params;
        let has_room = params.max_idle > 0 && self.calls + self.idle.len() < params.max;
        // Under the lock, so that what is kept before a change of trust is forgotten by it.
        let is_trusted = connection.trust == shared.trust();
        if !has_room || !is_trusted || connection.sender.is_closed() {
            return;
        }
        self.idle.push(Idle {
            connection,
            since: Instant::now(),
        });
        let has_surplus = self.idle.len() > params.max_idle;
        if self.is_reaped && (self.is_trimmed || !has_surplus) {
            return;
        }
        // Without a runtime, as when a body is dropped after its end, the next one starts them.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.is_reaped {
            let every = params.max_idle_time.min(REAP_EVERY);
            runtime.spawn(Shared::reap(Arc::downgrade(shared), every));
            self.is_reaped = true;
        }
        if has_surplus && !self.is_trimmed {
            runtime.spawn(Shared::trim(Arc::downgrade(shared), params.surplus_time));
            self.is_trimmed = true;
        }
    }
}

impl Lease {
    /// The endpoint's shared state.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The connection, if there is one that can send at once.
    pub(super) fn ready(&mut self) -> Option<&mut SendRequest<Full<Bytes>>> {
        let connection = self.connection.as_mut()?;
        connection
            .sender
            .is_ready()
            .then_some(&mut connection.sender)
    }

    /// The connection, dialled if there is none or if it is not ready in time.
    pub(super) async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Failure> {
        let is_usable = match &mut self.connection {
            Some(connection) if connection.sender.is_ready() => true,
            Some(connection) => {
                matches!(timeout(SETTLE, connection.sender.ready()).await, Ok(Ok(())))
            }
            None => false,
        };
        if !is_usable {
            // Closed before another is opened, so that the cap holds.
            self.connection = None;
            // Asked before, as it may change while the connection is made.
            let trust = self.shared.trust();
            let sender = Box::pin(dial(&self.shared)).await?;
            self.connection = Some(Connection::new(sender, &self.shared, trust));
        }
        match &mut self.connection {
            Some(connection) => Ok(&mut connection.sender),
            None => Err(Failure::unsent(Cause::Internal)),
        }
    }

    /// Closes the connection and keeps the place.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Notes how long the upstream says that it keeps an idle connection.
    pub(super) fn note_keep_alive(&mut self, headers: &HeaderMap) {
        let Some(hint) = headers
            .get(KEEP_ALIVE)
            .and_then(|value| keep_alive(value.as_bytes()))
        else {
            return;
        };
        let limit = self.shared.params.max_idle_time;
        if let Some(connection) = &mut self.connection {
            connection.idle_time = hint.saturating_sub(KEEP_ALIVE_MARGIN).min(limit);
        }
    }

    /// The answer was read to its end: the connection is free for the next call.
    pub(super) fn give_back(mut self) {
        self.release();
    }

    fn release(&mut self) {
        if !std::mem::take(&mut self.counts) {
            return;
        }
        let mut connection = self.connection.take();
        connection.take_if(|it| it.trust != self.shared.trust());
        loop {
            let mut state = self.shared.lock();
            let waiter = match self.lane {
                Lane::Calls => state.waiting.pop_front(),
                Lane::Streams => None,
            };
            let Some(waiter) = waiter else {
                match self.lane {
                    Lane::Calls => state.calls = state.calls.saturating_sub(1),
                    Lane::Streams => state.streams = state.streams.saturating_sub(1),
                }
                if let Some(connection) = connection {
                    state.keep(connection, &self.shared);
                }
                return;
            };
            drop(state);
            let next = Self {
                shared: Arc::clone(&self.shared),
                connection: connection.take(),
                lane: self.lane,
                counts: true,
            };
            match waiter.send(next) {
                Ok(()) => return,
                Err(mut next) => {
                    // It has gone; ask the one behind it.
                    next.counts = false;
                    connection = next.connection.take();
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.counts {
            self.connection = None;
            self.release();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

/// The `timeout` of a `Keep-Alive` header.
fn keep_alive(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    let seconds = text
        .split(',')
        .find_map(|part| part.trim().strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_alive_header_is_read_or_ignored() {
        let seconds = |text: &str| keep_alive(text.as_bytes()).map(|d| d.as_secs());
        assert_eq!(seconds("timeout=5"), Some(5));
        assert_eq!(seconds("max=100, timeout=5"), Some(5));
        assert_eq!(seconds("timeout=-1"), None);
        assert_eq!(seconds("max=100"), None);
    }
}
