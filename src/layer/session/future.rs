//! What [`Session`](super::Session) answers with.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use pin_project_lite::pin_project;

use crate::body::Body;
use crate::error::{BoxError, Failure};
use crate::layer::PassedBody;
use crate::layer::media::is_event_stream;
use crate::layer::session::detach::{Job, Kept, KeptBody};
use crate::mcp::headers::{SESSION_ID, name_session};
use crate::session::OpenSession;

pin_project! {
    /// The inner answer, with the session id that the caller knows.
    ///
    /// # Cancellation
    ///
    /// Dropped before its answer, a legacy request goes on in a task of its own; anything else is cancelled.
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

/// An answer that is read before it is given on.
type Attended<B> = dyn Future<Output = Result<Response<PassedBody<B>>, BoxError>> + Send + 'static;

pin_project! {
    #[project = Projection]
    enum State<F, B> {
        Pass { #[pin] future: F },
        Look { #[pin] future: F, session: Option<Arc<OpenSession>> },
        Keep { kept: Kept<F>, session: Option<Arc<OpenSession>> },
        Attend { kept: Kept<Attended<B>> },
        Fail { failure: Option<Failure> },
    }
}

impl<F, B> ResponseFuture<F, B> {
    fn new(state: State<F, B>) -> Self {
        Self { state }
    }

    pub(super) fn pass(future: F) -> Self {
        Self::new(State::Pass { future })
    }

    pub(super) fn fail(failure: Failure) -> Self {
        let failure = Some(failure);
        Self::new(State::Fail { failure })
    }

    pub(super) fn look(future: F, session: Option<Arc<OpenSession>>) -> Self {
        Self::new(State::Look { future, session })
    }

    pub(super) fn keep<E>(future: F, session: Option<Arc<OpenSession>>, job: Job) -> Self
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        E: Send + 'static,
    {
        let kept = Kept::new(Box::pin(future), Some(job));
        Self::new(State::Keep { kept, session })
    }

    pub(super) fn attend<A>(attended: A, job: Option<Job>) -> Self
    where
        A: Future<Output = Result<Response<PassedBody<B>>, BoxError>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let kept = Kept::new(Box::pin(attended) as Pin<Box<Attended<B>>>, job);
        Self::new(State::Attend { kept })
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<PassedBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            Projection::Pass { future } => ready!(future.poll(cx))
                .map(|response| response.map(PassedBody::inner))
                .map_err(Into::into),
            Projection::Look { future, session } => match ready!(future.poll(cx)) {
                Ok(mut response) => {
                    restore_id(response.headers_mut(), session.as_deref());
                    Ok(response.map(PassedBody::inner))
                }
                Err(error) => Err(error.into()),
            },
            Projection::Keep { kept, session } => {
                let (output, job) = ready!(kept.poll(cx));
                match output {
                    Ok(mut response) => {
                        restore_id(response.headers_mut(), session.as_deref());
                        Ok(keep_body(response, job))
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Projection::Attend { kept } => {
                let (output, job) = ready!(kept.poll(cx));
                output.map(
                    |response| match job.filter(|_| is_event_stream(response.headers())) {
                        Some(job) => response.map(|body| keep(body, job)),
                        None => response,
                    },
                )
            }
            Projection::Fail { failure } => match failure.take() {
                Some(failure) => Err(failure.into()),
                // Polled again after it was ready, which futures need not bear.
                None => return Poll::Pending,
            },
        })
    }
}

/// Puts the caller's id where the upstream's stands.
fn restore_id(headers: &mut HeaderMap, session: Option<&OpenSession>) {
    if name_session(headers) {
        match session {
            Some(session) => headers.insert(SESSION_ID, session.id().clone()),
            None => headers.remove(SESSION_ID),
        };
    }
}

/// A stream of events can be left long before its end, and then goes on; of anything else the head says that the call
/// is done.
fn keep_body<B>(response: Response<B>, job: Option<Job>) -> Response<PassedBody<B>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    match job.filter(|_| is_event_stream(response.headers())) {
        Some(job) => response.map(|body| keep(body, job)),
        None => response.map(PassedBody::inner),
    }
}

fn keep<B, C>(body: B, job: Job) -> PassedBody<C>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    PassedBody::own(Body::new(KeptBody::new(Body::new(body), job)))
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
