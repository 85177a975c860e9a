//! Secrets planted in every place that takes one; none comes out anywhere but at its upstream.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use outrigger::auth::{SecretCell, StaticCredential};
use outrigger::config::Config;
use outrigger::sidecar::{AdminPorts, Sidecar};
use outrigger::{Caller, Secret};

use crate::support::mcp::{in_session, initialize, legacy, modern, modern_body};
use crate::support::running::on_free_ports;
use crate::support::tempfile::Folder;
use crate::support::{Program, Reply, Request, Seen, Upstream, eventually};

/// All begin so, in whatever form they may come out.
const MARK: &str = "planted";
const BEARER: &str = "planted-bearer-1f0a";
const PASSWORD: &str = "planted-password-2f0b";
const HEADER: &str = "planted-header-3f0c";
const API_KEY: &str = "planted-apikey-4f0d";
const INBOUND: &str = "planted-inbound-5f0e";
const WRONG: &str = "planted-wrong-6f0f";
const CALLER: &str = "planted-caller-7f10";
const COOKIE: &str = "planted-cookie-8f11";
const SESSION: &str = "planted-session-9f12";
/// 32 bytes that begin with the mark, in hexadecimal.
const SESSION_KEY: &str = "706c616e7465646b6579706c616e7465646b6579706c616e7465646b6579abcd";

/// What must not be found: the mark, the key, and the mark within what Basic makes of it.
fn leak(text: &str) -> Option<String> {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("robot:{PASSWORD}"));
    for needle in [MARK, SESSION_KEY, basic.as_str()] {
        if let Some(at) = text.find(needle) {
            let from = at.saturating_sub(200);
            return Some(
                String::from_utf8_lossy(&text.as_bytes()[from..text.len().min(at + 80)])
                    .into_owned(),
            );
        }
    }
    None
}

/// What a hostile upstream does with what it was sent: it shows all of it, in headers and in the body.
fn echo(seen: &Seen) -> Reply {
    let all = String::from_utf8_lossy(&seen.head.raw).replace("\r\n", " | ");
    let json = seen.json();
    let how = json["params"]["name"].as_str().unwrap_or_default();
    let reply = match how {
        "401" | "403" | "404" | "407" | "429" | "500" | "502" | "503" => {
            Reply::status(how.parse().unwrap())
        }
        "rpc403" | "rpc404" | "rpc429" | "rpc500" => {
            // A message is passed on; the headers that it comes with speak of our credential.
            return Reply::json(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#)
                .with_status(how[3..].parse().unwrap())
                .header("www-authenticate", &format!("Bearer realm=\"{all}\""))
                .header("proxy-authenticate", &format!("Basic realm=\"{all}\""))
                .header("set-cookie", &format!("token={all}"));
        }
        "302" => Reply::status(302).header("location", &format!("http://127.0.0.1:1/?{all}")),
        "307" => Reply::status(307).header("location", &format!("http://127.0.0.1:1/?{all}")),
        "html" => Reply::status(200),
        "garbage" => return Reply::raw(format!("{all}\r\n\r\n")),
        "header" => return Reply::raw(format!("HTTP/1.1 200 OK\r\nbad header {all}\r\n\r\n")),
        "close" => return Reply::close(),
        _ => {
            let reply = Reply::json(format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}}}}}}"#,
                seen.id()
            ));
            return if seen.method() == "initialize" {
                reply.header("mcp-session-id", SESSION)
            } else {
                reply
            };
        }
    };
    reply
        .header("www-authenticate", &format!("Bearer realm=\"{all}\""))
        .header("x-debug-request", &all)
        .header("set-cookie", &format!("token={all}"))
        .header("content-type", "text/html")
        .body(format!("<pre>{all}</pre>"))
}

/// What is rejected comes last: after that a credential is held back for a while.
const WAYS: [&str; 19] = [
    "well", "rpc403", "rpc404", "rpc429", "rpc500", "404", "407", "429", "500", "502", "503",
    "302", "307", "html", "garbage", "header", "close", "403", "401",
];

fn yaml(folder: &Folder, url: &str) -> String {
    let bearer = folder.file("bearer", BEARER);
    let inbound = folder.file("inbound", INBOUND);
    let key = folder.file("key", SESSION_KEY);
    let text = format!(
        "listeners:\n\
         - listen: '127.0.0.1:0'\n  inboundAuth: {{apiKeys: [{{name: agent, valueFrom: {{file: '{inbound}'}}}}]}}\n\
         sessions: {{key: {{valueFrom: {{file: '{key}'}}}}}}\n\
         observability: {{log: {{level: trace, bodies: {{requests: true, responses: true}}}}, metrics: {{listen: '127.0.0.1:0'}}}}\n\
         servers:\n\
         - {{name: bearer, endpoints: [{{url: '{url}'}}], auth: {{type: bearer, token: {{valueFrom: {{file: '{bearer}'}}}}}}, headers: {{static: [{{name: x-tenant-key, valueFrom: {{env: HEADER}}}}]}}, retry: {{backoff: {{initial: 1ms}}}}}}\n\
         - {{name: basic, endpoints: [{{url: '{url}'}}], auth: {{type: basic, username: robot, password: {{valueFrom: {{env: PASSWORD}}}}}}, retry: {{backoff: {{initial: 1ms}}}}}}\n\
         - {{name: key, endpoints: [{{url: '{url}'}}], auth: {{type: apiKey, key: {{valueFrom: {{env: API_KEY}}}}}}, retry: {{backoff: {{initial: 1ms}}}}}}\n\
         - {{name: own, endpoints: [{{url: '{url}'}}], auth: {{type: passthrough}}, retry: {{backoff: {{initial: 1ms}}}}}}\n\
         - {{name: down, endpoints: [{{url: 'http://127.0.0.1:1/mcp'}}], auth: {{type: bearer, token: {{valueFrom: {{file: '{bearer}'}}}}}}, retry: {{backoff: {{initial: 1ms}}}}}}\n"
    );
    on_free_ports(&text)
}

const SERVERS: [&str; 5] = ["bearer", "basic", "key", "own", "down"];

fn variables() -> [(&'static str, &'static str); 3] {
    [
        ("HEADER", HEADER),
        ("PASSWORD", PASSWORD),
        ("API_KEY", API_KEY),
    ]
}

/// With the caller's own secrets, and at that server.
fn dressed(request: Request, server: &str) -> Request {
    request
        .path(&format!("/servers/{server}/mcp"))
        .header("x-api-key", INBOUND)
        .header("authorization", &format!("Bearer {CALLER}"))
        .header("cookie", &format!("session={COOKIE}"))
}

/// Sends everything that can go wrong, and gives all that callers got to see.
async fn trouble(address: SocketAddr) -> String {
    let mut shown = String::new();
    for server in SERVERS {
        for way in WAYS {
            let name = format!(r#""name":"{way}","arguments":{{}}"#);
            let call =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{name}}}}}"#);
            for request in [modern(modern_body("1", "tools/call", &name)), legacy(call)] {
                let answered = dressed(request, server).fetch(address).await;
                shown += &format!(
                    "== {server} {way}\n{}",
                    String::from_utf8_lossy(&answered.head.raw)
                );
                shown += &answered.text();
            }
        }
    }
    let list = || modern(modern_body("1", "tools/list", ""));
    let wrong = dressed(list(), "bearer").header("x-api-key", WRONG);
    let none = list()
        .path("/servers/bearer/mcp")
        .header("authorization", &format!("Bearer {WRONG}"));
    let lost = dressed(
        in_session(WRONG, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        "basic",
    );
    let nowhere = dressed(list(), "nowhere");
    let half = dressed(
        Request::post(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"#),
        "bearer",
    );
    let origin = dressed(list(), "bearer").header("origin", &format!("http://{WRONG}.example.com"));
    for request in [wrong, none, lost, nowhere, half, origin] {
        let answered = request.fetch(address).await;
        assert!(
            answered.status >= 400,
            "{} {}",
            answered.head.start,
            answered.text()
        );
        shown += &String::from_utf8_lossy(&answered.head.raw);
        shown += &answered.text();
    }
    shown
}

#[tokio::test]
async fn s0_26_c91_planted_secrets_come_out_nowhere_but_at_their_upstream() {
    let upstream = Upstream::start(|seen| async move { echo(&seen) }).await;
    let folder = Folder::new("secrets");
    let config = folder.file("config.yaml", &yaml(&folder, &upstream.url()));
    let mut program = Program::start(&["run", "--config", &config], &variables());
    let (address, admin) = program.serves().await;

    // A session, so that the upstream's id and the key that seals it are in use.
    let opened = dressed(initialize(), "basic").fetch(address).await;
    let session = opened.head.header("mcp-session-id").unwrap().to_owned();
    let mut shown = String::from_utf8_lossy(&opened.head.raw).into_owned();
    let ping = in_session(&session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let answered = dressed(ping, "basic").fetch(address).await;
    assert_eq!(answered.status, 200);
    shown += &String::from_utf8_lossy(&answered.head.raw);
    shown += &trouble(address).await;

    // All of them were in use: the upstream saw each that is meant for it, and none that is not.
    let seen: String = upstream
        .seen()
        .iter()
        .map(|seen| String::from_utf8_lossy(&seen.head.raw).into_owned())
        .collect();
    for secret in [BEARER, HEADER, API_KEY, CALLER, SESSION] {
        assert!(seen.contains(secret), "{secret} was never in use");
    }
    for secret in [INBOUND, COOKIE, WRONG] {
        assert!(!seen.contains(secret), "{secret} is not the upstream's");
    }
    let alien = |seen: &Seen| seen.head.all("authorization").len() > 1;
    assert!(!upstream.seen().iter().any(alien));

    let metrics = Request::get("/metrics").fetch(admin).await.text();
    let status = Request::get("/status").fetch(admin).await.text();
    assert!(metrics.contains("outrigger_") && status.contains("bearer"));
    // A file that cannot be used is told of, with lines of it.
    let literal = std::fs::read_to_string(&config).unwrap();
    let literal = literal.replace("{valueFrom: {env: PASSWORD}}", PASSWORD);
    folder.file("config.yaml", &literal);
    program.writes("the new configuration cannot be used").await;
    let refused = Request::get("/status").fetch(admin).await.text();
    program.signal("TERM");
    let ended = program.ends().await;
    assert!(
        ended.written.contains("outrigger::bodies"),
        "{}",
        ended.written
    );
    for (place, text) in [
        ("an answer", &shown),
        ("the metrics", &metrics),
        ("the status", &status),
        ("the status of a refused file", &refused),
        ("the log", &ended.written),
    ] {
        assert_eq!(leak(text), None, "in {place}");
    }
}

#[tokio::test]
async fn s0_26_debug_output_shows_no_secret() {
    let folder = Folder::new("debug");
    let environment: BTreeMap<String, String> = variables()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let text = yaml(&folder, "http://127.0.0.1:1/mcp");
    let loaded = Config::from_text("debug.yaml", text.as_bytes()).unwrap();
    let sidecar = Sidecar::build_with(&loaded, Box::new(environment)).unwrap();
    let mut shown = format!("{loaded:?} {loaded:#?} {sidecar:?} {sidecar:#?}");
    let bound = sidecar.bind(AdminPorts::AsConfigured).await.unwrap();
    shown += &format!("{bound:?} {:?} {}", bound.handle(), bound.handle().status());

    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in [
        ("MCP_REMOTE_SERVER", "https://mcp.example.com/mcp"),
        ("MCP_REMOTE_BEARER_TOKEN", BEARER),
        ("MCP_REMOTE_HEADER_X_KEY", HEADER),
    ] {
        environment.insert(name.to_owned(), value.to_owned());
    }
    let loaded = Config::from_environment(&environment).unwrap();
    shown += &format!("{loaded:?} {}", loaded.report);
    let sidecar = Sidecar::build_with(&loaded, Box::new(environment)).unwrap();
    shown += &format!("{sidecar:?}");

    let cell = SecretCell::new(Secret::from(BEARER.to_owned()));
    let caller = Caller::named("agent".into()).with_token(Secret::from(CALLER.to_owned()));
    let basic =
        StaticCredential::basic("robot", SecretCell::new(PASSWORD.to_owned().into())).unwrap();
    shown += &format!(
        "{cell:?} {:?} {basic:?} {caller:?}",
        StaticCredential::bearer(cell.clone())
    );
    shown += &format!("{:?}", StaticCredential::api_key(cell));
    assert_eq!(leak(&shown), None);
}

#[tokio::test]
async fn s0_26_a_bearer_token_that_is_rejected_is_told_of_without_it() {
    let upstream = Upstream::start(|seen| async move { echo(&seen) }).await;
    let folder = Folder::new("rejected");
    let token = folder.file("token", BEARER);
    let here = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let url = upstream.url();
    let arguments = [&["run", &url, "--bearer-file", &token][..], &here].concat();
    let mut program = Program::start(&arguments, &[]);
    let (address, _) = program.serves().await;
    let call = modern(modern_body(
        "1",
        "tools/call",
        r#""name":"401","arguments":{}"#,
    ));
    let answered = call.fetch(address).await;
    assert_eq!(answered.status, 502, "a 401 of ours is not the caller's");
    assert_eq!(leak(&answered.text()), None);
    eventually("a warning", || program.written().contains("WARN")).await;
    program.signal("TERM");
    let ended = program.ends().await;
    assert_eq!(leak(&ended.written), None);
}
