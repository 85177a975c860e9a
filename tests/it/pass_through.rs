//! Recorded messages of every method, in both eras, cross the default stack byte for byte, both ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::support::mcp::{LEGACY, in_session, initialize, legacy, modern};
use crate::support::{Reply, Request, Running, Upstream, sidecar, soon};

/// Recorded files of an era, by name.
fn recorded(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

fn ending<'a>(files: &'a [(String, Vec<u8>)], end: &'a str) -> Vec<&'a (String, Vec<u8>)> {
    files
        .iter()
        .filter(|(name, _)| name.ends_with(end))
        .collect()
}

/// The method that a file is about.
fn about(name: &str) -> &str {
    name.split('.').next().unwrap()
}

/// A server that answers whatever it was given last, and a sidecar before it.
struct Pair {
    upstream: Upstream,
    sidecar: Running,
    next: Arc<Mutex<Option<Reply>>>,
    wrong: Vec<String>,
}

impl Pair {
    async fn start() -> Self {
        Self::before(Upstream::yaml).await
    }

    async fn before(yaml: impl Fn(&Upstream) -> String) -> Self {
        let next = Arc::new(Mutex::new(None::<Reply>));
        let script = next.clone();
        let upstream = Upstream::start(move |_| {
            let reply = script.lock().unwrap().take();
            async move { reply.unwrap_or_else(|| Reply::status(418)) }
        })
        .await;
        let sidecar = sidecar(&yaml(&upstream)).await;
        Self {
            upstream,
            sidecar,
            next,
            wrong: Vec::new(),
        }
    }

    /// Sends a body, answers it, and notes whatever did not arrive as it was sent.
    async fn crosses(
        &mut self,
        name: &str,
        request: &Request,
        sent: &[u8],
        reply: Reply,
        answer: &[u8],
    ) {
        let kind = reply.kind();
        *self.next.lock().unwrap() = Some(reply);
        let before = self.upstream.seen().len();
        let answered = self.sidecar.fetch(request).await;
        let seen = self.upstream.seen();
        if seen.len() != before + 1 || seen[before].body != sent {
            let arrived = seen
                .get(before)
                .map(|seen| String::from_utf8_lossy(&seen.body).into_owned());
            self.wrong
                .push(format!("{name}: the upstream saw {arrived:?}"));
        }
        if answered.body != answer {
            self.wrong
                .push(format!("{name}: the client saw {}", answered.text()));
        }
        let media = answered.head.header("content-type").map(str::to_owned);
        if (answered.status, media.clone()) != kind {
            let seen = (answered.status, media);
            self.wrong
                .push(format!("{name}: {seen:?} instead of {kind:?}"));
        }
    }

    /// Opens a session, and gives the id that its client has.
    async fn session(&self) -> String {
        let files = recorded("legacy");
        let result = files
            .into_iter()
            .find(|(name, _)| name == "initialize.result.json");
        let reply = Reply::json(result.unwrap().1).header("mcp-session-id", "upstream-1");
        *self.next.lock().unwrap() = Some(reply);
        let answered = self.sidecar.fetch(&initialize()).await;
        answered.head.header("mcp-session-id").unwrap().to_owned()
    }

    fn end(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// Each recorded request of an era with each recorded answer to its method.
async fn requests_and_answers(era: &str, request_of: fn(&str, &[u8]) -> Request) {
    let files = recorded(era);
    let mut pair = Pair::start().await;
    let requests = ending(&files, ".request.json");
    assert!(requests.len() > 10);
    for (name, body) in requests {
        let answers = files.iter().filter(|(answer, _)| {
            let is_json = answer.ends_with(".json");
            let comes_back =
                !answer.ends_with(".request.json") && !answer.ends_with(".notification.json");
            is_json && comes_back && about(answer) == about(name)
        });
        // Some methods are answered with nothing but an empty object, which nobody recorded.
        let empty = (
            "{}".to_owned(),
            br#"{"result" : { },"id":0.0,"jsonrpc":"2.0"}"#.to_vec(),
        );
        for (answer, expected) in answers.chain([&empty]) {
            let case = format!("{era}/{name} <- {answer}");
            let reply = Reply::json(expected.clone());
            pair.crosses(&case, &request_of(name, body), body, reply, expected)
                .await;
        }
    }
    pair.end();
}

fn legacy_request(name: &str, body: &[u8]) -> Request {
    match about(name) {
        // No later revision has batches, and `initialize` comes before any.
        "batch" | "initialize" => Request::post(body),
        _ => legacy(body),
    }
}

#[tokio::test]
async fn legacy_requests_and_json_answers_cross_byte_for_byte() {
    requests_and_answers("legacy", legacy_request).await;
}

#[tokio::test]
async fn modern_requests_and_json_answers_cross_byte_for_byte() {
    requests_and_answers("modern", |_, body| modern(body)).await;
}

#[tokio::test]
async fn c51_legacy_notifications_and_responses_cross_byte_for_byte_and_are_202() {
    let mut pair = Pair::start().await;
    let mut files = recorded("legacy");
    files.retain(|(name, _)| name.ends_with(".notification.json"));
    let mut responses = recorded("legacy/server");
    responses.retain(|(name, _)| name.ends_with(".result.json") || name.ends_with(".error.json"));
    assert!(files.len() > 2 && responses.len() > 2);
    for (name, body) in files.into_iter().chain(responses) {
        pair.crosses(&name, &legacy(body.clone()), &body, Reply::status(202), b"")
            .await;
    }
    pair.end();
}

#[tokio::test]
async fn modern_notifications_cross_byte_for_byte() {
    let mut pair = Pair::start().await;
    let files = recorded("modern");
    for (name, body) in ending(&files, ".notification.json") {
        pair.crosses(name, &modern(body.clone()), body, Reply::status(202), b"")
            .await;
    }
    pair.end();
}

#[tokio::test]
async fn error_answers_with_json_rpc_bodies_cross_byte_for_byte_in_both_eras() {
    let mut pair = Pair::start().await;
    for (era, status, name) in [
        ("modern", 400, "tools-call.header_mismatch.json"),
        ("modern", 400, "tools-call.missing_capability.json"),
        ("modern", 400, "tools-call.unsupported_version.json"),
        ("modern", 404, "tools-call.no-id.error.json"),
        ("modern", 500, "tools-call.no-id.error.json"),
        ("legacy", 500, "tools-call.unreadable.json"),
        ("legacy", 500, "tools-call.error.json"),
    ] {
        let files = recorded(era);
        let find = |name: &str| {
            files
                .iter()
                .find(|(file, _)| file == name)
                .unwrap()
                .1
                .clone()
        };
        let (body, answer) = (find("tools-call.request.json"), find(name));
        let request = if era == "modern" {
            modern(body.clone())
        } else {
            legacy(body.clone())
        };
        let reply = Reply::json(answer.clone()).with_status(status);
        pair.crosses(&format!("{status} {name}"), &request, &body, reply, &answer)
            .await;
    }
    pair.end();
}

#[tokio::test]
async fn c68_streams_of_calls_cross_byte_for_byte_in_both_eras() {
    let mut pair = Pair::start().await;
    let mut streams = 0;
    for era in ["legacy", "modern"] {
        let files = recorded(era);
        for (name, stream) in ending(&files, ".sse") {
            let request = format!("{}.request.json", about(name));
            let Some((_, body)) = files.iter().find(|(file, _)| *file == request) else {
                continue;
            };
            streams += 1;
            let request = if era == "modern" {
                modern(body.clone())
            } else {
                legacy(body.clone())
            };
            pair.crosses(name, &request, body, Reply::sse(stream.clone()), stream)
                .await;
        }
    }
    assert_eq!(streams, 5);
    pair.end();
}

/// Every message that a server begins, as one stream.
fn begun_by_server(era: &str) -> Vec<u8> {
    let mut stream = b": open\n\n".to_vec();
    for (number, (name, message)) in recorded(&format!("{era}/server")).iter().enumerate() {
        if name.ends_with(".request.json") || name.ends_with(".notification.json") {
            stream.extend(format!("event: message\nid: s_{number}\ndata: ").into_bytes());
            stream.extend(String::from_utf8_lossy(message).trim_end().as_bytes());
            stream.extend(b"\n\n");
        }
    }
    stream
}

/// Reads as many bytes of a stream as are expected, piece by piece while the upstream sends it.
async fn streams(request: &Request, pair: &Pair, expected: &[u8]) {
    let (sender, reply) = Reply::events();
    *pair.next.lock().unwrap() = Some(reply);
    let mut answer = soon("the stream", request.send(pair.sidecar.address)).await;
    assert_eq!(answer.status, 200);
    let (mut sent, mut arrived) = (0, Vec::new());
    let text = std::str::from_utf8(expected).unwrap();
    for event in text.split_inclusive("\n\n") {
        sender.send(event.into()).unwrap();
        sent += event.len();
        // Each comes at once, without waiting for the next one.
        while arrived.len() < sent {
            let piece = soon(event, answer.next()).await.unwrap().unwrap();
            arrived.extend(piece);
        }
    }
    assert_eq!(
        String::from_utf8_lossy(&arrived),
        String::from_utf8_lossy(expected)
    );
}

#[tokio::test]
async fn a_legacy_get_stream_crosses_byte_for_byte_within_a_session() {
    let pair = Pair::start().await;
    let session = pair.session().await;
    let request = Request::stream()
        .header("mcp-session-id", &session)
        .header("mcp-protocol-version", LEGACY);
    streams(&request, &pair, &begun_by_server("legacy")).await;
    let recorded_stream = recorded("legacy")
        .into_iter()
        .find(|(name, _)| name == "stream.sse");
    streams(&request, &pair, &recorded_stream.unwrap().1).await;
    assert_eq!(
        pair.upstream.last().header("mcp-session-id"),
        Some("upstream-1")
    );
    // The session goes on after both.
    let ping = br#"{"id":"","jsonrpc":"2.0","method":"ping"}"#;
    let mut pair = pair;
    pair.crosses(
        "ping",
        &in_session(&session, ping),
        ping,
        Reply::json("{}"),
        b"{}",
    )
    .await;
    pair.end();
}

#[tokio::test]
async fn c68_streams_cut_anywhere_cross_byte_for_byte_within_a_session_too() {
    let mut pair = Pair::start().await;
    let session = pair.session().await;
    let files = recorded("legacy");
    for size in [1, 7, 100_000] {
        for (name, stream) in ending(&files, ".sse") {
            // A stream must answer its request: one without an answer ends in an error of ours.
            let id = match name.as_str() {
                "stream.sse" => continue,
                "tools-call.lines.sse" => "1.0",
                _ => r#""a\"b""#,
            };
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo"}}}}"#
            );
            let body = body.as_bytes();
            let reply = Reply::sse_in_pieces(stream, size);
            let request = in_session(&session, body);
            pair.crosses(&format!("{name} by {size}"), &request, body, reply, stream)
                .await;
        }
    }
    pair.end();
}

#[tokio::test]
async fn legacy_messages_cross_byte_for_byte_within_a_session_and_before_two_endpoints() {
    let second = Upstream::start(|_| async { Reply::status(418) }).await;
    let mut pair = Pair::before(|upstream| {
        format!(
            "servers: [{{name: two, endpoints: [{{url: '{}'}}, {{url: '{}'}}], loadBalancing: {{policy: failover}}}}]",
            upstream.url(),
            second.url()
        )
    })
    .await;
    let session = pair.session().await;
    let files = recorded("legacy");
    for (name, body) in ending(&files, ".request.json") {
        if matches!(about(name), "batch" | "initialize") {
            continue;
        }
        let answer = br#"{"result" : { "x":1.0},"id":0.0,"jsonrpc":"2.0"}"#;
        let request = in_session(&session, body.clone());
        pair.crosses(name, &request, body, Reply::json(*answer), answer)
            .await;
    }
    assert!(second.seen().is_empty());
    pair.end();
}

#[tokio::test]
async fn a_modern_listen_stream_crosses_byte_for_byte() {
    let pair = Pair::start().await;
    let files = recorded("modern");
    let (_, body) = files
        .iter()
        .find(|(name, _)| name == "subscriptions-listen.request.json")
        .unwrap();
    streams(&modern(body.clone()), &pair, &begun_by_server("modern")).await;
    assert_eq!(pair.upstream.last().body, *body);
}
