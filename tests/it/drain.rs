//! SIGTERM: readiness goes, calls may end, the program ends well. A second one does not wait.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::mcp::{modern, modern_body};
use crate::support::running::on_free_ports;
use crate::support::tempfile::Folder;
use crate::support::{
    Connection, Program, Reply, Request, Upstream, eventually, eventually_async, soon,
};

/// A server whose tools wait for `go`.
async fn waiting(go: &Arc<Notify>) -> Upstream {
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

/// The program before that server, with a long grace.
fn program(upstream: &Upstream) -> (Program, Folder) {
    let folder = Folder::new("drain");
    let config = folder.file(
        "config.yaml",
        &on_free_ports(&format!("shutdown: {{grace: 10m}}\n{}", upstream.yaml())),
    );
    let program = Program::start(&["run", "--config", &config], &[]);
    (program, folder)
}

fn slow_call() -> Request {
    modern(modern_body("7", "tools/call", r#""name":"slow""#))
}

#[tokio::test]
async fn sigterm_drains_readiness_goes_the_call_ends_and_the_program_exits_0() {
    let go = Arc::new(Notify::new());
    let upstream = waiting(&go).await;
    let (mut program, _folder) = program(&upstream);
    let (address, admin) = program.serves().await;
    assert_eq!(Request::get("/readyz").fetch(admin).await.status, 200);
    let call = tokio::spawn(async move { slow_call().fetch(address).await });
    eventually("the call", || upstream.count("tools/call") == 1).await;

    program.signal("TERM");
    eventually_async("readiness to go", || async {
        Request::get("/readyz").fetch(admin).await.status == 503
    })
    .await;
    assert_eq!(Request::get("/livez").fetch(admin).await.status, 200);
    eventually_async("no new connections", || async {
        Connection::open(address).await.is_err()
    })
    .await;
    assert!(
        !call.is_finished(),
        "the call has all the time of the grace"
    );
    go.notify_one();
    let answered = soon("the call's answer", call).await.unwrap();
    assert_eq!(answered.text(), r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
    assert_eq!(answered.head.header("connection"), Some("close"));
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
    assert!(ended.written.contains("drained"), "{}", ended.written);
}

#[tokio::test]
async fn a_second_sigterm_ends_the_program_at_once() {
    let go = Arc::new(Notify::new());
    let upstream = waiting(&go).await;
    let (mut program, _folder) = program(&upstream);
    let (address, admin) = program.serves().await;
    let call = tokio::spawn(async move { slow_call().try_send(address).await });
    eventually("the call", || upstream.count("tools/call") == 1).await;
    program.signal("TERM");
    eventually_async("readiness to go", || async {
        Request::get("/readyz").fetch(admin).await.status == 503
    })
    .await;
    program.signal("TERM");
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
    assert!(
        ended.written.contains("told to end twice"),
        "{}",
        ended.written
    );
    assert!(call.await.unwrap().is_err(), "the call is cut");
}

#[tokio::test]
async fn what_is_left_after_the_grace_is_answered_and_the_program_exits_0() {
    let upstream = waiting(&Arc::default()).await;
    let folder = Folder::new("drain");
    let config = on_free_ports(&format!("shutdown: {{grace: 100ms}}\n{}", upstream.yaml()));
    let config = folder.file("config.yaml", &config);
    let mut program = Program::start(&["run", "--config", &config], &[]);
    let (address, _) = program.serves().await;
    let call = tokio::spawn(async move { slow_call().fetch(address).await });
    eventually("the call", || upstream.count("tools/call") == 1).await;
    program.signal("TERM");
    let answered = soon("the call's answer", call).await.unwrap();
    assert_eq!(answered.status, 503);
    assert_eq!(answered.head.header("retry-after"), Some("1"));
    assert_eq!(answered.head.header("connection"), Some("close"));
    assert_eq!(answered.json()["id"], 7);
    assert_eq!(answered.json()["error"]["data"]["cause"], "shutting_down");
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
    assert!(ended.written.contains("calls are cut"), "{}", ended.written);
}

#[tokio::test]
async fn sigterm_drains_from_the_first_moment_on() {
    let upstream = waiting(&Arc::default()).await;
    let folder = Folder::new("drain");
    let config = on_free_ports(&upstream.yaml());
    // A configuration that is not there yet, so that the signal comes before it is read.
    let path = folder.path("config.yaml");
    let mut make = std::process::Command::new("mkfifo");
    assert!(make.arg(&path).status().unwrap().success());
    let program = Program::start(&["run", "--config", path.to_str().unwrap()], &[]);
    let opened = path.clone();
    let opening = tokio::task::spawn_blocking(move || std::fs::File::create(opened));
    // It can be written to once the program reads.
    let mut file = soon("the program to read", opening).await.unwrap().unwrap();
    program.signal("TERM");
    std::io::Write::write_all(&mut file, config.as_bytes()).unwrap();
    drop(file);
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
    assert!(ended.written.contains("drained"), "{}", ended.written);
}

#[tokio::test]
async fn a_program_without_calls_ends_soon_whatever_the_grace() {
    let upstream = waiting(&Arc::default()).await;
    let (mut program, _folder) = program(&upstream);
    let (address, _) = program.serves().await;
    // A connection that waits for its next request is no call; it is left open for 6 s at most.
    let ping = modern(modern_body("1", "tools/list", ""));
    let idle = ping.send(address).await;
    program.signal("INT");
    let ended = program.ends().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.written);
    drop(idle);
}
