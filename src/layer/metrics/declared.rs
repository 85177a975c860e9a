//! What each metric is called, counted by and good for: said once, for the code, the reference and the tests.

use std::fmt;

use prometheus::core::{Atomic, GenericCounterVec, GenericGaugeVec};
use prometheus::{HistogramOpts, HistogramVec, Opts, Registry};

use crate::error::BoxError;

/// What a metric is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows; what matters is how fast.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often something took how long: `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A metric, before it has a value. `docs/metrics.md` is made of these.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Declared {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels. The values of each are a closed list, or names of the configuration, or bounded in number.
    pub labels: &'static [&'static str],
    /// What it counts, as the help text says.
    pub meaning: &'static str,
    /// When to look at it.
    pub look: &'static str,
}

impl Declared {
    /// A counter.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
        look: &'static str,
    ) -> Self {
        Self::new(name, Kind::Counter, labels, meaning, look)
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
        look: &'static str,
    ) -> Self {
        Self::new(name, Kind::Gauge, labels, meaning, look)
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        meaning: &'static str,
        look: &'static str,
    ) -> Self {
        Self::new(name, Kind::Histogram, labels, meaning, look)
    }

    const fn new(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        meaning: &'static str,
        look: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            labels,
            meaning,
            look,
        }
    }

    /// Registers it as a family of counters.
    ///
    /// # Errors
    ///
    /// Fails if the registry has its name already.
    pub fn counters<P>(&self, registry: &Registry) -> Result<GenericCounterVec<P>, BoxError>
    where
        P: Atomic + 'static,
    {
        let family = GenericCounterVec::new(Opts::new(self.name, self.meaning), self.labels)?;
        registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    /// Registers it as a family of gauges.
    ///
    /// # Errors
    ///
    /// Fails if the registry has its name already.
    pub fn gauges<P>(&self, registry: &Registry) -> Result<GenericGaugeVec<P>, BoxError>
    where
        P: Atomic + 'static,
    {
        let family = GenericGaugeVec::new(Opts::new(self.name, self.meaning), self.labels)?;
        registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    /// Registers it as a family of histograms with these boundaries.
    ///
    /// # Errors
    ///
    /// Fails if the registry has its name already.
    pub fn histograms(
        &self,
        registry: &Registry,
        boundaries: &[f64],
    ) -> Result<HistogramVec, BoxError> {
        let options = HistogramOpts::new(self.name, self.meaning).buckets(boundaries.to_vec());
        let family = HistogramVec::new(options, self.labels)?;
        registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}
