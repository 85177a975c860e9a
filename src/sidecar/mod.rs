//! The sidecar: the whole stack, assembled from configuration, behind listeners.
//!
//! Contract:
//!
//! 1. [`Sidecar::build`] is a function of the configuration: it reads secrets and certificates, and binds nothing.
//!    [`Sidecar::bind`] binds; [`Bound::run`] serves until the drain is over.
//! 2. A reload is whole or not at all: a configuration that cannot be used changes a counter, a log line and the status
//!    page. A server and a listener whose sections did not change keep their stack; calls that have begun keep theirs in
//!    any case; what belongs to a server's name (sessions, metrics, connections to the same place) outlives it.
//! 3. Listeners are bound once. A reload that moves, adds or drops one is refused until a restart, and says so. Other
//!    keys that only a restart takes (`restart.rs`) keep their value; the log and the status name them.
//! 4. Drain: readiness off, no new connections, idle ones closed, calls may end within `shutdown.grace`, those that
//!    outlived their callers too, and streams are ended at an event's boundary. What is left then is answered with an
//!    error, in its stream if it has begun one, and its upstream is told as for any cancel. At last the legacy sessions
//!    of this process are ended at their upstreams (DELETE), but only if nobody can use them any more: if `sessions.key`
//!    is configured, a restarted sidecar, or another replica, serves them. All that comes after the grace takes little
//!    more than 1 s.
//!
//! The stack itself is `stack.rs`.

mod bound;
#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
#[path = "no_export.rs"]
mod export;
mod front;
mod gauges;
mod heartbeat;
mod process;
mod restart;
pub mod router;
mod secrets;
mod server;
mod stack;
mod trust;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::admin::{Admin, Aliases, Availability, Control, Status};
use crate::config::model::{Listener, RequireServers, Server};
use crate::config::{Config, Environment, Loaded, ProcessEnvironment, Reload};
use crate::error::BoxError;
use crate::layer::inspect::ByteBudget;
use crate::layer::log_bodies::BodyLog;
use crate::sidecar::bound::BoundListener;
use crate::sidecar::export::Exported;
use crate::sidecar::front::Front;
use crate::sidecar::gauges::{Gauges, families};
use crate::sidecar::heartbeat::Heartbeat;
use crate::sidecar::process::Process;
use crate::sidecar::restart::restart_only;
use crate::sidecar::router::{Route, Router, Routes};
use crate::sidecar::secrets::{Opened, session_keys};
use crate::sidecar::server::{Common, Retired, ServerState};
use crate::transport::listener::Drain;

pub use crate::sidecar::bound::Bound;
pub use crate::sidecar::gauges::declared;

/// How many bytes all requests of the process may hold.
const REQUEST_BYTES: usize = 256 * 1024 * 1024;

/// A sidecar that is assembled and not yet bound.
#[derive(Debug)]
pub struct Sidecar {
    shared: Arc<Shared>,
}

/// What listeners, admin port and reload share.
struct Shared {
    registry: Registry,
    common: Common,
    budget: ByteBudget,
    drain: Drain,
    bodies: BodyLog,
    gauges: Gauges,
    process: Process,
    heartbeat: Heartbeat,
    /// The key of session ids, if it is configured.
    session_secret: Vec<Opened>,
    /// What the process was started with: some of it stays whatever is reloaded.
    started: Config,
    generation: Mutex<Generation>,
}

/// Each server by its name.
type Servers = BTreeMap<String, Arc<ServerState>>;

/// What the configuration of now was made into.
struct Generation {
    config: Config,
    digest: u64,
    servers: Servers,
    listeners: Vec<Arc<Router>>,
    fronts: Vec<Arc<Front>>,
    stacks: Vec<Stack>,
    /// What earlier ones had, as long as their calls last.
    retired: Vec<Retired>,
    refused: Option<String>,
}

/// One stack, and the sections that it was made of.
struct Stack {
    listener: Listener,
    server: Server,
    route: Arc<dyn Route>,
}

impl Sidecar {
    /// Assembles a sidecar.
    ///
    /// # Errors
    ///
    /// Fails if a certificate file or a variable that the configuration names cannot be read.
    pub fn build(loaded: &Loaded) -> Result<Self, BoxError> {
        Self::build_with(loaded, Box::new(ProcessEnvironment))
    }

    /// The same, with variables from elsewhere than the process.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_with(
        loaded: &Loaded,
        environment: Box<dyn Environment>,
    ) -> Result<Self, BoxError> {
        let registry = Registry::new();
        let drain = Drain::default();
        let (session_keys, session_secret) =
            session_keys(loaded.config.sessions.key.as_ref(), environment.as_ref())?;
        let shared = Shared {
            common: Common {
                families: families(&loaded.config, &registry)?,
                session_keys,
                session_lifetime: loaded.config.sessions.expiry,
                keys_end_with_process: loaded.config.sessions.key.is_none(),
                over: drain.subscribe_end(),
                exported: Exported::start(
                    &loaded.config.observability.tracing,
                    environment.as_ref(),
                )?,
                environment,
            },
            gauges: Gauges::register(&registry)?,
            process: Process::register(&registry)?,
            heartbeat: Heartbeat::default(),
            session_secret,
            registry,
            budget: ByteBudget::new(REQUEST_BYTES),
            drain,
            bodies: BodyLog::default(),
            started: loaded.config.clone(),
            generation: Mutex::new(Generation {
                config: loaded.config.clone(),
                digest: loaded.digest,
                servers: BTreeMap::new(),
                listeners: loaded
                    .config
                    .listeners
                    .iter()
                    .map(|_| Arc::default())
                    .collect(),
                fronts: Vec::new(),
                stacks: Vec::new(),
                retired: Vec::new(),
                refused: None,
            }),
        };
        shared.put_in_place(&loaded.config, loaded.digest)?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Binds every socket that the configuration names.
    ///
    /// # Errors
    ///
    /// Fails if an address cannot be had; the error names it.
    pub async fn bind(self, ports: AdminPorts) -> Result<Bound, BoxError> {
        let (config, routers) = {
            let generation = self.shared.lock();
            (generation.config.clone(), generation.listeners.clone())
        };
        let mut listeners = Vec::new();
        for (listener, router) in config.listeners.iter().zip(routers) {
            listeners.push(BoundListener {
                socket: bind(
                    &format!("listeners[{}].listen", listener.name),
                    listener.listen,
                )
                .await?,
                router,
                base_path: listener.base_path.clone(),
            });
        }
        let key = "observability.metrics.listen";
        let admin_socket = match ports {
            AdminPorts::OrAnyFree => bind_or_any(key, config.observability.metrics.listen).await?,
            _ => bind(key, config.observability.metrics.listen).await?,
        };
        let key = "control.listen";
        let control_socket = match ports {
            AdminPorts::AsConfigured => bind(key, config.control.listen).await?,
            _ => bind_or_any(key, config.control.listen).await?,
        };
        let aliases = if config.observability.metrics.legacy_names {
            Aliases::Legacy
        } else {
            Aliases::None
        };
        let (status, gather) = (self.shared.clone(), self.shared.clone());
        let admin = Admin::new(
            move || gather.gather(),
            self.shared.drain.clone(),
            aliases,
            move || status.status(),
        );
        let (commands, received) = mpsc::channel(16);
        Ok(Bound {
            shared: self.shared,
            listeners,
            admin,
            admin_socket,
            control: Control::new(commands),
            control_socket,
            commands: Some(received),
            grace: config.shutdown.grace,
        })
    }
}

/// What to do where the admin or control port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminPorts {
    /// Fail: somebody relies on them.
    AsConfigured,
    /// Take any free one: several sidecars run side by side on one machine.
    OrAnyFree,
    /// Fail where it is the admin port; take any free one for control.
    ControlOrAnyFree,
}

async fn bind_or_any(key: &str, address: SocketAddr) -> Result<TcpListener, BoxError> {
    match bind(key, address).await {
        Err(error) => {
            tracing::warn!("{error}; any free port is taken instead");
            bind(key, SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    }
}

/// Binds what that key of the configuration says.
async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, BoxError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("{key}: cannot listen on {address}: {error}").into())
}

/// Reloads and drains a running sidecar.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Goes over to another configuration, or notes why not. Returns whether it did.
    pub fn reload(&self, reload: &Reload) -> bool {
        let (why, shown) = match reload {
            Reload::Good(loaded) => match self.shared.put_in_place(&loaded.config, loaded.digest) {
                Ok(()) => {
                    tracing::info!(digest = format_args!("{:016x}", loaded.digest), "reloaded");
                    return true;
                }
                Err(error) => (error.to_string(), error.to_string()),
            },
            // The log shows lines of the file; the status page, which asks nobody who he is, does not.
            Reload::Bad(report) => (report.to_string(), report.outline()),
        };
        self.shared.refuse(&why, shown);
        false
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.shared.drain.begin();
    }

    /// What `/status` shows.
    #[must_use]
    pub fn status(&self) -> Json {
        self.shared.status().page
    }
}

impl Generation {
    fn replace_servers(&mut self, servers: Servers) {
        let before = std::mem::replace(&mut self.servers, servers);
        let mut retired = Vec::new();
        for (name, before) in before {
            let now = self.servers.get(&name);
            if now.is_none_or(|now| !Arc::ptr_eq(now, &before)) {
                retired.push(before.retire(now.map(AsRef::as_ref)));
            }
        }
        self.retired.append(&mut retired);
        self.retired.retain(Retired::is_alive);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Generation> {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the stacks of `config` and swaps them in, all or none.
    fn put_in_place(&self, config: &Config, digest: u64) -> Result<(), BoxError> {
        let mut generation = self.lock();
        let places = |config: &Config| {
            config
                .listeners
                .iter()
                .map(|listener| listener.listen)
                .collect::<Vec<_>>()
        };
        if places(config) != places(&generation.config) {
            return Err("listeners were moved, added or dropped: that takes a restart".into());
        }
        let servers = self.servers(config, &generation)?;
        let fronts = self.fronts(config, &generation)?;
        let mut stacks = Vec::new();
        let mut tables = Vec::new();
        for (listener, front) in config.listeners.iter().zip(&fronts) {
            let mut routes = Routes::default();
            for server in &config.servers {
                let Some(state) = servers.get(&server.name) else {
                    continue;
                };
                let kept = generation
                    .stacks
                    .iter()
                    .find(|stack| stack.listener == *listener && stack.server == *server);
                let route =
                    kept.map_or_else(|| stack::route(front, state), |stack| stack.route.clone());
                mount(
                    &mut routes,
                    listener,
                    server,
                    config.servers.len() == 1,
                    &route,
                );
                stacks.push(Stack {
                    listener: listener.clone(),
                    server: server.clone(),
                    route,
                });
            }
            tables.push(routes);
        }
        for (router, routes) in generation.listeners.iter().zip(tables) {
            router.swap(routes);
        }
        let logged = &config.observability.log;
        self.bodies
            .set(logged.request_bodies, logged.response_bodies);
        self.forget(&generation.servers, &servers);
        generation.config = config.clone();
        generation.digest = digest;
        generation.replace_servers(servers);
        generation.fronts = fronts;
        generation.stacks = stacks;
        generation.refused = None;
        self.warn_of_restart(config);
        self.gauges.reloaded(hash(digest).as_deref());
        Ok(())
    }

    /// Lets go of the series of `before` that `now` does not have.
    fn forget(&self, before: &Servers, now: &Servers) {
        for (name, state) in before {
            // The last that is heard of a layer that is made anew.
            self.gauges.read(state);
            if !now.contains_key(name) {
                self.gauges.forget_server(name);
            }
        }
        self.gauges.forget();
    }

    fn warn_of_restart(&self, config: &Config) {
        let waiting = restart_only(&self.started, config);
        if !waiting.is_empty() {
            tracing::warn!(keys = ?waiting, "keys of the configuration were changed that only a restart takes");
        }
    }

    /// The servers of `config`: kept where their section is as it was, made anew otherwise.
    fn servers(&self, config: &Config, generation: &Generation) -> Result<Servers, BoxError> {
        let mut servers = BTreeMap::new();
        for server in &config.servers {
            let before = generation.servers.get(&server.name);
            let state = match before {
                Some(before) if before.config == *server => before.clone(),
                _ => Arc::new(
                    ServerState::build(server, &self.common, before.map(AsRef::as_ref))
                        .map_err(|error| format!("servers[{}]: {error}", server.name))?,
                ),
            };
            servers.insert(server.name.clone(), state);
        }
        Ok(servers)
    }

    /// What stands in front of them, listener by listener, likewise.
    fn fronts(
        &self,
        config: &Config,
        generation: &Generation,
    ) -> Result<Vec<Arc<Front>>, BoxError> {
        let front = |listener: &Listener| {
            let kept = generation
                .fronts
                .iter()
                .find(|front| front.config == *listener);
            if let Some(front) = kept {
                return Ok(front.clone());
            }
            let before = generation
                .fronts
                .iter()
                .find(|front| front.config.name == listener.name);
            let environment = self.common.environment.as_ref();
            Front::build(
                listener,
                environment,
                &self.budget,
                &self.drain,
                &self.bodies,
                before.map_or(&[], |before| &before.secrets),
            )
            .map(Arc::new)
            .map_err(|error| format!("listeners[{}]: {error}", listener.name).into())
        };
        config.listeners.iter().map(front).collect()
    }

    fn refuse(&self, why: &str, shown: String) {
        tracing::error!("the new configuration cannot be used; the one before stays\n{why}");
        self.gauges.refused();
        self.lock().refused = Some(shown);
    }

    /// The metrics. All that belongs to a configuration is read under its lock, and so is of one.
    fn gather(&self) -> Vec<MetricFamily> {
        let generation = self.lock();
        let (servers, fronts) = (generation.servers.values(), &generation.fronts);
        for server in servers.clone() {
            self.gauges.read(server);
        }
        let secrets = servers.flat_map(|server| &server.secrets);
        let secrets = secrets.chain(fronts.iter().flat_map(|front| &front.secrets));
        self.gauges
            .read_secrets(secrets.chain(&self.session_secret));
        // Files are read without the lock that calls' own look at the configuration waits for.
        drop(generation);
        self.process.read(&self.heartbeat);
        self.registry.gather()
    }

    fn status(&self) -> Status {
        let generation = self.lock();
        let mut servers = serde_json::Map::new();
        for (name, state) in &generation.servers {
            servers.insert(name.clone(), state.status());
        }
        let missing = match &generation.config.readiness.require_servers {
            RequireServers::All => generation
                .servers
                .values()
                .any(|state| !state.is_available()),
            RequireServers::Named(names) => names.iter().any(|name| {
                generation
                    .servers
                    .get(name)
                    .is_none_or(|state| !state.is_available())
            }),
            _ => false,
        };
        let page = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "draining": self.drain.has_begun(),
            "configuration": {
                // What came from no file has none.
                "digest": hash(generation.digest),
                "refused": generation.refused,
                "needsRestart": restart_only(&self.started, &generation.config),
            },
            "servers": servers,
        });
        Status::new(
            page,
            if missing {
                Availability::Missing
            } else {
                Availability::Available
            },
        )
    }
}

/// A configuration's digest as text; what came from no file has none.
fn hash(digest: u64) -> Option<String> {
    (digest != 0).then(|| format!("{digest:016x}"))
}

/// Mounts a stack at each path of its server.
fn mount(
    routes: &mut Routes,
    listener: &Listener,
    server: &Server,
    is_only: bool,
    route: &Arc<dyn Route>,
) {
    let base = listener.base_path.trim_end_matches('/');
    routes.mount(&format!("{base}/servers/{}/mcp", server.name), route);
    if let Some(path) = &server.base_path {
        let path = path.trim_end_matches('/');
        routes.mount(&format!("{base}{path}"), route);
        routes.mount(&format!("{base}{path}/mcp"), route);
    }
    if is_only || server.name == "default" {
        routes.mount(&format!("{base}/mcp"), route);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
