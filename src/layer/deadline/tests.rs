use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tower_test::mock;

use super::*;
use crate::call::Form;
use crate::error::{Failure, Phase};
use crate::layer::testing::{Fed, bodiless, fed, post};
use crate::mcp::revision::Era;

type Handle = mock::Handle<Request<Full<Bytes>>, Response<Fed>>;
type Mock = mock::Spawn<Deadline<mock::Mock<Request<Full<Bytes>>, Response<Fed>>>>;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const LISTEN: &str = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}"#;
const LONG: Duration = Duration::from_secs(100_000);

fn spawn(timeouts: Timeouts) -> (Mock, Handle) {
    mock::spawn_layer(DeadlineLayer::new(timeouts).at("https://a.example".into()))
}

fn start(
    service: &mut Mock,
    handle: &mut Handle,
    request: Request<Full<Bytes>>,
) -> tokio_test::task::Spawn<ResponseFuture<mock::future::ResponseFuture<Response<Fed>>>> {
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    tokio_test::task::spawn(service.call(request))
}

fn failure(error: &BoxError) -> (Cause, Phase) {
    let failure = Failure::of(error).unwrap();
    (failure.cause(), failure.phase())
}

/// How long a call stays unanswered before it fails, and with what.
async fn unanswered(timeouts: Timeouts, request: Request<Full<Bytes>>) -> (Duration, Cause) {
    let (mut service, mut handle) = spawn(timeouts);
    let future = start(&mut service, &mut handle, request);
    let (_, _send) = handle.next_request().await.unwrap();
    let before = Instant::now();
    let error = future.await.unwrap_err();
    assert_eq!(failure(&error).1, Phase::Sent);
    (before.elapsed(), failure(&error).0)
}

/// A call that was answered, with the body's feeder.
async fn answered(
    timeouts: Timeouts,
    request: Request<Full<Bytes>>,
) -> (crate::layer::testing::Feeder, ResponseBody<Fed>) {
    let (mut service, mut handle) = spawn(timeouts);
    let future = start(&mut service, &mut handle, request);
    let (_, send) = handle.next_request().await.unwrap();
    let (feeder, body) = fed();
    send.send_response(Response::new(body));
    (feeder, future.await.unwrap().into_body())
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn s0_20_request_timeout_bounds_the_first_answer() {
    let (after, cause) = unanswered(Timeouts::default(), post(Era::Legacy, LIST)).await;
    assert_eq!((after, cause), (seconds(30), Cause::RequestTimeout));
    let (after, _) = unanswered(Timeouts::default(), post(Era::Legacy, CALL)).await;
    assert_eq!(after, seconds(300));
    let own = Timeouts::default().method("tools/call", seconds(7));
    assert_eq!(unanswered(own, post(Era::Modern, CALL)).await.0, seconds(7));
}

#[tokio::test(start_paused = true)]
async fn s0_28_request_timeout_names_the_origin() {
    let (mut service, mut handle) = spawn(Timeouts::default());
    let future = start(&mut service, &mut handle, post(Era::Legacy, LIST));
    let (_, _send) = handle.next_request().await.unwrap();
    let error = future.await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Request timeout: no answer from https://a.example"
    );
}

#[tokio::test(start_paused = true)]
async fn rule_1_ends_when_a_stream_starts() {
    let timeouts = Timeouts::default().stream_idle(None);
    let (feeder, mut body) = answered(timeouts, post(Era::Legacy, LIST)).await;
    let mut frame = tokio_test::task::spawn(body.frame());
    assert!(frame.poll().is_pending());
    tokio::time::advance(LONG).await;
    assert!(frame.poll().is_pending());
    feeder.send("x");
    assert!(frame.is_woken());
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_silent_stream_fails_and_any_byte_begins_anew() {
    let (feeder, mut body) = answered(Timeouts::default(), post(Era::Legacy, CALL)).await;
    for _ in 0..5 {
        {
            let mut frame = tokio_test::task::spawn(body.frame());
            assert!(frame.poll().is_pending());
            tokio::time::advance(seconds(299)).await;
            assert!(frame.poll().is_pending());
        }
        feeder.send(":");
        assert!(body.frame().await.unwrap().is_ok());
    }
    let before = Instant::now();
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(failure(&error), (Cause::StreamIdle, Phase::Sent));
    assert_eq!(before.elapsed(), seconds(300));
    assert!(feeder.body_is_dropped());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_slow_caller_is_not_a_silent_upstream() {
    let (feeder, mut body) = answered(Timeouts::default(), post(Era::Legacy, CALL)).await;
    assert!(tokio_test::task::spawn(body.frame()).poll().is_pending());
    feeder.send("a");
    assert!(body.frame().await.unwrap().is_ok());
    tokio::time::advance(LONG).await;
    let mut frame = tokio_test::task::spawn(body.frame());
    assert!(frame.poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn c95_total_is_absolute() {
    let timeouts = || {
        Timeouts::default()
            .total(Some(seconds(10)))
            .stream_idle(Some(seconds(6)))
    };
    assert_eq!(
        unanswered(timeouts(), post(Era::Modern, CALL)).await,
        (seconds(10), Cause::TotalTimeout)
    );
    let (feeder, mut body) = answered(timeouts(), post(Era::Modern, CALL)).await;
    let before = Instant::now();
    tokio::time::advance(seconds(5)).await;
    feeder.send("a");
    assert!(body.frame().await.unwrap().is_ok());
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(failure(&error).0, Cause::TotalTimeout);
    assert_eq!(before.elapsed(), seconds(10));
}

#[tokio::test(start_paused = true)]
async fn rule_4_get_and_listen_are_not_timed() {
    let timeouts = || Timeouts::default().total(Some(seconds(10)));
    let bare_get = Request::new(Full::default());
    for request in [bodiless(Form::Stream), post(Era::Modern, LISTEN), bare_get] {
        let (mut service, mut handle) = spawn(timeouts());
        let mut future = start(&mut service, &mut handle, request);
        let (_, send) = handle.next_request().await.unwrap();
        assert!(future.poll().is_pending());
        tokio::time::advance(LONG).await;
        assert!(future.poll().is_pending());
        let (_feeder, body) = fed();
        send.send_response(Response::new(body));
        let mut body = future.await.unwrap().into_body();
        let mut frame = tokio_test::task::spawn(body.frame());
        assert!(frame.poll().is_pending());
        tokio::time::advance(LONG).await;
        assert!(frame.poll().is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_post_without_a_call_has_request() {
    let request = Request::post("/").body(Full::default()).unwrap();
    let (after, cause) = unanswered(Timeouts::default(), request).await;
    assert_eq!((after, cause), (seconds(30), Cause::RequestTimeout));
}

#[tokio::test(start_paused = true)]
async fn rule_5_what_ran_out_of_time_is_dropped_at_once() {
    let dropped = Arc::new(());
    let witness = dropped.clone();
    let inner = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let witness = witness.clone();
        async move {
            std::future::pending::<()>().await;
            drop(witness);
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
        }
    });
    let mut service = DeadlineLayer::new(Timeouts::default()).layer(inner);
    let mut future = tokio_test::task::spawn(service.call(post(Era::Modern, LIST)));
    assert!(future.poll().is_pending());
    assert_eq!(Arc::strong_count(&dropped), 3);
    tokio::time::advance(seconds(30)).await;
    assert!(future.poll().is_ready());
    // The future itself is still there, its call is not.
    assert_eq!(Arc::strong_count(&dropped), 2);
}

#[tokio::test(start_paused = true)]
async fn an_inner_error_and_the_end_of_the_body_pass() {
    let (mut service, mut handle) = spawn(Timeouts::default());
    let future = start(&mut service, &mut handle, post(Era::Legacy, LIST));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("x");
    assert_eq!(future.await.unwrap_err().to_string(), "x");

    let (feeder, mut body) = answered(Timeouts::default(), post(Era::Legacy, LIST)).await;
    assert!(!body.is_end_stream());
    drop(feeder);
    assert!(body.frame().await.is_none());
    let whole = ResponseBody::<Full<Bytes>>::from(Bytes::from_static(b"abc"));
    assert_eq!(http_body::Body::size_hint(&whole).exact(), Some(3));
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "abc");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_body_drops_the_stream() {
    let (feeder, body) = answered(Timeouts::default(), post(Era::Legacy, LIST)).await;
    assert!(!feeder.body_is_dropped());
    drop(body);
    assert!(feeder.body_is_dropped());
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inner_services() {
    let (mut service, mut handle) = spawn(Timeouts::default());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
}

/// There is no runtime here, so that a timer could not even be made.
#[test]
fn rule_6_what_is_ready_at_once_costs_no_timer() {
    let body = || Full::new(Bytes::from_static(b"{}"));
    let inner = tower::service_fn(move |_: Request<Full<Bytes>>| {
        std::future::ready(Ok::<_, BoxError>(Response::new(body())))
    });
    let mut service = DeadlineLayer::new(Timeouts::default()).layer(inner);
    let mut answer = tokio_test::task::spawn(service.call(post(Era::Legacy, CALL)));
    let Poll::Ready(Ok(response)) = answer.poll() else {
        panic!("it was ready")
    };
    let mut body = tokio_test::task::spawn(response.into_body());
    assert!(body.enter(|cx, body| body.poll_frame(cx)).is_ready());
}
