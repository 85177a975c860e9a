//! Metrics of the process and of what is only known when somebody asks: reloads, connections, sessions, second tries.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::clock::Clock;
use crate::error::BoxError;
use crate::layer::metrics::ServerFamilies;
use crate::sidecar::server::ServerState;

/// Gauges that the sidecar keeps itself.
#[derive(Clone, Debug)]
pub(super) struct Gauges {
    last_successful: IntGauge,
    success_timestamp: IntGauge,
    failed: IntCounter,
    connections: IntGaugeVec,
    sessions: IntGaugeVec,
    retries: IntCounterVec,
    exhausted: IntCounterVec,
    healthy: IntGaugeVec,
}

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
        let gauge = |name: &str, help: &str| -> Result<IntGauge, BoxError> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let family = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, BoxError> {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, BoxError> {
                let family = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(family.clone()))?;
                Ok(family)
            };
        let failed = IntCounter::new(
            "outrigger_config_reload_failures_total",
            "Reloads that were refused.",
        )?;
        registry.register(Box::new(failed.clone()))?;
        family("outrigger_build_info", "Always 1.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
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
            connections: family(
                "outrigger_connections",
                "Connections to upstreams, by what they do.",
                &["server", "state"],
            )?,
            sessions: family(
                "outrigger_sessions",
                "Sessions that are open.",
                &["server", "era"],
            )?,
            retries: counters(
                "outrigger_retries_total",
                "Calls that were sent again, by what had become of the try before.",
                &["server", "reason"],
            )?,
            exhausted: counters(
                "outrigger_retry_budget_exhausted_total",
                "Calls that were not sent again because too many were.",
                &["server"],
            )?,
            healthy: family(
                "outrigger_endpoint_healthy",
                "Whether calls go to an endpoint: 0 while it is put aside.",
                &["server", "endpoint"],
            )?,
        })
    }

    pub(super) fn reloaded(&self) {
        self.last_successful.set(1);
        self.success_timestamp
            .set(bounded(Clock::system().unix_seconds()));
    }

    pub(super) fn refused(&self) {
        self.last_successful.set(0);
        self.failed.inc();
    }

    /// Lets go of what the next read does not set again: servers and endpoints may be gone.
    pub(super) fn forget(&self) {
        self.connections.reset();
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

    /// Sets what is known of a server now.
    pub(super) fn read(&self, server: &ServerState) {
        let families: &ServerFamilies = &server.families;
        let name: &str = families.server();
        for (state, count) in server.connections() {
            self.connections
                .with_label_values(&[name, state])
                .set(bounded(count));
        }
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
