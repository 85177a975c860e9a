//! As much of HTTP/1.1 as a client needs that knows its peers: one connection, one request at a
//! time, answers with a length, in chunks, or up to the end of the connection.

use std::io;

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A head longer than this is not one that a peer of ours would send.
const MAX_HEAD: usize = 64 * 1024;

/// One connection.
pub(super) struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
    /// Where the unread part of `buf` begins.
    pos: usize,
    /// A body that had to be put together from chunks.
    whole: Vec<u8>,
}

/// What the client reads of an answer's head.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    pub framing: Framing,
    pub event_stream: bool,
    pub session_id: Option<String>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(usize),
    /// Chunks; so many bytes are left of this one.
    Chunks(usize),
    /// All up to the end of the connection.
    Close,
    /// Nothing is left.
    Done,
}

impl Conn {
    /// Connects to `address`.
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buf: Vec::with_capacity(16 * 1024),
            pos: 0,
            whole: Vec::new(),
        })
    }

    /// Writes a whole request.
    pub(super) async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Reads the head of the answer; interim ones are skipped.
    pub(super) async fn head(&mut self) -> io::Result<Head> {
        loop {
            let mut searched = 0;
            let end = loop {
                let unread = self.unread();
                if let Some(at) = unread
                    .get(searched..)
                    .and_then(|s| memmem::find(s, b"\r\n\r\n"))
                {
                    break searched + at + 4;
                }
                if unread.len() > MAX_HEAD {
                    return Err(bad("endless head"));
                }
                searched = unread.len().saturating_sub(3);
                self.fill().await?;
            };
            let head = parse_head(self.unread().get(..end).unwrap_or_default())?;
            self.pos += end;
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    /// Reads a whole body.
    pub(super) async fn body(&mut self, mut framing: Framing) -> io::Result<&[u8]> {
        if let Framing::Length(length) = framing {
            while self.unread().len() < length {
                self.fill().await?;
            }
            let start = self.pos;
            self.pos += length;
            return Ok(self.buf.get(start..self.pos).unwrap_or_default());
        }
        let mut whole = std::mem::take(&mut self.whole);
        whole.clear();
        while self.part(&mut framing, &mut whole).await? {}
        self.whole = whole;
        Ok(&self.whole)
    }

    /// Appends what has arrived of a body to `out`, waiting if nothing has; false at its end.
    pub(super) async fn part(
        &mut self,
        framing: &mut Framing,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        if *framing == Framing::Chunks(0) {
            self.chunk(framing).await?;
        }
        let left = match *framing {
            Framing::Done | Framing::Length(0) => return Ok(false),
            Framing::Length(left) | Framing::Chunks(left) => left,
            Framing::Close => usize::MAX,
        };
        if self.unread().is_empty() {
            match self.fill().await {
                Err(e)
                    if e.kind() == io::ErrorKind::UnexpectedEof && *framing == Framing::Close =>
                {
                    *framing = Framing::Done;
                    return Ok(false);
                }
                other => other?,
            }
        }
        let take = left.min(self.unread().len());
        out.extend_from_slice(self.unread().get(..take).unwrap_or_default());
        self.pos += take;
        match framing {
            Framing::Length(left) => *left -= take,
            Framing::Chunks(left) => {
                *left -= take;
                if *left == 0 {
                    self.line().await?;
                }
            }
            Framing::Close | Framing::Done => {}
        }
        Ok(true)
    }

    /// Reads the size of the next chunk; after the last one, the trailers.
    async fn chunk(&mut self, framing: &mut Framing) -> io::Result<()> {
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| bad("not a chunk size"))?;
        *framing = Framing::Chunks(size);
        if size == 0 {
            *framing = Framing::Done;
            while !self.line().await?.is_empty() {}
        }
        Ok(())
    }

    /// Reads a line without its end.
    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memmem::find(self.unread(), b"\r\n") {
                let line = self.unread().get(..end).unwrap_or_default();
                let line = String::from_utf8_lossy(line).into_owned();
                self.pos += end + 2;
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    fn unread(&self) -> &[u8] {
        self.buf.get(self.pos..).unwrap_or_default()
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.pos > 0 {
            self.buf.drain(..self.pos);
            self.pos = 0;
        }
        self.buf.reserve(16 * 1024);
        if self.stream.read_buf(&mut self.buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(head).map_err(|_| bad("head is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|l| l.get(9..12)?.parse().ok());
    let mut parsed = Head {
        status: status.ok_or_else(|| bad("not a status line"))?,
        framing: Framing::Close,
        event_stream: false,
        session_id: None,
    };
    if matches!(parsed.status, 100..200 | 204 | 304) {
        parsed.framing = Framing::Done;
    }
    for (name, value) in lines.filter_map(|l| l.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") && parsed.framing == Framing::Close {
            let length = value.parse().map_err(|_| bad("not a length"))?;
            parsed.framing = Framing::Length(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && parsed.framing != Framing::Done
        {
            parsed.framing = Framing::Chunks(0);
        } else if name.eq_ignore_ascii_case("content-type") {
            parsed.event_stream = value.starts_with("text/event-stream");
        } else if name.eq_ignore_ascii_case("mcp-session-id") {
            parsed.session_id = Some(value.to_owned());
        }
    }
    Ok(parsed)
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(answer: &'static [u8]) -> (Head, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for byte in answer {
                stream.write_all(&[*byte]).await.unwrap();
            }
        });
        let mut conn = Conn::open(&address).await.unwrap();
        let head = conn.head().await.unwrap();
        let body = conn.body(head.framing).await.unwrap().to_vec();
        peer.await.unwrap();
        (head, body)
    }

    #[tokio::test]
    async fn a_body_with_a_length() {
        let (head, body) =
            read(b"HTTP/1.1 200 OK\r\nMcp-Session-Id: a\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!((head.status, head.session_id.as_deref()), (200, Some("a")));
        assert_eq!(body, b"abc");
    }

    #[tokio::test]
    async fn a_body_in_chunks_after_an_interim_answer() {
        let (head, body) = read(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        )
        .await;
        assert!(head.event_stream);
        assert_eq!(body, b"abc0123456789");
    }

    #[tokio::test]
    async fn a_body_up_to_the_end_and_none_at_all() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\nabc").await.1, b"abc");
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n").await.1, b"");
    }
}
