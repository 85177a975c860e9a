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

use super::connections::{Connections, IDLE, Registered, State};
pub use super::drain::Drain;

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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    struct Hello {
        over: tokio::sync::watch::Receiver<bool>,
        asked: Arc<Semaphore>,
        given_up: Arc<Semaphore>,
    }

    /// Adds a permit when it is dropped.
    struct OnDrop(Arc<Semaphore>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }

    impl Answer for Hello {
        fn answer(&self, request: http::Request<Incoming>, _: SocketAddr) -> RouteFuture {
            let over = self.over.clone();
            let given_up = self.given_up.clone();
            self.asked.add_permits(1);
            Box::pin(async move {
                if request.uri().path() == "/slow" {
                    let _given_up = OnDrop(given_up);
                    std::future::pending::<()>().await;
                }
                if request.uri().path() == "/polite" {
                    // It asks for no wake: only who ends the drain can poll it again.
                    std::future::poll_fn(|_| {
                        if *over.borrow() {
                            return Poll::Ready(());
                        }
                        Poll::Pending
                    })
                    .await;
                }
                let bytes = if request.uri().path() == "/big" {
                    Bytes::from(vec![b'x'; 32 << 20])
                } else {
                    Bytes::from_static(b"hello")
                };
                Ok(http::Response::new(Body::from(bytes)))
            })
        }
    }

    async fn start(limits: Limits) -> (SocketAddr, Drain, JoinHandle<()>) {
        let (address, drain, task, _) = start_asked(limits).await;
        (address, drain, task)
    }

    /// The same, and what is told of each request.
    async fn start_asked(limits: Limits) -> (SocketAddr, Drain, JoinHandle<()>, Arc<Hello>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let drain = Drain::default();
        let hello = Arc::new(Hello {
            over: drain.subscribe_end(),
            asked: Arc::new(Semaphore::new(0)),
            given_up: Arc::new(Semaphore::new(0)),
        });
        let task = tokio::spawn(serve(socket, hello.clone(), limits, drain.clone()));
        (address, drain, task, hello)
    }

    async fn get(stream: &mut TcpStream, path: &str) -> String {
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = vec![0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        let reading = stream.read_to_end(&mut rest);
        tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn rule_2_a_silent_a_slow_and_an_idle_connection_are_closed() {
        let short = Duration::from_secs(1);
        let limits = Limits {
            first_byte: short,
            head: short,
            idle: short,
            ..Limits::default()
        };
        let (address, _drain, _task) = start(limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut idle, "/").await.ends_with("hello"));
        assert!(
            is_closed(&mut silent).await
                && is_closed(&mut slow).await
                && is_closed(&mut idle).await
        );
    }

    #[tokio::test]
    async fn rule_1_above_the_cap_callers_wait() {
        let (address, _drain, _task) = start(Limits {
            connections: 1,
            ..Limits::default()
        })
        .await;
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut first, "/").await.ends_with("hello"));
        let mut second = TcpStream::connect(address).await.unwrap();
        second
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        drop(first);
        let mut answer = [0; 15];
        second.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn rule_1_one_address_has_its_share_and_no_more() {
        let (address, _drain, _task) = start(Limits {
            per_address: 1,
            ..Limits::default()
        })
        .await;
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut first, "/").await.ends_with("hello"));
        let mut second = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut second).await);
        assert!(get(&mut first, "/").await.ends_with("hello"));
        drop(first);
        // Its end has to be noticed first.
        for _ in 0..1000 {
            let mut third = TcpStream::connect(address).await.unwrap();
            let head = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
            let mut answer = [0; 15];
            if third.write_all(head).await.is_ok() && third.read_exact(&mut answer).await.is_ok() {
                return;
            }
        }
        panic!("the share did not come back");
    }

    #[tokio::test]
    async fn rule_3_unfinished_heads_share_a_bound_and_give_it_back() {
        let (address, _drain, _task) = start(Limits {
            unfinished_heads: 20 * 1024,
            ..Limits::default()
        })
        .await;
        let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(24 * 1024));
        let end = "\r\n\r\n";
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(long.as_bytes()).await.unwrap();
        // One more such head is 12 KiB too much. Whichever comes second is cut.
        let mut second = TcpStream::connect(address).await.unwrap();
        let _ = second.write_all(long.as_bytes()).await;
        let mut answers = Vec::new();
        for stream in [&mut first, &mut second] {
            let mut answer = [0; 15];
            let sent = stream.write_all(end.as_bytes()).await;
            let is_answered = sent.is_ok() && stream.read_exact(&mut answer).await.is_ok();
            answers.push(is_answered.then_some(answer));
        }
        assert_eq!(answers.iter().flatten().count(), 1, "{answers:?}");
        assert_eq!(answers.iter().flatten().next(), Some(b"HTTP/1.1 200 OK"));
        drop((first, second));
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all((long + end).as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        third.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn rule_3_a_head_that_does_not_end_is_431() {
        let (address, _drain, _task) = start(Limits {
            head_bytes: 8192,
            ..Limits::default()
        })
        .await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let line = format!("x: {}\r\n", "y".repeat(1000));
        for _ in 0..20 {
            if stream.write_all(line.as_bytes()).await.is_err() {
                break;
            }
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
    }

    #[tokio::test]
    async fn rule_3_a_head_that_has_ended_takes_nothing() {
        let (address, _drain, _task) = start(Limits {
            unfinished_heads: 60 * 1024,
            ..Limits::default()
        })
        .await;
        // Head and body in one piece, so that they are read together, on a connection whose buffer has grown.
        let body = "x".repeat(50 * 1024);
        let whole = |path: &str| {
            let length = body.len();
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
        };
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let mut caller = TcpStream::connect(address).await.unwrap();
            caller.write_all(whole("/slow").as_bytes()).await.unwrap();
            waiting.push(caller);
        }
        let mut caller = TcpStream::connect(address).await.unwrap();
        caller.write_all(whole("/").as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        caller.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn rule_4_drain_ends_idle_connections_and_polls_the_rest_before_it_cuts_them() {
        let (address, drain, task, hello) = start_asked(Limits::default()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut idle, "/").await.ends_with("hello"));
        let mut busy = TcpStream::connect(address).await.unwrap();
        let mut polite = TcpStream::connect(address).await.unwrap();
        for (stream, path) in [(&mut busy, "/slow"), (&mut polite, "/polite")] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
        }
        let _ = hello.asked.acquire_many(3).await.unwrap();
        drain.begin();
        assert!(is_closed(&mut idle).await);
        assert!(TcpStream::connect(address).await.is_err());
        drain.finish();
        task.await.unwrap();
        assert!(is_closed(&mut busy).await);
        let mut said = String::new();
        polite.read_to_string(&mut said).await.unwrap();
        assert!(
            said.contains("connection: close") && said.ends_with("hello"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn rule_4_who_still_sends_in_a_drain_is_answered_and_told() {
        let limits = Limits {
            farewell: Duration::from_hours(1),
            ..Limits::default()
        };
        let (address, drain, task) = start(limits).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut idle, "/").await.ends_with("hello"));
        drain.begin();
        assert!(eventually_refused(address).await);
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut said = String::new();
        idle.read_to_string(&mut said).await.unwrap();
        assert!(
            said.contains("connection: close") && said.ends_with("hello"),
            "{said}"
        );
        task.await.unwrap();
    }

    #[tokio::test]
    async fn rule_4_an_idle_connection_is_closed_after_the_farewell() {
        let limits = Limits {
            farewell: Duration::from_millis(40),
            ..Limits::default()
        };
        let (address, drain, task) = start(limits).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(get(&mut idle, "/").await.ends_with("hello"));
        drain.begin();
        assert!(is_closed(&mut idle).await);
        task.await.unwrap();
    }

    /// Whether connections are refused before long.
    async fn eventually_refused(address: SocketAddr) -> bool {
        for _ in 0..1000 {
            if TcpStream::connect(address).await.is_err() {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }

    #[tokio::test]
    async fn rule_5_a_caller_that_hangs_up_drops_its_call() {
        let (address, _drain, _task, hello) = start_asked(Limits::default()).await;
        let mut caller = TcpStream::connect(address).await.unwrap();
        let head = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n";
        caller.write_all(head).await.unwrap();
        let _ = hello.asked.acquire().await.unwrap();
        assert_eq!(hello.given_up.available_permits(), 0);
        drop(caller);
        let _ = hello.given_up.acquire().await.unwrap();
    }

    #[tokio::test]
    async fn rule_6_a_caller_that_does_not_read_loses_its_place() {
        let (address, _drain, _task) = start(Limits {
            connections: 1,
            write: Duration::from_secs(1),
            ..Limits::default()
        })
        .await;
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(20), get(&mut next, "/")).await;
        assert!(answered.unwrap().ends_with("hello"));
    }

    #[tokio::test]
    async fn rule_7_who_is_answered_early_can_read_it() {
        let (address, _drain, _task) = start(Limits::default()).await;
        let mut caller = TcpStream::connect(address).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8388608\r\n\r\n";
        caller.write_all(head).await.unwrap();
        // More than all buffers of the connection hold: without somebody who reads, it would be reset.
        caller.write_all(&vec![b'x'; 8 << 20]).await.unwrap();
        let mut said = String::new();
        caller.read_to_string(&mut said).await.unwrap();
        assert!(said.ends_with("hello"), "{said}");
    }

    #[tokio::test]
    async fn rule_7_and_not_for_ever() {
        let (address, _drain, _task) = start(Limits::default()).await;
        let mut caller = TcpStream::connect(address).await.unwrap();
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n";
        caller.write_all(head).await.unwrap();
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < 64 && caller.write_all(&piece).await.is_ok() {
            sent += 1;
        }
        assert!((16..64).contains(&sent), "{sent} MiB");
    }

    #[tokio::test]
    async fn rule_6_a_quiet_answer_is_not_a_caller_that_does_not_read() {
        let connections = Arc::new(Connections::new(Limits::default()));
        let registered = connections.add([127, 0, 0, 1].into()).unwrap();
        let state = registered.state();
        state.asked();
        let cut = || registered.connection.cut.load(Ordering::Relaxed);
        state.wrote(&Poll::Pending);
        state.wrote(&Poll::Ready(Ok(1)));
        for _ in 0..100 {
            connections.sweep();
        }
        assert!(!cut());
        state.wrote(&Poll::Pending);
        for _ in 0..60 {
            connections.sweep();
            state.wrote(&Poll::Pending);
        }
        assert!(!cut());
        connections.sweep();
        assert!(cut());
    }
}
