//! Many sessions, few connections: streams never take what calls need.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::peer::{Client, Upstream};
use super::rig::{Rig, skip, within};
use super::wire::{EVENTS, Era, Request};

/// A server whose GET streams stay open and silent.
async fn streaming() -> Upstream {
    Upstream::start(|_, mut conn| async move {
        conn.send(EVENTS).await;
        conn.closed().await;
        None
    })
    .await
}

#[tokio::test]
async fn three_hundred_idle_sessions_with_streams_leave_calls_their_connections() {
    const SESSIONS: u64 = 300;
    let upstream = streaming().await;
    // However long it takes: an answer that comes late is no event here.
    let rig = Rig::start(&upstream, ", pool: {max: 100}, timeouts: {hold: off}").await;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..SESSIONS {
        let client = Client::connect(rig.address, Era::Legacy).await;
        let get = Request::get(client.session.as_deref().unwrap());
        let mut stream = client.open(&get).await;
        assert_eq!(within(stream.head()).await.unwrap().status(), 200);
        clients.push(client);
        streams.push(stream);
    }
    rig.until("/servers/up/endpoints/0/connections/streams", SESSIONS)
        .await;
    // All at once, three for each connection that there is.
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for client in clients {
        calls.spawn(async move { client.echo().await });
    }
    while let Some(called) = within(calls.join_next()).await {
        called.unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "within `request`"
    );
    assert!(rig.status("/servers/up/endpoints/0/connections/open") <= SESSIONS + 100);
    assert_eq!(
        rig.status("/servers/up/endpoints/0/connections/streams"),
        SESSIONS
    );
    assert_eq!(upstream.seen("GET").len() as u64, SESSIONS);
}

#[tokio::test]
async fn one_stream_too_many_is_an_error_that_says_so() {
    let upstream = streaming().await;
    let rig = Rig::start(&upstream, ", pool: {max: 1, maxIdle: 1, streams: 2}").await;
    let client = Client::connect(rig.address, Era::Legacy).await;
    let get = Request::get(client.session.as_deref().unwrap());
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = client.open(&get).await;
        assert_eq!(within(stream.head()).await.unwrap().status(), 200);
        streams.push(stream);
    }
    let mut third = client.open(&get).await;
    skip(2).await;
    let answer = within(third.message()).await.unwrap();
    assert_eq!(answer.status(), 503, "{answer:?}");
    let data = &answer.json()["error"]["data"];
    assert_eq!(data["cause"], "streams_exhausted");
    assert!(data["help"].as_str().unwrap().contains("pool.streams"));
    rig.counted("streams_exhausted").await;
    client.echo().await;
    // One that ends makes room.
    streams.pop();
    rig.until("/servers/up/endpoints/0/connections/streams", 1)
        .await;
    let mut again = client.open(&get).await;
    assert_eq!(within(again.head()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_call_that_finds_no_connection_in_time_is_told_so() {
    // A server that never answers a call.
    let upstream = Upstream::start(|_, mut conn| async move {
        conn.closed().await;
        None
    })
    .await;
    let server =
        ", pool: {max: 1, maxIdle: 1}, retry: {maxAttempts: 1}, timeouts: {hold: off, connect: 5s}";
    let rig = Rig::start(&upstream, server).await;
    // In the legacy era last: a call whose caller leaves keeps its connection.
    for era in [Era::Modern, Era::Legacy] {
        let client = Client::connect(rig.address, era).await;
        let busy = client.open(&client.tool(&json!("busy"), "slow")).await;
        rig.until("/servers/up/endpoints/0/connections/inUse", 1)
            .await;
        let mut second = client.open(&client.tool(&json!("bad-1"), "slow")).await;
        rig.until("/servers/up/endpoints/0/connections/waiting", 1)
            .await;
        skip(6).await;
        let answer = within(second.message()).await.unwrap();
        assert_eq!(answer.status(), 503, "{answer:?}");
        assert_eq!(answer.json()["error"]["data"]["cause"], "pool_exhausted");
        assert_eq!(answer.json()["error"]["data"]["retryable"], true);
        drop(busy);
        drop(second);
        if era == Era::Modern {
            rig.until("/servers/up/endpoints/0/connections/inUse", 0)
                .await;
        }
    }
    rig.counted("pool_exhausted").await;
}
