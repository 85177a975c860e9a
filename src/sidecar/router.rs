//! Finds the server that a path means, and calls its stack.
//!
//! Contract:
//!
//! 1. A server answers at `/servers/{name}/mcp`; at its `basePath`, with and without `/mcp` behind it; and at `/mcp` if it
//!    is the only one or is named `default`. All of them stand below the listener's own `basePath`. One slash at the end
//!    does not matter.
//! 2. Another path is 404 with the paths that there are in its help.
//! 3. A swap of the table is one pointer; a call that has begun goes on with the stack that it began with.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::Body;
use crate::error::{self, Addressee, BoxError, Cause, Failure};
use crate::facts::Facts;
use crate::layer::guard::PeerAddr;
use crate::transport::listener::{Answer, RouteFuture};

/// One server's stack behind one listener, as a value: the box at the seam of a route.
pub trait Route: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> RouteFuture;
}

/// A stack as a [`Route`]. Each call has a clone of it, since a service is called through `&mut`.
#[derive(Debug)]
pub(crate) struct StackRoute<S> {
    stack: S,
    peer: Peer,
}

/// Whether a stack wants to know the caller's address; telling it costs an extension in each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Told,
    Untold,
}

impl<S> StackRoute<S> {
    pub(crate) fn new(stack: S, peer: Peer) -> Self {
        Self { stack, peer }
    }
}

impl<S, B> Route for StackRoute<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    fn call(&self, mut request: Request<Incoming>, peer: SocketAddr) -> RouteFuture {
        if self.peer == Peer::Told {
            request.extensions_mut().insert(PeerAddr(peer));
        }
        let mut stack = self.stack.clone();
        // It always is ready; nobody is woken for what would not be, it is asked again when the future is polled.
        match stack.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Box::pin(Calling::<S>::Called {
                future: stack.call(request),
            }),
            Poll::Ready(Err(error)) => Box::pin(std::future::ready(Err(error.into()))),
            Poll::Pending => Box::pin(Calling::Start {
                waiting: Some(Box::new((stack, request))),
            }),
        }
    }
}

pin_project! {
    /// Waits until the stack is ready, calls it, boxes its body.
    #[project = CallingProjection]
    enum Calling<S>
    where
        S: Service<Request<Incoming>>,
    {
        Start { waiting: Option<Box<(S, Request<Incoming>)>> },
        Called { #[pin] future: S::Future },
    }
}

impl<S, B> Future for Calling<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                CallingProjection::Start { waiting } => {
                    if let Some((stack, _)) = waiting.as_deref_mut() {
                        ready!(stack.poll_ready(cx)).map_err(Into::into)?;
                    }
                    let Some(waiting) = waiting.take() else {
                        return Poll::Pending;
                    };
                    let (mut stack, request) = *waiting;
                    stack.call(request)
                }
                CallingProjection::Called { future } => {
                    let answer = ready!(future.poll(cx));
                    return Poll::Ready(
                        answer
                            .map(|response| response.map(Body::new))
                            .map_err(Into::into),
                    );
                }
            };
            self.set(Self::Called { future });
        }
    }
}

/// Paths and the stacks behind them.
#[derive(Default)]
pub struct Routes {
    /// In the order of the paths. There are few, and to compare some costs less than to hash one.
    by_path: Vec<(Box<str>, Arc<dyn Route>)>,
}

impl Routes {
    /// Mounts a stack at a path. One that is taken stays as it is.
    pub(crate) fn mount(&mut self, path: &str, route: &Arc<dyn Route>) {
        let path = path.trim_end_matches('/');
        if let Err(at) = self.place(path) {
            self.by_path.insert(at, (path.into(), Arc::clone(route)));
        }
    }

    /// The paths, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        self.by_path.iter().map(|(path, _)| &**path).collect()
    }

    fn find(&self, path: &str) -> Option<&Arc<dyn Route>> {
        let at = self.place(path.strip_suffix('/').unwrap_or(path)).ok()?;
        self.by_path.get(at).map(|(_, route)| route)
    }

    /// Where a path is, or would be.
    fn place(&self, path: &str) -> Result<usize, usize> {
        self.by_path
            .binary_search_by(|(other, _)| (**other).cmp(path))
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes")
            .field("paths", &self.paths())
            .finish()
    }
}

/// The table of one listener, which a reload swaps.
#[derive(Debug, Default)]
pub struct Router {
    routes: ArcSwap<Routes>,
}

impl Router {
    /// Puts another table in place; calls that have begun keep theirs.
    pub fn swap(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
    }

    /// The table of now.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }
}

impl Answer for Router {
    fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> RouteFuture {
        let routes = self.routes.load();
        match routes.find(request.uri().path()) {
            Some(route) => route.call(request, peer),
            None => no_route(&routes, request),
        }
    }
}

/// Nobody counts what belongs to no server; the access line is written here.
fn no_route<B>(routes: &Routes, mut request: Request<B>) -> RouteFuture {
    let facts = Facts::of(&mut request);
    let paths = serde_json::json!({ "paths": routes.paths() });
    let failure = Failure::unsent(Cause::NoRoute).with_data(paths);
    let response = error::answer(&failure, &Addressee::of(&request));
    tracing::debug!(
        target: "outrigger::access",
        request_id = %facts.request_id(),
        status = response.status().as_u16(),
        cause = Cause::NoRoute.as_str(),
        "call"
    );
    Box::pin(std::future::ready(Ok(response)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Route for Nothing {
        fn call(&self, _: Request<Incoming>, _: SocketAddr) -> RouteFuture {
            Box::pin(std::future::ready(Ok(Response::new(Body::empty()))))
        }
    }

    #[test]
    fn rule_1_one_slash_at_the_end_does_not_matter() {
        let route: Arc<dyn Route> = Arc::new(Nothing);
        let mut routes = Routes::default();
        routes.mount("/mcp", &route);
        assert!(routes.find("/mcp").is_some() && routes.find("/mcp/").is_some());
        assert!(routes.find("/mcp//").is_none() && routes.find("/").is_none());
    }

    #[tokio::test]
    async fn rule_2_another_path_is_404_and_says_which_there_are() {
        let route: Arc<dyn Route> = Arc::new(Nothing);
        let mut routes = Routes::default();
        routes.mount("/mcp", &route);
        let response = no_route(&routes, Request::new(())).await.unwrap();
        assert_eq!(response.status(), 404);
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(r#""paths":["/mcp"]"#));
    }
}
