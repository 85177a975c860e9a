//! A stream that goes on when the upstream's breaks.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower_service::Service;

use crate::body::Body;
use crate::call::Call;
use crate::codec::sse::{Decoder, Event};
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::layer::media::is_event_stream;
use crate::layer::rejoin::Rest;
use crate::layer::rejoin::again::Shape;
use crate::layer::rejoin::rebuild::read_lost;
use crate::layer::response::answers;

/// The largest event that is held until it is whole.
const MAX_EVENT: usize = 1 << 20;
/// How long to wait where the server does not say.
const WAIT: Duration = Duration::from_secs(1);
/// The shortest wait a server can ask for, lest it keeps us busy.
const MIN_WAIT: Duration = Duration::from_millis(10);
/// The longest wait it can ask for.
const MAX_WAIT: Duration = Duration::from_mins(10);
/// The longest wait between two tries that fail.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The body of a GET, or of a POST that is answered with events.
pub(super) struct Resumed<S> {
    state: State<S>,
    /// Whole events, as they came, that go out next.
    ready: VecDeque<Bytes>,
    seen: Seen,
}

enum State<S> {
    Reading {
        body: Body,
        decoder: Decoder,
        rest: Box<Rest<S>>,
    },
    /// Nothing is looked at any more: the response is through, or an event is too large.
    Passing {
        body: Body,
        is_answered: bool,
    },
    Resuming(Pin<Box<dyn Future<Output = Resumption<S>> + Send>>),
    Done,
}

type Resumption<S> = Result<Option<(Body, Box<Rest<S>>)>, BoxError>;

/// What is known of a stream from its events.
#[derive(Clone, Default)]
struct Seen {
    /// The id of the request that waits for its response; nothing for a GET.
    id: Option<Bytes>,
    /// The last event id, and which upstream session it is of.
    last: Option<(Bytes, u32)>,
    retry: Option<Duration>,
    is_answered: bool,
    /// Whether an event came since the stream was opened.
    is_alive: bool,
    /// How long to wait before it is opened again.
    pause: Duration,
}

impl Seen {
    fn note(&mut self, event: &Event, generation: u32) {
        self.is_alive |= !event.is_padding();
        if let Some(id) = &event.id {
            // An empty id takes the last one back, as the HTML specification has it. It is a slice of a large buffer.
            self.last = (!id.is_empty()).then(|| (Bytes::copy_from_slice(id), generation));
        }
        if let Some(retry) = event.retry {
            self.retry = Some(Duration::from_millis(retry).clamp(MIN_WAIT, MAX_WAIT));
        }
        if let (Some(id), Some(data)) = (&self.id, event.message()) {
            self.is_answered |= answers(data, id);
        }
    }

    /// The stream is over. One that brought nothing is opened again later and later.
    fn end(&mut self) {
        let asked = self.retry.unwrap_or(WAIT);
        self.pause = if std::mem::take(&mut self.is_alive) || self.pause.is_zero() {
            asked
        } else {
            longer(self.pause)
        };
    }
}

/// Nothing in it is polled in place: bodies are boxed, services are not futures.
impl<S> Unpin for Resumed<S> {}

impl<S> Resumed<S> {
    pub(super) fn new(body: Body, mut rest: Box<Rest<S>>) -> Self {
        let seen = Seen {
            id: rest.again.call().as_ref().and_then(Call::id_token),
            ..Seen::default()
        };
        // From here on it is a GET that is sent, if anything.
        rest.again.forget_body();
        Self {
            state: Self::reading(body, rest),
            ready: VecDeque::new(),
            seen,
        }
    }

    fn reading(body: Body, rest: Box<Rest<S>>) -> State<S> {
        State::Reading {
            body,
            decoder: Decoder::new(MAX_EVENT),
            rest,
        }
    }

    /// Takes whole events out of the decoder. Once there is nothing left to look for, the rest passes.
    fn take_events(&mut self) {
        let State::Reading { decoder, rest, .. } = &mut self.state else {
            return;
        };
        let is_too_large = loop {
            match decoder.next() {
                Ok(Some(event)) => {
                    self.seen.note(&event, rest.generation);
                    self.ready.push_back(event.raw);
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if !is_too_large && !self.seen.is_answered {
            return;
        }
        if let State::Reading { body, decoder, .. } =
            std::mem::replace(&mut self.state, State::Done)
        {
            let held = decoder.finish();
            self.ready.extend((!held.is_empty()).then_some(held));
            self.state = State::Passing {
                body,
                is_answered: self.seen.is_answered,
            };
        }
    }
}

impl<S, B> Resumed<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// The upstream's stream is over: goes on if it can.
    fn interrupted(&mut self, error: Option<BoxError>) -> Option<BoxError> {
        let State::Reading { rest, .. } = std::mem::replace(&mut self.state, State::Done) else {
            return error;
        };
        let is_call = self.seen.id.is_some();
        let is_broken = error.as_ref().is_none_or(is_loss);
        if is_call && (self.seen.last.is_none() || !is_broken) {
            return Some(error.unwrap_or_else(connection_lost));
        }
        self.seen.end();
        self.state = State::Resuming(Box::pin(rest.resume(self.seen.clone())));
        None
    }
}

/// Whether a stream broke by itself, and was not ended by us for its silence or length.
fn is_loss(error: &BoxError) -> bool {
    Failure::of(error).is_none_or(|failure| failure.cause() == Cause::ConnectionLost)
}

fn connection_lost() -> BoxError {
    Failure::new(Cause::ConnectionLost, Phase::Sent).into()
}

impl<S, B> http_body::Body for Resumed<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            match &mut this.state {
                State::Reading { body, decoder, .. } => {
                    match ready!(Pin::new(body).poll_frame(cx)) {
                        Some(Ok(frame)) => {
                            if let Ok(data) = frame.into_data() {
                                decoder.push(&data);
                                this.take_events();
                            }
                        }
                        ended => {
                            let error = ended.and_then(Result::err);
                            if let Some(error) = this.interrupted(error) {
                                return Poll::Ready(Some(Err(error)));
                            }
                        }
                    }
                }
                State::Passing { body, is_answered } => {
                    let frame = ready!(Pin::new(body).poll_frame(cx));
                    let is_over = matches!(frame, None | Some(Err(_)));
                    // After its response nothing more may be said of a request, an error neither.
                    let frame = frame.filter(|frame| frame.is_ok() || !*is_answered);
                    if is_over {
                        this.state = State::Done;
                    }
                    return Poll::Ready(frame);
                }
                State::Resuming(resuming) => {
                    let resumption = ready!(resuming.as_mut().poll(cx));
                    this.state = State::Done;
                    match resumption {
                        Ok(Some((body, rest))) => this.state = Self::reading(body, rest),
                        Ok(None) => return Poll::Ready(None),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && matches!(self.state, State::Done)
    }
}

/// What one try to resume has brought.
enum Try {
    Open(Body),
    /// Not now.
    Wait,
    /// At once: the session was rebuilt.
    Anew,
    /// Never.
    Over,
}

impl<S, B> Rest<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>,
    S: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Opens the stream again: a stream, or nothing if it is over, or an error if a response is missing for good.
    async fn resume(mut self: Box<Self>, seen: Seen) -> Resumption<S> {
        let is_call = seen.id.is_some();
        let deadline = Instant::now() + seen.pause + self.params.resume;
        let mut wait = seen.pause;
        let mut was_rebuilt = false;
        loop {
            self.wait(wait).await;
            match self.try_resume(&seen).await {
                Try::Open(body) => return Ok(Some((body, self))),
                // A server that loses what it has just opened is not asked in a loop.
                Try::Anew if !was_rebuilt => (wait, was_rebuilt) = (Duration::ZERO, true),
                Try::Anew | Try::Wait => wait = longer(wait.max(seen.pause)),
                Try::Over if is_call => return Err(connection_lost()),
                Try::Over => return Ok(None),
            }
            if is_call && Instant::now() + wait > deadline {
                return Err(connection_lost());
            }
        }
    }

    /// Waits as long as it is told, or until somebody has rebuilt the session.
    async fn wait(&mut self, time: Duration) {
        let session = self.again.shared_session();
        let mut renewed = std::pin::pin!(session.state().renewed().notified());
        // Enabled before the look at the generation, so that a rebuild between the two is not missed.
        renewed.as_mut().enable();
        if session.state().generation() != self.generation {
            return;
        }
        tokio::select! {
            () = renewed => {}
            () = sleep(time) => {}
        }
    }

    async fn try_resume(&mut self, seen: &Seen) -> Try {
        let is_call = seen.id.is_some();
        let (request, generation) = self.again.stream(seen.last.as_ref());
        if is_call && generation != self.generation {
            // The session that would have answered is gone.
            return Try::Over;
        }
        self.generation = generation;
        let sent = match self.send(request).await {
            Ok(response) => read_lost(response, Shape::Stream).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok((response, _)) if response.status().is_success() => {
                if is_event_stream(response.headers()) {
                    Try::Open(response.into_body())
                } else {
                    Try::Over
                }
            }
            Ok((_, true)) if !is_call => match self.rebuild(generation).await {
                Ok(()) => Try::Anew,
                Err(failure) if failure.cause() == Cause::SessionLost => Try::Over,
                Err(_) => Try::Wait,
            },
            Ok((response, _)) => match response.status() {
                // Another stream of this session has not been given up yet, or too many have been opened.
                StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => Try::Wait,
                status if status.is_server_error() => Try::Wait,
                _ => Try::Over,
            },
            Err(_) => Try::Wait,
        }
    }
}

/// Twice as long, within bounds, and up to a quarter more, so that many streams do not come back at once.
fn longer(wait: Duration) -> Duration {
    let doubled = (wait * 2).min(MAX_BACKOFF.max(wait));
    let random = RandomState::new().hash_one(0_u8) % 256;
    doubled + doubled / 1024 * u32::try_from(random).unwrap_or_default()
}
