//! What no single key can know: rules over the whole model.
//!
//! Each rule is a function; [`validate`] lists them. A finding's place is a path into the model
//! (`servers.0.auth`), which the source it came from turns into a line, a variable or an argument.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::model::{AuthKind, Config, RequireServers, Server, Value};
use super::problem::{Code, Draft};
use super::read::is_credential_header;

/// What a rule found, and where.
pub(crate) type Finding = Draft<String>;

/// Says in a word where a path of the model was written: `line 13`, or a variable.
pub(crate) trait Origin {
    fn origin(&self, path: &str) -> String;
}

/// Every rule, applied.
pub(crate) fn validate(config: &Config, origin: &dyn Origin) -> Vec<Finding> {
    let mut found = Vec::new();
    unique(config, &mut found);
    paths(config, &mut found);
    addresses(config, &mut found);
    open_proxy(config, &mut found);
    readiness(config, &mut found);
    for (number, server) in config.servers.iter().enumerate() {
        let at = format!("servers.{number}");
        endpoints(server, &at, &mut found);
        header_sources(server, &at, origin, &mut found);
        passthrough(config, server, &at, &mut found);
        sizes(server, &at, &mut found);
    }
    found
}

fn error(at: String, code: Code, message: impl Into<String>, help: impl Into<String>) -> Finding {
    Draft::error(at, code, message, help)
}

/// Names are told apart.
fn unique(config: &Config, found: &mut Vec<Finding>) {
    let (servers, listeners) = (&config.servers, &config.listeners);
    once(
        "server",
        "name",
        servers.iter().map(|it| Some(it.name.as_str())),
        found,
    );
    once(
        "listener",
        "name",
        listeners.iter().map(|it| Some(it.name.as_str())),
        found,
    );
}

/// A path leads to one server.
fn paths(config: &Config, found: &mut Vec<Finding>) {
    let is_only = config.servers.len() == 1;
    let mut owners = BTreeMap::new();
    for server in &config.servers {
        owners.insert(format!("/servers/{}/mcp", server.name), &server.name);
        if is_only || server.name == "default" {
            owners.insert("/mcp".to_owned(), &server.name);
        }
    }
    for (number, server) in config.servers.iter().enumerate() {
        let base = server.base_path.as_deref().unwrap_or_default();
        let base = base.trim_end_matches('/');
        if base.is_empty() {
            continue;
        }
        for path in [base.to_owned(), format!("{base}/mcp")] {
            let owner = *owners.entry(path.clone()).or_insert(&server.name);
            if *owner != server.name {
                let message = format!("\"{path}\" leads to the server \"{owner}\" already");
                let at = format!("servers.{number}.basePath");
                found.push(error(at, Code::DuplicateName, message, "use another path"));
                break;
            }
        }
    }
}

fn once<'a>(
    kind: &str,
    key: &str,
    all: impl Iterator<Item = Option<&'a str>>,
    found: &mut Vec<Finding>,
) {
    let mut seen = HashSet::new();
    for (number, name) in all.enumerate() {
        if let Some(name) = name.filter(|name| !name.is_empty() && !seen.insert(*name)) {
            let at = format!("{kind}s.{number}.{key}");
            let message = format!("another {kind} has the {key} \"{name}\"");
            found.push(error(at, Code::DuplicateName, message, ""));
        }
    }
}

/// Every listener can be bound, and what changes things stays within the pod.
fn addresses(config: &Config, found: &mut Vec<Finding>) {
    let metrics = &config.observability.metrics.listen;
    let control = &config.control.listen;
    let mut all: Vec<(String, &SocketAddr)> = config
        .listeners
        .iter()
        .enumerate()
        .map(|(number, listener)| (format!("listeners.{number}.listen"), &listener.listen))
        .collect();
    all.push(("observability.metrics.listen".to_owned(), metrics));
    all.push(("control.listen".to_owned(), control));
    for (number, (at, one)) in all.iter().enumerate() {
        if all
            .iter()
            .take(number)
            .any(|(_, other)| collide(one, other))
        {
            let message = format!("{one} is taken by another listener");
            found.push(error(
                at.clone(),
                Code::DuplicateName,
                message,
                "use another port",
            ));
        }
    }
    if !control.ip().is_loopback() {
        let message = "whoever reaches this address could change the sidecar";
        let at = "control.listen".to_owned();
        found.push(error(
            at,
            Code::OpenProxy,
            message,
            "listen: 127.0.0.1:9465",
        ));
    }
}

/// Port 0 is another port each time; an unspecified address is all of them.
fn collide(one: &SocketAddr, other: &SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// Nobody can use our credentials who was not let in.
fn open_proxy(config: &Config, found: &mut Vec<Finding>) {
    let Some(server) = config
        .servers
        .iter()
        .find(|server| server.has_own_credential())
    else {
        return;
    };
    for (number, listener) in config.listeners.iter().enumerate() {
        let at = format!("listeners.{number}.listen");
        let (listen, name) = (listener.listen, &server.name);
        if listen.ip().is_loopback() || !listener.inbound_auth.is_open() {
            continue;
        }
        if listener.allow_unauthenticated {
            let message =
                format!("everyone who reaches {listen} uses the credential of server \"{name}\"");
            let help = "let in whom you know: inboundAuth, or listen on 127.0.0.1";
            found.push(Draft::warning(at, Code::OpenProxy, message, help));
        } else {
            let message = format!(
                "everyone who reaches {listen} could use the credential of server \"{name}\""
            );
            let help = "listen on 127.0.0.1, or set inboundAuth, or say allowUnauthenticated: true";
            found.push(error(at, Code::OpenProxy, message, help));
        }
    }
}

/// Readiness waits for servers that there are.
fn readiness(config: &Config, found: &mut Vec<Finding>) {
    let RequireServers::Named(names) = &config.readiness.require_servers else {
        return;
    };
    for (number, name) in names.iter().enumerate() {
        if config.server(name).is_none() {
            let at = format!("readiness.requireServers.{number}");
            found.push(error(
                at,
                Code::Name,
                format!("no server is named \"{name}\""),
                "",
            ));
        }
    }
}

/// Endpoints are told apart, and nothing is sent in clear that nobody agreed to.
fn endpoints(server: &Server, at: &str, found: &mut Vec<Finding>) {
    let secret = server.auth.sets_header() || server.has_own_credential();
    let what = if secret {
        "the credential"
    } else {
        "all calls"
    };
    for (number, endpoint) in server.endpoints.iter().enumerate() {
        let at = format!("{at}.endpoints.{number}.url");
        let plain = endpoint.url.scheme_str() == Some("http");
        if plain && !server.allow_plaintext && !is_loopback(endpoint.url.host()) {
            let message = format!("http:// beyond loopback would send {what} in clear");
            let help = "use https://, or say allowPlaintext: true";
            found.push(error(at, Code::PlaintextUrl, message, help));
        } else if server
            .endpoints
            .iter()
            .take(number)
            .any(|it| it.url == endpoint.url)
        {
            let message = "another endpoint has this URL";
            found.push(error(at, Code::DuplicateName, message, "leave it out"));
        }
    }
    if server.tls.insecure_skip_verify {
        let message = "certificates are not checked: anyone on the way can read and change calls";
        let help = "for development only; trust your own authority with tls: {caFile: PATH}";
        let at = format!("{at}.tls.insecureSkipVerify");
        found.push(Draft::warning(at, Code::InsecureTls, message, help));
    }
}

pub(crate) fn is_loopback(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Each header that leaves has one source.
fn header_sources(server: &Server, at: &str, origin: &dyn Origin, found: &mut Vec<Finding>) {
    let mut sources: Vec<(HeaderName, String)> = Vec::new();
    let auth = &server.auth;
    if auth.sets_header() {
        let by = format!("auth ({})", origin.origin(&format!("{at}.auth")));
        sources.push((auth.header_name.clone(), by));
    }
    let mut add = |name: &HeaderName, by: &str, at: String| {
        let earlier = sources.iter().find(|(other, _)| other == name);
        if let Some((_, first)) = earlier {
            let message = format!("\"{name}\" is set by {first} and by {by}");
            found.push(error(at, Code::HeaderConflict, message, "keep one of them"));
            return false;
        }
        sources.push((name.clone(), by.to_owned()));
        true
    };
    let mut literals = Vec::new();
    for (number, header) in server.headers.set.iter().enumerate() {
        let at = format!("{at}.headers.static.{number}");
        let alone = add(&header.name, "headers.static", format!("{at}.name"));
        if alone && is_credential_header(&header.name) && matches!(header.value, Value::Plain(_)) {
            let message = format!(
                "\"{}\" carries a secret, which is written down",
                header.name
            );
            let help = "valueFrom: {file: PATH} instead of value";
            literals.push(error(
                format!("{at}.value"),
                Code::SecretLiteral,
                message,
                help,
            ));
        }
    }
    for (number, name) in server.headers.forward.iter().enumerate() {
        add(
            name,
            "headers.forward",
            format!("{at}.headers.forward.{number}"),
        );
    }
    for rename in &server.headers.rename {
        add(
            &rename.to,
            "headers.rename",
            format!("{at}.headers.rename.{}", rename.from),
        );
    }
    found.append(&mut literals);
}

/// A key that let the caller in is not handed to the upstream.
fn passthrough(config: &Config, server: &Server, at: &str, found: &mut Vec<Finding>) {
    let keys = || {
        config
            .listeners
            .iter()
            .flat_map(|it| &it.inbound_auth.api_keys)
    };
    if server.auth.kind == AuthKind::Passthrough && keys().any(|key| key.header == AUTHORIZATION) {
        let message = "the API keys of our own callers would be handed to the upstream";
        let help = "take them in another header: inboundAuth: {apiKeys: [{header: X-API-Key, …}]}";
        found.push(error(
            format!("{at}.auth"),
            Code::HeaderConflict,
            message,
            help,
        ));
    }
    for (number, name) in server.headers.forward.iter().enumerate() {
        if keys().any(|key| key.header == *name) {
            let at = format!("{at}.headers.forward.{number}");
            let message =
                format!("\"{name}\" lets callers in (inboundAuth), and would be handed on");
            found.push(error(at, Code::HeaderConflict, message, "leave it out"));
        }
    }
}

/// A part is not larger than its whole.
fn sizes(server: &Server, at: &str, found: &mut Vec<Finding>) {
    if server.pool.max_idle > server.pool.max {
        let message = "more connections may wait than there may be";
        let help = format!("maxIdle: {}", server.pool.max);
        found.push(error(
            format!("{at}.pool.maxIdle"),
            Code::Conflict,
            message,
            help,
        ));
    }
    let backoff = &server.retry.backoff;
    if backoff.initial > backoff.max {
        let message = "the first wait is longer than the longest";
        let at = format!("{at}.retry.backoff.max");
        found.push(error(
            at,
            Code::Conflict,
            message,
            "make max the longer one",
        ));
    }
}
