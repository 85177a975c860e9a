use std::time::Duration;

use http::{HeaderValue, Method};
use http_body_util::Full;
use tower_test::mock;

use super::*;

type Res = Response<Full<Bytes>>;
type Stack = mock::Spawn<Guard<mock::Mock<Request<()>, Res>>>;

fn stack(params: Params) -> (Stack, mock::Handle<Request<()>, Res>) {
    mock::spawn_layer(GuardLayer::new(params))
}

fn others() -> Params {
    Params {
        reach: Reach::Others,
        ..Params::default()
    }
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

fn from(peer: &str, mut request: Request<()>) -> Request<()> {
    let address = SocketAddr::new(peer.parse().unwrap(), 1234);
    request.extensions_mut().insert(PeerAddr(address));
    request
}

/// What the guard says: nothing if it let the request in, else its cause and status.
async fn judged(
    stack: &mut (Stack, mock::Handle<Request<()>, Res>),
    mut request: Request<()>,
) -> Option<(Cause, u16)> {
    let (service, handle) = stack;
    let facts = Facts::of(&mut request);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut response = tokio_test::task::spawn(service.call(request));
    let Poll::Ready(response) = response.poll() else {
        handle.next_request().await.unwrap();
        return None;
    };
    let response = response.unwrap();
    let cause = *response.extensions().get::<Cause>().unwrap();
    assert_eq!(facts.cause(), Some(cause));
    Some((cause, response.status().as_u16()))
}

async fn judge(params: Params, request: Request<()>) -> Option<(Cause, u16)> {
    judged(&mut stack(params), request).await
}

#[tokio::test]
async fn s1_21_rule_1_only_allowed_addresses_get_in() {
    let params = || Params {
        allow_from: vec!["10.0.0.0/8".parse().unwrap()],
        ..others()
    };
    let refused = Some((Cause::AddressRefused, 403));
    assert_eq!(judge(params(), from("10.1.1.1", request(&[]))).await, None);
    assert_eq!(
        judge(
            params(),
            from("192.168.0.1", request(&[("x-forwarded-for", "10.0.0.1")]))
        )
        .await,
        refused
    );
    assert_eq!(judge(params(), request(&[])).await, refused);
}

#[tokio::test(start_paused = true)]
async fn rule_2_an_address_has_its_rate() {
    let mut stack = stack(Params {
        rate: Rate::new(1, Duration::from_secs(2)),
        ..others()
    });
    assert_eq!(
        judged(&mut stack, from("10.0.0.1", request(&[]))).await,
        None
    );
    let (service, handle) = &mut stack;
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(from("10.0.0.1", request(&[]))).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    assert_eq!(
        judged(&mut stack, from("10.0.0.2", request(&[]))).await,
        None
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(
        judged(&mut stack, from("10.0.0.1", request(&[]))).await,
        None
    );
}

#[tokio::test]
async fn c81_a_foreign_host_is_refused_on_a_loopback_listener() {
    let refused = Some((Cause::HostRefused, 403));
    for host in ["127.0.0.1:8000", "localhost", "[::1]:8000"] {
        assert_eq!(
            judge(Params::default(), request(&[("host", host)])).await,
            None,
            "{host}"
        );
    }
    assert_eq!(
        judge(Params::default(), request(&[("host", "evil.example.com")])).await,
        refused
    );
    assert_eq!(judge(Params::default(), request(&[])).await, refused);
    assert_eq!(
        judge(
            Params::default(),
            request(&[("host", "localhost"), ("host", "evil.example.com")])
        )
        .await,
        refused
    );
    let mut absolute = request(&[("host", "localhost")]);
    *absolute.uri_mut() = "http://evil.example.com/mcp".parse().unwrap();
    assert_eq!(judge(Params::default(), absolute).await, refused);
}

#[tokio::test]
async fn rule_3_other_hosts_can_be_allowed() {
    let with = |reach, hosts: &[&str]| Params {
        reach,
        allowed_hosts: Names::of(hosts),
        ..Params::default()
    };
    let named = || request(&[("host", "bridge.example.com")]);
    assert_eq!(
        judge(with(Reach::Loopback, &["bridge.example.com"]), named()).await,
        None
    );
    assert_eq!(judge(with(Reach::Loopback, &["*"]), named()).await, None);
    assert_eq!(judge(with(Reach::Others, &[]), named()).await, None);
    let refused = Some((Cause::HostRefused, 403));
    assert_eq!(
        judge(with(Reach::Others, &["other.example.com"]), named()).await,
        refused
    );
}

#[tokio::test]
async fn c81_an_invalid_origin_is_403_with_every_method() {
    for method in [
        Method::POST,
        Method::GET,
        Method::DELETE,
        Method::OPTIONS,
        Method::PUT,
    ] {
        for origin in [
            "https://evil.example.com",
            "null",
            "http://localhost.evil.com",
        ] {
            let mut bad = request(&[("host", "localhost")]);
            *bad.method_mut() = method.clone();
            bad.headers_mut()
                .insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(
                judge(Params::default(), bad).await,
                Some((Cause::OriginRefused, 403))
            );
        }
    }
}

#[tokio::test]
async fn rule_4_origins_of_this_machine_and_listed_ones_are_allowed() {
    let local = || request(&[("host", "localhost"), ("origin", "http://localhost:3000")]);
    assert_eq!(judge(Params::default(), local()).await, None);
    assert_eq!(
        judge(others(), local()).await,
        Some((Cause::OriginRefused, 403))
    );
    let listed = || Params {
        allowed_origins: Names::of(["https://ops.example.com"]),
        ..others()
    };
    assert_eq!(
        judge(listed(), request(&[("origin", "https://ops.example.com")])).await,
        None
    );
    let two = request(&[
        ("origin", "https://ops.example.com"),
        ("origin", "https://evil.example.com"),
    ]);
    assert_eq!(
        judge(listed(), two).await,
        Some((Cause::OriginRefused, 403))
    );
}

#[tokio::test]
async fn rule_5_a_body_that_says_it_is_too_large_is_413() {
    let params = || Params {
        max_body: 100,
        ..others()
    };
    assert_eq!(
        judge(params(), request(&[("content-length", "100")])).await,
        None
    );
    assert_eq!(
        judge(params(), request(&[("content-length", "101")])).await,
        Some((Cause::BodyTooLarge, 413))
    );
}

#[tokio::test]
async fn readiness_and_errors_are_the_inner_services() {
    let (mut service, mut handle) = stack(others());
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(request(&[]));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(response.await.unwrap_err().to_string(), "broken");
}
