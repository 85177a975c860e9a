//! Which endpoint a call goes to.

use crate::support::mcp::{in_session, initialize, modern, modern_body};
use crate::support::{Reply, Request, Running, Upstream, eventually_async, sidecar};

async fn endpoint(name: &'static str) -> Upstream {
    Upstream::start(move |seen| async move {
        let result =
            format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{{}},"name":"{name}"}}"#);
        let reply = Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#,
            seen.id()
        ));
        if seen.method() == "initialize" {
            reply.header("mcp-session-id", name)
        } else {
            reply
        }
    })
    .await
}

async fn before(endpoints: &[&Upstream], policy: &str) -> Running {
    let urls: Vec<String> = endpoints
        .iter()
        .map(|endpoint| format!("{{url: '{}'}}", endpoint.url()))
        .collect();
    sidecar(&format!(
        "servers: [{{name: many, endpoints: [{}], loadBalancing: {{policy: {policy}}}, retry: {{backoff: {{initial: 1ms}}}}}}]",
        urls.join(", ")
    ))
    .await
}

fn list() -> Request {
    modern(modern_body("1", "tools/list", ""))
}

/// Who answers.
async fn who(sidecar: &Running, request: &Request) -> String {
    let answered = sidecar.fetch(request).await;
    answered.json()["result"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn s1_15_round_robin_shares_modern_calls_evenly() {
    let (a, b, c) = (
        endpoint("a").await,
        endpoint("b").await,
        endpoint("c").await,
    );
    let sidecar = before(&[&a, &b, &c], "roundRobin").await;
    for _ in 0..12 {
        assert_eq!(sidecar.fetch(&list()).await.status, 200);
    }
    assert_eq!(
        [&a, &b, &c].map(|endpoint| endpoint.seen().len()),
        [4, 4, 4]
    );
}

#[tokio::test]
async fn s1_15_a_legacy_session_keeps_to_its_endpoint() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let sidecar = before(&[&a, &b], "roundRobin").await;
    let mut homes = Vec::new();
    for _ in 0..4 {
        let opened = sidecar.fetch(&initialize()).await;
        let home = opened.json()["result"]["name"].as_str().unwrap().to_owned();
        let session = opened.head.header("mcp-session-id").unwrap().to_owned();
        for _ in 0..3 {
            let ping = in_session(&session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
            assert_eq!(who(&sidecar, &ping).await, home);
        }
        homes.push(home);
    }
    homes.sort();
    assert_eq!(homes, ["a", "a", "b", "b"]);
}

#[tokio::test]
async fn s1_16_failover_keeps_to_the_first_that_works_and_comes_back_to_it() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let sidecar = before(&[&a, &b], "failover").await;
    for _ in 0..5 {
        assert_eq!(who(&sidecar, &list()).await, "a");
    }
    let place = a.address;
    a.kill().await;
    for _ in 0..5 {
        assert_eq!(who(&sidecar, &list()).await, "b");
    }
    let status = sidecar.status().await;
    let endpoints = &status["servers"]["many"]["endpoints"];
    assert_eq!(endpoints[0]["state"], "aside", "{status}");
    let healthy = sidecar
        .metric("outrigger_endpoint_healthy", &place.to_string())
        .await;
    assert!(healthy < 1.0, "{healthy}");
    let healthy = sidecar.metric("outrigger_endpoint_healthy", "many").await;
    assert!(healthy > 0.0, "the other one is");
    let _a = Upstream::start_at(place, |seen| async move {
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"name":"a"}}}}"#,
            seen.id()
        ))
    })
    .await;
    eventually_async("the first to be used again", || async {
        who(&sidecar, &list()).await == "a"
    })
    .await;
}

#[tokio::test]
async fn with_no_endpoint_left_a_call_fails_at_once_and_says_so() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let sidecar = before(&[&a, &b], "roundRobin").await;
    a.kill().await;
    b.kill().await;
    for _ in 0..2 {
        let answered = sidecar.fetch(&list()).await;
        assert_eq!(answered.status, 503, "{}", answered.text());
        assert_eq!(answered.json()["error"]["data"]["cause"], "no_endpoint");
        assert!(answered.head.header("proxy-status").is_some());
    }
    let answered = sidecar.fetch(&list()).await;
    let error = &answered.json()["error"];
    assert_eq!(error["data"]["retryable"], true, "{error}");
}
