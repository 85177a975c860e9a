use http_body_util::{BodyExt, StreamBody};
use tower_test::mock;

use super::*;
use crate::body::Body;
use crate::error::Phase;
use crate::mcp::message::Parsed;
use crate::mcp::revision::Era;

type Req = Request<()>;
type Stack = mock::Spawn<RestrictTools<mock::Mock<Req, Response<Body>>>>;
type Handle = mock::Handle<Req, Response<Body>>;

const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
const TOOLS: &str = r#"{"jsonrpc":"2.0","id":7,"result":{ "tools":[{"name":"read","x":1.0}, {"name":"delete_all"}],"nextCursor":"c"}}"#;
const KEPT: &str =
    r#"{"jsonrpc":"2.0","id":7,"result":{ "tools":[{"name":"read","x":1.0}],"nextCursor":"c"}}"#;

fn globs(patterns: &[&str]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::new(pattern)).collect()
}

fn params(include: &[&str], exclude: &[&str]) -> Params {
    Params {
        include: globs(include),
        exclude: globs(exclude),
        ..Params::default()
    }
}

fn stack(params: Params) -> (Stack, Handle) {
    mock::spawn_layer(RestrictToolsLayer::new(params))
}

fn request(message: &str) -> Req {
    let body = Bytes::from(message.to_owned());
    let form = match Message::read(&body).unwrap() {
        Parsed::One(message) => Form::Message(message),
        Parsed::Batch(parts) => Form::Batch(parts),
    };
    let mut request = Request::new(());
    request
        .extensions_mut()
        .insert(Call::new(form, Era::Legacy, None, body));
    request
}

fn call_of(tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{tool}}}}}"#)
}

fn answer(kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static(kind));
    response
}

fn text(body: &'static str) -> Body {
    Body::from(Bytes::from_static(body.as_bytes()))
}

/// Sends one request; what it gives, and whether the upstream was asked.
async fn send(
    params: Params,
    request: Req,
    answer: Response<Body>,
) -> (Result<Response<Body>, Failure>, bool) {
    let (mut service, mut handle) = stack(params);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut response = tokio_test::task::spawn(service.call(request));
    if let Poll::Ready(response) = response.poll() {
        return (response.map_err(Failure::from_error), false);
    }
    handle.next_request().await.unwrap().1.send_response(answer);
    (response.await.map_err(Failure::from_error), true)
}

async fn listed(params: Params, response: Response<Body>) -> Result<String, Cause> {
    let (response, was_asked) = send(params, request(LIST), response).await;
    assert!(was_asked);
    let response = response.map_err(|failure| failure.cause())?;
    assert!(!response.headers().contains_key("content-length"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn rule_1_include_then_exclude() {
    let params = params(&["read*", "write"], &["*_secret"]);
    for (name, is_offered) in [
        ("read_file", true),
        ("write", true),
        ("read_secret", false),
        ("list", false),
    ] {
        assert_eq!(params.offers(name), is_offered, "{name}");
    }
    assert!(Params::default().offers(""));
}

#[tokio::test]
async fn rule_2_a_name_beside_one_of_another_case_is_refused() {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","Name":"secret_x"}}"#;
    for message in [call.to_owned(), format!("[{LIST},{call}]")] {
        let params = params(&[], &["secret*"]);
        let (response, was_asked) = send(params, request(&message), Response::default()).await;
        assert_eq!(response.unwrap_err().cause(), Cause::DuplicateKey);
        assert!(!was_asked);
        let all = send(Params::default(), request(&message), Response::default()).await;
        assert!(all.0.is_ok(), "where nothing is restricted it passes");
    }
}

#[tokio::test]
async fn rule_6_a_stream_is_not_resumed_where_tools_are_hidden() {
    for (params, is_kept) in [(params(&[], &["x"]), false), (Params::default(), true)] {
        let (mut service, mut handle) = stack(params);
        handle.allow(1);
        assert!(service.poll_ready().is_ready());
        let mut request = Request::get("/")
            .header(LAST_EVENT_ID, "7")
            .body(())
            .unwrap();
        let call = Call::new(Form::Stream, Era::Legacy, None, Bytes::new());
        request.extensions_mut().insert(call);
        let response = tokio_test::task::spawn(service.call(request));
        let (seen, answer) = handle.next_request().await.unwrap();
        assert_eq!(seen.headers().contains_key(LAST_EVENT_ID), is_kept);
        answer.send_response(Response::default());
        assert!(response.await.is_ok());
    }
}

#[tokio::test]
async fn s0_33_a_hidden_tool_is_refused_on_calls_before_anything_is_sent() {
    for tool in [r#""delete_all""#, r#""del\u0065te_all""#, "7", "null"] {
        let (response, was_asked) = send(
            params(&[], &["delete*"]),
            request(&call_of(tool)),
            Response::default(),
        )
        .await;
        let failure = response.unwrap_err();
        assert_eq!(
            (failure.cause(), failure.phase(), was_asked),
            (Cause::PolicyDenied, Phase::Unsent, false)
        );
    }
    let (response, was_asked) = send(
        params(&[], &["delete*"]),
        request(&call_of(r#""read""#)),
        Response::default(),
    )
    .await;
    assert!(response.is_ok() && was_asked);
}

#[tokio::test]
async fn rule_2_a_batch_is_refused_for_any_of_its_parts() {
    let batch = |tool| format!("[{},{}]", call_of(r#""read""#), call_of(tool));
    let (response, was_asked) = send(
        params(&[], &["delete*"]),
        request(&batch(r#""delete_all""#)),
        Response::default(),
    )
    .await;
    assert_eq!(
        (response.unwrap_err().cause(), was_asked),
        (Cause::PolicyDenied, false)
    );
    assert!(
        send(
            params(&[], &["delete*"]),
            request(&batch(r#""write""#)),
            Response::default()
        )
        .await
        .0
        .is_ok()
    );
}

#[tokio::test]
async fn s0_33_a_hidden_tool_is_cut_from_json_lists_and_other_bytes_stay() {
    let mut json = answer("application/json; charset=utf-8", text(TOOLS));
    json.headers_mut()
        .insert("content-length", http::HeaderValue::from(TOOLS.len()));
    assert_eq!(
        listed(params(&[], &["delete*"]), json).await.as_deref(),
        Ok(KEPT)
    );
    let error = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"x"}}"#;
    assert_eq!(
        listed(params(&["x"], &[]), answer("application/json", text(error)))
            .await
            .as_deref(),
        Ok(error)
    );
}

#[tokio::test]
async fn s0_33_a_hidden_tool_is_cut_from_events_and_the_stream_need_not_end() {
    let other = ": hi\n\nevent: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n";
    let chunk = Bytes::from(format!("{other}id: 2\r\ndata: {TOOLS}\r\n\r\n"));
    let (halves, rest) = (chunk.slice(..100), chunk.slice(100..));
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    for piece in [halves, rest] {
        sender
            .send(Ok::<_, BoxError>(http_body::Frame::data(piece)))
            .unwrap();
    }
    let body = Body::new(StreamBody::new(Frames(receiver)));
    let filtered = listed(params(&[], &["delete*"]), answer("text/event-stream", body))
        .await
        .unwrap();
    assert_eq!(filtered, format!("{other}id: 2\r\ndata: {KEPT}\r\n\r\n"));
    assert!(
        sender.is_closed(),
        "what would come after the answer is let go"
    );
}

/// A stream of frames that ends with its sender.
struct Frames(tokio::sync::mpsc::UnboundedReceiver<Result<http_body::Frame<Bytes>, BoxError>>);

impl futures_core::Stream for Frames {
    type Item = Result<http_body::Frame<Bytes>, BoxError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[tokio::test]
async fn rule_3_what_cannot_be_read_is_not_passed_on() {
    let hidden = || params(&[], &["delete*"]);
    let bad = Err(Cause::BadResponse);
    assert_eq!(
        listed(hidden(), answer("application/json", text("not json"))).await,
        bad
    );
    assert_eq!(
        listed(
            hidden(),
            answer("text/event-stream", text("data: not json\n\n"))
        )
        .await,
        bad
    );
    let mut zipped = answer("application/json", text(TOOLS));
    zipped
        .headers_mut()
        .insert("content-encoding", http::HeaderValue::from_static("gzip"));
    assert_eq!(listed(hidden(), zipped).await, bad);
    let mut short = hidden();
    short.max_list = TOOLS.len() - 1;
    assert_eq!(
        listed(short.clone(), answer("application/json", text(TOOLS))).await,
        bad
    );
    short.max_list = TOOLS.len();
    assert_eq!(
        listed(short, answer("application/json", text(TOOLS)))
            .await
            .as_deref(),
        Ok(KEPT)
    );
}

#[tokio::test]
async fn rule_4_other_answers_pass() {
    let html = listed(params(&[], &["delete*"]), answer("text/html", text("<p>"))).await;
    assert_eq!(html.as_deref(), Ok("<p>"));
    let prompts = request(r#"{"jsonrpc":"2.0","id":7,"method":"prompts/list"}"#);
    let (response, _) = send(
        params(&["x"], &[]),
        prompts,
        answer("application/json", text("not json")),
    )
    .await;
    assert!(response.is_ok());
}

#[tokio::test]
async fn rule_5_without_patterns_and_without_a_call_it_passes_and_with_patterns_it_refuses() {
    let (response, was_asked) =
        send(Params::default(), Request::new(()), Response::default()).await;
    assert!(response.is_ok() && was_asked);
    let (response, was_asked) =
        send(params(&["x"], &[]), Request::new(()), Response::default()).await;
    assert_eq!(
        (response.unwrap_err().cause(), was_asked),
        (Cause::Internal, false)
    );
}

#[tokio::test]
async fn readiness_and_errors_are_the_inner_services() {
    let (mut service, mut handle) = stack(params(&["x"], &[]));
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(request(LIST));
    handle.next_request().await.unwrap().1.send_error("broken");
    assert_eq!(response.await.unwrap_err().to_string(), "broken");
}
