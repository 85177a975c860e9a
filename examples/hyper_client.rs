//! A client stack over hyper's client: Outrigger's layers and `tower_http`'s in one `ServiceBuilder`.
//!
//! `cargo run -p outrigger-examples --bin hyper_client` starts a server that is busy at first, and lists its tools.

use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use outrigger::auth::{SecretCell, StaticCredential};
use outrigger::error::{Cause, Phase};
use outrigger::layer::credential::InjectCredentialLayer;
use outrigger::layer::deadline::DeadlineLayer;
use outrigger::layer::inspect::{self, InspectLayer};
use outrigger::layer::rescue::RescueLayer;
use outrigger::layer::retry::{self, RetryLayer};
use outrigger::layer::timeouts::Timeouts;
use outrigger::{BoxError, Failure, Secret};
use outrigger_examples::{HEADERS, LIST, TOKEN, start};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::set_header::SetRequestHeaderLayer;
use tower_http::trace::TraceLayer;

/// The stack, outermost first. `tower_http`'s layers stand where Outrigger's would not care.
fn stack(
    token: Secret,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<impl http_body_util::BodyExt<Data = Bytes, Error = BoxError>>,
    Error = BoxError,
> + Clone {
    let token = StaticCredential::bearer(SecretCell::new(token));
    let timeouts = Timeouts::default().request(Duration::from_secs(20));
    // hyper repeats by itself what a closed connection lost; here `retry` alone decides what may be sent twice.
    let client = Client::builder(TokioExecutor::new())
        .retry_canceled_requests(false)
        .build_http();
    ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(SetRequestHeaderLayer::overriding(
            USER_AGENT,
            HeaderValue::from_static("example/1"),
        ))
        // Says what each request is; the layers below act on it. Without it `retry` would repeat nothing.
        .layer(InspectLayer::new(inspect::Params::default()))
        // Makes a JSON-RPC error of each failure, so that the caller has one way to read answers.
        .layer(RescueLayer::new())
        .layer(RetryLayer::new(retry::Params::default()))
        // The seam: beneath it bodies are hyper's, above it layers can make their own.
        .layer(outrigger::layer::BoxBodyLayer::new())
        .layer(DeadlineLayer::new(timeouts))
        // Innermost, so that no layer above it sees the token, and each attempt has a fresh one.
        .layer(InjectCredentialLayer::new(token))
        .map_err(failure)
        .service(client)
}

/// What hyper's errors are to `retry`: what could not connect was surely not sent.
fn failure(error: Error) -> Failure {
    if error.is_connect() {
        Failure::unsent(Cause::ConnectionRefused).with_source(error)
    } else {
        Failure::new(Cause::ConnectionLost, Phase::Sent).with_source(error)
    }
}

/// Lists the tools of the server at `url`.
async fn list(url: &str, token: Secret) -> Result<String, BoxError> {
    let mut request = Request::post(url);
    for (name, value) in HEADERS {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from_static(LIST.as_bytes())))?;
    let answer = stack(token).oneshot(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let url = start(1).await?;
    println!("{}", list(&url, Secret::new(TOKEN)).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_server_is_asked_again_and_the_answer_has_our_id() {
        let url = start(2).await.unwrap();
        let answer = list(&url, Secret::new(TOKEN)).await.unwrap();
        assert!(answer.contains(r#""echo""#), "{answer}");
        assert!(answer.contains(r#""id":7"#), "{answer}");
    }

    #[tokio::test]
    async fn a_refused_token_is_told_as_a_cause() {
        let url = start(0).await.unwrap();
        let answer = list(&url, Secret::new("stale")).await.unwrap();
        assert!(answer.contains(r#""cause":"unauthorized""#), "{answer}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_as_a_cause() {
        let answer = list("http://127.0.0.1:1/mcp", Secret::new(TOKEN))
            .await
            .unwrap();
        assert!(
            answer.contains(r#""cause":"connection_refused""#),
            "{answer}"
        );
    }
}
