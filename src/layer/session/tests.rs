use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::time::sleep;
use tower::{ServiceExt as _, service_fn};
use tower_test::mock;

use super::*;
use crate::body::Body;
use crate::clock::Clock;
use crate::facts::{Caller, Pin};
use crate::layer::limit::{self, LimitLayer};
use crate::mcp::headers::LAST_EVENT_ID;
use crate::mcp::revision::Revision;
use crate::session::script::{Guard, Log, Script, answer, delete, get, post};
use crate::session::{
    Found, Handle, MemoryStore, SessionKey, SessionKeys, SessionState, SessionStore,
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
const RESULT: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"slow"}}"#;
const OK: &str = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;

fn params() -> SessionParams {
    let keys = SessionKeys::new(SessionKey::new([1; 32]));
    let mut params = SessionParams::new("wiki".into(), keys);
    params.clock = Clock::manual(1_000);
    params
}

type Post = Request<Full<Bytes>>;

/// A server with sessions: `initialize` opens `up-1`, anything else shows what it was sent.
async fn server(request: Post) -> Result<Response<Body>, BoxError> {
    let call = request.extensions().get::<Call>().unwrap().clone();
    let Some(id) = request.headers().get(SESSION_ID) else {
        let mut response = answer("application/json", Bytes::from(RESULT));
        if call.method() == Some(Method::Initialize) {
            response
                .headers_mut()
                .insert(SESSION_ID, HeaderValue::from_static("up-1"));
        }
        return Ok(response);
    };
    assert_eq!(id, "up-1");
    assert!(Facts::get(&request).and_then(Facts::session).is_some());
    let mut response = answer("application/json", Bytes::from(OK));
    response
        .headers_mut()
        .insert(SESSION_ID, HeaderValue::from_static("up-1"));
    Ok(response)
}

fn by(principal: Option<&str>, mut request: Post) -> Post {
    let caller = principal.map_or_else(Caller::anonymous, |name| Caller::named(name.into()));
    Facts::of(&mut request).set_caller(caller);
    request
}

fn with(id: &HeaderValue, mut request: Post) -> Post {
    request.headers_mut().insert(SESSION_ID, id.clone());
    request
}

async fn opened(sessions: &Sessions) -> HeaderValue {
    let service = SessionLayer::new(sessions.clone()).layer(service_fn(server));
    let response = service.oneshot(post(INITIALIZE)).await.unwrap();
    response.headers()[SESSION_ID].clone()
}

async fn cause(sessions: &Sessions, request: Post) -> Option<Cause> {
    let service = SessionLayer::new(sessions.clone()).layer(service_fn(server));
    let error = service.oneshot(request).await.err()?;
    Some(Failure::of(&error).unwrap().cause())
}

#[tokio::test]
async fn c14_a_modern_call_goes_without_session_and_event_id() {
    let upstream = service_fn(async |request: Post| {
        assert!(request.headers().is_empty());
        let answer = Response::builder().header(SESSION_ID, "an upstream's");
        Ok::<_, Infallible>(answer.body(Body::empty()).unwrap())
    });
    let mut request = with(&HeaderValue::from_static("x"), post(CALL));
    request
        .headers_mut()
        .insert(LAST_EVENT_ID, HeaderValue::from_static("1"));
    let call = request.extensions().get::<Call>().unwrap();
    let modern = Call::new(
        call.form().clone(),
        Era::Modern,
        Some(Revision::V2026_07_28),
        call.body().clone(),
    );
    request.extensions_mut().insert(modern);
    let service = SessionLayer::new(Sessions::new(params())).layer(upstream);
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key(SESSION_ID));
}

#[tokio::test]
async fn rule_1_without_a_call_a_request_is_left_alone() {
    let upstream = service_fn(async |request: Request<()>| {
        assert_eq!(request.headers()[SESSION_ID], "whatever");
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let service = SessionLayer::new(Sessions::new(params())).layer(upstream);
    let request = Request::builder()
        .header(SESSION_ID, "whatever")
        .body(())
        .unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn c47_the_caller_gets_a_sealed_id_and_the_upstream_its_own() {
    let sessions = Sessions::new(params());
    let service = SessionLayer::new(sessions.clone()).layer(service_fn(server));
    let response = service.clone().oneshot(post(INITIALIZE)).await.unwrap();
    let id = response.headers()[SESSION_ID].clone();
    assert!(id.len() > 100 && id.is_sensitive());
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        RESULT
    );
    let response = service.oneshot(with(&id, post(CALL))).await.unwrap();
    assert_eq!(response.headers()[SESSION_ID], id);
    let stats = sessions.stats();
    assert_eq!((stats.active, stats.opened, stats.refused), (1, 1, 0));
}

#[tokio::test]
async fn rule_2_what_was_negotiated_is_read_from_events_too() {
    let upstream = service_fn(async |_: Post| {
        let text = format!("id: 0\ndata:\n\ndata: {RESULT}\n\n");
        let mut response = answer("text/event-stream", Bytes::from(text));
        response
            .headers_mut()
            .insert(SESSION_ID, HeaderValue::from_static("up-1"));
        Ok::<_, Infallible>(response)
    });
    let sessions = Sessions::new(params());
    let service = SessionLayer::new(sessions.clone()).layer(upstream);
    let response = service.oneshot(post(INITIALIZE)).await.unwrap();
    let id = response.headers()[SESSION_ID].clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("id: 0\ndata:\n\ndata: {RESULT}\n\n"));
    let Opening::Open(session) = sessions.open(&id, None) else {
        panic!("not open")
    };
    assert_eq!(session.revision(), Some(Revision::V2025_06_18));
    assert!(
        session
            .params()
            .unwrap()
            .starts_with(br#"{"protocolVersion":"2025-11-25""#)
    );
}

#[tokio::test]
async fn rule_2_no_id_is_made_where_the_upstream_has_none() {
    let upstream = service_fn(async |_: Post| {
        Ok::<_, Infallible>(answer("application/json", Bytes::from(RESULT)))
    });
    let service = SessionLayer::new(Sessions::new(params())).layer(upstream);
    let response = service.oneshot(post(INITIALIZE)).await.unwrap();
    assert!(!response.headers().contains_key(SESSION_ID));
}

#[tokio::test]
async fn rule_2_an_error_opens_nothing() {
    let upstream = service_fn(async |_: Post| {
        let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"no"}}"#;
        let mut response = answer("application/json", Bytes::from(error));
        response
            .headers_mut()
            .insert(SESSION_ID, HeaderValue::from_static("up-1"));
        Ok::<_, Infallible>(response)
    });
    let sessions = Sessions::new(params());
    let service = SessionLayer::new(sessions.clone()).layer(upstream);
    let response = service.oneshot(post(INITIALIZE)).await.unwrap();
    assert!(!response.headers().contains_key(SESSION_ID));
    assert_eq!(sessions.stats().opened, 0);
}

#[tokio::test]
async fn c48_unknown_or_altered_session_ids_are_lost() {
    let sessions = Sessions::new(params());
    let id = opened(&sessions).await;
    let mut altered = id.as_bytes().to_vec();
    let last = altered.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { b'A' };
    for id in [&b"x"[..], b"0b06c5d9-4d2d-4a5b-8f15-ac1a1f2c6a58", &altered] {
        let id = HeaderValue::from_bytes(id).unwrap();
        assert_eq!(
            cause(&sessions, with(&id, post(CALL))).await,
            Some(Cause::SessionLost)
        );
    }
    assert_eq!(sessions.stats().refused, 3);
    assert_eq!(cause(&sessions, with(&id, post(CALL))).await, None);
}

#[tokio::test]
async fn c47_another_principal_gets_404() {
    let sessions = Sessions::new(params());
    let service = SessionLayer::new(sessions.clone()).layer(service_fn(server));
    let response = service
        .oneshot(by(Some("ann"), post(INITIALIZE)))
        .await
        .unwrap();
    let id = response.headers()[SESSION_ID].clone();
    assert_eq!(
        cause(&sessions, by(Some("ann"), with(&id, post(CALL)))).await,
        None
    );
    for other in [Some("bob"), None] {
        let request = by(other, with(&id, post(CALL)));
        assert_eq!(
            cause(&sessions, request).await,
            Some(Cause::SessionLost),
            "{other:?}"
        );
    }
    assert_eq!(
        sessions.stats().active,
        1,
        "ann's session is not ended by bob"
    );
}

#[tokio::test]
async fn c48_an_expired_session_is_lost() {
    let params = params();
    let clock = params.clock.clone();
    let sessions = Sessions::new(params);
    let id = opened(&sessions).await;
    clock.advance(Duration::from_secs(24 * 60 * 60 - 1));
    assert_eq!(cause(&sessions, with(&id, post(CALL))).await, None);
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        cause(&sessions, with(&id, post(CALL))).await,
        Some(Cause::SessionLost)
    );
}

#[tokio::test]
async fn rule_3_another_process_with_the_key_opens_it_and_another_server_does_not() {
    let id = opened(&Sessions::new(params())).await;
    assert_eq!(
        cause(&Sessions::new(params()), with(&id, post(CALL))).await,
        None
    );
    let mut other = params();
    other.server = "blog".into();
    let other = Sessions::new(other);
    assert_eq!(
        cause(&other, with(&id, post(CALL))).await,
        Some(Cause::SessionLost)
    );
}

#[tokio::test]
async fn rule_5_no_answer_shows_an_upstreams_id() {
    let upstream = service_fn(async |_: Post| {
        let mut response = answer("application/json", Bytes::from(OK));
        let id = HeaderValue::from_static("up-1");
        response.headers_mut().insert(SESSION_ID, id);
        Ok::<_, BoxError>(response)
    });
    let sessions = Sessions::new(params());
    let id = opened(&sessions).await;
    let service = SessionLayer::new(sessions).layer(upstream);
    let shown = async |request: Post| {
        let response = service.clone().oneshot(request).await.unwrap();
        response.headers().get(SESSION_ID).cloned()
    };
    let modern = crate::layer::testing::post(Era::Modern, CALL);
    assert_eq!(shown(modern).await, None);
    assert_eq!(shown(post(CALL)).await, None, "it named none");
    for request in [post(CALL), get(), delete()] {
        assert_eq!(shown(with(&id, request)).await, Some(id.clone()));
    }
}

#[tokio::test]
async fn rule_8_what_is_open_is_ended_and_its_upstreams_can_be_told() {
    let mut params = params();
    params.endpoints = 2;
    let sessions = Sessions::new(params);
    let id = opened(&sessions).await;
    let ended = opened(&sessions).await;
    let service = SessionLayer::new(sessions.clone()).layer(service_fn(server));
    service.oneshot(with(&ended, delete())).await.unwrap();
    let requests = sessions.end_all();
    let [request] = &requests[..] else {
        panic!("{} requests", requests.len())
    };
    assert_eq!(request.method(), http::Method::DELETE);
    assert_eq!(request.headers()[SESSION_ID], "up-1");
    assert_eq!(request.headers()["mcp-protocol-version"], "2025-06-18");
    let extensions = request.extensions();
    let call = extensions.get::<Call>().unwrap();
    assert!(matches!(call.form(), crate::call::Form::End));
    assert_eq!(call.era(), Era::Legacy);
    assert_eq!(extensions.get::<Pin>().unwrap().endpoint, Some(0));
    assert_eq!(sessions.stats().active, 0);
    assert_eq!(
        cause(&sessions, with(&id, post(CALL))).await,
        Some(Cause::SessionLost)
    );
    assert!(sessions.end_all().is_empty());
}

/// Notes what it is told of the ends of sessions.
#[derive(Debug, Default)]
struct Ends(std::sync::Mutex<Vec<(u64, Option<Revision>)>>);

impl crate::exchange::Exchange for Ends {
    fn read(&self, _: &Call) {}

    fn attempt(
        &self,
        _: &Call,
        _: crate::exchange::Peer<'_>,
        _: &mut http::HeaderMap,
    ) -> crate::exchange::Begun {
        crate::exchange::Begun::new(0, None)
    }

    fn attempted(&self, _: u32, _: crate::exchange::Attempted) {}

    fn closed(&self, lasted: Duration, revision: Option<Revision>) {
        self.0.lock().unwrap().push((lasted.as_secs(), revision));
    }

    fn ended(&self, _: &Facts, _: crate::exchange::End) {}
}

#[tokio::test]
async fn rule_6_who_records_hears_how_long_a_session_lasted_that_was_ended() {
    let params = params();
    let clock = params.clock.clone();
    let sessions = Sessions::new(params);
    let id = opened(&sessions).await;
    clock.advance(Duration::from_secs(90));
    let ends = Arc::new(Ends::default());
    let mut service = SessionLayer::new(sessions).layer(service_fn(server));
    let mut send = async |request: Post| {
        let mut request = with(&id, request);
        let facts = Facts::recorded(None, Some(ends.clone()));
        request.extensions_mut().insert(facts);
        let service = service.ready().await.unwrap();
        let _ = service.call(request).await;
    };
    send(post(CALL)).await;
    assert_eq!(*ends.0.lock().unwrap(), []);
    send(delete()).await;
    send(delete()).await;
    let expected = [(90, Some(Revision::V2025_06_18))];
    assert_eq!(*ends.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn rule_3_a_session_stays_on_its_endpoint() {
    let mut params = params();
    params.endpoints = 2;
    let sessions = Sessions::new(params);
    let upstream = service_fn(async |request: Post| {
        Facts::get(&request).unwrap().set_endpoint(1);
        if request.headers().contains_key(SESSION_ID) {
            assert_eq!(request.extensions().get::<Pin>().unwrap().endpoint, Some(1));
        } else {
            assert!(request.extensions().get::<Pin>().is_none());
        }
        server(request).await
    });
    let service = SessionLayer::new(sessions).layer(upstream);
    let response = service
        .clone()
        .oneshot(by(None, post(INITIALIZE)))
        .await
        .unwrap();
    let id = response.headers()[SESSION_ID].clone();
    service
        .oneshot(by(None, with(&id, post(CALL))))
        .await
        .unwrap();
}

#[tokio::test]
async fn c48_a_missing_id_is_the_servers_to_judge() {
    let upstream = service_fn(async |request: Post| {
        assert!(!request.headers().contains_key(SESSION_ID));
        let mut response = answer("application/json", Bytes::from(OK));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        // Rule 5: an id that a server gives out of turn is not shown.
        response
            .headers_mut()
            .insert(SESSION_ID, HeaderValue::from_static("up-1"));
        Ok::<_, Infallible>(response)
    });
    let service = SessionLayer::new(Sessions::new(params())).layer(upstream);
    let response = service.oneshot(post(CALL)).await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(!response.headers().contains_key(SESSION_ID));
}

#[tokio::test]
async fn rule_6_what_the_server_accepted_is_noted_and_nothing_else() {
    let sessions = Sessions::new(params());
    let id = opened(&sessions).await;
    let upstream = service_fn(async |request: Post| {
        let call = request.extensions().get::<Call>().unwrap();
        let text = if call.body().windows(3).any(|piece| piece == b"bad") {
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#
        } else {
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#
        };
        Ok::<_, Infallible>(answer("application/json", Bytes::from(text)))
    });
    let service = SessionLayer::new(sessions.clone()).layer(upstream);
    for (method, params) in [
        ("logging/setLevel", r#"{"level":"info"}"#),
        ("logging/setLevel", r#"{"level":"bad"}"#),
        ("resources/subscribe", r#"{"uri":"test://a"}"#),
        ("resources/subscribe", r#"{"uri":"test://b"}"#),
        ("resources/subscribe", r#"{"uri":"test://bad"}"#),
        ("resources/unsubscribe", r#"{"uri":"test://a"}"#),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let response = service
            .clone()
            .oneshot(with(&id, post(&text)))
            .await
            .unwrap();
        assert!(
            !response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
    }
    let Opening::Open(session) = sessions.open(&id, None) else {
        panic!("not open")
    };
    let changed = session.state().snapshot();
    assert_eq!(changed.log_level.unwrap(), r#"{"level":"info"}"#);
    assert_eq!(
        changed.subscriptions.into_iter().collect::<Vec<_>>(),
        ["test://b".into()]
    );
}

#[tokio::test]
async fn rule_6_what_is_noted_is_bounded() {
    let sessions = Sessions::new(params());
    let service = SessionLayer::new(sessions.clone()).layer(service_fn(server));
    let kept = async |length: usize| {
        let name = "n".repeat(length);
        let response = service
            .clone()
            .oneshot(post(&INITIALIZE.replace("\"t\"", &format!("\"{name}\""))))
            .await
            .unwrap();
        let id = response.headers()[SESSION_ID].clone();
        let level = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{{"level":"{name}"}}}}"#
        );
        let response = service.clone().oneshot(with(&id, post(&level))).await;
        assert_eq!(response.unwrap().status(), 200);
        let Opening::Open(session) = sessions.open(&id, None) else {
            panic!("not open")
        };
        let level = session.state().snapshot().log_level;
        (session.params().is_some(), level.is_some())
    };
    assert_eq!(kept(100).await, (true, true));
    assert_eq!(kept(2_000).await, (true, false));
    assert_eq!(kept(20_000).await, (false, false));
}

#[tokio::test]
async fn c48_delete_ends_a_session_unless_it_is_refused() {
    for (status, ends) in [
        (200, true),
        (204, true),
        (404, true),
        (405, false),
        (500, false),
    ] {
        let sessions = Sessions::new(params());
        let id = opened(&sessions).await;
        let upstream = service_fn(move |_: Post| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            ready(Ok::<_, Infallible>(response))
        });
        let service = SessionLayer::new(sessions.clone()).layer(upstream);
        let response = service.oneshot(with(&id, delete())).await.unwrap();
        assert_eq!(response.status(), status);
        let lost = cause(&sessions, with(&id, post(CALL))).await == Some(Cause::SessionLost);
        assert_eq!(lost, ends, "{status}");
    }
}

/// How the answer to a slow call comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// JSON after 10 s of silence.
    Json,
    /// Events at once, the response after 10 s.
    Events,
}

fn slow(
    form: Form,
    log: &Log,
) -> impl Service<Post, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + use<>
{
    let log = log.clone();
    service_fn(move |_: Post| {
        let mut guard = Guard::new(log.clone());
        async move {
            let response = format!("data: {OK}\n\n");
            if form == Form::Events {
                let steps = [(0, Some("id: 0\ndata:\n\n")), (10_000, Some(&*response))];
                return Ok(answer(
                    "text/event-stream",
                    Script::body(&steps, Some(guard)),
                ));
            }
            sleep(Duration::from_secs(10)).await;
            guard.done();
            Ok(answer("application/json", Bytes::from(OK)))
        }
    })
}

/// Asks, waits for `reached`, and leaves.
async fn leave(sessions: &Sessions, form: Form, log: &Log, request: Post) {
    let service = SessionLayer::new(sessions.clone()).layer(slow(form, log));
    let waiting = async {
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), waiting)
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn c55_a_legacy_call_outlives_its_client_whatever_its_answer_is() {
    for form in [Form::Json, Form::Events] {
        let (sessions, log) = (Sessions::new(params()), Log::default());
        let id = opened(&sessions).await;
        leave(&sessions, form, &log, with(&id, post(CALL))).await;
        assert_eq!(sessions.stats().detached, 1, "{form:?}");
        sessions.detached().idle().await;
        assert_eq!(log.take(), ["done"], "{form:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c59_a_legacy_initialize_is_not_cancelled_by_its_client_leaving() {
    let (sessions, log) = (Sessions::new(params()), Log::default());
    leave(&sessions, Form::Json, &log, post(INITIALIZE)).await;
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["done"]);
}

#[tokio::test(start_paused = true)]
async fn c56_a_modern_call_and_a_get_stream_end_with_their_client() {
    let mut modern = post(CALL);
    let call = modern.extensions().get::<Call>().unwrap();
    let call = Call::new(call.form().clone(), Era::Modern, None, call.body().clone());
    modern.extensions_mut().insert(call);
    for form in [Form::Json, Form::Events] {
        for request in [modern.clone(), get()] {
            let (sessions, log) = (Sessions::new(params()), Log::default());
            leave(&sessions, form, &log, request).await;
            assert_eq!(log.take(), ["cancelled"], "{form:?}");
            assert_eq!(sessions.stats().detached, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c55_no_more_calls_outlive_their_clients_than_is_allowed() {
    let mut params = params();
    params.detached = 1;
    let (sessions, log) = (Sessions::new(params), Log::default());
    leave(&sessions, Form::Events, &log, post(CALL)).await;
    leave(&sessions, Form::Events, &log, post(CALL)).await;
    assert_eq!(log.take(), ["cancelled"]);
    assert_eq!(
        (sessions.stats().detached, sessions.stats().dropped),
        (1, 1)
    );
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["done"]);
}

#[tokio::test(start_paused = true)]
async fn c55_nobody_has_more_than_a_quarter_of_the_places() {
    let mut params = params();
    params.detached = 8;
    let (sessions, log) = (Sessions::new(params), Log::default());
    let id = opened(&sessions).await;
    let left = async |request| {
        leave(&sessions, Form::Json, &log, request).await;
        (sessions.stats().detached, sessions.stats().dropped)
    };
    assert_eq!(left(by(Some("ann"), post(CALL))).await, (1, 0));
    assert_eq!(left(by(Some("ann"), post(CALL))).await, (2, 0));
    assert_eq!(left(by(Some("ann"), post(CALL))).await, (2, 1));
    assert_eq!(left(by(Some("bob"), post(CALL))).await, (3, 1));
    for places in [4, 5, 5] {
        assert_eq!(left(with(&id, post(CALL))).await.0, places);
    }
    sessions.detached().idle().await;
    assert_eq!(left(by(Some("ann"), post(CALL))).await, (1, 2));
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_call_that_outlives_its_client_counts_against_its_limits() {
    for form in [Form::Json, Form::Events] {
        let (sessions, log) = (Sessions::new(params()), Log::default());
        let mut params = limit::Params::default();
        params.calls.each = Some(1);
        let service = LimitLayer::new(params)
            .layer(SessionLayer::new(sessions.clone()).layer(slow(form, &log)));
        let ask = || service.clone().oneshot(post(CALL));
        let hung_up = tokio::time::timeout(Duration::from_secs(1), async {
            let response = ask().await.unwrap();
            let _ = response.into_body().collect().await;
        });
        assert!(hung_up.await.is_err());
        assert_eq!(sessions.stats().detached, 1);
        assert_eq!(ask().await.unwrap().status(), 429, "{form:?}");
        sessions.detached().idle().await;
        assert_eq!(ask().await.unwrap().status(), 200, "{form:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c55_a_detached_call_ends_after_its_time() {
    let mut params = params();
    params.detach = Duration::from_secs(5);
    let (sessions, log) = (Sessions::new(params), Log::default());
    leave(&sessions, Form::Json, &log, post(CALL)).await;
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn c55_a_drain_cancels_what_is_detached_and_what_would_be() {
    let (sessions, log) = (Sessions::new(params()), Log::default());
    leave(&sessions, Form::Events, &log, post(CALL)).await;
    sessions.detached().close();
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["cancelled"]);
    leave(&sessions, Form::Json, &log, post(CALL)).await;
    assert_eq!(log.take(), ["cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_client_cancels_its_own_detached_call_only() {
    let (sessions, log) = (Sessions::new(params()), Log::default());
    let (mine, other) = (opened(&sessions).await, opened(&sessions).await);
    leave(&sessions, Form::Events, &log, with(&mine, post(CALL))).await;
    let cancel = |id: &str| {
        post(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
        ))
    };
    for request in [
        with(&other, cancel("7")),
        with(&mine, cancel("8")),
        with(&mine, cancel("\"7\"")),
    ] {
        assert_eq!(cause(&sessions, request).await, None);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(sessions.stats().detached, 1);
    }
    assert_eq!(cause(&sessions, with(&mine, cancel("7"))).await, None);
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_client_that_cancels_and_then_leaves_leaves_nothing_behind() {
    let (sessions, log) = (Sessions::new(params()), Log::default());
    let id = opened(&sessions).await;
    let text = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(cause(&sessions, with(&id, post(text))).await, None);
    leave(&sessions, Form::Json, &log, with(&id, post(CALL))).await;
    let left = tokio::time::Instant::now();
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["cancelled"]);
    assert_eq!(left.elapsed(), detach::GRACE);
    // The id may be used again.
    leave(&sessions, Form::Json, &log, with(&id, post(CALL))).await;
    sessions.detached().idle().await;
    assert_eq!(log.take(), ["done"]);
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_cancel_of_a_very_long_id_is_not_remembered() {
    let (sessions, log) = (Sessions::new(params()), Log::default());
    let id = opened(&sessions).await;
    for (length, expected) in [(200, "cancelled"), (300, "done")] {
        let name = "x".repeat(length);
        let cancel = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"{name}"}}}}"#
        );
        assert_eq!(cause(&sessions, with(&id, post(&cancel))).await, None);
        let call = CALL.replace('7', &format!("\"{name}\""));
        leave(&sessions, Form::Json, &log, with(&id, post(&call))).await;
        sessions.detached().idle().await;
        assert_eq!(log.take(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_stream_that_was_read_to_its_end_leaves_nothing_behind() {
    let (sessions, log) = (Sessions::new(params()), Log::default());
    let service = SessionLayer::new(sessions.clone()).layer(slow(Form::Events, &log));
    let response = service.oneshot(post(CALL)).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("id: 0\ndata:\n\ndata: {OK}\n\n"));
    assert_eq!(
        (log.take(), sessions.stats().detached),
        (vec!["done".into()], 0)
    );
}

/// A store that has to be asked.
#[derive(Debug)]
struct Far(MemoryStore);

impl SessionStore for Far {
    fn find(&self, handle: Handle) -> Found {
        let Found::Now(state) = self.0.find(handle) else {
            panic!("memory knows")
        };
        Found::Later(Box::pin(async move {
            sleep(Duration::from_millis(3)).await;
            state
        }))
    }

    fn save(&self, handle: Handle, expires: u64, state: &Arc<SessionState>) {
        self.0.save(handle, expires, state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_later_is_waited_for() {
    let store = Arc::new(Far(MemoryStore::new(10, Clock::manual(1_000))));
    let mut first = params();
    first.store = Some(store.clone());
    let id = opened(&Sessions::new(first.clone())).await;
    // Another process: it has the key and the store, and has not seen the session.
    let second = Sessions::new(first);
    assert_eq!(cause(&second, with(&id, post(CALL))).await, None);
    assert_eq!(second.stats().active, 1);
    // The state is shared: what one ends the other does not serve.
    let Opening::Open(session) = second.open(&id, None) else {
        panic!("not open")
    };
    session.state().end();
    assert_eq!(
        cause(&second, with(&id, post(CALL))).await,
        Some(Cause::SessionLost)
    );
    assert_eq!(store.0.len(), 1);
}

#[tokio::test]
async fn open_sessions_are_bounded_and_a_session_is_not_lost_by_it() {
    let mut params = params();
    params.capacity = 16;
    params.store = Some(Arc::new(MemoryStore::new(1_000, params.clock.clone())));
    let sessions = Sessions::new(params);
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(opened(&sessions).await);
    }
    assert!(sessions.stats().active <= 16);
    for id in &ids {
        assert_eq!(cause(&sessions, with(id, post(CALL))).await, None);
    }
}

#[tokio::test]
async fn a_pending_inner_service_is_pending() {
    let layer = SessionLayer::new(Sessions::new(params()));
    let (mut service, mut handle) = mock::spawn_layer::<Post, Response<Body>, _>(layer);
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(post(CALL)));
    let (request, send) = handle.next_request().await.unwrap();
    assert!(!request.headers().contains_key(SESSION_ID));
    send.send_error("broken");
    let error = response.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "broken");
}
