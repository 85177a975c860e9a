//! What single messages say when they have crossed, and what we say ourselves.

use outrigger::error::Cause;
use serde_json::{Value, json};

use super::{NO_HOLD, before, result};
use crate::support::mcp::{MODERN, in_session, initialize, legacy, modern, modern_body};
use crate::support::{Reply, Request, Upstream, sidecar};

const HIDDEN: &str = ", tools: {exclude: [hidden]}";

/// Words that no legacy peer knows.
const MODERN_WORDS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

#[tokio::test]
async fn c01_discovery_is_answered_by_the_server_with_all_that_it_says() {
    const SAYS: &str = r#"{"supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{},"x":{"n":1.0}},"ttlMs":6E4,"cacheScope":"public","resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"wiki","version":"1"}}}"#;
    let (upstream, sidecar) = before(HIDDEN, |seen| Reply::json(result(seen, SAYS))).await;
    for id in ["7", r#""d""#] {
        let answered = sidecar
            .fetch(&modern(modern_body(id, "server/discover", "")))
            .await;
        assert_eq!(answered.status, 200);
        assert_eq!(
            answered.head.header("content-type"),
            Some("application/json")
        );
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{SAYS}}}"#);
        assert_eq!(answered.text(), expected);
    }
    assert_eq!(upstream.count("server/discover"), 2);
    assert_eq!(
        upstream.last().header("mcp-method"),
        Some("server/discover")
    );
}

#[tokio::test]
async fn c13_an_error_of_ours_has_the_callers_id_as_it_was_spelled() {
    let (upstream, sidecar) = before(HIDDEN, |_| Reply::status(418)).await;
    for id in ["1", "1.0", "-0", r#""1""#, r#""x\u0031""#, r#""""#] {
        let unknown = modern(modern_body(id, "ping", ""));
        let denied = legacy(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"hidden"}}}}"#
        ));
        for request in [unknown, denied] {
            let text = sidecar.fetch(&request).await.text();
            assert!(text.contains(&format!(r#""id":{id},"#)), "{id}: {text}");
        }
    }
    assert!(upstream.seen().is_empty());
}

/// The `initialize` of a client that offers `version`.
fn offering(version: &str) -> String {
    format!(
        r#"{{"method":"initialize","params":{{"clientInfo":{{"name":"it","version":"1.0"}},"protocolVersion":"{version}","capabilities":{{"x":1E2}}}},"id":0,"jsonrpc":"2.0"}}"#
    )
}

#[tokio::test]
async fn c22_initialize_never_offers_a_revision_that_has_none() {
    let (upstream, sidecar) = before("", |seen| {
        let offered = seen.json()["params"]["protocolVersion"].to_string();
        let says = format!(r#"{{"protocolVersion":{offered},"capabilities":{{}}}}"#);
        Reply::json(result(seen, &says)).header("mcp-session-id", "upstream-1")
    })
    .await;
    for (offered, sent) in [
        ("2025-11-25", "2025-11-25"),
        ("2024-11-05", "2024-11-05"),
        ("1999-01-01", "1999-01-01"),
        (MODERN, "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
        (r"2026-07-\u00328", "2025-11-25"),
    ] {
        let request = Request::post(offering(offered)).header("mcp-protocol-version", MODERN);
        let answered = sidecar.fetch(&request).await;
        let seen = upstream.last();
        let body = String::from_utf8(seen.body.clone()).unwrap();
        assert_eq!(body, offering(sent), "no other byte is touched");
        assert_eq!(
            seen.header("content-length").unwrap(),
            body.len().to_string()
        );
        assert_eq!(seen.header("mcp-protocol-version"), None, "{offered}");
        assert_eq!(answered.status, 200);
        assert_eq!(answered.json()["result"]["protocolVersion"], sent);
        // The session that it opened can be used.
        let session = answered.head.header("mcp-session-id").unwrap();
        let ping = in_session(session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        assert_eq!(sidecar.fetch(&ping).await.status, 200);
    }
}

#[tokio::test]
async fn c22_a_server_that_negotiates_a_revision_without_initialize_is_not_believed() {
    for (session, agreed) in [
        ("upstream-1", MODERN),
        ("upstream-1", "2099-01-01"),
        ("", MODERN),
    ] {
        let (_upstream, sidecar) = before("", move |seen| {
            let says = format!(r#"{{"protocolVersion":"{agreed}","capabilities":{{}}}}"#);
            let reply = Reply::json(result(seen, &says));
            if session.is_empty() {
                reply
            } else {
                reply.header("mcp-session-id", session)
            }
        })
        .await;
        let answered = sidecar.fetch(&initialize()).await;
        assert_eq!(answered.status, 502, "{}", answered.text());
        assert_eq!(answered.json()["error"]["data"]["cause"], "bad_response");
        assert_eq!(answered.json()["id"], 0);
        assert_eq!(answered.head.header("mcp-session-id"), None);
        let status = sidecar.status().await;
        assert_eq!(status["servers"]["scripted"]["sessions"]["active"], 0);
    }
}

#[tokio::test]
async fn c26_c29_a_list_that_is_cut_keeps_its_type_and_how_long_it_may_be_kept() {
    const LIST: &str = r#"{"resultType":"complete","tools":[{"name":"a"}CUT],"ttlMs":5.0e3,"cacheScope":"private","nextCursor":"c"}"#;
    let (_upstream, sidecar) = before(HIDDEN, |seen| {
        Reply::json(result(seen, &LIST.replace("CUT", r#",{"name":"hidden"}"#)))
    })
    .await;
    let answered = sidecar
        .fetch(&modern(modern_body("1", "tools/list", "")))
        .await;
    let expected = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{}}}"#,
        LIST.replace("CUT", "")
    );
    assert_eq!((answered.status, answered.text()), (200, expected));
}

#[tokio::test]
async fn c27_nothing_of_the_modern_era_is_added_for_a_legacy_caller() {
    const LIST: &str = r#"{"tools":[{"name":"a"}CUT],"nextCursor":"c"}"#;
    let (_upstream, sidecar) = before(HIDDEN, |seen| match seen.method().as_str() {
        "initialize" => Reply::json(result(
            seen,
            r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#,
        ))
        .header("mcp-session-id", "upstream-1"),
        "prompts/list" => Reply::status(500).body("<h1>no</h1>"),
        _ => Reply::json(result(seen, &LIST.replace("CUT", r#",{"name":"hidden"}"#))),
    })
    .await;
    let opened = sidecar.fetch(&initialize()).await;
    let session = opened.head.header("mcp-session-id").unwrap();
    let list = in_session(session, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let cut = sidecar.fetch(&list).await.text();
    let expected = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{}}}"#,
        LIST.replace("CUT", "")
    );
    assert_eq!(cut, expected);
    // Nor to what we answer ourselves: a refusal, and a page in place of an answer.
    let denied = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"hidden"}}"#;
    let failed = r#"{"jsonrpc":"2.0","id":3,"method":"prompts/list"}"#;
    for body in [denied, failed] {
        let text = sidecar.fetch(&in_session(session, body)).await.text();
        assert!(text.contains(r#""error""#), "{text}");
        for word in MODERN_WORDS {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }
}

#[tokio::test]
async fn c43_a_capability_that_is_missing_is_400_with_what_is_needed() {
    const NEEDS: &str = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32021,"message":"needs more","data":{"requiredCapabilities":{"elicitation":{"url":{}}}}}}"#;
    let (_upstream, sidecar) = before("", |_| Reply::json(NEEDS).with_status(400)).await;
    let call = modern_body(r#""a""#, "tools/call", r#""name":"ask""#);
    let answered = sidecar.fetch(&modern(call)).await;
    assert_eq!((answered.status, answered.text()), (400, NEEDS.to_owned()));
    assert_eq!(
        answered.head.header("content-type"),
        Some("application/json")
    );
}

#[test]
fn c44_c45_no_error_of_ours_has_a_number_that_the_specification_keeps_for_itself() {
    let defined = [-32_020, -32_021, -32_022];
    for cause in Cause::ALL {
        let code = cause.code();
        assert!(code != -32_002 && code != -32_042, "{cause:?}");
        assert!(
            !(-32_099..=-32_020).contains(&code) || defined.contains(&code),
            "{cause:?}: {code}"
        );
    }
}

#[tokio::test]
async fn c73_a_list_is_the_same_on_every_connection_and_in_the_servers_order() {
    let keys = ", tools: {exclude: ['hidden*']}";
    let (upstream, sidecar) = before(keys, |seen| {
        let names = ["z", "hidden-1", "a", "hidden-2", "m"];
        let tools: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        let says = json!({"resultType": "complete", "tools": tools});
        Reply::json(result(seen, &says.to_string()))
    })
    .await;
    for client in ["one", "two", "two"] {
        // Each fetch is a connection of its own.
        let body = modern_body("1", "tools/list", "").replace(r#""it""#, &format!("\"{client}\""));
        let listed = sidecar.fetch(&modern(body)).await.json();
        let names: Vec<_> = listed["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["z", "a", "m"]);
    }
    assert_eq!(upstream.count("tools/list"), 3);
}

#[tokio::test]
async fn c77_the_name_of_a_request_about_a_task_is_the_tasks_id() {
    let (upstream, sidecar) = before("", |seen| Reply::json(result(seen, "{}"))).await;
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let body = modern_body("1", method, r#""taskId":"t-1""#);
        let bare =
            Request::post(body).headers([("mcp-protocol-version", MODERN), ("mcp-method", method)]);
        let sent = upstream.seen().len();
        for wrong in [bare.clone(), bare.clone().header("mcp-name", "t-2")] {
            let answered = sidecar.fetch(&wrong).await;
            assert_eq!(answered.status, 400, "{method}");
            assert_eq!(answered.json()["error"]["code"], -32_020, "{method}");
            assert_eq!(answered.json()["id"], 1);
        }
        assert_eq!(upstream.seen().len(), sent, "{method}");
        let answered = sidecar.fetch(&bare.header("mcp-name", "t-1")).await;
        assert_eq!(answered.status, 200, "{method}: {}", answered.text());
        assert_eq!(upstream.last().header("mcp-name"), Some("t-1"));
    }
}

#[tokio::test]
async fn c80_what_an_app_needs_survives_the_hiding_of_its_neighbours() {
    const APP: &str = r#"{"_meta":{"ui/resourceUri":"ui://old","ui":{"resourceUri":"ui://chart/1","visibility":["app"]}},"name":"chart"}"#;
    const PAGE: &str = r#"{"contents":[{"uri":"ui://chart/1","mimeType":"text/html;profile=mcp-app","text":"<p>","_meta":{"ui":{"csp":{},"domain":"x"}}}],"ttlMs":0}"#;
    let (upstream, sidecar) = before(HIDDEN, |seen| {
        let list = format!(r#"{{"tools":[{{"name":"hidden"}},{APP}]}}"#);
        let says = if seen.method() == "tools/list" {
            &list
        } else {
            PAGE
        };
        Reply::json(result(seen, says))
    })
    .await;
    let list = modern(modern_body("1", "tools/list", ""));
    let expected = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{APP}]}}}}"#);
    assert_eq!(sidecar.fetch(&list).await.text(), expected);
    // It is in no list of resources, and is read all the same.
    let read = modern(modern_body(
        "2",
        "resources/read",
        r#""uri":"ui://chart/1""#,
    ));
    let expected = format!(r#"{{"jsonrpc":"2.0","id":2,"result":{PAGE}}}"#);
    assert_eq!(sidecar.fetch(&read).await.text(), expected);
    assert_eq!(upstream.last().header("mcp-name"), Some("ui://chart/1"));
}

#[tokio::test]
async fn c93_trace_keys_cross_as_they_are_where_no_traces_are_exported() {
    let (upstream, sidecar) = before("", |seen| Reply::json(result(seen, "{}"))).await;
    let keys = r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=1,b=2","baggage":"k=v;p","x.example/k":1.0"#;
    let old = legacy(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{{keys}}}}}}}"#
    ));
    let body = modern_body("1", "tools/list", "")
        .replace(r#""_meta":{"#, &format!(r#""_meta":{{{keys},"#));
    for (request, sent) in [(old, None), (modern(body.clone()), Some(body))] {
        assert_eq!(sidecar.fetch(&request).await.status, 200);
        let seen = String::from_utf8(upstream.last().body).unwrap();
        assert!(seen.contains(keys), "{seen}");
        if let Some(sent) = sent {
            assert_eq!(seen, sent);
        }
    }
}

/// What the second of two endpoints is sent, when the first cannot be reached.
async fn second_attempt(body: String) -> Value {
    let second = Upstream::start(|seen| async move { Reply::json(result(&seen, "{}")) }).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let sidecar = sidecar(&format!(
        "servers: [{{name: two, endpoints: [{{url: 'http://{nobody}/mcp'}}, {{url: '{}'}}],
          loadBalancing: {{policy: failover}}, {NO_HOLD}, retry: {{backoff: {{initial: 1ms}}}}}}]",
        second.url()
    ))
    .await;
    assert_eq!(sidecar.fetch(&modern(body)).await.status, 200);
    second.last().json()
}

#[tokio::test]
async fn a_second_attempt_keeps_the_state_of_a_question_and_its_answers_byte_for_byte() {
    const STATE: &str = "=?opaque\u{1F680}\\\"==";
    for params in [
        json!({"name": "ask", "inputResponses": {"q": {"action": "accept"}}, "requestState": STATE}),
        json!({"name": "ask", "inputResponses": {"q": {"action": "accept"}}}),
    ] {
        let text = params.to_string();
        let body = modern_body(r#""x""#, "tools/call", &text[1..text.len() - 1]);
        let mut sent = second_attempt(body).await;
        assert_ne!(sent["id"], "x", "an attempt has an id of its own");
        sent["params"].as_object_mut().unwrap().remove("_meta");
        assert_eq!(sent["params"], params, "and nothing else is new");
    }
}
