//! What the answer to `server/discover` says of the server's era (2026-07-28, basic/versioning).
//!
//! Only what is surely modern is modern: legacy servers answer to a method that they do not know in any way they like.

use http::StatusCode;
use serde_json::Value;

use crate::mcp::{Revision, fault};

/// What `server/discover` said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Discovered {
    Modern(Value),
    /// It speaks 2026-07-28 and refused this request.
    ModernRefusal(String),
    Legacy,
}

/// Reads the answer.
pub(super) fn discovered(status: StatusCode, reply: Option<&Value>) -> Discovered {
    let is_modern = |versions: Option<&Value>| {
        let versions = versions.and_then(Value::as_array);
        versions.is_some_and(|all| {
            all.iter()
                .filter_map(Value::as_str)
                .any(|version| version >= Revision::LATEST.as_str())
        })
    };
    let Some(reply) = reply else {
        return Discovered::Legacy;
    };
    if let Some(result) = reply.get("result")
        && status.is_success()
        && is_modern(result.get("supportedVersions"))
    {
        return Discovered::Modern(result.clone());
    }
    let code = reply.pointer("/error/code").and_then(Value::as_i64);
    let is_refusal = match code.and_then(|code| i32::try_from(code).ok()) {
        Some(fault::HEADER_MISMATCH | fault::MISSING_CAPABILITY) => true,
        Some(fault::UNSUPPORTED_VERSION) => is_modern(reply.pointer("/error/data/supported")),
        _ => false,
    };
    if is_refusal {
        let why = reply.pointer("/error/message").and_then(Value::as_str);
        return Discovered::ModernRefusal(why.unwrap_or_default().to_owned());
    }
    Discovered::Legacy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, reply: &str) -> Discovered {
        let reply = serde_json::from_str(reply).ok();
        discovered(StatusCode::from_u16(status).unwrap(), reply.as_ref())
    }

    #[test]
    fn only_what_is_surely_modern_is_modern() {
        let served = r#"{"result":{"supportedVersions":["2025-11-25","2026-07-28"]}}"#;
        assert!(matches!(of(200, served), Discovered::Modern(_)));
        let refused = |code: i32, data: &str| {
            format!(r#"{{"id":null,"error":{{"code":{code},"message":"no","data":{data}}}}}"#)
        };
        let no = Discovered::ModernRefusal("no".to_owned());
        assert_eq!(of(400, &refused(-32020, "{}")), no);
        assert_eq!(of(400, &refused(-32021, "{}")), no);
        assert_eq!(
            of(400, &refused(-32022, r#"{"supported":["2026-07-28"]}"#)),
            no
        );
        for (status, legacy) in [
            (
                200,
                r#"{"result":{"supportedVersions":["2025-11-25"]}}"#.to_owned(),
            ),
            (200, r#"{"result":{}}"#.to_owned()),
            (400, refused(-32022, r#"{"supported":["2025-11-25"]}"#)),
            // Numbers of a draft, which legacy servers use for something else.
            (404, refused(-32001, "{}")),
            (404, refused(-32601, "{}")),
            (400, refused(-32000, "{}")),
            (422, "Unexpected message".to_owned()),
            (400, String::new()),
        ] {
            assert_eq!(of(status, &legacy), Discovered::Legacy, "{legacy}");
        }
    }
}
