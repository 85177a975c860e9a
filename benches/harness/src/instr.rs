//! The instruction gate: user instructions per call of the whole binary, counted by callgrind.
//!
//! It needs no quiet machine: counts of one binary differ by less than one per cent. The sidecar
//! runs under valgrind twice, for few calls and for many; the difference has no start-up in it.
//! Generator and upstream run outside, one call in flight on one connection.

use std::{
    fmt::Write as _,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use crate::{
    Result,
    callgrind::{self, Profile},
    mcp::Era,
    peers::{self, Upstream},
    proc::TempDir,
};

/// Valgrind is slow to start a program, and to end it.
const PATIENCE: Duration = Duration::from_mins(2);

/// Count user instructions per call under callgrind; fail above the limits.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The sidecar's binary.
    #[arg(long, value_name = "PATH")]
    bin: String,
    /// Most instructions of a call in the legacy era.
    #[arg(long, default_value_t = 50_000)]
    max_legacy: u32,
    /// Most instructions of a call in the modern era.
    #[arg(long, default_value_t = 54_000)]
    max_modern: u32,
    /// Only this era.
    #[arg(long, value_enum)]
    era: Option<Era>,
    /// Calls of the long run.
    #[arg(long, default_value_t = 2_000)]
    requests: u32,
    /// Calls of the short run, which is taken off.
    #[arg(long, default_value_t = 200)]
    base: u32,
    /// Bytes of text that a call carries, each way.
    #[arg(long, default_value_t = 256)]
    bytes: u32,
    /// Also print where the instructions go. Lines inlined from other crates show only if the
    /// binary has line tables (`CARGO_PROFILE_RELEASE_DEBUG=line-tables-only`).
    #[arg(long)]
    profile: bool,
}

/// Counts, prints, and fails above the limits.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.requests <= options.base {
        return Err("--requests must be more than --base".into());
    }
    let dir = TempDir::new()?;
    let upstream = Upstream::start(dir.path())?;
    let mut within = true;
    for (era, limit) in [
        (Era::Legacy, options.max_legacy),
        (Era::Modern, options.max_modern),
    ] {
        if options.era.is_some_and(|only| only != era) {
            continue;
        }
        let base = count(options, era, options.base, &upstream, dir.path())?;
        let all = count(options, era, options.requests, &upstream, dir.path())?;
        let call = all.per_call(&base, f64::from(options.requests - options.base));
        let verdict = if call.total <= f64::from(limit) {
            "within"
        } else {
            "ABOVE"
        };
        within &= call.total <= f64::from(limit);
        println!(
            "{era}: {:.0} instructions a call, {verdict} the limit of {limit}",
            call.total
        );
        if options.profile {
            print!("{}", tables(&call));
        }
    }
    Ok(if within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The counts of one process that served `requests` calls.
fn count(
    options: &Options,
    era: Era,
    requests: u32,
    upstream: &Upstream,
    dir: &Path,
) -> Result<Profile> {
    let out = dir.join(format!("callgrind.{era}.{requests}"));
    let option = format!("--callgrind-out-file={}", out.display());
    let under = ["valgrind", "-q", "--tool=callgrind", &option];
    let (url, mut sidecar) =
        peers::start_sidecar(&under, &options.bin, &upstream.url, dir, PATIENCE)?;
    let load = Command::new(std::env::current_exe()?)
        .args(["load", "--kind", "call", "--in-flight", "1", "--url", &url])
        .args([
            "--era",
            &era.to_string(),
            "--requests",
            &requests.to_string(),
        ])
        .args(["--bytes", &options.bytes.to_string()])
        .output()?;
    let report: crate::load::Report = serde_json::from_slice(&load.stdout).map_err(|_| {
        format!(
            "the generator failed: {}",
            String::from_utf8_lossy(&load.stderr)
        )
    })?;
    if report.errors > 0 {
        return Err(format!("wrong answers: {:?}", report.first_error).into());
    }
    sidecar.end(PATIENCE)?;
    Profile::read(&out)
}

fn tables(call: &Profile) -> String {
    const ROWS: usize = 40;
    let modules = callgrind::grouped(&call.file, callgrind::module);
    let crates = callgrind::grouped(&modules, |module| {
        module.split(' ').next().unwrap_or_default().to_owned()
    });
    let mut out = String::new();
    let sections = [
        ("by crate the code was written in", &crates),
        ("by source file", &modules),
        ("by function, with all it calls", &call.inclusive),
        ("by function, its own only", &call.own),
    ];
    for (title, costs) in sections {
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n  {title}");
        for (name, cost) in callgrind::top(costs, ROWS)
            .into_iter()
            .filter(|(_, c)| *c >= 1.0)
        {
            let share = cost * 100.0 / call.total;
            let _ = writeln!(out, "  {cost:>8.0} {share:>5.1} %  {name}");
        }
    }
    out
}
