//! Load tools for Outrigger.
//!
//! `run` is the one command: it starts an MCP server, the proxies to compare and the sidecar, loads
//! them in alternating rounds and prints a table. `instr` is the instruction gate. `upstream` and
//! `load` are the two ends that both of them start, and can be used alone.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod callgrind;
mod cells;
mod instr;
mod load;
mod mcp;
mod peers;
mod proc;
mod run;
mod stats;
mod table;
mod targets;
mod upstream;

/// Any error: the harness prints it and stops.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Load tools for Outrigger: compare it with other proxies, or count its instructions.
#[derive(Debug, Parser)]
#[command(name = "outrigger-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load all peers in alternating rounds and print a Markdown table.
    Run(run::Options),
    /// Count user instructions per call under callgrind; fail above the limits.
    Instr(instr::Options),
    /// Serve MCP, both eras, until killed.
    Upstream(upstream::Options),
    /// Load one endpoint and print one line of JSON.
    Load(load::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Instr(options) => instr::run(&options),
        Command::Upstream(options) => upstream::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Load(options) => load::run(&options).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
