//! Messages that tests send, and the headers that go with them.

use super::client::Request;

/// The revision that legacy tests speak.
pub(crate) const LEGACY: &str = "2025-11-25";

/// The revision that modern tests speak.
pub(crate) const MODERN: &str = "2026-07-28";

/// A legacy message.
pub(crate) fn legacy(body: impl Into<Vec<u8>>) -> Request {
    Request::post(body).header("mcp-protocol-version", LEGACY)
}

/// A legacy message within a session.
pub(crate) fn in_session(session: &str, body: impl Into<Vec<u8>>) -> Request {
    legacy(body).header("mcp-session-id", session)
}

/// The `initialize` of a legacy client.
pub(crate) fn initialize() -> Request {
    Request::post(format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{LEGACY}","capabilities":{{}},"clientInfo":{{"name":"it","version":"1"}}}}}}"#
    ))
}

/// A modern message, with the headers that mirror its body.
pub(crate) fn modern(body: impl Into<Vec<u8>>) -> Request {
    let body = body.into();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let mut request = Request::post(body)
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", json["method"].as_str().unwrap());
    let params = &json["params"];
    let name = match json["method"].as_str().unwrap() {
        "tools/call" | "prompts/get" => params["name"].as_str(),
        "resources/read" => params["uri"].as_str(),
        method if method.starts_with("tasks/") => params["taskId"].as_str(),
        _ => None,
    };
    if let Some(name) = name {
        request = request.header("mcp-name", &encoded(name));
    }
    request
}

/// A modern request's body.
pub(crate) fn modern_body(id: &str, method: &str, params: &str) -> String {
    let meta = format!(
        r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientInfo":{{"name":"it","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}"#
    );
    let params = if params.is_empty() {
        meta
    } else {
        format!("{params},{meta}")
    };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#)
}

/// A name as its header spells it: in Base64 where it is no plain text.
fn encoded(name: &str) -> String {
    use base64::Engine as _;
    let plain = name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && name.trim() == name;
    if plain {
        return name.to_owned();
    }
    let bytes = base64::engine::general_purpose::STANDARD.encode(name);
    format!("=?base64?{bytes}?=")
}
