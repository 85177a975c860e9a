//! Without the feature `otel` nothing is exported, which whoever asks for it is told.

use std::sync::Arc;

use crate::config::Environment;
use crate::config::env::Export;
use crate::config::model::Tracing;
use crate::error::BoxError;
use crate::exchange::Recorder;

/// Nothing.
pub(super) struct Exported;

impl Exported {
    pub(super) fn start(
        tracing: &Tracing,
        environment: &dyn Environment,
    ) -> Result<Self, BoxError> {
        if tracing.otlp_endpoint.is_some() {
            return Err(
                "observability.tracing: this program was built without the feature otel".into(),
            );
        }
        // Variables may be meant for others in the same container.
        if !matches!(Export::read(tracing, environment), Ok((None, _))) {
            tracing::warn!("nothing is exported: this program was built without the feature otel");
        }
        Ok(Self)
    }

    #[expect(clippy::unused_self, reason = "with the feature there is one")]
    pub(super) fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        None
    }

    #[expect(
        clippy::unused_async,
        clippy::unused_self,
        reason = "with the feature it waits"
    )]
    pub(super) async fn flush(&self) {}
}
