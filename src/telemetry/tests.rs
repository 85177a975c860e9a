//! The contract's rules, by the SDK's in-memory exporters.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::metrics::InMemoryMetricExporter;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};

use super::*;
use crate::call::{Call, Form};
use crate::convention;
use crate::error::Cause;
use crate::exchange::{Attempted, End, Exchange, Peer};
use crate::facts::Facts;
use crate::mcp::message::{Message, Parsed};
use crate::mcp::revision::{Era, Revision};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-01";

struct Rig {
    telemetry: Telemetry,
    spans: InMemorySpanExporter,
    metrics: InMemoryMetricExporter,
}

impl Rig {
    fn new(sampling: Sampling) -> Self {
        let (spans, metrics) = (
            InMemorySpanExporter::default(),
            InMemoryMetricExporter::default(),
        );
        let traces = SdkTracerProvider::builder()
            .with_simple_exporter(spans.clone())
            .with_sampler(sampling.sampler())
            .build();
        let meter = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(metrics.clone()).build())
            .build();
        Self {
            telemetry: Telemetry::new(Some(traces), Some(meter)),
            spans,
            metrics,
        }
    }

    fn begin(&self, headers: &[(&'static str, &str)]) -> Arc<dyn Exchange> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        self.telemetry.recorder().begin(&"wiki".into(), &map)
    }

    /// The spans that have ended, in their order.
    fn spans(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().unwrap()
    }

    /// Each point of a histogram: its attributes, and how many it counted.
    fn points(&self, name: &str) -> Vec<(Vec<KeyValue>, u64)> {
        self.telemetry
            .metrics
            .as_ref()
            .unwrap()
            .force_flush()
            .unwrap();
        let all = self.metrics.get_finished_metrics().unwrap();
        let scope = all.last().unwrap().scope_metrics().next().unwrap();
        let metric = scope
            .metrics()
            .find(|metric| metric.name() == name)
            .unwrap();
        let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = metric.data() else {
            panic!("{name} is no histogram");
        };
        histogram
            .data_points()
            .map(|point| {
                assert_eq!(point.bounds().collect::<Vec<_>>(), convention::BOUNDARIES);
                (point.attributes().cloned().collect(), point.count())
            })
            .collect()
    }
}

fn modern(text: &str) -> Call {
    call(text, Era::Modern, Revision::V2026_07_28)
}

fn call(text: &str, era: Era, revision: Revision) -> Call {
    let body = Bytes::copy_from_slice(text.as_bytes());
    let Parsed::One(message) = Message::read(&body).unwrap() else {
        panic!("a batch");
    };
    Call::new(Form::Message(message), era, Some(revision), body)
}

fn tool(meta: &str) -> Call {
    modern(&format!(
        r#"{{"jsonrpc":"2.0","id":"r-1","method":"tools/call","params":{{"name":"echo","arguments":{{"text":"hunter2"}},"_meta":{meta}}}}}"#
    ))
}

/// Sends it: the context in the header, and the body that went out.
fn send(exchange: &Arc<dyn Exchange>, call: &Call) -> (u32, Option<String>, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer hunter2".parse().unwrap());
    headers.insert("mcp-session-id", "hunter2".parse().unwrap());
    let begun = exchange.attempt(call, Peer::new("mcp.example.com", 443), &mut headers);
    let header = headers
        .get("traceparent")
        .map(|value| value.to_str().unwrap().to_owned());
    let body = begun.call.as_ref().unwrap_or(call).body().clone();
    (begun.number, header, body)
}

fn end(exchange: &Arc<dyn Exchange>, end: End) {
    let facts = Facts::new(None);
    if let End::Failed(cause, _) = end {
        facts.set_cause(cause);
    }
    exchange.ended(&facts, end);
}

fn attribute(all: &[KeyValue], key: &str) -> Option<String> {
    let found = all.iter().find(|pair| pair.key.as_str() == key)?;
    Some(found.value.to_string())
}

fn traceparent(span: &SpanData) -> String {
    let context = &span.span_context;
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_call_is_a_server_span_and_a_client_span_for_each_attempt() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[]);
    let call = tool("{}");
    exchange.read(&call);
    tokio::time::advance(Duration::from_secs(1)).await;
    let (first, ..) = send(&exchange, &call);
    tokio::time::advance(Duration::from_secs(2)).await;
    exchange.attempted(first, Attempted::Failed(Cause::ConnectionRefused));
    let (second, ..) = send(&exchange, &call);
    exchange.attempted(second, Attempted::GivenUp);
    tokio::time::advance(Duration::from_secs(4)).await;
    let (third, ..) = send(&exchange, &call);
    exchange.attempted(third, Attempted::Answered(StatusCode::OK));
    tokio::time::advance(Duration::from_secs(8)).await;
    end(&exchange, End::Ok { shown: true });
    end(&exchange, End::Cancelled);

    let spans = rig.spans();
    let [one, two, three, server] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(
        (server.span_kind.clone(), &*server.name),
        (SpanKind::Server, "tools/call echo")
    );
    assert_eq!(
        server
            .end_time
            .duration_since(server.start_time)
            .unwrap()
            .as_secs(),
        15
    );
    assert_eq!(server.status, Status::Unset);
    for (span, seconds, error, resends) in [
        (one, 2, Some("connection_refused"), None),
        (two, 0, Some("timeout"), Some("1")),
        (three, 8, None, Some("2")),
    ] {
        assert_eq!(
            (span.span_kind.clone(), &*span.name),
            (SpanKind::Client, "tools/call echo")
        );
        assert_eq!(span.parent_span_id, server.span_context.span_id());
        assert_eq!(
            span.end_time
                .duration_since(span.start_time)
                .unwrap()
                .as_secs(),
            seconds
        );
        assert_eq!(attribute(&span.attributes, "error.type").as_deref(), error);
        assert_eq!(
            attribute(&span.attributes, "http.request.resend_count").as_deref(),
            resends
        );
        assert_eq!(span.status != Status::Unset, error.is_some());
    }
    let points = rig.points(attribute::CLIENT_DURATION);
    assert_eq!(points.iter().map(|(_, count)| count).sum::<u64>(), 3);
    assert_eq!(rig.points(attribute::SERVER_DURATION).len(), 1);
}

#[tokio::test]
async fn rule_1_what_has_no_method_has_no_span_and_keeps_its_trace() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[("traceparent", CALLER)]);
    let answer = call(
        r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{}}}"#,
        Era::Legacy,
        Revision::V2025_11_25,
    );
    exchange.read(&answer);
    let (number, header, body) = send(&exchange, &answer);
    assert_eq!((header, &body), (None, answer.body()));
    exchange.attempted(number, Attempted::Answered(StatusCode::ACCEPTED));
    end(&exchange, End::Ok { shown: false });
    let stream = rig.begin(&[]);
    end(&stream, End::Cancelled);
    assert!(rig.spans().is_empty());
}

#[tokio::test]
async fn rule_2_meta_is_the_parent_and_the_header_a_link() {
    let in_meta = format!(r#"{{"traceparent":"{OTHER}"}}"#);
    let both = format!(r#"{{"traceparent":"{CALLER}"}}"#);
    for (header, meta, parent, link) in [
        (Some(CALLER), in_meta.as_str(), Some(OTHER), Some(CALLER)),
        (Some(CALLER), both.as_str(), Some(CALLER), None),
        (
            Some(CALLER),
            r#"{"traceparent":"00-x"}"#,
            Some(CALLER),
            None,
        ),
        (Some("00-x"), r#"{"traceparent":7}"#, None, None),
        (None, in_meta.as_str(), Some(OTHER), None),
    ] {
        let rig = Rig::new(Sampling::default());
        let headers: Vec<_> = header
            .map(|header| ("traceparent", header))
            .into_iter()
            .collect();
        let exchange = rig.begin(&headers);
        exchange.read(&tool(meta));
        end(&exchange, End::Ok { shown: true });
        let spans = rig.spans();
        let span = &spans[0];
        let trace = span.span_context.trace_id().to_string();
        match parent {
            Some(parent) => assert_eq!(parent, format!("00-{trace}-{}-01", span.parent_span_id)),
            None => assert_eq!(span.parent_span_id.to_string(), "0000000000000000"),
        }
        let links: Vec<_> = span
            .links
            .iter()
            .map(|link| link.span_context.trace_id().to_string())
            .collect();
        let expected: Vec<_> = link.iter().map(|link| link[3..35].to_owned()).collect();
        assert_eq!(links, expected, "{header:?} {meta}");
    }
}

#[tokio::test]
async fn rule_3_the_upstream_goes_on_under_the_client_span() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[("traceparent", CALLER), ("tracestate", "a=1")]);
    let call = tool(r#"{"x": 1e3,"traceparent":"nonsense"}"#);
    exchange.read(&call);
    let (_, header, body) = send(&exchange, &call);
    end(&exchange, End::Ok { shown: true });
    let client = traceparent(&rig.spans()[0]);
    assert_eq!(header.as_ref(), Some(&client));
    assert_eq!(&client[3..35], &CALLER[3..35]);
    let expected = String::from_utf8(call.body().to_vec()).unwrap();
    let expected = expected.replace(
        r#"{"x": 1e3,"traceparent":"nonsense"}"#,
        &format!(r#"{{"tracestate":"a=1","x": 1e3,"traceparent":"{client}"}}"#),
    );
    assert_eq!(body, expected);

    let bare = modern(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let exchange = rig.begin(&[]);
    exchange.read(&bare);
    let (_, header, body) = send(&exchange, &bare);
    assert!(header.is_some());
    assert_eq!(&body, bare.body());
}

#[tokio::test]
async fn rule_3_a_trace_that_is_not_recorded_goes_on_unrecorded() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[("traceparent", &CALLER.replace("-01", "-00"))]);
    let call = tool("{}");
    exchange.read(&call);
    let (_, header, _) = send(&exchange, &call);
    end(&exchange, End::Ok { shown: true });
    let header = header.unwrap();
    assert!(
        header.starts_with(&CALLER[..35]) && header.ends_with("-00"),
        "{header}"
    );
    assert!(rig.spans().is_empty());
    assert_eq!(rig.points(attribute::SERVER_DURATION).len(), 1);
}

#[tokio::test]
async fn rule_7_a_session_that_is_ended_is_measured() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[("mcp-session-id", "hunter2")]);
    exchange.closed(Duration::from_secs(90), Some(Revision::V2025_11_25));
    end(&exchange, End::Ok { shown: false });
    for name in [attribute::SERVER_SESSION, attribute::CLIENT_SESSION] {
        let points = rig.points(name);
        let [(attributes, 1)] = points.as_slice() else {
            panic!("{points:?}");
        };
        for (key, value) in [
            ("mcp.protocol.version", "2025-11-25"),
            ("network.transport", "tcp"),
            ("outrigger.server", "wiki"),
        ] {
            assert_eq!(attribute(attributes, key).as_deref(), Some(value), "{key}");
        }
        assert!(!format!("{points:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn rule_4_attributes_are_those_of_the_convention_and_hold_no_secret() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[
        ("authorization", "Bearer hunter2"),
        ("mcp-session-id", "hunter2"),
    ]);
    let call = tool("{}");
    exchange.read(&call);
    let (number, ..) = send(&exchange, &call);
    exchange.attempted(number, Attempted::Answered(StatusCode::OK));
    end(&exchange, End::RpcError(Some(-32602)));
    let spans = rig.spans();
    let [client, server] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    for (key, value) in [
        ("mcp.method.name", "tools/call"),
        ("mcp.protocol.version", "2026-07-28"),
        ("jsonrpc.request.id", "r-1"),
        ("gen_ai.tool.name", "echo"),
        ("gen_ai.operation.name", "execute_tool"),
        ("network.protocol.name", "http"),
        ("network.transport", "tcp"),
        ("rpc.response.status_code", "-32602"),
        ("outrigger.server", "wiki"),
    ] {
        for span in [client, server] {
            assert_eq!(
                attribute(&span.attributes, key).as_deref(),
                Some(value),
                "{key}"
            );
        }
    }
    assert_eq!(
        attribute(&client.attributes, "error.type").as_deref(),
        Some("-32602")
    );
    assert_eq!(
        attribute(&client.attributes, "server.address").as_deref(),
        Some("mcp.example.com")
    );
    assert_eq!(
        attribute(&client.attributes, "server.port").as_deref(),
        Some("443")
    );
    assert_eq!(attribute(&server.attributes, "error.type"), None);
    assert_eq!(
        (&client.status, &server.status),
        (&Status::error(""), &Status::Unset)
    );
    for span in &spans {
        assert_eq!(attribute(&span.attributes, "mcp.session.id"), None);
        assert!(!format!("{span:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn rule_4_a_session_is_named_by_a_hash() {
    let rig = Rig::new(Sampling::default());
    let prompt = call(
        r#"{"jsonrpc":"2.0","id":7,"method":"prompts/get","params":{"name":"hello"}}"#,
        Era::Legacy,
        Revision::V2025_11_25,
    );
    for id in ["hunter2", "hunter2", "other"] {
        let exchange = rig.begin(&[("mcp-session-id", id)]);
        exchange.read(&prompt);
        end(&exchange, End::Failed(Cause::StreamIdle, None));
    }
    let spans = rig.spans();
    let ids: Vec<_> = spans
        .iter()
        .map(|span| attribute(&span.attributes, "mcp.session.id").unwrap())
        .collect();
    assert!(
        ids[0] == ids[1] && ids[0] != ids[2] && ids[0].len() == 16,
        "{ids:?}"
    );
    assert_eq!(&*spans[0].name, "prompts/get hello");
    assert_eq!(
        attribute(&spans[0].attributes, "gen_ai.prompt.name").as_deref(),
        Some("hello")
    );
    assert_eq!(
        attribute(&spans[0].attributes, "jsonrpc.request.id").as_deref(),
        Some("7")
    );
    assert_eq!(
        attribute(&spans[0].attributes, "error.type").as_deref(),
        Some("timeout")
    );
    assert_eq!(
        attribute(&spans[0].attributes, "outrigger.cause").as_deref(),
        Some("stream_idle")
    );
}

#[tokio::test]
async fn rule_4_a_listener_that_goes_is_no_error() {
    let rig = Rig::new(Sampling::default());
    let listen = modern(r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}"#);
    let exchange = rig.begin(&[]);
    exchange.read(&listen);
    let (number, ..) = send(&exchange, &listen);
    exchange.attempted(number, Attempted::Answered(StatusCode::OK));
    end(&exchange, End::Cancelled);
    assert_eq!(rig.spans().len(), 2);
    assert!(rig.spans().iter().all(|span| span.status == Status::Unset));
}

#[tokio::test]
async fn rule_4_metrics_tell_only_tools_apart_that_exist() {
    let rig = Rig::new(Sampling::default());
    for (name, how) in [
        ("nobody", End::RpcError(Some(-32602))),
        ("echo", End::Ok { shown: true }),
        ("echo", End::ToolError),
    ] {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}"}}}}"#
        );
        let exchange = rig.begin(&[]);
        exchange.read(&modern(&text));
        end(&exchange, how);
    }
    let points = rig.points(attribute::SERVER_DURATION);
    let mut tools: Vec<_> = points
        .iter()
        .map(|(all, _)| {
            (
                attribute(all, "gen_ai.tool.name"),
                attribute(all, "error.type"),
            )
        })
        .collect();
    tools.sort();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        tools,
        [
            (None, None),
            (text("echo"), None),
            (text("echo"), text("tool_error"))
        ]
    );
}

#[tokio::test]
async fn rule_6_after_the_flush_calls_go_on_unrecorded() {
    let rig = Rig::new(Sampling::default());
    let exchange = rig.begin(&[]);
    let call = tool("{}");
    exchange.read(&call);
    end(&exchange, End::Ok { shown: true });
    rig.telemetry.flush().await;
    let later = rig.begin(&[]);
    later.read(&call);
    send(&later, &call);
    end(&later, End::Ok { shown: true });
}
