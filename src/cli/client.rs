//! An MCP client that knows no more than `demo` and `test` need: one message out, the messages of its answer in.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower_service::Service as _;

use crate::codec::sse::Decoder;
use crate::error::BoxError;
use crate::mcp::{Revision, headers};
use crate::transport::connector::{ConnectionBody, Connector, ConnectorParams, Endpoint};

/// The most bytes of an answer, and of one event.
const LIMIT: usize = 1024 * 1024;
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const BOTH: &str = "application/json, text/event-stream";

/// What a request says of itself, beside its body.
pub(super) type Posted = (HeaderMap, Value);

/// A request of 2026-07-28, with its whole envelope. It declares that the user can be asked.
pub(super) fn modern(id: u32, method: &str, mut params: Value) -> Posted {
    let envelope = json!({
        "io.modelcontextprotocol/protocolVersion": Revision::LATEST.as_str(),
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "io.modelcontextprotocol/clientInfo": client_info(),
    });
    let mut headers = HeaderMap::new();
    set(
        &mut headers,
        headers::PROTOCOL_VERSION,
        Revision::LATEST.as_str(),
    );
    set(&mut headers, headers::METHOD, method);
    if let Some(name) = params.get("name").and_then(Value::as_str) {
        set(&mut headers, headers::NAME, &headers::encode(name));
    }
    if let (Some(params), Value::Object(mut meta)) = (params.as_object_mut(), envelope) {
        if let Some(Value::Object(more)) = params.remove("_meta") {
            meta.extend(more);
        }
        params.insert("_meta".to_owned(), meta.into());
    }
    (
        headers,
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
    )
}

/// The request that opens a legacy session.
pub(super) fn initialize(id: u32) -> Posted {
    let params = json!({
        "protocolVersion": Revision::LATEST_LEGACY.as_str(),
        "capabilities": {"elicitation": {}},
        "clientInfo": client_info(),
    });
    (
        HeaderMap::new(),
        json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params}),
    )
}

fn client_info() -> Value {
    json!({"name": "outrigger", "version": env!("CARGO_PKG_VERSION")})
}

/// Sets a header whose value is one; what is none is left out, and the server says that it misses it.
pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The way to one MCP endpoint.
#[derive(Debug)]
pub(super) struct Client {
    connector: Connector,
    is_insecure: bool,
    /// On each request: credentials, extra headers.
    always: HeaderMap,
}

impl Client {
    pub(super) fn new(
        endpoint: Endpoint,
        params: ConnectorParams,
        always: HeaderMap,
    ) -> Result<Self, BoxError> {
        Ok(Self {
            is_insecure: params.tls.insecure_skip_verify,
            connector: Connector::new(endpoint, params)?,
            always,
        })
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Whether certificates are taken as they come.
    pub(super) fn is_insecure(&self) -> bool {
        self.is_insecure
    }

    /// Sends one message. Dropping the answer hangs up.
    pub(super) async fn post(&mut self, (headers, message): Posted) -> Result<Answer, BoxError> {
        let body = Bytes::from(message.to_string());
        self.send(Method::POST, BOTH, headers, body).await
    }

    /// Asks for a document.
    pub(super) async fn get(&mut self) -> Result<Answer, BoxError> {
        self.send(Method::GET, JSON, HeaderMap::new(), Bytes::new())
            .await
    }

    /// Asks for a stream of events.
    pub(super) async fn get_events(&mut self) -> Result<Answer, BoxError> {
        self.send(Method::GET, EVENTS, HeaderMap::new(), Bytes::new())
            .await
    }

    /// Ends a session.
    pub(super) async fn delete(&mut self, headers: HeaderMap) -> Result<Answer, BoxError> {
        self.send(Method::DELETE, JSON, headers, Bytes::new()).await
    }

    async fn send(
        &mut self,
        method: Method,
        accept: &'static str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, BoxError> {
        let is_post = method == Method::POST;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.connector.endpoint().uri().clone();
        *request.headers_mut() = self.always.clone();
        request.headers_mut().extend(headers);
        if is_post {
            request
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static(accept));
        let (head, body) = self.connector.call(request).await?.into_parts();
        let is_stream = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(EVENTS.as_bytes()));
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            events: is_stream.then(|| Decoder::new(LIMIT)),
        })
    }
}

/// An answer whose messages are read one by one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: ConnectionBody,
    events: Option<Decoder>,
}

impl Answer {
    pub(super) fn is_stream(&self) -> bool {
        self.events.is_some()
    }

    /// The next message: of the stream, or the one that there is. Nothing at the end, and nothing where the body is none.
    pub(super) async fn message(&mut self) -> Result<Option<Value>, BoxError> {
        let Some(events) = &mut self.events else {
            return Ok(serde_json::from_slice(&self.read_to_end().await?).ok());
        };
        loop {
            while let Some(event) = events.next()? {
                if let Some(message) = event.message() {
                    return Ok(Some(serde_json::from_slice(message)?));
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            if let Some(data) = frame?.data_ref() {
                events.push(data);
            }
        }
    }

    /// The message that answers the request: requests and notifications before it are left out.
    pub(super) async fn reply(&mut self) -> Result<Option<Value>, BoxError> {
        while let Some(message) = self.message().await? {
            if message.get("method").is_none() {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    async fn read_to_end(&mut self) -> Result<Vec<u8>, BoxError> {
        let mut bytes = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame?;
            let data = frame.data_ref().map_or(&[][..], AsRef::as_ref);
            if bytes.len() + data.len() > LIMIT {
                return Err("the answer is larger than 1 MiB".into());
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    }
}

/// A span as people read it.
pub(super) fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
