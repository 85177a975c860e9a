//! What each layer does without a `Call`, as a program meets it that takes one layer alone: it never panics, and it
//! never sends anything twice.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use outrigger::auth::{SecretCell, StaticCredential};
use outrigger::catalog::Catalog;
use outrigger::error::{Cause, Phase};
use outrigger::layer::timeouts::Timeouts;
use outrigger::layer::{
    BoxBodyLayer, authenticate, complete, credential, deadline, guard, headers, hold, inspect,
    learn, limit, log_bodies, policy, rejoin, rescue, retry, session, trace, wind_down,
};
use outrigger::session::{SessionKey, SessionKeys};
use outrigger::{Body, BoxError, Failure, Secret};
use tower::{Layer, Service, ServiceExt};

/// What a request without a call may carry: a message, an array, no JSON at all.
const BODIES: [&str; 4] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}"#,
    r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
    "{not json",
    "",
];

/// What the upstream says.
#[derive(Clone, Copy, Debug)]
enum Says {
    Status(u16),
    Fails(Cause, Phase),
}

const ALL: [Says; 9] = [
    Says::Status(200),
    Says::Status(202),
    Says::Status(401),
    Says::Status(404),
    Says::Status(429),
    Says::Status(500),
    Says::Status(503),
    Says::Fails(Cause::ConnectionRefused, Phase::Unsent),
    Says::Fails(Cause::ConnectionLost, Phase::Sent),
];

/// An upstream that counts what reaches it, and says always the same.
#[derive(Clone, Debug)]
struct Upstream {
    says: Says,
    asked: Arc<AtomicUsize>,
    /// What it was asked last.
    seen: Arc<Mutex<Option<Request<Bytes>>>>,
}

impl Service<Request<Full<Bytes>>> for Upstream {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let seen = self.seen.clone();
        let answer = match self.says {
            Says::Status(status) => Ok(Response::builder()
                .status(status)
                .header("retry-after", "0")
                .header("mcp-session-id", "s3ssion")
                .body(Body::from(Bytes::from_static(b"{\"n\": 1.0}")))
                .unwrap()),
            Says::Fails(cause, phase) => Err(Failure::new(cause, phase).into()),
        };
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            *seen.lock().unwrap() = Some(Request::from_parts(parts, body));
            answer
        })
    }
}

fn request(method: Method, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri("/mcp");
    request
        .header("host", "127.0.0.1:8000")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "not one of ours")
        .header("last-event-id", "7")
        .extension(guard::PeerAddr(SocketAddr::from(([127, 0, 0, 1], 4000))))
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

/// What came of one request: the answer, whole, how often the upstream was asked, and what.
async fn through<L, B>(
    layer: &L,
    request: Request<Full<Bytes>>,
    says: Says,
) -> (
    Result<Response<Bytes>, BoxError>,
    usize,
    Option<Request<Bytes>>,
)
where
    L: Layer<Upstream>,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    <L::Service as Service<Request<Full<Bytes>>>>::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream {
        says,
        asked: asked.clone(),
        seen: Arc::default(),
    };
    let seen = upstream.seen.clone();
    let answer = async {
        let answer = layer.layer(upstream).oneshot(request).await;
        let (parts, body) = answer.map_err(Into::into)?.into_parts();
        let body = body.collect().await.map_err(Into::into)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let answer = answer.await;
    let seen = seen.lock().unwrap().take();
    (answer, asked.load(Ordering::Relaxed), seen)
}

/// Sends all that may come, and proves that each is sent on once at most. Gives how often it was sent on in all.
async fn is_never_repeated<L, B>(layer: L) -> usize
where
    L: Layer<Upstream>,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    <L::Service as Service<Request<Full<Bytes>>>>::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut sent = 0;
    for says in ALL {
        for method in [Method::POST, Method::GET, Method::DELETE, Method::PATCH] {
            for body in BODIES {
                let request = request(method.clone(), body);
                let (_, asked, _) = through(&layer, request, says).await;
                assert!(asked <= 1, "{says:?} {method} {body:?}: sent {asked} times");
                sent += asked;
            }
        }
    }
    sent
}

/// How many requests `is_never_repeated` makes.
const REQUESTS: usize = ALL.len() * 4 * BODIES.len();

/// The same, and that an answer comes back as it was, session id and all.
async fn passes<L, B>(layer: L)
where
    L: Layer<Upstream> + Clone,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    <L::Service as Service<Request<Full<Bytes>>>>::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (answer, ..) = through(&layer, request(Method::POST, BODIES[0]), Says::Status(200)).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["mcp-session-id"], "s3ssion");
    assert_eq!(answer.body(), "{\"n\": 1.0}");
    let (answer, ..) = through(
        &layer,
        request(Method::POST, BODIES[0]),
        Says::Fails(Cause::Dns, Phase::Unsent),
    )
    .await;
    assert!(answer.is_err(), "a failure stays one");
    assert_eq!(is_never_repeated(layer).await, REQUESTS);
}

/// The same of a layer that does nothing to the request either.
async fn passes_untouched<L, B>(layer: L)
where
    L: Layer<Upstream> + Clone,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    <L::Service as Service<Request<Full<Bytes>>>>::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    for method in [Method::POST, Method::GET, Method::DELETE, Method::PATCH] {
        for body in BODIES {
            let sent = request(method.clone(), body);
            let (.., seen) = through(&layer, sent, ALL[0]).await;
            let (seen, sent) = (seen.unwrap(), request(method.clone(), body));
            assert_eq!((seen.method(), seen.uri()), (sent.method(), sent.uri()));
            assert_eq!(seen.headers(), sent.headers(), "{method} {body:?}");
            assert_eq!(seen.body(), body, "{method}");
        }
    }
    passes(layer).await;
}

#[tokio::test(start_paused = true)]
async fn trace_passes_without_a_call() {
    passes_untouched(trace::TraceLayer::new()).await;
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn metrics_passes_without_a_call_and_counts_it() {
    use outrigger::layer::metrics::{Families, MetricsLayer};

    let registry = prometheus::Registry::new();
    let families = Families::register(&registry).unwrap();
    passes_untouched(MetricsLayer::new(families.server("wiki".into()))).await;
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    assert!(text.contains(r#"server="wiki""#), "{text}");
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn time_attempts_passes_without_a_call_and_times_it() {
    use outrigger::layer::metrics::Families;

    let registry = prometheus::Registry::new();
    let families = Families::register(&registry).unwrap();
    passes(families.server("wiki".into()).time_attempts(0)).await;
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    let counted = format!("_count{{endpoint=\"0\",server=\"wiki\"}} {}", REQUESTS + 2);
    assert!(text.contains(&counted), "{text}");
}

#[tokio::test(start_paused = true)]
async fn log_bodies_passes_without_a_call_whatever_it_writes() {
    let log = log_bodies::BodyLog::default();
    passes_untouched(log_bodies::LogBodiesLayer::new(log.clone())).await;
    log.set(true, true);
    passes_untouched(log_bodies::LogBodiesLayer::new(log)).await;
}

#[tokio::test(start_paused = true)]
async fn guard_is_the_same_without_a_call() {
    passes_untouched(guard::GuardLayer::new(guard::Params::default())).await;
}

#[tokio::test(start_paused = true)]
async fn authenticate_is_the_same_without_a_call() {
    passes(authenticate::AuthenticateLayer::new(
        authenticate::Anyone::default(),
    ))
    .await;
    let nobody = authenticate::AuthenticateLayer::new(authenticate::ApiKeys::new());
    assert_eq!(is_never_repeated(nobody).await, 0, "nobody has a key");
}

#[tokio::test(start_paused = true)]
async fn limit_is_the_same_without_a_call() {
    passes_untouched(limit::LimitLayer::new(limit::Params::default())).await;
}

#[tokio::test(start_paused = true)]
async fn inspect_is_what_leaves_a_call_and_refuses_what_is_none() {
    let layer = inspect::InspectLayer::new(inspect::Params::default());
    let (answer, asked, _) = through(&layer, request(Method::POST, BODIES[2]), ALL[0]).await;
    assert_eq!(
        (answer.unwrap().status(), asked),
        (StatusCode::BAD_REQUEST, 0)
    );
    is_never_repeated(layer).await;
}

#[tokio::test(start_paused = true)]
async fn hold_passes_without_a_call() {
    passes_untouched(hold::HoldLayer::new(hold::Params::default())).await;
}

#[tokio::test(start_paused = true)]
async fn rescue_only_makes_answers_of_failures_without_a_call() {
    let layer = rescue::RescueLayer::new();
    let (answer, ..) = through(&layer, request(Method::POST, BODIES[0]), Says::Status(500)).await;
    assert_eq!(answer.unwrap().body(), "{\"n\": 1.0}");
    let refused = Says::Fails(Cause::ConnectionRefused, Phase::Unsent);
    let (answer, ..) = through(&layer, request(Method::POST, BODIES[0]), refused).await;
    assert_eq!(answer.unwrap().status(), 502);
    assert_eq!(is_never_repeated(layer).await, REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn session_passes_without_a_call() {
    let keys = SessionKeys::new(SessionKey::new([7; 32]));
    let params = session::SessionParams::new("wiki".into(), keys);
    passes_untouched(session::SessionLayer::new(session::Sessions::new(params))).await;
}

#[tokio::test(start_paused = true)]
async fn policy_refuses_without_a_call_where_it_has_something_to_refuse() {
    passes_untouched(policy::RestrictToolsLayer::new(policy::Params::default())).await;
    let mut params = policy::Params::default();
    params.exclude = vec![policy::Glob::new("delete_*")];
    let layer = policy::RestrictToolsLayer::new(params);
    let (answer, ..) = through(&layer, request(Method::POST, BODIES[0]), ALL[0]).await;
    let error = answer.unwrap_err();
    assert_eq!(Failure::of(&error).unwrap().cause(), Cause::Internal);
    assert_eq!(is_never_repeated(layer).await, 0);
}

#[tokio::test(start_paused = true)]
async fn rejoin_passes_without_a_call() {
    passes_untouched(rejoin::RejoinLayer::new(rejoin::RejoinParams::default())).await;
}

#[tokio::test(start_paused = true)]
async fn learn_passes_without_a_call() {
    passes_untouched(learn::LearnLayer::new(Catalog::default())).await;
}

#[tokio::test(start_paused = true)]
async fn wind_down_passes_without_a_call_even_when_it_is_time() {
    let (_sender, signal) = tokio::sync::watch::channel(true);
    passes_untouched(wind_down::WindDownLayer::new(signal)).await;
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_nothing_without_a_call() {
    let layer = retry::RetryLayer::new(retry::Params::default());
    let stats = layer.stats();
    passes_untouched(layer).await;
    assert_eq!(stats.retries_unsent() + stats.retries_answered(), 0);
}

#[cfg(feature = "balance")]
#[tokio::test(start_paused = true)]
async fn balance_chooses_without_a_call() {
    use outrigger::layer::balance::{Balance, Policy};

    let layer = tower::layer::layer_fn(|upstream: Upstream| {
        Balance::new([upstream.clone(), upstream], Policy::RoundRobin)
    });
    // Each request has a balancer of its own here, so none is put aside for what an earlier one met.
    passes_untouched(layer).await;
}

#[tokio::test(start_paused = true)]
async fn box_body_passes_without_a_call() {
    passes_untouched(BoxBodyLayer::new()).await;
}

#[tokio::test(start_paused = true)]
async fn complete_passes_without_a_call() {
    passes(complete::CompleteLayer::new()).await;
}

#[tokio::test(start_paused = true)]
async fn deadline_times_without_a_call() {
    passes_untouched(deadline::DeadlineLayer::new(Timeouts::default())).await;
}

#[tokio::test(start_paused = true)]
async fn headers_filters_without_a_call() {
    passes(headers::FilterHeadersLayer::new(headers::Params::default())).await;
}

#[tokio::test(start_paused = true)]
async fn credential_is_put_on_without_a_call() {
    let token = StaticCredential::bearer(SecretCell::new(Secret::new("t0ken")));
    let layer = credential::InjectCredentialLayer::new(token);
    let (answer, asked, _) =
        through(&layer, request(Method::POST, BODIES[0]), Says::Status(401)).await;
    let error = answer.unwrap_err();
    assert_eq!(Failure::of(&error).unwrap().cause(), Cause::Unauthorized);
    assert_eq!(asked, 1, "the same credential is not tried twice");
    is_never_repeated(layer).await;
}

#[cfg(feature = "client")]
#[tokio::test(start_paused = true)]
async fn dialect_addresses_without_a_call_and_cancels_nothing() {
    use outrigger::transport::{DialectLayer, Endpoint, PlaintextPolicy};

    let url = "http://127.0.0.1:9/mcp";
    let endpoint = Endpoint::new(url, PlaintextPolicy::LoopbackOnly).unwrap();
    passes(DialectLayer::new(endpoint)).await;
}
