//! The peers of a sidecar: an upstream that is a script, and a client that is a socket.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::rig::{eventually, within};
use super::wire::{Era, LEGACY, Message, Request, find, json_answer, raw_answer, result, unchunk};

/// One connection, read message by message.
#[derive(Debug)]
pub(crate) struct Conn {
    /// The how manieth of its upstream.
    pub(crate) number: usize,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Conn {
    fn new(stream: TcpStream, number: usize) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            number,
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap(), 0)
    }

    /// Whether all of it could be written.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(read) if read > 0)
    }

    /// The next head; its body stays in the buffer.
    pub(crate) async fn head(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = Message::head(&String::from_utf8_lossy(&self.buffer[..end]));
                self.buffer.drain(..end + 4);
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next message, to the end of its body; none if the connection ends before it begins.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        if message.is_chunked() {
            while !unchunk(&self.buffer).1 {
                if !self.more().await {
                    break;
                }
            }
            message.body = unchunk(&self.buffer).0;
            let end = find(&self.buffer, b"0\r\n\r\n").map_or(self.buffer.len(), |at| at + 5);
            self.buffer.drain(..end);
            return Some(message);
        }
        let length = message.content_length();
        while self.buffer.len() < length {
            if !self.more().await {
                break;
            }
        }
        message.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        Some(message)
    }

    /// Reads until this text has come; all that was read and not taken yet.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let reading = async {
            while find(&self.buffer, text.as_bytes()).is_none() {
                assert!(
                    self.more().await,
                    "ended without {text:?}: {:?}",
                    String::from_utf8_lossy(&self.buffer)
                );
            }
        };
        within(reading).await;
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// All that comes until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        within(async { while self.more().await {} }).await;
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads and forgets so many bytes; whether there were as many.
    pub(crate) async fn skip(&mut self, bytes: usize) -> bool {
        let mut skipped = 0;
        while skipped < bytes {
            if !self.more().await {
                return false;
            }
            skipped += self.buffer.len();
            self.buffer.clear();
        }
        true
    }

    /// Reads and forgets until the other side closes.
    pub(crate) async fn closed(&mut self) {
        while self.more().await {
            self.buffer.clear();
        }
    }
}

/// What an upstream saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) request: Message,
}

/// What an upstream does with a request that it does not answer by itself: `None` ends the connection.
type Hook = Arc<dyn Fn(Message, Conn) -> Served + Send + Sync>;
pub(crate) type Served = Pin<Box<dyn Future<Output = Option<Conn>> + Send>>;

/// An MCP server of both eras, for what tests do not care about; a script for the rest.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    closed: Arc<Mutex<Vec<usize>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    /// Answers `initialize`, notifications, DELETE, and calls of the tool `echo`; all else is the hook's.
    pub(crate) async fn start<F, S>(hook: F) -> Self
    where
        F: Fn(Message, Conn) -> S + Send + Sync + 'static,
        S: Future<Output = Option<Conn>> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |request, conn| Box::pin(hook(request, conn)));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let closed = Arc::new(Mutex::new(Vec::new()));
        let task = {
            let (seen, closed) = (seen.clone(), closed.clone());
            tokio::spawn(async move {
                let mut connections = tokio::task::JoinSet::new();
                for number in 1.. {
                    let (stream, _) = socket.accept().await.unwrap();
                    let (hook, seen, closed) = (hook.clone(), seen.clone(), closed.clone());
                    connections.spawn(async move {
                        serve(Conn::new(stream, number), hook, &seen).await;
                        closed.lock().unwrap().push(number);
                    });
                }
            })
        };
        Self {
            address,
            seen,
            closed,
            task,
        }
    }

    /// All requests with this JSON-RPC method, or HTTP method, so far.
    pub(crate) fn seen(&self, method: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        let is_it = |seen: &&Seen| {
            seen.request.method() == method || seen.request.line.starts_with(&format!("{method} "))
        };
        seen.iter().filter(is_it).cloned().collect()
    }

    /// Waits for the first request with this method.
    pub(crate) async fn saw(&self, method: &str) -> Seen {
        eventually(&format!("the upstream sees {method}"), || {
            self.seen(method).first().cloned()
        })
        .await
    }

    /// Waits until this connection has been closed by the sidecar.
    pub(crate) async fn saw_close(&self, connection: usize) {
        eventually("the upstream sees the close", || {
            self.has_closed(connection).then_some(())
        })
        .await;
    }

    pub(crate) fn has_closed(&self, connection: usize) -> bool {
        self.closed.lock().unwrap().contains(&connection)
    }
}

async fn serve(mut conn: Conn, hook: Hook, seen: &Mutex<Vec<Seen>>) {
    while let Some(request) = conn.message().await {
        seen.lock().unwrap().push(Seen {
            connection: conn.number,
            request: request.clone(),
        });
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let answer = match body["method"].as_str() {
            Some("initialize") => initialized(&body["id"]),
            Some(method) if method.starts_with("notifications/") => {
                raw_answer("202 Accepted", "", "")
            }
            Some("tools/call") if body["params"]["name"] == "echo" => {
                json_answer(&result(&body["id"]))
            }
            None if request.line.starts_with("DELETE") => raw_answer("200 OK", "", ""),
            _ => match hook(request, conn).await {
                Some(kept) => {
                    conn = kept;
                    continue;
                }
                None => return,
            },
        };
        if !conn.send(answer).await {
            return;
        }
    }
}

fn initialized(id: &Value) -> String {
    let result = json!({"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": {"name": "up", "version": "1"}});
    raw_answer(
        "200 OK",
        "content-type: application/json\r\nmcp-session-id: up-1\r\n",
        &json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string(),
    )
}

/// A client of a sidecar; each request has a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) era: Era,
    pub(crate) session: Option<String>,
}

impl Client {
    /// A modern client, or a legacy one in a session of its own.
    pub(crate) async fn connect(address: SocketAddr, era: Era) -> Self {
        let mut client = Self {
            address,
            era,
            session: None,
        };
        if era == Era::Legacy {
            let answer = client.send(&Request::initialize()).await;
            client.session = answer.header("mcp-session-id").map(str::to_owned);
            assert!(client.session.is_some(), "no session: {answer:?}");
        }
        client
    }

    /// A call of a tool, as this client makes it.
    pub(crate) fn tool(&self, id: &Value, name: &str) -> Request {
        self.request(id, "tools/call", json!({"name": name, "arguments": {}}))
    }

    pub(crate) fn request(&self, id: &Value, method: &str, params: Value) -> Request {
        match self.era {
            Era::Modern => Request::modern(id, method, params),
            Era::Legacy => Request::legacy(
                self.session.as_deref(),
                &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
            ),
        }
    }

    /// Sends, and leaves the answer to be read.
    pub(crate) async fn open(&self, request: &Request) -> Conn {
        let mut conn = Conn::to(self.address).await;
        assert!(conn.send(request.bytes()).await);
        conn
    }

    /// Sends, and reads the whole answer.
    pub(crate) async fn send(&self, request: &Request) -> Message {
        let mut conn = self.open(request).await;
        within(conn.message()).await.expect("no answer")
    }

    /// Calls the tool that hostile servers answer in their way.
    pub(crate) async fn bad(&self) -> Message {
        self.send(&self.tool(&json!("bad-1"), "bad")).await
    }

    /// Calls the tool that always works, and is answered.
    pub(crate) async fn echo(&self) {
        let answer = self.send(&self.tool(&json!("well"), "echo")).await;
        assert_eq!(
            (answer.status(), &answer.json()["id"]),
            (200, &json!("well")),
            "{answer:?}"
        );
        assert!(answer.json()["result"].is_object(), "{answer:?}");
    }
}

/// Lets a script go on when its test says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Notify>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn opened(&self) {
        self.0.notified().await;
    }

    /// Whether it was opened before the peer closed.
    pub(crate) async fn opened_before_close(&self, conn: &mut Conn) -> bool {
        tokio::select! {
            () = self.opened() => true,
            () = conn.closed() => false,
        }
    }
}

/// How long a condition may take to become true, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
