//! Traces and metrics of calls, by OTLP over HTTP, as OpenTelemetry's conventions for MCP name them.
//!
//! Contract:
//!
//! 1. Each message with a method is one SERVER span, from the request to the end of its answer, and one CLIENT span for
//!    each time that it is sent. What has no method (GET, DELETE, an answer to the server, a batch, a request that was
//!    refused unread) has none, and its trace is not touched.
//! 2. The parent is what `_meta` says, else the `traceparent` header; the other becomes a link. A malformed one counts as
//!    none.
//! 3. The upstream goes on under the CLIENT span: in the `traceparent` header, and in `_meta` where the message has such
//!    an object and is of at most 64 KiB: what is written anew is a copy that no budget counts.
//! 4. Names, attributes and errors are those of the conventions (`src/convention.rs` says of which state). No header,
//!    argument, result, URI or text of a peer is in a span; a session is named by a hash, as whoever knows its id can use
//!    it. Names that peers choose are cut, and in metrics only those that were seen to exist are told apart.
//! 5. Exporting never slows a call: spans wait in a bounded queue for a thread of the SDK's, and what does not fit is
//!    lost. Whoever hears nothing from the collector is warned once, and told when it is back.
//! 6. [`Telemetry::flush`] ends it: what waits is sent, within a second.
//! 7. How long a session lasted is measured when its caller ends it.
//!
//! It deliberately leaves out: logs, exemplars, and the durations of sessions that nobody ends: only a DELETE tells that
//! one is over.

mod about;
mod attribute;
mod courier;
mod exchange;
mod names;
mod remote;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, Sampler, SdkTracerProvider};

use crate::error::BoxError;
use crate::exchange::Recorder;
use crate::secret::Secret;
use courier::Courier;
use exchange::{Instruments, Record};

/// How long the end of it may take.
const FLUSH: Duration = Duration::from_secs(1);
/// What spans and metrics are said to come from.
const SCOPE: &str = "outrigger";

/// What is exported, and where to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Params {
    /// Where traces go. Default: nowhere.
    pub traces: Option<Target>,
    /// Where metrics go. Default: nowhere.
    pub metrics: Option<Target>,
    /// What this process is: `service.name` and its kin.
    pub resource: Vec<(String, String)>,
    /// Which traces are recorded. Default: those that the caller records, and all that begin here.
    pub sampling: Sampling,
    /// How often metrics are sent. Default: as the SDK says, 60 s.
    pub interval: Option<Duration>,
}

/// A collector.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Target {
    /// The whole URL.
    pub url: String,
    /// Headers of each request.
    pub headers: Vec<(HeaderName, Secret)>,
    /// A PEM file with the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take. Default: 10 s.
    pub timeout: Duration,
}

impl Target {
    /// The collector at that URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            ca_file: None,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// The part of all traces, from 0 to 1.
    pub ratio: f64,
    /// Whether the caller's decision counts more.
    pub follows_parent: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            ratio: 1.0,
            follows_parent: true,
        }
    }
}

impl Sampling {
    fn sampler(self) -> Sampler {
        let root = if self.ratio >= 1.0 {
            Sampler::AlwaysOn
        } else if self.ratio <= 0.0 {
            Sampler::AlwaysOff
        } else {
            Sampler::TraceIdRatioBased(self.ratio)
        };
        if self.follows_parent {
            Sampler::ParentBased(Box::new(root))
        } else {
            root
        }
    }
}

/// The export, as long as it runs.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    record: Arc<Record>,
}

impl Telemetry {
    /// Starts it. Has to be called within a runtime, whose tasks send what the SDK's threads hand them.
    ///
    /// # Errors
    ///
    /// Fails if a URL or a CA file cannot be used.
    pub fn start(params: &Params) -> Result<Self, BoxError> {
        let resource = resource(&params.resource);
        let traces = params.traces.as_ref();
        let traces = traces
            .map(|target| tracing_to(target, &resource, params.sampling))
            .transpose()?;
        let metrics = params.metrics.as_ref();
        let metrics = metrics
            .map(|target| metering_to(target, resource, params.interval))
            .transpose()?;
        Ok(Self::new(traces, metrics))
    }

    fn new(traces: Option<SdkTracerProvider>, metrics: Option<SdkMeterProvider>) -> Self {
        let spans = traces.as_ref().map(|provider| provider.tracer(SCOPE));
        let instruments = metrics
            .as_ref()
            .map(|provider| Instruments::new(&provider.meter(SCOPE)));
        Self {
            record: Arc::new(Record::new(spans, instruments)),
            traces,
            metrics,
        }
    }

    /// What `metrics` tells of exchanges.
    #[must_use]
    pub fn recorder(&self) -> Arc<dyn Recorder> {
        self.record.clone()
    }

    /// Sends what waits, within a second, and ends. Calls that come later are not recorded.
    pub async fn flush(&self) {
        let (traces, metrics) = (self.traces.clone(), self.metrics.clone());
        // The SDK blocks until its threads have sent everything, and they wait for a task of this runtime.
        let traces = tokio::task::spawn_blocking(move || {
            traces.is_none_or(|traces| traces.shutdown_with_timeout(FLUSH).is_ok())
        });
        let metrics = tokio::task::spawn_blocking(move || {
            metrics.is_none_or(|metrics| metrics.shutdown_with_timeout(FLUSH).is_ok())
        });
        let both = async { matches!(tokio::join!(traces, metrics), (Ok(true), Ok(true))) };
        if !tokio::time::timeout(FLUSH, both).await.unwrap_or(false) {
            tracing::warn!("not all traces and metrics could be delivered at the end");
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // The SDK blocks in its own drop, which might be the very thread that has to send for it.
        let (traces, metrics) = (self.traces.take(), self.metrics.take());
        let _ = std::thread::Builder::new().spawn(move || {
            let _ = traces.map(|traces| traces.shutdown_with_timeout(FLUSH));
            let _ = metrics.map(|metrics| metrics.shutdown_with_timeout(FLUSH));
        });
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("traces", &self.traces.is_some())
            .field("metrics", &self.metrics.is_some())
            .finish_non_exhaustive()
    }
}

/// What this process is. Two of one name are told apart by an id of their own, unless the environment gives them one.
fn resource(said: &[(String, String)]) -> Resource {
    let id = RandomIdGenerator::default().new_trace_id().to_string();
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", id))
        .with_attributes(
            said.iter()
                .map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
        )
        .build()
}

fn tracing_to(
    target: &Target,
    resource: &Resource,
    sampling: Sampling,
) -> Result<SdkTracerProvider, BoxError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Courier::start("traces", target)?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&target.url)
        .with_timeout(target.timeout)
        .build()?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampling.sampler())
        .with_resource(resource.clone())
        .build())
}

fn metering_to(
    target: &Target,
    resource: Resource,
    interval: Option<Duration>,
) -> Result<SdkMeterProvider, BoxError> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_http_client(Courier::start("metrics", target)?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&target.url)
        .with_timeout(target.timeout)
        .build()?;
    let reader = PeriodicReader::builder(exporter);
    let reader = match interval {
        Some(interval) => reader.with_interval(interval),
        None => reader,
    };
    Ok(SdkMeterProvider::builder()
        .with_reader(reader.build())
        .with_resource(resource)
        .build())
}
