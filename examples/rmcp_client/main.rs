//! An `rmcp` client whose HTTP goes through Outrigger's stack: `seam.rs` is what rmcp asks for, this file is the stack.
//!
//! `cargo run -p outrigger-examples --bin rmcp_client` starts a server and calls its tool, in both generations.

mod seam;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use outrigger::auth::{SecretCell, StaticCredential};
use outrigger::layer::{BoxBodyLayer, credential, deadline, inspect, retry, timeouts::Timeouts};
use outrigger::transport::{Connector, ConnectorParams, DialectLayer, Endpoint, PlaintextPolicy};
use outrigger::{Body, BoxError, Secret};
use outrigger_examples::{TOKEN, start};
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt};
use seam::Stacked;
use serde_json::json;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

/// The whole stack. One box, so that its type has a name.
type Stack = BoxCloneSyncService<Request<Full<Bytes>>, Response<Body>, BoxError>;

/// The stack in front of `url`, outermost first, on connections of its own.
fn stack(url: &str, token: Secret) -> Result<Stack, BoxError> {
    let token = StaticCredential::bearer(SecretCell::new(token));
    let endpoint = Endpoint::new(url, PlaintextPolicy::LoopbackOnly)?;
    let connector = Connector::new(endpoint.clone(), ConnectorParams::default())?;
    let stack = ServiceBuilder::new()
        // At the top, one type of body for whoever calls.
        .map_response(|answer: Response<_>| answer.map(Body::new))
        // Says what each request is; without it nothing would be repeated, and nothing cancelled.
        .layer(inspect::InspectLayer::new(inspect::Params::default()))
        .layer(retry::RetryLayer::new(retry::Params::default()))
        .layer(BoxBodyLayer::new())
        .layer(deadline::DeadlineLayer::new(Timeouts::default()))
        .layer(credential::InjectCredentialLayer::new(token))
        // Headers that match the body, and a cancel for what is dropped.
        .layer(DialectLayer::new(endpoint))
        .service(connector);
    Ok(BoxCloneSyncService::new(stack))
}

/// Calls `echo` of the server at `url`, and gives back what it said.
async fn call(url: &str, token: Secret, mode: ClientLifecycleMode) -> Result<String, BoxError> {
    let config = StreamableHttpClientTransportConfig::with_uri(url.to_owned());
    let transport = StreamableHttpClientTransport::with_client(Stacked(stack(url, token)?), config);
    let client = ().serve_with_lifecycle(transport, mode).await?;
    let arguments = json!({"text": "hello"})
        .as_object()
        .cloned()
        .unwrap_or_default();
    let params = CallToolRequestParams::new("echo").with_arguments(arguments);
    let result = json!(client.call_tool(params).await?);
    client.cancel().await?;
    Ok(result["content"][0]["text"].to_string())
}

/// The generation of 2026-07-28.
fn modern() -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    ClientLifecycleMode::Discover { preferred_versions }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let url = start(0).await?;
    for mode in [modern(), ClientLifecycleMode::Initialize] {
        println!("{}", call(&url, Secret::new(TOKEN), mode).await?);
    }
    Ok(())
}
