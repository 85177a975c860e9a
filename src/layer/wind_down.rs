//! Ends open streams when the process is about to end, so that callers come back elsewhere instead of hanging.
//!
//! Contract:
//!
//! 1. Only GET and `subscriptions/listen` streams are its business; calls end by themselves, or when the grace is over
//!    ([`hold`](super::hold)).
//! 2. Once the signal is given, a stream ends at the next event's boundary, at once if it stands at one. The last bytes are
//!    a comment that says why.
//! 3. A modern listen gets its result before that (C62): `{"resultType":"complete"}` with the subscription's id.
//! 4. A stream that begins after the signal ends at once.
//! 5. Without a [`Call`] everything passes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::{Call, Form};
use crate::codec::sse;
use crate::layer::boundary::Boundary;
use crate::layer::media;

/// The signal: true once streams are to end.
pub type Signal = watch::Receiver<bool>;

/// Ends open streams at a signal.
#[derive(Clone, Debug)]
#[must_use]
pub struct WindDownLayer {
    signal: Signal,
}

impl WindDownLayer {
    /// Streams end when `signal` turns true. One whose sender is gone never does.
    pub fn new(signal: Signal) -> Self {
        Self { signal }
    }
}

impl<S> Layer<S> for WindDownLayer {
    type Service = WindDown<S>;

    fn layer(&self, inner: S) -> WindDown<S> {
        WindDown {
            inner,
            signal: self.signal.clone(),
        }
    }
}

/// The service of [`WindDownLayer`].
#[derive(Clone)]
pub struct WindDown<S> {
    inner: S,
    signal: Signal,
}

impl<S> fmt::Debug for WindDown<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindDown").finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for WindDown<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let call = request
            .extensions()
            .get::<Call>()
            .filter(|call| call.is_stream());
        let farewell = call.map(|call| Farewell {
            signal: self.signal.clone(),
            last: last_words(call),
        });
        ResponseFuture {
            inner: self.inner.call(request),
            farewell,
        }
    }
}

/// What is said last on a stream.
fn last_words(call: &Call) -> Bytes {
    let mut words = BytesMut::new();
    if let (Form::Message(_), Some(id)) = (call.form(), call.id_token()) {
        let id = String::from_utf8_lossy(&id);
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
        );
        words.extend_from_slice(&sse::encode_event(Some("message"), None, result.as_bytes()));
    }
    words.extend_from_slice(&sse::comment("the sidecar is shutting down"));
    words.freeze()
}

struct Farewell {
    signal: Signal,
    last: Bytes,
}

pin_project! {
    /// The future of [`WindDown`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        farewell: Option<Farewell>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let watched = this
            .farewell
            .take()
            .filter(|_| media::is_event_stream(response.headers()))
            .map(Watched::new);
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner, watched })))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A stream that is to end.
struct Watched {
    /// Ready when the signal is given. Boxed, since a stream is rare and long.
    signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    last: Bytes,
    end: End,
    boundary: Boundary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody has asked yet.
    Open,
    /// At the next boundary.
    Near,
    /// Everything is said.
    Over,
}

impl Watched {
    fn new(farewell: Farewell) -> Self {
        let mut signal = farewell.signal;
        Self {
            signal: Box::pin(async move {
                if signal.wait_for(|end| *end).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }),
            last: farewell.last,
            end: End::Open,
            boundary: Boundary::start(),
        }
    }
}

pin_project! {
    /// The answer's body.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        watched: Option<Watched>,
    }
}

impl<B: From<Bytes>> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self {
            inner: bytes.into(),
            watched: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let Some(watched) = this.watched else {
            return this.inner.poll_frame(cx);
        };
        if watched.end == End::Open && watched.signal.as_mut().poll(cx).is_ready() {
            watched.end = End::Near;
        }
        if watched.end == End::Over {
            return Poll::Ready(None);
        }
        if watched.end == End::Near && watched.boundary.is_between() {
            watched.end = End::Over;
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut watched.last)))));
        }
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        if let Some(bytes) = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok())
            .and_then(Frame::data_ref)
        {
            watched.boundary.pass(bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.watched
            .as_ref()
            .is_none_or(|watched| watched.end == End::Over)
            && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.watched.is_some() {
            SizeHint::default()
        } else {
            self.inner.size_hint()
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tokio::sync::mpsc;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::mcp::message::{Message, Parsed};
    use crate::mcp::revision::{Era, Revision};

    fn get() -> Call {
        Call::new(Form::Stream, Era::Legacy, None, Bytes::new())
    }

    fn listen() -> Call {
        let body =
            Bytes::from_static(br#"{"jsonrpc":"2.0","id":"l1","method":"subscriptions/listen"}"#);
        let Parsed::One(message) = Message::read(&body).unwrap() else {
            panic!("a batch")
        };
        Call::new(
            Form::Message(message),
            Era::Modern,
            Some(Revision::LATEST),
            body,
        )
    }

    /// What a caller reads of a stream with this content, if the signal stands so.
    async fn read(call: Option<Call>, content: &'static str, signalled: bool) -> String {
        let (sender, signal) = watch::channel(signalled);
        let inner = service_fn(|_: Request<()>| async move {
            let body = Full::new(Bytes::from_static(content.as_bytes()));
            Ok::<_, Infallible>(
                Response::builder()
                    .header("content-type", "text/event-stream")
                    .body(body)
                    .unwrap(),
            )
        });
        let mut request = Request::new(());
        if let Some(call) = call {
            request.extensions_mut().insert(call);
        }
        let response = WindDownLayer::new(signal)
            .layer(inner)
            .oneshot(request)
            .await
            .unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn rule_1_a_call_ends_by_itself() {
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#);
        let Parsed::One(message) = Message::read(&body).unwrap() else {
            panic!("a batch")
        };
        let call = Call::new(Form::Message(message), Era::Legacy, None, body);
        assert_eq!(read(Some(call), "data: x\n\n", true).await, "data: x\n\n");
    }

    #[tokio::test]
    async fn rule_2_a_stream_ends_at_a_boundary_with_a_comment() {
        assert_eq!(read(Some(get()), "data: x\n\n", false).await, "data: x\n\n");
        assert_eq!(
            read(Some(get()), "", true).await,
            ": the sidecar is shutting down\n\n"
        );
    }

    #[tokio::test]
    async fn rule_2_an_event_that_has_begun_is_let_through_before_the_end() {
        let (sender, signal) = watch::channel(false);
        let (pieces, body) = mpsc::unbounded_channel();
        let mut body = Some(Pieces(body));
        let inner = service_fn(move |_: Request<()>| {
            let response = Response::builder()
                .header("content-type", "Text/Event-Stream; charset=utf-8")
                .body(body.take().unwrap());
            std::future::ready(Ok::<_, Infallible>(response.unwrap()))
        });
        let mut request = Request::new(());
        request.extensions_mut().insert(get());
        let layer = WindDownLayer::new(signal);
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        let mut body = response.into_body();
        pieces.send("data: he").unwrap();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: he");
        sender.send(true).unwrap();
        pieces.send("re\n\n").unwrap();
        pieces.send("data: never\n\n").unwrap();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, "re\n\n: the sidecar is shutting down\n\n");
    }

    /// A body that has more pieces for as long as somebody has its other end.
    struct Pieces(mpsc::UnboundedReceiver<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let frame = |piece: &'static str| Ok(Frame::data(Bytes::from_static(piece.as_bytes())));
            self.0.poll_recv(cx).map(|piece| piece.map(frame))
        }
    }

    #[tokio::test]
    async fn c62_a_listen_gets_its_result_before_the_end() {
        let text = read(Some(listen()), "data: x\n\n", true).await;
        assert!(
            text.contains(r#""id":"l1","result":{"resultType":"complete""#),
            "{text}"
        );
        assert!(
            text.contains(r#""io.modelcontextprotocol/subscriptionId":"l1""#),
            "{text}"
        );
    }

    #[tokio::test]
    async fn rule_4_a_stream_that_begins_after_the_signal_ends_at_once() {
        let farewell = ": the sidecar is shutting down\n\n";
        assert_eq!(read(Some(get()), "data: x\n\n", true).await, farewell);
    }

    #[tokio::test]
    async fn rule_5_without_a_call_everything_passes() {
        assert_eq!(read(None, "data: x\n\n", true).await, "data: x\n\n");
    }
}
