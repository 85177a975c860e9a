//! The contract's rules, in their order.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::call::LARGE;
use crate::mcp::revision::Revision;

const ENVELOPE: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// Sends one request through `inspect`; the inner service answers with what it saw.
async fn send(
    params: Params,
    headers: &[(&'static str, &str)],
    body: &str,
) -> (StatusCode, Value, HeaderMap) {
    let mut request = Request::post("/mcp")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_str(value).unwrap());
    }
    let inner = service_fn(async |request: Request<Full<Bytes>>| {
        let call = request.extensions().get::<Call>().unwrap().clone();
        let facts = Facts::get(&request).unwrap();
        let seen = json!({
            "era": call.era().as_str(),
            "revision": call.revision().map(Revision::as_str),
            "method": call.method_name(),
            "subject": call.subject(),
            "tool": facts.tool(),
            "batch": matches!(call.form(), Form::Batch(_)),
        });
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body, call.body());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(seen.to_string()))))
    });
    let response = InspectLayer::new(params)
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status,
        serde_json::from_slice(&body).unwrap(),
        parts.headers,
    )
}

async fn post(headers: &[(&'static str, &str)], body: &str) -> (StatusCode, Value) {
    let (status, body, _) = send(Params::default(), headers, body).await;
    (status, body)
}

fn modern_call(name: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"name":"{name}",{ENVELOPE}}}}}"#
    )
}

const MODERN: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
const TOOLS_CALL: (&str, &str) = ("mcp-method", "tools/call");

#[tokio::test]
async fn rule_1_a_body_over_the_limit_is_413() {
    let params = Params {
        max_body: 10,
        ..Params::default()
    };
    let (status, body, _) = send(params, &[], r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    assert_eq!(status, 413);
    assert_eq!(body["error"]["data"]["cause"], "body_too_large");
}

#[tokio::test]
async fn rule_1_the_budget_is_of_all_requests_and_comes_back() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let params = Params {
        budget: ByteBudget::new(ping.len()),
        ..Params::default()
    };
    assert_eq!(send(params.clone(), &[], ping).await.0, 200);
    let held = params.budget.take(1).unwrap();
    assert_eq!(send(params.clone(), &[], ping).await.0, 503);
    drop(held);
    assert_eq!(send(params, &[], ping).await.0, 200);
}

#[tokio::test]
async fn rule_1_a_large_body_is_charged_as_long_as_a_piece_of_it_is_kept() {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":"kept","method":"ping","params":{{"x":"{}"}}}}"#,
        "x".repeat(LARGE)
    );
    let params = Params {
        budget: ByteBudget::new(text.len()),
        ..Params::default()
    };
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let inner = service_fn(move |request: Request<Full<Bytes>>| {
        let call = request.extensions().get::<Call>().unwrap();
        let pieces = (call.body().slice(..1), call.id_token().unwrap());
        *keep.lock().unwrap() = Some(pieces);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let mut service = InspectLayer::new(params.clone()).layer(inner);
    let request = Request::post("/mcp").body(Full::new(Bytes::from(text)));
    let answer = service.call(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert!(params.budget.take(1).is_none());
    // The id is kept for long, and does not keep the rest.
    let (piece, id) = kept.lock().unwrap().take().unwrap();
    drop(piece);
    assert_eq!(id, "\"kept\"");
    assert!(params.budget.take(LARGE).is_some());
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_body_that_does_not_come_is_408() {
    let body = StreamBody::new(futures_pending());
    let request = Request::post("/mcp").body(body).unwrap();
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let response = InspectLayer::new(Params::default())
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), 408);
}

/// A body that announces bytes and sends none.
struct Announced(u64);

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn rule_1_a_body_that_is_only_announced_takes_nothing_from_others() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let params = Params {
        budget: ByteBudget::new(ping.len()),
        ..Params::default()
    };
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let silent = Request::post("/mcp").body(Announced(ping.len() as u64));
    let silent = InspectLayer::new(params.clone())
        .layer(inner)
        .oneshot(silent.unwrap());
    tokio::pin!(silent);
    let waiting = tokio::time::timeout(Duration::from_secs(1), &mut silent).await;
    assert!(waiting.is_err(), "still reading");
    assert_eq!(send(params, &[], ping).await.0, 200);
}

#[tokio::test]
async fn rule_3_a_modern_request_has_no_key_that_differs_by_case_alone() {
    let body = modern_call("ok").replace("\"name\"", "\"Name\":\"secret\",\"name\"");
    let headers = [MODERN, TOOLS_CALL, ("mcp-name", "ok")];
    let (status, answer) = post(&headers, &body).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["data"]["cause"], "duplicate_key");
}

#[tokio::test]
async fn an_id_over_a_kibibyte_is_refused_and_not_repeated() {
    let ping = |length: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"{:0>length$}","method":"ping"}}"#,
            7
        )
    };
    assert_eq!(post(&[], &ping(1_022)).await.0, 200);
    for body in [ping(1_023), format!("[{}]", ping(1_023))] {
        let (status, answer) = post(&[], &body).await;
        assert_eq!(status, 400);
        assert_eq!(answer["error"]["data"]["cause"], "malformed_message");
        assert_eq!(answer["id"], Value::Null);
    }
}

/// A stream without an item and without an end.
fn futures_pending()
-> impl futures_core::Stream<Item = Result<http_body::Frame<Bytes>, Infallible>> + Unpin {
    struct Never;
    impl futures_core::Stream for Never {
        type Item = Result<http_body::Frame<Bytes>, Infallible>;
        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Self::Item>> {
            Poll::Pending
        }
    }
    Never
}

#[tokio::test]
async fn rule_2_initialize_without_an_envelope_is_legacy_whatever_its_header() {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    let (status, seen) = post(&[MODERN], text).await;
    assert_eq!(status, 200);
    assert_eq!(seen["era"], "legacy");
    assert_eq!(seen["revision"], Revision::V2025_11_25.as_str());
}

#[tokio::test]
async fn c22_an_offer_that_has_no_initialize_becomes_the_newest_that_has() {
    let offering = |version: &str, more: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"x":"{more}","protocolVersion":"{version}"}}}}"#
        )
    };
    for (offered, sent) in [
        ("2025-06-18", "2025-06-18"),
        ("2026-07-28", "2025-11-25"),
        ("2027-01-01", "2025-11-25"),
    ] {
        let (status, seen) = post(&[], &offering(offered, "")).await;
        assert_eq!(
            (status.as_u16(), &seen["era"], &seen["revision"]),
            (200, &json!("legacy"), &json!(sent))
        );
    }
    let large = offering("2026-07-28", &"x".repeat(LARGE));
    let (status, answer) = post(&[], &large).await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["data"]["cause"]),
        (413, &json!("body_too_large")),
        "a copy of it would be nobody's"
    );
}

#[tokio::test]
async fn c23_an_envelope_is_modern_even_with_a_session_id() {
    let (status, seen) = post(
        &[
            MODERN,
            TOOLS_CALL,
            ("mcp-name", "echo"),
            ("mcp-session-id", "x"),
        ],
        &modern_call("echo"),
    )
    .await;
    assert_eq!(
        (status, &seen["era"], &seen["tool"]),
        (StatusCode::OK, &json!("modern"), &json!("echo"))
    );
}

#[tokio::test]
async fn c02_an_incomplete_envelope_is_400_32602() {
    let half = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let (status, body) = post(&[MODERN, ("mcp-method", "tools/list")], half).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["code"]),
        (400, &json!(-32602))
    );
    let none = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let (status, body) = post(&[MODERN, ("mcp-method", "tools/list")], none).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["code"]),
        (400, &json!(-32602))
    );
}

#[tokio::test]
async fn c03_a_request_without_client_info_is_served() {
    let call = modern_call("echo");
    assert!(!call.contains("clientInfo"));
    let (status, seen) = post(&[MODERN, TOOLS_CALL, ("mcp-name", "echo")], &call).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&seen["era"], &seen["subject"]),
        (&json!("modern"), &json!("echo"))
    );
}

#[tokio::test]
async fn c04_c05_the_version_header_is_there_and_agrees() {
    for headers in [
        &[TOOLS_CALL][..],
        &[("mcp-protocol-version", "2025-11-25"), TOOLS_CALL],
    ] {
        let (status, body) = post(headers, &modern_call("echo")).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (400, &json!(-32020))
        );
        assert_eq!(body["id"], "a");
    }
}

#[tokio::test]
async fn c06_an_unserved_version_is_400_32022_with_what_is_served() {
    let text = modern_call("echo").replace("2026-07-28", "2099-01-01");
    let (status, body) = post(&[("mcp-protocol-version", "2099-01-01"), TOOLS_CALL], &text).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["code"]),
        (400, &json!(-32022))
    );
    assert_eq!(body["error"]["data"]["supported"], json!(["2026-07-28"]));
    assert_eq!(body["error"]["data"]["requested"], "2099-01-01");
}

#[tokio::test]
async fn c07_mcp_method_is_there_and_agrees() {
    for method in [&[][..], &[("mcp-method", "Tools/call")]] {
        let headers: Vec<_> = [MODERN, ("mcp-name", "echo")]
            .iter()
            .chain(method)
            .copied()
            .collect();
        let (status, body) = post(&headers, &modern_call("echo")).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (400, &json!(-32020))
        );
    }
}

#[tokio::test]
async fn c08_c10_mcp_name_is_decoded_and_agrees() {
    for (name, header, fits) in [
        ("echo", "echo", true),
        ("echo", "  echo\t", true),
        ("Grüße", "=?base64?R3LDvMOfZQ==?=", true),
        // Markers in capitals, or without an end, are text (C10).
        ("=?BASE64?R3I=?=", "=?BASE64?R3I=?=", true),
        ("=?base64?R3I=", "=?base64?R3I=", true),
        ("echo", "other", false),
        ("echo", "ECHO", false),
        ("echo", "=?base64?!!!?=", false),
        ("Gr", "=?BASE64?R3I=?=", false),
    ] {
        let (status, body) = post(
            &[MODERN, TOOLS_CALL, ("mcp-name", header)],
            &modern_call(name),
        )
        .await;
        if fits {
            assert_eq!((status.as_u16(), &body["subject"]), (200, &json!(name)));
        } else {
            assert_eq!(
                (status.as_u16(), &body["error"]["code"], &body["id"]),
                (400, &json!(-32020), &json!("a")),
                "{header}"
            );
        }
    }
    let (status, body) = post(&[MODERN, TOOLS_CALL], &modern_call("echo")).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["code"]),
        (400, &json!(-32020))
    );
}

#[tokio::test]
async fn c12_a_removed_method_is_404_32601() {
    for method in [
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "initialize",
    ] {
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{ENVELOPE}}}}}"#);
        let (status, body) = post(&[MODERN, ("mcp-method", method)], &text).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"], &body["id"]),
            (404, &json!(-32601), &json!(1)),
            "{method}"
        );
    }
}

#[tokio::test]
async fn c49_a_legacy_version_exists_or_is_400() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let (status, answer) = post(&[("mcp-protocol-version", "1999-01-01")], ping).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["data"]["cause"], "bad_version_header");
    let (status, seen) = post(&[], ping).await;
    assert_eq!((status.as_u16(), &seen["revision"]), (200, &Value::Null));
    assert_eq!(
        post(&[("mcp-protocol-version", "2025-06-18")], ping)
            .await
            .1["revision"],
        "2025-06-18"
    );
}

#[tokio::test]
async fn c50_batches_pass_where_the_revision_may_have_them() {
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#;
    for headers in [&[][..], &[("mcp-protocol-version", "2025-03-26")]] {
        let (status, seen) = post(headers, batch).await;
        assert_eq!((status.as_u16(), &seen["batch"]), (200, &json!(true)));
    }
    let opens = r#"[{"jsonrpc":"2.0","id":1,"method":"initialize"}]"#;
    let modern = format!("[{}]", modern_call("echo"));
    for (version, batch) in [
        ("2025-06-18", batch),
        ("2025-11-25", batch),
        ("2025-03-26", opens),
        ("2025-03-26", &modern),
    ] {
        let (status, answer) = post(&[("mcp-protocol-version", version)], batch).await;
        assert_eq!(
            (status.as_u16(), &answer["error"]["code"]),
            (400, &json!(-32600)),
            "{version} {batch}"
        );
        assert_eq!(answer["error"]["data"]["cause"], "batch_refused");
    }
}

#[tokio::test]
async fn rule_5_what_is_unknown_passes() {
    let (status, seen) = post(
        &[("x-odd", "1")],
        r#"{"jsonrpc":"2.0","id":1,"method":"vendor/odd","more":[1e9]}"#,
    )
    .await;
    assert_eq!(
        (status.as_u16(), &seen["method"]),
        (200, &json!("vendor/odd"))
    );
}

#[tokio::test]
async fn media_types_are_those_of_the_protocol() {
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(post(&[("content-type", "text/plain")], ping).await.0, 415);
    assert_eq!(
        post(&[("content-type", "Application/JSON; charset=utf-8")], ping)
            .await
            .0,
        200
    );
    assert_eq!(post(&[("accept", "application/json")], ping).await.0, 406);
    for accept in [
        "*/*",
        "application/json, text/event-stream",
        "text/*;q=0.5,application/*",
    ] {
        assert_eq!(post(&[("accept", accept)], ping).await.0, 200, "{accept}");
    }
}

#[tokio::test]
async fn another_method_is_405_with_allow() {
    let inner = service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let request = Request::put("/mcp").body(Full::<Bytes>::default()).unwrap();
    let response = InspectLayer::new(Params::default())
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), 405);
    assert!(response.headers().contains_key("allow"));
}

#[tokio::test]
async fn rule_6_inwards_goes_what_came_and_what_is_known_of_it() {
    // `send` holds the body against the call's.
    let odd = modern_call("echo").replace("\"a\"", " 1.0e0 ");
    let (status, seen) = post(&[MODERN, TOOLS_CALL, ("mcp-name", "echo")], &odd).await;
    assert_eq!(status, 200, "{seen}");
    assert_eq!(
        seen,
        json!({
            "era": "modern", "revision": "2026-07-28", "method": "tools/call",
            "subject": "echo", "tool": "echo", "batch": false,
        })
    );
}
