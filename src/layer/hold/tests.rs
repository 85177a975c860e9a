use http::StatusCode;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::time::Instant;
use tower_test::mock;

use super::*;
use crate::codec::sse::Decoder;
use crate::error::{Cause, Failure, Phase};
use crate::layer::testing::{Fed, Feeder, bodiless, fed, post};
use crate::mcp::revision::Era;

type Handle = mock::Handle<Request<Full<Bytes>>, Response<Fed>>;
type Inner = mock::future::ResponseFuture<Response<Fed>>;
type Answer = Response<ResponseBody<Inner, Fed>>;

const CALL: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t"}}"#;
const INIT: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const BATCH: &str = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#;
const LISTEN: &str = r#"{"jsonrpc":"2.0","id":"a","method":"subscriptions/listen"}"#;
/// The event of the response to `CALL`.
const RESULT: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":{}}\n\n";
const COMMENT: &str = ": \n\n";

fn accepting(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let both = HeaderValue::from_static("application/json, Text/Event-Stream");
    request.headers_mut().insert(ACCEPT, both);
    request
}

fn call() -> Request<Full<Bytes>> {
    accepting(post(Era::Modern, CALL))
}

struct Exchange {
    answer: tokio_test::task::Spawn<ResponseFuture<Inner>>,
    handle: Handle,
}

fn begin(request: Request<Full<Bytes>>) -> Exchange {
    let (mut service, mut handle) = mock::spawn_layer(HoldLayer::default());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answer = tokio_test::task::spawn(service.call(request));
    Exchange { answer, handle }
}

impl Exchange {
    async fn send(&mut self) -> mock::SendResponse<Response<Fed>> {
        self.handle.next_request().await.unwrap().1
    }
}

fn upstream(status: u16, content_type: &str) -> (Feeder, Response<Fed>) {
    let (feeder, body) = fed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let value = HeaderValue::from_str(content_type).unwrap();
    response.headers_mut().insert(CONTENT_TYPE, value);
    (feeder, response)
}

/// A committed call: its stream after the first comment, and how it is answered.
async fn committed(
    request: Request<Full<Bytes>>,
) -> (ResponseBody<Inner, Fed>, mock::SendResponse<Response<Fed>>) {
    let mut exchange = begin(request);
    let send = exchange.send().await;
    let before = Instant::now();
    let answer: Answer = exchange.answer.await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_millis(1_500));
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-cache");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let mut body = answer.into_body();
    assert_eq!(next(&mut body).await, COMMENT);
    (body, send)
}

/// An answered call.
async fn answered(request: Request<Full<Bytes>>, response: Response<Fed>) -> Answer {
    let mut exchange = begin(request);
    exchange.send().await.send_response(response);
    exchange.answer.await.unwrap()
}

async fn next(body: &mut ResponseBody<Inner, Fed>) -> String {
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

async fn rest(body: ResponseBody<Inner, Fed>) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The messages in a stream.
fn messages(text: &str) -> Vec<Value> {
    let mut decoder = Decoder::new(1 << 24);
    decoder.push(text.as_bytes());
    let mut messages = Vec::new();
    while let Some(event) = decoder.next().unwrap() {
        messages.extend(
            event
                .message()
                .map(|data| serde_json::from_slice(data).unwrap()),
        );
    }
    assert!(decoder.is_between_events());
    messages
}

#[tokio::test(start_paused = true)]
async fn c67_a_silent_call_is_committed_with_comments_and_ends_with_its_events() {
    let (mut body, send) = committed(call()).await;
    for _ in 0..3 {
        let before = Instant::now();
        assert_eq!(next(&mut body).await, COMMENT);
        assert_eq!(before.elapsed(), Duration::from_secs(15));
    }
    let (feeder, response) = upstream(200, "text/event-stream");
    send.send_response(response);
    let events = format!(
        "id: 1\r\ndata: {{}}\r\n\r\n{}",
        RESULT.replace('\n', "\r\n")
    );
    feeder.send(&events);
    drop(feeder);
    assert_eq!(rest(body).await, events);
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_late_json_answer_is_one_event() {
    for status in [200, 400, 404, 502] {
        let (body, send) = committed(call()).await;
        let (feeder, response) = upstream(status, "application/json");
        send.send_response(response);
        feeder.send("{\"jsonrpc\":\"2.0\",\"id\":\"a\",\r\n\"res");
        feeder.send("ult\":1.0}\n");
        drop(feeder);
        let text = rest(body).await;
        assert!(
            text.starts_with("event: message\ndata: {\"jsonrpc\""),
            "{text}"
        );
        assert_eq!(
            messages(&text),
            [serde_json::json!({"jsonrpc":"2.0","id":"a","result":1.0})]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_late_long_answer_flows() {
    let (mut body, send) = committed(call()).await;
    let (feeder, response) = upstream(200, "application/json");
    send.send_response(response);
    let long = "y".repeat(message::MAX_HELD);
    feeder.send(&format!("{{\"x\":\"{long}"));
    assert!(next(&mut body).await.len() > message::MAX_HELD);
    feeder.send("\"}");
    assert_eq!(next(&mut body).await, "\"}");
    drop(feeder);
    assert_eq!(rest(body).await, "\n\n");
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_late_failure_is_an_event() {
    let mut request = call();
    let facts = Facts::of(&mut request);
    let (body, send) = committed(request).await;
    send.send_error(Failure::new(Cause::RequestTimeout, Phase::Sent));
    let messages = messages(&rest(body).await);
    assert_eq!(messages[0]["id"], "a");
    assert_eq!(messages[0]["error"]["data"]["cause"], "request_timeout");
    assert_eq!(facts.cause(), Some(Cause::RequestTimeout));
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_late_answer_that_is_none_is_an_error_event() {
    for (status, kind) in [
        (202, "text/plain"),
        (500, "text/html"),
        (200, "application/json"),
    ] {
        let (body, send) = committed(call()).await;
        let (feeder, response) = upstream(status, kind);
        send.send_response(response);
        drop(feeder);
        let messages = messages(&rest(body).await);
        assert_eq!(
            messages[0]["error"]["data"]["cause"], "bad_response",
            "{status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rule_2_what_is_not_committed() {
    let not_accepting = post(Era::Legacy, CALL);
    for request in [
        accepting(post(Era::Legacy, INIT)),
        accepting(post(Era::Legacy, NOTE)),
        accepting(post(Era::Legacy, BATCH)),
        accepting(bodiless(Form::End)),
        not_accepting,
        Request::new(Full::default()),
    ] {
        let mut exchange = begin(request);
        let _send = exchange.send().await;
        assert!(exchange.answer.poll().is_pending());
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(exchange.answer.poll().is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn rule_3_get_headers_come_although_the_upstreams_do_not() {
    let (mut body, send) = committed(accepting(bodiless(Form::Stream))).await;
    assert_eq!(next(&mut body).await, COMMENT);
    let (feeder, response) = upstream(200, "text/event-stream");
    send.send_response(response);
    feeder.send("data: {}\n\n");
    assert_eq!(next(&mut body).await, "data: {}\n\n");
}

#[tokio::test(start_paused = true)]
async fn rule_3_an_early_405_passes_and_a_late_one_ends_the_stream() {
    let request = || accepting(bodiless(Form::Stream));
    let (_feeder, response) = upstream(405, "application/json");
    assert_eq!(answered(request(), response).await.status(), 405);
    let (body, send) = committed(request()).await;
    let (_feeder, response) = upstream(405, "application/json");
    send.send_response(response);
    assert_eq!(rest(body).await, "");
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_silent_stream_has_comments_between_events_only() {
    for request in [
        call(),
        accepting(post(Era::Legacy, INIT)),
        bodiless(Form::Stream),
    ] {
        let (feeder, response) = upstream(200, "text/event-stream");
        let mut body = answered(request, response).await.into_body();
        feeder.send("data: 1\n\n");
        assert_eq!(next(&mut body).await, "data: 1\n\n");
        let before = Instant::now();
        assert_eq!(next(&mut body).await, COMMENT);
        assert_eq!(before.elapsed(), Duration::from_secs(15));
        feeder.send("data: {");
        assert_eq!(next(&mut body).await, "data: {");
        let mut frame = tokio_test::task::spawn(body.frame());
        assert!(frame.poll().is_pending());
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(frame.poll().is_pending());
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_stream_that_breaks_ends_with_an_error_event() {
    for (sent, whole) in [
        ("data: {}\n\n", 1),
        ("data: {}\n", 0),
        ("data: {\"js", 0),
        ("", 0),
    ] {
        for era in [Era::Legacy, Era::Modern] {
            let (feeder, response) = upstream(200, "text/event-stream");
            let body = answered(accepting(post(era, CALL)), response)
                .await
                .into_body();
            feeder.send(sent);
            feeder.fail(Failure::new(Cause::StreamIdle, Phase::Sent));
            let messages = messages(&rest(body).await);
            assert_eq!(messages.len(), whole + 1, "{sent:?}");
            assert_eq!(messages[whole]["id"], "a");
            assert_eq!(messages[whole]["error"]["data"]["cause"], "stream_idle");
        }
    }
}

/// All that a caller reads of a stream with this content, which then ends or breaks.
async fn stream(era: Era, text: &str, content: &str, breaks: bool) -> String {
    let (feeder, response) = upstream(200, "text/event-stream");
    let answer = answered(accepting(post(era, text)), response).await;
    feeder.send(content);
    if breaks {
        feeder.fail(Failure::new(Cause::ConnectionLost, Phase::Sent));
    }
    drop(feeder);
    rest(answer.into_body()).await
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_stream_that_ends_before_its_response_ends_with_an_error_event() {
    let other = RESULT.replace("\"a\"", "\"b\"");
    for era in [Era::Legacy, Era::Modern] {
        for (content, whole) in [("", 0), ("data: {}\n\n", 1), ("data: {}\n", 0), (&other, 1)] {
            let text = stream(era, CALL, content, false).await;
            assert!(text.starts_with(content), "{text}");
            let messages = messages(&text);
            assert_eq!(messages.len(), whole + 1, "{text}");
            assert_eq!(messages[whole]["id"], "a");
            assert_eq!(messages[whole]["error"]["data"]["cause"], "connection_lost");
            assert_eq!(messages[whole]["error"]["data"]["retryable"], false);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_nothing_is_added_behind_a_response() {
    for era in [Era::Legacy, Era::Modern] {
        for breaks in [false, true] {
            assert_eq!(stream(era, CALL, RESULT, breaks).await, RESULT);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_nothing_is_added_where_its_caller_goes_on_by_itself() {
    let primed = "id: 1\ndata: \n\n";
    assert_eq!(stream(Era::Legacy, CALL, primed, false).await, primed);
    let text = stream(Era::Modern, CALL, primed, false).await;
    assert_eq!(messages(&text).len(), 1, "this era has no ids: {text}");
    let event = "data: {}\n\n";
    assert_eq!(stream(Era::Modern, LISTEN, event, false).await, event);
}

/// An event that is too large to be looked at may be the response, and a legacy id lets its caller resume.
#[tokio::test(start_paused = true)]
async fn rule_5_and_9_nothing_is_said_where_the_response_may_have_come() {
    let large = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"result\":\"{}\"}}\n\n",
        "x".repeat(1 << 20)
    );
    for (era, content) in [
        (Era::Legacy, "id: 1\ndata: \n\n"),
        (Era::Legacy, large.as_str()),
        (Era::Modern, large.as_str()),
    ] {
        for ends in [false, true] {
            let (mut exchange, signal) = begin_until(accepting(post(era, CALL)));
            let (feeder, response) = upstream(200, "text/event-stream");
            exchange.send().await.send_response(response);
            let mut body = exchange.answer.await.unwrap().into_body();
            feeder.send(content);
            assert_eq!(next(&mut body).await, content);
            if ends {
                signal.send_replace(true);
                assert!(body.frame().await.is_none());
            } else {
                feeder.fail("reset");
                let error = body.frame().await.unwrap().unwrap_err();
                assert_eq!(error.to_string(), "reset");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_late_long_answer_that_breaks_ends_with_an_error_event() {
    let (body, send) = committed(call()).await;
    let (feeder, response) = upstream(200, "application/json");
    send.send_response(response);
    feeder.send(&format!("{{\"x\":\"{}", "y".repeat(message::MAX_HELD)));
    feeder.fail("reset");
    let messages = messages(&rest(body).await);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["error"]["data"]["cause"], "internal");
}

#[tokio::test(start_paused = true)]
async fn rule_5_other_bodies_are_cut() {
    for (request, kind) in [
        (call(), "application/json"),
        (bodiless(Form::Stream), "text/event-stream"),
        (accepting(post(Era::Legacy, BATCH)), "text/event-stream"),
    ] {
        let (feeder, response) = upstream(200, kind);
        let mut body = answered(request, response).await.into_body();
        feeder.send("x");
        feeder.fail("reset");
        assert_eq!(next(&mut body).await, "x");
        assert_eq!(
            body.frame().await.unwrap().unwrap_err().to_string(),
            "reset"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c67_streams_ask_not_to_be_buffered_and_nothing_else_changes() {
    let (feeder, mut response) = upstream(200, "text/event-stream");
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
    let answer = answered(call(), response).await;
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    assert_eq!(answer.headers()[CONTENT_LENGTH], "3");
    feeder.fail("reset");
    assert!(answer.into_body().frame().await.unwrap().is_err());

    let (feeder, response) = upstream(200, "application/json");
    let answer = answered(call(), response).await;
    assert_eq!(answer.headers().len(), 1);
    feeder.send("{ }");
    drop(feeder);
    assert_eq!(rest(answer.into_body()).await, "{ }");
}

/// A service that never answers, and whether its call is still there.
fn silent() -> (
    impl Service<Request<Full<Bytes>>, Response = Response<Fed>, Error = BoxError>,
    std::sync::Arc<()>,
) {
    let alive = std::sync::Arc::new(());
    let witness = alive.clone();
    let service = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let witness = witness.clone();
        async move {
            std::future::pending::<()>().await;
            drop(witness);
            Err(BoxError::from("never"))
        }
    });
    (service, alive)
}

#[tokio::test(start_paused = true)]
async fn rule_7_dropping_answer_or_body_drops_the_call() {
    let (service, alive) = silent();
    let mut service = HoldLayer::default().layer(service);
    let mut answer = tokio_test::task::spawn(service.call(call()));
    assert!(answer.poll().is_pending());
    assert_eq!(std::sync::Arc::strong_count(&alive), 3);
    drop(answer);
    assert_eq!(std::sync::Arc::strong_count(&alive), 2);

    let body = service.call(call()).await.unwrap().into_body();
    assert_eq!(std::sync::Arc::strong_count(&alive), 3);
    drop(body);
    assert_eq!(std::sync::Arc::strong_count(&alive), 2);
}

#[tokio::test(start_paused = true)]
async fn rule_8_without_a_call_everything_passes() {
    let (feeder, response) = upstream(200, "text/event-stream");
    let mut answer = answered(Request::new(Full::default()), response).await;
    assert_eq!(answer.headers().len(), 1);
    let mut frame = tokio_test::task::spawn(answer.body_mut().frame());
    assert!(frame.poll().is_pending());
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(frame.poll().is_pending());
    feeder.send("x");
    assert!(frame.is_woken());
}

/// A call that is on its way, and the signal that the process ends.
fn begin_until(request: Request<Full<Bytes>>) -> (Exchange, watch::Sender<bool>) {
    let (sender, signal) = watch::channel(false);
    let (mut service, mut handle) = mock::spawn_layer(HoldLayer::default().until(signal));
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answer = tokio_test::task::spawn(service.call(request));
    (Exchange { answer, handle }, sender)
}

#[tokio::test(start_paused = true)]
async fn rule_9_a_call_without_an_answer_is_answered_at_the_end_of_the_process() {
    for (era, text) in [
        (Era::Legacy, INIT),
        (Era::Legacy, CALL),
        (Era::Modern, CALL),
    ] {
        for sent in [0, 1] {
            let mut request = accepting(post(era, text));
            let facts = Facts::of(&mut request);
            for _ in 0..sent {
                facts.count_sent();
            }
            let (mut exchange, signal) = begin_until(request);
            let send = exchange.send().await;
            assert!(exchange.answer.poll().is_pending());
            signal.send_replace(true);
            let answer: Answer = exchange.answer.await.unwrap();
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()["retry-after"], "1");
            assert!(
                answer.headers()["proxy-status"]
                    .to_str()
                    .unwrap()
                    .contains("shutting_down")
            );
            let mut body = answer.into_body();
            let body: Value = serde_json::from_str(&next(&mut body).await).unwrap();
            assert_eq!(body["error"]["data"]["cause"], "shutting_down");
            assert_eq!(body["error"]["data"]["retryable"], sent == 0);
            assert_eq!(body["error"]["data"]["retryAfterMs"], 1000);
            assert!(!body["id"].is_null(), "{body}");
            assert_eq!(facts.cause(), Some(Cause::ShuttingDown));
            // The call was dropped.
            drop(send);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rule_9_an_answer_that_is_there_goes_first() {
    let (mut exchange, signal) = begin_until(call());
    let send = exchange.send().await;
    assert!(exchange.answer.poll().is_pending());
    let (_feeder, response) = upstream(200, "application/json");
    send.send_response(response);
    signal.send_replace(true);
    assert_eq!(exchange.answer.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn rule_9_an_open_stream_ends_with_an_error_event() {
    for era in [Era::Legacy, Era::Modern] {
        for (content, whole) in [("", 0), ("data: {}\n\n", 1), ("data: {\"js", 0)] {
            let (mut exchange, signal) = begin_until(accepting(post(era, CALL)));
            let (feeder, response) = upstream(200, "text/event-stream");
            exchange.send().await.send_response(response);
            let mut body = exchange.answer.await.unwrap().into_body();
            if !content.is_empty() {
                feeder.send(content);
                assert_eq!(next(&mut body).await, content);
            }
            signal.send_replace(true);
            let text = format!("{content}{}", rest(body).await);
            let messages = messages(&text);
            assert_eq!(messages.len(), whole + 1, "{text}");
            assert_eq!(messages[whole]["id"], "a");
            assert_eq!(messages[whole]["error"]["data"]["cause"], "shutting_down");
            assert!(feeder.body_is_dropped());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rule_9_a_call_that_was_committed_ends_with_an_error_event() {
    let (mut exchange, signal) = begin_until(call());
    let _send = exchange.send().await;
    let mut body = exchange.answer.await.unwrap().into_body();
    assert_eq!(next(&mut body).await, COMMENT);
    signal.send_replace(true);
    let messages = messages(&rest(body).await);
    assert_eq!(messages[0]["error"]["data"]["cause"], "shutting_down");
}

#[tokio::test(start_paused = true)]
async fn rule_9_a_stream_that_has_its_response_ends_and_others_are_left_to_be_cut() {
    let (mut exchange, signal) = begin_until(call());
    let (feeder, response) = upstream(200, "text/event-stream");
    exchange.send().await.send_response(response);
    let mut body = exchange.answer.await.unwrap().into_body();
    feeder.send(RESULT);
    assert_eq!(next(&mut body).await, RESULT);
    signal.send_replace(true);
    assert_eq!(rest(body).await, "");

    for (request, kind) in [
        (bodiless(Form::Stream), "text/event-stream"),
        (accepting(post(Era::Modern, LISTEN)), "text/event-stream"),
        (call(), "application/json"),
    ] {
        let (mut exchange, signal) = begin_until(request);
        let (_feeder, response) = upstream(200, kind);
        exchange.send().await.send_response(response);
        let mut body = exchange.answer.await.unwrap().into_body();
        signal.send_replace(true);
        let mut frame = tokio_test::task::spawn(body.frame());
        assert!(frame.poll().is_pending());
    }
    let (mut exchange, signal) = begin_until(accepting(post(Era::Legacy, NOTE)));
    let _send = exchange.send().await;
    signal.send_replace(true);
    assert!(exchange.answer.poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn errors_and_readiness_are_the_inner_services() {
    let mut exchange = begin(call());
    exchange.send().await.send_error("x");
    assert_eq!(exchange.answer.await.unwrap_err().to_string(), "x");
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<Full<Bytes>>, Response<Fed>, _>(HoldLayer::default());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
}

/// The layers of failure in their order: they fit, and a call finds the endpoint that works.
#[cfg(feature = "balance")]
#[tokio::test(start_paused = true)]
async fn the_layers_of_failure_compose() {
    use tower::ServiceExt;

    use crate::layer::balance::{Balance, Policy};
    use crate::layer::deadline::DeadlineLayer;
    use crate::layer::rescue::RescueLayer;
    use crate::layer::retry::{self, RetryLayer};
    use crate::layer::timeouts::Timeouts;

    let endpoint = |works: bool| {
        let inner = tower::service_fn(move |_: Request<Full<Bytes>>| async move {
            if !works {
                return Err(BoxError::from(Failure::unsent(Cause::ConnectionRefused)));
            }
            let mut response = Response::new(crate::Body::from(Bytes::from_static(b"{}")));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            Ok(response)
        });
        DeadlineLayer::new(Timeouts::default()).layer(inner)
    };
    for (works, status) in [([false, true], 200), ([false, false], 503)] {
        let balance = Balance::new(works.map(endpoint), Policy::Failover);
        let stack = tower::ServiceBuilder::new()
            .layer(HoldLayer::default())
            .layer(RescueLayer::new())
            .layer(RetryLayer::new(retry::Params::default()))
            .service(balance);
        let mut request = call();
        let facts = Facts::of(&mut request);
        let answer = stack.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(facts.cause().is_some(), status == 503);
        assert!(facts.attempts() >= 2);
    }
}
