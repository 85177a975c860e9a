//! Callers that have gone: nothing is sent for them any more.

use serde_json::json;
use tokio::time::Instant;

use super::peer::{Client, PATIENCE, Upstream};
use super::rig::{Rig, skip, within};
use super::wire::{Era, json_answer, raw_answer, result};

/// A server that is busy when it is asked first, and asks to be asked again.
async fn busy() -> Upstream {
    let first = std::sync::atomic::AtomicBool::new(true);
    Upstream::start(move |request, mut conn| {
        let answer = if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            raw_answer("503 Busy", "retry-after: 5\r\n", "")
        } else {
            json_answer(&result(&request.json()["id"]))
        };
        async move { conn.send(answer).await.then_some(conn) }
    })
    .await
}

/// How often a list arrives whose first attempt has failed, where its caller waits or leaves.
async fn sends(leaves: bool) -> usize {
    let upstream = busy().await;
    let rig = Rig::start(&upstream, ", timeouts: {hold: off}").await;
    let client = Client::connect(rig.address, Era::Modern).await;
    let list = client.request(&json!("l"), "prompts/list", json!({}));
    let mut caller = client.open(&list).await;
    upstream.saw("prompts/list").await;
    // It has its answer, and waits.
    rig.until("/servers/up/endpoints/0/connections/idle", 1)
        .await;
    if leaves {
        drop(caller);
        let until = Instant::now() + PATIENCE;
        while rig.metric("outrigger_requests_total", "cancelled").await == 0.0 {
            assert!(
                Instant::now() < until,
                "nobody noticed that the caller left"
            );
        }
        skip(30).await;
    } else {
        skip(30).await;
        let answer = within(caller.message()).await.unwrap();
        assert_eq!(answer.json(), result(&json!("l")));
    }
    client.echo().await;
    assert!(upstream.seen("notifications/cancelled").is_empty());
    upstream.seen("prompts/list").len()
}

#[tokio::test]
async fn c58_a_call_whose_caller_has_gone_is_not_sent_again() {
    assert_eq!(sends(false).await, 2);
    assert_eq!(sends(true).await, 1);
}
