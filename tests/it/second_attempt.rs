//! A call that is sent again has an id of its own in the modern era, and its caller never notices.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::mcp::{legacy, modern, modern_body};
use crate::support::{Reply, Request, Running, Seen, Upstream, sidecar};

/// A place where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    format!("http://{}/mcp", listener.local_addr().unwrap())
}

async fn before(first: &str, second: &Upstream) -> Running {
    sidecar(&format!(
        "servers: [{{name: two, endpoints: [{{url: '{first}'}}, {{url: '{}'}}],
          loadBalancing: {{policy: failover}}, retry: {{backoff: {{initial: 1ms}}}}}}]",
        second.url()
    ))
    .await
}

/// A server that answers everything with that status.
async fn answering(status: u16) -> Upstream {
    Upstream::start(move |_| async move {
        Reply::status(status)
            .header("content-type", "text/html")
            .body("<h1>no</h1>")
    })
    .await
}

/// The id of a request as its body spells it, where `whole` is the body with `ID` in the id's place.
fn spelled(seen: &Seen, whole: &str) -> String {
    let (front, back) = whole.split_once("ID").unwrap();
    let body = String::from_utf8(seen.body.clone()).unwrap();
    let id = body
        .strip_prefix(front)
        .and_then(|rest| rest.strip_suffix(back));
    id.unwrap_or_else(|| panic!("more than the id differs: {body}"))
        .to_owned()
}

const JSON: &str =
    r#"{ "result" : {"n":1.0,"tools":[],"id":17,"x":"x\u0031"} , "id" : ID,"jsonrpc":"2.0"}"#;
const EVENTS: &str = ": open\n\nevent: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progress\":5E-1,\"progressToken\":17}}\n\ndata: {\"result\":{\"id\":17,\"n\":1.0,\"tools\":[]},\"jsonrpc\":\"2.0\",\"id\":ID}\n\n";

/// Answers with the id that it sees, spelled as it sees it.
async fn echoing(whole: String, answer: &'static str) -> Upstream {
    Upstream::start(move |seen| {
        let body = answer.replace("ID", &spelled(&seen, &whole));
        async move {
            if answer == EVENTS {
                // The id is cut, wherever it stands.
                Reply::sse_in_pieces(body.as_bytes(), 1)
            } else {
                Reply::json(body)
            }
        }
    })
    .await
}

/// Sends a list whose first attempt fails, with each kind of id and each form of answer.
async fn is_mapped_back(first: &str) {
    for id in [r#""x\u0031""#, "17", "1.0"] {
        for answer in [JSON, EVENTS] {
            let whole = modern_body("ID", "tools/list", r#""cursor":"17","x":1.0"#);
            let second = echoing(whole.clone(), answer).await;
            let sidecar = before(first, &second).await;
            let request = modern(whole.replace("ID", id));
            let answered = sidecar.fetch(&request).await;
            assert_eq!(answered.text(), answer.replace("ID", id));
            let seen = second.seen();
            assert_eq!(seen.len(), 1);
            assert_ne!(
                spelled(&seen[0], &whole),
                id,
                "the second attempt has an id of its own"
            );
            let length = seen[0].header("content-length").unwrap();
            assert_eq!(length, seen[0].body.len().to_string());
        }
    }
}

#[tokio::test]
async fn a_modern_id_is_spliced_and_mapped_back_where_the_first_endpoint_refuses() {
    is_mapped_back(&nobody()).await;
}

#[tokio::test]
async fn a_modern_id_is_spliced_and_mapped_back_where_the_first_endpoint_answers_502() {
    let first = answering(502).await;
    is_mapped_back(&first.url()).await;
    assert_eq!(first.seen().len(), 6);
}

#[tokio::test]
async fn a_legacy_id_stays_as_it_is() {
    let first = answering(502).await;
    for id in [r#""x\u0031""#, "17"] {
        for answer in [JSON, EVENTS] {
            let whole = r#"{"id":ID,"method":"tools/list","jsonrpc":"2.0","params":{"x":1.0}}"#;
            let second = echoing(whole.to_owned(), answer).await;
            let sidecar = before(&first.url(), &second).await;
            let answered = sidecar.fetch(&legacy(whole.replace("ID", id))).await;
            assert_eq!(answered.text(), answer.replace("ID", id));
            assert_eq!(spelled(&second.last(), whole), id);
        }
    }
    assert_eq!(first.seen().len(), 4);
}

/// How often a call arrives anywhere, whose first attempt is answered so, and what its caller gets.
async fn sends(first: Upstream, request: &Request) -> (usize, usize, u16) {
    let second = Upstream::start(|seen| async move {
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#,
            seen.id()
        ))
    })
    .await;
    let sidecar = before(&first.url(), &second).await;
    let answered = sidecar.fetch(request).await;
    (first.seen().len(), second.seen().len(), answered.status)
}

#[tokio::test]
async fn a_tool_call_is_not_sent_again_once_it_may_have_run() {
    let call = modern(modern_body(
        "1",
        "tools/call",
        r#""name":"pay","arguments":{}"#,
    ));
    for status in [502, 503, 504] {
        assert_eq!(sends(answering(status).await, &call).await, (1, 0, status));
    }
    let cut = Upstream::start(|_| async { Reply::close() }).await;
    assert_eq!(sends(cut, &call).await, (1, 0, 502));
    // 429 says that it has not run.
    assert_eq!(sends(answering(429).await, &call).await, (1, 1, 200));
}

#[tokio::test]
async fn what_only_reads_is_sent_again_after_a_cut() {
    let list = modern(modern_body("1", "tools/list", ""));
    let cut = Upstream::start(|_| async { Reply::close() }).await;
    assert_eq!(sends(cut, &list).await, (1, 1, 200));
}

#[tokio::test]
async fn s1_8_a_call_is_sent_three_times_in_all() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let upstream = Upstream::start(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Reply::status(503) }
    })
    .await;
    let sidecar = sidecar(&format!(
        "servers: [{{name: one, endpoints: [{{url: '{}'}}], retry: {{backoff: {{initial: 1ms}}}}}}]",
        upstream.url()
    ))
    .await;
    let answered = sidecar
        .fetch(&modern(modern_body("1", "tools/list", "")))
        .await;
    assert_eq!((answered.status, sent.load(Ordering::SeqCst)), (503, 3));
    assert_eq!(answered.json()["error"]["data"]["source"], "upstream");
}
