use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err};
use tower_test::mock::{Handle, Mock, SendResponse};

use super::*;
use crate::mcp::message::{Message, Parsed};
use crate::mcp::revision::Revision;
use crate::transport::connector::{Connector, ConnectorParams, PlaintextPolicy};

type Upstream = Handle<Request<Full<Bytes>>, Response<Events>>;
type Stack = Dialect<Mock<Request<Full<Bytes>>, Response<Events>>>;

/// An answer's body that a test feeds.
struct Events(mpsc::UnboundedReceiver<Result<Bytes, BoxError>>);

impl Body for Events {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0
            .poll_recv(cx)
            .map(|item| item.map(|r| r.map(Frame::data)))
    }
}

fn events() -> (mpsc::UnboundedSender<Result<Bytes, BoxError>>, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Events(receiver))
}

fn stack() -> (Stack, Upstream) {
    let endpoint = Endpoint::new(
        "https://up.example:8443/a/mcp?k=v",
        PlaintextPolicy::LoopbackOnly,
    )
    .unwrap();
    let (mock, handle) = tower_test::mock::pair();
    (DialectLayer::new(endpoint).layer(mock), handle)
}

fn message(era: Era, text: &'static str) -> Request<Full<Bytes>> {
    let body = Bytes::from_static(text.as_bytes());
    let form = match Message::read(&body).unwrap() {
        Parsed::One(message) => Form::Message(message),
        Parsed::Batch(parts) => Form::Batch(parts),
    };
    with_call(form, era, body)
}

fn with_call(form: Form, era: Era, body: Bytes) -> Request<Full<Bytes>> {
    let revision = match era {
        Era::Modern => Revision::LATEST,
        Era::Legacy => Revision::LATEST_LEGACY,
    };
    let mut request = Request::post("http://sidecar/servers/x/mcp")
        .header("host", "sidecar")
        .header("mcp-session-id", "s1")
        .header("mcp-protocol-version", "as-it-came")
        .header("last-event-id", "7")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip, br")
        .header("content-type", "text/plain")
        .header("mcp-method", "stale")
        .header("mcp-name", "stale")
        .header("mcp-param-city", "=?base64?Zm9v?=")
        .header("authorization", "Bearer token")
        .header("x-tenant", "blue")
        .body(Full::new(body.clone()))
        .unwrap();
    request
        .extensions_mut()
        .insert(Call::new(form, era, Some(revision), body));
    request
}

/// What the upstream gets of `request`.
async fn sent(request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let (mut service, mut upstream) = stack();
    upstream.allow(1);
    assert_ready!(spawn(std::future::poll_fn(|cx| service.poll_ready(cx))).poll()).unwrap();
    let _answer = service.call(request);
    upstream.next_request().await.unwrap().0
}

fn header<'a>(request: &'a Request<Full<Bytes>>, name: &str) -> Option<&'a str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?.to_str().unwrap();
    assert!(values.next().is_none(), "{name} stands twice");
    Some(value)
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"echo"}}"#;

#[tokio::test]
async fn rule_1_without_a_call_only_the_address_changes() {
    let request = Request::put("http://sidecar/servers/x/mcp")
        .header("host", "sidecar")
        .header("accept-encoding", "gzip")
        .body(Full::new(Bytes::from_static(b"x")))
        .unwrap();
    let request = sent(request).await;
    assert_eq!(request.method(), Method::PUT);
    assert_eq!(request.uri(), "/a/mcp?k=v");
    assert_eq!(header(&request, "host"), Some("up.example:8443"));
    assert_eq!(header(&request, "accept-encoding"), Some("gzip"));
    assert_eq!(request.headers().len(), 2);
}

#[tokio::test]
async fn c15_a_post_has_every_header_that_the_specification_asks_for() {
    let request = sent(message(Era::Modern, CALL)).await;
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "/a/mcp?k=v");
    for (name, value) in [
        ("host", "up.example:8443"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
        ("authorization", "Bearer token"),
        ("x-tenant", "blue"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, CALL);
}

#[tokio::test]
async fn c11_unknown_param_headers_pass_unchanged() {
    let request = sent(message(Era::Modern, CALL)).await;
    assert_eq!(header(&request, "mcp-param-city"), Some("=?base64?Zm9v?="));
}

#[tokio::test]
async fn c18_the_mirrored_headers_match_the_body() {
    for (text, method, name) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"Gr\u00fc\u00dfe"}}"#,
            "tools/call",
            Some("=?base64?R3LDvMOfZQ==?="),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a"}}"#,
            "resources/read",
            Some("file:///a"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t"}}"#,
            "tasks/get",
            Some("t"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            "tools/list",
            None,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"name":"n"}}"#,
            "x/y",
            None,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
            "notifications/cancelled",
            None,
        ),
    ] {
        let request = sent(message(Era::Modern, text)).await;
        assert_eq!(header(&request, "mcp-method"), Some(method), "{text}");
        assert_eq!(header(&request, "mcp-name"), name, "{text}");
    }
}

#[tokio::test]
async fn c94_no_session_id_or_last_event_id_reaches_a_modern_upstream() {
    let request = sent(message(Era::Modern, CALL)).await;
    assert_eq!(header(&request, "mcp-session-id"), None);
    assert_eq!(header(&request, "last-event-id"), None);
}

#[tokio::test]
async fn rule_4_legacy_headers_pass_as_they_came() {
    let request = sent(message(Era::Legacy, CALL)).await;
    for (name, value) in [
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
        ("accept-encoding", "identity"),
        ("mcp-session-id", "s1"),
        ("mcp-protocol-version", "as-it-came"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    let mut without = message(Era::Legacy, CALL);
    without.headers_mut().remove("mcp-protocol-version");
    assert_eq!(header(&sent(without).await, "mcp-protocol-version"), None);
}

#[tokio::test]
async fn rule_2_a_get_accepts_events_and_a_delete_is_a_delete() {
    let get = sent(with_call(Form::Stream, Era::Legacy, Bytes::new())).await;
    assert_eq!(get.method(), Method::GET);
    assert_eq!(header(&get, "accept"), Some("text/event-stream"));
    assert_eq!(header(&get, "last-event-id"), Some("7"));
    let delete = sent(with_call(Form::End, Era::Legacy, Bytes::new())).await;
    assert_eq!(delete.method(), Method::DELETE);
    assert_eq!(header(&delete, "mcp-session-id"), Some("s1"));
}

/// A request on its way: its future, and how the upstream answers it.
async fn begin(
    service: &mut Stack,
    upstream: &mut Upstream,
    request: Request<Full<Bytes>>,
) -> (
    tokio_test::task::Spawn<<Stack as Service<Request<Full<Bytes>>>>::Future>,
    SendResponse<Response<Events>>,
) {
    upstream.allow(1);
    assert_ready!(spawn(std::future::poll_fn(|cx| service.poll_ready(cx))).poll()).unwrap();
    let mut answer = spawn(service.call(request));
    assert_pending!(answer.poll());
    let (_, respond) = upstream.next_request().await.unwrap();
    upstream.allow(1);
    (answer, respond)
}

/// The cancel that the upstream gets, if it gets one.
async fn cancel(upstream: &mut Upstream) -> Option<Request<Full<Bytes>>> {
    // Time is paused: it passes as soon as no task has anything left to do.
    let request = tokio::time::timeout(Duration::from_secs(1), upstream.next_request()).await;
    request.ok()?.map(|(request, _)| request)
}

#[tokio::test(start_paused = true)]
async fn rule_2_an_answer_in_an_encoding_fails() {
    for (encoding, is_refused) in [("gzip", true), ("br", true), ("identity", false)] {
        let (mut service, mut upstream) = stack();
        let (mut answer, respond) =
            begin(&mut service, &mut upstream, message(Era::Legacy, CALL)).await;
        let (_feed, body) = events();
        let response = Response::builder()
            .header("content-encoding", encoding)
            .body(body)
            .unwrap();
        respond.send_response(response);
        if is_refused {
            let failure = Failure::from_error(assert_ready_err!(answer.poll()));
            assert_eq!(
                (failure.cause(), failure.phase()),
                (Cause::BadResponse, Phase::Sent)
            );
            assert_eq!(
                failure.origin().map(|o| &**o),
                Some("https://up.example:8443")
            );
            assert!(cancel(&mut upstream).await.is_none());
        } else {
            assert!(assert_ready!(answer.poll()).is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c56_c59_a_dropped_legacy_future_is_cancelled_in_its_session() {
    let (mut service, mut upstream) = stack();
    let (answer, _respond) = begin(&mut service, &mut upstream, message(Era::Legacy, CALL)).await;
    drop(answer);
    let request = cancel(&mut upstream).await.unwrap();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "/a/mcp?k=v");
    for (name, value) in [
        ("host", Some("up.example:8443")),
        ("mcp-session-id", Some("s1")),
        ("mcp-protocol-version", Some("as-it-came")),
        ("authorization", Some("Bearer token")),
        ("x-tenant", Some("blue")),
        ("accept", Some("application/json, text/event-stream")),
        ("content-type", Some("application/json")),
        ("last-event-id", None),
        ("mcp-name", None),
    ] {
        assert_eq!(header(&request, name), value, "{name}");
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        body,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1.0}}"#
    );
    assert!(cancel(&mut upstream).await.is_none(), "once");
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_dropped_legacy_body_is_cancelled() {
    let (mut service, mut upstream) = stack();
    let (mut answer, respond) =
        begin(&mut service, &mut upstream, message(Era::Legacy, CALL)).await;
    let (feed, body) = events();
    respond.send_response(Response::new(body));
    let mut body = assert_ready!(answer.poll()).unwrap().into_body();
    feed.send(Ok(Bytes::from_static(b": ok\n\n"))).unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    assert!(cancel(&mut upstream).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn rule_5_what_has_ended_is_not_cancelled() {
    for case in ["end", "broken", "refused", "error"] {
        let (mut service, mut upstream) = stack();
        let (mut answer, respond) =
            begin(&mut service, &mut upstream, message(Era::Legacy, CALL)).await;
        let (feed, body) = events();
        let mut response = Response::new(body);
        if case == "refused" {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        if case == "error" {
            respond.send_error("lost");
        } else {
            respond.send_response(response);
        }
        match assert_ready!(answer.poll()) {
            Err(_) => assert_eq!(case, "error"),
            Ok(response) => {
                let mut body = response.into_body();
                match case {
                    "end" => {
                        drop(feed);
                        assert!(body.frame().await.is_none());
                    }
                    "broken" => {
                        feed.send(Err("lost".into())).unwrap();
                        assert!(body.frame().await.unwrap().is_err());
                    }
                    _ => (),
                }
            }
        }
        drop(answer);
        assert!(cancel(&mut upstream).await.is_none(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_the_last_byte_of_a_known_length_is_the_end() {
    let (service, mut upstream) = stack();
    upstream.allow(1);
    let request = message(Era::Legacy, CALL);
    let call = request.extensions().get::<Call>().unwrap();
    let guard = Guard::of(&service.canceller, call, request.headers(), None);
    assert!(guard.is_some());
    let mut body = ResponseBody::new(Full::new(Bytes::from_static(b"{}")), guard);
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    assert!(cancel(&mut upstream).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn c59_initialize_and_tasks_are_not_cancelled_so() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","task":{"ttl":1}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
    ] {
        let (mut service, mut upstream) = stack();
        let (answer, _respond) =
            begin(&mut service, &mut upstream, message(Era::Legacy, text)).await;
        drop(answer);
        assert!(cancel(&mut upstream).await.is_none(), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn c56_in_the_modern_era_nothing_is_posted() {
    let (mut service, mut upstream) = stack();
    let (answer, _respond) = begin(&mut service, &mut upstream, message(Era::Modern, CALL)).await;
    drop(answer);
    assert!(cancel(&mut upstream).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn rule_5_nothing_is_cancelled_outside_a_session_or_before_it_was_sent() {
    let (mut service, mut upstream) = stack();
    let mut sessionless = message(Era::Legacy, CALL);
    sessionless.headers_mut().remove("mcp-session-id");
    let (answer, _respond) = begin(&mut service, &mut upstream, sessionless).await;
    drop(answer);
    assert!(cancel(&mut upstream).await.is_none());
    for (sends, is_cancelled) in [(0, false), (1, true)] {
        let (mut service, mut upstream) = stack();
        let mut request = message(Era::Legacy, CALL);
        let facts = Facts::of(&mut request);
        facts.count_sent();
        let (answer, _respond) = begin(&mut service, &mut upstream, request).await;
        (0..sends).for_each(|_| facts.count_sent());
        drop(answer);
        assert_eq!(cancel(&mut upstream).await.is_some(), is_cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_cancels_end_in_5_s_and_are_64_at_once() {
    let (mut service, mut upstream) = stack();
    let mut answers = Vec::new();
    for _ in 0..70 {
        answers.push(begin(&mut service, &mut upstream, message(Era::Legacy, CALL)).await);
    }
    upstream.allow(1000);
    answers.clear();
    let mut unanswered = Vec::new();
    while let Ok(Some(request)) =
        tokio::time::timeout(Duration::from_secs(1), upstream.next_request()).await
    {
        unanswered.push(request);
    }
    assert_eq!(unanswered.len(), 64);
    // Virtual time: the limit of those that nobody answers passes.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (answer, _respond) = begin(&mut service, &mut upstream, message(Era::Legacy, CALL)).await;
    drop(answer);
    assert!(cancel(&mut upstream).await.is_some());
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut service, mut upstream) = stack();
    upstream.allow(0);
    let mut ready = spawn(std::future::poll_fn(|cx| service.poll_ready(cx)));
    assert_pending!(ready.poll());
    upstream.allow(1);
    assert!(assert_ready!(ready.poll()).is_ok());
}

/// Both layers over a real socket: what the upstream sees when a caller goes away.
#[tokio::test]
async fn c56_a_drop_is_a_close_and_in_the_legacy_era_a_cancel_too() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    for (era, answers) in [(Era::Legacy, 1), (Era::Modern, 0)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let endpoint = Endpoint::new(&url, PlaintextPolicy::LoopbackOnly).unwrap();
        let connector = Connector::new(endpoint.clone(), ConnectorParams::default()).unwrap();
        let mut service = DialectLayer::new(endpoint).layer(connector.clone());
        let mut request = message(era, CALL);
        Facts::of(&mut request);
        let answer = tokio::spawn(service.call(request));
        let (mut first, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(CALL.as_bytes()) {
            first.read_buf(&mut seen).await.unwrap();
        }
        answer.abort();
        assert_eq!(first.read(&mut [0; 16]).await.unwrap(), 0, "closed");
        for _ in 0..answers {
            let (mut second, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(br#""params":{"requestId":1.0}}"#) {
                second.read_buf(&mut seen).await.unwrap();
            }
            let text = String::from_utf8(seen).unwrap();
            assert!(text.contains("mcp-session-id: s1\r\n"), "{text}");
            second
                .write_all(b"HTTP/1.1 202 x\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            // It is one more connection that calls may use.
            while connector.stats().idle == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(connector.stats().in_use, 0);
    }
}
