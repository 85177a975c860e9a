//! The variables.

pub(super) const PREFIX: &str = "MCP_REMOTE_";
pub(super) const HEADER_PREFIX: &str = "MCP_REMOTE_HEADER_";

pub(super) const SERVER: &str = "MCP_REMOTE_SERVER";
pub(super) const COMMAND: &str = "MCP_SERVER_COMMAND";
pub(super) const TOKEN: &str = "MCP_REMOTE_BEARER_TOKEN";
pub(super) const TOKEN_FILE: &str = "MCP_REMOTE_BEARER_TOKEN_FILE";
pub(super) const ANONYMOUS_TOKEN: &str = "MCP_REMOTE_ANON_BEARER_TOKEN";
pub(super) const AUTH_HEADER: &str = "MCP_REMOTE_AUTH_HEADER_NAME";
pub(super) const AUTH_TEMPLATE: &str = "MCP_REMOTE_AUTH_HEADER_VALUE_TEMPLATE";
pub(super) const FORWARD: &str = "MCP_REMOTE_SERVER_FORWARD_HEADERS";
pub(super) const REQUEST_TIMEOUT: &str = "MCP_REMOTE_TIMEOUT";
pub(super) const CONNECT_TIMEOUT: &str = "MCP_REMOTE_CONNECT_TIMEOUT";
pub(super) const TEARDOWN_TIMEOUT: &str = "MCP_REMOTE_TEARDOWN_TIMEOUT_SECONDS";
pub(super) const MAX_CONNECTIONS: &str = "MCP_REMOTE_MAX_CONNECTIONS";
pub(super) const MAX_IDLE: &str = "MCP_REMOTE_MAX_KEEPALIVE_CONNECTIONS";
pub(super) const VERIFY_TLS: &str = "MCP_REMOTE_VERIFY_TLS";
pub(super) const CA_BUNDLE: &str = "MCP_REMOTE_CA_BUNDLE";
pub(super) const ALLOW_PLAINTEXT: &str = "MCP_REMOTE_ALLOW_PLAINTEXT";
pub(super) const LOG_REQUESTS: &str = "MCP_REMOTE_LOG_REQUESTS";
pub(super) const LOG_RESPONSES: &str = "MCP_REMOTE_LOG_RESPONSES";
pub(crate) const LOG_LEVEL: &str = "LOG_LEVEL";
pub(super) const BASE_PATH: &str = "MCP_BASE_PATH";
pub(super) const INCLUDE: &str = "INCLUDE_TOOLS";
pub(super) const EXCLUDE: &str = "EXCLUDE_TOOLS";

/// What [`LOG_LEVEL`] may be.
pub(crate) const LOG_LEVELS: &str = "one of trace, debug, info, warn, error";

/// Those that start with the prefix and are ours; what is not here is warned of.
pub(super) const KNOWN: &[&str] = &[
    SERVER,
    TOKEN,
    TOKEN_FILE,
    ANONYMOUS_TOKEN,
    AUTH_HEADER,
    AUTH_TEMPLATE,
    FORWARD,
    REQUEST_TIMEOUT,
    CONNECT_TIMEOUT,
    TEARDOWN_TIMEOUT,
    MAX_CONNECTIONS,
    MAX_IDLE,
    VERIFY_TLS,
    CA_BUNDLE,
    ALLOW_PLAINTEXT,
    LOG_REQUESTS,
    LOG_RESPONSES,
];

/// Those of a later version. To leave one out silently could let in whom it kept out.
pub(super) const LATER: &[&str] = &[
    "MCP_REMOTE_SERVER_OAUTH_ISSUER",
    "MCP_REMOTE_CLIENT_ID",
    "MCP_REMOTE_CLIENT_SECRET",
    "MCP_REMOTE_SCOPE",
    "MCP_REMOTE_REDIRECT_URI",
    "AUTH_PROVIDER",
    "BRIDGE_REQUIRED_GROUPS",
    "MCP_MAP_HEADER_TO_INPUT",
];
