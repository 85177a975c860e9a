//! What belongs to one server, whatever listens in front of it: its layers and the state that they share.
//!
//! A reload that leaves a server's section as it was keeps the whole of it. One that changes it makes it anew, but for
//! what belongs to the server's name and must outlive a generation: sessions, metrics and, where addresses, pool and
//! trust are the same, connections.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::auth::StaticCredential;
use crate::catalog::Catalog;
use crate::config::Environment;
use crate::config::model::{self, Pool, Server, StaticHeader, Tls, Value};
use crate::error::BoxError;
use crate::exchange::Recorder;
use crate::layer::balance::{Balance, EndpointState, Policy};
use crate::layer::complete::Complete;
use crate::layer::credential::{InjectCredential, InjectCredentialLayer};
use crate::layer::deadline::{Deadline, DeadlineLayer};
use crate::layer::headers::{FilterHeaders, FilterHeadersLayer, Params as HeaderParams};
use crate::layer::hold::{self, HoldLayer};
use crate::layer::learn::LearnLayer;
use crate::layer::metrics::{Families, ServerFamilies, TimeAttempts};
use crate::layer::policy::{self, Glob, RestrictToolsLayer};
use crate::layer::rejoin::{Rebuild, RejoinLayer, RejoinParams};
use crate::layer::retry::{self, Backoff, Budget, RetryLayer, ToolCalls, ToolHints};
use crate::layer::session::{Detached, SessionParams, Sessions, WeakDetached};
use crate::layer::timeouts::Timeouts;
use crate::session::SessionKeys;
use crate::sidecar::export::Exported;
use crate::sidecar::gauges::Counted;
use crate::sidecar::secrets::{Followed, Opened, Secrets};
use crate::sidecar::stack;
use crate::sidecar::trust::Trusted;
use crate::transport::connector::{
    Connector, ConnectorParams, ConnectorStats, Endpoint, PlaintextPolicy, TlsParams, WeakConnector,
};
use crate::transport::dialect::Dialect;

/// One server.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) config: Server,
    pub(super) families: Arc<ServerFamilies>,
    pub(super) recorder: Option<Arc<dyn Recorder>>,
    pub(super) hold: HoldLayer,
    pub(super) sessions: Sessions,
    pub(super) policy: RestrictToolsLayer,
    pub(super) rejoin: RejoinLayer,
    pub(super) learn: LearnLayer,
    pub(super) retry: RetryLayer,
    /// All endpoints, behind the layer that chooses one. Clones share connections, states and turns.
    pub(super) upstream: Balance<Attempt>,
    /// What of `retry`'s counts is in the metrics.
    pub(super) counted: Counted,
    pub(super) secrets: Vec<Opened>,
    catalog: Catalog,
    connectors: Vec<Connector>,
    /// Follows the CA file, for all generations that share the connections.
    pub(super) trusted: Option<Arc<Trusted>>,
    /// Follows the files of its secrets.
    _followed: Vec<Followed>,
}

/// What all servers share.
pub(super) struct Common {
    pub(super) families: Families,
    pub(super) environment: Box<dyn Environment>,
    pub(super) session_keys: SessionKeys,
    pub(super) session_lifetime: Duration,
    /// Whether nobody can open this process's session ids after it.
    pub(super) keys_end_with_process: bool,
    /// True once the process ends.
    pub(super) over: hold::Signal,
    pub(super) exported: Exported,
}

impl Common {
    fn session_params(&self, config: &Server) -> SessionParams {
        let mut params = SessionParams::new(config.name.as_str().into(), self.session_keys.clone());
        params.endpoints = config.endpoints.len();
        params.lifetime = self.session_lifetime;
        params
    }
}

/// The stack of one attempt, at one endpoint.
pub(super) type Attempt = Complete<
    TimeAttempts<Deadline<FilterHeaders<InjectCredential<Dialect<Connector>, StaticCredential>>>>,
>;

impl ServerState {
    /// Makes the layers of `config`, with what of `before` outlives a change.
    pub(super) fn build(
        config: &Server,
        common: &Common,
        before: Option<&Self>,
    ) -> Result<Self, BoxError> {
        let catalog = before.map_or_else(Catalog::default, |before| before.catalog.clone());
        let opened = before.map_or(&[][..], |before| &before.secrets);
        let mut secrets = Secrets::new(common.environment.as_ref(), opened);
        let headers = FilterHeadersLayer::new(header_params(config, &mut secrets)?);
        let credential =
            InjectCredentialLayer::new(secrets.credential(&config.name, &config.auth)?);
        let (connectors, trusted) = match before {
            Some(before) if before.shares_connections_with(config) => {
                (before.connectors.clone(), before.trusted.clone())
            }
            _ => connectors(config)?,
        };
        let families = before.map_or_else(
            || common.families.server(config.name.as_str().into()),
            |before| before.families.clone(),
        );
        let (secrets, followed) = secrets.into_parts();
        let attempts = connectors.iter().enumerate().map(|(place, connector)| {
            let endpoint = connector.endpoint();
            let origin = endpoint.origin().clone();
            let timed = families.time_attempts(place);
            let deadline = DeadlineLayer::new(timeouts(config)).at(origin.clone());
            let credential = credential.clone().at(origin);
            stack::attempt(
                connector,
                &timed.at(endpoint.host(), endpoint.port()),
                &deadline,
                &headers,
                &credential,
            )
        });
        Ok(Self {
            config: config.clone(),
            recorder: common.exported.recorder(),
            hold: HoldLayer::new(hold_params(config)).until(common.over.clone()),
            sessions: match before {
                // What changes in a session names endpoints by their place.
                Some(before) if before.config.endpoints == config.endpoints => {
                    before.sessions.clone()
                }
                _ => Sessions::new(common.session_params(config)),
            },
            policy: RestrictToolsLayer::new(policy_params(config)),
            rejoin: RejoinLayer::new(rejoin_params(config)),
            learn: LearnLayer::new(catalog.clone()),
            retry: RetryLayer::new(retry_params(config, &catalog)),
            counted: Counted::default(),
            catalog,
            upstream: Balance::new(attempts, choice(config.load_balancing.policy)),
            families,
            connectors,
            trusted,
            secrets,
            _followed: followed,
        })
    }

    fn shares_connections_with(&self, config: &Server) -> bool {
        let ours = &self.config;
        ours.endpoints == config.endpoints
            && ours.pool == config.pool
            && ours.tls == config.tls
            && ours.allow_plaintext == config.allow_plaintext
            && ours.timeouts.connect == config.timeouts.connect
    }

    /// Whether a call could go somewhere: an endpoint whose time aside has passed is tried by the next call.
    pub(super) fn is_available(&self) -> bool {
        self.upstream
            .states()
            .snapshot()
            .iter()
            .any(|endpoint| endpoint.aside.is_none_or(|left| left.is_zero()))
    }

    /// Whether something is being sent, or waits for an answer.
    pub(super) fn is_calling(&self) -> bool {
        self.calling() > 0
    }

    /// How many calls are being sent, or wait for an answer.
    pub(super) fn calling(&self) -> usize {
        let stats = self.connectors.iter().map(Connector::stats);
        stats.map(|stats| stats.in_use + stats.waiting).sum()
    }

    /// What of it is not in `now`, which a reload put in its place, and may have calls yet.
    pub(super) fn retire(&self, now: Option<&Self>) -> Retired {
        let keeps_sessions = now.is_some_and(|now| now.config.endpoints == self.config.endpoints);
        let keeps_connections = now.is_some_and(|now| self.shares_connections_with(&now.config));
        let connectors = if keeps_connections {
            [].as_slice()
        } else {
            &self.connectors
        };
        Retired {
            detached: (!keeps_sessions).then(|| self.sessions.detached().downgrade()),
            connectors: connectors.iter().map(Connector::downgrade).collect(),
        }
    }

    /// Its connections, by what they do.
    pub(super) fn connections(&self) -> [(&'static str, usize); 3] {
        let mut sums = [("idle", 0), ("in_use", 0), ("stream", 0)];
        for connector in &self.connectors {
            let stats = connector.stats();
            for ((_, sum), count) in sums
                .iter_mut()
                .zip([stats.idle, stats.in_use, stats.streams])
            {
                *sum += count;
            }
        }
        sums
    }

    /// How many calls wait for a connection.
    pub(super) fn pending(&self) -> usize {
        let stats = self.connectors.iter().map(Connector::stats);
        stats.map(|stats| stats.waiting).sum()
    }

    /// What `/status` shows of it.
    pub(super) fn status(&self) -> Json {
        let states = self.upstream.states().snapshot();
        let endpoints: Vec<_> = self
            .connectors
            .iter()
            .zip(states)
            .map(|(connector, state)| endpoint(connector, state))
            .collect();
        let sessions = self.sessions.stats();
        json!({
            "latencyMs": self.families.latency().map(milliseconds),
            "endpoints": endpoints,
            "sessions": { "active": sessions.active, "opened": sessions.opened, "detached": sessions.detached },
        })
    }
}

/// To the microsecond: more is noise.
fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// What a reload has replaced or removed, as long as calls that began before use it: a drain asks for them too.
pub(super) struct Retired {
    detached: Option<WeakDetached>,
    connectors: Vec<WeakConnector>,
}

impl Retired {
    /// Whether anything of it is used.
    pub(super) fn is_alive(&self) -> bool {
        self.detached().is_some() || self.connectors.iter().any(|it| it.stats().is_some())
    }

    pub(super) fn detached(&self) -> Option<Detached> {
        self.detached.as_ref()?.upgrade()
    }

    /// Whether something is being sent, or waits for an answer.
    pub(super) fn is_calling(&self) -> bool {
        let mut stats = self.connectors.iter().filter_map(WeakConnector::stats);
        stats.any(is_calling)
    }
}

fn is_calling(stats: ConnectorStats) -> bool {
    stats.in_use + stats.waiting > 0
}

fn endpoint(connector: &Connector, state: EndpointState) -> Json {
    let connections = connector.stats();
    json!({
        "origin": &**connector.endpoint().origin(),
        "state": if state.aside.is_some() { "aside" } else { "available" },
        "failuresInARow": state.failures,
        "asideForMs": state.aside.map(whole_milliseconds),
        "lastFailure": state.last_failure.map(|last| json!({
            "cause": last.cause.as_str(),
            "agoMs": whole_milliseconds(last.ago),
        })),
        "callsInFlight": state.in_flight,
        "connections": {
            "open": connections.open, "idle": connections.idle, "inUse": connections.in_use,
            "streams": connections.streams, "waiting": connections.waiting,
        },
    })
}

fn whole_milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn hold_params(config: &Server) -> hold::Params {
    hold::Params {
        hold: config.timeouts.hold.unwrap_or(Duration::MAX),
        ..hold::Params::default()
    }
}

fn policy_params(config: &Server) -> policy::Params {
    let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
    policy::Params {
        include: globs(&config.tools.include),
        exclude: globs(&config.tools.exclude),
        ..policy::Params::default()
    }
}

fn rejoin_params(config: &Server) -> RejoinParams {
    RejoinParams {
        rebuild: match config.rebuild {
            model::Rebuild::Auto => Rebuild::Auto,
            model::Rebuild::Never => Rebuild::Never,
        },
        time: config.timeouts.request,
        ..RejoinParams::default()
    }
}

fn choice(policy: model::Policy) -> Policy {
    match policy {
        model::Policy::RoundRobin => Policy::RoundRobin,
        model::Policy::Failover => Policy::Failover,
        model::Policy::LeastLoaded => Policy::LeastLoaded,
    }
}

/// What a server says of its tools, as `retry` asks for it.
struct Hints(Catalog);

impl ToolHints for Hints {
    fn is_repeatable(&self, tool: &str) -> bool {
        self.0
            .tool(tool)
            .is_some_and(|tool| tool.is_read_only || tool.is_idempotent)
    }
}

fn retry_params(config: &Server, catalog: &Catalog) -> retry::Params {
    let configured = &config.retry;
    let backoff = match configured.backoff.kind {
        model::BackoffKind::Exponential => {
            Backoff::exponential(configured.backoff.initial, configured.backoff.max)
        }
        model::BackoffKind::Fixed => Backoff::fixed(configured.backoff.initial),
    };
    retry::Params {
        max_attempts: configured.max_attempts,
        backoff: if configured.backoff.jitter {
            backoff
        } else {
            backoff.without_jitter()
        },
        budget: Budget::new(configured.budget.percent, configured.budget.min_per_second),
        timeouts: timeouts(config),
        tool_calls: match &configured.tool_calls {
            model::ToolCalls::Named(globs) => {
                ToolCalls::Named(globs.iter().map(|glob| glob.as_str().into()).collect())
            }
            model::ToolCalls::Annotated => ToolCalls::Annotated(Arc::new(Hints(catalog.clone()))),
            model::ToolCalls::Never => ToolCalls::Never,
        },
        ..retry::Params::default()
    }
}

type Connections = (Vec<Connector>, Option<Arc<Trusted>>);

/// The ways to the endpoints, which follow the CA file if there is one.
fn connectors(config: &Server) -> Result<Connections, BoxError> {
    let Some(file) = &config.tls.ca_file else {
        return Ok((dialers(config)?, None));
    };
    let (trusted, connectors) = Trusted::follow(file, &config.name, || dialers(config))?;
    Ok((connectors, Some(Arc::new(trusted))))
}

fn dialers(config: &Server) -> Result<Vec<Connector>, BoxError> {
    let policy = if config.allow_plaintext {
        PlaintextPolicy::Allow
    } else {
        PlaintextPolicy::LoopbackOnly
    };
    config
        .endpoints
        .iter()
        .map(|endpoint| {
            let endpoint = Endpoint::new(&endpoint.url.to_string(), policy)?;
            Ok(Connector::new(
                endpoint,
                connector_params(&config.pool, &config.tls, config.timeouts.connect),
            )?)
        })
        .collect()
}

fn connector_params(pool: &Pool, tls: &Tls, connect: Duration) -> ConnectorParams {
    let mut trust = TlsParams::default().with_insecure_skip_verify(tls.insecure_skip_verify);
    if let Some(file) = &tls.ca_file {
        trust = trust.with_ca_file(file);
    }
    ConnectorParams {
        max: pool.max,
        max_idle: pool.max_idle,
        streams: pool.streams,
        max_idle_time: pool.idle,
        max_age: pool.max_age.unwrap_or(Duration::MAX),
        connect,
        tls: trust,
        ..ConnectorParams::default()
    }
}

/// What the timeouts of a configuration are to the layers.
pub(super) fn timeouts(config: &Server) -> Timeouts {
    let configured = &config.timeouts;
    let timeouts = Timeouts::default()
        .request(configured.request)
        .stream_idle(configured.stream_idle)
        .total(configured.total);
    configured
        .methods
        .iter()
        .fold(timeouts, |timeouts, (method, span)| {
            timeouts.method(method, *span)
        })
}

fn header_params(config: &Server, secrets: &mut Secrets<'_>) -> Result<HeaderParams, BoxError> {
    let mut params = HeaderParams::default();
    for StaticHeader { name, value, .. } in &config.headers.set {
        params = match value {
            Value::Plain(value) => params.fixed(name.as_str(), value)?,
            Value::Secret(source) => {
                let at = format!("servers.{}.headers.{name}", config.name);
                params.secret(name.as_str(), secrets.open(at, source)?)?
            }
        };
    }
    for name in &config.headers.forward {
        params = params.forward(name.as_str())?;
    }
    for rename in &config.headers.rename {
        params = params.rename(rename.from.as_str(), rename.to.as_str())?;
    }
    Ok(params)
}
