//! What an operator reads and sets: health, metrics, status on one port; reload, drain, log level on loopback.
//!
//! | Path | On | Says |
//! | --- | --- | --- |
//! | `GET /startupz` | admin | 200 once listeners are bound and secrets were read, else 503 |
//! | `GET /livez`, `/healthz/child` | admin | 200 while the process runs |
//! | `GET /readyz`, `/health`, `/healthz` | admin | 200 while calls are taken; 503 before and while draining |
//! | `GET /metrics` | admin | Prometheus text |
//! | `GET /status` | admin | everything as JSON: servers, endpoints, connections, sessions, configuration |
//! | `POST /reload` | control | reads the configuration again |
//! | `POST /drain` | control | ends as SIGTERM does |
//! | `PUT /loglevel` | control | sets the level: the body is one of trace, debug, info, warn, error |
//!
//! The admin port changes nothing and shows no secret, so it may be open to probes and to Prometheus. What changes
//! anything is on the control port, which is bound to loopback alone.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::body::Body;
use crate::transport::listener::{Answer, Drain, RouteFuture};

/// What the admin port tells. Whoever assembles the sidecar keeps it true.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>,
    started: Arc<AtomicBool>,
    drain: Drain,
    aliases: Aliases,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
}

/// Whether `/metrics` shows some families under older names too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aliases {
    /// `mcp_remote_requests_total` and its two kin beside ours.
    Legacy,
    /// Only our own.
    None,
}

/// The status page, and whether the servers that must be there are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// What `/status` shows.
    pub page: Value,
    /// Whether the servers that readiness asks for are available.
    pub required_servers: Availability,
}

/// Whether the servers that readiness asks for are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Availability {
    /// All are, or none is asked for.
    Available,
    /// One is not.
    Missing,
}

impl Status {
    /// A status with this page.
    #[must_use]
    pub fn new(page: Value, required_servers: Availability) -> Self {
        Self {
            page,
            required_servers,
        }
    }
}

impl Admin {
    /// An admin port that shows what `metrics` and `status` say at the time it is asked.
    pub fn new(
        metrics: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static,
        drain: Drain,
        aliases: Aliases,
        status: impl Fn() -> Status + Send + Sync + 'static,
    ) -> Self {
        Self {
            metrics: Arc::new(metrics),
            started: Arc::default(),
            drain,
            aliases,
            status: Arc::new(status),
        }
    }

    /// Says that listeners are bound and secrets were read.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    fn get(&self, path: &str) -> Response<Body> {
        match path {
            "/livez" | "/healthz/child" => text(StatusCode::OK, "ok\n"),
            "/startupz" if self.started.load(Ordering::Relaxed) => {
                text(StatusCode::OK, "started\n")
            }
            "/startupz" => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            "/readyz" | "/health" | "/healthz" => self.ready(),
            "/metrics" => self.metrics(),
            "/status" => json(StatusCode::OK, &(self.status)().page),
            _ => text(
                StatusCode::NOT_FOUND,
                "paths: /startupz /livez /readyz /metrics /status\n",
            ),
        }
    }

    fn ready(&self) -> Response<Body> {
        let status = (self.status)();
        let why_not = if self.drain.has_begun() {
            Some("draining")
        } else if !self.started.load(Ordering::Relaxed) {
            Some("starting")
        } else if status.required_servers == Availability::Missing {
            Some("a required server is not available")
        } else {
            None
        };
        let servers = status.page.get("servers").cloned().unwrap_or_default();
        match why_not {
            None => json(
                StatusCode::OK,
                &serde_json::json!({ "ready": true, "servers": servers }),
            ),
            Some(why) => json(
                StatusCode::SERVICE_UNAVAILABLE,
                &serde_json::json!({ "ready": false, "why": why, "servers": servers }),
            ),
        }
    }

    fn metrics(&self) -> Response<Body> {
        let mut families = (self.metrics)();
        if self.aliases == Aliases::Legacy {
            let aliased: Vec<_> = families.iter().filter_map(alias).collect();
            families.extend(aliased);
        }
        let mut page = Vec::new();
        let encoder = TextEncoder::new();
        if let Err(error) = encoder.encode(&families, &mut page) {
            tracing::error!(%error, "the metrics could not be written");
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the metrics could not be written\n",
            );
        }
        let mut response = Response::new(Body::from(Bytes::from(page)));
        if let Ok(value) = HeaderValue::from_str(encoder.format_type()) {
            response.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        response
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// Our families that the bridge before us had, and its names for them.
pub(crate) const LEGACY_NAMES: [(&str, &str); 3] = [
    ("outrigger_requests_total", "mcp_remote_requests_total"),
    (
        "outrigger_request_duration_seconds",
        "mcp_remote_request_duration_seconds",
    ),
    ("outrigger_errors_total", "mcp_remote_errors_total"),
];

/// A family under the name that the bridge before us had for it.
fn alias(family: &MetricFamily) -> Option<MetricFamily> {
    let (_, name) = LEGACY_NAMES
        .iter()
        .find(|(ours, _)| *ours == family.name())?;
    let mut alias = family.clone();
    alias.set_name((*name).to_owned());
    Some(alias)
}

impl Answer for Admin {
    fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> RouteFuture {
        let response = match *request.method() {
            Method::GET | Method::HEAD => self.get(request.uri().path()),
            _ => read_only(),
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}

fn read_only() -> Response<Body> {
    text(
        StatusCode::METHOD_NOT_ALLOWED,
        "this port is read-only; what changes anything is on the control port\n",
    )
}

/// What the control port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Read the configuration again.
    Reload,
    /// End as SIGTERM does.
    Drain,
    /// Log at this level.
    LogLevel(String),
}

/// The control port: it hands commands on.
#[derive(Clone, Debug)]
pub struct Control {
    commands: mpsc::Sender<Command>,
}

impl Control {
    /// A control port that hands its commands to `commands`.
    #[must_use]
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }
}

/// The levels that `/loglevel` takes.
const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

impl Answer for Control {
    fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> RouteFuture {
        let commands = self.commands.clone();
        Box::pin(async move {
            // A page in a browser can reach loopback, but not without an Origin.
            if !peer.ip().is_loopback() || request.headers().contains_key(header::ORIGIN) {
                return Ok(text(
                    StatusCode::FORBIDDEN,
                    "only from this machine, and not from a browser\n",
                ));
            }
            let command = match (request.method(), request.uri().path()) {
                (&Method::POST, "/reload") => Command::Reload,
                (&Method::POST, "/drain") => Command::Drain,
                (&Method::PUT, "/loglevel") => {
                    match Limited::new(request.into_body(), 16).collect().await {
                        Ok(level) => {
                            let level = String::from_utf8_lossy(&level.to_bytes())
                                .trim()
                                .to_ascii_lowercase();
                            if !LEVELS.contains(&level.as_str()) {
                                return Ok(text(
                                    StatusCode::BAD_REQUEST,
                                    "levels: trace debug info warn error\n",
                                ));
                            }
                            Command::LogLevel(level)
                        }
                        Err(_) => {
                            return Ok(text(
                                StatusCode::BAD_REQUEST,
                                "levels: trace debug info warn error\n",
                            ));
                        }
                    }
                }
                _ => {
                    return Ok(text(
                        StatusCode::NOT_FOUND,
                        "POST /reload, POST /drain, PUT /loglevel\n",
                    ));
                }
            };
            Ok(match commands.try_send(command) {
                Ok(()) => text(StatusCode::ACCEPTED, "accepted\n"),
                Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "busy, or shutting down\n"),
            })
        })
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn json(status: StatusCode, page: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(format!("{page:#}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(required_servers: Availability, aliases: Aliases) -> Admin {
        let registry = prometheus::Registry::new();
        let counter = prometheus::IntCounter::new("outrigger_requests_total", "x").unwrap();
        counter.inc();
        registry.register(Box::new(counter)).unwrap();
        let page = serde_json::json!({ "servers": { "wiki": { "latencyMs": 45 } } });
        Admin::new(
            move || registry.gather(),
            Drain::default(),
            aliases,
            move || Status::new(page.clone(), required_servers),
        )
    }

    async fn page(response: Response<Body>) -> String {
        String::from_utf8(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        )
        .unwrap()
    }

    #[test]
    fn s0_15_health_follows_the_start_and_the_drain() {
        let admin = admin(Availability::Available, Aliases::None);
        for path in ["/startupz", "/readyz"] {
            assert_eq!(admin.get(path).status(), 503, "{path}");
        }
        admin.started();
        for path in [
            "/startupz",
            "/readyz",
            "/health",
            "/healthz",
            "/livez",
            "/healthz/child",
        ] {
            assert_eq!(admin.get(path).status(), 200, "{path}");
        }
        admin.drain.begin();
        assert_eq!(admin.get("/readyz").status(), 503);
        assert_eq!(admin.get("/livez").status(), 200);
    }

    #[test]
    fn readiness_can_ask_for_servers() {
        let admin = admin(Availability::Missing, Aliases::None);
        admin.started();
        assert_eq!(admin.get("/readyz").status(), 503);
    }

    #[tokio::test]
    async fn s0_29_older_names_stand_beside_ours_if_asked() {
        let ours = page(admin(Availability::Available, Aliases::None).get("/metrics")).await;
        assert!(
            ours.contains("outrigger_requests_total 1")
                && !ours.contains("mcp_remote_requests_total")
        );
        let both = page(admin(Availability::Available, Aliases::Legacy).get("/metrics")).await;
        assert!(
            both.contains("outrigger_requests_total 1")
                && both.contains("mcp_remote_requests_total 1")
        );
    }

    #[tokio::test]
    async fn s1_18_the_status_is_json() {
        let admin = admin(Availability::Available, Aliases::None);
        let status: Value = serde_json::from_str(&page(admin.get("/status")).await).unwrap();
        assert_eq!(status["servers"]["wiki"]["latencyMs"], 45);
    }
}
