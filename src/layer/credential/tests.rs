use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use tower_test::mock;

use super::*;
use crate::auth::{SecretCell, StaticCredential};
use crate::error::{Cause, Failure, Phase};
use crate::facts::{Caller, Facts};
use crate::secret::Secret;

type Req = Request<Full<Bytes>>;
type Res = Response<()>;
type Stack = mock::Spawn<InjectCredential<mock::Mock<Req, Res>, StaticCredential>>;

const ORIGIN: &str = "https://mcp.example.com";

fn stack(source: StaticCredential) -> (Stack, mock::Handle<Req, Res>) {
    mock::spawn_layer(InjectCredentialLayer::new(source).at(ORIGIN.into()))
}

fn bearer(text: &str) -> StaticCredential {
    StaticCredential::bearer(SecretCell::new(Secret::new(text)))
}

fn request() -> Req {
    Request::new(Full::new(Bytes::from_static(b"{}")))
}

fn status(status: StatusCode) -> Res {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

fn failure(result: Result<Res, BoxError>) -> Failure {
    let failure = Failure::from_error(result.unwrap_err());
    assert_eq!(failure.origin().map(|origin| &**origin), Some(ORIGIN));
    failure
}

/// Sends one call whose one try is answered with `answer`; gives what arrived and what came back.
async fn call(
    service: &mut Stack,
    handle: &mut mock::Handle<Req, Res>,
    request: Req,
    answer: StatusCode,
) -> (Req, Result<Res, BoxError>) {
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut response = tokio_test::task::spawn(service.call(request));
    assert!(response.poll().is_pending());
    let (arrived, send) = handle.next_request().await.unwrap();
    send.send_response(status(answer));
    (arrived, response.await)
}

/// Sends one call that is answered without the inner service.
async fn refused(
    service: &mut Stack,
    handle: &mut mock::Handle<Req, Res>,
    request: Req,
) -> Failure {
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    failure(service.call(request).await)
}

#[tokio::test]
async fn c83_an_inbound_token_is_replaced_and_without_a_call_too() {
    let (mut service, mut handle) = stack(bearer("ours"));
    let mut inbound = request();
    for value in ["Bearer theirs", "Bearer again"] {
        inbound
            .headers_mut()
            .append(header::AUTHORIZATION, HeaderValue::from_static(value));
    }
    let (arrived, response) = call(&mut service, &mut handle, inbound, StatusCode::OK).await;
    let sent: Vec<_> = arrived
        .headers()
        .get_all(header::AUTHORIZATION)
        .iter()
        .collect();
    assert_eq!(sent, ["Bearer ours"]);
    assert!(sent[0].is_sensitive());
    assert_eq!(response.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn rule_1_a_passthrough_without_a_token_strips_and_none_leaves_alone() {
    let mut inbound = request();
    inbound
        .headers_mut()
        .insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    let (mut service, mut handle) = stack(StaticCredential::passthrough(None));
    let (arrived, _) = call(&mut service, &mut handle, inbound.clone(), StatusCode::OK).await;
    assert!(!arrived.headers().contains_key(header::AUTHORIZATION));
    let (mut service, mut handle) = stack(StaticCredential::none());
    let (arrived, _) = call(&mut service, &mut handle, inbound, StatusCode::OK).await;
    assert!(arrived.headers().contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn rule_2_a_missing_credential_fails_unsent() {
    let (mut service, mut handle) = stack(bearer(""));
    let failure = refused(&mut service, &mut handle, request()).await;
    assert_eq!(
        (failure.cause(), failure.phase()),
        (Cause::CredentialMissing, Phase::Unsent)
    );
}

#[tokio::test]
async fn rule_3_a_401_reads_the_file_again_and_sends_the_call_again_once() {
    let path = std::env::temp_dir().join(format!("outrigger-credential-{}", std::process::id()));
    std::fs::write(&path, "old").unwrap();
    let cell = SecretCell::from_file(&path);
    cell.reread().unwrap();
    let (mut service, mut handle) = stack(StaticCredential::bearer(cell));
    handle.allow(2);
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(request()));
    let (first, send) = handle.next_request().await.unwrap();
    assert_eq!(first.headers()[header::AUTHORIZATION], "Bearer old");
    std::fs::write(&path, "new").unwrap();
    send.send_response(status(StatusCode::UNAUTHORIZED));
    let (second, send) = handle.next_request().await.unwrap();
    assert_eq!(second.headers()[header::AUTHORIZATION], "Bearer new");
    send.send_response(status(StatusCode::UNAUTHORIZED));
    let failed = failure(response.await.unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        (failed.cause(), failed.phase()),
        (Cause::Unauthorized, Phase::Answered)
    );

    let held = refused(&mut service, &mut handle, request()).await;
    assert_eq!(held.cause(), Cause::CredentialHeld);
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_refused_credential_is_held_back_until_its_source_changes() {
    let cell = SecretCell::new(Secret::new("bad"));
    let (mut service, mut handle) = stack(StaticCredential::bearer(cell.clone()));
    let (_, response) = call(
        &mut service,
        &mut handle,
        request(),
        StatusCode::UNAUTHORIZED,
    )
    .await;
    assert_eq!(failure(response).cause(), Cause::Unauthorized);

    let held = refused(&mut service, &mut handle, request()).await;
    assert_eq!(
        (held.cause(), held.phase()),
        (Cause::CredentialHeld, Phase::Unsent)
    );
    assert_eq!(held.retry_after(), Some(Duration::from_secs(10)));

    tokio::time::advance(Duration::from_secs(10)).await;
    let (_, response) = call(
        &mut service,
        &mut handle,
        request(),
        StatusCode::UNAUTHORIZED,
    )
    .await;
    assert_eq!(failure(response).cause(), Cause::Unauthorized);
    let held = refused(&mut service, &mut handle, request()).await;
    assert_eq!(held.retry_after(), Some(Duration::from_secs(20)));

    cell.set(Some(Secret::new("good")));
    let (arrived, response) = call(&mut service, &mut handle, request(), StatusCode::OK).await;
    assert_eq!(arrived.headers()[header::AUTHORIZATION], "Bearer good");
    assert!(response.is_ok());
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_callers_own_token_is_not_held_back_and_rule_5_keeps_its_status() {
    let (mut service, mut handle) = stack(StaticCredential::passthrough(None));
    for answer in [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::UNAUTHORIZED,
    ] {
        let mut inbound = request();
        let caller = Caller::anonymous().with_token(Secret::new("theirs"));
        Facts::of(&mut inbound).set_caller(caller);
        let (arrived, response) = call(&mut service, &mut handle, inbound, answer).await;
        assert_eq!(arrived.headers()[header::AUTHORIZATION], "Bearer theirs");
        let failure = failure(response);
        let shown: Response<Bytes> =
            crate::error::answer(&failure, &crate::error::Addressee::default());
        assert_eq!(shown.status(), answer);
    }
}

#[tokio::test]
async fn rule_5_a_403_says_that_the_credential_is_not_enough() {
    let (mut service, mut handle) = stack(bearer("ours"));
    for _ in 0..2 {
        let (_, response) = call(&mut service, &mut handle, request(), StatusCode::FORBIDDEN).await;
        let failure = failure(response);
        assert_eq!(
            (failure.cause(), failure.phase()),
            (Cause::Forbidden, Phase::Answered)
        );
        let shown: Response<Bytes> =
            crate::error::answer(&failure, &crate::error::Addressee::default());
        assert_eq!(shown.status(), StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test]
async fn other_answers_and_errors_pass() {
    let (mut service, mut handle) = stack(bearer("ours"));
    let (_, response) = call(&mut service, &mut handle, request(), StatusCode::NOT_FOUND).await;
    assert_eq!(response.unwrap().status(), StatusCode::NOT_FOUND);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(request()));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(response.await.unwrap().unwrap_err().to_string(), "broken");
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut service, mut handle) = stack(bearer("ours"));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
}

#[tokio::test]
async fn a_dropped_call_is_dropped_inside() {
    let running = Arc::new(());
    let inside = Arc::clone(&running);
    let inner = tower::service_fn(move |_: Req| {
        let inside = Arc::clone(&inside);
        async move {
            std::future::pending::<()>().await;
            drop(inside);
            Ok::<_, BoxError>(Response::new(()))
        }
    });
    let mut service = InjectCredentialLayer::new(bearer("ours")).layer(inner);
    let mut call = tokio_test::task::spawn(service.call(request()));
    assert!(call.poll().is_pending());
    let alive = Arc::strong_count(&running);
    drop(call);
    assert!(Arc::strong_count(&running) < alive);
}

#[test]
fn the_future_is_small() {
    let ours = size_of::<ResponseFuture<mock::Mock<Req, Res>, StaticCredential, Full<Bytes>>>();
    assert!(ours <= 512, "{ours}");
}
