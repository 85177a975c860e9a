use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_test::mock;

use super::*;
use crate::call::Form;
use crate::error::Phase;
use crate::layer::testing::{Fed, Feeder, bodiless, fed, post};
use crate::mcp::revision::Era;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
const LISTEN: &str = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}"#;

/// What each endpoint does: answers, or fails with this.
type Script = Arc<Mutex<Vec<Option<(Cause, Phase)>>>>;

/// An endpoint that answers with its place, or fails as the script says.
#[derive(Clone)]
struct Scripted {
    at: usize,
    script: Script,
}

impl Service<Request<Full<Bytes>>> for Scripted {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        std::future::ready(match self.script.lock().unwrap()[self.at] {
            None => Ok(Response::new(Full::new(Bytes::from(self.at.to_string())))),
            Some((cause, phase)) => Err(Failure::new(cause, phase).into()),
        })
    }
}

fn endpoints(count: usize, policy: Policy) -> (Balance<Scripted>, Script) {
    let script: Script = Arc::new(Mutex::new(vec![None; count]));
    let scripted = |at| Scripted {
        at,
        script: script.clone(),
    };
    (Balance::new((0..count).map(scripted), policy), script)
}

const REFUSED: Option<(Cause, Phase)> = Some((Cause::ConnectionRefused, Phase::Unsent));

/// The endpoint that a request went to, or why it went nowhere.
async fn send(balance: &Balance<Scripted>, request: Request<Full<Bytes>>) -> Result<u32, Cause> {
    match balance.clone().oneshot(request).await {
        Ok(response) => {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Ok(std::str::from_utf8(&body).unwrap().parse().unwrap())
        }
        Err(error) => Err(Failure::of(&error).unwrap().cause()),
    }
}

async fn call(balance: &Balance<Scripted>) -> Result<u32, Cause> {
    send(balance, post(Era::Modern, CALL)).await
}

fn pinned(pin: Pin) -> Request<Full<Bytes>> {
    let mut request = post(Era::Legacy, CALL);
    request.extensions_mut().insert(pin);
    request
}

async fn seconds(n: u64) {
    tokio::time::advance(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn s1_15_round_robin_takes_one_after_the_other() {
    let (balance, _) = endpoints(3, Policy::RoundRobin);
    for expected in [0, 1, 2, 0, 1] {
        assert_eq!(call(&balance).await, Ok(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn s1_16_failover_takes_the_first_that_works() {
    let (balance, script) = endpoints(3, Policy::Failover);
    assert_eq!(call(&balance).await, Ok(0));
    script.lock().unwrap()[0] = REFUSED;
    assert_eq!(call(&balance).await, Err(Cause::ConnectionRefused));
    assert_eq!(call(&balance).await, Ok(1));
    script.lock().unwrap()[0] = None;
    assert_eq!(call(&balance).await, Ok(1));
    seconds(1).await;
    assert_eq!(call(&balance).await, Ok(0));
    assert_eq!(call(&balance).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn rule_2_a_pin_is_obeyed_whatever_the_state() {
    let (balance, script) = endpoints(2, Policy::RoundRobin);
    script.lock().unwrap()[1] = REFUSED;
    let pin = |endpoint| {
        pinned(Pin {
            endpoint: Some(endpoint),
            avoid: vec![1],
        })
    };
    for _ in 0..3 {
        assert_eq!(send(&balance, pin(1)).await, Err(Cause::ConnectionRefused));
    }
    assert_eq!(balance.states().snapshot()[1].failures, 3);
    script.lock().unwrap()[1] = None;
    assert_eq!(send(&balance, pin(1)).await, Ok(1));
    assert_eq!(balance.states().snapshot()[1].aside, None);
    assert_eq!(send(&balance, pin(9)).await, Err(Cause::NoEndpoint));
}

#[tokio::test(start_paused = true)]
async fn rule_3_endpoints_to_avoid_are_taken_last() {
    let (balance, script) = endpoints(2, Policy::Failover);
    let avoid = |avoid| {
        pinned(Pin {
            endpoint: None,
            avoid,
        })
    };
    assert_eq!(send(&balance, avoid(vec![0])).await, Ok(1));
    assert_eq!(send(&balance, avoid(vec![0, 1])).await, Ok(0));
    script.lock().unwrap()[1] = REFUSED;
    assert!(send(&balance, avoid(vec![0])).await.is_err());
    assert_eq!(send(&balance, avoid(vec![0])).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn rule_3_the_least_loaded_is_taken() {
    let (balance, _) = endpoints(3, Policy::LeastLoaded);
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(
            balance
                .clone()
                .oneshot(post(Era::Modern, CALL))
                .await
                .unwrap(),
        );
    }
    let load = |states: EndpointStates| -> Vec<_> {
        states
            .snapshot()
            .iter()
            .map(|state| state.in_flight)
            .collect()
    };
    assert_eq!(load(balance.states()), [2, 2, 2]);
    let at = open
        .remove(4)
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(call(&balance).await.unwrap().to_string().as_bytes(), at);
}

#[tokio::test(start_paused = true)]
async fn rule_4_an_endpoint_is_aside_for_longer_each_time_and_probed_by_one() {
    let (balance, script) = endpoints(2, Policy::Failover);
    script.lock().unwrap()[0] = REFUSED;
    for (failures, aside) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)] {
        assert_eq!(
            call(&balance).await,
            Err(Cause::ConnectionRefused),
            "probe {failures}"
        );
        assert_eq!(call(&balance).await, Ok(1));
        let state = balance.states().snapshot()[0];
        assert_eq!(state.failures, failures);
        assert_eq!(state.aside, Some(Duration::from_secs(aside)));
        assert_eq!(state.last_failure.unwrap().cause, Cause::ConnectionRefused);
        assert_eq!(state.last_failure.unwrap().ago, Duration::ZERO);
        seconds(aside).await;
        let state = balance.states().snapshot()[0];
        assert_eq!(state.last_failure.unwrap().ago, Duration::from_secs(aside));
    }
}

#[tokio::test(start_paused = true)]
async fn rule_4_a_probe_that_says_nothing_keeps_it_aside() {
    let (tx, _rx) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    let (other, mut handle) = mock::pair();
    let balance = Balance::new([tx, other], Policy::Failover);
    balance.endpoints[0].open();
    Load::of(balance.endpoints.clone(), 0, false).failed(&Failure::unsent(Cause::Dns).into());
    seconds(1).await;
    let _probe = balance.clone().call(post(Era::Modern, CALL));
    handle.allow(1);
    let next = tokio::spawn(balance.clone().oneshot(post(Era::Modern, CALL)));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_response(Response::new(Full::default()));
    assert!(next.await.unwrap().is_ok());
    seconds(1).await;
    assert!(balance.endpoints[0].open());
}

#[tokio::test(start_paused = true)]
async fn rule_4_only_connections_count() {
    let (balance, script) = endpoints(2, Policy::Failover);
    for (cause, phase) in [
        (Cause::RequestTimeout, Phase::Sent),
        (Cause::ConnectionLost, Phase::Sent),
        (Cause::PoolExhausted, Phase::Unsent),
    ] {
        script.lock().unwrap()[0] = Some((cause, phase));
        assert_eq!(call(&balance).await, Err(cause));
        assert_eq!(balance.states().snapshot()[0].failures, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn rule_5_fails_at_once_when_none_is_left() {
    let (balance, script) = endpoints(2, Policy::RoundRobin);
    *script.lock().unwrap() = vec![REFUSED; 2];
    assert!(call(&balance).await.is_err());
    assert!(call(&balance).await.is_err());
    let error = balance
        .clone()
        .oneshot(post(Era::Modern, CALL))
        .await
        .unwrap_err();
    let failure = Failure::of(&error).unwrap();
    assert_eq!(
        (failure.cause(), failure.phase()),
        (Cause::NoEndpoint, Phase::Unsent)
    );
    let (none, _) = endpoints(0, Policy::LeastLoaded);
    assert_eq!(call(&none).await, Err(Cause::NoEndpoint));
}

#[tokio::test(start_paused = true)]
async fn rule_5_a_single_endpoint_is_always_tried() {
    let (balance, script) = endpoints(1, Policy::RoundRobin);
    script.lock().unwrap()[0] = REFUSED;
    for _ in 0..3 {
        assert_eq!(call(&balance).await, Err(Cause::ConnectionRefused));
    }
}

/// An endpoint that answers once, with this body.
#[derive(Clone)]
struct FedOnce(Arc<Mutex<Option<Fed>>>);

impl Service<Request<Full<Bytes>>> for FedOnce {
    type Response = Response<Fed>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.lock().unwrap().take().unwrap())))
    }
}

/// A balancer whose one endpoint answers with a body that is fed by hand.
fn with_fed_body() -> (Balance<FedOnce>, Feeder) {
    let (feeder, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    (Balance::new([FedOnce(body)], Policy::RoundRobin), feeder)
}

#[tokio::test(start_paused = true)]
async fn rule_6_a_call_is_load_to_the_end_of_its_body() {
    for how in ["end", "error", "drop"] {
        let (balance, feeder) = with_fed_body();
        let states = balance.states();
        let mut body = balance
            .oneshot(post(Era::Modern, CALL))
            .await
            .unwrap()
            .into_body();
        feeder.send("x");
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(states.snapshot()[0].in_flight, 1, "{how}");
        match how {
            "end" => drop(feeder),
            "error" => feeder.fail("x"),
            _ => {
                drop(body);
                assert_eq!(states.snapshot()[0].in_flight, 0, "{how}");
                continue;
            }
        }
        assert!(!matches!(body.frame().await, Some(Ok(_))));
        assert_eq!(states.snapshot()[0].in_flight, 0, "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn rule_6_get_and_listen_are_no_load_and_a_dropped_call_is_none() {
    for request in [bodiless(Form::Stream), post(Era::Modern, LISTEN)] {
        let (balance, _feeder) = with_fed_body();
        let states = balance.states();
        let _response = balance.oneshot(request).await.unwrap();
        assert_eq!(states.snapshot()[0].in_flight, 0);
    }
    let (mut balance, _) = endpoints(1, Policy::RoundRobin);
    let states = balance.states();
    let future = balance.call(post(Era::Modern, CALL));
    assert_eq!(states.snapshot()[0].in_flight, 1);
    drop(future);
    assert_eq!(states.snapshot()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn rule_7_the_choice_is_noted() {
    let (balance, _) = endpoints(2, Policy::RoundRobin);
    for expected in [0, 1] {
        let mut request = post(Era::Modern, CALL);
        let facts = Facts::of(&mut request);
        assert_eq!(send(&balance, request).await, Ok(expected));
        assert_eq!(facts.endpoint(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn rule_8_without_a_call_it_is_balanced_all_the_same() {
    let (balance, _) = endpoints(2, Policy::RoundRobin);
    assert_eq!(send(&balance, Request::new(Full::default())).await, Ok(0));
    assert_eq!(send(&balance, Request::new(Full::default())).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn rule_1_it_waits_for_the_chosen_endpoint_only() {
    let (one, mut handle) = mock::pair::<Request<Full<Bytes>>, Response<Full<Bytes>>>();
    handle.allow(0);
    let mut balance = Balance::new([one], Policy::RoundRobin);
    let mut future = tokio_test::task::spawn(balance.call(post(Era::Modern, CALL)));
    assert!(future.poll().is_pending());
    handle.allow(1);
    assert!(future.is_woken());
    assert!(future.poll().is_pending());
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error(Failure::unsent(Cause::Dns));
    assert!(future.await.is_err());
}
