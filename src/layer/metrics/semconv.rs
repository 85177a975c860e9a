//! Times operations by OpenTelemetry's conventions for MCP, for those whose dashboards know them.
//!
//! Contract:
//!
//! 1. The names are those of the convention (`src/convention.rs` says of which state), in Prometheus' spelling. It is in
//!    development: a later one may rename.
//! 2. An operation is one request or notification. GET and listen streams are none, nor are batches and what a client
//!    answers to its server.
//! 3. `mcp_server_operation_duration_seconds` is one call as its caller saw it; `mcp_client_operation_duration_seconds`
//!    one try at an endpoint, to the end of its answer.
//! 4. Labels are closed: what is known of methods, revisions, error codes and causes, and the tools that have labels
//!    elsewhere. Left out are prompts, resources, sessions and request ids, whose values peers choose. What does not
//!    apply is empty.
//! 5. On the server's side an error that is the caller's own (−32700, −32600 to −32602, −32002) has a code and no
//!    `error_type`.

use prometheus::{HistogramVec, Registry};

use crate::convention::{
    BOUNDARIES, EXECUTE_TOOL, OTHER, bounded_code, bounded_error, client_error, code, server_error,
};
use crate::error::BoxError;
use crate::exchange::End;
use crate::layer::metrics::declared::Declared;
use crate::mcp::method::Method;
use crate::mcp::revision::Revision;

/// What the families are.
pub const DECLARED: &[Declared] = &[SERVER, CLIENT];

const SERVER: Declared = Declared::histogram(
    "mcp_server_operation_duration_seconds",
    &[
        "server",
        "mcp_method_name",
        "error_type",
        "gen_ai_tool_name",
        "gen_ai_operation_name",
        "rpc_response_status_code",
        "mcp_protocol_version",
        "network_protocol_name",
        "network_protocol_version",
        "network_transport",
    ],
    "How long a request or notification took, as its caller saw it (OpenTelemetry's mcp.server.operation.duration).",
    "Your dashboards follow OpenTelemetry's conventions. Only with `metrics.semconv`.",
);
const CLIENT: Declared = Declared::histogram(
    "mcp_client_operation_duration_seconds",
    &[
        "server",
        "mcp_method_name",
        "error_type",
        "gen_ai_tool_name",
        "gen_ai_operation_name",
        "rpc_response_status_code",
        "mcp_protocol_version",
        "network_protocol_name",
        "network_protocol_version",
        "network_transport",
        "server_address",
        "server_port",
    ],
    "How long one try at an upstream took, to the end of its answer (OpenTelemetry's mcp.client.operation.duration).",
    "Likewise; beside the former it shows what second tries and waiting cost.",
);

/// The families of OpenTelemetry's conventions for MCP.
#[derive(Clone, Debug)]
pub struct Semconv {
    server: HistogramVec,
    client: HistogramVec,
}

/// What an operation was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation<'a> {
    pub(super) server: &'a str,
    /// A method of no specification is `None`.
    pub(super) method: Option<Method>,
    /// The label of the tool, where it is a tool's call.
    pub(super) tool: Option<&'a str>,
    pub(super) revision: Option<Revision>,
}

impl Semconv {
    /// Makes the families and registers them.
    ///
    /// # Errors
    ///
    /// Fails if the registry has one of their names already.
    pub fn register(registry: &Registry) -> Result<Self, BoxError> {
        Ok(Self {
            server: SERVER.histograms(registry, BOUNDARIES)?,
            client: CLIENT.histograms(registry, BOUNDARIES)?,
        })
    }

    /// A call was answered.
    pub(super) fn answered(&self, operation: &Operation<'_>, end: End, seconds: f64) {
        let error = server_error(end).unwrap_or_default();
        let labels = labels(operation, &error, end);
        self.server.with_label_values(&labels).observe(seconds);
    }

    /// A try at an endpoint has ended.
    pub(super) fn tried(
        &self,
        operation: &Operation<'_>,
        (address, port): (&str, &str),
        end: End,
        seconds: f64,
    ) {
        let error = client_error(end).unwrap_or_default();
        let mut labels = labels(operation, &error, end).to_vec();
        labels.extend([address, port]);
        self.client.with_label_values(&labels).observe(seconds);
    }
}

fn labels<'a>(operation: &Operation<'a>, error: &'a str, end: End) -> [&'a str; 10] {
    let is_tool = operation.method == Some(Method::ToolsCall);
    [
        operation.server,
        operation.method.map_or(OTHER, Method::as_str),
        bounded_error(error, code(end)),
        operation.tool.unwrap_or_default(),
        if is_tool { EXECUTE_TOOL } else { "" },
        code(end).map_or("", bounded_code),
        operation.revision.map_or("", Revision::as_str),
        "http",
        "1.1",
        "tcp",
    ]
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::error::Cause;

    fn counted(end: End) -> String {
        let registry = Registry::new();
        let semconv = Semconv::register(&registry).unwrap();
        let operation = Operation {
            server: "wiki",
            method: Some(Method::ToolsCall),
            tool: Some("echo"),
            revision: Some(Revision::LATEST),
        };
        semconv.answered(&operation, end, 0.3);
        semconv.tried(&operation, ("mcp.example.com", "443"), end, 0.2);
        prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap()
    }

    /// The `error_type` and the code on the server's and the client's side.
    fn labels(end: End) -> [(String, String); 2] {
        let text = counted(end);
        ["mcp_server_", "mcp_client_"].map(|side| {
            let line = text
                .lines()
                .find(|line| line.starts_with(side) && line.contains("_count{"))
                .unwrap();
            let label = |name: &str| {
                let rest = line.split(&format!("{name}=\"")).nth(1).unwrap();
                rest.split('"').next().unwrap().to_owned()
            };
            (label("error_type"), label("rpc_response_status_code"))
        })
    }

    #[test]
    fn rule_1_labels_and_boundaries_are_the_conventions() {
        let text = counted(End::Ok { shown: true });
        let server = r#"mcp_server_operation_duration_seconds_bucket{error_type="",gen_ai_operation_name="execute_tool",gen_ai_tool_name="echo",mcp_method_name="tools/call",mcp_protocol_version="2026-07-28",network_protocol_name="http",network_protocol_version="1.1",network_transport="tcp",rpc_response_status_code="",server="wiki",le="0.5"} 1"#;
        assert!(text.lines().any(|line| line == server), "{text}");
        let client =
            r#"server="wiki",server_address="mcp.example.com",server_port="443",le="0.2"} 1"#;
        assert!(text.lines().any(|line| line.ends_with(client)), "{text}");
        let boundaries = text
            .lines()
            .filter(|line| line.starts_with("mcp_server_operation_duration_seconds_bucket"));
        assert_eq!(boundaries.count(), 15, "14 and infinity");
    }

    #[test]
    fn rule_4_codes_are_a_closed_list() {
        let [_, client] = labels(End::RpcError(Some(-31_999)));
        assert_eq!(client, (OTHER.to_owned(), OTHER.to_owned()));
        // One that looks like an HTTP status is the upstream's to choose as well.
        let [server, client] = labels(End::RpcError(Some(404)));
        assert_eq!(server, (OTHER.to_owned(), OTHER.to_owned()));
        assert_eq!(client, server);
    }

    #[test]
    fn rule_5_an_error_of_the_callers_own_is_none_of_the_server() {
        let pair = |error: &str, code: &str| (error.to_owned(), code.to_owned());
        assert_eq!(
            labels(End::RpcError(Some(-32602))),
            [pair("", "-32602"), pair("-32602", "-32602")]
        );
        assert_eq!(
            labels(End::RpcError(Some(-32603))),
            [pair("-32603", "-32603"), pair("-32603", "-32603")]
        );
        assert_eq!(
            labels(End::ToolError),
            [pair("tool_error", ""), pair("tool_error", "")]
        );
        assert_eq!(
            labels(End::Failed(Cause::RequestTimeout, None)),
            [pair("timeout", ""), pair("timeout", "")]
        );
        assert_eq!(
            labels(End::Refused(StatusCode::NOT_FOUND)),
            [pair("404", ""), pair("404", "")]
        );
    }
}
