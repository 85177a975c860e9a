//! Who may call, from where, how often and how much: refused at the door, on every path and method, each time anew.

use std::path::PathBuf;

use serde_json::json;

use super::peer::{Client, Conn, Upstream};
use super::rig::{Rig, skip, within, yaml};
use super::wire::{EVENTS, Era, Message, Request};

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// A server whose calls of `slow` and whose streams stay open.
async fn upstream() -> Upstream {
    Upstream::start(|request, mut conn| async move {
        if request.line.starts_with("GET") {
            conn.send(EVENTS).await;
        }
        conn.closed().await;
        None
    })
    .await
}

fn refused(answer: &Message, status: u16, cause: &str) {
    assert_eq!(answer.status(), status, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["error"]["data"]["cause"], cause);
    assert!(body["error"]["data"]["requestId"].is_string());
    assert!(answer.header("proxy-status").unwrap().contains(cause));
}

fn says_when(answer: &Message) {
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    let after = answer.json()["error"]["data"]["retryAfterMs"].as_u64();
    assert!(after.is_some_and(|after| after > 0));
}

#[tokio::test]
async fn calls_at_once_above_a_callers_share_are_429() {
    let upstream = upstream().await;
    for era in ERAS {
        let rig = Rig::of(&yaml(upstream.address, "", ", limits: {concurrency: 1}")).await;
        let client = Client::connect(rig.address, era).await;
        let slow = client.open(&client.tool(&json!("slow"), "slow")).await;
        rig.until("/servers/up/endpoints/0/connections/inUse", 1)
            .await;
        let answer = client.bad().await;
        refused(&answer, 429, "too_many_calls");
        says_when(&answer);
        rig.counted("too_many_calls").await;
        // A stream is no call; a caller may have as many streams.
        if era == Era::Legacy {
            let stream = Request::get(client.session.as_deref().unwrap());
            let mut first = client.open(&stream).await;
            assert_eq!(within(first.head()).await.unwrap().status(), 200);
            let mut second = client.open(&stream).await;
            let answer = within(second.message()).await.unwrap();
            refused(&answer, 429, "too_many_calls");
            assert_eq!(upstream.seen("GET").len(), 1);
        }
        drop(slow);
    }
}

#[tokio::test]
async fn calls_at_once_above_the_servers_share_are_429() {
    let upstream = upstream().await;
    let rig = Rig::start(&upstream, ", limits: {concurrency: 1}").await;
    let client = Client::connect(rig.address, Era::Modern).await;
    let slow = client.open(&client.tool(&json!("slow"), "slow")).await;
    rig.until("/servers/up/endpoints/0/connections/inUse", 1)
        .await;
    let answer = client.bad().await;
    refused(&answer, 429, "too_many_calls");
    says_when(&answer);
    drop(slow);
    rig.until("/servers/up/endpoints/0/connections/inUse", 0)
        .await;
    client.echo().await;
}

#[tokio::test]
async fn calls_above_the_rate_are_429_until_the_time_that_they_are_told() {
    let upstream = upstream().await;
    let rig = Rig::of(&yaml(upstream.address, "", ", rateLimit: {perCaller: 3/m}")).await;
    let client = Client::connect(rig.address, Era::Modern).await;
    for _ in 0..3 {
        client.echo().await;
    }
    let answer = client.bad().await;
    refused(&answer, 429, "rate_limited");
    says_when(&answer);
    rig.counted("rate_limited").await;
    assert_eq!(upstream.seen("tools/call").len(), 3);
    skip(answer.header("retry-after").unwrap().parse().unwrap()).await;
    client.echo().await;
}

/// Every method, on every path of the server, with this header.
async fn everywhere(rig: &Rig, host: &str, header: &str, status: u16, cause: &str) {
    for path in ["/mcp", "/mcp/", "/servers/up/mcp"] {
        for method in ["POST", "GET", "DELETE", "PUT", "OPTIONS", "PATCH"] {
            let mut conn = Conn::to(rig.address).await;
            conn.send(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{header}\r\ncontent-length: 2\r\n\r\n{{}}"))
                .await;
            let answer = within(conn.message()).await.unwrap();
            refused(&answer, status, cause);
        }
    }
    rig.counted(cause).await;
}

#[tokio::test]
async fn c81_a_foreign_origin_is_403_on_every_path_and_method() {
    let upstream = upstream().await;
    let listener = ", allowedOrigins: [\"https://app.example.com\"]";
    let rig = Rig::of(&yaml(upstream.address, "", listener)).await;
    for origin in [
        "https://evil.example.com",
        "null",
        "https://app.example.com.evil.example",
        "garbage",
    ] {
        let header = format!("origin: {origin}");
        everywhere(&rig, "127.0.0.1", &header, 403, "origin_refused").await;
    }
    let client = Client::connect(rig.address, Era::Modern).await;
    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let request = client
            .tool(&json!(1), "echo")
            .with(&format!("origin: {origin}"));
        assert_eq!(client.send(&request).await.status(), 200);
    }
    assert_eq!(upstream.seen("POST").len(), 2);
}

#[tokio::test]
async fn c81_a_foreign_host_is_403_on_every_path_and_method() {
    let upstream = upstream().await;
    let rig = Rig::start(&upstream, "").await;
    for host in ["evil.example.com", "127.0.0.1.evil.example:8000"] {
        everywhere(&rig, host, "x: y", 403, "host_refused").await;
    }
    assert!(upstream.seen("POST").is_empty());
}

#[tokio::test]
async fn an_address_outside_is_403_on_every_path_and_method() {
    let upstream = upstream().await;
    let rig = Rig::of(&yaml(upstream.address, "", ", allowFrom: [10.0.0.0/8]")).await;
    everywhere(
        &rig,
        "127.0.0.1",
        "x-forwarded-for: 10.0.0.1",
        403,
        "address_refused",
    )
    .await;
    assert!(upstream.seen("POST").is_empty());
}

/// A file of its own for a test's secret.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outrigger-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn c92_each_request_shows_its_key_and_a_session_never_stands_for_it() {
    let upstream = upstream().await;
    let (one, two) = (
        File::new("one", "key-of-one"),
        File::new("two", "key-of-two"),
    );
    let listener = format!(
        ", inboundAuth: {{apiKeys: [{{name: one, valueFrom: {{file: \"{}\"}}}}, {{name: two, valueFrom: {{file: \"{}\"}}}}]}}",
        one.0.display(),
        two.0.display()
    );
    let rig = Rig::of(&yaml(upstream.address, "", &listener)).await;
    let client = Client {
        address: rig.address,
        era: Era::Legacy,
        session: None,
    };
    refused(
        &client.send(&Request::initialize()).await,
        401,
        "unauthenticated",
    );
    let mine = "x-api-key: key-of-one";
    let opened = client.send(&Request::initialize().with(mine)).await;
    let session = opened.header("mcp-session-id").unwrap().to_owned();
    let client = Client {
        session: Some(session.clone()),
        ..client
    };
    let call = client.tool(&json!(1), "echo");
    let end = Request {
        method: "DELETE",
        ..Request::get(&session)
    };
    // In a session that is open, again and again.
    for wrong in [
        "x: y",
        "x-api-key: wrong",
        "x-api-key: ",
        "authorization: Bearer wrong",
    ] {
        for request in [&call, &Request::get(&session), &end] {
            let answer = client.send(&request.clone().with(wrong)).await;
            refused(&answer, 401, "unauthenticated");
            assert!(answer.header("www-authenticate").is_some());
        }
        assert_eq!(client.send(&call.clone().with(mine)).await.status(), 200);
    }
    // Another's key opens nothing of mine (C47).
    let other = client
        .send(&call.clone().with("x-api-key: key-of-two"))
        .await;
    refused(&other, 404, "session_lost");
    let modern = Request::modern(&json!(1), "tools/call", json!({"name": "echo"}));
    refused(&client.send(&modern).await, 401, "unauthenticated");
    assert_eq!(client.send(&modern.with(mine)).await.status(), 200);
    rig.counted("unauthenticated").await;
    for seen in upstream.seen("POST") {
        let headers = &seen.request.headers;
        assert!(
            !headers.iter().any(|(_, value)| value.contains("key-of-")),
            "{headers:?}"
        );
    }
}
