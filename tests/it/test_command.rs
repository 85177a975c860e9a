//! `outrigger test URL` against small servers of every kind: what it prints, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

const TOKEN: &str = "t0p-s3cret";

/// One request as a server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    method: String,
    path: String,
    head: String,
    body: Value,
}

impl Seen {
    fn has_token(&self) -> bool {
        self.head
            .contains(&format!("authorization: Bearer {TOKEN}"))
    }

    /// The method of the message, or else of HTTP.
    fn what(&self) -> &str {
        self.body["method"].as_str().unwrap_or(&self.method)
    }
}

/// What a server answers: status, further header lines, body.
pub(crate) type Said = (u16, String, String);

fn ok(request: &Seen, result: &Value) -> Said {
    let body = json!({"jsonrpc": "2.0", "id": request.body["id"], "result": result});
    (200, String::new(), body.to_string())
}

/// A server on any free port, and what it saw. It serves as long as the test runs.
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(answer: impl Fn(&Seen, u16) -> Said + Send + Sync + 'static) -> Self {
        Self::start_over(answer, |tcp| Box::new(tcp))
    }

    pub(crate) fn start_tls(
        answer: impl Fn(&Seen, u16) -> Said + Send + Sync + 'static,
        config: Arc<ServerConfig>,
    ) -> Self {
        Self::start_over(answer, move |tcp| {
            let tls = ServerConnection::new(config.clone()).unwrap();
            Box::new(StreamOwned::new(tls, tcp))
        })
    }

    fn start_over(
        answer: impl Fn(&Seen, u16) -> Said + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Box<dyn Stream> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, both) = (seen.clone(), Arc::new((answer, wrap)));
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (log, both) = (log.clone(), both.clone());
                std::thread::spawn(move || {
                    let (answer, wrap) = &*both;
                    serve(wrap(tcp), &log, |request| answer(request, port));
                });
            }
        });
        Self { port, seen }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Answers one request, and closes.
fn serve(io: Box<dyn Stream>, log: &Mutex<Vec<Seen>>, answer: impl Fn(&Seen) -> Said) {
    let mut io = BufReader::new(io);
    let Some(request) = read(&mut io) else {
        return;
    };
    log.lock().unwrap().push(request.clone());
    let (status, headers, body) = answer(&request);
    let length = body.len();
    let kind = if headers.contains("content-type") {
        ""
    } else {
        "content-type: application/json\r\n"
    };
    // The client may be gone, which its own output shows.
    let _ = write!(
        io.get_mut(),
        "HTTP/1.1 {status} Said\r\n{kind}connection: close\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    );
    let _ = io.get_mut().flush();
}

fn read(io: &mut impl BufRead) -> Option<Seen> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if io.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    io.read_exact(&mut body).ok()?;
    let mut words = head.split(' ');
    Some(Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        head,
    })
}

/// Runs the command: its exit code and output, with ports and times masked.
fn test(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .arg("test")
        .args(arguments)
        .env("OUTRIGGER_TEST_TOKEN", TOKEN)
        .env_remove("OUTRIGGER_TEST_UNSET")
        .output()
        .unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains(TOKEN), "the token is shown: {text}");
    (output.status.code().unwrap(), masked(&text))
}

fn masked(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = match line.split_once("latency    ") {
            Some((before, after)) => {
                let (_, rest) = after.split_once(" ms").unwrap();
                format!("{before}latency    # ms{rest}")
            }
            None => line.to_owned(),
        };
        let mut rest = line.as_str();
        for host in ["127.0.0.1:", "localhost:"] {
            while let Some((before, after)) = rest.split_once(host) {
                out.push_str(before);
                out.push_str(host.trim_end_matches(':'));
                out.push_str(":PORT");
                rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
            }
        }
        out.push_str(rest);
        out.push('\n');
    }
    out
}

pub(crate) fn modern(request: &Seen, _: u16) -> Said {
    match request.what() {
        "server/discover" => ok(
            request,
            &json!({
                "resultType": "complete", "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}, "prompts": {}}, "ttlMs": 0, "cacheScope": "private",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "wiki\u{1b}[2J", "version": "1.2"}},
            }),
        ),
        _ => ok(request, &json!({"resultType": "complete", "tools": []})),
    }
}

fn legacy(request: &Seen, _: u16) -> Said {
    let (status, headers, body) = match request.what() {
        "initialize" => ok(
            request,
            &json!({
                "protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                "serverInfo": {"name": "wiki", "version": "1.2"},
            }),
        ),
        "ping" => ok(request, &json!({})),
        "notifications/initialized" => (202, String::new(), String::new()),
        "DELETE" => (200, String::new(), String::new()),
        _ => (400, String::new(), "Unexpected message".to_owned()),
    };
    (status, headers + "mcp-session-id: s1\r\n", body)
}

/// A server that wants a login, and the authorization server that it names, in one.
fn login(request: &Seen, port: u16) -> Said {
    let origin = format!("http://127.0.0.1:{port}");
    match request.path.as_str() {
        "/resource" => {
            let document = json!({
                "resource": format!("{origin}/mcp"), "authorization_servers": [origin],
            });
            (200, String::new(), document.to_string())
        }
        "/.well-known/oauth-authorization-server" => {
            let document = json!({
                "issuer": origin,
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "code_challenge_methods_supported": ["S256"],
            });
            (200, String::new(), document.to_string())
        }
        _ => {
            let challenge = format!(
                "WWW-Authenticate: Bearer scope=\"repo read:user\", resource_metadata=\"{origin}/resource\"\r\n"
            );
            (401, challenge, String::new())
        }
    }
}

#[test]
fn s1_18_a_modern_server_is_described_and_its_latency_measured() {
    let server = Server::start(modern);
    let (code, text) = test(&[&server.url()]);
    assert_eq!(
        text,
        "\
http://127.0.0.1:PORT/mcp
  ok    dns        127.0.0.1
  skip  tls        plain http, which does not leave this machine
  ok    mcp        server/discover answered
  ok    era        modern, 2026-07-28; server \"wiki[2J\" 1.2; prompts, tools
  ok    latency    # ms (tools/list, best of 3)

The server works. A sidecar in front of it:
  outrigger run http://127.0.0.1:PORT/mcp
In a file:  servers: [{name: remote, endpoints: [{url: \"http://127.0.0.1:PORT/mcp\"}]}]
"
    );
    assert_eq!(code, 0);
    let seen = server.seen();
    let [discover, rest @ ..] = seen.as_slice() else {
        panic!("nothing was sent");
    };
    assert!(discover.head.contains("mcp-method: server/discover\r\n"));
    assert!(
        discover
            .head
            .contains("mcp-protocol-version: 2026-07-28\r\n")
    );
    assert_eq!(rest.len(), 3);
}

#[test]
fn a_legacy_server_is_described_and_its_session_ended() {
    let server = Server::start(legacy);
    let token = ["--bearer-env", "OUTRIGGER_TEST_TOKEN"];
    let (code, text) = test(&[&server.url(), token[0], token[1], "--allow-plaintext"]);
    assert_eq!(
        text,
        "\
http://127.0.0.1:PORT/mcp
  ok    dns        127.0.0.1
  skip  tls        plain http, which does not leave this machine
  ok    mcp        server/discover is unknown (400), initialize answered
  ok    era        legacy, 2025-06-18, with a session; server \"wiki\" 1.2; tools
  ok    latency    # ms (ping, best of 3)

The server works. A sidecar in front of it:
  outrigger run http://127.0.0.1:PORT/mcp --bearer-env OUTRIGGER_TEST_TOKEN --allow-plaintext
In a file:  servers: [{name: remote, endpoints: [{url: \"http://127.0.0.1:PORT/mcp\"}], \
auth: {type: bearer, token: {valueFrom: {env: OUTRIGGER_TEST_TOKEN}}}, allowPlaintext: true}]
"
    );
    assert_eq!(code, 0);
    let seen = server.seen();
    let what: Vec<_> = seen.iter().map(Seen::what).collect();
    assert_eq!(
        what,
        [
            "server/discover",
            "initialize",
            "notifications/initialized",
            "ping",
            "ping",
            "ping",
            "DELETE"
        ]
    );
    assert!(seen.iter().all(Seen::has_token));
    let in_session = |request: &Seen| request.head.contains("mcp-session-id: s1\r\n");
    assert!(seen.iter().skip(2).all(in_session));
}

#[test]
fn a_server_that_wants_a_login_is_explained() {
    let server = Server::start(login);
    let (code, text) = test(&[&server.url()]);
    assert_eq!(
        text,
        "\
http://127.0.0.1:PORT/mcp
  ok    dns        127.0.0.1
  skip  tls        plain http, which does not leave this machine
  401   mcp        refused: Bearer, scope \"repo read:user\"
  ok    metadata   protected resource → http://127.0.0.1:PORT (issuer matches)
  info  login      authorization code with PKCE S256 and refresh; no device code
  info  client     no dynamic registration, no client id metadata document: you must bring a client id
  skip  era        cannot be known before the server lets us in

The server works. It wants a login, which this version of outrigger cannot do for you. With a token that you have:
  outrigger test http://127.0.0.1:PORT/mcp --bearer-env TOKEN
For a sidecar:  auth: {type: bearer, token: {valueFrom: {env: TOKEN}}}
"
    );
    assert_eq!(code, 3);
}

#[test]
fn s1_23_a_refused_token_is_said_so_and_goes_nowhere_else() {
    let server = Server::start(login);
    let (code, text) = test(&[&server.url(), "--bearer-env", "OUTRIGGER_TEST_TOKEN"]);
    assert!(
        text.contains("  401   mcp        refused: Bearer"),
        "{text}"
    );
    assert!(text.ends_with("refuses this credential: is it the right one, and has it expired?\n"));
    assert_eq!(code, 3);
    for request in server.seen() {
        assert_eq!(request.has_token(), request.path == "/mcp", "{request:?}");
    }
}

#[test]
fn metadata_of_another_resource_is_not_believed() {
    let server = Server::start(|request, port| match request.path.as_str() {
        "/resource" => {
            let document = json!({
                "resource": "https://mcp.example.com/mcp",
                "authorization_servers": [format!("http://127.0.0.1:{port}")],
            });
            (200, String::new(), document.to_string())
        }
        _ => login(request, port),
    });
    let (code, text) = test(&[&server.url()]);
    let line = "  FAIL  metadata   names another resource: \"https://mcp.example.com/mcp\"\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(code, 3);
    assert!(
        !server
            .seen()
            .iter()
            .any(|it| it.path.contains("authorization-server"))
    );
}

#[test]
fn a_path_without_mcp_is_broken() {
    let server = Server::start(|_, _| (404, String::new(), "<html>".to_owned()));
    let (code, text) = test(&[&server.url()]);
    assert_eq!(
        text,
        "\
http://127.0.0.1:PORT/mcp
  ok    dns        127.0.0.1
  skip  tls        plain http, which does not leave this machine
  FAIL  mcp        neither server/discover nor initialize: 404 Not Found

The server answers, and has no MCP endpoint at this path: check the path, often /mcp.
"
    );
    assert_eq!(code, 1);
}

#[test]
fn s1_23_a_refused_connection_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let (code, text) = test(&[&format!("http://127.0.0.1:{port}/mcp")]);
    assert_eq!(
        text,
        "\
http://127.0.0.1:PORT/mcp
  ok    dns        127.0.0.1
  FAIL  connect    Connection refused to http://127.0.0.1:PORT

The server cannot be reached: check that the server runs and that the port in its url is right.
"
    );
    assert_eq!(code, 4);
}

#[test]
fn s3_8_the_timeout_bounds_a_step() {
    let server = Server::start(|_, _| {
        // The thread ends with the process.
        loop {
            std::thread::park();
        }
    });
    let (code, text) = test(&[&server.url(), "--timeout", "200ms"]);
    let line = "  FAIL  mcp        Request timeout: no answer from http://127.0.0.1:PORT\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(code, 4);
}

/// A server's TLS, and its authority as a file's contents.
pub(crate) fn tls() -> (Arc<ServerConfig>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2061, 1, 14);
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (Arc::new(config), certificate.pem())
}

#[test]
fn s1_23_an_unknown_authority_is_a_certificate_problem_until_it_is_named() {
    let (config, authority) = tls();
    let server = Server::start_tls(modern, config);
    let url = format!("https://localhost:{}/mcp", server.port);
    let (code, text) = test(&[&url]);
    let line = "  FAIL  tls        SSL certificate problem at https://localhost:PORT: \
                invalid peer certificate: UnknownIssuer\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(code, 1);
    assert!(server.seen().is_empty());

    let file = std::env::temp_dir().join(format!("outrigger-test-ca-{}.pem", std::process::id()));
    std::fs::write(&file, authority).unwrap();
    let (code, text) = test(&[&url, "--ca-file", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let line = "  ok    tls        TLS 1.3, certificate valid until 2061-01-14\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_is_used_wrongly_sends_nothing() {
    let server = Server::start(modern);
    let url = server.url();
    let beyond = "http://mcp.example.com/mcp";
    for (arguments, says) in [
        (vec![beyond], "plaintext-url"),
        (vec!["mcp.example.com"], "error["),
        (
            vec![&url, "--bearer-env", "OUTRIGGER_TEST_UNSET"],
            "OUTRIGGER_TEST_UNSET",
        ),
        (
            vec![&url, "--bearer-file", "/nonexistent/token"],
            "/nonexistent/token",
        ),
        (
            vec![&url, "--header", "Authorization: Bearer t0p-s3cret"],
            "--header",
        ),
        (vec![&url, "--timeout", "soon"], "--timeout"),
    ] {
        let (code, text) = test(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
    assert!(server.seen().is_empty());
}

#[test]
fn an_old_server_is_told_apart_from_no_server() {
    let server = Server::start(|request, _| {
        if request.method == "GET" && request.head.contains("accept: text/event-stream\r\n") {
            let event = "event: endpoint\ndata: /messages\n\n".to_owned();
            return (200, "content-type: text/event-stream\r\n".to_owned(), event);
        }
        (405, String::new(), String::new())
    });
    let (code, text) = test(&[&server.url()]);
    assert!(text.contains("looks like HTTP+SSE of 2024-11-05"), "{text}");
    assert_eq!(code, 1);
}

#[test]
fn c19_a_modern_server_that_refuses_a_good_request_is_not_asked_to_initialize() {
    for (number, data) in [
        (-32020, json!({})),
        (-32021, json!({"requiredCapabilities": {"roots": {}}})),
        (
            -32022,
            json!({"supported": ["2027-01-01"], "requested": "2026-07-28"}),
        ),
    ] {
        let server = Server::start(move |request, _| {
            let error = json!({"code": number, "message": "not like this", "data": data});
            let body = json!({"jsonrpc": "2.0", "id": request.body["id"], "error": error});
            (400, String::new(), body.to_string())
        });
        let (code, text) = test(&[&server.url()]);
        let line = "  FAIL  mcp        server/discover refused: not like this\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(code, 1);
        assert_eq!(server.seen().len(), 1, "{number}");
    }
}

#[test]
fn c20_c22_whatever_else_a_server_says_to_the_probe_it_is_asked_to_initialize() {
    let unknown = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no"}}"#;
    let legacy_only = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no","data":{"supported":["2025-11-25"]}}}"#;
    for (status, body) in [
        (422, "Unexpected message"),
        (415, ""),
        (400, nameless),
        (404, unknown),
        (200, unknown),
        (400, legacy_only),
        (406, "<html>"),
    ] {
        let server = Server::start(move |request, port| match request.what() {
            "server/discover" => (status, String::new(), body.to_owned()),
            _ => legacy(request, port),
        });
        let (code, text) = test(&[&server.url()]);
        assert_eq!(code, 0, "{status} {body}: {text}");
        let seen = server.seen();
        assert_eq!(seen[1].what(), "initialize", "{status} {body}");
        assert_eq!(seen[1].body["params"]["protocolVersion"], "2025-11-25");
        assert!(
            text.contains("legacy, 2025-06-18, with a session"),
            "{text}"
        );
    }
}

#[test]
fn c25_a_refusal_for_want_of_a_credential_says_nothing_of_the_era() {
    for status in [401, 403] {
        let server = Server::start(move |request, _| {
            // An error that would tell the era, were it not for the status.
            let error = json!({"code": -32601, "message": "no"});
            let body = json!({"jsonrpc": "2.0", "id": request.body["id"], "error": error});
            (status, String::new(), body.to_string())
        });
        let (code, text) = test(&[&server.url()]);
        assert_eq!(code, 3, "{text}");
        let line = "  skip  era        cannot be known before the server lets us in\n";
        assert!(text.contains(line), "{text}");
        assert!(server.seen().iter().all(|it| it.what() != "initialize"));
    }
}

#[test]
fn another_kind_of_credential_is_named_and_the_advice_works() {
    let server = Server::start(|request, port| {
        if request
            .head
            .contains(&format!("authorization: {TOKEN}\r\n"))
        {
            return modern(request, port);
        }
        let challenge = "www-authenticate: Basic realm=\"a, b\"\r\n";
        let status = if request.path == "/mcp" { 401 } else { 404 };
        (status, challenge.to_owned(), String::new())
    });
    let (code, text) = test(&[&server.url()]);
    assert!(
        text.contains("  401   mcp        refused: Basic\n"),
        "{text}"
    );
    assert!(
        text.contains("  info  metadata   none about a protected resource\n"),
        "{text}"
    );
    let advice = "outrigger test http://127.0.0.1:PORT/mcp --header 'Authorization: ${CREDENTIAL}'";
    assert!(text.contains(advice), "{text}");
    assert_eq!(code, 3);
    let header = "Authorization: ${OUTRIGGER_TEST_TOKEN}";
    let (code, text) = test(&[&server.url(), "--header", header]);
    assert_eq!(code, 0, "{text}");
}
