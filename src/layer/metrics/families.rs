//! The metric families, and the handles of one server.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use crate::error::{BoxError, Cause};
use crate::layer::metrics::attempt::TimeAttemptsLayer;
use crate::layer::metrics::declared::Declared;
use crate::layer::metrics::outcome::Outcome;
use crate::layer::metrics::semconv::Semconv;
use crate::mcp::method::Method;

/// The most tool names that a server has labels for; later ones are `_other`.
pub const MAX_TOOLS: usize = 100;

/// The boundaries of OpenTelemetry's MCP conventions, in seconds, with two below for a local hop.
const BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// What the families are, in the order of the reference.
pub const DECLARED: &[Declared] = &[
    REQUESTS, ERRORS, DURATION, ATTEMPTS, IN_FLIGHT, STREAMS, EVENTS, CLOSED,
];

const REQUESTS: Declared = Declared::counter(
    "outrigger_requests_total",
    &["server", "method", "tool", "outcome"],
    "Calls that have ended, by how.",
    "How much there is to do, and which share of it fails, down to the tool.",
);
const ERRORS: Declared = Declared::counter(
    "outrigger_errors_total",
    &["server", "method", "error_type"],
    "Calls that the sidecar answered with an error of its own, by cause.",
    "Calls fail: the cause is the one that logs and error answers name.",
);
const DURATION: Declared = Declared::histogram(
    "outrigger_request_duration_seconds",
    &["server", "method", "outcome"],
    "How long a call took, as the caller saw it, to the end of its answer.",
    "Agents find it slow.",
);
const ATTEMPTS: Declared = Declared::histogram(
    "outrigger_attempt_duration_seconds",
    &["server", "endpoint"],
    "How long one try at an endpoint took, to its first answer or its failure.",
    "Whether the upstream is slow, or the waiting and trying again before it.",
);
const IN_FLIGHT: Declared = Declared::gauge(
    "outrigger_in_flight_requests",
    &["server"],
    "Calls that have begun and not ended.",
    "Saturation; it is what a drain waits for.",
);
const STREAMS: Declared = Declared::gauge(
    "outrigger_streams",
    &["server"],
    "GET and listen streams that are open.",
    "Notifications do not arrive, or `pool.streams` may be too small.",
);
const EVENTS: Declared = Declared::counter(
    "outrigger_stream_events_total",
    &["server", "direction"],
    "Events that went to callers.",
    "A stream is open, and nothing comes.",
);
const CLOSED: Declared = Declared::counter(
    "outrigger_stream_closed_total",
    &["server", "reason"],
    "Streams that have ended: `complete`, or by the `caller`, or broken by the `upstream`.",
    "Streams are cut again and again.",
);

/// The metric families of all servers.
#[derive(Clone, Debug)]
pub struct Families {
    requests: IntCounterVec,
    errors: IntCounterVec,
    duration: HistogramVec,
    attempts: HistogramVec,
    in_flight: IntGaugeVec,
    streams: IntGaugeVec,
    events: IntCounterVec,
    closed: IntCounterVec,
    semconv: Option<Semconv>,
}

impl Families {
    /// Makes the families and registers them.
    ///
    /// # Errors
    ///
    /// Fails if the registry has one of their names already.
    pub fn register(registry: &Registry) -> Result<Self, BoxError> {
        Ok(Self {
            requests: REQUESTS.counters(registry)?,
            errors: ERRORS.counters(registry)?,
            duration: DURATION.histograms(registry, BUCKETS)?,
            attempts: ATTEMPTS.histograms(registry, BUCKETS)?,
            in_flight: IN_FLIGHT.gauges(registry)?,
            streams: STREAMS.gauges(registry)?,
            events: EVENTS.counters(registry)?,
            closed: CLOSED.counters(registry)?,
            semconv: None,
        })
    }

    /// Counts by OpenTelemetry's conventions too. Whatever was made of it before does not.
    #[must_use]
    pub fn with_semconv(mut self, semconv: Semconv) -> Self {
        self.semconv = Some(semconv);
        self
    }

    /// The handles of one server. Made once per server and kept, so that its tools keep their labels.
    #[must_use]
    pub fn server(&self, server: Arc<str>) -> Arc<ServerFamilies> {
        Arc::new(ServerFamilies {
            in_flight: self.in_flight.with_label_values(&[&*server]),
            streams: self.streams.with_label_values(&[&*server]),
            events: self.events.with_label_values(&[&*server, "down"]),
            paths: std::iter::repeat_with(Path::default)
                .take(Method::ALL.len() + 3)
                .collect(),
            tools: RwLock::default(),
            latency: AtomicU64::new(0),
            families: self.clone(),
            server,
        })
    }
}

/// What a call is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Known(Method),
    Other,
    Get,
    Delete,
}

impl Label {
    fn index(self) -> usize {
        match self {
            Self::Other => 0,
            Self::Get => 1,
            Self::Delete => 2,
            Self::Known(method) => 3 + method as usize,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Other => "_other",
            Self::Get => "GET",
            Self::Delete => "DELETE",
            Self::Known(method) => method.as_str(),
        }
    }
}

#[derive(Default)]
struct Path {
    durations: [OnceLock<Histogram>; Outcome::COUNT],
    requests: [OnceLock<IntCounter>; Outcome::COUNT],
}

type Tool = [OnceLock<IntCounter>; Outcome::COUNT];

/// The handles of one server.
pub struct ServerFamilies {
    server: Arc<str>,
    families: Families,
    pub(super) in_flight: IntGauge,
    pub(super) streams: IntGauge,
    pub(super) events: IntCounter,
    paths: Vec<Path>,
    /// Few, so that to compare names costs less than to hash one.
    tools: RwLock<BTreeMap<Box<str>, Arc<Tool>>>,
    /// The mean time to the first answer in microseconds, an eighth of it from the newest call; 0 before the first.
    latency: AtomicU64,
}

impl ServerFamilies {
    /// The configured name of the server.
    #[must_use]
    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// The names of the tools that have labels of their own.
    #[must_use]
    pub fn tools(&self) -> Vec<String> {
        let tools = self.tools.read().unwrap_or_else(PoisonError::into_inner);
        tools.keys().map(ToString::to_string).collect()
    }

    /// How long the first answer takes of late, if there was any.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        let micros = self.latency.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Notes how long a first answer took. Two at once may lose one of them, which a mean bears.
    pub(super) fn answered_after(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency.load(Ordering::Relaxed);
        let mean = if before == 0 {
            micros
        } else {
            before - before / 8 + micros / 8
        };
        self.latency.store(mean.max(1), Ordering::Relaxed);
    }

    /// The layer that times each try at the endpoint in this place.
    pub fn time_attempts(self: &Arc<Self>, endpoint: usize) -> TimeAttemptsLayer {
        let labels = [&*self.server, &endpoint.to_string()];
        TimeAttemptsLayer::new(
            self.families.attempts.with_label_values(&labels),
            self.clone(),
        )
    }

    /// What counts by OpenTelemetry's conventions, if anything does.
    pub(super) fn semconv(&self) -> Option<&Semconv> {
        self.families.semconv.as_ref()
    }

    /// Counts a call that has ended. `exists` says that it has shown its tool to exist.
    pub(super) fn count(
        &self,
        label: Label,
        tool: Option<&str>,
        exists: bool,
        outcome: Outcome,
        seconds: f64,
    ) {
        let Some(path) = self.paths.get(label.index()) else {
            return;
        };
        let at = outcome.index();
        if let Some(slot) = path.durations.get(at) {
            slot.get_or_init(|| {
                let labels = [&*self.server, label.as_str(), outcome.as_str()];
                self.families.duration.with_label_values(&labels)
            })
            .observe(seconds);
        }
        let requests = |tool: &str| {
            let labels = [&*self.server, label.as_str(), tool, outcome.as_str()];
            self.families.requests.with_label_values(&labels)
        };
        let Some(tool) = tool else {
            if matches!(label, Label::Known(Method::ToolsCall)) {
                return requests("_other").inc();
            }
            if let Some(slot) = path.requests.get(at) {
                slot.get_or_init(|| requests("")).inc();
            }
            return;
        };
        match self.tool(tool, exists) {
            Some(known) => {
                if let Some(slot) = known.get(at) {
                    slot.get_or_init(|| requests(tool)).inc();
                }
            }
            None => requests("_other").inc(),
        }
    }

    /// The label of a tool: its name if it is known, for it came from a peer.
    pub(super) fn tool_label<'a>(&self, name: &'a str) -> &'a str {
        let tools = self.tools.read().unwrap_or_else(PoisonError::into_inner);
        if tools.contains_key(name) {
            name
        } else {
            "_other"
        }
    }

    /// The counters of a tool that is known; one that exists becomes known.
    fn tool(&self, name: &str, exists: bool) -> Option<Arc<Tool>> {
        let tools = self.tools.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tool) = tools.get(name) {
            return Some(tool.clone());
        }
        if !exists || tools.len() >= MAX_TOOLS {
            return None;
        }
        drop(tools);
        let mut tools = self.tools.write().unwrap_or_else(PoisonError::into_inner);
        if tools.len() >= MAX_TOOLS {
            return tools.get(name).cloned();
        }
        Some(tools.entry(name.into()).or_default().clone())
    }

    /// Counts an answer of our own making.
    pub(super) fn count_error(&self, label: Label, cause: Cause) {
        self.families
            .errors
            .with_label_values(&[&*self.server, label.as_str(), cause.as_str()])
            .inc();
    }

    /// Counts a stream that has ended.
    pub(super) fn count_closed(&self, reason: &str) {
        self.families
            .closed
            .with_label_values(&[&*self.server, reason])
            .inc();
    }
}

impl fmt::Debug for ServerFamilies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFamilies")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
