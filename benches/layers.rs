//! Each layer by itself, over a service that answers at once.
//!
//! `cargo bench -p outrigger-bench --bench layers`
//!
//! The first lines are the service without a layer: making the request, and the answer. Every other
//! line has one of them in it, too: inspect and metrics the first, the rest the second. A layer that
//! does not answer in one poll stops the program.

use std::{
    future::{Ready, ready},
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use outrigger::{
    Body, BoxError, Call, Facts, Secret,
    auth::{SecretCell, StaticCredential},
    call::Form,
    layer::{credential, deadline, headers, inspect, metrics, rescue, retry, timeouts::Timeouts},
    mcp::{
        message::{Message, Parsed},
        revision::Era,
    },
};
use tower_layer::Layer;
use tower_service::Service;

mod measure;

const TEXT: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"all work and no play makes a dull bench, all work and no play makes a dull bench, all work and no play makes a dull bench, all work and no play makes a dull bench, all work and no play makes a dull bench, all work"}}}"#;
const REPLY: &[u8] =
    br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"all work"}]}}"#;

fn main() {
    // Some layers start a timer; none of them is ever waited for.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return eprintln!("no runtime");
    };
    let _entered = runtime.enter();
    measure::head("a layer over a ready service, 256 B, legacy");
    measure::line("nothing", || drive(&mut Server, outside()));
    measure::line("nothing, read already", || drive(&mut Server, inside()));
    over(
        "inspect",
        &inspect::InspectLayer::new(inspect::Params::default()),
        outside,
    );
    let source = StaticCredential::bearer(SecretCell::new(Secret::new("0123456789abcdef")));
    if let Some(families) = families() {
        over("metrics", &metrics::MetricsLayer::new(families), outside);
    }
    over(
        "credential",
        &credential::InjectCredentialLayer::new(source),
        inside,
    );
    over(
        "retry",
        &retry::RetryLayer::new(retry::Params::default()),
        inside,
    );
    over("rescue", &rescue::RescueLayer::new(), inside);
    over(
        "deadline",
        &deadline::DeadlineLayer::new(Timeouts::default()),
        inside,
    );
    over(
        "headers",
        &headers::FilterHeadersLayer::new(headers::Params::default()),
        inside,
    );
}

fn families() -> Option<Arc<metrics::ServerFamilies>> {
    let families = metrics::Families::register(&prometheus::Registry::new()).ok()?;
    Some(families.server("bench".into()))
}

/// Measures `layer` with requests made by `request`.
fn over<L, B>(name: &str, layer: &L, request: impl Fn() -> Request<Full<Bytes>>)
where
    L: Layer<Server>,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: http_body::Body,
{
    let mut service = layer.layer(Server);
    measure::line(name, || drive(&mut service, request()));
}

/// Calls a service that is ready, whose answer is there at the first poll.
fn drive<S, B>(service: &mut S, request: Request<Full<Bytes>>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: http_body::Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        service.poll_ready(&mut cx).is_ready(),
        "a layer is not ready over a ready service"
    );
    let Poll::Ready(answer) = pin!(service.call(request)).poll(&mut cx) else {
        panic!("a layer waits over a ready service");
    };
    let Ok(answer) = answer else {
        panic!("a layer fails over a service that does not")
    };
    assert!(answer.status().is_success(), "a layer refused the call");
    // Some layers act at the end of the body.
    let mut body = pin!(answer.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        drop(black_box(frame));
    }
}

/// Answers at once.
#[derive(Clone, Debug)]
struct Server;

impl<B> Service<Request<B>> for Server {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::new(Body::from(Bytes::from_static(REPLY)));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        ready(Ok(response))
    }
}

fn with_headers(headers: &mut HeaderMap) {
    headers.reserve(12);
    for (name, value) in [
        ("host", "127.0.0.1:8080"),
        ("user-agent", "bench/0"),
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
        ("content-length", "310"),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-session-id", "0123456789abcdef0123456789abcdef"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A call as it comes from the listener.
fn outside() -> Request<Full<Bytes>> {
    let mut request = Request::post("/mcp")
        .body(Full::new(Bytes::from_static(TEXT)))
        .unwrap_or_default();
    with_headers(request.headers_mut());
    request.extensions_mut().insert(Facts::new(None));
    request
}

thread_local! {
    /// What `inspect` makes of it, once.
    static CALL: Call = read();
}

fn read() -> Call {
    let body = Bytes::from_static(TEXT);
    let Ok(Parsed::One(message)) = Message::read(&body) else {
        panic!("a call that is none")
    };
    Call::new(Form::Message(message), Era::Legacy, None, body)
}

/// A call as `inspect` hands it on.
fn inside() -> Request<Full<Bytes>> {
    let mut request = outside();
    request.extensions_mut().insert(CALL.with(Clone::clone));
    request
}
