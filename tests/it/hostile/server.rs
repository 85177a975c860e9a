//! Servers that mean harm: what their callers get, what is counted, what it costs, and that nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::peer::{Client, Conn, Gate, Upstream};
use super::rig::{Rig, is_alone, memory, skip, within};
use super::wire::{
    EVENTS, Era, LAST_CHUNK, Message, chunk, event, json_answer, progress, raw_answer, result,
    unchunk,
};

/// What all hostile answers of a test may cost at most, whoever else runs in this process: a sidecar that kept what it
/// was sent would need many times that.
const MEMORY: usize = 48 * 1024 * 1024;

/// Answers each call that is not `echo` with these bytes, and closes.
async fn answering(bytes: impl Into<Vec<u8>>) -> Upstream {
    let bytes = bytes.into();
    Upstream::start(move |_, mut conn| {
        let bytes = bytes.clone();
        async move {
            conn.send(&bytes).await;
            None
        }
    })
    .await
}

/// An answer that does not end, nor its caller wait: repeats `part` behind `start` until nobody takes it. Counts.
async fn endless(start: &'static str, part: String) -> (Upstream, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let upstream = Upstream::start(move |_, mut conn| {
        let (part, count) = (part.clone(), count.clone());
        async move {
            conn.send(start).await;
            while conn.send(&part).await {
                count.fetch_add(part.len(), Ordering::Relaxed);
            }
            None
        }
    })
    .await;
    (upstream, sent)
}

/// An error answer of ours: its status, and its cause by era.
fn is_error(answer: &Message, status: u16, cause: &str) {
    assert_eq!(answer.status(), status, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["id"], "bad-1");
    assert!(body["error"]["code"].is_i64() && body.get("result").is_none());
    assert_eq!(body["error"]["data"]["cause"], cause);
    assert_eq!(body["error"]["data"]["source"], "upstream");
    let proxy_status = answer.header("proxy-status").unwrap();
    assert!(proxy_status.contains(cause), "{proxy_status}");
}

/// Calls the hostile tool in both eras; each time there is this error, it is counted, and others are unharmed.
async fn fails(upstream: &Upstream, status: u16, cause: &str) {
    let rig = Rig::start(upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let (answer, ()) = tokio::join!(client.bad(), client.echo());
        is_error(&answer, status, cause);
        client.echo().await;
    }
    rig.counted(cause).await;
    // Two calls of the tool, and each was sent once: it may have been executed.
    let bad = |seen: &super::peer::Seen| seen.request.json()["params"]["name"] == "bad";
    let sent = upstream.seen("tools/call");
    assert_eq!(sent.iter().filter(|seen| bad(seen)).count(), 2);
}

#[tokio::test]
async fn garbage_is_a_bad_response() {
    for garbage in [
        "\0\u{1}\u{2} this is not HTTP\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    ] {
        fails(&answering(garbage).await, 502, "bad_response").await;
    }
}

#[tokio::test]
async fn what_is_no_answer_of_an_mcp_server_is_a_bad_response() {
    let html = raw_answer("200 OK", "content-type: text/html\r\n", "<p>Log in</p>");
    fails(&answering(html).await, 502, "bad_response").await;
    let gzip = raw_answer(
        "200 OK",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
        "\u{1f}",
    );
    fails(&answering(gzip).await, 502, "bad_response").await;
}

#[tokio::test]
async fn endless_headers_are_a_bad_response_and_cost_little() {
    if !is_alone() {
        return;
    }
    let before = memory();
    let line = format!("x-more: {}\r\n", "y".repeat(8000));
    let (upstream, sent) = endless("HTTP/1.1 200 OK\r\n", line).await;
    fails(&upstream, 502, "bad_response").await;
    let (upstream, _) = endless("HTTP/1.1 200 OK\r\n", "x: y\r\n".to_owned()).await;
    fails(&upstream, 502, "bad_response").await;
    // What the kernel took is not what we read.
    assert!(sent.load(Ordering::Relaxed) < 32 * 1024 * 1024);
    assert!(memory().saturating_sub(before) < MEMORY);
}

#[tokio::test]
async fn an_endless_error_body_is_replaced_and_costs_little() {
    if !is_alone() {
        return;
    }
    let before = memory();
    let start =
        "HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let (upstream, sent) = endless(start, chunk(&"[".repeat(16 * 1024))).await;
    let rig = Rig::start(&upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let answer = client.bad().await;
        is_error(&answer, 500, "upstream_error");
        client.echo().await;
    }
    rig.counted("upstream_error").await;
    assert!(sent.load(Ordering::Relaxed) < 32 * 1024 * 1024);
    assert!(memory().saturating_sub(before) < MEMORY);
}

/// Reads much of an answer that does not end: in both eras together, twice what it may cost.
async fn passes_and_costs_little(start: &'static str) {
    if !is_alone() {
        return;
    }
    let before = memory();
    let (upstream, sent) = endless(start, chunk(&"x".repeat(64 * 1024))).await;
    let rig = Rig::start(&upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let mut caller = client.open(&client.tool(&json!("bad-1"), "bad")).await;
        let passed = within(caller.skip(MEMORY)).await;
        assert!(passed, "it ended");
        client.echo().await;
        assert!(
            memory().saturating_sub(before) < MEMORY,
            "{} MiB",
            memory() >> 20
        );
        // A caller that takes no more stops the server, not the sidecar's memory.
        let mut last = 0;
        while sent.load(Ordering::Relaxed) > last {
            last = sent.load(Ordering::Relaxed);
            skip(1).await;
        }
        assert!(
            memory().saturating_sub(before) < MEMORY,
            "{} MiB",
            memory() >> 20
        );
        client.echo().await;
    }
}

#[tokio::test]
async fn an_endless_event_passes_and_costs_little() {
    passes_and_costs_little(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n",
    )
    .await;
}

#[tokio::test]
async fn an_endless_json_body_passes_and_costs_little() {
    passes_and_costs_little(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\"\r\n",
    )
    .await;
}

/// Closes after each number of bytes of a whole answer.
async fn closes_everywhere(answer: String) {
    let head = answer.find("\r\n\r\n").unwrap() + 4;
    let is_json = answer.contains("application/json");
    let cut = Arc::new(AtomicUsize::new(0));
    let (at, whole) = (cut.clone(), answer.clone());
    let upstream = Upstream::start(move |_, mut conn| {
        let part = whole[..at.load(Ordering::Relaxed)].to_owned();
        async move {
            conn.send(part).await;
            None
        }
    })
    .await;
    let rig = Rig::start(&upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        for at in 0..answer.len() {
            cut.store(at, Ordering::Relaxed);
            let mut caller = client.open(&client.tool(&json!("bad-1"), "bad")).await;
            let got = within(caller.message()).await.unwrap();
            if at < head || is_json {
                let cause = got.json()["error"]["data"]["cause"].clone();
                assert!(
                    got.status() == 502 && (cause == "connection_lost" || cause == "bad_response"),
                    "after {at} bytes: {got:?}"
                );
                assert_eq!(got.json()["id"], "bad-1");
                assert_eq!(got.json()["error"]["data"]["retryable"], false);
            } else {
                // Whatever came before, the end of it is an answer for the call, in an event of its own.
                let text = got.text();
                let last = text.trim_end().rsplit('\n').next().unwrap();
                let last: Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap();
                let is_whole = last == result(&json!("bad-1"));
                assert!(
                    is_whole || last["error"]["data"]["cause"] == "connection_lost",
                    "after {at} bytes: {text}"
                );
                assert_eq!(last["id"], "bad-1", "after {at} bytes: {text}");
            }
        }
        client.echo().await;
    }
    rig.counted("connection_lost").await;
    let calls = upstream.seen("tools/call");
    let bad = calls
        .iter()
        .filter(|seen| seen.request.json()["id"] == "bad-1");
    assert_eq!(bad.count(), 2 * answer.len(), "none was sent twice");
}

#[tokio::test]
async fn a_json_answer_that_closes_anywhere_is_an_error_for_its_caller() {
    let message = result(&json!("bad-1"));
    closes_everywhere(json_answer(&message)).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\n\r\n{}{LAST_CHUNK}",
        chunk(&message.to_string())
    );
    closes_everywhere(chunked).await;
    // Nothing but the message itself says where this one ends.
    closes_everywhere(format!("{head}connection: close\r\n\r\n{message}")).await;
}

#[tokio::test]
async fn a_long_json_answer_that_breaks_is_cut_so_that_its_caller_sees_it() {
    let long = "x".repeat(200 * 1024);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    for (answer, is_chunked) in [
        (
            format!("{head}content-length: 300000\r\n\r\n\"{long}"),
            false,
        ),
        (
            format!(
                "{head}transfer-encoding: chunked\r\n\r\n{}",
                chunk(&format!("\"{long}"))
            ),
            true,
        ),
    ] {
        let upstream = answering(answer).await;
        let rig = Rig::start(&upstream, "").await;
        for era in [Era::Legacy, Era::Modern] {
            let client = Client::connect(rig.address, era).await;
            let mut caller = client.open(&client.tool(&json!("bad-1"), "bad")).await;
            let head = within(caller.head()).await.unwrap();
            assert_eq!((head.status(), head.is_chunked()), (200, is_chunked));
            let body = caller.rest().await;
            if is_chunked {
                assert!(!unchunk(body.as_bytes()).1, "it has its last chunk");
            } else {
                assert!(body.len() < head.content_length(), "it is whole");
            }
            client.echo().await;
        }
        rig.counted("connection_lost").await;
    }
}

#[tokio::test]
async fn a_json_answer_that_breaks_is_asked_for_again_where_that_repeats_nothing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::start(move |request, mut conn| {
        let is_first = count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move {
            let answer = json_answer(&result(&request.json()["id"]));
            let part = if is_first {
                answer.len() - 1
            } else {
                answer.len()
            };
            conn.send(&answer[..part]).await;
            None
        }
    })
    .await;
    let rig = Rig::start(&upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let list = client.request(&json!("list-1"), "tools/list", json!({}));
        let answer = client.send(&list).await;
        assert_eq!(answer.json()["id"], "list-1");
        assert!(answer.json()["result"].is_object(), "{answer:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_stream_that_ends_without_its_response_ends_with_an_error_event() {
    let answer = format!("{EVENTS}{}{LAST_CHUNK}", event(&progress()));
    let upstream = answering(answer).await;
    let rig = Rig::start(&upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let answer = client.bad().await;
        let text = answer.text();
        assert!(text.contains("notifications/progress"), "{text}");
        let last = text.trim_end().rsplit('\n').next().unwrap();
        let last: Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap();
        assert_eq!(last["id"], "bad-1");
        assert_eq!(last["error"]["data"]["cause"], "connection_lost", "{text}");
        client.echo().await;
    }
    rig.counted("connection_lost").await;
}

#[tokio::test]
async fn a_stream_that_closes_anywhere_ends_with_an_error_event() {
    let answer = format!(
        "{EVENTS}{}{}",
        event(&progress()),
        event(&result(&json!("bad-1")))
    );
    closes_everywhere(answer).await;
}

#[tokio::test]
async fn answers_that_trickle_arrive_whole() {
    let whole = [
        json_answer(&result(&json!("bad-1"))),
        format!(
            "{EVENTS}{}{}0\r\n\r\n",
            event(&progress()),
            event(&result(&json!("bad-1")))
        ),
    ];
    for answer in whole {
        let upstream = Upstream::start(move |_, mut conn| {
            let answer = answer.clone();
            async move {
                for byte in answer.as_bytes() {
                    conn.send([*byte]).await;
                    tokio::task::yield_now().await;
                }
                Some(conn)
            }
        })
        .await;
        let rig = Rig::start(&upstream, "").await;
        for era in [Era::Legacy, Era::Modern] {
            let client = Client::connect(rig.address, era).await;
            let (answer, ()) = tokio::join!(client.bad(), client.echo());
            assert!(
                answer.text().contains(&result(&json!("bad-1")).to_string()),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_with_another_id_passes_and_reaches_nobody_else() {
    let upstream = answering(json_answer(&result(&json!("of-somebody-else")))).await;
    let rig = Rig::start(&upstream, "").await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let (answer, ()) = tokio::join!(client.bad(), client.echo());
        assert_eq!(
            answer.text(),
            result(&json!("of-somebody-else")).to_string()
        );
    }
}

#[tokio::test]
async fn c95_interim_answers_without_end_do_not_stretch_the_deadline() {
    let gate = Gate::default();
    let open = gate.clone();
    let upstream = Upstream::start(move |_, mut conn: Conn| {
        let open = open.clone();
        async move {
            open.open();
            while conn
                .send("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
                .await
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            None
        }
    })
    .await;
    let rig = Rig::start(
        &upstream,
        ", timeouts: {hold: off, request: 5s, methods: {tools/call: 5s}}",
    )
    .await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::connect(rig.address, era).await;
        let mut caller = client.open(&client.tool(&json!("bad-1"), "bad")).await;
        gate.opened().await;
        client.echo().await;
        skip(6).await;
        is_error(
            &within(caller.message()).await.unwrap(),
            504,
            "request_timeout",
        );
    }
    rig.counted("request_timeout").await;
}
