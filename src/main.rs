//! The `outrigger` binary: the command line, and the allocator of the process.

use std::process::ExitCode;

/// It keeps less memory per idle stream than the C library's allocator and gives a burst back; `.cargo/config.toml` has
/// its settings. What C code allocates (the cryptography) stays with the C library.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outrigger::cli::run()
}
