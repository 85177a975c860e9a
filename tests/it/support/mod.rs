//! Starts sidecars, upstreams, clients and the binary, all on port 0, and waits for what must come.
//!
//! - [`sidecar`] runs a whole sidecar inside the test, from YAML.
//! - [`Upstream`] is a server of our own over TCP: it records every byte that it was sent and answers as told.
//! - [`client`] is a client over TCP: it sends the very bytes that it is given and shows those that come.
//! - [`Program`] is the binary itself, with what it wrote.
//! - [`eventually`] waits for a condition, never for a time.

pub(crate) mod binary;
pub(crate) mod client;
pub(crate) mod http1;
pub(crate) mod mcp;
pub(crate) mod running;
pub(crate) mod tempfile;
pub(crate) mod upstream;

use std::future::Future;
use std::time::Duration;

pub(crate) use binary::Program;
pub(crate) use client::{Connection, Request};
pub(crate) use running::{Running, sidecar};
pub(crate) use upstream::{Reply, Seen, Upstream};

/// Longer than anything here takes on a busy machine; whoever waits that long waits for ever.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `is_so` is true.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually_async(what, || {
        let so = is_so();
        async move { so }
    })
    .await;
}

/// Waits until what `is_so` finds out is true.
pub(crate) async fn eventually_async<F>(what: &str, mut is_so: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let poll = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, poll).await;
    assert!(waited.is_ok(), "never came: {what}");
}

/// What `future` gives, if it does within reason.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(elapsed) => panic!("never came: {what} ({elapsed})"),
    }
}
