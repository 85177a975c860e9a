//! One MCP server behind the sidecar, and how calls to it are made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};

use super::super::read::is_credential_header;
use super::{Auth, Value};

/// One server: the unit of the stack, of metrics and of reload. Two equal ones need no new stack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Server {
    /// A DNS label: the path `/servers/{name}/mcp`, and the label in metrics. What belongs to the
    /// server (pools, sessions, verdicts) belongs to this name. A change: another server.
    pub name: String,
    /// A second path that leads here, such as `/api/github`. Default: none. A change: *next call*.
    pub base_path: Option<String>,
    /// Where it is; each endpoint is the same server. At least one. A change: *new connections*.
    pub endpoints: Vec<Endpoint>,
    /// The credential. Default: none.
    pub auth: Auth,
    /// Headers set and let through.
    pub headers: Headers,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Connections, per endpoint.
    pub pool: Pool,
    /// How the endpoints are trusted.
    pub tls: Tls,
    /// Says that calls may go over plain HTTP beyond loopback. Default: no. A change: *next call*.
    pub allow_plaintext: bool,
    /// Which endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// What is repeated.
    pub retry: Retry,
    /// Which tools there are.
    pub tools: Tools,
    /// What happens to a session that the upstream lost. Default: rebuilt. A change: *next call*.
    pub rebuild: Rebuild,
    /// Bounds on what runs at the same time.
    pub limits: ServerLimits,
}

impl Server {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            base_path: None,
            endpoints: Vec::new(),
            auth: Auth::default(),
            headers: Headers::default(),
            timeouts: Timeouts::default(),
            pool: Pool::default(),
            tls: Tls::default(),
            allow_plaintext: false,
            load_balancing: LoadBalancing::default(),
            retry: Retry::default(),
            tools: Tools::default(),
            rebuild: Rebuild::default(),
            limits: ServerLimits::default(),
        }
    }

    /// Whether calls carry a secret of ours, so that whoever may call may use it.
    #[must_use]
    pub fn has_own_credential(&self) -> bool {
        let secret = |header: &StaticHeader| {
            matches!(header.value, Value::Secret(_)) || is_credential_header(&header.name)
        };
        self.auth.is_own() || self.headers.set.iter().any(secret)
    }
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// An `http` or `https` URL, without credentials in it.
    pub url: Uri,
    /// How it is spoken to. Default: auto.
    pub transport: Transport,
}

impl Endpoint {
    pub(crate) fn new(url: Uri) -> Self {
        Self {
            url,
            transport: Transport::Auto,
        }
    }
}

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// What the URL and the endpoint say; Streamable HTTP in this version.
    #[default]
    Auto,
    /// Streamable HTTP.
    StreamableHttp,
}

/// `servers[].headers`. Inbound headers go no further unless they are named here.
/// A change: *next call*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Headers {
    /// `static`: set on each request; a caller cannot override them. Default: none.
    pub set: Vec<StaticHeader>,
    /// Inbound headers that are let through. Default: none.
    pub forward: Vec<HeaderName>,
    /// Inbound headers that are let through under another name. Default: none.
    pub rename: Vec<Rename>,
}

/// A header with a fixed value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaticHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: Value,
}

impl StaticHeader {
    pub(crate) fn new(name: HeaderName, value: Value) -> Self {
        Self { name, value }
    }
}

/// A header that leaves under another name than it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rename {
    /// Its name on the way in.
    pub from: HeaderName,
    /// Its name on the way out.
    pub to: HeaderName,
}

impl Rename {
    pub(crate) fn new(from: HeaderName, to: HeaderName) -> Self {
        Self { from, to }
    }
}

/// `servers[].timeouts`. A change: *next call*.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// A connection, from name to TLS. Default: 10 s.
    pub connect: Duration,
    /// One attempt, up to its first answer. Default: 30 s.
    pub request: Duration,
    /// The same by method. Default: `tools/call` 5 min, or `request` where that is longer.
    pub methods: BTreeMap<String, Duration>,
    /// The longest silence within a call's stream. Default: 5 min.
    pub stream_idle: Option<Duration>,
    /// The longest life of a call's stream. Default: off.
    pub total: Option<Duration>,
    /// After which silence a call is held open with comments. Default: 1500 ms.
    pub hold: Option<Duration>,
}

impl Timeouts {
    /// The method that has a default of its own.
    const TOOLS_CALL: &str = "tools/call";

    /// What one attempt of that method may take, up to its first answer.
    #[must_use]
    pub fn request(&self, method: &str) -> Duration {
        self.methods.get(method).copied().unwrap_or(self.request)
    }

    /// A tool call is never given less than another request, unless somebody said so.
    pub(crate) fn stretch_tools_call(&mut self) {
        if let Some(tools_call) = self.methods.get_mut(Self::TOOLS_CALL) {
            *tools_call = self.request.max(*tools_call);
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let five_minutes = Duration::from_mins(5);
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
            methods: BTreeMap::from([(Self::TOOLS_CALL.to_owned(), five_minutes)]),
            stream_idle: Some(five_minutes),
            total: None,
            hold: Some(Duration::from_millis(1500)),
        }
    }
}

/// `servers[].pool`, per endpoint. A change: *new connections*.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pool {
    /// The most connections for calls. Default: 100.
    pub max: usize,
    /// The most of them that wait unused. Default: 20.
    pub max_idle: usize,
    /// How long a connection is used for new calls. Default: 10 min.
    pub max_age: Option<Duration>,
    /// How long a connection may wait unused. Default: 50 s, as many servers close theirs at 60 s.
    pub idle: Duration,
    /// The most connections for GET and listen streams, which are apart. Default: 1000.
    pub streams: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max: 100,
            max_idle: 20,
            max_age: Some(Duration::from_mins(10)),
            idle: Duration::from_secs(50),
            streams: 1000,
        }
    }
}

/// `servers[].tls`. A change: *new connections*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// A PEM file of the authorities to trust instead of the system's. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Trusts any certificate. Default: no; a warning at each start where it is on.
    pub insecure_skip_verify: bool,
}

/// `servers[].loadBalancing`. A change: *next call*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadBalancing {
    /// Default: round robin.
    pub policy: Policy,
    /// Default: session.
    pub affinity: Affinity,
}

/// Which endpoint a call goes to, where it is free to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// In turn.
    #[default]
    RoundRobin,
    /// The first that works, in the order written.
    Failover,
    /// The one with the fewest calls open.
    LeastLoaded,
}

/// What keeps to one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Affinity {
    /// A legacy session; modern calls are free.
    #[default]
    Session,
}

/// `servers[].retry`. A change: *next call*.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// How often a call is sent, the first time included. Default: 3.
    pub max_attempts: u32,
    /// How long it waits in between.
    pub backoff: Backoff,
    /// Which tool calls are repeated though they may have been executed. Default: never.
    pub tool_calls: ToolCalls,
    /// How much of the traffic may be repetition.
    pub budget: Budget,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff::default(),
            tool_calls: ToolCalls::Never,
            budget: Budget::default(),
        }
    }
}

/// `servers[].retry.backoff`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// Default: exponential, doubling.
    pub kind: BackoffKind,
    /// The first wait. Default: 100 ms.
    pub initial: Duration,
    /// The longest wait. Default: 10 s.
    pub max: Duration,
    /// Whether a wait is drawn between zero and its length (`full`), or kept (`none`).
    /// Default: full.
    pub jitter: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            kind: BackoffKind::Exponential,
            initial: Duration::from_millis(100),
            max: Duration::from_secs(10),
            jitter: true,
        }
    }
}

/// How waits grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackoffKind {
    /// Each is twice the one before, up to the longest.
    Exponential,
    /// All are the first.
    Fixed,
}

/// Which tool calls are repeated after they were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolCalls {
    /// None.
    Never,
    /// Those that the server calls read-only or idempotent.
    Annotated,
    /// Those of these tools.
    Named(Vec<String>),
}

/// `servers[].retry.budget`: one for the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Repetitions for each hundred first attempts. Default: 20.
    pub percent: u32,
    /// Repetitions a second that are always allowed. Default: 10.
    pub min_per_second: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 10,
        }
    }
}

/// `servers[].tools`: globs over tool names (`*`, `?`). A change: *next call*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tools {
    /// Tools that there are. Default: all.
    pub include: Vec<String>,
    /// Tools that there are not, whatever is included. Default: none.
    pub exclude: Vec<String>,
}

/// Whether a session that the upstream lost is made anew behind the client's back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebuild {
    /// Yes, where the same revision and capabilities can be had.
    #[default]
    Auto,
    /// No: 404, and the client starts again.
    Never,
}

/// `servers[].limits`. A change: *next call*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerLimits {
    /// How many calls may run at the same time, all callers together. Default: any number.
    pub concurrency: Option<usize>,
}
