//! What listeners, admin port and reload of a sidecar share: the process's own, and what the configuration of now was
//! made into.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use serde_json::json;

use crate::admin::{Availability, Status};
use crate::config::model::{Listener, RequireServers, Server};
use crate::config::{Config, Environment, Loaded};
use crate::error::BoxError;
use crate::layer::inspect::ByteBudget;
use crate::layer::log_bodies::BodyLog;
use crate::sidecar::export::Exported;
use crate::sidecar::front::Front;
use crate::sidecar::gauges::{Gauges, families};
use crate::sidecar::heartbeat::Heartbeat;
use crate::sidecar::memory::{Room, too_large};
use crate::sidecar::process::Process;
use crate::sidecar::restart::restart_only;
use crate::sidecar::router::{Route, Router, Routes};
use crate::sidecar::secrets::{Opened, session_keys};
use crate::sidecar::server::{Common, Retired, ServerState};
use crate::sidecar::stack;
use crate::transport::listener::Drain;

/// What listeners, admin port and reload share.
pub(super) struct Shared {
    registry: Registry,
    pub(super) common: Common,
    pub(super) room: Room,
    budget: ByteBudget,
    pub(super) drain: Drain,
    bodies: BodyLog,
    gauges: Gauges,
    process: Process,
    pub(super) heartbeat: Heartbeat,
    /// The key of session ids, if it is configured.
    session_secret: Vec<Opened>,
    /// What the process was started with: some of it stays whatever is reloaded.
    started: Config,
    generation: Mutex<Generation>,
}

impl Shared {
    /// What the process has, before anything of the configuration is in place.
    pub(super) fn new(
        loaded: &Loaded,
        environment: Box<dyn Environment>,
    ) -> Result<Self, BoxError> {
        let room = Room::here();
        let registry = Registry::new();
        let drain = Drain::default();
        let (session_keys, session_secret) =
            session_keys(loaded.config.sessions.key.as_ref(), environment.as_ref())?;
        Ok(Self {
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
            room,
            budget: ByteBudget::new(room.request_bytes),
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
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Generation> {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the stacks of `config` and swaps them in, all or none.
    pub(super) fn put_in_place(&self, config: &Config, digest: u64) -> Result<(), BoxError> {
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
        self.warn_of_room(config);
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

    fn warn_of_room(&self, config: &Config) {
        for listener in too_large(&config.listeners, self.room.request_bytes) {
            tracing::warn!(
                listener = listener.name,
                maxBodyBytes = listener.max_body_bytes,
                room = self.room.request_bytes,
                "maxBodyBytes is above what all bodies may take, a quarter of the container's memory limit and \
                 256 MiB at most: lower maxBodyBytes, or raise the limit"
            );
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

    pub(super) fn refuse(&self, why: &str, shown: String) {
        tracing::error!("the new configuration cannot be used; the one before stays\n{why}");
        self.gauges.refused();
        self.lock().refused = Some(shown);
    }

    /// The metrics. All that belongs to a configuration is read under its lock, and so is of one.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
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

    pub(super) fn status(&self) -> Status {
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

/// Each server by its name.
type Servers = BTreeMap<String, Arc<ServerState>>;

/// What the configuration of now was made into.
pub(super) struct Generation {
    pub(super) config: Config,
    digest: u64,
    pub(super) servers: Servers,
    pub(super) listeners: Vec<Arc<Router>>,
    fronts: Vec<Arc<Front>>,
    stacks: Vec<Stack>,
    /// What earlier ones had, as long as their calls last.
    pub(super) retired: Vec<Retired>,
    refused: Option<String>,
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

/// One stack, and the sections that it was made of.
pub(super) struct Stack {
    listener: Listener,
    server: Server,
    route: Arc<dyn Route>,
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
