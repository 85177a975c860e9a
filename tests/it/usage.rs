//! How `outrigger run` and its kin are used wrongly, and what they say then.

use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

use crate::support::mcp::{modern, modern_body};
use crate::support::running::{on_free_ports, sidecar};
use crate::support::tempfile::Folder;
use crate::support::{Program, Reply, Upstream, eventually, eventually_async};

const URL: &str = "https://mcp.example.com/mcp";

/// Runs it to its end: the exit code, and what it wrote to standard error.
fn outrigger(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let written = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), written)
}

#[test]
fn what_goes_with_a_url_alone_is_refused_beside_a_file() {
    for argument in [
        ["--bearer-env", "X"],
        ["--bearer-file", "/x"],
        ["--header", "X-A: b"],
    ] {
        let (code, said) =
            outrigger(&["run", "--config", "/nowhere.yaml", argument[0], argument[1]]);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("cannot be used with") && said.contains(argument[0]),
            "{said}"
        );
    }
}

#[test]
fn arguments_that_make_no_sidecar_are_wrong_use() {
    let cases: &[(&[&str], &str)] = &[
        (&["run", "notaurl"], "outrigger run --help"),
        (
            &["run", "nope.yaml"],
            "for a file: outrigger run --config nope.yaml",
        ),
        (&["run", "http://mcp.example.com/mcp"], "plaintext-url"),
        (
            &["run", URL, "--bearer-env", "NOPE"],
            "the variable NOPE is not set",
        ),
        (
            &["run", URL, "--header", "Foo"],
            "a header is 'Name: value'",
        ),
        (
            &["run", URL, "--listen", "8000"],
            "IP and port, such as 127.0.0.1:8000",
        ),
        (
            &["run", URL, "--log-level", "loud"],
            "one of trace, debug, info, warn, error",
        ),
    ];
    for (arguments, expected) in cases {
        let (code, said) = outrigger(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let (code, said) = outrigger(&["run", "--config", "/nowhere.yaml"]);
    assert_eq!(code, Some(1), "a file is no argument: {said}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure_to_speak_of() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["check", "/nowhere.yaml"])
        .env_clear()
        .stdout(pipe_without_a_reader())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut check.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(check.wait().unwrap().code(), Some(1));
    assert_eq!(said, "");
}

fn pipe_without_a_reader() -> std::io::PipeWriter {
    let (_reader, writer) = std::io::pipe().unwrap();
    writer
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_by_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new("usage");
    let server = "servers: [{name: a, endpoints: [{url: \"https://mcp.example.com/mcp\"}]}]\n";
    let free = "\"127.0.0.1:0\"";
    let file = |listen: &str, admin: &str, control: &str| {
        folder.file(
            "config.yaml",
            &format!(
                "listeners: [{{name: agent, listen: {listen}}}]\n\
                 observability: {{metrics: {{listen: {admin}}}}}\n\
                 control: {{listen: {control}}}\n{server}"
            ),
        )
    };
    let quoted = format!("\"{address}\"");
    for (listen, admin, control, key) in [
        (quoted.as_str(), free, free, "listeners[agent].listen"),
        (free, &quoted, free, "observability.metrics.listen"),
        (free, free, &quoted, "control.listen"),
    ] {
        let (code, said) = outrigger(&["run", "--config", &file(listen, admin, control)]);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(&format!("{key}: cannot listen on {address}")),
            "{said}"
        );
    }
    let (code, said) = outrigger(&["run", URL, "--listen", "127.0.0.1:0", "--admin", &address]);
    assert_eq!(code, Some(1), "whoever names a port wants that one: {said}");
}

#[tokio::test]
async fn the_start_says_where_control_is_and_a_warning_has_its_place() {
    let upstream = Upstream::start(|_| async { Reply::json("{}") }).await;
    let folder = Folder::new("usage");
    let config = folder.file("config.yaml", &on_free_ports(&upstream.yaml()));
    let mut program = Program::start(
        &[
            "run",
            "--config",
            &config,
            "--admin",
            "0.0.0.0:0",
            "--log-level",
            "debug",
        ],
        &[],
    );
    let (_, admin) = program.serves().await;
    assert!(
        admin.ip().is_loopback(),
        "an address that can be asked: {admin}"
    );
    program.writes("control at http://127.0.0.1:").await;
    program
        .writes("(POST /reload, POST /drain, PUT /loglevel)")
        .await;

    let program = Program::start(
        &["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        &[
            ("MCP_REMOTE_SERVER", upstream.url().as_str()),
            ("MCP_REMOTE_TIMOUT", "30"),
        ],
    );
    program.writes("place=\"MCP_REMOTE_TIMOUT\"").await;
}

#[tokio::test]
async fn an_endpoint_that_is_put_aside_and_comes_back_is_told_once_each() {
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let folder = Folder::new("usage");
    let config = folder.file(
        "config.yaml",
        &on_free_ports(&format!(
            "servers: [{{name: a, endpoints: [{{url: \"http://{address}/mcp\"}}]}}]\n"
        )),
    );
    let mut program = Program::start(&["run", "--config", &config], &[]);
    let (listener, _) = program.serves().await;
    let call = || modern(modern_body("7", "tools/list", ""));
    call().fetch(listener).await;
    program.writes("an endpoint is put aside").await;
    program.writes("cause=\"connection_refused\"").await;
    let _upstream = Upstream::start_at(address, |seen| async move {
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#,
            seen.id()
        ))
    })
    .await;
    eventually_async("an answer", || async {
        call().fetch(listener).await.status == 200
    })
    .await;
    program.writes("an endpoint is back").await;
    let written = program.written();
    assert_eq!(written.matches("is put aside").count(), 1, "{written}");
    assert_eq!(written.matches("is back").count(), 1, "{written}");
}

#[tokio::test]
async fn calls_that_the_end_of_the_grace_cuts_are_told() {
    let upstream = Upstream::start(|_| async { Reply::never() }).await;
    let folder = Folder::new("usage");
    let config = folder.file(
        "config.yaml",
        &on_free_ports(&format!("shutdown: {{grace: 50ms}}\n{}", upstream.yaml())),
    );
    let mut program = Program::start(&["run", "--config", &config], &[]);
    let (listener, _) = program.serves().await;
    let call = modern(modern_body("7", "tools/call", r#""name":"slow""#));
    let call = tokio::spawn(async move { call.try_send(listener).await });
    eventually("the call", || upstream.count("tools/call") == 1).await;
    program.signal("TERM");
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
    let told = "shutdown.grace is over calls=1 grace=50ms";
    assert!(ended.written.contains(told), "{}", ended.written);
    drop(call);
}

#[tokio::test]
async fn an_empty_secret_and_a_key_that_cannot_be_read_are_named() {
    let folder = Folder::new("usage");
    let empty = folder.file("token", "\n");
    let program = Program::start(
        &[
            "run",
            URL,
            "--bearer-file",
            &empty,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
        &[],
    );
    program
        .writes(&format!(
            "the file is empty; calls fail as credential_missing until it is filled file={empty}"
        ))
        .await;
    std::fs::write(&empty, "t0ken").unwrap();
    program
        .writes(&format!("credential changed file=\"{empty}\""))
        .await;

    let server = "servers: [{name: a, endpoints: [{url: \"https://mcp.example.com/mcp\"}], \
                  auth: {type: bearer, token: {valueFrom: {env: NOPE}}}}]\n";
    let unset = folder.file("unset.yaml", &on_free_ports(server));
    let key = folder.file(
        "key.yaml",
        &on_free_ports("sessions: {key: {valueFrom: {file: /nowhere}}}\n\
                        servers: [{name: a, endpoints: [{url: \"https://mcp.example.com/mcp\"}]}]\n"),
    );
    for (file, expected) in [
        (unset, "servers[a]: variable NOPE is not set"),
        (key, "sessions.key: /nowhere cannot be read, or is empty"),
    ] {
        let (code, said) = outrigger(&["run", "--config", &file]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn a_refused_caller_is_told_which_header_to_use() {
    let folder = Folder::new("usage");
    let key = folder.file("key", "s3cret");
    let upstream = Upstream::start(|_| async { Reply::json("{}") }).await;
    for (header, challenge, headers) in [
        (
            "X-API-Key",
            "Bearer realm=\"outrigger\"",
            json!(["x-api-key", "Authorization: Bearer"]),
        ),
        ("X-Agent", "ApiKey realm=\"outrigger\"", json!(["x-agent"])),
    ] {
        let text = format!(
            "listeners: [{{name: agent, listen: \"127.0.0.1:0\", inboundAuth: {{apiKeys: \
             [{{header: {header}, valueFrom: {{file: {key}}}}}]}}}}]\n{}",
            upstream.yaml()
        );
        let running = sidecar(&text).await;
        let call = modern(modern_body("7", "tools/list", ""));
        let answer = running.fetch(&call).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.head.header("www-authenticate"), Some(challenge));
        let body: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(body["error"]["data"]["headers"], headers, "{body}");
        assert!(
            body["error"]["data"]["help"]
                .as_str()
                .unwrap()
                .contains("error.data.headers")
        );
    }
}

#[test]
fn advice_is_in_the_words_of_where_it_was_typed() {
    let (_, said) = outrigger(&["run", "http://mcp.example.com/mcp"]);
    assert!(
        said.contains("help: use https://, or say --allow-plaintext"),
        "{said}"
    );
    let key = ["run", URL, "--bearer-file", "/x", "--listen", "0.0.0.0:0"];
    let (_, said) = outrigger(&key);
    assert!(said.contains("only a file can let in others"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .arg("run")
        .env_clear()
        .env("MCP_REMOTE_SERVER", "http://mcp.example.com/mcp")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("set MCP_REMOTE_ALLOW_PLAINTEXT=true"),
        "{said}"
    );
    assert!(!said.contains("allowPlaintext"), "{said}");
}
