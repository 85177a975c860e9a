//! The configuration: one model, whatever it is read from, and everything that is wrong with it at
//! once.
//!
//! 1. **One model.** [`Config`] is plain data ([`model`]); a YAML or JSON file, the variables
//!    `MCP_REMOTE_*` ([`mod@env`]) and the command line all become it. Two equal [`Server`]s need no
//!    new stack: that is how a reload knows what to keep.
//! 2. **All or nothing.** A load gives [`Loaded`] with no errors, or a [`Report`] of *every*
//!    problem; never a part.
//! 3. **Places.** A problem of a file has line, column and the line itself; one of a variable or
//!    an argument has its name. Each has a code from a closed list ([`Code`]), and mostly says
//!    what to write instead.
//! 4. **Secrets** are references ([`SecretSource`]). A literal one is refused in a file, and masked
//!    in whatever is printed; so is every value that might be one. Only the environment and the
//!    command line can hold the secret itself, as a [`Secret`](crate::Secret).
//! 5. **Strict.** Unknown keys are refused with the nearest known one; keys of later versions are
//!    recognised, and refused as "not supported by this version"; durations need a unit; a key
//!    written twice is an error.
//! 6. **Safe.** Plain HTTP beyond loopback, open proxies, two sources for one header and URLs with
//!    secrets are refused, with what to say if it is meant.
//! 7. **Any bytes** give a configuration or problems: bounded in size, depth and number, no panic.
//! 8. **Reload.** [`ConfigWatch`] reads a file anew when it changes, checks the whole, and hands
//!    out the next configuration or the report; [`FileWatch`] does the same for a secret's file.
//!
//! The tree and the reader are ours, on the events of a YAML parser, because derived
//! deserialization stops at its first error, and rule 2 is worth more than the code it saves.
//! What a configuration does is not known here: the sidecar maps each section to its layer's
//! parameters. `docs/config.yaml` shows every key.

mod arguments;
pub mod env;
mod keys;
pub mod model;
mod node;
mod problem;
mod read;
mod source;
mod text;
mod validate;
pub mod watch;

pub use self::arguments::UrlOptions;
pub use self::env::{Environment, ProcessEnvironment};
pub use self::model::{Config, Listener, SecretSource, Server};
pub use self::problem::{Code, Problem, Report};
pub use self::source::{Loaded, Overrides, Source, check};
pub use self::watch::{ConfigWatch, FileState, FileWatch, Reload};

#[cfg(test)]
mod tests;
