//! The sidecar: the whole stack, assembled from configuration, behind listeners.
//!
//! Contract:
//!
//! 1. [`Sidecar::build`] reads what the configuration names (secrets, certificates, variables) and how much memory there
//!    is, starts the tasks that follow files and export telemetry, which end with the sidecar, and binds nothing.
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
mod memory;
mod process;
mod restart;
pub mod router;
mod secrets;
mod server;
mod shared;
mod stack;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::admin::{Admin, Aliases, Control};
use crate::config::{Environment, Loaded, ProcessEnvironment, Reload};
use crate::error::BoxError;
use crate::sidecar::bound::BoundListener;
use crate::sidecar::shared::Shared;

pub use crate::sidecar::bound::Bound;
pub use crate::sidecar::gauges::declared;

/// A sidecar that is assembled and not yet bound.
#[derive(Debug)]
pub struct Sidecar {
    shared: Arc<Shared>,
}

impl Sidecar {
    /// Assembles a sidecar.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime: files are followed, and telemetry is exported, by tasks of it.
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
        let shared = Shared::new(loaded, environment)?;
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
