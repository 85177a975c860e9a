//! `servers[]`.

use std::path::PathBuf;
use std::time::Duration;

use super::super::keys;
use super::super::model::{
    Affinity, Backoff, BackoffKind, Budget, Endpoint, LoadBalancing, Policy, Pool, Rebuild, Retry,
    Server, ServerLimits, Timeouts, Tls, ToolCalls, Tools, Transport,
};
use super::super::node::Value;
use super::super::problem::Code;
use super::auth::{auth, headers};
use super::net::{base_path, url};
use super::scalar::{boolean, choice, duration, filled, integer, name};
use super::{Field, Reader, Section, list};

/// More than any process has file descriptors for.
const MANY: u64 = 1_000_000;

/// One server.
pub(super) fn server(reader: &Reader, field: Field<'_>) -> Option<Server> {
    let section = Section::open(reader, field, &keys::SERVER)?;
    let mut server = Server::new("");
    let own = section.need("name", "name: github", name);
    server.name = own.clone().unwrap_or_default();
    let example = own.as_deref().unwrap_or("token");
    section.set_some("basePath", &mut server.base_path, base_path);
    let help = "endpoints: [{url: https://mcp.example.com/mcp}]";
    server.endpoints = section
        .need("endpoints", help, endpoints)
        .unwrap_or_default();
    section.set("auth", &mut server.auth, auth(example));
    section.set("headers", &mut server.headers, headers(example));
    section.set("timeouts", &mut server.timeouts, timeouts);
    section.set("pool", &mut server.pool, pool);
    section.set("tls", &mut server.tls, tls);
    section.set("allowPlaintext", &mut server.allow_plaintext, boolean);
    section.set("loadBalancing", &mut server.load_balancing, load_balancing);
    section.set("retry", &mut server.retry, retry);
    section.set("tools", &mut server.tools, tools);
    section.get("sessions", |reader, field| {
        let section = Section::open(reader, field, &keys::SERVER_SESSIONS)?;
        let words = &[("auto", Rebuild::Auto), ("never", Rebuild::Never)];
        section.set("rebuild", &mut server.rebuild, choice(words, &[]));
        Some(())
    });
    section.get("limits", |reader, field| {
        let section = Section::open(reader, field, &keys::SERVER_LIMITS)?;
        let ServerLimits { concurrency } = &mut server.limits;
        section.set_some("concurrency", concurrency, integer(1, MANY));
        Some(())
    });
    Some(server)
}

fn endpoints(reader: &Reader, field: Field<'_>) -> Option<Vec<Endpoint>> {
    if matches!(&field.node.value, Value::List(items) if items.is_empty()) {
        let message = "a server has at least one endpoint";
        let help = "endpoints: [{url: https://mcp.example.com/mcp}]";
        return reader.refuse(field.node.span, Code::MissingKey, message, help);
    }
    list(endpoint)(reader, field)
}

fn endpoint(reader: &Reader, field: Field<'_>) -> Option<Endpoint> {
    let section = Section::open(reader, field, &keys::ENDPOINT)?;
    let words = &[
        ("auto", Transport::Auto),
        ("streamableHttp", Transport::StreamableHttp),
        ("streamable-http", Transport::StreamableHttp),
        ("http", Transport::StreamableHttp),
    ];
    let later = &["sse", "http-sse", "websocket", "stdio", "tcp"];
    let transport = section.get("transport", choice(words, later));
    // `{command: …}` and `{address: …}` were refused by name; that they have no URL is no news.
    let other = section
        .entries
        .iter()
        .any(|entry| keys::ENDPOINT.later.contains(&&*entry.key));
    let uri = match section.field("url") {
        None if other => None,
        _ => section.need("url", "url: https://mcp.example.com/mcp", url),
    };
    let mut endpoint = Endpoint::new(uri?);
    endpoint.transport = transport.unwrap_or_default();
    Some(endpoint)
}

fn timeouts(reader: &Reader, field: Field<'_>) -> Option<Timeouts> {
    let section = Section::open(reader, field, &keys::TIMEOUTS)?;
    let mut timeouts = Timeouts::default();
    section.set("connect", &mut timeouts.connect, duration);
    section.set("request", &mut timeouts.request, duration);
    timeouts.stretch_tools_call();
    let named = section.get("methods", methods);
    timeouts.methods.extend(named.into_iter().flatten());
    off_or(&section, "streamIdle", &mut timeouts.stream_idle);
    off_or(&section, "total", &mut timeouts.total);
    off_or(&section, "hold", &mut timeouts.hold);
    Some(timeouts)
}

/// A duration, or the word `off`. YAML of old takes that for a boolean, so what such a tool has written anew says `false`.
fn off_or<'a>(section: &Section<'a>, key: &'a str, place: &mut Option<Duration>) {
    let off = |field: &Field<'_>| match &field.node.value {
        Value::Scalar { text, quoted } => text == "off" || (text == "false" && !quoted),
        _ => false,
    };
    if section.field(key).as_ref().is_some_and(off) {
        *place = None;
    } else {
        section.set_some(key, place, duration);
    }
}

/// `timeouts.methods`: any method, as servers may have their own.
fn methods(reader: &Reader, field: Field<'_>) -> Option<Vec<(String, Duration)>> {
    let Value::Map(entries) = &field.node.value else {
        return reader.wrong_type(field, "a map from methods to durations");
    };
    let read = entries.iter().map(|entry| {
        let time = duration(
            reader,
            Field {
                key: &entry.key,
                node: &entry.node,
            },
        )?;
        Some((entry.key.clone(), time))
    });
    Some(read.collect::<Vec<_>>().into_iter().flatten().collect())
}

fn pool(reader: &Reader, field: Field<'_>) -> Option<Pool> {
    let section = Section::open(reader, field, &keys::POOL)?;
    let mut pool = Pool::default();
    section.set("max", &mut pool.max, integer(1, MANY));
    // The default must not break a smaller `max`.
    pool.max_idle = pool.max_idle.min(pool.max);
    section.set("maxIdle", &mut pool.max_idle, integer(0, MANY));
    off_or(&section, "maxAge", &mut pool.max_age);
    section.set("idle", &mut pool.idle, duration);
    section.set("streams", &mut pool.streams, integer(1, MANY));
    Some(pool)
}

fn tls(reader: &Reader, field: Field<'_>) -> Option<Tls> {
    let section = Section::open(reader, field, &keys::TLS)?;
    let ca_file = section.get("caFile", filled).map(PathBuf::from);
    let mut tls = Tls {
        ca_file,
        ..Tls::default()
    };
    section.set("insecureSkipVerify", &mut tls.insecure_skip_verify, boolean);
    Some(tls)
}

fn load_balancing(reader: &Reader, field: Field<'_>) -> Option<LoadBalancing> {
    let section = Section::open(reader, field, &keys::LOAD_BALANCING)?;
    let mut balancing = LoadBalancing::default();
    let policies = &[
        ("roundRobin", Policy::RoundRobin),
        ("failover", Policy::Failover),
        ("leastLoaded", Policy::LeastLoaded),
        ("round-robin", Policy::RoundRobin),
    ];
    section.set(
        "policy",
        &mut balancing.policy,
        choice(policies, &["weighted"]),
    );
    let affinities = &[("session", Affinity::Session)];
    section.set(
        "affinity",
        &mut balancing.affinity,
        choice(affinities, &["cookie", "none"]),
    );
    Some(balancing)
}

fn retry(reader: &Reader, field: Field<'_>) -> Option<Retry> {
    let section = Section::open(reader, field, &keys::RETRY)?;
    let mut retry = Retry::default();
    section.set("maxAttempts", &mut retry.max_attempts, integer(1, 10));
    section.set("backoff", &mut retry.backoff, backoff);
    section.set("toolCalls", &mut retry.tool_calls, tool_calls);
    section.set("budget", &mut retry.budget, budget);
    Some(retry)
}

fn backoff(reader: &Reader, field: Field<'_>) -> Option<Backoff> {
    let section = Section::open(reader, field, &keys::BACKOFF)?;
    let mut backoff = Backoff::default();
    let kinds = &[
        ("exponential", BackoffKind::Exponential),
        ("fixed", BackoffKind::Fixed),
    ];
    section.set("kind", &mut backoff.kind, choice(kinds, &[]));
    section.set("initial", &mut backoff.initial, duration);
    backoff.max = backoff.max.max(backoff.initial);
    section.set("max", &mut backoff.max, duration);
    section.set(
        "jitter",
        &mut backoff.jitter,
        choice(&[("full", true), ("none", false)], &[]),
    );
    Some(backoff)
}

fn tool_calls(reader: &Reader, field: Field<'_>) -> Option<ToolCalls> {
    if let Value::List(_) = field.node.value {
        return list(filled)(reader, field).map(ToolCalls::Named);
    }
    let words = &[
        ("never", ToolCalls::Never),
        ("annotated", ToolCalls::Annotated),
    ];
    choice(words, &[])(reader, field)
}

fn budget(reader: &Reader, field: Field<'_>) -> Option<Budget> {
    let section = Section::open(reader, field, &keys::BUDGET)?;
    let mut budget = Budget::default();
    section.set("percent", &mut budget.percent, integer(0, 1000));
    section.set("minPerSecond", &mut budget.min_per_second, integer(0, MANY));
    Some(budget)
}

fn tools(reader: &Reader, field: Field<'_>) -> Option<Tools> {
    let section = Section::open(reader, field, &keys::TOOLS)?;
    let mut tools = Tools::default();
    section.set("include", &mut tools.include, list(filled));
    section.set("exclude", &mut tools.exclude, list(filled));
    Some(tools)
}
