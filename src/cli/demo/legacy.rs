//! An MCP server of 2025-11-25: a session, and questions pushed into the stream of a call.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::server::{self, refuse, result, result_message, stream, text, tool};
use crate::body::Body;
use crate::mcp::{Revision, fault, headers};
use crate::secret::Secret;
use crate::transport::listener::{Answer, RouteFuture};

/// The most sessions at once.
const SESSIONS: usize = 100;

/// The server.
#[derive(Debug)]
pub(super) struct Legacy {
    token: Secret,
    sessions: Mutex<HashMap<String, Session>>,
    asked: AtomicUsize,
}

/// One session.
#[derive(Debug, Default)]
struct Session {
    can_ask: bool,
    /// Questions that wait for the client's answer, by their id.
    questions: HashMap<String, oneshot::Sender<Value>>,
}

impl Legacy {
    pub(super) fn new(token: Secret) -> Arc<Self> {
        Arc::new(Self {
            token,
            sessions: Mutex::default(),
            asked: AtomicUsize::new(0),
        })
    }

    /// Does something with a session, if it is there.
    fn with<T>(&self, session: &str, act: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let mut sessions = self.lock();
        sessions.get_mut(session).map(act)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn initialize(&self, id: &Value, params: Option<&Value>) -> Response<Body> {
        let mut bytes = [0; 16];
        let mut sessions = self.lock();
        if sessions.len() >= SESSIONS || getrandom::fill(&mut bytes).is_err() {
            return server::status(StatusCode::SERVICE_UNAVAILABLE);
        }
        let session = format!("{:032x}", u128::from_be_bytes(bytes));
        let can_ask = params.and_then(|it| it.pointer("/capabilities/elicitation"));
        sessions.insert(
            session.clone(),
            Session {
                can_ask: can_ask.is_some(),
                ..Session::default()
            },
        );
        let mut response = result(
            id,
            &json!({
                "protocolVersion": Revision::LATEST_LEGACY.as_str(),
                "capabilities": {"tools": {}},
                "serverInfo": server::server_info("outrigger demo, legacy"),
            }),
        );
        if let Ok(session) = HeaderValue::from_str(&session) {
            response.headers_mut().insert(headers::SESSION_ID, session);
        }
        response
    }

    /// An answer of the client to a question.
    fn answered(&self, session: &str, message: &Value) -> Response<Body> {
        let id = message.get("id").and_then(Value::as_str);
        let question =
            id.and_then(|id| self.with(session, |session| session.questions.remove(id))?);
        if let Some(question) = question {
            let answer = message.get("result").cloned().unwrap_or_default();
            // The call that asked may be gone.
            let _ = question.send(answer);
        }
        server::status(StatusCode::ACCEPTED)
    }

    fn call(self: Arc<Self>, session: String, id: Value, params: &Value) -> Response<Body> {
        match params.get("name").and_then(Value::as_str) {
            Some("echo") => {
                let said = params.pointer("/arguments/text").and_then(Value::as_str);
                result(&id, &done(said.unwrap_or_default()))
            }
            Some("count") => {
                let token = params.pointer("/_meta/progressToken").cloned();
                stream(move |out| async move {
                    server::count(&out, token.as_ref()).await;
                    out.send(&result_message(&id, &done("counted to 5"))).await;
                })
            }
            Some("ask") => self.ask(session, id),
            _ => refuse(StatusCode::OK, &id, fault::INVALID_PARAMS, "Unknown tool"),
        }
    }

    fn ask(self: Arc<Self>, session: String, id: Value) -> Response<Body> {
        let (answer, answered) = oneshot::channel();
        let question = format!("ask-{}", self.asked.fetch_add(1, Ordering::Relaxed) + 1);
        let can_ask = self.with(&session, |session| {
            if session.can_ask {
                session.questions.insert(question.clone(), answer);
            }
            session.can_ask
        });
        if can_ask != Some(true) {
            let text = "the client cannot ask its user";
            return refuse(StatusCode::OK, &id, fault::INVALID_REQUEST, text);
        }
        let asking = Asking {
            server: self,
            session,
            question,
        };
        stream(move |out| async move {
            let request = json!({
                "jsonrpc": "2.0", "id": asking.question,
                "method": "elicitation/create", "params": server::question(),
            });
            out.send(&request).await;
            if let Ok(answer) = answered.await {
                let said = server::answered(&answer);
                out.send(&result_message(&id, &done(&said))).await;
            }
            drop(asking);
        })
    }
}

/// A question that is out; taken back when its call ends.
struct Asking {
    server: Arc<Legacy>,
    session: String,
    question: String,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let question = &self.question;
        self.server
            .with(&self.session, |session| session.questions.remove(question));
    }
}

/// The server's only endpoint.
#[derive(Debug)]
pub(super) struct At(pub(super) Arc<Legacy>);

impl Answer for At {
    fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> RouteFuture {
        let server = self.0.clone();
        Box::pin(async move { Ok(answer(server, request).await) })
    }
}

async fn answer(server: Arc<Legacy>, request: Request<Incoming>) -> Response<Body> {
    if !server::is_allowed(request.headers(), &server.token) {
        return server::challenge();
    }
    let session = session_of(request.headers());
    match *request.method() {
        Method::POST => {}
        Method::DELETE => {
            let ended = session.and_then(|session| server.lock().remove(&session));
            return server::status(ended.map_or(StatusCode::NOT_FOUND, |_| StatusCode::OK));
        }
        // It has nothing to say beside calls, so it has no stream for that.
        _ => return server::status(StatusCode::METHOD_NOT_ALLOWED),
    }
    let message = match server::read(request).await {
        Ok(message) => message,
        Err(refused) => return refused,
    };
    let id = message.get("id").cloned();
    let method = message.get("method").and_then(Value::as_str);
    if let (Some(id), Some("initialize")) = (&id, method) {
        return server.initialize(id, message.get("params"));
    }
    let Some(session) = session else {
        let text = "Bad Request: Mcp-Session-Id header is required";
        return refuse(
            StatusCode::BAD_REQUEST,
            &Value::Null,
            fault::SERVER_ERROR,
            text,
        );
    };
    if server.with(&session, |_| ()).is_none() {
        let text = "Session not found";
        return refuse(
            StatusCode::NOT_FOUND,
            &Value::Null,
            fault::SESSION_NOT_FOUND,
            text,
        );
    }
    let nothing = Value::Null;
    let params = message.get("params").unwrap_or(&nothing);
    match (id, method) {
        (Some(_), None) => server.answered(&session, &message),
        (None, _) => server::status(StatusCode::ACCEPTED),
        (Some(id), Some("ping")) => result(&id, &json!({})),
        (Some(id), Some("tools/list")) => result(&id, &tools()),
        (Some(id), Some("tools/call")) => server.call(session, id, params),
        (Some(id), Some(_)) => refuse(
            StatusCode::OK,
            &id,
            fault::METHOD_NOT_FOUND,
            "Method not found",
        ),
    }
}

fn session_of(headers: &HeaderMap) -> Option<String> {
    let session = headers.get(headers::SESSION_ID)?.to_str().ok()?;
    Some(session.to_owned())
}

fn done(said: &str) -> Value {
    json!({"content": text(said)})
}

fn tools() -> Value {
    json!({"tools": [
        tool("echo", "Says what it is told", Some("text")),
        tool("count", "Counts to 5 and reports progress", None),
        tool("ask", "Asks the user for a colour", None),
    ]})
}
