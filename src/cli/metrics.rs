//! `outrigger metrics`: what `/metrics` shows, as the page that is `docs/metrics.md`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::admin::LEGACY_NAMES;
use crate::cli::Failed;
use crate::convention::PINNED;
use crate::layer::metrics::Declared;
use crate::sidecar;

const HEAD: &str = "\
# Metrics

Made by `outrigger metrics` from where they are declared; do not edit. A test fails if `/metrics` shows one that is not
here, or does not show one that is.

They are at `/metrics` of the admin port (9464), as Prometheus text. The values of each label are a closed list, names of
the configuration, or bounded in number: `server` is the configured name; `method` one of the protocol's, `GET`, `DELETE`
or `_other`; `tool` a name that a call was seen to succeed with, at most 100 a server, else `_other`; `outcome` one of
`ok`, `tool_error`, `rpc_error`, `http_error`, `timeout`, `cancelled`, `denied`, `rate_limited`, `auth`, `unavailable`;
`error_type` a cause, which logs and error answers name too. Pod, namespace and node come from the scrape. A series is
there once it has something to say: those of a method, a tool or an outcome begin with the first call that has them.

";

/// Prints the page.
pub(super) fn run() -> Result<ExitCode, Failed> {
    io::stdout()
        .lock()
        .write_all(page().as_bytes())
        .map_err(|error| Failed::of(&error.into()))?;
    Ok(ExitCode::SUCCESS)
}

fn page() -> String {
    let rows: String = sidecar::declared().map(row).collect();
    let older = LEGACY_NAMES.map(|(ours, older)| format!("- `{older}`: `{ours}`\n"));
    let older = older.concat();
    let convention = PINNED;
    format!(
        "{HEAD}\
         | Name | Type | Labels | Meaning | When to look at it |\n\
         | --- | --- | --- | --- | --- |\n\
         {rows}\n\
         ## Older names\n\n\
         With `observability.metrics.legacyNames` some are there under a second name:\n\n\
         {older}\n\
         ## OpenTelemetry's names\n\n\
         With `observability.metrics.semconv` the histograms `mcp_*` are there too, with those labels of the convention that\n\
         are closed, and `server`. What does not apply is empty; what is in no list of the convention or ours is `_OTHER`.\n\
         The convention is in development; this is {convention}.\n"
    )
}

fn row(declared: &Declared) -> String {
    let labels = declared.labels.iter().map(|label| format!("`{label}`"));
    let labels: Vec<_> = labels.collect();
    format!(
        "| `{}` | {} | {} | {} | {} |\n",
        declared.name,
        declared.kind,
        labels.join(", "),
        declared.meaning,
        declared.look
    )
}
