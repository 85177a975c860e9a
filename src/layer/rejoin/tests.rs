use std::collections::{HashSet, VecDeque};
use std::future::{Future, ready};
use std::pin::Pin as Pinned;
use std::sync::Mutex;

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep};
use tower::{ServiceExt as _, service_fn};
use tower_test::mock;

use super::*;
use crate::call::Call;
use crate::clock::Clock;
use crate::error::{Cause, Failure};
use crate::facts::{Caller, Facts, Pin};
use crate::mcp::headers::{LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID};
use crate::mcp::revision::Revision;
use crate::session::script::{Guard, Log, Script, answer, delete, get, post};
use crate::session::state::lock;
use crate::session::{Capabilities, Handle, MemoryStore, Sealed, SessionState};

const PARAMS: &str =
    r#"{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pay"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":8,"method":"tools/list"}"#;
const OK: &str = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
const NO_SESSION: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#;

type Post = Request<Full<Bytes>>;
/// What comes, and after how many milliseconds; nothing breaks the connection.
type Steps = Vec<(u64, Option<&'static str>)>;
type Answering = Pinned<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

/// A server with sessions, which can be restarted, moved and changed.
#[derive(Clone)]
struct Server(Arc<Mutex<World>>);

struct World {
    log: Log,
    sessions: HashSet<String>,
    opened: u32,
    executed: u32,
    revision: &'static str,
    capabilities: &'static str,
    /// Answers 400 to a session that it does not know, as many servers do.
    says_400: bool,
    /// Endpoints that are down.
    down: HashSet<u32>,
    /// What it answers to a GET, in turn.
    streams: VecDeque<(u16, Steps)>,
    /// How it answers a `tools/call`: in events.
    events: Option<Steps>,
}

impl Server {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            log: Log::default(),
            sessions: HashSet::from(["up-1".into()]),
            opened: 1,
            executed: 0,
            revision: "2025-06-18",
            capabilities: r#"{"tools":{"listChanged":true}}"#,
            says_400: false,
            down: HashSet::new(),
            streams: VecDeque::new(),
            events: None,
        })))
    }

    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut lock(&self.0))
    }

    fn restart(&self) {
        self.with(|world| world.sessions.clear());
    }

    fn log(&self) -> Vec<String> {
        self.with(|world| world.log.take())
    }

    fn rejoin(
        &self,
        params: RejoinParams,
    ) -> Rejoin<
        impl Service<Post, Response = Response<Body>, Error = BoxError, Future = Answering>
        + Clone
        + Send
        + use<>,
    > {
        let server = self.clone();
        RejoinLayer::new(params).layer(service_fn(move |request: Post| -> Answering {
            let server = server.clone();
            Box::pin(async move {
                sleep(Duration::from_millis(5)).await;
                server.with(|world| world.answer(&request))
            })
        }))
    }
}

impl World {
    fn answer(&mut self, request: &Post) -> Result<Response<Body>, BoxError> {
        let call = request.extensions().get::<Call>().unwrap();
        let facts = Facts::get(request)
            .cloned()
            .unwrap_or_else(|| Facts::new(None));
        let pin = request
            .extensions()
            .get::<Pin>()
            .cloned()
            .unwrap_or_default();
        let up = (0..2).find(|at| !self.down.contains(at) && !pin.avoid.contains(at));
        let endpoint = pin.endpoint.or(up).unwrap_or_default();
        facts.set_endpoint(endpoint);
        if self.down.contains(&endpoint) {
            return Err(Failure::unsent(Cause::ConnectionRefused).into());
        }
        let header = |name| request.headers().get(name)?.to_str().ok();
        let id = header(SESSION_ID).unwrap_or("-");
        let name = call.method_name();
        let name = name.as_deref().unwrap_or_else(|| request.method().as_str());
        let after = header(LAST_EVENT_ID).map_or_else(String::new, |id| format!(" after {id}"));
        self.log.note(format!("{name} {id}{after}"));
        if name == "initialize" {
            return Ok(self.initialize());
        }
        if self.sessions.contains(id) {
            return Ok(self.serve(name, call.wants_answer()));
        }
        let mut response = answer("application/json", Bytes::from(NO_SESSION));
        *response.status_mut() = if self.says_400 {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::NOT_FOUND
        };
        Ok(response)
    }

    fn serve(&mut self, name: &str, wants_answer: bool) -> Response<Body> {
        match name {
            "GET" => {
                let (status, steps) = self.streams.pop_front().unwrap_or((405, Vec::new()));
                let mut response = answer("text/event-stream", Script::body(&steps, None));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            }
            "tools/call" => {
                self.executed += 1;
                match &self.events {
                    Some(steps) => answer("text/event-stream", Script::body(steps, None)),
                    None => answer("application/json", Bytes::from(OK)),
                }
            }
            _ if !wants_answer => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::ACCEPTED;
                response
            }
            _ => answer("application/json", Bytes::from(OK)),
        }
    }

    fn initialize(&mut self) -> Response<Body> {
        self.opened += 1;
        let id = format!("up-{}", self.opened);
        self.sessions.insert(id.clone());
        let result = format!(
            r#"{{"jsonrpc":"2.0","id":"outrigger/initialize","result":{{"protocolVersion":"{}","capabilities":{}}}}}"#,
            self.revision, self.capabilities
        );
        let mut response = answer("application/json", Bytes::from(result));
        response
            .headers_mut()
            .insert(SESSION_ID, HeaderValue::from_str(&id).unwrap());
        response
    }
}

fn session(is_pinned: bool) -> Arc<OpenSession> {
    let sealed = Sealed {
        upstream: Bytes::from_static(b"up-1"),
        revision: Some(Revision::V2025_06_18),
        capabilities: Capabilities::of_result(br#"{"capabilities":{"tools":{}}}"#),
        params: Some(Bytes::from_static(PARAMS.as_bytes())),
        expires: 10,
        ..Sealed::default()
    };
    let store = Arc::new(MemoryStore::new(10, Clock::manual(0)));
    let state = Arc::new(SessionState::default());
    let id = HeaderValue::from_static("ours");
    Arc::new(
        OpenSession::new(
            id,
            Handle::of_nonce(&[1; 24]),
            sealed,
            is_pinned,
            state,
            store,
        )
        .unwrap(),
    )
}

fn within(session: &Arc<OpenSession>, mut request: Post) -> Post {
    let facts = Facts::of(&mut request);
    facts.set_caller(Caller::named("ann".into()));
    facts.set_session(session.clone());
    session.address(&mut request);
    request
}

async fn text(response: Response<impl http_body::Body<Data = Bytes, Error = BoxError>>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn cause<T>(outcome: Result<T, BoxError>) -> Cause {
    Failure::of(&outcome.err().unwrap()).unwrap().cause()
}

#[tokio::test(start_paused = true)]
async fn rule_1_without_a_session_a_call_is_left_alone() {
    let server = Server::new();
    let response = server
        .rejoin(RejoinParams::default())
        .oneshot(post(CALL))
        .await
        .unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(server.log(), ["tools/call -"]);
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_lost_session_is_rebuilt_and_the_call_sent_once_more() {
    for says_400 in [false, true] {
        let (server, session) = (Server::new(), session(false));
        server.restart();
        server.with(|world| world.says_400 = says_400);
        session
            .state()
            .set_log_level(Bytes::from_static(br#"{"level":"info"}"#));
        session.state().subscribe("test://a");
        let rejoin = server.rejoin(RejoinParams::default());
        let response = rejoin
            .clone()
            .oneshot(within(&session, post(CALL)))
            .await
            .unwrap();
        assert_eq!(text(response).await, OK);
        assert_eq!(
            server.log(),
            [
                "tools/call up-1",
                "initialize -",
                "notifications/initialized up-2",
                "logging/setLevel up-2",
                "resources/subscribe up-2",
                "tools/call up-2"
            ]
        );
        assert_eq!(server.with(|world| world.executed), 1);
        // From now on at once.
        rejoin.oneshot(within(&session, post(LIST))).await.unwrap();
        assert_eq!(server.log(), ["tools/list up-2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_2_one_rebuild_for_fifty_who_wait_and_no_call_twice() {
    let (server, session) = (Server::new(), session(false));
    server.restart();
    let rejoin = server.rejoin(RejoinParams::default());
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(rejoin.clone().oneshot(within(&session, post(CALL)))))
        .collect();
    for call in calls {
        assert_eq!(text(call.await.unwrap().unwrap()).await, OK);
    }
    let log = server.log();
    assert_eq!(
        log.iter()
            .filter(|line| line.starts_with("initialize"))
            .count(),
        1
    );
    assert_eq!(server.with(|world| world.executed), 50);
    assert_eq!(session.state().generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_caller_who_leaves_during_the_rebuild_does_not_stop_the_others() {
    let (server, session) = (Server::new(), session(false));
    server.restart();
    let rejoin = server.rejoin(RejoinParams::default());
    let first = tokio::spawn(rejoin.clone().oneshot(within(&session, post(CALL))));
    let second = tokio::spawn(rejoin.oneshot(within(&session, post(CALL))));
    sleep(Duration::from_millis(7)).await;
    first.abort();
    assert_eq!(text(second.await.unwrap().unwrap()).await, OK);
    assert_eq!(server.with(|world| world.executed), 1);
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_session_that_is_lost_again_at_once_is_not_rebuilt_again() {
    let (server, session) = (Server::new(), session(false));
    let rejoin = server.rejoin(RejoinParams::default());
    let ask = || {
        server.restart();
        rejoin.clone().oneshot(within(&session, post(CALL)))
    };
    assert_eq!(text(ask().await.unwrap()).await, OK);
    server.log();
    assert_eq!(cause(ask().await), Cause::SessionLost);
    assert_eq!(server.log(), ["tools/call up-2"]);
    sleep(REBUILD_EVERY).await;
    assert_eq!(text(ask().await.unwrap()).await, OK);
    assert_eq!(session.state().generation(), 2);
}

#[tokio::test(start_paused = true)]
async fn rule_2_delete_is_not_sent_again() {
    let (server, session) = (Server::new(), session(false));
    server.restart();
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, delete())).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(server.log(), ["DELETE up-1"]);
}

#[tokio::test(start_paused = true)]
async fn rule_2_what_the_caller_sent_is_sent_again() {
    let session = session(false);
    let (upstream, mut handle) = mock::pair::<Post, Response<Body>>();
    let rejoin = RejoinLayer::new(RejoinParams::default()).layer(upstream);
    let mut request = within(&session, post(CALL));
    request
        .headers_mut()
        .insert("x-tenant", HeaderValue::from_static("blue"));
    request
        .headers_mut()
        .insert(LAST_EVENT_ID, HeaderValue::from_static("9"));
    tokio::spawn(rejoin.oneshot(request));
    let (_, send) = handle.next_request().await.unwrap();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    send.send_response(response);
    let (own, send) = handle.next_request().await.unwrap();
    assert_eq!(own.headers()[PROTOCOL_VERSION], "2025-06-18");
    let facts = Facts::get(&own).unwrap();
    assert_eq!(&**facts.caller().unwrap().principal().unwrap(), "ann");
    let body = own.into_body().collect().await.unwrap().to_bytes();
    assert!(
        body.windows(30)
            .any(|piece| piece == br#"{"protocolVersion":"2025-06-18"#)
    );
    let result = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}}}}"#;
    let mut response = answer("application/json", Bytes::from(result));
    response
        .headers_mut()
        .insert(SESSION_ID, HeaderValue::from_static("up-2"));
    send.send_response(response);
    let (_, send) = handle.next_request().await.unwrap();
    send.send_response(Response::new(Body::empty()));
    let (again, _) = handle.next_request().await.unwrap();
    assert_eq!(again.headers()["x-tenant"], "blue");
    assert_eq!(again.headers()[SESSION_ID], "up-2");
    assert!(!again.headers().contains_key(LAST_EVENT_ID));
    assert_eq!(again.into_body().collect().await.unwrap().to_bytes(), CALL);
}

#[tokio::test(start_paused = true)]
async fn rule_3_another_400_passes_as_it_came() {
    let session = session(false);
    let upstream = service_fn(|_: Post| {
        let error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"Unsupported protocol version"}}"#;
        let mut response = answer("application/json", Bytes::from(error));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        ready(Ok::<_, BoxError>(response))
    });
    let rejoin = RejoinLayer::new(RejoinParams::default()).layer(upstream);
    let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(text(response).await.contains("Unsupported"));
    assert_eq!(session.state().generation(), 0);
}

#[tokio::test(start_paused = true)]
async fn rule_3_a_get_is_turned_away_in_plain_text() {
    let session = session(false);
    let (upstream, mut handle) = mock::pair::<Post, Response<Body>>();
    let rejoin = RejoinLayer::new(RejoinParams::default()).layer(upstream);
    tokio::spawn(rejoin.oneshot(within(&session, get())));
    let (_, send) = handle.next_request().await.unwrap();
    let mut response = answer("text/html", Bytes::from("Invalid or missing session ID"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    send.send_response(response);
    let (own, _) = handle.next_request().await.unwrap();
    let call = own.extensions().get::<Call>().unwrap();
    assert_eq!(call.method_name().unwrap(), "initialize");
}

#[tokio::test(start_paused = true)]
async fn rule_2_the_answer_that_turns_a_call_away_is_read_to_its_end() {
    let (session, log) = (session(false), Log::default());
    let noted = log.clone();
    let upstream = service_fn(move |request: Post| {
        let guard = Guard::new(noted.clone());
        let mut response = answer("text/plain", Script::body(&[(9, Some("no"))], Some(guard)));
        *response.status_mut() = StatusCode::NOT_FOUND;
        noted.note(
            request
                .extensions()
                .get::<Call>()
                .unwrap()
                .method_name()
                .unwrap(),
        );
        ready(Ok::<_, BoxError>(response))
    });
    let rejoin = RejoinLayer::new(RejoinParams::default()).layer(upstream);
    let outcome = rejoin.oneshot(within(&session, post(CALL))).await;
    assert_eq!(cause(outcome), Cause::SessionLost);
    // Dropped, it would be cancelled, by an id that means nothing any more.
    assert_eq!(log.take()[..3], ["tools/call", "done", "initialize"]);
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_session_moves_if_its_endpoint_is_down() {
    let (server, session) = (Server::new(), session(true));
    server.with(|world| world.down.insert(0));
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin
        .clone()
        .oneshot(within(&session, post(CALL)))
        .await
        .unwrap();
    assert_eq!(text(response).await, OK);
    assert_eq!(session.endpoint(), 1);
    assert_eq!(server.with(|world| world.executed), 1);
    // It stays there, even when the first one is back.
    server.with(|world| world.down.clear());
    let request = within(&session, post(LIST));
    assert_eq!(request.extensions().get::<Pin>().unwrap().endpoint, Some(1));
}

#[tokio::test(start_paused = true)]
async fn rule_5_another_revision_or_fewer_capabilities_end_the_session() {
    for (revision, capabilities) in [("2025-11-25", r#"{"tools":{}}"#), ("2025-06-18", "{}")] {
        let (server, session) = (Server::new(), session(false));
        server.restart();
        server.with(|world| (world.revision, world.capabilities) = (revision, capabilities));
        let rejoin = server.rejoin(RejoinParams::default());
        let calls: Vec<_> = (0..5)
            .map(|_| tokio::spawn(rejoin.clone().oneshot(within(&session, post(CALL)))))
            .collect();
        for call in calls {
            assert_eq!(cause(call.await.unwrap()), Cause::SessionLost);
        }
        assert!(session.state().is_over());
        let log = server.log();
        assert_eq!(
            log.iter()
                .filter(|line| line.starts_with("initialize"))
                .count(),
            1
        );
        assert_eq!(log.iter().filter(|line| *line == "DELETE up-2").count(), 1);
        assert_eq!(server.with(|world| world.executed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_never_means_404() {
    let (server, session) = (Server::new(), session(false));
    server.restart();
    let params = RejoinParams {
        rebuild: Rebuild::Never,
        ..RejoinParams::default()
    };
    let outcome = server
        .rejoin(params)
        .oneshot(within(&session, post(CALL)))
        .await;
    assert_eq!(cause(outcome), Cause::SessionLost);
    assert_eq!(server.log(), ["tools/call up-1"]);
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_server_that_cannot_be_reached_ends_no_session() {
    let (server, session) = (Server::new(), session(true));
    server.with(|world| world.down.extend([0, 1]));
    let rejoin = server.rejoin(RejoinParams::default());
    let outcome = rejoin.clone().oneshot(within(&session, post(CALL))).await;
    assert_eq!(cause(outcome), Cause::ConnectionRefused);
    assert!(!session.state().is_over());
    server.with(|world| world.down.clear());
    let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
    assert_eq!(text(response).await, OK);
}

#[tokio::test(start_paused = true)]
async fn c54_a_get_stream_is_resumed_after_retry_with_its_last_event_id() {
    let (server, session) = (Server::new(), session(false));
    server.with(|world| {
        world.streams = VecDeque::from([
            (
                200,
                vec![
                    (0, Some("retry: 500\nid: a\ndata:\n\n")),
                    (5, Some("id: b\ndata: {}\n\ndata: {\"ha")),
                ],
            ),
            (200, vec![(5, Some("id: c\ndata: [1]\n\n")), (0, None)]),
        ]);
    });
    let started = Instant::now();
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, get())).await.unwrap();
    let body = text(response).await;
    // Half an event is not passed on; the third GET is answered 405, which ends the stream.
    assert_eq!(
        body,
        "retry: 500\nid: a\ndata:\n\nid: b\ndata: {}\n\nid: c\ndata: [1]\n\n"
    );
    assert_eq!(
        server.log(),
        ["GET up-1", "GET up-1 after b", "GET up-1 after c"]
    );
    let took = started.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_millis(1100)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_get_stream_goes_on_across_a_restart() {
    let (server, session) = (Server::new(), session(false));
    server.with(|world| {
        world.streams = VecDeque::from([
            (200, vec![(0, Some("id: a\ndata: 1\n\n")), (5, None)]),
            (200, vec![(5, Some("id: a\ndata: 2\n\n"))]),
        ]);
    });
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, get())).await.unwrap();
    server.restart();
    assert_eq!(text(response).await, "id: a\ndata: 1\n\nid: a\ndata: 2\n\n");
    assert_eq!(
        server.log(),
        [
            "GET up-1",
            "GET up-1 after a",
            "initialize -",
            "notifications/initialized up-2",
            // Events of the lost session mean nothing in the new one.
            "GET up-2",
            "GET up-2 after a"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_rebuild_brings_the_stream_back_at_once() {
    let (server, session) = (Server::new(), session(false));
    server.with(|world| {
        world.streams = VecDeque::from([
            (200, vec![(0, Some("retry: 60000\nid: a\ndata: 1\n\n"))]),
            (200, vec![(0, Some("data: 2\n\n")), (5, None)]),
        ]);
    });
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin
        .clone()
        .oneshot(within(&session, get()))
        .await
        .unwrap();
    let mut body = response.into_body();
    assert!(
        body.frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .ends_with(b"1\n\n")
    );
    let next = tokio::spawn(async move { body.frame().await.unwrap().unwrap() });
    sleep(Duration::from_millis(50)).await;
    server.restart();
    let started = Instant::now();
    rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
    assert_eq!(next.await.unwrap().into_data().unwrap(), "data: 2\n\n");
    assert!(
        started.elapsed() < Duration::from_millis(100),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn s1_19_rule_6_a_stream_that_brings_nothing_is_opened_less_and_less_often() {
    let (server, session) = (Server::new(), session(false));
    server.with(|world| {
        world.streams = (0..100)
            .map(|_| (200, vec![(0, Some(": hi\n\n"))]))
            .collect();
    });
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, get())).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_mins(2), text(response)).await;
    let count = server.log().len();
    assert!((6..=11).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn c53_a_posts_stream_is_resumed_by_get_until_its_response() {
    for end in [Some(""), None] {
        let (server, session) = (Server::new(), session(false));
        server.with(|world| {
            world.events = Some(vec![(0, Some("retry: 300\nid: a\ndata:\n\n")), (5, end)]);
            world.streams = VecDeque::from([
                (503, vec![]),
                (
                    200,
                    vec![
                        (
                            5,
                            Some("id: b\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n"),
                        ),
                        (5, None),
                    ],
                ),
            ]);
        });
        let rejoin = server.rejoin(RejoinParams::default());
        let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
        let body = text(response).await;
        assert_eq!(
            body,
            format!("retry: 300\nid: a\ndata:\n\nid: b\ndata: {OK}\n\n")
        );
        assert_eq!(
            server.log(),
            ["tools/call up-1", "GET up-1 after a", "GET up-1 after a"]
        );
        assert_eq!(server.with(|world| world.executed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_posts_stream_that_cannot_be_resumed_fails_and_is_not_sent_again() {
    let ids = "id: a\ndata:\n\n";
    for (events, get) in [
        // No ids, ended and broken.
        (vec![(0, Some("data: {}\n\n"))], 200),
        (vec![(0, Some("data: {}\n\n")), (5, None)], 200),
        // Ids, and the server does not resume, or stays away.
        (vec![(0, Some(ids))], 405),
        (vec![(0, Some(ids))], 503),
    ] {
        let (server, session) = (Server::new(), session(false));
        server.with(|world| {
            world.events = Some(events.clone());
            world.streams = (0..1000).map(|_| (get, vec![])).collect();
        });
        let rejoin = server.rejoin(RejoinParams::default());
        let started = Instant::now();
        let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
        let error = response.into_body().collect().await.map(drop);
        assert_eq!(cause(error), Cause::ConnectionLost);
        assert!(started.elapsed() < Duration::from_secs(62));
        assert_eq!(server.with(|world| world.executed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_7_after_the_response_a_broken_connection_is_no_error() {
    let (server, session) = (Server::new(), session(false));
    let whole = "id: a\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";
    server.with(|world| world.events = Some(vec![(0, Some(whole)), (5, None)]));
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
    assert_eq!(text(response).await, whole);
    assert_eq!(server.log(), ["tools/call up-1"]);
}

#[tokio::test(start_paused = true)]
async fn rule_7_a_posts_stream_of_a_lost_session_is_not_looked_for_in_the_new_one() {
    let (server, session) = (Server::new(), session(false));
    server.with(|world| world.events = Some(vec![(0, Some("id: a\ndata:\n\n")), (5, None)]));
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
    server.restart();
    let error = response.into_body().collect().await.map(drop);
    assert_eq!(cause(error), Cause::ConnectionLost);
    assert_eq!(server.log(), ["tools/call up-1", "GET up-1 after a"]);
}

#[tokio::test(start_paused = true)]
async fn rule_8_events_are_not_delayed_and_large_ones_pass() {
    let (server, session) = (Server::new(), session(false));
    let large: &'static str = Box::leak(format!("data: {}", "x".repeat(3 << 19)).into_boxed_str());
    server.with(|world| {
        world.events = Some(vec![
            (0, Some("id: a\ndata: 1\n\n")),
            (1000, Some(large)),
            (1000, Some("y\n\n")),
        ]);
    });
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, post(CALL))).await.unwrap();
    let started = Instant::now();
    let mut body = response.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "id: a\ndata: 1\n\n"
    );
    assert!(started.elapsed() < Duration::from_millis(10));
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, format!("{large}y\n\n"));
}

#[tokio::test(start_paused = true)]
async fn dropped_it_asks_no_more() {
    let (server, session) = (Server::new(), session(false));
    server.with(|world| world.streams = (0..9).map(|_| (200, vec![])).collect());
    let rejoin = server.rejoin(RejoinParams::default());
    let response = rejoin.oneshot(within(&session, get())).await.unwrap();
    let reading = text(response);
    assert!(
        tokio::time::timeout(Duration::from_millis(10), reading)
            .await
            .is_err()
    );
    sleep(Duration::from_mins(10)).await;
    assert_eq!(server.log(), ["GET up-1"]);
}

#[tokio::test]
async fn a_pending_inner_service_is_pending() {
    let layer = RejoinLayer::new(RejoinParams::default());
    let (mut service, mut handle) = mock::spawn_layer::<Post, Response<Body>, _>(layer);
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(within(&session(false), post(CALL))));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(response.await.unwrap().unwrap_err().to_string(), "broken");
}

#[test]
fn what_is_kept_of_a_call_is_small() {
    let size = size_of::<Rest<()>>();
    assert!(size <= 256, "{size}");
}
