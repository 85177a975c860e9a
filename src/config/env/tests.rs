//! One test a row of the list of what these variables promise.

use std::collections::BTreeMap;

use super::super::model::Tls;
use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let server = (SERVER.to_owned(), "https://mcp.example.com/mcp".to_owned());
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    std::iter::once(server).chain(pairs).collect()
}

fn run(pairs: &[(&str, &str)]) -> Result<Loaded, Report> {
    load(&map(pairs), &Overrides::default())
}

fn config(pairs: &[(&str, &str)]) -> Config {
    run(pairs)
        .unwrap_or_else(|report| panic!("{report}"))
        .config
}

fn server(pairs: &[(&str, &str)]) -> Server {
    config(pairs).servers.remove(0)
}

/// Variables and codes of all problems.
fn bad(pairs: &[(&str, &str)]) -> Vec<(String, Code)> {
    let report = run(pairs)
        .map(|loaded| loaded.config)
        .expect_err("a report");
    let problems = report.problems().iter().filter(|it| it.is_error());
    problems
        .map(|it| (it.variable().unwrap_or_default().to_owned(), it.code()))
        .collect()
}

fn one(name: &str, code: Code) -> Vec<(String, Code)> {
    vec![(name.to_owned(), code)]
}

fn literal(secret: &str) -> SecretSource {
    SecretSource::Literal(secret.to_owned().into())
}

#[test]
fn s0_2_a_remote_server_alone_starts_it() {
    assert!(is_meant(&map(&[])));
    assert!(!is_meant(&BTreeMap::from([(
        "PATH".to_owned(),
        "/bin".to_owned()
    )])));
    assert!(!is_meant(&BTreeMap::from([(
        SERVER.to_owned(),
        String::new()
    )])));
    let server = server(&[]);
    assert_eq!(server.name, "default");
    assert_eq!(server.endpoints[0].url, "https://mcp.example.com/mcp");
    assert_eq!(
        bad(&[(SERVER, ""), (TOKEN, "t")]),
        one(SERVER, Code::MissingKey)
    );
}

#[test]
fn s0_3_remote_server_and_local_command_exclude_each_other() {
    let report = run(&[(COMMAND, "mcp-server-git")]).unwrap_err();
    let message = "MCP_REMOTE_SERVER cannot be used together with MCP_SERVER_COMMAND";
    assert_eq!(report.problems()[0].message(), message);
}

#[test]
fn s0_4_it_listens_on_port_8000_for_everyone() {
    let config = config(&[]);
    assert_eq!(config.listeners[0].listen, "0.0.0.0:8000".parse().unwrap());
    assert!(config.listeners[0].allow_unauthenticated);
    let elsewhere = Overrides::default().listen("127.0.0.1:1".parse().unwrap());
    let moved = load(&map(&[]), &elsewhere).unwrap().config;
    assert_eq!(moved.listeners[0].listen, "127.0.0.1:1".parse().unwrap());
}

#[test]
fn s0_4_an_open_listener_before_a_credential_is_warned_of() {
    let loaded = run(&[(TOKEN, "hunter2")]).unwrap();
    let warning = &loaded.report.problems()[0];
    assert_eq!(
        (warning.code(), warning.is_error()),
        (Code::OpenProxy, false)
    );
    assert!(run(&[]).unwrap().report.problems().is_empty());
}

#[test]
fn s0_5_a_bearer_token_is_the_credential() {
    let auth = server(&[(TOKEN, "hunter2")]).auth;
    assert_eq!(
        auth.kind,
        AuthKind::Bearer {
            token: literal("hunter2")
        }
    );
    assert_eq!(auth.header_name, AUTHORIZATION);
    assert!(!format!("{:?}", config(&[(TOKEN, "hunter2")])).contains("hunter2"));
}

#[test]
fn s0_6_a_bearer_token_comes_from_a_file_too() {
    let auth = server(&[(TOKEN_FILE, "/run/secrets/remote-token")]).auth;
    let token = SecretSource::File("/run/secrets/remote-token".into());
    assert_eq!(auth.kind, AuthKind::Bearer { token });
    assert_eq!(
        bad(&[(TOKEN, "t"), (TOKEN_FILE, "/f")]),
        one(TOKEN_FILE, Code::Conflict)
    );
}

#[test]
fn s0_7_token_exchange_is_refused_as_not_supported_yet() {
    for name in [
        "MCP_REMOTE_SERVER_OAUTH_ISSUER",
        "MCP_REMOTE_CLIENT_ID",
        "MCP_REMOTE_CLIENT_SECRET",
        "MCP_REMOTE_SCOPE",
        "MCP_REMOTE_REDIRECT_URI",
    ] {
        assert_eq!(bad(&[(name, "hunter2")]), one(name, Code::NotSupported));
        let report = run(&[(name, "hunter2")]).unwrap_err().to_string();
        assert!(
            report.contains("is not supported by this version"),
            "{report}"
        );
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[test]
fn s0_8_an_anonymous_token_is_for_callers_without_one() {
    let auth = server(&[(ANONYMOUS_TOKEN, "read-only")]).auth;
    assert_eq!(auth.kind, AuthKind::Passthrough);
    let anonymous = auth.anonymous.unwrap();
    assert_eq!(
        anonymous.kind,
        AuthKind::Bearer {
            token: literal("read-only")
        }
    );
}

#[test]
fn s0_8_beside_a_service_token_the_anonymous_one_has_no_use_and_is_warned_of() {
    let loaded = run(&[(TOKEN, "service"), (ANONYMOUS_TOKEN, "read-only")]).unwrap();
    let auth = &loaded.config.servers[0].auth;
    let token = literal("service");
    assert_eq!(auth.kind, AuthKind::Bearer { token });
    assert_eq!(auth.anonymous, None);
    let warned = |it: &super::super::problem::Problem| it.variable() == Some(ANONYMOUS_TOKEN);
    assert!(loaded.report.problems().iter().any(warned));
}

#[test]
fn s0_9_without_a_token_the_callers_own_goes_on() {
    assert_eq!(server(&[]).auth.kind, AuthKind::Passthrough);
}

#[test]
fn s0_10_static_headers_come_from_variables() {
    let headers = server(&[
        ("MCP_REMOTE_HEADER_X_API_KEY", "hunter2"),
        ("MCP_REMOTE_HEADER_X_CUSTOM_VALUE", "custom"),
        ("MCP_REMOTE_HEADER_X_EMPTY", ""),
    ])
    .headers
    .set;
    let names: Vec<&str> = headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["x-api-key", "x-custom-value"]);
    assert_eq!(headers[0].value, Value::Secret(literal("hunter2")));
    let length = "MCP_REMOTE_HEADER_CONTENT_LENGTH";
    assert_eq!(bad(&[(length, "1")]), one(length, Code::HeaderReserved));
    let broken = "MCP_REMOTE_HEADER_X_A";
    assert_eq!(bad(&[(broken, "a\nb")]), one(broken, Code::Header));
}

#[test]
fn s0_10_a_static_authorization_is_the_credential_or_a_conflict() {
    let name = "MCP_REMOTE_HEADER_AUTHORIZATION";
    assert_eq!(server(&[(name, "Basic abc")]).auth.kind, AuthKind::None);
    let pairs = [
        (name, "Basic abc"),
        (TOKEN, "t"),
        ("MCP_REMOTE_HEADER_A", "b"),
    ];
    assert_eq!(bad(&pairs)[0], (name.to_owned(), Code::HeaderConflict));
    let report = run(&pairs).unwrap_err().to_string();
    assert!(
        report.contains("auth (MCP_REMOTE_BEARER_TOKEN)"),
        "{report}"
    );
}

#[test]
fn s0_11_named_headers_are_let_through() {
    let forward = server(&[(FORWARD, "X-Request-ID, X-Correlation-ID,User-Agent,")])
        .headers
        .forward;
    assert_eq!(forward, ["x-request-id", "x-correlation-id", "user-agent"]);
    assert_eq!(bad(&[(FORWARD, "*")]), one(FORWARD, Code::HeaderReserved));
    assert_eq!(
        bad(&[(FORWARD, "Host")]),
        one(FORWARD, Code::HeaderReserved)
    );
}

#[test]
fn s0_11_a_forwarded_authorization_is_the_callers_own_token() {
    let server = server(&[(FORWARD, "Authorization")]);
    assert_eq!(server.auth.kind, AuthKind::Passthrough);
    assert!(server.headers.forward.is_empty());
    assert_eq!(
        bad(&[(FORWARD, "Authorization"), (TOKEN, "t")])[0].1,
        Code::HeaderConflict
    );
}

#[test]
fn s0_17_a_base_path_is_where_the_server_is() {
    assert_eq!(
        server(&[(BASE_PATH, "/api/github")]).base_path.as_deref(),
        Some("/api/github")
    );
    assert_eq!(server(&[(BASE_PATH, "/")]).base_path, None);
    assert_eq!(bad(&[(BASE_PATH, "api")]), one(BASE_PATH, Code::Path));
}

/// The variables that do not begin with the prefix, or with one more.
const OTHERS: [&str; 5] = [
    "MCP_REMOTE_HEADER_*",
    LOG_LEVEL,
    BASE_PATH,
    INCLUDE,
    EXCLUDE,
];

#[test]
fn the_document_names_each_variable() {
    let document = include_str!("../../../docs/environment.md");
    let mut named: Vec<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        // Those are `otlp`'s.
        .filter(|name| !name.starts_with("OTEL_"))
        .collect();
    named.sort_unstable();
    let mut known: Vec<_> = KNOWN.iter().copied().chain(OTHERS).collect();
    known.sort_unstable();
    assert_eq!(named, known);
}

#[test]
fn s0_19_the_log_level_is_read_in_any_case() {
    let level = |word| config(&[(LOG_LEVEL, word)]).observability.log.level;
    assert_eq!(level("debug"), LogLevel::Debug);
    assert_eq!(level("WARNING"), LogLevel::Warn);
    assert_eq!(level("CRITICAL"), LogLevel::Error);
    assert_eq!(bad(&[(LOG_LEVEL, "loud")]), one(LOG_LEVEL, Code::Choice));
}

#[test]
fn s0_20_the_request_timeout_is_in_seconds() {
    assert_eq!(server(&[]).timeouts.request, Duration::from_secs(30));
    let timeouts = server(&[(REQUEST_TIMEOUT, "60")]).timeouts;
    assert_eq!(timeouts.request, Duration::from_mins(1));
    assert_eq!(timeouts.request("tools/call"), Duration::from_mins(5));
    let long = server(&[(REQUEST_TIMEOUT, "600")]).timeouts;
    assert_eq!(long.request("tools/call"), Duration::from_mins(10));
    for wrong in ["0", "-1", "30s", "NaN", "inf", "1e300"] {
        assert_eq!(
            bad(&[(REQUEST_TIMEOUT, wrong)]),
            one(REQUEST_TIMEOUT, Code::Duration)
        );
    }
}

#[test]
fn s0_21_the_connect_timeout_is_in_seconds() {
    assert_eq!(server(&[]).timeouts.connect, Duration::from_secs(10));
    let timeouts = server(&[(CONNECT_TIMEOUT, "2.5")]).timeouts;
    assert_eq!(timeouts.connect, Duration::from_millis(2500));
}

#[test]
fn s0_22_connections_are_bounded() {
    let pool = server(&[]).pool;
    assert_eq!((pool.max, pool.max_idle), (100, 20));
    let pool = server(&[(MAX_CONNECTIONS, "10"), (MAX_IDLE, "5")]).pool;
    assert_eq!((pool.max, pool.max_idle), (10, 5));
    assert_eq!(server(&[(MAX_CONNECTIONS, "10")]).pool.max_idle, 10);
    assert_eq!(
        bad(&[(MAX_CONNECTIONS, "many")]),
        one(MAX_CONNECTIONS, Code::Number)
    );
    assert_eq!(
        bad(&[(MAX_CONNECTIONS, "1"), (MAX_IDLE, "2")]),
        one(MAX_IDLE, Code::Conflict)
    );
}

#[test]
fn s0_24_plaintext_beyond_loopback_is_refused() {
    let plain = (SERVER, "http://mcp.example.com");
    assert_eq!(bad(&[plain]), one(SERVER, Code::PlaintextUrl));
    assert!(run(&[plain, (ALLOW_PLAINTEXT, "true")]).is_ok());
    assert!(run(&[(SERVER, "http://localhost:9000/mcp")]).is_ok());
}

#[test]
fn s0_25_certificates_are_checked_unless_said() {
    assert_eq!(server(&[]).tls, Tls::default());
    assert_eq!(server(&[(VERIFY_TLS, "true")]).tls, Tls::default());
    let loaded = run(&[(VERIFY_TLS, "False")]).unwrap();
    assert!(loaded.config.servers[0].tls.insecure_skip_verify);
    assert_eq!(loaded.report.problems()[0].variable(), Some(VERIFY_TLS));
    let bundle = server(&[(CA_BUNDLE, "/ca.crt")]).tls;
    assert_eq!(bundle.ca_file, Some(PathBuf::from("/ca.crt")));
    assert_eq!(bad(&[(VERIFY_TLS, "maybe")]), one(VERIFY_TLS, Code::Choice));
}

#[test]
fn s0_29_metrics_have_their_old_names_too() {
    assert!(config(&[]).observability.metrics.legacy_names);
}

#[test]
fn s0_30_bodies_are_logged_if_said() {
    let log = config(&[(LOG_REQUESTS, "true")]).observability.log;
    assert_eq!((log.request_bodies, log.response_bodies), (true, false));
    assert!(
        config(&[(LOG_RESPONSES, "1")])
            .observability
            .log
            .response_bodies
    );
}

#[test]
fn s0_33_header_name_template_and_tools_are_read() {
    let template = "{token_type} {token}";
    let auth = server(&[
        (TOKEN, "t"),
        (AUTH_HEADER, "X-Auth"),
        (AUTH_TEMPLATE, template),
    ])
    .auth;
    assert_eq!(auth.header_name, "x-auth");
    assert_eq!(auth.value_template.as_deref(), Some(template));
    assert_eq!(
        bad(&[(AUTH_HEADER, "X-Auth")]),
        one(AUTH_HEADER, Code::NotSupported)
    );
    let tools = server(&[(INCLUDE, "get_*, list_*"), (EXCLUDE, "get_secret")]).tools;
    assert_eq!(tools.include, ["get_*", "list_*"]);
    assert_eq!(tools.exclude, ["get_secret"]);
    let config = config(&[(TEARDOWN_TIMEOUT, "10")]);
    assert_eq!(config.shutdown.grace, Duration::from_secs(10));
    for name in [
        "AUTH_PROVIDER",
        "BRIDGE_REQUIRED_GROUPS",
        "MCP_MAP_HEADER_TO_INPUT",
    ] {
        assert_eq!(bad(&[(name, "x")]), one(name, Code::NotSupported));
    }
}

#[test]
fn unknown_variables_are_warned_of() {
    let loaded = run(&[("MCP_REMOTE_TIMEOUTS", "3")]).unwrap();
    let warning = &loaded.report.problems()[0];
    assert_eq!(warning.code(), Code::UnknownVariable);
    assert_eq!(warning.help(), "did you mean MCP_REMOTE_TIMEOUT?");
}

#[test]
fn every_variable_is_read_before_anything_fails() {
    let report = run(&[
        (SERVER, "ftp://u:hunter2@e"),
        (TOKEN, "hunter2"),
        (TOKEN_FILE, "/f"),
        (REQUEST_TIMEOUT, "hunter2"),
        (VERIFY_TLS, "hunter2"),
        (MAX_CONNECTIONS, "hunter2"),
        (BASE_PATH, "hunter2"),
        (LOG_LEVEL, "hunter2"),
        (AUTH_TEMPLATE, "hunter2"),
        (FORWARD, "hunter2 hunter2"),
    ])
    .unwrap_err();
    assert_eq!(report.errors(), 9, "{report}");
    assert!(
        !format!("{report}{report:?}").contains("hunter2"),
        "{report}"
    );
    let ending = "environment: 9 errors. Nothing was sent or changed.";
    assert!(report.to_string().ends_with(ending), "{report}");
}
