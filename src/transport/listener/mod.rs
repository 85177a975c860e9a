//! Accepts connections and serves HTTP/1.1 on them, within limits.
//!
//! Contract:
//!
//! 1. No more than [`Limits::connections`] are open; above it the socket is left alone until one ends, so that the
//!    kernel's queue holds the callers. One address has [`Limits::per_address`] of them at most: one more is closed at
//!    once, so that one caller cannot keep all others out. Loopback counts as one address, and so does an IPv6 network
//!    of 64 bits.
//! 2. A connection whose first byte does not come within [`Limits::first_byte`], whose request head takes longer than
//!    [`Limits::head`], or that is idle between requests for [`Limits::idle`], is closed. One sweep a second does it for
//!    all connections, so that a request sets no timer; spans are good to a second.
//! 3. A head is at most [`Limits::head_bytes`] and 100 headers (431 above, by hyper). What heads that have not ended take
//!    beyond 8 KiB each is at most [`Limits::unfinished_heads`] in all: a connection that would take more is cut.
//! 4. [`Drain::begin`]: no new connections; what is answered from then on is told that it is the last answer
//!    (`Connection: close`). Connections that are idle for [`Limits::farewell`] are closed: a caller who is just sending,
//!    as one is whose answer had begun before and has now ended, is answered.
//!    [`Drain::finish`]: what is left is polled once more, so that it can say its last, and cut after
//!    [`Limits::last_words`].
//! 5. A caller that hangs up is noticed while its call runs, and the call's future is dropped.
//! 6. A caller that takes none of its answer's bytes for [`Limits::write`] is cut, so that callers who do not read cannot
//!    hold all connections. An answer that has nothing to send, such as a quiet stream, is not meant.
//! 7. A caller that is answered before it has sent all (413, 401, 503) can read the answer: what it still sends is thrown
//!    away, for 2 s and up to 16 MiB, before the connection is closed. Closed at once, it would be reset. In a
//!    drain nobody is waited for.

mod connections;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::body::Body;
use crate::transport::listener::connections::{Connections, IDLE, Registered, State};

pub use crate::transport::drain::Drain;

/// What a listener bounds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once. Default 10,000.
    pub connections: usize,
    /// How many of them one address may have. Default 10,000.
    pub per_address: usize,
    /// How long a new connection may be silent. Default 10 s.
    pub first_byte: Duration,
    /// How long the head of a request may take. Default 10 s.
    pub head: Duration,
    /// How long a connection may be idle between requests. Default 5 min.
    pub idle: Duration,
    /// How long a caller may take none of the bytes that wait for it. Default 60 s.
    pub write: Duration,
    /// The most bytes that a request's head may have. Default 64 KiB.
    pub head_bytes: usize,
    /// The most bytes, beyond 8 KiB each, of all heads that have not ended. Default 16 MiB.
    pub unfinished_heads: usize,
    /// How long a drain leaves an idle connection open: closed at once, it would be closed before some caller's eyes, who
    /// cannot know whether the request that was on its way has been executed. Default 0.
    pub farewell: Duration,
    /// How long the last of a drain's connections may take for what their answers still say. Default 300 ms.
    pub last_words: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            per_address: 10_000,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_mins(5),
            write: Duration::from_mins(1),
            head_bytes: 64 * 1024,
            unfinished_heads: 16 << 20,
            farewell: Duration::ZERO,
            last_words: Duration::from_millis(300),
        }
    }
}

/// How long, and how much, a caller that was answered may go on sending.
const REST_TIME: Duration = Duration::from_secs(2);
const REST_BYTES: usize = 16 << 20;

/// What answers the requests of a connection.
pub trait Answer: Send + Sync + 'static {
    /// Answers one request of a caller at `peer`.
    fn answer(&self, request: http::Request<Incoming>, peer: SocketAddr) -> RouteFuture;
}

/// An answer on its way: the box at the seam of a route.
pub type RouteFuture =
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, crate::error::BoxError>> + Send>>;

/// Serves a bound socket until `drain` begins and all connections have ended, or it is finished.
///
/// # Cancellation
///
/// Dropping the future stops accepting and cuts nothing: connections are tasks of their own and end with their callers.
pub async fn serve<A: Answer>(socket: TcpListener, answer: Arc<A>, limits: Limits, drain: Drain) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let most = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let last_words = limits.last_words;
    let connections = Arc::new(Connections::new(limits));
    let sweep = tokio::spawn(sweep_each_second(connections.clone()));
    {
        let mut stop = pin!(drain.begun());
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = accept(&socket, &permits) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    let Some(registered) = connections.add(peer.ip()) else {
                        tracing::debug!(%peer, "a connection was closed: its address has as many as it may");
                        continue;
                    };
                    let serving = serve_connection(stream, peer, answer.clone(), registered);
                    tokio::spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, mostly: wait for some to come back instead of spinning.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(socket);
    // All permits are back when the last connection has ended.
    let ended = || permits.acquire_many(most);
    tokio::select! {
        biased;
        _ = ended() => {}
        () = connections.leave() => {}
        () = drain.finished() => {
            // Wakes them all, which polls their answers.
            connections.stop_all();
            if tokio::time::timeout(last_words, ended()).await.is_err() {
                connections.cut_all();
                let _ = tokio::time::timeout(Duration::from_secs(1), ended()).await;
            }
        }
    }
    sweep.abort();
}

async fn accept(
    socket: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    Ok((stream, peer, permit))
}

async fn sweep_each_second(connections: Arc<Connections>) {
    let mut each_second = tokio::time::interval(Duration::from_secs(1));
    each_second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        each_second.tick().await;
        connections.sweep();
    }
}

async fn serve_connection<A: Answer>(
    stream: TcpStream,
    peer: SocketAddr,
    answer: Arc<A>,
    registered: Registered,
) {
    // A failure here is the connection's, which shows when it is read.
    let _ = stream.set_nodelay(true);
    let state = registered.state();
    let service = {
        let state = state.clone();
        hyper::service::service_fn(move |request| {
            state.asked();
            Answering {
                inner: answer.answer(request, peer),
                state: Some(state.clone()),
            }
        })
    };
    let head_bytes = registered.connections.limits.head_bytes;
    let mut http = http1::Builder::new();
    http.max_buf_size(head_bytes).half_close(false);
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(Watched::new(stream, state)), service));
    loop {
        tokio::select! {
            // Nearly always it is the caller or an answer.
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "a connection ended with an error");
                }
                return;
            }
            () = registered.connection.wake.notified() => {
                if registered.connection.cut.load(Ordering::Relaxed) {
                    return;
                }
                if registered.connection.stop.load(Ordering::Relaxed) {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

pin_project_lite::pin_project! {
    /// An answer on its way, which tells the sweep when its body has ended.
    struct Answering {
        inner: RouteFuture,
        state: Option<State>,
    }
}

impl Future for Answering {
    type Output = Result<http::Response<Counted>, crate::error::BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner.as_mut().poll(cx).map_ok(|mut response| {
            let state = this.state.take();
            if state.as_ref().is_some_and(State::is_leaving) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            response.map(|body| Counted {
                body,
                _ended: Ended(state),
            })
        })
    }
}

/// A body that tells the sweep when it has ended.
struct Counted {
    body: Body,
    _ended: Ended,
}

struct Ended(Option<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.set(IDLE);
        }
    }
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = crate::error::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells the sweep when bytes come, and when none can go.
struct Watched {
    stream: TcpStream,
    state: State,
    /// What comes after the last answer, once that is out.
    rest: Option<Rest>,
}

impl Watched {
    fn new(stream: TcpStream, state: State) -> Self {
        Self {
            stream,
            state,
            rest: None,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = buf.filled().len() - before;
        if came > 0 {
            self.state.saw_bytes(came)?;
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.state.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.state.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.rest.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            // In a drain nobody is waited for.
            if this.state.is_leaving() {
                return Poll::Ready(Ok(()));
            }
        }
        let rest = this.rest.get_or_insert_with(Rest::new);
        rest.poll_end(&mut this.stream, cx).map(Ok)
    }
}

/// What a caller still sends after the last answer.
struct Rest {
    left: usize,
    patience: Pin<Box<Sleep>>,
}

impl Rest {
    fn new() -> Self {
        Self {
            left: REST_BYTES,
            patience: Box::pin(tokio::time::sleep(REST_TIME)),
        }
    }

    /// Throws it away until its end, or until it is too much.
    fn poll_end(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        let mut thrown = [0; 16 * 1024];
        // So that the others get their turn.
        for _ in 0..16 {
            let mut buf = ReadBuf::new(&mut thrown);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.patience.as_mut().poll(cx),
            }
            self.left = self.left.saturating_sub(buf.filled().len());
            if self.left == 0 {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        self.patience.as_mut().poll(cx)
    }
}
