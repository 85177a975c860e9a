use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Version, header};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tower::ServiceExt;

use super::*;
use crate::error::{Cause, Failure, Phase};
use crate::facts::Facts;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// What one connection of a server says.
struct Peer<T> {
    io: T,
    buffer: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Peer<T> {
    fn new(io: T) -> Self {
        Self {
            io,
            buffer: Vec::new(),
        }
    }

    /// The next request, head and body, or nothing if the client closed.
    async fn request(&mut self) -> Option<String> {
        loop {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length: usize = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if body.len() >= length {
                    let end = head.len() + 4 + length;
                    self.buffer.drain(..end);
                    return Some(text[..end].to_owned());
                }
            }
            if self.io.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn say(&mut self, text: &str) {
        // The client may be gone, which is then what the test is about.
        let _ = self.io.write_all(text.as_bytes()).await;
        let _ = self.io.flush().await;
    }
}

/// A server on a port of its own that plays `script` on each connection.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Peer<TcpStream>, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(Peer::new(stream), number));
            }
        });
        Self { address, accepted }
    }

    /// One that says `answer` to every request.
    async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut peer, _| async move {
            while peer.request().await.is_some() {
                peer.say(answer).await;
            }
        })
        .await
    }

    /// One that says `answer` to the first request of a connection, and closes.
    async fn closing_after(answer: String) -> Self {
        Self::start(move |mut peer, _| {
            let answer = answer.clone();
            async move {
                peer.request().await;
                peer.say(&answer).await;
            }
        })
        .await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn connector(&self, change: impl FnOnce(&mut ConnectorParams)) -> Connector {
        connector(&format!("http://{}/mcp", self.address), change)
    }
}

fn connector(url: &str, change: impl FnOnce(&mut ConnectorParams)) -> Connector {
    let mut params = ConnectorParams::default();
    change(&mut params);
    let endpoint = Endpoint::new(url, PlaintextPolicy::LoopbackOnly).unwrap();
    Connector::new(endpoint, params).unwrap()
}

fn post(body: &'static str) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    Request::post("/mcp").body(body).unwrap()
}

fn get() -> Request<Full<Bytes>> {
    Request::get("/mcp").body(Full::default()).unwrap()
}

async fn ask(connector: &Connector, request: Request<Full<Bytes>>) -> Response<ConnectionBody> {
    connector.clone().oneshot(request).await.unwrap()
}

async fn read(response: Response<ConnectionBody>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// The failure of the answer, or of its body.
async fn failure(connector: &Connector) -> Failure {
    let error = match connector.clone().oneshot(post("{}")).await {
        Err(error) => error,
        Ok(response) => response.into_body().collect().await.unwrap_err(),
    };
    let failure = Failure::from_error(error);
    assert_eq!(
        failure.origin(),
        Some(connector.endpoint().origin()),
        "rule 4: an origin"
    );
    failure
}

async fn cause(connector: &Connector) -> (Cause, Phase) {
    let failure = failure(connector).await;
    (failure.cause(), failure.phase())
}

async fn connector_to_nobody() -> Connector {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    connector(&format!("http://{address}/"), |_| ())
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let patience = async {
        while !is_so() {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), patience)
        .await
        .expect("it did not come to be so");
}

#[tokio::test]
async fn a_request_is_written_as_http_1_1_with_host_and_one_length() {
    let server = Server::start(|mut peer, _| async move {
        let request = peer.request().await.unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{request}",
            request.len()
        );
        peer.say(&answer).await;
    })
    .await;
    let connector = server.connector(|_| ());
    let mut request = post(r#"{"a":1}"#);
    *request.uri_mut() = "http://elsewhere/mcp?q=1".parse().unwrap();
    *request.version_mut() = Version::HTTP_10;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_LENGTH, "99".parse().unwrap());
    headers.insert(header::TRANSFER_ENCODING, "chunked".parse().unwrap());
    let seen = read(ask(&connector, request).await).await;
    let expected = format!(
        "POST /mcp?q=1 HTTP/1.1\r\nhost: {}\r\ncontent-length: 7\r\n\r\n{{\"a\":1}}",
        server.address
    );
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn rule_3_an_answer_read_to_its_end_frees_its_connection() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|_| ());
    for _ in 0..5 {
        assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
    }
    assert_eq!(server.accepted(), 1);
    let stats = connector.stats();
    assert_eq!((stats.open, stats.idle, stats.in_use), (1, 1, 0));
}

#[tokio::test]
async fn an_upstreams_reason_phrase_does_not_cross() {
    let answer = "HTTP/1.1 200 Internal-Host-7\r\ncontent-length: 2\r\n\r\n{}";
    let server = Server::answering(answer).await;
    let response = ask(&server.connector(|_| ()), post("{}")).await;
    assert!(response.extensions().is_empty());
}

#[tokio::test]
async fn rule_3_the_last_byte_is_the_end_even_if_nobody_polls_behind_it() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|_| ());
    let mut body = ask(&connector, post("{}")).await.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "{}");
    assert!(http_body::Body::is_end_stream(&body));
    assert_eq!(connector.stats().idle, 1);
    let empty = Server::answering("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
    let connector = empty.connector(|_| ());
    let response = ask(&connector, post("{}")).await;
    assert_eq!(connector.stats().idle, 1);
    drop(response);
}

#[tokio::test]
async fn rule_3_a_connection_closed_while_idle_is_not_used() {
    let server = Server::closing_after(OK.to_owned()).await;
    let connector = server.connector(|_| ());
    for round in 1..=3 {
        assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
        assert_eq!(server.accepted(), round);
        until(|| connector.stats().idle == 0).await;
    }
}

/// The server answers and hangs up while the next request may be on its way: whatever the client does, no request
/// arrives twice, and none that was answered is reported as failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_1_no_call_is_ever_sent_twice() {
    let arrived: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let seen = Arc::clone(&arrived);
    let server = Server::start(move |mut peer, number| {
        let seen = Arc::clone(&seen);
        async move {
            let mut answers = number % 3 + 1;
            while let Some(request) = peer.request().await {
                let id = request.rsplit("\r\n").next().unwrap().to_owned();
                *seen.lock().unwrap().entry(id).or_default() += 1;
                if answers > 0 {
                    peer.say(OK).await;
                    answers -= 1;
                }
                if answers == 0 {
                    let _ = peer.io.shutdown().await;
                }
            }
        }
    })
    .await;
    let connector = server.connector(|_| ());
    let mut answered = 0;
    for round in 0..300 {
        let id = format!("call-{round}");
        let request = Request::post("/")
            .body(Full::new(Bytes::from(id.clone())))
            .unwrap();
        match connector.clone().oneshot(request).await {
            Ok(response) => {
                assert_eq!(read(response).await, "{}");
                assert_eq!(arrived.lock().unwrap().get(&id), Some(&1));
                answered += 1;
            }
            Err(error) => {
                let failure = Failure::from_error(error);
                assert_eq!(
                    (failure.cause(), failure.phase()),
                    (Cause::ConnectionLost, Phase::Sent)
                );
            }
        }
    }
    assert!(answered > 100, "{answered}");
    assert!(arrived.lock().unwrap().values().all(|&times| times == 1));
}

#[tokio::test]
async fn rule_3_dropping_the_future_or_the_body_closes_the_connection() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&closed);
    let server = Server::start(move |mut peer, number| {
        let counter = Arc::clone(&counter);
        async move {
            peer.request().await;
            if number == 1 {
                peer.say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
                    .await;
            }
            assert_eq!(peer.request().await, None);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let connector = server.connector(|_| ());
    let waiting = tokio::spawn(connector.clone().oneshot(post("{}")));
    until(|| server.accepted() == 1).await;
    waiting.abort();
    until(|| closed.load(Ordering::SeqCst) == 1).await;
    let mut body = ask(&connector, post("{}")).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    until(|| closed.load(Ordering::SeqCst) == 2).await;
    until(|| connector.stats() == ConnectorStats::default()).await;
}

#[tokio::test]
async fn s0_22_the_cap_is_hard_and_waiting_is_bounded() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|p| {
        p.max = 2;
        p.acquire = Some(Duration::from_millis(20));
    });
    let first = ask(&connector, post("{}")).await;
    let second = ask(&connector, post("{}")).await;
    assert_eq!(
        cause(&connector).await,
        (Cause::PoolExhausted, Phase::Unsent)
    );
    assert_eq!(connector.stats().in_use, 2);
    drop(first);
    read(ask(&connector, post("{}")).await).await;
    drop(second);
    assert!(server.accepted() <= 3);
}

#[tokio::test]
async fn rule_2_who_waits_gets_the_connection_that_is_freed_in_order() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|p| p.max = 1);
    let held = ask(&connector, post("{}")).await;
    let ask_later = |connector: &Connector| {
        let connector = connector.clone();
        tokio::spawn(async move { read(ask(&connector, post("{}")).await).await })
    };
    let gone = ask_later(&connector);
    until(|| connector.stats().waiting == 1).await;
    let second = ask_later(&connector);
    until(|| connector.stats().waiting == 2).await;
    gone.abort();
    until(|| connector.stats().waiting == 1).await;
    read(held).await;
    assert_eq!(second.await.unwrap(), "{}");
    assert_eq!(server.accepted(), 1);
    assert_eq!(connector.stats().in_use, 0);
}

#[tokio::test]
async fn rule_2_a_queue_that_is_full_refuses_at_once() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|p| {
        p.max = 1;
        p.max_waiting = 0;
    });
    let held = ask(&connector, post("{}")).await;
    assert_eq!(
        cause(&connector).await,
        (Cause::PoolExhausted, Phase::Unsent)
    );
    drop(held);
}

#[tokio::test]
async fn s0_22_idle_connections_are_capped() {
    let defaults = ConnectorParams::default();
    assert_eq!((defaults.max, defaults.max_idle), (100, 20));
    let server = Server::answering(OK).await;
    let connector = server.connector(|p| {
        p.max_idle = 2;
        p.surplus_time = Duration::from_millis(10);
    });
    burst(&connector).await;
    until(|| connector.stats().open == 2).await;
    assert_eq!(
        connector.stats(),
        ConnectorStats {
            open: 2,
            idle: 2,
            ..Default::default()
        }
    );
}

#[tokio::test]
async fn rule_3_a_burst_does_not_connect_anew_for_the_next() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|p| p.max_idle = 2);
    burst(&connector).await;
    burst(&connector).await;
    assert_eq!(server.accepted(), 4);
    let none = server.connector(|p| p.max_idle = 0);
    read(ask(&none, post("{}")).await).await;
    assert_eq!(none.stats(), ConnectorStats::default());
}

/// Four calls at once.
async fn burst(connector: &Connector) {
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(ask(connector, post("{}")).await);
    }
    for answer in answers {
        read(answer).await;
    }
}

#[tokio::test]
async fn rule_3_old_connections_are_not_used() {
    let server = Server::answering(OK).await;
    for change in [
        (|p| p.max_age = Duration::ZERO) as fn(&mut ConnectorParams),
        |p| p.max_idle_time = Duration::ZERO,
    ] {
        let before = server.accepted();
        let connector = server.connector(change);
        read(ask(&connector, post("{}")).await).await;
        read(ask(&connector, post("{}")).await).await;
        assert_eq!(server.accepted(), before + 2);
    }
}

#[tokio::test]
async fn rule_3_the_upstreams_keep_alive_is_obeyed() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\n{}",
    )
    .await;
    let connector = server.connector(|_| ());
    read(ask(&connector, post("{}")).await).await;
    read(ask(&connector, post("{}")).await).await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn rule_2_streams_have_a_cap_of_their_own() {
    let server = Server::start(|mut peer, _| async move {
        while let Some(request) = peer.request().await {
            if request.starts_with("GET") {
                peer.say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                    .await;
            } else {
                peer.say(OK).await;
            }
        }
    })
    .await;
    let connector = server.connector(|p| {
        p.max = 1;
        p.streams = 3;
    });
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(ask(&connector, get()).await);
    }
    assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
    let error = connector.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(Failure::from_error(error).cause(), Cause::StreamsExhausted);
    assert_eq!(connector.stats().streams, 3);
    streams.clear();
    until(|| connector.stats().streams == 0).await;
}

#[tokio::test]
async fn rule_4_hostile_answers_are_typed_failures() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(100_000));
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20));
    for (answer, expected) in [
        ("", Cause::ConnectionLost),
        ("HTTP/1.1 200 O", Cause::ConnectionLost),
        ("HTTP/1.1 200 OK\r\nx: y\r\n", Cause::ConnectionLost),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            Cause::ConnectionLost,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
            Cause::ConnectionLost,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            Cause::BadResponse,
        ),
        ("garbage garbage\r\n\r\n", Cause::BadResponse),
        ("\0\x01\x02\r\n\r\n", Cause::BadResponse),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", Cause::BadResponse),
        ("HTTP/2.0 200 OK\r\n\r\n", Cause::BadResponse),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            Cause::BadResponse,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            Cause::BadResponse,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            Cause::BadResponse,
        ),
        (endless.as_str(), Cause::BadResponse),
        (long.as_str(), Cause::BadResponse),
    ] {
        let server = Server::closing_after(answer.to_owned()).await;
        let connector = server.connector(|_| ());
        let shown: String = answer.chars().take(60).collect();
        assert_eq!(
            cause(&connector).await,
            (expected, Phase::Sent),
            "{shown:?}"
        );
        assert_eq!(server.accepted(), 1, "sent once: {shown:?}");
        assert_eq!(connector.stats(), ConnectorStats::default());
    }
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_is_an_answer() {
    let server = Server::start(|mut peer, _| async move {
        let mut some = [0; 16];
        peer.io.read_exact(&mut some).await.unwrap();
        peer.say("HTTP/1.1 413 x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno")
            .await;
        // Reads on, as a server must that wants its answer to arrive.
        while peer.io.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let connector = server.connector(|_| ());
    let body = Full::new(Bytes::from(vec![b' '; 8 << 20]));
    let request = Request::post("/mcp").body(body).unwrap();
    let response = ask(&connector, request).await;
    assert_eq!(response.status(), 413);
    assert_eq!(read(response).await, "no");
}

#[tokio::test]
async fn rule_3_bytes_after_the_answer_close_the_connection() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\nsmuggled",
    )
    .await;
    let connector = server.connector(|_| ());
    for round in 1..=3 {
        assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
        until(|| connector.stats().idle == 0).await;
        assert_eq!(server.accepted(), round);
    }
}

#[tokio::test]
async fn s0_21_s1_23_failures_to_connect_are_typed() {
    assert_eq!(ConnectorParams::default().connect, Duration::from_secs(10));
    let refused = connector_to_nobody().await;
    assert_eq!(
        cause(&refused).await,
        (Cause::ConnectionRefused, Phase::Unsent)
    );
    // A label of 64 letters is refused without asking anybody.
    let url = format!("http://{}.invalid/", "a".repeat(64));
    let nowhere = Endpoint::new(&url, PlaintextPolicy::Allow).unwrap();
    let unknown = Connector::new(nowhere, ConnectorParams::default()).unwrap();
    assert_eq!(cause(&unknown).await, (Cause::Dns, Phase::Unsent));
    // The handshake never comes: the kernel takes the connection, nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let slow = connector(&url, |p| p.connect = Duration::from_millis(50));
    assert_eq!(cause(&slow).await, (Cause::ConnectTimeout, Phase::Unsent));
    let plain = Server::start(|mut peer, _| async move {
        let mut hello = [0; 5];
        peer.io.read_exact(&mut hello).await.unwrap();
        peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let no_tls = connector(&format!("https://{}/", plain.address), |_| ());
    assert_eq!(cause(&no_tls).await, (Cause::TlsHandshake, Phase::Unsent));
    assert_eq!(refused.stats(), ConnectorStats::default());
}

#[tokio::test]
async fn rule_5_a_redirect_within_the_origin_is_followed_once() {
    let server = Server::start(|mut peer, _| async move {
        while let Some(request) = peer.request().await {
            if request.starts_with("POST /mcp/ ") {
                assert!(request.contains("authorization: Bearer t\r\n"));
                assert!(request.ends_with("{\"a\":1}"));
                peer.say(OK).await;
            } else {
                peer.say("HTTP/1.1 307 Temporary Redirect\r\nlocation: /mcp/\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let connector = server.connector(|_| ());
    for _ in 0..3 {
        let mut request = post("{\"a\":1}");
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, "Bearer t".parse().unwrap());
        assert_eq!(read(ask(&connector, request).await).await, "{}");
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn c90_rule_5_other_redirects_fail_and_nothing_goes_elsewhere() {
    let other = Server::answering(OK).await;
    for (status, location) in [
        ("307 x", format!("http://{}/mcp", other.address)),
        ("308 x", format!("//{}/mcp", other.address)),
        ("307 x", "/mcp".to_owned()),
        ("301 x", "/elsewhere".to_owned()),
        ("302 x", "/login".to_owned()),
        ("303 x", "/login".to_owned()),
    ] {
        let answer =
            format!("HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let server = Server::start(move |mut peer, _| {
            let answer = answer.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.say(&answer).await;
                }
            }
        })
        .await;
        let connector = server.connector(|_| ());
        assert_eq!(
            cause(&connector).await,
            (Cause::Redirected, Phase::Answered),
            "{status} {location}"
        );
    }
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn rule_5_a_redirect_after_answers_may_be_repeated_and_is_then_followed() {
    let server = Server::start(|mut peer, _| async move {
        let mut is_first = true;
        while let Some(request) = peer.request().await {
            if std::mem::take(&mut is_first) || request.starts_with("POST /new ") {
                peer.say(OK).await;
            } else {
                peer.say("HTTP/1.1 308 x\r\nlocation: /new\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let connector = server.connector(|_| ());
    read(ask(&connector, post("{}")).await).await;
    assert_eq!(cause(&connector).await, (Cause::Redirected, Phase::Unsent));
    assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
}

#[tokio::test]
async fn rule_3_idle_connections_are_closed_in_time_without_another_call() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&closed);
    let server = Server::start(move |mut peer, _| {
        let counter = Arc::clone(&counter);
        async move {
            while peer.request().await.is_some() {
                peer.say(OK).await;
            }
            counter.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let connector = server.connector(|p| p.max_idle_time = Duration::from_millis(10));
    read(ask(&connector, post("{}")).await).await;
    until(|| closed.load(Ordering::SeqCst) == 1).await;
    assert_eq!(connector.stats(), ConnectorStats::default());
}

#[tokio::test]
async fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
    let server = Server::answering(OK).await;
    // TEST-NET-1: nobody is there.
    let addresses = vec!["192.0.2.1:9".parse().unwrap(), server.address];
    assert_eq!(
        dial::race(addresses).await.unwrap().peer_addr().unwrap(),
        server.address
    );
}

#[tokio::test]
async fn facts_say_what_may_have_arrived() {
    let server = Server::answering(OK).await;
    let connector = server.connector(|_| ());
    let mut request = post("{}");
    let facts = Facts::of(&mut request);
    read(ask(&connector, request).await).await;
    assert_eq!(facts.sent(), 1);
    let refused = connector_to_nobody().await;
    let mut request = post("{}");
    let facts = Facts::of(&mut request);
    assert!(refused.oneshot(request).await.is_err());
    assert_eq!(facts.sent(), 0);
}

#[tokio::test]
async fn rule_6_the_future_is_small_on_the_hot_path() {
    let server = Server::answering(OK).await;
    let mut connector = server.connector(|_| ());
    read(ask(&connector, post("{}")).await).await;
    let future = connector.call(post("{}"));
    assert!(size_of_val(&*future.0) <= 512);
}

mod tls {
    use std::path::PathBuf;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
    };
    use rustls::ServerConfig;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn file(&self) -> PathBuf {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::SeqCst);
            let name = format!("outrigger-ca-{}-{number}.pem", std::process::id());
            let file = std::env::temp_dir().join(name);
            std::fs::write(&file, self.0.pem()).unwrap();
            file
        }

        /// A TLS server with a certificate for `name`, and the protocols that clients offered it.
        async fn serve(&self, name: &str, is_expired: bool) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            if is_expired {
                params.not_after = date_time_ymd(2020, 1, 1);
            }
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![CertificateDer::from(certificate)],
                    PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                )
                .unwrap();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let spoken: Arc<Mutex<Vec<u8>>> = Arc::default();
            let chosen = Arc::clone(&spoken);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        continue;
                    };
                    let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default();
                    *chosen.lock().unwrap() = alpn.to_vec();
                    let mut peer = Peer::new(stream);
                    tokio::spawn(async move {
                        while peer.request().await.is_some() {
                            peer.say(OK).await;
                        }
                    });
                }
            });
            (address, spoken)
        }
    }

    fn to(address: SocketAddr, tls: TlsParams) -> Connector {
        connector(&format!("https://localhost:{}/mcp", address.port()), |p| {
            p.tls = tls;
        })
    }

    #[tokio::test]
    async fn s0_25_s1_12_the_ca_file_decides() {
        let authority = Authority::new();
        let (address, spoken) = authority.serve("localhost", false).await;
        let trusting = to(address, TlsParams::default().with_ca_file(authority.file()));
        assert_eq!(read(ask(&trusting, post("{}")).await).await, "{}");
        assert_eq!(*spoken.lock().unwrap(), b"http/1.1");
        let system = to(address, TlsParams::default());
        let failure = failure(&system).await;
        assert_eq!(
            (failure.cause(), failure.phase()),
            (Cause::TlsCertificate, Phase::Unsent)
        );
        let source = std::error::Error::source(&failure).unwrap().to_string();
        assert!(source.contains("UnknownIssuer"), "{source}");
        let other = to(
            address,
            TlsParams::default().with_ca_file(Authority::new().file()),
        );
        assert_eq!(cause(&other).await.0, Cause::TlsCertificate);
    }

    #[tokio::test]
    async fn rule_7_a_changed_ca_file_counts_for_new_connections() {
        let (old, new) = (Authority::new(), Authority::new());
        let (address, _) = new.serve("localhost", false).await;
        let connector = to(address, TlsParams::default().with_ca_file(old.file()));
        assert_eq!(cause(&connector).await.0, Cause::TlsCertificate);
        let both = format!("{}{}", old.0.pem(), new.0.pem());
        connector.trust(both.as_bytes()).unwrap();
        assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
        assert_eq!(connector.stats().idle, 1);

        // Whoever is trusted no more serves what has begun, and then nothing: neither an idle connection nor a busy one.
        let begun = ask(&connector, post("{}")).await;
        connector.trust(old.0.pem().as_bytes()).unwrap();
        assert_eq!(read(begun).await, "{}");
        assert_eq!(connector.stats().open, 0);
        assert_eq!(cause(&connector).await.0, Cause::TlsCertificate);
        connector.trust(both.as_bytes()).unwrap();
        read(ask(&connector, post("{}")).await).await;
        connector.trust(old.0.pem().as_bytes()).unwrap();
        assert_eq!(connector.stats().open, 0);
    }

    #[tokio::test]
    async fn rule_7_a_file_that_is_none_changes_nothing() {
        let authority = Authority::new();
        let (address, _) = authority.serve("localhost", false).await;
        let connector = to(address, TlsParams::default().with_ca_file(authority.file()));
        read(ask(&connector, post("{}")).await).await;
        let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        for none in ["", "no PEM", broken] {
            assert!(connector.trust(none.as_bytes()).is_err(), "{none}");
        }
        assert_eq!(connector.stats().idle, 1);
        assert_eq!(read(ask(&connector, post("{}")).await).await, "{}");
    }

    #[tokio::test]
    async fn s1_23_an_expired_certificate_and_anothers_are_certificate_problems() {
        let authority = Authority::new();
        let tls = TlsParams::default().with_ca_file(authority.file());
        for (name, is_expired, reason) in [
            ("localhost", true, "expired"),
            ("other.example", false, "not valid for name"),
        ] {
            let (address, _) = authority.serve(name, is_expired).await;
            let failure = failure(&to(address, tls.clone())).await;
            assert_eq!(failure.cause(), Cause::TlsCertificate);
            let source = std::error::Error::source(&failure).unwrap().to_string();
            assert!(source.contains(reason), "{source}");
        }
    }

    #[tokio::test]
    async fn s1_14_insecure_takes_any_certificate_and_says_so() {
        let (address, _) = Authority::new().serve("other.example", true).await;
        let insecure = to(
            address,
            TlsParams::default().with_insecure_skip_verify(true),
        );
        assert_eq!(read(ask(&insecure, post("{}")).await).await, "{}");
        assert!(format!("{insecure:?}").contains("INSECURE"));
    }

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn s1_14_insecure_is_warned_of_when_it_is_set_up() {
        let count = Arc::new(AtomicUsize::new(0));
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        tracing::subscriber::with_default(Warnings(Arc::clone(&count)), || {
            let _ = to(address, TlsParams::default());
            assert_eq!(count.load(Ordering::SeqCst), 0);
            let _ = to(
                address,
                TlsParams::default().with_insecure_skip_verify(true),
            );
            assert_eq!(count.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn a_ca_file_that_is_none_is_an_error_with_its_name() {
        let endpoint = Endpoint::new("https://h/", PlaintextPolicy::LoopbackOnly).unwrap();
        let empty =
            std::env::temp_dir().join(format!("outrigger-empty-{}.pem", std::process::id()));
        std::fs::write(&empty, "nothing").unwrap();
        for file in [PathBuf::from("/does/not/exist.pem"), empty] {
            let params = ConnectorParams {
                tls: TlsParams::default().with_ca_file(&file),
                ..ConnectorParams::default()
            };
            let error = Connector::new(endpoint.clone(), params).unwrap_err();
            assert!(error.to_string().contains(file.to_str().unwrap()));
        }
    }
}
