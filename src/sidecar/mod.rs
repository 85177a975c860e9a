//! The sidecar: the whole stack, assembled from configuration, behind a listener.

pub mod listener;
