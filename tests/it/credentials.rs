//! What reaches the upstream when variables alone configure it, and what refuses to start.

use crate::support::mcp::{modern, modern_body};
use crate::support::running::{Running, from_environment, on_free_ports};
use crate::support::tempfile::Folder;
use crate::support::{Program, Reply, Request, Upstream};

async fn server() -> Upstream {
    Upstream::start(|seen| async move {
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"tools":[]}}}}"#,
            seen.id()
        ))
    })
    .await
}

/// A sidecar that variables alone configure, but for its ports.
async fn by_environment(upstream: &Upstream, variables: &[(&str, &str)]) -> Running {
    from_environment(&upstream.url(), variables).await
}

fn list() -> Request {
    modern(modern_body("1", "tools/list", ""))
}

#[tokio::test]
async fn s0_5_a_bearer_token_is_on_all_requests_in_place_of_the_callers() {
    let upstream = server().await;
    let sidecar = by_environment(&upstream, &[("MCP_REMOTE_BEARER_TOKEN", "service")]).await;
    for request in [list(), list().header("authorization", "Bearer mine")] {
        assert_eq!(sidecar.fetch(&request).await.status, 200);
        assert_eq!(
            upstream.last().head.all("authorization"),
            ["Bearer service"]
        );
    }
}

#[tokio::test]
async fn s0_6_a_bearer_token_comes_from_a_file() {
    let upstream = server().await;
    let folder = Folder::new("s0-6");
    let file = folder.file("remote-token", "from-file\n");
    let sidecar = by_environment(&upstream, &[("MCP_REMOTE_BEARER_TOKEN_FILE", &file)]).await;
    assert_eq!(sidecar.fetch(&list()).await.status, 200);
    assert_eq!(
        upstream.last().head.all("authorization"),
        ["Bearer from-file"]
    );
}

#[tokio::test]
async fn s0_8_s0_9_the_callers_token_goes_on_and_the_anonymous_one_stands_in() {
    let upstream = server().await;
    let sidecar = by_environment(&upstream, &[("MCP_REMOTE_ANON_BEARER_TOKEN", "anyone")]).await;
    sidecar.fetch(&list()).await;
    assert_eq!(upstream.last().head.all("authorization"), ["Bearer anyone"]);
    sidecar
        .fetch(&list().header("authorization", "Bearer mine"))
        .await;
    assert_eq!(upstream.last().head.all("authorization"), ["Bearer mine"]);
}

#[tokio::test]
async fn s0_9_without_any_token_the_callers_own_goes_on() {
    let upstream = server().await;
    let sidecar = by_environment(&upstream, &[]).await;
    sidecar.fetch(&list()).await;
    assert_eq!(upstream.last().header("authorization"), None);
    sidecar
        .fetch(&list().header("authorization", "Bearer mine"))
        .await;
    assert_eq!(upstream.last().head.all("authorization"), ["Bearer mine"]);
}

#[tokio::test]
async fn s0_10_s0_11_static_and_forwarded_headers_arrive_and_no_others() {
    let upstream = server().await;
    let sidecar = by_environment(
        &upstream,
        &[
            ("MCP_REMOTE_HEADER_X_API_KEY", "key"),
            ("MCP_REMOTE_HEADER_X_API_VERSION", "v1"),
            ("MCP_REMOTE_HEADER_X_EMPTY", ""),
            (
                "MCP_REMOTE_SERVER_FORWARD_HEADERS",
                "X-Request-ID, X-Correlation-ID,User-Agent",
            ),
        ],
    )
    .await;
    let request = list().headers([
        ("x-request-id", "r-1"),
        ("user-agent", "agent/1"),
        ("x-api-version", "v9"),
        ("x-other", "stays"),
        ("cookie", "a=b"),
    ]);
    assert_eq!(sidecar.fetch(&request).await.status, 200);
    let seen = upstream.last();
    for (name, value) in [
        ("x-api-key", Some("key")),
        ("x-api-version", Some("v1")),
        ("x-request-id", Some("r-1")),
        ("user-agent", Some("agent/1")),
        ("x-correlation-id", None),
        ("x-empty", None),
        ("x-other", None),
        ("cookie", None),
    ] {
        assert_eq!(seen.head.all(name), Vec::from_iter(value), "{name}");
    }
}

#[tokio::test]
async fn s0_17_the_base_path_is_where_the_server_is() {
    let upstream = server().await;
    let sidecar = by_environment(&upstream, &[("MCP_BASE_PATH", "/api/github")]).await;
    for path in ["/api/github", "/api/github/", "/api/github/mcp", "/mcp"] {
        let answered = sidecar.fetch(&list().path(path)).await;
        assert_eq!(answered.status, 200, "{path}: {}", answered.text());
        assert_eq!(upstream.last().target(), "/mcp");
    }
    for path in ["/api/gitlab", "/api", "/api/github/other", "/api/githubs"] {
        let answered = sidecar.fetch(&list().path(path)).await;
        assert_eq!(answered.status, 404, "{path}");
        assert_eq!(answered.json()["error"]["data"]["cause"], "no_route");
    }
    assert_eq!(upstream.seen().len(), 4);
}

#[tokio::test]
async fn s0_2_s0_4_the_program_starts_by_variables_alone_and_warns_that_it_is_open() {
    let upstream = server().await;
    // No variable names the control port, so one that is taken must not keep anybody from starting.
    let _taken = std::net::TcpListener::bind("127.0.0.1:9465");
    let mut program = Program::start(
        &["run", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"],
        &[
            ("MCP_REMOTE_SERVER", &upstream.url()),
            ("MCP_REMOTE_BEARER_TOKEN", "hunter2-token"),
        ],
    );
    let (address, _) = program.serves().await;
    assert!(address.ip().is_unspecified());
    let address = ([127, 0, 0, 1], address.port()).into();
    assert_eq!(list().fetch(address).await.status, 200);
    assert_eq!(
        upstream.last().head.all("authorization"),
        ["Bearer hunter2-token"]
    );
    program.writes("open-proxy").await;
    program.signal("TERM");
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0));
    assert!(!ended.written.contains("hunter2"), "{}", ended.written);
}

/// Starts the program with that file, which it must refuse; gives what it says.
async fn refused(yaml: &str) -> String {
    let folder = Folder::new("refused");
    let config = folder.file("config.yaml", &on_free_ports(yaml));
    let ended = Program::start(&["run", "--config", &config], &[("TOKEN", "hunter2")])
        .ends()
        .await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.written);
    assert!(!ended.written.contains("hunter2"));
    assert!(!ended.written.contains("listening on"), "{}", ended.written);
    ended.written
}

const OPEN: &str = "listeners: [{listen: '0.0.0.0:0'ALLOW}]
servers: [{name: a, endpoints: [{url: 'http://127.0.0.1:9/mcp'}], auth: {type: bearer, token: {valueFrom: {env: TOKEN}}}}]
";

#[tokio::test]
async fn an_open_proxy_is_refused_at_start_unless_it_is_meant() {
    let said = refused(&OPEN.replace("ALLOW", "")).await;
    assert!(
        said.contains("inboundAuth") && said.contains("allowUnauthenticated: true"),
        "{said}"
    );
    // A secret in a header is a credential too.
    let header = OPEN.replace(
        "auth: {type: bearer, token: {valueFrom: {env: TOKEN}}}",
        "headers: {static: [{name: x-key, valueFrom: {env: TOKEN}}]}",
    );
    let said = refused(&header.replace("ALLOW", "")).await;
    assert!(said.contains("allowUnauthenticated: true"), "{said}");

    let folder = Folder::new("meant");
    for meant in [
        OPEN.replace("ALLOW", ", allowUnauthenticated: true"),
        OPEN.replace(
            "ALLOW",
            ", inboundAuth: {apiKeys: [{valueFrom: {env: TOKEN}}]}",
        ),
        OPEN.replace("ALLOW", "").replace("0.0.0.0", "127.0.0.1"),
    ] {
        let config = folder.file("config.yaml", &on_free_ports(&meant));
        let variables = [("TOKEN", "hunter2")];
        Program::start(&["run", "--config", &config], &variables)
            .serves()
            .await;
    }
}

#[tokio::test]
async fn s0_24_plaintext_beyond_loopback_is_refused_unless_it_is_said() {
    let plain = "servers: [{name: a, endpoints: [{url: 'http://192.0.2.1/mcp'}]MORE}]";
    let said = refused(&plain.replace("MORE", "")).await;
    assert!(said.contains("allowPlaintext"), "{said}");
    let folder = Folder::new("plain");
    let said = plain.replace("MORE", ", allowPlaintext: true");
    let config = folder.file("config.yaml", &on_free_ports(&said));
    Program::start(&["run", "--config", &config], &[])
        .serves()
        .await;
    let ended = Program::start(&["run", "http://192.0.2.1/mcp"], &[])
        .ends()
        .await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.written);
}

#[tokio::test]
async fn s0_26_a_token_among_the_arguments_is_refused_and_not_repeated() {
    for option in ["--bearer", "--token", "--bearer-token"] {
        let arguments = ["run", "https://mcp.example.com/mcp", option, "hunter2"];
        let ended = Program::start(&arguments, &[]).ends().await;
        assert_eq!(ended.status.code(), Some(2), "{}", ended.written);
        assert!(ended.written.contains("--bearer-env"), "{}", ended.written);
        assert!(!ended.written.contains("hunter2"), "{}", ended.written);
    }
    let ended = Program::start(&["run", "https://user:hunter2@mcp.example.com/mcp"], &[])
        .ends()
        .await;
    assert_ne!(ended.status.code(), Some(0));
    assert!(!ended.written.contains("hunter2"), "{}", ended.written);
}

#[tokio::test]
async fn a_url_alone_takes_its_token_from_a_variable_or_a_file() {
    let upstream = server().await;
    let folder = Folder::new("url");
    let file = folder.file("token", "from-file");
    let url = upstream.url();
    let here = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    for (more, authorization, header) in [
        (&[][..], None, None),
        (
            &["--bearer-env", "TOKEN"][..],
            Some("Bearer from-env"),
            None,
        ),
        (
            &["--bearer-file", &file][..],
            Some("Bearer from-file"),
            None,
        ),
        (&["--header", "X-Tenant: ${TENANT}"][..], None, Some("acme")),
    ] {
        let arguments = [&["run", &url][..], &here, more].concat();
        let variables = [("TOKEN", "from-env"), ("TENANT", "acme")];
        let mut program = Program::start(&arguments, &variables);
        let (address, _) = program.serves().await;
        assert_eq!(list().fetch(address).await.status, 200);
        assert_eq!(upstream.last().header("authorization"), authorization);
        assert_eq!(upstream.last().header("x-tenant"), header);
    }
    let arguments = ["run", &url, "--bearer-env", "UNSET"];
    let ended = Program::start(&arguments, &[]).ends().await;
    assert_ne!(ended.status.code(), Some(0));
    assert!(ended.written.contains("UNSET"), "{}", ended.written);
}

#[tokio::test]
async fn s0_15_s0_29_health_and_metrics_have_their_old_names_by_variables_alone() {
    let upstream = server().await;
    let sidecar = by_environment(&upstream, &[]).await;
    assert_eq!(sidecar.fetch(&list()).await.status, 200);
    for path in [
        "/health",
        "/healthz/child",
        "/readyz",
        "/livez",
        "/startupz",
    ] {
        let answered = Request::get(path).fetch(sidecar.admin).await;
        assert_eq!(answered.status, 200, "{path}");
    }
    for family in [
        "mcp_remote_requests_total",
        "mcp_remote_request_duration_seconds_count",
        "outrigger_requests_total",
    ] {
        let value = sidecar.metric(family, "").await;
        assert!((value - 1.0).abs() < 0.1, "{family} is {value}");
    }
    let broken = list().header("mcp-method", "tools/call");
    assert_eq!(sidecar.fetch(&broken).await.status, 400);
    assert!(sidecar.metric("mcp_remote_errors_total", "").await > 0.9);
}

#[tokio::test]
async fn s0_33_the_credentials_header_and_template_can_be_set() {
    let upstream = server().await;
    let variables = [
        ("MCP_REMOTE_BEARER_TOKEN", "service"),
        ("MCP_REMOTE_AUTH_HEADER_NAME", "X-Token"),
        (
            "MCP_REMOTE_AUTH_HEADER_VALUE_TEMPLATE",
            "{token_type}:{token}",
        ),
    ];
    let sidecar = by_environment(&upstream, &variables).await;
    assert_eq!(sidecar.fetch(&list()).await.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("authorization"), None);
    assert!(seen.header("x-token").unwrap().ends_with(":service"));
}

#[tokio::test]
async fn s0_19_s0_30_bodies_are_in_the_log_where_the_variables_ask_for_them() {
    let upstream = server().await;
    let url = upstream.url();
    let arguments = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    for (level, asked, is_logged) in [
        ("DEBUG", "true", true),
        ("DEBUG", "false", false),
        ("INFO", "true", false),
    ] {
        let variables = [
            ("MCP_REMOTE_SERVER", url.as_str()),
            ("LOG_LEVEL", level),
            ("MCP_REMOTE_LOG_REQUESTS", asked),
            ("MCP_REMOTE_LOG_RESPONSES", asked),
        ];
        let mut program = Program::start(&arguments, &variables);
        let (address, _) = program.serves().await;
        let request = modern(modern_body(
            "1",
            "tools/list",
            r#""cursor":"in-the-request""#,
        ));
        assert_eq!(request.fetch(address).await.status, 200);
        program.signal("TERM");
        let ended = program.ends().await;
        for text in ["in-the-request", r#"tools\":[]"#] {
            let found = ended
                .written
                .replace('\\', "")
                .contains(&text.replace('\\', ""));
            assert_eq!(
                found, is_logged,
                "{level} {asked} {text}: {}",
                ended.written
            );
        }
    }
}
