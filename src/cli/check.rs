//! `outrigger check FILE`: everything that is wrong with a configuration, at once.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::Failed;

/// What was typed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 if the file can be used, 1 if not. Secrets in the file are masked in what is printed."
)]
pub(super) struct Arguments {
    /// The configuration file (YAML or JSON)
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let report = crate::config::check(&arguments.file);
    writeln!(io::stdout().lock(), "{report}").map_err(|error| Failed::of(&error.into()))?;
    Ok(if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
