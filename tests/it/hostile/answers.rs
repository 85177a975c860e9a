//! Every answer of our own has one shape, whatever its cause, and its request id stands in the access line.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use outrigger::error::Cause;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use super::peer::{Client, Conn, Upstream};
use super::rig::{Rig, eventually, skip, within, yaml};
use super::wire::{Era, LEGACY, MODERN, Message, Request, json_answer, raw_answer, result};

/// What is not provoked here, and why.
const ELSEWHERE: &[&str] = &[
    // They need a network of their own; the connector's tests have them.
    "unreachable",
    "tls_certificate",
    // `limits` and `pool` have them.
    "unauthenticated",
    "address_refused",
    "pool_exhausted",
    "streams_exhausted",
    "too_many_calls",
    // The caller is gone, or cannot be told.
    "body_incomplete",
    // Tests of their layers have them.
    "no_endpoint",
    "stream_idle",
    "total_timeout",
    "overloaded",
    "shutting_down",
    "internal",
];

/// All access lines of this thread.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Walks through causes and checks each answer.
struct Walk {
    lines: Lines,
    met: BTreeSet<&'static str>,
}

impl Walk {
    /// The answer has this status, and says this cause in each place.
    async fn check(&mut self, answer: &Message, status: u16, word: &'static str) {
        let cause = Cause::ALL
            .iter()
            .find(|cause| cause.as_str() == word)
            .unwrap();
        assert_eq!(answer.status(), status, "{word}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let proxy_status = answer.header("proxy-status").unwrap_or_default();
        let expected = format!(
            "outrigger; error={}; details=\"{word}\"",
            cause.proxy_status()
        );
        assert_eq!(proxy_status, expected);
        let body = answer.json();
        assert_eq!(body["jsonrpc"], "2.0");
        assert_eq!(body["error"]["code"], cause.code(), "{word}");
        assert!(body["error"]["message"].is_string());
        let data = &body["error"]["data"];
        assert_eq!(data["cause"], word);
        assert_eq!(data["source"], cause.fault().as_str(), "{word}");
        assert_eq!(data["help"], cause.help(), "{word}");
        assert!(data["retryable"].is_boolean(), "{word}");
        if word != "no_route" {
            assert_eq!(data["server"], "up", "{word}");
        }
        let id = data["requestId"]
            .as_str()
            .unwrap_or_else(|| panic!("{word}: {body}"))
            .to_owned();
        let lines = self.lines.clone();
        let line = eventually(&format!("the access line of {word}"), || {
            let all = lines.0.lock().unwrap().clone();
            let all = String::from_utf8(all).unwrap();
            all.lines()
                .find(|line| line.contains(&id))
                .map(str::to_owned)
        })
        .await;
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["target"], "outrigger::access", "{word}");
        assert_eq!(line["fields"]["cause"], word);
        assert_eq!(line["fields"]["status"], answer.status());
        self.met.insert(cause.as_str());
    }

    /// What the sidecar finds wrong with a request.
    async fn requests(&mut self, rig: &Rig) {
        let modern = Client::connect(rig.address, Era::Modern).await;
        let legacy = Client::connect(rig.address, Era::Legacy).await;
        let call = || modern.tool(&json!(1), "echo");
        let body = |body: &str| Request {
            body: body.to_owned(),
            ..legacy.tool(&json!(1), "echo")
        };
        let replaced = |from: &str, to: &str| {
            let call = call();
            Request {
                headers: call.headers.replace(from, to),
                body: call.body.replace(from, to),
                ..call
            }
        };
        let method = |method| Request {
            method,
            ..Request::get(legacy.session.as_deref().unwrap())
        };
        let old = format!("mcp-protocol-version: {LEGACY}");
        let unheard = Request {
            headers: legacy
                .tool(&json!(1), "echo")
                .headers
                .replace(&old, "mcp-protocol-version: 1999-01-01"),
            ..legacy.tool(&json!(1), "echo")
        };
        let in_header = |from: &str, to: &str| Request {
            headers: call().headers.replace(from, to),
            ..call()
        };
        let envelope = Request {
            body: call()
                .body
                .replace("io.modelcontextprotocol/clientCapabilities", "x"),
            ..call()
        };
        let duplicate = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#;
        for (request, status, cause) in [
            (body("{"), 400, "malformed_json"),
            (body("{}"), 400, "malformed_message"),
            (body(duplicate), 400, "duplicate_key"),
            (
                body(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#),
                400,
                "batch_refused",
            ),
            (method("PUT"), 405, "method_not_allowed"),
            (
                in_header("application/json\r\naccept", "text/plain\r\naccept"),
                415,
                "unsupported_media_type",
            ),
            (
                in_header(
                    "accept: application/json, text/event-stream",
                    "accept: image/png",
                ),
                406,
                "not_acceptable",
            ),
            (
                in_header("mcp-name: echo", "mcp-name: other"),
                400,
                "header_mismatch",
            ),
            (envelope, 400, "envelope_incomplete"),
            (replaced(MODERN, "2099-01-01"), 400, "unsupported_version"),
            (unheard, 400, "bad_version_header"),
            (
                modern.request(&json!(1), "ping", json!({})),
                404,
                "unknown_method",
            ),
            (
                call().with("origin: https://evil.example.com"),
                403,
                "origin_refused",
            ),
            (Request::get("no-such-session"), 404, "session_lost"),
            (modern.tool(&json!(1), "hidden"), 200, "policy_denied"),
        ] {
            let answer = modern.send(&request).await;
            self.check(&answer, status, cause).await;
        }
        for (start, status, cause) in [
            (
                "POST /mcp HTTP/1.1\r\nhost: evil.example.com\r\ncontent-length: 0\r\n\r\n",
                403,
                "host_refused",
            ),
            (
                "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99999999\r\n\r\n",
                413,
                "body_too_large",
            ),
            (
                "POST /nowhere HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n",
                404,
                "no_route",
            ),
            (
                "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
                408,
                "body_timeout",
            ),
        ] {
            let mut conn = Conn::to(rig.address).await;
            conn.send(start).await;
            if cause == "body_timeout" {
                skip(31).await;
            }
            let answer = within(conn.message()).await.unwrap();
            self.check(&answer, status, cause).await;
        }
    }

    /// What goes wrong at the upstream, by the tool that is called.
    async fn upstreams(&mut self, rig: &Rig) {
        for era in [Era::Modern, Era::Legacy] {
            let client = Client::connect(rig.address, era).await;
            for (tool, status, cause) in [
                ("close", 502, "connection_lost"),
                ("garbage", 502, "bad_response"),
                ("500 Oops", 500, "upstream_error"),
                ("429 Slow", 429, "upstream_rate_limited"),
                ("302 Away", 502, "redirected"),
                (
                    "404 Gone",
                    if era == Era::Modern { 502 } else { 404 },
                    if era == Era::Modern {
                        "not_found"
                    } else {
                        "session_lost"
                    },
                ),
                ("403 No", 502, "forbidden"),
                ("401 Who", 502, "unauthorized"),
            ] {
                let answer = client.send(&client.tool(&json!(1), tool)).await;
                self.check(&answer, status, cause).await;
                assert!(!answer.text().contains("words of the server"), "{answer:?}");
            }
            let mut slow = client.open(&client.tool(&json!(1), "silence")).await;
            rig.until("/servers/up/endpoints/0/connections/inUse", 1)
                .await;
            skip(11).await;
            self.check(
                &within(slow.message()).await.unwrap(),
                504,
                "request_timeout",
            )
            .await;
        }
    }

    /// A sidecar on whose first call there is this cause.
    async fn first_call(&mut self, yaml: &str, status: u16, cause: &'static str) {
        let rig = Rig::of(yaml).await;
        let client = Client::connect(rig.address, Era::Modern).await;
        self.check(&client.bad().await, status, cause).await;
    }
}

/// A server that does to each call what the tool's name says.
async fn upstream() -> Upstream {
    Upstream::start(|request, mut conn| async move {
        let body = request.json();
        let tool = body["params"]["name"].as_str().unwrap_or_default().to_owned();
        let answer = match tool.as_str() {
            "close" => return None,
            "silence" => {
                conn.closed().await;
                return None;
            }
            "garbage" => "garbage\r\n\r\n".to_owned(),
            "bad" => json_answer(&result(&body["id"])),
            status => {
                let headers = "content-type: text/plain\r\nretry-after: 3600\r\nlocation: http://evil.example.com/\r\n";
                raw_answer(status, headers, "words of the server")
            }
        };
        conn.send(answer).await;
        None
    })
    .await
}

#[tokio::test]
async fn s0_28_every_answer_of_our_own_has_one_shape_and_its_id_is_in_the_access_line() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(lines.clone())
        .finish();
    // With a single dispatcher, callsites that other tests' threads meet first would be switched off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish());
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let mut walk = Walk {
        lines,
        met: BTreeSet::new(),
    };
    let upstream = upstream().await;
    let times = ", timeouts: {hold: off, request: 10s, methods: {tools/call: 10s}}";
    let server = format!("{times}, tools: {{exclude: [hidden]}}");
    let rig = Rig::of(&yaml(upstream.address, &server, "")).await;
    walk.requests(&rig).await;
    walk.upstreams(&rig).await;

    // A port that nobody listens at any more.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let once = ", timeouts: {hold: off}, retry: {maxAttempts: 1}";
    walk.first_call(&yaml(gone, once, ""), 502, "connection_refused")
        .await;
    let there = yaml(upstream.address, once, "");
    let named = format!("http://{}/", upstream.address);
    // A name that no resolver has to be asked about: its first part is longer than a name's may be.
    let nowhere = format!("http://{}.invalid/", "x".repeat(64));
    let dns = there
        .replace(&named, &nowhere)
        .replace(once, &format!("{once}, allowPlaintext: true"));
    walk.first_call(&dns, 502, "dns").await;
    // Servers without TLS: one answers the handshake in plain text, one waits for more.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = format!("https://{}/", plain.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = plain.accept().await.unwrap();
            let told = tokio::io::AsyncWriteExt::write_all(
                &mut stream,
                b"HTTP/1.1 400 Bad Request\r\n\r\n",
            )
            .await;
            told.unwrap();
        }
    });
    walk.first_call(&there.replace(&named, &tls), 502, "tls_handshake")
        .await;
    let rig = Rig::of(&there.replace(&named, &named.replace("http:", "https:"))).await;
    let client = Client::connect(rig.address, Era::Modern).await;
    let mut waiting = client.open(&client.tool(&json!(1), "bad")).await;
    rig.until("/servers/up/endpoints/0/callsInFlight", 1).await;
    skip(11).await;
    let answer = within(waiting.message()).await.unwrap();
    walk.check(&answer, 504, "connect_timeout").await;

    let secret = std::env::temp_dir().join(format!("outrigger-{}-answers", std::process::id()));
    std::fs::write(&secret, "planted").unwrap();
    let auth = format!(
        ", auth: {{type: bearer, token: {{valueFrom: {{file: \"{}\"}}}}}}",
        secret.display()
    );
    let rig = Rig::of(&yaml(upstream.address, &auth, "")).await;
    let client = Client::connect(rig.address, Era::Modern).await;
    let refused = client.tool(&json!(1), "401 Who");
    walk.check(&client.send(&refused).await, 502, "unauthorized")
        .await;
    walk.check(&client.send(&refused).await, 503, "credential_held")
        .await;
    std::fs::write(&secret, "").unwrap();
    let rig = Rig::of(&yaml(upstream.address, &auth, "")).await;
    let client = Client::connect(rig.address, Era::Modern).await;
    walk.check(&client.bad().await, 503, "credential_missing")
        .await;
    std::fs::remove_file(&secret).unwrap();

    let rig = Rig::of(&yaml(upstream.address, "", ", rateLimit: {perCaller: 1/h}")).await;
    let client = Client::connect(rig.address, Era::Modern).await;
    client.echo().await;
    walk.check(&client.bad().await, 429, "rate_limited").await;

    assert!(ELSEWHERE.iter().all(|cause| !walk.met.contains(cause)));
    let all: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
    let elsewhere = ELSEWHERE.iter().copied().collect();
    let missed: Vec<_> = all
        .difference(&walk.met)
        .filter(|cause| !BTreeSet::contains(&elsewhere, *cause))
        .collect();
    assert!(missed.is_empty(), "not provoked: {missed:?}");
}
