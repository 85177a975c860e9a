//! An axum server with two of Outrigger's layers in front of an MCP service: who calls from a web page, or without a
//! key, does not get to it.
//!
//! `cargo run -p outrigger-examples --bin axum_server`, then `curl -i` the URL with and without `-H 'x-api-key: k3y'`.

use axum::Router;
use axum::routing::get;
use outrigger::auth::SecretCell;
use outrigger::layer::authenticate::{ApiKeys, AuthenticateLayer};
use outrigger::layer::guard::{GuardLayer, Params};
use outrigger::{BoxError, Secret};
use outrigger_examples::{echo, serve};
use tower::ServiceBuilder;

/// The routes. Layers stand before what they are put on, so `/healthz` is open to everybody.
fn app(key: Secret) -> Router {
    // A cell, so that the key can be exchanged while the server runs (`SecretCell::from_file` follows a file).
    let keys = ApiKeys::new().with("agent", SecretCell::new(key));
    let front = ServiceBuilder::new()
        // First who is turned away unseen: a page that reaches this machine through a name of its own, a body that
        // says that it is too large.
        .layer(GuardLayer::new(Params::default()))
        // Then who has no key. It takes the key out of the headers, so that the service behind never sees it.
        .layer(AuthenticateLayer::new(keys));
    Router::new()
        .nest_service("/mcp", echo())
        .layer(front)
        .route("/healthz", get(|| async { "ok" }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let url = serve(app(Secret::new("k3y"))).await?;
    println!("listening on {url}; the key is k3y");
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use outrigger_examples::{HEADERS, LIST};
    use tower::ServiceExt;

    use super::*;

    async fn status(path: &str, headers: &[(&str, &str)]) -> StatusCode {
        let mut request = Request::post(path).header("host", "127.0.0.1");
        for (name, value) in HEADERS.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(LIST)).unwrap();
        app(Secret::new("k3y"))
            .oneshot(request)
            .await
            .unwrap()
            .status()
    }

    #[tokio::test]
    async fn who_has_the_key_gets_to_the_server() {
        assert_eq!(status("/mcp", &[("x-api-key", "k3y")]).await, 200);
        assert_eq!(
            status("/mcp", &[("authorization", "Bearer k3y")]).await,
            200
        );
    }

    #[tokio::test]
    async fn who_has_not_or_is_a_web_page_does_not() {
        assert_eq!(status("/mcp", &[]).await, 401);
        assert_eq!(status("/mcp", &[("x-api-key", "guess")]).await, 401);
        let page = [("x-api-key", "k3y"), ("origin", "https://evil.example.com")];
        assert_eq!(status("/mcp", &page).await, 403);
    }

    #[tokio::test]
    async fn other_routes_are_not_touched() {
        assert_eq!(
            status("/healthz", &[]).await,
            405,
            "a GET route that is open"
        );
    }
}
