//! Where upstream credentials come from: traits, and the static kinds.

pub mod source;
