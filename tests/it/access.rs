//! Who is let in, and what of them goes further.

use std::fs;

use crate::support::mcp::{LEGACY, in_session, initialize, legacy, modern, modern_body};
use crate::support::running::on_free_ports;
use crate::support::tempfile::Folder;
use crate::support::{Program, Reply, Request, Running, Upstream, eventually_async, sidecar};

/// A server with one session, which DELETE ends.
async fn server() -> Upstream {
    Upstream::start(|seen| async move {
        if seen.head.start.starts_with("DELETE") {
            return Reply::status(204);
        }
        let reply = Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"{LEGACY}","capabilities":{{}}}}}}"#,
            seen.id()
        ));
        if seen.method() == "initialize" {
            reply.header("mcp-session-id", "upstream-1")
        } else {
            reply
        }
    })
    .await
}

fn list() -> Request {
    modern(modern_body("1", "tools/list", ""))
}

fn ping(session: &str) -> Request {
    in_session(session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)
}

/// A sidecar that two callers have keys for.
async fn with_keys(upstream: &Upstream, folder: &Folder) -> Running {
    let (ann, ben) = (
        folder.file("ann", "key-of-ann"),
        folder.file("ben", "key-of-ben"),
    );
    sidecar(&format!(
        "listeners: [{{listen: '127.0.0.1:0', inboundAuth: {{apiKeys: [{{name: ann, valueFrom: {{file: '{ann}'}}}}, {{name: ben, valueFrom: {{file: '{ben}'}}}}]}}}}]\n{}",
        upstream.yaml()
    ))
    .await
}

#[tokio::test]
async fn a_key_in_authorization_lets_its_caller_in_and_goes_no_further() {
    let (upstream, folder) = (server().await, Folder::new("key-in-authorization"));
    let file = folder.file("key", "key-of-ann");
    let sidecar = sidecar(&format!(
        "listeners: [{{listen: '127.0.0.1:0', inboundAuth: {{apiKeys: [{{header: Authorization, valueFrom: {{file: '{file}'}}}}]}}}}]\n{}",
        upstream.yaml()
    ))
    .await;
    let status = async |value: &str| {
        let shown = list().header("authorization", value);
        sidecar.fetch(&shown).await.status
    };
    assert_eq!(status("Bearer key-of-ann").await, 200);
    assert_eq!(upstream.last().header("authorization"), None);
    assert_eq!(status("Bearer another").await, 401);
    assert_eq!(sidecar.fetch(&list()).await.status, 401);
}

#[tokio::test]
async fn c47_c92_a_session_is_its_principals_and_never_stands_for_one() {
    let (upstream, folder) = (server().await, Folder::new("keys"));
    let sidecar = with_keys(&upstream, &folder).await;
    let opened = sidecar
        .fetch(&initialize().header("x-api-key", "key-of-ann"))
        .await;
    let session = opened.head.header("mcp-session-id").unwrap().to_owned();
    assert!(session.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
    assert!(!session.contains("upstream-1"));
    let sent = upstream.seen().len();
    // The id alone, with another's key, and with a wrong one.
    assert_eq!(sidecar.fetch(&ping(&session)).await.status, 401);
    assert_eq!(
        sidecar
            .fetch(&ping(&session).header("x-api-key", "key-of-ben"))
            .await
            .status,
        404
    );
    assert_eq!(
        sidecar
            .fetch(&ping(&session).header("x-api-key", "key-of-eve"))
            .await
            .status,
        401
    );
    assert_eq!(upstream.seen().len(), sent, "none of them got through");
    for name in ["x-api-key", "X-API-KEY"] {
        assert_eq!(
            sidecar
                .fetch(&ping(&session).header(name, "key-of-ann"))
                .await
                .status,
            200
        );
    }
    let bearer = ping(&session).header("authorization", "Bearer key-of-ann");
    assert_eq!(sidecar.fetch(&bearer).await.status, 200);
    for seen in upstream.seen() {
        let head = String::from_utf8_lossy(&seen.head.raw).into_owned();
        assert!(!head.contains("key-of"), "{head}");
    }
    // A key that was taken from its file lets nobody in any more.
    fs::write(folder.path("ann"), "another-key").unwrap();
    eventually_async("the old key to be refused", || async {
        let request = ping(&session).header("x-api-key", "key-of-ann");
        sidecar.fetch(&request).await.status == 401
    })
    .await;
    assert_eq!(
        sidecar
            .fetch(&ping(&session).header("x-api-key", "another-key"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn c48_delete_ends_a_session_for_good() {
    let upstream = server().await;
    let sidecar = sidecar(&upstream.yaml()).await;
    let opened = sidecar.fetch(&initialize()).await;
    let session = opened.head.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(sidecar.fetch(&ping(&session)).await.status, 200);
    let delete = Request::new("DELETE").header("mcp-session-id", &session);
    assert!(sidecar.fetch(&delete).await.status < 300);
    assert_eq!(upstream.last().header("mcp-session-id"), Some("upstream-1"));
    let sent = upstream.seen().len();
    let again = Request::stream().header("mcp-session-id", &session);
    for request in [ping(&session), ping("never-there"), again, delete] {
        let answered = sidecar.fetch(&request).await;
        assert_eq!(answered.status, 404, "{request:?}");
        assert_eq!(answered.json()["error"]["data"]["cause"], "session_lost");
        assert_eq!(answered.head.header("mcp-session-id"), None);
    }
    assert_eq!(upstream.seen().len(), sent);
}

#[tokio::test]
async fn c94_nothing_of_a_session_or_a_caller_goes_along_with_a_modern_call() {
    let upstream = server().await;
    let sidecar = sidecar(&upstream.yaml()).await;
    let request = list().headers([
        ("mcp-session-id", "s"),
        ("last-event-id", "1"),
        ("authorization", "Bearer mine"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "10.0.0.1"),
    ]);
    let answered = sidecar.fetch(&request).await;
    assert_eq!(answered.status, 200);
    assert_eq!(answered.head.header("mcp-session-id"), None);
    for name in [
        "mcp-session-id",
        "last-event-id",
        "authorization",
        "cookie",
        "x-forwarded-for",
    ] {
        assert_eq!(upstream.last().header(name), None, "{name}");
    }
}

#[tokio::test]
async fn c81_a_foreign_origin_or_host_is_403_on_every_route_and_method() {
    let upstream = server().await;
    let sidecar = sidecar(&upstream.yaml()).await;
    let requests = [
        list(),
        list().path("/servers/scripted/mcp"),
        legacy(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        Request::stream(),
        Request::new("DELETE"),
        Request::new("OPTIONS"),
    ];
    for request in requests {
        for (name, value) in [
            ("origin", "https://evil.example.com"),
            ("origin", "null"),
            ("host", "evil.example.com"),
        ] {
            let answered = sidecar.fetch(&request.clone().header(name, value)).await;
            assert_eq!(answered.status, 403, "{request:?} {name}: {value}");
            let cause = &answered.json()["error"]["data"]["cause"];
            assert_eq!(*cause, format!("{name}_refused"), "{request:?}");
        }
    }
    assert!(upstream.seen().is_empty());
    let own = format!("http://{}", sidecar.address);
    assert_eq!(
        sidecar.fetch(&list().header("origin", &own)).await.status,
        200
    );
}

#[tokio::test]
async fn s0_6_a_rejected_token_is_not_sent_again_until_its_file_changes() {
    let upstream = Upstream::start(|seen| async move {
        if seen.header("authorization") == Some("Bearer good") {
            Reply::json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)
        } else {
            Reply::status(401).header("www-authenticate", "Bearer error=\"invalid_token\"")
        }
    })
    .await;
    let folder = Folder::new("held");
    let token = folder.file("token", "bad");
    let sidecar = sidecar(&format!(
        "servers: [{{name: one, endpoints: [{{url: '{}'}}], auth: {{type: bearer, token: {{valueFrom: {{file: '{token}'}}}}}}}}]",
        upstream.url()
    ))
    .await;
    let answered = sidecar.fetch(&list()).await;
    assert_eq!(answered.status, 502);
    assert_eq!(answered.json()["error"]["data"]["cause"], "unauthorized");
    let sent = upstream.seen().len();
    for _ in 0..5 {
        let answered = sidecar.fetch(&list()).await;
        assert_eq!(answered.json()["error"]["data"]["cause"], "credential_held");
        assert!(answered.head.header("retry-after").is_some());
    }
    assert_eq!(
        upstream.seen().len(),
        sent,
        "a locked account is nobody's friend"
    );
    fs::write(&token, "good").unwrap();
    eventually_async("the new token", || async {
        sidecar.fetch(&list()).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn s0_9_a_callers_own_token_that_is_rejected_is_the_callers_business() {
    let upstream = Upstream::start(|_| async { Reply::status(401) }).await;
    let sidecar = sidecar(&format!(
        "servers: [{{name: one, endpoints: [{{url: '{}'}}], auth: {{type: passthrough}}}}]",
        upstream.url()
    ))
    .await;
    for number in 1..=3 {
        let request = list().header("authorization", "Bearer expired");
        let answered = sidecar.fetch(&request).await;
        assert_eq!(answered.status, 401, "{}", answered.text());
        assert_eq!(upstream.seen().len(), number, "it is never held back");
    }
}

#[tokio::test]
async fn a_key_that_is_taken_away_opens_nothing_and_another_one_does() {
    let upstream = server().await;
    let folder = Folder::new("taken-away");
    let ann = folder.file("ann", "key-of-ann\n");
    let url = upstream.url();
    let yaml = format!(
        "listeners: [{{listen: '127.0.0.1:0', inboundAuth: {{apiKeys: [{{name: ann, valueFrom: {{file: '{ann}'}}}}]}}}}]\n\
         servers: [{{name: a, endpoints: [{{url: '{url}'}}]}}]\n"
    );
    let config = folder.file("config.yaml", &on_free_ports(&yaml));
    let mut program = Program::start(&["run", "--config", &config], &[]);
    let (address, _) = program.serves().await;
    let status = async |key: &str| {
        let list = modern(modern_body("1", "tools/list", "")).header("x-api-key", key);
        list.fetch(address).await.status
    };
    assert_eq!(status("key-of-ann").await, 200);
    fs::remove_file(&ann).unwrap();
    eventually_async("a key that opens nothing", async || {
        status("key-of-ann").await == 401
    })
    .await;
    program.writes("nobody has this key").await;
    fs::write(&ann, "another-key\n").unwrap();
    eventually_async("another key that opens", async || {
        status("another-key").await == 200
    })
    .await;
    assert_eq!(status("key-of-ann").await, 401);
    program.signal("TERM");
    let ended = program.ends().await;
    // What was taken away must not be said to stay.
    assert!(
        !ended.written.contains("the last one stays"),
        "{}",
        ended.written
    );
}
