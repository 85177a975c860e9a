//! The contract of `config`, number by number.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::model::*;
use super::*;

const ENDPOINT: &str = "endpoints: [{url: https://mcp.example.com/mcp}]";

/// A file with one server that has these lines besides.
fn server(lines: &str) -> String {
    let lines = lines.replace('\n', "\n  ");
    format!("servers:\n- name: github\n  {ENDPOINT}\n  {lines}\n")
}

fn load(text: &str) -> Result<Loaded, Report> {
    Config::from_text("test.yaml", text.as_bytes())
}

fn good(text: &str) -> Config {
    load(text)
        .unwrap_or_else(|report| panic!("{report}"))
        .config
}

fn first(text: &str) -> Server {
    good(text).servers.remove(0)
}

/// The codes of all problems, with their lines.
fn bad(text: &str) -> Vec<(Code, usize)> {
    let report = load(text).map(|loaded| loaded.config).expect_err(text);
    let at = |problem: &Problem| problem.position().map_or(0, |(line, _)| line);
    report
        .problems()
        .iter()
        .map(|problem| (problem.code(), at(problem)))
        .collect()
}

fn says(text: &str) -> String {
    load(text)
        .map(|loaded| loaded.config)
        .expect_err(text)
        .to_string()
}

#[test]
fn check_of_a_bad_file_reads_as_promised() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/bad.yaml");
    let printed = check(std::path::Path::new(path))
        .to_string()
        .replace(path, "bad.yaml");
    assert_eq!(printed + "\n", include_str!("../../tests/config/bad.txt"));
}

#[test]
fn check_of_a_good_file_counts() {
    let loaded = load(&server("")).unwrap();
    assert_eq!(
        loaded.report.to_string(),
        "test.yaml: ok, 1 server, 1 listener"
    );
    assert!(loaded.report.is_ok());
}

#[test]
fn check_of_no_file_says_so() {
    let report = check(std::path::Path::new("/nonexistent/outrigger.yaml"));
    assert_eq!(report.problems()[0].code(), Code::Unreadable);
    assert!(!report.is_ok());
}

#[test]
fn the_reference_loads_and_shows_every_key() {
    let text = include_str!("../../docs/config.yaml");
    let config = good(text);
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    for section in keys::ALL {
        for key in section.known {
            assert!(
                words.contains(key),
                "docs/config.yaml lacks {key} of {}",
                section.at
            );
        }
    }
    // What the comments call a default is one.
    let shown = &config.servers[0];
    let plain = first(&server(""));
    assert_eq!(shown.timeouts, plain.timeouts);
    assert_eq!(shown.pool, plain.pool);
    assert_eq!(shown.retry, plain.retry);
    assert_eq!(shown.load_balancing, plain.load_balancing);
    assert_eq!(shown.rebuild, plain.rebuild);
    assert_eq!(config.observability.log, Observability::default().log);
    assert_eq!(
        config.observability.metrics,
        Observability::default().metrics
    );
    // Shown with a value, as its default is nothing.
    let tracing = &config.observability.tracing;
    let endpoint = tracing.otlp_endpoint.as_ref().map(ToString::to_string);
    assert_eq!(endpoint.as_deref(), Some("http://jaeger:4318/"));
    assert_eq!(tracing.service_name.as_deref(), Some("mcp-bridge-remote"));
    assert_eq!(config.control, Control::default());
    assert_eq!(config.shutdown, Shutdown::default());
    assert_eq!(config.sessions.expiry, Sessions::default().expiry);
    assert_eq!(
        config.listeners[0].max_body_bytes,
        Listener::default().max_body_bytes
    );
}

#[test]
fn defaults_are_those_promised() {
    let config = good(&server(""));
    assert_eq!(
        config.listeners[0].listen,
        "127.0.0.1:8000".parse().unwrap()
    );
    assert_eq!(
        config.observability.metrics.listen,
        "0.0.0.0:9464".parse().unwrap()
    );
    assert_eq!(config.shutdown.grace, Duration::from_secs(5));
    let server = &config.servers[0];
    assert_eq!(
        server.timeouts.request("tools/list"),
        Duration::from_secs(30)
    );
    assert_eq!(
        server.timeouts.request("tools/call"),
        Duration::from_mins(5)
    );
    assert_eq!(server.timeouts.hold, Some(Duration::from_millis(1500)));
    assert_eq!((server.pool.max, server.pool.max_idle), (100, 20));
    assert_eq!(server.retry.tool_calls, ToolCalls::Never);
    assert!(!server.has_own_credential());
}

#[test]
fn json_is_a_configuration_too() {
    let json = "{\n\t\"servers\": [{\"name\": \"a\", \"endpoints\": [{\"url\": \
                \"https:\\/\\/e.example\\/mcp\"}], \"retry\": {\"maxAttempts\": 4}}]\n}";
    assert_eq!(first(json).retry.max_attempts, 4);
    assert_eq!(good(&format!("\u{feff}{json}")).servers.len(), 1);
}

#[test]
fn equal_sections_are_equal_servers() {
    let one = server("timeouts: {request: 60s}");
    assert_eq!(first(&one), first(&format!("# a comment\n{one}")));
    assert_ne!(first(&one), first(&server("timeouts: {request: 61s}")));
}

#[test]
fn each_kind_of_credential_is_read() {
    let from = |lines: &str| first(&server(lines)).auth;
    let file = || SecretSource::File("/s".into());
    let bearer = from("auth: {type: bearer, token: {valueFrom: {file: /s}}}");
    assert_eq!(bearer.kind, AuthKind::Bearer { token: file() });
    assert_eq!(bearer.header_name, "authorization");
    let key = from("auth: {type: apiKey, key: {valueFrom: {env: KEY}}}");
    assert_eq!(
        key.kind,
        AuthKind::ApiKey {
            key: SecretSource::Env("KEY".into())
        }
    );
    assert_eq!(key.header_name, "x-api-key");
    let basic = from("auth: {type: basic, username: u, password: {valueFrom: {file: /s}}}");
    let username = Value::Plain("u".into());
    assert_eq!(
        basic.kind,
        AuthKind::Basic {
            username,
            password: file()
        }
    );
    assert_eq!(from("auth: {type: forward}").kind, AuthKind::Passthrough);
    assert_eq!(from("auth: {type: none}"), Auth::default());
    let lines =
        "auth: {type: passthrough, anonymous: {type: bearer, token: {valueFrom: {file: /s}}}}";
    let anonymous = from(lines).anonymous.unwrap();
    assert_eq!(anonymous.kind, AuthKind::Bearer { token: file() });
}

#[test]
fn an_anonymous_credential_that_would_have_no_effect_is_refused() {
    let token = "token: {valueFrom: {file: /s}}";
    let bearer = format!("type: bearer, {token}");
    for lines in [
        format!("auth: {{{bearer}, anonymous: {{{bearer}}}}}"),
        format!("auth: {{type: none, anonymous: {{{bearer}}}}}"),
        "auth: {type: passthrough, anonymous: {type: none}}".to_owned(),
        "auth: {type: passthrough, anonymous: {type: passthrough}}".to_owned(),
        format!("auth: {{type: passthrough, anonymous: {{{bearer}, headerName: X-A}}}}"),
        format!("auth: {{type: passthrough, anonymous: {{{bearer}, valueTemplate: '{{token}}'}}}}"),
    ] {
        assert_eq!(bad(&server(&lines)), [(Code::NotSupported, 4)], "{lines}");
    }
}

#[test]
fn s0_33_header_name_and_template_are_read() {
    let lines = "auth: {type: bearer, token: {valueFrom: {file: /s}}, headerName: X-Token, \
                 valueTemplate: \"{token_type}  {token}\"}";
    let auth = first(&server(lines)).auth;
    assert_eq!(auth.header_name, "x-token");
    assert_eq!(
        auth.value_template.as_deref(),
        Some("{token_type}  {token}")
    );
    for template in ["Bearer", "{token} {user}", "{token}}", "{token}\\n"] {
        let lines = format!(
            "auth: {{type: bearer, token: {{valueFrom: {{file: /s}}}}, valueTemplate: \"{template}\"}}"
        );
        assert_eq!(bad(&server(&lines)), [(Code::Template, 4)], "{template}");
    }
}

#[test]
fn off_survives_a_tool_that_takes_it_for_a_boolean() {
    let first_of = |lines: &str| first(&server(lines));
    let off = first_of("timeouts: {streamIdle: false, total: 1h}\npool: {maxAge: false}");
    assert_eq!((off.timeouts.stream_idle, off.pool.max_age), (None, None));
    assert_eq!(
        bad(&server("timeouts: {streamIdle: \"false\"}")),
        [(Code::Duration, 4)]
    );
    assert_eq!(
        bad(&server("timeouts: {streamIdle: true}")),
        [(Code::Duration, 4)]
    );
}

#[test]
fn every_section_is_read() {
    let text = server(
        "basePath: /api/github/\n\
         headers: {static: [{name: X-A, value: \"1.10\"}], forward: [X-B], rename: {X-C: X-D}}\n\
         timeouts: {connect: 1s, request: 10m, methods: {prompts/get: 1m}, streamIdle: off, total: 1h, hold: off}\n\
         pool: {max: 5, maxAge: 1h, idle: 1s, streams: 7}\n\
         tls: {caFile: /ca.pem}\n\
         loadBalancing: {policy: failover}\n\
         retry: {maxAttempts: 1, backoff: {kind: fixed, initial: 20s, jitter: none}, toolCalls: [echo], budget: {percent: 0, minPerSecond: 1}}\n\
         tools: {include: [a*], exclude: [ab]}\n\
         sessions: {rebuild: never}\n\
         limits: {concurrency: 9}",
    );
    let server = first(&text);
    assert_eq!(server.base_path.as_deref(), Some("/api/github"));
    assert_eq!(server.headers.set[0].value, Value::Plain("1.10".into()));
    assert_eq!(server.headers.rename[0].to, "x-d");
    assert_eq!(server.timeouts.stream_idle, None);
    assert_eq!(
        server.timeouts.request("tools/call"),
        Duration::from_mins(10)
    );
    assert_eq!(
        server.timeouts.request("prompts/get"),
        Duration::from_mins(1)
    );
    assert_eq!(
        (server.pool.max, server.pool.max_idle, server.pool.streams),
        (5, 5, 7)
    );
    assert_eq!(server.load_balancing.policy, Policy::Failover);
    assert_eq!(server.retry.backoff.max, Duration::from_secs(20));
    assert_eq!(
        server.retry.tool_calls,
        ToolCalls::Named(vec!["echo".into()])
    );
    assert_eq!(server.tools.exclude, ["ab"]);
    assert_eq!(server.rebuild, Rebuild::Never);
    assert_eq!(server.limits.concurrency, Some(9));
}

#[test]
fn a_listener_is_read() {
    let text = format!(
        "listeners: [{{name: a, listen: '[::1]:80', basePath: /x, \
         maxBodyBytes: 1, rateLimit: {{perCaller: 600/m}}, limits: {{concurrency: 2}}, \
         allowFrom: [10.0.0.0/8, '::1'], allowedOrigins: [https://app.example], \
         allowedHosts: [Sidecar:8000], inboundAuth: {{apiKeys: [{{valueFrom: {{env: K}}}}]}}}}]\n{}",
        server("")
    );
    let listener = good(&text).listeners.remove(0);
    assert_eq!(listener.listen, "[::1]:80".parse().unwrap());
    assert_eq!(listener.rate_limit.unwrap().per, Duration::from_mins(1));
    assert_eq!(listener.allow_from[1].prefix, 128);
    assert_eq!(listener.allowed_hosts, ["sidecar:8000"]);
    let key = &listener.inbound_auth.api_keys[0];
    assert_eq!(
        (key.name.as_str(), key.header.as_str()),
        ("key-1", "x-api-key")
    );
}

/// Lines of a server, and what is wrong with them.
const PROBLEMS: &[(&str, &[(Code, usize)])] = &[
    ("retries: 3", &[(Code::UnknownKey, 4)]),
    ("timeouts: {request: 30}", &[(Code::DurationUnit, 4)]),
    (
        "timeouts: {request: 0s, connect: 2x, hold: 400d}",
        &[
            (Code::Duration, 4),
            (Code::Duration, 4),
            (Code::Duration, 4),
        ],
    ),
    ("timeouts: 30s", &[(Code::Type, 4)]),
    (
        "pool: {max: 0, maxIdle: \"3\"}",
        &[(Code::Number, 4), (Code::Type, 4)],
    ),
    ("pool:\n  max: 10\n  maxIdle: 11", &[(Code::Conflict, 6)]),
    ("auth: {type: bearer}", &[(Code::MissingKey, 4)]),
    ("auth: {type: beerer}", &[(Code::Choice, 4)]),
    (
        "auth: {type: none, token: {valueFrom: {file: /s}}}",
        &[(Code::Conflict, 4)],
    ),
    (
        "auth: {type: bearer, token: {valueFrom: {file: /s, env: E}}}",
        &[(Code::Conflict, 4)],
    ),
    (
        "auth: {type: bearer, token: {valueFrom: {}}}",
        &[(Code::MissingKey, 4)],
    ),
    (
        "auth: {type: bearer, token: {valueFrom: hunter2}}",
        &[(Code::SecretLiteral, 4)],
    ),
    (
        "headers: {static: [{name: Cookie, value: a=b}]}",
        &[(Code::SecretLiteral, 4)],
    ),
    (
        "headers: {static: [{name: X-A, value: a}, {name: x-a, value: b}]}",
        &[(Code::HeaderConflict, 4)],
    ),
    (
        "headers: {static: [{name: X-A, value: a}], forward: [X-A]}",
        &[(Code::HeaderConflict, 4)],
    ),
    (
        "headers: {static: [{name: Host, value: a}], forward: [Mcp-Session-Id, '*']}",
        &[(Code::HeaderReserved, 4); 3],
    ),
    (
        "headers: {static: [{name: 'a b', value: a}, {name: b, value: \"\\n\"}]}",
        &[(Code::Header, 4), (Code::Header, 4)],
    ),
    (
        "headers: {forward: [Authorization]}",
        &[(Code::HeaderReserved, 4)],
    ),
    ("basePath: api", &[(Code::Path, 4)]),
    ("basePath: /a/../b", &[(Code::Path, 4)]),
    ("name: again", &[(Code::DuplicateKey, 4)]),
    ("tools: *x", &[(Code::Yaml, 4)]),
    ("tools: {include: &x [a], exclude: *x}", &[(Code::Yaml, 4)]),
    ("tools: !!map {}", &[(Code::Yaml, 4)]),
    ("allowPlaintext: yes", &[(Code::Type, 4)]),
    (
        "retry: {backoff: {initial: 5s, max: 1s}}",
        &[(Code::Conflict, 4)],
    ),
    ("limits: {concurrency: -1}", &[(Code::Number, 4)]),
];

#[test]
fn every_problem_has_its_code_and_line() {
    for (lines, expected) in PROBLEMS {
        assert_eq!(bad(&server(lines)), *expected, "{lines}");
    }
}

#[test]
fn problems_of_the_whole_file_have_their_codes() {
    let cases: &[(String, &[(Code, usize)])] = &[
        (String::new(), &[(Code::MissingKey, 0)]),
        ("# nothing yet".into(), &[(Code::Type, 1)]),
        ("[]".into(), &[(Code::Type, 1)]),
        ("servers: []".into(), &[(Code::MissingKey, 1)]),
        ("servers: {a: b}".into(), &[(Code::Type, 1)]),
        ("servers: [{name: a}]".into(), &[(Code::MissingKey, 1)]),
        (
            "servers: [{name: a, endpoints: []}]".into(),
            &[(Code::MissingKey, 1)],
        ),
        ("a: {b".into(), &[(Code::Yaml, 1)]),
        (server("") + "---\na: 1\n", &[(Code::Yaml, 5)]),
        (
            format!(
                "apiVersion: outrigger.dev/v2\nkind: Sidecar\n{}",
                server("")
            ),
            &[(Code::Choice, 1), (Code::Choice, 2)],
        ),
        (
            format!("{}- {{name: github, {ENDPOINT}}}\n", server("")),
            &[(Code::DuplicateName, 5)],
        ),
        (
            format!("servers: [{{name: Git_Hub, {ENDPOINT}}}]"),
            &[(Code::Name, 1)],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(bad(text), *expected, "{text}");
    }
}

#[test]
fn problems_beside_the_servers_have_their_codes() {
    let listener = |lines: &str| format!("listeners: [{{{lines}}}]\n{}", server(""));
    let cases: &[(String, &[(Code, usize)])] = &[
        (listener("listen: 8000"), &[(Code::Address, 1)]),
        (listener("name: a"), &[(Code::MissingKey, 1)]),
        (
            listener("listen: 127.0.0.1:9464"),
            &[(Code::DuplicateName, 1)],
        ),
        (
            listener("listen: localhost:1, allowFrom: [10.0.0.0/33]"),
            &[(Code::Address, 1)],
        ),
        (
            listener("listen: localhost:1, allowedOrigins: ['*']"),
            &[(Code::Url, 1)],
        ),
        (
            listener("listen: localhost:1, allowedHosts: [a/b]"),
            &[(Code::Address, 1)],
        ),
        (
            listener("listen: localhost:1, rateLimit: {perCaller: 50}"),
            &[(Code::Number, 1)],
        ),
        (
            format!("control: {{listen: 0.0.0.0:9465}}\n{}", server("")),
            &[(Code::OpenProxy, 1)],
        ),
        (
            format!("readiness: {{requireServers: [gitlab]}}\n{}", server("")),
            &[(Code::Name, 1)],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(bad(text), *expected, "{text}");
    }
}

#[test]
fn bounds_hold() {
    assert_eq!(bad(&" ".repeat(node::MAX_BYTES + 1)), [(Code::TooLarge, 0)]);
    assert_eq!(bad(&"[".repeat(65)), [(Code::TooLarge, 1)]);
    assert!(load(&"[".repeat(100_000)).is_err());
    let many: String = (0..2000).fold(String::new(), |text, n| text + &format!("k{n}: 1\n"));
    assert_eq!(bad(&many), [(Code::TooLarge, 1025)]);
    let items = "{a: 1, b: 2, c: 3}, ".repeat(500);
    let report = load(&format!("servers: [{items}]")).unwrap_err();
    assert_eq!(report.errors(), 100);
    let bytes = Config::from_text("x", b"a: \xff").unwrap_err();
    assert_eq!(bytes.problems()[0].code(), Code::Yaml);
}

#[test]
fn keys_of_later_versions_are_known_and_refused() {
    let whole =
        "oauth: {callbackPath: /cb}\ntokenStore: {kind: file}\nserverApi: {}\ntunnels: []\n";
    let text = format!(
        "{whole}listeners: [{{listen: localhost:1, cors: {{}}, tls: {{}}, surfaces: [], \
         userToken: {{}}, inboundAuth: {{jwt: {{}}}}}}]\nobservability: {{tracing: {{sampler: x}}}}\n{}",
        server(
            "auth: {type: oauth2, clientId: x, scopes: [a]}\ncache: {}\nreconnect: {}\n\
             keepAlive: {}\negressProxy: {}\nredact: {}\ntls: {certFile: a, keyFile: b}\n\
             pool: {http2: true}\nloadBalancing: {policy: weighted, healthCheck: {}}\n\
             retry: {hedge: {}}"
        )
    );
    let report = load(&text).unwrap_err();
    assert!(
        report
            .problems()
            .iter()
            .all(|it| it.code() == Code::NotSupported),
        "{report}"
    );
    assert_eq!(report.errors(), 22, "{report}");
    let message = report.problems()[0].message();
    assert_eq!(message, "\"oauth\" is not supported by this version");
}

#[test]
fn transports_of_later_versions_are_known_and_refused() {
    for endpoint in [
        "url: https://e.example/sse, transport: sse",
        "url: wss://e.example/ws",
        "command: [mcp-server], transport: stdio",
        "address: '10.0.0.9:9090', transport: tcp",
    ] {
        let text = format!("servers: [{{name: a, endpoints: [{{{endpoint}}}]}}]");
        let codes = bad(&text);
        assert!(
            codes.iter().all(|(code, _)| *code == Code::NotSupported),
            "{endpoint} {codes:?}"
        );
    }
    let text =
        "servers: [{name: a, endpoints: [{url: https://e.example, transport: streamable-http}]}]";
    assert_eq!(
        first(text).endpoints[0].transport,
        Transport::StreamableHttp
    );
}

#[test]
fn a_reference_to_a_kubernetes_secret_is_refused() {
    let lines = "auth: {type: bearer, token: {valueFrom: {secretKeyRef: {name: a, key: b}}}}";
    let report = says(&server(lines));
    assert!(
        report.contains("\"secretKeyRef\" is not supported by this version"),
        "{report}"
    );
}

#[test]
fn an_unknown_key_is_told_what_was_meant() {
    assert!(says(&server("retries: {}")).contains("did you mean \"retry\"?"));
    assert!(says(&server("pool: {max_idle: 3}")).contains("did you mean \"maxIdle\"?"));
    assert!(says(&server("maxAttempts: 3")).contains("it belongs to retry"));
    assert!(says(&server("sessions: {banana: 3}")).contains("servers[].sessions has rebuild"));
}

#[test]
fn s0_24_plaintext_beyond_loopback_is_refused_unless_said() {
    let at = |url: &str, more: &str| {
        format!("servers: [{{name: a, endpoints: [{{url: '{url}'}}]{more}}}]")
    };
    assert_eq!(
        bad(&at("http://mcp.internal/mcp", "")),
        [(Code::PlaintextUrl, 1)]
    );
    assert_eq!(
        bad(&at("http://10.0.0.1/mcp", "")),
        [(Code::PlaintextUrl, 1)]
    );
    for url in [
        "http://127.0.0.1:1/mcp",
        "http://[::1]/mcp",
        "http://localhost/mcp",
    ] {
        good(&at(url, ""));
    }
    good(&at("http://mcp.internal/mcp", ", allowPlaintext: true"));
}

#[test]
fn a_url_with_a_secret_is_refused_and_hidden() {
    for url in [
        "https://u:hunter2@e.example/mcp",
        "https://e.example/mcp?api_key=hunter2",
    ] {
        let text = format!("servers: [{{name: a, endpoints: [{{url: '{url}'}}]}}]");
        assert_eq!(bad(&text), [(Code::UrlSecret, 1)]);
        assert!(!says(&text).contains("hunter2"));
    }
}

#[test]
fn an_outline_has_no_word_of_the_source() {
    let text = server("auth: {type: hunter2}\nsecretplan: 1");
    let outline = load(&text).unwrap_err().outline();
    assert_eq!(
        outline
            .lines()
            .filter(|line| line.starts_with("test.yaml:"))
            .count(),
        2,
        "{outline}"
    );
    assert!(outline.ends_with("\n2 errors"), "{outline}");
    assert!(!outline.contains("hunter2") && !outline.contains("secretplan"));
}

#[test]
fn a_header_that_is_named_like_a_secret_is_a_credential() {
    for name in ["X-Wiki-Token", "X-Tenant-Key", "Client-Secret"] {
        let text = server(&format!(
            "headers: {{static: [{{name: {name}, value: hunter2}}]}}"
        ));
        assert_eq!(bad(&text), [(Code::SecretLiteral, 4)], "{name}");
        assert!(!says(&text).contains("hunter2"));
    }
    good(&server(
        "headers: {static: [{name: X-Keyboard, value: qwerty}]}",
    ));
}

#[test]
fn an_open_proxy_is_refused_unless_said() {
    let with = |listener: &str, auth: &str| {
        format!(
            "listeners: [{{listen: 0.0.0.0:8000{listener}}}]\n{}",
            server(auth)
        )
    };
    let bearer = "auth: {type: bearer, token: {valueFrom: {file: /s}}}";
    assert_eq!(bad(&with("", bearer)), [(Code::OpenProxy, 1)]);
    let tenant = "headers: {static: [{name: X-K, valueFrom: {file: /s}}]}";
    assert_eq!(bad(&with("", tenant)), [(Code::OpenProxy, 1)]);
    assert!(says(&with("", bearer)).contains("allowUnauthenticated: true"));
    good(&with("", ""));
    good(&with("", "auth: {type: passthrough}"));
    good(&with(
        ", inboundAuth: {apiKeys: [{valueFrom: {file: /k}}]}",
        bearer,
    ));
    let loaded = load(&with(", allowUnauthenticated: true", bearer)).unwrap();
    assert_eq!(loaded.report.problems()[0].code(), Code::OpenProxy);
    assert!(!loaded.report.problems()[0].is_error());
}

#[test]
fn an_override_of_the_address_is_judged_too() {
    let text = server("auth: {type: bearer, token: {valueFrom: {file: /s}}}");
    let open = Overrides::default().listen("0.0.0.0:1".parse().unwrap());
    let report = source::from_text("x", text.as_bytes(), &open).unwrap_err();
    assert_eq!(report.problems()[0].code(), Code::OpenProxy);
}

#[test]
fn s1_14_no_certificate_check_is_warned_of() {
    let loaded = load(&server("tls: {insecureSkipVerify: true}")).unwrap();
    let printed = loaded.report.to_string();
    assert!(
        printed.starts_with("test.yaml:4:29: warning[insecure-tls]: "),
        "{printed}"
    );
    assert!(
        printed.ends_with("test.yaml: ok, 1 server, 1 listener"),
        "{printed}"
    );
}

#[test]
fn a_path_leads_to_one_server() {
    let three = |path: &str| {
        let at = "endpoints: [{url: 'https://a.example/mcp'}]";
        format!(
            "servers:\n- {{name: default, {at}}}\n- {{name: other, basePath: /x, {at}}}\n- {{name: third, basePath: {path}, {at}}}\n"
        )
    };
    for taken in [
        "/mcp",
        "/servers/other",
        "/servers/other/mcp",
        "/x",
        "/x/mcp",
    ] {
        assert_eq!(bad(&three(taken)), [(Code::DuplicateName, 4)], "{taken}");
    }
    for free in ["/y", "/servers/third", "/servers"] {
        assert!(good(&three(free)).servers.len() == 3, "{free}");
    }
}

#[test]
fn api_keys_of_callers_are_not_handed_on() {
    let keys = "listeners: [{listen: localhost:1, inboundAuth: {apiKeys: \
                [{header: Authorization, valueFrom: {file: /k}}, {header: X-K, valueFrom: {file: /k}}]}}]\n";
    let auth = format!("{keys}{}", server("auth: {type: passthrough}"));
    assert_eq!(bad(&auth), [(Code::HeaderConflict, 5)]);
    let forward = format!("{keys}{}", server("headers: {forward: [X-K]}"));
    assert_eq!(bad(&forward), [(Code::HeaderConflict, 5)]);
}

#[test]
fn a_url_has_its_admin_port_on_loopback_and_the_log_level_of_the_environment() {
    let load = |level: &str| {
        let environment = BTreeMap::from([("LOG_LEVEL".to_owned(), level.to_owned())]);
        let options = UrlOptions::default();
        Config::from_url("https://mcp.example.com/mcp", &options, &environment)
    };
    let observability = load("debug").unwrap().config.observability;
    assert_eq!(observability.log.level, LogLevel::Debug);
    assert_eq!(
        observability.metrics.listen,
        "127.0.0.1:9464".parse().unwrap()
    );
    let report = load("loud").unwrap_err();
    assert_eq!(report.problems()[0].variable(), Some("LOG_LEVEL"));
}

#[test]
fn a_word_that_is_no_choice_is_shown() {
    let text = server("loadBalancing: {policy: fewest_calls}");
    let report = Config::from_text("test.yaml", text.as_bytes()).unwrap_err();
    let said = report.to_string();
    assert!(said.contains("fewest_calls"), "{said}");
    let help = "help: one of roundRobin, failover, leastLoaded\n";
    assert!(said.contains(help), "without other spellings: {said}");
}

/// Wherever a person may put a secret by mistake, it does not come out again.
#[test]
fn s0_26_a_literal_secret_is_never_printed() {
    const SECRET: &str = "hunter2-and-more";
    let cases = [
        "auth: {type: bearer, token: SECRET}",
        "auth: {type: bearer, token: SECRET, tokn: SECRET}",
        "auth: {type: bearer, token: {SECRET}}",
        "auth: {type: bearer, token: {value: SECRET}}",
        "auth: {type: bearer, token: {valueFrom: SECRET}}",
        "auth: {type: bearer, token: {valueFrom: {literal: SECRET}}}",
        "auth: {type: bearer, token: [SECRET]}",
        "auth: {type: bearer, token: |\n    SECRET\n  }",
        "auth: {type: bearer, key: SECRET}",
        "auth: {type: SECRET}",
        "auth: SECRET",
        "auth: {SECRET}",
        "auth: {type: bearer, SECRET}",
        "auth: {type: oauth2, clientSecret: SECRET}",
        "auth: {type: basic, username: u, password: SECRET}",
        "auth: {type: bearer, token: !!str SECRET}",
        "auth: {type: bearer, token: {valueFrom: {file: /s}}, token: SECRET}",
        "auth: {type: bearer, token: {valueFrom: {env: \"SECRET\"}}}",
        "headers: {static: [{name: Authorization, value: Bearer SECRET}]}",
        "headers: {static: [{name: X-Api-Key, value: SECRET, valueFrom: {file: /s}}]}",
        "headers: {static: [{name: 'a b', value: SECRET}]}",
        "bearerToken: SECRET",
        "timeouts: {request: SECRET}",
        "timeouts: {request: 1, token: SECRET}",
        "auth: {type: bearer, token: SECRET\nx: y: z",
        "auth: {type: bearer, token: \"SECRET",
        "? {SECRET: 1}\n: 2",
    ];
    for case in cases {
        let printed = says(&server(&case.replace("SECRET", SECRET)));
        assert!(!printed.contains("hunter2"), "{case}\n{printed}");
        let debug = format!(
            "{:?}",
            load(&server(&case.replace("SECRET", SECRET))).unwrap_err()
        );
        assert!(!debug.contains("hunter2"), "{case}\n{debug}");
    }
}

mod url {
    use std::collections::BTreeMap;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn run(url: &str, options: &UrlOptions) -> Result<Loaded, Report> {
        let environment = environment(&[("TOKEN", "hunter2"), ("EMPTY", "")]);
        Config::from_url(url, options, &environment)
    }

    #[test]
    fn a_url_alone_is_a_sidecar_with_defaults() {
        let config = run("https://mcp.example.com/mcp", &UrlOptions::default())
            .unwrap()
            .config;
        assert_eq!(config.listeners, [Listener::default()]);
        assert_eq!(config.servers.len(), 1);
        assert_eq!(
            config.servers[0].endpoints[0].url,
            "https://mcp.example.com/mcp"
        );
        assert_eq!(config.servers[0].auth, Auth::default());
    }

    #[test]
    fn s0_24_plaintext_is_for_loopback_unless_the_flag_allows_it() {
        let url = "http://mcp.example.com/mcp";
        let refused = run(url, &UrlOptions::default()).unwrap_err().to_string();
        assert!(refused.contains("say --allow-plaintext"), "{refused}");
        let allowed = UrlOptions::default().allow_plaintext(true);
        assert!(run(url, &allowed).unwrap().config.servers[0].allow_plaintext);
    }

    #[test]
    fn a_bearer_token_comes_from_a_variable_or_a_file() {
        let options = UrlOptions::default().bearer_env("TOKEN");
        let config = run("https://e.example", &options).unwrap().config;
        let token = SecretSource::Literal("hunter2".to_owned().into());
        assert_eq!(config.servers[0].auth.kind, AuthKind::Bearer { token });
        assert!(!format!("{config:?}").contains("hunter2"));
        let options = UrlOptions::default().bearer_file("/s");
        let config = run("https://e.example", &options).unwrap().config;
        let token = SecretSource::File("/s".into());
        assert_eq!(config.servers[0].auth.kind, AuthKind::Bearer { token });
        let both = options.bearer_env("TOKEN");
        assert_eq!(run("https://e.example", &both).unwrap_err().errors(), 1);
    }

    #[test]
    fn a_variable_that_is_not_set_is_an_error() {
        for name in ["EMPTY", "MISSING"] {
            for options in [
                UrlOptions::default().bearer_env(name),
                UrlOptions::default().header(format!("X-A: a${{{name}}}")),
            ] {
                let report = run("https://e.example", &options).unwrap_err();
                assert_eq!(report.problems()[0].code(), Code::EnvironmentUnset);
                assert!(report.to_string().contains(name), "{report}");
            }
        }
        let options = UrlOptions::default().bearer_env("ghp-hunter2");
        let report = run("https://e.example", &options).unwrap_err();
        assert!(!report.to_string().contains("hunter2"), "{report}");
    }

    #[test]
    fn a_header_takes_variables_and_no_literal_credential() {
        let options = UrlOptions::default()
            .header("X-Tenant: a")
            .header("X-Key: k ${TOKEN}");
        let config = run("https://e.example", &options).unwrap().config;
        let headers = &config.servers[0].headers.set;
        assert_eq!(headers[0].value, Value::Plain("a".into()));
        let secret = SecretSource::Literal("k hunter2".to_owned().into());
        assert_eq!(headers[1].value, Value::Secret(secret));
        let options = UrlOptions::default().header("Authorization: Bearer abcdef");
        let report = run("https://e.example", &options).unwrap_err();
        assert_eq!(report.problems()[0].code(), Code::SecretLiteral);
        assert!(!report.to_string().contains("abcdef"));
        for header in [
            "nocolon",
            "Host: x",
            "a b: c",
            "X: ${",
            "X: ${a b}",
            "X: a\nb",
        ] {
            assert!(run("https://e.example", &UrlOptions::default().header(header)).is_err());
        }
    }

    #[test]
    fn every_argument_is_told_of_at_once() {
        let options = UrlOptions::default()
            .bearer_env("MISSING")
            .header("nocolon");
        let report = run("https://u:hunter2@e.example", &options).unwrap_err();
        assert_eq!(report.errors(), 3, "{report}");
        assert!(!report.to_string().contains("hunter2"));
        let ending = "command line: 3 errors. Nothing was sent or changed.";
        assert!(report.to_string().ends_with(ending));
    }

    #[test]
    fn two_sources_for_one_header_name_their_arguments() {
        let options = UrlOptions::default()
            .bearer_env("TOKEN")
            .header("Authorization: Bearer ${TOKEN}");
        let report = run("https://e.example", &options).unwrap_err();
        assert_eq!(report.problems()[0].code(), Code::HeaderConflict);
        assert_eq!(report.problems()[0].variable(), Some("--header"));
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let words: Vec<&'static str> = keys::ALL
        .iter()
        .flat_map(|keys| keys.known)
        .copied()
        .collect();
    prop_oneof![
        6 => proptest::sample::select(words).prop_map(str::to_owned),
        6 => proptest::sample::select(vec![
            ": ", "\n", "\n  ", "\n- ", "{", "}", "[", "]", ", ", "\"", "'", "# ", "&a ", "*a", "|\n",
            "? ", "!!str ", "---\n", "...\n", "~", "\t", "\r\n", "\r", "é", "\u{2028}", "%YAML 1.2\n", "<<: ",
        ]).prop_map(str::to_owned),
        2 => proptest::sample::select(vec!["30s", "30", "bearer", "https://e.example/mcp", "true", "1"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_give_a_configuration_or_problems(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(report) = Config::from_text("x", &bytes) {
            prop_assert!(report.errors() > 0);
            prop_assert!(!report.to_string().is_empty());
        }
    }

    #[test]
    fn anything_like_yaml_gives_a_configuration_or_problems(
        parts in proptest::collection::vec(fragment(), 0..60),
    ) {
        let text = parts.concat();
        if let Err(report) = Config::from_text("x", text.as_bytes()) {
            prop_assert!(report.errors() > 0);
            prop_assert!(!report.to_string().is_empty());
        }
    }

    /// What the masks cut out stands where the parser says it does.
    #[test]
    fn plain_scalars_stand_where_they_are_said_to(
        parts in proptest::collection::vec(fragment(), 0..60),
    ) {
        let text = parts.concat();
        let tree = node::parse(&text);
        let characters: Vec<char> = text.chars().collect();
        let mut wrong = None;
        tree.root.scalars(&mut |span, value| {
            let found: String =
                characters.get(span.start..span.end).unwrap_or_default().iter().collect();
            let plain = value.chars().all(|c| c.is_ascii_alphanumeric());
            if plain && !value.is_empty() && !found.contains(value) && !found.contains('\n') {
                wrong = Some((value.to_owned(), found));
            }
        });
        prop_assert_eq!(wrong, None, "{}", text);
    }
}
