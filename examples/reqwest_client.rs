//! The same over reqwest, for a program that has a configured `reqwest::Client` already.
//!
//! `cargo run -p outrigger-examples --bin reqwest_client` starts a server and lists its tools.

use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use outrigger::auth::{SecretCell, StaticCredential};
use outrigger::error::{Cause, Phase};
use outrigger::layer::credential::InjectCredentialLayer;
use outrigger::layer::deadline::DeadlineLayer;
use outrigger::layer::timeouts::Timeouts;
use outrigger::{Body, BoxError, Failure, Secret};
use outrigger_examples::{HEADERS, LIST, TOKEN, start};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::set_header::SetRequestHeaderLayer;
use tower_http::trace::TraceLayer;

/// The stack, outermost first: two layers of `tower_http`, two of Outrigger, then reqwest.
fn stack(
    client: reqwest::Client,
    token: Secret,
) -> impl Service<Request<Full<Bytes>>, Response = Response<Body>, Error = BoxError> + Clone {
    let token = StaticCredential::bearer(SecretCell::new(token));
    let timeouts = Timeouts::default().request(Duration::from_secs(20));
    ServiceBuilder::new()
        .map_response(|answer: Response<_>| answer.map(Body::new))
        .layer(TraceLayer::new_for_http())
        .layer(SetRequestHeaderLayer::overriding(
            USER_AGENT,
            HeaderValue::from_static("example/1"),
        ))
        .layer(DeadlineLayer::new(timeouts))
        .layer(InjectCredentialLayer::new(token))
        .service(service_fn(move |request| send(client.clone(), request)))
}

/// reqwest as a service of `http`'s types. Both bodies stream.
async fn send(
    client: reqwest::Client,
    request: Request<Full<Bytes>>,
) -> Result<Response<reqwest::Body>, Failure> {
    let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))
        .map_err(|error| Failure::unsent(Cause::Internal).with_source(error))?;
    let answer = client.execute(request).await.map_err(|error| {
        if error.is_connect() {
            Failure::unsent(Cause::ConnectionRefused)
        } else {
            Failure::new(Cause::ConnectionLost, Phase::Sent)
        }
    })?;
    Ok(answer.into())
}

/// Lists the tools of the server at `url`.
async fn list(url: &str, token: Secret) -> Result<String, BoxError> {
    // A redirect is not followed: it would send the body, and whatever is in it, somewhere else.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let mut request = Request::post(url);
    for (name, value) in HEADERS {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from_static(LIST.as_bytes())))?;
    let answer = stack(client, token).oneshot(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let url = start(0).await?;
    println!("{}", list(&url, Secret::new(TOKEN)).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_token_is_put_on() {
        let url = start(0).await.unwrap();
        let answer = list(&url, Secret::new(TOKEN)).await.unwrap();
        assert!(answer.contains(r#""echo""#), "{answer}");
    }

    #[tokio::test]
    async fn failures_are_typed() {
        let url = start(0).await.unwrap();
        let error = list(&url, Secret::new("stale")).await.unwrap_err();
        assert_eq!(Failure::of(&error).unwrap().cause(), Cause::Unauthorized);
        let error = list("http://127.0.0.1:1/mcp", Secret::new(TOKEN))
            .await
            .unwrap_err();
        assert_eq!(Failure::of(&error).unwrap().phase(), Phase::Unsent);
    }
}
