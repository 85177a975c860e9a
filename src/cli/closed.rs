//! Closes the process to others of its user.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Keeps whoever runs as the same user out of this process's memory, environment and mounted files: an agent that shares the
/// pod's process namespace. Where that cannot be had nothing is lost that was there.
pub(super) fn to_others() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
