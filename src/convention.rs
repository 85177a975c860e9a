//! What both metric surfaces and the traces take from OpenTelemetry's conventions for MCP, and what counts as an error there.
//!
//! The conventions are in development and have no release, so they are pinned to a state of their repository.

use crate::error::Cause;
use crate::exchange::End;
use crate::mcp::fault;

/// The text of the conventions that this follows; there is no release of it.
pub const PINNED: &str = "open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md at \
                          0393513c908bf895e7b3ec480a2c1eb073c584af, read on 2026-11-27";

/// The boundaries of the durations of operations, in seconds.
pub const BOUNDARIES: &[f64] = &[
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// What the call of a tool is called.
pub const EXECUTE_TOOL: &str = "execute_tool";
/// What the convention has for a value that is none of those listed.
pub const OTHER: &str = "_OTHER";

/// What a failure without an answer is called.
#[must_use]
pub fn word(cause: Cause) -> &'static str {
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
#[must_use]
pub fn client_error(end: End) -> Option<String> {
    match end {
        End::RpcError(Some(code)) => Some(code.to_string()),
        End::Failed(cause, _) => Some(word(cause).to_owned()),
        other => server_error(other),
    }
}

/// `error.type` on the side of who answered it.
#[must_use]
pub fn server_error(end: End) -> Option<String> {
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
#[must_use]
pub fn code(end: End) -> Option<i64> {
    match end {
        End::RpcError(code) | End::Failed(_, code) => code,
        _ => None,
    }
}

/// The code as a metric may have it: series are bounded in number, and codes are the upstream's to choose.
#[must_use]
pub fn bounded_code(code: i64) -> &'static str {
    fault::known(code).unwrap_or(OTHER)
}

/// An `error.type` as a metric may have it: where it is the answer's code, that is bounded; words and HTTP's statuses are.
#[must_use]
pub fn bounded_error(error: &str, code: Option<i64>) -> &str {
    match code {
        Some(code) if error.parse() == Ok(code) => bounded_code(code),
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
