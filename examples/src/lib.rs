//! What the examples share: an MCP server with one tool, in both generations of the protocol, to run them against.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use outrigger::auth::SecretCell;
use outrigger::layer::authenticate::{ApiKeys, AuthenticateLayer};
use outrigger::{BoxError, Secret};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use tokio::net::TcpListener;

/// What [`start`]'s server wants to see of who calls.
pub const TOKEN: &str = "t0ken";

/// A `tools/list` as a client of 2026-07-28 sends it, with its headers.
pub const HEADERS: [(&str, &str); 4] = [
    ("accept", "application/json, text/event-stream"),
    ("content-type", "application/json"),
    ("mcp-method", "tools/list"),
    ("mcp-protocol-version", "2026-07-28"),
];
/// Its body.
pub const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"example","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;

/// An MCP server with the tool `echo`.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = json!([{"name": "echo", "inputSchema": {"type": "object"}}]);
        serde_json::from_value(json!({"resultType": "complete", "tools": tools}))
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let said = json!(call.arguments)["text"].as_str().map(str::to_owned);
        let content = ContentBlock::text(said.unwrap_or_default());
        Ok(CallToolResult::success(vec![content]).into())
    }
}

/// That server as an HTTP service.
#[must_use]
pub fn echo() -> StreamableHttpService<Echo, LocalSessionManager> {
    StreamableHttpService::new(|| Ok(Echo), Arc::default(), Default::default())
}

/// Serves `app` in a task, on a free port of this machine, and says where its `/mcp` is.
///
/// # Errors
///
/// Fails if there is no port to be had.
pub async fn serve(app: Router) -> Result<String, BoxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}

/// Starts a server that wants [`TOKEN`] and answers its first `busy` requests with 503.
///
/// # Errors
///
/// Fails if there is no port to be had.
pub async fn start(busy: usize) -> Result<String, BoxError> {
    let seen = Arc::new(AtomicUsize::new(0));
    let refuse = from_fn(move |request: Request, next: Next| {
        let is_busy = seen.fetch_add(1, Ordering::Relaxed) < busy;
        async move {
            if is_busy {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            next.run(request).await
        }
    });
    let keys = ApiKeys::new().with("examples", SecretCell::new(Secret::new(TOKEN)));
    let app = Router::new().nest_service("/mcp", echo());
    serve(app.layer(AuthenticateLayer::new(keys)).layer(refuse)).await
}
