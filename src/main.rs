//! The `outrigger` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger::cli::run()
}
