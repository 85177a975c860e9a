//! The one timer of an attempt, made at the first wait and moved on from bound to bound.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Bound;
use crate::error::{Failure, Phase};
use crate::facts::Facts;

/// What an attempt still has to keep to.
pub(super) struct Timer {
    first: Duration,
    idle: Option<Duration>,
    whole: Option<Instant>,
    origin: Option<Arc<str>>,
    facts: Option<Facts>,
    /// When the first answer was first waited for, then when the body last was.
    waiting_since: Option<Instant>,
    // Boxed, so that it moves from the future to the body without being made anew.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    pub(super) fn new(
        first: Duration,
        idle: Option<Duration>,
        whole: Option<Instant>,
        origin: Option<Arc<str>>,
        facts: Option<Facts>,
    ) -> Self {
        Self {
            first,
            idle,
            whole,
            origin,
            facts,
            waiting_since: None,
            sleep: None,
        }
    }

    /// Waits for the bound of the first answer.
    pub(super) fn poll_first_answer(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        self.poll_bound(cx, Bound::FirstAnswer, Some(self.first))
    }

    /// Waits for the bound of a silent body.
    pub(super) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        self.poll_bound(cx, Bound::Idle, self.idle)
    }

    /// Says that something came: the next wait begins a span of its own.
    pub(super) fn heard(&mut self) {
        self.waiting_since = None;
    }

    /// Whether the body has anything to keep to.
    pub(super) fn watches_body(&self) -> bool {
        self.idle.is_some() || self.whole.is_some()
    }

    fn poll_bound(
        &mut self,
        cx: &mut Context<'_>,
        bound: Bound,
        span: Option<Duration>,
    ) -> Poll<Failure> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let by_span = span.and_then(|span| since.checked_add(span));
        let (at, bound) = match (by_span, self.whole) {
            (Some(at), Some(whole)) if whole < at => (whole, Bound::Total),
            (Some(at), _) => (at, bound),
            (None, Some(whole)) => (whole, Bound::Total),
            (None, None) => return Poll::Pending,
        };
        let facts = self.facts.as_ref();
        let sleep = self.sleep.get_or_insert_with(|| {
            let wanted = facts.and_then(Facts::wants_poll);
            let wanted = wanted.filter(|wanted| since < *wanted && *wanted < at);
            if let (Some(facts), Some(_)) = (facts, wanted) {
                facts.see_to_poll(true);
            }
            Box::pin(sleep_until(wanted.unwrap_or(at)))
        });
        // A timer that stands too early is moved on only when it fires: most frames come before it does, and moving
        // it at each would cost more than the frame.
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if sleep.deadline() >= at {
                break;
            }
            if let Some(facts) = facts {
                facts.see_to_poll(false);
            }
            sleep.as_mut().reset(at);
        }
        let failure = Failure::new(bound.cause(), Phase::Sent);
        Poll::Ready(match self.origin.take() {
            Some(origin) => failure.at(origin),
            None => failure,
        })
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(facts) = self.facts.as_ref().filter(|_| self.sleep.is_some()) {
            facts.see_to_poll(false);
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}
