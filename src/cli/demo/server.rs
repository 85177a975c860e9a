//! What both embedded MCP servers are made of: a socket that can go down, bodies, answers.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::body::Body;
use crate::codec::sse::encode_event;
use crate::error::BoxError;
use crate::mcp::fault;
use crate::secret::Secret;
use crate::transport::listener::{Answer, Drain, Limits, serve};

/// The most bytes of a request.
const LIMIT: usize = 1024 * 1024;

/// A loopback socket, and who answers there.
#[derive(Debug)]
pub(super) struct Socket<A> {
    address: SocketAddr,
    answer: Arc<A>,
    serving: Option<(Drain, JoinHandle<()>)>,
}

impl<A: Answer> Socket<A> {
    /// Listens at any free port.
    pub(super) async fn bind(answer: A) -> std::io::Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut bound = Self {
            address: socket.local_addr()?,
            answer: Arc::new(answer),
            serving: None,
        };
        bound.serve(socket);
        Ok(bound)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Closes the socket and all connections: who connects now is refused.
    pub(super) async fn down(&mut self) {
        if let Some((drain, serving)) = self.serving.take() {
            drain.begin();
            drain.finish();
            // It ends by itself; if it panicked, nobody listens either.
            let _ = serving.await;
        }
    }

    /// Listens again, at the same port.
    pub(super) async fn up(&mut self) -> std::io::Result<()> {
        let socket = TcpListener::bind(self.address).await?;
        self.serve(socket);
        Ok(())
    }

    fn serve(&mut self, socket: TcpListener) {
        let drain = Drain::default();
        // It goes down as if it was killed.
        let limits = Limits {
            last_words: Duration::ZERO,
            ..Limits::default()
        };
        let serving = serve(socket, self.answer.clone(), limits, drain.clone());
        self.serving = Some((drain, tokio::spawn(serving)));
    }
}

impl<A> Drop for Socket<A> {
    fn drop(&mut self) {
        if let Some((_, serving)) = &self.serving {
            serving.abort();
        }
    }
}

/// The message of a request, or the answer to one that cannot be read.
pub(super) async fn read(request: Request<Incoming>) -> Result<Value, Response<Body>> {
    let unreadable = |text: &str| {
        refuse(
            StatusCode::BAD_REQUEST,
            &Value::Null,
            fault::PARSE_ERROR,
            text,
        )
    };
    let body = Limited::new(request.into_body(), LIMIT).collect().await;
    let bytes = body
        .map_err(|_| unreadable("the body did not arrive"))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|_| unreadable("the body is not JSON"))
}

/// Whether the request has the token. The comparison takes the same time wherever the first difference is.
pub(super) fn is_allowed(headers: &HeaderMap, token: &Secret) -> bool {
    let shown = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    shown.is_some_and(|shown| Secret::new(shown) == *token)
}

/// The answer to a request without the token.
pub(super) fn challenge() -> Response<Body> {
    let mut response = status(StatusCode::UNAUTHORIZED);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// An answer without a body.
pub(super) fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The answer to a request: its result.
pub(super) fn result(id: &Value, result: &Value) -> Response<Body> {
    json_body(StatusCode::OK, &result_message(id, result))
}

pub(super) fn result_message(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// The answer to a request: an error.
pub(super) fn refuse(status: StatusCode, id: &Value, code: i32, text: &str) -> Response<Body> {
    refuse_with(status, id, code, text, None)
}

/// The same, with what the specification wants in `data`.
pub(super) fn refuse_with(
    status: StatusCode,
    id: &Value,
    code: i32,
    text: &str,
    data: Option<&Value>,
) -> Response<Body> {
    let id = id.to_string();
    let message = fault::error_message(Some(id.as_bytes()), code, text, data);
    typed(status, "application/json", message.into())
}

fn json_body(status: StatusCode, message: &Value) -> Response<Body> {
    typed(
        status,
        "application/json",
        Bytes::from(message.to_string()).into(),
    )
}

fn typed(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Where a tool writes the messages of its stream.
#[derive(Clone, Debug)]
pub(super) struct Out(mpsc::Sender<Bytes>);

impl Out {
    /// Sends one message. Nobody may listen any more; the tool then ends with its stream.
    pub(super) async fn send(&self, message: &Value) {
        let event = encode_event(None, None, message.to_string().as_bytes());
        let _ = self.0.send(event).await;
    }
}

/// An answer that a tool streams. It runs while the body is read, and is dropped with it: that is how it learns that
/// the client hung up.
pub(super) fn stream<F, T>(tool: F) -> Response<Body>
where
    F: FnOnce(Out) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let (sender, events) = mpsc::channel(16);
    let running = Running {
        tool: Some(Box::pin(tool(Out(sender)))),
        events,
    };
    typed(StatusCode::OK, "text/event-stream", Body::new(running))
}

struct Running {
    tool: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    events: mpsc::Receiver<Bytes>,
}

impl http_body::Body for Running {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(tool) = &mut self.tool
            && tool.as_mut().poll(cx).is_ready()
        {
            // With it goes its sender, so that the events come to an end.
            self.tool = None;
        }
        Poll::Ready(ready!(self.events.poll_recv(cx)).map(|event| Ok(Frame::data(event))))
    }
}

/// The text of a tool's result.
pub(super) fn text(text: &str) -> Value {
    json!([{"type": "text", "text": text}])
}

/// Counts to five, a tenth of a second each, with a progress event for each step if the caller wants them.
pub(super) async fn count(out: &Out, token: Option<&Value>) {
    for step in 1..=5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Some(token) = token {
            let params = json!({"progressToken": token, "progress": step, "total": 5});
            out.send(
                &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}),
            )
            .await;
        }
    }
}

/// What `ask` asks the user.
pub(super) fn question() -> Value {
    json!({
        "mode": "form",
        "message": "Which colour?",
        "requestedSchema": {
            "type": "object",
            "properties": {"colour": {"type": "string"}},
            "required": ["colour"],
        },
    })
}

/// The text that `ask` ends with.
pub(super) fn answered(answer: &Value) -> String {
    match answer.pointer("/content/colour").and_then(Value::as_str) {
        Some(colour) => format!("You said {colour}."),
        None => "You did not say.".to_owned(),
    }
}

/// A tool as a list has it, with one text argument or none.
pub(super) fn tool(name: &str, description: &str, argument: Option<&str>) -> Value {
    let mut schema = json!({"type": "object", "properties": {}});
    if let (Some(argument), Some(schema)) = (argument, schema.as_object_mut()) {
        schema.insert(
            "properties".to_owned(),
            json!({argument: {"type": "string"}}),
        );
        schema.insert("required".to_owned(), json!([argument]));
    }
    json!({"name": name, "description": description, "inputSchema": schema})
}

pub(super) fn server_info(name: &str) -> Value {
    json!({"name": name, "version": env!("CARGO_PKG_VERSION")})
}
