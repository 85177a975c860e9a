//! What becomes of upstreams' sessions when the process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::peer::{Client, Upstream};
use super::rig::{Rig, yaml};
use super::wire::{Era, LEGACY, Request, json_answer, result};
use crate::support::tempfile::Folder;
use crate::support::{self, Reply};

/// A server that answers all; only a DELETE is a script's.
async fn server() -> Upstream {
    Upstream::start(|request, mut conn| async move {
        let answer = json_answer(&result(&request.json()["id"]));
        conn.send(answer).await.then_some(conn)
    })
    .await
}

#[tokio::test]
async fn a_drain_ends_the_sessions_whose_key_ends_with_the_process() {
    let upstream = server().await;
    let mut rig = Rig::start(&upstream, "").await;
    let kept = Client::connect(rig.address, Era::Legacy).await;
    kept.echo().await;
    let ended = Client::connect(rig.address, Era::Legacy).await;
    ended
        .send(&Request {
            method: "DELETE",
            ..Request::get(ended.session.as_deref().unwrap())
        })
        .await;
    Client::connect(rig.address, Era::Modern).await.echo().await;
    assert_eq!(upstream.seen("DELETE").len(), 1, "the caller's own");
    rig.handle.drain();
    rig.ended().await;
    let seen = upstream.seen("DELETE");
    assert_eq!(seen.len(), 2, "one for the session that is left");
    let request = &seen[1].request;
    assert_eq!(request.line, "DELETE /mcp HTTP/1.1");
    assert_eq!(request.header("mcp-session-id"), Some("up-1"));
    assert_eq!(request.header("mcp-protocol-version"), Some(LEGACY));
}

#[tokio::test]
async fn a_drain_leaves_the_sessions_alone_that_another_process_can_serve() {
    let upstream = server().await;
    let folder = Folder::new("session-key");
    let key = folder.file("key", &"0123456789abcdef".repeat(4));
    let config = yaml(upstream.address, "", "")
        + &format!("sessions: {{key: {{valueFrom: {{file: '{key}'}}}}}}\n");
    let mut rig = Rig::of(&config).await;
    let client = Client::connect(rig.address, Era::Legacy).await;
    rig.handle.drain();
    rig.ended().await;
    assert!(upstream.seen("DELETE").is_empty());
    let next = Rig::of(&config).await;
    let moved = Client {
        address: next.address,
        ..client
    };
    moved.echo().await;
}

#[tokio::test]
async fn sessions_are_ended_some_at_once_and_a_server_that_does_not_answer_is_not_waited_for() {
    const SESSIONS: usize = 40;
    let deletes = Arc::new(AtomicUsize::new(0));
    let count = deletes.clone();
    let upstream = support::Upstream::start(move |seen| {
        let count = count.clone();
        async move {
            if seen.head.start.starts_with("DELETE ") {
                count.fetch_add(1, Ordering::Relaxed);
                return Reply::never();
            }
            let id = seen.id();
            Reply::json(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"{LEGACY}"}}}}"#
            ))
            .header("mcp-session-id", &format!("up-{id}"))
        }
    })
    .await;
    let mut rig = Rig::of(&yaml(upstream.address, "", "")).await;
    for _ in 0..SESSIONS {
        Client::connect(rig.address, Era::Legacy).await;
    }
    assert_eq!(rig.status("/servers/up/sessions/active"), SESSIONS as u64);
    let drained = Instant::now();
    rig.handle.drain();
    rig.ended().await;
    assert!(drained.elapsed() < Duration::from_secs(20), "1 s in all");
    let deletes = deletes.load(Ordering::Relaxed);
    assert!((1..=32).contains(&deletes), "{deletes} at once");
}
