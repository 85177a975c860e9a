//! Where traces and metrics go: OpenTelemetry's own variables, beside what the file says.
//!
//! 1. They work with every source of a configuration. Where the file says something too, the file counts.
//! 2. Without an endpoint, or an exporter that is named, nothing is exported.
//! 3. What would send elsewhere than was meant, or nothing, is an error; what only changes how much is a warning, as
//!    OpenTelemetry wants it.
//! 4. A variable of one signal alone (`OTEL_EXPORTER_OTLP_TRACES_HEADERS`) counts more than that of both.
//! 5. Headers are secrets from here on. Where they would be sent in the clear there is a warning.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};
use url::Url;

use super::Environment;
use crate::config::model::Tracing;
use crate::config::problem::{Code, Draft, Report};
use crate::config::read::{header_name_from, plain_value_from, url_from};
use crate::config::source::named;
use crate::config::validate::{Finding, is_loopback};
use crate::secret::Secret;

const SUBJECT: &str = "OpenTelemetry's variables";

const DISABLED: &str = "OTEL_SDK_DISABLED";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const COMPRESSION: &str = "OTEL_EXPORTER_OTLP_COMPRESSION";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
const SERVICE: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";

/// What the service is called where nobody says.
const NAME: &str = "outrigger";
/// Where a collector on this machine listens, which an exporter that is named without an endpoint means.
const LOCAL: &str = "http://localhost:4318";

/// One of the two things that are exported.
struct Signal {
    endpoint: &'static str,
    headers: &'static str,
    protocol: &'static str,
    compression: &'static str,
    certificate: &'static str,
    timeout: &'static str,
    exporter: &'static str,
    path: &'static str,
}

const TRACES: Signal = Signal {
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    certificate: "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    timeout: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    exporter: "OTEL_TRACES_EXPORTER",
    path: "v1/traces",
};
const METRICS: Signal = Signal {
    endpoint: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    protocol: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
    certificate: "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
    timeout: "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    exporter: "OTEL_METRICS_EXPORTER",
    path: "v1/metrics",
};

/// What is exported, and where to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Export {
    /// Where traces go, if they are exported.
    pub traces: Option<Collector>,
    /// Where metrics go, if they are exported.
    pub metrics: Option<Collector>,
    /// `service.name` and its kin.
    pub resource: Vec<(String, String)>,
    /// Which part of the traces is recorded.
    pub ratio: f64,
    /// Whether the caller's decision counts more.
    pub follows_parent: bool,
    /// How often metrics are sent.
    pub interval: Option<Duration>,
}

/// Where one signal goes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Collector {
    /// The whole URL.
    pub url: String,
    /// Headers of each request.
    pub headers: Vec<(HeaderName, Secret)>,
    /// The authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Option<Duration>,
}

impl Export {
    /// What the file and the variables say together, if they want anything exported; and warnings.
    ///
    /// # Errors
    ///
    /// Every problem there is, if one of them is an error.
    pub fn read(
        tracing: &Tracing,
        environment: &dyn Environment,
    ) -> Result<(Option<Self>, Report), Report> {
        let mut surface = Surface {
            environment,
            found: Vec::new(),
        };
        let export = surface.export(tracing);
        let report = named(SUBJECT, surface.found);
        if report.is_ok() {
            Ok((export, report))
        } else {
            Err(report)
        }
    }
}

/// The variables, while they are read.
struct Surface<'a> {
    environment: &'a dyn Environment,
    found: Vec<Finding>,
}

impl Surface<'_> {
    fn export(&mut self, tracing: &Tracing) -> Option<Export> {
        let is_disabled = self
            .filled(DISABLED)
            .is_some_and(|word| word.eq_ignore_ascii_case("true"));
        if is_disabled {
            return None;
        }
        let traces = self.collector(&TRACES, tracing);
        let metrics = self.collector(&METRICS, tracing);
        if traces.is_none() && metrics.is_none() {
            return None;
        }
        let (ratio, follows_parent) = self.sampling();
        Some(Export {
            traces,
            metrics,
            resource: self.resource(tracing),
            ratio,
            follows_parent,
            interval: self.milliseconds(INTERVAL),
        })
    }

    /// Where a signal goes, and how, if it is exported.
    fn collector(&mut self, signal: &Signal, tracing: &Tracing) -> Option<Collector> {
        let url = self.target(signal, tracing)?;
        self.wire(signal);
        let certificate = self.either(signal.certificate, CERTIFICATE);
        let (timeout, _) = self.either(signal.timeout, TIMEOUT);
        let (headers, _) = self.either(signal.headers, HEADERS);
        Some(Collector {
            headers: self.headers(headers, &url),
            ca_file: certificate.1.map(PathBuf::from),
            timeout: self.milliseconds(timeout),
            url: url.to_string(),
        })
    }

    /// The variable that counts, that of the signal or that of both, and what it says.
    fn either(&self, one: &'static str, both: &'static str) -> (&'static str, Option<String>) {
        match self.filled(one) {
            Some(value) => (one, Some(value)),
            None => (both, self.filled(both)),
        }
    }

    fn filled(&self, name: &str) -> Option<String> {
        let value = self.environment.filled(name)?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn refuse(&mut self, name: &str, code: Code, message: &str, help: &str) {
        self.tell(Draft::error(name.to_owned(), code, message, help));
    }

    fn warn(&mut self, name: &str, message: &str, help: &str) {
        let code = Code::NotSupported;
        self.tell(Draft::warning(name.to_owned(), code, message, help));
    }

    /// Both signals may find the same mistake in a variable: the first thing that is wrong with one is told.
    fn tell(&mut self, found: Finding) {
        if !self.found.iter().any(|told| told.place() == found.place()) {
            self.found.push(found);
        }
    }

    /// The URL that a signal goes to, if it is exported.
    fn target(&mut self, signal: &Signal, tracing: &Tracing) -> Option<Uri> {
        let exporters = self.filled(signal.exporter);
        let mut named = exporters.iter().flat_map(|all| all.split(','));
        let is_named = named.any(|exporter| exporter.trim() == "otlp");
        if let Some(other) = exporters.filter(|_| !is_named) {
            // The metrics are there for Prometheus whatever this says.
            if !matches!(other.as_str(), "none" | "prometheus") {
                self.warn(
                    signal.exporter,
                    "nothing is exported so by this version",
                    "otlp, or none",
                );
            }
            return None;
        }
        let (name, whole) = match (self.filled(signal.endpoint), self.filled(ENDPOINT)) {
            _ if tracing.otlp_endpoint.is_some() => {
                let base = tracing.otlp_endpoint.as_ref()?.to_string();
                (
                    "observability.tracing.otlpEndpoint",
                    join(&base, signal.path),
                )
            }
            (Some(url), _) => (signal.endpoint, url),
            (None, Some(base)) => (ENDPOINT, join(&base, signal.path)),
            (None, None) if is_named => (signal.exporter, join(LOCAL, signal.path)),
            (None, None) => return None,
        };
        match url_from(&whole) {
            Ok(url) => {
                if url.port_u16() == Some(4317) {
                    let message = "4317 is the port of gRPC, as a rule; OTLP over HTTP has 4318";
                    self.warn(name, message, "");
                }
                Some(url)
            }
            Err((code, message, _)) => {
                self.refuse(name, code, message, "such as http://collector:4318");
                None
            }
        }
    }

    /// One protocol is spoken, and nothing is compressed.
    fn wire(&mut self, signal: &Signal) {
        let (name, protocol) = self.either(signal.protocol, PROTOCOL);
        if protocol.is_some_and(|protocol| protocol != "http/protobuf") {
            let help = format!(
                "{name}=http/protobuf, and the collector's HTTP port (4318) in the endpoint"
            );
            let message = "this version exports by http/protobuf only";
            self.refuse(name, Code::NotSupported, message, &help);
        }
        let (name, compression) = self.either(signal.compression, COMPRESSION);
        if compression.is_some_and(|compression| compression != "none") {
            self.warn(name, "nothing is compressed by this version", "unset it");
        }
    }

    /// What that variable wants sent to a collector at `url`.
    fn headers(&mut self, variable: &str, url: &Uri) -> Vec<(HeaderName, Secret)> {
        let mut headers = Vec::new();
        for (name, value) in self.pairs(variable) {
            match (header_name_from(&name), plain_value_from(&value)) {
                (Some(name), Some(value)) => headers.push((name, Secret::new(value))),
                // What it is may be a secret, too.
                _ => self.refuse(
                    variable,
                    Code::Header,
                    "no header can be so",
                    "name=value,name=value, with %20 for a space",
                ),
            }
        }
        if !headers.is_empty() && url.scheme_str() == Some("http") && !is_loopback(url.host()) {
            self.warn(
                variable,
                "these headers go to the collector in the clear: anybody in between can read them",
                "an endpoint with https://, or no headers",
            );
        }
        headers
    }

    fn resource(&mut self, tracing: &Tracing) -> Vec<(String, String)> {
        let mut all = vec![("service.name".to_owned(), NAME.to_owned())];
        all.extend(self.pairs(RESOURCE));
        // What comes later counts.
        let name = tracing.service_name.clone();
        if let Some(name) = name.or_else(|| self.filled(SERVICE)) {
            all.push(("service.name".to_owned(), name));
        }
        all
    }

    /// `name=value,name=value`, the values with percent signs.
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let text = self.filled(name).unwrap_or_default();
        let mut pairs = Vec::new();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                let value = percent_decoded(value.trim())?;
                Some((key.trim().to_owned(), value))
            });
            if let Some(pair) = decoded.filter(|(key, _)| !key.is_empty()) {
                pairs.push(pair);
            } else {
                let help = "name=value,name=value, with %2C for a comma";
                self.refuse(name, Code::Type, "this is no list of pairs", help);
            }
        }
        pairs
    }

    fn sampling(&mut self) -> (f64, bool) {
        const ALL: (f64, bool) = (1.0, true);
        let Some(sampler) = self.filled(SAMPLER) else {
            return ALL;
        };
        let (root, follows_parent) = match sampler.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (sampler.as_str(), false),
        };
        match root {
            "always_on" => (1.0, follows_parent),
            "always_off" => (0.0, follows_parent),
            "traceidratio" => (self.ratio(), follows_parent),
            _ => {
                let message = "no sampler of this version has this name: all traces are recorded";
                self.warn(
                    SAMPLER,
                    message,
                    "parentbased_traceidratio, and its argument",
                );
                ALL
            }
        }
    }

    fn ratio(&mut self) -> f64 {
        let argument = self.filled(SAMPLER_ARGUMENT);
        let ratio = argument.as_deref().map_or(Some(1.0), |word| {
            let ratio = word.parse::<f64>().ok();
            ratio.filter(|ratio| (0.0..=1.0).contains(ratio))
        });
        ratio.unwrap_or_else(|| {
            let message = "a ratio is a number from 0 to 1: all traces are recorded";
            self.warn(SAMPLER_ARGUMENT, message, "such as 0.1");
            1.0
        })
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        let word = self.filled(name)?;
        let span = word.parse::<u64>().ok().filter(|span| *span > 0);
        if span.is_none() {
            self.warn(
                name,
                "this wants milliseconds: the default counts",
                "such as 10000",
            );
        }
        span.map(Duration::from_millis)
    }
}

/// The URL of a signal: its path behind that of the endpoint.
fn join(base: &str, path: &str) -> String {
    let Ok(mut url) = Url::parse(base) else {
        return base.to_owned();
    };
    let joined = format!("{}/{path}", url.path().trim_end_matches('/'));
    if url.cannot_be_a_base() {
        return base.to_owned();
    }
    url.set_path(&joined);
    url.to_string()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
