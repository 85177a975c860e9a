//! A configuration that changes while calls run, and secrets that are rotated.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::support::mcp::{legacy, modern, modern_body};
use crate::support::running::on_free_ports;
use crate::support::tempfile::Folder;
use crate::support::{
    Program, Reply, Request, Upstream, eventually, eventually_async, sidecar, soon,
};

/// A server whose tools wait for `go`; all else is answered at once.
async fn server(go: &Arc<Notify>) -> Upstream {
    let go = go.clone();
    Upstream::start(move |seen| {
        let go = go.clone();
        async move {
            if seen.method() == "tools/call" {
                go.notified().await;
            }
            Reply::json(format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#,
                seen.id()
            ))
        }
    })
    .await
}

/// Two servers, of which one has a header of that version.
fn two(kept: &Upstream, changed: &Upstream, version: &str) -> String {
    on_free_ports(&format!(
        "servers:\n\
         - {{name: kept, endpoints: [{{url: '{}'}}]}}\n\
         - {{name: changed, endpoints: [{{url: '{}'}}], headers: {{static: [{{name: x-version, value: '{version}'}}]}}}}\n",
        kept.url(),
        changed.url()
    ))
}

fn list(server: &str) -> Request {
    modern(modern_body("1", "tools/list", "")).path(&format!("/servers/{server}/mcp"))
}

fn slow(server: &str) -> Request {
    modern(modern_body("2", "tools/call", r#""name":"slow""#))
        .path(&format!("/servers/{server}/mcp"))
}

#[tokio::test]
async fn a_mounted_configuration_is_swapped_and_calls_and_unchanged_servers_do_not_notice() {
    let go = Arc::new(Notify::new());
    let (kept, changed) = (server(&go).await, server(&go).await);
    let folder = Folder::new("reload");
    folder.swap_data("..v1", "config.yaml", &two(&kept, &changed, "one"));
    let path = folder.path("config.yaml");
    let mut program = Program::start(&["run", "--config", path.to_str().unwrap()], &[]);
    let (address, admin) = program.serves().await;
    for name in ["kept", "changed"] {
        assert_eq!(list(name).fetch(address).await.status, 200);
    }
    assert_eq!(changed.last().header("x-version"), Some("one"));
    // One call waits in the old stack of each.
    let slow_kept = tokio::spawn(async move { slow("kept").fetch(address).await });
    let slow_changed = tokio::spawn(async move { slow("changed").fetch(address).await });
    eventually("two calls", || {
        kept.count("tools/call") + changed.count("tools/call") == 2
    })
    .await;
    let before = (kept.connections(), changed.connections());

    folder.swap_data("..v2", "config.yaml", &two(&kept, &changed, "two"));
    program.writes("reloaded").await;
    for name in ["kept", "changed"] {
        assert_eq!(list(name).fetch(address).await.status, 200);
    }
    assert_eq!(changed.last().header("x-version"), Some("two"));
    assert!(!slow_kept.is_finished() && !slow_changed.is_finished());
    go.notify_waiters();
    for call in [slow_kept, slow_changed] {
        let answered = soon("a call over the reload", call).await.unwrap();
        assert_eq!(answered.text(), r#"{"jsonrpc":"2.0","id":2,"result":{}}"#);
    }
    // A third list of each goes over a connection that was there before.
    let most = (kept.connections(), changed.connections());
    assert!(
        most.0 <= before.0 + 1 && most.1 <= before.1 + 1,
        "{before:?} {most:?}"
    );
    for name in ["kept", "changed"] {
        assert_eq!(list(name).fetch(address).await.status, 200);
    }
    assert_eq!((kept.connections(), changed.connections()), most);
    let status = Request::get("/status").fetch(admin).await.json();
    assert!(status["configuration"]["refused"].is_null(), "{status}");
}

#[tokio::test]
async fn an_unchanged_server_keeps_its_connection_over_a_reload() {
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let sidecar = sidecar(&two(&kept, &changed, "one")).await;
    for version in ["one", "two", "three"] {
        sidecar.reload(&two(&kept, &changed, version));
        for name in ["kept", "changed"] {
            assert_eq!(sidecar.fetch(&list(name)).await.status, 200);
        }
        assert_eq!(changed.last().header("x-version"), Some(version));
        assert_eq!(kept.last().connection, 0);
        // Connections belong to the server's name where their own settings stay.
        assert_eq!(changed.last().connection, 0);
    }
}

#[tokio::test]
async fn the_status_names_what_waits_for_a_restart() {
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let sidecar = sidecar(&two(&kept, &changed, "one")).await;
    let waiting = async || sidecar.status().await["configuration"]["needsRestart"].clone();
    assert_eq!(waiting().await, serde_json::json!([]));
    let longer = two(&kept, &changed, "one") + "sessions: {expiry: 2h}\n";
    sidecar.reload(&longer);
    assert_eq!(waiting().await, serde_json::json!(["sessions.expiry"]));
    sidecar.reload(&two(&kept, &changed, "one"));
    assert_eq!(waiting().await, serde_json::json!([]));
}

#[tokio::test]
async fn a_server_that_is_gone_leaves_no_series_and_second_tries_are_counters() {
    const FAMILIES: [&str; 5] = [
        "outrigger_connections{",
        "outrigger_sessions{",
        "outrigger_retries_total{",
        "outrigger_retry_budget_exhausted_total{",
        "outrigger_endpoint_healthy{",
    ];
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let sidecar = sidecar(&two(&kept, &changed, "one")).await;
    let metrics = async || Request::get("/metrics").fetch(sidecar.admin).await.text();
    let before = metrics().await;
    assert!(
        before.contains("# TYPE outrigger_retries_total counter"),
        "{before}"
    );
    let ours = |text: &str, family: &str, name: &str| {
        let label = format!("server=\"{name}\"");
        text.lines()
            .any(|line| line.starts_with(family) && line.contains(&label))
    };
    for family in FAMILIES {
        assert!(ours(&before, family, "changed"), "{family}");
    }
    let whole = two(&kept, &changed, "one");
    let kept_lines: Vec<_> = whole
        .lines()
        .filter(|line| !line.contains("name: changed"))
        .collect();
    let without = kept_lines.join("\n");
    sidecar.reload(&without);
    let after = metrics().await;
    for family in FAMILIES {
        assert!(ours(&after, family, "kept"), "{family}");
        assert!(!ours(&after, family, "changed"), "{family}");
    }
}

async fn failures(admin: std::net::SocketAddr) -> String {
    let text = Request::get("/metrics").fetch(admin).await.text();
    let family = "outrigger_config_reload_failures_total ";
    let line = text.lines().find_map(|line| line.strip_prefix(family));
    line.unwrap_or_default().to_owned()
}

async fn refused(admin: std::net::SocketAddr) -> String {
    let status = Request::get("/status").fetch(admin).await.json();
    status["configuration"]["refused"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_bad_file_changes_a_counter_a_log_line_and_the_status_only() {
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let folder = Folder::new("bad");
    let path = folder.file("config.yaml", &two(&kept, &changed, "one"));
    let mut program = Program::start(&["run", "--config", &path], &[]);
    let (address, admin) = program.serves().await;
    assert_eq!(list("kept").fetch(address).await.status, 200);
    assert_eq!(
        (failures(admin).await, refused(admin).await),
        ("0".to_owned(), String::new())
    );

    // Wrong words, half a file, and a listener that moves: each is refused, and nothing else happens.
    let moved = two(&kept, &changed, "two").replace(
        "listeners: [{listen: '127.0.0.1:0'}]",
        "listeners: [{listen: '127.0.0.1:1'}]",
    );
    let whole = two(&kept, &changed, "two");
    let half = &whole[..whole.find("changed").unwrap()];
    for (number, (text, says, shows)) in [
        (
            whole.replace("static:", "statik:"),
            "did you mean",
            "1 error",
        ),
        (half.to_owned(), "config.yaml", "config.yaml:"),
        (moved, "listeners were moved", "listeners were moved"),
    ]
    .into_iter()
    .enumerate()
    {
        folder.file("config.yaml", &text);
        let count = (number + 1).to_string();
        eventually_async("a refusal", || async { failures(admin).await == count }).await;
        let why = refused(admin).await;
        assert!(why.contains(shows) && !why.contains(" | "), "{why}");
        program.writes(says).await;
        assert!(
            program
                .written()
                .contains("the new configuration cannot be used")
        );
        assert_eq!(list("changed").fetch(address).await.status, 200);
        assert_eq!(changed.last().header("x-version"), Some("one"));
        assert_eq!(changed.last().connection, 0);
    }
    assert_eq!(Request::get("/readyz").fetch(admin).await.status, 200);

    folder.file("config.yaml", &whole);
    program.writes("reloaded").await;
    assert_eq!(list("changed").fetch(address).await.status, 200);
    assert_eq!(changed.last().header("x-version"), Some("two"));
    assert_eq!(
        (failures(admin).await, refused(admin).await),
        ("3".to_owned(), String::new())
    );
}

#[tokio::test]
async fn sighup_reads_the_configuration_again() {
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let folder = Folder::new("hup");
    let path = folder.file("config.yaml", &two(&kept, &changed, "one"));
    let mut program = Program::start(&["run", "--config", &path], &[]);
    let (address, _) = program.serves().await;
    folder.file("config.yaml", &two(&kept, &changed, "two"));
    program.signal("HUP");
    program.writes("reloaded").await;
    assert_eq!(list("changed").fetch(address).await.status, 200);
    assert_eq!(changed.last().header("x-version"), Some("two"));
}

#[tokio::test]
async fn s0_6_a_rotated_token_is_sent_without_a_restart() {
    let upstream = server(&Arc::default()).await;
    let folder = Folder::new("token");
    // As a file that is written anew, and as a mounted secret.
    let file = folder.file("plain", "token-one\n");
    folder.swap_data("..v1", "token", "mounted-one");
    let mounted = folder.path("token");
    let sidecar = sidecar(&format!(
        "servers:\n\
         - {{name: file, endpoints: [{{url: '{url}'}}], auth: {{type: bearer, token: {{valueFrom: {{file: '{file}'}}}}}}}}\n\
         - {{name: mounted, endpoints: [{{url: '{url}'}}], auth: {{type: bearer, token: {{valueFrom: {{file: '{}'}}}}}}}}\n",
        mounted.display(),
        url = upstream.url(),
    ))
    .await;
    let sent = async |server: &str| {
        sidecar.fetch(&list(server)).await;
        upstream.last().header("authorization").unwrap().to_owned()
    };
    assert_eq!(sent("file").await, "Bearer token-one");
    assert_eq!(sent("mounted").await, "Bearer mounted-one");
    fs::write(&file, "token-two\n").unwrap();
    folder.swap_data("..v2", "token", "mounted-two");
    eventually_async("the new token", || async {
        sent("file").await == "Bearer token-two"
    })
    .await;
    eventually_async("the new token", || async {
        sent("mounted").await == "Bearer mounted-two"
    })
    .await;
}

#[tokio::test]
async fn a_legacy_session_survives_a_reload_that_changes_its_server() {
    let upstream = Upstream::start(|seen| async move {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}}}}}}"#, seen.id());
        let reply = Reply::json(answer);
        if seen.method() == "initialize" { reply.header("mcp-session-id", "up-1") } else { reply }
    })
    .await;
    let yaml = |version: &str| {
        format!(
            "servers: [{{name: one, endpoints: [{{url: '{}'}}], headers: {{static: [{{name: x-version, value: '{version}'}}]}}}}]",
            upstream.url()
        )
    };
    let sidecar = sidecar(&yaml("one")).await;
    let opened = sidecar.fetch(&crate::support::mcp::initialize()).await;
    let session = opened.head.header("mcp-session-id").unwrap().to_owned();
    sidecar.reload(&yaml("two"));
    let ping =
        legacy(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).header("mcp-session-id", &session);
    assert_eq!(sidecar.fetch(&ping).await.status, 200);
    assert_eq!(upstream.last().header("x-version"), Some("two"));
    assert_eq!(upstream.last().header("mcp-session-id"), Some("up-1"));
    assert_eq!(upstream.count("initialize"), 1);
}

/// A port that nobody has, a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn s0_19_the_control_port_reloads_sets_the_log_level_and_drains() {
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let folder = Folder::new("control");
    let control = format!("127.0.0.1:{}", free_port());
    let yaml = |version: &str| {
        let text = two(&kept, &changed, version);
        text.replace(
            "control: {listen: '127.0.0.1:0'}",
            &format!("control: {{listen: '{control}'}}"),
        )
    };
    let path = folder.file("config.yaml", &yaml("one"));
    let mut program = Program::start(&["run", "--config", &path], &[]);
    let (address, admin) = program.serves().await;
    let control = control.parse().unwrap();

    assert_eq!(list("kept").fetch(address).await.status, 200);
    assert!(!program.written().contains("outrigger::access"));
    let level = Request::new("PUT").path("/loglevel").body("debug");
    assert_eq!(level.fetch(control).await.status, 202);
    eventually_async("an access line", || async {
        list("kept").fetch(address).await;
        program.written().contains("outrigger::access")
    })
    .await;

    folder.file("config.yaml", &yaml("two"));
    assert_eq!(
        Request::new("POST")
            .path("/reload")
            .fetch(control)
            .await
            .status,
        202
    );
    program.writes("reloaded").await;
    assert_eq!(list("changed").fetch(address).await.status, 200);
    assert_eq!(changed.last().header("x-version"), Some("two"));

    // What anybody may reach changes nothing, and no page of a browser does.
    let drain = Request::new("POST").path("/drain");
    assert!(drain.fetch(admin).await.status >= 400);
    let page = drain.clone().header("origin", "http://localhost");
    assert_eq!(page.fetch(control).await.status, 403);
    assert_eq!(list("kept").fetch(address).await.status, 200);
    assert_eq!(drain.fetch(control).await.status, 202);
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
}

#[tokio::test]
async fn no_call_notices_twenty_reloads_under_load() {
    let (kept, changed) = (server(&Arc::default()).await, server(&Arc::default()).await);
    let sidecar = sidecar(&two(&kept, &changed, "0")).await;
    let address = sidecar.address;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let over = over.clone();
        callers.spawn(async move {
            let mut calls = 0;
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                let name = if number % 2 == 0 { "kept" } else { "changed" };
                let answered = list(name).fetch(address).await;
                assert_eq!(answered.text(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
                calls += 1;
            }
            calls
        });
    }
    for version in 1..=20 {
        let before = changed.seen().len();
        sidecar.reload(&two(&kept, &changed, &version.to_string()));
        eventually("calls on the new stack", || {
            changed.seen().len() > before + 8
        })
        .await;
        assert_eq!(
            changed.last().header("x-version"),
            Some(version.to_string().as_str())
        );
    }
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    let calls: usize = callers.join_all().await.into_iter().sum();
    assert_eq!(
        calls,
        kept.seen().len() + changed.seen().len(),
        "each call was sent once"
    );
    // Eight callers never need more than eight connections, however often the stack was made anew.
    assert!(kept.connections() <= 8 && changed.connections() <= 8);
}

/// A self-signed TLS front before `upstream`: its port, and its certificate as a file's content.
async fn tls_before(upstream: &Upstream) -> (u16, String) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certified.cert.der().clone()],
            PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), upstream.address);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust it leaves in the handshake.
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let mut plain = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
                }
            });
        }
    });
    (port, certified.cert.pem())
}

#[tokio::test]
async fn s0_25_a_changed_ca_file_is_used_without_a_restart_and_a_broken_one_is_not() {
    let upstream = server(&Arc::default()).await;
    let (port, authority) = tls_before(&upstream).await;
    let (_, other) = tls_before(&upstream).await;
    let folder = Folder::new("ca");
    folder.swap_data("..v1", "ca.crt", &other);
    let sidecar = sidecar(&format!(
        "servers: [{{name: one, endpoints: [{{url: 'https://localhost:{port}/mcp'}}], tls: {{caFile: '{}'}}}}]",
        folder.path("ca.crt").display()
    ))
    .await;
    let refused = sidecar.fetch(&list("one")).await;
    assert!(
        refused.text().contains("tls_certificate"),
        "{}",
        refused.text()
    );
    folder.swap_data("..v2", "ca.crt", &format!("{other}{authority}"));
    eventually_async("the new authority", || async {
        sidecar.fetch(&list("one")).await.status == 200
    })
    .await;
    // What is no certificate is told of, and the authorities of before go on.
    folder.swap_data("..v3", "ca.crt", "nothing");
    folder.swap_data("..v4", "ca.crt", &other);
    eventually_async("the end of trust", || async {
        sidecar
            .fetch(&list("one"))
            .await
            .text()
            .contains("tls_certificate")
    })
    .await;
}
