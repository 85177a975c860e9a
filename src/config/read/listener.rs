//! `listeners[]`.

use super::super::keys;
use super::super::model::{ApiKey, InboundAuth, Listener, ListenerLimits};
use super::header::header_name;
use super::net::{address, base_path, host, network, origin};
use super::scalar::{boolean, choice, integer, name, rate};
use super::secret::value_from;
use super::{Field, Reader, Section, list};

/// The largest body that can be allowed: bodies are held in memory.
const MAX_BODY: u64 = 1024 * 1024 * 1024;

/// One listener.
pub(super) fn listener(reader: &Reader, field: Field<'_>) -> Option<Listener> {
    let section = Section::open(reader, field, &keys::LISTENER)?;
    let mut listener = Listener::default();
    let later = &["stdio", "websocket", "tcp", "sse", "tunnelGateway"];
    section.get("type", choice(&[("http", ())], later));
    section.set("name", &mut listener.name, name);
    let listen = section.need("listen", "listen: 127.0.0.1:8000", address);
    listener.listen = listen.unwrap_or(listener.listen);
    section.set("basePath", &mut listener.base_path, base_path);
    section.set(
        "maxBodyBytes",
        &mut listener.max_body_bytes,
        integer(1, MAX_BODY),
    );
    section.get("rateLimit", |reader, field| {
        let section = Section::open(reader, field, &keys::RATE_LIMIT)?;
        section.set_some("perCaller", &mut listener.rate_limit, rate);
        Some(())
    });
    section.set("limits", &mut listener.limits, limits);
    section.set("allowFrom", &mut listener.allow_from, list(network));
    section.set(
        "allowedOrigins",
        &mut listener.allowed_origins,
        list(origin),
    );
    section.set("allowedHosts", &mut listener.allowed_hosts, list(host));
    section.set("inboundAuth", &mut listener.inbound_auth, inbound_auth);
    section.set(
        "allowUnauthenticated",
        &mut listener.allow_unauthenticated,
        boolean,
    );
    Some(listener)
}

fn limits(reader: &Reader, field: Field<'_>) -> Option<ListenerLimits> {
    let section = Section::open(reader, field, &keys::LISTENER_LIMITS)?;
    let mut limits = ListenerLimits::default();
    section.set_some(
        "concurrency",
        &mut limits.concurrency,
        integer(1, 1_000_000),
    );
    Some(limits)
}

fn inbound_auth(reader: &Reader, field: Field<'_>) -> Option<InboundAuth> {
    let section = Section::open(reader, field, &keys::INBOUND_AUTH)?;
    let mut auth = InboundAuth::default();
    section.set("apiKeys", &mut auth.api_keys, list(api_key));
    for (number, key) in (1..).zip(&mut auth.api_keys) {
        if key.name.is_empty() {
            key.name = format!("key-{number}");
        }
    }
    Some(auth)
}

fn api_key(reader: &Reader, field: Field<'_>) -> Option<ApiKey> {
    let section = Section::open(reader, field, &keys::API_KEY)?;
    let own = section.get("name", name);
    let mut header = http::HeaderName::from_static("x-api-key");
    section.set("header", &mut header, header_name);
    let help = "valueFrom: {file: /run/secrets/agent-key}";
    let value = section.need("valueFrom", help, value_from("agent-key"));
    Some(ApiKey::new(own.unwrap_or_default(), header, value?))
}
