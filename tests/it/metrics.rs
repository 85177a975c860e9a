//! The metrics: each that is shown is documented, and each that is documented is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use outrigger::Clock;

use crate::support::mcp::{in_session, initialize, legacy, modern, modern_body};
use crate::support::running::on_free_ports;
use crate::support::tempfile::Folder;
use crate::support::{Program, Reply, Request, Upstream, eventually, eventually_async, sidecar};

const REFERENCE: &str = include_str!("../../docs/metrics.md");

/// A metric, as the reference has it or as `/metrics` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metric {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    /// Without `le`.
    pub(crate) labels: BTreeSet<String>,
}

/// What the reference's table says.
pub(crate) fn documented() -> BTreeMap<String, Metric> {
    let rows = REFERENCE.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let metric = Metric {
            kind: cells[1].to_owned(),
            labels: words(cells[2]),
        };
        assert!(!cells[3].is_empty() && !cells[4].is_empty(), "{row}");
        (cells[0].trim_matches('`').to_owned(), metric)
    })
    .collect()
}

fn words(list: &str) -> BTreeSet<String> {
    let words = list.split(", ").map(|word| word.trim_matches('`'));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What the text of `/metrics` shows.
fn shown(text: &str) -> BTreeMap<String, Metric> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let metric = found.entry(name.to_owned()).or_default();
            kind.clone_into(&mut metric.kind);
        } else if !line.starts_with('#')
            && let Some((name, rest)) = line.split_once('{')
        {
            let family = family(name, &found).unwrap_or_else(|| panic!("no type before {line}"));
            let metric = found.entry(family).or_default();
            for label in rest.split("=\"").map(|piece| {
                let from = piece.rfind([',', '"']).map_or(0, |at| at + 1);
                &piece[from..]
            }) {
                let is_label = !label.is_empty() && !label.contains(['}', ' ']) && label != "le";
                metric.labels.extend(is_label.then(|| label.to_owned()));
            }
        }
    }
    found
}

/// The family that a sample is of: its own name, or that of its histogram.
pub(crate) fn family<T>(sample: &str, known: &BTreeMap<String, T>) -> Option<String> {
    let endings = ["", "_bucket", "_sum", "_count"];
    let names = endings.iter().filter_map(|end| sample.strip_suffix(end));
    names
        .into_iter()
        .find(|name| known.contains_key(*name))
        .map(str::to_owned)
}

/// An upstream that has a tool, a session and a stream with one event; it is overloaded once.
async fn upstream() -> Upstream {
    let overloaded = std::sync::atomic::AtomicBool::new(true);
    Upstream::start(move |seen| {
        let is_overloaded = seen.method() == "tools/list"
            && overloaded.swap(false, std::sync::atomic::Ordering::SeqCst);
        async move {
            if is_overloaded {
                return Reply::status(503);
            }
            let id = seen.id();
            match seen.method().as_str() {
                "" => Reply::sse("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n"),
                "initialize" => Reply::json(format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}}}}}}"#
                ))
                .header("mcp-session-id", "u1"),
                _ => Reply::json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)),
            }
        }
    })
    .await
}

/// The text of `/metrics` of the program itself, after calls that make each metric say something.
async fn metrics_of_the_program() -> String {
    let upstream = upstream().await;
    let folder = Folder::new("metrics");
    let token = folder.file("token", "t0ken");
    let yaml = format!(
        "listeners: [{{listen: '127.0.0.1:0'}}]\n\
         observability: {{metrics: {{listen: '127.0.0.1:0', semconv: true}}}}\n\
         servers:\n\
         - {{name: wiki, endpoints: [{{url: '{}'}}], retry: {{backoff: {{initial: 1ms}}}}, \
            auth: {{type: bearer, token: {{valueFrom: {{file: '{token}'}}}}}}}}\n\
         - {{name: gone, endpoints: [{{url: 'http://127.0.0.1:1/mcp'}}], retry: {{maxAttempts: 1}}}}\n",
        upstream.url()
    );
    let config = folder.file("config.yaml", &on_free_ports(&yaml));
    let mut program = Program::start(&["run", "--config", &config], &[]);
    let (listener, admin) = program.serves().await;
    let at = |server: &str| format!("/servers/{server}/mcp");

    // The first is repeated.
    let list = modern(modern_body("1", "tools/list", "")).path(&at("wiki"));
    assert_eq!(list.fetch(listener).await.status, 200);
    let call = modern(modern_body("2", "tools/call", r#""name":"echo""#));
    assert_eq!(
        call.clone().path(&at("wiki")).fetch(listener).await.status,
        200
    );
    assert_eq!(call.path(&at("gone")).fetch(listener).await.status, 502);
    let opened = initialize().path(&at("wiki")).fetch(listener).await;
    let session = opened.head.header("mcp-session-id").unwrap().to_owned();
    let stream = Request::stream().path(&at("wiki")).headers([
        ("mcp-session-id", session.as_str()),
        ("mcp-protocol-version", "2025-11-25"),
    ]);
    let mut stream = stream.send(listener).await;
    stream.until("notifications/x").await;
    drop(stream);
    let ping = r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#;
    let ping = in_session(&session, ping).path(&at("wiki"));
    assert_eq!(ping.fetch(listener).await.status, 200);
    let metrics = || async { Request::get("/metrics").fetch(admin).await.text() };
    eventually_async("the stream's end", || async {
        metrics().await.contains("outrigger_stream_closed_total{")
    })
    .await;
    metrics().await
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .arg("metrics")
        .env_clear()
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(
        page == REFERENCE,
        "docs/metrics.md is out of date: cargo run -- metrics > docs/metrics.md"
    );
}

#[tokio::test]
async fn s0_29_each_metric_is_documented_and_each_documented_one_is_shown() {
    let text = metrics_of_the_program().await;
    for (server, healthy) in [("wiki", 1), ("gone", 0)] {
        let line =
            format!("outrigger_endpoint_healthy{{endpoint=\"0\",server=\"{server}\"}} {healthy}\n");
        assert!(text.contains(&line), "{line} in {text}");
    }
    let (shown, documented) = (shown(&text), documented());
    for (name, metric) in &shown {
        assert_eq!(documented.get(name), Some(metric), "{name}, as documented");
    }
    for name in documented.keys() {
        assert!(
            shown.contains_key(name),
            "{name} is documented and not shown"
        );
    }
    assert!(shown.len() > 30, "{shown:?}");
}

#[tokio::test]
async fn a_rotated_secret_moves_its_time_and_a_reload_that_leaves_it_does_not() {
    let upstream = upstream().await;
    let folder = Folder::new("rotation");
    let (token, key) = (folder.file("token", "one"), folder.path("key"));
    let yaml = |request: &str| {
        format!(
            "listeners: [{{name: agent, listen: '127.0.0.1:0', inboundAuth: {{apiKeys: [{{name: ann, valueFrom: {{file: '{}'}}}}]}}}}]\n\
             servers: [{{name: wiki, endpoints: [{{url: '{}'}}], timeouts: {{request: {request}}}, \
             auth: {{type: bearer, token: {{valueFrom: {{file: '{token}'}}}}}}}}]\n",
            key.display(),
            upstream.url()
        )
    };
    let sidecar = sidecar(&yaml("5s")).await;
    let time = async |source: &str| {
        let series = format!("outrigger_secret_loaded_timestamp_seconds{{source=\"{source}\"}} ");
        let text = sidecar.metrics().await;
        let seconds = text.lines().find_map(|line| line.strip_prefix(&series));
        seconds.unwrap().parse::<u64>().unwrap()
    };
    let now = || Clock::system().unix_seconds();
    assert!((now() - 60..=now()).contains(&time("servers.wiki.auth").await));
    assert_eq!(
        time("listeners.agent.inboundAuth.ann").await,
        0,
        "it is not there yet"
    );
    fs::write(&key, "k3y").unwrap();
    eventually_async("the caller's key", || async {
        time("listeners.agent.inboundAuth.ann").await > 0
    })
    .await;

    let before = time("servers.wiki.auth").await;
    // The wall clock has to move for a change to be seen.
    eventually("the next second", || now() > before).await;
    sidecar.reload(&yaml("6s"));
    assert_eq!(
        time("servers.wiki.auth").await,
        before,
        "it was read anew and is the same"
    );
    fs::write(&token, "two").unwrap();
    eventually_async("the new token", || async {
        time("servers.wiki.auth").await > before
    })
    .await;
    let text = sidecar.metrics().await;
    assert!(!text.contains("k3y") && !text.contains(&token), "{text}");
}

#[tokio::test]
async fn there_is_one_configuration_at_a_time_and_waiting_calls_are_counted() {
    let upstream = Upstream::start(|seen| async move {
        if seen.method() == "tools/call" {
            return Reply::never();
        }
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#,
            seen.id()
        ))
    })
    .await;
    let yaml = |grace: &str| {
        format!(
            "shutdown: {{grace: {grace}}}\nservers: [{{name: wiki, endpoints: [{{url: '{}'}}], pool: {{max: 1}}}}]\n",
            upstream.url()
        )
    };
    let sidecar = sidecar(&yaml("1s")).await;
    let hashes = async || -> Vec<String> {
        let text = sidecar.metrics().await;
        text.lines()
            .filter(|line| line.starts_with("outrigger_config_info{"))
            .map(str::to_owned)
            .collect()
    };
    let first = hashes().await;
    assert_eq!(first.len(), 1, "{first:?}");
    let status = sidecar.status().await;
    let digest = status["configuration"]["digest"].as_str().unwrap();
    assert!(first[0].contains(digest), "{first:?} {digest}");
    sidecar.reload(&yaml("2s"));
    let second = hashes().await;
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(first, second);

    let slow = |id: &str| {
        legacy(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"slow"}}}}"#
        ))
    };
    let address = sidecar.address;
    let calls = ["1", "2"].map(|id| {
        let call = slow(id);
        tokio::spawn(async move { call.try_send(address).await })
    });
    eventually_async("a call that waits", || async {
        sidecar.metric("outrigger_pending_requests", "wiki").await > 0.0
    })
    .await;
    for call in calls {
        call.abort();
    }
    let text = sidecar.metrics().await;
    assert!(!text.contains("mcp_server_operation"), "only if asked for");
}
