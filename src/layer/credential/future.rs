//! One call: fetch the credential, send, and after a 401 perhaps once more.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::auth::{Credential, CredentialSource, Outcome};
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::facts::Facts;
use crate::layer::credential::InjectCredentialLayer;

pin_project! {
    /// The future of [`InjectCredential`](super::InjectCredential).
    pub struct ResponseFuture<S, C, B>
    where
        S: Service<Request<B>>,
        C: CredentialSource,
    {
        layer: InjectCredentialLayer<C>,
        sent: Sent,
        // Boxed: most calls keep none, and a future should be small.
        spare: Option<Box<Spare<S, B>>>,
        #[pin]
        state: State<C::Future, S::Future>,
    }
}

/// What is sent when the credential has come, or once more after a 401.
struct Spare<S, B> {
    inner: S,
    request: Request<B>,
}

impl<S: Service<Request<B>>, B> Spare<S, B> {
    fn send(self) -> S::Future {
        let mut inner = self.inner;
        inner.call(self.request)
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<T, F> {
        Fetch { #[pin] fetch: T },
        Renew { #[pin] fetch: T },
        Again { credential: Option<Credential> },
        Call { #[pin] call: F },
        Failed { error: Option<BoxError> },
    }
}

/// What has to be known of the credential that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// Nothing if there was none, or if it is the caller's own.
    generation: Option<u64>,
    /// Whether the upstream's refusal is the caller's to see.
    is_callers: bool,
}

impl<S, C, B> ResponseFuture<S, C, B>
where
    S: Service<Request<B>>,
    C: CredentialSource,
{
    /// Waits for the credential first.
    pub(super) fn fetch(
        layer: InjectCredentialLayer<C>,
        inner: S,
        request: Request<B>,
        fetch: C::Future,
    ) -> Self {
        Self {
            layer,
            sent: Sent::default(),
            spare: Some(Box::new(Spare { inner, request })),
            state: State::Fetch { fetch },
        }
    }

    /// Sends at once: nothing of the request is moved or kept unless it may be sent again.
    pub(super) fn at_hand(
        layer: &InjectCredentialLayer<C>,
        inner: &mut S,
        mut request: Request<B>,
        outcome: Outcome,
    ) -> Self
    where
        S: Clone,
        B: Clone,
    {
        let layer = layer.clone();
        let credential = match layer.admit(outcome) {
            Ok(credential) => credential,
            Err(error) => {
                return Self {
                    layer,
                    sent: Sent::default(),
                    spare: None,
                    state: State::Failed { error: Some(error) },
                };
            }
        };
        let sent = layer.put(&mut request, credential);
        let spare = layer.may_renew(sent).then(|| {
            Box::new(Spare {
                inner: inner.clone(),
                request: request.clone(),
            })
        });
        Self {
            state: State::Call {
                call: inner.call(request),
            },
            layer,
            sent,
            spare,
        }
    }
}

impl<S, C, B, ResBody> Future for ResponseFuture<S, C, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    C: CredentialSource,
    B: Clone,
{
    type Output = Result<Response<ResBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let layer = &*this.layer;
        loop {
            match this.state.as_mut().project() {
                StateProjection::Fetch { fetch } => {
                    let credential = layer.admit(ready!(fetch.poll(cx)))?;
                    let Some(mut spare) = this.spare.take() else {
                        return Poll::Pending;
                    };
                    *this.sent = layer.put(&mut spare.request, credential);
                    let call = if layer.may_renew(*this.sent) {
                        let call = spare.inner.call(spare.request.clone());
                        *this.spare = Some(spare);
                        call
                    } else {
                        spare.send()
                    };
                    this.state.set(State::Call { call });
                }
                StateProjection::Call { call } => {
                    let answer = ready!(call.poll(cx)).map_err(Into::into);
                    let Some(cause) = layer.judge(*this.sent, &answer) else {
                        return Poll::Ready(answer);
                    };
                    match (cause, this.sent.generation, this.spare.as_ref()) {
                        (Cause::Unauthorized, Some(refused), Some(spare)) => {
                            let caller = Facts::get(&spare.request).and_then(Facts::caller);
                            let fetch = layer.shared.source.renew(caller, refused);
                            this.state.set(State::Renew { fetch });
                        }
                        _ => return Poll::Ready(Err(layer.refused(*this.sent, cause))),
                    }
                }
                StateProjection::Renew { fetch } => {
                    let found = ready!(fetch.poll(cx)).ok().flatten();
                    let another = found.filter(|c| Some(c.generation()) != this.sent.generation);
                    if another.is_none() {
                        let error = layer.refused(*this.sent, Cause::Unauthorized);
                        return Poll::Ready(Err(error));
                    }
                    let credential = layer.admit(Ok(another))?;
                    this.state.set(State::Again { credential });
                }
                StateProjection::Again { credential } => {
                    if let Some(spare) = this.spare.as_mut() {
                        ready!(spare.inner.poll_ready(cx)).map_err(Into::into)?;
                    }
                    let Some(mut spare) = this.spare.take() else {
                        return Poll::Pending;
                    };
                    *this.sent = layer.put(&mut spare.request, credential.take());
                    let call = spare.send();
                    this.state.set(State::Call { call });
                }
                StateProjection::Failed { error } => {
                    let error = error.take();
                    return error.map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
    }
}

impl<C: CredentialSource> InjectCredentialLayer<C> {
    /// Whether another credential may be found if this one is refused.
    fn may_renew(&self, sent: Sent) -> bool {
        sent.generation.is_some() && self.shared.source.is_renewable()
    }

    /// What may be sent of what the source gave.
    fn admit(&self, outcome: Outcome) -> Result<Option<Credential>, BoxError> {
        let credential = outcome.map_err(|failure| self.failed(failure))?;
        if let Some(credential) = &credential
            && !credential.context().is_callers()
        {
            let admitted = self.shared.held.admit(credential.generation());
            admitted.map_err(|wait| {
                self.failed(Failure::unsent(Cause::CredentialHeld).with_retry_after(wait))
            })?;
        }
        Ok(credential)
    }

    /// Sets the credential in place of what stands in its header.
    fn put<B>(&self, request: &mut Request<B>, credential: Option<Credential>) -> Sent {
        let source = &self.shared.source;
        let Some(credential) = credential else {
            if let Some(name) = source.header() {
                request.headers_mut().remove(name);
            }
            return Sent {
                generation: None,
                is_callers: source.uses_callers_token(),
            };
        };
        let is_callers = credential.context().is_callers();
        let generation = (!is_callers).then_some(credential.generation());
        let (name, value) = credential.into_header();
        request.headers_mut().insert(name, value);
        Sent {
            generation,
            is_callers,
        }
    }

    /// Whether the upstream refuses the call because of who we are. If not, the credential is good.
    fn judge<B>(&self, sent: Sent, answer: &Result<Response<B>, BoxError>) -> Option<Cause> {
        let status = answer.as_ref().ok()?.status();
        if status == StatusCode::UNAUTHORIZED {
            return Some(Cause::Unauthorized);
        }
        if let Some(generation) = sent.generation {
            self.shared.held.accept(generation);
        }
        (status == StatusCode::FORBIDDEN).then_some(Cause::Forbidden)
    }

    /// The failure of a refused call; a credential of ours that was refused is held back.
    fn refused(&self, sent: Sent, cause: Cause) -> BoxError {
        if let Some(generation) = sent.generation
            && cause == Cause::Unauthorized
        {
            let held_for = self.shared.held.refuse(generation);
            tracing::warn!(
                origin = self.origin.as_deref(),
                ?held_for,
                "credential refused"
            );
        }
        let failure = Failure::new(cause, Phase::Answered);
        self.failed(match cause {
            Cause::Unauthorized if sent.is_callers => failure.with_status(StatusCode::UNAUTHORIZED),
            Cause::Forbidden if sent.is_callers => failure.with_status(StatusCode::FORBIDDEN),
            _ => failure,
        })
    }

    fn failed(&self, failure: Failure) -> BoxError {
        match &self.origin {
            Some(origin) => failure.at(Arc::clone(origin)).into(),
            None => failure.into(),
        }
    }
}

impl<S, C, B> fmt::Debug for ResponseFuture<S, C, B>
where
    S: Service<Request<B>>,
    C: CredentialSource,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
