//! An upstream that restarts under load: sessions are rebuilt, and nothing runs twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::mcp::{LEGACY, in_session, initialize, legacy, modern, modern_body};
use crate::support::{Reply, Request, Seen, Upstream, eventually, sidecar};

/// A server with real sessions, which forgets them when it is started anew.
struct Server {
    revision: &'static str,
    sessions: Mutex<BTreeSet<String>>,
    initializes: AtomicUsize,
    /// What has run, by the key that its caller gave, over all starts.
    ran: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Server {
    fn new(revision: &'static str, ran: &Arc<Mutex<BTreeMap<String, usize>>>) -> Arc<Self> {
        Arc::new(Self {
            revision,
            sessions: Mutex::default(),
            initializes: AtomicUsize::default(),
            ran: ran.clone(),
        })
    }

    async fn start_at(self: &Arc<Self>, address: SocketAddr) -> Upstream {
        let server = self.clone();
        Upstream::start_at(address, move |seen| {
            let reply = server.reply(&seen);
            async move { reply }
        })
        .await
    }

    fn reply(&self, seen: &Seen) -> Reply {
        let message = seen.json();
        let id = &message["id"];
        if seen.method() == "initialize" {
            let number = self.initializes.fetch_add(1, Ordering::SeqCst);
            // No start gives an id that another one gave.
            let session = format!("{:p}-{number}", std::ptr::from_ref(self));
            self.sessions.lock().unwrap().insert(session.clone());
            let result = json!({
                "protocolVersion": self.revision, "capabilities": {"tools": {}},
                "serverInfo": {"name": "counter", "version": "1"},
            });
            return Reply::json(json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string())
                .header("mcp-session-id", &session);
        }
        let known = seen
            .header("mcp-session-id")
            .is_some_and(|session| self.sessions.lock().unwrap().contains(session));
        if !known {
            return Reply::json(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#)
                .with_status(404);
        }
        if message["id"].is_null() {
            return Reply::status(202);
        }
        let key = message["params"]["name"].as_str().unwrap_or_default();
        *self.ran.lock().unwrap().entry(key.to_owned()).or_default() += 1;
        Reply::json(json!({"jsonrpc": "2.0", "id": id, "result": {"ran": key}}).to_string())
    }
}

const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Opens a session as a client does, and gives the id that the client then has.
async fn open(sidecar: SocketAddr) -> String {
    let answered = initialize().fetch(sidecar).await;
    assert_eq!(answered.status, 200, "{}", answered.text());
    let session = answered.head.header("mcp-session-id").unwrap().to_owned();
    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let answered = in_session(&session, initialized).fetch(sidecar).await;
    assert_eq!(answered.status, 202);
    session
}

/// Calls the tool of that name; says whether it ran, as far as its caller can know.
async fn call(sidecar: SocketAddr, session: &str, name: &str) -> bool {
    let body =
        json!({"jsonrpc": "2.0", "id": name, "method": "tools/call", "params": {"name": name}});
    let answered = in_session(session, body.to_string()).fetch(sidecar).await;
    if let Some(shown) = answered.head.header("mcp-session-id") {
        assert_eq!(shown, session, "the caller's own id stays");
    }
    let json = answered.json();
    assert_eq!(json["id"], name);
    json["result"]["ran"] == name
}

#[tokio::test]
async fn fifty_sessions_are_rebuilt_once_each_and_no_tool_runs_twice() {
    let ran = Arc::default();
    let (old, new) = (Server::new(LEGACY, &ran), Server::new(LEGACY, &ran));
    let upstream = old.start_at(ANYWHERE).await;
    // However slow the machine is: an answer that comes late is no event here.
    let yaml = upstream
        .yaml()
        .replace("}]}]", "}], timeouts: {hold: off}}]");
    let sidecar = sidecar(&yaml).await;
    let (address, place) = (sidecar.address, upstream.address);
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(open(address).await);
    }
    assert_eq!(old.initializes.load(Ordering::SeqCst), 50);

    // Three callers in each session, from before the restart until some time after it.
    let (restarted, succeeded) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut callers = JoinSet::new();
    for (number, session) in sessions.iter().enumerate() {
        for caller in 0..3 {
            let (session, restarted) = (session.clone(), restarted.clone());
            let succeeded = succeeded.clone();
            callers.spawn(async move {
                let mut outcomes = Vec::new();
                let mut after = 0;
                for turn in 0.. {
                    let is_after = restarted.load(Ordering::SeqCst);
                    let name = format!("{number}-{caller}-{turn}");
                    let did = call(address, &session, &name).await;
                    outcomes.push((name, did));
                    if did {
                        succeeded.fetch_add(1, Ordering::SeqCst);
                        after += usize::from(is_after);
                    }
                    if after == 2 {
                        break;
                    }
                }
                outcomes
            });
        }
    }
    eventually("calls before the restart", || {
        succeeded.load(Ordering::SeqCst) >= 200
    })
    .await;
    upstream.kill().await;
    let upstream = new.start_at(place).await;
    restarted.store(true, Ordering::SeqCst);
    let outcomes: Vec<_> = callers.join_all().await.into_iter().flatten().collect();

    assert_eq!(
        new.initializes.load(Ordering::SeqCst),
        50,
        "rebuilt once each"
    );
    assert_eq!(upstream.count("notifications/initialized"), 50);
    let ran = ran.lock().unwrap();
    for (name, did) in &outcomes {
        let times = ran.get(name).copied().unwrap_or_default();
        assert!(times <= 1, "{name} ran {times} times");
        assert!(!did || times == 1, "{name} was answered and never ran");
    }
}

#[tokio::test]
async fn c48_a_session_is_over_where_the_server_came_back_with_another_revision() {
    let ran = Arc::default();
    let (old, new) = (Server::new(LEGACY, &ran), Server::new("2025-06-18", &ran));
    let upstream = old.start_at(ANYWHERE).await;
    let sidecar = sidecar(&upstream.yaml()).await;
    let session = open(sidecar.address).await;
    assert!(call(sidecar.address, &session, "before").await);
    let place = upstream.address;
    upstream.kill().await;
    let _upstream = new.start_at(place).await;
    for name in ["after", "again"] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}"}}}}"#
        );
        let answered = in_session(&session, body).fetch(sidecar.address).await;
        assert_eq!(answered.status, 404, "{}", answered.text());
    }
    let ran: Vec<String> = ran.lock().unwrap().keys().cloned().collect();
    assert_eq!(ran, ["before"]);
    // What the client does next works.
    let session = open(sidecar.address).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"new"}}"#;
    let request = in_session(&session, body).header("mcp-protocol-version", "2025-06-18");
    assert_eq!(
        request.fetch(sidecar.address).await.json()["result"]["ran"],
        "new"
    );
}

/// One of two endpoints: answers, and keeps silent once it is told to.
struct Half {
    silent: AtomicBool,
    waiting: Mutex<BTreeSet<String>>,
    ran: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Half {
    async fn start(self: &Arc<Self>) -> Upstream {
        let half = self.clone();
        Upstream::start(move |seen| {
            let half = half.clone();
            async move { half.reply(&seen) }
        })
        .await
    }

    fn reply(&self, seen: &Seen) -> Reply {
        let message = seen.json();
        let key = format!(
            "{}{}",
            message["params"]["name"], message["params"]["cursor"]
        );
        *self.ran.lock().unwrap().entry(key).or_default() += 1;
        if self.silent.load(Ordering::SeqCst) {
            self.waiting.lock().unwrap().insert(seen.method());
            return Reply::never();
        }
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"tools":[]}}}}"#,
            seen.id()
        ))
    }
}

fn numbered(era: &str, number: usize, turn: usize) -> (bool, String, Request) {
    let repeatable = number.is_multiple_of(2);
    let (method, params) = if repeatable {
        ("tools/list", format!(r#""cursor":"{number}-{turn}""#))
    } else {
        ("tools/call", format!(r#""name":"{number}-{turn}""#))
    };
    let request = if era == "modern" {
        modern(modern_body("1", method, &params))
    } else {
        legacy(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#
        ))
    };
    let key = format!(r#""{number}-{turn}""#);
    let key = if repeatable {
        format!("null{key}")
    } else {
        format!("{key}null")
    };
    (repeatable, key, request)
}

/// Two endpoints under load, one of which is killed while calls of both kinds wait for it.
async fn one_of_two_is_killed(era: &'static str, tool_calls: &str) -> usize {
    let ran: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let half = || {
        Arc::new(Half {
            silent: AtomicBool::default(),
            waiting: Mutex::default(),
            ran: ran.clone(),
        })
    };
    let (dies, lives) = (half(), half());
    let (doomed, other) = (dies.start().await, lives.start().await);
    let sidecar = sidecar(&format!(
        "servers: [{{name: two, endpoints: [{{url: '{}'}}, {{url: '{}'}}],
          retry: {{toolCalls: {tool_calls}, backoff: {{initial: 1ms}}, budget: {{percent: 100, minPerSecond: 100}}}}}}]",
        doomed.url(),
        other.url()
    ))
    .await;
    let address = sidecar.address;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..16 {
        let over = over.clone();
        callers.spawn(async move {
            let mut outcomes = Vec::new();
            let mut turn = 0;
            while !over.load(Ordering::SeqCst) {
                let (repeatable, key, request) = numbered(era, number, turn);
                let answered = request.fetch(address).await;
                let did = answered.status == 200 && answered.json()["result"].is_object();
                outcomes.push((repeatable, key, did));
                turn += 1;
            }
            outcomes
        });
    }
    eventually("load", || ran.lock().unwrap().len() > 100).await;
    dies.silent.store(true, Ordering::SeqCst);
    eventually("calls of both kinds that wait", || {
        dies.waiting.lock().unwrap().len() == 2
    })
    .await;
    doomed.kill().await;
    let then = ran.lock().unwrap().len();
    eventually("load afterwards", || ran.lock().unwrap().len() > then + 100).await;
    over.store(true, Ordering::SeqCst);

    let outcomes = callers.join_all().await;
    let ran = ran.lock().unwrap().clone();
    let mut lost = 0;
    for (repeatable, key, did) in outcomes.into_iter().flatten() {
        let times = ran.get(&key).copied().unwrap_or_default();
        assert!(
            did || !repeatable,
            "{key} was lost, and could have been repeated"
        );
        let once = !repeatable && tool_calls == "never";
        assert!(!once || times <= 1, "{key} ran {times} times");
        assert!(!did || times >= 1, "{key} was answered and never ran");
        lost += usize::from(!did);
    }
    lost
}

#[tokio::test]
async fn an_endpoint_that_dies_under_load_costs_only_what_cannot_be_repeated_modern() {
    let lost = one_of_two_is_killed("modern", "never").await;
    assert!(
        (1..=8).contains(&lost),
        "{lost} lost; 1 to 8 tool calls were waiting"
    );
}

#[tokio::test]
async fn an_endpoint_that_dies_under_load_costs_only_what_cannot_be_repeated_legacy() {
    let lost = one_of_two_is_killed("legacy", "never").await;
    assert!(
        (1..=8).contains(&lost),
        "{lost} lost; 1 to 8 tool calls were waiting"
    );
}

#[tokio::test]
async fn an_endpoint_that_dies_under_load_costs_nothing_where_tools_may_be_repeated() {
    assert_eq!(one_of_two_is_killed("modern", "['*']").await, 0);
}

/// A server with streams, which forgets its sessions when it is started anew.
struct Streaming {
    session: &'static str,
    streams: Mutex<Vec<tokio::sync::mpsc::UnboundedSender<Vec<u8>>>>,
}

impl Streaming {
    async fn start_at(session: &'static str, address: SocketAddr) -> (Arc<Self>, Upstream) {
        let server = Arc::new(Self {
            session,
            streams: Mutex::default(),
        });
        let script = server.clone();
        let upstream = Upstream::start_at(address, move |seen| {
            let reply = script.reply(&seen);
            async move { reply }
        });
        let upstream = upstream.await;
        (server, upstream)
    }

    fn reply(&self, seen: &Seen) -> Reply {
        let id = seen.id();
        if seen.method() == "initialize" {
            let result = format!(
                r#"{{"protocolVersion":"{LEGACY}","capabilities":{{"logging":{{}},"resources":{{"subscribe":true}}}}}}"#
            );
            return Reply::json(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#
            ))
            .header("mcp-session-id", self.session);
        }
        if seen.header("mcp-session-id") != Some(self.session) {
            return Reply::status(404);
        }
        if seen.head.start.starts_with("GET") {
            let (sender, reply) = Reply::events();
            self.streams.lock().unwrap().push(sender);
            return reply;
        }
        if id == "null" {
            return Reply::status(202);
        }
        Reply::json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#))
    }

    async fn sends(&self, event: &str) {
        eventually("a stream", || !self.streams.lock().unwrap().is_empty()).await;
        let streams = self.streams.lock().unwrap();
        assert_eq!(streams.len(), 1);
        streams[0].send(event.into()).unwrap();
    }
}

/// Where each GET asked to go on.
fn resumes(seen: &[Seen]) -> Vec<Option<String>> {
    let gets = seen
        .iter()
        .filter(|seen| seen.head.start.starts_with("GET"));
    gets.map(|seen| seen.header("last-event-id").map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn c54_s1_19_a_get_stream_goes_on_over_a_restart_with_log_level_and_subscriptions() {
    let (server, upstream) = Streaming::start_at("first", ANYWHERE).await;
    let sidecar = sidecar(&upstream.yaml()).await;
    let session = open(sidecar.address).await;
    let level =
        r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}"#;
    let subscribe =
        r#"{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"file:///a"}}"#;
    let others =
        r#"{"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"file:///b"}}"#;
    let leave =
        r#"{"jsonrpc":"2.0","id":4,"method":"resources/unsubscribe","params":{"uri":"file:///b"}}"#;
    for body in [level, subscribe, others, leave] {
        let answered = in_session(&session, body).fetch(sidecar.address).await;
        assert_eq!(answered.status, 200);
    }
    let request = Request::stream().headers([
        ("mcp-session-id", session.as_str()),
        ("mcp-protocol-version", LEGACY),
    ]);
    let mut stream = request.send(sidecar.address).await;
    // The server asks for a short pause, so that nobody waits for the usual one.
    server.sends("retry: 1\nid: a_1\ndata: {\"n\":1}\n\n").await;
    stream.until("{\"n\":1}\n\n").await;
    // The server ends the stream: it is opened again where it ended.
    server.streams.lock().unwrap().clear();
    server.sends("id: a_2\ndata: {\"n\":2}\n\n").await;
    assert_eq!(stream.until("\n\n").await, "id: a_2\ndata: {\"n\":2}\n\n");
    assert_eq!(resumes(&upstream.seen()), [None, Some("a_1".to_owned())]);

    let place = upstream.address;
    upstream.kill().await;
    let (server, upstream) = Streaming::start_at("second", place).await;
    server.sends("id: b_1\ndata: {\"n\":3}\n\n").await;
    stream.until("data: {\"n\":3}\n\n").await;
    assert_eq!(upstream.count("initialize"), 1);
    assert_eq!(upstream.count("notifications/initialized"), 1);
    let seen = upstream.seen();
    // Ids begin anew with the session.
    assert_eq!(resumes(&seen), [Some("a_2".to_owned()), None]);
    let told = |method: &str| -> Vec<serde_json::Value> {
        let these = seen.iter().filter(|seen| seen.method() == method);
        these.map(|seen| seen.json()["params"].clone()).collect()
    };
    assert_eq!(told("logging/setLevel"), [json!({"level": "debug"})]);
    assert_eq!(told("resources/subscribe"), [json!({"uri": "file:///a"})]);
    assert!(!call(sidecar.address, &session, "x").await);
    assert_eq!(upstream.last().header("mcp-session-id"), Some("second"));
}

#[tokio::test]
async fn c48_a_lost_session_is_404_where_none_is_rebuilt() {
    let ran = Arc::default();
    let (old, new) = (Server::new(LEGACY, &ran), Server::new(LEGACY, &ran));
    let upstream = old.start_at(ANYWHERE).await;
    let yaml = upstream
        .yaml()
        .replace("}]}]", "}], sessions: {rebuild: never}}]");
    let sidecar = sidecar(&yaml).await;
    let session = open(sidecar.address).await;
    let place = upstream.address;
    upstream.kill().await;
    let upstream = new.start_at(place).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
    let answered = in_session(&session, body).fetch(sidecar.address).await;
    assert_eq!(answered.status, 404, "{}", answered.text());
    assert_eq!(upstream.count("initialize"), 0);
    assert!(ran.lock().unwrap().is_empty());
}

#[tokio::test]
async fn sessions_of_an_endpoint_that_is_gone_are_rebuilt_at_the_other_and_no_tool_runs_twice() {
    let ran = Arc::default();
    let (here, there) = (Server::new(LEGACY, &ran), Server::new(LEGACY, &ran));
    let (dies, lives) = (
        here.start_at(ANYWHERE).await,
        there.start_at(ANYWHERE).await,
    );
    let sidecar = sidecar(&format!(
        "servers: [{{name: two, endpoints: [{{url: '{}'}}, {{url: '{}'}}], retry: {{backoff: {{initial: 1ms}}}}, timeouts: {{hold: off}}}}]",
        dies.url(),
        lives.url()
    ))
    .await;
    let address = sidecar.address;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(open(address).await);
    }
    let initializes = |server: &Server| server.initializes.load(Ordering::SeqCst);
    assert_eq!((initializes(&here), initializes(&there)), (10, 10));
    dies.kill().await;
    let mut calls = JoinSet::new();
    for (number, session) in sessions.into_iter().enumerate() {
        for caller in 0..3 {
            let session = session.clone();
            calls
                .spawn(async move { call(address, &session, &format!("{number}-{caller}")).await });
        }
    }
    let did = calls.join_all().await;
    assert!(
        did.iter().all(|did| *did),
        "none of them had been sent to where nobody is"
    );
    assert_eq!(
        initializes(&there),
        20,
        "ten of its own, and ten that came over"
    );
    assert!(ran.lock().unwrap().values().all(|times| *times == 1));
    assert_eq!(ran.lock().unwrap().len(), 60);
}
