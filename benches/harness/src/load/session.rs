//! The handshake of an era, and the heads of the requests that follow it.

use std::{error::Error, fmt};

use super::http::Conn;
use crate::{
    Result,
    mcp::{self, Era},
};

/// One agent as the server knows it: in the legacy era a session, in the modern one only an era.
pub(super) struct Session {
    /// `ADDRESS:PORT` of the endpoint.
    pub address: String,
    pub era: Era,
    path: String,
    id: Option<String>,
}

impl Session {
    /// Shakes hands on a connection of its own.
    pub(super) async fn open(url: &str, era: Era) -> Result<Self> {
        let (address, path) = split(url)?;
        Self::open_on(&mut Conn::open(address).await?, address, path, era).await
    }

    /// Shakes hands on a connection that is there.
    pub(super) async fn open_on(
        conn: &mut Conn,
        address: &str,
        path: &str,
        era: Era,
    ) -> Result<Self> {
        let mut session = Self {
            address: address.to_owned(),
            era,
            path: path.to_owned(),
            id: None,
        };
        let (method, params) = match era {
            Era::Legacy => (
                "initialize",
                format!(
                    r#"{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"outrigger-bench","version":"0"}}}}"#,
                    era.revision()
                ),
            ),
            Era::Modern => ("server/discover", mcp::bare_params(era)),
        };
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        session.id = session.exchange(conn, method, &body, 200).await?;
        if era == Era::Legacy {
            let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            session
                .exchange(conn, "notifications/initialized", body, 202)
                .await?;
        }
        Ok(session)
    }

    /// The bytes of a POST of `body`.
    pub(super) fn post(&self, method: &str, name: Option<&str>, body: &str) -> Vec<u8> {
        let mut head = self.head("POST");
        head.push_str(
            "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n",
        );
        if self.era == Era::Modern {
            header(&mut head, "Mcp-Method", method);
            if let Some(name) = name {
                header(&mut head, "Mcp-Name", name);
            }
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// The bytes of the GET that opens a stream.
    pub(super) fn get(&self) -> Vec<u8> {
        format!("{}Accept: text/event-stream\r\n\r\n", self.head("GET")).into_bytes()
    }

    fn head(&self, verb: &str) -> String {
        let mut head = format!(
            "{verb} {} HTTP/1.1\r\nHost: {}\r\n",
            self.path, self.address
        );
        head.push_str("User-Agent: outrigger-bench\r\n");
        // The legacy client learns the revision from `initialize`, as it learns its session.
        if self.era == Era::Modern || self.id.is_some() {
            header(&mut head, "MCP-Protocol-Version", self.era.revision());
        }
        if let Some(id) = &self.id {
            header(&mut head, "Mcp-Session-Id", id);
        }
        head
    }

    async fn exchange(
        &self,
        conn: &mut Conn,
        method: &str,
        body: &str,
        status: u16,
    ) -> Result<Option<String>> {
        conn.send(&self.post(method, None, body)).await?;
        let head = conn.head().await?;
        let answer = conn.body(head.framing).await?;
        if head.status != status {
            return Err(Unexpected::new(method, head.status, answer).into());
        }
        Ok(head.session_id)
    }
}

fn header(head: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        head.push_str(part);
    }
}

/// `ADDRESS:PORT` and path of a URL.
pub(super) fn split(url: &str) -> Result<(&str, &str)> {
    let rest = url
        .strip_prefix("http://")
        .ok_or("the URL must begin with http://")?;
    Ok(rest.find('/').map_or((rest, "/"), |at| rest.split_at(at)))
}

/// An answer that is not the one asked for.
#[derive(Debug)]
pub(super) struct Unexpected(String);

impl Unexpected {
    pub(super) fn new(what: &str, status: u16, body: &[u8]) -> Self {
        let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Self(format!("{what}: status {status}, body {body:?}"))
    }
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Unexpected {}
