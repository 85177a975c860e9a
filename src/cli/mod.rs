//! The command line: one file per command, one `match` that calls them.
//!
//! What was typed (`Arguments`) is turned into what it means (a [`Source`], options) before
//! anything is opened or sent. Answers go to standard output, logs and errors to standard error. Exit codes: 0 fine, 1
//! failed, 2 used wrongly; `test` has two more.

mod check;
mod client;
#[cfg(target_os = "linux")]
mod closed;
#[cfg(not(target_os = "linux"))]
#[path = "not_closed.rs"]
mod closed;
mod demo;
mod logging;
mod metrics;
mod run;
mod test;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{ProcessEnvironment, Source};
use crate::error::BoxError;

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    about = "Makes a remote MCP server look local, healthy and already logged in",
    long_about = "Outrigger stands between an agent and remote MCP servers: it adds the credential, retries what may be \
                  retried, keeps sessions alive, bounds what takes too long, and counts everything.\n\n\
                  Agents hold no token; they talk to http://127.0.0.1:8000/mcp.",
    after_help = "Try it without a network:\n  \
                    outrigger demo\n\
                  What does your server speak?\n  \
                    outrigger test https://mcp.example.com/mcp\n\
                  In front of it:\n  \
                    outrigger run https://mcp.example.com/mcp --bearer-env MCP_TOKEN\n\
                  From the environment:\n  \
                    MCP_REMOTE_SERVER=https://mcp.example.com/mcp outrigger run"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar: in front of one URL, from a file, or from `MCP_REMOTE_*` variables
    Run(run::Arguments),
    /// Check a configuration file; nothing is sent or changed
    Check(check::Arguments),
    /// Show what it does: MCP servers of both generations in this process, and calls to them
    Demo(demo::Arguments),
    /// Test an MCP server: what it speaks, what it wants, and what to do next
    Test(test::Arguments),
    /// Print docs/metrics.md: each metric, what it means and when to look at it
    #[command(hide = true)]
    Metrics,
}

/// Runs the program with the arguments of the process. Its result is the exit code.
#[must_use]
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // clap prints help and version to standard output with 0, mistakes to standard error with 2.
        Err(said) => {
            let code = u8::try_from(said.exit_code()).unwrap_or(2);
            let _ = said.print();
            return ExitCode::from(code);
        }
    };
    let done = match arguments.command {
        Some(Command::Run(arguments)) => run::run(arguments),
        Some(Command::Check(arguments)) => check::run(&arguments),
        Some(Command::Demo(arguments)) => demo::run(&arguments),
        Some(Command::Test(arguments)) => test::run(arguments),
        Some(Command::Metrics) => metrics::run(),
        // A container that is started with nothing but the variables is meant to run.
        None if Source::from_environment(&ProcessEnvironment).is_some() => {
            run::run(run::Arguments::default())
        }
        None => {
            let _ = Arguments::command().print_help();
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(code) => code,
        Err(Failed::Unheard) => ExitCode::FAILURE,
        Err(error) => {
            say(&error);
            error.code()
        }
    }
}

/// Why a command did not do what it was told.
#[derive(Debug)]
enum Failed {
    /// It was used wrongly: exit 2.
    Usage(String),
    /// It could not be done: exit 1.
    Run(String),
    /// Nobody reads what it prints any more (`| head`): exit 1, without a word.
    Unheard,
}

impl Failed {
    /// What could not be printed, or done.
    fn of(error: &BoxError) -> Self {
        match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::Unheard,
            _ => Self::Run(error.to_string()),
        }
    }

    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Run(_) | Self::Unheard => 1,
        })
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(text) | Self::Run(text) => write!(f, "outrigger: {text}"),
            Self::Unheard => f.write_str("outrigger: nobody reads this"),
        }
    }
}

/// One line to standard error. If nobody reads it there is nobody to tell.
fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_arguments_is_sound() {
        Arguments::command().debug_assert();
    }
}
