//! The way to an upstream: connections and the Streamable HTTP dialect.

pub mod connector;
pub mod dialect;
