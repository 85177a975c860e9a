//! The names that OpenTelemetry has for what is recorded.

/// The duration of a request or notification, as who answers it sees it.
pub(super) const SERVER_DURATION: &str = "mcp.server.operation.duration";
/// The same, as who sends it sees it.
pub(super) const CLIENT_DURATION: &str = "mcp.client.operation.duration";

/// How long a session lasted, as who serves it sees it.
pub(super) const SERVER_SESSION: &str = "mcp.server.session.duration";
/// The same, as who uses it sees it.
pub(super) const CLIENT_SESSION: &str = "mcp.client.session.duration";

pub(super) const METHOD: &str = "mcp.method.name";
pub(super) const VERSION: &str = "mcp.protocol.version";
pub(super) const SESSION: &str = "mcp.session.id";
pub(super) const REQUEST_ID: &str = "jsonrpc.request.id";
pub(super) const STATUS_CODE: &str = "rpc.response.status_code";
pub(super) const ERROR_TYPE: &str = "error.type";
pub(super) const TOOL: &str = "gen_ai.tool.name";
pub(super) const PROMPT: &str = "gen_ai.prompt.name";
pub(super) const OPERATION: &str = "gen_ai.operation.name";
pub(super) const PROTOCOL_NAME: &str = "network.protocol.name";
pub(super) const PROTOCOL_VERSION: &str = "network.protocol.version";
pub(super) const TRANSPORT: &str = "network.transport";
pub(super) const ADDRESS: &str = "server.address";
pub(super) const PORT: &str = "server.port";
pub(super) const HTTP_STATUS: &str = "http.response.status_code";
pub(super) const RESENDS: &str = "http.request.resend_count";

/// The configured name of the server. Ours, as the three below: no convention has them.
pub(super) const OUR_SERVER: &str = "outrigger.server";
/// The id that logs and `error.data.requestId` have.
pub(super) const OUR_REQUEST_ID: &str = "outrigger.request_id";
/// The word that metrics, logs and `error.data.cause` have.
pub(super) const OUR_CAUSE: &str = "outrigger.cause";
