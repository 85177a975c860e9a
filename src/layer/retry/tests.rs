use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_test::mock;

use super::*;
use crate::call::Form;
use crate::facts::Pin;
use crate::layer::testing::{bodiless, post};
use crate::mcp::revision::Era;

type Handle = mock::Handle<Request<Full<Bytes>>, Response<Full<Bytes>>>;
type Outcome = (
    Result<Response<ResponseBody<Full<Bytes>>>, BoxError>,
    Vec<Seen>,
);

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_all"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1.0, "method":"tools/list","x":[1e3]}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const INIT: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
const MS: Duration = Duration::from_millis(1);

/// What an attempt was.
struct Seen {
    at: Duration,
    body: Bytes,
    call: Option<Call>,
    avoid: Vec<u32>,
    headers: HeaderMap,
}

/// What the upstream does with an attempt.
#[derive(Clone, Copy)]
enum Does {
    Fails(Cause, Phase),
    Answers(u16, &'static str),
    AnswersAfter(u16, &'static str),
}

fn params() -> Params {
    Params {
        backoff: Backoff::exponential(100 * MS, 10_000 * MS).without_jitter(),
        clock: Clock::manual(784_111_770),
        ..Params::default()
    }
}

/// Sends `request` to an upstream that does one thing after the other, then answers 200.
async fn run(layer: &RetryLayer, request: Request<Full<Bytes>>, script: &[Does]) -> Outcome {
    let (service, mut handle): (_, Handle) = mock::pair();
    handle.allow(100);
    let begin = Instant::now();
    let call = tokio::spawn(layer.layer(service).oneshot(request));
    let mut seen = Vec::new();
    let mut script = script.iter();
    while let Some((request, send)) = handle.next_request().await {
        let facts = Facts::get(&request).cloned();
        if let Some(facts) = &facts {
            facts.set_endpoint(u32::try_from(seen.len()).unwrap());
        }
        let pin = request.extensions().get::<Pin>();
        seen.push(Seen {
            at: begin.elapsed(),
            avoid: pin.map(|pin| pin.avoid.clone()).unwrap_or_default(),
            call: request.extensions().get::<Call>().cloned(),
            headers: request.headers().clone(),
            body: request.into_body().collect().await.unwrap().to_bytes(),
        });
        match script.next().copied().unwrap_or(Does::Answers(200, "{}")) {
            Does::Fails(cause, phase) => send.send_error(Failure::new(cause, phase)),
            Does::Answers(status, body) => send.send_response(answer(status, body, None)),
            Does::AnswersAfter(status, after) => {
                send.send_response(answer(status, "", Some(after)));
            }
        }
    }
    (call.await.unwrap(), seen)
}

fn answer(status: u16, body: &'static str, after: Option<&'static str>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if let Some(after) = after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, after.parse().unwrap());
    }
    response
}

/// How often it was sent.
async fn tries(params: Params, request: Request<Full<Bytes>>, does: Does) -> usize {
    run(&RetryLayer::new(params), request, &[does; 9])
        .await
        .1
        .len()
}

const UNSENT: Does = Does::Fails(Cause::ConnectionRefused, Phase::Unsent);
const SENT: Does = Does::Fails(Cause::ConnectionLost, Phase::Sent);

#[tokio::test(start_paused = true)]
async fn s1_8_attempts_are_three_with_growing_waits() {
    let layer = RetryLayer::new(params());
    let (outcome, seen) = run(&layer, post(Era::Legacy, LIST), &[UNSENT; 9]).await;
    let at: Vec<_> = seen.iter().map(|seen| seen.at.as_millis()).collect();
    assert_eq!(at, [0, 100, 300]);
    assert_eq!(
        Failure::of(&outcome.unwrap_err()).unwrap().cause(),
        Cause::ConnectionRefused
    );
    assert_eq!(layer.stats().retries_unsent(), 2);
}

#[tokio::test(start_paused = true)]
async fn rule_1_anything_unsent_is_sent_again() {
    for text in [CALL, LIST, NOTE, INIT] {
        for era in [Era::Legacy, Era::Modern] {
            assert_eq!(tries(params(), post(era, text), UNSENT).await, 3, "{text}");
        }
    }
    assert_eq!(tries(params(), bodiless(Form::End), UNSENT).await, 3);
}

#[tokio::test(start_paused = true)]
async fn rule_1_our_own_faults_are_not() {
    for cause in [Cause::CredentialHeld, Cause::Internal, Cause::SessionLost] {
        let does = Does::Fails(cause, Phase::Unsent);
        assert_eq!(
            tries(params(), post(Era::Legacy, LIST), does).await,
            1,
            "{cause}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rule_2_what_may_have_run_is_sent_again_only_if_safe() {
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call"}]"#;
    for does in [
        SENT,
        Does::Answers(502, ""),
        Does::Answers(503, ""),
        Does::Answers(504, ""),
    ] {
        for text in [CALL, NOTE, INIT, batch] {
            assert_eq!(
                tries(params(), post(Era::Legacy, text), does).await,
                1,
                "{text}"
            );
        }
        assert_eq!(tries(params(), bodiless(Form::End), does).await, 1);
        assert_eq!(tries(params(), bodiless(Form::Stream), does).await, 3);
        assert_eq!(tries(params(), post(Era::Modern, LIST), does).await, 3);
    }
    for status in [200, 400, 401, 404, 500] {
        assert_eq!(
            tries(params(), post(Era::Legacy, LIST), Does::Answers(status, "")).await,
            1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rule_2_tool_calls_by_name_or_annotation() {
    struct Hints;
    impl ToolHints for Hints {
        fn is_repeatable(&self, tool: &str) -> bool {
            tool == "get_all"
        }
    }
    let with = |tool_calls| Params {
        tool_calls,
        ..params()
    };
    let named = || with(ToolCalls::Named(Arc::new(["get_*".into()])));
    let other = CALL.replace("get_all", "delete_all");
    for (params, text, expected) in [
        (named(), CALL, 3),
        (named(), &other, 1),
        (with(ToolCalls::Annotated(Arc::new(Hints))), CALL, 3),
        (with(ToolCalls::Annotated(Arc::new(Hints))), &other, 1),
        (with(ToolCalls::Never), CALL, 1),
    ] {
        assert_eq!(
            tries(params, post(Era::Legacy, text), SENT).await,
            expected,
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rule_3_429_is_sent_again_after_retry_after() {
    for (after, at) in [
        ("7", 7_100),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7_100),
        ("Sun, 06 Nov 1983 08:49:37 GMT", 100),
        ("0", 100),
        ("soon", 100),
    ] {
        let layer = RetryLayer::new(params());
        let script = [Does::AnswersAfter(429, after)];
        let (outcome, seen) = run(&layer, post(Era::Legacy, CALL), &script).await;
        assert_eq!(outcome.unwrap().status(), 200);
        assert_eq!(seen[1].at.as_millis(), at, "{after}");
        assert_eq!(layer.stats().retries_rate_limited(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_no_attempt_starts_later_than_request_after_the_first() {
    let layer = RetryLayer::new(params());
    let script = [Does::AnswersAfter(429, "31")];
    let (outcome, seen) = run(&layer, post(Era::Legacy, LIST), &script).await;
    assert_eq!((outcome.unwrap().status().as_u16(), seen.len()), (429, 1));
    // `tools/call` has 5 minutes.
    let (outcome, seen) = run(&layer, post(Era::Legacy, CALL), &script).await;
    assert_eq!((outcome.unwrap().status().as_u16(), seen.len()), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_spent_budget_returns_the_failure() {
    let layer = RetryLayer::new(Params {
        budget: Budget::new(0, 1),
        backoff: Backoff::fixed(Duration::ZERO),
        max_attempts: 100,
        ..params()
    });
    let (outcome, seen) = run(&layer, post(Era::Legacy, LIST), &[UNSENT; 50]).await;
    assert!(outcome.is_err());
    assert_eq!(seen.len(), 11);
    assert_eq!(layer.stats().budget_exhausted(), 1);
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_later_attempt_avoids_the_earlier_endpoints() {
    let layer = RetryLayer::new(params());
    let mut request = post(Era::Legacy, LIST);
    let facts = Facts::of(&mut request);
    let (_, seen) = run(&layer, request, &[UNSENT; 9]).await;
    let avoided: Vec<_> = seen.into_iter().map(|seen| seen.avoid).collect();
    assert_eq!(avoided, [vec![], vec![0], vec![0, 1]]);
    assert_eq!(facts.attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn rule_8_a_modern_attempt_has_an_id_of_its_own_and_the_caller_sees_its_own() {
    let layer = RetryLayer::new(params());
    let mut request = post(Era::Modern, LIST);
    request
        .headers_mut()
        .insert(CONTENT_LENGTH, LIST.len().into());
    request.headers_mut().append("x-many", "1".parse().unwrap());
    request.headers_mut().append("x-many", "2".parse().unwrap());
    let (service, mut handle): (_, Handle) = mock::pair();
    handle.allow(2);
    let call = tokio::spawn(layer.layer(service).oneshot(request));
    let (first, send) = handle.next_request().await.unwrap();
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), LIST);
    send.send_error(Failure::unsent(Cause::Dns));
    let (second, send) = handle.next_request().await.unwrap();
    let id = second
        .extensions()
        .get::<Call>()
        .unwrap()
        .id_token()
        .unwrap();
    let id = std::str::from_utf8(&id).unwrap().to_owned();
    assert!(id.starts_with("\"outrigger-"), "{id}");
    assert_eq!(
        second.headers()[CONTENT_LENGTH],
        (LIST.len() - 3 + id.len()).to_string()
    );
    assert_eq!(second.headers().get_all("x-many").iter().count(), 2);
    let body = second.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, LIST.replace(":1.0,", &format!(":{id},")));
    let text = format!(": c\n\nevent: message\ndata: {{\"id\":{id}, \"result\":{{}}}}\n\n");
    let mut response = Response::new(Full::new(Bytes::from(text.clone())));
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, text.len().into());
    send.send_response(response);
    let response = call.await.unwrap().unwrap();
    assert!(!response.headers().contains_key(CONTENT_LENGTH));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, text.replace(&id, "1.0"));
}

#[tokio::test(start_paused = true)]
async fn rule_8_a_legacy_attempt_keeps_the_id() {
    let layer = RetryLayer::new(params());
    let (_, seen) = run(&layer, post(Era::Legacy, LIST), &[UNSENT]).await;
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.body == LIST));
    assert_eq!(seen[1].call.as_ref().unwrap().id_token().unwrap(), "1.0");
    assert!(seen[1].headers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn rule_9_dropped_while_it_waits_it_is_not_sent_again() {
    let layer = RetryLayer::new(params());
    let (service, mut handle): (_, Handle) = mock::pair();
    handle.allow(2);
    let mut call = tokio_test::task::spawn(layer.layer(service).oneshot(post(Era::Legacy, LIST)));
    assert!(call.poll().is_pending());
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error(Failure::unsent(Cause::Dns));
    assert!(call.poll().is_pending());
    drop(call);
    // All services are gone with the call, and no second request came.
    assert!(handle.next_request().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn rule_10_without_a_call_nothing_is_sent_again() {
    let request = Request::new(Full::new(Bytes::from_static(LIST.as_bytes())));
    assert_eq!(tries(params(), request, UNSENT).await, 1);
    let never = Params {
        max_attempts: 1,
        ..params()
    };
    assert_eq!(tries(never, post(Era::Legacy, LIST), UNSENT).await, 1);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_the_inner_services_for_each_attempt() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<Full<Bytes>>, Response<Full<Bytes>>, _>(RetryLayer::new(
            params(),
        ));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut call = tokio_test::task::spawn(service.call(post(Era::Legacy, LIST)));
    let (_, send) = handle.next_request().await.unwrap();
    handle.allow(0);
    send.send_error(Failure::unsent(Cause::Dns));
    assert!(call.poll().is_pending());
    tokio::time::advance(200 * MS).await;
    assert!(call.poll().is_pending());
    handle.allow(1);
    assert!(call.is_woken());
    assert!(call.poll().is_pending());
    let (_, send) = handle.next_request().await.unwrap();
    send.send_response(answer(200, "{}", None));
    assert_eq!(call.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn rule_4_what_breaks_after_the_answer_is_not_sent_again() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let service = tower::service_fn(move |_: Request<Full<Bytes>>| {
        count.fetch_add(1, Ordering::Relaxed);
        let (feeder, body) = crate::layer::testing::fed();
        feeder.send("{");
        feeder.fail(Failure::new(Cause::ConnectionLost, Phase::Sent));
        std::future::ready(Ok::<_, BoxError>(Response::new(body)))
    });
    let layer = RetryLayer::new(params());
    let answer = layer.layer(service).oneshot(post(Era::Modern, LIST));
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "{"
    );
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(Failure::from_error(error).cause(), Cause::ConnectionLost);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
