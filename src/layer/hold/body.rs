//! The body of an answer that may come late.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::message::AsEvent;
use super::shutting_down;
use super::stream::Stream;
use crate::error::{BoxError, Cause, Failure, Phase};
use crate::layer::media;

pin_project! {
    /// The inner body; a stream of events is kept alive and ends with an event if it breaks.
    pub struct ResponseBody<F, B> {
        #[pin]
        source: Source<F, B>,
        // Boxed: most answers are no streams.
        stream: Option<Box<Stream>>,
    }
}

pin_project! {
    #[project = SourceProjection]
    enum Source<F, B> {
        // The inner body: as it is without a stream, else its events.
        Body { #[pin] body: B },
        // The answer is not there yet.
        Late { answer: Pin<Box<F>> },
        // It is a JSON message, to become an event.
        Message { #[pin] body: B, event: AsEvent },
        Done,
    }
}

impl<F, B> ResponseBody<F, B> {
    pub(super) fn plain(body: B) -> Self {
        Self {
            source: Source::Body { body },
            stream: None,
        }
    }

    pub(super) fn events(body: B, stream: Box<Stream>) -> Self {
        Self {
            source: Source::Body { body },
            stream: Some(stream),
        }
    }

    pub(super) fn late(answer: Pin<Box<F>>, mut stream: Box<Stream>) -> Self {
        stream.next = Some(Stream::comment());
        Self {
            source: Source::Late { answer },
            stream: Some(stream),
        }
    }
}

impl<F, B: From<Bytes>> From<Bytes> for ResponseBody<F, B> {
    fn from(bytes: Bytes) -> Self {
        Self::plain(B::from(bytes))
    }
}

/// What comes next of a stream.
enum Step {
    Pass(Bytes),
    Last(Bytes),
    Frame(Frame<Bytes>),
    End,
    Break(BoxError),
    /// The source has changed, or gave nothing.
    Again,
}

impl<F, B, E> Source<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_step(mut self: Pin<&mut Self>, cx: &mut Context<'_>, wants_answer: bool) -> Poll<Step> {
        match self.as_mut().project() {
            SourceProjection::Body { body } => body.poll_frame(cx).map(|frame| match frame {
                None => Step::End,
                Some(Err(error)) => Step::Break(error.into()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Step::Pass(data),
                    Err(frame) => Step::Frame(frame),
                },
            }),
            SourceProjection::Late { answer } => {
                answer.as_mut().poll(cx).map(|outcome| match outcome {
                    Err(error) => Step::Break(error.into()),
                    Ok(response) => self.arrive(response, wants_answer),
                })
            }
            SourceProjection::Message { body, event } => {
                body.poll_frame(cx).map(|frame| match frame {
                    None => match event.finish() {
                        Some(last) => Step::Last(last),
                        None => Step::Break(no_message()),
                    },
                    Some(Err(error)) => Step::Break(error.into()),
                    Some(Ok(frame)) => frame
                        .into_data()
                        .map_or(Step::Again, |data| Step::Pass(event.push(&data))),
                })
            }
            SourceProjection::Done => Poll::Ready(Step::End),
        }
    }

    /// Lets the stream look for the response. What comes of a message is known not to be the whole of it.
    fn show(&self, bytes: &Bytes, stream: &mut Stream) {
        if !matches!(self, Self::Message { .. }) {
            stream.saw(bytes);
        }
    }

    /// Goes on with an answer that came late.
    fn arrive(mut self: Pin<&mut Self>, response: Response<B>, wants_answer: bool) -> Step {
        let is_stream =
            media::is_event_stream(response.headers()) && response.status().is_success();
        let is_message = media::is_json(response.headers());
        let body = response.into_body();
        if is_stream {
            self.set(Self::Body { body });
            Step::Again
        } else if !wants_answer {
            // A GET: its 405 or 409 can no longer be said.
            Step::End
        } else if is_message {
            let event = AsEvent::default();
            self.set(Self::Message { body, event });
            Step::Again
        } else {
            Step::Break(no_message())
        }
    }
}

fn no_message() -> BoxError {
    Failure::new(Cause::BadResponse, Phase::Answered).into()
}

impl<F, B, E> Body for ResponseBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_deref_mut() else {
            return match this.source.project() {
                SourceProjection::Body { body } => body
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
                _ => Poll::Ready(None),
            };
        };
        loop {
            if let Some(bytes) = stream.next.take() {
                stream.pass(&bytes);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let wants_answer = stream.wants_answer();
            let Poll::Ready(step) = this.source.as_mut().poll_step(cx, wants_answer) else {
                if stream.is_over() {
                    this.source.set(Source::Done);
                    if !stream.lacks_answer() {
                        return Poll::Ready(None);
                    }
                    stream.next = Some(stream.break_off(&shutting_down(Phase::Sent)));
                    continue;
                }
                let comment = ready!(stream.poll_comment(cx));
                stream.next = Some(comment);
                continue;
            };
            match step {
                Step::Again => {}
                Step::Pass(bytes) => {
                    this.source.show(&bytes, stream);
                    stream.next = Some(bytes).filter(|bytes| !bytes.is_empty());
                }
                Step::Last(bytes) => {
                    this.source.set(Source::Done);
                    stream.next = Some(bytes);
                    stream.finish();
                }
                Step::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Step::End => {
                    this.source.set(Source::Done);
                    if !stream.lacks_answer() {
                        return Poll::Ready(None);
                    }
                    let lost = Failure::new(Cause::ConnectionLost, Phase::Sent);
                    stream.next = Some(stream.break_off(&lost));
                }
                Step::Break(error) => {
                    this.source.set(Source::Done);
                    // After its response nothing more may be said of a request, an error neither.
                    if stream.is_answered() {
                        return Poll::Ready(None);
                    }
                    if !wants_answer || stream.may_have_answer() {
                        return Poll::Ready(Some(Err(error)));
                    }
                    stream.next = Some(stream.break_off(&Failure::from_error(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Body { body } => self.stream.is_none() && body.is_end_stream(),
            Source::Done => self
                .stream
                .as_ref()
                .is_none_or(|stream| stream.next.is_none()),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Body { body } if self.stream.is_none() => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl<F, B> fmt::Debug for ResponseBody<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
