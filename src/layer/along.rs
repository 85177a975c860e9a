//! The body of a layer that reads along: the inner body as it is, and somebody who sees it go by.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Sees a body go by. Dropped before [`ended`](Self::ended), the body broke, was given up, or is of no more use.
pub trait Reader {
    /// A piece goes by. Says whether there is use in more.
    fn saw(&mut self, piece: &Bytes) -> bool;

    /// All of it has gone by.
    fn ended(self);
}

pin_project! {
    /// The inner body, which passes as it comes, and its reader.
    pub struct ReadAlong<B, R> {
        #[pin]
        inner: B,
        // Boxed: most answers are not read along, and all of them are moved.
        reader: Option<Box<R>>,
    }
}

impl<B, R> ReadAlong<B, R> {
    /// A body that `reader` reads along, if there is one.
    pub(crate) fn new(inner: B, reader: Option<R>) -> Self {
        Self {
            inner,
            reader: reader.map(Box::new),
        }
    }
}

impl<B: From<Bytes>, R> From<Bytes> for ReadAlong<B, R> {
    fn from(bytes: Bytes) -> Self {
        Self::new(B::from(bytes), None)
    }
}

impl<B: Body<Data = Bytes>, R: Reader> Body for ReadAlong<B, R> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        if let Some(reader) = this.reader {
            let goes_on = match &frame {
                Some(Ok(frame)) => frame.data_ref().is_none_or(|piece| reader.saw(piece)),
                Some(Err(_)) => false,
                None => true,
            };
            // With a known length nobody asks for the end.
            let has_ended = frame.is_none() || this.inner.is_end_stream();
            if !goes_on {
                *this.reader = None;
            } else if has_ended && let Some(reader) = this.reader.take() {
                reader.ended();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B, R> fmt::Debug for ReadAlong<B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAlong").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::layer::testing::fed;

    /// Notes what it saw, and how it ended. After `STOP` it wants no more.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    const STOP: &str = "stop";

    impl Reader for Notes {
        fn saw(&mut self, piece: &Bytes) -> bool {
            let piece = String::from_utf8_lossy(piece).into_owned();
            let goes_on = piece != STOP;
            self.0.lock().unwrap().push(piece);
            goes_on
        }

        fn ended(self) {
            self.0.lock().unwrap().push("<end>".to_owned());
        }
    }

    impl Notes {
        fn taken(&self) -> String {
            self.0.lock().unwrap().join(" ")
        }

        fn is_alone(&self) -> bool {
            Arc::strong_count(&self.0) == 1
        }
    }

    #[tokio::test]
    async fn pieces_are_seen_as_they_pass_and_so_is_the_end() {
        let notes = Notes::default();
        let (feeder, body) = fed();
        let mut body = ReadAlong::new(body, Some(notes.clone()));
        for piece in ["a", "b"] {
            feeder.send(piece);
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        assert_eq!(notes.taken(), "a b");
        drop(feeder);
        assert!(body.frame().await.is_none());
        assert_eq!(notes.taken(), "a b <end>");
        assert!(notes.is_alone());
    }

    #[tokio::test]
    async fn a_known_length_is_an_end_that_nobody_asks_for() {
        let notes = Notes::default();
        let mut body = ReadAlong::new(Full::new(Bytes::from("abc")), Some(notes.clone()));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.is_end_stream());
        assert_eq!(notes.taken(), "abc <end>");
    }

    #[tokio::test]
    async fn a_reader_is_let_go_when_the_body_breaks_or_it_has_seen_enough() {
        let notes = Notes::default();
        let (feeder, body) = fed();
        let mut body = ReadAlong::new(body, Some(notes.clone()));
        feeder.fail("reset");
        assert!(body.frame().await.unwrap().is_err());
        assert!(notes.is_alone());

        let (feeder, body) = fed();
        let mut body = ReadAlong::new(body, Some(notes.clone()));
        feeder.send(STOP);
        feeder.send("more");
        drop(feeder);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(notes.is_alone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "more");
        assert_eq!(notes.taken(), STOP);
    }

    #[tokio::test]
    async fn one_of_ones_own_has_no_reader() {
        let body: ReadAlong<Full<Bytes>, Notes> = Bytes::from("abc").into();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
