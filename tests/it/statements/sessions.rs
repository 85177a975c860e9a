//! What holds within a legacy session, and between sessions.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{before, result, yaml};
use crate::support::mcp::{LEGACY, in_session, initialize, modern, modern_body};
use crate::support::tempfile::Folder;
use crate::support::{Reply, Request, Running, Seen, Upstream, sidecar};

/// A server whose sessions speak what their client offers: `upstream-0`, `upstream-1`, and so on.
async fn server() -> (Upstream, Running) {
    let count = AtomicUsize::new(0);
    before("", move |seen| reply(seen, &count)).await
}

fn reply(seen: &Seen, count: &AtomicUsize) -> Reply {
    let message = seen.json();
    if message.is_object() && message["id"].is_null() {
        return Reply::status(202);
    }
    if seen.method() != "initialize" {
        return Reply::json(result(seen, "{}")).header("set-cookie", "who=last; Path=/");
    }
    let number = count.fetch_add(1, Ordering::SeqCst);
    let offered = &message["params"]["protocolVersion"];
    let says = format!(r#"{{"protocolVersion":{offered},"capabilities":{{}}}}"#);
    Reply::json(result(seen, &says))
        .header("mcp-session-id", &format!("upstream-{number}"))
        .header("set-cookie", &format!("who={number}; Path=/"))
}

/// Opens a session that speaks `revision`.
async fn opened(sidecar: &Running, revision: &str) -> String {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"it","version":"1"}}}}}}"#
    );
    let answered = sidecar.fetch(&Request::post(body)).await;
    assert_eq!(answered.status, 200, "{}", answered.text());
    answered.head.header("mcp-session-id").unwrap().to_owned()
}

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn c49_a_version_that_does_not_exist_is_400_and_none_is_the_sessions_own() {
    let (upstream, sidecar) = server().await;
    let session = opened(&sidecar, LEGACY).await;
    let sent = upstream.seen().len();
    for bad in ["1999-01-01", "2025-11-26"] {
        let ping = in_session(&session, PING).header("mcp-protocol-version", bad);
        let answered = sidecar.fetch(&ping).await;
        assert_eq!(answered.status, 400, "{bad}");
        let error = &answered.json()["error"];
        assert_eq!(error["data"]["cause"], "bad_version_header");
        assert_eq!(answered.json()["id"], 1);
    }
    assert_eq!(upstream.seen().len(), sent);
    // Without the header the session says what is spoken: none is made up for the server.
    let bare = Request::post(PING).header("mcp-session-id", &session);
    assert_eq!(sidecar.fetch(&bare).await.status, 200);
    assert_eq!(upstream.last().header("mcp-protocol-version"), None);
    assert_eq!(upstream.last().header("mcp-session-id"), Some("upstream-0"));
}

#[tokio::test]
async fn c50_a_batch_passes_in_a_session_of_2025_03_26_and_in_no_later_one() {
    let (upstream, sidecar) = server().await;
    let batch =
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}, {"jsonrpc":"2.0","id":2.0,"method":"ping"}]"#;
    for (revision, passes) in [
        ("2025-03-26", true),
        ("2025-06-18", false),
        ("2025-11-25", false),
    ] {
        let session = opened(&sidecar, revision).await;
        let sent = upstream.seen().len();
        // Whether the header repeats what was negotiated or not.
        let bare = Request::post(batch).header("mcp-session-id", &session);
        let named = bare.clone().header("mcp-protocol-version", revision);
        for request in [bare, named] {
            let answered = sidecar.fetch(&request).await;
            if passes {
                assert_eq!(answered.status, 200, "{}", answered.text());
                assert_eq!(upstream.last().body, batch.as_bytes());
            } else {
                assert_eq!(answered.status, 400, "{revision}: {}", answered.text());
                assert_eq!(answered.json()["error"]["code"], -32_600);
                assert_eq!(answered.json()["error"]["data"]["cause"], "batch_refused");
            }
        }
        assert_eq!(upstream.seen().len(), sent + if passes { 2 } else { 0 });
        assert_eq!(sidecar.fetch(&in_session(&session, PING)).await.status, 200);
    }
}

#[tokio::test]
async fn c69_callers_share_connections_and_neither_sessions_nor_cookies() {
    let folder = Folder::new("c69");
    let (ann, ben) = (
        folder.file("ann", "key-of-ann"),
        folder.file("ben", "key-of-ben"),
    );
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |seen| {
        let reply = reply(&seen, &count);
        async move { reply }
    })
    .await;
    let sidecar = sidecar(&format!(
        "listeners: [{{listen: '127.0.0.1:0', inboundAuth: {{apiKeys: [{{name: ann, valueFrom: {{file: '{ann}'}}}}, {{name: ben, valueFrom: {{file: '{ben}'}}}}]}}}}]\n{}",
        yaml(&upstream, "")
    ))
    .await;
    let mut sessions = Vec::new();
    for key in ["key-of-ann", "key-of-ben", "key-of-ann"] {
        let answered = sidecar.fetch(&initialize().header("x-api-key", key)).await;
        let session = answered.head.header("mcp-session-id").unwrap().to_owned();
        sessions.push((key, session));
    }
    for (number, (key, session)) in sessions.iter().enumerate() {
        for (other, _) in &sessions {
            let ping = in_session(session, PING).header("x-api-key", other);
            let sent = upstream.seen().len();
            let status = sidecar.fetch(&ping).await.status;
            if key == other {
                assert_eq!(status, 200);
                let upstreams = format!("upstream-{number}");
                let last = upstream.last();
                assert_eq!(last.header("mcp-session-id"), Some(&*upstreams));
            } else {
                assert_eq!(status, 404);
                assert_eq!(upstream.seen().len(), sent);
            }
        }
    }
    let list = modern(modern_body("1", "tools/list", "")).header("x-api-key", "key-of-ann");
    assert_eq!(sidecar.fetch(&list).await.status, 200);
    assert_eq!(upstream.last().header("mcp-session-id"), None);
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.header("cookie").is_none())
    );
    assert_eq!(upstream.connections(), 1);
}
