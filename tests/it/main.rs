//! Whole sidecars in front of real servers on real sockets, all in one process and all on port 0.
//!
//! Each module proves one promise. [`support`] starts sidecars, upstreams, clients and the binary.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop where it stands"
)]

mod hostile;
mod pass_through;
mod support;
