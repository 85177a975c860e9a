//! The cancel of a legacy request: a notification of its own, posted when nobody waits for the answer any more.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_service::Service;

use crate::call::Call;
use crate::facts::Facts;
use crate::mcp::headers::SESSION_ID;
use crate::mcp::method;
use crate::mcp::revision::Era;
use crate::short::Short;
use crate::transport::connector::Endpoint;

/// How many notifications are on their way at once; beyond, the upstream is left to notice the closed connection.
const AT_ONCE: usize = 64;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(5);

type Posted = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Posts cancels through a clone of the service beneath.
pub(super) struct Canceller {
    post: Box<dyn Fn(Request<Full<Bytes>>) -> Posted + Send + Sync>,
    endpoint: Endpoint,
    room: Arc<Semaphore>,
}

impl Canceller {
    pub(super) fn new<S>(service: S, endpoint: Endpoint) -> Self
    where
        S: Service<Request<Full<Bytes>>> + Clone + Send + 'static,
        S::Future: Send,
    {
        let service = Mutex::new(service);
        Self {
            post: Box::new(move |request| {
                let service = service.lock().unwrap_or_else(PoisonError::into_inner);
                Box::pin(post(service.clone(), request))
            }),
            endpoint,
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Sends it from a task, as whoever drops a future cannot wait.
    fn send(&self, request: Request<Full<Bytes>>) {
        let (Ok(runtime), Ok(place)) = (
            Handle::try_current(),
            Arc::clone(&self.room).try_acquire_owned(),
        ) else {
            tracing::debug!("a cancel is not sent: too many are on their way");
            return;
        };
        let posted = (self.post)(request);
        runtime.spawn(async move {
            if timeout(LIMIT, posted).await.is_err() {
                tracing::debug!("a cancel was not answered in time");
            }
            drop(place);
        });
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

async fn post<S: Service<Request<Full<Bytes>>>>(mut service: S, request: Request<Full<Bytes>>) {
    // Nobody is left to tell if it fails.
    if poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
        let _ = service.call(request).await;
    }
}

/// Cancels a request when it is dropped, unless its answer has ended.
pub(super) struct Guard {
    canceller: Arc<Canceller>,
    id: Short,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What was sent of the exchange before this request.
    sent: Option<(Facts, u32)>,
    is_armed: bool,
}

impl Guard {
    /// A guard for a request that is cancelled by a notification: a legacy one in a session, but not `initialize` and
    /// none that asks for a task.
    pub(super) fn of(
        canceller: &Arc<Canceller>,
        call: &Call,
        headers: &HeaderMap,
        facts: Option<&Facts>,
    ) -> Option<Self> {
        let is_cancelled_so = call.era() == Era::Legacy
            && call.method() != Some(method::Method::Initialize)
            && !call.message()?.params.has_task;
        let id = is_cancelled_so.then(|| call.id_token())??;
        Some(Self {
            headers: kept(headers)?,
            canceller: Arc::clone(canceller),
            // Copied, as a slice would keep the whole body in memory.
            id: Short::of(&id),
            sent: facts.map(|facts| (facts.clone(), facts.sent())),
            is_armed: true,
        })
    }

    pub(super) fn disarm(mut self) {
        self.is_armed = false;
    }

    fn may_have_arrived(&self) -> bool {
        self.sent
            .as_ref()
            .is_none_or(|(facts, before)| facts.sent() != *before)
    }

    fn request(&mut self) -> Request<Full<Bytes>> {
        let message = Full::new(notification(self.id.as_bytes()));
        let (mut parts, body) = Request::new(message).into_parts();
        parts.method = Method::POST;
        for (name, value) in self.headers.drain(..) {
            parts.headers.append(name, value);
        }
        super::address(&mut parts, &self.canceller.endpoint);
        super::negotiate(&parts.method, &mut parts.headers);
        Request::from_parts(parts, body)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_armed && self.may_have_arrived() {
            let request = self.request();
            self.canceller.send(request);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("is_armed", &self.is_armed)
            .finish_non_exhaustive()
    }
}

/// The headers that the cancel needs as well: session, version, credential, and what the configuration adds. Not those
/// that say what the body is. Nothing outside a session.
fn kept(all: &HeaderMap) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut kept = Vec::with_capacity(4);
    let mut is_in_session = false;
    for (name, value) in all {
        if !is_of_the_body(name) {
            // Noticed in passing, which costs less than to look it up.
            is_in_session |= *name == SESSION_ID;
            kept.push((name.clone(), value.clone()));
        }
    }
    is_in_session.then_some(kept)
}

fn is_of_the_body(name: &HeaderName) -> bool {
    // By text: one look at its length leaves two or three to compare.
    matches!(
        name.as_str(),
        "accept"
            | "accept-encoding"
            | "content-length"
            | "content-type"
            | "host"
            | "transfer-encoding"
            | "mcp-method"
            | "mcp-name"
            | "last-event-id"
    )
}

fn notification(id: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(96 + id.len());
    message.put_slice(
        br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"#,
    );
    message.put_slice(id);
    message.put_slice(b"}}");
    message.freeze()
}
