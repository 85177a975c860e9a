//! Bytes to frames and back, bounded, without I/O.
//!
//! | Module | Holds |
//! | --- | --- |
//! | [`sse`] | server-sent events: a decoder that keeps each event's bytes, and an encoder |
//! | [`mod@line`] | messages that end with a newline |

pub mod line;
pub mod sse;
