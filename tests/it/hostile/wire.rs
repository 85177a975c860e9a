//! HTTP/1.1 and MCP messages as bytes, written and read by hand.

use serde_json::{Value, json};

/// A head, and the body behind it as far as it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The request or status line.
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Parses a head, without the empty line at its end.
    pub(crate) fn head(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self {
            line,
            headers,
            body: Vec::new(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }

    pub(crate) fn content_length(&self) -> usize {
        let length = self.header("content-length");
        length.map_or(0, |length| length.parse().unwrap())
    }

    pub(crate) fn status(&self) -> u16 {
        self.line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {:?}", self.line))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; of events the last one's, which an answer is where a busy machine has made it late.
    pub(crate) fn json(&self) -> Value {
        let text = self.text();
        let data = text.lines().rev().find_map(|it| it.strip_prefix("data: "));
        let is_stream = self.header("content-type") == Some("text/event-stream");
        let json = data.filter(|_| is_stream).unwrap_or(&text);
        serde_json::from_str(json)
            .unwrap_or_else(|error| panic!("{error}: {:?} {text:?}", self.line))
    }

    /// The JSON-RPC method of a request's body.
    pub(crate) fn method(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["method"].as_str().unwrap_or_default().to_owned()
    }
}

/// The bytes of a chunked body, as far as they came; whether the last chunk did.
pub(crate) fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..end]);
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let rest = &bytes[end + 2..];
        if rest.len() < size + 2 {
            body.extend_from_slice(&rest[..size.min(rest.len())]);
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        bytes = &rest[size + 2..];
    }
    (body, false)
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A JSON answer of an upstream.
pub(crate) fn json_answer(body: &Value) -> String {
    raw_answer(
        "200 OK",
        "content-type: application/json\r\n",
        &body.to_string(),
    )
}

/// An answer with a length.
pub(crate) fn raw_answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// The head of a stream of events.
pub(crate) const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The end of a chunked body.
pub(crate) const LAST_CHUNK: &str = "0\r\n\r\n";

pub(crate) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// An event in a chunk of its own.
pub(crate) fn event(message: &Value) -> String {
    chunk(&format!("data: {message}\n\n"))
}

/// The result of a tool.
pub(crate) fn result(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"content": [], "resultType": "complete"}})
}

pub(crate) fn progress() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}})
}

/// Which generation of the protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

pub(crate) const LEGACY: &str = "2025-11-25";
pub(crate) const MODERN: &str = "2026-07-28";

/// A request of a client: the headers that make it one of its era, and its body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Request {
    /// Any message of the legacy era, in a session if there is one.
    pub(crate) fn legacy(session: Option<&str>, body: &Value) -> Self {
        let mut headers =
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
                .to_owned();
        if let Some(session) = session {
            headers.push_str(&format!(
                "mcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n"
            ));
        }
        Self {
            method: "POST",
            headers,
            body: body.to_string(),
        }
    }

    /// A request of 2026-07-28.
    pub(crate) fn modern(id: &Value, method: &str, mut params: Value) -> Self {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut request = Self::legacy(
            None,
            &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
        );
        request.headers.push_str(&format!(
            "mcp-protocol-version: {MODERN}\r\nmcp-method: {method}\r\n"
        ));
        if let Some(name) = params["name"].as_str() {
            request.headers.push_str(&format!("mcp-name: {name}\r\n"));
        }
        request
    }

    pub(crate) fn initialize() -> Self {
        let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        Self::legacy(
            None,
            &json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params}),
        )
    }

    /// A GET stream of a legacy session.
    pub(crate) fn get(session: &str) -> Self {
        Self {
            method: "GET",
            headers: format!(
                "accept: text/event-stream\r\nmcp-session-id: {session}\r\nmcp-protocol-version: {LEGACY}\r\n"
            ),
            body: String::new(),
        }
    }

    pub(crate) fn with(mut self, header: &str) -> Self {
        self.headers.push_str(&format!("{header}\r\n"));
        self
    }

    pub(crate) fn bytes(&self) -> String {
        let Self {
            method,
            headers,
            body,
        } = self;
        let length = if *method == "POST" {
            format!("content-length: {}\r\n", body.len())
        } else {
            String::new()
        };
        format!("{method} /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}{length}\r\n{body}")
    }
}
