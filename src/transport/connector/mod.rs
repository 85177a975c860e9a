//! Connections to one upstream: an own list of HTTP/1.1 connections behind a Tower service.
//!
//! Contract:
//!
//! 1. No call is ever sent twice: only a request that was never written to its connection goes to another, fresh one,
//!    once. Whatever else breaks fails, and its [`Phase`](crate::error::Phase) says whether the call may have been executed.
//! 2. Calls have a hard cap of connections; who finds none waits a bounded time in order of arrival. Streams (GET,
//!    `subscriptions/listen`) have a cap of their own and never take a connection from the calls' cap.
//! 3. An answer read to its end frees its connection; an answer, or the future of one, that is dropped before closes
//!    it. The last connection freed is the first taken. Idle ones are limited in number (after a moment), idle time and age, and by
//!    what the upstream's `Keep-Alive` says; closed ones are noticed before they are used.
//! 4. Every error is a [`Failure`](crate::error::Failure) with its cause, phase and origin.
//! 5. A redirect (307, 308) within the same origin is followed once; any other fails. No header ever goes to another
//!    origin. The first redirect of an upstream that had answered by itself so far fails as unsent, as there is no
//!    copy of that request: who repeats it is led on.
//! 6. The service is always ready, and a clone shares its connections.
//! 7. Who is trusted can change ([`Connector::trust`]): connections that were made before serve what they have begun, and
//!    nothing else.
//!
//! It deliberately knows nothing of MCP but which requests are streams, never repeats what was sent, and offers no
//! HTTP/2: streams of MCP would block each other on one connection.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use outrigger::transport::connector::{Connector, ConnectorParams, Endpoint, PlaintextPolicy};
//! use tower_service::Service;
//!
//! let endpoint = Endpoint::new("https://mcp.example.com/mcp", PlaintextPolicy::LoopbackOnly)?;
//! let mut connector = Connector::new(endpoint, ConnectorParams::default())?;
//! let request = Request::post("/mcp").body(Full::new(Bytes::from_static(b"{}")))?;
//! let response = connector.call(request).await?;
//! # let _ = response;
//! # Ok(())
//! # }
//! ```

mod body;
mod dial;
mod endpoint;
mod exchange;
mod pool;
mod reach;
mod tls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower_service::Service;

pub use body::ConnectionBody;
pub use endpoint::{Endpoint, EndpointError, PlaintextPolicy};
pub use pool::ConnectorStats;
pub use reach::TlsSession;
pub use tls::{TlsError, TlsParams};

use crate::error::BoxError;
use pool::State;
use tls::Tls;

/// The smallest read buffer that hyper allows.
const MIN_BUFFER: usize = 8 * 1024;
/// What a read may grow to, so that large answers take few of them.
const BUFFER: usize = 64 * 1024;

/// Limits and times of a [`Connector`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectorParams {
    /// The most connections for calls. Default: 100.
    pub max: usize,
    /// The most connections kept while no call needs them. Default: 20.
    pub max_idle: usize,
    /// How long those beyond `max_idle` are kept: calls come in bursts, and to connect anew for each costs more than the
    /// calls. Default: 1 s.
    pub surplus_time: Duration,
    /// The most connections for streams, beside those for calls. Default: 1000.
    pub streams: usize,
    /// The most calls that wait for a connection; one more fails at once. Default: 1024.
    pub max_waiting: usize,
    /// How long a connection may take: name, TCP and TLS together. Default: 10 s.
    pub connect: Duration,
    /// How long a call waits for a connection. Default: as long as `connect`.
    pub acquire: Option<Duration>,
    /// How long a connection may be idle. Default: 50 s, under the 60 s of common load balancers.
    pub max_idle_time: Duration,
    /// How old a connection may be when a call takes it, so that changes of DNS are followed. Default: 10 min.
    pub max_age: Duration,
    /// The most bytes of an answer's status line and headers. There are at most 100 headers. Default: 64 KiB.
    pub max_header_bytes: usize,
    /// How the upstream's certificate is judged.
    pub tls: TlsParams,
}

impl Default for ConnectorParams {
    fn default() -> Self {
        Self {
            max: 100,
            max_idle: 20,
            surplus_time: Duration::from_secs(1),
            streams: 1000,
            max_waiting: 1024,
            connect: Duration::from_secs(10),
            acquire: None,
            max_idle_time: Duration::from_secs(50),
            max_age: Duration::from_mins(10),
            max_header_bytes: 64 * 1024,
            tls: TlsParams::default(),
        }
    }
}

impl ConnectorParams {
    fn acquire_timeout(&self) -> Duration {
        self.acquire.unwrap_or(self.connect)
    }

    fn buffer_bytes(&self) -> usize {
        self.max_header_bytes.max(BUFFER).max(MIN_BUFFER)
    }
}

/// The way to one upstream. A clone shares its connections.
#[derive(Clone)]
#[must_use]
pub struct Connector {
    shared: Arc<Shared>,
}

/// What all clones, leases and tasks of a connector share.
struct Shared {
    endpoint: Endpoint,
    params: ConnectorParams,
    tls: Option<Tls>,
    state: Mutex<State>,
    /// How often what is trusted has changed.
    trust: AtomicU64,
    redirects: exchange::Redirects,
}

impl Connector {
    /// A connector to `endpoint`. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If the CA file cannot be used.
    pub fn new(endpoint: Endpoint, params: ConnectorParams) -> Result<Self, TlsError> {
        let tls = endpoint
            .is_tls()
            .then(|| Tls::new(&endpoint, &params.tls))
            .transpose()?;
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint,
                params,
                tls,
                state: Mutex::default(),
                trust: AtomicU64::new(0),
                redirects: exchange::Redirects::default(),
            }),
        })
    }

    /// Trusts the authorities in `pem` from now on, instead of those of before: the content of a CA file that has changed.
    ///
    /// Says whether that changes anything: without TLS, or where any certificate is taken, nothing does.
    ///
    /// # Errors
    ///
    /// If one of its certificates cannot be used, or if there is none; those of before stay trusted then.
    pub fn trust(&self, pem: &[u8]) -> Result<bool, TlsError> {
        let shared = &self.shared;
        let Some(tls) = &shared.tls else {
            return Ok(false);
        };
        let changes = tls.trust(pem, shared.params.tls.ca_file.as_deref())?;
        if changes {
            shared.trust.fetch_add(1, Ordering::AcqRel);
            shared.forget_idle();
        }
        Ok(changes)
    }

    /// Where it leads.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// How many connections there are.
    #[must_use]
    pub fn stats(&self) -> ConnectorStats {
        self.shared.stats()
    }

    /// The same, without keeping its connections.
    #[must_use]
    pub fn downgrade(&self) -> WeakConnector {
        WeakConnector(Arc::downgrade(&self.shared))
    }
}

/// A connector that others may still use.
#[derive(Clone)]
pub struct WeakConnector(Weak<Shared>);

impl fmt::Debug for WeakConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakConnector").finish_non_exhaustive()
    }
}

impl WeakConnector {
    /// How many connections there are, if anybody still uses it.
    #[must_use]
    pub fn stats(&self) -> Option<ConnectorStats> {
        self.0.upgrade().map(|shared| shared.stats())
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("endpoint", &self.shared.endpoint)
            .field("tls", &self.shared.params.tls)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Service<Request<Full<Bytes>>> for Connector {
    type Response = Response<ConnectionBody>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> ResponseFuture {
        exchange::begin(&self.shared, request)
    }
}

/// The future of an answer. Dropped, it closes the connection that it uses.
///
/// Boxed, as hyper's own future has no name: the connector is one of the three seams where that is so.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(
    Pin<Box<dyn Future<Output = Result<Response<ConnectionBody>, BoxError>> + Send>>,
);

impl Future for ResponseFuture {
    type Output = Result<Response<ConnectionBody>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
