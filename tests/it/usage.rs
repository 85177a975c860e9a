//! How `outrigger run` and its kin are used wrongly, and what they say then.

use std::net::TcpListener;
use std::process::Command;

use crate::support::running::on_free_ports;
use crate::support::tempfile::Folder;
use crate::support::{Program, Reply, Upstream};

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
