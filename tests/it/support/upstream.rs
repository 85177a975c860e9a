//! A server over TCP: records every byte that it was sent, and answers as told.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::eventually;
use super::http1::{Framing, Head};

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The request line and headers.
    pub(crate) head: Head,
    /// The body, without its framing.
    pub(crate) body: Vec<u8>,
    /// On which connection it came, from 0.
    pub(crate) connection: usize,
}

impl Seen {
    /// The request's target.
    pub(crate) fn target(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as JSON, null where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The MCP method; empty where there is none.
    pub(crate) fn method(&self) -> String {
        self.json()["method"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The id, as the body spells it.
    pub(crate) fn id(&self) -> String {
        self.json()["id"].to_string()
    }
}

/// What an upstream answers.
#[derive(Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Whole(Vec<u8>),
    Pieces(mpsc::UnboundedReceiver<Vec<u8>>),
    Raw(Vec<u8>),
    Nothing,
    Never,
}

impl Reply {
    /// A status without a body.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: Content::Whole(Vec::new()),
        }
    }

    /// 200 with a JSON body.
    pub(crate) fn json(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200)
            .header("content-type", "application/json")
            .body(body)
    }

    /// 200 with a stream of events that is all there.
    pub(crate) fn sse(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200)
            .header("content-type", "text/event-stream")
            .body(body)
    }

    /// 200 with a stream of events that come when they are sent, and end when the sender is dropped.
    pub(crate) fn events() -> (mpsc::UnboundedSender<Vec<u8>>, Self) {
        let (sender, pieces) = mpsc::unbounded_channel();
        let mut reply = Self::sse("");
        reply.content = Content::Pieces(pieces);
        (sender, reply)
    }

    /// 200 with a stream of events whose bytes come in pieces of that size, wherever that cuts them.
    pub(crate) fn sse_in_pieces(body: &[u8], size: usize) -> Self {
        let (sender, reply) = Self::events();
        for piece in body.chunks(size) {
            sender.send(piece.to_vec()).unwrap();
        }
        reply
    }

    /// These very bytes; then the connection is closed.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        let mut reply = Self::status(0);
        reply.content = Content::Raw(bytes.into());
        reply
    }

    /// The connection is closed without an answer.
    pub(crate) fn close() -> Self {
        let mut reply = Self::status(0);
        reply.content = Content::Nothing;
        reply
    }

    /// Nothing, for as long as the caller holds the connection.
    pub(crate) fn never() -> Self {
        let mut reply = Self::status(0);
        reply.content = Content::Never;
        reply
    }

    /// Its status and its media type.
    pub(crate) fn kind(&self) -> (u16, Option<String>) {
        let is_type = |(name, _): &&(String, String)| name == "content-type";
        let media = self.headers.iter().find(is_type);
        (self.status, media.map(|(_, value)| value.clone()))
    }

    /// With a status.
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With a header more.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.content = Content::Whole(body.into());
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head
    }
}

type Replying = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Script = Arc<dyn Fn(Seen) -> Replying + Send + Sync>;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

impl Upstream {
    /// A server that answers what `script` says.
    pub(crate) async fn start<F>(script: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Self::start_at(([127, 0, 0, 1], 0).into(), script).await
    }

    /// The same at a known place: a server that has been restarted.
    pub(crate) async fn start_at<F>(
        address: SocketAddr,
        script: impl Fn(Seen) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let script: Script = Arc::new(move |seen| Box::pin(script(seen)));
        let task = tokio::spawn(accept(listener, state.clone(), script));
        Self {
            address,
            state,
            task,
        }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// A configuration with nothing but this server.
    pub(crate) fn yaml(&self) -> String {
        format!(
            "servers: [{{name: scripted, endpoints: [{{url: '{}'}}]}}]",
            self.url()
        )
    }

    /// All that it was sent, in the order in which it came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The last that it was sent.
    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }

    /// How often a method came.
    pub(crate) fn count(&self, method: &str) -> usize {
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.method() == method).count()
    }

    /// How many connections were ever made.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Closes the port and cuts every connection; gives back what it saw.
    pub(crate) async fn kill(self) -> Vec<Seen> {
        self.task.abort();
        eventually("the upstream's end", || self.open() == 0).await;
        self.seen()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connection for as long as it is open.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, script: Script) {
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let connection = state.connections.fetch_add(1, Ordering::SeqCst);
        state.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(state.clone());
        let script = script.clone();
        serving.spawn(async move {
            let _ = stream.set_nodelay(true);
            let _ = serve(BufReader::new(stream), connection, &open.0, &script).await;
        });
        while serving.try_join_next().is_some() {}
    }
}

async fn serve(
    mut stream: BufReader<TcpStream>,
    connection: usize,
    state: &State,
    script: &Script,
) -> io::Result<()> {
    while let Some(head) = Head::read(&mut stream).await? {
        let mut framing = head.framing().unwrap_or(Framing::Length(0));
        let body = framing.rest(&mut stream).await?;
        let seen = Seen {
            head,
            body,
            connection,
        };
        state.seen.lock().unwrap().push(seen.clone());
        // A caller that leaves while the script waits is noticed, as real servers do.
        let reply = tokio::select! {
            reply = script(seen) => reply,
            () = gone(stream.get_ref()) => return Ok(()),
        };
        if !answer(&mut stream, reply).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes an answer, and says whether the connection goes on.
async fn answer(stream: &mut BufReader<TcpStream>, reply: Reply) -> io::Result<bool> {
    let head = reply.head();
    match reply.content {
        Content::Nothing => Ok(false),
        Content::Never => {
            gone(stream.get_ref()).await;
            Ok(false)
        }
        Content::Raw(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            Ok(false)
        }
        Content::Whole(body) => {
            let mut bytes = format!("{head}content-length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend(body);
            stream.write_all(&bytes).await?;
            Ok(true)
        }
        Content::Pieces(mut pieces) => {
            let head = format!("{head}transfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            loop {
                let piece = tokio::select! {
                    piece = pieces.recv() => piece,
                    () = gone(stream.get_ref()) => return Ok(false),
                };
                let Some(piece) = piece else { break };
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend(piece);
                chunk.extend(b"\r\n");
                stream.write_all(&chunk).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
            Ok(true)
        }
    }
}

/// Ends when the peer has closed; nothing else may come while it waits for an answer.
async fn gone(stream: &TcpStream) {
    let mut byte = [0];
    let _ = stream.peek(&mut byte).await;
}
