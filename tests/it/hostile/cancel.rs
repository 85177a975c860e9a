//! The cancel table: who drops a call, in which era, with which form of answer, and what the upstream then sees.
//!
//! | Who drops | Legacy upstream | Modern upstream |
//! | --- | --- | --- |
//! | client leaves | nothing: the call runs to its end (C55) | the connection closes (C56) |
//! | client cancels | its `notifications/cancelled`, in the session | as above |
//! | deadline | `notifications/cancelled` with the id, in the session (C95) | the connection closes |
//! | reload | nothing: the call runs to its end | the same |
//! | drain | nothing within the grace, then as for a deadline, and the caller gets an error | the same |

use serde_json::{Value, json};

use super::peer::{Client, Conn, Gate, Seen, Upstream};
use super::rig::{Rig, skip, within, yaml};
use super::wire::{EVENTS, Era, LAST_CHUNK, Request, event, json_answer, progress, result};

/// How an upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// JSON, of which nothing has been sent yet.
    Json,
    /// A stream, of which one event has been sent.
    Events,
}

/// No comments of ours in between, and no commitment: the table is about the upstream's forms of answers.
const NO_HOLD: &str =
    ", timeouts: {hold: off, request: 60s, methods: {tools/call: 60s}, streamIdle: 60s}";

/// Seconds, of which a busy machine does not use up half by itself. No deadline is shorter.
const GRACE: u64 = 30;

/// A call on its way, of which the upstream has given as much as its form says.
struct Row {
    upstream: Upstream,
    rig: Rig,
    client: Client,
    /// The caller's connection.
    caller: Conn,
    /// What the upstream saw of the call.
    call: Seen,
    /// Lets the upstream finish its answer.
    finish: Gate,
    id: Value,
}

impl Row {
    async fn begin(era: Era, form: Form) -> Self {
        let finish = Gate::default();
        let gate = finish.clone();
        let upstream = Upstream::start(move |request, mut conn| {
            let gate = gate.clone();
            async move {
                let id = request.json()["id"].clone();
                if form == Form::Events {
                    conn.send(format!("{EVENTS}{}", event(&progress()))).await;
                }
                if !gate.opened_before_close(&mut conn).await {
                    return None;
                }
                let answer = match form {
                    Form::Json => json_answer(&result(&id)),
                    Form::Events => format!("{}{LAST_CHUNK}", event(&result(&id))),
                };
                conn.send(answer).await.then_some(conn)
            }
        })
        .await;
        let grace = format!("shutdown: {{grace: {GRACE}s}}\n");
        let rig = Rig::of(&(yaml(upstream.address, NO_HOLD, "") + &grace)).await;
        let client = Client::connect(rig.address, era).await;
        let id = json!("slow-7");
        let mut caller = client.open(&client.tool(&id, "slow")).await;
        let call = upstream.saw("tools/call").await;
        if form == Form::Events {
            caller.until("notifications/progress").await;
        }
        Self {
            upstream,
            rig,
            client,
            caller,
            call,
            finish,
            id,
        }
    }

    /// The upstream was told nothing, and its connection is as good as before.
    async fn runs_to_its_end(&self) {
        self.finish.open();
        self.rig
            .until("/servers/up/endpoints/0/connections/inUse", 0)
            .await;
        assert!(!self.upstream.has_closed(self.call.connection));
        assert!(self.upstream.seen("notifications/cancelled").is_empty());
    }

    /// The caller got all of it.
    async fn ends_in_an_answer(mut self) {
        self.finish.open();
        let answer = within(self.caller.message()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(
            answer.text().contains(&result(&self.id).to_string()),
            "{answer:?}"
        );
        assert!(self.upstream.seen("notifications/cancelled").is_empty());
        assert!(!self.upstream.has_closed(self.call.connection));
    }

    /// The upstream was told so in its era's way.
    async fn is_cancelled_upstream(&self) {
        match self.client.era {
            Era::Modern => {
                self.upstream.saw_close(self.call.connection).await;
                assert!(self.upstream.seen("notifications/cancelled").is_empty());
            }
            Era::Legacy => {
                let cancel = self.upstream.saw("notifications/cancelled").await.request;
                assert_eq!(cancel.json()["params"]["requestId"], self.id);
                assert_eq!(cancel.header("mcp-session-id"), Some("up-1"));
                self.upstream.saw_close(self.call.connection).await;
                assert_eq!(self.upstream.seen("notifications/cancelled").len(), 1);
            }
        }
    }
}

async fn client_leaves(era: Era, form: Form) {
    let mut row = Row::begin(era, form).await;
    row.caller = Conn::to(row.rig.address).await;
    if era == Era::Legacy {
        row.rig.until("/servers/up/sessions/detached", 1).await;
        row.runs_to_its_end().await;
        row.rig.until("/servers/up/sessions/detached", 0).await;
    } else {
        row.is_cancelled_upstream().await;
    }
    row.client.echo().await;
}

async fn client_cancels(era: Era, form: Form) {
    let row = Row::begin(era, form).await;
    let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": row.id}});
    let session = row.client.session.as_deref();
    let answer = row.client.send(&Request::legacy(session, &body)).await;
    assert_eq!((answer.status(), answer.body.len()), (202, 0));
    let cancel = row.upstream.saw("notifications/cancelled").await.request;
    assert_eq!(cancel.text(), body.to_string());
    assert_eq!(cancel.header("mcp-session-id"), Some("up-1"));
    // What the server then does with its call is the server's business: here it ends it.
    row.finish.open();
    let mut caller = row.caller;
    assert_eq!(within(caller.message()).await.unwrap().status(), 200);
    assert_eq!(row.upstream.seen("notifications/cancelled").len(), 1);
}

async fn deadline_passes(era: Era, form: Form) {
    let mut row = Row::begin(era, form).await;
    skip(61).await;
    row.is_cancelled_upstream().await;
    let answer = within(row.caller.message()).await.unwrap();
    let (status, cause) = match form {
        Form::Json => (504, "request_timeout"),
        Form::Events => (200, "stream_idle"),
    };
    assert_eq!(answer.status(), status);
    assert!(
        answer.text().contains(&format!(r#""cause":"{cause}""#)),
        "{answer:?}"
    );
    assert!(answer.text().contains(r#""id":"slow-7""#), "{answer:?}");
    row.rig.counted(cause).await;
    row.client.echo().await;
}

async fn reload_changes_the_server(era: Era, form: Form) {
    let row = Row::begin(era, form).await;
    let changed = format!("{NO_HOLD}, headers: {{static: [{{name: X-New, value: \"1\"}}]}}");
    let grace = format!("shutdown: {{grace: {GRACE}s}}\n");
    row.rig
        .reload(&(yaml(row.upstream.address, &changed, "") + &grace));
    row.client.echo().await;
    let calls = row.upstream.seen("tools/call");
    assert_eq!(
        calls[1].request.header("x-new"),
        Some("1"),
        "the new stack takes new calls"
    );
    row.ends_in_an_answer().await;
}

async fn drain_within_the_grace(era: Era, form: Form) {
    let mut row = Row::begin(era, form).await;
    row.rig.handle.drain();
    skip(GRACE / 2).await;
    assert!(!row.rig.has_ended());
    row.finish.open();
    let answer = within(row.caller.message()).await.unwrap();
    assert!(
        answer.text().contains(&result(&row.id).to_string()),
        "{answer:?}"
    );
    row.rig.ended().await;
    assert!(row.upstream.seen("notifications/cancelled").is_empty());
}

async fn drain_after_the_grace(era: Era, form: Form) {
    let mut row = Row::begin(era, form).await;
    row.rig.handle.drain();
    skip(GRACE + 1).await;
    row.rig.ended().await;
    row.is_cancelled_upstream().await;
    let left = row.caller.rest().await;
    assert!(!left.contains("\"result\""), "{left}");
    // Its caller knows what has become of it, and that nothing more will come.
    assert!(left.contains(r#""cause":"shutting_down""#), "{left}");
    assert!(left.contains(r#""id":"slow-7""#), "{left}");
    match form {
        Form::Json => {
            assert!(left.starts_with("HTTP/1.1 503 "), "{left}");
            let left = left.to_ascii_lowercase();
            assert!(left.contains("\r\nretry-after: 1\r\n"), "{left}");
            assert!(left.contains("\r\nconnection: close\r\n"), "{left}");
        }
        Form::Events => assert!(left.ends_with(LAST_CHUNK), "{left}"),
    }
}

async fn drain_while_detached(form: Form, end: End) {
    let mut row = Row::begin(Era::Legacy, form).await;
    row.caller = Conn::to(row.rig.address).await;
    row.rig.until("/servers/up/sessions/detached", 1).await;
    row.rig.handle.drain();
    skip(GRACE / 2).await;
    assert!(!row.rig.has_ended());
    match end {
        End::WithinTheGrace => row.runs_to_its_end().await,
        End::After => {
            skip(GRACE / 2 + 1).await;
            row.is_cancelled_upstream().await;
        }
    }
    row.rig.ended().await;
}

#[tokio::test]
async fn c55_a_drain_waits_for_and_cancels_a_detached_call_of_a_server_that_a_reload_moved() {
    let mut row = Row::begin(Era::Legacy, Form::Json).await;
    row.caller = Conn::to(row.rig.address).await;
    row.rig.until("/servers/up/sessions/detached", 1).await;
    let elsewhere = Upstream::start(|_, conn| async { Some(conn) }).await;
    let grace = format!("shutdown: {{grace: {GRACE}s}}\n");
    row.rig
        .reload(&(yaml(elsewhere.address, NO_HOLD, "") + &grace));
    row.rig.until("/servers/up/sessions/detached", 0).await;
    row.rig.handle.drain();
    skip(GRACE / 2).await;
    assert!(!row.rig.has_ended());
    skip(GRACE / 2 + 1).await;
    row.is_cancelled_upstream().await;
    row.rig.ended().await;
}

/// When a call ends that began before the drain.
#[derive(Clone, Copy, Debug)]
enum End {
    WithinTheGrace,
    After,
}

#[tokio::test]
async fn c55_a_drain_lets_a_detached_legacy_call_end_within_the_grace() {
    drain_while_detached(Form::Json, End::WithinTheGrace).await;
    drain_while_detached(Form::Events, End::WithinTheGrace).await;
}

#[tokio::test]
async fn c55_a_drain_cancels_a_detached_legacy_call_after_the_grace() {
    drain_while_detached(Form::Json, End::After).await;
    drain_while_detached(Form::Events, End::After).await;
}

macro_rules! rows {
    ($($name:ident: $who:ident, $era:ident, $form:ident;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $who(Era::$era, Form::$form).await;
            }
        )*
    };
}

rows! {
    c55_a_legacy_client_that_leaves_before_json_cancels_nothing: client_leaves, Legacy, Json;
    c55_a_legacy_client_that_leaves_amid_events_cancels_nothing: client_leaves, Legacy, Events;
    c56_a_modern_client_that_leaves_before_json_closes_upstream: client_leaves, Modern, Json;
    c56_a_modern_client_that_leaves_amid_events_closes_upstream: client_leaves, Modern, Events;
    c55_a_legacy_clients_cancel_before_json_passes: client_cancels, Legacy, Json;
    c55_a_legacy_clients_cancel_amid_events_passes: client_cancels, Legacy, Events;
    c95_a_deadline_before_legacy_json_is_a_cancel_in_the_session: deadline_passes, Legacy, Json;
    c95_a_deadline_amid_legacy_events_is_a_cancel_in_the_session: deadline_passes, Legacy, Events;
    c95_a_deadline_before_modern_json_is_a_close: deadline_passes, Modern, Json;
    c95_a_deadline_amid_modern_events_is_a_close: deadline_passes, Modern, Events;
    a_reload_before_legacy_json_drops_nothing: reload_changes_the_server, Legacy, Json;
    a_reload_amid_legacy_events_drops_nothing: reload_changes_the_server, Legacy, Events;
    a_reload_before_modern_json_drops_nothing: reload_changes_the_server, Modern, Json;
    a_reload_amid_modern_events_drops_nothing: reload_changes_the_server, Modern, Events;
    a_drain_lets_legacy_json_come_within_the_grace: drain_within_the_grace, Legacy, Json;
    a_drain_lets_legacy_events_end_within_the_grace: drain_within_the_grace, Legacy, Events;
    a_drain_lets_modern_json_come_within_the_grace: drain_within_the_grace, Modern, Json;
    a_drain_lets_modern_events_end_within_the_grace: drain_within_the_grace, Modern, Events;
    a_drain_cancels_legacy_json_after_the_grace: drain_after_the_grace, Legacy, Json;
    a_drain_cancels_legacy_events_after_the_grace: drain_after_the_grace, Legacy, Events;
    a_drain_closes_modern_json_after_the_grace: drain_after_the_grace, Modern, Json;
    a_drain_closes_modern_events_after_the_grace: drain_after_the_grace, Modern, Events;
}
