//! A request that somebody records, until its answer begins.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use crate::call::Call;
use crate::error::{BoxError, Cause, Failure};
use crate::exchange::{Attempted, Exchange, Peer};
use crate::transport::connector::Endpoint;

/// One attempt. Dropped before its end, it was given up.
pub(super) struct Watched {
    exchange: Arc<dyn Exchange>,
    number: u32,
    end: Attempted,
}

impl Watched {
    /// The attempt that begins now, and the call as it has to go out, if that is not as it was.
    pub(super) fn begin(
        exchange: &Arc<dyn Exchange>,
        call: &Call,
        endpoint: &Endpoint,
        headers: &mut HeaderMap,
    ) -> (Self, Option<Call>) {
        let to = Peer::new(endpoint.host(), endpoint.port());
        let begun = exchange.attempt(call, to, headers);
        let watched = Self {
            exchange: Arc::clone(exchange),
            number: begun.number,
            end: Attempted::GivenUp,
        };
        (watched, begun.call)
    }

    pub(super) fn end(mut self, result: Result<StatusCode, &BoxError>) {
        self.end = match result {
            Ok(status) => Attempted::Answered(status),
            Err(error) => {
                let cause = Failure::of(error).map_or(Cause::Internal, Failure::cause);
                Attempted::Failed(cause)
            }
        };
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.exchange.attempted(self.number, self.end);
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use http::{HeaderValue, Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use tower::{Service as _, ServiceExt as _, service_fn};
    use tower_layer::Layer as _;

    use super::*;
    use crate::call::Form;
    use crate::error::Phase;
    use crate::exchange::{Begun, End};
    use crate::facts::Facts;
    use crate::mcp::message::{Message, Parsed};
    use crate::mcp::revision::Era;
    use crate::transport::connector::PlaintextPolicy;
    use crate::transport::dialect::DialectLayer;

    /// Writes down what it is told, and has another call go out.
    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Notes {
        fn note(&self, what: String) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl Exchange for Notes {
        fn read(&self, _: &Call) {}

        fn attempt(&self, _: &Call, to: Peer<'_>, headers: &mut HeaderMap) -> Begun {
            self.note(format!("to {}:{}", to.host(), to.port()));
            headers.insert("traceparent", HeaderValue::from_static("t"));
            Begun::new(
                7,
                Some(call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)),
            )
        }

        fn attempted(&self, number: u32, end: Attempted) {
            self.note(format!("{number} {end:?}"));
        }

        fn ended(&self, _: &Facts, _: End) {}
    }

    fn call(text: &'static str) -> Call {
        let body = Bytes::from_static(text.as_bytes());
        let Parsed::One(message) = Message::read(&body).unwrap() else {
            panic!("a batch");
        };
        Call::new(Form::Message(message), Era::Modern, None, body)
    }

    /// A `ping` whose exchange is noted.
    fn request(notes: &Arc<Notes>) -> Request<Full<Bytes>> {
        let call = call(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        let mut request = Request::post("/")
            .body(Full::new(call.body().clone()))
            .unwrap();
        let exchange: Arc<dyn Exchange> = notes.clone();
        request
            .extensions_mut()
            .insert(Facts::recorded(None, Some(exchange)));
        request.extensions_mut().insert(call);
        request
    }

    fn layer() -> DialectLayer {
        let url = "https://up.example:8443/mcp";
        DialectLayer::new(Endpoint::new(url, PlaintextPolicy::LoopbackOnly).unwrap())
    }

    #[tokio::test]
    async fn rule_8_who_records_it_is_told_and_has_the_last_word() {
        let notes = Arc::new(Notes::default());
        let service = layer().layer(service_fn(async |request: Request<Full<Bytes>>| {
            let method = request
                .extensions()
                .get::<Call>()
                .unwrap()
                .method_name()
                .unwrap()
                .into_owned();
            let (parts, body) = request.into_parts();
            assert_eq!(method, "tools/list");
            assert_eq!(parts.headers["traceparent"], "t");
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(body, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::new())))
        }));
        service.oneshot(request(&notes)).await.unwrap();
        assert_eq!(
            *notes.0.lock().unwrap(),
            ["to up.example:8443", "7 Answered(200)"]
        );
    }

    #[tokio::test]
    async fn rule_8_a_failure_has_its_cause_and_a_drop_is_told_too() {
        let notes = Arc::new(Notes::default());
        let failing = layer().layer(service_fn(async |_: Request<Full<Bytes>>| {
            let failure = Failure::new(Cause::Dns, Phase::Unsent);
            Err::<Response<Full<Bytes>>, BoxError>(failure.into())
        }));
        failing.oneshot(request(&notes)).await.unwrap_err();
        let mut silent = layer().layer(service_fn(|_: Request<Full<Bytes>>| {
            std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>()
        }));
        drop(silent.call(request(&notes)));
        let told = [
            "to up.example:8443",
            "7 Failed(Dns)",
            "to up.example:8443",
            "7 GivenUp",
        ];
        assert_eq!(*notes.0.lock().unwrap(), told);
    }
}
