//! Why a call failed: one type, one closed list of causes, one function that writes the answer.
//!
//! Contract:
//!
//! 1. Inside `rescue` a layer fails with a [`Failure`] in a [`BoxError`]; `retry` and `rescue` read nothing else. An
//!    error of another type is our own fault ([`Cause::Internal`]).
//! 2. A [`Cause`] says by whose [`Fault`] it is, which HTTP status and JSON-RPC code it is answered with, and what a
//!    person should do. The same words stand in metrics, logs, `Proxy-Status` and `error.data.cause`.
//! 3. A [`Phase`] says how far the call had come, which decides whether it may be sent again.
//! 4. [`answer`] is the only place where an error answer is written. It shows an upstream's origin at most: no path, no
//!    query, no token, no text of the upstream.
//! 5. In the legacy era an error for a request is never 404 or 400 unless the session itself is meant (or its revision, C49): clients read
//!    those as the end of their session. It is 200 with a JSON-RPC error then (statement C46).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Map, Value};

use crate::call::Call;
use crate::facts::{Facts, RequestId};
use crate::mcp::fault;
use crate::mcp::revision::{Era, Revision};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Any error, boxed.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// By whose fault a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The caller sent something wrong, or something that it may not have.
    Caller,
    /// Our credential for the upstream is missing or was refused.
    Credential,
    /// The upstream, or the way to it.
    Upstream,
    /// Ourselves.
    Us,
}

impl Fault {
    /// The word for `error.data.source`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Credential => "credential",
            Self::Upstream => "upstream",
            Self::Us => "outrigger",
        }
    }
}

/// How far a call had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Not a byte of it reached the upstream: it may be sent again, whatever it is.
    Unsent,
    /// Some of it may have been read and executed.
    Sent,
    /// The upstream answered, with an error.
    Answered,
}

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $variant:ident $word:literal $fault:ident $status:literal $code:ident $proxy:literal $text:literal $help:literal;)*) => {
        /// Why a call failed: the closed list.
        ///
        /// | Cause | Fault | Status | What to do |
        /// | --- | --- | --- | --- |
        $(#[doc = concat!("| `", $word, "` | ", stringify!($fault), " | ", stringify!($status), " | ", $help, " |")])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Cause {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Cause {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in metrics, logs, status and `error.data.cause`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// By whose fault.
            #[must_use]
            pub fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }

            /// The HTTP status it is answered with where nothing else is known.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let code = match self { $(Self::$variant => $status,)* };
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// The JSON-RPC error code.
            #[must_use]
            pub fn code(self) -> i32 {
                match self { $(Self::$variant => fault::$code,)* }
            }

            /// The error type of `Proxy-Status` (RFC 9209, section 2.3).
            #[must_use]
            pub fn proxy_status(self) -> &'static str {
                match self { $(Self::$variant => $proxy,)* }
            }

            /// What happened, in a few words. `{}` stands for the upstream's origin.
            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What a person can do about it.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

causes! {
    /// The upstream's name has no address.
    Dns "dns" Upstream 502 INTERNAL_ERROR "dns_error"
        "No address found for {}" "check the host name in the server's url, and the pod's DNS";
    /// Nobody listens at the upstream's address.
    ConnectionRefused "connection_refused" Upstream 502 INTERNAL_ERROR "connection_refused"
        "Connection refused to {}" "check that the server runs and that the port in its url is right";
    /// The upstream's address cannot be reached, or the connection broke while it was made.
    Unreachable "unreachable" Upstream 502 INTERNAL_ERROR "destination_ip_unroutable"
        "{} cannot be reached" "check the network, its policies and the address in the server's url";
    /// No connection within `timeouts.connect`.
    ConnectTimeout "connect_timeout" Upstream 504 INTERNAL_ERROR "connection_timeout"
        "Connection timeout to {}" "check the network, or raise timeouts.connect";
    /// The upstream's certificate is not trusted, has expired or is another host's.
    TlsCertificate "tls_certificate" Upstream 502 INTERNAL_ERROR "tls_certificate_error"
        "SSL certificate problem at {}" "check the certificate, or name its authority in tls.caFile";
    /// The TLS handshake failed for another reason.
    TlsHandshake "tls_handshake" Upstream 502 INTERNAL_ERROR "tls_protocol_error"
        "TLS handshake failed with {}" "check that the port speaks TLS 1.2 or 1.3";
    /// All connections that the pool may have are busy.
    PoolExhausted "pool_exhausted" Upstream 503 INTERNAL_ERROR "connection_limit_reached"
        "All connections to {} are busy" "raise pool.max, or send fewer calls at once";
    /// All connections for streams are busy.
    StreamsExhausted "streams_exhausted" Upstream 503 INTERNAL_ERROR "connection_limit_reached"
        "All stream connections to {} are busy" "raise pool.streams, or open fewer streams at once";
    /// The connection ended before the answer did.
    ConnectionLost "connection_lost" Upstream 502 INTERNAL_ERROR "connection_terminated"
        "The connection to {} was lost" "look at the server's log; the call may or may not have been executed";
    /// The upstream's answer is not HTTP, is not whole, or breaks a limit of ours.
    BadResponse "bad_response" Upstream 502 INTERNAL_ERROR "http_protocol_error"
        "{} sent an answer that cannot be read" "check that the url is that of an MCP server";
    /// No answer within `timeouts.request`.
    RequestTimeout "request_timeout" Upstream 504 INTERNAL_ERROR "http_response_timeout"
        "Request timeout: no answer from {}" "raise timeouts.request or timeouts.methods, or ask the server for progress events";
    /// A stream was silent for `timeouts.streamIdle`.
    StreamIdle "stream_idle" Upstream 504 INTERNAL_ERROR "http_response_timeout"
        "The stream from {} went silent" "raise timeouts.streamIdle";
    /// A call took longer than `timeouts.total`.
    TotalTimeout "total_timeout" Upstream 504 INTERNAL_ERROR "http_response_timeout"
        "The call to {} took too long" "raise timeouts.total, or leave it off";
    /// No endpoint is left to try.
    NoEndpoint "no_endpoint" Upstream 503 INTERNAL_ERROR "destination_unavailable"
        "No endpoint of the server is available" "see /status for each endpoint's state";
    /// The upstream answered with a server error, or with one that is no JSON-RPC message.
    UpstreamError "upstream_error" Upstream 502 INTERNAL_ERROR "http_response_incomplete"
        "{} answered with an error" "look at the server's log";
    /// The upstream says that it gets too many calls.
    UpstreamRateLimited "upstream_rate_limited" Upstream 429 INTERNAL_ERROR "http_response_incomplete"
        "{} says: too many requests" "send fewer calls, or wait as long as Retry-After says";
    /// The upstream sent us elsewhere, and we do not follow.
    Redirected "redirected" Upstream 502 INTERNAL_ERROR "http_protocol_error"
        "{} redirects to another place" "put the final address into the server's url";
    /// The upstream does not serve MCP at this path.
    NotFound "not_found" Upstream 502 INTERNAL_ERROR "http_response_incomplete"
        "{} has no MCP endpoint at this path" "check the path in the server's url (often /mcp)";
    /// The upstream has forgotten the session, and it could not be rebuilt.
    SessionLost "session_lost" Caller 404 SESSION_NOT_FOUND "http_request_denied"
        "Session not found" "start a new session with initialize";
    /// The upstream refused our credential.
    Unauthorized "unauthorized" Credential 502 INTERNAL_ERROR "http_request_denied"
        "401 Unauthorized: {} refused the sidecar's credential" "check the server's auth: is the token right, and has it expired?";
    /// The upstream knows our credential, and does not allow the call.
    Forbidden "forbidden" Credential 502 INTERNAL_ERROR "http_request_denied"
        "403 Forbidden: the sidecar's credential is not enough for {}" "give the credential the rights it needs";
    /// There is no credential to send: its file or variable is missing or empty.
    CredentialMissing "credential_missing" Credential 503 INTERNAL_ERROR "proxy_configuration_error"
        "There is no credential for {}" "check the file or variable that the server's auth names";
    /// The upstream refused this credential a short while ago; it is not sent again yet.
    CredentialHeld "credential_held" Credential 503 INTERNAL_ERROR "http_request_denied"
        "The credential for {} was refused and is held back" "renew it at its source; it is then tried at once";
    /// The caller showed no credential, or a wrong one.
    Unauthenticated "unauthenticated" Caller 401 INVALID_REQUEST "http_request_denied"
        "The sidecar wants a credential" "send one of the listener's API keys, in one of error.data.headers";
    /// The `Origin` is not allowed.
    OriginRefused "origin_refused" Caller 403 INVALID_REQUEST "http_request_denied"
        "Origin not allowed" "name it in the listener's allowedOrigins";
    /// The `Host` is not ours.
    HostRefused "host_refused" Caller 403 INVALID_REQUEST "http_request_denied"
        "Host not allowed" "name it in the listener's allowedHosts";
    /// The caller's address is not allowed.
    AddressRefused "address_refused" Caller 403 INVALID_REQUEST "http_request_denied"
        "Address not allowed" "name its network in the listener's allowFrom";
    /// The caller sends more than its share.
    RateLimited "rate_limited" Caller 429 INTERNAL_ERROR "http_request_denied"
        "Too many requests" "wait as long as Retry-After says";
    /// The caller has too many calls open.
    TooManyCalls "too_many_calls" Caller 429 INTERNAL_ERROR "http_request_denied"
        "Too many calls at once" "wait for one of them to end";
    /// The body is larger than `maxBodyBytes`.
    BodyTooLarge "body_too_large" Caller 413 INVALID_REQUEST "http_request_error"
        "The message is too large" "send less, or raise the listener's maxBodyBytes";
    /// The process holds as many bytes of requests as it may.
    Overloaded "overloaded" Us 503 INTERNAL_ERROR "proxy_internal_response"
        "The sidecar holds too many messages" "wait a moment, or give the sidecar more memory";
    /// The sidecar ends, and the call would not have ended before.
    ShuttingDown "shutting_down" Us 503 INTERNAL_ERROR "proxy_internal_response"
        "The sidecar is shutting down" "connect again; what was sent may have been executed";
    /// The body did not come, or came too slowly.
    BodyTimeout "body_timeout" Caller 408 INVALID_REQUEST "http_request_error"
        "The message did not arrive in time" "send it again";
    /// The body broke off.
    BodyIncomplete "body_incomplete" Caller 400 INVALID_REQUEST "http_request_error"
        "The message broke off" "send it again";
    /// Not JSON.
    MalformedJson "malformed_json" Caller 400 PARSE_ERROR "http_request_error"
        "Parse error: the body is not valid JSON" "send one JSON-RPC message in UTF-8";
    /// JSON, but no message.
    MalformedMessage "malformed_message" Caller 400 INVALID_REQUEST "http_request_error"
        "Invalid Request: the body is not a JSON-RPC 2.0 message" "send one JSON-RPC message";
    /// A key that decides stands twice.
    DuplicateKey "duplicate_key" Caller 400 INVALID_REQUEST "http_request_error"
        "Invalid Request: a key stands twice" "send each key once";
    /// A batch where the revision has none.
    BatchRefused "batch_refused" Caller 400 INVALID_REQUEST "http_request_error"
        "Invalid Request: batches are not supported" "send one message per request";
    /// The HTTP method is not of this endpoint.
    MethodNotAllowed "method_not_allowed" Caller 405 INVALID_REQUEST "http_request_error"
        "Method Not Allowed" "use POST; GET and DELETE need a session";
    /// The body is not JSON by its Content-Type.
    UnsupportedMediaType "unsupported_media_type" Caller 415 INVALID_REQUEST "http_request_error"
        "Content-Type must be application/json" "send Content-Type: application/json";
    /// The caller does not accept what an MCP server answers with.
    NotAcceptable "not_acceptable" Caller 406 INVALID_REQUEST "http_request_error"
        "Accept must name application/json and text/event-stream" "send Accept: application/json, text/event-stream";
    /// Headers and body disagree (2026-07-28).
    HeaderMismatch "header_mismatch" Caller 400 HEADER_MISMATCH "http_request_error"
        "Headers and body disagree" "send MCP-Protocol-Version, Mcp-Method and Mcp-Name as the body has them";
    /// The envelope is not complete (2026-07-28).
    EnvelopeIncomplete "envelope_incomplete" Caller 400 INVALID_PARAMS "http_request_error"
        "params._meta lacks protocolVersion or clientCapabilities" "send both in each request";
    /// A revision that is not served.
    UnsupportedVersion "unsupported_version" Caller 400 UNSUPPORTED_VERSION "http_request_error"
        "Unsupported protocol version" "use one of error.data.supported";
    /// A legacy request names a revision that does not exist.
    BadVersionHeader "bad_version_header" Caller 400 INVALID_REQUEST "http_request_error"
        "Bad Request: unsupported MCP-Protocol-Version" "send the revision that initialize agreed on";
    /// No such method in this revision.
    UnknownMethod "unknown_method" Caller 404 METHOD_NOT_FOUND "http_request_error"
        "Method not found" "see the specification of the revision in use";
    /// No such server or path here.
    NoRoute "no_route" Caller 404 INVALID_REQUEST "destination_not_found"
        "There is no MCP server at this path" "use one of the paths in error.data.paths";
    /// The policy hides or refuses it.
    PolicyDenied "policy_denied" Caller 200 INVALID_PARAMS "http_request_denied"
        "Unknown tool" "the sidecar's policy does not offer it";
    /// Something in the sidecar broke.
    Internal "internal" Us 500 INTERNAL_ERROR "proxy_internal_error"
        "The sidecar failed" "report it, with the request id";
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call failed, and how far it had come.
#[derive(Debug)]
pub struct Failure {
    cause: Cause,
    phase: Phase,
    origin: Option<Arc<str>>,
    status: Option<StatusCode>,
    retry_after: Option<Duration>,
    data: Option<Value>,
    source: Option<BoxError>,
}

impl Failure {
    /// A failure in `phase` because of `cause`.
    #[must_use]
    pub fn new(cause: Cause, phase: Phase) -> Self {
        Self {
            cause,
            phase,
            origin: None,
            status: None,
            retry_after: None,
            data: None,
            source: None,
        }
    }

    /// The same, before anything was sent.
    #[must_use]
    pub fn unsent(cause: Cause) -> Self {
        Self::new(cause, Phase::Unsent)
    }

    /// Says at which upstream: scheme, host and port, no more.
    #[must_use]
    pub fn at(mut self, origin: Arc<str>) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Answers with this status instead of the cause's own.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Says when it may be tried again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds members to `error.data` (an object): what the specification wants there, as `supported`.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Keeps the error beneath, for logs; it is never shown to a caller.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The cause.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// How far the call had come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The upstream's origin.
    #[must_use]
    pub fn origin(&self) -> Option<&Arc<str>> {
        self.origin.as_ref()
    }

    /// How long to wait before another try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The failure in an error of the stack, if it is one.
    #[must_use]
    pub fn of(error: &BoxError) -> Option<&Self> {
        let mut current: Option<&(dyn StdError + 'static)> = Some(error.as_ref());
        while let Some(error) = current {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return Some(failure);
            }
            current = error.source();
        }
        None
    }

    /// The failure that an error of the stack is: itself, or ours.
    #[must_use]
    pub fn from_error(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => *failure,
            Err(error) => Self::new(Cause::Internal, Phase::Sent).with_source(error),
        }
    }

    /// What a caller is told, in one line.
    #[must_use]
    pub fn message(&self) -> String {
        self.cause
            .text()
            .replace("{}", self.origin.as_deref().unwrap_or("the server"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

/// To whom an error answer goes: what of a request must outlive it for the answer to be written.
#[derive(Clone, Debug, Default)]
pub struct Addressee {
    era: Option<Era>,
    id: Option<Bytes>,
    server: Option<Arc<str>>,
    request_id: Option<RequestId>,
}

impl Addressee {
    /// Reads it off a request: its [`Call`] and its [`Facts`], as far as they are there.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        Self::to(request.extensions().get::<Call>(), Facts::get(request))
    }

    /// The same of what was kept of a request.
    pub(crate) fn to(call: Option<&Call>, facts: Option<&Facts>) -> Self {
        Self {
            era: call.map(Call::era),
            id: call.and_then(Call::id_token),
            server: facts.and_then(Facts::server).cloned(),
            request_id: facts.map(Facts::request_id),
        }
    }

    /// The id of the request that wants an answer, in its JSON spelling.
    #[must_use]
    pub fn id(&self) -> Option<&Bytes> {
        self.id.as_ref()
    }

    /// The era of the caller.
    #[must_use]
    pub fn era(&self) -> Option<Era> {
        self.era
    }
}

/// Writes the answer to a failed call: status by era and fault, a JSON-RPC error body, `Proxy-Status`, `Retry-After`.
pub fn answer<B: From<Bytes>>(failure: &Failure, to: &Addressee) -> Response<B> {
    let cause = failure.cause;
    let mut response = Response::new(B::from(error_body(failure, to)));
    *response.status_mut() = status_for(failure, to);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let proxy_status = format!(
        "outrigger; error={}; details=\"{}\"",
        cause.proxy_status(),
        cause.as_str()
    );
    if let Ok(value) = HeaderValue::from_str(&proxy_status) {
        headers.insert(PROXY_STATUS, value);
    }
    if let Some(after) = failure.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    if cause == Cause::MethodNotAllowed {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response.extensions_mut().insert(cause);
    response
}

/// The JSON-RPC error that [`answer`] puts into its body, alone: for a stream that is already open.
#[must_use]
pub fn error_body(failure: &Failure, to: &Addressee) -> Bytes {
    let cause = failure.cause;
    let mut data = Map::new();
    data.insert("source".into(), cause.fault().as_str().into());
    if let Some(server) = &to.server {
        data.insert("server".into(), server.as_ref().into());
    }
    data.insert("cause".into(), cause.as_str().into());
    data.insert("retryable".into(), is_retryable(failure).into());
    if let Some(after) = failure.retry_after {
        data.insert(
            "retryAfterMs".into(),
            u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into(),
        );
    }
    data.insert("help".into(), cause.help().into());
    if let Some(request_id) = to.request_id {
        data.insert("requestId".into(), request_id.to_string().into());
    }
    if let Some(Value::Object(more)) = &failure.data {
        data.extend(more.clone());
    }
    let id = to.id.as_deref();
    // Legacy clients expect an id member even where it was unreadable; 2026-07-28 leaves it out.
    let id = id.or_else(|| (to.era == Some(Era::Legacy)).then_some(&b"null"[..]));
    fault::error_message(
        id,
        cause.code(),
        &failure.message(),
        Some(&Value::Object(data)),
    )
}

/// The revisions a modern error names, for [`Failure::with_data`].
#[must_use]
pub fn supported_versions(requested: &str, supported: &[Revision]) -> Value {
    serde_json::json!({
        "supported": supported.iter().map(|revision| revision.as_str()).collect::<Vec<_>>(),
        "requested": requested,
    })
}

/// Whether the caller may send the same call again and hope.
fn is_retryable(failure: &Failure) -> bool {
    match failure.cause.fault() {
        Fault::Upstream | Fault::Us => failure.phase != Phase::Sent,
        Fault::Caller => matches!(
            failure.cause,
            Cause::RateLimited | Cause::TooManyCalls | Cause::BodyTimeout
        ),
        Fault::Credential => false,
    }
}

fn status_for(failure: &Failure, to: &Addressee) -> StatusCode {
    let status = failure.status.unwrap_or_else(|| failure.cause.status());
    let means_session = matches!(failure.cause, Cause::SessionLost | Cause::BadVersionHeader);
    let ends_session = matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
    if to.era == Some(Era::Legacy) && to.id.is_some() && ends_session && !means_session {
        StatusCode::OK
    } else {
        status
    }
}

/// Rounds up, so that nobody comes back too early.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addressee(era: Era, id: Option<&'static str>) -> Addressee {
        Addressee {
            era: Some(era),
            id: id.map(|id| Bytes::from_static(id.as_bytes())),
            server: Some("wiki".into()),
            request_id: None,
        }
    }

    fn body_of(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn rule_2_words_are_unique() {
        let mut words: Vec<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Cause::ALL.len());
    }

    #[test]
    fn s0_28_texts_name_the_origin_and_no_more() {
        let failure =
            Failure::unsent(Cause::ConnectionRefused).at("https://mcp.example.com".into());
        assert_eq!(
            failure.to_string(),
            "Connection refused to https://mcp.example.com"
        );
        assert!(
            Failure::unsent(Cause::RequestTimeout)
                .to_string()
                .starts_with("Request timeout")
        );
        assert!(
            Failure::unsent(Cause::Unauthorized)
                .to_string()
                .starts_with("401 Unauthorized")
        );
    }

    #[test]
    fn s1_23_texts() {
        assert!(
            Failure::unsent(Cause::ConnectTimeout)
                .to_string()
                .starts_with("Connection timeout")
        );
        assert!(
            Failure::unsent(Cause::TlsCertificate)
                .to_string()
                .starts_with("SSL certificate problem")
        );
    }

    #[test]
    fn rule_4_the_source_stays_inside() {
        let failure = Failure::new(Cause::ConnectionLost, Phase::Sent).with_source("token=abc");
        let response: Response<Bytes> = answer(&failure, &addressee(Era::Modern, Some("1")));
        assert!(!String::from_utf8_lossy(response.body()).contains("abc"));
        assert_eq!(
            response.headers()["proxy-status"],
            "outrigger; error=connection_terminated; details=\"connection_lost\""
        );
        let body = body_of(&response);
        assert_eq!(body["error"]["data"]["cause"], "connection_lost");
        assert_eq!(body["error"]["data"]["retryable"], false);
        assert_eq!(body["error"]["data"]["server"], "wiki");
    }

    #[test]
    fn c46_a_legacy_request_error_is_never_404_or_400() {
        let unknown = Failure::unsent(Cause::UnknownMethod);
        assert_eq!(
            answer::<Bytes>(&unknown, &addressee(Era::Legacy, Some("1"))).status(),
            200
        );
        assert_eq!(
            answer::<Bytes>(&unknown, &addressee(Era::Modern, Some("1"))).status(),
            404
        );
        let lost = Failure::unsent(Cause::SessionLost);
        assert_eq!(
            answer::<Bytes>(&lost, &addressee(Era::Legacy, Some("1"))).status(),
            404
        );
    }

    #[test]
    fn retry_after_is_rounded_up_and_exact_in_the_data() {
        let failure =
            Failure::unsent(Cause::RateLimited).with_retry_after(Duration::from_millis(1500));
        let response: Response<Bytes> = answer(&failure, &addressee(Era::Modern, Some("\"a\"")));
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(body_of(&response)["error"]["data"]["retryAfterMs"], 1500);
        assert_eq!(body_of(&response)["id"], "a");
    }

    #[test]
    fn rule_1_another_error_is_our_fault() {
        assert_eq!(Failure::from_error("x".into()).cause(), Cause::Internal);
        let boxed: BoxError = Failure::unsent(Cause::Dns).into();
        assert_eq!(Failure::of(&boxed).unwrap().cause(), Cause::Dns);
    }
}
