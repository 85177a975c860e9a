use http::HeaderValue;
use tower_test::mock;

use super::*;
use crate::auth::SecretCell;
use crate::call::Form;
use crate::secret::Secret;

type Stack = mock::Spawn<FilterHeaders<mock::Mock<Request<()>, Response<()>>>>;
type Handle = mock::Handle<Request<()>, Response<()>>;

fn stack(params: Params) -> (Stack, Handle) {
    mock::spawn_layer(FilterHeadersLayer::new(params))
}

fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    request
}

/// What arrives of `request`, and what comes back when the upstream answers with `answer`.
async fn through(
    params: Params,
    request: Request<()>,
    answer: &[(&'static str, &'static str)],
) -> (Vec<String>, Vec<String>) {
    let (mut service, mut handle) = stack(params);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(request);
    let (arrived, send) = handle.next_request().await.unwrap();
    let mut response_sent = Response::new(());
    for (name, value) in answer {
        response_sent
            .headers_mut()
            .append(*name, HeaderValue::from_static(value));
    }
    send.send_response(response_sent);
    (
        lines(arrived.headers()),
        lines(response.await.unwrap().headers()),
    )
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines
}

fn modern(mut request: Request<()>) -> Request<()> {
    request.extensions_mut().insert(Call::new(
        Form::Stream,
        Era::Modern,
        None,
        bytes::Bytes::new(),
    ));
    request
}

#[tokio::test]
async fn rule_1_only_the_protocol_crosses_and_without_a_call_too() {
    let (arrived, _) = through(
        Params::default(),
        request(&[
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("mcp-session-id", "s"),
            ("mcp-protocol-version", "2025-11-25"),
            ("last-event-id", "4"),
            ("user-agent", "x"),
            ("x-secret", "x"),
            ("cookie", "a=b"),
            ("authorization", "Bearer inbound"),
            ("host", "sidecar"),
            ("origin", "http://x"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("content-length", "2"),
            ("accept-encoding", "gzip"),
        ]),
        &[],
    )
    .await;
    assert_eq!(
        arrived,
        [
            "accept-encoding: identity",
            "accept: application/json",
            "content-type: application/json",
            "last-event-id: 4",
            "mcp-protocol-version: 2025-11-25",
            "mcp-session-id: s",
        ]
    );
}

#[tokio::test]
async fn c11_unrecognised_mcp_param_headers_cross_unchanged() {
    let (arrived, _) = through(
        Params::default(),
        modern(request(&[
            ("mcp-param-region", "=?base64?Zm9v?="),
            ("mcp-param-region", "eu"),
        ])),
        &[],
    )
    .await;
    assert_eq!(
        arrived,
        [
            "accept-encoding: identity",
            "mcp-param-region: =?base64?Zm9v?=",
            "mcp-param-region: eu"
        ]
    );
}

#[tokio::test]
async fn s0_11_listed_headers_are_forwarded_whatever_their_case() {
    let params = Params::default()
        .forward("X-Request-ID")
        .unwrap()
        .forward("User-Agent")
        .unwrap();
    let (arrived, _) = through(
        params,
        request(&[("x-request-id", "7"), ("user-agent", "a"), ("x-other", "b")]),
        &[],
    )
    .await;
    assert_eq!(
        arrived,
        [
            "accept-encoding: identity",
            "user-agent: a",
            "x-request-id: 7"
        ]
    );
}

#[test]
fn rule_2_credentials_and_the_connection_never_cross() {
    for name in [
        "authorization",
        "Cookie",
        "*",
        "",
        "a b",
        "Host",
        "Connection",
        "Origin",
        "X-Forwarded-For",
        "Content-Length",
        "Accept-Encoding",
        "Transfer-Encoding",
    ] {
        assert!(Params::default().forward(name).is_err(), "{name}");
        assert!(Params::default().rename(name, "x-a").is_err(), "{name}");
    }
    for name in ["Mcp-Session-Id", "Host", "content-type", "connection"] {
        assert!(Params::default().fixed(name, "x").is_err(), "{name}");
        assert!(Params::default().rename("x-a", name).is_err(), "{name}");
    }
}

#[tokio::test]
async fn rule_2_what_connection_names_goes_with_it() {
    let params = Params::default().forward("x-hop").unwrap();
    let (arrived, answered) = through(
        params,
        request(&[
            ("connection", "close, X-Hop, Accept"),
            ("x-hop", "1"),
            ("accept", "a"),
        ]),
        &[
            ("connection", "x-hop-back"),
            ("x-hop-back", "1"),
            ("x-kept", "1"),
        ],
    )
    .await;
    assert_eq!(arrived, ["accept-encoding: identity", "accept: a"]);
    assert_eq!(answered, ["x-kept: 1"]);
}

#[tokio::test]
async fn c94_a_modern_request_takes_no_session_and_no_authorization_with_it() {
    let (arrived, _) = through(
        Params::default(),
        modern(request(&[
            ("mcp-session-id", "s"),
            ("last-event-id", "1"),
            ("authorization", "Bearer x"),
            ("mcp-method", "ping"),
        ])),
        &[],
    )
    .await;
    assert_eq!(arrived, ["accept-encoding: identity", "mcp-method: ping"]);
}

#[tokio::test]
async fn s0_10_fixed_headers_are_set_in_place_of_inbound_ones() {
    let params = Params::default()
        .forward("x-tenant")
        .unwrap()
        .rename("x-user", "x-remote-user")
        .unwrap()
        .fixed("X-Tenant", "mine")
        .unwrap();
    let (arrived, _) = through(
        params,
        request(&[("x-tenant", "yours"), ("x-user", "ann")]),
        &[],
    )
    .await;
    assert_eq!(
        arrived,
        [
            "accept-encoding: identity",
            "x-remote-user: ann",
            "x-tenant: mine"
        ]
    );
}

#[tokio::test]
async fn rule_5_the_answer_loses_the_connections_headers_only() {
    let (_, answered) = through(
        Params::default(),
        request(&[]),
        &[
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("server", "x"),
            ("alt-svc", "h3"),
            ("access-control-allow-origin", "*"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "x"),
            ("proxy-authenticate", "x"),
            ("www-authenticate", "Bearer realm=\"what was sent\""),
            ("authentication-info", "x"),
            ("proxy-authentication-info", "x"),
            ("access-control-max-age", "1"),
            ("content-encoding", "gzip"),
            ("content-type", "application/json"),
            ("mcp-session-id", "s"),
            ("x-any", "1"),
        ],
    )
    .await;
    assert_eq!(
        answered,
        [
            "content-encoding: gzip",
            "content-type: application/json",
            "mcp-session-id: s",
            "x-any: 1"
        ]
    );
}

#[tokio::test]
async fn rule_6_a_secret_is_sensitive_and_its_absence_fails_unsent() {
    let cell = SecretCell::new(Secret::new("hunter2"));
    let params = Params::default().secret("x-api-key", cell.clone()).unwrap();
    assert!(!format!("{params:?}").contains("hunter2"));
    let (mut service, mut handle) = stack(params);
    handle.allow(2);
    assert!(service.poll_ready().is_ready());
    let _pending = service.call(request(&[]));
    let (arrived, _send) = handle.next_request().await.unwrap();
    assert!(arrived.headers()["x-api-key"].is_sensitive());

    cell.set(None);
    assert!(service.poll_ready().is_ready());
    let error = service.call(request(&[])).await.unwrap_err();
    let failure = Failure::of(&error).unwrap();
    assert_eq!(failure.cause(), Cause::CredentialMissing);
    assert_eq!(failure.phase(), crate::error::Phase::Unsent);
}

#[tokio::test]
async fn readiness_and_errors_are_the_inner_services() {
    let (mut service, mut handle) = stack(Params::default());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(request(&[]));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(response.await.unwrap_err().to_string(), "broken");
}
