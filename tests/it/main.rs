//! Whole sidecars in front of real servers on real sockets, all in one process and all on port 0.
//!
//! Each module proves one promise. [`support`] starts sidecars, upstreams, clients and the binary.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must stop where it stands"
)]
#![allow(
    clippy::case_sensitive_file_extension_comparisons,
    clippy::format_push_string,
    clippy::similar_names,
    clippy::too_many_lines,
    reason = "a case is read from top to bottom, and runs once"
)]

mod access;
mod balancing;
mod by_environment;
mod compose;
mod credentials;
mod dashboards;
mod demo;
mod drain;
mod hostile;
mod metrics;
mod pass_through;
mod readme;
mod reload;
mod restart;
mod second_attempt;
mod secrets;
mod statements;
mod support;
mod test_command;
mod usage;
mod without_call;
