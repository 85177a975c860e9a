//! Servers that are only slow: what is held back is committed to a stream with comments, and ends well in it.

use serde_json::{Value, json};

use super::peer::{Client, Conn, Gate, Upstream};
use super::rig::{Rig, skip, within};
use super::wire::{
    EVENTS, Era, LAST_CHUNK, Request, event, json_answer, progress, raw_answer, result,
};

/// How long the servers here are silent, in seconds.
const SILENCE: u64 = 45;

/// A server that holds back everything, its headers too, until the gate opens.
async fn held(answer: impl Into<String>) -> (Upstream, Gate) {
    let gate = Gate::default();
    let (open, answer) = (gate.clone(), answer.into());
    let upstream = Upstream::start(move |_, mut conn| {
        let (open, answer) = (open.clone(), answer.clone());
        async move {
            if !open.opened_before_close(&mut conn).await || answer.is_empty() {
                return None;
            }
            conn.send(answer).await.then_some(conn)
        }
    })
    .await;
    (upstream, gate)
}

/// What comes behind the head of a committed stream: how many comments, and the data of each event.
fn parts(stream: &str) -> (usize, Vec<Value>) {
    let lines = || stream.lines();
    let comments = lines().filter(|line| line.starts_with(':')).count();
    let data = lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str(data).ok())
        .collect();
    (comments, data)
}

/// Calls a tool that is silent for long, and gives the events that its caller got in the end.
async fn call(era: Era, upstream: &Upstream, gate: &Gate) -> Vec<Value> {
    let rig = Rig::start(upstream, "").await;
    let client = Client::connect(rig.address, era).await;
    let mut caller = client.open(&client.tool(&json!("slow-1"), "slow")).await;
    upstream.saw("tools/call").await;
    skip(2).await;
    // Committed: headers and a comment, though the server has said nothing.
    let began = caller.until("\r\n\r\n").await;
    assert!(began.starts_with("HTTP/1.1 200 "), "{began}");
    assert!(began.contains("content-type: text/event-stream"), "{began}");
    assert!(began.contains("x-accel-buffering: no"), "{began}");
    caller.until("\n\n").await;
    skip(SILENCE - 2).await;
    client.echo().await;
    gate.open();
    let answer = within(caller.message()).await.unwrap();
    let (comments, events) = parts(&answer.text());
    assert!(
        comments >= 3,
        "{comments} comments in {SILENCE} s: {answer:?}"
    );
    assert!(upstream.seen("notifications/cancelled").is_empty());
    events
}

#[tokio::test]
async fn c67_late_json_becomes_an_event_after_comments() {
    for era in [Era::Legacy, Era::Modern] {
        let (upstream, gate) = held(json_answer(&result(&json!("slow-1")))).await;
        assert_eq!(
            call(era, &upstream, &gate).await,
            [result(&json!("slow-1"))]
        );
    }
}

#[tokio::test]
async fn c67_late_events_pass_after_comments() {
    for era in [Era::Legacy, Era::Modern] {
        let late = result(&json!("slow-1"));
        let answer = format!("{EVENTS}{}{}{LAST_CHUNK}", event(&progress()), event(&late));
        let (upstream, gate) = held(answer).await;
        assert_eq!(call(era, &upstream, &gate).await, [progress(), late]);
    }
}

#[tokio::test]
async fn a_late_error_of_the_server_becomes_an_event() {
    let error =
        json!({"jsonrpc": "2.0", "id": "slow-1", "error": {"code": -32602, "message": "no"}});
    for era in [Era::Legacy, Era::Modern] {
        let (upstream, gate) = held(json_answer(&error)).await;
        assert_eq!(
            call(era, &upstream, &gate).await,
            std::slice::from_ref(&error)
        );
    }
}

#[tokio::test]
async fn a_late_failure_becomes_an_event_with_its_cause() {
    let html = raw_answer("500 Oops", "content-type: text/html\r\n", "<p>secret</p>");
    for (answer, cause) in [(html.as_str(), "upstream_error"), ("", "connection_lost")] {
        for era in [Era::Legacy, Era::Modern] {
            let (upstream, gate) = held(answer).await;
            let events = call(era, &upstream, &gate).await;
            assert_eq!(events.len(), 1);
            assert_eq!(events[0]["id"], "slow-1");
            assert_eq!(events[0]["error"]["data"]["cause"], cause);
        }
    }
}

#[tokio::test]
async fn a_deadline_of_a_held_call_becomes_an_event() {
    for era in [Era::Legacy, Era::Modern] {
        let (upstream, _gate) = held("").await;
        let rig = Rig::start(&upstream, "").await;
        let client = Client::connect(rig.address, era).await;
        let mut caller = client.open(&client.tool(&json!("slow-1"), "slow")).await;
        upstream.saw("tools/call").await;
        skip(301).await;
        let answer = within(caller.message()).await.unwrap();
        let (comments, events) = parts(&answer.text());
        assert!(comments > 10);
        assert_eq!(events[0]["error"]["data"]["cause"], "request_timeout");
        assert_eq!(events[0]["id"], "slow-1");
    }
}

/// Opens a GET stream that the server has not answered yet.
async fn stream(client: &Client, upstream: &Upstream) -> Conn {
    let session = client.session.as_deref().unwrap();
    let stream = client.open(&Request::get(session)).await;
    upstream.saw("GET").await;
    stream
}

#[tokio::test]
async fn headers_of_a_get_come_after_hold_though_the_server_has_sent_none() {
    let (upstream, gate) = held(format!("{EVENTS}{}", event(&progress()))).await;
    let rig = Rig::start(&upstream, "").await;
    let client = Client::connect(rig.address, Era::Legacy).await;
    let mut get = stream(&client, &upstream).await;
    skip(2).await;
    let began = get.until("\n\n").await;
    assert!(began.starts_with("HTTP/1.1 200 ") && began.contains("text/event-stream"));
    gate.open();
    get.until(&progress().to_string()).await;
}

#[tokio::test]
async fn idle_get_streams_are_never_timed_out() {
    let (upstream, gate) = held(format!("{EVENTS}{}", event(&progress()))).await;
    let timeouts = ", timeouts: {request: 5s, streamIdle: 10s, total: 20s}";
    let rig = Rig::start(&upstream, timeouts).await;
    let client = Client::connect(rig.address, Era::Legacy).await;
    let mut get = stream(&client, &upstream).await;
    skip(60).await;
    gate.open();
    get.until(&progress().to_string()).await;
    // Silent again, far longer than a call might be.
    skip(600).await;
    let seen = upstream.saw("GET").await;
    assert!(!upstream.has_closed(seen.connection));
    assert_eq!(upstream.seen("GET").len(), 1);
    client.echo().await;
    // Its caller ends it, and it ends upstream.
    drop(get);
    upstream.saw_close(seen.connection).await;
}
