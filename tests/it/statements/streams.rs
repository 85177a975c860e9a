//! Which message comes on which stream, in which order, and how streams end.

use std::sync::{Arc, Mutex};

use tokio::sync::Barrier;
use tokio::sync::mpsc::UnboundedSender;

use super::{NO_HOLD, result, yaml};
use crate::support::client::Answer;
use crate::support::mcp::{LEGACY, in_session, initialize, modern, modern_body};
use crate::support::{Reply, Request, Running, Seen, Upstream, eventually, sidecar, soon};

/// Streams that are open, by what opened them.
type Open = Vec<(String, UnboundedSender<Vec<u8>>)>;

/// A server with one session, whose streams are a test's to feed, by name: `get`, `get after ID`, `call`.
struct Server {
    upstream: Upstream,
    sidecar: Running,
    session: String,
    streams: Arc<Mutex<Open>>,
}

impl Server {
    async fn start() -> Self {
        let streams: Arc<Mutex<Vec<_>>> = Arc::default();
        let open = streams.clone();
        let upstream = Upstream::start(move |seen| {
            let reply = Self::reply(&seen, &open);
            async move { reply }
        })
        .await;
        let sidecar = sidecar(&yaml(&upstream, "")).await;
        let opened = sidecar.fetch(&initialize()).await;
        let session = opened.head.header("mcp-session-id").unwrap().to_owned();
        Self {
            upstream,
            sidecar,
            session,
            streams,
        }
    }

    fn reply(seen: &Seen, open: &Mutex<Open>) -> Reply {
        if seen.method() == "initialize" {
            let says = format!(r#"{{"protocolVersion":"{LEGACY}","capabilities":{{}}}}"#);
            return Reply::json(result(seen, &says)).header("mcp-session-id", "upstream-1");
        }
        let name = match (seen.method().as_str(), seen.header("last-event-id")) {
            ("", None) => "get".to_owned(),
            ("", Some(id)) => format!("get after {id}"),
            _ => "call".to_owned(),
        };
        let (sender, reply) = Reply::events();
        open.lock().unwrap().push((name, sender));
        reply
    }

    /// The stream of that name, once it is open.
    async fn stream(&self, name: &str) -> UnboundedSender<Vec<u8>> {
        let mut found = None;
        eventually(name, || {
            let mut open = self.streams.lock().unwrap();
            let at = open.iter().position(|(each, _)| each == name);
            found = at.map(|at| open.remove(at).1);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn get(&self) -> Answer {
        let get = Request::stream()
            .header("mcp-session-id", &self.session)
            .header("mcp-protocol-version", LEGACY);
        soon("the stream", get.send(self.sidecar.address)).await
    }

    async fn call(&self) -> Answer {
        let body = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"x"}}"#;
        let call = in_session(&self.session, body);
        soon("the call", call.send(self.sidecar.address)).await
    }
}

fn notification(text: &str) -> String {
    format!(
        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"level\":\"info\",\"data\":\"{text}\"}}}}\n\n"
    )
}

const RESPONSE: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":\"c\",\"result\":{}}\n\n";

#[tokio::test]
async fn c52_a_message_comes_on_the_stream_that_the_server_chose_and_on_no_other() {
    let server = Server::start().await;
    let mut get = server.get().await;
    let general = server.stream("get").await;
    let call = server.call().await;
    let own = server.stream("call").await;

    general.send(notification("general").into()).unwrap();
    own.send(notification("of the call").into()).unwrap();
    own.send(RESPONSE.into()).unwrap();
    drop(own);
    let read = soon("the call's end", call.read()).await;
    assert_eq!(read.text(), notification("of the call") + RESPONSE);
    // What comes on the GET stream, up to a message that is later than all others.
    general.send(notification("last").into()).unwrap();
    let read = get.until(&notification("last")).await;
    assert_eq!(read, notification("general") + &notification("last"));
}

#[tokio::test]
async fn c52_a_response_that_is_resumed_by_get_comes_on_its_calls_own_stream() {
    let server = Server::start().await;
    let mut get = server.get().await;
    let general = server.stream("get").await;
    let call = server.call().await;
    let own = server.stream("call").await;
    let begun = format!("retry: 1\nid: e-1\n{}", notification("first"));
    own.send(begun.clone().into()).unwrap();
    // The server ends the connection before it has answered, and gives the rest to whoever asks where it ended.
    drop(own);
    let rest = server.stream("get after e-1").await;
    rest.send(RESPONSE.into()).unwrap();
    drop(rest);
    let read = soon("the call's end", call.read()).await;
    assert_eq!(read.text(), begun + RESPONSE);
    assert_eq!(server.upstream.count("tools/call"), 1);
    general.send(notification("last").into()).unwrap();
    let read = get.until(&notification("last")).await;
    assert_eq!(read, notification("last"));
}

/// A listen stream, with the id of its request for `ID`.
const LISTEN: [&str; 3] = [
    "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{\"notifications\":{\"toolsListChanged\":true},\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":ID}}}\n\n",
    "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":ID}}}\n\n",
    "data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{\"resultType\":\"complete\",\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":ID}}}\n\n",
];

fn listen(id: &str) -> Request {
    let asks = r#""notifications":{"toolsListChanged":true}"#;
    modern(modern_body(id, "subscriptions/listen", asks))
}

#[tokio::test]
async fn c60_a_listen_that_was_sent_again_has_the_callers_id_in_all_its_messages() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen_ids = ids.clone();
    let second = Upstream::start(move |seen| {
        seen_ids.lock().unwrap().push(seen.id());
        let text = LISTEN.concat().replace("ID", &seen.id());
        // Cut wherever it may be.
        async move { Reply::sse_in_pieces(text.as_bytes(), 5) }
    })
    .await;
    let first = Upstream::start(|_| async { Reply::status(503) }).await;
    let sidecar = sidecar(&format!(
        "servers: [{{name: two, endpoints: [{{url: '{}'}}, {{url: '{}'}}],
          loadBalancing: {{policy: failover}}, {NO_HOLD}, retry: {{backoff: {{initial: 1ms}}}}}}]",
        first.url(),
        second.url()
    ))
    .await;
    for id in ["7", r#""x\u0031""#] {
        let read = sidecar.fetch(&listen(id)).await;
        assert_eq!(read.text(), LISTEN.concat().replace("ID", id));
        assert_ne!(ids.lock().unwrap().pop().unwrap(), id, "it was another id");
    }
}

#[tokio::test]
async fn c26_c62_a_drain_ends_a_listen_with_its_result_and_a_get_without_one() {
    let server = Server::start().await;
    let mut get = server.get().await;
    let general = server.stream("get").await;
    let mut listening = soon("the listen", listen("7.0").send(server.sidecar.address)).await;
    let changes = server.stream("call").await;
    general.send(notification("general").into()).unwrap();
    get.until(&notification("general")).await;
    let acknowledged = LISTEN[0].replace("ID", "7.0");
    changes.send(acknowledged.clone().into()).unwrap();
    listening.until(&acknowledged).await;

    server.sidecar.handle.drain();
    let messages = |text: &str| -> Vec<serde_json::Value> {
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap())
            .collect()
    };
    let rest = soon("the listen's end", listening.read()).await.text();
    assert!(rest.contains(r#""id":7.0,"#), "{rest}");
    let result = LISTEN[2].replace("ID", "7.0");
    assert_eq!(messages(&rest), messages(&result), "{rest}");
    let rest = soon("the stream's end", get.read()).await.text();
    assert!(messages(&rest).is_empty(), "{rest}");
}

#[tokio::test]
async fn c64_progress_goes_to_the_call_that_asked_though_others_use_the_same_token() {
    let all_there = Arc::new(Barrier::new(2));
    let upstream = Upstream::start(move |seen| {
        let all_there = all_there.clone();
        async move {
            if seen.method() == "initialize" {
                let says = format!(r#"{{"protocolVersion":"{LEGACY}","capabilities":{{}}}}"#);
                let session = format!("upstream-{}", seen.connection);
                return Reply::json(result(&seen, &says)).header("mcp-session-id", &session);
            }
            all_there.wait().await;
            let name = seen.json()["params"]["name"].as_str().unwrap().to_owned();
            Reply::sse(progress_of(&name))
        }
    })
    .await;
    let sidecar = sidecar(&yaml(&upstream, "")).await;
    let mut calls = Vec::new();
    for name in ["ann", "ben"] {
        let meta = r#""_meta":{"progressToken":1.0"#;
        let params = format!(r#""name":"{name}""#);
        let body = modern_body("1", "tools/call", &params);
        let body = body.replace(r#""_meta":{"#, &format!("{meta},"));
        calls.push((name, modern(body)));
    }
    crossing(&sidecar, calls).await;
    let mut calls = Vec::new();
    for name in ["ann", "ben"] {
        let opened = sidecar.fetch(&initialize()).await;
        let session = opened.head.header("mcp-session-id").unwrap().to_owned();
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","_meta":{{"progressToken":1.0}}}}}}"#
        );
        calls.push((name, in_session(&session, body)));
    }
    crossing(&sidecar, calls).await;
    let tokens = upstream.seen();
    let tokens: Vec<_> = tokens
        .iter()
        .filter(|seen| seen.method() == "tools/call")
        .map(|seen| String::from_utf8_lossy(&seen.body).contains(r#""progressToken":1.0"#))
        .collect();
    assert_eq!(tokens, [true; 4]);
}

/// Three steps and the result, of the call of that name.
fn progress_of(name: &str) -> String {
    let step = |n: usize| {
        format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":1.0,\"progress\":{n},\"message\":\"{name}\"}}}}\n\n"
        )
    };
    let result = format!(
        "data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[],\"name\":\"{name}\"}}}}\n\n"
    );
    step(1) + &step(2) + &step(3) + &result
}

/// Two calls at once; each gets its own and nothing else.
async fn crossing(sidecar: &Running, calls: Vec<(&str, Request)>) {
    let [(first, one), (second, two)] = <[_; 2]>::try_from(calls).unwrap();
    let (one, two) = tokio::join!(sidecar.fetch(&one), sidecar.fetch(&two));
    assert_eq!(one.text(), progress_of(first));
    assert_eq!(two.text(), progress_of(second));
}
