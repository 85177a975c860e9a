//! `outrigger demo`: MCP servers of both generations in this process, the sidecar before them, and calls through it.
//!
//! Contract:
//!
//! 1. The stack is the real one: a configuration as one would write it, real sockets, all on loopback and any free port.
//! 2. Each line says what was seen, on both sides where that matters; what was not as it should be is marked `FAIL`.
//! 3. With `--once` it ends after the calls, with exit code 1 if one failed. Else it stays until Ctrl-C.
//!
//! | Module | Holds |
//! | --- | --- |
//! | `calls` | the agent: makes the calls, and holds each to what is expected of it |
//! | `line` | the calls by name, and the line that each gets |
//! | `modern`, `legacy` | the servers |
//! | `server` | what both are made of |

mod calls;
mod legacy;
mod line;
mod modern;
mod server;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::time::Instant;

use self::calls::Calls;
use self::legacy::Legacy;
use self::modern::Modern;
use self::server::Socket;
use crate::cli::Failed;
use crate::cli::logging;
use crate::config::Config;
use crate::config::model::{LogFormat, LogLevel};
use crate::error::BoxError;
use crate::secret::Secret;
use crate::sidecar::{AdminPorts, Bound, Handle, Sidecar};

/// The variable that the sidecar's configuration names. It exists only for the sidecar of the demo.
const TOKEN: &str = "OUTRIGGER_DEMO_TOKEN";

/// What was typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code with --once: 0 if every call went as expected, 1 if one did not."
)]
pub(super) struct Arguments {
    /// End after the calls, instead of staying until Ctrl-C
    #[arg(long)]
    once: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::Run(format!("no runtime: {error}")))?;
    let done = runtime
        .block_on(demo(arguments.once))
        .map_err(|error| Failed::of(&error));
    runtime.shutdown_background();
    done
}

async fn demo(once: bool) -> Result<ExitCode, BoxError> {
    let setting = Setting::build().await?;
    print(&format_args!(
        "outrigger {} demo: two MCP servers in this process, one sidecar, no network\n  \
         modern server (2026-07-28)   {}\n  \
         legacy server (2025-11-25)   {}\n",
        env!("CARGO_PKG_VERSION"),
        setting.modern_url,
        setting.legacy_url,
    ))?;
    let began = Instant::now();
    let (modern, legacy) = (setting.modern_url.clone(), setting.legacy_url.clone());
    let admin = setting.admin.clone();
    let mut calls = Calls::new(setting)?;
    let mut failed = 0;
    for call in line::ALL {
        let line = calls.make(*call).await;
        failed += usize::from(!line.is_as_expected());
        print(&line)?;
    }
    let all = line::ALL.len();
    let counts = format!(
        "{all} calls, {} as expected, {:.1} s.",
        all - failed,
        began.elapsed().as_secs_f64()
    );
    if once {
        print(&format_args!(
            "{counts} Now: outrigger demo (stays), or outrigger run URL"
        ))?;
        return Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    print(&format_args!(
        "{counts} It stays until Ctrl-C; each call is a line below. Try, in another terminal:\n  \
         what the sidecar knows    curl -s {admin}/status\n  \
         what it counts            curl -s {admin}/metrics\n  \
         what the servers speak    outrigger test {modern}\n  \
         a call by hand            {}\n\
         Or point an MCP client at one of the two servers: {modern} or {legacy}",
        by_hand(&modern),
    ))?;
    // Only now: the lines of the calls above say more. A call is a line at debug.
    logging::start(LogLevel::Debug, LogFormat::Text);
    let _ = tokio::signal::ctrl_c().await;
    Ok(ExitCode::SUCCESS)
}

/// A line for a shell that calls `echo`.
fn by_hand(url: &str) -> String {
    let (headers, message) = crate::cli::client::modern(
        1,
        "tools/call",
        serde_json::json!({"name": "echo", "arguments": {"text": "hello"}}),
    );
    let headers = headers
        .iter()
        .fold(String::new(), |headers, (name, value)| {
            headers + &format!("-H '{name}: {}' ", value.to_str().unwrap_or_default())
        });
    format!(
        "curl -s {url} {headers}-H 'content-type: application/json' \
         -H 'accept: application/json, text/event-stream' -d '{message}'"
    )
}

/// Everything that the calls go through and to. Dropped, it is gone.
struct Setting {
    handle: Handle,
    modern: Arc<Modern>,
    /// The modern server's first endpoint, which goes down for a while.
    first: Socket<modern::At>,
    modern_url: String,
    legacy_url: String,
    admin: String,
    _others: (Socket<modern::At>, Socket<legacy::At>),
}

impl Setting {
    async fn build() -> Result<Self, BoxError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
        let token = format!("demo-{:032x}", u128::from_be_bytes(bytes));
        let modern = Modern::new(Secret::new(token.clone()));
        let legacy = Legacy::new(Secret::new(token.clone()));
        let at = |name| modern::At {
            server: modern.clone(),
            name,
        };
        let first = Socket::bind(at("first")).await?;
        let second = Socket::bind(at("second")).await?;
        let only = Socket::bind(legacy::At(legacy)).await?;
        let text = configuration(&first.url(), &second.url(), &only.url());
        let loaded =
            Config::from_text("demo.yaml", text.as_bytes()).map_err(|report| report.to_string())?;
        let variables = BTreeMap::from([(TOKEN.to_owned(), token)]);
        let bound = Sidecar::build_with(&loaded, Box::new(variables))?
            .bind(AdminPorts::OrAnyFree)
            .await?;
        let url = |name: &str| {
            let path = format!("/servers/{name}/mcp");
            let found = bound.urls().into_iter().find(|url| url.ends_with(&path));
            found.ok_or_else(|| format!("the sidecar does not serve {name}"))
        };
        let setting = Self {
            handle: bound.handle(),
            modern,
            first,
            modern_url: url("modern")?,
            legacy_url: url("legacy")?,
            admin: admin_url(&bound)?,
            _others: (second, only),
        };
        tokio::spawn(bound.run());
        Ok(setting)
    }
}

fn admin_url(bound: &Bound) -> Result<String, BoxError> {
    let address = bound.admin_address().ok_or("the admin port is not bound")?;
    Ok(format!("http://{address}"))
}

/// What a user would write into a file, but for the ports.
fn configuration(first: &str, second: &str, legacy: &str) -> String {
    format!(
        "\
listeners:
- {{name: agent, listen: \"127.0.0.1:0\"}}
servers:
- name: modern
  endpoints:
  - url: {first}
  - url: {second}
  auth: {{type: bearer, token: {{valueFrom: {{env: {TOKEN}}}}}}}
  loadBalancing: {{policy: failover}}
  retry: {{backoff: {{kind: fixed, initial: 20ms, jitter: none}}}}
  tools: {{exclude: [delete_all]}}
- name: legacy
  endpoints:
  - url: {legacy}
  auth: {{type: bearer, token: {{valueFrom: {{env: {TOKEN}}}}}}}
observability:
  metrics: {{listen: \"127.0.0.1:0\"}}
control: {{listen: \"127.0.0.1:0\"}}
"
    )
}

fn print(line: &dyn Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
