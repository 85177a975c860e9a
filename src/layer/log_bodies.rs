//! Writes the messages of calls to the log, for a person who looks for a fault.
//!
//! Contract:
//!
//! 1. Nothing is written unless [`BodyLog`] says so, which can be changed while calls run; each direction by itself.
//! 2. A message is written at debug on the target `outrigger::bodies`, with the request's id, up to [`MAX_LOGGED`] bytes;
//!    what is not UTF-8 is shown with marks. An answer is written when it has ended, or broken off.
//! 3. Messages are what people and tools say to each other: they may hold secrets of theirs, which nobody here can
//!    know. Headers, and with them the credentials, are never written.
//! 4. The bytes pass as they come.
//!
//! It takes the body of a request as it stands in the [`Call`]; without one only the answer is written.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::Call;
use crate::facts::{Facts, RequestId};
use crate::layer::{ReadAlong, Reader};

/// The most bytes of one message that are written.
pub const MAX_LOGGED: usize = 8 * 1024;

/// Which messages are written. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct BodyLog(Arc<Directions>);

#[derive(Debug, Default)]
struct Directions {
    requests: AtomicBool,
    responses: AtomicBool,
}

impl BodyLog {
    /// Says which are written from now on.
    pub fn set(&self, requests: bool, responses: bool) {
        self.0.requests.store(requests, Ordering::Relaxed);
        self.0.responses.store(responses, Ordering::Relaxed);
    }

    fn requests(&self) -> bool {
        self.0.requests.load(Ordering::Relaxed)
    }

    fn responses(&self) -> bool {
        self.0.responses.load(Ordering::Relaxed)
    }
}

/// Writes messages to the log.
#[derive(Clone, Debug)]
#[must_use]
pub struct LogBodiesLayer {
    log: BodyLog,
}

impl LogBodiesLayer {
    /// A layer that does as `log` says.
    pub fn new(log: BodyLog) -> Self {
        Self { log }
    }
}

impl<S> Layer<S> for LogBodiesLayer {
    type Service = LogBodies<S>;

    fn layer(&self, inner: S) -> LogBodies<S> {
        LogBodies {
            inner,
            log: self.log.clone(),
        }
    }
}

/// The service of [`LogBodiesLayer`].
#[derive(Clone)]
pub struct LogBodies<S> {
    inner: S,
    log: BodyLog,
}

impl<S> fmt::Debug for LogBodies<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBodies").finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for LogBodies<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ReadAlong<ResBody, Copied>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let request_id = || Facts::get(&request).map(Facts::request_id);
        if self.log.requests()
            && let Some(call) = request.extensions().get::<Call>()
        {
            write("request", request_id(), call.body());
        }
        let copy = self.log.responses().then(|| Copied {
            request_id: request_id(),
            seen: BytesMut::new(),
        });
        ResponseFuture {
            inner: self.inner.call(request),
            copy,
        }
    }
}

fn write(direction: &str, request_id: Option<RequestId>, message: &[u8]) {
    let shown = message.get(..MAX_LOGGED).unwrap_or(message);
    tracing::debug!(
        target: "outrigger::bodies",
        direction,
        request_id = request_id.map(tracing::field::display),
        bytes = message.len(),
        message = %String::from_utf8_lossy(shown),
    );
}

pin_project! {
    /// The future of [`LogBodies`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        copy: Option<Copied>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ReadAlong<ResBody, Copied>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let copy = this.copy.take();
        Poll::Ready(Ok(response.map(|inner| ReadAlong::new(inner, copy))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// What went by of an answer; written when it is dropped.
#[derive(Debug)]
pub struct Copied {
    request_id: Option<RequestId>,
    seen: BytesMut,
}

impl Reader for Copied {
    fn saw(&mut self, piece: &Bytes) -> bool {
        let room = (MAX_LOGGED + 1).saturating_sub(self.seen.len());
        self.seen
            .extend_from_slice(piece.get(..room).unwrap_or(piece));
        true
    }

    fn ended(self) {}
}

impl Drop for Copied {
    fn drop(&mut self) {
        write("response", self.request_id, &self.seen);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fmt::Write as _;
    use std::sync::Mutex;

    use http_body_util::{BodyExt, Full};
    use tower::{ServiceExt, service_fn};
    use tracing::field::{Field, Visit};

    use super::*;
    use crate::call::Form;
    use crate::mcp::message::{Message, Parsed};
    use crate::mcp::revision::Era;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<String>>>);

    impl tracing::Subscriber for Written {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
            tracing::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
        fn enter(&self, _: &tracing::Id) {}
        fn exit(&self, _: &tracing::Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            let _ = write!(self.0, "{field}={value:?} ");
        }
    }

    /// What is written of one call.
    async fn written(requests: bool, responses: bool) -> Vec<String> {
        let log = BodyLog::default();
        log.set(requests, responses);
        let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        let Parsed::One(message) = Message::read(&body).unwrap() else {
            panic!("a batch")
        };
        let mut request = Request::post("/")
            .header("authorization", "Bearer hunter2")
            .body(())
            .unwrap();
        request
            .extensions_mut()
            .insert(Call::new(Form::Message(message), Era::Legacy, None, body));
        let inner = service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("pong"))))
        });
        let written = Written::default();
        let guard = tracing::subscriber::set_default(written.clone());
        let response = LogBodiesLayer::new(log)
            .layer(inner)
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "pong"
        );
        drop(guard);
        let lines = written.0.lock().unwrap().clone();
        lines
            .into_iter()
            .filter(|line| line.contains("direction"))
            .collect()
    }

    #[tokio::test]
    async fn rule_2_a_message_is_written_up_to_a_bound_with_what_it_is() {
        let written = Written::default();
        let _guard = tracing::subscriber::set_default(written.clone());
        let facts = Facts::new(None);
        let mut long = vec![b'x'; MAX_LOGGED];
        long.extend_from_slice(b"yz");
        let mut copied = Copied {
            request_id: Some(facts.request_id()),
            seen: BytesMut::new(),
        };
        assert!(copied.saw(&Bytes::from_static(b"\xff")));
        assert!(copied.saw(&Bytes::from(long)));
        // It broke off there.
        drop(copied);
        let lines = written.0.lock().unwrap().clone();
        let line = lines.iter().find(|line| line.contains("response")).unwrap();
        assert!(line.contains(&facts.request_id().to_string()), "{line}");
        assert!(line.contains("\u{fffd}x") && !line.contains("xy"), "{line}");
        assert!(
            line.contains(&format!("bytes={}", MAX_LOGGED + 1)),
            "{line}"
        );
    }

    #[tokio::test]
    async fn rule_4_the_bytes_pass_as_they_come() {
        let (feeder, body) = crate::layer::testing::fed();
        let body = Mutex::new(Some(body));
        let inner = service_fn(|_: Request<()>| {
            let body = body.lock().unwrap().take().unwrap();
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let log = BodyLog::default();
        log.set(true, true);
        let answer = LogBodiesLayer::new(log)
            .layer(inner)
            .oneshot(Request::new(()));
        let mut body = answer.await.unwrap().into_body();
        for piece in ["a", "\u{fffd}", "b"] {
            feeder.send(piece);
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        drop(feeder);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn s0_30_each_direction_is_written_if_asked_and_headers_never() {
        assert_eq!(written(false, false).await, Vec::<String>::new());
        let both = written(true, true).await.join("\n");
        assert!(both.contains("ping") && both.contains("pong"), "{both}");
        assert!(!both.contains("hunter2"), "{both}");
        for (requests, responses) in [(true, false), (false, true)] {
            let one = written(requests, responses).await.join("\n");
            let says = (one.contains("ping"), one.contains("pong"));
            assert_eq!(says, (requests, responses), "{one}");
        }
    }
}
