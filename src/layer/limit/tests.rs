use http::header::RETRY_AFTER;
use http_body_util::{BodyExt, Full};
use tower_test::mock;

use super::*;

type Res = Response<Full<Bytes>>;
type Answer = Response<LimitedBody<Full<Bytes>>>;

struct Stack {
    service: mock::Spawn<Limit<mock::Mock<Request<()>, Res>>>,
    handle: mock::Handle<Request<()>, Res>,
}

impl Stack {
    fn new(change: impl FnOnce(&mut Params)) -> Self {
        let mut params = Params::default();
        change(&mut params);
        let (service, handle) = mock::spawn_layer(LimitLayer::new(params));
        Self { service, handle }
    }

    /// Sends a request of `principal`; the upstream answers, if it is asked.
    async fn send(&mut self, method: Method, principal: Option<&str>, is_listen: bool) -> Answer {
        let mut request = Request::new(());
        *request.method_mut() = method;
        self.send_request(request, principal, is_listen).await
    }

    async fn send_request(
        &mut self,
        mut request: Request<()>,
        principal: Option<&str>,
        is_listen: bool,
    ) -> Answer {
        let facts = Facts::of(&mut request);
        if let Some(principal) = principal {
            facts.set_caller(Caller::named(principal.into()));
        }
        self.handle.allow(1);
        assert!(self.service.poll_ready().is_ready());
        let mut response = tokio_test::task::spawn(self.service.call(request));
        if let Poll::Ready(answer) = response.poll() {
            let answer = answer.unwrap();
            assert_eq!(facts.cause(), answer.extensions().get().copied());
            return answer;
        }
        let (_, send) = self.handle.next_request().await.unwrap();
        if is_listen {
            facts.set_method(Some(mcp::Method::Listen));
        }
        send.send_response(Response::new(Full::from(Bytes::from_static(b"{}"))));
        response.await.unwrap()
    }

    async fn call(&mut self, principal: &str) -> Answer {
        self.send(Method::POST, Some(principal), false).await
    }
}

#[tokio::test]
async fn rule_1_a_call_counts_to_the_end_of_its_body_or_its_drop() {
    let mut stack = Stack::new(|params| params.calls.each = Some(1));
    let first = stack.call("ann").await;
    let refused = stack.call("ann").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()[RETRY_AFTER]),
        (429, &"1".parse().unwrap())
    );
    let mut body = first.into_body();
    while body.frame().await.is_some() {}
    let second = stack.call("ann").await;
    assert_eq!(second.status(), 200);
    assert_eq!(stack.call("ann").await.status(), 429);
    drop(second);
    assert_eq!(stack.call("ann").await.status(), 200);
    drop(body);
}

#[tokio::test]
async fn rule_1_a_dropped_future_and_an_inner_error_give_the_share_back() {
    let mut stack = Stack::new(|params| params.calls.total = Some(1));
    stack.handle.allow(1);
    assert!(stack.service.poll_ready().is_ready());
    let pending = stack.service.call(Request::post("/").body(()).unwrap());
    assert_eq!(stack.call("ann").await.status(), 429);
    drop(pending);
    let _ = stack.handle.next_request().await.unwrap();
    stack.handle.allow(1);
    assert!(stack.service.poll_ready().is_ready());
    let failing = stack.service.call(Request::post("/").body(()).unwrap());
    let (_, send) = stack.handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(failing.await.unwrap_err().to_string(), "broken");
    assert_eq!(stack.call("ann").await.status(), 200);
}

#[tokio::test]
async fn rule_2_get_and_listen_are_streams_and_no_calls() {
    let mut stack = Stack::new(|params| {
        params.calls.each = Some(1);
        params.streams.each = Some(2);
    });
    let get = stack.send(Method::GET, Some("ann"), false).await;
    let _listen = stack.send(Method::POST, Some("ann"), true).await;
    let call = stack.call("ann").await;
    assert_eq!(call.status(), 200);
    assert_eq!(
        stack.send(Method::GET, Some("ann"), false).await.status(),
        429
    );
    drop(call);
    assert_eq!(
        stack.send(Method::POST, Some("ann"), true).await.status(),
        429
    );
    drop(get);
    assert_eq!(
        stack.send(Method::POST, Some("ann"), true).await.status(),
        200
    );
}

#[tokio::test(start_paused = true)]
async fn rule_3_each_principal_has_its_share_and_the_nameless_one_together() {
    let mut stack = Stack::new(|params| params.rate_each = Rate::new(1, Duration::from_secs(3)));
    assert_eq!(stack.call("ann").await.status(), 200);
    let refused = stack.call("ann").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()[RETRY_AFTER]),
        (429, &"3".parse().unwrap())
    );
    assert_eq!(stack.call("bob").await.status(), 200);
    assert_eq!(stack.send(Method::POST, None, false).await.status(), 200);
    assert_eq!(stack.send(Method::POST, None, false).await.status(), 429);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(stack.call("ann").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_total_rate_holds_for_all() {
    let mut stack = Stack::new(|params| params.rate_total = Rate::new(1, Duration::from_secs(3)));
    assert_eq!(stack.call("ann").await.status(), 200);
    let refused = stack.call("bob").await;
    assert_eq!(refused.extensions().get(), Some(&Cause::RateLimited));
}

#[tokio::test]
async fn rule_5_the_end_of_a_session_always_passes_and_one_of_none_is_a_call() {
    let mut stack = Stack::new(|params| {
        params.calls.total = Some(0);
        params.streams.total = Some(0);
    });
    assert_eq!(stack.call("ann").await.status(), 429);
    let none = stack.send(Method::DELETE, Some("ann"), false).await;
    assert_eq!(none.status(), 429);
    let end = Request::delete("/")
        .header(SESSION_ID, "a-session")
        .body(())
        .unwrap();
    let ended = stack.send_request(end, Some("ann"), false).await;
    assert_eq!(ended.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn rule_5_streams_take_from_the_rate_too() {
    let mut stack = Stack::new(|params| params.rate_each = Rate::new(1, Duration::from_secs(3)));
    let first = stack.send(Method::GET, Some("ann"), false).await;
    assert_eq!(first.status(), 200);
    let second = stack.send(Method::GET, Some("ann"), false).await;
    assert_eq!(second.status(), 429);
}

#[tokio::test]
async fn rule_6_a_call_counts_for_as_long_as_its_share_is_held() {
    let mut stack = Stack::new(|params| params.calls.each = Some(1));
    stack.handle.allow(1);
    assert!(stack.service.poll_ready().is_ready());
    let mut request = Request::post("/").body(()).unwrap();
    Facts::of(&mut request).set_caller(Caller::named("ann".into()));
    let call = stack.service.call(request);
    let (seen, _send) = stack.handle.next_request().await.unwrap();
    let held = seen.extensions().get().and_then(Share::hold).unwrap();
    // Its caller hangs up, and it goes on.
    drop(call);
    assert_eq!(stack.call("ann").await.status(), 429);
    assert_eq!(stack.call("bob").await.status(), 200);
    drop(held);
    assert_eq!(stack.call("ann").await.status(), 200);
}

#[tokio::test]
async fn without_a_call_and_without_limits_everything_passes() {
    let mut stack = Stack::new(|_| {});
    for _ in 0..3 {
        assert_eq!(stack.send(Method::POST, None, false).await.status(), 200);
    }
    stack.handle.allow(0);
    assert!(stack.service.poll_ready().is_pending());
}
