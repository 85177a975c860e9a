//! As much of HTTP/1.1 as a test needs: heads as they came, bodies by length, by chunk or to the end.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// A start line and headers, as they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    /// Every byte, the empty line included.
    pub(crate) raw: Vec<u8>,
    /// The first line.
    pub(crate) start: String,
    /// Names in lower case, in the order in which they came.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` where the peer has closed before its first byte.
    pub(crate) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        loop {
            let begins = head.raw.len();
            if from.read_until(b'\n', &mut head.raw).await? == 0 {
                return if head.raw.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
            let line = String::from_utf8_lossy(&head.raw[begins..]);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                return Ok(Some(head));
            }
            if begins == 0 {
                head.start = line.to_owned();
            } else if let Some((name, value)) = line.split_once(':') {
                head.headers
                    .push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All headers of that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for (key, value) in &self.headers {
            if key.eq_ignore_ascii_case(name) {
                values.push(value.as_str());
            }
        }
        values
    }

    /// How the body that follows ends.
    pub(crate) fn framing(&self) -> Option<Framing> {
        if self.header("transfer-encoding").is_some() {
            return Some(Framing::Chunked);
        }
        let length = self.header("content-length")?;
        Some(Framing::Length(length.parse().unwrap()))
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(usize),
    /// With the empty chunk.
    Chunked,
    /// With the connection.
    Close,
    /// It has ended.
    Ended,
}

impl Framing {
    /// The next piece: a chunk, or what is there; `None` at the end.
    pub(crate) async fn next(
        &mut self,
        from: &mut (impl AsyncBufRead + Unpin),
    ) -> io::Result<Option<Vec<u8>>> {
        match *self {
            Self::Ended | Self::Length(0) => {
                *self = Self::Ended;
                Ok(None)
            }
            Self::Length(left) => {
                let mut piece = from.fill_buf().await?.to_vec();
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                piece.truncate(left);
                from.consume(piece.len());
                *self = Self::Length(left - piece.len());
                Ok(Some(piece))
            }
            Self::Close => {
                let piece = from.fill_buf().await?.to_vec();
                from.consume(piece.len());
                Ok((!piece.is_empty()).then_some(piece))
            }
            Self::Chunked => {
                let mut line = String::new();
                from.read_line(&mut line).await?;
                let size = usize::from_str_radix(line.trim(), 16)
                    .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                let mut piece = vec![0; size];
                from.read_exact(&mut piece).await?;
                line.clear();
                from.read_line(&mut line).await?;
                if size > 0 {
                    return Ok(Some(piece));
                }
                *self = Self::Ended;
                Ok(None)
            }
        }
    }

    /// All that is left.
    pub(crate) async fn rest(
        &mut self,
        from: &mut (impl AsyncBufRead + Unpin),
    ) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.next(from).await? {
            body.extend(piece);
        }
        Ok(body)
    }
}
