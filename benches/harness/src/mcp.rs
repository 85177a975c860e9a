//! What both ends know of MCP: the two eras, and the bytes of the messages of a call.
//!
//! Generator and upstream write the same bytes, so that a reply is checked by one comparison.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The modern revision.
pub(crate) const MODERN: &str = "2026-07-28";
/// The legacy revisions, newest first.
pub(crate) const LEGACY: [&str; 2] = ["2025-11-25", "2025-06-18"];

/// A generation of the protocol.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Era {
    /// Sessions, begun by `initialize`.
    Legacy,
    /// Stateless, an envelope in every request.
    Modern,
}

impl Era {
    /// The revision spoken in this era.
    pub(crate) fn revision(self) -> &'static str {
        match self {
            Self::Legacy => LEGACY[0],
            Self::Modern => MODERN,
        }
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        })
    }
}

/// The members that every modern request has in `_meta`.
const META: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"outrigger-bench","version":"0"}"#;

/// `params` that are only an envelope, for requests without arguments.
pub(crate) fn bare_params(era: Era) -> String {
    match era {
        Era::Legacy => "{}".to_owned(),
        Era::Modern => format!(r#"{{"_meta":{{{META}}}}}"#),
    }
}

/// A `tools/call` of `echo` with `text`.
pub(crate) fn echo_request(era: Era, id: &str, text: &str) -> String {
    let meta = match era {
        Era::Legacy => String::new(),
        Era::Modern => format!(r#""_meta":{{{META}}},"#),
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{meta}"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
    )
}

/// A `tools/call` of `stream`, with a progress token.
pub(crate) fn stream_request(era: Era, id: &str, events: u32, interval_ms: u64) -> String {
    let meta = match era {
        Era::Legacy => format!(r#""_meta":{{"progressToken":{id}}}"#),
        Era::Modern => format!(r#""_meta":{{{META},"progressToken":{id}}}"#),
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{{meta},"name":"stream","arguments":{{"events":{events},"intervalMs":{interval_ms}}}}}}}"#
    )
}

/// The result of a call: `text` is the JSON of a string, quotes included.
pub(crate) fn call_reply(era: Era, id: &str, text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    out.push_str(r#"{"jsonrpc":"2.0","id":"#);
    out.push_str(id);
    out.push_str(r#","result":{"content":[{"type":"text","text":"#);
    out.push_str(text);
    out.push_str(match era {
        Era::Legacy => "}]}}",
        Era::Modern => {
            r#"}],"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bench","version":"0"}}}}"#
        }
    });
    out
}

/// One progress notification that carries the sender's time stamp.
pub(crate) fn progress(token: &str, n: u32, nanos: u64) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{n},"message":"{nanos}"}}}}"#
    )
}

/// Nanoseconds since the epoch: a clock that two processes of one machine share.
pub(crate) fn now_nanos() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
