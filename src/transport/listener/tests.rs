//! The contract's rules, on real sockets.

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
        is_closed(&mut silent).await && is_closed(&mut slow).await && is_closed(&mut idle).await
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

/// A connection whose last answer is out, and whether it is closed at once, though its caller may still send.
async fn closes_at_once(connections: &Arc<Connections>) -> bool {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let _caller = TcpStream::connect(address).await.unwrap();
    let (stream, peer) = socket.accept().await.unwrap();
    let registered = connections.add(peer.ip()).unwrap();
    let mut watched = Watched::new(stream, registered.state());
    let shutdown = std::future::poll_fn(|cx| Pin::new(&mut watched).poll_shutdown(cx));
    tokio_test::task::spawn(shutdown).poll().is_ready()
}

#[tokio::test]
async fn rule_7_in_a_drain_nobody_is_waited_for() {
    let connections = Arc::new(Connections::new(Limits::default()));
    assert!(!closes_at_once(&connections).await);
    let mut leaving = tokio_test::task::spawn(connections.leave());
    assert!(leaving.poll().is_pending());
    assert!(closes_at_once(&connections).await);
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
