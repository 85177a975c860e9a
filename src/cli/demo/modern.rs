//! An MCP server of 2026-07-28: no sessions, the envelope in each request, questions as answers to be repeated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::server::{self, refuse, refuse_with, result, result_message, stream, text, tool};
use crate::body::Body;
use crate::mcp::{Revision, fault, headers};
use crate::secret::Secret;
use crate::transport::listener::{Answer, RouteFuture};

/// What comes back with an answer to a question. It says only that one was asked, so it needs no seal.
const STATE: &str = "colour-asked";

/// The server, whichever of its endpoints is called.
#[derive(Debug)]
pub(super) struct Modern {
    token: Secret,
    /// When `slow` was dropped before its end.
    slow_dropped: watch::Sender<Option<Instant>>,
    deleted: AtomicUsize,
}

impl Modern {
    pub(super) fn new(token: Secret) -> Arc<Self> {
        Arc::new(Self {
            token,
            slow_dropped: watch::Sender::new(None),
            deleted: AtomicUsize::new(0),
        })
    }

    /// Tells when `slow` is dropped before its end.
    pub(super) fn slow_dropped(&self) -> watch::Receiver<Option<Instant>> {
        self.slow_dropped.subscribe()
    }

    /// How often `delete_all` was called.
    pub(super) fn deleted(&self) -> usize {
        self.deleted.load(Ordering::Relaxed)
    }

    fn call(self: Arc<Self>, endpoint: &'static str, id: Value, params: &Value) -> Response<Body> {
        let argument = |name: &str| params.pointer(&format!("/arguments/{name}")).cloned();
        match params.get("name").and_then(Value::as_str) {
            Some("echo") => {
                let said = argument("text").unwrap_or_default();
                let mut said_back = complete(said.as_str().unwrap_or_default());
                // Without one the request had not come as far as this.
                set(
                    &mut said_back,
                    "structuredContent",
                    json!({"credential": "bearer token"}),
                );
                result(&id, &said_back)
            }
            Some("count") => {
                let token = params.pointer("/_meta/progressToken").cloned();
                stream(move |out| async move {
                    server::count(&out, token.as_ref()).await;
                    out.send(&result_message(&id, &complete("counted to 5")))
                        .await;
                })
            }
            Some("ask") => ask(&id, params),
            Some("flaky") => {
                let mut answer = complete("answered");
                set(
                    &mut answer,
                    "structuredContent",
                    json!({"endpoint": endpoint}),
                );
                result(&id, &answer)
            }
            Some("slow") => {
                let mut slow = Slow(Some(self));
                stream(move |out| async move {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    out.send(&result_message(&id, &complete("done after 30 s")))
                        .await;
                    slow.end();
                })
            }
            Some("delete_all") => {
                self.deleted.fetch_add(1, Ordering::Relaxed);
                result(&id, &complete("everything is gone"))
            }
            _ => refuse(StatusCode::OK, &id, fault::INVALID_PARAMS, "Unknown tool"),
        }
    }
}

/// One of the server's endpoints.
#[derive(Debug)]
pub(super) struct At {
    pub(super) server: Arc<Modern>,
    pub(super) name: &'static str,
}

impl Answer for At {
    fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> RouteFuture {
        let (server, endpoint) = (self.server.clone(), self.name);
        Box::pin(async move { Ok(answer(server, endpoint, request).await) })
    }
}

async fn answer(
    server: Arc<Modern>,
    endpoint: &'static str,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.method() != Method::POST {
        return server::status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !server::is_allowed(request.headers(), &server.token) {
        return server::challenge();
    }
    let headers = request.headers().clone();
    let message = match server::read(request).await {
        Ok(message) => message,
        Err(refused) => return refused,
    };
    let (Some(id), Some(method)) = (
        message.get("id").cloned(),
        message.get("method").and_then(Value::as_str),
    ) else {
        return server::status(StatusCode::ACCEPTED);
    };
    let nothing = Value::Null;
    let params = message.get("params").unwrap_or(&nothing);
    if let Err(refused) = envelope(&id, method, params, &headers) {
        return refused;
    }
    match method {
        "server/discover" => result(&id, &discovery()),
        "tools/list" => result(&id, &tools()),
        "tools/call" => server.call(endpoint, id, params),
        _ => refuse(
            StatusCode::NOT_FOUND,
            &id,
            fault::METHOD_NOT_FOUND,
            "Method not found",
        ),
    }
}

/// Holds the request to what each request of the revision must have.
#[expect(
    clippy::result_large_err,
    reason = "the error is the answer that is sent"
)]
fn envelope(
    id: &Value,
    method: &str,
    params: &Value,
    headers: &HeaderMap,
) -> Result<(), Response<Body>> {
    let bad = |code, text| refuse(StatusCode::BAD_REQUEST, id, code, text);
    let meta = |key: &str| {
        params
            .get("_meta")?
            .get(format!("io.modelcontextprotocol/{key}"))
    };
    let Some(version) = meta("protocolVersion").and_then(Value::as_str) else {
        return Err(bad(fault::INVALID_PARAMS, "_meta has no protocolVersion"));
    };
    if meta("clientCapabilities").is_none_or(|it| !it.is_object()) {
        return Err(bad(
            fault::INVALID_PARAMS,
            "_meta has no clientCapabilities",
        ));
    }
    if version != Revision::LATEST.as_str() {
        let data = json!({"supported": [Revision::LATEST.as_str()], "requested": version});
        return Err(refuse_with(
            StatusCode::BAD_REQUEST,
            id,
            fault::UNSUPPORTED_VERSION,
            "Unsupported protocol version",
            Some(&data),
        ));
    }
    let says = |name, value: &str| {
        let header = headers
            .get(name)
            .and_then(|it| headers::decode(it.as_bytes()));
        header.is_some_and(|header| header == value)
    };
    let name = params.get("name").and_then(Value::as_str);
    let agree = says(headers::PROTOCOL_VERSION, version)
        && says(headers::METHOD, method)
        && (method != "tools/call" || name.is_some_and(|name| says(headers::NAME, name)));
    if agree {
        Ok(())
    } else {
        Err(bad(fault::HEADER_MISMATCH, "headers and body disagree"))
    }
}

/// Asks the user first; called again with what they said, ends.
fn ask(id: &Value, params: &Value) -> Response<Body> {
    let state = params.get("requestState").and_then(Value::as_str);
    match params.pointer("/inputResponses/colour") {
        Some(answer) if state == Some(STATE) => {
            return result(id, &complete(&server::answered(answer)));
        }
        _ => {}
    }
    let can_ask = params
        .get("_meta")
        .and_then(|meta| meta.get("io.modelcontextprotocol/clientCapabilities"))
        .is_some_and(|capabilities| capabilities.get("elicitation").is_some());
    if !can_ask {
        return refuse_with(
            StatusCode::BAD_REQUEST,
            id,
            fault::MISSING_CAPABILITY,
            "the client cannot ask its user",
            Some(&json!({"requiredCapabilities": {"elicitation": {}}})),
        );
    }
    result(
        id,
        &json!({
            "resultType": "input_required",
            "inputRequests": {"colour": {"method": "elicitation/create", "params": server::question()}},
            "requestState": STATE,
            "_meta": meta(),
        }),
    )
}

/// Tells that the tool was dropped before its end.
struct Slow(Option<Arc<Modern>>);

impl Slow {
    /// It came to its end: there is nothing to tell.
    fn end(&mut self) {
        self.0 = None;
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Some(server) = &self.0 {
            server.slow_dropped.send_replace(Some(Instant::now()));
        }
    }
}

fn complete(said: &str) -> Value {
    json!({"resultType": "complete", "content": text(said), "_meta": meta()})
}

fn set(result: &mut Value, key: &str, value: Value) {
    if let Some(result) = result.as_object_mut() {
        result.insert(key.to_owned(), value);
    }
}

fn meta() -> Value {
    json!({"io.modelcontextprotocol/serverInfo": server::server_info("outrigger demo, modern")})
}

fn discovery() -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": [Revision::LATEST.as_str()],
        "capabilities": {"tools": {}},
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": meta(),
    })
}

fn tools() -> Value {
    json!({
        "resultType": "complete",
        "tools": [
            tool("echo", "Says what it is told, and which credential came with it", Some("text")),
            tool("count", "Counts to 5 and reports progress", None),
            tool("ask", "Asks the user for a colour", None),
            tool("flaky", "Answers, and says which endpoint did", None),
            tool("slow", "Takes 30 s; notices when nobody waits any more", None),
            tool("delete_all", "Deletes everything; the sidecar's policy hides it", None),
        ],
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": meta(),
    })
}
