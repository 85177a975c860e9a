//! The attempts of one call, one after the other.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Extensions, Request, Response};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::body::ResponseBody;
use super::renumber::{Ids, renumber};
use super::{Shared, verdict};
use crate::call::Call;
use crate::error::BoxError;
use crate::facts::{Facts, Pin as PinTo};
use crate::head::Head;

/// What of a request is kept for another attempt.
pub(super) struct Kept {
    shared: Arc<Shared>,
    facts: Facts,
    started: Instant,
    tries: u32,
    ids: Option<Ids>,
    head: Arc<Head>,
    call: Call,
    pin: Option<PinTo>,
    /// All of them, if there are others than those above.
    extensions: Option<Extensions>,
    body: Full<Bytes>,
}

impl Kept {
    pub(super) fn of(
        request: &Request<Full<Bytes>>,
        call: Call,
        facts: Facts,
        shared: Arc<Shared>,
    ) -> Self {
        let extensions = request.extensions();
        let pin = extensions.get::<PinTo>().cloned();
        // A copy of the map costs more than all the rest: mostly these are all that is in it.
        let known = 2 + usize::from(pin.is_some());
        Self {
            shared,
            facts,
            started: Instant::now(),
            tries: 1,
            ids: None,
            head: call.head_of(request),
            call,
            pin,
            extensions: (extensions.len() > known).then(|| extensions.clone()),
            body: request.body().clone(),
        }
    }

    /// When to send again after this outcome, if that is allowed: rules 1 to 3, 5 and 6.
    fn again<B>(&mut self, outcome: &Result<Response<B>, BoxError>) -> Option<Instant> {
        let Shared {
            params,
            purse,
            stats,
            dice,
        } = &*self.shared;
        if self.tries >= params.max_attempts {
            return None;
        }
        let call = &self.call;
        let (reason, after) = verdict(call, params, outcome)?;
        let backoff = params.backoff.wait(self.tries, dice.roll());
        let wait = after.map_or(backoff, |after| after.saturating_add(backoff));
        let at = Instant::now().checked_add(wait)?;
        if at
            > self
                .started
                .checked_add(params.timeouts.first_answer(Some(call)))?
        {
            return None;
        }
        if !purse.draw() {
            stats.0.exhausted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        stats.count(reason);
        self.tries += 1;
        if let Some(endpoint) = self.facts.endpoint() {
            let pin = self.pin.get_or_insert_default();
            if !pin.avoid.contains(&endpoint) {
                pin.avoid.push(endpoint);
            }
        }
        tracing::debug!(?reason, attempt = self.tries, ?wait, "sending again");
        Some(at)
    }

    /// The request of the next attempt.
    fn request(&mut self) -> Request<Full<Bytes>> {
        let mut request = self.head.request(self.body.clone());
        let extensions = request.extensions_mut();
        *extensions = self.extensions.clone().unwrap_or_default();
        extensions.insert(self.call.clone());
        extensions.insert(self.facts.clone());
        if let Some(pin) = &self.pin {
            extensions.insert(pin.clone());
        }
        let renumbered = renumber(&self.call, self.facts.request_id(), self.tries);
        if let Some((call, ids)) = renumbered {
            let body = call.body().clone();
            if request.headers().contains_key(CONTENT_LENGTH) {
                request
                    .headers_mut()
                    .insert(CONTENT_LENGTH, body.len().into());
            }
            *request.body_mut() = Full::new(body);
            request.extensions_mut().insert(call);
            self.ids = Some(ids);
        }
        self.facts.count_attempt();
        request
    }
}

pin_project! {
    /// The answer of the last attempt.
    pub struct ResponseFuture<S, F> {
        #[pin]
        state: State<F>,
        // Boxed: a call that is not sent again takes it along only from the future to the end.
        again: Option<Box<(Kept, S)>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Attempt { #[pin] attempt: F },
        Wait { #[pin] sleep: Sleep },
        Ready,
    }
}

impl<S, F> ResponseFuture<S, F> {
    pub(super) fn new(attempt: F, again: Option<Box<(Kept, S)>>) -> Self {
        Self {
            state: State::Attempt { attempt },
            again,
        }
    }
}

impl<S, B> Future for ResponseFuture<S, S::Future>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Attempt { attempt } => {
                    let outcome = ready!(attempt.poll(cx)).map_err(Into::into);
                    let kept = this.again.as_deref_mut().map(|(kept, _)| kept);
                    if let Some(at) = kept.and_then(|kept| kept.again(&outcome)) {
                        let sleep = sleep_until(at);
                        this.state.set(State::Wait { sleep });
                        continue;
                    }
                    let ids = this.again.take().and_then(|again| again.0.ids);
                    return Poll::Ready(outcome.map(|response| ResponseBody::wrap(response, ids)));
                }
                StateProjection::Wait { sleep } => {
                    ready!(sleep.poll(cx));
                    this.state.set(State::Ready);
                }
                StateProjection::Ready => {
                    let Some((kept, service)) = this.again.as_deref_mut() else {
                        return Poll::Pending;
                    };
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    let attempt = service.call(kept.request());
                    this.state.set(State::Attempt { attempt });
                }
            }
        }
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
