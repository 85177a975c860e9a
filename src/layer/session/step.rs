//! The few calls whose answer changes a session: it is read, bounded, and given on as it came.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use crate::body::Body;
use crate::call::{Call, Form};
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::facts::Facts;
use crate::layer::PassedBody;
use crate::layer::media::is_event_stream;
use crate::layer::session::sessions::Sessions;
use crate::mcp::headers::SESSION_ID;
use crate::mcp::method::Method;
use crate::session::OpenSession;
use crate::session::answer::{FirstAnswer, Negotiated, first_answer};

/// The most bytes held of an answer that has to be read.
const MAX_HELD: usize = 4 << 20;
/// The most bytes of a `logging/setLevel`'s parameters that are kept: a level is a word.
const MAX_LEVEL: usize = 1024;
/// The most bytes of an `initialize`'s parameters that are kept. A session with more cannot be rebuilt.
const MAX_PARAMS: usize = 16 * 1024;

/// What an answer changes.
pub(super) enum Step {
    /// It begins a session.
    Initialize { params: Option<Bytes> },
    /// It changes one, if it is a result.
    Note(Change),
    /// It ends one, if it is no refusal.
    End,
}

/// What changes.
pub(super) enum Change {
    LogLevel(Bytes),
    Subscribe(String),
    Unsubscribe(String),
}

impl Step {
    /// The step that a call is, if it is one.
    pub(super) fn of(call: &Call) -> Option<Self> {
        let message = match call.form() {
            Form::End => return Some(Self::End),
            Form::Message(message) if call.wants_answer() => message,
            _ => return None,
        };
        let body = call.body();
        let params = || {
            message
                .params
                .span
                .map(|span| body.slice_ref(span.of(body)))
        };
        let kept = |most| params().filter(|params| params.len() <= most);
        let uri = || message.params.uri.map(|uri| uri.decode(body).into_owned());
        match message.known_method()? {
            Method::Initialize => Some(Self::Initialize {
                params: kept(MAX_PARAMS),
            }),
            Method::SetLevel => Some(Self::Note(Change::LogLevel(kept(MAX_LEVEL)?))),
            Method::ResourcesSubscribe => Some(Self::Note(Change::Subscribe(uri()?))),
            Method::ResourcesUnsubscribe => Some(Self::Note(Change::Unsubscribe(uri()?))),
            _ => None,
        }
    }
}

/// Sees to one answer.
pub(super) struct Attend {
    pub(super) sessions: Sessions,
    pub(super) facts: Option<Facts>,
    pub(super) session: Option<Arc<OpenSession>>,
}

impl Attend {
    pub(super) async fn run<F, B, E>(
        self,
        step: Step,
        future: F,
    ) -> Result<Response<PassedBody<B>>, BoxError>
    where
        F: Future<Output = Result<Response<B>, E>>,
        E: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut response = future.await.map_err(Into::into)?;
        let upstream = response.headers_mut().remove(SESSION_ID);
        if let (Some(session), Some(_)) = (&self.session, &upstream) {
            response
                .headers_mut()
                .insert(SESSION_ID, session.id().clone());
        }
        let status = response.status();
        match step {
            Step::End => self.end(status),
            Step::Note(change) if status.is_success() && self.session.is_some() => {
                let (response, answer) = read(response).await?;
                if answer.is_some() {
                    self.note(change);
                }
                return Ok(response);
            }
            Step::Initialize { params } if status.is_success() => {
                let (mut response, answer) = read(response).await?;
                let negotiated = answer.map(|result| Negotiated::of_result(&result));
                if negotiated.as_ref().is_some_and(|it| it.is_undefined) {
                    return Err(Failure::new(Cause::BadResponse, Phase::Answered).into());
                }
                if let (Some(negotiated), Some(upstream)) = (negotiated, upstream) {
                    // Parameters are a slice of the request, which must not be kept whole because of them.
                    let params = params.map(|params| Bytes::copy_from_slice(&params));
                    let facts = self.facts.as_ref();
                    let session = self.sessions.mint(&upstream, negotiated, params, facts)?;
                    response
                        .headers_mut()
                        .insert(SESSION_ID, session.id().clone());
                }
                return Ok(response);
            }
            Step::Note(_) | Step::Initialize { .. } => {}
        }
        Ok(response.map(PassedBody::inner))
    }

    /// A server that does not know the session any more has ended it, too; one that refuses (405) has not.
    fn end(&self, status: StatusCode) {
        if let Some(session) = &self.session
            && (status.is_success() || status == StatusCode::NOT_FOUND)
        {
            let was_open = session.state().end();
            session.save();
            self.sessions.forget(session);
            if let Some(exchange) = self.facts.as_ref().and_then(Facts::exchange)
                && was_open
            {
                exchange.closed(self.sessions.age(session), session.revision());
            }
        }
    }

    fn note(&self, change: Change) {
        let Some(session) = &self.session else {
            return;
        };
        let state = session.state();
        match change {
            Change::LogLevel(params) => state.set_log_level(Bytes::copy_from_slice(&params)),
            Change::Subscribe(uri) => state.subscribe(&uri),
            Change::Unsubscribe(uri) => state.unsubscribe(&uri),
        }
        session.save();
    }
}

/// Reads an answer's result, if it has one.
async fn read<B>(
    response: Response<B>,
) -> Result<(Response<PassedBody<B>>, Option<Bytes>), BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let is_stream = is_event_stream(&head.headers);
    let FirstAnswer { message, body, .. } =
        first_answer(Body::new(body), is_stream, MAX_HELD).await?;
    let result = message.and_then(|message| message.result().cloned());
    Ok((Response::from_parts(head, PassedBody::own(body)), result))
}
