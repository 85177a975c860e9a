//! The sidecar: the whole stack, assembled from configuration, behind listeners.
//!
//! Contract:
//!
//! 1. [`Sidecar::build`] is a function of the configuration: it reads secrets and certificates, and binds nothing.
//!    [`Sidecar::bind`] binds; [`Bound::run`] serves until the drain is over.
//! 2. A reload is whole or not at all: a configuration that cannot be used changes a counter, a log line and the status
//!    page. A server and a listener whose sections did not change keep their stack; calls that have begun keep theirs in
//!    any case; what belongs to a server's name (sessions, metrics, connections to the same place) outlives it.
//! 3. Listeners are bound once. A reload that moves, adds or drops one is refused until a restart, and says so.
//! 4. Drain: readiness off, no new connections, idle ones closed, calls may end within `shutdown.grace`, streams are
//!    ended at an event's boundary.
//!
//! The stack itself is `stack.rs`.

mod front;
pub mod router;
mod secrets;
mod server;
mod stack;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::admin::{Admin, Aliases, Availability, Command, Control, Status};
use crate::config::model::{Listener, RequireServers, Server};
use crate::config::{Config, Environment, Loaded, ProcessEnvironment, Reload};
use crate::error::BoxError;
use crate::layer::inspect::ByteBudget;
use crate::layer::metrics::Families;
use crate::sidecar::front::Front;
use crate::sidecar::router::{Route, Router, Routes};
use crate::sidecar::server::ServerState;
use crate::transport::listener::{Drain, Limits, serve};

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
    families: Families,
    budget: ByteBudget,
    drain: Drain,
    reloads: Reloads,
    environment: Box<dyn Environment>,
    generation: Mutex<Generation>,
}

/// What the configuration of now was made into.
struct Generation {
    config: Config,
    digest: u64,
    servers: BTreeMap<String, Arc<ServerState>>,
    listeners: Vec<Arc<Router>>,
    stacks: Vec<Stack>,
    refused: Option<String>,
}

/// One stack, and the sections that it was made of.
struct Stack {
    listener: Listener,
    server: Server,
    route: Arc<dyn Route>,
}

/// How reloads went, as metrics.
#[derive(Clone)]
struct Reloads {
    last_successful: IntGauge,
    success_timestamp: IntGauge,
    failed: IntCounter,
    connections: IntGaugeVec,
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
        let shared = Shared {
            families: Families::register(&registry)?,
            reloads: Reloads::register(&registry)?,
            registry,
            budget: ByteBudget::new(REQUEST_BYTES),
            drain: Drain::default(),
            environment,
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
                stacks: Vec::new(),
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
                socket: bind(listener.listen).await?,
                router,
                base_path: listener.base_path.clone(),
            });
        }
        let admin_socket = ports.bind(config.observability.metrics.listen).await?;
        let control_socket = ports.bind(config.control.listen).await?;
        let aliases = if config.observability.metrics.legacy_names {
            Aliases::Legacy
        } else {
            Aliases::None
        };
        let status = {
            let shared = self.shared.clone();
            move || shared.status()
        };
        let admin = Admin::new(
            self.shared.registry.clone(),
            self.shared.drain.clone(),
            aliases,
            status,
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
}

impl AdminPorts {
    async fn bind(self, address: SocketAddr) -> Result<TcpListener, BoxError> {
        match (bind(address).await, self) {
            (Err(_), Self::OrAnyFree) => bind(SocketAddr::new(address.ip(), 0)).await,
            (bound, _) => bound,
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BoxError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}").into())
}

#[derive(Debug)]
struct BoundListener {
    socket: TcpListener,
    router: Arc<Router>,
    base_path: String,
}

/// A sidecar whose sockets are bound.
#[derive(Debug)]
pub struct Bound {
    shared: Arc<Shared>,
    listeners: Vec<BoundListener>,
    admin: Admin,
    admin_socket: TcpListener,
    control: Control,
    control_socket: TcpListener,
    commands: Option<mpsc::Receiver<Command>>,
    grace: Duration,
}

impl Bound {
    /// The URLs of the servers: `/mcp` where there is one, else one for each.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for listener in &self.listeners {
            let Ok(address) = listener.socket.local_addr() else {
                continue;
            };
            let routes = listener.router.routes();
            let paths = routes.paths();
            let short = format!("{}/mcp", listener.base_path.trim_end_matches('/'));
            if paths.contains(&short.as_str()) {
                urls.push(format!("http://{address}{short}"));
            } else {
                let long = paths.iter().filter(|path| path.contains("/servers/"));
                urls.extend(long.map(|path| format!("http://{address}{path}")));
            }
        }
        urls
    }

    /// Where listeners listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.socket.local_addr().ok())
            .collect()
    }

    /// Where metrics, health and status are.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_socket.local_addr().ok()
    }

    /// Where the control port is.
    #[must_use]
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_socket.local_addr().ok()
    }

    /// What reloads and drains it while it runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// What the control port asks for. Can be taken once; whoever takes it must obey.
    pub fn take_commands(&mut self) -> Option<mpsc::Receiver<Command>> {
        self.commands.take()
    }

    /// Serves until a drain is over.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops accepting; open connections are cut when the runtime ends.
    pub async fn run(self) {
        self.admin.started();
        let drain = self.shared.drain.clone();
        let mut serving = tokio::task::JoinSet::new();
        for listener in self.listeners {
            serving.spawn(serve(
                listener.socket,
                listener.router,
                Limits::default(),
                drain.clone(),
                self.grace,
            ));
        }
        // The admin port answers until the last call has ended: probes must see the drain.
        let open = Drain::default();
        let admin = serve(
            self.admin_socket,
            Arc::new(self.admin),
            Limits::default(),
            open.clone(),
            Duration::ZERO,
        );
        let control = serve(
            self.control_socket,
            Arc::new(self.control),
            Limits::default(),
            open,
            Duration::ZERO,
        );
        tokio::select! {
            () = async { while serving.join_next().await.is_some() {} } => {}
            ((), ()) = async { tokio::join!(admin, control) } => {}
        }
    }
}

/// Reloads and drains a running sidecar.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Goes over to another configuration, or notes why not.
    pub fn reload(&self, reload: &Reload) {
        match reload {
            Reload::Good(loaded) => match self.shared.put_in_place(&loaded.config, loaded.digest) {
                Ok(()) => {
                    tracing::info!(digest = format_args!("{:016x}", loaded.digest), "reloaded")
                }
                Err(error) => self.shared.refuse(&error.to_string()),
            },
            Reload::Bad(report) => self.shared.refuse(&report.to_string()),
        }
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
        let mut servers = BTreeMap::new();
        for server in &config.servers {
            let before = generation.servers.get(&server.name);
            let state = match before {
                Some(before) if before.config == *server => before.clone(),
                _ => Arc::new(ServerState::build(
                    server,
                    &self.families,
                    self.environment.as_ref(),
                    before.map(AsRef::as_ref),
                )?),
            };
            servers.insert(server.name.clone(), state);
        }
        let mut stacks = Vec::new();
        let mut tables = Vec::new();
        for listener in &config.listeners {
            let front = Front::build(listener, &self.budget);
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
                    kept.map_or_else(|| stack::route(&front, state), |stack| stack.route.clone());
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
        generation.config = config.clone();
        generation.digest = digest;
        generation.servers = servers;
        generation.stacks = stacks;
        generation.refused = None;
        self.reloads.succeeded();
        Ok(())
    }

    fn refuse(&self, why: &str) {
        tracing::error!("the new configuration cannot be used; the one before stays\n{why}");
        self.reloads.failed();
        self.lock().refused = Some(why.to_owned());
    }

    fn status(&self) -> Status {
        let generation = self.lock();
        let mut servers = serde_json::Map::new();
        for (name, state) in &generation.servers {
            self.reloads.connections_of(name, state);
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
                "digest": format!("{:016x}", generation.digest),
                "refused": generation.refused,
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

impl Reloads {
    fn register(registry: &Registry) -> Result<Self, BoxError> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, BoxError> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let failed = IntCounter::new(
            "outrigger_config_reload_failures_total",
            "Reloads that were refused.",
        )?;
        registry.register(Box::new(failed.clone()))?;
        let connections = IntGaugeVec::new(
            Opts::new(
                "outrigger_connections",
                "Connections to upstreams, by what they do.",
            ),
            &["server", "state"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        let build = IntGaugeVec::new(Opts::new("outrigger_build_info", "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        Ok(Self {
            last_successful: gauge(
                "outrigger_config_last_reload_successful",
                "Whether the configuration in use is the newest that was read.",
            )?,
            success_timestamp: gauge(
                "outrigger_config_last_reload_success_timestamp_seconds",
                "When the configuration in use was put in place.",
            )?,
            failed,
            connections,
        })
    }

    fn succeeded(&self) {
        self.last_successful.set(1);
        let now = crate::clock::Clock::system().unix_seconds();
        self.success_timestamp
            .set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    fn failed(&self) {
        self.last_successful.set(0);
        self.failed.inc();
    }

    /// Sets the gauges of a server's connections to what they are now.
    fn connections_of(&self, name: &str, state: &ServerState) {
        for (word, count) in state.connections() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.connections.with_label_values(&[name, word]).set(count);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
