//! How a call ended: the closed list, and how it is read off an answer.

use std::sync::LazyLock;

use http::StatusCode;
use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Cause;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Answered with a result.
    Ok,
    /// Answered with a tool's `isError`.
    ToolError,
    /// Answered with a JSON-RPC error of the upstream.
    RpcError,
    /// Answered with an HTTP error of the upstream, or refused for its form.
    HttpError,
    /// Ended by one of our time limits.
    Timeout,
    /// The caller hung up.
    Cancelled,
    /// Refused by origin, host, address or policy.
    Denied,
    /// Refused by a limit, ours or the upstream's.
    RateLimited,
    /// Refused for a credential, the caller's or ours.
    Auth,
    /// The upstream could not be reached, or broke off.
    Unavailable,
}

impl Outcome {
    /// How many there are.
    pub(super) const COUNT: usize = 10;

    /// Its place in a table.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::HttpError => "http_error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Auth => "auth",
            Self::Unavailable => "unavailable",
        }
    }

    /// What a failure of ours counts as.
    #[must_use]
    pub fn of_cause(cause: Cause) -> Self {
        match cause {
            Cause::RequestTimeout
            | Cause::StreamIdle
            | Cause::TotalTimeout
            | Cause::ConnectTimeout
            | Cause::BodyTimeout => Self::Timeout,
            Cause::OriginRefused
            | Cause::HostRefused
            | Cause::AddressRefused
            | Cause::PolicyDenied => Self::Denied,
            Cause::RateLimited
            | Cause::TooManyCalls
            | Cause::UpstreamRateLimited
            | Cause::Overloaded => Self::RateLimited,
            Cause::Unauthorized
            | Cause::Forbidden
            | Cause::CredentialMissing
            | Cause::CredentialHeld
            | Cause::Unauthenticated => Self::Auth,
            Cause::Dns
            | Cause::ConnectionRefused
            | Cause::Unreachable
            | Cause::TlsCertificate
            | Cause::TlsHandshake
            | Cause::PoolExhausted
            | Cause::StreamsExhausted
            | Cause::ConnectionLost
            | Cause::NoEndpoint
            | Cause::Internal => Self::Unavailable,
            _ => Self::HttpError,
        }
    }

    /// What a status alone says.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            0..=399 => Self::Ok,
            401 | 403 => Self::Auth,
            429 => Self::RateLimited,
            502..=504 => Self::Unavailable,
            _ => Self::HttpError,
        }
    }
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    /// The JSON-RPC error's code, if it is one and has one that is a number.
    pub(super) code: Option<i32>,
}

impl Verdict {
    /// What one JSON-RPC message says, if it is an answer.
    pub(super) fn of_message(message: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
            #[serde(default)]
            result: Option<Tool>,
        }
        #[derive(Deserialize)]
        struct Tool {
            #[serde(rename = "isError", default)]
            is_error: bool,
        }
        #[derive(Deserialize)]
        struct Error {
            code: i32,
        }
        let answer: Answer<'_> = serde_json::from_slice(message).ok()?;
        if let Some(error) = answer.error {
            let code = serde_json::from_str::<Error>(error.get());
            return Some(Self {
                outcome: Outcome::RpcError,
                code: code.ok().map(|error| error.code),
            });
        }
        let outcome = if answer.result?.is_error {
            Outcome::ToolError
        } else {
            Outcome::Ok
        };
        Some(Self {
            outcome,
            code: None,
        })
    }
}

/// What `"error"` and `"isError"` have in common, so that one search does for both. Made once: to make a searcher costs
/// more than to search a common answer with it.
static SIGN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"rror\""));

/// Whether the bytes can be anything but a plain result: a search is far cheaper than reading them.
pub(super) fn may_be_an_error(bytes: &[u8]) -> bool {
    SIGN.find(bytes).is_some()
}

static RESULT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"result\""));

/// Whether the bytes can be an answer that is no error, and no notification.
pub(super) fn may_be_a_result(bytes: &[u8]) -> bool {
    RESULT.find(bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_3_messages_are_told_apart() {
        for (message, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#,
                Some(Outcome::Ok),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#,
                Some(Outcome::ToolError),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"isError":false,"x":"\"error\""}}"#,
                Some(Outcome::Ok),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"x"}}"#,
                Some(Outcome::RpcError),
            ),
            (
                r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#,
                None,
            ),
            ("{", None),
        ] {
            assert_eq!(
                Verdict::of_message(message.as_bytes()).map(|verdict| verdict.outcome),
                expected,
                "{message}"
            );
        }
    }

    #[test]
    fn the_code_of_an_error_is_read_where_it_is_a_number() {
        let code = |error: &str| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#);
            Verdict::of_message(message.as_bytes()).map(|verdict| verdict.code)
        };
        assert_eq!(code(r#"{"code":-32602,"message":"x"}"#), Some(Some(-32602)));
        assert_eq!(code(r#"{"code":"-32602"}"#), Some(None));
        assert_eq!(code(r#""broken""#), Some(None));
        assert_eq!(code("null"), None);
    }

    #[test]
    fn every_cause_counts_as_a_failure() {
        for &cause in Cause::ALL {
            assert_ne!(Outcome::of_cause(cause), Outcome::Ok);
        }
    }
}
