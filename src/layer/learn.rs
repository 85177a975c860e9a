//! Reads the tool lists that go by into a [`Catalog`], so that others know what a server says of its tools.
//!
//! Contract:
//!
//! 1. Only answers to `tools/list` are looked at, in JSON and in events; their bytes pass as they come, without waiting.
//! 2. A list of more than [`MAX_LIST`] bytes passes and teaches nothing.
//! 3. Every other call, and a request without a [`Call`], costs a look at its method and no more.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::Call;
use crate::catalog::Catalog;
use crate::codec::sse::Decoder;
use crate::layer::{ReadAlong, Reader, media};
use crate::mcp::method::Method;

/// The most bytes of a list that are read.
pub const MAX_LIST: usize = 1024 * 1024;

/// Reads tool lists into a catalog.
#[derive(Clone, Debug)]
#[must_use]
pub struct LearnLayer {
    catalog: Catalog,
}

impl LearnLayer {
    /// A layer that teaches `catalog`.
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }
}

impl<S> Layer<S> for LearnLayer {
    type Service = Learn<S>;

    fn layer(&self, inner: S) -> Learn<S> {
        Learn {
            inner,
            catalog: self.catalog.clone(),
        }
    }
}

/// The service of [`LearnLayer`].
#[derive(Clone)]
pub struct Learn<S> {
    inner: S,
    catalog: Catalog,
}

impl<S> fmt::Debug for Learn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learn").finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Learn<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ReadAlong<ResBody, Lesson>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let is_list = request.extensions().get().and_then(Call::method) == Some(Method::ToolsList);
        ResponseFuture {
            inner: self.inner.call(request),
            catalog: is_list.then(|| self.catalog.clone()),
        }
    }
}

pin_project! {
    /// The future of [`Learn`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        catalog: Option<Catalog>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ReadAlong<ResBody, Lesson>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let lesson = this.catalog.take().and_then(|catalog| {
            let form = if media::is_event_stream(response.headers()) {
                Form::Events(Decoder::new(MAX_LIST))
            } else if media::is_json(response.headers()) {
                Form::Json(BytesMut::new())
            } else {
                return None;
            };
            Some(Lesson { catalog, form })
        });
        Poll::Ready(Ok(response.map(|inner| ReadAlong::new(inner, lesson))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A list that goes by.
#[derive(Debug)]
pub struct Lesson {
    catalog: Catalog,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Json(BytesMut),
    Events(Decoder),
}

impl Reader for Lesson {
    fn saw(&mut self, piece: &Bytes) -> bool {
        match &mut self.form {
            Form::Json(all) => {
                all.extend_from_slice(piece);
                all.len() <= MAX_LIST
            }
            Form::Events(decoder) => {
                decoder.push(piece);
                loop {
                    match decoder.next() {
                        Ok(Some(event)) => {
                            if let Some(message) = event.message() {
                                self.catalog.learn(message);
                            }
                        }
                        Ok(None) => return true,
                        Err(_) => return false,
                    }
                }
            }
        }
    }

    fn ended(self) {
        if let Form::Json(message) = self.form {
            self.catalog.learn(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::call::Form as Shape;
    use crate::mcp::message::{Message, Parsed};
    use crate::mcp::revision::Era;

    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"read","annotations":{"readOnlyHint":true}}]}}"#;

    /// Sends a call of this method, answered so; the bytes must pass, and the catalog is given.
    async fn pass(method: Option<&str>, kind: &'static str, content: String) -> Catalog {
        let mut request = Request::new(());
        if let Some(method) = method {
            let body = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#));
            let Parsed::One(message) = Message::read(&body).unwrap() else {
                panic!("a batch")
            };
            request.extensions_mut().insert(Call::new(
                Shape::Message(message),
                Era::Legacy,
                None,
                body,
            ));
        }
        let answer = content.clone();
        let inner = service_fn(move |_: Request<()>| {
            let body = Full::new(Bytes::from(answer.clone()));
            async move {
                Ok::<_, Infallible>(
                    Response::builder()
                        .header("content-type", kind)
                        .body(body)
                        .unwrap(),
                )
            }
        });
        let catalog = Catalog::default();
        let response = LearnLayer::new(catalog.clone())
            .layer(inner)
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            content
        );
        catalog
    }

    #[tokio::test]
    async fn rule_1_lists_teach_in_json_and_in_events() {
        let json = pass(Some("tools/list"), "application/json", LIST.to_owned()).await;
        assert!(json.tool("read").unwrap().is_read_only);
        let events = pass(
            Some("tools/list"),
            "text/event-stream",
            format!(": c\n\ndata: {LIST}\n\n"),
        )
        .await;
        assert!(events.tool("read").unwrap().is_read_only);
    }

    #[tokio::test]
    async fn rule_2_a_list_that_is_too_long_teaches_nothing() {
        let long = format!("{LIST}{}", " ".repeat(MAX_LIST));
        assert_eq!(
            pass(Some("tools/list"), "application/json", long)
                .await
                .tool("read"),
            None
        );
    }

    #[tokio::test]
    async fn rule_3_other_calls_and_none_pass() {
        for method in [Some("tools/call"), None] {
            assert_eq!(
                pass(method, "application/json", LIST.to_owned())
                    .await
                    .tool("read"),
                None
            );
        }
    }
}
