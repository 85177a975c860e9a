//! What belongs to one listener, whatever server stands behind it.

use crate::config::model::Listener;
use crate::layer::inspect::{self, ByteBudget};
use crate::sidecar::router::Peer;

/// The layers that a listener puts in front of every server.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) inspect: inspect::Params,
    pub(super) peer: Peer,
}

impl Front {
    pub(super) fn build(listener: &Listener, budget: &ByteBudget) -> Self {
        let mut inspect = inspect::Params::default();
        inspect.max_body = listener.max_body_bytes;
        inspect.budget = budget.clone();
        Self {
            inspect,
            peer: Peer::Untold,
        }
    }
}
