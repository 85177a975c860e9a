use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower_test::mock::{self, Spawn};

use super::*;
use crate::body::Body as AnyBody;
use crate::layer::testing::{bodiless, fed, post};
use crate::mcp::headers::SESSION_ID;

type Mock = Spawn<Rescue<mock::Mock<Request<Full<Bytes>>, Response<AnyBody>>>>;
type Handle = mock::Handle<Request<Full<Bytes>>, Response<AnyBody>>;

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn spawn() -> (Mock, Handle) {
    mock::spawn_layer(RescueLayer::with_clock(Clock::manual(784_111_770)))
}

fn upstream(status: u16, content_type: &str, body: &str) -> Response<AnyBody> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .body(AnyBody::from(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

/// What the caller gets for `request` if the service beneath does `answer`.
async fn exchange(
    request: Request<Full<Bytes>>,
    answer: impl FnOnce(mock::SendResponse<Response<AnyBody>>),
) -> (StatusCode, HeaderMap, Bytes) {
    let (mut service, mut handle) = spawn();
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let future = service.call(request);
    let (_, send) = handle.next_request().await.unwrap();
    answer(send);
    let response = future.await.unwrap();
    let (head, body) = response.into_parts();
    (
        head.status,
        head.headers,
        body.collect().await.unwrap().to_bytes(),
    )
}

async fn passed(
    request: Request<Full<Bytes>>,
    response: Response<AnyBody>,
) -> (StatusCode, HeaderMap, Bytes) {
    exchange(request, |send| send.send_response(response)).await
}

fn cause(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    body["error"]["data"]["cause"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn rule_1_a_failure_is_answered_and_noted() {
    let mut request = post(Era::Modern, CALL);
    let facts = Facts::of(&mut request);
    let (status, headers, body) = exchange(request, |send| {
        send.send_error(Failure::unsent(Cause::ConnectionRefused).at("https://a.example".into()));
    })
    .await;
    assert_eq!(status, 502);
    assert!(headers.contains_key("proxy-status"));
    assert_eq!(facts.cause(), Some(Cause::ConnectionRefused));
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["id"], 7);
    assert_eq!(
        body["error"]["message"],
        "Connection refused to https://a.example"
    );
    assert_eq!(
        body["error"]["data"]["requestId"],
        facts.request_id().to_string()
    );
}

#[tokio::test]
async fn rule_1_an_error_of_another_type_is_ours() {
    let (status, _, body) =
        exchange(post(Era::Modern, CALL), |send| send.send_error("token=abc")).await;
    assert_eq!(status, 500);
    assert_eq!(cause(&body), "internal");
    assert!(!String::from_utf8_lossy(&body).contains("abc"));
}

#[tokio::test]
async fn rule_2_a_json_rpc_error_passes_in_both_eras() {
    let text = r#"{ "jsonrpc":"2.0","id":7, "error":{"code":-32602,"message":"odd","x":1.0} }"#;
    for era in [Era::Legacy, Era::Modern] {
        for status in [400, 403, 404, 429, 500] {
            let answer = upstream(status, "application/json; charset=utf-8", text);
            let (passed, headers, body) = passed(post(era, CALL), answer).await;
            assert_eq!(passed, status);
            assert_eq!(body, text);
            assert!(!headers.contains_key("proxy-status"));
        }
    }
}

#[tokio::test]
async fn rule_2_a_401_never_passes() {
    let text = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32001,"message":"who?"}}"#;
    let mut answer = upstream(401, "application/json", text);
    answer
        .headers_mut()
        .insert("www-authenticate", "Bearer".parse().unwrap());
    let (status, headers, body) = passed(post(Era::Modern, CALL), answer).await;
    assert_eq!(status, 502);
    assert_eq!(cause(&body), "unauthorized");
    assert!(!headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn rule_3_other_error_bodies_are_replaced() {
    let stack_trace = r#"{"jsonRpcError":{"code":1},"stackTrace":["at secret.Place"]}"#;
    for (status, kind, text, to, word) in [
        (500, "text/html", "<h1>secret</h1>", 500, "upstream_error"),
        (503, "text/plain", "secret", 503, "upstream_error"),
        (400, "application/json", stack_trace, 400, "upstream_error"),
        (404, "text/plain", "secret", 502, "not_found"),
        (403, "text/plain", "secret", 502, "forbidden"),
        (407, "text/plain", "secret", 502, "upstream_error"),
        (408, "text/plain", "secret", 502, "upstream_error"),
        (429, "text/plain", "secret", 429, "upstream_rate_limited"),
    ] {
        let answer = upstream(status, kind, text);
        let (answered, _, body) = passed(post(Era::Modern, CALL), answer).await;
        assert_eq!(
            (answered.as_u16(), cause(&body).as_str()),
            (to, word),
            "{status}"
        );
        assert!(
            !String::from_utf8_lossy(&body).contains("secret"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn rule_3_retry_after_is_kept_as_seconds_or_date() {
    for value in ["7", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let mut answer = upstream(429, "text/plain", "slow down");
        answer
            .headers_mut()
            .insert(RETRY_AFTER, value.parse().unwrap());
        let (_, headers, body) = passed(post(Era::Modern, CALL), answer).await;
        assert_eq!(headers[RETRY_AFTER], "7");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["data"]["retryAfterMs"], 7_000);
    }
}

#[tokio::test]
async fn rule_3_what_may_have_run_is_not_called_retryable() {
    for (text, status, retryable) in [(CALL, 503, false), (LIST, 503, true), (LIST, 500, false)] {
        let answer = upstream(status, "text/plain", "x");
        let (_, _, body) = passed(post(Era::Modern, text), answer).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body["error"]["data"]["retryable"], retryable,
            "{text} {status}"
        );
        assert_eq!(body["error"]["data"]["upstreamStatus"], status);
    }
}

#[tokio::test]
async fn rule_3_an_oversized_error_body_is_replaced() {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":1,"message":"{}"}}}}"#,
        "x".repeat(MAX_ERROR_BODY)
    );
    let known = upstream(500, "application/json", &text);
    let streamed = upstream(500, "application/json", &text)
        .map(|body| AnyBody::new(body.map_frame(|frame| frame)));
    for answer in [known, streamed] {
        let (_, _, body) = passed(post(Era::Modern, CALL), answer).await;
        assert_eq!(cause(&body), "upstream_error");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_3_an_error_body_that_does_not_come_is_replaced() {
    let (feeder, body) = fed();
    feeder.send("{\"jsonrpc\"");
    let answer = upstream(500, "application/json", "").map(|_| AnyBody::new(body));
    let before = tokio::time::Instant::now();
    let (_, _, body) = passed(post(Era::Modern, CALL), answer).await;
    assert_eq!(cause(&body), "upstream_error");
    assert_eq!(before.elapsed(), MAX_ERROR_WAIT);
}

#[tokio::test]
async fn rule_3_an_error_body_that_breaks_is_replaced() {
    let (feeder, body) = fed();
    feeder.fail("reset");
    let answer = upstream(500, "application/json", "").map(|_| AnyBody::new(body));
    let (_, _, body) = passed(post(Era::Modern, CALL), answer).await;
    assert_eq!(cause(&body), "upstream_error");
}

#[tokio::test]
async fn c46_a_legacy_client_sees_an_upstream_text_400_or_404_as_200_and_error() {
    for status in [400, 404] {
        let answer = upstream(status, "text/plain", "bad");
        let (answered, _, body) = passed(post(Era::Legacy, CALL), answer).await;
        assert_eq!(answered.as_u16(), if status == 400 { 200 } else { 502 });
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["id"], 7);
    }
}

#[tokio::test]
async fn rule_3_a_refused_notification_is_answered_without_an_id() {
    let answer = upstream(400, "text/plain", "bad");
    let (status, _, body) = passed(post(Era::Modern, NOTE), answer).await;
    assert_eq!(status, 400);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(body.get("id").is_none());
}

#[tokio::test]
async fn rule_4_a_404_within_a_legacy_session_stays() {
    let mut request = post(Era::Legacy, CALL);
    request
        .headers_mut()
        .insert(SESSION_ID, "s".parse().unwrap());
    let (status, _, body) = passed(request, upstream(404, "text/plain", "session not found")).await;
    assert_eq!(status, 404);
    assert_eq!(cause(&body), "session_lost");
}

#[tokio::test]
async fn rule_4_a_405_to_get_or_delete_stays() {
    for form in [Form::Stream, Form::End] {
        let (status, headers, _) = passed(bodiless(form), upstream(405, "text/plain", "no")).await;
        assert_eq!(status, 405);
        assert_eq!(headers["allow"], "POST");
    }
    let (status, _, body) = passed(bodiless(Form::Stream), upstream(409, "text/plain", "no")).await;
    assert_eq!(
        (status.as_u16(), cause(&body).as_str()),
        (409, "upstream_error")
    );
}

#[tokio::test]
async fn rule_5_a_page_or_a_redirect_is_no_answer() {
    for (status, word) in [(200, "bad_response"), (302, "redirected")] {
        let answer = upstream(status, "text/html", "<h1>login</h1>");
        let (answered, _, body) = passed(post(Era::Modern, CALL), answer).await;
        assert_eq!((answered.as_u16(), cause(&body).as_str()), (502, word));
    }
}

#[tokio::test]
async fn rule_6_good_answers_pass() {
    for (text, status, kind) in [
        (CALL, 200, "application/json"),
        (CALL, 200, "text/event-stream"),
        (NOTE, 202, "text/plain"),
        (CALL, 202, "text/plain"),
    ] {
        let (passed, _, body) =
            passed(post(Era::Legacy, text), upstream(status, kind, "as it is")).await;
        assert_eq!(passed, status);
        assert_eq!(body, "as it is");
    }
}

#[tokio::test]
async fn rule_7_without_a_call_answers_pass_and_errors_are_answered() {
    let bare = || Request::new(Full::default());
    let (status, _, body) = passed(bare(), upstream(500, "text/html", "as it is")).await;
    assert_eq!((status.as_u16(), &body[..]), (500, &b"as it is"[..]));
    let (status, _, body) = exchange(bare(), |send| send.send_error("x")).await;
    assert_eq!((status.as_u16(), cause(&body).as_str()), (500, "internal"));
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut service, mut handle) = spawn();
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
}

#[tokio::test]
async fn dropping_the_answer_drops_the_call() {
    let (mut service, mut handle) = spawn();
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut future = tokio_test::task::spawn(service.call(post(Era::Modern, CALL)));
    assert!(future.poll().is_pending());
    let (_, send) = handle.next_request().await.unwrap();
    drop(future);
    // Nobody is there to take it, which must not matter.
    send.send_response(upstream(200, "application/json", "{}"));
}
