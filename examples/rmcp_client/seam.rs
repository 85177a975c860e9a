//! The seam: rmcp's `StreamableHttpClient` hands over one message and wants the answer; the wire is the stack's.

use std::collections::HashMap;
use std::sync::Arc;

use futures_core::stream::BoxStream;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full, Limited};
use outrigger::{Body, BoxError, Failure};
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClient, StreamableHttpError as Error, StreamableHttpPostResponse as Answer,
};
use sse_stream::{Error as SseError, Sse, SseStream};
use tower::ServiceExt;

use crate::Stack;

type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, std::result::Result<Sse, SseError>>;
type Result<T> = std::result::Result<T, Error<Failure>>;

/// What rmcp is given as its HTTP client.
#[derive(Clone, Debug)]
pub(crate) struct Stacked(pub(crate) Stack);

impl Stacked {
    /// Sends a request; rmcp's own `Authorization` is left out, since the stack has the credential.
    async fn send(
        &self,
        mut request: request::Builder,
        session: Option<Arc<str>>,
        headers: Headers,
        body: Vec<u8>,
    ) -> Result<Response<Body>> {
        if let Some(all) = request.headers_mut() {
            all.extend(headers);
        }
        if let Some(session) = session {
            request = request.header("mcp-session-id", &*session);
        }
        let request = request.body(Full::from(body)).map_err(|e| lost(e.into()))?;
        let answer = self.0.clone().oneshot(request).await.map_err(lost)?;
        match answer.status() {
            StatusCode::NOT_FOUND => Err(Error::SessionExpired),
            _ => Ok(answer),
        }
    }
}

/// A failure of the stack keeps its cause and phase on its way through rmcp.
fn lost(error: BoxError) -> Error<Failure> {
    Error::Client(Failure::from_error(error))
}

impl StreamableHttpClient for Stacked {
    type Error = Failure;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<Answer> {
        let (post, body) = (Request::post(&*uri), serde_json::to_vec(&message)?);
        let answer = self.send(post, session, headers, body).await?;
        let session = header(&answer, "mcp-session-id");
        let kind = header(&answer, "content-type").unwrap_or_default();
        match (answer.status(), kind) {
            (StatusCode::ACCEPTED, _) => Ok(Answer::Accepted),
            (_, kind) if kind.starts_with("text/event-stream") => {
                Ok(Answer::Sse(events(answer), session))
            }
            (_, kind) if kind.starts_with("application/json") => {
                let body = Limited::new(answer.into_body(), 16 << 20).collect().await;
                let message = serde_json::from_slice(&body.map_err(lost)?.to_bytes())?;
                Ok(Answer::Json(message, session))
            }
            (_, kind) => Err(Error::UnexpectedContentType(Some(kind))),
        }
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<Events> {
        let get = last.iter().fold(Request::get(&*uri), |get, id| {
            get.header("last-event-id", id)
        });
        let answer = self.send(get, session, headers, Vec::new()).await?;
        match answer.status() {
            StatusCode::METHOD_NOT_ALLOWED => Err(Error::ServerDoesNotSupportSse),
            _ => Ok(events(answer)),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<()> {
        let delete = Request::delete(&*uri);
        self.send(delete, Some(session), headers, Vec::new())
            .await?;
        Ok(())
    }
}

fn header(answer: &Response<Body>, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

/// An answer as events.
fn events(answer: Response<Body>) -> Events {
    Box::pin(SseStream::new(
        answer.into_body().map_err(Failure::from_error),
    ))
}
