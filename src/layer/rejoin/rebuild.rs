//! The rebuilding of a session that the upstream has lost.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower_service::Service;

use crate::body::Body;
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::facts::{Facts, Pin};
use crate::layer::media::{is_event_stream, is_json};
use crate::layer::rejoin::again::Shape;
use crate::layer::rejoin::{REBUILD_EVERY, Rebuild, Rest};
use crate::mcp::fault::{INVALID_REQUEST, SERVER_ERROR};
use crate::mcp::headers::SESSION_ID;
use crate::mcp::message::{Message, Parsed};
use crate::mcp::revision::Revision;
use crate::mcp::splice;
use crate::session::answer::{Negotiated, first_answer};
use crate::session::state::MAX_SUBSCRIPTIONS;

/// The most bytes held of an answer to a message of ours, or of an error.
const MAX_HELD: usize = 4 << 20;
/// The most bytes looked at of a 400.
const MAX_ERROR: usize = 16 << 10;
/// How long the rest of an answer is waited for, once its message is here.
const LEFTOVER: Duration = Duration::from_secs(2);

/// What the errors of a server that has lost a session say, in lower case. Each was seen in a real server; a word
/// as "session" alone would be too little, for a tool may speak of sessions too.
const LOST_TEXTS: [&str; 7] = [
    "no valid session id",
    "server not initialized",
    "session not found",
    "session not initialized",
    "invalid session id",
    "invalid or missing session id",
    "unknown session",
];

/// Whether an answer says that the session is lost, by its head alone.
pub(super) fn is_lost<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::NOT_FOUND
}

/// Whether it may say so in its body. To a GET servers say it in plain text, too.
pub(super) fn may_be_lost<B>(response: &Response<B>, shape: Shape) -> bool {
    response.status() == StatusCode::BAD_REQUEST
        && (is_json(response.headers()) || shape == Shape::Stream)
}

/// Whether an answer says that the session is lost, and the answer as it came. What is too large to be read does not.
pub(super) async fn read_lost(
    response: Response<Body>,
    shape: Shape,
) -> Result<(Response<Body>, bool), BoxError> {
    if !may_be_lost(&response, shape) {
        let is_lost = is_lost(&response);
        return Ok((response, is_lost));
    }
    let (head, body) = response.into_parts();
    let fits = http_body::Body::size_hint(&body)
        .upper()
        .is_none_or(|upper| upper <= MAX_ERROR as u64);
    if !fits {
        return Ok((Response::from_parts(head, body), false));
    }
    let read = first_answer(body, false, MAX_HELD).await?;
    let error = read.message.as_ref().and_then(|message| message.error());
    let is_lost = match error {
        Some(error) => says_lost(error),
        None => shape == Shape::Stream && is_lost_text(&String::from_utf8_lossy(&read.held)),
    };
    Ok((Response::from_parts(head, read.body), is_lost))
}

fn says_lost(error: &[u8]) -> bool {
    let error: Value = serde_json::from_slice(error).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_i64);
    let text = error
        .get("message")
        .and_then(Value::as_str)
        .unwrap_or_default();
    [SERVER_ERROR, INVALID_REQUEST]
        .map(|code| Some(i64::from(code)))
        .contains(&code)
        && is_lost_text(text)
}

fn is_lost_text(text: &str) -> bool {
    let text = text.to_lowercase();
    LOST_TEXTS.iter().any(|lost| text.contains(lost))
}

/// Whether a call was not sent because its endpoint is down.
pub(super) fn is_down(error: &BoxError) -> bool {
    Failure::of(error).is_some_and(|failure| {
        failure.phase() == Phase::Unsent
            && matches!(
                failure.cause(),
                Cause::ConnectionRefused
                    | Cause::ConnectTimeout
                    | Cause::Unreachable
                    | Cause::Dns
                    | Cause::NoEndpoint
            )
    })
}

/// The session is lost for this caller.
pub(super) fn lost() -> Failure {
    Failure::new(Cause::SessionLost, Phase::Answered)
}

impl<S, B> Rest<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Rebuilds the session, unless somebody else has done so since generation `seen`; of all who ask at once, one
    /// does it and the others share the outcome.
    ///
    /// # Errors
    ///
    /// [`Cause::SessionLost`] if it is over, else why the server could not be asked.
    ///
    /// # Cancellation
    ///
    /// Dropped, the next one who waits begins anew.
    pub(super) async fn rebuild(&mut self, seen: u32) -> Result<(), Failure> {
        if self.params.rebuild == Rebuild::Never {
            return Err(lost());
        }
        let session = self.again.shared_session();
        let state = session.state();
        let before = state.landed().count;
        let Ok(_flight) = state.flight().acquire().await else {
            return Err(lost());
        };
        if state.is_over() {
            return Err(lost());
        }
        if state.generation() != seen {
            return Ok(());
        }
        let landed = state.landed();
        if let Some(cause) = landed.failed
            && landed.count != before
        {
            return Err(Failure::new(cause, Phase::Answered));
        }
        if landed
            .rebuilt
            .is_some_and(|at| at.elapsed() < REBUILD_EVERY)
        {
            return Err(lost());
        }
        let outcome = match timeout(self.params.time, self.build_anew()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(Cause::RequestTimeout, Phase::Answered).into()),
        };
        let outcome = outcome.map_err(in_the_callers_place);
        state.land(outcome.as_ref().err().map(Failure::cause));
        if outcome
            .as_ref()
            .is_err_and(|failure| failure.cause() == Cause::SessionLost)
        {
            state.end();
        }
        session.save();
        tracing::info!(
            session = ?session.handle(),
            outcome = outcome.as_ref().err().map_or("rebuilt", |failure| failure.cause().as_str()),
            "rebuilt a session that the server had lost"
        );
        outcome
    }

    async fn build_anew(&mut self) -> Result<(), BoxError> {
        let session = self.again.shared_session();
        let params = session.params().ok_or_else(lost)?;
        let body = initialize(&params, session.revision()).ok_or_else(lost)?;
        let old = session.endpoint();
        let (mut response, facts) = self.initialize(body, old).await?;
        if !response.status().is_success() {
            return Err(refused(response.status()).into());
        }
        let pin = Pin {
            endpoint: facts.endpoint(),
            avoid: Vec::new(),
        };
        let upstream = response.headers_mut().remove(SESSION_ID).ok_or_else(lost)?;
        let result = read_result(response).await?.ok_or_else(lost)?;
        let now = Negotiated::of_result(&result);
        let is_the_same =
            now.revision == session.revision() && now.capabilities.covers(session.capabilities());
        if !is_the_same {
            // Nobody will use what was just opened. Whether the server lets us end it changes nothing.
            let end = self.again.end(&upstream, pin);
            let _ = timeout(LEFTOVER, self.send(end)).await;
            return Err(lost().into());
        }
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let status = self.tell(&initialized, &upstream, &pin).await?;
        if !status.is_success() {
            return Err(refused(status).into());
        }
        self.renew(&upstream, &pin).await;
        session
            .state()
            .rebuilt(upstream, pin.endpoint.unwrap_or(old));
        Ok(())
    }

    /// Sends `initialize` to the endpoint that held the session, or to another one if that is down.
    async fn initialize(
        &mut self,
        body: Bytes,
        endpoint: u32,
    ) -> Result<(Response<Body>, Facts), BoxError> {
        let same = Pin {
            endpoint: Some(endpoint),
            avoid: Vec::new(),
        };
        let message = self.again.message(body.clone(), None, same);
        let (request, facts) = message.ok_or_else(lost)?;
        match self.send(request).await {
            Err(error) if self.session().is_pinned() && is_down(&error) => {
                let other = Pin {
                    endpoint: None,
                    avoid: vec![endpoint],
                };
                let message = self.again.message(body, None, other);
                let (request, facts) = message.ok_or_else(lost)?;
                Ok((self.send(request).await?, facts))
            }
            outcome => Ok((outcome?, facts)),
        }
    }

    /// Log level and subscriptions. What the server refuses now is no reason to end the session.
    async fn renew(&mut self, upstream: &HeaderValue, pin: &Pin) {
        let changed = self.session().state().snapshot();
        if let Some(params) = &changed.log_level
            && let Ok(params) = serde_json::from_slice::<Box<RawValue>>(params)
        {
            self.ask("logging/setLevel", json!(params), upstream, pin)
                .await;
        }
        // A store may have kept more than is noted today.
        for uri in changed.subscriptions.iter().take(MAX_SUBSCRIPTIONS) {
            self.ask("resources/subscribe", json!({"uri": uri}), upstream, pin)
                .await;
        }
    }

    async fn ask(&mut self, method: &str, params: Value, upstream: &HeaderValue, pin: &Pin) {
        let message = json!({"jsonrpc": "2.0", "id": RENEW_ID, "method": method, "params": params});
        let status = self.tell(&message, upstream, pin).await;
        if !status.as_ref().is_ok_and(StatusCode::is_success) {
            tracing::debug!(method, ?status, "could not renew a part of a session");
        }
    }

    /// Sends a message and reads its answer to the end.
    async fn tell(
        &mut self,
        message: &Value,
        upstream: &HeaderValue,
        pin: &Pin,
    ) -> Result<StatusCode, BoxError> {
        let body = Bytes::from(message.to_string());
        let message = self.again.message(body, Some(upstream), pin.clone());
        let (request, _) = message.ok_or_else(lost)?;
        let response = self.send(request).await?;
        let status = response.status();
        read_result(response).await?;
        Ok(status)
    }
}

/// The ids of our own requests: strings that no client's counter gives.
const INITIALIZE_ID: &str = "outrigger/initialize";
const RENEW_ID: &str = "outrigger/renew";

/// `initialize` with the caller's parameters, which offer the revision that was negotiated.
fn initialize(params: &[u8], revision: Option<Revision>) -> Option<Bytes> {
    let head =
        format!(r#"{{"jsonrpc":"2.0","id":"{INITIALIZE_ID}","method":"initialize","params":"#);
    let message = Bytes::from([head.as_bytes(), params, b"}"].concat());
    let Ok(Parsed::One(read)) = Message::read(&message) else {
        return None;
    };
    match (read.params.protocol_version, revision) {
        (Some(offered), Some(revision)) => {
            let revision = format!("\"{revision}\"");
            Some(splice::replace(
                &message,
                offered.span(),
                revision.as_bytes(),
            ))
        }
        _ => Some(message),
    }
}

/// Reads the result in an answer, and the answer to its end.
async fn read_result(response: Response<Body>) -> Result<Option<Bytes>, BoxError> {
    let is_stream = is_event_stream(response.headers());
    let read = first_answer(response.into_body(), is_stream, MAX_HELD).await?;
    read_to_end(read.body).await;
    Ok(read.message.and_then(|message| message.result().cloned()))
}

/// Reads what is left of an answer nobody needs, within reason: dropped, it would look like a cancel.
pub(super) async fn read_to_end(mut body: Body) {
    let to_the_end = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whoever takes longer is cut off, and that is all there is to it.
    let _ = timeout(LEFTOVER, to_the_end).await;
}

/// What a server's refusal to be asked means for the call that waits.
fn refused(status: StatusCode) -> Failure {
    let cause = match status {
        StatusCode::UNAUTHORIZED => Cause::Unauthorized,
        StatusCode::FORBIDDEN => Cause::Forbidden,
        StatusCode::TOO_MANY_REQUESTS => Cause::UpstreamRateLimited,
        status if status.is_client_error() => Cause::SessionLost,
        _ => Cause::UpstreamError,
    };
    Failure::new(cause, Phase::Answered)
}

/// The call that waits was answered, and not executed, however far our own message came.
fn in_the_callers_place(error: BoxError) -> Failure {
    let failure = Failure::from_error(error);
    let mut own = Failure::new(failure.cause(), Phase::Answered);
    if let Some(origin) = failure.origin() {
        own = own.at(origin.clone());
    }
    if let Some(after) = failure.retry_after() {
        own = own.with_retry_after(after);
    }
    own.with_source(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_2_the_revision_in_use_is_offered_and_nothing_else_changes() {
        let params = br#"{ "protocolVersion":"2024-11-05","capabilities":{"x":1.0} }"#;
        let message = initialize(params, Some(Revision::V2025_06_18)).unwrap();
        assert!(message.ends_with(
            br#""params":{ "protocolVersion":"2025-06-18","capabilities":{"x":1.0} }}"#
        ));
    }

    #[test]
    fn rule_3_only_what_says_so_is_a_lost_session() {
        for text in [
            r#"{"code":-32000,"message":"Bad Request: No valid session ID provided"}"#,
            r#"{"code":-32000,"message":"Bad Request: Server not initialized"}"#,
            r#"{"code":-32600,"message":"Session not found"}"#,
        ] {
            assert!(says_lost(text.as_bytes()), "{text}");
        }
        for text in [
            r#"{"code":-32000,"message":"Bad Request: Unsupported protocol version"}"#,
            r#"{"code":-32602,"message":"Session not found"}"#,
            r#"{"code":-32000,"message":"the session of parliament"}"#,
            "[]",
            "",
        ] {
            assert!(!says_lost(text.as_bytes()), "{text}");
        }
    }
}
