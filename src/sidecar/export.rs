//! What is exported to a collector, if anything is.

use std::sync::Arc;

use crate::config::Environment;
use crate::config::env::{Collector, Export};
use crate::config::model::Tracing;
use crate::error::BoxError;
use crate::exchange::Recorder;
use crate::telemetry::{Params, Sampling, Target, Telemetry};

/// The export, if somebody wants one. It begins and ends with the process: a reload leaves it as it is.
pub(super) struct Exported(Option<Telemetry>);

impl Exported {
    pub(super) fn start(
        tracing: &Tracing,
        environment: &dyn Environment,
    ) -> Result<Self, BoxError> {
        let (export, report) =
            Export::read(tracing, environment).map_err(|report| report.to_string())?;
        for problem in report.problems() {
            tracing::warn!(
                place = problem.variable(),
                code = problem.code().as_str(),
                "{}: {}",
                problem.message(),
                problem.help()
            );
        }
        let Some(export) = export else {
            return Ok(Self(None));
        };
        let telemetry = Telemetry::start(&params(&export))
            .map_err(|error| format!("traces and metrics cannot be exported: {error}"))?;
        Ok(Self(Some(telemetry)))
    }

    pub(super) fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        self.0.as_ref().map(Telemetry::recorder)
    }

    /// Sends what waits, within a second, and ends.
    pub(super) async fn flush(&self) {
        if let Some(telemetry) = &self.0 {
            telemetry.flush().await;
        }
    }
}

fn params(export: &Export) -> Params {
    let target = |collector: &Collector| {
        let plain = Target::new(&collector.url);
        Target {
            headers: collector.headers.clone(),
            ca_file: collector.ca_file.clone(),
            timeout: collector.timeout.unwrap_or(plain.timeout),
            ..plain
        }
    };
    Params {
        traces: export.traces.as_ref().map(target),
        metrics: export.metrics.as_ref().map(target),
        resource: export.resource.clone(),
        sampling: Sampling {
            ratio: export.ratio,
            follows_parent: export.follows_parent,
        },
        interval: export.interval,
    }
}
