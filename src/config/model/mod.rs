//! The configuration as plain data: what every source becomes, and all that the sidecar reads.
//!
//! One struct a section, one field a key; each field says its default, its unit, and what a change
//! costs when the file is reloaded. The costs are three:
//!
//! - *next call*: the section's server gets a new stack; open streams drain on the old one, and
//!   pools, sessions and verdicts stay, because they belong to the server's name;
//! - *new connections*: as above, and connections are made anew;
//! - *restart*: taken at start only; a reload keeps the old value and says so, or is refused if a
//!   listener was moved, added or dropped.

mod auth;
mod listener;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Uri;

pub use self::auth::{Auth, AuthKind, SecretSource, Value};
pub use self::listener::{ApiKey, InboundAuth, Listener, ListenerLimits, Network, Rate};
pub use self::server::{
    Affinity, Backoff, BackoffKind, Budget, Endpoint, Headers, LoadBalancing, Policy, Pool,
    Rebuild, Rename, Retry, Server, ServerLimits, StaticHeader, Timeouts, Tls, ToolCalls, Tools,
    Transport,
};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where agents connect. Default: one, `127.0.0.1:8000`.
    pub listeners: Vec<Listener>,
    /// The MCP servers behind. At least one.
    pub servers: Vec<Server>,
    /// How session ids are sealed.
    pub sessions: Sessions,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// When `/readyz` says yes.
    pub readiness: Readiness,
    /// Logs and metrics.
    pub observability: Observability,
    /// The admin listener that can change things.
    pub control: Control,
}

impl Config {
    /// The server of that name.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    pub(crate) fn new(listeners: Vec<Listener>, servers: Vec<Server>) -> Self {
        Self {
            listeners,
            servers,
            sessions: Sessions::default(),
            shutdown: Shutdown::default(),
            readiness: Readiness::default(),
            observability: Observability::default(),
            control: Control::default(),
        }
    }
}

/// `sessions`: the ids that legacy clients hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sessions {
    /// Where the sealing key comes from. Default: a random key of the process, so that its
    /// sessions end with it. A change: *restart*.
    pub key: Option<SecretSource>,
    /// How long an id is good for, from `initialize`. Default: 24 h. A change: *restart*.
    pub expiry: Duration,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            key: None,
            expiry: Duration::from_hours(24),
        }
    }
}

/// `shutdown`: what SIGTERM does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// How long open calls may go on. Default: 5 s. A change: *restart*.
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
        }
    }
}

/// `readiness`: what `/readyz` waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// Which servers must be reachable. Default: none, as an upstream's outage is no reason to
    /// take the agent's pod out of service. A change costs nothing.
    pub require_servers: RequireServers,
}

/// Which servers readiness depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequireServers {
    /// `false`: none; local health only.
    #[default]
    None,
    /// `true`: all of them.
    All,
    /// Those named.
    Named(Vec<String>),
}

/// `observability`: what can be seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observability {
    /// Logs, on standard error.
    pub log: Log,
    /// Metrics, health and status, read-only.
    pub metrics: Metrics,
    /// Traces and metrics for a collector.
    pub tracing: Tracing,
}

/// `observability.log`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Log {
    /// The least severe level that is written. Default: info. A change costs nothing.
    pub level: LogLevel,
    /// Default: text. A change: *restart*.
    pub format: LogFormat,
    /// Whether bodies of requests are written, at debug. Default: no. A change: *next call*.
    pub request_bodies: bool,
    /// Whether bodies of answers are written, at debug. Default: no. A change: *next call*.
    pub response_bodies: bool,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// Every request.
    Debug,
    /// Every change of state.
    #[default]
    Info,
    /// What a person must act on.
    Warn,
    /// What failed.
    Error,
}

impl LogLevel {
    /// The word, as filters of `tracing` take it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// Reads a level, in any case; `WARNING` and `CRITICAL` are those of other programs.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "trace" => Some(Self::Trace),
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" | "warning" => Some(Self::Warn),
            "error" | "critical" => Some(Self::Error),
            _ => None,
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `observability.metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Where `/metrics`, `/status` and the health paths are. Default: `0.0.0.0:9464`.
    /// A change: *restart*.
    pub listen: SocketAddr,
    /// Whether the metrics also have the names `mcp_remote_*`. Default: no, but yes when started
    /// by environment alone. A change: *restart*.
    pub legacy_names: bool,
    /// Whether there are histograms by OpenTelemetry's conventions for MCP too, which doubles the
    /// number of series. Default: no. A change: *restart*.
    pub semconv: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9464)),
            legacy_names: false,
            semconv: false,
        }
    }
}

/// `observability.tracing`: what the file says of it. OpenTelemetry's own variables say more
/// ([`Export`](super::env::Export)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tracing {
    /// A collector that takes OTLP over HTTP; `/v1/traces` and `/v1/metrics` are put behind. Default: what the variables
    /// say, else none, and nothing is exported. A change: *restart*.
    pub otlp_endpoint: Option<Uri>,
    /// What the service is called. Default: what the variables say, else `outrigger`. A change: *restart*.
    pub service_name: Option<String>,
}

/// `control`: the admin paths that change something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Control {
    /// Default: `127.0.0.1:9465`; loopback only. A change: *restart*.
    pub listen: SocketAddr,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9465)),
        }
    }
}
