//! Metrics of what is only known when somebody asks: reloads, secrets, connections, sessions, second tries.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::BoxError;
use crate::layer::metrics::{self, Declared, Families, Semconv, ServerFamilies};
use crate::sidecar::process;
use crate::sidecar::secrets::Opened;
use crate::sidecar::server::ServerState;

/// What these are, in the order of the reference.
pub(super) const DECLARED: &[Declared] = &[
    RETRIES,
    EXHAUSTED,
    PENDING,
    CONNECTIONS,
    SESSIONS,
    HEALTHY,
    SECRET_LOADED,
    LAST_SUCCESSFUL,
    SUCCESS_TIMESTAMP,
    FAILED,
    CONFIG_INFO,
    BUILD_INFO,
];

const RETRIES: Declared = Declared::counter(
    "outrigger_retries_total",
    &["server", "reason"],
    "Calls that were sent again, by what had become of the try before.",
    "An endpoint fails, and callers do not notice yet.",
);
const EXHAUSTED: Declared = Declared::counter(
    "outrigger_retry_budget_exhausted_total",
    &["server"],
    "Calls that were not sent again because too many were.",
    "An outage: callers see what `retry.budget` no longer hides.",
);
const PENDING: Declared = Declared::gauge(
    "outrigger_pending_requests",
    &["server"],
    "Calls that wait for a connection to an upstream.",
    "Above 0 for long: `pool.max` is too small, or the upstream too slow.",
);
const CONNECTIONS: Declared = Declared::gauge(
    "outrigger_connections",
    &["server", "state"],
    "Connections to upstreams: `idle`, `in_use` by calls, or each held by a `stream`.",
    "Against `pool.max` and `pool.streams`.",
);
const SESSIONS: Declared = Declared::gauge(
    "outrigger_sessions",
    &["server", "era"],
    "Sessions that are open.",
    "How many clients there are that open sessions; modern ones do not.",
);
const HEALTHY: Declared = Declared::gauge(
    "outrigger_endpoint_healthy",
    &["server", "endpoint"],
    "0 from a connection to an endpoint that could not be made to one that could. Endpoints count from 0, as written.",
    "Calls fail as unavailable.",
);
const SECRET_LOADED: Declared = Declared::gauge(
    "outrigger_secret_loaded_timestamp_seconds",
    &["source"],
    "When the value of a secret or CA file that is in use was read first, by where the configuration names it; 0 while there is none.",
    "A secret was rotated: the time moves when the new one is in use.",
);
const LAST_SUCCESSFUL: Declared = Declared::gauge(
    "outrigger_config_last_reload_successful",
    &[],
    "Whether the configuration in use is the newest that was read.",
    "0: the file has a mistake, which the log shows and `/status` names.",
);
const SUCCESS_TIMESTAMP: Declared = Declared::gauge(
    "outrigger_config_last_reload_success_timestamp_seconds",
    &[],
    "When the configuration in use was put in place.",
    "Whether a change has arrived.",
);
const FAILED: Declared = Declared::counter(
    "outrigger_config_reload_failures_total",
    &[],
    "Reloads that were refused.",
    "How often that was tried.",
);
const CONFIG_INFO: Declared = Declared::gauge(
    "outrigger_config_info",
    &["hash"],
    "Always 1; the digest of the configuration in use, or `none` if it came from no file.",
    "Whether all pods use the same.",
);
const BUILD_INFO: Declared = Declared::gauge(
    "outrigger_build_info",
    &["version", "revision"],
    "Always 1; what was built, and of which commit if the build said so.",
    "After an upgrade: which pods were not restarted.",
);

/// Gauges that the sidecar keeps itself.
#[derive(Clone, Debug)]
pub(super) struct Gauges {
    last_successful: IntGauge,
    success_timestamp: IntGauge,
    failed: IntCounter,
    config: IntGaugeVec,
    secrets: IntGaugeVec,
    connections: IntGaugeVec,
    pending: IntGaugeVec,
    sessions: IntGaugeVec,
    retries: IntCounterVec,
    exhausted: IntCounterVec,
    healthy: IntGaugeVec,
}

/// Of a family without labels there is one.
const ALONE: &[&str] = &[];

/// Why calls were sent again.
const REASONS: [&str; 4] = ["unsent", "sent", "answered", "rate_limited"];

/// What of a server's second tries is counted already. Its layer counts from nothing each time it is made; a counter
/// never falls.
#[derive(Debug, Default)]
pub(super) struct Counted {
    retries: [AtomicU64; REASONS.len()],
    exhausted: AtomicU64,
}

/// What has come since `counted` was last raised.
fn news(counted: &AtomicU64, now: u64) -> u64 {
    now.saturating_sub(counted.fetch_max(now, Ordering::Relaxed))
}

impl Gauges {
    pub(super) fn register(registry: &Registry) -> Result<Self, BoxError> {
        let revision = option_env!("OUTRIGGER_REVISION").unwrap_or_default();
        let build: IntGaugeVec = BUILD_INFO.gauges(registry)?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision])
            .set(1);
        let alone = |declared: &Declared| -> Result<IntGauge, BoxError> {
            Ok(declared.gauges(registry)?.with_label_values(ALONE))
        };
        Ok(Self {
            last_successful: alone(&LAST_SUCCESSFUL)?,
            success_timestamp: alone(&SUCCESS_TIMESTAMP)?,
            failed: FAILED.counters(registry)?.with_label_values(ALONE),
            config: CONFIG_INFO.gauges(registry)?,
            secrets: SECRET_LOADED.gauges(registry)?,
            connections: CONNECTIONS.gauges(registry)?,
            pending: PENDING.gauges(registry)?,
            sessions: SESSIONS.gauges(registry)?,
            retries: RETRIES.counters(registry)?,
            exhausted: EXHAUSTED.counters(registry)?,
            healthy: HEALTHY.gauges(registry)?,
        })
    }

    /// A configuration with that digest is in use; one that came from no file has none.
    pub(super) fn reloaded(&self, digest: Option<&str>) {
        self.last_successful.set(1);
        self.success_timestamp
            .set(bounded(Clock::system().unix_seconds()));
        self.config.reset();
        self.config
            .with_label_values(&[digest.unwrap_or("none")])
            .set(1);
    }

    pub(super) fn refused(&self) {
        self.last_successful.set(0);
        self.failed.inc();
    }

    /// Lets go of what the next read does not set again: servers and endpoints may be gone.
    pub(super) fn forget(&self) {
        self.secrets.reset();
        self.connections.reset();
        self.pending.reset();
        self.sessions.reset();
        self.healthy.reset();
    }

    /// Lets go of the counters of a server that is gone.
    pub(super) fn forget_server(&self, name: &str) {
        for reason in REASONS {
            // It fails where nothing was ever read.
            let _ = self.retries.remove_label_values(&[name, reason]);
        }
        let _ = self.exhausted.remove_label_values(&[name]);
    }

    /// Sets when each of these secrets was read first.
    pub(super) fn read_secrets<'a>(&self, secrets: impl IntoIterator<Item = &'a Opened>) {
        for secret in secrets {
            self.secrets
                .with_label_values(&[&secret.at])
                .set(secret.cell.changed_at().map_or(0, bounded));
        }
    }

    /// Sets what is known of a server now.
    pub(super) fn read(&self, server: &ServerState) {
        let families: &ServerFamilies = &server.families;
        let name: &str = families.server();
        for (state, count) in server.connections() {
            self.connections
                .with_label_values(&[name, state])
                .set(bounded(count));
        }
        if let Some(trusted) = &server.trusted {
            self.secrets
                .with_label_values(&[&format!("servers.{name}.tls.caFile")])
                .set(bounded(trusted.changed_at()));
        }
        self.pending
            .with_label_values(&[name])
            .set(bounded(server.pending()));
        let sessions = server.sessions.stats();
        self.sessions
            .with_label_values(&[name, "legacy"])
            .set(bounded(sessions.active));
        let retries = server.retry.stats();
        let counts = [
            retries.retries_unsent(),
            retries.retries_sent(),
            retries.retries_answered(),
            retries.retries_rate_limited(),
        ];
        let counted = &server.counted;
        for ((reason, counted), now) in REASONS.iter().zip(&counted.retries).zip(counts) {
            self.retries
                .with_label_values(&[name, reason])
                .inc_by(news(counted, now));
        }
        self.exhausted
            .with_label_values(&[name])
            .inc_by(news(&counted.exhausted, retries.budget_exhausted()));
        for (place, endpoint) in server.upstream.states().snapshot().iter().enumerate() {
            let healthy = i64::from(endpoint.aside.is_none());
            self.healthy
                .with_label_values(&[name, &place.to_string()])
                .set(healthy);
        }
    }
}

/// Each metric that `/metrics` may show, in the order of the reference (`docs/metrics.md`).
pub fn declared() -> impl Iterator<Item = &'static Declared> {
    [
        metrics::DECLARED,
        DECLARED,
        process::DECLARED,
        metrics::semconv::DECLARED,
    ]
    .into_iter()
    .flatten()
}

/// The families that all servers count into.
pub(super) fn families(config: &Config, registry: &Registry) -> Result<Families, BoxError> {
    let families = Families::register(registry)?;
    if config.observability.metrics.semconv {
        return Ok(families.with_semconv(Semconv::register(registry)?));
    }
    Ok(families)
}

fn bounded(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_once_is_not_counted_again() {
        let counted = AtomicU64::default();
        let raised: Vec<u64> = [3, 3, 5].map(|now| news(&counted, now)).into();
        assert_eq!(raised, [3, 0, 2]);
    }
}
