//! Outrigger: composable Tower layers, and a sidecar made of them, in front of remote MCP servers.

pub mod auth;
pub mod body;
pub mod call;
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
#[cfg(feature = "client")]
pub mod transport;

pub use body::Body;
pub use call::Call;
pub use clock::Clock;
pub use error::{BoxError, Failure};
pub use facts::{Caller, Facts};
pub use secret::Secret;
