//! A stream of events on its way to a caller: its silence, and its end if it breaks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Signal;
use crate::call::Call;
use crate::codec::sse;
use crate::error::{Addressee, Failure, error_body};
use crate::facts::Facts;
use crate::layer::boundary::Boundary;
use crate::layer::response::Awaited;

/// What a stream is for.
pub(super) struct Stream {
    keep_alive: Duration,
    to: Addressee,
    facts: Option<Facts>,
    boundary: Boundary,
    awaited: Option<Awaited>,
    over: Option<Signal>,
    /// Goes to the caller before anything else.
    pub(super) next: Option<Bytes>,
    /// Since when nothing has come.
    quiet_since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) fn new(
        keep_alive: Duration,
        call: &Call,
        facts: Option<Facts>,
        over: Option<Signal>,
    ) -> Self {
        Self {
            keep_alive,
            to: Addressee::to(Some(call), facts.as_ref()),
            facts,
            boundary: Boundary::start(),
            awaited: Awaited::of(call),
            over,
            next: None,
            quiet_since: None,
            sleep: None,
        }
    }

    /// Whether somebody waits for an answer in it.
    pub(super) fn wants_answer(&self) -> bool {
        self.to.id().is_some()
    }

    /// Takes note of bytes that have come for the caller.
    pub(super) fn saw(&mut self, bytes: &[u8]) {
        if let Some(awaited) = &mut self.awaited {
            awaited.saw(bytes);
        }
    }

    /// Whether the answer that somebody waits for has come.
    pub(super) fn is_answered(&self) -> bool {
        self.awaited.as_ref().is_some_and(Awaited::has_come)
    }

    /// Whether a call would be without an answer for ever if the stream ended here.
    pub(super) fn lacks_answer(&self) -> bool {
        let awaited = self.awaited.as_ref();
        awaited.is_some_and(Awaited::would_be_missing)
    }

    /// Whether the answer may have come, or comes elsewhere: to say anything could be to answer twice.
    pub(super) fn may_have_answer(&self) -> bool {
        let awaited = self.awaited.as_ref();
        awaited.is_some_and(|it| !it.has_come() && !it.would_be_missing())
    }

    /// Its last word is said: nothing is awaited any more.
    pub(super) fn finish(&mut self) {
        self.awaited = None;
    }

    /// Whether the process ends now, and with it the call.
    pub(super) fn is_over(&self) -> bool {
        self.awaited.is_some() && super::is_over(self.over.as_ref())
    }

    /// Takes note of bytes that go to the caller.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        self.boundary.pass(bytes);
        self.quiet_since = None;
    }

    /// A comment, which says nothing but that the stream lives.
    pub(super) fn comment() -> Bytes {
        sse::comment("")
    }

    /// Waits for the next comment that is due. Within an event none ever is.
    pub(super) fn poll_comment(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if !self.boundary.is_between() {
            return Poll::Pending;
        }
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        let Some(at) = since.checked_add(self.keep_alive) else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // As events come, the timer stays behind; it is moved on only when it fires.
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return Poll::Ready(Self::comment());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// The end of a stream that broke: its error as an event, and before it the end of an event that has begun.
    pub(super) fn break_off(&mut self, failure: &Failure) -> Bytes {
        self.finish();
        if let Some(facts) = &self.facts {
            facts.set_cause(failure.cause());
        }
        tracing::debug!(
            cause = failure.cause().as_str(),
            "stream ends with an error"
        );
        let event = sse::encode_event(Some("message"), None, &error_body(failure, &self.to));
        let abort = self.boundary.abort();
        if abort.is_empty() {
            return event;
        }
        let mut end = BytesMut::from(abort);
        end.extend_from_slice(&event);
        end.freeze()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
