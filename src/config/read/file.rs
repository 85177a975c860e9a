//! The file as a whole.

use super::super::keys;
use super::super::model::{
    Config, Listener, Log, LogFormat, LogLevel, Metrics, Observability, Readiness, RequireServers,
    Sessions, Shutdown, Tracing,
};
use super::super::node::{Node, Value};
use super::super::problem::Code;
use super::listener::listener;
use super::net::{address, url};
use super::scalar::{boolean, choice, duration, filled, name, text};
use super::secret::secret;
use super::server::server;
use super::{Field, Reader, Section, list};

/// Reads the whole tree; what it hands out counts only if the reader holds no problem.
pub(crate) fn file(reader: &Reader, root: &Node) -> Config {
    let mut config = Config::new(vec![Listener::default()], Vec::new());
    let field = Field {
        key: "the file",
        node: root,
    };
    let Some(section) = Section::open(reader, field, &keys::FILE) else {
        return config;
    };
    section.get("apiVersion", choice(&[("outrigger.dev/v1alpha1", ())], &[]));
    section.get("kind", choice(&[("SidecarConfig", ())], &[]));
    section.set("listeners", &mut config.listeners, list(listener));
    let help = "servers: [{name: github, endpoints: [{url: https://mcp.example.com/mcp}]}]";
    let servers = section.need("servers", help, list(server));
    if servers.as_ref().is_some_and(Vec::is_empty) {
        let message = "there is no server";
        reader.refuse::<()>(section.span_of("servers"), Code::MissingKey, message, help);
    }
    config.servers = servers.unwrap_or_default();
    section.set("sessions", &mut config.sessions, sessions);
    section.set("shutdown", &mut config.shutdown, shutdown);
    section.set("readiness", &mut config.readiness, readiness);
    section.set("observability", &mut config.observability, observability);
    section.get("control", |reader, field| {
        let section = Section::open(reader, field, &keys::CONTROL)?;
        section.set("listen", &mut config.control.listen, address);
        Some(())
    });
    config
}

fn sessions(reader: &Reader, field: Field<'_>) -> Option<Sessions> {
    let section = Section::open(reader, field, &keys::SESSIONS)?;
    let mut sessions = Sessions::default();
    section.set_some("key", &mut sessions.key, secret("session-key"));
    section.set("expiry", &mut sessions.expiry, duration);
    Some(sessions)
}

fn shutdown(reader: &Reader, field: Field<'_>) -> Option<Shutdown> {
    let section = Section::open(reader, field, &keys::SHUTDOWN)?;
    let mut shutdown = Shutdown::default();
    section.set("grace", &mut shutdown.grace, duration);
    Some(shutdown)
}

fn readiness(reader: &Reader, field: Field<'_>) -> Option<Readiness> {
    let section = Section::open(reader, field, &keys::READINESS)?;
    let mut readiness = Readiness::default();
    section.set(
        "requireServers",
        &mut readiness.require_servers,
        |reader, field| {
            if let Value::List(_) = field.node.value {
                return list(name)(reader, field).map(RequireServers::Named);
            }
            boolean(reader, field).map(|all| {
                if all {
                    RequireServers::All
                } else {
                    RequireServers::None
                }
            })
        },
    );
    Some(readiness)
}

fn observability(reader: &Reader, field: Field<'_>) -> Option<Observability> {
    let section = Section::open(reader, field, &keys::OBSERVABILITY)?;
    let mut observability = Observability::default();
    section.set("log", &mut observability.log, log);
    section.set("metrics", &mut observability.metrics, metrics);
    section.set("tracing", &mut observability.tracing, tracing);
    Some(observability)
}

fn log(reader: &Reader, field: Field<'_>) -> Option<Log> {
    let section = Section::open(reader, field, &keys::LOG)?;
    let mut log = Log::default();
    section.set("level", &mut log.level, level);
    let formats = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    section.set("format", &mut log.format, choice(formats, &[]));
    section.get("bodies", |reader, field| {
        let section = Section::open(reader, field, &keys::LOG_BODIES)?;
        section.set("requests", &mut log.request_bodies, boolean);
        section.set("responses", &mut log.response_bodies, boolean);
        Some(())
    });
    Some(log)
}

fn level(reader: &Reader, field: Field<'_>) -> Option<LogLevel> {
    let word = text(reader, field)?;
    LogLevel::parse(&word).or_else(|| {
        reader.mask(field.node);
        let help = "one of trace, debug, info, warn, error";
        reader.refuse(field.node.span, Code::Choice, "no such level", help)
    })
}

fn metrics(reader: &Reader, field: Field<'_>) -> Option<Metrics> {
    let section = Section::open(reader, field, &keys::METRICS)?;
    let mut metrics = Metrics::default();
    section.set("listen", &mut metrics.listen, address);
    section.set("legacyNames", &mut metrics.legacy_names, boolean);
    section.set("semconv", &mut metrics.semconv, boolean);
    Some(metrics)
}

fn tracing(reader: &Reader, field: Field<'_>) -> Option<Tracing> {
    let section = Section::open(reader, field, &keys::TRACING)?;
    let mut tracing = Tracing::default();
    section.set_some("otlpEndpoint", &mut tracing.otlp_endpoint, url);
    section.set_some("serviceName", &mut tracing.service_name, filled);
    Some(tracing)
}
