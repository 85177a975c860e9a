//! Statements about MCP that a proxy has to keep between peers of the same era, each by name.
//!
//! What belongs to one layer is tested beside it. Here are those that only the whole stack can keep, and those that
//! hold because it adds nothing of its own.

mod messages;
mod sessions;
mod streams;

use crate::support::{Reply, Running, Seen, Upstream, sidecar};

/// No answer becomes a stream because a busy machine has made it late.
const NO_HOLD: &str = "timeouts: {hold: off}";

/// A server that answers so, and a sidecar before it; further keys of the server begin with a comma.
async fn before(
    keys: &str,
    reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Upstream, Running) {
    let upstream = Upstream::start(move |seen| {
        let reply = reply(&seen);
        async move { reply }
    })
    .await;
    let sidecar = sidecar(&yaml(&upstream, keys)).await;
    (upstream, sidecar)
}

fn yaml(upstream: &Upstream, keys: &str) -> String {
    let keys = format!("}}], {NO_HOLD}{keys}}}]");
    upstream.yaml().replace("}]}]", &keys)
}

/// A result, with the id as the request spells it.
pub(crate) fn result(seen: &Seen, result: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#,
        seen.id()
    )
}
