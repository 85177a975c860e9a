//! Bytes to frames: server-sent events and lines, bounded.

pub mod line;
pub mod sse;
