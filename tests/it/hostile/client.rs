//! Clients that mean harm: what they are told, what is counted, what it costs, and that nobody else notices.

use serde_json::{Value, json};

use super::peer::{Client, Conn, Upstream};
use super::rig::{Rig, is_alone, memory, skip, within, yaml};
use super::wire::{Era, Message, Request, find};

/// What all that hostile callers of a test send may cost at most, whoever else runs in this process.
const MEMORY: usize = 48 * 1024 * 1024;

/// A sidecar before a server that works, and a client that always works.
async fn rig(server: &str, listener: &str) -> (Upstream, Rig, Client) {
    let upstream = Upstream::start(|_, conn| async move { Some(conn) }).await;
    let rig = Rig::of(&yaml(upstream.address, server, listener)).await;
    let client = Client::connect(rig.address, Era::Legacy).await;
    (upstream, rig, client)
}

/// Our own error answer.
fn is_error(answer: &Message, status: u16, cause: &str) {
    assert_eq!(answer.status(), status, "{answer:?}");
    let data = &answer.json()["error"]["data"];
    assert_eq!(
        (&data["cause"], &data["source"]),
        (&json!(cause), &json!("caller"))
    );
    assert!(answer.header("proxy-status").unwrap().contains(cause));
}

#[tokio::test]
async fn a_request_that_is_not_http_is_400_and_the_end_of_its_connection() {
    let (upstream, rig, client) = rig("", "").await;
    for garbage in [
        "\0\u{1}\u{2}garbage\r\n\r\n",
        "POST\r\n\r\n",
        "POST /mcp HTTP/1.1\r\nno colon\r\n\r\n",
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: ten\r\n\r\n",
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut conn = Conn::to(rig.address).await;
        conn.send(garbage).await;
        let told = conn.rest().await;
        assert!(
            told.is_empty() || told.starts_with("HTTP/1.1 400"),
            "{garbage:?}: {told:?}"
        );
        client.echo().await;
    }
    assert_eq!(
        upstream.seen("POST").len(),
        8,
        "initialize and the calls that worked"
    );
}

#[tokio::test]
async fn headers_without_end_are_431_and_cost_little() {
    let (_upstream, rig, client) = rig("", "").await;
    if !is_alone() {
        return;
    }
    let before = memory();
    for line in [
        "x: y\r\n".to_owned(),
        format!("x: {}\r\n", "y".repeat(8000)),
    ] {
        let mut conn = Conn::to(rig.address).await;
        conn.send("POST /mcp HTTP/1.1\r\n").await;
        let mut sent = 0;
        while sent < 1 << 30 && conn.send(&line).await {
            sent += line.len();
        }
        assert!(sent < 32 << 20, "{sent} bytes were taken");
        client.echo().await;
    }
    assert!(memory().saturating_sub(before) < MEMORY);
    // One that stops after its limit and listens is told.
    let mut conn = Conn::to(rig.address).await;
    let head = format!("POST /mcp HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    conn.send(head).await;
    assert!(conn.rest().await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_head_that_trickles_or_never_comes_ends_after_its_time() {
    let (_upstream, rig, client) = rig("", "").await;
    let mut silent = Conn::to(rig.address).await;
    let mut slow = Conn::to(rig.address).await;
    for byte in "POST /mcp HT".bytes() {
        slow.send([byte]).await;
        skip(1).await;
    }
    client.echo().await;
    skip(1).await;
    assert!(!silent.rest().await.contains("200") && !slow.rest().await.contains("200"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_before_it_is_read() {
    let (upstream, rig, client) = rig("", ", maxBodyBytes: 100000").await;
    if !is_alone() {
        return;
    }
    let before = memory();
    // One that says so.
    let mut conn = Conn::to(rig.address).await;
    conn.send("POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100001\r\n\r\n")
        .await;
    is_error(
        &within(conn.message()).await.unwrap(),
        413,
        "body_too_large",
    );
    // One that does not.
    let mut conn = Conn::to(rig.address).await;
    conn.send("POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let part = format!("{:x}\r\n{}\r\n", 50_000, "[".repeat(50_000));
    for _ in 0..3 {
        conn.send(&part).await;
    }
    is_error(
        &within(conn.message()).await.unwrap(),
        413,
        "body_too_large",
    );
    let mut sent = 0;
    while sent < 1 << 30 && conn.send(&part).await {
        sent += part.len();
    }
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    client.echo().await;
    rig.counted("body_too_large").await;
    assert!(memory().saturating_sub(before) < MEMORY);
    assert_eq!(upstream.seen("POST").len(), 2);
}

#[tokio::test]
async fn a_body_that_stops_is_408_after_its_time() {
    let (upstream, rig, client) = rig("", "").await;
    let mut conn = Conn::to(rig.address).await;
    let request = client.tool(&json!(1), "echo").bytes();
    conn.send(&request[..request.len() - 10]).await;
    client.echo().await;
    skip(31).await;
    is_error(&within(conn.message()).await.unwrap(), 408, "body_timeout");
    rig.counted("body_timeout").await;
    assert_eq!(upstream.seen("tools/call").len(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_reaches_nobody() {
    let (upstream, rig, client) = rig("", "").await;
    let request = client.tool(&json!(1), "echo").bytes();
    for left in [1, 10, 60] {
        let mut conn = Conn::to(rig.address).await;
        conn.send(&request[..request.len() - left]).await;
        drop(conn);
        client.echo().await;
    }
    let failed = || async {
        rig.metric("outrigger_requests_total", "outcome=\"cancelled\"")
            .await
            + rig
                .metric("outrigger_errors_total", "body_incomplete")
                .await
    };
    for _ in 0..1000 {
        if failed().await >= 3.0 {
            break;
        }
        skip(1).await;
    }
    assert!(failed().await >= 3.0, "each was counted");
    assert_eq!(upstream.seen("tools/call").len(), 3);
}

#[tokio::test]
async fn a_length_that_is_wrong_smuggles_nothing() {
    let (upstream, rig, client) = rig("", "").await;
    let request = client.tool(&json!(1), "echo");
    let session = client.session.as_deref().unwrap();
    // Shorter than the body: the rest is no request, and is told so.
    let mut conn = Conn::to(rig.address).await;
    let bytes = request.bytes();
    let length = format!("content-length: {}", request.body.len());
    conn.send(bytes.replace(&length, "content-length: 4")).await;
    let told = conn.rest().await;
    assert!(
        told.contains("malformed_json") && told.contains("HTTP/1.1 400"),
        "{told}"
    );
    // Both kinds of framing: never two requests for us and one for another.
    let hidden = Request::legacy(
        Some(session),
        &json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo"}}),
    )
    .bytes();
    let mut conn = Conn::to(rig.address).await;
    conn.send(format!(
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n{}content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
        request.headers,
        5 + hidden.len(),
    ))
    .await;
    let told = conn.rest().await;
    assert!(!told.contains("\"result\""), "{told}");
    client.echo().await;
    assert_eq!(upstream.seen("tools/call").len(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (upstream, rig, client) = rig("", "").await;
    let many: String = (0..50)
        .map(|id| client.tool(&json!(id), "echo").bytes())
        .collect();
    let mut conn = Conn::to(rig.address).await;
    conn.send(many).await;
    for id in 0..50 {
        let answer = within(conn.message()).await.unwrap();
        assert_eq!(answer.json()["id"], id);
    }
    assert_eq!(upstream.seen("tools/call").len(), 50);
}

#[tokio::test]
async fn c50_a_huge_batch_is_refused_whole() {
    let (upstream, rig, client) = rig("", "").await;
    if !is_alone() {
        return;
    }
    let before = memory();
    let part = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
    for (parts, cause) in [(100, "batch_refused"), (50_000, "malformed_message")] {
        let batch = format!("[{}]", vec![part; parts].join(","));
        for request in [
            client.tool(&json!(1), "echo"),
            Request::modern(&json!(1), "tools/call", json!({"name": "echo"})),
        ] {
            let body = batch.clone();
            let answer = client.send(&Request { body, ..request }).await;
            is_error(&answer, 400, cause);
        }
        rig.counted(cause).await;
    }
    assert!(memory().saturating_sub(before) < MEMORY);
    assert!(upstream.seen("tools/call").is_empty());
    client.echo().await;
}

#[tokio::test]
async fn json_of_any_depth_is_an_error_or_passes_and_never_a_crash() {
    let (upstream, rig, client) = rig("", "").await;
    let open = "[".repeat(1 << 20);
    let session = client.session.as_deref();
    let deep = |body: String| Request {
        body,
        ..Request::legacy(session, &Value::Null)
    };
    for body in [
        open.clone(),
        "{\"a\":".repeat(1 << 20),
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{open}"),
        "\"\\ud800".to_owned(),
        "{\"jsonrpc\":\"2.0\",\"id\":1e999999,\"method\":".to_owned(),
        "\u{feff}".to_owned(),
        String::new(),
    ] {
        let answer = client.send(&deep(body)).await;
        is_error(&answer, 400, "malformed_json");
        client.echo().await;
    }
    rig.counted("malformed_json").await;
    // Whole and deep: what is in the parameters is the server's business.
    let depth = 100_000;
    let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let body = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\"arguments\":{nested}}}}}"
    );
    let answer = client.send(&deep(body.clone())).await;
    if answer.status() == 200 {
        let seen = upstream.seen("POST");
        assert!(seen.iter().any(|seen| seen.request.text() == body));
    } else {
        is_error(&answer, 400, "malformed_json");
    }
    client.echo().await;
}

#[tokio::test]
async fn many_silent_connections_harm_nobody_and_cost_little() {
    let (_upstream, rig, client) = rig("", "").await;
    if !is_alone() {
        return;
    }
    let before = memory();
    let mut many = Vec::new();
    for _ in 0..400 {
        let mut conn = Conn::to(rig.address).await;
        conn.send("POST /mcp HTTP/1.1\r\nhost: 127.").await;
        many.push(conn);
    }
    let (one, two) = (client.clone(), client.clone());
    tokio::join!(one.echo(), two.echo());
    assert!(memory().saturating_sub(before) < MEMORY);
    skip(12).await;
    for conn in &mut many {
        let told = conn.rest().await;
        assert!(find(told.as_bytes(), b" 200 ").is_none());
    }
    client.echo().await;
}
