//! A client over TCP: sends the very bytes that it is given, and shows those that come.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::http1::{Framing, Head};
use super::soon;

/// What is sent. `Host`, `Content-Length` and whatever MCP asks of every POST are set, and can be set otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A POST of that body to `/mcp`.
    pub(crate) fn post(body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST")
            .body(body)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
    }

    /// A GET of a stream at `/mcp`.
    pub(crate) fn stream() -> Self {
        Self::new("GET").header("accept", "text/event-stream")
    }

    /// A GET of that path.
    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET").path(path)
    }

    /// Any method, at `/mcp`.
    pub(crate) fn new(method: &'static str) -> Self {
        Self {
            method,
            path: "/mcp".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With another path.
    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// With a body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With a header, in place of any of that name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With headers.
    pub(crate) fn headers<'a>(self, all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        all.into_iter()
            .fold(self, |request, (name, value)| request.header(name, value))
    }

    fn bytes(&self, to: SocketAddr) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            bytes += &format!("host: {to}\r\n");
        }
        for (name, value) in &self.headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        if self.method == "POST" || !self.body.is_empty() {
            bytes += &format!("content-length: {}\r\n", self.body.len());
        }
        bytes += "\r\n";
        let mut bytes = bytes.into_bytes();
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it on a connection of its own, and waits for the head of the answer.
    pub(crate) async fn send(&self, to: SocketAddr) -> Answer {
        self.try_send(to).await.unwrap()
    }

    /// The same, where it may fail.
    pub(crate) async fn try_send(&self, to: SocketAddr) -> io::Result<Answer> {
        let mut connection = Connection::open(to).await?;
        connection.write(&self.bytes(to)).await?;
        connection.answer().await
    }

    /// Sends it on a connection of its own, and reads the whole answer.
    pub(crate) async fn fetch(&self, to: SocketAddr) -> Answered {
        soon("the answer", async { self.send(to).await.read().await }).await
    }
}

/// A connection, for whoever sends bytes of their own.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits for the head of an answer; its body then comes on this connection.
    pub(crate) async fn answer(mut self) -> io::Result<Answer> {
        let head = Head::read(&mut self.stream).await?;
        let head = head.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let status = head.start.split(' ').nth(1).unwrap_or_default();
        let status = status.parse().unwrap_or_default();
        let framing = match (status, head.framing()) {
            (204 | 304, _) => Framing::Ended,
            (_, Some(framing)) => framing,
            (_, None) => Framing::Close,
        };
        Ok(Answer {
            status,
            head,
            framing,
            connection: self,
        })
    }
}

/// An answer whose head has come. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The status line and headers.
    pub(crate) head: Head,
    framing: Framing,
    connection: Connection,
}

impl Answer {
    /// The next piece of the body, as it came; `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.framing.next(&mut self.connection.stream).await
    }

    /// Reads on until the body so far holds that text, and gives what it read.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        soon(text, async {
            let mut read = String::new();
            while !read.contains(text) {
                let piece = self.next().await.unwrap();
                let Some(piece) = piece else {
                    panic!("ended without {text:?}: {read}");
                };
                read += &String::from_utf8_lossy(&piece);
            }
            read
        })
        .await
    }

    /// The whole answer.
    pub(crate) async fn read(mut self) -> Answered {
        let body = self.framing.rest(&mut self.connection.stream).await;
        Answered {
            status: self.status,
            head: self.head,
            body: body.unwrap(),
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// The status.
    pub(crate) status: u16,
    /// The status line and headers.
    pub(crate) head: Head,
    /// The body, without its framing.
    pub(crate) body: Vec<u8>,
}

impl Answered {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; of events the last one's, which an answer is where a busy machine has made it late.
    pub(crate) fn json(&self) -> serde_json::Value {
        let text = self.text();
        let data = text.lines().rev().find_map(|it| it.strip_prefix("data: "));
        let is_stream = self.head.header("content-type") == Some("text/event-stream");
        let json = data.filter(|_| is_stream).unwrap_or(&text);
        match serde_json::from_str(json) {
            Ok(json) => json,
            Err(error) => panic!("{error} in {} {text}", self.head.start),
        }
    }
}
