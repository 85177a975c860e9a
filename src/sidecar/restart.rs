//! Which keys are taken at start only.

use crate::config::Config;

/// The keys in which `new` differs from what the process was started with, and that only a restart takes.
///
/// A listener that moves is not among them: such a configuration is refused as a whole.
pub(super) fn restart_only(started: &Config, new: &Config) -> Vec<&'static str> {
    let (old_log, new_log) = (&started.observability.log, &new.observability.log);
    let (old_tracing, new_tracing) = (&started.observability.tracing, &new.observability.tracing);
    let (old_metrics, new_metrics) = (&started.observability.metrics, &new.observability.metrics);
    [
        ("sessions.key", started.sessions.key != new.sessions.key),
        (
            "sessions.expiry",
            started.sessions.expiry != new.sessions.expiry,
        ),
        (
            "shutdown.grace",
            started.shutdown.grace != new.shutdown.grace,
        ),
        ("observability.log.format", old_log.format != new_log.format),
        (
            "observability.metrics.listen",
            old_metrics.listen != new_metrics.listen,
        ),
        (
            "observability.metrics.legacyNames",
            old_metrics.legacy_names != new_metrics.legacy_names,
        ),
        (
            "observability.metrics.semconv",
            old_metrics.semconv != new_metrics.semconv,
        ),
        (
            "observability.tracing.otlpEndpoint",
            old_tracing.otlp_endpoint != new_tracing.otlp_endpoint,
        ),
        (
            "observability.tracing.serviceName",
            old_tracing.service_name != new_tracing.service_name,
        ),
        (
            "control.listen",
            started.control.listen != new.control.listen,
        ),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{LogFormat, LogLevel, SecretSource};

    #[test]
    fn each_key_that_is_taken_at_start_only_is_named_and_no_other() {
        let started = Config::new(Vec::new(), Vec::new());
        assert!(restart_only(&started, &started).is_empty());
        let mut new = started.clone();
        new.observability.log.level = LogLevel::Trace;
        new.observability.log.request_bodies = true;
        assert!(restart_only(&started, &new).is_empty());
        new.sessions.key = Some(SecretSource::Env("KEY".to_owned()));
        new.sessions.expiry += Duration::from_secs(1);
        new.shutdown.grace += Duration::from_secs(1);
        new.observability.log.format = LogFormat::Json;
        new.observability.metrics.listen.set_port(1);
        new.observability.metrics.legacy_names = true;
        new.observability.metrics.semconv = true;
        new.observability.tracing.otlp_endpoint = Some("http://c".parse().unwrap());
        new.observability.tracing.service_name = Some("mine".to_owned());
        new.control.listen.set_port(2);
        assert_eq!(
            restart_only(&started, &new),
            [
                "sessions.key",
                "sessions.expiry",
                "shutdown.grace",
                "observability.log.format",
                "observability.metrics.listen",
                "observability.metrics.legacyNames",
                "observability.metrics.semconv",
                "observability.tracing.otlpEndpoint",
                "observability.tracing.serviceName",
                "control.listen",
            ]
        );
    }
}
