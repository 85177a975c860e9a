//! The names of OpenTelemetry's conventions for MCP, and what they count as an error.
//!
//! The conventions are in development and have no release, so they are pinned to a state of their repository.

use crate::error::Cause;
use crate::exchange::End;
use crate::mcp::fault;

/// The state that the names are of: repository, commit, file. Status there: development.
pub const PINNED: &str = "open-telemetry/semantic-conventions-genai 0393513c908bf895e7b3ec480a2c1eb073c584af docs/gen-ai/mcp.md";

/// The duration of a request or notification, as who answers it sees it.
pub const SERVER_DURATION: &str = "mcp.server.operation.duration";
/// The same, as who sends it sees it.
pub const CLIENT_DURATION: &str = "mcp.client.operation.duration";

/// The boundaries of both, in seconds.
pub const BOUNDARIES: &[f64] = &[
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

pub(super) const METHOD: &str = "mcp.method.name";
pub(super) const VERSION: &str = "mcp.protocol.version";
pub(super) const SESSION: &str = "mcp.session.id";
pub(super) const REQUEST_ID: &str = "jsonrpc.request.id";
pub(super) const STATUS_CODE: &str = "rpc.response.status_code";
pub(super) const ERROR_TYPE: &str = "error.type";
pub(super) const TOOL: &str = "gen_ai.tool.name";
pub(super) const PROMPT: &str = "gen_ai.prompt.name";
pub(super) const OPERATION: &str = "gen_ai.operation.name";
pub(super) const EXECUTE_TOOL: &str = "execute_tool";
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

/// What a failure without an answer is called.
pub(super) fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::RequestTimeout
        | Cause::StreamIdle
        | Cause::TotalTimeout
        | Cause::ConnectTimeout
        | Cause::BodyTimeout => "timeout",
        other => other.as_str(),
    }
}

/// `error.type` on the side of who sent the call, where an answer had begun.
pub(super) fn client_error(end: End) -> Option<String> {
    match end {
        End::RpcError(Some(code)) => Some(code.to_string()),
        End::Failed(cause, _) => Some(word(cause).to_owned()),
        other => server_error(other),
    }
}

/// `error.type` on the side of who answered it.
pub(super) fn server_error(end: End) -> Option<String> {
    match end {
        End::Ok { .. } => None,
        End::ToolError => Some("tool_error".to_owned()),
        End::RpcError(Some(code)) | End::Failed(_, Some(code)) => {
            (!fault::is_the_callers(code)).then(|| code.to_string())
        }
        End::RpcError(None) => Some("rpc_error".to_owned()),
        End::Refused(status) => Some(status.as_u16().to_string()),
        End::Failed(cause, None) => Some(word(cause).to_owned()),
        End::Cancelled => Some("cancelled".to_owned()),
    }
}

/// The code of the answer.
pub(super) fn code(end: End) -> Option<i64> {
    match end {
        End::RpcError(code) | End::Failed(_, code) => code,
        _ => None,
    }
}

/// What the convention has for a value that is none of those listed.
pub(super) const OTHER: &str = "_OTHER";

/// The code as a metric may have it: series are bounded in number, and codes are the upstream's to choose.
pub(super) fn bounded_code(code: i64) -> &'static str {
    fault::known(code).unwrap_or(OTHER)
}

/// An `error.type` as a metric may have it: JSON-RPC codes are bounded, words and HTTP's statuses are.
pub(super) fn bounded_error(error: &str) -> &str {
    match error.parse() {
        Ok(code) if !(100..1000).contains(&code) => bounded_code(code),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn errors_are_told_by_side() {
        let text = |text: &str| Some(text.to_owned());
        for (end, client, server) in [
            (End::Ok { shown: true }, None, None),
            (End::ToolError, text("tool_error"), text("tool_error")),
            (End::RpcError(Some(-32602)), text("-32602"), None),
            (End::RpcError(Some(-32603)), text("-32603"), text("-32603")),
            (End::RpcError(None), text("rpc_error"), text("rpc_error")),
            (
                End::Refused(StatusCode::NOT_FOUND),
                text("404"),
                text("404"),
            ),
            (
                End::Failed(Cause::StreamIdle, None),
                text("timeout"),
                text("timeout"),
            ),
            (
                End::Failed(Cause::Dns, Some(-32000)),
                text("dns"),
                text("-32000"),
            ),
            (
                End::Failed(Cause::PolicyDenied, Some(-32602)),
                text("policy_denied"),
                None,
            ),
            (End::Cancelled, text("cancelled"), text("cancelled")),
        ] {
            assert_eq!(
                (client_error(end), server_error(end)),
                (client, server),
                "{end:?}"
            );
        }
    }
}
