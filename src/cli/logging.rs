//! Logs: to standard error, as text or JSON lines, at a level that can be changed while running.

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::model::{LogFormat, LogLevel};

/// Changes the level of a running program.
#[derive(Clone, Debug)]
pub(super) struct Levels(reload::Handle<Targets, Registry>);

impl Levels {
    /// Logs at `level` from now on.
    pub(super) fn set(&self, level: LogLevel) {
        // It fails only where the subscriber is gone, and then nobody logs.
        let _ = self.0.reload(targets(level));
    }
}

/// Starts logging. Only one caller in a process can; a later one changes nothing.
pub(super) fn start(level: LogLevel, format: LogFormat) -> Levels {
    let (filter, handle) = reload::Layer::new(targets(level));
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines(format))
        .try_init();
    Levels(handle)
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(true);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    }
}

/// Ours at the level; what we are made of only where it warns: its traces may hold what ours never do.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("outrigger", level)
}
