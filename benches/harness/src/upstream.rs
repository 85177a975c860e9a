//! The upstream: an MCP server of both eras on one thread, cheap enough to load proxies with.
//!
//! 1. `POST /mcp` with `MCP-Protocol-Version: 2026-07-28` is stateless; version, method and name
//!    must stand in the headers and agree with the body (400, -32020).
//! 2. Any other POST is legacy: `initialize` issues an `Mcp-Session-Id`, which every later message
//!    must bring (400 without, 404 for one it does not know); DELETE ends it.
//! 3. GET opens an SSE stream that stays silent.
//! 4. Tools: `echo` gives its text back as JSON; `stream` sends progress with the time it was
//!    written, then the result, as SSE.

use std::{
    cell::RefCell,
    collections::HashSet,
    convert::Infallible,
    net::Ipv4Addr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, Interval, MissedTickBehavior},
};

use crate::{
    Result,
    mcp::{self, Era, LEGACY, MODERN},
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Serve MCP on loopback, both eras.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Serves until killed; prints `LISTENING URL` first.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        println!("LISTENING http://{}/mcp", listener.local_addr()?);
        let sessions = Sessions::default();
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(serve(stream, sessions.clone()));
        }
    })
}

async fn serve(stream: TcpStream, sessions: Sessions) {
    // An unset option costs latency, not correctness.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |req| {
        let sessions = sessions.clone();
        async move { Ok::<_, Infallible>(answer(req, &sessions).await) }
    });
    // A peer that hangs up in the middle is its own affair: the generator counts what it missed.
    let _ = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(req: Request<Incoming>, sessions: &Sessions) -> Response<Reply> {
    if req.uri().path() != "/mcp" {
        return status(StatusCode::NOT_FOUND);
    }
    let (head, body) = req.into_parts();
    let modern = head
        .headers
        .get("mcp-protocol-version")
        .is_some_and(|v| v == MODERN);
    match head.method {
        Method::POST => match body.collect().await {
            Ok(body) => post(&head.headers, &body.to_bytes(), modern, sessions),
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        _ if modern => status(StatusCode::METHOD_NOT_ALLOWED),
        Method::GET => sessions.refuse(&head.headers).unwrap_or_else(silent),
        Method::DELETE => sessions.end(&head.headers),
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// A message, as far as the server reads it.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    name: Option<&'a str>,
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
    #[serde(rename = "_meta", borrow)]
    meta: Option<Meta<'a>>,
    #[serde(rename = "protocolVersion")]
    version: Option<&'a str>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    events: Option<u32>,
    #[serde(rename = "intervalMs")]
    interval_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a str>,
    #[serde(rename = "progressToken", borrow)]
    token: Option<&'a RawValue>,
}

fn post(headers: &HeaderMap, body: &[u8], modern: bool, sessions: &Sessions) -> Response<Reply> {
    let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
        return error(
            StatusCode::BAD_REQUEST,
            "null",
            -32700,
            "not a JSON-RPC message",
        );
    };
    let id = message.id.map_or("null", RawValue::get);
    let method = message.method.unwrap_or_default();
    let params = message.params.as_ref();
    if modern {
        if let Err(why) = mirrored(headers, method, params) {
            return error(StatusCode::BAD_REQUEST, id, -32020, why);
        }
        return dispatch(Era::Modern, id, method, params);
    }
    if method == "initialize" {
        return initialize(id, params.and_then(|p| p.version), sessions);
    }
    let known = headers.get("mcp-protocol-version");
    if known.is_some_and(|v| LEGACY.iter().all(|l| v != l)) {
        return error(
            StatusCode::BAD_REQUEST,
            id,
            -32600,
            "unsupported protocol version",
        );
    }
    let refused = sessions.refuse(headers);
    refused.unwrap_or_else(|| dispatch(Era::Legacy, id, method, params))
}

/// The header checks of 2026-07-28: version, method and name stand in both places and agree.
fn mirrored(
    headers: &HeaderMap,
    method: &str,
    params: Option<&Params<'_>>,
) -> std::result::Result<(), &'static str> {
    let header = |name| headers.get(name).and_then(|v| HeaderValue::to_str(v).ok());
    // A notification has no envelope that it must agree with.
    if method.starts_with("notifications/") {
        return Ok(());
    }
    if params.and_then(|p| p.meta.as_ref()?.version) != Some(MODERN) {
        return Err("MCP-Protocol-Version and _meta disagree");
    }
    if header("mcp-method") != Some(method) {
        return Err("Mcp-Method and method disagree");
    }
    if method == "tools/call" && header("mcp-name") != params.and_then(|p| p.name) {
        return Err("Mcp-Name and params.name disagree");
    }
    Ok(())
}

fn dispatch(era: Era, id: &str, method: &str, params: Option<&Params<'_>>) -> Response<Reply> {
    let result = match method {
        "tools/call" => return call(era, id, params),
        _ if id == "null" => return status(StatusCode::ACCEPTED),
        "ping" => "{}",
        "server/discover" if era == Era::Modern => {
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bench","version":"0"}}}"#
        }
        "tools/list" => {
            r#"{"resultType":"complete","ttlMs":60000,"cacheScope":"public","tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}},{"name":"stream","inputSchema":{"type":"object","properties":{"events":{"type":"integer"},"intervalMs":{"type":"integer"}}}}]}"#
        }
        _ => {
            let code = if era == Era::Modern {
                StatusCode::NOT_FOUND
            } else {
                StatusCode::OK
            };
            return error(code, id, -32601, "method not found");
        }
    };
    json(
        StatusCode::OK,
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
    )
}

fn call(era: Era, id: &str, params: Option<&Params<'_>>) -> Response<Reply> {
    let name = params.and_then(|p| p.name);
    let arguments = params.and_then(|p| p.arguments.as_ref());
    match (name, arguments) {
        (
            Some("echo"),
            Some(Arguments {
                text: Some(text), ..
            }),
        ) => json(StatusCode::OK, mcp::call_reply(era, id, text.get())),
        (Some("stream"), Some(arguments)) => {
            let token = params
                .and_then(|p| p.meta.as_ref()?.token)
                .map_or("0", RawValue::get);
            let every = Duration::from_millis(arguments.interval_ms.unwrap_or(50).max(1));
            sse(Reply::Events(Events::new(
                era,
                id,
                token,
                arguments.events.unwrap_or(1),
                every,
            )))
        }
        _ => error(
            StatusCode::OK,
            id,
            -32602,
            "unknown tool, or arguments missing",
        ),
    }
}

fn initialize(id: &str, offered: Option<&str>, sessions: &Sessions) -> Response<Reply> {
    let version = LEGACY
        .into_iter()
        .find(|l| offered == Some(*l))
        .unwrap_or(LEGACY[0]);
    let mut response = json(
        StatusCode::OK,
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"bench","version":"0"}}}}}}"#
        ),
    );
    if let Ok(value) = HeaderValue::from_str(&sessions.begin()) {
        response.headers_mut().insert(SESSION_ID, value);
    }
    response
}

/// The sessions that are open, shared by the connections of the one thread.
#[derive(Clone, Default)]
struct Sessions(Rc<RefCell<HashSet<String>>>);

impl Sessions {
    fn begin(&self) -> String {
        let mut open = self.0.borrow_mut();
        let id = format!("{:016x}-{:08x}", mcp::now_nanos(), open.len());
        open.insert(id.clone());
        id
    }

    /// The answer to a message of no session.
    fn refuse(&self, headers: &HeaderMap) -> Option<Response<Reply>> {
        let Some(id) = headers.get(SESSION_ID).and_then(|v| v.to_str().ok()) else {
            return Some(error(
                StatusCode::BAD_REQUEST,
                "null",
                -32000,
                "no session id",
            ));
        };
        if self.0.borrow().contains(id) {
            return None;
        }
        Some(error(
            StatusCode::NOT_FOUND,
            "null",
            -32001,
            "session not found",
        ))
    }

    fn end(&self, headers: &HeaderMap) -> Response<Reply> {
        if let Some(answer) = self.refuse(headers) {
            return answer;
        }
        if let Some(id) = headers.get(SESSION_ID).and_then(|v| v.to_str().ok()) {
            self.0.borrow_mut().remove(id);
        }
        status(StatusCode::NO_CONTENT)
    }
}

fn status(code: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Full::default()));
    *response.status_mut() = code;
    response
}

fn json(code: StatusCode, body: String) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Full::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn error(code: StatusCode, id: &str, rpc: i32, why: &str) -> Response<Reply> {
    json(
        code,
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{rpc},"message":"{why}"}}}}"#),
    )
}

fn sse(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    response
}

fn silent() -> Response<Reply> {
    sse(Reply::Silent)
}

/// The body of an answer.
enum Reply {
    Whole(Full<Bytes>),
    Events(Events),
    /// Never a byte, never an end: the caller hangs up.
    Silent,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(events) => events
                .poll_next(cx)
                .map(|data| data.map(|d| Ok(Frame::data(d)))),
            Self::Silent => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) | Self::Silent => SizeHint::default(),
        }
    }
}

/// Progress at a fixed rate, each with the time it was handed to the connection; the result last.
struct Events {
    every: Interval,
    era: Era,
    id: String,
    token: String,
    sent: u32,
    total: u32,
    over: bool,
}

impl Events {
    fn new(era: Era, id: &str, token: &str, total: u32, every: Duration) -> Self {
        let mut interval = tokio::time::interval_at(Instant::now() + every, every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (id, token) = (id.to_owned(), token.to_owned());
        Self {
            every: interval,
            era,
            id,
            token,
            sent: 0,
            total,
            over: false,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.sent == self.total {
            self.over = true;
            let reply = mcp::call_reply(self.era, &self.id, r#""done""#);
            return Poll::Ready(Some(format!("data: {reply}\n\n").into()));
        }
        std::task::ready!(self.every.poll_tick(cx));
        self.sent += 1;
        let event = mcp::progress(&self.token, self.sent, mcp::now_nanos());
        Poll::Ready(Some(format!("data: {event}\n\n").into()))
    }
}
