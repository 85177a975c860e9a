use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tower_test::mock;

use super::*;
use crate::call::Form;
use crate::layer::testing::{Fed, Feeder, bodiless, fed, post};
use crate::mcp::revision::Era;

type Inner = mock::future::ResponseFuture<Response<Fed>>;
type Answer = tokio_test::task::Spawn<ResponseFuture<Inner, Fed>>;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

/// A request that was answered with this head, and what feeds the answer's body.
async fn begin(request: Request<Full<Bytes>>, status: u16, kind: &'static str) -> (Answer, Feeder) {
    let (mut service, mut handle) = mock::spawn_layer(CompleteLayer::new());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answer = tokio_test::task::spawn(service.call(request));
    let (feeder, body) = fed();
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().unwrap();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_response(response);
    (answer, feeder)
}

fn call() -> Request<Full<Bytes>> {
    post(Era::Legacy, CALL)
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn failure(outcome: Result<Response<Body>, BoxError>) -> (Cause, Phase) {
    let failure = Failure::from_error(outcome.unwrap_err());
    (failure.cause(), failure.phase())
}

#[tokio::test]
async fn rule_1_a_json_answer_is_held_until_it_has_ended_and_is_one_piece_then() {
    for era in [Era::Legacy, Era::Modern] {
        let (mut answer, feeder) = begin(post(era, CALL), 200, "application/json").await;
        for piece in RESULT.as_bytes().chunks(7) {
            assert!(answer.poll().is_pending());
            feeder.send(std::str::from_utf8(piece).unwrap());
        }
        assert!(
            answer.poll().is_pending(),
            "nobody has said that it is over"
        );
        drop(feeder);
        assert!(answer.is_woken());
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(RESULT.len() as u64));
        let only = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(only, RESULT);
        assert!(body.is_end_stream());
    }
}

#[tokio::test]
async fn rule_1_trailers_are_kept() {
    struct Trailed(Vec<Frame<Bytes>>);
    impl http_body::Body for Trailed {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }
    let service = tower::service_fn(|_: Request<Full<Bytes>>| async {
        let trailers = HeaderMap::from_iter([("x-sum", "1")].map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        }));
        let frames = vec![
            Frame::trailers(trailers),
            Frame::data(Bytes::from_static(b"}")),
            Frame::data(Bytes::from_static(b"{")),
        ];
        let mut response = Response::new(Trailed(frames));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(media::JSON));
        Ok::<_, BoxError>(response)
    });
    let mut service = CompleteLayer::new().layer(service);
    let collected = service.call(call()).await.unwrap().into_body().collect();
    let collected = collected.await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
    assert_eq!(collected.to_bytes(), "{}");
}

#[tokio::test]
async fn rule_2_an_answer_that_breaks_is_the_failure_of_its_body() {
    for before in ["", "{", RESULT] {
        let (mut answer, feeder) = begin(call(), 200, "application/json").await;
        assert!(answer.poll().is_pending());
        feeder.send(before);
        feeder.fail(Failure::new(Cause::ConnectionLost, Phase::Sent));
        let outcome = answer.await;
        assert_eq!(failure(outcome), (Cause::ConnectionLost, Phase::Sent));
    }
}

#[tokio::test]
async fn rule_3_what_ends_empty_or_in_the_midst_of_a_value_is_no_answer() {
    for part in [
        "",
        "{",
        r#"{"jsonrpc":"2.0","id":1,"result":{"a":"#,
        "\"x",
        "[1",
    ] {
        let (answer, feeder) = begin(call(), 200, "application/json").await;
        feeder.send(part);
        drop(feeder);
        assert_eq!(
            failure(answer.await),
            (Cause::BadResponse, Phase::Sent),
            "{part}"
        );
    }
    // What is no JSON is the server's, and passes.
    let (answer, feeder) = begin(call(), 200, "application/json").await;
    feeder.send("oops");
    drop(feeder);
    assert_eq!(text(answer.await.unwrap().into_body()).await, "oops");
}

#[tokio::test]
async fn rule_4_an_answer_of_more_bytes_passes_and_breaks_as_its_body_does() {
    let (mut answer, feeder) = begin(call(), 200, "application/json").await;
    let half = "x".repeat(MAX_HELD / 2);
    feeder.send(&half);
    feeder.send(&half);
    assert!(answer.poll().is_pending(), "so much is held");
    feeder.send("y");
    let mut body = answer.await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((first.len(), first.last()), (MAX_HELD + 1, Some(&b'y')));
    feeder.send("z");
    let next = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(next, "z");
    assert!(!body.is_end_stream());
    feeder.fail(Failure::new(Cause::ConnectionLost, Phase::Sent));
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(Failure::from_error(error).cause(), Cause::ConnectionLost);
}

#[tokio::test]
async fn rule_4_an_answer_that_says_that_it_is_longer_passes_at_once() {
    let body = Bytes::from(vec![b'x'; MAX_HELD + 1]);
    let service = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::new(body.clone()));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(media::JSON));
        std::future::ready(Ok::<_, BoxError>(response))
    });
    let mut service = CompleteLayer::new().layer(service);
    let body = service.call(call()).await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(MAX_HELD as u64 + 1));
}

#[tokio::test]
async fn rule_5_everything_else_passes_before_its_body() {
    let without = || {
        let mut request = call();
        request.extensions_mut().remove::<Call>();
        request
    };
    for (request, status, kind) in [
        (call(), 200, "text/event-stream"),
        (call(), 500, "application/json"),
        (post(Era::Legacy, NOTE), 200, "application/json"),
        (bodiless(Form::Stream), 200, "application/json"),
        (without(), 200, "application/json"),
    ] {
        let (answer, feeder) = begin(request, status, kind).await;
        let body = answer.await.unwrap().into_body();
        feeder.send("{");
        drop(feeder);
        assert_eq!(text(body).await, "{");
    }
}

#[tokio::test]
async fn rule_6_a_dropped_answer_drops_the_body() {
    let (mut answer, feeder) = begin(call(), 200, "application/json").await;
    assert!(answer.poll().is_pending());
    feeder.send("{");
    assert!(answer.poll().is_pending());
    assert!(!feeder.body_is_dropped());
    drop(answer);
    assert!(feeder.body_is_dropped());
}

#[tokio::test]
async fn errors_and_readiness_are_the_inner_services() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Request<Full<Bytes>>, Response<Fed>, _>(CompleteLayer::new());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let answer = tokio_test::task::spawn(service.call(call()));
    handle.next_request().await.unwrap().1.send_error("x");
    assert_eq!(answer.await.unwrap_err().to_string(), "x");
}
