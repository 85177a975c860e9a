//! Outrigger: composable Tower layers, and a sidecar made of them, in front of remote MCP servers.

#[cfg(feature = "sidecar")]
pub mod admin;
pub mod auth;
pub mod body;
pub mod call;
pub mod catalog;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod codec;
#[cfg(feature = "sidecar")]
pub mod config;
pub mod error;
pub mod facts;
pub mod layer;
pub mod mcp;
pub mod secret;
pub mod session;
#[cfg(feature = "sidecar")]
pub mod sidecar;
#[cfg(any(feature = "client", feature = "server"))]
pub mod transport;

pub use body::Body;
pub use call::Call;
pub use clock::Clock;
pub use error::{BoxError, Failure};
pub use facts::{Caller, Facts};
pub use secret::Secret;
