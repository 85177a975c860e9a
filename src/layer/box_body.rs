//! Makes every answer's body a [`Body`]: the seam between an upstream and the layers that may answer for themselves.
//!
//! Contract:
//!
//! 1. The answer passes as it came; its body costs one allocation, or none if it has ended already.
//! 2. Layers above can make bodies of their own, since [`Body`] is `From<Bytes>`, and endpoints of different make have
//!    one type.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use outrigger::layer::BoxBodyLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), outrigger::BoxError> {
//! let upstream = service_fn(async |_: Request<()>| {
//!     Ok::<_, outrigger::BoxError>(Response::new(Full::new(Bytes::from_static(b"{}"))))
//! });
//! let answer: Response<outrigger::Body> = BoxBodyLayer::new().layer(upstream).oneshot(Request::new(())).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::Body;
use crate::error::BoxError;

/// Makes every answer's body a [`Body`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct BoxBodyLayer;

impl BoxBodyLayer {
    /// The layer. It has no settings.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for BoxBodyLayer {
    type Service = BoxBody<S>;

    fn layer(&self, inner: S) -> BoxBody<S> {
        BoxBody { inner }
    }
}

/// The service of [`BoxBodyLayer`].
#[derive(Clone)]
pub struct BoxBody<S> {
    inner: S,
}

impl<S> fmt::Debug for BoxBody<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxBody").finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for BoxBody<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of [`BoxBody`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project()
            .inner
            .poll(cx)
            .map_ok(|response| response.map(Body::new))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tower_test::mock;

    use super::*;

    #[tokio::test]
    async fn rule_1_the_answer_passes_as_it_came() {
        let (mut service, mut handle) =
            mock::spawn_layer::<Request<()>, Response<Full<Bytes>>, _>(BoxBodyLayer::new());
        handle.allow(0);
        assert!(service.poll_ready().is_pending());
        handle.allow(1);
        assert!(service.poll_ready().is_ready());
        let call = tokio::spawn(service.call(Request::new(())));
        let (_, answer) = handle.next_request().await.unwrap();
        answer.send_response(
            Response::builder()
                .status(202)
                .header("x", "1")
                .body(Full::from("abc"))
                .unwrap(),
        );
        let response = call.await.unwrap().unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x"]),
            (202, &"1".parse().unwrap())
        );
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "abc"
        );
    }
}
