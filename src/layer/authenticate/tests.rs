use http::HeaderName;
use http_body_util::Full;
use tower_test::mock;

use super::*;
use crate::auth::SecretCell;
use crate::secret::Secret;

type Res = Response<Full<Bytes>>;
type Handle = mock::Handle<Request<()>, Res>;

/// What came of one request: what arrived inside, or the challenge.
async fn ask<A: Authenticator>(
    authenticator: A,
    headers: &[(&'static str, &'static str)],
) -> Result<Request<()>, String> {
    let (mut service, mut handle): (_, Handle) =
        mock::spawn_layer(AuthenticateLayer::new(authenticator));
    let mut request = Request::new(());
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut response = tokio_test::task::spawn(service.call(request));
    let Poll::Ready(response) = response.poll() else {
        return Ok(handle.next_request().await.unwrap().0);
    };
    let response = response.unwrap();
    assert_eq!(response.status(), 401);
    Err(response.headers()[WWW_AUTHENTICATE]
        .to_str()
        .unwrap()
        .to_owned())
}

fn caller(request: &Request<()>) -> Caller {
    Facts::get(request).unwrap().caller().unwrap().clone()
}

fn principal(request: &Request<()>) -> Option<String> {
    caller(request).principal().map(ToString::to_string)
}

fn token(request: &Request<()>) -> Option<String> {
    caller(request)
        .token()
        .map(|token| token.expose_secret().to_owned())
}

fn cell(text: &str) -> SecretCell {
    SecretCell::new(Secret::new(text))
}

fn keys() -> ApiKeys {
    ApiKeys::new()
        .with("agents", cell("k1"))
        .with("ops", cell("k2"))
        .with_header("ci", cell("k3"), HeaderName::from_static("x-ci"))
}

#[tokio::test]
async fn c92_each_request_is_asked_whatever_session_it_names() {
    let (mut service, mut handle): (_, Handle) = mock::spawn_layer(AuthenticateLayer::new(keys()));
    for (key, status) in [(Some("k1"), None), (None, Some(401)), (Some("k1"), None)] {
        let mut request = Request::builder().header("mcp-session-id", "s");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        handle.allow(1);
        assert!(service.poll_ready().is_ready());
        let mut response = tokio_test::task::spawn(service.call(request.body(()).unwrap()));
        match response.poll() {
            Poll::Ready(response) => assert_eq!(Some(response.unwrap().status().as_u16()), status),
            Poll::Pending => {
                handle.next_request().await.unwrap();
                assert_eq!(status, None);
            }
        }
    }
}

#[tokio::test]
async fn rule_2_the_challenge_says_whether_anything_was_shown() {
    let missing = Err("Bearer realm=\"outrigger\"".to_owned());
    let invalid = Err("Bearer realm=\"outrigger\", error=\"invalid_token\"".to_owned());
    let asked = |headers| async move { ask(keys(), headers).await.map(|_| ()) };
    assert_eq!(asked(&[]).await, missing);
    assert_eq!(asked(&[("x-api-key", "nope")]).await, invalid);
    assert_eq!(asked(&[("x-ci", "k1")]).await, invalid);
    assert_eq!(asked(&[("x-api-key", "k3")]).await, invalid);
    assert_eq!(
        asked(&[("x-api-key", "k1"), ("x-api-key", "k1")]).await,
        invalid
    );
    assert_eq!(asked(&[("authorization", "Bearer nope")]).await, invalid);
    assert_eq!(asked(&[("authorization", "Basic k1")]).await, missing);
}

#[tokio::test]
async fn rule_3_the_principal_is_the_keys_name_and_another_token_is_kept() {
    let request = ask(
        keys(),
        &[("x-api-key", "k2"), ("authorization", "Bearer user")],
    )
    .await
    .unwrap();
    assert_eq!(principal(&request).as_deref(), Some("ops"));
    assert_eq!(token(&request).as_deref(), Some("user"));
    let request = ask(keys(), &[("authorization", "bearer k1")])
        .await
        .unwrap();
    assert_eq!(principal(&request).as_deref(), Some("agents"));
    assert_eq!(token(&request), None);
}

#[tokio::test]
async fn rule_4_what_was_shown_is_taken_off() {
    let shown = [
        ("x-api-key", "k1"),
        ("x-ci", "x"),
        ("authorization", "Bearer user"),
        ("accept", "a"),
    ];
    let request = ask(keys(), &shown).await.unwrap();
    let left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["accept"]);
}

#[tokio::test]
async fn s0_09_anyone_may_call_and_the_token_is_kept() {
    let request = ask(Anyone, &[("authorization", "Bearer user")])
        .await
        .unwrap();
    assert_eq!(
        (principal(&request), token(&request).as_deref()),
        (None, Some("user"))
    );
    assert!(request.headers().is_empty());
    let request = ask(Anyone, &[("authorization", "Basic dTpw")])
        .await
        .unwrap();
    assert_eq!(token(&request), None);
    assert!(request.headers().is_empty());
}

#[tokio::test]
async fn s1_20_rule_5_a_rotated_key_counts_at_once_and_an_empty_one_never() {
    let value = cell("old");
    let keys = ApiKeys::new().with("agents", value.clone());
    assert!(ask(keys.clone(), &[("x-api-key", "old")]).await.is_ok());
    value.set(Some(Secret::new("new")));
    assert!(ask(keys.clone(), &[("x-api-key", "old")]).await.is_err());
    assert!(ask(keys.clone(), &[("x-api-key", "new")]).await.is_ok());
    value.set(None);
    assert!(ask(keys, &[("x-api-key", "")]).await.is_err());
}

#[tokio::test]
async fn readiness_and_errors_are_the_inner_services() {
    let (mut service, mut handle): (_, Handle) = mock::spawn_layer(AuthenticateLayer::new(Anyone));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(Request::new(()));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(response.await.unwrap_err().to_string(), "broken");
}
