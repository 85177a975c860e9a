//! The contract's rules, in their order.

use std::convert::Infallible;

use http::{Method as Verb, StatusCode, header};
use http_body_util::BodyExt;
use prometheus::{Encoder, Registry, TextEncoder};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::body::Body;
use crate::error::{Cause, Failure};
use crate::mcp::method::Method;

struct Counted {
    registry: Registry,
    families: Arc<ServerFamilies>,
}

impl Counted {
    fn new() -> Self {
        let registry = Registry::new();
        let families = Families::register(&registry).unwrap().server("wiki".into());
        Self { registry, families }
    }

    fn text(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    #[track_caller]
    fn has(&self, line: &str) {
        let text = self.text();
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }

    /// One `tools/call` of `echo`, answered so.
    async fn call(
        &self,
        status: StatusCode,
        kind: &'static str,
        body: Body,
    ) -> Result<Bytes, BoxError> {
        let body = std::sync::Mutex::new(Some(body));
        let inner = service_fn(|request: Request<()>| {
            let facts = Facts::get(&request).unwrap();
            facts.set_method(Some(Method::ToolsCall));
            facts.set_tool("echo");
            let body = body.lock().unwrap().take().unwrap();
            let response = Response::builder()
                .status(status)
                .header(header::CONTENT_TYPE, kind)
                .body(body);
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let service = MetricsLayer::new(self.families.clone()).layer(inner);
        let response = service
            .oneshot(Request::post("/").body(()).unwrap())
            .await
            .unwrap();
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

fn body(text: &'static str) -> Body {
    Body::from(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn rule_1_it_creates_the_facts_and_what_is_written_there_is_counted() {
    let counted = Counted::new();
    let inner = service_fn(async |request: Request<()>| {
        let facts = Facts::get(&request).unwrap();
        assert_eq!(facts.server().map(|name| &**name), Some("wiki"));
        facts.set_method(Some(Method::ToolsList));
        facts.set_cause(Cause::Dns);
        Ok::<_, Infallible>(Response::new(body("x")))
    });
    let service = MetricsLayer::new(counted.families.clone()).layer(inner);
    let request = Request::post("/").body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    counted.has(r#"outrigger_errors_total{error_type="dns",method="tools/list",server="wiki"} 1"#);
}

#[tokio::test]
async fn rule_2_a_call_counts_once_at_the_end_of_its_body() {
    let counted = Counted::new();
    counted
        .call(
            StatusCode::OK,
            "application/json",
            body(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        )
        .await
        .unwrap();
    counted.has(
        r#"outrigger_requests_total{method="tools/call",outcome="ok",server="wiki",tool="echo"} 1"#,
    );
    counted.has(r#"outrigger_in_flight_requests{server="wiki"} 0"#);
    counted.has(r#"outrigger_request_duration_seconds_count{method="tools/call",outcome="ok",server="wiki"} 1"#);
}

#[tokio::test]
async fn rule_2_a_dropped_call_is_cancelled_whether_answered_or_not() {
    let counted = Counted::new();
    let never =
        service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let call = MetricsLayer::new(counted.families.clone())
        .layer(never)
        .call(Request::post("/").body(()).unwrap());
    counted.has(r#"outrigger_in_flight_requests{server="wiki"} 1"#);
    drop(call);
    let answered =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(body("{}"))));
    let service = MetricsLayer::new(counted.families.clone()).layer(answered);
    drop(
        service
            .oneshot(Request::post("/").body(()).unwrap())
            .await
            .unwrap(),
    );
    counted.has(
        r#"outrigger_requests_total{method="_other",outcome="cancelled",server="wiki",tool=""} 2"#,
    );
    counted.has(r#"outrigger_in_flight_requests{server="wiki"} 0"#);
}

#[tokio::test]
async fn rule_2_a_get_is_a_stream_and_no_load() {
    let counted = Counted::new();
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(body("x"))));
    let service = MetricsLayer::new(counted.families.clone()).layer(inner);
    let request = Request::builder().method(Verb::GET).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    counted.has(r#"outrigger_streams{server="wiki"} 1"#);
    counted.has(r#"outrigger_in_flight_requests{server="wiki"} 0"#);
    drop(response);
    counted.has(r#"outrigger_streams{server="wiki"} 0"#);
    counted.has(r#"outrigger_stream_closed_total{reason="caller",server="wiki"} 1"#);
}

#[tokio::test]
async fn rule_3_the_outcome_is_read_off_the_answer() {
    let counted = Counted::new();
    let events = "event: message\ndata: {\"method\":\"notifications/progress\"}\n\ndata: {\"result\":{\"isError\":true}}\n\n";
    counted
        .call(StatusCode::OK, "text/event-stream", body(events))
        .await
        .unwrap();
    counted
        .call(
            StatusCode::OK,
            "application/json",
            body(r#"{"error":{"code":1}}"#),
        )
        .await
        .unwrap();
    counted
        .call(StatusCode::BAD_GATEWAY, "text/html", body("<p>"))
        .await
        .unwrap();
    let text = counted.text();
    for outcome in ["tool_error", "rpc_error", "unavailable"] {
        let line = format!(
            r#"outrigger_requests_total{{method="tools/call",outcome="{outcome}",server="wiki",tool="_other"}} 1"#
        );
        assert!(text.contains(&line), "{text}");
    }
    counted.has(r#"outrigger_stream_events_total{direction="down",server="wiki"} 2"#);
}

#[tokio::test]
async fn rule_3_a_body_that_breaks_off_has_its_cause() {
    let counted = Counted::new();
    let broken = http_body_util::StreamBody::new(Broken(false));
    let failed = counted
        .call(StatusCode::OK, "text/event-stream", Body::new(broken))
        .await;
    assert!(failed.is_err());
    counted.has(
        r#"outrigger_errors_total{error_type="stream_idle",method="tools/call",server="wiki"} 1"#,
    );
}

struct Broken(bool);

impl futures_core::Stream for Broken {
    type Item = Result<http_body::Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(Failure::new(
            Cause::StreamIdle,
            crate::error::Phase::Answered,
        )
        .into())))
    }
}

#[tokio::test]
async fn rule_4_a_tool_has_a_label_once_a_call_has_succeeded() {
    let counted = Counted::new();
    for tool in 0..MAX_TOOLS + 5 {
        counted.families.count(
            families::Label::Known(Method::ToolsCall),
            Some(&tool.to_string()),
            true,
            Outcome::Ok,
            0.0,
        );
    }
    counted.families.count(
        families::Label::Known(Method::ToolsCall),
        Some("x"),
        false,
        Outcome::RpcError,
        0.0,
    );
    assert_eq!(counted.families.tools().len(), MAX_TOOLS);
    counted.has(r#"outrigger_requests_total{method="tools/call",outcome="ok",server="wiki",tool="_other"} 5"#);
    counted.has(r#"outrigger_requests_total{method="tools/call",outcome="rpc_error",server="wiki",tool="_other"} 1"#);
}

#[tokio::test]
async fn rule_4_an_answer_that_is_not_looked_at_gives_no_tool_a_label() {
    let counted = Counted::new();
    let large = "x".repeat(100_000);
    let json = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":1,"message":"{large}"}}}}"#);
    let events = format!("data: {json}\n\n");
    let progress = "data: {\"method\":\"notifications/progress\"}\n\n";
    for (kind, text) in [
        ("application/json", json),
        ("application/json", String::new()),
        ("text/event-stream", events),
        ("text/event-stream", progress.to_owned()),
        ("text/html", "<p>".to_owned()),
    ] {
        let answer = Body::from(Bytes::from(text));
        counted.call(StatusCode::OK, kind, answer).await.unwrap();
    }
    assert_eq!(counted.families.tools(), [""; 0]);
    let events = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
    counted
        .call(StatusCode::OK, "text/event-stream", body(events))
        .await
        .unwrap();
    assert_eq!(counted.families.tools(), ["echo"]);
}

#[tokio::test]
async fn rule_4_a_call_of_a_tool_without_a_name_is_of_another() {
    let counted = Counted::new();
    let label = families::Label::Known(Method::ToolsCall);
    counted.families.count(label, None, true, Outcome::Ok, 0.0);
    counted.has(r#"outrigger_requests_total{method="tools/call",outcome="ok",server="wiki",tool="_other"} 1"#);
}

#[tokio::test]
async fn rule_7_each_try_is_timed_and_a_stream_is_not() {
    let counted = Counted::new();
    let inner = service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(Body::empty())));
    let service = counted.families.time_attempts(1).layer(inner);
    service
        .clone()
        .oneshot(Request::post("/").body(()).unwrap())
        .await
        .unwrap();
    let mut stream = Request::get("/").body(()).unwrap();
    let form = crate::call::Form::Stream;
    let call = crate::call::Call::new(form, crate::mcp::revision::Era::Legacy, None, Bytes::new());
    stream.extensions_mut().insert(call);
    service.oneshot(stream).await.unwrap();
    counted.has(r#"outrigger_attempt_duration_seconds_count{endpoint="1",server="wiki"} 1"#);
}

/// Families that count by OpenTelemetry's conventions too.
fn by_conventions() -> Counted {
    let registry = Registry::new();
    let semconv = Semconv::register(&registry).unwrap();
    let families = Families::register(&registry).unwrap();
    let families = families.with_semconv(semconv).server("wiki".into());
    Counted { registry, families }
}

/// A POST of that message, with what `inspect` leaves in it.
fn operation(message: &'static str) -> Request<()> {
    let body = Bytes::from_static(message.as_bytes());
    let Ok(crate::mcp::message::Parsed::One(message)) = crate::mcp::message::Message::read(&body)
    else {
        panic!("one message");
    };
    let form = crate::call::Form::Message(message);
    let revision = crate::mcp::revision::Revision::V2025_11_25;
    let call = crate::call::Call::new(form, revision.era(), Some(revision), body);
    let mut request = Request::post("/")
        .header("mcp-protocol-version", revision.as_str())
        .body(())
        .unwrap();
    let facts = Facts::of(&mut request);
    facts.set_method(call.method());
    request.extensions_mut().insert(call);
    request
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

#[tokio::test]
async fn rule_9_an_operation_is_timed_by_the_conventions_to_its_end() {
    let counted = by_conventions();
    let answer = std::sync::Mutex::new(Vec::from([
        (
            StatusCode::OK,
            body(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        ),
        (
            StatusCode::OK,
            body(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602}}"#),
        ),
        (StatusCode::BAD_GATEWAY, body("down")),
    ]));
    let inner = service_fn(|_: Request<()>| {
        let (status, body) = answer.lock().unwrap().remove(0);
        let response = Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        async move { Ok::<_, BoxError>(response.unwrap()) }
    });
    let timed = counted.families.time_attempts(0).at("up.example", 443);
    let service = timed.layer(inner);
    for end in ["", "-32602"] {
        let response = service.clone().oneshot(operation(LIST)).await.unwrap();
        response.into_body().collect().await.unwrap();
        let line = format!(
            r#"mcp_client_operation_duration_seconds_count{{error_type="{end}",gen_ai_operation_name="",gen_ai_tool_name="",mcp_method_name="tools/list",mcp_protocol_version="2025-11-25",network_protocol_name="http",network_protocol_version="1.1",network_transport="tcp",rpc_response_status_code="{end}",server="wiki",server_address="up.example",server_port="443"}} 1"#
        );
        counted.has(&line);
    }
    // Whoever drops an answer that is no success has seen enough of it.
    drop(service.oneshot(operation(LIST)).await.unwrap());
    assert!(counted.text().contains(r#"error_type="502""#));
}

#[tokio::test]
async fn rule_9_a_try_that_fails_has_its_cause_and_one_that_is_given_up_is_cancelled() {
    let counted = by_conventions();
    let timed = counted.families.time_attempts(0);
    let fails = service_fn(async |_: Request<()>| {
        Err::<Response<Body>, BoxError>(Failure::unsent(Cause::Dns).into())
    });
    timed
        .layer(fails)
        .oneshot(operation(LIST))
        .await
        .unwrap_err();
    assert!(counted.text().contains(r#"error_type="dns""#));
    let never =
        service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, BoxError>>());
    drop(timed.layer(never).call(operation(LIST)));
    assert!(counted.text().contains(r#"error_type="cancelled""#));
    let answers = service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Body::new(http_body_util::StreamBody::new(
            Broken(false),
        ))))
    });
    let response = timed.layer(answers).oneshot(operation(LIST)).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    assert!(counted.text().contains(r#"error_type="timeout""#));
}

#[tokio::test]
async fn rule_9_a_call_is_timed_by_the_conventions_and_a_stream_is_none() {
    let counted = by_conventions();
    let answer = |kind| {
        Response::builder()
            .header(header::CONTENT_TYPE, kind)
            .body(body(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603}}"#))
            .unwrap()
    };
    let inner = service_fn(|request: Request<()>| {
        let facts = Facts::get(&request).unwrap();
        facts.set_method(Some(if request.uri() == "/listen" {
            Method::Listen
        } else {
            Method::ToolsList
        }));
        async move { Ok::<_, Infallible>(answer("application/json")) }
    });
    let service = MetricsLayer::new(counted.families.clone()).layer(inner);
    for path in ["/", "/listen"] {
        let request = Request::post(path)
            .header("mcp-protocol-version", "2026-07-28")
            .body(())
            .unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    counted.has(r#"mcp_server_operation_duration_seconds_count{error_type="-32603",gen_ai_operation_name="",gen_ai_tool_name="",mcp_method_name="tools/list",mcp_protocol_version="2026-07-28",network_protocol_name="http",network_protocol_version="1.1",network_transport="tcp",rpc_response_status_code="-32603",server="wiki"} 1"#);
    let listen = r#"mcp_method_name="subscriptions/listen""#;
    assert!(!counted.text().contains(listen));
}

#[derive(Debug, Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl Recorder for Told {
    fn begin(
        self: Arc<Self>,
        server: &Arc<str>,
        headers: &http::HeaderMap,
    ) -> Arc<dyn crate::exchange::Exchange> {
        self.0
            .lock()
            .unwrap()
            .push(format!("{server} {}", headers.len()));
        self
    }
}

impl crate::exchange::Exchange for Told {
    fn read(&self, _: &crate::call::Call) {}

    fn attempt(
        &self,
        _: &crate::call::Call,
        _: crate::exchange::Peer<'_>,
        _: &mut http::HeaderMap,
    ) -> crate::exchange::Begun {
        crate::exchange::Begun::new(0, None)
    }

    fn attempted(&self, _: u32, _: crate::exchange::Attempted) {}

    fn ended(&self, _: &Facts, end: crate::exchange::End) {
        self.0.lock().unwrap().push(format!("{end:?}"));
    }
}

#[tokio::test]
async fn rule_10_who_records_it_is_told_of_begin_and_end() {
    let counted = Counted::new();
    let told = Arc::new(Told::default());
    let layer =
        MetricsLayer::new(counted.families.clone()).recorded_by(Some(told.clone() as Arc<_>));
    for (status, text) in [
        (200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        (200, r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#),
        (
            400,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"x"}}"#,
        ),
        (503, ""),
    ] {
        let inner = service_fn(move |request: Request<()>| {
            assert!(Facts::get(&request).unwrap().exchange().is_some());
            let response = Response::builder()
                .status(status)
                .header(header::CONTENT_TYPE, "application/json")
                .body(body(text));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let request = Request::post("/").header("x", "y").body(()).unwrap();
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let ends = [
        "Ok { shown: true }",
        "ToolError",
        "RpcError(Some(-32602))",
        "Refused(503)",
    ];
    let expected: Vec<_> = ends
        .iter()
        .flat_map(|end| ["wiki 1".to_owned(), (*end).to_owned()])
        .collect();
    assert_eq!(*told.0.lock().unwrap(), expected);
}
