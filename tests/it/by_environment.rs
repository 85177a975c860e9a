//! What variables and certificates promise holds in the running sidecar, not in its configuration alone.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::client::Answered;
use crate::support::mcp::{modern, modern_body};
use crate::support::running::from_environment;
use crate::support::tempfile::Folder;
use crate::support::{Reply, Request, Upstream, eventually_async, sidecar};
use crate::test_command::{self, Server, tls};

fn list() -> Request {
    modern(modern_body("1", "tools/list", ""))
}

/// The answer is an error with this status, unless a busy machine has made it a late event; gives its text.
fn fails(answered: &Answered, status: u16, cause: &str, begins: &str) -> String {
    let is_late = answered.head.header("content-type") == Some("text/event-stream");
    let expected = if is_late { 200 } else { status };
    assert_eq!(answered.status, expected, "{}", answered.text());
    let error = &answered.json()["error"];
    assert_eq!(error["data"]["cause"], cause, "{error}");
    let text = error["message"].as_str().unwrap().to_owned();
    assert!(text.starts_with(begins), "{text}");
    text
}

#[tokio::test]
async fn s0_1_one_place_forwards_to_several_hosted_servers_over_https() {
    let (config, authority) = tls();
    let folder = Folder::new("s0-1");
    let file = folder.file("ca.pem", &authority);
    let servers = [(); 2].map(|()| Server::start_tls(test_command::modern, config.clone()));
    let [wiki, tracker] = servers.each_ref().map(|server| {
        let url = format!("https://localhost:{}/mcp", server.port);
        format!("endpoints: [{{url: '{url}'}}], tls: {{caFile: '{file}'}}")
    });
    let sidecar = sidecar(&format!(
        "servers: [{{name: wiki, {wiki}}}, {{name: tracker, {tracker}}}]"
    ))
    .await;
    for (number, name) in ["wiki", "tracker"].into_iter().enumerate() {
        let before = servers.each_ref().map(|server| server.seen().len());
        let answered = sidecar
            .fetch(&list().path(&format!("/servers/{name}/mcp")))
            .await;
        assert_eq!(answered.status, 200, "{}", answered.text());
        assert_eq!(answered.json()["result"]["resultType"], "complete");
        let mut expected = before;
        expected[number] += 1;
        let after = servers.each_ref().map(|server| server.seen().len());
        assert_eq!(after, expected, "{name}");
    }
}

#[tokio::test]
async fn s0_25_s1_12_a_certificate_is_checked_against_the_bundle_unless_it_is_said() {
    let (config, authority) = tls();
    let folder = Folder::new("s0-25");
    let file = folder.file("ca.pem", &authority);
    let server = Server::start_tls(test_command::modern, config);
    let url = format!("https://localhost:{}/mcp", server.port);
    for (variables, is_trusted) in [
        (vec![("MCP_REMOTE_CA_BUNDLE", file.as_str())], true),
        (vec![], false),
        (vec![("MCP_REMOTE_VERIFY_TLS", "true")], false),
        (vec![("MCP_REMOTE_VERIFY_TLS", "false")], true),
    ] {
        let sent = server.seen().len();
        let sidecar = from_environment(&url, &variables).await;
        let answered = sidecar.fetch(&list()).await;
        let case = format!("{variables:?}: {}", answered.text());
        if is_trusted {
            assert_eq!(answered.status, 200, "{case}");
            assert_eq!(server.seen().len(), sent + 1);
        } else {
            fails(&answered, 502, "tls_certificate", "SSL certificate problem");
            assert_eq!(server.seen().len(), sent, "nothing is sent to it");
        }
    }
}

#[tokio::test]
async fn s0_20_a_request_ends_after_the_time_of_the_variable() {
    let upstream = Upstream::start(|_| async { Reply::never() }).await;
    let variables = [("MCP_REMOTE_TIMEOUT", "0.05")];
    let sidecar = from_environment(&upstream.url(), &variables).await;
    let answered = sidecar.fetch(&list()).await;
    let text = fails(&answered, 504, "request_timeout", "Request timeout");
    assert!(text.contains(&upstream.address.to_string()), "{text}");
}

#[tokio::test]
async fn s0_21_s1_23_connecting_ends_after_the_time_of_the_variable() {
    // The kernel takes the connection; nobody says anything of TLS.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/mcp", silent.local_addr().unwrap());
    let variables = [("MCP_REMOTE_CONNECT_TIMEOUT", "0.05")];
    let sidecar = from_environment(&url, &variables).await;
    let answered = sidecar.fetch(&list()).await;
    fails(&answered, 504, "connect_timeout", "Connection timeout");
}

#[tokio::test]
async fn s0_22_a_call_waits_for_one_of_the_connections_that_the_variable_allows() {
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let upstream = Upstream::start(move |seen| {
        let gate = gate.clone();
        async move {
            if seen.method() == "tools/call" {
                gate.notified().await;
            }
            Reply::json(super::statements::result(&seen, "{}"))
        }
    })
    .await;
    let variables = [
        ("MCP_REMOTE_MAX_CONNECTIONS", "1"),
        ("MCP_REMOTE_MAX_KEEPALIVE_CONNECTIONS", "1"),
    ];
    let sidecar = from_environment(&upstream.url(), &variables).await;
    let address = sidecar.address;
    let slow = modern(modern_body("2", "tools/call", r#""name":"slow""#));
    let slow = tokio::spawn(async move { slow.fetch(address).await.status });
    eventually_async("the first call", || async {
        upstream.count("tools/call") == 1
    })
    .await;
    let second = tokio::spawn(async move { list().fetch(address).await.status });
    eventually_async("the second to wait", || async {
        let status = sidecar.status().await;
        status["servers"]["default"]["endpoints"][0]["connections"]["waiting"] == 1
    })
    .await;
    assert_eq!(upstream.count("tools/list"), 0);
    go.notify_one();
    assert_eq!((slow.await.unwrap(), second.await.unwrap()), (200, 200));
    assert_eq!((upstream.connections(), upstream.open()), (1, 1));
}
